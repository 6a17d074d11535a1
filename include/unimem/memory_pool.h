/* unimem/memory_pool.h - drop-in for quantum_geometric/core/memory_pool.h: pools of blocks of any size.
 *
 * Every function may be called from any thread. A failed call changes nothing and says why through
 * unimem_last_error() (unimem.h). Sizes are in bytes.
 *
 * advanced_memory_system.h has a MemoryPool and four pool functions of the same names. In a file that includes both
 * headers, the first one defines the names. This header's pool structure is always called `simple_memory_pool_t` as
 * well. */
#ifndef UNIMEM_MEMORY_POOL_H
#define UNIMEM_MEMORY_POOL_H
#ifndef MEMORY_POOL_H /* the legacy header's own guard: it must not come after this one */
#define MEMORY_POOL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#if !defined(__cplusplus) && __STDC_VERSION__ >= 201112L
#include <stdatomic.h>
#endif
#include "legacy_types.h"

#if defined(ADVANCED_MEMORY_SYSTEM_H) && !defined(UNIMEM_ADVANCED_MEMORY_SYSTEM_H)
#define UNIMEM_MEMORY_POOL_NAMED 1 /* named by the legacy advanced_memory_system.h */
#endif

#define QG_POOL_ALIGNMENT 64
#define QG_NUM_SIZE_CLASSES 64
#define QG_MIN_BLOCK_SIZE 128
#define QG_MAX_BLOCK_SIZE (4 * 1024 * 1024)
#define QG_MAX_THREAD_CACHE 1024

/* C++ and C99 have no _Atomic; the layout is the same. Read the counters through the functions below. */
#if !defined(__cplusplus) && __STDC_VERSION__ >= 201112L
#define UNIMEM_ATOMIC_SIZE _Atomic(size_t)
#else
#define UNIMEM_ATOMIC_SIZE size_t
#endif

#ifdef __cplusplus
extern "C" {
#endif

/** The 128 bytes before each block of a pool. The library writes them once, when it makes the block, and never reads
 * them. */
typedef struct Block {
    size_t size;         /**< bytes of the block: the request rounded up to 64, or more */
    uint32_t magic;      /**< 0xDEADBEEF */
    bool is_free;        /**< always false */
    uint16_t size_class; /**< number of the size class */
    struct Block *next;  /**< always NULL */
    struct Block *prev;  /**< always NULL */
    char padding[40];
    void *data;          /**< the block, which begins behind this header */
} __attribute__((aligned(64))) Block;

/** The legacy pool's own book-keeping. libunimem fills in only block_size. */
typedef struct SizeClass {
    size_t block_size;
    Block *free_list;
    pthread_mutex_t mutex;
    size_t num_blocks;
    size_t max_blocks;
    size_t hits;
    size_t misses;
} SizeClass;

/** A pool. Only create_memory_pool() makes one. Programs may read its fields. */
#if defined(__cplusplus) && defined(UNIMEM_MEMORY_POOL_NAMED) /* in C++ a structure's tag is also the name of a type */
typedef struct simple_memory_pool {
#else
typedef struct MemoryPool {
#endif
    void *base_address;                 /**< an address inside the pool's memory */
    size_t total_size;                  /**< bytes that the pool holds now */
    SizeClass *size_classes;            /**< the size classes of the heap */
    size_t num_classes;                 /**< number of size classes */
    Block *large_blocks;                /**< always NULL */
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
 * @param config  the configuration; a field that is 0 takes its default
 * @return the pool, to be given to destroy_memory_pool(). NULL without memory, and if the configuration is NULL or
 *         impossible, such as an alignment above 64 that is not a power of two up to 1 GiB
 */
MemoryPool *create_memory_pool(const struct PoolConfig *config);

/**
 * Allocates `size` bytes, aligned to 64 or to the configuration's alignment if that is larger.
 *
 * @return the block, not zeroed; NULL for a `size` of 0, for a NULL pool, or without memory
 */
void *pool_allocate(MemoryPool *pool, size_t size);

/**
 * Frees a block of this pool, or tiered memory that its unimem_pool_interface() allocated. NULL does nothing. Any other
 * pointer is refused, and nothing changes.
 */
void pool_free(MemoryPool *pool, void *ptr);

/** Destroys a pool and frees all its blocks, also those that other threads have cached. Live blocks are freed too and
 * reported to the log. NULL does nothing. No other thread may be inside the pool, and nobody may use it afterwards. */
void destroy_memory_pool(MemoryPool *pool);
#endif

/** Returns the bytes that are live now, as requested; 0 if statistics are off. */
size_t get_total_allocated(const simple_memory_pool_t *pool);
/** Returns the most bytes that were live at once; 0 if statistics are off. With one thread it is exact; with several
 * it is never too low by more than 64 KiB for each thread. */
size_t get_peak_allocated(const simple_memory_pool_t *pool);
/** Returns the number of allocations that succeeded; 0 if statistics are off. */
size_t get_num_allocations(const simple_memory_pool_t *pool);

#ifdef __cplusplus
}
#endif
#endif /* MEMORY_POOL_H */
#endif /* UNIMEM_MEMORY_POOL_H */
