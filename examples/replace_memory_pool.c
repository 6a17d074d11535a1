/* A caller of the legacy memory_pool.c, unchanged. Its threads allocate tensors in one pool with thread caches, pass
 * them on and free them. Take memory_pool.c out of the build and link libunimem: it still works, and what was
 * undefined before is refused.
 *
 *   cc -std=c11 -pthread replace_memory_pool.c $(pkg-config --cflags --libs unimem) */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unimem.h>
#include <unimem/memory_pool.h> /* in a legacy tree: its own header, without unimem.h */

enum { THREADS = 4, ROUNDS = 20000, SHARED = 64 };

static MemoryPool *pool;
static _Atomic(char *) handed[SHARED]; /* blocks that the next thread takes over and frees */
static atomic_size_t damaged;

static void release(char *block) {
    if (!block) return;
    const Block *header = (const Block *)(const void *)(block - sizeof(Block)); /* legacy callers read it */
    if (header->magic != 0xDEADBEEF || header->data != (void *)block || block[0] != block[63]) damaged++;
    pool_free(pool, block);
}

static void *work(void *seed) {
    uint32_t random = (uint32_t)(uintptr_t)seed;
    for (size_t i = 0; i < ROUNDS; i++) {
        random = random * 1664525 + 1013904223;
        char *block = pool_allocate(pool, 64 + (random >> 16) % 8192);
        if (block) memset(block, (int)(random >> 24), 64);
        release(atomic_exchange(&handed[random >> 8 & (SHARED - 1)], block));
    }
    return NULL;
}

int main(void) {
    PoolConfig config = {.num_size_classes = 32, .thread_cache_size = 64, .enable_stats = true};
    pool = create_memory_pool(&config);
    pthread_t threads[THREADS];
    for (size_t t = 0; t < THREADS; t++)
        if (!pool || pthread_create(&threads[t], NULL, work, (void *)(t + 1))) return 1;
    for (size_t t = 0; t < THREADS; t++) pthread_join(threads[t], NULL);
    printf("%zu allocations by %d threads, %zu bytes live, %zu at most, %zu blocks damaged\n", get_num_allocations(pool),
           THREADS, get_total_allocated(pool), get_peak_allocated(pool), (size_t)damaged);
    for (size_t i = 0; i < SHARED; i++) release(handed[i]);

    char *block = pool_allocate(pool, 1000);
    size_t live = get_total_allocated(pool); /* 1000: as requested, not rounded up */
    pool_free(pool, block);
    pool_free(pool, block); /* the second free is refused */
    printf("a second free: \"%s\"; live bytes before and after the frees: %zu, %zu\n", unimem_last_error_message(), live,
           get_total_allocated(pool));
    bool right = damaged == 0 && live == 1000 && get_total_allocated(pool) == 0 &&
                 get_num_allocations(pool) == THREADS * ROUNDS + 1 && unimem_last_error() == UNIMEM_ERROR_DOUBLE_FREE;
    destroy_memory_pool(pool);
    return !right;
}
