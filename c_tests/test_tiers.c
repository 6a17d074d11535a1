/* test_tiers.c - streaming and hierarchical memory, on every fault mechanism (tiers.h). */
#define _GNU_SOURCE
#include "unimem.h"

#include "tiers.h"

#include <math.h>
#include <stdatomic.h>
#include <sys/resource.h>

/* Random words written and read by several threads, each word with one owner, in chunks that all share. */
typedef struct {
    uint64_t *memory, *shadow;
    size_t words, steps, thread, threads;
    size_t wrong;
    bool runs; /* of words, or single ones */
} mixture_t;

static void *mixture(void *argument)
{
    mixture_t *m = argument;
    random_t random = {m->thread * 977 + m->runs};
    for (size_t step = 0; step < m->steps; step++) {
        size_t at = random_below(&random, m->words / m->threads) * m->threads + m->thread;
        size_t count = m->runs ? 1 + random_below(&random, 500) : 1;
        for (size_t i = 0; i < count && at < m->words; i++, at += m->threads) {
            if (m->memory[at] != m->shadow[at]) m->wrong++;
            if (random_next(&random) & 1) m->memory[at] = m->shadow[at] = random_next(&random) & (m->runs ? 0xFFFF : UINT64_MAX);
        }
    }
    return NULL;
}

static void test_mixture(void)
{
    for (size_t threads = 1; threads <= 8; threads *= 2) {
        char name[96];
        snprintf(name, sizeof name, "contents after a mixture of accesses by %zu threads are those of a shadow copy", threads);
        TEST(name) {
            size_t bytes = 12 * MIB + 4096 * 3 + 8 * 5;
            unified_memory_interface_t *memory = open_with(4 * MIB, 0);
            uint64_t *region = memory->allocate_streaming(bytes, 64 * KIB), *shadow = table_new(bytes);
            mixture_t work[8];
            pthread_t ids[8];
            for (size_t t = 0; t < threads; t++) {
                work[t] = (mixture_t){region, shadow, bytes / 8, scaled(6000) / threads, t, threads, 0, t % 2};
                ids[t] = start_thread(mixture, &work[t]);
            }
            for (size_t t = 0; t < threads; t++) {
                pthread_join(ids[t], NULL);
                EXPECT(work[t].wrong == 0, "thread %zu read %zu wrong words", t, work[t].wrong);
            }
            EXPECT(memcmp(region, shadow, bytes) == 0, "the memory differs from the shadow");
            EXPECT(residency_of(region).evictions > 0, "nothing was evicted");
            EXPECT(unimem_held_bytes(memory) <= 4 * MIB, "%zu bytes are held", unimem_held_bytes(memory));
            memory->free(region);
            EXPECT(unimem_close(memory), "something was live at close");
            munmap(shadow, bytes);
        }
    }
}

/* Increments of shared words while chunks come and go. */
enum { RUN = 200 };
typedef struct {
    _Atomic uint32_t *words;
    size_t count, steps, seed;
} increments_t;

static void *increments(void *argument)
{
    increments_t *work = argument;
    random_t random = {work->seed};
    for (size_t step = 0; step < work->steps; step++) {
        size_t at = random_below(&random, work->count);
        /* Stay a while: most increments find the chunk in place, with its eviction under way. */
        for (size_t i = 0; i < RUN; i++) atomic_fetch_add_explicit(&work->words[(at + i * 37) % work->count], 1, memory_order_relaxed);
    }
    return NULL;
}

static void test_increments(void)
{
    TEST("no increment is lost while chunks move") {
        enum { THREADS = 4 };
        size_t bytes = 3 * MIB, steps = scaled(3000);
        unified_memory_interface_t *memory = open_with(2 * MIB, 0);
        _Atomic uint32_t *words = memory->allocate_streaming(bytes, 64 * KIB);
        increments_t work[THREADS];
        pthread_t ids[THREADS];
        for (size_t t = 0; t < THREADS; t++) {
            work[t] = (increments_t){words, bytes / 4, steps, t};
            ids[t] = start_thread(increments, &work[t]);
        }
        for (size_t t = 0; t < THREADS; t++) pthread_join(ids[t], NULL);
        uint64_t sum = 0;
        for (size_t i = 0; i < bytes / 4; i++) sum += words[i];
        EXPECT(sum == (uint64_t)THREADS * steps * RUN, "%llu increments of %llu", (unsigned long long)sum, (unsigned long long)THREADS * steps * RUN);
        size_t evictions = residency_of((void *)words).evictions;
        printf("# %llu increments, %zu evictions\n", (unsigned long long)sum, evictions);
        EXPECT(evictions > 0, "no chunk moved");
        memory->free((void *)words);
        unimem_close(memory);
    }
}

static void test_tolerance(void)
{
    TEST("the tolerance holds over 1000 evictions, and untouched elements do not drift") {
        const double tolerance = 1e-3;
        size_t count = 40000;
        unified_memory_interface_t *memory = open_with(4 * MIB, 0);
        float *values = memory->allocate_hierarchical(count * sizeof *values, tolerance), *written = table_new(count * sizeof *values), *first = table_new(count * sizeof *values);
        for (size_t i = 0; i < count; i++) values[i] = written[i] = sinf((float)i * 0.37f) * (float)(i % 7);
        values[17] = written[17] = NAN;
        values[18] = written[18] = INFINITY;
        values[30000] = written[30000] = -INFINITY;
        values[35000] = written[35000] = 1e30f;
        values[36000] = written[36000] = -0.0f;
        values[36001] = written[36001] = 1e-42f;
        for (size_t cycle = 0; cycle < scaled(1000); cycle++) {
            unimem_advise(values, UNIMEM_DONT_NEED);
            values[9999] = written[9999] = (float)cycle;
            for (size_t i = 0; i < count; i++) {
                bool good = isfinite(written[i]) ? fabs((double)values[i] - (double)written[i]) <= tolerance : memcmp(&values[i], &written[i], 4) == 0;
                if (!EXPECT(good, "cycle %zu: element %zu was %g, is %g", cycle, i, (double)written[i], (double)values[i])) break;
            }
            if (cycle == 0) memcpy(first, values, count * sizeof *values);
            first[9999] = values[9999];
            EXPECT(memcmp(first, values, count * sizeof *values) == 0, "cycle %zu changed something", cycle);
        }
        unimem_residency_t figures = residency_of(values);
        EXPECT(figures.evictions >= scaled(1000) && figures.compression_ratio > 1.5, "%zu evictions, ratio %g", figures.evictions, figures.compression_ratio);
        memory->free(values);
        unimem_close(memory);
    }
    unified_memory_interface_t *memory = open_with(4 * MIB, 0);
    CHECK("a tolerance that is no number, or infinite, is NULL", !memory->allocate_hierarchical(100, NAN) && !memory->allocate_hierarchical(100, INFINITY) && unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT);
    unsigned char *bytes = memory->allocate_hierarchical(300000, 0.0);
    pattern_fill(bytes, 0, 300000, 5);
    unimem_advise(bytes, UNIMEM_DONT_NEED);
    CHECK("tolerance 0 gives back every byte", pattern_holds(bytes, 0, 300000, 5) && residency_of(bytes).evictions > 0);
    memory->free(bytes);
    TEST("bytes after the last whole float are no floats: they come back") {
        for (size_t over = 1; over < 4; over++) {
            size_t size = 300000 + over;
            bytes = memory->allocate_hierarchical(size, 1e-3);
            memset(bytes, 0, size);
            memcpy(bytes + 300000, "abc", over);
            unimem_advise(bytes, UNIMEM_DONT_NEED);
            EXPECT(memcmp(bytes + 300000, "abc", over) == 0, "%zu bytes beyond the floats were lost", over);
            EXPECT(residency_of(bytes).evictions > 0, "nothing was evicted");
            memory->free(bytes);
        }
    }
    unimem_close(memory);
}

static void test_sizes(void)
{
    TEST("chunks from 4 KiB to 64 MiB, and totals that are no multiple of them") {
        for (size_t chunk = 4 * KIB; chunk <= 64 * MIB; chunk *= 4) {
            size_t total = chunk * 5 + chunk / 3 + 1, budget = chunk * 3 + 64 * KIB;
            unified_memory_interface_t *memory = open_with(budget, 0);
            unsigned char *bytes = memory->allocate_streaming(total, chunk);
            if (!EXPECT(bytes, "chunk %zu: %s", chunk, unimem_last_error_message())) continue;
            EXPECT(unimem_chunk_size(bytes) == chunk && unimem_chunk_count(bytes) == 6, "chunk %zu is %zu", chunk, unimem_chunk_size(bytes));
            size_t step = chunk / 64 + 1;
            for (size_t i = 0; i < total; i += step) {
                EXPECT(bytes[i] == 0, "chunk %zu: byte %zu is not zero", chunk, i);
                bytes[i] = pattern_byte(chunk, i);
            }
            bytes[total - 1] = 77;
            for (size_t i = 0; i < total - 1; i += step) EXPECT(bytes[i] == pattern_byte(chunk, i), "chunk %zu: byte %zu", chunk, i);
            EXPECT(bytes[total - 1] == 77, "chunk %zu: the last byte", chunk);
            EXPECT(unimem_held_bytes(memory) <= budget, "chunk %zu: %zu bytes held", chunk, unimem_held_bytes(memory));
            memory->free(bytes);
            EXPECT(unimem_held_bytes(memory) == 0, "chunk %zu: %zu bytes held after the free", chunk, unimem_held_bytes(memory));
            unimem_close(memory);
        }
    }
    TEST("1 TiB virtual costs what is touched") {
        unified_memory_interface_t *memory = open_with(64 * MIB, 0);
        size_t total = 1024 * GIB, before = resident_bytes();
        uint64_t *words = memory->allocate_streaming(total, 1 * MIB);
        if (EXPECT(words, "NULL: %s", unimem_last_error_message())) {
            for (size_t i = 0; i < 100; i++) words[mix(i) % (total / 8)] += i;
            for (size_t i = 0; i < 100; i++) EXPECT(words[mix(i) % (total / 8)] == i, "word %zu", i);
            /* The sanitizer's notes of what was touched are resident too. */
            if (!THREAD_SANITIZED) EXPECT(resident_bytes() - before < 96 * MIB, "%zu bytes resident", resident_bytes() - before);
            memory->free(words);
        }
        unimem_close(memory);
    }
    unified_memory_interface_t *memory = open_with(1 * MIB, 0);
    CHECK("a budget smaller than a chunk is a clear error", !memory->allocate_streaming(64 * MIB, 2 * MIB) && unimem_last_error() == UNIMEM_ERROR_LIMIT && *unimem_last_error_message());
    CHECK("no bytes are NULL", !memory->allocate_streaming(0, 4096) && !memory->allocate_hierarchical(0, 0.1));
    CHECK("sizes that overflow are NULL", !memory->allocate_streaming(SIZE_MAX, 4096) && !memory->allocate_streaming(SIZE_MAX - 5000, 4096));
    unimem_close(memory);
    memory = unimem_open(&(unified_pool_config_t){.max_size = 64 * MIB, .enable_growth = true});
    CHECK("without enable_streaming streaming memory is NULL", !memory->allocate_streaming(100, 0));
    unimem_close(memory);
}

/* Threads that each need more than the budget of their instance, which they share with another. */
typedef struct {
    unified_memory_interface_t *memory;
    size_t seed;
    bool good;
} fight_t;

static void *fight(void *argument)
{
    fight_t *f = argument;
    size_t count = 6 * MIB / 8;
    uint64_t *words = f->memory->allocate_streaming(count * 8, 128 * KIB);
    f->good = words != NULL;
    for (size_t round = 0; f->good && round < 2; round++) {
        for (size_t i = 0; i < count; i++) words[i] = mix(i ^ f->seed ^ round);
        for (size_t i = 0; i < count; i++) f->good &= words[i] == mix(i ^ f->seed ^ round);
    }
    f->memory->free(words);
    return NULL;
}

static void test_budget(void)
{
    TEST("two instances with two threads each do not disturb each other") {
        unified_memory_interface_t *memory[2] = {open_with(3 * MIB, 0), open_with(2 * MIB, 0)};
        fight_t fights[4];
        pthread_t ids[4];
        for (size_t i = 0; i < 4; i++) {
            fights[i] = (fight_t){memory[i % 2], i, false};
            ids[i] = start_thread(fight, &fights[i]);
        }
        for (size_t i = 0; i < 4; i++) {
            pthread_join(ids[i], NULL);
            EXPECT(fights[i].good, "fight %zu read something wrong", i);
        }
        EXPECT(unimem_close(memory[0]) && unimem_close(memory[1]), "something was live");
    }
    unified_memory_interface_t *memory = open_with(16 * MIB, 0);
    uint64_t *words = memory->allocate_streaming(32 * MIB, 256 * KIB);
    for (size_t i = 0; i < 4 * MIB; i++) words[i] = mix(i);
    void *plain = memory->allocate(8 * MIB, 0);
    CHECK("a plain block evicts chunks before it is refused", plain && unimem_held_bytes(memory) <= 16 * MIB);
    CHECK("what can never fit is NULL, out of memory", !memory->allocate(17 * MIB, 0) && unimem_last_error() == UNIMEM_ERROR_OUT_OF_MEMORY);
    TEST("the chunks that made room are whole") {
        for (size_t i = 0; i < 4 * MIB; i++)
            if (!EXPECT(words[i] == mix(i), "word %zu", i)) break;
    }
    memory->free(plain);
    memory->free(words);
    unimem_trim(memory);
    CHECK_EQ("nothing is held any more", unimem_held_bytes(memory), 0);
    CHECK("nothing is live", unimem_close(memory));
}

static void test_blocks(void)
{
    unified_memory_interface_t *memory = open_with(4 * MIB, 0), *other = open_with(4 * MIB, 0);
    memory_stats_t stats;
    uint64_t *words = memory->allocate_streaming(10 * MIB, 64 * KIB);
    memory->get_stats(&stats);
    CHECK("tiered memory counts in the statistics", stats.total_allocated == 10 * MIB && stats.num_allocations == 1 && stats.largest_allocation == 10 * MIB);
    CHECK("it is owned, of its size, and aligned", unimem_owns(words) && unimem_owns((char *)words + 10 * MIB - 1) && !unimem_owns((char *)words + 10 * MIB) && unimem_usable_size(words) == 10 * MIB && unimem_usable_size((char *)words + 8) == 0 && is_aligned(words, 4096));
    size_t refused = unimem_refused_frees(memory);
    memory->free((char *)words + 4096);
    other->free(words);
    CHECK("inner pointers and other instances' are refused", unimem_owns(words) && unimem_refused_frees(memory) == refused + 1 && unimem_refused_frees(other) == 1);
    for (size_t i = 0; i < 10 * MIB / 8; i += 64) words[i] = mix(i);
    TEST("realloc grows and shrinks, and brings nothing in") {
        size_t kept = 10 * MIB;
        for (size_t size = 15 * MIB, step = 0; step < 6; step++, size = (size_t[]){40 * MIB, 9 * MIB, 9 * MIB + 8, 200 * MIB, 5000, 0}[step - 1]) {
            size_t faults = residency_of(words).faults;
            uint64_t *moved = memory->realloc(words, size);
            if (!EXPECT(moved, "to %zu: %s", size, unimem_last_error_message())) break;
            words = moved;
            if (size < kept) kept = size;
            /* Debug mode writes a guard behind the memory, which brings its last chunk in. */
            size_t allowed = debug_mode("guard");
            EXPECT(residency_of(words).faults <= faults + allowed, "to %zu: %zu chunks came in", size, residency_of(words).faults - faults);
            EXPECT(unimem_usable_size(words) == size && unimem_chunk_size(words) == 64 * KIB, "to %zu", size);
            for (size_t i = 0; i < kept / 8; i += 64)
                if (!EXPECT(words[i] == mix(i), "to %zu: word %zu", size, i)) break;
        }
    }
    CHECK("a second owner keeps it", unimem_retain(words) && unimem_reference_count(words) == 2);
    memory->free(words);
    CHECK("until the last one frees it", unimem_reference_count(words) == 1 && words[0] == mix(0));
    memory->free(words);
    CHECK("then it is gone", !unimem_owns(words) && unimem_reference_count(words) == 0);
    memory->get_stats(&stats);
    CHECK("and nothing is counted any more", stats.total_allocated == 0 && stats.num_frees == 1);
    refused = unimem_refused_frees(memory);
    memory->free(words);
    CHECK("a second free is refused", unimem_refused_frees(memory) == refused + 1 && unimem_last_error() == UNIMEM_ERROR_DOUBLE_FREE);
    CHECK("live memory at close is a leak", memory->allocate_streaming(100, 0) && unimem_report_leaks(memory, NULL, NULL) == 1 && !unimem_close(memory));
    unimem_close(other);
    TEST("free while chunks are on their way") {
        memory = open_with(2 * MIB, 0);
        for (size_t round = 0; round < scaled(50); round++) {
            char *bytes = memory->allocate_streaming(4 * MIB, 64 * KIB);
            for (size_t i = 0; i < 4 * MIB; i += 4096) bytes[i] = 1;
            unimem_advise(bytes, UNIMEM_SEQUENTIAL);
            unimem_chunk_prefetch(bytes, 0, 64);
            for (size_t i = 0; i < round % 8; i++) bytes[i * 64 * KIB]++;
            memory->free(bytes);
            /* A chunk that a worker thread has in hand may still be held for a moment. */
            EXPECT(unimem_held_bytes(memory) <= 4 * 64 * KIB, "round %zu: %zu bytes held", round, unimem_held_bytes(memory));
        }
        EXPECT(unimem_close(memory), "something was live");
    }
}

/* Reads one word, each thread another. */
static void *short_life(void *argument)
{
    static atomic_size_t lives;
    uint64_t *words = argument;
    size_t at = mix(lives++) % (4 * MIB / 8);
    return words[at] == mix(at) ? words : NULL;
}

static void test_threads(void)
{
    TEST("threads come and go") {
        unified_memory_interface_t *memory = open_with(1 * MIB, 0);
        uint64_t *words = memory->allocate_streaming(4 * MIB, 64 * KIB);
        for (size_t i = 0; i < 4 * MIB / 8; i++) words[i] = mix(i);
        for (size_t round = 0; round < scaled(100); round++) {
            pthread_t ids[4];
            pthread_attr_t small;
            pthread_attr_init(&small);
            pthread_attr_setstacksize(&small, 64 * KIB);
            for (size_t i = 0; i < 4; i++)
                if (pthread_create(&ids[i], &small, short_life, words) != 0) give_up("there is no thread");
            for (size_t i = 0; i < 4; i++) {
                void *result;
                pthread_join(ids[i], &result);
                EXPECT(result == words, "round %zu: a thread read something wrong", round);
            }
            pthread_attr_destroy(&small);
        }
        memory->free(words);
        unimem_close(memory);
    }
}

/* A program that goes to and fro in a quarter of the budget, again and again, then in the next such part. Encoded, the
 * words take a quarter of their room, so that nearly all of them would fit. */
static void test_to_and_fro(void)
{
    enum { CHUNK = 64 * KIB, PART = 32, PARTS = 16, ROUNDS = 60 };
    TEST("chunks that are used to and fro stay, though more would fit encoded") {
        unified_memory_interface_t *memory = open_with(8 * MIB, 0);
        size_t words_of_chunk = CHUNK / sizeof(uint64_t), count = PARTS * PART * words_of_chunk, wrong = 0;
        uint64_t *words = memory->allocate_streaming(count * sizeof *words, CHUNK);
        for (size_t i = 0; i < count; i++) words[i] = mix(i) & 0xFFFF;
        unimem_advise(words, UNIMEM_RANDOM);
        size_t faults = residency_of(words).faults;
        for (size_t part = 0; part < PARTS; part++)
            for (size_t round = 0; round < ROUNDS; round++)
                for (size_t chunk = 0; chunk < PART; chunk++) {
                    size_t at = (part * PART + chunk * 13 % PART) * words_of_chunk + round;
                    wrong += words[at]++ != (mix(at) & 0xFFFF);
                }
        faults = residency_of(words).faults - faults;
        printf("# %zu faults in %d touches of %d chunks\n", faults, PARTS * PART * ROUNDS, PARTS * PART);
        EXPECT(wrong == 0, "%zu words are wrong", wrong);
        EXPECT(faults <= 10 * PARTS * PART, "%zu faults; the chunks were used %d times each", faults, ROUNDS);
        memory->free(words);
        unimem_close(memory);
    }
}

static int meet_a_full_disk(void *unused)
{
    (void)unused;
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){1 * MIB, 1 * MIB});
    unified_memory_interface_t *memory = open_with(1 * MIB, 0);
    if (memory->allocate_streaming(8 * MIB, 64 * KIB)) return 1;
    if (unimem_last_error() != UNIMEM_ERROR_IO) return 2;
    return unimem_close(memory) ? 0 : 3;
}

/* The limit of file sizes stands for that of a file system. */
static int spill_parts_of_much_memory(void *unused)
{
    (void)unused;
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){256 * MIB, 256 * MIB});
    unified_memory_interface_t *memory = open_with(4 * MIB, 256 * KIB);
    /* The thread sanitizer leaves a program less of the address space. */
    const size_t most = (THREAD_SANITIZED ? 1024 : 32 * 1024) * GIB;
    const size_t sizes[] = {most, most / 16 * 15, 4 * MIB}, parts = 3, used = 16;
    uint64_t *words[3];
    for (size_t part = 0; part < parts; part++) {
        words[part] = memory->allocate_streaming(sizes[part], 0);
        if (!words[part]) return 1;
    }
    for (size_t pass = 0; pass < 2; pass++)
        for (size_t part = 0; part < parts; part++) {
            for (size_t i = (sizes[part] - used * 256 * KIB) / 8; i < sizes[part] / 8; i++)
                if (!pass) words[part][i] = mix(i);
                else if (words[part][i] != mix(i)) return 2;
            if (pass && residency_of(words[part]).cold_bytes == 0) return 3;
        }
    for (size_t part = 0; part < parts; part++) memory->free(words[part]);
    return unimem_close(memory) ? 0 : 4;
}

static int run_all(void)
{
    if (!serves_touches()) {
        SKIP("memory that comes and goes when touched", "nothing serves faults here");
        return tap_done();
    }
    test_sizes();
    test_mixture();
    test_increments();
    test_tolerance();
    test_budget();
    test_blocks();
    test_threads();
    test_to_and_fro();
    check_in_child("a spill file ends where what was spilled ends, however much memory there is", spill_parts_of_much_memory, NULL, 120);
    check_in_child("on a full disk, for which a limit of file sizes stands, allocating is an error", meet_a_full_disk, NULL, 60);
    return tap_done();
}

int main(int count, char **arguments)
{
    return on_every_mechanism(count, arguments, run_all);
}
