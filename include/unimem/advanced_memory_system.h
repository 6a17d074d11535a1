/* unimem/advanced_memory_system.h - drop-in for quantum_geometric/core/advanced_memory_system.h: memory systems,
 * shared by the whole program, with pools, layouts and buffers.
 *
 * Every function may be called from any thread. A failed call says why through unimem_last_error() (unimem.h).
 *
 * Both generations of the legacy header compile: the older one's create_memory_pool(system, config),
 * pool_allocate(system, pool, size), pool_free(system, pool, ptr) and destroy_memory_pool(system, pool) are the
 * ams_ functions under other names. memory_pool.h has functions and a MemoryPool of the same names. Of the two
 * headers the one that comes first in a file gives them; this one's structure is `advanced_memory_pool_t` in any
 * case. Define UNIMEM_NO_OLD_NAMES to leave them all to memory_pool.h, as the legacy one needs where it comes later. */
#ifndef UNIMEM_ADVANCED_MEMORY_SYSTEM_H
#define UNIMEM_ADVANCED_MEMORY_SYSTEM_H
#ifndef ADVANCED_MEMORY_SYSTEM_H /* the legacy header's own guard: it is not to come after this one */
#define ADVANCED_MEMORY_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>
#include "legacy_types.h"

#if defined(MEMORY_POOL_H) && !defined(UNIMEM_MEMORY_POOL_NAMED)
#define UNIMEM_MEMORY_POOL_NAMED 1 /* by the legacy memory_pool.h */
#endif

#ifdef __cplusplus
extern "C" {
#endif

/** Kept, and without effect: one heap serves every type. */
typedef enum {
    MEM_SYSTEM_STANDARD,
    MEM_SYSTEM_POOLED,
    MEM_SYSTEM_QUANTUM,
    MEM_SYSTEM_HYBRID
} memory_system_type_t;

/** Kept, and without effect: the heap's size classes serve every strategy. */
typedef enum {
    ALLOC_STRATEGY_BEST_FIT,
    ALLOC_STRATEGY_FIRST_FIT,
    ALLOC_STRATEGY_BUDDY,
    ALLOC_STRATEGY_SLAB
} allocation_strategy_t;

/** How much optimize_memory_usage() does. */
typedef enum {
    MEM_OPT_NONE,      /**< nothing */
    MEM_OPT_BASIC,     /**< the system's unused memory goes back */
    MEM_OPT_ADVANCED,  /**< and that of its pools */
    MEM_OPT_AGGRESSIVE /**< the same */
} optimization_level_t;

/** What a system is made from. Every 0 takes its default. */
typedef struct {
    memory_system_type_t type;
    allocation_strategy_t strategy;
    optimization_level_t optimization;
    size_t total_size;           /**< a hint: nothing is set aside, and the system grows beyond it */
    size_t block_size;           /**< a hint */
    size_t alignment;            /**< where a call passes 0; bytes, rounded up to a power of two; 0: 64 */
    bool enable_monitoring;      /**< start_memory_monitoring() from the beginning */
    bool enable_defragmentation; /**< without effect: unused memory goes back by itself after some seconds */
} memory_system_config_t;

/** What a system's pool is made from. Every 0 takes its default. */
typedef struct {
    size_t pool_size;   /**< live bytes at most, unless the pool may grow; 0: no limit */
    size_t block_size;  /**< bytes of the largest request where fixed_size is set */
    size_t max_blocks;  /**< live blocks at most, unless the pool may grow; 0: no limit */
    bool fixed_size;    /**< larger requests than block_size fail; that must not be 0 then */
    bool thread_safe;   /**< without effect: every pool is */
    bool enable_growth; /**< pool_size and max_blocks are hints */
    bool enable_stats;  /**< update_memory_access() tags the layouts; the system's metrics always count */
} pool_config_t;

/** What a system has done, its pools included. */
typedef struct {
    size_t total_allocated;  /**< bytes allocated since creation or reset, freed ones included */
    size_t total_freed;      /**< bytes freed since then */
    size_t peak_usage;       /**< most bytes live at once since then */
    size_t current_usage;    /**< bytes live now */
    double fragmentation;    /**< part of the memory held that no live block uses, 0 to 1 */
    size_t allocation_count; /**< allocations since creation or reset */
} memory_metrics_t;

/** What is known of one block. */
typedef struct {
    void *address;     /**< where it begins */
    size_t size;       /**< bytes asked for */
    bool is_allocated; /**< true */
    size_t alignment;  /**< bytes; a power of two */
    size_t padding;    /**< bytes between the end of the request and the end of the block */
    void *pool;        /**< the pool it came from; NULL: the system itself */
} block_info_t;

/** When and how start_defragmentation() gives memory back. No block ever moves. */
typedef struct {
    double threshold;    /**< fragmentation, 0 to 1, below which nothing is done */
    size_t max_moves;    /**< without effect */
    bool compact_pools;  /**< the pools too */
    bool preserve_order; /**< always so */
    bool incremental;    /**< without effect */
    size_t batch_size;   /**< without effect */
} defrag_config_t;

/** A dense array with its shape. Elements are bytes; the first dimension runs fastest. */
typedef struct {
    void *base_ptr;                        /**< the array, zeroed when made, aligned to 64 */
    size_t dimensions[QGT_MAX_DIMENSIONS]; /**< extents; 0 beyond the last */
    size_t strides[QGT_MAX_DIMENSIONS];    /**< bytes from one index to the next; 0 beyond the last */
    size_t total_size;                     /**< bytes: the product of the extents rounded up to 64 */
    bool is_geometric;                     /**< true */
    geometric_state_type_t geom_type;      /**< as given */
} MemoryLayout;

/** Memory of the processor with mirrors of the same size, all in RAM. */
typedef struct {
    void *gpu_ptr;     /**< NULL where none was asked for */
    void *cpu_ptr;     /**< zeroed when made, aligned to 64 */
    void *quantum_ptr; /**< NULL where none was asked for */
    size_t size;       /**< bytes of each */
    bool is_pinned;    /**< true */
    bool is_unified;   /**< there is a GPU mirror */
    HardwareType hardware;
} MemoryBuffer;

/** A system's pool. Made by advanced_create_memory_pool() or ams_create_memory_pool() alone; may be read. */
typedef struct advanced_memory_pool {
    MemoryLayout *layouts; /**< NULL: they do not lie in one array, so none ever moves */
    MemoryBuffer *buffers; /**< NULL */
    size_t num_layouts;    /**< made by create_memory_layout() */
    size_t num_buffers;    /**< made by create_memory_buffer() */
    void *fast_path_cache; /**< NULL */
    pool_config_t config;  /**< what the pool was made from */
    bool use_neon;         /**< false */
} advanced_memory_pool_t;

/** A memory system. */
typedef struct advanced_memory_system_t advanced_memory_system_t;

/**
 * The program's memory system: the one there is, with one more reference, else a new one.
 *
 * @param config  used for a new system alone; may be NULL where there is a system
 * @return the system, to be given to destroy_memory_system() once for each time it was returned; NULL for a NULL
 *         configuration without a system, or without memory
 */
advanced_memory_system_t *create_memory_system(const memory_system_config_t *config);
/** Gives up one reference. The last one frees the system, its pools and every block of theirs. */
void destroy_memory_system(advanced_memory_system_t *system);

/**
 * Allocates zeroed memory on the caller's NUMA node.
 *
 * @param alignment  bytes, up to 1 GiB, rounded up to a power of two; 0: the configuration's
 * @return the block; NULL for a NULL system, size 0, too large an alignment, or without memory
 */
void *memory_allocate(advanced_memory_system_t *system, size_t size, size_t alignment);
/**
 * Frees a block of memory_allocate(), or memory that the system's unimem_system_interface() gave; NULL does nothing, and
 * anything else is ignored.
 */
void memory_free(advanced_memory_system_t *system, void *ptr);
/**
 * Changes a block's size, keeping its contents up to the smaller size and its alignment. What is new is zeroed.
 *
 * @param ptr       a block of memory_allocate(); NULL allocates
 * @param new_size  bytes; 0 frees
 * @return the block, perhaps elsewhere; NULL after freeing, and on failure, when the old block is untouched
 */
void *memory_reallocate(advanced_memory_system_t *system, void *ptr, size_t new_size);

/** Makes a pool of the system; NULL for a NULL argument, an impossible configuration, or without memory. */
void *advanced_create_memory_pool(advanced_memory_system_t *system, const pool_config_t *config);
/** Frees a pool of the system and every block, layout and buffer of it. Anything else is ignored. */
void advanced_destroy_memory_pool(advanced_memory_system_t *system, void *pool);
/** Allocates zeroed memory of a pool, aligned to 64; NULL for size 0, beyond the pool's limits, or without memory. */
void *advanced_pool_allocate(advanced_memory_system_t *system, void *pool, size_t size);
/** Frees a block of the pool; NULL does nothing, and anything else is ignored. */
void advanced_pool_free(advanced_memory_system_t *system, void *pool, void *ptr);

/** advanced_create_memory_pool(). */
void *ams_create_memory_pool(advanced_memory_system_t *system, const pool_config_t *config);
/** advanced_destroy_memory_pool(). */
void ams_destroy_memory_pool(advanced_memory_system_t *system, void *pool);
/** advanced_pool_allocate(). */
void *ams_pool_allocate(advanced_memory_system_t *system, void *pool, size_t size);
/** advanced_pool_free(). */
void ams_pool_free(advanced_memory_system_t *system, void *pool, void *ptr);

#if !defined(UNIMEM_MEMORY_POOL_NAMED) && !defined(UNIMEM_NO_OLD_NAMES)
#define UNIMEM_MEMORY_POOL_NAMED 1
typedef advanced_memory_pool_t MemoryPool;
/* The older generation's names for the four functions above. */
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
 * Makes an array of a pool.
 *
 * @param pool        of advanced_create_memory_pool()
 * @param dimensions  `num_dims` extents, the fastest first, none of them 0
 * @param num_dims    1 to QGT_MAX_DIMENSIONS
 * @return the layout, valid until its pool is destroyed; NULL for bad arguments or without memory
 */
MemoryLayout *create_memory_layout(advanced_memory_pool_t *pool, const size_t *dimensions, size_t num_dims,
                                   geometric_state_type_t geom_type);
/**
 * Makes a buffer of a pool, with mirrors where asked for.
 *
 * @return the buffer, valid until its pool is destroyed; NULL for a NULL pool, size 0, or without memory
 */
MemoryBuffer *create_memory_buffer(advanced_memory_pool_t *pool, size_t size, bool gpu_accessible,
                                   bool quantum_accessible, HardwareType hardware);
/** Copies exactly `size` bytes; nothing at all where either layout is smaller than that. They may be the same. */
void memory_copy(MemoryLayout *dst, const MemoryLayout *src, size_t size);
/** Copies a buffer from one of its places to another; nothing where it lacks one of the two. */
void memory_transfer(MemoryBuffer *buffer, geometric_state_type_t direction);
/** Tags all layouts of a pool whose configuration has enable_stats as GEOMETRIC_STATE_EUCLIDEAN, as ever. */
void update_memory_access(advanced_memory_pool_t *pool);

/** Gives unused memory back to the operating system; false for a NULL system or an unknown level. */
bool optimize_memory_usage(advanced_memory_system_t *system, optimization_level_t level);
/** Accepts any strategy, to which the heap is indifferent; false for a NULL system or an unknown one. */
bool optimize_allocation_strategy(advanced_memory_system_t *system, allocation_strategy_t strategy);
/** Gives a pool another configuration; blocks that live stay. False for NULL, or an impossible configuration. */
bool optimize_pool_configuration(advanced_memory_system_t *system, void *pool, const pool_config_t *config);

/** Gives memory back where fragmentation reaches the threshold; true unless an argument is bad, a threshold that is not
 * a number among them. */
bool start_defragmentation(advanced_memory_system_t *system, const defrag_config_t *config);
/** True where a defragmentation was started since the last call; it is over by then. */
bool stop_defragmentation(advanced_memory_system_t *system);
/** Whether fragmentation is over 0.2; its measure, 0 to 1, goes to `fragmentation_level` (may be NULL). */
bool is_defragmentation_needed(const advanced_memory_system_t *system, double *fragmentation_level);

/** What is known of the live block that begins at `ptr`; false, and nothing written, where there is none. */
bool get_block_info(const advanced_memory_system_t *system, void *ptr, block_info_t *info);
/** What the system and its pools have done; false for NULL. */
bool get_memory_metrics(const advanced_memory_system_t *system, memory_metrics_t *metrics);
/** Part of the memory held that no live block uses, 0 to 1; false for NULL. */
bool analyze_fragmentation(const advanced_memory_system_t *system, double *fragmentation_level);

/** From now on each new block has guard bytes behind it; false for NULL. */
bool start_memory_monitoring(advanced_memory_system_t *system);
/** No more guard bytes for new blocks; false for NULL. */
bool stop_memory_monitoring(advanced_memory_system_t *system);
/** The metrics begin anew: the peak at what is live now, the history at 0. False for NULL. */
bool reset_memory_metrics(advanced_memory_system_t *system);

/** Whether `ptr` lies in a live block of the system or its pools. */
bool validate_memory_block(const advanced_memory_system_t *system, void *ptr);
/** True where `ptr` begins a live block whose guard bytes, if it has any, are whole: true is good, as ever. */
bool check_memory_corruption(const advanced_memory_system_t *system, void *ptr);
/** Bytes that the live block at `ptr` was asked for with; 0 where there is none. */
size_t get_allocation_size(const advanced_memory_system_t *system, void *ptr);

#ifdef __cplusplus
}
#endif
#endif /* ADVANCED_MEMORY_SYSTEM_H */
#endif /* UNIMEM_ADVANCED_MEMORY_SYSTEM_H */
