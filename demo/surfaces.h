/* The allocators that a trace is replayed through, each behind the same few functions: three surfaces of libunimem,
 * used as a program would use them, and the C library's malloc. */
#ifndef UNIMEM_DEMO_SURFACES_H
#define UNIMEM_DEMO_SURFACES_H

#include "unimem.h"
#include "unimem/memory_pool.h"
#include "unimem/advanced_memory_system.h" /* after memory_pool.h, whose names come first */

#include <malloc.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* What a program gets from malloc when it asks for no alignment. */
enum { MALLOC_ALIGNMENT = 16 };

typedef struct {
    const char *name;
    bool zeroed; /* hands out zeroed memory */
    bool (*open)(void);
    void *(*allocate)(size_t size, size_t alignment);
    void (*free)(void *block);
    void *(*resize)(void *block, size_t old_size, size_t new_size);
    unified_memory_interface_t *(*interface)(void); /* for its statistics; NULL: it has none */
    void (*close)(void);
} surface_t;

/* The unified interface. */
static unified_memory_interface_t *surface_memory;

static inline bool interface_open(void) {
    surface_memory = unimem_open(NULL);
    return surface_memory != NULL;
}
static inline void *interface_allocate(size_t size, size_t alignment) {
    return surface_memory->allocate(size, alignment);
}
static inline void interface_free(void *block) { surface_memory->free(block); }
static inline void *interface_resize(void *block, size_t old_size, size_t new_size) {
    (void)old_size;
    return surface_memory->realloc(block, new_size);
}
static inline unified_memory_interface_t *interface_interface(void) { return surface_memory; }
static inline void interface_close(void) { unimem_close(surface_memory); }

/* The memory pool: blocks with a header, aligned to 64, and no realloc of its own. */
static MemoryPool *surface_pool;

static inline bool pool_open(void) {
    const PoolConfig config = {
        .num_size_classes = 32, .thread_cache_size = 64, .cache_local_free_lists = true, .enable_stats = true};
    surface_pool = create_memory_pool(&config);
    return surface_pool != NULL;
}
static inline void *pool_get(size_t size, size_t alignment) {
    return alignment <= QG_POOL_ALIGNMENT ? pool_allocate(surface_pool, size) : NULL;
}
static inline void pool_give(void *block) { pool_free(surface_pool, block); }
static inline void *pool_resize(void *block, size_t old_size, size_t new_size) {
    void *moved = pool_allocate(surface_pool, new_size);
    if (!moved) return NULL;
    memcpy(moved, block, old_size < new_size ? old_size : new_size);
    pool_free(surface_pool, block);
    return moved;
}
static inline unified_memory_interface_t *pool_interface(void) { return unimem_pool_interface(surface_pool); }
static inline void pool_close(void) { destroy_memory_pool(surface_pool); }

/* The advanced memory system: zeroed memory. */
static advanced_memory_system_t *surface_system;

static inline bool system_open(void) {
    const memory_system_config_t config = {.type = MEM_SYSTEM_HYBRID};
    surface_system = create_memory_system(&config);
    return surface_system != NULL;
}
static inline void *system_allocate(size_t size, size_t alignment) {
    return memory_allocate(surface_system, size, alignment);
}
static inline void system_free(void *block) { memory_free(surface_system, block); }
static inline void *system_resize(void *block, size_t old_size, size_t new_size) {
    (void)old_size;
    return memory_reallocate(surface_system, block, new_size);
}
static inline unified_memory_interface_t *system_interface(void) { return unimem_system_interface(surface_system); }
static inline void system_close(void) { destroy_memory_system(surface_system); }

/* The C library's malloc. */
static inline bool malloc_open(void) { return true; }
static inline void *malloc_allocate(size_t size, size_t alignment) {
    return alignment <= MALLOC_ALIGNMENT ? malloc(size)
                                         : aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}
static inline void malloc_free(void *block) { free(block); }
static inline void *malloc_resize(void *block, size_t old_size, size_t new_size) {
    (void)old_size;
    return realloc(block, new_size);
}
static inline void malloc_close(void) {}

enum { SURFACE_MALLOC, SURFACE_INTERFACE, SURFACE_POOL, SURFACE_SYSTEM, SURFACES };

static const surface_t surfaces[SURFACES] = {
    {"glibc malloc", false, malloc_open, malloc_allocate, malloc_free, malloc_resize, NULL, malloc_close},
    {"interface", false, interface_open, interface_allocate, interface_free, interface_resize, interface_interface,
     interface_close},
    {"memory pool", false, pool_open, pool_get, pool_give, pool_resize, pool_interface, pool_close},
    {"advanced system", true, system_open, system_allocate, system_free, system_resize, system_interface, system_close},
};

/* Bytes that the C library holds for malloc's blocks. */
static inline size_t malloc_held(void) {
#if defined(__GLIBC__) && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
    struct mallinfo2 info = mallinfo2();
    return info.arena + info.hblkhd;
#else
    return 0;
#endif
}

#endif
