/* test_budget.c - the budget compared with what the system says: resident memory grows by no more than `max_size`,
 * bookkeeping included. Each case runs in a process of its own, so that none finds resident memory of another. */
#define _GNU_SOURCE
#include "support.h"

/* What is not the instance's: the library's own data, stacks of its threads. */
static const size_t OTHERS = 192 * KIB;
/* Of a budget that is made ready, what is kept for blocks of other kinds and not touched yet. */
static const size_t LEFT = 512 * KIB;
static const size_t CAP = 64 * MIB;

typedef struct {
    size_t size, alignment;
} filling_t;

/* Bytes that are in no budget: who allocated each block, for debug mode; a recording's queue, and what it knows of the blocks
 * that it samples. */
static size_t known_of(size_t blocks) {
    const char *interval = getenv("UNIMEM_TRACE_INTERVAL");
    size_t sampled = getenv("UNIMEM_TRACE") ? CAP / (interval ? strtoul(interval, NULL, 10) : 512 * KIB) : 0;
    return (debug_mode("trace") ? 40 * blocks : 0) + recording_queue() + 192 * sampled;
}
/* What blocks need at least of a budget: with debug mode's guard of 16 bytes, and what that rounds up to. */
static size_t needed_by(size_t blocks, size_t size) { return blocks * (size + (debug_mode("guard") ? 64 : 0)); }
/* Of a budget that is full, at least so much are the blocks: the rest is bookkeeping, and what sizes are rounded up to. */
static size_t least_used(void) { return debug_mode("guard") ? CAP / 2 : CAP / 6 * 5; }

/* Blocks of one size until there is no more room, each written to: resident memory grows by what is held, and that is
 * no more than the budget. */
static int fill(void *argument) {
    const filling_t *filling = argument;
    unified_memory_interface_t *memory = unimem_open(&(unified_pool_config_t){.max_size = CAP, .enable_growth = true});
    memory->free(memory->allocate(filling->size, filling->alignment));
    EXPECT(!memory->allocate(2 * CAP, filling->alignment), "twice the budget"); /* code of refusals is resident from now on */
    unimem_trim(memory);
    size_t before = resident_bytes(), count;
    allocate_chain(memory, filling->size, filling->alignment, SIZE_MAX, &count);
    size_t grown = resident_bytes() - before, held = unimem_held_bytes(memory);
    printf("# blocks of %zu bytes: %zu KiB live, %zu KiB held, resident memory grew by %zu KiB\n", filling->size,
           count * filling->size / KIB, held / KIB, grown / KIB);
    EXPECT(held <= CAP, "%zu bytes held", held);
    EXPECT(grown <= CAP + OTHERS + known_of(count), "blocks of %zu bytes: %zu KiB became resident", filling->size, grown / KIB);
    /* With a guard a block may have whole pages more than are written here. */
    EXPECT(debug_mode("guard") || held <= grown + OTHERS, "blocks of %zu bytes: %zu KiB are said to be held, %zu KiB are resident",
           filling->size, held / KIB, grown / KIB);
    EXPECT(needed_by(count, filling->size) > least_used(), "only %zu blocks of %zu bytes", count, filling->size);
    return 0;
}

/* The whole budget made ready: used as it is, for blocks of any size. */
static int fill_ready(void *argument) {
    const filling_t *filling = argument;
    unimem_global()->free(unimem_global()->allocate(100, 0)); /* what the library itself needs, once */
    size_t before = resident_bytes(), count = 0;
    unified_memory_interface_t *memory = unimem_open(&(unified_pool_config_t){.initial_size = CAP});
    size_t ready = resident_bytes() - before, held = unimem_held_bytes(memory);
    EXPECT(held <= CAP && held + LEFT >= CAP, "%zu bytes of %zu are ready", held, CAP);
    EXPECT(ready + LEFT >= held && ready <= held + OTHERS, "%zu KiB held, %zu KiB resident", held / KIB, ready / KIB);
    allocate_chain(memory, filling->size, filling->alignment, SIZE_MAX, &count);
    size_t full = resident_bytes() - before;
    printf("# ready, then blocks of %zu bytes: %zu KiB live, %zu KiB held, resident memory grew by %zu, then %zu KiB\n",
           filling->size, count * filling->size / KIB, unimem_held_bytes(memory) / KIB, ready / KIB, full / KIB);
    EXPECT(full <= CAP + OTHERS + known_of(count) && unimem_held_bytes(memory) <= CAP, "%zu KiB became resident", full / KIB);
    EXPECT(needed_by(count, filling->size) > least_used(), "only %zu blocks of %zu bytes", count, filling->size);
    return 0;
}

/* Tiered memory in the smallest chunks: each has a record, and a plain block is refused the room that records take. */
static int fill_chunks(void *unused) {
    (void)unused;
    enum { CHUNK = 4096 };
    size_t cap = 4 * MIB, total = 96 * MIB, records = total / CHUNK * 64;
    unified_memory_interface_t *memory = unimem_open(
        &(unified_pool_config_t){.max_size = cap, .enable_growth = true, .enable_streaming = true, .chunk_size = CHUNK});
    memory->free(memory->allocate_streaming(MIB, CHUNK)); /* what the library itself needs, once */
    size_t before = resident_bytes();
    unsigned char *bytes = memory->allocate_streaming(total, CHUNK);
    if (!EXPECT(bytes, "no memory: %s", unimem_last_error_message())) return 1;
    EXPECT(unimem_held_bytes(memory) < MIB, "%zu KiB are held before anything is touched", unimem_held_bytes(memory) / KIB);
    for (size_t i = 0; i < total; i += CHUNK) bytes[i] = pattern_byte(1, i);
    size_t held = unimem_held_bytes(memory), grown = resident_bytes() - before;
    EXPECT(held <= cap && grown <= cap + OTHERS + known_of(0), "%zu KiB held, %zu KiB became resident, the cap is %zu", held / KIB, grown / KIB,
           cap / KIB);
    unimem_residency_t residency = {0};
    EXPECT(unimem_residency(bytes, &residency) && residency.hot_bytes > 0, "no figures");
    EXPECT(residency.hot_bytes + residency.warm_bytes + records <= cap,
           "%zu bytes hot, %zu warm, beside %zu of records", residency.hot_bytes, residency.warm_bytes, records);
    printf("# %zu MiB in chunks of 4 KiB: %zu KiB of records, %zu KiB held, resident memory grew by %zu KiB\n", total / MIB,
           records / KIB, held / KIB, grown / KIB);
    EXPECT(!unimem_can_allocate(memory, cap - records) && !memory->allocate(cap - records, 0), "a block where records are");
    size_t fits = cap - records - 64 * KIB;
    EXPECT(unimem_can_allocate(memory, fits), "no room for %zu bytes", fits);
    void *block = memory->allocate(fits, 0);
    EXPECT(block, "no block: %s", unimem_last_error_message());
    for (size_t i = 0; i < total; i += CHUNK)
        if (!EXPECT(bytes[i] == pattern_byte(1, i), "byte %zu", i)) break;
    memory->free(block);
    memory->free(bytes);
    unimem_trim(memory);
    EXPECT(unimem_held_bytes(memory) == 0, "%zu bytes held at the end", unimem_held_bytes(memory));
    EXPECT(unimem_close(memory), "something was live");
    return 0;
}

/* Plain blocks hold everything when chunks are first used: the accesses go on, and records are all that is beyond the cap. */
static int fill_before_chunks(void *unused) {
    (void)unused;
    enum { CHUNK = 4096 };
    size_t cap = MIB, total = 16 * MIB, records = total / CHUNK * 64, blocks = 0;
    unified_memory_interface_t *memory = unimem_open(
        &(unified_pool_config_t){.max_size = cap, .enable_growth = true, .enable_streaming = true, .chunk_size = CHUNK});
    unsigned char *bytes = memory->allocate_streaming(total, CHUNK);
    void **chain = allocate_chain(memory, 1000, 0, SIZE_MAX, &blocks);
    for (size_t i = 0; i < total; i += CHUNK) bytes[i] = pattern_byte(2, i);
    for (size_t i = 0; i < total; i += CHUNK)
        if (!EXPECT(bytes[i] == pattern_byte(2, i), "byte %zu", i)) break;
    size_t held = unimem_held_bytes(memory);
    EXPECT(blocks > 900 && held > cap && held <= cap + records, "%zu blocks, %zu bytes held", blocks, held);
    EXPECT(!memory->allocate(MIB / 2, 0), "half a MiB beyond the cap");
    free_chain(memory, chain);
    unimem_trim(memory);
    held = unimem_held_bytes(memory);
    EXPECT(held <= cap && held >= records, "%zu bytes held once the blocks are gone", held);
    memory->free(bytes);
    EXPECT(unimem_close(memory), "something was live");
    return 0;
}

/* Allocates so many bytes in blocks of one size and frees them, three times: then the thread has some of them cached. */
static unified_memory_interface_t *shared;
static pthread_barrier_t turn;
static void up_and_down(size_t size, size_t bytes) {
    for (size_t round = 0; round < 3; round++) {
        size_t count;
        void **chain = allocate_chain(shared, size, 0, bytes / size, &count);
        EXPECT(count == bytes / size, "only %zu blocks of %zu bytes: %s", count, size, unimem_last_error_message());
        free_chain(shared, chain);
    }
}
static void *use_many_sizes(void *unused) {
    for (size_t size = 32; size < 28 * KIB; size = size * 5 / 4) up_and_down(size, 4 * MIB);
    pthread_barrier_wait(&turn);
    pthread_barrier_wait(&turn);
    return unused;
}
/* Threads that have used many sizes keep little of the budget while they do nothing. */
static int idle_threads(void *unused) {
    (void)unused;
    enum { THREADS = 3 };
    pthread_t threads[THREADS];
    shared = unimem_open(&(unified_pool_config_t){.max_size = CAP, .enable_growth = true});
    pthread_barrier_init(&turn, NULL, THREADS + 1);
    for (size_t i = 0; i < THREADS; i++) threads[i] = start_thread(use_many_sizes, NULL);
    pthread_barrier_wait(&turn);
    unimem_trim(shared);
    size_t held = unimem_held_bytes(shared), blocks = 0;
    while (shared->allocate(1000, 0)) blocks++;
    printf("# %d idle threads keep %zu KiB, another one gets %zu of %zu KiB\n", THREADS, held / KIB, blocks * 1000 / KIB, CAP / KIB);
    /* Each caches at most a 32nd of the budget, in up to six spans of half a MiB: how many depends on which thread came
     * first. */
    EXPECT(held <= THREADS * 6 * (512 + 8) * KIB, "%zu KiB held by caches of idle threads", held / KIB);
    EXPECT(blocks * 1000 > CAP / 5 * 4, "%zu blocks", blocks);
    pthread_barrier_wait(&turn);
    for (size_t i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    return 0;
}
static void *use_one_size(void *unused) {
    up_and_down(1000, 16 * MIB);
    pthread_barrier_wait(&turn);
    pthread_barrier_wait(&turn); /* now the other thread trims */
    shared->free(shared->allocate(100000, 0));
    pthread_barrier_wait(&turn);
    pthread_barrier_wait(&turn);
    return unused;
}
/* A thread's cache is nobody else's to take: the thread is asked, and gives it back at its next call that is not served
 * from the cache. */
static int asked_thread(void *unused) {
    (void)unused;
    shared = unimem_open(&(unified_pool_config_t){.max_size = CAP, .enable_growth = true});
    pthread_barrier_init(&turn, NULL, 2);
    pthread_t thread = start_thread(use_one_size, NULL);
    pthread_barrier_wait(&turn);
    unimem_trim(shared);
    EXPECT(unimem_held_bytes(shared) > 512 * KIB, "only %zu KiB are cached", unimem_held_bytes(shared) / KIB);
    pthread_barrier_wait(&turn);
    pthread_barrier_wait(&turn);
    unimem_trim(shared);
    EXPECT(unimem_held_bytes(shared) <= 256 * KIB, "%zu KiB are still held", unimem_held_bytes(shared) / KIB);
    pthread_barrier_wait(&turn);
    pthread_join(thread, NULL);
    EXPECT(unimem_close(shared), "something was live");
    return 0;
}

/* What a block needs beyond its size is the budget's to give, too, and the message does not put it on the system. */
static int refusals_are_the_budgets(void *unused) {
    (void)unused;
    size_t seen = 0;
    for (size_t cap = 4 * KIB; cap < 300 * KIB; cap += 4 * KIB) {
        unified_memory_interface_t *memory = unimem_open(&(unified_pool_config_t){.max_size = cap, .enable_growth = true});
        for (size_t size = 100; size < 60 * KIB; size = size * 3 / 2)
            for (size_t alignment = 0; alignment <= 64 * KIB; alignment = alignment ? 16 * alignment : 256) {
                while (memory->allocate(size, alignment)) continue;
                seen += unimem_held_bytes(memory) + size <= cap;
                EXPECT(strstr(unimem_last_error_message(), "no room"), "%zu bytes at %zu in %zu: %s", size, alignment, cap, unimem_last_error_message());
            }
        unimem_close(memory);
    }
    EXPECT(seen > 0, "no refusal of a block whose size alone would fit");
    return 0;
}

/* What this thread has cached itself is used before what other instances keep for reuse has to go. */
static int others_keep_theirs(void *unused) {
    (void)unused;
    unified_memory_interface_t *other = unimem_open(&(unified_pool_config_t){.enable_growth = true});
    size_t step = debug_mode(NULL) ? 324 * KIB : 36 * KIB; /* each block takes ten times as long there */
    for (size_t cap = 512 * KIB; cap < 2 * MIB; cap += step) {
        unified_memory_interface_t *memory = unimem_open(&(unified_pool_config_t){.max_size = cap, .enable_growth = true});
        for (size_t size = 16; size < 40 * KIB; size *= 3) {
            static char *blocks[MIB / 8];
            other->free(other->allocate(8 * MIB, 0));
            size_t count = 0, kept = unimem_held_bytes(other), left = kept;
            while (count < MIB / 8 && (blocks[count] = memory->allocate(size, 0))) count++, left = unimem_held_bytes(other);
            EXPECT(left == kept, "%zu bytes in %zu were granted, and another instance kept %zu of %zu", size, cap, left, kept);
            while (count > 0) memory->free(blocks[--count]);
        }
        unimem_close(memory);
    }
    unimem_close(other);
    return 0;
}

/* Whether the system may make huge pages of the mapping at `address` without being asked to. */
static bool may_be_huge(const void *address) {
    char line[512];
    bool inside = false, may = true;
    FILE *file = fopen("/proc/self/smaps", "r");
    while (file && fgets(line, sizeof line, file)) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2) inside = start <= (uintptr_t)address && (uintptr_t)address < end;
        else if (inside && strncmp(line, "VmFlags:", 8) == 0) may = !strstr(line, " nh");
    }
    if (file) fclose(file);
    return may;
}
/* Where huge pages are set to "always", one touch would make the gaps around a block resident. */
static int small_blocks_in_small_pages(void *unused) {
    (void)unused;
    unified_memory_interface_t *memory = unimem_open(NULL);
    const size_t sizes[] = {16, 1000, 81000, MIB / 2};
    for (size_t i = 0; memory && i < sizeof sizes / sizeof sizes[0]; i++) {
        char *block = memory->allocate(sizes[i], 0);
        if (block) *block = 1;
        EXPECT(block && !may_be_huge(block), "a block of %zu bytes is where huge pages may be made", sizes[i]);
        memory->free(block);
    }
    return !EXPECT(unimem_close(memory), "a leak");
}

int main(void) {
    spill_to_memory();
    filling_t fillings[] = {{32, 16}, {48, 16}, {64, 0}, {320, 0}, {1000, 0}, {4096, 0}, {20000, 0}, {32 * KIB, 0}, {40000, 0}, {MIB, 0}, {3 * MIB, 0}, {39062, 0}, {81000, 0}};
    TEST("blocks of every size: what is resident stays within the budget, and what is held is resident") {
        for (size_t i = 0; i < sizeof fillings / sizeof fillings[0]; i++) {
            int result = run_in_child(fill, &fillings[i], 60);
            EXPECT(result == 0, "blocks of %zu bytes: %d", fillings[i].size, result);
        }
    }
    TEST("the same where the whole budget is made ready first") {
        for (size_t i = 0; i < sizeof fillings / sizeof fillings[0]; i += 2) {
            int result = run_in_child(fill_ready, &fillings[i], 60);
            EXPECT(result == 0, "blocks of %zu bytes: %d", fillings[i].size, result);
        }
    }
    const char *records = "records of chunks count against the budget", *go_on = "chunks go on where plain blocks hold the whole budget";
    if (without_faults()) {
        SKIP(records, "without a fault mechanism they cannot be touched");
        SKIP(go_on, "without a fault mechanism they cannot be touched");
    } else {
        check_in_child(records, fill_chunks, NULL, 60);
        check_in_child(go_on, fill_before_chunks, NULL, 60);
    }
    check_in_child("caches of idle threads leave others their share of the budget", idle_threads, NULL, 240);
    const char *asked = "after a trim a thread puts back what it caches at its next slow call";
    if (debug_mode(NULL)) SKIP(asked, "in debug mode it caches nothing");
    else check_in_child(asked, asked_thread, NULL, 60);
    const char *small_pages = "small blocks lie where the system makes no huge pages of its own accord";
    if (access("/sys/kernel/mm/transparent_hugepage", F_OK) != 0) SKIP(small_pages, "this system has no huge pages");
    else check_in_child(small_pages, small_blocks_in_small_pages, NULL, 60);
    check_in_child("a block that the budget refuses is not said to be refused by the system", refusals_are_the_budgets, NULL, 60);
    check_in_child("a refusal that caches can prevent costs other instances nothing", others_keep_theirs, NULL, 60);
    return tap_done();
}
