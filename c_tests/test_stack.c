/* test_stack.c - how much stack the functions of the interface need, all of them (unimem.map). Programs with many threads
 * give each a small one, so no function may need more than MOST (docs/reliability.md). Each case runs in a process of its
 * own, in a thread on a stack that was painted before: the paint that is gone tells how deep the calls went. What happens
 * once in a process, as when the first tensor is contracted, happens there too. */
#define _GNU_SOURCE
#include "unimem/memory_pool.h"
#include "unimem/memory_singleton.h"
#include "unimem/tree_tensor_network.h"

#include "support.h"
#include "tap.h"
#include "tiers.h"

enum { STACK = 8 << 20, MOST = 48 << 10, PAINT = 0x5A };

static void nothing(void) {}

static void instances(void) {
    unified_memory_interface_t *memory = unimem_open(NULL);
    if (!EXPECT(memory, "no instance")) return;
    for (size_t size = 1; size < 300 * MIB; size = size * 3 + 1) {
        void *block = memory->allocate(size, 0);
        EXPECT(block && unimem_owns(block) && unimem_usable_size(block) == size, "%zu bytes", size);
        void *moved = memory->realloc(block, size + size / 2);
        EXPECT(moved && unimem_retain(moved) && unimem_reference_count(moved) == 2, "%zu bytes, moved", size);
        EXPECT(memory->track_allocation(moved, size) && memory->untrack_allocation(moved), "tracking");
        memory->free(moved);
        memory->free(moved);
        memory->free(moved);
    }
    void *tensor = unimem_allocate_tensor(memory, (size_t[]){30, 40}, 2, 8), *geometric = memory->allocate_geometric((size_t[]){30, 40}, 2);
    unimem_layout_t layout;
    EXPECT(tensor && geometric && unimem_layout(tensor, &layout), "tensors");
    EXPECT(unimem_refused_frees(memory) > 0 && unimem_held_bytes(memory) > 0 && unimem_can_allocate(memory, MIB), "figures");
    stats_of(memory);
    unimem_reset_stats(memory);
    unimem_trim(memory);
    EXPECT(unimem_report_leaks(memory, NULL, NULL) == 2, "leaks");
    EXPECT(!unimem_close(memory) && unimem_last_error_message() && unimem_error_string(unimem_last_error()) && unimem_version() && unimem_numa_nodes(), "closed");
    void *block = unimem_global()->allocate(100, 0);
    unimem_global()->free(block);
}
static void log_it(int level, const char *message, void *context) { (void)level, (void)message, (void)context; }
static void reports(void) {
    char path[] = "/tmp/unimem-stack-XXXXXX";
    int file = mkstemp(path);
    if (file < 0) return;
    close(file);
    unimem_set_log(log_it, NULL);
    unified_memory_interface_t *memory = unimem_open(NULL);
    bool begun = unimem_trace_start(path);
    EXPECT(begun || getenv("UNIMEM_TRACE"), "no recording: %s", unimem_last_error_message());
    for (size_t i = 0; i < 3000; i++) memory->allocate(1000, 0);
    EXPECT(!begun || unimem_trace_stop(), "no recording: %s", unimem_last_error_message());
    EXPECT(unimem_write_leaks(path), "a report: %s", unimem_last_error_message());
    EXPECT(!unimem_close(memory), "leaks");
    unlink(path);
}
static void damage(void) {
    unified_memory_interface_t *memory = unimem_open(NULL);
    unsigned char *block = memory->allocate(1000, 0), *other = memory->allocate(1000, 0);
    block = opaque(block);
    block[1000] = 1;
    memory->free(block);
    memory->free(opaque(block));
    memory->free(other);
    reports();
}
static void chunks(void) {
    unified_memory_interface_t *memory = open_with(MIB, 16 * KIB);
    if (!EXPECT(memory, "no instance")) return;
    for (size_t lossy = 0; lossy < 2; lossy++) {
        float *values = lossy ? memory->allocate_hierarchical(8 * MIB, 1e-3) : memory->allocate_streaming(8 * MIB, 0);
        if (!EXPECT(values, "no tiered memory: %s", unimem_last_error_message())) return;
        size_t chunk = unimem_chunk_size(values) / sizeof *values;
        for (size_t i = 0; i < unimem_chunk_count(values); i++) {
            float *start = unimem_chunk_acquire(values, i, i % 2 ? UNIMEM_OVERWRITE : UNIMEM_WRITE);
            for (size_t k = 0; EXPECT(start, "chunk %zu: %s", i, unimem_last_error_message()) && k < chunk; k++) start[k] = (float)(k % (i + 1)) * 0.37f;
            unimem_chunk_release(values, i);
        }
        for (size_t i = 0; serves_touches() && i < unimem_chunk_count(values); i++) values[i * chunk] += 1;
        unimem_chunk_prefetch(values, 0, 8);
        for (unimem_advice_t advice = UNIMEM_SEQUENTIAL; advice <= UNIMEM_DONT_NEED; advice++) unimem_advise(values, advice);
        unimem_residency_t residency;
        EXPECT(unimem_residency(values, &residency) && unimem_fault_mechanism(), "figures");
        void *plain = memory->allocate(300 * KIB, 0);
        memory->free(plain);
        float *longer = memory->realloc(values, serves_touches() ? 20 * MIB : 8 * MIB);
        EXPECT(longer, "realloc: %s", unimem_last_error_message());
        memory->free(longer ? longer : values);
    }
    unimem_close(memory);
}
static void forks(void) {
    unified_memory_interface_t *memory = open_with(MIB, 16 * KIB);
    char *values = memory->allocate_streaming(4 * MIB, 0);
    for (size_t i = 0; values && i < unimem_chunk_count(values); i++) unimem_chunk_acquire(values, i, UNIMEM_WRITE), unimem_chunk_release(values, i);
    pid_t child = fork();
    if (child == 0) {
        memory->free(values);
        _exit(!unimem_close(memory));
    }
    EXPECT(child_result(child) == 0, "the child");
    unimem_close(memory);
}
static void pools(void) {
    MemoryPool *pool = create_memory_pool(&(PoolConfig){.min_block_size = 64, .num_size_classes = 32, .thread_cache_size = 64, .enable_stats = true});
    if (!EXPECT(pool, "no pool")) return;
    for (size_t size = 1; size < 10 * MIB; size = size * 3 + 1) pool_free(pool, pool_allocate(pool, size));
    pool_allocate(pool, 100);
    EXPECT(unimem_pool_interface((unimem_memory_pool_t *)pool) && get_total_allocated(pool) == 100 && get_peak_allocated(pool) && get_num_allocations(pool), "figures");
    destroy_memory_pool(pool);
}
static void systems(void) {
    advanced_memory_system_t *system = create_memory_system(&(memory_system_config_t){.enable_monitoring = true});
    if (!EXPECT(system, "no system")) return;
    char *block = memory_allocate(system, 100000, 4096);
    block = memory_reallocate(system, block, 5 * MIB);
    block_info_t info;
    memory_metrics_t metrics;
    double level;
    EXPECT(get_block_info(system, block, &info) && validate_memory_block(system, block) && get_allocation_size(system, block), "a block");
    check_memory_corruption(system, block);
    for (size_t old = 0; old < 2; old++) {
        const pool_config_t config = {.enable_growth = true, .enable_stats = true};
        void *pool = old ? ams_create_memory_pool(system, &config) : advanced_create_memory_pool(system, &config);
        void *small = old ? ams_pool_allocate(system, pool, 5000) : advanced_pool_allocate(system, pool, 5000);
        MemoryLayout *one = create_memory_layout(pool, (size_t[]){40, 50}, 2, GEOMETRIC_STATE_CUSTOM), *other = create_memory_layout(pool, (size_t[]){40, 50}, 2, GEOMETRIC_STATE_CUSTOM);
        MemoryBuffer *buffer = create_memory_buffer(pool, 5000, true, true, HARDWARE_TYPE_CPU);
        if (!EXPECT(small && one && other && buffer, "a pool")) return;
        memory_copy(one, other, 1000);
        memory_transfer(buffer, GEOMETRIC_STATE_CUSTOM);
        update_memory_access(pool);
        optimize_pool_configuration(system, pool, &config);
        if (old) ams_pool_free(system, pool, small), ams_destroy_memory_pool(system, pool);
        else advanced_pool_free(system, pool, small), advanced_destroy_memory_pool(system, pool);
    }
    optimize_memory_usage(system, (optimization_level_t)1);
    optimize_allocation_strategy(system, (allocation_strategy_t)0);
    start_defragmentation(system, &(defrag_config_t){.compact_pools = true});
    stop_defragmentation(system);
    is_defragmentation_needed(system, &level);
    EXPECT(get_memory_metrics(system, &metrics) && analyze_fragmentation(system, &level), "figures");
    start_memory_monitoring(system), stop_memory_monitoring(system), reset_memory_metrics(system);
    EXPECT(unimem_system_interface(system) && get_global_memory_system() == system, "the interface");
    memory_free(system, block);
    void *safe = safe_memory_allocate(system, 5000, 64);
    for (uintptr_t i = 1; i < 3000; i++) track_memory_block(opaque((void *)(i << 20)));
    EXPECT(is_memory_block_tracked(safe) && untrack_memory_block(opaque((void *)((uintptr_t)1 << 20))), "tracking");
    safe_memory_free(system, safe);
    register_memory_system(system), unregister_memory_system(system);
    destroy_memory_system(system);
}

static bool go_on(double done, double total, void *context) { return (void)done, (void)total, context == NULL; }
/* A tree of three tensors with bonds of `bond`. */
static tree_tensor_network_t *tree_of(unified_memory_interface_t *memory, size_t free_size, size_t bond, tree_tensor_node_t **nodes) {
    const size_t shapes[3][3] = {{free_size, bond, 1}, {bond, free_size, bond}, {bond, free_size, 1}};
    tree_tensor_network_t *ttn = create_tree_tensor_network(4, 0, 1e-6);
    if (memory) ttn->memory = memory;
    ComplexFloat *elements = table_new(bond * free_size * bond * sizeof *elements);
    random_t random = {bond};
    for (size_t i = 0; i < bond * free_size * bond; i++) elements[i] = (ComplexFloat){(float)random_below(&random, 1000) / 1000, (float)random_below(&random, 1000) / 1000};
    bool all = true;
    for (size_t v = 0; v < 3; v++) all = all && (nodes[v] = add_tree_tensor_node(ttn, elements, shapes[v], v == 1 ? 3 : 2, false));
    EXPECT(all && unimem_connect_axes(ttn, nodes[0], 1, nodes[1], 0) && connect_tree_tensor_nodes(ttn, nodes[1], nodes[2]), "joined: %s", unimem_last_error_message());
    munmap(elements, bond * free_size * bond * sizeof *elements);
    return ttn;
}
static void contracts(unified_memory_interface_t *memory, size_t free_size, size_t bond) {
    tree_tensor_node_t *nodes[3], *pair = NULL;
    tree_tensor_network_t *ttn = tree_of(memory, free_size, bond, nodes);
    ComplexFloat *result = NULL;
    size_t dimensions[16], count = 16;
    double flops, bytes;
    unimem_set_progress(ttn, go_on, NULL);
    EXPECT(unimem_threads() && optimize_tree_structure(ttn) && unimem_contraction_cost(ttn, &flops, &bytes), "planned: %s", unimem_last_error_message());
    EXPECT(contract_full_tree_network(ttn, &result, dimensions, &count), "contracted: %s", unimem_last_error_message());
    free(result);
    tensor_network_t *general = NULL;
    tree_tensor_network_t *back = NULL;
    EXPECT(convert_tree_to_tensor_network(ttn, &general) && convert_tensor_network_to_tree(general, &back), "converted: %s", unimem_last_error_message());
    destroy_tree_tensor_network(back);
    EXPECT(contract_tree_tensor_nodes(ttn, nodes[0], nodes[1], &pair), "a pair: %s", unimem_last_error_message());
    tree_tensor_node_t *target = add_tree_tensor_node(ttn, NULL, pair->dimensions, pair->num_dimensions, false);
    tensor_stream_t *streams[3] = {create_tensor_stream(ttn, nodes[0], 100), create_tensor_stream(ttn, nodes[1], 100), create_tensor_stream(ttn, target, 100)};
    EXPECT(streams[0] && stream_next_chunk(streams[0]) && contract_tensor_streams(streams[0], streams[1], streams[2]), "streams: %s", unimem_last_error_message());
    for (size_t i = 0; i < 3; i++) destroy_tensor_stream(streams[i]);
    tensor_network_metrics_t metrics;
    EXPECT(get_tree_tensor_network_metrics(ttn, &metrics) && reset_tree_tensor_network_metrics(ttn), "metrics");
    MemoryPool *pool = create_memory_pool(&(PoolConfig){.min_block_size = 64, .num_size_classes = 32});
    EXPECT(set_memory_pool(ttn, pool) && set_memory_system(ttn, create_memory_system(&(memory_system_config_t){0})), "other memory");
    destroy_tree_tensor_network(ttn);
}
static void trees(void) { contracts(NULL, 40, 40); }
static void large_trees(void) { contracts(NULL, 120, 100); }
static void tiered_trees(void) {
    unified_memory_interface_t *memory = open_with(8 * MIB, 64 * KIB);
    contracts(memory, 120, 100);
}
static void one_thread(void) {
    unimem_set_threads(1);
    contracts(NULL, 120, 100);
}
static void adapts(size_t free_size, size_t bond, double error) {
    tree_tensor_node_t *nodes[3];
    tree_tensor_network_t *ttn = tree_of(NULL, free_size, bond, nodes);
    ttn->max_rank = bond / 2;
    adapt_bond_dimensions(ttn, error);
    destroy_tree_tensor_network(ttn);
}
static void adapts_small(void) { adapts(4, 3, 0.3); }
static void adapts_middling(void) { adapts(30, 40, 0.3); }
static void adapts_large(void) { adapts(60, 200, 0.3); }
static void adapts_alone(void) {
    unimem_set_threads(1);
    adapts(60, 200, 0.3);
}

static void *on_paint(void *run) {
    void (*function)(void);
    memcpy(&function, run, sizeof function);
    function();
    return NULL;
}
/* Runs a case on a painted stack. Returns how much of the paint is gone. */
static size_t measured(const void *run) {
    unsigned char *stack = table_new(STACK);
    pthread_attr_t attributes;
    pthread_t thread;
    memset(stack, PAINT, STACK);
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, stack, STACK);
    if (pthread_create(&thread, &attributes, on_paint, (void *)(uintptr_t)run) != 0) return STACK;
    pthread_join(thread, NULL);
    size_t clean = 0;
    while (clean < STACK && stack[clean] == PAINT) clean++;
    return STACK - clean;
}

static const struct {
    const char *name, *debug;
    void (*run)(void);
} cases[] = {
    {"nothing", NULL, nothing},
    {"instances", NULL, instances},
    {"reports and recordings", NULL, reports},
    {"debug mode", "all", damage},
    {"chunks", NULL, chunks},
    {"fork", NULL, forks},
    {"pools", NULL, pools},
    {"systems", NULL, systems},
    {"trees", NULL, trees},
    {"large trees", NULL, large_trees},
    {"large trees, one thread", NULL, one_thread},
    {"tiered trees", NULL, tiered_trees},
    {"small trees are adapted", NULL, adapts_small},
    {"trees are adapted", NULL, adapts_middling},
    {"large trees are adapted", NULL, adapts_large},
    {"large trees are adapted by one thread", NULL, adapts_alone},
};
/* Runs a case in a process of its own, since debug mode is switched on when the library is loaded. */
static int run_case(const char *program, size_t number, size_t *used) {
    int ends[2];
    if (pipe(ends) != 0) abort();
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        char text[2][32];
        snprintf(text[0], sizeof text[0], "%zu", number), snprintf(text[1], sizeof text[1], "%d", ends[1]);
        if (cases[number].debug) setenv("UNIMEM_DEBUG", cases[number].debug, 1);
        execl(program, program, text[0], text[1], (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    if (read(ends[0], used, sizeof *used) != sizeof *used) *used = STACK;
    close(ends[0]);
    return child_result(child);
}
int main(int count, char **arguments) {
    if (count == 3) {
        size_t used = measured(&cases[strtoul(arguments[1], NULL, 10)].run);
        return write(atoi(arguments[2]), &used, sizeof used) != sizeof used || tap.misses != 0;
    }
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t used = 0;
        TEST(cases[i].name) {
            int result = run_case(arguments[0], i, &used);
            EXPECT(result == 0, "the child: %d", result);
            EXPECT(used < MOST, "%zu bytes of stack, at most %d are said", used, (int)MOST);
        }
        printf("# %s: %zu bytes\n", cases[i].name, used);
    }
    return tap_done();
}
