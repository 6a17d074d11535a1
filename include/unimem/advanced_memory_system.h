/* unimem/advanced_memory_system.h - drop-in for quantum_geometric/core/advanced_memory_system.h: memory systems that
 * the whole program shares, with pools, layouts and buffers.
 *
 * Every function may be called from any thread. A failed call changes nothing and says why through
 * unimem_last_error() (unimem.h). Sizes are in bytes.
 *
 * Programs written for either generation of the legacy header compile. The older generation's
 * create_memory_pool(system, config), pool_allocate(system, pool, size), pool_free(system, pool, ptr) and
 * destroy_memory_pool(system, pool) are the ams_ functions under other names.
 *
 * memory_pool.h has a MemoryPool and functions of the same names. In a file that includes both headers, the first
 * one defines the names. This header's pool structure is always called `advanced_memory_pool_t` as well. Define
 * UNIMEM_NO_OLD_NAMES to leave the names to memory_pool.h; that is necessary where the legacy memory_pool.h comes
 * later. */
#ifndef UNIMEM_ADVANCED_MEMORY_SYSTEM_H
#define UNIMEM_ADVANCED_MEMORY_SYSTEM_H
#if defined(ADVANCED_MEMORY_SYSTEM_H) && !defined(UNIMEM_MEMORY_POOL_NAMED)
#define UNIMEM_MEMORY_POOL_NAMED 1 /* named by the legacy advanced_memory_system.h */
#endif
#ifndef ADVANCED_MEMORY_SYSTEM_H /* the legacy header's own guard: it must not come after this one */
#define ADVANCED_MEMORY_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>
#include "legacy_types.h"

#if defined(MEMORY_POOL_H) && !defined(UNIMEM_MEMORY_POOL_NAMED)
#define UNIMEM_MEMORY_POOL_NAMED 1 /* named by the legacy memory_pool.h */
#endif

#ifdef __cplusplus
extern "C" {
#endif

/** Has no effect: one heap serves every type. */
typedef enum {
    MEM_SYSTEM_STANDARD,
    MEM_SYSTEM_POOLED,
    MEM_SYSTEM_QUANTUM,
    MEM_SYSTEM_HYBRID
} memory_system_type_t;

/** Has no effect: the heap's size classes serve every strategy. */
typedef enum {
    ALLOC_STRATEGY_BEST_FIT,
    ALLOC_STRATEGY_FIRST_FIT,
    ALLOC_STRATEGY_BUDDY,
    ALLOC_STRATEGY_SLAB
} allocation_strategy_t;

/** What optimize_memory_usage() returns to the operating system. */
typedef enum {
    MEM_OPT_NONE,      /**< nothing */
    MEM_OPT_BASIC,     /**< unused memory of the system itself */
    MEM_OPT_ADVANCED,  /**< unused memory of the system and of its pools */
    MEM_OPT_AGGRESSIVE /**< the same as MEM_OPT_ADVANCED */
} optimization_level_t;

/** The configuration of a memory system. A field that is 0 takes its default. */
typedef struct {
    memory_system_type_t type;
    allocation_strategy_t strategy;
    optimization_level_t optimization; /**< has no effect: optimize_memory_usage() is told its own */
    size_t total_size;           /**< a hint: nothing is set aside, and the system may grow beyond it */
    size_t block_size;           /**< a hint */
    size_t alignment;            /**< default alignment, rounded up to a power of two; 0: 64 */
    bool enable_monitoring;      /**< as if start_memory_monitoring() had been called at once */
    bool enable_defragmentation; /**< has no effect: unused memory returns by itself after some seconds */
} memory_system_config_t;

/** The configuration of a system's pool. A field that is 0 takes its default. */
typedef struct {
    size_t pool_size;   /**< most live bytes, unless enable_growth is set; 0: no limit */
    size_t block_size;  /**< bytes of the largest request, if fixed_size is set */
    size_t max_blocks;  /**< most live blocks, unless enable_growth is set; 0: no limit */
    bool fixed_size;    /**< requests larger than block_size fail; block_size must not be 0 */
    bool thread_safe;   /**< has no effect: every pool is thread-safe */
    bool enable_growth; /**< pool_size and max_blocks are only hints */
    bool enable_stats;  /**< lets update_memory_access() tag the layouts; metrics are always counted */
} pool_config_t;

/** What a system and its pools have done. */
typedef struct {
    size_t total_allocated;  /**< bytes allocated since creation or reset, including freed ones */
    size_t total_freed;      /**< bytes freed since then */
    size_t peak_usage;       /**< most bytes live at once since then */
    size_t current_usage;    /**< bytes live now */
    double fragmentation;    /**< share of the memory held that nothing uses, 0 to 1 */
    size_t allocation_count; /**< allocations since creation or reset */
} memory_metrics_t;

/** What is known about one block. */
typedef struct {
    void *address;     /**< where it begins */
    size_t size;       /**< bytes, as requested */
    bool is_allocated; /**< always true */
    size_t alignment;  /**< bytes; a power of two */
    size_t padding;    /**< bytes from the end of the request to the end of the block */
    void *pool;        /**< the pool that it came from; NULL: from the system itself */
} block_info_t;

/** When and how start_defragmentation() returns memory. No block ever moves. */
typedef struct {
    double threshold;    /**< fragmentation, 0 to 1, below which nothing is done */
    size_t max_moves;    /**< has no effect */
    bool compact_pools;  /**< whether the pools return memory too */
    bool preserve_order; /**< has no effect: order is always preserved */
    bool incremental;    /**< has no effect */
    size_t batch_size;   /**< has no effect */
} defrag_config_t;

/** A dense array with its shape. An element is one byte; the first dimension runs fastest. */
typedef struct {
    void *base_ptr;                        /**< the array; zeroed when made, aligned to 64 */
    size_t dimensions[QGT_MAX_DIMENSIONS]; /**< extents; 0 beyond the last dimension */
    size_t strides[QGT_MAX_DIMENSIONS];    /**< bytes from one index to the next; 0 beyond the last dimension */
    size_t total_size;                     /**< bytes: the product of the extents, rounded up to 64 */
    bool is_geometric;                     /**< always true */
    geometric_state_type_t geom_type;      /**< as given, or as update_memory_access() set it */
} MemoryLayout;

/** Memory of the processor, with mirrors of the same size. All of it is RAM. */
typedef struct {
    void *gpu_ptr;     /**< the GPU mirror; NULL if none was asked for */
    void *cpu_ptr;     /**< zeroed when made, aligned to 64 */
    void *quantum_ptr; /**< the quantum mirror; NULL if none was asked for */
    size_t size;       /**< bytes of each */
    bool is_pinned;    /**< always true */
    bool is_unified;   /**< whether there is a GPU mirror */
    HardwareType hardware;
} MemoryBuffer;

/** A pool of a memory system. Only advanced_create_memory_pool() and ams_create_memory_pool() make one. Programs may
 * read it. */
typedef struct advanced_memory_pool {
    MemoryLayout *layouts; /**< always NULL: layouts are not kept in one array, so that none of them ever moves */
    MemoryBuffer *buffers; /**< always NULL */
    size_t num_layouts;    /**< layouts made by create_memory_layout() */
    size_t num_buffers;    /**< buffers made by create_memory_buffer() */
    void *fast_path_cache; /**< always NULL */
    pool_config_t config;  /**< what the pool was made from */
    bool use_neon;         /**< always false */
} advanced_memory_pool_t;

/** A memory system. */
typedef struct advanced_memory_system_t advanced_memory_system_t;

/**
 * Returns the program's memory system. If there is one it gets another reference; otherwise a new one is made.
 *
 * @param config  configuration of a new system; may be NULL if there is a system
 * @return the system; give it to destroy_memory_system() once for each time that it was returned. NULL without memory,
 *         and if there is no system and `config` is NULL
 */
advanced_memory_system_t *create_memory_system(const memory_system_config_t *config);
/** Gives up one reference to a system. The last one frees the system, its pools and all their blocks. Live blocks are
 * reported to the log. */
void destroy_memory_system(advanced_memory_system_t *system);

/**
 * Allocates zeroed memory on the caller's NUMA node.
 *
 * @param alignment  bytes, up to 1 GiB, rounded up to a power of two; 0: the configuration's alignment
 * @return the block; NULL for a NULL system, a `size` of 0, a larger alignment, or without memory
 */
void *memory_allocate(advanced_memory_system_t *system, size_t size, size_t alignment);
/**
 * Frees a block of memory_allocate(), or memory that the system's unimem_system_interface() allocated. NULL does
 * nothing. Any other pointer is ignored.
 */
void memory_free(advanced_memory_system_t *system, void *ptr);
/**
 * Changes the size of a block. The contents up to the smaller size and the alignment stay. New bytes are zeroed.
 *
 * @param ptr       a pointer that memory_free() would free; NULL allocates
 * @param new_size  bytes; 0 frees
 * @return the block, which may have moved; NULL after freeing. NULL on failure too: then the old block is untouched
 */
void *memory_reallocate(advanced_memory_system_t *system, void *ptr, size_t new_size);

/** Makes a pool of a system. NULL if an argument is NULL, if the configuration is impossible, or without memory. */
void *advanced_create_memory_pool(advanced_memory_system_t *system, const pool_config_t *config);
/** Destroys a pool of the system and frees all its blocks, layouts and buffers. Any other pointer is ignored. No
 * other thread may use the pool meanwhile. */
void advanced_destroy_memory_pool(advanced_memory_system_t *system, void *pool);
/** Allocates zeroed memory from a pool, aligned to 64. NULL for a `size` of 0, beyond the pool's limits
 * (UNIMEM_ERROR_LIMIT), or without memory. */
void *advanced_pool_allocate(advanced_memory_system_t *system, void *pool, size_t size);
/** Frees a block of the pool. NULL does nothing. Any other pointer is ignored. */
void advanced_pool_free(advanced_memory_system_t *system, void *pool, void *ptr);

/** The same as advanced_create_memory_pool(). */
void *ams_create_memory_pool(advanced_memory_system_t *system, const pool_config_t *config);
/** The same as advanced_destroy_memory_pool(). */
void ams_destroy_memory_pool(advanced_memory_system_t *system, void *pool);
/** The same as advanced_pool_allocate(). */
void *ams_pool_allocate(advanced_memory_system_t *system, void *pool, size_t size);
/** The same as advanced_pool_free(). */
void ams_pool_free(advanced_memory_system_t *system, void *pool, void *ptr);

#if !defined(UNIMEM_MEMORY_POOL_NAMED) && !defined(UNIMEM_NO_OLD_NAMES)
#define UNIMEM_MEMORY_POOL_NAMED 1
#if defined __GNUC__ && !defined __cplusplus
#pragma GCC diagnostic push /* unimem.h has a structure with this tag; in C++ it has none */
#pragma GCC diagnostic ignored "-Wc++-compat"
#endif
typedef advanced_memory_pool_t MemoryPool;
#if defined __GNUC__ && !defined __cplusplus
#pragma GCC diagnostic pop
#endif
/* The older generation's names for the four functions above. The macros bind these names to the ams_ symbols. */
#define UNIMEM_TEXT_(name) #name
#define UNIMEM_TEXT(name) UNIMEM_TEXT_(name)
#define UNIMEM_SYMBOL(name) __asm__(UNIMEM_TEXT(__USER_LABEL_PREFIX__) #name)
void *create_memory_pool(advanced_memory_system_t *system, const pool_config_t *config)
    UNIMEM_SYMBOL(ams_create_memory_pool);
void destroy_memory_pool(advanced_memory_system_t *system, void *pool) UNIMEM_SYMBOL(ams_destroy_memory_pool);
void *pool_allocate(advanced_memory_system_t *system, void *pool, size_t size) UNIMEM_SYMBOL(ams_pool_allocate);
void pool_free(advanced_memory_system_t *system, void *pool, void *ptr) UNIMEM_SYMBOL(ams_pool_free);
#undef UNIMEM_SYMBOL
#undef UNIMEM_TEXT
#undef UNIMEM_TEXT_
#endif

/**
 * Makes an array that belongs to a pool, of which it is a block.
 *
 * @param pool        a pool of advanced_create_memory_pool()
 * @param dimensions  `num_dims` extents in bytes, the fastest dimension first, none of them 0
 * @param num_dims    1 to QGT_MAX_DIMENSIONS
 * @return the layout, valid until its pool is destroyed; NULL for bad arguments, beyond the pool's limits, or without
 *         memory
 */
MemoryLayout *create_memory_layout(advanced_memory_pool_t *pool, const size_t *dimensions, size_t num_dims,
                                   geometric_state_type_t geom_type);
/**
 * Makes a buffer that belongs to a pool, with the mirrors that are asked for. It and each mirror is a block of the pool.
 *
 * @return the buffer, valid until its pool is destroyed; NULL for a NULL pool, a `size` of 0, beyond the pool's limits,
 *         or without memory
 */
MemoryBuffer *create_memory_buffer(advanced_memory_pool_t *pool, size_t size, bool gpu_accessible,
                                   bool quantum_accessible, HardwareType hardware);
/** Copies `size` bytes from one layout to another, which may be the same. Copies nothing if either is smaller than
 * `size`. */
void memory_copy(MemoryLayout *dst, const MemoryLayout *src, size_t size);
/** Copies a buffer between the processor's memory and a mirror, in the direction that geometric_state_type_t names.
 * Copies nothing if the buffer does not have that mirror, and for values that name no direction. */
void memory_transfer(MemoryBuffer *buffer, geometric_state_type_t direction);
/** Tags all layouts of a pool as GEOMETRIC_STATE_EUCLIDEAN if its configuration has enable_stats, as the legacy
 * function does. */
void update_memory_access(advanced_memory_pool_t *pool);

/** Returns unused memory to the operating system. False for a NULL system or an unknown level. */
bool optimize_memory_usage(advanced_memory_system_t *system, optimization_level_t level);
/** Accepts any strategy and changes nothing, because the heap serves them all. False for a NULL system or an unknown
 * strategy. */
bool optimize_allocation_strategy(advanced_memory_system_t *system, allocation_strategy_t strategy);
/** Changes the configuration of a pool. Live blocks stay, even beyond the new limits. False if an argument is NULL or
 * the configuration is impossible. */
bool optimize_pool_configuration(advanced_memory_system_t *system, void *pool, const pool_config_t *config);

/** Returns unused memory to the operating system if fragmentation has reached the threshold. False only for bad
 * arguments, such as a threshold that is not a number. */
bool start_defragmentation(advanced_memory_system_t *system, const defrag_config_t *config);
/** Tells whether a defragmentation was started since the last call. It is always finished by then. */
bool stop_defragmentation(advanced_memory_system_t *system);
/** Tells whether fragmentation is above 0.2, and writes it (0 to 1) to `fragmentation_level`, which may be NULL. */
bool is_defragmentation_needed(const advanced_memory_system_t *system, double *fragmentation_level);

/** Writes what is known about the live block that starts at `ptr`. False, and nothing is written, if there is none. */
bool get_block_info(const advanced_memory_system_t *system, void *ptr, block_info_t *info);
/** Writes what the system and its pools have done. False if an argument is NULL. */
bool get_memory_metrics(const advanced_memory_system_t *system, memory_metrics_t *metrics);
/** Writes the share of the memory held that neither live blocks nor chunks of tiered memory use, 0 to 1. False if an
 * argument is NULL. */
bool analyze_fragmentation(const advanced_memory_system_t *system, double *fragmentation_level);

/** Puts guard bytes behind each block that is allocated from now on, by the system, its pools or its
 * unimem_system_interface(), but for streaming and hierarchical memory. False for NULL. */
bool start_memory_monitoring(advanced_memory_system_t *system);
/** Puts no guard bytes behind blocks that are allocated from now on. False for NULL. */
bool stop_memory_monitoring(advanced_memory_system_t *system);
/** Resets the metrics: the peak to what is live now, the counts to 0. False for NULL. */
bool reset_memory_metrics(advanced_memory_system_t *system);

/** Tells whether `ptr` points into a live block of the system or of its pools, at its start or inside. */
bool validate_memory_block(const advanced_memory_system_t *system, void *ptr);
/** Tells whether a live block starts at `ptr` and its guard bytes, if it has any, are intact. As in the legacy
 * function, true means that the block is good. */
bool check_memory_corruption(const advanced_memory_system_t *system, void *ptr);
/** Returns the bytes that the live block at `ptr` was requested with; 0 if there is none. */
size_t get_allocation_size(const advanced_memory_system_t *system, void *ptr);

#ifdef __cplusplus
}
#endif
#endif /* ADVANCED_MEMORY_SYSTEM_H */
#endif /* UNIMEM_ADVANCED_MEMORY_SYSTEM_H */
