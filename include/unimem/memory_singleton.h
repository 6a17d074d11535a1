/* unimem/memory_singleton.h - drop-in for quantum_geometric/core/memory_singleton.h: the one memory system of a
 * program, and the blocks it keeps an eye on. Every function may be called from any thread. */
#ifndef UNIMEM_MEMORY_SINGLETON_H
#define UNIMEM_MEMORY_SINGLETON_H
#ifndef MEMORY_SINGLETON_H /* the legacy header's own guard: it is not to come after this one */
#define MEMORY_SINGLETON_H

#include <stdbool.h>
#include "advanced_memory_system.h"

#ifdef __cplusplus
extern "C" {
#endif

/** The program's memory system; NULL: there is none. No reference is taken. */
advanced_memory_system_t *get_global_memory_system(void);
/** Makes `system` the program's if there is none yet, and counts one more reference. NULL does nothing. */
void register_memory_system(advanced_memory_system_t *system);
/**
 * Gives up one reference of the program's system; any other is ignored. With the last one there is none any more:
 * blocks that are tracked still are reported to the log, those of libunimem freed, and all of them forgotten.
 */
void unregister_memory_system(advanced_memory_system_t *system);

/**
 * Tracks any address, once; false for NULL or without memory. No limit on their number. One in a live block of libunimem
 * goes along when the block is reallocated, and is tracked no more when it is freed, by whatever function.
 */
bool track_memory_block(void *ptr);
/** Tracks an address no more; false where it was not tracked. */
bool untrack_memory_block(void *ptr);
/** Whether an address is tracked. */
bool is_memory_block_tracked(void *ptr);

/** memory_allocate(), tracked. */
void *safe_memory_allocate(advanced_memory_system_t *system, size_t size, size_t alignment);
/** memory_free() of a tracked block, which is tracked no more; anything else is ignored. */
void safe_memory_free(advanced_memory_system_t *system, void *ptr);

#ifdef __cplusplus
}
#endif
#endif /* MEMORY_SINGLETON_H */
#endif /* UNIMEM_MEMORY_SINGLETON_H */
