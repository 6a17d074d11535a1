/* unimem/memory_singleton.h - drop-in for quantum_geometric/core/memory_singleton.h: the program's one memory
 * system, and the list of blocks that the program tracks.
 *
 * Every function may be called from any thread. A failed call changes nothing and says why through
 * unimem_last_error() (unimem.h). */
#ifndef UNIMEM_MEMORY_SINGLETON_H
#define UNIMEM_MEMORY_SINGLETON_H
#ifndef MEMORY_SINGLETON_H /* the legacy header's own guard: it must not come after this one */
#define MEMORY_SINGLETON_H

#include <stdbool.h>
#include "advanced_memory_system.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Returns the program's memory system, or NULL if there is none. The reference count does not change. */
advanced_memory_system_t *get_global_memory_system(void);
/** Makes `system` the program's memory system if there is none yet, and adds a reference in either case. NULL does
 * nothing. */
void register_memory_system(advanced_memory_system_t *system);
/**
 * Gives up one reference to the program's memory system. Any other system is ignored.
 *
 * With the last reference the program has no memory system any more. The blocks that are still tracked are then
 * reported to the log; those of libunimem are freed; and all of them are forgotten.
 */
void unregister_memory_system(advanced_memory_system_t *system);

/**
 * Tracks an address. Any number of addresses can be tracked; tracking one again changes nothing. If the address is in a
 * live block of libunimem, its tracking follows the block when that is reallocated, and ends when the block is freed by
 * whatever function.
 *
 * @return false for NULL or without memory
 */
bool track_memory_block(void *ptr);
/** Stops tracking an address. False if it was not tracked. */
bool untrack_memory_block(void *ptr);
/** Tells whether an address is tracked. */
bool is_memory_block_tracked(void *ptr);

/** Allocates a block as memory_allocate() does, and tracks it. */
void *safe_memory_allocate(advanced_memory_system_t *system, size_t size, size_t alignment);
/** Frees a tracked block as memory_free() does, and stops tracking it. A pointer that is not tracked is ignored. */
void safe_memory_free(advanced_memory_system_t *system, void *ptr);

#ifdef __cplusplus
}
#endif
#endif /* MEMORY_SINGLETON_H */
#endif /* UNIMEM_MEMORY_SINGLETON_H */
