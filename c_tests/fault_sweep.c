/* The fault sweep: whole scenarios, in each of which every system call of the library fails, one a run, with every error
 * it can have. In each run: no crash, no hang, no wrong byte, no leak, a proper error from each call that fails; and the
 * same scenario works once the fault is over.
 *
 *   fault_sweep          a sample of the places, some seconds (part of make test)
 *   fault_sweep full     every place (make fault-sweep)
 *   fault_sweep full TEXT   only scenarios whose name contains TEXT
 *   fault_sweep replay TEXT OPERATION FIRST HOW_MANY ERROR   one run, in this process: for a debugger
 *
 * Linked with build/libunimem_faults.so: the same archive as libunimem.so, with three more names (faults.h).
 */
#define _GNU_SOURCE
#include "unimem/memory_pool.h"
#include "unimem/memory_singleton.h"
#include "unimem/tree_tensor_network.h"

#include "faults.h"
#include "support.h"
#include "tap.h"

#include <dirent.h>
#include <setjmp.h>

/* The fault of this run. */
static struct {
    uint32_t operation;
    size_t first, how_many;
    int error;
} fault;
static bool faulty;

/* Between the part of a scenario in which calls may fail and the one in which everything is there again. */
static void faults_are_over(void) {
    unimem_end_faults();
    faulty = false;
}

/* A call failed: right only while faults are injected, and with an error that says what it was. */
static void failed(const char *call) {
    unimem_error_t error = unimem_last_error();
    EXPECT(faulty, "%s failed without a fault: %s", call, unimem_last_error_message());
    EXPECT(error == UNIMEM_ERROR_OUT_OF_MEMORY || error == UNIMEM_ERROR_IO || error == UNIMEM_ERROR_UNSUPPORTED ||
               (error == UNIMEM_ERROR_CORRUPTION && fault.error == DAMAGED_READ),
           "%s: error %d (%s)", call, (int)error, unimem_last_error_message());
    EXPECT(*unimem_last_error_message(), "%s: no message", call);
}
#define TRY(call) ((call) ? true : (failed(#call), false))

/* ---- plain memory ---- */
enum { PLAIN = 12 };
static void fill_plain(unified_memory_interface_t *memory, void **blocks) {
    static const size_t sizes[PLAIN] = {1, 64, 100, 1000, 5000, 40000, 100000, 300000, 2 * MIB, 3 * MIB + 5, 9 * MIB, 64};
    for (size_t i = 0; i < PLAIN; i++) {
        blocks[i] = memory->allocate(sizes[i], i == 3 ? 4096 : 0);
        if (TRY(blocks[i])) pattern_fill(blocks[i], 0, sizes[i] < 5000 ? sizes[i] : 5000, i);
    }
}
static void check_plain(unified_memory_interface_t *memory, void **blocks) {
    for (size_t i = 0; i < PLAIN; i++) {
        size_t size = unimem_usable_size(blocks[i]);
        if (blocks[i]) EXPECT(pattern_holds(blocks[i], 0, size < 5000 ? size : 5000, i), "block %zu changed", i);
        size_t live = stats_of(memory).total_allocated;
        memory->free(blocks[i]);
        EXPECT(live - stats_of(memory).total_allocated == size, "free of block %zu of %zu bytes took %zu", i, size,
               live - stats_of(memory).total_allocated);
    }
}
static void *in_a_thread(void *argument) {
    unified_memory_interface_t *memory = argument;
    void *blocks[PLAIN];
    fill_plain(memory, blocks);
    check_plain(memory, blocks);
    return NULL;
}
static void plain(void) {
    unified_memory_interface_t *memory = unimem_open(
        &(unified_pool_config_t){.initial_size = MIB, .max_size = 256 * MIB, .enable_growth = true});
    if (!TRY(memory)) return;
    void *blocks[PLAIN];
    fill_plain(memory, blocks);
    static const size_t larger[] = {300, 70000, 2 * MIB, 17 * MIB, 5 * MIB, 5000};
    for (size_t i = 0; i < sizeof larger / sizeof larger[0]; i++) {
        size_t before = unimem_usable_size(blocks[9]);
        if (!blocks[9]) break;
        void *moved = memory->realloc(blocks[9], larger[i]);
        if (TRY(moved)) blocks[9] = moved;
        size_t now = unimem_usable_size(blocks[9]);
        EXPECT(now == (moved ? larger[i] : before), "realloc from %zu to %zu gave %zu", before, larger[i], now);
        /* Bytes beyond a smaller size are the caller's to write again. */
        pattern_fill(blocks[9], now < before ? now : before, now < 5000 ? now : 5000, 9);
    }
    pthread_t thread;
    if (pthread_create(&thread, NULL, in_a_thread, memory) == 0) pthread_join(thread, NULL);
    size_t dimensions[] = {30, 40, 50};
    void *tensor = memory->allocate_geometric(dimensions, 3);
    unimem_layout_t layout;
    if (TRY(tensor)) TRY(unimem_layout(tensor, &layout));
    if (blocks[5] && TRY(unimem_retain(blocks[5]))) memory->free(blocks[5]);
    bool tracked = TRY(memory->track_allocation(&layout, sizeof layout));
    EXPECT(memory->untrack_allocation(&layout) == tracked, "tracking");
    unimem_trim(memory);
    unimem_can_allocate(memory, 100 * MIB);
    memory->free(tensor);
    check_plain(memory, blocks);
    EXPECT(stats_of(memory).total_allocated == 0, "%zu bytes live", stats_of(memory).total_allocated);
    EXPECT(unimem_close(memory), "something was live at close");
}
static void global(void) {
    unified_memory_interface_t *memory = unimem_global();
    if (!TRY(memory)) return;
    void *blocks[PLAIN];
    fill_plain(memory, blocks);
    check_plain(memory, blocks);
    EXPECT(unimem_report_leaks(memory, NULL, NULL) == 0, "leaks");
}

/* ---- the three legacy surfaces ---- */
static void *pool_in_a_thread(void *pool) {
    for (size_t size = 64; size < 200000; size = size * 3 + 1) {
        void *block = pool_allocate(pool, size);
        if (TRY(block)) memset(block, 1, size);
        pool_free(pool, block);
    }
    return NULL;
}
static void memory_pool(void) {
    MemoryPool *pool = create_memory_pool(&(PoolConfig){.min_block_size = 64, .num_size_classes = 32, .thread_cache_size = 64, .enable_stats = true});
    if (!TRY(pool)) return;
    unsigned char *blocks[40];
    size_t bytes = 0;
    for (size_t i = 0; i < 40; i++) {
        size_t size = 50 + i * i * 100 + (i == 39 ? 3 * MIB : 0);
        blocks[i] = pool_allocate(pool, size);
        if (TRY(blocks[i])) pattern_fill(blocks[i], 0, 50, i), bytes += size;
    }
    EXPECT(get_total_allocated(pool) == bytes, "%zu bytes live, expected %zu", get_total_allocated(pool), bytes);
    pthread_t thread;
    if (pthread_create(&thread, NULL, pool_in_a_thread, pool) == 0) pthread_join(thread, NULL);
    for (size_t i = 0; i < 40; i += 2) {
        EXPECT(!blocks[i] || pattern_holds(blocks[i], 0, 50, i), "block %zu changed", i);
        pool_free(pool, blocks[i]);
    }
    for (size_t i = 1; i < 40; i += 2) pool_free(pool, blocks[i]);
    EXPECT(get_total_allocated(pool) == 0, "%zu bytes live", get_total_allocated(pool));
    destroy_memory_pool(pool);
}
static void advanced(void) {
    advanced_memory_system_t *system = create_memory_system(&(memory_system_config_t){.enable_monitoring = true});
    if (!TRY(system)) return;
    unsigned char *blocks[12];
    for (size_t i = 0; i < 12; i++) {
        size_t size = 10 + i * i * i * 3000;
        blocks[i] = memory_allocate(system, size, 48);
        if (TRY(blocks[i])) {
            EXPECT(all_zero(blocks[i], size), "block %zu is not zero", i);
            pattern_fill(blocks[i], 0, 10, i);
        }
    }
    void *larger = blocks[4] ? memory_reallocate(system, blocks[4], 3 * MIB) : NULL;
    if (!blocks[4] || TRY(larger)) blocks[4] = larger;
    advanced_memory_pool_t *pool = advanced_create_memory_pool(system, &(pool_config_t){.enable_growth = true});
    if (TRY(pool)) {
        void *block = advanced_pool_allocate(system, pool, 5000);
        if (TRY(block)) EXPECT(all_zero(block, 5000), "a block of a pool is not zero");
        size_t dimensions[] = {4, 5};
        TRY(create_memory_layout(pool, dimensions, 2, GEOMETRIC_STATE_CUSTOM));
        TRY(create_memory_buffer(pool, 5000, true, true, HARDWARE_TYPE_CPU));
        advanced_pool_free(system, pool, block);
        advanced_destroy_memory_pool(system, pool);
    }
    start_defragmentation(system, &(defrag_config_t){.compact_pools = true});
    memory_metrics_t metrics;
    EXPECT(get_memory_metrics(system, &metrics), "metrics");
    for (size_t i = 0; i < 12; i++) {
        EXPECT(!blocks[i] || pattern_holds(blocks[i], 0, 10, i), "block %zu changed", i);
        memory_free(system, blocks[i]);
    }
    EXPECT(get_memory_metrics(system, &metrics) && metrics.current_usage == 0, "%zu bytes live", metrics.current_usage);
    destroy_memory_system(system);
}
static void singleton(void) {
    advanced_memory_system_t *system = create_memory_system(&(memory_system_config_t){0});
    if (!TRY(system)) return;
    EXPECT(get_global_memory_system() == system, "not registered");
    void *block = safe_memory_allocate(system, 5000, 64);
    bool tracked[3000] = {false};
    char *base = (char *)0x100000000000;
    TRY(block);
    for (size_t i = 0; i < 3000; i++) {
        tracked[i] = track_memory_block(base + i * 64);
        if (!tracked[i]) failed("track_memory_block");
    }
    for (size_t i = 0; i < 3000; i++) {
        EXPECT(is_memory_block_tracked(base + i * 64) == tracked[i], "block %zu", i);
        untrack_memory_block(base + i * 64);
        EXPECT(!is_memory_block_tracked(base + i * 64), "block %zu is still tracked", i);
    }
    safe_memory_free(system, block);
    destroy_memory_system(system);
}

/* ---- tiers ---- */
static sigjmp_buf after_signal;
static volatile sig_atomic_t in_touch;
static void on_bus_error(int signal) {
    if (in_touch) siglongjmp(after_signal, 1);
    const char text[] = "# a signal outside of a touch\n";
    if (write(STDOUT_FILENO, text, sizeof text - 1)) {}
    (void)signal;
    _exit(120);
}
static void catch_signals(void) {
    struct sigaction action = {.sa_handler = on_bus_error, .sa_flags = SA_NODEFER};
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
}
/* Reads or writes a word directly; false where the program got SIGBUS instead. */
static bool touch(volatile uint64_t *word, uint64_t *value, bool store) {
    if (sigsetjmp(after_signal, 1)) {
        in_touch = 0;
        EXPECT(faulty, "a signal at %p without a fault", (void *)(uintptr_t)word);
        return false;
    }
    in_touch = 1;
    if (store)
        *word = *value;
    else
        *value = *word;
    in_touch = 0;
    return true;
}
static uint64_t mix(uint64_t i) { return random_next(&(random_t){i}); }

enum { CHUNK = 16 << 10, CHUNKS = 24, WORDS = CHUNK / 8 };
/* Fills chunks; `whole[i]` tells which hold mix(tag + word). The others are zero, or were being written. */
static void fill_chunks(uint64_t *words, bool *whole, uint64_t tag) {
    for (size_t i = 0; i < CHUNKS; i++) {
        uint64_t *chunk = unimem_chunk_acquire(words, i, i % 2 ? UNIMEM_OVERWRITE : UNIMEM_WRITE);
        if (!TRY(chunk)) continue;
        for (size_t w = 0; w < WORDS; w++) chunk[w] = mix(tag + i * WORDS + w);
        whole[i] = true;
        EXPECT(unimem_chunk_release(words, i), "release of chunk %zu", i);
    }
}
static void check_chunks(uint64_t *words, const bool *whole, uint64_t tag) {
    for (size_t i = 0; i < CHUNKS; i++) {
        uint64_t *chunk = unimem_chunk_acquire(words, i, UNIMEM_READ);
        if (!TRY(chunk)) continue;
        for (size_t w = 0; whole[i] && w < WORDS; w++)
            if (!EXPECT(chunk[w] == mix(tag + i * WORDS + w), "word %zu of chunk %zu", w, i)) break;
        unimem_chunk_release(words, i);
    }
}
static void touch_chunks(uint64_t *words, const bool *whole, uint64_t tag, bool direct) {
    for (size_t i = 0; direct && i < CHUNKS; i++) {
        size_t at = i * WORDS + i;
        uint64_t value = 0;
        if (touch(&words[at], &value, false) && whole[i]) EXPECT(value == mix(tag + at), "word %zu, read directly", at);
        value = mix(tag + at + 1);
        if (whole[i]) touch(&words[at + 1], &value, true); /* what is there already: a lost write would show below */
    }
}
static unified_memory_interface_t *open_tiers(void) {
    return unimem_open(&(unified_pool_config_t){.max_size = MIB, .enable_growth = true, .enable_streaming = true, .chunk_size = CHUNK});
}
/* Not under UNIMEM_FAULTS=none, where only acquired chunks may be read. */
static bool serves_touches(void) { return strcmp(unimem_fault_mechanism(), "none") != 0; }

static void tiers(void) {
    catch_signals();
    unified_memory_interface_t *memory = open_tiers();
    if (!TRY(memory)) return;
    uint64_t *words = memory->allocate_streaming(CHUNKS * CHUNK, CHUNK);
    float *rough = memory->allocate_hierarchical(CHUNKS * CHUNK, 1e-3);
    bool whole[CHUNKS] = {false};
    if (TRY(words)) {
        fill_chunks(words, whole, 7);
        /* A plain block that needs the chunks' room. */
        void *plain = memory->allocate(600 * KIB, 0);
        if (!serves_touches() || TRY(plain)) /* chunks in place for good do not make room */
            if (plain) memset(plain, 1, 600 * KIB);
        touch_chunks(words, whole, 7, serves_touches());
        memory->free(plain);
        unimem_chunk_prefetch(words, 0, 8);
        unimem_advise(words, UNIMEM_DONT_NEED);
        check_chunks(words, whole, 7);
        for (size_t chunks = serves_touches() ? 5 * CHUNKS : CHUNKS; chunks; chunks = chunks > CHUNKS ? CHUNKS : 0) {
            uint64_t *moved = memory->realloc(words, chunks * CHUNK);
            if (TRY(moved)) words = moved;
        }
    }
    if (TRY(rough)) {
        for (size_t i = 0; i < CHUNKS; i++) {
            float *chunk = unimem_chunk_acquire(rough, i, UNIMEM_WRITE);
            if (!TRY(chunk)) continue;
            for (size_t k = 0; k < CHUNK / sizeof *chunk; k++) chunk[k] = (float)(k % 100) * 0.37f;
            unimem_chunk_release(rough, i);
        }
        memory->free(rough);
    }
    /* All faults over: nothing is lost. */
    faults_are_over();
    if (words) {
        check_chunks(words, whole, 7);
        touch_chunks(words, whole, 7, serves_touches());
        check_chunks(words, whole, 7);
    }
    memory->free(words);
    EXPECT(unimem_held_bytes(memory) <= MIB, "%zu bytes held", unimem_held_bytes(memory));
    EXPECT(stats_of(memory).total_allocated == 0, "%zu bytes live", stats_of(memory).total_allocated);
    EXPECT(unimem_close(memory), "something was live at close");
}
static void tiers_fork(void) {
    catch_signals();
    unified_memory_interface_t *memory = open_tiers();
    if (!TRY(memory)) return;
    uint64_t *words = memory->allocate_streaming(CHUNKS * CHUNK, CHUNK);
    bool whole[CHUNKS] = {false};
    if (TRY(words)) {
        fill_chunks(words, whole, 9);
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            alarm(20);
            check_chunks(words, whole, 9);
            touch_chunks(words, whole, 9, serves_touches());
            memory->free(words);
            EXPECT(unimem_close(memory), "something was live at the child's close");
            _exit(tap.misses != 0);
        }
        int result = child_result(child);
        EXPECT(result == 0, "the child: %d", result);
        faults_are_over();
        check_chunks(words, whole, 9);
        bool again[CHUNKS] = {false};
        fill_chunks(words, again, 10);
        check_chunks(words, again, 10);
    }
    faults_are_over();
    memory->free(words);
    EXPECT(unimem_close(memory), "something was live at close");
}

/* ---- trees ---- */
static void tree(void) {
    catch_signals();
    unified_memory_interface_t *memory = unimem_open(
        &(unified_pool_config_t){.max_size = 8 * MIB, .enable_growth = true, .enable_streaming = true, .chunk_size = 64 * KIB});
    if (!TRY(memory)) return;
    tree_tensor_network_t *ttn = create_tree_tensor_network(4, 8, 1e-6);
    if (TRY(ttn)) {
        ttn->memory = memory;
        tree_tensor_node_t *nodes[5] = {NULL};
        static ComplexFloat elements[4096];
        for (size_t i = 0; i < 4096; i++) elements[i] = (ComplexFloat){(float)(i % 7) - 3, (float)(i % 5)};
        bool all = true;
        for (size_t i = 0; i < 5; i++) all &= TRY(nodes[i] = add_tree_tensor_node(ttn, elements, (size_t[]){8, 8, 8}, 3, i % 3 == 0));
        for (size_t i = 1; i < 5 && all; i++) all &= TRY(connect_tree_tensor_nodes(ttn, nodes[(i - 1) / 2], nodes[i]));
        if (all) {
            ComplexFloat *result = NULL;
            size_t dimensions[32], count = 32;
            if (TRY(contract_full_tree_network(ttn, &result, dimensions, &count))) free(result);
            TRY(optimize_tree_structure(ttn));
            tree_tensor_node_t *pair = NULL;
            TRY(contract_tree_tensor_nodes(ttn, nodes[1], nodes[3], &pair));
            tensor_stream_t *stream = create_tensor_stream(ttn, nodes[0], 100);
            if (TRY(stream)) TRY(stream_next_chunk(stream));
            destroy_tensor_stream(stream);
            TRY(adapt_bond_dimensions(ttn, 0.1));
        }
    }
    destroy_tree_tensor_network(ttn);
    EXPECT(stats_of(memory).total_allocated == 0, "%zu bytes live", stats_of(memory).total_allocated);
    EXPECT(unimem_close(memory), "something was live at close");
}

/* ---- recordings ---- */
static void recording(void) {
    char path[] = "/tmp/unimem-recording-XXXXXX";
    int file = mkstemp(path);
    if (file < 0) abort();
    close(file);
    bool begun = TRY(unimem_trace_start(path));
    unified_memory_interface_t *memory = unimem_open(
        &(unified_pool_config_t){.max_size = MIB, .enable_growth = true, .enable_streaming = true, .chunk_size = 64 * KIB});
    if (TRY(memory)) {
        void *block = memory->allocate(3000, 0);
        if (TRY(block)) memory->free(block);
        char *streamed = memory->allocate_streaming(4 * MIB, 0);
        for (size_t i = 0; TRY(streamed) && i < 64; i++) {
            char *chunk = unimem_chunk_acquire(streamed, i, UNIMEM_WRITE);
            if (!TRY(chunk)) break;
            chunk[0] = (char)i;
            unimem_chunk_release(streamed, i);
        }
        if (streamed) memory->free(streamed);
        EXPECT(unimem_close(memory), "something was live at close");
    }
    /* A recording whose file could not be written has ended before, or ends now: with an error, and nothing else. */
    if (begun && !unimem_trace_stop()) EXPECT(faulty, "the recording was not written: %s", unimem_last_error_message());
    unlink(path);
}

/* ---- the sweep ---- */
typedef struct {
    const char *name;
    void (*run)(void);
    const char *mechanism; /* UNIMEM_FAULTS, or NULL */
} scenario_t;
static const scenario_t scenarios[] = {
    {"plain memory", plain, NULL},
    {"the global instance", global, NULL},
    {"memory pool", memory_pool, NULL},
    {"advanced system", advanced, NULL},
    {"singleton", singleton, NULL},
    {"tiers, userfaultfd", tiers, "userfaultfd"},
    {"tiers, userfaultfd-copy", tiers, "userfaultfd-copy"},
    {"tiers, signal", tiers, "signal"},
    {"tiers, none", tiers, "none"},
    {"fork with tiers, userfaultfd", tiers_fork, "userfaultfd"},
    {"fork with tiers, signal", tiers_fork, "signal"},
    {"tree", tree, NULL},
    {"recording", recording, NULL},
};

static size_t open_files(void) {
    size_t count = 0;
    DIR *directory = opendir("/proc/self/fd");
    while (directory && readdir(directory)) count++;
    if (directory) closedir(directory);
    return count;
}

enum { HANGS = 256 + SIGKILL };
/* What a run tells the sweep. */
static struct { size_t calls[OPERATIONS], struck; } *told;

static void run_scenario(const scenario_t *scenario) {
    faulty = fault.how_many != 0;
    unimem_inject_faults(1u << fault.operation, fault.first, fault.how_many, fault.error);
    scenario->run();
    unimem_end_faults();
    faulty = false;
}
static int run_child(void *argument) {
    const scenario_t *scenario = argument;
    if (scenario->mechanism) setenv("UNIMEM_FAULTS", scenario->mechanism, 1);
    tap.misses = 0;
    size_t before = open_files();
    run_scenario(scenario);
    told->struck = unimem_end_faults();
    for (size_t o = 0; o < OPERATIONS; o++) told->calls[o] = unimem_fault_calls((uint32_t)o);
    if (fault.how_many == 0) return tap.misses != 0;
    /* Once it is over everything works, and nothing stays open: two descriptors are the mechanism's own. */
    fault.how_many = 0;
    run_scenario(scenario);
    EXPECT(open_files() <= before + 2, "%zu files open, were %zu", open_files(), before);
    return tap.misses != 0;
}
/* One run with one fault; whether all was well. */
static bool survives(const scenario_t *scenario, uint32_t operation, size_t first, size_t how_many, int error) {
    fault.operation = operation, fault.first = first, fault.how_many = how_many, fault.error = error;
    told->struck = 0;
    int result = run_in_child(run_child, (void *)(uintptr_t)scenario, 20);
    if (result == 0) return true;
    EXPECT(false, "%s: %s, call %zu%s, error %d: %s %d; replay '%s' %u %zu %zd %d", scenario->name,
           operations[operation].name, first, how_many == 1 ? "" : " and all later ones", error,
           result == HANGS ? "hangs, signal" : result > 256 ? "signal" : "exit", result > 256 ? result - 256 : result,
           scenario->name, operation, first, (ssize_t)how_many, error);
    return false;
}
/* Runs a scenario with stdout and stderr in a file; how many bytes are in it then, or -1. */
static off_t bytes_printed(const scenario_t *scenario, uint32_t operation, int error) {
    char name[] = "/tmp/unimem-printed-XXXXXX";
    int file = mkstemp(name);
    if (file < 0) return -1;
    unlink(name);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(20);
        dup2(file, STDOUT_FILENO);
        dup2(file, STDERR_FILENO);
        if (scenario->mechanism) setenv("UNIMEM_FAULTS", scenario->mechanism, 1);
        tap.misses = 1000; /* what is wrong was said elsewhere */
        fault.operation = operation, fault.first = 1, fault.how_many = error ? SIZE_MAX : 0, fault.error = error;
        run_scenario(scenario);
        _exit(0);
    }
    int result = child_result(child);
    off_t size = lseek(file, 0, SEEK_END);
    close(file);
    return result == 0 ? size : -1;
}
static void prints_nothing(const scenario_t *scenario) {
    const struct { uint32_t operation; int error; } cases[] = {{0, 0}, {DEFECT, EINVAL}, {0, ENOMEM}, {13, ENOSPC}, {19, EAGAIN}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        off_t bytes = bytes_printed(scenario, cases[c].operation, cases[c].error);
        EXPECT(bytes == 0, "%s, operation %u fails with %d: %lld bytes printed", scenario->name, cases[c].operation,
               cases[c].error, (long long)bytes);
    }
}
/* What a panic becomes: bits of the exit status. */
static void note_message(int level, const char *message, void *context) {
    if (level == 0 && strstr(message, "defect")) *(int *)context = 1;
}
static int meet_a_panic(void *argument) {
    int *noted = argument;
    unimem_set_log(note_message, noted);
    unimem_inject_faults(1u << DEFECT, 1, 1, EINVAL);
    bool refused = unimem_open(NULL) == NULL && unimem_last_error() == UNIMEM_ERROR_INTERNAL;
    unified_memory_interface_t *memory = unimem_open(NULL);
    return !(refused && *noted && memory && unimem_close(memory));
}
static int replay(char **arguments) {
    for (size_t s = 0; s < sizeof scenarios / sizeof scenarios[0]; s++) {
        if (strcmp(scenarios[s].name, arguments[0]) != 0) continue;
        fault.operation = (uint32_t)strtoul(arguments[1], NULL, 10);
        fault.first = strtoul(arguments[2], NULL, 10), fault.how_many = (size_t)strtol(arguments[3], NULL, 10);
        fault.error = (int)strtol(arguments[4], NULL, 10);
        return run_child((void *)(uintptr_t)&scenarios[s]);
    }
    return 2;
}

int main(int count, char **arguments) {
    bool full = count > 1 && strcmp(arguments[1], "full") == 0;
    const char *only = count > 2 ? arguments[2] : "";
    size_t places = full ? SIZE_MAX : scaled(6);
    told = mmap(NULL, sizeof *told, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsetenv("UNIMEM_FAULTS");
    if (count == 7 && strcmp(arguments[1], "replay") == 0) return replay(arguments + 2);
    size_t runs = 0;
    for (size_t s = 0; s < sizeof scenarios / sizeof scenarios[0]; s++) {
        const scenario_t *scenario = &scenarios[s];
        if (!strstr(scenario->name, only)) continue;
        char name[120];
        snprintf(name, sizeof name, "%s: every call that fails is survived", scenario->name);
        TEST(name) {
            size_t calls[OPERATIONS], here = 0;
            double began = seconds_now();
            bool works = survives(scenario, 0, 0, 0, 0);
            memcpy(calls, told->calls, sizeof calls);
            for (uint32_t o = 0; works && o < OPERATIONS; o++) {
                for (size_t e = 0; operations[o].errors[e]; e++) {
                    int error = operations[o].errors[e];
                    /* One failure at each place; then all from there on, where they are not of the passing kind. */
                    size_t step = calls[o] / places + 1;
                    for (size_t first = 1; first <= calls[o]; first += step) {
                        survives(scenario, o, first, 1, error), here += told->struck > 0;
                        if (!is_passing(error) && (full || first == 1))
                            survives(scenario, o, first, SIZE_MAX, error), here += told->struck > 0;
                    }
                }
            }
            printf("# %s: %zu runs with a fault in %.1f s\n", scenario->name, here, seconds_now() - began);
            if (works) EXPECT(here > 0, "nothing was struck");
            runs += here;
        }
    }
    printf("# %zu runs with a fault\n", runs);
    unsetenv("UNIMEM_LOG");
    int noted = 0;
    CHECK_EQ("a panic is an internal error of its call, and told to the log", (size_t)run_in_child(meet_a_panic, &noted, 10), 0);
    TEST("no scenario prints anything, neither with faults nor with panics at every call") {
        for (size_t s = 0; s < sizeof scenarios / sizeof scenarios[0]; s++)
            if (strstr(scenarios[s].name, only)) prints_nothing(&scenarios[s]);
    }
    return tap_done();
}
