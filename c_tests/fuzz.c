/* fuzz.c - random inputs: sequences of calls compared with a model, wild pointers, arbitrary configurations,
 * malformed tensor networks. Every batch runs in a child, so that a crash or a hang is reported with its seed.
 *
 *   fuzz [SECONDS [SEED]]        default 4 seconds, seed 1: what `make test` runs; `make fuzz SECONDS=n` takes another seed
 *   fuzz replay TARGET SEED [N]  N inputs (1) up to this seed in this process, for a debugger */
#define _GNU_SOURCE
#include "unimem/memory_pool.h"
#include "unimem/memory_singleton.h"
#include "unimem/tree_tensor_network.h"

#include "support.h"

#include <float.h>
#include <math.h>

static random_t dice;
static size_t below(size_t limit) { return random_below(&dice, limit); }
static bool one_in(size_t n) { return below(n) == 0; }

/* ---- sequences of calls beside a model ---- */
enum { SLOTS = 48, SHOWN = 300 };
typedef struct {
    unsigned char *start;
    size_t size, owners;
    uint64_t tag;
    bool tiered;
} slot_t;
static slot_t slots[SLOTS];
static unified_memory_interface_t *memory;
static size_t foreign_bytes;

static void write_slot(slot_t *slot) {
    slot->tag = random_next(&dice);
    pattern_fill(slot->start, 0, slot->size < SHOWN ? slot->size : SHOWN, slot->tag);
    if (slot->size > SHOWN) slot->start[slot->size - 1] = (unsigned char)slot->tag;
}
static bool slot_holds(const slot_t *slot) {
    return pattern_holds(slot->start, 0, slot->size < SHOWN ? slot->size : SHOWN, slot->tag) &&
           (slot->size <= SHOWN || slot->start[slot->size - 1] == (unsigned char)slot->tag);
}
static void make_slot(slot_t *slot) {
    size_t dimensions[4] = {1 + below(30), 1 + below(30), 1 + below(30), 0};
    *slot = (slot_t){.size = random_size(&dice, 0, one_in(8) ? 22 : 13), .owners = 1};
    switch (below(6)) {
    case 0: slot->start = memory->allocate(slot->size, (size_t)1 << below(13)); break;
    case 1:
        slot->size = dimensions[0] * dimensions[1] * dimensions[2] * 8;
        slot->start = memory->allocate_geometric(dimensions, 3);
        break;
    case 2:
        slot->start = memory->allocate_streaming(slot->size, one_in(2) ? 0 : 4096 << below(5));
        slot->tiered = true;
        break;
    case 3:
        slot->start = memory->allocate_hierarchical(slot->size, 0);
        slot->tiered = true;
        break;
    default: slot->start = memory->allocate(slot->size, 0);
    }
    if (!slot->start) {
        EXPECT(unimem_last_error() == UNIMEM_ERROR_OUT_OF_MEMORY || unimem_last_error() == UNIMEM_ERROR_LIMIT,
               "%zu bytes: error %d, %s", slot->size, (int)unimem_last_error(), unimem_last_error_message());
        return;
    }
    if (slot->tiered) EXPECT(all_zero(slot->start, slot->size), "tiered memory is not zero");
    write_slot(slot);
}
static void free_slot(slot_t *slot) {
    EXPECT(slot_holds(slot), "%zu bytes at %p changed", slot->size, (void *)slot->start);
    void *start = slot->start;
    memory->free(start);
    if (--slot->owners > 0) return;
    slot->start = NULL;
    size_t refused = unimem_refused_frees(memory);
    memory->free(opaque(start));
    EXPECT(unimem_refused_frees(memory) == refused + 1, "a second free of %p was taken", start);
}
static void resize_slot(slot_t *slot) {
    size_t size = one_in(10) ? slot->size : random_size(&dice, 0, one_in(6) ? 22 : 13);
    unsigned char *moved = memory->realloc(slot->start, size);
    if (slot->owners > 1 && !moved) return; /* shared blocks may refuse to move */
    if (!moved) {
        EXPECT(unimem_last_error() == UNIMEM_ERROR_OUT_OF_MEMORY, "realloc to %zu: %s", size, unimem_last_error_message());
        EXPECT(slot_holds(slot), "a realloc that failed changed the block");
        return;
    }
    size_t kept = size < slot->size ? size : slot->size;
    EXPECT(pattern_holds(moved, 0, kept < SHOWN ? kept : SHOWN, slot->tag), "realloc from %zu to %zu", slot->size, size);
    slot->start = moved, slot->size = size;
    write_slot(slot);
}
static void look_at_slot(slot_t *slot) {
    size_t index;
    EXPECT(unimem_usable_size(slot->start) == slot->size, "usable size %zu of %zu", unimem_usable_size(slot->start), slot->size);
    EXPECT(unimem_owns(slot->start + below(slot->size)), "an inner address is not owned");
    EXPECT(unimem_reference_count(slot->start) == slot->owners, "%zu owners", unimem_reference_count(slot->start));
    if (slot->size > 1) {
        size_t refused = unimem_refused_frees(memory);
        memory->free(slot->start + 1 + below(slot->size - 1));
        EXPECT(unimem_refused_frees(memory) == refused + 1, "an inner pointer was freed");
    }
    if (!slot->tiered || !unimem_chunk_count(slot->start)) return;
    switch (below(3)) {
    case 0: unimem_advise(slot->start, (unimem_advice_t)below(4)); break;
    case 1: unimem_chunk_prefetch(slot->start, 0, unimem_chunk_count(slot->start)); break;
    default:
        index = below(unimem_chunk_count(slot->start));
        if (unimem_chunk_acquire(slot->start, index, UNIMEM_WRITE))
            EXPECT(unimem_chunk_release(slot->start, index), "release of chunk %zu", index);
    }
}
static void calls(void) {
    /* Tighter ones: see docs/reliability.md, what is known not to hold. */
    size_t limit = one_in(2) ? 0 : (size_t)1 << (20 + below(8));
    memory = unimem_open(&(unified_pool_config_t){.initial_size = one_in(4) ? MIB : 0, .max_size = limit, .enable_growth = true,
                                                  .enable_streaming = true, .chunk_size = one_in(2) ? 0 : 4096 << below(5),
                                                  .use_geometric_layout = one_in(4)});
    if (!EXPECT(memory, "no instance: %s", unimem_last_error_message())) return;
    memset(slots, 0, sizeof slots);
    foreign_bytes = 0;
    for (size_t step = 0; step < 150; step++) {
        slot_t *slot = &slots[below(SLOTS)];
        if (!slot->start) {
            make_slot(slot);
        } else {
            switch (below(7)) {
            case 0: case 1: free_slot(slot); break;
            case 2: resize_slot(slot); break;
            case 3: slot->owners += unimem_retain(slot->start); break;
            case 4: write_slot(slot); break;
            default: look_at_slot(slot);
            }
        }
        if (one_in(20)) unimem_trim(memory);
        if (one_in(20)) {
            size_t size = 1 + below(1000);
            EXPECT(memory->track_allocation(&slots[step % SLOTS], size), "tracking");
            EXPECT(memory->untrack_allocation(&slots[step % SLOTS]), "untracking");
        }
        size_t live = 0;
        for (size_t i = 0; i < SLOTS; i++) live += slots[i].start ? slots[i].size : 0;
        EXPECT(stats_of(memory).total_allocated == live, "%zu bytes live, expected %zu", stats_of(memory).total_allocated, live);
        EXPECT(limit == 0 || unimem_held_bytes(memory) <= limit, "%zu bytes held of %zu", unimem_held_bytes(memory), limit);
        if (tap.misses) break;
    }
    for (size_t i = 0; i < SLOTS; i++)
        while (slots[i].start) free_slot(&slots[i]);
    EXPECT(unimem_close(memory), "something was live at close");
}

/* ---- wild pointers to everything that takes one ---- */
static void *wild(unsigned char *const *live, size_t count) {
    uint64_t bits = random_next(&dice);
    unsigned char *block = live[below(count)];
    switch (below(8)) {
    case 0: return (void *)(uintptr_t)bits;
    case 1: return (void *)(uintptr_t)(bits & 0x7FFFFFFFFFFF);
    case 2: return (void *)((uintptr_t)1 << below(64));
    case 3: return block + 1 + below(200);
    case 4: return block - 1 - below(5000);
    case 5: return (unsigned char *)opaque(&bits) + below(64); /* the stack */
    case 6: return (void *)((uintptr_t)block ^ (uintptr_t)1 << below(48));
    default: return (void *)(((uintptr_t)block & ~(uintptr_t)0xFFFF) + 64 * below(2000));
    }
}
static bool is_live(const void *pointer, unsigned char *const *live, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (live[i] == pointer) return true;
    return false;
}
static void pointers(void) {
    enum { LIVE = 24 };
    static unsigned char *live[LIVE];
    static unified_memory_interface_t *table;
    static MemoryPool *pool;
    static advanced_memory_system_t *system;
    if (!table) {
        table = unimem_open(&(unified_pool_config_t){.max_size = 8 * MIB, .enable_growth = true, .enable_streaming = true});
        pool = create_memory_pool(&(PoolConfig){.enable_stats = true, .thread_cache_size = 64});
        system = create_memory_system(&(memory_system_config_t){0});
        for (size_t i = 0; i < LIVE; i++) {
            size_t size = random_size(&dice, 6, 16);
            live[i] = i % 4 == 0   ? pool_allocate(pool, size)
                      : i % 4 == 1 ? memory_allocate(system, size, 0)
                      : i % 4 == 2 ? table->allocate_streaming(100000, 8192)
                                   : table->allocate(size, 0);
            if (EXPECT(live[i], "no block")) pattern_fill(live[i], 0, 40, i);
        }
    }
    memory_stats_t before = stats_of(table), after;
    size_t in_pool = get_total_allocated(pool);
    for (size_t n = 0; n < 40; n++) {
        void *p = wild(live, LIVE);
        unimem_layout_t layout;
        unimem_residency_t residency;
        block_info_t info;
        if (is_live(p, live, LIVE) || p == pool || p == system || p == table) continue;
        table->free(p);
        pool_free(pool, p);
        memory_free(system, p);
        advanced_pool_free(system, p, p);
        safe_memory_free(system, p);
        EXPECT(!table->realloc(p, 100) || p == NULL, "realloc of %p", p);
        EXPECT(!memory_reallocate(system, p, 100) || p == NULL, "memory_reallocate of %p", p);
        EXPECT(unimem_usable_size(p) == 0, "%p has a usable size", p);
        EXPECT(!unimem_retain(p) && unimem_reference_count(p) == 0, "%p can be retained", p);
        unimem_owns(p);
        EXPECT(!unimem_layout(p, &layout), "%p has a layout", p);
        EXPECT(unimem_chunk_size(p) == 0 && unimem_chunk_count(p) == 0, "%p has chunks", p);
        EXPECT(!unimem_chunk_acquire(p, 0, UNIMEM_READ) && !unimem_chunk_release(p, 0) && !unimem_chunk_prefetch(p, 0, 1), "%p", p);
        EXPECT(!unimem_advise(p, UNIMEM_DONT_NEED) && !unimem_residency(p, &residency), "%p takes advice", p);
        EXPECT(!table->untrack_allocation(p), "%p was tracked", p);
        EXPECT(!is_memory_block_tracked(p) || p == NULL, "%p is tracked", p);
        untrack_memory_block(p);
        get_block_info(system, p, &info);
        validate_memory_block(system, p);
        check_memory_corruption(system, p);
        EXPECT(get_allocation_size(system, p) == 0, "%p has a size", p);
        EXPECT(!unimem_close(p) && unimem_trim(p) == 0 && unimem_held_bytes(p) == 0 && unimem_refused_frees(p) == 0 &&
                   !unimem_can_allocate(p, 1) && unimem_report_leaks(p, NULL, NULL) == 0,
               "%p is an interface", p);
        unimem_reset_stats(p);
        EXPECT(!unimem_pool_interface(p) && !unimem_system_interface(p), "%p is a pool", p);
        destroy_tree_tensor_network(p);
        destroy_tensor_stream(p);
        EXPECT(!stream_next_chunk(p) && !optimize_tree_structure(p) && !adapt_bond_dimensions(p, 0.1), "%p is a network", p);
    }
    after = stats_of(table);
    EXPECT(same_totals(before, after) && get_total_allocated(pool) == in_pool, "the totals changed");
    for (size_t i = 0; i < LIVE; i++) EXPECT(pattern_holds(live[i], 0, 40, i), "block %zu changed", i);
}

/* ---- arbitrary configurations ---- */
static size_t any_size(void) {
    static const size_t odd[] = {0, 1, 7, 63, 64, 65, 4095, 4096, 4097, SIZE_MAX, SIZE_MAX - 1, SIZE_MAX / 2, (size_t)1 << 63, (size_t)1 << 47};
    return one_in(2) ? odd[below(sizeof odd / sizeof odd[0])] : random_size(&dice, 0, 34);
}
static double any_double(void) {
    static const double odd[] = {0.0, -0.0, 1.0, -1.0, 1e-300, 1e300, DBL_MAX, DBL_MIN, INFINITY, -INFINITY, NAN, 1e-5};
    return odd[below(sizeof odd / sizeof odd[0])];
}
static void any_bytes(void *object, size_t size) {
    for (size_t i = 0; i < size; i++) ((unsigned char *)object)[i] = (unsigned char)random_next(&dice);
}
static void use_and_close(unified_memory_interface_t *table) {
    if (!table) {
        EXPECT(*unimem_last_error_message(), "a refusal without a message");
        return;
    }
    size_t dimensions[5] = {any_size(), any_size(), any_size(), any_size(), any_size()};
    void *blocks[] = {table->allocate(1 + below(100000), 0),           table->allocate(any_size() & 0xFFFFFFF, any_size()),
                      table->allocate_geometric(dimensions, below(6)), table->allocate_streaming(any_size(), any_size()),
                      table->allocate_hierarchical(any_size() & 0xFFFFFF, any_double()),
                      unimem_allocate_tensor(table, dimensions, below(6), any_size())};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        if (blocks[i] && unimem_usable_size(blocks[i]) < 64 * KIB && i != 2) memset(blocks[i], 1, unimem_usable_size(blocks[i]));
        table->free(blocks[i]);
    }
    EXPECT(stats_of(table).total_allocated == 0, "%zu bytes live", stats_of(table).total_allocated);
    EXPECT(unimem_close(table), "something was live at close");
}
static void configurations(void) {
    unified_pool_config_t config;
    any_bytes(&config, sizeof config);
    if (!one_in(4))
        config = (unified_pool_config_t){.initial_size = any_size() & 0xFFFFFFF, .max_size = any_size(), .enable_growth = one_in(2),
                                         .use_geometric_layout = one_in(2), .enable_streaming = one_in(2),
                                         .chunk_size = any_size(), .compression_tolerance = any_double()};
    use_and_close(unimem_open(&config));

    PoolConfig pool_config;
    any_bytes(&pool_config, sizeof pool_config);
    if (one_in(2)) pool_config.alignment = (size_t)1 << below(20);
    MemoryPool *pool = create_memory_pool(&pool_config);
    if (pool) pool_free(pool, pool_allocate(pool, 1 + below(1 << 16)));
    destroy_memory_pool(pool);

    memory_system_config_t system_config;
    any_bytes(&system_config, sizeof system_config);
    advanced_memory_system_t *system = create_memory_system(&system_config);
    if (system) {
        memory_free(system, memory_allocate(system, any_size() & 0xFFFFFF, any_size() & 0xFFFF));
        pool_config_t own;
        any_bytes(&own, sizeof own);
        void *of_system = ams_create_memory_pool(system, &own);
        if (of_system) {
            size_t dimensions[16];
            for (size_t i = 0; i < 16; i++) dimensions[i] = one_in(4) ? any_size() : 1 + below(3);
            ams_pool_free(system, of_system, ams_pool_allocate(system, of_system, any_size() & 0xFFFFF));
            create_memory_layout(of_system, dimensions, below(20), (geometric_state_type_t)below(100));
            create_memory_buffer(of_system, any_size() & 0xFFFFF, one_in(2), one_in(2), (HardwareType)below(100));
            ams_destroy_memory_pool(system, of_system);
        }
        defrag_config_t defrag;
        any_bytes(&defrag, sizeof defrag);
        start_defragmentation(system, &defrag);
        optimize_memory_usage(system, (optimization_level_t)below(100));
        optimize_allocation_strategy(system, (allocation_strategy_t)below(100));
        optimize_pool_configuration(system, of_system, &own);
        destroy_memory_system(system);
    }
    tree_tensor_network_t *ttn = create_tree_tensor_network(any_size(), any_size(), any_double());
    if (ttn) {
        /* Either far too large, or small: anything between is memory that the system may really have. */
        size_t dimensions[2] = {one_in(2) ? SIZE_MAX >> below(20) : below(300), below(300)};
        tree_tensor_node_t *node = add_tree_tensor_node(ttn, NULL, dimensions, below(3), one_in(2));
        if (node) create_tensor_stream(ttn, node, any_size());
        adapt_bond_dimensions(ttn, any_double());
        destroy_tree_tensor_network(ttn);
    }
}

/* ---- malformed networks ---- */
static void networks(void) {
    enum { NODES = 6, AXES = 4, LINKS = 6 };
    static ComplexFloat elements[4096];
    static tensor_node_t nodes[NODES];
    static size_t dimensions[NODES][AXES], ends[NODES][LINKS], axes[NODES][LINKS];
    tensor_node_t *list[NODES];
    size_t count = below(NODES + 1);
    bool sound = one_in(2); /* numbers that could be right, wrongly put together */
    for (size_t i = 0; i < count; i++) {
        size_t total = 1;
        nodes[i] = (tensor_node_t){.data = one_in(30) ? NULL : elements, .dimensions = dimensions[i], .connected_nodes = ends[i],
                                   .connected_dims = axes[i], .num_dimensions = below(AXES + 1), .id = sound ? i : below(NODES + 2),
                                   .num_connections = below(LINKS), .is_valid = !one_in(10)};
        for (size_t k = 0; k < nodes[i].num_dimensions; k++)
            total *= dimensions[i][k] = sound ? 2 : one_in(6) ? SIZE_MAX >> below(3) : 1 + below(4);
        nodes[i].total_size = one_in(10) ? any_size() : total;
        nodes[i].rank = one_in(10) ? any_size() : nodes[i].num_dimensions;
        for (size_t k = 0; k < LINKS; k++) ends[i][k] = one_in(12) ? any_size() : below(count + 1), axes[i][k] = one_in(12) ? any_size() : below(AXES);
        if (one_in(40)) nodes[i].dimensions = NULL;
        if (one_in(40)) nodes[i].connected_nodes = NULL;
        list[i] = one_in(20) ? NULL : &nodes[i];
    }
    /* Some with every link on both sides: trees and cycles that convert. */
    for (size_t i = 1; sound && i < count; i++) {
        size_t other = below(i), a = nodes[i].num_connections % LINKS, b = nodes[other].num_connections % LINKS;
        ends[i][a] = other, ends[other][b] = i;
        nodes[i].num_connections = a + 1, nodes[other].num_connections = b + 1;
    }
    tensor_network_t network = {.nodes = one_in(30) ? NULL : list, .num_nodes = count, .capacity = NODES};
    tree_tensor_network_t *tree = NULL;
    size_t before = stats_of(unimem_global()).total_allocated;
    if (convert_tensor_network_to_tree(&network, &tree)) {
        ComplexFloat *result = NULL;
        size_t sizes[64], number = 64;
        if (contract_full_tree_network(tree, &result, sizes, &number)) free(result);
    } else {
        EXPECT(tree == NULL && *unimem_last_error_message(), "a refusal that made something, or says nothing");
        EXPECT(unimem_last_error() != UNIMEM_ERROR_INTERNAL, "%s", unimem_last_error_message());
    }
    destroy_tree_tensor_network(tree);
    EXPECT(stats_of(unimem_global()).total_allocated == before, "a leak");
}

/* ---- running them ---- */
static const struct {
    const char *name;
    void (*run)(void);
    size_t batch;
} targets[] = {
    {"calls", calls, 50}, {"pointers", pointers, 200}, {"configurations", configurations, 50}, {"networks", networks, 500}};

static struct { uint64_t seed; size_t done; } *told;
typedef struct { size_t target; uint64_t seed; } batch_t;

static int run_batch(void *argument) {
    batch_t *batch = argument;
    for (size_t i = 0; i < targets[batch->target].batch; i++) {
        told->seed = batch->seed + i;
        dice.state = told->seed * 0x9E3779B97F4A7C15u;
        targets[batch->target].run();
        if (tap.misses) return 1;
        told->done++;
    }
    return 0;
}
int main(int count, char **arguments) {
    told = mmap(NULL, sizeof *told, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (count >= 4 && strcmp(arguments[1], "replay") == 0) {
        for (size_t t = 0; t < sizeof targets / sizeof targets[0]; t++) {
            if (strcmp(targets[t].name, arguments[2]) != 0) continue;
            uint64_t last = strtoull(arguments[3], NULL, 10), inputs = count > 4 ? strtoull(arguments[4], NULL, 10) : 1;
            for (uint64_t seed = last + 1 - inputs; seed <= last; seed++) {
                dice.state = seed * 0x9E3779B97F4A7C15u;
                targets[t].run();
            }
        }
        return tap.misses != 0;
    }
    double seconds = count > 1 ? strtod(arguments[1], NULL) : 4;
    uint64_t seed = count > 2 ? strtoull(arguments[2], NULL, 10) : 1;
    for (size_t t = 0; t < sizeof targets / sizeof targets[0]; t++) {
        char name[100];
        snprintf(name, sizeof name, "%s: random inputs do no harm", targets[t].name);
        TEST(name) {
            told->done = 0;
            size_t found = 0;
            batch_t batch = {t, seed << 32};
            for (double end = seconds_now() + seconds / 4; seconds_now() < end && found < 5; batch.seed += targets[t].batch) {
                int result = run_in_child(run_batch, &batch, 60);
                found += !EXPECT(result == 0, "%s: result %d; replay %s %llu", targets[t].name, result, targets[t].name,
                                 (unsigned long long)told->seed);
            }
            printf("# %s: %zu inputs\n", targets[t].name, told->done);
            EXPECT(told->done > 0 || found > 0, "nothing was tried");
        }
    }
    return tap_done();
}
