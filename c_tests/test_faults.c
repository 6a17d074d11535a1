/* test_faults.c - hostile pointers. Whatever a program passes to free, realloc, retain or the questions about
 * blocks, nothing may crash, no total may change, and no live block may be harmed. This holds in release builds. */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/memory_pool.h"
#include "unimem/memory_singleton.h"

#include "systems.h"

enum { BLOCKS = 3000 };

static unified_memory_interface_t *memory;
static MemoryPool *pool;
static advanced_memory_system_t *memory_system;

/* The live blocks, sorted by address, to know which pointers are not hostile by chance. */
static struct {
    unsigned char *start;
    size_t size;
} blocks[BLOCKS];

static int by_address(const void *a, const void *b) {
    const unsigned char *x = *(unsigned char *const *)a, *y = *(unsigned char *const *)b;
    return (x > y) - (x < y);
}

static bool is_live_start(const void *pointer) {
    return bsearch(&pointer, blocks, BLOCKS, sizeof blocks[0], by_address) != NULL;
}

static memory_stats_t before;
static size_t pool_before, system_before;

static void remember_totals(void) {
    before = stats_of(memory);
    pool_before = get_total_allocated(pool);
    system_before = usage_of(memory_system);
}

static bool totals_hold(void) {
    return same_totals(before, stats_of(memory)) && get_total_allocated(pool) == pool_before && usage_of(memory_system) == system_before;
}

static bool contents_hold(void) {
    for (size_t i = 0; i < BLOCKS; i++)
        if (!pattern_holds(blocks[i].start, 0, blocks[i].size < 256 ? blocks[i].size : 256, (uintptr_t)blocks[i].start))
            return false;
    return true;
}

/* Everything that takes a pointer, given one that is not the start of a live block. */
static size_t attacks;
static void attack(uintptr_t address) {
    void *pointer = opaque((void *)address);
    if (!pointer || is_live_start(pointer)) return;
    attacks++;
    memory->free(pointer);
    EXPECT(memory->realloc(pointer, 100) == NULL, "realloc(%p, 100) gave a block", pointer);
    EXPECT(memory->realloc(pointer, 0) == NULL, "realloc(%p, 0) gave a block", pointer);
    pool_free(pool, pointer);
    memory_free(memory_system, pointer);
    safe_memory_free(memory_system, pointer);
    EXPECT(memory_reallocate(memory_system, pointer, 100) == NULL, "memory_reallocate(%p) gave a block", pointer);
    EXPECT(get_allocation_size(memory_system, pointer) == 0 && !check_memory_corruption(memory_system, pointer),
           "%p is known to the system", pointer);
    if (pointer == memory_system || pointer == pool || pointer == memory)
        return; /* live objects of the library may be owned */
    EXPECT(unimem_usable_size(pointer) == 0, "usable size of %p is %zu", pointer, unimem_usable_size(pointer));
    EXPECT(!unimem_retain(pointer), "%p was retained", pointer);
    EXPECT(unimem_reference_count(pointer) == 0, "%p has %zu references", pointer, unimem_reference_count(pointer));
    unimem_layout_t layout;
    EXPECT(!unimem_layout(pointer, &layout), "%p has a layout", pointer);
    EXPECT(!memory->untrack_allocation(pointer), "%p was tracked", pointer);
}

static void make_blocks(void) {
    random_t random = {17};
    for (size_t i = 0; i < BLOCKS; i++) {
        size_t size = i % 300 ? random_size(&random, 0, 16) : random_size(&random, 20, 23);
        unsigned char *block = i % 3 == 0   ? memory->allocate(size, 0)
                               : i % 3 == 1 ? pool_allocate(pool, size)
                                            : memory_allocate(memory_system, size, 64);
        if (!EXPECT(block != NULL, "block %zu of %zu bytes is NULL", i, size)) exit(tap_done());
        blocks[i].start = block;
        blocks[i].size = size;
        pattern_fill(block, 0, size < 256 ? size : 256, (uintptr_t)block);
    }
    qsort(blocks, BLOCKS, sizeof blocks[0], by_address);
    remember_totals();
}

static void test_offsets(void) {
    TEST("every offset from 1 to 64 into, and before, blocks of many classes") {
        for (size_t i = 0; i < BLOCKS; i += 7)
            for (size_t offset = 1; offset <= 64; offset++) {
                attack((uintptr_t)blocks[i].start + offset);
                attack((uintptr_t)blocks[i].start - offset);
            }
        EXPECT(totals_hold(), "a total changed");
    }
    TEST("the header before a pool's block, the middle, the end, and every page of large blocks") {
        for (size_t i = 0; i < BLOCKS; i++) {
            uintptr_t start = (uintptr_t)blocks[i].start;
            const size_t offsets[] = {
                blocks[i].size / 2, blocks[i].size - 1, blocks[i].size, blocks[i].size + 63, 128, 4096,
                (size_t)0 - 128,    (size_t)0 - 4096};
            for (size_t j = 0; j < sizeof offsets / sizeof offsets[0]; j++)
                if (offsets[j]) attack(start + offsets[j]);
            if (blocks[i].size >= MIB)
                for (size_t offset = 4096; offset < blocks[i].size; offset += 4096) attack(start + offset);
        }
        EXPECT(totals_hold(), "a total changed");
    }
    TEST("what metadata would lie at: starts of pages, spans, chunks and arenas around every block") {
        for (size_t i = 0; i < BLOCKS; i++)
            for (size_t unit = 256; unit <= GIB; unit *= 2) {
                uintptr_t floor = (uintptr_t)blocks[i].start & ~(uintptr_t)(unit - 1);
                const uintptr_t around[] = {floor, floor + 8, floor + 64, floor + 128, floor + unit, floor - 64};
                for (size_t j = 0; j < sizeof around / sizeof around[0]; j++) attack(around[j]);
            }
        EXPECT(totals_hold(), "a total changed");
    }
    CHECK("every block still has its contents", contents_hold());
}

static void test_random(void) {
    const size_t rounds = scaled(100000);
    random_t random = {12345};
    TEST("100,000 random 64-bit values") {
        for (size_t i = 0; i < rounds; i++) attack(random_next(&random));
        EXPECT(totals_hold(), "a total changed");
    }
    TEST("100,000 random user addresses, with few bits, and near live blocks") {
        for (size_t i = 0; i < rounds; i++) {
            attack(random_next(&random) >> 17);
            attack((random_next(&random) >> 17) & ~(uintptr_t)4095);
            attack((uintptr_t)1 << random_below(&random, 64));
            attack((uintptr_t)blocks[random_below(&random, BLOCKS)].start + 16 * (random_below(&random, 65536)) -
                   16 * 32768);
        }
        EXPECT(totals_hold(), "a total changed");
    }
    CHECK("every block still has its contents", contents_hold());
}

static void test_mappings(void) {
    enum { MOST_MAPPINGS = 4096 };
    static mapping_t mappings[MOST_MAPPINGS];
    const size_t count = list_mappings(mappings, MOST_MAPPINGS);
    printf("# %zu mappings\n", count);
    TEST("the edges, middles and random places of every mapping: code, heaps, stacks, metadata, kernel pages") {
        random_t random = {4};
        EXPECT(count > 0 && count <= MOST_MAPPINGS, "%zu mappings are known", count);
        for (size_t i = 0; i < count && i < MOST_MAPPINGS; i++) {
            uintptr_t size = mappings[i].to - mappings[i].from;
            for (uintptr_t offset = 0; offset <= 256; offset += 8) {
                attack(mappings[i].from + offset);
                attack(mappings[i].to - offset);
            }
            attack(mappings[i].from + size / 2);
            for (size_t j = 0; j < scaled(200); j++) attack(mappings[i].from + random_below(&random, size) / 16 * 16);
        }
        EXPECT(totals_hold(), "a total changed");
    }
    TEST("objects of the program and of the library") {
        attack((uintptr_t)memory);
        attack((uintptr_t)pool);
        attack((uintptr_t)memory_system);
        attack((uintptr_t)memory->allocate);
        attack((uintptr_t)&blocks);
        attack((uintptr_t)stdout);
        attack((uintptr_t)environ);
        attack((uintptr_t)unimem_version());
        attack((uintptr_t)unimem_last_error_message());
        EXPECT(totals_hold(), "a total changed");
    }
    CHECK("every block still has its contents", contents_hold());
}

static void test_freed(void) {
    TEST("blocks freed before, again and again, after all of their neighbours too") {
        enum { FREED = 2000 };
        static void *freed[FREED];
        random_t random = {6};
        for (size_t i = 0; i < FREED; i++)
            EXPECT((freed[i] = memory->allocate(random_size(&random, 0, i % 100 ? 14 : 22), 0)) != NULL, "block %zu is NULL", i);
        for (size_t i = 0; i < FREED; i++) memory->free(freed[i]);
        remember_totals();
        for (int round = 0; round < 3; round++) {
            for (size_t i = 0; i < FREED; i++) attack((uintptr_t)freed[i]);
            EXPECT(totals_hold(), "round %d: a total changed", round);
            unimem_trim(memory);
        }
    }
    TEST("blocks of a pool, a system's pool and an instance that are gone") {
        unified_memory_interface_t *gone = unimem_open(NULL);
        MemoryPool *gone_pool = create_memory_pool(&(PoolConfig){.enable_stats = true});
        void *gone_system_pool = ams_create_memory_pool(memory_system, &(pool_config_t){.enable_growth = true});
        void *old[40], *old_pool[40], *old_system[40];
        for (size_t i = 0; i < 40; i++) {
            old[i] = gone->allocate((size_t)10 << i % 20, 0);
            old_pool[i] = pool_allocate(gone_pool, (size_t)10 << i % 20);
            old_system[i] = ams_pool_allocate(memory_system, gone_system_pool, (size_t)10 << i % 20);
            EXPECT(old[i] && old_pool[i] && old_system[i], "block %zu is NULL", i);
        }
        unimem_close(gone);
        destroy_memory_pool(gone_pool);
        ams_destroy_memory_pool(memory_system, gone_system_pool);
        remember_totals();
        for (size_t i = 0; i < 40; i++) attack((uintptr_t)old[i]), attack((uintptr_t)old_pool[i]), attack((uintptr_t)old_system[i]);
        EXPECT(totals_hold(), "a total changed");
    }
    CHECK("every block still has its contents", contents_hold());
}

enum { RACERS = 2, RACED = 200, RACED_SIZE = 100, WITNESS = 1 << 20 };
static void *raced[RACED];
static pthread_barrier_t line;
static unified_memory_interface_t *of_races; /* of its own: what races do to totals is seen there alone */

static void *free_all_raced(void *number) {
    for (size_t round = 0; round < scaled(2000); round++) {
        if ((uintptr_t)number == 1)
            for (size_t i = 0; i < RACED; i++) raced[i] = of_races->allocate(RACED_SIZE, 0);
        pthread_barrier_wait(&line);
        for (size_t i = 0; i < RACED; i++) of_races->free(raced[i]); /* at the same moment as the other thread */
        pthread_barrier_wait(&line);
    }
    return NULL;
}

/* Two frees at the very same moment may both find the block live (src/heap/slot.rs). The one that loses is refused once
 * its thread's cache comes to the block, at the latest when the thread ends. If the block was back in its span by then its
 * size may be unknown, and is taken off the total twice. That is rare, and this many are allowed for. */
enum { OF_UNKNOWN_SIZE = 20 };
static void test_races(void) {
    TEST("two threads free the same blocks at the same moment: one free of each counts, no block is made out twice") {
        of_races = unimem_open(NULL);
        void *witness = of_races->allocate(WITNESS, 0);
        pthread_barrier_init(&line, NULL, RACERS);
        run_threads(RACERS, free_all_raced);
        const size_t frees = scaled(2000) * RACED;
        memory_stats_t now = stats_of(of_races);
        EXPECT(now.num_allocations == frees + 1 && now.num_frees == frees, "%zu allocations, %zu frees, not %zu",
               now.num_allocations, now.num_frees, frees);
        const size_t missing = WITNESS - now.total_allocated;
        EXPECT(missing % RACED_SIZE == 0 && missing <= OF_UNKNOWN_SIZE * RACED_SIZE, "%zu bytes live", now.total_allocated);
        EXPECT(unimem_refused_frees(of_races) == frees, "%zu frees refused, not %zu",
               unimem_refused_frees(of_races), frees);
        enum { AFTER = 4 * RACED };
        static unsigned char *after[AFTER];
        for (size_t i = 0; i < AFTER; i++)
            if (EXPECT((after[i] = of_races->allocate(RACED_SIZE, 0)) != NULL, "block %zu is NULL", i))
                pattern_fill(after[i], 0, RACED_SIZE, i);
        for (size_t i = 0; i < AFTER; i++)
            EXPECT(pattern_holds(after[i], 0, RACED_SIZE, i), "block %zu was made out twice", i);
        for (size_t i = 0; i < AFTER; i++) of_races->free(after[i]);
        of_races->free(witness);
        EXPECT(unimem_close(of_races), "something was live at close");
    }
    CHECK("every block still has its contents", contents_hold());
}

static void test_at_the_end(void) {
    size_t refused = unimem_refused_frees(memory);
    printf("# %zu attacks, %zu frees were refused by the interface\n", attacks, refused);
    CHECK("refused frees were counted: by free, and by realloc to size 0", refused == 2 * attacks);
    TEST("after all that every block can still be freed by its owner") {
        for (size_t i = 0; i < BLOCKS; i++) {
            size_t live = get_total_allocated(pool) + usage_of(memory_system) + live_in(memory);
            memory->free(blocks[i].start);
            pool_free(pool, blocks[i].start);
            memory_free(memory_system, blocks[i].start);
            size_t left = get_total_allocated(pool) + usage_of(memory_system) + live_in(memory);
            EXPECT(live - left == blocks[i].size, "freeing %zu bytes took %zu off the totals", blocks[i].size,
                   live - left);
        }
        EXPECT(get_total_allocated(pool) == 0 && usage_of(memory_system) == 0 && live_in(memory) == 0, "something is live");
    }
    CHECK("the instance closes clean", unimem_close(memory));
    destroy_memory_pool(pool);
    destroy_memory_system(memory_system);
}

int main(void) {
    memory = unimem_open(NULL);
    pool = create_memory_pool(&(PoolConfig){.num_size_classes = 32, .thread_cache_size = 64, .enable_stats = true});
    memory_system = create_memory_system(&(memory_system_config_t){0});
    if (!CHECK("an instance, a pool and a system", memory && pool && memory_system)) return tap_done();
    TEST("live blocks to defend") make_blocks();
    test_offsets();
    test_random();
    test_mappings();
    test_freed();
    test_races();
    test_at_the_end();
    return tap_done();
}
