/* test_contract_tiers.c - tolerances as large as numbers get, sizes that are no whole number of floats, how often a chunk
 * can be acquired, and what realloc does to shared blocks. */
#define _GNU_SOURCE
#include "unimem.h"

#include <float.h>
#include <math.h>

#include "one_instance.h"
#include "tap.h"

enum { CHUNK = 64 * 1024, FLOATS = 3 * CHUNK / 4 };

/* Numbers at the ends of the range of float, of both signs, among ordinary ones. */
static float value(size_t i) {
    static const float ends[] = {FLT_MAX, -FLT_MAX, FLT_MIN, -FLT_MIN, FLT_TRUE_MIN, -0.0f, 3e38f, -2e38f};
    return i % 3 ? (float)((double)(i % 1001) / 500 - 1) : ends[i / 3 % 8];
}

static void test_tolerances(void) {
    static const double tolerances[] = {0, FLT_TRUE_MIN, 1e-40, 1e-3, 1, 1e30, 2e38, FLT_MAX, 1e39, 1e300, DBL_MAX, -1};
    TEST("a finite element stays finite and within any tolerance, and bytes behind the last float stay as they are") {
        for (size_t t = 0; t < sizeof tolerances / sizeof *tolerances; t++)
            for (size_t rest = 0; rest < 4; rest++) {
                double tolerance = tolerances[t] < 0 ? 0.25 : tolerances[t]; /* the instance's */
                size_t size = FLOATS * sizeof(float) + rest, missed = 0;
                char *memory_of_floats = memory->allocate_hierarchical(size, tolerances[t]);
                if (!EXPECT(memory_of_floats, "tolerance %g: %s", tolerances[t], unimem_last_error_message())) continue;
                float *floats = (float *)(void *)memory_of_floats;
                for (size_t i = 0; i < FLOATS; i++) floats[i] = value(i);
                memset(floats + FLOATS, 0xA7, rest);
                for (int round = 0; round < 2; round++) {
                    unimem_advise(floats, UNIMEM_DONT_NEED);
                    for (size_t i = 0; i < FLOATS; i++)
                        missed += !isfinite(floats[i]) || fabs((double)floats[i] - (double)value(i)) > tolerance;
                }
                EXPECT(missed == 0, "tolerance %g: %zu elements are too far from what was written", tolerances[t], missed);
                for (size_t i = 0; i < rest; i++)
                    EXPECT(memory_of_floats[FLOATS * sizeof(float) + i] == (char)0xA7, "tolerance %g: byte %zu of %zu behind",
                           tolerances[t], i, rest);
                memory->free(floats);
            }
    }
}

static void test_acquisitions(void) {
    enum { MOST = 65535 };
    char *chunks = memory->allocate_streaming(4 * CHUNK, CHUNK);
    size_t times = 0;
    while (times <= MOST && unimem_chunk_acquire(chunks, 2, UNIMEM_WRITE)) times++;
    CHECK_EQ("a chunk can be acquired 65535 times", times, MOST);
    CHECK("and not once more, which is a limit", unimem_last_error() == UNIMEM_ERROR_LIMIT);
    chunks[2 * CHUNK] = 7;
    unimem_advise(chunks, UNIMEM_DONT_NEED);
    unimem_residency_t residency;
    CHECK("it stays in place", unimem_residency(chunks, &residency) && residency.hot_bytes >= CHUNK);
    for (times = 0; times <= MOST && unimem_chunk_release(chunks, 2); times++) continue;
    CHECK_EQ("and is released as often", times, MOST);
    set_other_error(UNIMEM_ERROR_INVALID_ARGUMENT);
    CHECK("and not once more",
          !unimem_chunk_release(chunks, 2) && unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT);
    unimem_advise(chunks, UNIMEM_DONT_NEED);
    CHECK("then it leaves", unimem_residency(chunks, &residency) && residency.hot_bytes == 0);
    CHECK("with what was written", chunks[2 * CHUNK] == 7);
    memory->free(chunks);
}

static void test_shared(void) {
    char *shared = memory->allocate(100, 0);
    memset(shared, 5, 100);
    CHECK("a second owner", unimem_retain(shared));
    CHECK("keeps realloc from moving the block, which stays as it was",
          !memory->realloc(shared, MIB) && unimem_usable_size(shared) == 100 && unimem_reference_count(shared) == 2);
    CHECK("what fits where it is may change", memory->realloc(shared, 60) == shared && unimem_usable_size(shared) == 60);
    CHECK("with its contents and owners", shared[59] == 5 && unimem_reference_count(shared) == 2);
    memory->free(shared);
    memory->free(shared);
}

int main(void) {
    unified_pool_config_t config = {.max_size = 8 * MIB, .enable_growth = true, .enable_streaming = true, .chunk_size = CHUNK,
                                    .compression_tolerance = 0.25};
    memory = unimem_open(&config);
    if (!CHECK("an instance", memory)) return tap_done();
    if (without_faults()) {
        SKIP("tolerances and acquisitions", "no access to what is not in place");
    } else {
        test_tolerances();
        test_acquisitions();
    }
    CHECK_EQ("nothing is live", live_bytes(), 0);
    test_shared();
    CHECK("nothing is left", unimem_close(memory));
    return tap_done();
}
