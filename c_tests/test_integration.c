/* test_integration.c - all surfaces in one program, as its parts would use them: pool, advanced system, singleton,
 * interface. */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/memory_pool.h"
#include "unimem/memory_singleton.h" /* after memory_pool.h: its pool functions go by their ams_ names here */

#include "systems.h"

static void test_sharing(void) {
    PoolConfig pool_config = {.num_size_classes = 32, .thread_cache_size = 64, .enable_stats = true};
    MemoryPool *pool = create_memory_pool(&pool_config);
    advanced_memory_system_t *system = create_memory_system(&(memory_system_config_t){.type = MEM_SYSTEM_HYBRID});
    unified_memory_interface_t *global = unimem_global(), *own = unimem_open(NULL),
                               *of_pool = unimem_pool_interface(pool), *of_system = unimem_system_interface(system);
    if (!CHECK("a pool, a system, three interfaces and the global one",
               pool && system && global && own && of_pool && of_system))
        return;
    size_t global_before = stats_of(global).total_allocated;

    void *blocks[6] = {pool_allocate(pool, 100),    of_pool->allocate(200, 0), memory_allocate(system, 400, 64),
                       of_system->allocate(800, 0), global->allocate(1600, 0), own->allocate(3200, 0)};
    CHECK("the pool and its interface see each other's blocks",
          get_total_allocated(pool) == 300 && stats_of(of_pool).total_allocated == 300);
    CHECK("the system and its interface see each other's blocks",
          usage_of(system) == 1200 && stats_of(of_system).total_allocated == 1200);
    CHECK("the global and the own instance see their own alone",
          stats_of(global).total_allocated - global_before == 1600 && stats_of(own).total_allocated == 3200);

    void *ams_pool = ams_create_memory_pool(system, &(pool_config_t){.enable_growth = true});
    void *of_ams_pool = ams_pool_allocate(system, ams_pool, 6400);
    CHECK("a pool of the system counts in the system", usage_of(system) == 7600);
    void *tracked = safe_memory_allocate(system, 50, 8);
    CHECK("the singleton's blocks count in the system",
          usage_of(system) == 7650 && get_allocation_size(system, tracked) == 50);

    TEST("no surface frees what another one owns") {
        struct {
            const char *what;
            void *block;
        } all[] = {{"the pool's", blocks[0]},
                   {"the system's", blocks[2]},
                   {"the global instance's", blocks[4]},
                   {"the own instance's", blocks[5]}};
        for (size_t i = 0; i < 4; i++) {
            if (i != 0) pool_free(pool, all[i].block), of_pool->free(all[i].block);
            if (i != 1)
                memory_free(system, all[i].block), of_system->free(all[i].block),
                    safe_memory_free(system, all[i].block);
            if (i != 2) global->free(all[i].block);
            if (i != 3) own->free(all[i].block);
            EXPECT(unimem_owns(all[i].block), "%s block was freed by another surface", all[i].what);
        }
        EXPECT(get_total_allocated(pool) == 300 && usage_of(system) == 7650 && stats_of(own).total_allocated == 3200 &&
                   stats_of(global).total_allocated - global_before == 1600,
               "a total changed");
    }
    TEST("the questions of unimem.h know the blocks of every surface") {
        for (size_t i = 0; i < 6; i++) {
            EXPECT(unimem_owns(blocks[i]) && unimem_usable_size(blocks[i]) >= (size_t)100 << i,
                   "block %zu: usable size %zu", i, unimem_usable_size(blocks[i]));
            EXPECT(unimem_reference_count(blocks[i]) == 1, "block %zu: %zu references", i,
                   unimem_reference_count(blocks[i]));
        }
        EXPECT(unimem_owns(of_ams_pool) && unimem_owns(tracked), "pool of the system, singleton");
    }
    CHECK("a retained block of the pool survives one pool_free",
          unimem_retain(blocks[0]) && (pool_free(pool, blocks[0]), unimem_owns(blocks[0])) &&
              get_total_allocated(pool) == 300);
    CHECK("so does one of the system", unimem_retain(blocks[2]) &&
                                           (memory_free(system, blocks[2]), unimem_owns(blocks[2])) &&
                                           usage_of(system) == 7650);

    pool_free(pool, blocks[1]);
    of_pool->free(blocks[0]);
    memory_free(system, blocks[3]);
    of_system->free(blocks[2]);
    global->free(blocks[4]);
    own->free(blocks[5]);
    safe_memory_free(system, tracked);
    CHECK("all was freed, partly through the other surface of each",
          get_total_allocated(pool) == 0 && usage_of(system) == 6400 && stats_of(own).total_allocated == 0 &&
              stats_of(global).total_allocated == global_before);
    ams_destroy_memory_pool(system, ams_pool);
    CHECK("a pool's blocks go with it", usage_of(system) == 0 && !unimem_owns(of_ams_pool));
    CHECK("the own instance closes clean", unimem_close(own));
    destroy_memory_pool(pool);
    destroy_memory_system(system);
    CHECK("the global instance outlives all of them", unimem_global() == global && global->allocate(10, 0) != NULL);
}

/* Two parts of a program that know nothing of each other; the second has no config of its own. */
static void test_one_global_system(void) {
    advanced_memory_system_t *first = create_memory_system(&(memory_system_config_t){.alignment = 128});
    advanced_memory_system_t *second = create_memory_system(NULL);
    CHECK("the second creator, with a NULL config, gets the first one's system",
          first && second == first && get_global_memory_system() == first);
    unsigned char *block = safe_memory_allocate(second, 1000, 0);
    CHECK("the first one's config holds for both", block && is_aligned(block, 128));
    destroy_memory_system(first);
    CHECK("the first goes: the second's memory stays",
          get_global_memory_system() == second && all_zero(block, 1000) && is_memory_block_tracked(block));
    unified_memory_interface_t *interface = unimem_system_interface(second);
    CHECK("the system's interface goes on too", interface && interface->allocate(10, 0));
    safe_memory_free(second, block);
    destroy_memory_system(second);
    CHECK("the second goes: none is left", get_global_memory_system() == NULL);
    CHECK("an interface of a system that is gone refuses", interface->allocate(10, 0) == NULL);
}

/* Functions registered with atexit, which run in the reverse order, free what static variables hold. */
static MemoryPool *exit_pool;
static advanced_memory_system_t *exit_system;
static void *exit_blocks[4];

static void exit_last(void) {
    static const char said[] = "last\n";
    destroy_memory_system(exit_system);
    destroy_memory_pool(exit_pool);
    if (get_global_memory_system() || !unimem_global()->allocate(100, 0)) _exit(3);
    if (write(STDOUT_FILENO, said, sizeof said - 1) < 0) _exit(4);
}

static void exit_first(void) {
    pool_free(exit_pool, exit_blocks[0]);
    safe_memory_free(exit_system, exit_blocks[1]);
    unimem_global()->free(exit_blocks[2]);
    if (get_total_allocated(exit_pool) != 0 || usage_of(exit_system) != 400) _exit(5);
    memory_free(exit_system, exit_blocks[3]);
    pool_free(exit_pool, opaque(exit_blocks[0]));
    memory_free(exit_system, exit_system);
}

static void *thread_at_exit(void *argument) {
    for (size_t i = 0; i < 100; i++) pool_free(exit_pool, pool_allocate(exit_pool, 64 + i));
    return argument;
}

static int program_that_frees_at_exit(void) {
    atexit(exit_last);
    atexit(exit_first);
    exit_pool = create_memory_pool(&(PoolConfig){.enable_stats = true, .thread_cache_size = 64});
    exit_system = create_memory_system(&(memory_system_config_t){.enable_monitoring = true});
    if (!exit_pool || !exit_system) return 2;
    exit_blocks[0] = pool_allocate(exit_pool, 100);
    exit_blocks[1] = safe_memory_allocate(exit_system, 200, 8);
    exit_blocks[2] = unimem_global()->allocate(300, 0);
    exit_blocks[3] = memory_allocate(exit_system, 400, 8);
    pthread_join(start_thread(thread_at_exit, NULL), NULL);
    exit(0);
}

static void test_exit(void) {
    char text[64];
    int result = run_anew("exit", NULL, NULL, 20, text, sizeof text);
    CHECK_EQ("a program that frees in atexit functions ends well", (size_t)result, 0);
    CHECK("its last atexit function ran to its end", strcmp(text, "last\n") == 0);
}

int main(int count, char **arguments) {
    if (count > 1 && strcmp(arguments[1], "exit") == 0) return program_that_frees_at_exit();
    test_sharing();
    test_one_global_system();
    test_exit();
    return tap_done();
}
