/* test_stress.c - threads and forks: random mixtures of calls with contents checked, blocks freed by other threads,
 * threads that exit with full caches, children that go on with everything. */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/memory_pool.h"
#include "unimem/memory_singleton.h"

#include "systems.h"

#include <stdatomic.h>

enum { MOST_THREADS = 8, EXCHANGE = 512, SURFACES = 4 };

static unified_memory_interface_t *memory, *capped;
static MemoryPool *pool;
static advanced_memory_system_t *memory_system;

/* Nothing may be live on any surface. */
static void expect_nothing_live(void) {
    EXPECT(live_in(memory) == 0 && live_in(capped) == 0 && get_total_allocated(pool) == 0 && usage_of(memory_system) == 0,
           "live at the end: interface %zu, budgeted %zu, pool %zu, system %zu", live_in(memory), live_in(capped),
           get_total_allocated(pool), usage_of(memory_system));
}

/* Each block begins with what it is; the rest of its bytes follow from that. */
typedef struct {
    uint32_t size, surface;
    uint64_t tag;
} head_t;

static void *allocate(unsigned surface, size_t size) {
    switch (surface) {
    case 0: return memory->allocate(size, 16);
    case 1: return pool_allocate(pool, size);
    case 2: return memory_allocate(memory_system, size, 24);
    default: return capped->allocate(size, 0); /* may be full */
    }
}

static void give_back(unsigned surface, void *block) {
    switch (surface) {
    case 0: memory->free(block); break;
    case 1: pool_free(pool, block); break;
    case 2: memory_free(memory_system, block); break;
    default: capped->free(block);
    }
}

static head_t *make_block(random_t *random) {
    head_t head = {.surface = (uint32_t)random_below(random, SURFACES), .tag = random_next(random)};
    head.size = (uint32_t)(sizeof head + random_size(random, 0, random_below(random, 400) ? 12 : 21));
    unsigned char *block = allocate(head.surface, head.size);
    if (!block) {
        EXPECT(head.surface == 3, "surface %u, %u bytes: NULL: %s", head.surface, head.size,
               unimem_last_error_message());
        return NULL;
    }
    if (head.surface == 2) EXPECT(all_zero(block, head.size), "memory_allocate(%u) is not zeroed", head.size);
    memcpy(block, &head, sizeof head);
    pattern_fill(block, sizeof head, head.size, head.tag);
    return (head_t *)(void *)block;
}

static bool is_whole(const head_t *block) { return pattern_holds(block, sizeof *block, block->size, block->tag); }

static head_t *resize_block(head_t *block, random_t *random) {
    head_t head = *block;
    size_t size = sizeof head + random_size(random, 0, 13), common = size < head.size ? size : head.size;
    void *moved = head.surface == 0   ? memory->realloc(block, size)
                  : head.surface == 2 ? memory_reallocate(memory_system, block, size)
                                      : NULL;
    if (head.surface != 0 && head.surface != 2) return block;
    if (!EXPECT(moved != NULL, "surface %u: realloc from %u to %zu is NULL", head.surface, head.size, size))
        return block;
    block = moved;
    EXPECT(memcmp(block, &head, sizeof head) == 0 && pattern_holds(block, sizeof head, common, head.tag),
           "surface %u: realloc from %u to %zu lost contents", head.surface, head.size, size);
    block->size = (uint32_t)size;
    pattern_fill(block, common, size, head.tag);
    return block;
}

/* Blocks change hands here: whoever takes one out did, as a rule, not allocate it. */
static _Atomic(head_t *) exchange[EXCHANGE];
static _Atomic bool stop;

static void drop_block(head_t *block) {
    if (!block) return;
    EXPECT(is_whole(block), "surface %u: a block of %u bytes was written by another", block->surface, block->size);
    give_back(block->surface, block);
}

static void mix(random_t *random, size_t steps) {
    head_t *mine[64] = {0};
    for (size_t i = 0; i < steps; i++) {
        head_t **slot = &mine[random_below(random, 64)];
        switch (random_below(random, 8)) {
        case 0:
        case 1: /* swap with another thread */
            *slot = atomic_exchange(&exchange[random_below(random, EXCHANGE)], *slot);
            break;
        case 2:
            if (*slot) *slot = resize_block(*slot, random);
            break;
        default: drop_block(*slot); *slot = make_block(random);
        }
    }
    for (size_t i = 0; i < 64; i++) drop_block(mine[i]);
}

static size_t first_seed;
static void *mix_in_thread(void *number) {
    random_t random = {(first_seed + (uintptr_t)number) * 7919};
    mix(&random, scaled(60000));
    return NULL;
}

static void empty_exchange(void) {
    for (size_t i = 0; i < EXCHANGE; i++) drop_block(atomic_exchange(&exchange[i], NULL));
}

static void test_mixtures(void) {
    for (size_t count = 2; count <= MOST_THREADS; count *= 2) {
        char name[100];
        snprintf(name, sizeof name, "%zu threads: random mixture on four surfaces, blocks passed between them", count);
        TEST(name) {
            first_seed = count * 10;
            run_threads(count, mix_in_thread);
            empty_exchange();
            expect_nothing_live();
        }
    }
    CHECK("all of that refused no free", unimem_refused_frees(memory) == 0 && unimem_refused_frees(capped) == 0);
}

static void *shared_block;

/* Each retain has its free. Whichever free comes last, the block stays: its first owner still has it. */
static void *own_for_a_moment(void *argument) {
    for (size_t i = 0; i < scaled(50000); i++) {
        EXPECT(unimem_retain(shared_block), "a live block cannot be retained");
        EXPECT(unimem_reference_count(shared_block) >= 2, "%zu owners, expected two at least",
               unimem_reference_count(shared_block));
        memory->free(shared_block);
    }
    return argument;
}

static void test_owners(void) {
    TEST("four threads own one block again and again: it stays until its first owner frees it") {
        for (size_t size = 100; size <= 4 * MIB; size *= 40000) {
            shared_block = memory->allocate(size, 0);
            pattern_fill(shared_block, 0, 100, 8);
            run_threads(4, own_for_a_moment);
            EXPECT(unimem_reference_count(shared_block) == 1 && pattern_holds(shared_block, 0, 100, 8),
                   "%zu owners at the end, expected 1", unimem_reference_count(shared_block));
            EXPECT(live_in(memory) == size, "%zu bytes live, expected %zu", live_in(memory), size);
            memory->free(shared_block);
            EXPECT(live_in(memory) == 0 && !unimem_owns(shared_block), "%zu bytes live at the end", live_in(memory));
        }
    }
}

/* Blocks that come to have memory of their own to grow in, which they do while another thread owns them too. */
static void *_Atomic growing;
static void *own_while_it_grows(void *argument) {
    while (!stop) {
        void *block = growing;
        if (!block && sched_yield() == 0) continue;
        for (size_t i = 0; i < 20; i++) {
            EXPECT(unimem_owns(block) && unimem_usable_size(block) >= 40 * KIB, "%zu bytes at a live block's start",
                   unimem_usable_size(block));
            EXPECT(unimem_reference_count(block) == 2, "%zu owners, expected 2", unimem_reference_count(block));
            if (EXPECT(unimem_retain(block), "a live block cannot be retained")) memory->free(block);
        }
        growing = NULL;
    }
    return argument;
}

static void test_growth_of_shared_blocks(void) {
    TEST("a block with two owners grows where it is, and is never seen not to be live") {
        stop = false;
        pthread_t other = start_thread(own_while_it_grows, NULL);
        for (size_t i = 0; i < scaled(20000); i++) {
            void *block = memory->realloc(memory->allocate(20 * KIB, 0), 40 * KIB);
            EXPECT(unimem_retain(block), "a live block cannot be retained");
            growing = block;
            for (size_t size = 48 * KIB; size <= 320 * KIB; size += size / 6 / KIB * KIB) {
                void *grown = memory->realloc(block, size);
                EXPECT(grown == block || debug_mode(NULL), "%zu bytes: %p, expected %p", size, grown, block);
            }
            while (growing) sched_yield();
            memory->free(block);
            memory->free(block);
        }
        stop = true;
        pthread_join(other, NULL);
        stop = false;
        EXPECT(live_in(memory) == 0 && unimem_refused_frees(memory) == 0, "%zu bytes live and %zu frees refused",
               live_in(memory), unimem_refused_frees(memory));
    }
}

static void *mix_briefly(void *number) {
    random_t random = {first_seed + (uintptr_t)number};
    mix(&random, 300);
    return NULL;
}

/* What is kept for reuse ages, so a late measurement may have more of it than an early one. */
static size_t resident_without_kept(void) {
    unified_memory_interface_t *const all[] = {memory, capped, unimem_pool_interface(pool), unimem_system_interface(memory_system)};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        EXPECT(all[i], "%s", unimem_last_error_message());
        unimem_trim(all[i]);
    }
    return resident_bytes();
}

static void test_generations(void) {
    size_t early = 0;
    TEST("300 generations of short threads: they exit with caches and leave blocks behind, memory does not grow") {
        for (size_t generation = 0; generation < scaled(300); generation++) {
            first_seed = generation * 4;
            run_threads(4, mix_briefly);
            if (generation == 20) early = resident_without_kept();
        }
        size_t late = resident_without_kept();
        if (early) printf("# resident memory: %zu KiB after 20 generations, %zu KiB at the end\n", early / KIB, late / KIB);
        EXPECT(!early || late <= early + (debug_mode(NULL) || UNDER_SANITIZER ? 16 : 2) * MIB, "resident memory grew from %zu to %zu KiB", early / KIB, late / KIB);
        empty_exchange();
        expect_nothing_live();
    }
}

static void *mix_until_stopped(void *argument) {
    random_t random = {(uint64_t)(uintptr_t)argument};
    while (!stop) mix(&random, 200);
    return NULL;
}

/* Two threads that are inside the library's locks most of the time, so that many a fork finds one held. */
static void *hold_the_locks_of_heaps(void *argument) {
    while (!stop) {
        void *blocks[3][64];
        for (size_t i = 0; i < 64; i++) {
            blocks[0][i] = memory->allocate((size_t)12 << (10 + i % 8), 0);
            blocks[1][i] = pool_allocate(pool, (size_t)12 << (10 + i % 8));
            blocks[2][i] = memory_allocate(memory_system, 20 * KIB, 64);
        }
        (void)stats_of(memory);
        for (size_t i = 0; i < 64; i++) {
            memory->free(blocks[0][i]);
            pool_free(pool, blocks[1][i]);
            memory_free(memory_system, blocks[2][i]);
        }
        unimem_trim(memory);
    }
    return argument;
}

static void *hold_the_locks_of_tables(void *argument) {
    while (!stop) {
        unified_memory_interface_t *own = unimem_open(NULL);
        MemoryPool *own_pool = create_memory_pool(&(PoolConfig){.enable_stats = true});
        void *system_pool = ams_create_memory_pool(memory_system, &(pool_config_t){.enable_growth = true});
        for (uintptr_t i = 1; i <= 64; i++)
            own->track_allocation((void *)(i * 64), 8), track_memory_block((void *)(i * 64));
        void *block = own->allocate_geometric((size_t[]){8, 8}, 2),
             *pooled = ams_pool_allocate(memory_system, system_pool, 100);
        if (!EXPECT(block && pooled && pool_allocate(own_pool, 100), "a block is NULL")) break;
        unimem_retain(block);
        for (uintptr_t i = 1; i <= 64; i++)
            own->untrack_allocation((void *)(i * 64)), untrack_memory_block((void *)(i * 64));
        for (int i = 0; i < 64; i++) own->free(opaque(&own)); /* refused, and told to the log */
        (void)usage_of(memory_system);
        ams_destroy_memory_pool(memory_system, system_pool);
        destroy_memory_pool(own_pool);
        unimem_close(own);
    }
    return argument;
}

/* In the child there is one thread; whatever the others held at the fork must not be in its way. */
static int use_everything_in_the_child(void *argument) {
    head_t *parents = argument;
    random_t random = {(uint64_t)getpid()};
    if (parents && !is_whole(parents)) return 2;
    if (parents) give_back(parents->surface, parents);
    head_t *blocks[1000];
    for (size_t i = 0; i < 1000; i++) blocks[i] = make_block(&random);
    for (size_t i = 0; i < 1000; i++) {
        if (!blocks[i]) continue; /* of the budgeted instance */
        if (!is_whole(blocks[i])) return 3;
        give_back(blocks[i]->surface, blocks[i]);
    }
    unified_memory_interface_t *own = unimem_open(NULL);
    if (!own || !own->track_allocation(&random, 8) || !own->untrack_allocation(&random) || !unimem_close(own)) return 4;
    MemoryPool *new_pool = create_memory_pool(&(PoolConfig){.enable_stats = true});
    void *of_pool = new_pool ? pool_allocate(new_pool, 5 * MIB) : NULL;
    if (!of_pool) return 5;
    memset(of_pool, 1, 5 * MIB);
    destroy_memory_pool(new_pool);
    void *safe = safe_memory_allocate(memory_system, 100, 8);
    if (!safe || !is_memory_block_tracked(safe)) return 6;
    safe_memory_free(memory_system, safe);
    memory->free(opaque(&random));
    if (unimem_last_error() != UNIMEM_ERROR_NOT_OWNED) return 7;
    void *system_pool = ams_create_memory_pool(memory_system, &(pool_config_t){.enable_growth = true});
    if (!system_pool || !ams_pool_allocate(memory_system, system_pool, 100)) return 10;
    ams_destroy_memory_pool(memory_system, system_pool);
    run_threads(1, mix_briefly); /* a child may start threads of its own */
    unimem_trim(memory);
    return 0;
}

static void test_fork(void) {
    TEST("100 forks while threads allocate: the child uses everything, the parent goes on") {
        pthread_t threads[3];
        head_t *kept[100];
        random_t random = {5};
        for (size_t i = 0; i < 100; i++) kept[i] = make_block(&random);
        static void *(*const bodies[3])(void *) = {mix_until_stopped, hold_the_locks_of_heaps,
                                                   hold_the_locks_of_tables};
        for (size_t i = 0; i < 3; i++) threads[i] = start_thread(bodies[i], (void *)(i + 100));
        size_t hung = 0;
        for (size_t i = 0; i < scaled(100) && hung < 2; i++) {
            int result = run_in_child(use_everything_in_the_child, kept[i], 10);
            EXPECT(result == 0, "fork %zu: the child ended with %d", i, result);
            hung += EXPECT(result != 256 + SIGKILL, "fork %zu: the child hung", i) ? 0 : 1;
        }
        stop = true;
        for (size_t i = 0; i < 3; i++) pthread_join(threads[i], NULL);
        for (size_t i = 0; i < 100; i++) drop_block(kept[i]); /* the child freed its copy, not this one */
        empty_exchange();
        expect_nothing_live();
    }
}

int main(void) {
    memory = unimem_open(NULL);
    capped = unimem_open(&(unified_pool_config_t){.max_size = 8 * MIB, .enable_growth = true});
    pool = create_memory_pool(&(PoolConfig){
        .num_size_classes = 32, .thread_cache_size = 64, .cache_local_free_lists = true, .enable_stats = true});
    memory_system = create_memory_system(&(memory_system_config_t){0});
    if (!CHECK("two instances, a pool and a system", memory && capped && pool && memory_system)) return tap_done();
    test_mixtures();
    test_owners();
    test_generations();
    test_growth_of_shared_blocks();
    test_fork();
    CHECK("both instances close clean", unimem_close(memory) && unimem_close(capped));
    destroy_memory_pool(pool);
    destroy_memory_system(memory_system);
    return tap_done();
}
