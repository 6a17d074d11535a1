/* Fork while other threads make and end systems and pools, with guards and limits: nothing is left locked. */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/memory_singleton.h"

#include "support.h"
#include "tap.h"

#include <pthread.h>
#include <stdatomic.h>

static atomic_bool stop;

/* A system's whole life; 0 if all went well. */
static int one_life(void)
{
    advanced_memory_system_t *system = create_memory_system(&(memory_system_config_t){.enable_monitoring = true});
    if (!system) return 1;
    int result = 0;
    pool_config_t config = {.pool_size = MIB, .max_blocks = 20};
    void *pool = ams_create_memory_pool(system, &config);
    void *pooled = pool ? ams_pool_allocate(system, pool, 1000) : NULL;
    void *own = safe_memory_allocate(system, 3000, 64);
    MemoryLayout *layout = pool ? create_memory_layout(pool, (size_t[]){10, 20}, 2, GEOMETRIC_STATE_CUSTOM) : NULL;
    if (!pooled || !own || !layout || !is_memory_block_tracked(own)) result = 2;
    else if (!check_memory_corruption(system, pooled) || !check_memory_corruption(system, own)) result = 3;
    else if (!get_memory_metrics(system, &(memory_metrics_t){0})) result = 4;
    ams_pool_free(system, pool, pooled);
    safe_memory_free(system, own);
    ams_destroy_memory_pool(system, pool);
    destroy_memory_system(system);
    return result;
}

static void *live_on(void *argument)
{
    (void)argument;
    while (!stop) {
        int result = one_life();
        EXPECT(result == 0, "a life beside the forks ended with %d", result);
    }
    return NULL;
}

static int live_in_the_child(void *argument)
{
    (void)argument;
    for (int i = 0; i < 20; i++) {
        int result = one_life();
        if (result) return result;
    }
    return 0;
}

/* What first calls make: the heap's and the thread's own things, tiered memory, a recording, a system. */
static int first_use(void)
{
    unified_memory_interface_t *memory = unimem_global();
    void *block = memory ? memory->allocate(1000, 0) : NULL;
    unsigned char *tiered = memory ? memory->allocate_streaming(256 * KIB, 0) : NULL;
    if (!block || !tiered) {
        printf("# a first call: %s\n", unimem_last_error_message());
        fflush(stdout);
        return 10;
    }
    tiered[100 * KIB] = 1;
    memory->free(tiered);
    memory->free(block);
    return one_life();
}
static void *first_use_in_a_thread(void *result)
{
    *(int *)result = first_use();
    return NULL;
}
static int first_use_in_the_child(void *argument)
{
    (void)argument;
    return first_use();
}

/* In a process that has never called the library: two threads begin, and at some moment of that another forks. */
static int fork_in_first_calls(void *nanoseconds)
{
    pthread_t threads[2];
    int results[2] = {0};
    for (size_t i = 0; i < 2; i++) pthread_create(&threads[i], NULL, first_use_in_a_thread, &results[i]);
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do clock_gettime(CLOCK_MONOTONIC, &now);
    while ((now.tv_sec - start.tv_sec) * 1000000000L + now.tv_nsec - start.tv_nsec < *(long *)nanoseconds);
    int result = run_in_child(first_use_in_the_child, NULL, 10);
    for (size_t i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    return result ? result : results[0] ? results[0] : results[1];
}

int main(void)
{
    TEST("forks in the microseconds of the very first calls of other threads: parent and child go on")
    {
        for (size_t i = 0; i < scaled(600); i++) {
            long nanoseconds = (long)(i % 120) * 5000;
            int result = run_in_child(fork_in_first_calls, &nanoseconds, 30);
            EXPECT(result == 0, "a fork after %ld ns ended with %d%s", nanoseconds, result,
                   result == (256 + SIGKILL) % 256 ? ": it hung" : "");
        }
    }
    TEST("forks while threads make and end systems and pools: the child does the same, the parent goes on")
    {
        pthread_t threads[3];
        for (size_t i = 0; i < 3; i++) pthread_create(&threads[i], NULL, live_on, NULL);
        for (size_t i = 0; i < scaled(100); i++) {
            int result = run_in_child(live_in_the_child, NULL, 10);
            EXPECT(result == 0, "fork %zu: the child ended with %d%s", i, result, result == 256 + SIGKILL ? ": it hung" : "");
        }
        stop = true;
        for (size_t i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    }
    CHECK("no system is left", get_global_memory_system() == NULL);
    return tap_done();
}
