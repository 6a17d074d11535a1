/* test_systems_fork.c - fork while other threads make and end systems and pools, with guards and limits. No lock may
 * stay taken in the child. */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/memory_singleton.h"
#include "unimem/tree_tensor_network.h"

#include "support.h"

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

/* A product that several threads share. Where it is the first, it starts them. 0 if it is right. */
static int first_product(void)
{
    enum { SIZE = 160 };
    size_t count = SIZE * SIZE, *sizes = (size_t[]){SIZE, SIZE}, axes = 2, result_sizes[2];
    ComplexFloat *ones = malloc(count * sizeof *ones), *product = NULL;
    for (size_t i = 0; i < count; i++) ones[i] = (ComplexFloat){1, 0};
    tree_tensor_network_t *network = create_tree_tensor_network(0, 0, 0);
    tree_tensor_node_t *first = network ? add_tree_tensor_node(network, ones, sizes, 2, true) : NULL;
    tree_tensor_node_t *second = network ? add_tree_tensor_node(network, ones, sizes, 2, true) : NULL;
    bool right = first && second && connect_tree_tensor_nodes(network, first, second) &&
                 contract_full_tree_network(network, &product, result_sizes, &axes) && axes == 2;
    for (size_t i = 0; right && i < count; i++) right = product[i].real == SIZE && product[i].imag == 0;
    destroy_tree_tensor_network(network);
    free(product);
    free(ones);
    return right ? 0 : 11;
}

/* What first calls make: the heap's and the thread's own things, tiered memory, a recording, a system, and what is known
 * of the machine's memory, which a large block asks for. */
static int first_use(void)
{
    unified_memory_interface_t *memory = unimem_global();
    void *block = memory ? memory->allocate(1000, 0) : NULL;
    void *large = memory ? memory->allocate(3 * MIB, 0) : NULL;
    unsigned char *tiered = memory ? memory->allocate_streaming(256 * KIB, 0) : NULL;
    if (!block || !large || !tiered) {
        printf("# a first call: %s\n", unimem_last_error_message());
        fflush(stdout);
        return 10;
    }
    tiered[100 * KIB] = 1;
    memory->free(tiered);
    memory->free(large);
    memory->free(block);
    return one_life();
}

typedef struct {
    int (*call)(void);
    long nanoseconds;
} moment_t;
typedef struct {
    int (*call)(void);
    int result;
} first_call_t;
static void *call_in_a_thread(void *argument)
{
    first_call_t *first = argument;
    first->result = first->call();
    return NULL;
}
static int call_in_the_child(void *moment)
{
    return ((moment_t *)moment)->call();
}

/* In a process that has never called the library: two threads begin, and at some moment of that another forks. */
static int fork_in_first_calls(void *argument)
{
    moment_t *moment = argument;
    pthread_t threads[2];
    first_call_t first[2] = {{.call = moment->call}, {.call = moment->call}};
    for (size_t i = 0; i < 2; i++) threads[i] = start_thread(call_in_a_thread, &first[i]);
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do clock_gettime(CLOCK_MONOTONIC, &now);
    while ((now.tv_sec - start.tv_sec) * 1000000000L + now.tv_nsec - start.tv_nsec < moment->nanoseconds);
    int result = run_in_child(call_in_the_child, moment, 10);
    for (size_t i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    return result ? result : first[0].result ? first[0].result : first[1].result;
}
/* So many such processes, whose forks come from 0 to `longest` nanoseconds after their threads have been started. */
static void fork_in_many_first_calls(int (*call)(void), size_t processes, long longest)
{
    for (size_t i = 0; i < processes; i++) {
        moment_t moment = {call, longest / 120 * (long)(i % 120)};
        int result = run_in_child(fork_in_first_calls, &moment, 30);
        EXPECT(result == 0, "a fork after %ld ns ended with %d%s", moment.nanoseconds, result,
               result % 256 == SIGKILL ? ": it hung" : "");
    }
}

/* ---- a child has the memory of the caches of threads that it does not have ---- */
enum { CACHED_SIZES = 6, KEPT = 64, CAP = 16 << 20 };
static const size_t cached_sizes[CACHED_SIZES] = {24, 200, 700, 3000, 9000, 20000};
typedef struct {
    unified_memory_interface_t *memory;
    pthread_barrier_t *barrier; /* NULL: goes on until told to stop */
    size_t seed;
    unsigned char *_Atomic kept[KEPT]; /* live blocks, filled with their sizes' tags */
} caching_t;

static void *cache_blocks(void *argument)
{
    caching_t *work = argument;
    unified_memory_interface_t *memory = work->memory;
    random_t random = {work->seed};
    void *blocks[200] = {0};
    for (size_t i = 0; i < KEPT; i++) {
        unsigned char *block = memory->allocate(cached_sizes[i % CACHED_SIZES], 0);
        pattern_fill(block, 0, cached_sizes[i % CACHED_SIZES], i);
        work->kept[i] = block;
    }
    do {
        for (size_t step = 0; step < 20000; step++) {
            size_t at = random_below(&random, 200);
            memory->free(blocks[at]);
            blocks[at] = step % 2000 < 1000 ? memory->allocate(cached_sizes[random_below(&random, CACHED_SIZES)], 0) : NULL;
        }
    } while (!work->barrier && !stop);
    for (size_t i = 0; i < 200; i++) memory->free(blocks[i]);
    if (work->barrier) {
        pthread_barrier_wait(work->barrier);
        pthread_barrier_wait(work->barrier); /* when the child has ended */
    }
    for (size_t i = 0; i < KEPT; i++) memory->free(work->kept[i]);
    return NULL;
}

/* Children of a program whose threads cache memory that counts against a budget: the memory is theirs to use. */
static int trim_what_threads_cached(void *argument)
{
    unified_memory_interface_t *memory = argument;
    memory_stats_t before = stats_of(memory);
    size_t held = unimem_held_bytes(memory), trimmed = unimem_trim(memory);
    memory_stats_t after = stats_of(memory);
    /* Several threads' peaks are known to 64 KiB each. */
    if (after.peak_allocated >= before.peak_allocated && after.peak_allocated <= before.peak_allocated + 256 * KIB)
        before.peak_allocated = after.peak_allocated;
    if (!same_totals(before, after)) return 1;
    /* Under a limit four caches hold a 32nd of it each, and what else is on their pages. */
    if (trimmed < MIB || unimem_held_bytes(memory) + trimmed != held) return 2;
    return unimem_close(memory) ? 3 : 0; /* the kept blocks are live */
}
static int allocate_what_threads_cached(void *argument)
{
    unified_memory_interface_t *memory = argument;
    size_t bytes = CAP - unimem_held_bytes(memory) + MIB;
    return unimem_can_allocate(memory, bytes) && memory->allocate(bytes, 0) ? 0 : 1;
}
static int fill_what_threads_cached(void *argument)
{
    unified_memory_interface_t *memory = argument;
    size_t bytes = 0, more = CAP - unimem_held_bytes(memory) + MIB;
    while (bytes < more && memory->allocate(1000, 0)) bytes += 1000;
    return bytes < more;
}
static int reuse_what_threads_cached(void *argument)
{
    unified_memory_interface_t *memory = argument;
    size_t most = debug_mode("quarantine") ? CAP : unimem_held_bytes(memory); /* quarantined blocks give way at the limit */
    for (size_t i = 0; i < 20 * CACHED_SIZES; i++)
        if (!memory->allocate(cached_sizes[i % CACHED_SIZES], 0)) return 1;
    return unimem_held_bytes(memory) > most ? 2 : 0;
}

static void test_children_that_use_it(unified_memory_interface_t *memory)
{
    check_in_child("what threads cached that a child does not have is trimmed there", trim_what_threads_cached, memory, 20);
    check_in_child("it makes room for one large block", allocate_what_threads_cached, memory, 20);
    check_in_child("and for many small ones", fill_what_threads_cached, memory, 20);
    check_in_child("its blocks are used before new memory is", reuse_what_threads_cached, memory, 20);
}

static void test_caches_of_threads_that_are_not_there(void)
{
    enum { THREADS = 4 };
    static caching_t work[THREADS];
    pthread_t threads[THREADS];
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, THREADS + 1);
    unified_memory_interface_t *memory = unimem_open(&(unified_pool_config_t){.max_size = CAP, .enable_growth = true});
    for (size_t i = 0; i < THREADS; i++) {
        work[i] = (caching_t){.memory = memory, .barrier = &barrier, .seed = i};
        threads[i] = start_thread(cache_blocks, &work[i]);
    }
    pthread_barrier_wait(&barrier);
    printf("# %zu bytes are live, %zu held\n", stats_of(memory).total_allocated, unimem_held_bytes(memory));
    /* Debug mode has nothing cached, but blocks in quarantine, which give way in the same places. */
    if (!debug_mode("quarantine")) unimem_trim(memory);
    if (debug_mode(NULL) && !debug_mode("quarantine")) SKIP("what threads cached is used in a child", "in debug mode they cache nothing");
    else test_children_that_use_it(memory);
    pthread_barrier_wait(&barrier);
    for (size_t i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    CHECK("the parent's caches were not touched", unimem_close(memory));
    pthread_barrier_destroy(&barrier);
}

/* In the middle of whatever the threads were doing: no block is given out that is live, or twice. */
static int allocate_in_the_middle(void *argument)
{
    enum { BLOCKS = 4000 };
    caching_t *work = argument;
    unified_memory_interface_t *memory = work->memory;
    static unsigned char *blocks[BLOCKS];
    unimem_trim(memory);
    for (size_t i = 0; i < BLOCKS; i++) {
        size_t size = cached_sizes[i % (CACHED_SIZES - 1)];
        blocks[i] = memory->allocate(size, 0);
        if (!blocks[i]) return 1;
        pattern_fill(blocks[i], 0, size, i + 1000);
    }
    for (size_t thread = 0; thread < 3; thread++)
        for (size_t i = 0; i < KEPT; i++) {
            unsigned char *kept = work[thread].kept[i];
            if (kept && !pattern_holds(kept, 0, cached_sizes[i % CACHED_SIZES], i)) return 2;
        }
    for (size_t i = 0; i < BLOCKS; i++) {
        if (!pattern_holds(blocks[i], 0, cached_sizes[i % (CACHED_SIZES - 1)], i + 1000)) return 3;
        memory->free(blocks[i]);
        if (unimem_owns(blocks[i])) return 4;
    }
    unimem_close(memory);
    return 0;
}
static void test_forks_in_the_middle(void)
{
    static caching_t work[3];
    pthread_t threads[3];
    unified_memory_interface_t *memory = unimem_open(NULL);
    stop = false;
    for (size_t i = 0; i < 3; i++) {
        work[i] = (caching_t){.memory = memory, .seed = i};
        threads[i] = start_thread(cache_blocks, &work[i]);
    }
    TEST("forks while threads allocate and free: the child takes their caches over, no block is given out twice")
    for (size_t i = 0; i < scaled(100); i++) {
        int result = run_in_child(allocate_in_the_middle, work, 10);
        EXPECT(result == 0, "fork %zu: the child ended with %d", i, result);
    }
    stop = true;
    for (size_t i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    CHECK("and the parent's blocks are all there", unimem_close(memory));
}

int main(void)
{
    TEST("forks in the microseconds of the very first calls of other threads: parent and child go on")
    fork_in_many_first_calls(first_use, scaled(600), 600000);
    TEST("forks while other threads make the first products: parent and child make theirs")
    fork_in_many_first_calls(first_product, scaled(120), 3000000);
    TEST("forks while threads make and end systems and pools: the child does the same, the parent goes on")
    {
        pthread_t threads[3];
        for (size_t i = 0; i < 3; i++) threads[i] = start_thread(live_on, NULL);
        for (size_t i = 0; i < scaled(100); i++) {
            int result = run_in_child(live_in_the_child, NULL, 10);
            EXPECT(result == 0, "fork %zu: the child ended with %d%s", i, result, result == 256 + SIGKILL ? ": it hung" : "");
        }
        stop = true;
        for (size_t i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    }
    test_caches_of_threads_that_are_not_there();
    test_forks_in_the_middle();
    CHECK("no system is left", get_global_memory_system() == NULL);
    return tap_done();
}
