/* test_tiers_pieces.c - many small pieces of tiered memory, which share regions, on every fault mechanism (tiers.h). To the
 * program each is memory of its own: its contents, size, owners, figures and chunks are no other's. */
#define _GNU_SOURCE
#include "unimem.h"

#include "tiers.h"

enum { PAGE = 4096 };

/* Without faults a program may touch acquired chunks only. So all of these acquire what they touch, chunk by chunk. */
static bool fill(void *piece, size_t from, size_t to, uint64_t tag)
{
    size_t chunk = unimem_chunk_size(piece);
    for (size_t i = from; i < to; i = (i / chunk + 1) * chunk) {
        size_t end = (i / chunk + 1) * chunk < to ? (i / chunk + 1) * chunk : to;
        if (!unimem_chunk_acquire(piece, i / chunk, UNIMEM_WRITE)) return false;
        pattern_fill(piece, i, end, tag);
        unimem_chunk_release(piece, i / chunk);
    }
    return true;
}
/* Whether the first bytes are as filled, and those behind them are zeros. */
static bool holds(void *piece, size_t filled, size_t size, uint64_t tag)
{
    size_t chunk = unimem_chunk_size(piece);
    for (size_t i = 0; i < size; i += chunk) {
        size_t end = i + chunk < size ? i + chunk : size, middle = filled < i ? i : filled < end ? filled : end;
        char *at = unimem_chunk_acquire(piece, i / chunk, UNIMEM_READ);
        bool whole = at == (char *)piece + i && pattern_holds(piece, i, middle, tag) && all_zero((char *)piece + middle, end - middle);
        unimem_chunk_release(piece, i / chunk);
        if (!whole) return false;
    }
    return true;
}

static void test_more_than_mappings(void)
{
    /* Each took two mappings of 65,530 when it was a region. */
    const size_t count = scaled(40000), limit = 16 * MIB;
    unified_memory_interface_t *memory = open_with(limit, 0);
    uint64_t **pieces = table_new(count * sizeof *pieces);
    size_t before = list_mappings(NULL, 0), wrong = 0, made = 0;
    TEST("there are more pieces than a process may have mappings, and each keeps its contents") {
        for (size_t i = 0; i < count; i++) {
            pieces[i] = i % 2 ? memory->allocate_hierarchical(1 + i % PAGE, 0) : memory->allocate_streaming(1 + i % PAGE, PAGE);
            if (!EXPECT(pieces[i], "piece %zu: %s", i, unimem_last_error_message())) break;
            made++;
            if (unimem_usable_size(pieces[i]) >= 8) *pieces[i] = mix(i);
        }
        EXPECT(live_in(memory) > made * (PAGE / 2) * 9 / 10 || scaled(1000) != 1000, "%zu bytes are live", live_in(memory));
        EXPECT(unimem_held_bytes(memory) <= limit, "%zu bytes are held", unimem_held_bytes(memory));
        for (size_t i = 0; i < made; i++)
            wrong += unimem_usable_size(pieces[i]) != 1 + i % PAGE || (1 + i % PAGE >= 8 && *pieces[i] != mix(i));
        EXPECT(wrong == 0, "%zu pieces are not what they were", wrong);
        /* Under `signal` each chunk in place is a mapping, and each gap between them. */
        size_t more = list_mappings(NULL, 0) - before, in_place = strcmp(unimem_fault_mechanism(), "signal") ? 0 : 2 * limit / PAGE;
        EXPECT(more <= in_place + 300, "%zu mappings more", more);
    }
    TEST("they are freed in any order, and nothing is left") {
        for (size_t i = 0; i < made; i++) memory->free(pieces[i * 7919 % made]);
        EXPECT(live_in(memory) == 0 && stats_of(memory).num_frees == made, "%zu bytes in %zu pieces are live", live_in(memory), made - stats_of(memory).num_frees);
        unimem_trim(memory);
        EXPECT(unimem_held_bytes(memory) < MIB, "%zu bytes are held", unimem_held_bytes(memory));
        EXPECT(list_mappings(NULL, 0) <= before + 300, "%zu mappings are left", list_mappings(NULL, 0) - before);
    }
    CHECK("none of many is left", unimem_close(memory));
    munmap(pieces, count * sizeof *pieces);
}

static void test_more_large_ones_than_mappings(void)
{
    const size_t count = scaled(34000), chunk = 2 * MIB, size = 2 * chunk, step = 400;
    unified_memory_interface_t *memory = open_with(0, 0);
    char **pieces = table_new(count * sizeof *pieces);
    size_t before = list_mappings(NULL, 0), made = 0, wrong = 0;
    TEST("there are more pieces of several large chunks than a process may have mappings for two each") {
        while (made < count && EXPECT(pieces[made] = memory->allocate_streaming(size, chunk), "%zu: %s", made, unimem_last_error_message())) made++;
        size_t more = list_mappings(NULL, 0) - before;
        /* Sanitizers have mappings of their own beside each. */
        EXPECT(more <= made / 20 + 300 || UNDER_SANITIZER, "%zu mappings more", more);
        for (size_t i = 0; i < made; i += step) pieces[i][i] = pieces[i][size - 1] = (char)(i / step + 1);
        for (size_t i = 0; i < made; i += step) wrong += pieces[i][i] != (char)(i / step + 1) || pieces[i][size - 1] != pieces[i][i];
        EXPECT(wrong == 0, "%zu pieces are not what they were", wrong);
    }
    TEST("they are freed in any order, and nothing is left of them") {
        for (size_t i = 0; i < made; i++) memory->free(pieces[i * 7919 % made]);
        EXPECT(live_in(memory) == 0 && stats_of(memory).num_frees == made, "%zu bytes in %zu pieces are live", live_in(memory), made - stats_of(memory).num_frees);
        EXPECT(list_mappings(NULL, 0) <= before + 300, "%zu mappings are left", list_mappings(NULL, 0) - before);
    }
    CHECK("none of many large ones is left", unimem_close(memory));
    munmap(pieces, count * sizeof *pieces);
}

/* For pieces of 6 MiB in all. Without faults those that fit stay in place for good. */
static size_t crowded(void)
{
    return serves_touches() ? 2 * MIB : 64 * MIB;
}
/* A piece as the program knows it. */
typedef struct {
    void *start;
    size_t size, filled;
    uint64_t tag;
} piece_t;

/* What a thread does with pieces, some of which it may find in the table from other threads. */
static size_t use_pieces(unified_memory_interface_t *memory, piece_t *table, size_t count, size_t steps, uint64_t seed)
{
    random_t random = {seed};
    size_t wrong = 0;
    while (steps-- > 0) {
        piece_t *piece = &table[random_below(&random, count)];
        size_t size = random_size(&random, 0, 15);
        if (!piece->start) {
            bool streams = random_below(&random, 2) == 0;
            void *start = streams ? memory->allocate_streaming(size, random_below(&random, 2) ? 16 * KIB : 0) : memory->allocate_hierarchical(size, 0);
            if (!EXPECT(start, "%zu bytes: %s", size, unimem_last_error_message())) return wrong + 1;
            *piece = (piece_t){start, size, 0, random_next(&random)};
        }
        bool whole = unimem_usable_size(piece->start) == piece->size && holds(piece->start, piece->filled, piece->size, piece->tag);
        wrong += !EXPECT(whole, "a piece of %zu bytes, %zu of them filled, is not what it was", piece->size, piece->filled);
        switch (random_below(&random, 5)) {
        case 0:
            memory->free(piece->start);
            piece->start = NULL;
            break;
        case 1: { /* what is behind the filled bytes stays zero, whether it shrinks, grows in its chunk or becomes a region */
            void *moved = memory->realloc(piece->start, size);
            if (!moved && !serves_touches()) break; /* without faults memory in place for good need not grow */
            if (!EXPECT(moved, "from %zu to %zu bytes: %s", piece->size, size, unimem_last_error_message())) return wrong + 1;
            *piece = (piece_t){moved, size, piece->filled < size ? piece->filled : size, piece->tag};
            break;
        }
        case 2:
            unimem_advise(piece->start, (unimem_advice_t)random_below(&random, 4));
            break;
        default:
            wrong += !EXPECT(fill(piece->start, piece->filled, piece->size, piece->tag), "%s", unimem_last_error_message());
            piece->filled = piece->size;
        }
    }
    return wrong;
}
static void free_pieces(unified_memory_interface_t *memory, piece_t *table, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        memory->free(table[i].start);
        table[i].start = NULL;
    }
}

static void test_against_model(void)
{
    static piece_t table[300];
    unified_memory_interface_t *memory = open_with(crowded(), 0);
    TEST("any sequence of operations leaves each piece as the program left it") {
        use_pieces(memory, table, 300, scaled(20000), 1);
        free_pieces(memory, table, 300);
        EXPECT(live_in(memory) == 0, "%zu bytes are live", live_in(memory));
    }
    CHECK("nothing is left of them", unimem_close(memory));
}

/* Room for two chunks is guaranteed, or for all that there are. */
static void test_guarantee(void)
{
    unified_memory_interface_t *memory = open_with(MIB, 0);
    char *first = memory->allocate_streaming(100, 4096), *others[10];
    size_t held = unimem_held_bytes(memory);
    for (size_t i = 0; i < 10; i++) others[i] = memory->allocate_streaming(100, 4096);
    for (size_t i = 0; i < 10; i++) memory->free(others[i]);
    CHECK_EQ("what the others are guaranteed goes back with them", unimem_held_bytes(memory), held);
    memory->free(first);
    CHECK("so does that of the last", unimem_close(memory));
}

/* Threads share the pieces of one instance. Each round a thread gets another's table. */
static unified_memory_interface_t *shared;
enum { THREADS = 4, OF_EACH = 60, ROUNDS = 4 };
static piece_t tables[THREADS][OF_EACH];
static pthread_barrier_t together;
static void *use_tables(void *argument)
{
    size_t number = (size_t)argument - 1;
    for (size_t round = 0; round < ROUNDS; round++) {
        use_pieces(shared, tables[(number + round) % THREADS], OF_EACH, scaled(2000), number * ROUNDS + round);
        pthread_barrier_wait(&together);
    }
    return NULL;
}
static void test_threads(void)
{
    shared = open_with(crowded(), 0);
    pthread_barrier_init(&together, NULL, THREADS);
    TEST("threads use and free each other's pieces") {
        run_threads(THREADS, use_tables);
        for (size_t i = 0; i < THREADS; i++) free_pieces(shared, tables[i], OF_EACH);
        EXPECT(live_in(shared) == 0, "%zu bytes are live", live_in(shared));
    }
    pthread_barrier_destroy(&together);
    CHECK("threads leave nothing", unimem_close(shared));
}

static void test_each_is_its_own(void)
{
    unified_memory_interface_t *memory = open_with(MIB, 0);
    char *first = memory->allocate_hierarchical(100, 0), *second = memory->allocate_hierarchical(5000, 0), *third = memory->allocate_hierarchical(100, 0);
    CHECK("each begins with a page of its own, and has one chunk",
          is_aligned(first, PAGE) && is_aligned(second, PAGE) && unimem_chunk_count(first) == 1 && unimem_chunk_size(first) == PAGE && unimem_chunk_size(second) == 2 * PAGE);
    TEST("only its start is freed, and only once") {
        memory->free(first + 8);
        EXPECT(unimem_last_error() == UNIMEM_ERROR_NOT_OWNED && unimem_owns(first + 8), "inside: error %d", (int)unimem_last_error());
        EXPECT(!unimem_owns(first + 100), "what lies behind it is owned");
        memory->free(opaque(first));
        EXPECT(!unimem_owns(first) && unimem_usable_size(first) == 0 && unimem_chunk_count(first) == 0, "it is live");
        memory->free(opaque(first));
        EXPECT(unimem_last_error() == UNIMEM_ERROR_DOUBLE_FREE, "freed twice: error %d", (int)unimem_last_error());
        EXPECT(unimem_owns(third) && live_in(memory) == 5100, "%zu bytes are live", live_in(memory));
    }
    TEST("the last owner frees it") {
        EXPECT(unimem_retain(third) && unimem_reference_count(third) == 2 && unimem_reference_count(second) == 1, "%zu owners", unimem_reference_count(third));
        memory->free(third);
        EXPECT(unimem_owns(third) && unimem_reference_count(third) == 1, "one owner freed it");
        EXPECT(!memory->realloc(second, 0) && !unimem_owns(second), "realloc to 0 bytes did not free it");
    }
    fill(third, 0, 100, 3);
    unimem_residency_t figures = residency_of(third);
    TEST("its figures are no other's") {
        char *fourth = memory->allocate_hierarchical(100, 0);
        unimem_residency_t of_fourth = residency_of(fourth);
        EXPECT(!serves_touches() || (of_fourth.hot_bytes == 0 && of_fourth.faults == 0 && figures.hot_bytes == PAGE && figures.faults == 1), "hot: %zu and %zu bytes, faults: %zu and %zu",
               of_fourth.hot_bytes, figures.hot_bytes, of_fourth.faults, figures.faults);
        fill(fourth, 0, 100, 4);
        unimem_advise(fourth, UNIMEM_DONT_NEED);
        unimem_residency_t after = residency_of(third);
        of_fourth = residency_of(fourth);
        EXPECT(after.hot_bytes == PAGE && after.evictions == 0, "%zu bytes, %zu evictions of one that others were sent out beside", after.hot_bytes, after.evictions);
        EXPECT(!serves_touches() || (of_fourth.hot_bytes == 0 && of_fourth.evictions == 1 && of_fourth.warm_bytes + of_fourth.cold_bytes > 0), "%zu bytes in place, %zu evictions", of_fourth.hot_bytes, of_fourth.evictions);
        EXPECT(holds(fourth, 100, 100, 4), "it does not come back");
        memory->free(fourth);
        fourth = memory->allocate_hierarchical(50, 0);
        of_fourth = residency_of(fourth);
        EXPECT(!serves_touches() || (of_fourth.faults == 0 && of_fourth.evictions == 0 && of_fourth.compression_ratio == 1), "a new one begins with %zu faults", of_fourth.faults);
        EXPECT(holds(fourth, 0, 50, 0), "a new one does not begin with zeros");
        memory->free(fourth);
    }
    TEST("an acquired one cannot move, and is as it was") {
        void *pinned = unimem_chunk_acquire(third, 0, UNIMEM_WRITE);
        EXPECT(pinned == third && !unimem_chunk_acquire(third, 1, UNIMEM_READ) && unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT, "chunk 1 of 1: error %d", (int)unimem_last_error());
        EXPECT(!memory->realloc(third, 3 * PAGE) && unimem_last_error() == UNIMEM_ERROR_UNSUPPORTED, "error %d", (int)unimem_last_error());
        EXPECT(unimem_usable_size(third) == 100 && holds(third, 100, 100, 3), "it has changed");
        EXPECT(unimem_chunk_release(third, 0) && !unimem_chunk_release(third, 0), "it was acquired once");
    }
    if (serves_touches()) {
        TEST("grown beyond its chunk it keeps its contents and figures, and the next ones are not in its way") {
            unimem_residency_t before = residency_of(third);
            char *beside = memory->allocate_hierarchical(100, 0), *grown = memory->realloc(third, 10 * PAGE);
            unimem_residency_t after = residency_of(grown);
            EXPECT(after.faults == before.faults && after.evictions == before.evictions && after.hot_bytes == before.hot_bytes, "%zu faults and %zu evictions, before %zu and %zu",
                   after.faults, after.evictions, before.faults, before.evictions);
            EXPECT(grown && unimem_chunk_count(grown) == 10 && unimem_chunk_size(grown) == PAGE && !unimem_owns(third), "%s", unimem_last_error_message());
            EXPECT(holds(grown, 100, 10 * PAGE, 3), "contents are lost");
            third = grown;
            memory->free(beside);
        }
    }
    memory->free(third);
    CHECK("none is left", live_in(memory) == 0 && unimem_close(memory));
}

/* To look at what lies behind a piece takes no more room than to touch it. In debug mode, what a piece holds that shrinks is no
 * overrun. */
static void test_resized_beside_acquired(void)
{
    enum { COUNT = 40, CHUNK = 64 * KIB };
    char *pieces[COUNT];
    size_t acquired = 0;
    unified_memory_interface_t *memory = open_with(MIB, 0);
    TEST("pieces grow in their chunks and shrink beside as many acquired ones as there can be") {
        for (size_t i = 0; i < COUNT; i++) {
            pieces[i] = memory->allocate_streaming(CHUNK - PAGE, CHUNK);
            EXPECT(pieces[i] && fill(pieces[i], 0, CHUNK - PAGE, i), "piece %zu: %s", i, unimem_last_error_message());
        }
        while (acquired < COUNT && unimem_chunk_acquire(pieces[acquired], 0, UNIMEM_READ)) acquired++;
        EXPECT(acquired > 2 && acquired < COUNT, "%zu are acquired", acquired);
        for (size_t i = acquired; i < COUNT; i++) {
            EXPECT(memory->realloc(pieces[i], CHUNK - 1) == pieces[i], "piece %zu does not grow: %s", i, unimem_last_error_message());
            EXPECT(memory->realloc(pieces[i], 100) == pieces[i], "piece %zu does not shrink: %s", i, unimem_last_error_message());
        }
        for (size_t i = 0; i < acquired; i++) unimem_chunk_release(pieces[i], 0);
        for (size_t i = 0; i < COUNT; i++) {
            EXPECT(holds(pieces[i], i < acquired ? CHUNK - PAGE : 100, i < acquired ? CHUNK - PAGE : 100, i), "piece %zu has changed", i);
            memory->free(pieces[i]);
        }
        EXPECT(live_in(memory) == 0, "%zu bytes are live", live_in(memory));
    }
    CHECK("none of those is left", unimem_close(memory));
}

/* The child of a process with pieces in all tiers. None fills its chunk, so in debug mode, too, they share regions. */
enum { INHERITED = PAGE - 1 };
static unified_memory_interface_t *forked;
static char *inherited[200];
static int use_inherited(void *unused)
{
    (void)unused;
    for (size_t i = 0; i < 200; i++) {
        EXPECT(holds(inherited[i], INHERITED, INHERITED, i), "piece %zu", i);
        if (i % 2) continue;
        forked->free(inherited[i]);
        inherited[i] = forked->allocate_streaming(INHERITED, PAGE);
        EXPECT(inherited[i] && fill(inherited[i], 0, INHERITED, i + 1), "a new one for piece %zu: %s", i, unimem_last_error_message());
    }
    for (size_t i = 0; i < 200; i++) {
        EXPECT(holds(inherited[i], INHERITED, INHERITED, i % 2 ? i : i + 1), "piece %zu, later", i);
        forked->free(inherited[i]);
    }
    return unimem_close(forked) ? 0 : 2;
}
static void test_fork(void)
{
    forked = open_with(serves_touches() ? 256 * KIB : 4 * MIB, 0);
    for (size_t i = 0; i < 200; i++) {
        inherited[i] = forked->allocate_streaming(INHERITED, PAGE);
        if (!inherited[i] || !fill(inherited[i], 0, INHERITED, i)) abort();
    }
    check_in_child("a forked child has all pieces, and its own new ones", use_inherited, NULL, 60);
    TEST("so has its parent") {
        for (size_t i = 0; i < 200; i++) {
            EXPECT(holds(inherited[i], INHERITED, INHERITED, i), "piece %zu", i);
            forked->free(inherited[i]);
        }
    }
    CHECK("the parent leaves none", unimem_close(forked));
}

/* Touches a piece that was freed, beside one that is live. */
static int touch_freed(void *unused)
{
    (void)unused;
    signal(SIGSEGV, SIG_DFL);
    signal(SIGBUS, SIG_DFL);
    unified_memory_interface_t *memory = open_with(MIB, 0);
    char *live = memory->allocate_streaming(PAGE, PAGE), *freed = memory->allocate_streaming(PAGE, PAGE);
    fill(live, 0, PAGE, 1);
    fill(freed, 0, PAGE, 2);
    memory->free(freed);
    return ((volatile char *)freed)[10] == 0 ? 3 : 4;
}

/* A program's handler comes first until the next allocation, also of a piece that shares its region with earlier ones. */
static void end_at_once(int signal)
{
    (void)signal;
    _exit(9);
}
static int after_a_handler(void *unused)
{
    (void)unused;
    unified_memory_interface_t *memory = open_with(MIB, 0);
    char *before = memory->allocate_streaming(PAGE, PAGE);
    signal(SIGSEGV, end_at_once);
    signal(SIGBUS, end_at_once);
    char *after = memory->allocate_streaming(PAGE, PAGE);
    after[0] = before[0] = 1;
    memory->free(before);
    memory->free(after);
    return unimem_close(memory) ? 0 : 2;
}

static int run_all(void)
{
    if (serves_touches()) check_in_child("touches are served after the program has installed a handler and allocated again", after_a_handler, NULL, 60);
    if (serves_touches()) test_more_than_mappings();
    if (serves_touches()) test_more_large_ones_than_mappings();
    test_against_model();
    if (serves_touches()) test_guarantee();
    test_threads();
    test_each_is_its_own();
    if (serves_touches()) test_resized_beside_acquired();
    test_fork();
    int result = run_in_child(touch_freed, NULL, 60);
    CHECK("a touch of a freed piece ends the program", result == 256 + SIGSEGV || result == 256 + SIGBUS);
    return tap_done();
}

int main(int count, char **arguments)
{
    spill_to_memory();
    return on_every_mechanism(count, arguments, run_all);
}
