/* fault_scenarios.h - the scenarios of the fault sweep: what programs do with each surface. Every result is checked.
 * A call may fail only while faults are injected, and only with an error that says so. What does not fail must be
 * right. */
#ifndef UNIMEM_FAULT_SCENARIOS_H
#define UNIMEM_FAULT_SCENARIOS_H

#include "unimem/memory_pool.h"
#include "unimem/memory_singleton.h"
#include "unimem/tree_tensor_network.h"

#include "faults.h"
#include "tiers.h"

#include <setjmp.h>

/* The fault that this run injects. */
static struct {
    uint32_t operation;
    size_t first, how_many;
    int error;
} fault;
static bool faulty;
/* Memory that had to move to grow was refused that, and anything like it from then on. Chunks that had moved and could not
 * go back are errors then, and nothing else (docs/reliability.md, what is known not to hold). */
static bool stranded;
static bool is_stranded(void) {
    return stranded && unimem_last_error() == UNIMEM_ERROR_IO && strstr(unimem_last_error_message(), "the chunk is lost");
}

/* Ends the faults. The part of a scenario before this may fail; after it everything must work again. */
static void faults_are_over(void) {
    unimem_end_faults();
    faulty = false;
}

/* Notes that a call failed. That is right only while faults are injected, and only with an error that fits. */
static void failed(const char *call) {
    unimem_error_t error = unimem_last_error();
    EXPECT(faulty || is_stranded(), "%s failed without a fault: %s", call, unimem_last_error_message());
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
        /* After the block was smaller, the bytes beyond that size are unspecified, so they are written again. */
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
/* Reads or writes a word directly. False if the program got SIGBUS. */
static bool touch(volatile uint64_t *word, uint64_t *value, bool store) {
    if (sigsetjmp(after_signal, 1)) {
        in_touch = 0;
        EXPECT(faulty || stranded, "a signal at %p without a fault", (void *)(uintptr_t)word);
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

enum { CHUNK = 16 << 10, CHUNKS = 24, WORDS = CHUNK / 8 };
/* Fills chunks. `whole[i]` says that chunk i holds mix(tag + word). The other chunks are zero, or were only partly
 * written. */
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
        if (whole[i]) touch(&words[at + 1], &value, true); /* the value that is there: shows lost writes below */
    }
}
/* Pieces of one chunk, which share a region: they come, go, leave, come back, the first grows to a region of its own, and the
 * second shrinks and grows in its chunk. */
enum { SMALL = 12, SMALL_SIZE = 3000, SHRUNK = 2000 };
static void use_small_pieces(unified_memory_interface_t *memory) {
    unsigned char *pieces[SMALL];
    bool whole[SMALL] = {false};
    for (size_t i = 0; i < SMALL; i++) {
        pieces[i] = memory->allocate_streaming(SMALL_SIZE, 4096);
        if (!TRY(pieces[i]) || !TRY(unimem_chunk_acquire(pieces[i], 0, UNIMEM_WRITE))) continue;
        pattern_fill(pieces[i], 0, SMALL_SIZE, i);
        whole[i] = unimem_chunk_release(pieces[i], 0);
        unimem_advise(pieces[i], UNIMEM_DONT_NEED);
        if (i % 4 != 3) continue;
        memory->free(pieces[i]);
        pieces[i] = NULL;
    }
    unsigned char *grown = pieces[0] ? memory->realloc(pieces[0], 5 * 4096) : NULL;
    if (grown) pieces[0] = grown;
    bool grew = pieces[1] && memory->realloc(pieces[1], SHRUNK) && memory->realloc(pieces[1], 4096);
    for (size_t i = 0; i < SMALL; i++) {
        if (whole[i] && pieces[i] && TRY(unimem_chunk_acquire(pieces[i], 0, UNIMEM_READ))) {
            EXPECT(pattern_holds(pieces[i], 0, i == 1 ? SHRUNK : SMALL_SIZE, i), "small piece %zu", i);
            EXPECT(i != 1 || !grew || all_zero(pieces[i] + SHRUNK, 4096 - SHRUNK), "what it grows by is not zero");
            unimem_chunk_release(pieces[i], 0);
        }
        memory->free(pieces[i]);
    }
}
static void tiers(void) {
    stranded = false;
    catch_signals();
    unified_memory_interface_t *memory = open_with(MIB, CHUNK);
    if (!TRY(memory)) return;
    uint64_t *words = memory->allocate_streaming(CHUNKS * CHUNK, CHUNK);
    float *rough = memory->allocate_hierarchical(CHUNKS * CHUNK, 1e-3);
    bool whole[CHUNKS] = {false};
    if (TRY(words)) {
        fill_chunks(words, whole, 7);
        /* A plain block that needs room which chunks hold. */
        void *plain = memory->allocate(600 * KIB, 0);
        if (!serves_touches() || TRY(plain)) /* chunks that are in place for good do not make room */
            if (plain) memset(plain, 1, 600 * KIB);
        touch_chunks(words, whole, 7, serves_touches());
        memory->free(plain);
        unimem_chunk_prefetch(words, 0, 8);
        unimem_advise(words, UNIMEM_DONT_NEED);
        check_chunks(words, whole, 7);
        for (size_t chunks = serves_touches() ? 5 * CHUNKS : CHUNKS; chunks; chunks = chunks > CHUNKS ? CHUNKS : 0) {
            uint64_t *moved = memory->realloc(words, chunks * CHUNK);
            if (TRY(moved)) words = moved;
            else stranded = fault.how_many == SIZE_MAX;
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
    use_small_pieces(memory);
    /* All faults are over, and nothing may be lost. */
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
    unified_memory_interface_t *memory = open_with(MIB, CHUNK);
    if (!TRY(memory)) return;
    uint64_t *words = memory->allocate_streaming(CHUNKS * CHUNK, CHUNK);
    bool whole[CHUNKS] = {false};
    if (TRY(words)) {
        fill_chunks(words, whole, 9);
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            tap_begin_child();
            end_after(20);
            check_chunks(words, whole, 9);
            touch_chunks(words, whole, 9, serves_touches());
            memory->free(words);
            EXPECT(unimem_close(memory), "something was live at the child's close");
            fflush(stdout);
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
    unified_memory_interface_t *memory = open_with(8 * MIB, 64 * KIB);
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
    unified_memory_interface_t *memory = open_with(MIB, 64 * KIB);
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
    /* If the file could not be written, the recording has ended before or ends now. Either way there is an error and
     * no other harm. */
    if (begun && !unimem_trace_stop()) EXPECT(faulty, "the recording was not written: %s", unimem_last_error_message());
    unlink(path);
}

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

#endif
