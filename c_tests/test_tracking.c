/* test_tracking.c - what an instance tells its user: tracking and leak reports, errors and messages, the log
 * callback, and silence. */
#define _GNU_SOURCE
#include "unimem.h"

#include "support.h"

#include <sys/resource.h>

/* Sizes that no block can have are refused: totals of them would wrap. */
static void test_sizes_beyond_all_addresses(void) {
    unified_memory_interface_t *memory = unimem_open(NULL);
    char blocks[4];
    const size_t sizes[] = {((size_t)1 << 48) + 1, (size_t)1 << 61, (size_t)1 << 62, SIZE_MAX / 2, SIZE_MAX / 2 + 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        bool refused = true;
        for (size_t at = 0; at < sizeof blocks; at++)
            refused &= !memory->track_allocation(blocks + at, sizes[i]) && unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT &&
                       strstr(unimem_last_error_message(), "more than there are addresses");
        char name[100];
        snprintf(name, sizeof name, "track_allocation: %zu bytes are refused", sizes[i]);
        CHECK(name, refused && live_in(memory) == 0 && stats_of(memory).peak_allocated == 0);
    }
    CHECK("track_allocation: as many as there are addresses", memory->track_allocation(blocks, (size_t)1 << 48));
    CHECK("track_allocation: what is refused leaves the size as it was",
          !memory->track_allocation(blocks, SIZE_MAX / 2) && live_in(memory) == (size_t)1 << 48 &&
              memory->untrack_allocation(blocks) && live_in(memory) == 0);
    TEST("track_allocation: however many addresses it is told of, what is counted does not wrap") {
        size_t tracked = 0;
        while (tracked < 40000 && memory->track_allocation((void *)(16 * (tracked + 1)), (size_t)1 << 48)) tracked++;
        EXPECT(tracked == 1 << 14 && unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT, "%zu times 2^48 bytes are tracked", tracked);
        EXPECT(live_in(memory) == tracked << 48, "%zx bytes are counted", live_in(memory));
        for (size_t i = 1; i <= tracked; i++) memory->untrack_allocation((void *)(16 * i));
        EXPECT(live_in(memory) == 0 && memory->track_allocation(blocks, 1) && memory->untrack_allocation(blocks), "%zx bytes are counted", live_in(memory));
    }
    CHECK("nothing is left", unimem_close(memory));
}

static void test_tracking(void) {
    unified_memory_interface_t *memory = unimem_open(NULL);
    if (!CHECK("an instance to track with", memory != NULL)) return;
    char *foreign = malloc(1000), local[64];
    CHECK("track_allocation: a foreign block is counted",
          memory->track_allocation(foreign, 1000) && live_in(memory) == 1000);
    CHECK("track_allocation: again updates the size",
          memory->track_allocation(foreign, 400) && live_in(memory) == 400 &&
              memory->track_allocation(foreign, 2500) && live_in(memory) == 2500);
    CHECK("track_allocation: counts to the peak", stats_of(memory).peak_allocated == 2500);
    CHECK("track_allocation: the stack too",
          memory->track_allocation(local, sizeof local) && live_in(memory) == 2564);
    CHECK("track_allocation: NULL is refused",
          !memory->track_allocation(NULL, 10) && live_in(memory) == 2564);
    CHECK("track_allocation: more than there can be is refused",
          !memory->track_allocation(local, SIZE_MAX) && unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT &&
              live_in(memory) == 2564);
    CHECK("untrack_allocation: true for a tracked block, no longer counted",
          memory->untrack_allocation(foreign) && live_in(memory) == 64);
    CHECK("untrack_allocation: false for one that is not tracked",
          !memory->untrack_allocation(foreign) && !memory->untrack_allocation(NULL) &&
              !memory->untrack_allocation(foreign + 1) && live_in(memory) == 64);
    CHECK("untrack_allocation: the last one",
          memory->untrack_allocation(local) && live_in(memory) == 0);
    memory->track_allocation(foreign, 100);
    memory->free(foreign);
    CHECK("free: a tracked foreign block is refused and stays tracked", unimem_last_error() == UNIMEM_ERROR_NOT_OWNED &&
                                                                            live_in(memory) == 100 &&
                                                                            memory->untrack_allocation(foreign));
    char *own = memory->allocate(700, 0);
    CHECK("track_allocation: an own block is counted once",
          memory->track_allocation(own, 700) && live_in(memory) == 700);
    CHECK("untrack_allocation: an own block stays live",
          memory->untrack_allocation(own) && unimem_owns(own) && live_in(memory) == 700);
    CHECK("untrack_allocation: an own block that is not tracked is false", !memory->untrack_allocation(own));
    memory->free(own);
    TEST("track_allocation: 200,000 blocks, then none") {
        const size_t blocks = scaled(200000);
        char *base = (char *)((uintptr_t)1 << 44);
        for (size_t i = 0; i < blocks; i++)
            EXPECT(memory->track_allocation(base + i * 48, 48), "block %zu is refused", i);
        EXPECT(live_in(memory) == blocks * 48, "%zu bytes counted", live_in(memory));
        for (size_t i = 0; i < blocks; i++)
            EXPECT(memory->untrack_allocation(base + i * 48), "block %zu is not tracked", i);
        EXPECT(live_in(memory) == 0, "%zu bytes counted at the end", live_in(memory));
    }
    CHECK("an instance with nothing tracked closes clean", unimem_close(memory));
    memset(foreign, 1, 1000);
    free(foreign);
}

/* Places in an own block, start and inside: counted with the block, whatever they are tracked with, and gone with it. */
static void test_tracking_in_own_blocks(void) {
    static const size_t sizes[] = {40, 700, 20000, 200000, 3000000};
    unified_memory_interface_t *memory = unimem_open(NULL);
    if (!CHECK("an instance whose own blocks are tracked", memory != NULL)) return;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const size_t size = sizes[i];
        char name[80];
        snprintf(name, sizeof name, "an own block of %zu bytes: tracking adds nothing and ends with it", size);
        TEST(name) {
            char *block = memory->allocate(size, 0);
            char *places[] = {block, block + 1, block + 32, block + size - 1};
            for (size_t p = 0; p < 4; p++) {
                EXPECT(memory->track_allocation(places[p], 8) && memory->track_allocation(places[p], 24), "place %zu", p);
                EXPECT(live_in(memory) == size && stats_of(memory).peak_allocated == size,
                       "place %zu: %zu are counted", p, live_in(memory));
            }
            EXPECT(unimem_report_leaks(memory, NULL, NULL) == 1, "%zu leaks", unimem_report_leaks(memory, NULL, NULL));
            EXPECT(memory->untrack_allocation(places[2]) && !memory->untrack_allocation(places[2]) &&
                       memory->track_allocation(places[2], 1), "untracked twice");
            unimem_retain(block);
            memory->free(block);
            EXPECT(memory->untrack_allocation(block) && memory->track_allocation(block, size),
                   "tracking ended before the last owner was gone");
            memory->free(block);
            EXPECT(!unimem_owns(block) && live_in(memory) == 0, "%zu are live",
                   live_in(memory));
            for (size_t p = 0; p < 4; p++)
                EXPECT(!memory->untrack_allocation(opaque(places[p])), "place %zu is still tracked", p);
            EXPECT(live_in(memory) == 0 && unimem_report_leaks(memory, NULL, NULL) == 0,
                   "%zu bytes, %zu leaks", live_in(memory), unimem_report_leaks(memory, NULL, NULL));
            unimem_reset_stats(memory);
        }
    }
    TEST("realloc: tracked places go along, those beyond the new size end") {
        char *block = memory->allocate(1000, 0);
        for (size_t at = 0; at < 1000; at += 100) memory->track_allocation(block + at, 1);
        for (size_t i = 0, size = 1000; i < 6; i++) {
            size_t next = (size_t[]){990, 50000, 900000, 9000000, 30000000, 450}[i];
            char *moved = memory->realloc(block, next);
            if (!EXPECT(moved, "%zu to %zu: %s", size, next, unimem_last_error_message())) break;
            for (size_t at = 0; moved != block && at < 1000; at += 100)
                EXPECT(!memory->untrack_allocation(opaque(block + at)), "%zu to %zu: %zu is tracked at the old place", size,
                       next, at);
            EXPECT(live_in(memory) == next, "%zu to %zu: %zu are live", size, next,
                   live_in(memory));
            block = moved;
            size = next;
        }
        for (size_t at = 0; at < 1000; at += 100)
            EXPECT(memory->untrack_allocation(block + at) == (at < 450), "%zu is %stracked", at, at < 450 ? "not " : "");
        memory->free(block);
    }
    TEST("a foreign block, and another instance's, stay tracked until they are untracked") {
        unified_memory_interface_t *other = unimem_open(NULL);
        char *block = other->allocate(500, 0);
        EXPECT(memory->track_allocation(block, 500) && live_in(memory) == 500, "%zu are counted",
               live_in(memory));
        EXPECT(other->track_allocation(block, 500) && live_in(other) == 500, "%zu are counted",
               live_in(other));
        other->free(block);
        EXPECT(!other->untrack_allocation(opaque(block)), "the other one still tracks it");
        EXPECT(memory->untrack_allocation(opaque(block)) && live_in(memory) == 0, "it was not tracked");
        EXPECT(unimem_close(other), "something is left");
    }
    CHECK("nothing tracked is left to report", unimem_close(memory));
}

typedef struct {
    size_t blocks, bytes, foreign, foreign_bytes, references;
    void *found;
} leaks_t;

static void count_leak(const unimem_leak_t *leak, void *context) {
    leaks_t *leaks = context;
    if (leak->foreign)
        leaks->foreign++, leaks->foreign_bytes += leak->size;
    else
        leaks->blocks++, leaks->bytes += leak->size, leaks->references += leak->references;
    if (leak->size == 12345) leaks->found = leak->address;
}

typedef struct {
    unsigned long messages, serious, empty;
    char last[512];
} log_t;

static void note(int level, const char *message, void *context) {
    log_t *log = context;
    log->messages++;
    log->serious += level <= 1;
    log->empty += !message || !*message || level < 0 || level > 3;
    if (message) snprintf(log->last, sizeof log->last, "%s", message);
}

/* A callback that uses the library itself, as one that writes to a log of the program's may. */
static void use_the_library(int level, const char *message, void *context) {
    size_t *calls = context;
    (void)level;
    char *copy = unimem_global()->allocate(strlen(message) + 1, 0);
    if (copy && strcpy(copy, message) == copy) ++*calls;
    unimem_global()->free(copy);
}

static int log_to_the_library(void *unused) {
    size_t calls = 0;
    (void)unused;
    unified_memory_interface_t *memory = unimem_open(NULL);
    unimem_set_log(use_the_library, &calls);
    for (int i = 0; i < 100; i++) memory->free(opaque(&calls));
    for (size_t size = 1; size < 4 * MIB; size *= 3) (void)memory->allocate(size, 0);
    (void)memory->allocate(SIZE_MAX, 0);
    unimem_trim(memory);
    EXPECT(calls >= 100, "told %zu times of 100 wrong frees", calls);
    EXPECT(!unimem_close(memory), "blocks were live at close");
    return 0;
}

static void test_leaks(void) {
    unified_memory_interface_t *memory = unimem_open(NULL);
    if (!CHECK("an instance to leak from", memory != NULL)) return;
    leaks_t leaks = {0};
    CHECK("unimem_report_leaks: none in a fresh instance",
          unimem_report_leaks(memory, count_leak, &leaks) == 0 && leaks.blocks == 0 && leaks.foreign == 0);
    char foreign[500];
    pattern_fill(foreign, 0, sizeof foreign, 7);
    void *marked = memory->allocate(12345, 0);
    for (size_t i = 1; i <= 1000; i++) (void)memory->allocate(i, 0);
    (void)memory->allocate(5 * MIB, 0);
    unimem_retain(marked);
    memory->track_allocation(foreign, sizeof foreign);
    CHECK_EQ("unimem_report_leaks: counts live and tracked foreign blocks, without a callback too",
             unimem_report_leaks(memory, NULL, NULL), 1003);
    CHECK_EQ("unimem_report_leaks: the same with one", unimem_report_leaks(memory, count_leak, &leaks), 1003);
    CHECK("unimem_report_leaks: each own block with its size",
          leaks.blocks == 1002 && leaks.bytes == 12345 + 500500 + 5 * MIB && leaks.found == marked);
    CHECK("unimem_report_leaks: each foreign block with its size",
          leaks.foreign == 1 && leaks.foreign_bytes == sizeof foreign);
    CHECK("unimem_report_leaks: the number of owners", leaks.references == 1003);
    log_t log = {0};
    unimem_set_log(note, &log);
    CHECK("unimem_close: false when blocks are live", !unimem_close(memory));
    CHECK("unimem_close: reports the leak to the log, as a warning or an error",
          log.messages >= 1 && log.serious >= 1 && log.empty == 0);
    printf("# the last message was: %s\n", log.last);
    CHECK("unimem_close: the tracked foreign memory is not touched", pattern_holds(foreign, 0, sizeof foreign, 7));
    memory = unimem_open(NULL);
    memory->track_allocation(foreign, sizeof foreign);
    log = (log_t){0};
    CHECK("unimem_close: false and a report when only a foreign block is tracked",
          !unimem_close(memory) && log.serious >= 1);
    memory = unimem_open(NULL);
    memory->free(memory->allocate(100, 0));
    log = (log_t){0};
    CHECK("unimem_close: true and no warning when nothing is live", unimem_close(memory) && log.serious == 0);
    unimem_set_log(NULL, NULL);
    check_in_child("unimem_set_log: the callback may use the library", log_to_the_library, NULL, 20);
    memory = unimem_open(NULL);
    (void)memory->allocate(1, 0);
    CHECK("unimem_set_log: NULL stops the messages", !unimem_close(memory) && log.serious == 0);
}

static void *errors_of_a_thread(void *number) {
    EXPECT(unimem_last_error() == UNIMEM_OK, "a new thread starts with error %d", (int)unimem_last_error());
    EXPECT(unimem_last_error_message() != NULL, "a new thread has no message");
    int local;
    unimem_global()->free(opaque(&local));
    EXPECT(unimem_last_error() == UNIMEM_ERROR_NOT_OWNED, "its own error is %d, expected not owned",
           (int)unimem_last_error());
    return number;
}

/* In a child with little address space: an attempt to take it all must not take the machine's memory. */
static int open_impossible(void *unused) {
    const size_t sizes[] = {SIZE_MAX, SIZE_MAX - 4096, SIZE_MAX / 2, (size_t)1 << 50};
    (void)unused;
    size_t before = resident_bytes(); /* which allocates */
    setrlimit(RLIMIT_AS, &(struct rlimit){2 * GIB, 2 * GIB});
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (unimem_open(&(unified_pool_config_t){.initial_size = sizes[i], .enable_growth = true})) return 1;
        if (unimem_last_error() == UNIMEM_OK) return 2;
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (size_t)usage.ru_maxrss * KIB > before + 256 * MIB ? 3 : 0;
}

static void test_errors(void) {
    CHECK_EQ("unimem_error_t starts at UNIMEM_OK = 0", UNIMEM_OK, 0);
    TEST("unimem_error_string: a text of its own for every error") {
        const unimem_error_t errors[] = {UNIMEM_OK,
                                         UNIMEM_ERROR_INVALID_ARGUMENT,
                                         UNIMEM_ERROR_OUT_OF_MEMORY,
                                         UNIMEM_ERROR_LIMIT,
                                         UNIMEM_ERROR_NOT_OWNED,
                                         UNIMEM_ERROR_DOUBLE_FREE,
                                         UNIMEM_ERROR_CORRUPTION,
                                         UNIMEM_ERROR_IO,
                                         UNIMEM_ERROR_UNSUPPORTED,
                                         UNIMEM_ERROR_INTERNAL};
        for (size_t i = 0; i < 10; i++) {
            const char *text = unimem_error_string(errors[i]);
            if (!EXPECT(text && *text, "error %d has no text", (int)errors[i])) continue;
            for (size_t j = 0; j < i; j++)
                EXPECT(strcmp(text, unimem_error_string(errors[j])) != 0, "errors %d and %d are both '%s'",
                       (int)errors[j], (int)errors[i], text);
        }
        EXPECT(unimem_error_string((unimem_error_t)12345) && unimem_error_string((unimem_error_t)-1),
               "an unknown number has no text");
    }
    unsigned major, minor, patch;
    CHECK("unimem_version: three numbers", sscanf(unimem_version(), "%u.%u.%u", &major, &minor, &patch) == 3);
    CHECK("unimem_numa_nodes: at least one", unimem_numa_nodes() >= 1);
    unified_memory_interface_t *memory = unimem_open(NULL);
    if (!CHECK("an instance to fail with", memory != NULL)) return;
    (void)memory->allocate(64, 3);
    char message[256];
    snprintf(message, sizeof message, "%s", unimem_last_error_message());
    CHECK("unimem_last_error_message: says more than the code",
          unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT && strlen(message) > 0);
    printf("# allocate(64, 3): %s\n", message);
    void *block = memory->allocate(64, 64);
    (void)stats_of(memory);
    CHECK("unimem_last_error: a success leaves it and its message alone",
          block && memory->track_allocation(block, 64) && memory->untrack_allocation(block) &&
              unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT &&
              strcmp(message, unimem_last_error_message()) == 0);
    TEST("unimem_last_error: each thread has its own") {
        run_threads(4, errors_of_a_thread);
        EXPECT(unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT, "this thread's error became %d",
               (int)unimem_last_error());
    }
    memory->free(block);
    unimem_close(memory);
    CHECK("unimem_open: more ready than max_size allows is NULL, invalid argument",
          unimem_open(&(unified_pool_config_t){.initial_size = 2 * MIB, .max_size = MIB, .enable_growth = true}) ==
                  NULL &&
              unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT);
    check_in_child("unimem_open: more ready than can be is NULL at once, without taking what there is first", open_impossible, NULL, 20);
}

/* Everything that could tempt a library to print. Runs in a child whose output goes to a pipe. */
static int misbehave(void *argument) {
    int descriptor = *(int *)argument;
    dup2(descriptor, STDOUT_FILENO);
    dup2(descriptor, STDERR_FILENO);
    unified_memory_interface_t *memory = unimem_open(NULL), *global = unimem_global();
    if (!memory || !global) return 1;
    char *block = memory->allocate(100, 0);
    memory->free(block);
    memory->free(opaque(block));
    memory->free(opaque(&descriptor));
    global->free((void *)0x10000);
    (void)memory->allocate(SIZE_MAX, 0);
    (void)memory->allocate(10, 7);
    (void)memory->realloc(opaque(&descriptor), 5);
    (void)global->allocate(100, 0);
    (void)memory->allocate(100, 0);
    return unimem_close(memory) ? 2 : 0;
}

static void test_silence(void) {
    int ends[2];
    char text[512] = "";
    unsetenv("UNIMEM_LOG");
    if (!CHECK("a pipe", pipe(ends) == 0)) return;
    int result = run_in_child(misbehave, &ends[1], 20);
    close(ends[1]);
    ssize_t length = read(ends[0], text, sizeof text - 1);
    close(ends[0]);
    CHECK_EQ("bad calls and leaks end no program", (size_t)result, 0);
    if (!CHECK("bad calls and leaks print nothing", length == 0)) printf("# printed: %s\n", text);
}

int main(void) {
    test_sizes_beyond_all_addresses();
    test_tracking();
    test_tracking_in_own_blocks();
    test_leaks();
    test_errors();
    test_silence();
    return tap_done();
}
