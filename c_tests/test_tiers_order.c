/* Which chunks leave while a program sweeps, without advice, and what is read ahead with it. What comes in is counted;
 * bench/bench_tiers_order.c counts the same for many more patterns, beside the least that is possible. */
#define _GNU_SOURCE
#include "unimem.h"

#include <sched.h>

#include "access_orders.h"
#include "tiers.h"

enum { CHUNK = 16 * KIB, BUDGET = 64, DATA = 8 * BUDGET, WORDS = CHUNK / 8 };

static uint64_t *words;
static size_t touches;

static void touch(size_t chunk)
{
    size_t at = chunk * WORDS + touches++ % WORDS;
    EXPECT(words[at] == mix(at), "word %zu is wrong", at);
}

static void loop_that_fits(void) { loop(200, BUDGET / 2, 40); }
static void loop_beyond_the_budget(void) { loop(0, BUDGET * 12 / 10, 40); }
static void long_sweeps(void) { loop(0, DATA, 8); }
static void set_beside_sweeps(void)
{
    random_t random = {7};
    for (size_t round = 0; round < 4; round++)
        for (size_t i = 0; i < DATA - 32; i++) {
            touch(i);
            touch(DATA - 32 + random_next(&random) % 24);
        }
}

/* Writes all data, so that the budget is full, and counts what comes in during `pattern`, touched or read ahead in vain. */
static void comes_in(const char *name, void (*pattern)(void), size_t most)
{
    TEST(name) {
        unified_memory_interface_t *memory = open_with(BUDGET * CHUNK, 0);
        words = memory->allocate_streaming((size_t)DATA * CHUNK, CHUNK);
        for (size_t i = 0; i < (size_t)DATA * WORDS; i++) words[i] = mix(i);
        unimem_residency_t before = residency_of(words);
        touches = 0;
        pattern();
        unimem_residency_t after = residency_of(words);
        size_t faults = after.faults - before.faults;
        size_t in_vain = after.prefetches - before.prefetches - (after.prefetch_hits - before.prefetch_hits);
        printf("# %zu touches, %zu faults, %zu chunks read ahead in vain\n", touches, faults, in_vain);
        EXPECT(faults <= most, "%zu faults, more than %zu", faults, most);
        memory->free(words);
        unimem_close(memory);
    }
}

/* Touches each chunk in order, and returns how many were read ahead meanwhile. */
static size_t read_ahead_of_a_sweep(void)
{
    size_t before = residency_of(words).prefetches;
    for (size_t chunk = 0; chunk < DATA; chunk++) touch(chunk);
    return residency_of(words).prefetches - before;
}
static void test_advice(void)
{
    unified_memory_interface_t *memory = open_with(BUDGET * CHUNK, 0);
    words = memory->allocate_streaming((size_t)DATA * CHUNK, CHUNK);
    TEST("with UNIMEM_RANDOM nothing is read ahead") {
        unimem_advise(words, UNIMEM_RANDOM);
        for (size_t i = 0; i < (size_t)DATA * WORDS; i++) words[i] = mix(i);
        EXPECT(read_ahead_of_a_sweep() == 0, "chunks were read ahead");
    }
    TEST("nor where memory so advised has moved to grow") {
        uint64_t *moved = memory->realloc(words, (size_t)8 * DATA * CHUNK);
        EXPECT(moved && moved != words, "it did not move");
        words = moved;
        EXPECT(read_ahead_of_a_sweep() == 0, "chunks were read ahead");
    }
    TEST("with UNIMEM_SEQUENTIAL chunks are read ahead from the first touch on") {
        unimem_advise(words, UNIMEM_DONT_NEED);
        unimem_advise(words, UNIMEM_SEQUENTIAL);
        size_t before = residency_of(words).prefetches;
        touch(0);
        double end = seconds_now() + patience(20);
        while ((residency_of(words).prefetches == before || residency_of(words).hot_bytes < 2 * CHUNK) && seconds_now() < end) sched_yield();
        unimem_residency_t figures = residency_of(words);
        EXPECT(figures.prefetches > before && figures.hot_bytes >= 2 * CHUNK, "%zu chunks were read ahead, and %zu bytes are hot",
               figures.prefetches - before, figures.hot_bytes);
    }
    memory->free(words);
    CHECK("nothing is left", unimem_close(memory));
}

static int run_all(void)
{
    if (!serves_touches()) {
        SKIP("chunks that leave while a program sweeps", "nothing serves faults here");
        return tap_done();
    }
    comes_in("a loop that fits comes in, and what is old leaves", loop_that_fits, 3 * BUDGET);
    comes_in("of a loop that does not quite fit most stays", loop_beyond_the_budget, 40 * BUDGET * 12 / 10 * 2 / 3);
    comes_in("of a long sweep what fits stays", long_sweeps, 8 * (DATA - BUDGET / 3));
    comes_in("a pair of blocks stays while they are swept", transposition, 6000);
    comes_in("what is used beside a sweep stays", set_beside_sweeps, 4 * (DATA - 32) * 9 / 8);
    test_advice();
    return tap_done();
}

int main(int count, char **arguments)
{
    return on_every_mechanism(count, arguments, run_all);
}
