/* memory_pool.c - stand-in for the legacy file of that name: one lock, one list of live blocks. */
#include "unimem/memory_pool.h"
#include <stdlib.h>
#include <string.h>
size_t legacy_pool_calls(void);

static size_t calls;

MemoryPool *create_memory_pool(const struct PoolConfig *config) {
    MemoryPool *pool = config ? calloc(1, sizeof *pool) : NULL;
    if (!pool)
        return NULL;
    pool->config = *config;
    pool->base_address = pool;
    pthread_mutex_init(&pool->mutex, NULL);
    return pool;
}

void *pool_allocate(MemoryPool *pool, size_t size) {
    size_t room = (size + 63) & ~(size_t)63;
    Block *block = pool && size && room >= size && room <= SIZE_MAX - 2 * sizeof(Block)
                       ? aligned_alloc(64, sizeof(Block) + room)
                       : NULL;
    if (!block)
        return NULL;
    memset(block, 0, sizeof *block);
    block->size = room;
    block->magic = 0xDEADBEEF;
    block->data = block + 1;
    memcpy(block->padding, &size, sizeof size);
    pthread_mutex_lock(&pool->mutex);
    calls++;
    block->next = pool->large_blocks;
    if (block->next)
        block->next->prev = block;
    pool->large_blocks = block;
    pool->total_size += room;
    pool->total_allocated += size;
    pool->num_allocations++;
    if (pool->total_allocated > pool->peak_allocated)
        pool->peak_allocated = pool->total_allocated;
    pthread_mutex_unlock(&pool->mutex);
    return block->data;
}

void pool_free(MemoryPool *pool, void *ptr) {
    if (!pool || !ptr)
        return;
    pthread_mutex_lock(&pool->mutex);
    Block *block = pool->large_blocks;
    while (block && block->data != ptr)
        block = block->next;
    if (block) {
        size_t size;
        memcpy(&size, block->padding, sizeof size);
        pool->total_size -= block->size;
        pool->total_allocated -= size;
        if (block->prev)
            block->prev->next = block->next;
        else
            pool->large_blocks = block->next;
        if (block->next)
            block->next->prev = block->prev;
        free(block);
    }
    pthread_mutex_unlock(&pool->mutex);
}

void destroy_memory_pool(MemoryPool *pool) {
    if (!pool)
        return;
    while (pool->large_blocks)
        pool_free(pool, pool->large_blocks->data);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

size_t get_total_allocated(const MemoryPool *pool) {
    return pool && pool->config.enable_stats ? pool->total_allocated : 0;
}
size_t get_peak_allocated(const MemoryPool *pool) {
    return pool && pool->config.enable_stats ? pool->peak_allocated : 0;
}
size_t get_num_allocations(const MemoryPool *pool) {
    return pool && pool->config.enable_stats ? pool->num_allocations : 0;
}

size_t legacy_pool_calls(void) { return calls; }
