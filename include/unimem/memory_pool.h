/* unimem/memory_pool.h - drop-in for quantum_geometric/core/memory_pool.h: pools of blocks of any size.
 *
 * Every function may be called from any thread. A failed call says why through unimem_last_error() (unimem.h).
 *
 * advanced_memory_system.h has a MemoryPool and four pool functions of the same names. Of the two headers the one
 * that comes first in a file gives them; this one's structure is `simple_memory_pool_t` in any case. */
#ifndef UNIMEM_MEMORY_POOL_H
#define UNIMEM_MEMORY_POOL_H
#ifndef MEMORY_POOL_H /* the legacy header's own guard: it is not to come after this one */
#define MEMORY_POOL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifndef __cplusplus
#include <stdatomic.h>
#endif
#include "legacy_types.h"

#if defined(ADVANCED_MEMORY_SYSTEM_H) && !defined(UNIMEM_ADVANCED_MEMORY_SYSTEM_H)
#define UNIMEM_MEMORY_POOL_NAMED 1 /* by the legacy advanced_memory_system.h */
#endif

#define QG_POOL_ALIGNMENT 64
#define QG_NUM_SIZE_CLASSES 64
#define QG_MIN_BLOCK_SIZE 128
#define QG_MAX_BLOCK_SIZE (4 * 1024 * 1024)
#define QG_MAX_THREAD_CACHE 1024

/* C++ has no _Atomic; the layout is the same. Read the counters through the functions below. */
#ifdef __cplusplus
#define UNIMEM_ATOMIC_SIZE size_t
extern "C" {
#else
#define UNIMEM_ATOMIC_SIZE _Atomic(size_t)
#endif

/** The 128 bytes before each block of a pool. Written when the block is made, and never read by the library. */
typedef struct Block {
    size_t size;         /**< bytes of the block: at least the request rounded up to 64 */
    uint32_t magic;      /**< 0xDEADBEEF */
    bool is_free;        /**< false */
    uint16_t size_class; /**< number of the size class */
    struct Block *next;  /**< NULL */
    struct Block *prev;  /**< NULL */
    char padding[40];
    void *data;          /**< the block itself */
} __attribute__((aligned(64))) Block;

/** The legacy pool's own book-keeping, of which libunimem fills in block_size alone. */
typedef struct SizeClass {
    size_t block_size;
    Block *free_list;
    pthread_mutex_t mutex;
    size_t num_blocks;
    size_t max_blocks;
    size_t hits;
    size_t misses;
} SizeClass;

/** A pool. Made by create_memory_pool() alone; its fields may be read. */
#if defined(__cplusplus) && defined(UNIMEM_MEMORY_POOL_NAMED) /* where a tag is a type's name, too */
typedef struct simple_memory_pool {
#else
typedef struct MemoryPool {
#endif
    void *base_address;                 /**< an address inside the pool's memory */
    size_t total_size;                  /**< bytes the pool holds now */
    SizeClass *size_classes;            /**< the heap's size classes */
    size_t num_classes;                 /**< number of size classes */
    Block *large_blocks;                /**< NULL */
    UNIMEM_ATOMIC_SIZE total_allocated; /**< use get_total_allocated() */
    UNIMEM_ATOMIC_SIZE peak_allocated;  /**< use get_peak_allocated() */
    UNIMEM_ATOMIC_SIZE num_allocations; /**< use get_num_allocations() */
    pthread_mutex_t mutex;              /**< unused */
    struct PoolConfig config;           /**< what the pool was made from */
} simple_memory_pool_t;
#undef UNIMEM_ATOMIC_SIZE

#ifndef UNIMEM_MEMORY_POOL_NAMED
#define UNIMEM_MEMORY_POOL_NAMED 1
typedef simple_memory_pool_t MemoryPool;

/**
 * Makes a pool.
 *
 * @param config  what kind of pool; zeros take their defaults
 * @return the pool, to be given to destroy_memory_pool(); NULL for a NULL or impossible configuration, or without memory
 */
MemoryPool *create_memory_pool(const struct PoolConfig *config);

/**
 * Allocates `size` bytes, aligned to 64 or to the configuration's alignment if that is larger.
 *
 * @return the block, not zeroed; NULL for size 0, a NULL pool, or without memory
 */
void *pool_allocate(MemoryPool *pool, size_t size);

/**
 * Frees a block of this pool, or tiered memory made through its unimem_pool_interface(); NULL does nothing, any other
 * pointer is refused and nothing changes.
 */
void pool_free(MemoryPool *pool, void *ptr);

/** Frees the pool and all blocks it ever handed out, live ones too. NULL does nothing. */
void destroy_memory_pool(MemoryPool *pool);
#endif

/** Bytes live now, as they were asked for; 0 where statistics are off. */
size_t get_total_allocated(const simple_memory_pool_t *pool);
/** Most bytes live at once: exact with one thread, with more never low by over 64 KiB a thread. */
size_t get_peak_allocated(const simple_memory_pool_t *pool);
/** Successful allocations so far. */
size_t get_num_allocations(const simple_memory_pool_t *pool);

#ifdef __cplusplus
}
#endif
#endif /* MEMORY_POOL_H */
#endif /* UNIMEM_MEMORY_POOL_H */
