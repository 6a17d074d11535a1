/* test_layouts.c - every row of the table of the legacy ABI that the drop-in headers cover. Compiling this
 * file asserts them; make also compiles it as C++17. */
#include <assert.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include "unimem.h"
#include "unimem/memory_pool.h"
/* The second one gives its structure a name of its own. */
#include "unimem/memory_singleton.h"

#ifdef __cplusplus
#define ALIGNMENT_OF alignof
#else
#define ALIGNMENT_OF _Alignof
#endif
#define TYPE(type, alignment, size) \
    static_assert(sizeof(type) == (size) && ALIGNMENT_OF(type) == (alignment), #type)
#define FIELD(type, field, offset, size)                                                          \
    static_assert(offsetof(type, field) == (offset) && sizeof(((type *)0)->field) == (size), #type "." #field)
#define VALUE(name, value) static_assert((long)(name) == (value), #name)

static_assert(sizeof(MemoryPool) == sizeof(simple_memory_pool_t), "memory_pool.h came first");

/* Of all that is here only a mutex depends on the processor; the table is that of x86-64. */
enum { MUTEX = sizeof(pthread_mutex_t) };
#ifdef __x86_64__
static_assert(MUTEX == 40, "pthread_mutex_t");
#endif

TYPE(PoolConfig, 8, 72);
FIELD(PoolConfig, min_block_size, 0, 8);
FIELD(PoolConfig, alignment, 8, 8);
FIELD(PoolConfig, num_size_classes, 16, 8);
FIELD(PoolConfig, growth_factor, 24, 4);
FIELD(PoolConfig, prefetch_distance, 32, 8);
FIELD(PoolConfig, use_huge_pages, 40, 1);
FIELD(PoolConfig, cache_local_free_lists, 41, 1);
FIELD(PoolConfig, max_blocks_per_class, 48, 8);
FIELD(PoolConfig, thread_cache_size, 56, 8);
FIELD(PoolConfig, enable_stats, 64, 1);

TYPE(Block, 64, 128);
FIELD(Block, size, 0, 8);
FIELD(Block, magic, 8, 4);
FIELD(Block, is_free, 12, 1);
FIELD(Block, size_class, 14, 2);
FIELD(Block, next, 16, 8);
FIELD(Block, prev, 24, 8);
FIELD(Block, padding, 32, 40);
FIELD(Block, data, 72, 8);

TYPE(SizeClass, 8, 48 + MUTEX);
FIELD(SizeClass, block_size, 0, 8);
FIELD(SizeClass, free_list, 8, 8);
FIELD(SizeClass, mutex, 16, MUTEX);
FIELD(SizeClass, num_blocks, 16 + MUTEX, 8);
FIELD(SizeClass, max_blocks, 24 + MUTEX, 8);
FIELD(SizeClass, hits, 32 + MUTEX, 8);
FIELD(SizeClass, misses, 40 + MUTEX, 8);

TYPE(simple_memory_pool_t, 8, 136 + MUTEX);
FIELD(simple_memory_pool_t, base_address, 0, 8);
FIELD(simple_memory_pool_t, total_size, 8, 8);
FIELD(simple_memory_pool_t, size_classes, 16, 8);
FIELD(simple_memory_pool_t, num_classes, 24, 8);
FIELD(simple_memory_pool_t, large_blocks, 32, 8);
FIELD(simple_memory_pool_t, total_allocated, 40, 8);
FIELD(simple_memory_pool_t, peak_allocated, 48, 8);
FIELD(simple_memory_pool_t, num_allocations, 56, 8);
FIELD(simple_memory_pool_t, mutex, 64, MUTEX);
FIELD(simple_memory_pool_t, config, 64 + MUTEX, 72);

VALUE(QG_POOL_ALIGNMENT, 64);
VALUE(QG_NUM_SIZE_CLASSES, 64);
VALUE(QG_MIN_BLOCK_SIZE, 128);
VALUE(QG_MAX_BLOCK_SIZE, 4194304);
VALUE(QG_MAX_THREAD_CACHE, 1024);
VALUE(QGT_MAX_DIMENSIONS, 16);

TYPE(memory_system_config_t, 8, 48);
FIELD(memory_system_config_t, type, 0, 4);
FIELD(memory_system_config_t, strategy, 4, 4);
FIELD(memory_system_config_t, optimization, 8, 4);
FIELD(memory_system_config_t, total_size, 16, 8);
FIELD(memory_system_config_t, block_size, 24, 8);
FIELD(memory_system_config_t, alignment, 32, 8);
FIELD(memory_system_config_t, enable_monitoring, 40, 1);
FIELD(memory_system_config_t, enable_defragmentation, 41, 1);

TYPE(pool_config_t, 8, 32);
FIELD(pool_config_t, pool_size, 0, 8);
FIELD(pool_config_t, block_size, 8, 8);
FIELD(pool_config_t, max_blocks, 16, 8);
FIELD(pool_config_t, fixed_size, 24, 1);
FIELD(pool_config_t, thread_safe, 25, 1);
FIELD(pool_config_t, enable_growth, 26, 1);
FIELD(pool_config_t, enable_stats, 27, 1);

TYPE(memory_metrics_t, 8, 48);
FIELD(memory_metrics_t, total_allocated, 0, 8);
FIELD(memory_metrics_t, total_freed, 8, 8);
FIELD(memory_metrics_t, peak_usage, 16, 8);
FIELD(memory_metrics_t, current_usage, 24, 8);
FIELD(memory_metrics_t, fragmentation, 32, 8);
FIELD(memory_metrics_t, allocation_count, 40, 8);

TYPE(block_info_t, 8, 48);
FIELD(block_info_t, address, 0, 8);
FIELD(block_info_t, size, 8, 8);
FIELD(block_info_t, is_allocated, 16, 1);
FIELD(block_info_t, alignment, 24, 8);
FIELD(block_info_t, padding, 32, 8);
FIELD(block_info_t, pool, 40, 8);

TYPE(defrag_config_t, 8, 32);
FIELD(defrag_config_t, threshold, 0, 8);
FIELD(defrag_config_t, max_moves, 8, 8);
FIELD(defrag_config_t, compact_pools, 16, 1);
FIELD(defrag_config_t, preserve_order, 17, 1);
FIELD(defrag_config_t, incremental, 18, 1);
FIELD(defrag_config_t, batch_size, 24, 8);

TYPE(MemoryLayout, 8, 280);
FIELD(MemoryLayout, base_ptr, 0, 8);
FIELD(MemoryLayout, dimensions, 8, 128);
FIELD(MemoryLayout, strides, 136, 128);
FIELD(MemoryLayout, total_size, 264, 8);
FIELD(MemoryLayout, is_geometric, 272, 1);
FIELD(MemoryLayout, geom_type, 276, 4);

TYPE(MemoryBuffer, 8, 40);
FIELD(MemoryBuffer, gpu_ptr, 0, 8);
FIELD(MemoryBuffer, cpu_ptr, 8, 8);
FIELD(MemoryBuffer, quantum_ptr, 16, 8);
FIELD(MemoryBuffer, size, 24, 8);
FIELD(MemoryBuffer, is_pinned, 32, 1);
FIELD(MemoryBuffer, is_unified, 33, 1);
FIELD(MemoryBuffer, hardware, 36, 4);

TYPE(advanced_memory_pool_t, 8, 80);
FIELD(advanced_memory_pool_t, layouts, 0, 8);
FIELD(advanced_memory_pool_t, buffers, 8, 8);
FIELD(advanced_memory_pool_t, num_layouts, 16, 8);
FIELD(advanced_memory_pool_t, num_buffers, 24, 8);
FIELD(advanced_memory_pool_t, fast_path_cache, 32, 8);
FIELD(advanced_memory_pool_t, config, 40, 32);
FIELD(advanced_memory_pool_t, use_neon, 72, 1);

TYPE(memory_stats_t, 8, 64);
FIELD(memory_stats_t, total_allocated, 0, 8);
FIELD(memory_stats_t, peak_allocated, 8, 8);
FIELD(memory_stats_t, num_allocations, 16, 8);
FIELD(memory_stats_t, num_frees, 24, 8);
FIELD(memory_stats_t, largest_allocation, 32, 8);
FIELD(memory_stats_t, fragmentation, 40, 8);
FIELD(memory_stats_t, cache_hits, 48, 8);
FIELD(memory_stats_t, cache_misses, 56, 8);

TYPE(ComplexFloat, 4, 8);
FIELD(ComplexFloat, real, 0, 4);
FIELD(ComplexFloat, imag, 4, 4);

TYPE(memory_system_type_t, 4, 4);
VALUE(MEM_SYSTEM_STANDARD, 0);
VALUE(MEM_SYSTEM_POOLED, 1);
VALUE(MEM_SYSTEM_QUANTUM, 2);
VALUE(MEM_SYSTEM_HYBRID, 3);

TYPE(allocation_strategy_t, 4, 4);
VALUE(ALLOC_STRATEGY_BEST_FIT, 0);
VALUE(ALLOC_STRATEGY_FIRST_FIT, 1);
VALUE(ALLOC_STRATEGY_BUDDY, 2);
VALUE(ALLOC_STRATEGY_SLAB, 3);

TYPE(optimization_level_t, 4, 4);
VALUE(MEM_OPT_NONE, 0);
VALUE(MEM_OPT_BASIC, 1);
VALUE(MEM_OPT_ADVANCED, 2);
VALUE(MEM_OPT_AGGRESSIVE, 3);

TYPE(geometric_state_type_t, 4, 4);
VALUE(GEOMETRIC_STATE_EUCLIDEAN, 0);
VALUE(GEOMETRIC_STATE_HYPERBOLIC, 1);
VALUE(GEOMETRIC_STATE_SPHERICAL, 2);
VALUE(GEOMETRIC_STATE_SYMPLECTIC, 3);
VALUE(GEOMETRIC_STATE_KAHLER, 4);
VALUE(GEOMETRIC_STATE_CALABI_YAU, 5);
VALUE(GEOMETRIC_STATE_CUSTOM, 6);

TYPE(HardwareType, 4, 4);
VALUE(HARDWARE_TYPE_CPU, 0);
VALUE(HARDWARE_TYPE_GPU, 1);
VALUE(HARDWARE_TYPE_QPU, 2);
VALUE(HARDWARE_TYPE_SIMULATOR, 3);
VALUE(HARDWARE_TYPE_METAL, 4);
VALUE(HARDWARE_TYPE_CUDA, 5);
VALUE(HARDWARE_TYPE_FPGA, 6);
VALUE(HARDWARE_TYPE_IBM, 7);
VALUE(HARDWARE_TYPE_RIGETTI, 8);
VALUE(HARDWARE_TYPE_DWAVE, 9);
VALUE(HARDWARE_TYPE_CUSTOM, 10);

int main(void) {
    puts("1..1\nok 1 - every row of the table holds");
    return 0;
}
