/* unimem/legacy_types.h - types that the drop-in headers share.
 *
 * Inside the legacy tree, where quantum_geometric/core/quantum_geometric_types.h can be included, the types come
 * from that header. Define UNIMEM_OWN_TYPES to have them from here even there. */
#ifndef UNIMEM_LEGACY_TYPES_H
#define UNIMEM_LEGACY_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__has_include) && !defined(UNIMEM_OWN_TYPES)
#if __has_include("quantum_geometric/core/quantum_geometric_types.h")
#define UNIMEM_TYPES_OF_THE_TREE 1
#endif
#endif

#ifdef UNIMEM_TYPES_OF_THE_TREE
#include "quantum_geometric/core/quantum_geometric_types.h"
#else

/** Most dimensions of a MemoryLayout. */
#define QGT_MAX_DIMENSIONS 16

/** An element of a tensor. */
typedef struct {
    float real;
    float imag;
} ComplexFloat;

/** A tag on buffers, with no effect. */
typedef enum {
    HARDWARE_TYPE_CPU,
    HARDWARE_TYPE_GPU,
    HARDWARE_TYPE_QPU,
    HARDWARE_TYPE_SIMULATOR,
    HARDWARE_TYPE_METAL,
    HARDWARE_TYPE_CUDA,
    HARDWARE_TYPE_FPGA,
    HARDWARE_TYPE_IBM,
    HARDWARE_TYPE_RIGETTI,
    HARDWARE_TYPE_DWAVE,
    HARDWARE_TYPE_CUSTOM
} HardwareType;

/** A tag on layouts, and the direction of memory_transfer(). The other values name no direction. */
typedef enum {
    GEOMETRIC_STATE_EUCLIDEAN,  /**< CPU to GPU */
    GEOMETRIC_STATE_HYPERBOLIC, /**< GPU to CPU */
    GEOMETRIC_STATE_SPHERICAL,  /**< CPU to quantum */
    GEOMETRIC_STATE_SYMPLECTIC, /**< quantum to CPU */
    GEOMETRIC_STATE_KAHLER,
    GEOMETRIC_STATE_CALABI_YAU,
    GEOMETRIC_STATE_CUSTOM
} geometric_state_type_t;

/** The configuration of a memory pool. A field that is 0 takes its default, so a configuration of zeros is valid. */
typedef struct PoolConfig {
    size_t min_block_size;       /**< a hint */
    size_t alignment;            /**< alignment of blocks, bytes: a power of two, or up to 64, which means 64 */
    size_t num_size_classes;     /**< a hint */
    float growth_factor;         /**< a hint */
    size_t prefetch_distance;    /**< a hint */
    bool use_huge_pages;         /**< ask for huge pages for smaller memory too, not only from 2 MiB up */
    bool cache_local_free_lists; /**< a hint: only thread_cache_size decides */
    size_t max_blocks_per_class; /**< a hint */
    size_t thread_cache_size;    /**< blocks of a size class that a thread keeps at first; 0: none, ever */
    bool enable_stats;           /**< if false, the statistics functions return 0 */
} PoolConfig;

#endif /* UNIMEM_TYPES_OF_THE_TREE */

/* With -fshort-enums the layout of structures would differ from the library's. This declaration makes such a build
 * fail. */
typedef char unimem_enumerations_have_the_size_of_int[sizeof(HardwareType) == sizeof(int) ? 1 : -1];

#endif /* UNIMEM_LEGACY_TYPES_H */
