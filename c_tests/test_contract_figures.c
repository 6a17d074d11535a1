/* test_contract_figures.c - any sequence of calls leaves the figures, the leaks, the owners and the tracked places that a
 * program counts beside it: plain blocks, tensors, and tiered memory from one byte to several chunks, through the interfaces of
 * an instance, a pool and a system. On every fault mechanism (tiers.h). */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/memory_pool.h"
#include "unimem/memory_singleton.h"

#include "tiers.h"

enum { BLOCKS = 200, PLACES = 60, FOREIGN = 64 };
typedef enum { PLAIN, TENSOR, STREAMING, HIERARCHICAL, KINDS } kind_t;
typedef struct {
    char *start;
    size_t size, owners, filled, alignment;
    uint64_t tag;
    kind_t kind;
} block_t;
/* A place in a block, tracked through the instance or the singleton; free where `block` is NULL. */
typedef struct {
    block_t *block;
    size_t offset;
    bool through_instance;
} place_t;

static unified_memory_interface_t *memory;
/* The functions of the pool or system that the interface is of, which do the same. */
static struct {
    void *(*allocate)(size_t size);
    void (*free)(void *block);
} legacy;
static block_t blocks[BLOCKS];
static place_t places[PLACES];
static size_t foreign_sizes[FOREIGN]; /* plus one; 0: not tracked */
static char foreign[FOREIGN];
/* As the program counts them. */
static struct {
    size_t live, peak, allocations, frees, largest, refused;
} counted;

static void count_live(size_t fewer, size_t more)
{
    counted.live += more - fewer;
    if (counted.live > counted.peak) counted.peak = counted.live;
}
static void count_request(size_t size)
{
    if (size > counted.largest) counted.largest = size;
}
static void check_figures(const char *after)
{
    memory_stats_t stats = stats_of(memory);
    EXPECT(stats.total_allocated == counted.live && stats.peak_allocated == counted.peak, "%s: %zu bytes live, at most %zu; expected %zu, %zu", after,
           stats.total_allocated, stats.peak_allocated, counted.live, counted.peak);
    EXPECT(stats.num_allocations == counted.allocations && stats.num_frees == counted.frees && stats.cache_hits + stats.cache_misses == counted.allocations,
           "%s: %zu allocations, %zu frees, %zu and %zu hits and misses; expected %zu, %zu", after, stats.num_allocations, stats.num_frees, stats.cache_hits,
           stats.cache_misses, counted.allocations, counted.frees);
    EXPECT(stats.largest_allocation == counted.largest && unimem_refused_frees(memory) == counted.refused && stats.fragmentation <= 100,
           "%s: the largest has %zu bytes, %zu frees were refused; expected %zu, %zu", after, stats.largest_allocation, unimem_refused_frees(memory),
           counted.largest, counted.refused);
}

/* Kept by the leak callback: how many of the blocks that it was told of the program knows. */
static size_t known;
static void look_up(const unimem_leak_t *leak, void *unused)
{
    (void)unused;
    for (size_t i = 0; i < FOREIGN; i++)
        known += leak->foreign && leak->address == &foreign[i] && leak->size + 1 == foreign_sizes[i] && leak->references == 1;
    for (size_t i = 0; i < BLOCKS; i++)
        known += !leak->foreign && leak->address == blocks[i].start && leak->size == blocks[i].size && leak->references == blocks[i].owners;
}
static void check_leaks(void)
{
    size_t there = 0;
    for (size_t i = 0; i < FOREIGN; i++) there += foreign_sizes[i] != 0;
    for (size_t i = 0; i < BLOCKS; i++) there += blocks[i].start != NULL;
    known = 0;
    size_t told = unimem_report_leaks(memory, look_up, NULL);
    EXPECT(told == there && known == there, "%zu leaks are told, and %zu of them are as they should be, of %zu", told, known, there);
}

static bool is_tracked(const place_t *place, void *at)
{
    if (!place->through_instance) return is_memory_block_tracked(at);
    bool tracked = memory->untrack_allocation(at);
    if (tracked) memory->track_allocation(at, 1);
    return tracked;
}
/* After a block went or moved: what was tracked in its first `size` bytes is tracked where it is now, and nothing else. */
static void follow_places(block_t *block, char *before, size_t size)
{
    for (place_t *place = places; place < places + PLACES; place++) {
        if (place->block != block) continue;
        bool stays = place->offset < size;
        if (block->start != before || !stays) EXPECT(!is_tracked(place, before + place->offset), "byte %zu of what was there is tracked", place->offset);
        if (stays) EXPECT(is_tracked(place, block->start + place->offset), "byte %zu is tracked no more", place->offset);
        else place->block = NULL;
    }
}
static void track_place(random_t *random, block_t *block)
{
    place_t *place = &places[random_below(random, PLACES)], other = {block, random_below(random, 3) ? random_below(random, block->size) : 0, random_below(random, 2)};
    if (place->block) { /* it is untracked first, once; unless another place of the table is the same */
        place_t old = *place;
        place->block = NULL;
        for (place_t *same = places; same < places + PLACES; same++)
            if (same->block == old.block && same->offset == old.offset && same->through_instance == old.through_instance) same->block = NULL;
        bool (*untrack)(void *) = old.through_instance ? memory->untrack_allocation : untrack_memory_block;
        EXPECT(untrack(old.block->start + old.offset) && !untrack(old.block->start + old.offset), "byte %zu was tracked once", old.offset);
    }
    char *at = block->start + other.offset;
    bool done = other.through_instance ? memory->track_allocation(at, random_below(random, 1000)) : track_memory_block(at);
    EXPECT(done && is_tracked(&other, at), "byte %zu of %zu: %s", other.offset, block->size, unimem_last_error_message());
    *place = other;
}

static bool holds(const block_t *block, size_t size)
{
    unimem_layout_t layout;
    if (unimem_layout(block->start, &layout) != (block->kind == TENSOR) || (block->kind == TENSOR && layout.size != block->size)) return false;
    if (!is_aligned(block->start, block->alignment)) return false;
    if (!pattern_holds(block->start, 0, size < block->filled ? size : block->filled, block->tag)) return false;
    return block->kind < STREAMING || size <= block->filled || all_zero(block->start + block->filled, size - block->filled);
}
static void allocate(random_t *random, block_t *block)
{
    size_t size = random_size(random, 0, 17), dimensions[] = {1 + size / 64, 1 + random_below(random, 7)}, chunks[] = {0, 1, 4096, 20000, 64 * KIB};
    *block = (block_t){NULL, size, 1, 0, 64, random_next(random), (kind_t)random_below(random, KINDS)};
    switch (block->kind) {
    case PLAIN:
        if (legacy.allocate && random_below(random, 2)) block->start = legacy.allocate(size);
        else block->start = memory->allocate(size, block->alignment = (size_t)1 << random_below(random, 14));
        break;
    case TENSOR:
        block->size = dimensions[0] * dimensions[1] * 8;
        block->start = memory->allocate_geometric(dimensions, 2);
        break;
    case STREAMING: block->start = memory->allocate_streaming(size, chunks[random_below(random, 5)]); break;
    default: block->start = memory->allocate_hierarchical(size, 0);
    }
    if (!EXPECT(block->start, "kind %d of %zu bytes: %s", (int)block->kind, size, unimem_last_error_message())) return;
    counted.allocations++;
    count_request(block->size);
    count_live(0, block->size);
    EXPECT(holds(block, block->size), "it does not begin with zeros, or is not aligned");
}
static void free_one(block_t *block, bool by_realloc)
{
    char *before = block->start;
    if (by_realloc) EXPECT(!memory->realloc(block->start, 0), "realloc to 0 bytes returned something");
    else if (legacy.free && block->tag % 2) legacy.free(block->start);
    else memory->free(block->start);
    if (--block->owners > 0) return;
    counted.frees++;
    count_live(block->size, 0);
    block->start = NULL;
    follow_places(block, before, 0);
    EXPECT(!unimem_owns(before) && unimem_usable_size(before) == 0 && unimem_reference_count(before) == 0, "it is still owned");
}
static void resize(random_t *random, block_t *block)
{
    size_t size = random_below(random, 2) ? random_size(random, 0, 17) : 1 + random_below(random, 2 * block->size);
    char *before = block->start, *moved = memory->realloc(before, size);
    /* Shared memory need not grow, nor need memory in place for good. */
    bool may_fail = (block->owners > 1 || (block->kind >= STREAMING && !serves_touches())) && size > block->size;
    if (!moved) {
        EXPECT(may_fail, "from %zu to %zu bytes: %s", block->size, size, unimem_last_error_message());
        return;
    }
    EXPECT(block->owners == 1 || moved == before, "memory with %zu owners moved", block->owners);
    count_live(block->size, size);
    count_request(size);
    block->start = moved;
    block->size = size;
    if (block->filled > size) block->filled = size;
    if (block->kind == TENSOR) block->kind = PLAIN;
    follow_places(block, before, size);
    EXPECT(holds(block, size), "contents or alignment are lost, or a layout stays: from %zu filled bytes to %zu", block->filled, size);
}
static void call_wrongly(random_t *random, block_t *block)
{
    static char *freed;
    size_t too_many[] = {SIZE_MAX / 2, SIZE_MAX / 2};
    char *wrong[] = {foreign + 1, block->start + 1 + random_below(random, block->size), (char *)8, freed}, *pointer = wrong[random_below(random, 4)];
    bool live = false;
    for (size_t i = 0; i < BLOCKS; i++) live |= blocks[i].start == pointer;
    switch (random_below(random, 8)) {
    case 0: EXPECT(!memory->allocate(0, 0) && !memory->allocate(SIZE_MAX, 0) && !memory->allocate(8, 24), "it was allocated"); break;
    case 1: EXPECT(!memory->allocate_geometric(too_many, 2) && !memory->allocate_geometric(too_many, 0), "it was allocated"); break;
    case 2: EXPECT(!memory->allocate_streaming(0, 0) && !memory->allocate_streaming(SIZE_MAX, 0), "it was allocated"); break;
    case 3: EXPECT(!memory->allocate_hierarchical(0, 0) && !memory->allocate_hierarchical(8, -1.0 / 0.0), "it was allocated"); break;
    case 4: EXPECT(!memory->realloc(block->start, SIZE_MAX) && !memory->realloc(block->start, SIZE_MAX / 2), "it was reallocated"); break;
    case 5: EXPECT(!memory->track_allocation(NULL, 1) && !memory->track_allocation(foreign, SIZE_MAX), "it was tracked"); break;
    default:
        if (!pointer || live) break;
        memory->free(opaque(pointer));
        counted.refused++;
    }
    EXPECT(unimem_usable_size(block->start) == block->size && unimem_reference_count(block->start) == block->owners, "a wrong call changed a block");
    freed = blocks[0].start;
}

static void use(random_t *random)
{
    static const char *names[] = {"giving up", "realloc to 0", "realloc", "retaining", "tracking", "a foreign block", "filling", "advice", "a wrong call", "a reset"};
    block_t *block = &blocks[random_below(random, BLOCKS)];
    if (!block->start) {
        allocate(random, block);
        check_figures("allocating");
        return;
    }
    size_t what = random_below(random, 30), at = random_below(random, FOREIGN), size = random_below(random, 100000);
    EXPECT(holds(block, block->size), "contents, alignment or layout are lost: kind %d, %zu bytes", (int)block->kind, block->size);
    if (what >= 10) what = what < 14 ? 0 : what < 22 ? 2 : what < 26 ? 4 : 6;
    else if (what == 9 && random_below(random, 20)) return;
    switch (what) {
    case 0: free_one(block, false); break;
    case 1: free_one(block, true); break;
    case 2: resize(random, block); break;
    case 3:
        EXPECT(unimem_retain(block->start) && !unimem_retain(block->start + 1), "%s", unimem_last_error_message());
        block->owners++;
        break;
    case 4: track_place(random, block); break;
    case 5:
        if (foreign_sizes[at] && random_below(random, 2)) size = SIZE_MAX;
        EXPECT(size == SIZE_MAX ? memory->untrack_allocation(&foreign[at]) : memory->track_allocation(&foreign[at], size), "%s", unimem_last_error_message());
        count_live(foreign_sizes[at] ? foreign_sizes[at] - 1 : 0, size == SIZE_MAX ? 0 : size);
        foreign_sizes[at] = size + 1;
        break;
    case 6:
        pattern_fill(block->start, block->filled, block->size, block->tag);
        block->filled = block->size;
        break;
    case 7:
        EXPECT(unimem_advise(block->start, (unimem_advice_t)random_below(random, 4)) == (block->kind >= STREAMING), "kind %d", (int)block->kind);
        break;
    case 8: call_wrongly(random, block); break;
    default:
        unimem_reset_stats(memory);
        counted.peak = counted.live;
        counted.allocations = counted.frees = counted.largest = counted.refused = 0;
    }
    check_figures(names[what]);
}

static void use_all(uint64_t seed)
{
    random_t random = {seed};
    memset(&counted, 0, sizeof counted);
    for (size_t step = 0, steps = scaled(20000); step < steps; step++) {
        use(&random);
        if (step % 500 == 0) check_leaks();
    }
    for (block_t *block = blocks; block < blocks + BLOCKS; block++)
        while (block->start) free_one(block, false);
    for (size_t i = 0; i < FOREIGN; i++) {
        if (!foreign_sizes[i]) continue;
        EXPECT(memory->untrack_allocation(&foreign[i]), "%s", unimem_last_error_message());
        count_live(foreign_sizes[i] - 1, 0);
        foreign_sizes[i] = 0;
    }
    check_figures("the end");
    check_leaks();
    EXPECT(counted.live == 0, "%zu bytes are live", counted.live);
}

static MemoryPool *pool;
static void *of_pool(size_t size) { return pool_allocate(pool, size); }
static void to_pool(void *block) { pool_free(pool, block); }
static advanced_memory_system_t *memory_system;
static void *of_system(size_t size) { return memory_allocate(memory_system, size, 0); }
static void to_system(void *block) { memory_free(memory_system, block); }

static int run_all(void)
{
    pool = create_memory_pool(&(PoolConfig){.thread_cache_size = 32, .enable_stats = true});
    memory_system = create_memory_system(&(memory_system_config_t){0});
    TEST("an instance's figures are those of all calls so far") {
        /* Chunks come and go. Without faults memory has to fit, and then stays. */
        memory = open_with(serves_touches() ? 6 * MIB + held_back() : 0, 0);
        use_all(1);
        EXPECT(unimem_close(memory), "%s", unimem_last_error_message());
    }
    TEST("so are a pool's, and the pool tells the same") {
        memory = unimem_pool_interface(pool);
        legacy.allocate = of_pool, legacy.free = to_pool;
        use_all(2);
        EXPECT(get_peak_allocated(pool) == counted.peak && get_num_allocations(pool) == counted.allocations && get_total_allocated(pool) == 0,
               "%zu bytes at most, %zu allocations", get_peak_allocated(pool), get_num_allocations(pool));
    }
    TEST("and a system's") {
        memory = unimem_system_interface(memory_system);
        legacy.allocate = of_system, legacy.free = to_system;
        use_all(3);
    }
    destroy_memory_pool(pool);
    destroy_memory_system(memory_system);
    return tap_done();
}

int main(int count, char **arguments)
{
    spill_to_memory();
    return on_every_mechanism(count, arguments, run_all);
}
