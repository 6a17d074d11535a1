/* advanced_memory_system.c - stand-in for the legacy file of that name: lists of live blocks, one for the system and
 * one for each pool, under one lock. Registers with the program's singleton, whoever wrote that. */
#include "unimem/memory_singleton.h"
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
size_t legacy_system_calls(void);

struct block {
    struct block *next;
    size_t size, alignment;
    void *data;
};
struct layout {
    struct layout *next;
    MemoryLayout layout;
};
struct buffer {
    struct buffer *next;
    MemoryBuffer buffer;
};
struct pool {
    advanced_memory_pool_t head; /* first: the pool's pointer is this */
    struct pool *next;
    struct block *blocks;
    struct layout *layouts;
    struct buffer *buffers;
};
struct advanced_memory_system_t {
    memory_system_config_t config;
    memory_metrics_t metrics;
    struct pool own; /* the system's blocks outside any pool */
    struct pool *pools;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static size_t calls;

static void *take(struct pool *pool, size_t size, size_t alignment) {
    size_t rounded = 64;
    while (rounded < alignment && rounded < (size_t)1 << 30)
        rounded *= 2;
    struct block *block = pool && size && alignment <= rounded ? malloc(sizeof *block) : NULL;
    void *data = block && size <= SIZE_MAX - rounded ? aligned_alloc(rounded, (size + rounded - 1) & -rounded) : NULL;
    if (!data) {
        free(block);
        return NULL;
    }
    memset(data, 0, size);
    pthread_mutex_lock(&lock);
    *block = (struct block){pool->blocks, size, rounded, data};
    pool->blocks = block;
    pthread_mutex_unlock(&lock);
    return data;
}

static struct block **find(struct pool *pool, const void *ptr) {
    struct block **at = &pool->blocks;
    while (*at && (*at)->data != ptr)
        at = &(*at)->next;
    return at;
}

static size_t give(struct pool *pool, void *ptr) {
    pthread_mutex_lock(&lock);
    struct block **at = find(pool, ptr), *block = *at;
    size_t size = 0;
    if (block) {
        *at = block->next;
        size = block->size;
        free(block->data);
        free(block);
    }
    pthread_mutex_unlock(&lock);
    return size;
}

static void empty(struct pool *pool) {
    while (pool->blocks)
        give(pool, pool->blocks->data);
    for (struct layout *next; pool->layouts; pool->layouts = next) {
        next = pool->layouts->next;
        free(pool->layouts);
    }
    for (struct buffer *next; pool->buffers; pool->buffers = next) {
        next = pool->buffers->next;
        free(pool->buffers);
    }
}

static struct block *look_up(const advanced_memory_system_t *system, const void *ptr, struct pool **where) {
    if (!system || !ptr)
        return NULL;
    struct block *block = *find((struct pool *)&system->own, ptr);
    struct pool *pool = NULL;
    for (struct pool *next = system->pools; !block && next; next = next->next) {
        pool = next;
        block = *find(pool, ptr);
    }
    if (where)
        *where = pool;
    return block;
}

advanced_memory_system_t *create_memory_system(const memory_system_config_t *config) {
    advanced_memory_system_t *system = get_global_memory_system();
    if (!system) {
        system = config ? calloc(1, sizeof *system) : NULL;
        if (!system)
            return NULL;
        system->config = *config;
    }
    register_memory_system(system);
    return system;
}

void destroy_memory_system(advanced_memory_system_t *system) {
    if (!system)
        return;
    unregister_memory_system(system);
    if (get_global_memory_system() == system)
        return;
    while (system->pools)
        advanced_destroy_memory_pool(system, system->pools);
    empty(&system->own);
    free(system);
}

static void *count(advanced_memory_system_t *system, void *ptr, size_t size) {
    if (!ptr)
        return NULL;
    pthread_mutex_lock(&lock);
    system->metrics.total_allocated += size;
    system->metrics.allocation_count++;
    system->metrics.current_usage += size;
    if (system->metrics.current_usage > system->metrics.peak_usage)
        system->metrics.peak_usage = system->metrics.current_usage;
    pthread_mutex_unlock(&lock);
    return ptr;
}

static void uncount(advanced_memory_system_t *system, size_t size) {
    pthread_mutex_lock(&lock);
    system->metrics.total_freed += size;
    system->metrics.current_usage -= size;
    pthread_mutex_unlock(&lock);
}

void *memory_allocate(advanced_memory_system_t *system, size_t size, size_t alignment) {
    if (!system)
        return NULL;
    calls++;
    return count(system, take(&system->own, size, alignment ? alignment : system->config.alignment), size);
}

void memory_free(advanced_memory_system_t *system, void *ptr) {
    if (system && ptr)
        uncount(system, give(&system->own, ptr));
}

void *memory_reallocate(advanced_memory_system_t *system, void *ptr, size_t new_size) {
    if (!system)
        return NULL;
    if (!ptr)
        return memory_allocate(system, new_size, 0);
    struct block *old = *find(&system->own, ptr);
    void *moved = old && new_size ? memory_allocate(system, new_size, old->alignment) : NULL;
    if (moved)
        memcpy(moved, ptr, old->size < new_size ? old->size : new_size);
    if (moved || !new_size)
        memory_free(system, ptr);
    return moved;
}

void *advanced_create_memory_pool(advanced_memory_system_t *system, const pool_config_t *config) {
    struct pool *pool = system && config ? calloc(1, sizeof *pool) : NULL;
    if (!pool)
        return NULL;
    pool->head.config = *config;
    pthread_mutex_lock(&lock);
    pool->next = system->pools;
    system->pools = pool;
    pthread_mutex_unlock(&lock);
    return pool;
}

static struct pool **pool_of(advanced_memory_system_t *system, void *pool) {
    struct pool **at = &system->pools;
    while (*at && *at != pool)
        at = &(*at)->next;
    return at;
}

void advanced_destroy_memory_pool(advanced_memory_system_t *system, void *pool) {
    if (!system || !pool)
        return;
    pthread_mutex_lock(&lock);
    struct pool **at = pool_of(system, pool), *found = *at;
    if (found)
        *at = found->next;
    pthread_mutex_unlock(&lock);
    if (found)
        empty(found);
    free(found);
}

void *advanced_pool_allocate(advanced_memory_system_t *system, void *pool, size_t size) {
    return system && pool ? count(system, take(pool, size, 0), size) : NULL;
}

void advanced_pool_free(advanced_memory_system_t *system, void *pool, void *ptr) {
    if (system && pool && ptr)
        uncount(system, give(pool, ptr));
}

void *ams_create_memory_pool(advanced_memory_system_t *system, const pool_config_t *config) {
    return advanced_create_memory_pool(system, config);
}
void ams_destroy_memory_pool(advanced_memory_system_t *system, void *pool) {
    advanced_destroy_memory_pool(system, pool);
}
void *ams_pool_allocate(advanced_memory_system_t *system, void *pool, size_t size) {
    return advanced_pool_allocate(system, pool, size);
}
void ams_pool_free(advanced_memory_system_t *system, void *pool, void *ptr) {
    advanced_pool_free(system, pool, ptr);
}

MemoryLayout *create_memory_layout(advanced_memory_pool_t *head, const size_t *dimensions, size_t num_dims,
                                   geometric_state_type_t geom_type) {
    struct pool *pool = (struct pool *)(void *)head;
    struct layout *made = pool && dimensions && num_dims && num_dims <= QGT_MAX_DIMENSIONS
                              ? calloc(1, sizeof *made)
                              : NULL;
    if (!made)
        return NULL;
    MemoryLayout *layout = &made->layout;
    layout->total_size = 1;
    for (size_t i = 0; i < num_dims; i++) {
        layout->dimensions[i] = dimensions[i];
        layout->strides[i] = layout->total_size;
        if (__builtin_mul_overflow(layout->total_size, dimensions[i], &layout->total_size))
            layout->total_size = 0;
    }
    layout->total_size = (layout->total_size + 63) & ~(size_t)63;
    layout->is_geometric = true;
    layout->geom_type = geom_type;
    layout->base_ptr = take(pool, layout->total_size, 64);
    if (!layout->base_ptr) {
        free(made);
        return NULL;
    }
    made->next = pool->layouts;
    pool->layouts = made;
    pool->head.num_layouts++;
    return layout;
}

MemoryBuffer *create_memory_buffer(advanced_memory_pool_t *head, size_t size, bool gpu_accessible,
                                   bool quantum_accessible, HardwareType hardware) {
    struct pool *pool = (struct pool *)(void *)head;
    struct buffer *made = pool && size ? calloc(1, sizeof *made) : NULL;
    if (!made)
        return NULL;
    MemoryBuffer *buffer = &made->buffer;
    *buffer = (MemoryBuffer){NULL, take(pool, size, 64), NULL, size, true, gpu_accessible, hardware};
    if (gpu_accessible)
        buffer->gpu_ptr = take(pool, size, 64);
    if (quantum_accessible)
        buffer->quantum_ptr = take(pool, size, 64);
    made->next = pool->buffers;
    pool->buffers = made;
    pool->head.num_buffers++;
    return buffer;
}

void memory_copy(MemoryLayout *dst, const MemoryLayout *src, size_t size) {
    if (dst && src && size <= dst->total_size && size <= src->total_size)
        memmove(dst->base_ptr, src->base_ptr, size);
}

void memory_transfer(MemoryBuffer *buffer, geometric_state_type_t direction) {
    if (!buffer)
        return;
    void *to = NULL, *from = NULL;
    switch (direction) {
    case GEOMETRIC_STATE_EUCLIDEAN: to = buffer->gpu_ptr, from = buffer->cpu_ptr; break;
    case GEOMETRIC_STATE_HYPERBOLIC: to = buffer->cpu_ptr, from = buffer->gpu_ptr; break;
    case GEOMETRIC_STATE_SPHERICAL: to = buffer->quantum_ptr, from = buffer->cpu_ptr; break;
    case GEOMETRIC_STATE_SYMPLECTIC: to = buffer->cpu_ptr, from = buffer->quantum_ptr; break;
    default: break;
    }
    if (to && from)
        memcpy(to, from, buffer->size);
}

void update_memory_access(advanced_memory_pool_t *head) {
    struct pool *pool = (struct pool *)(void *)head;
    for (struct layout *at = pool && head->config.enable_stats ? pool->layouts : NULL; at; at = at->next)
        at->layout.geom_type = GEOMETRIC_STATE_EUCLIDEAN;
}

bool optimize_memory_usage(advanced_memory_system_t *system, optimization_level_t level) {
    return system && level <= MEM_OPT_AGGRESSIVE;
}
bool optimize_allocation_strategy(advanced_memory_system_t *system, allocation_strategy_t strategy) {
    if (system)
        system->config.strategy = strategy;
    return system;
}
bool optimize_pool_configuration(advanced_memory_system_t *system, void *pool, const pool_config_t *config) {
    if (!system || !pool || !config)
        return false;
    ((struct pool *)pool)->head.config = *config;
    return true;
}
bool start_defragmentation(advanced_memory_system_t *system, const defrag_config_t *config) {
    return system && config;
}
bool stop_defragmentation(advanced_memory_system_t *system) { return system; }
bool is_defragmentation_needed(const advanced_memory_system_t *system, double *fragmentation_level) {
    return analyze_fragmentation(system, fragmentation_level) && *fragmentation_level > 0.2;
}

bool get_block_info(const advanced_memory_system_t *system, void *ptr, block_info_t *info) {
    struct pool *pool = NULL;
    struct block *block = look_up(system, ptr, &pool);
    if (!block || !info)
        return false;
    *info = (block_info_t){ptr, block->size, true, block->alignment, 0, pool};
    return true;
}
bool get_memory_metrics(const advanced_memory_system_t *system, memory_metrics_t *metrics) {
    if (!system || !metrics)
        return false;
    *metrics = system->metrics;
    return true;
}
bool analyze_fragmentation(const advanced_memory_system_t *system, double *fragmentation_level) {
    if (!system || !fragmentation_level)
        return false;
    *fragmentation_level = 0;
    return true;
}
bool start_memory_monitoring(advanced_memory_system_t *system) { return system; }
bool stop_memory_monitoring(advanced_memory_system_t *system) { return system; }
bool reset_memory_metrics(advanced_memory_system_t *system) {
    if (system)
        system->metrics = (memory_metrics_t){.peak_usage = system->metrics.current_usage,
                                             .current_usage = system->metrics.current_usage};
    return system;
}
bool validate_memory_block(const advanced_memory_system_t *system, void *ptr) { return look_up(system, ptr, NULL); }
bool check_memory_corruption(const advanced_memory_system_t *system, void *ptr) {
    return look_up(system, ptr, NULL);
}
size_t get_allocation_size(const advanced_memory_system_t *system, void *ptr) {
    struct block *block = look_up(system, ptr, NULL);
    return block ? block->size : 0;
}

size_t legacy_system_calls(void) { return calls; }
