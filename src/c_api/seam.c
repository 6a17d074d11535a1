/* seam.c - see seam.rs. Compiled against the drop-in headers, so that a signature that drifts fails the build. */
#include "unimem/memory_singleton.h"

#define SEAM __attribute__((visibility("hidden")))

SEAM advanced_memory_system_t *unimem_seam_get_global_memory_system(void);
SEAM void unimem_seam_register_memory_system(advanced_memory_system_t *system);
SEAM void unimem_seam_unregister_memory_system(advanced_memory_system_t *system);
SEAM bool unimem_seam_is_memory_block_tracked(void *ptr);
SEAM bool unimem_seam_untrack_memory_block(void *ptr);
SEAM void *unimem_seam_memory_allocate(advanced_memory_system_t *system, size_t size, size_t alignment);
SEAM void unimem_seam_memory_free(advanced_memory_system_t *system, void *ptr);

/* The advanced system calls the singleton. */
advanced_memory_system_t *unimem_seam_get_global_memory_system(void) { return get_global_memory_system(); }
void unimem_seam_register_memory_system(advanced_memory_system_t *system) { register_memory_system(system); }
void unimem_seam_unregister_memory_system(advanced_memory_system_t *system) { unregister_memory_system(system); }
bool unimem_seam_is_memory_block_tracked(void *ptr) { return is_memory_block_tracked(ptr); }
bool unimem_seam_untrack_memory_block(void *ptr) { return untrack_memory_block(ptr); }

/* The singleton calls the advanced system. */
void *unimem_seam_memory_allocate(advanced_memory_system_t *system, size_t size, size_t alignment) {
    return memory_allocate(system, size, alignment);
}
void unimem_seam_memory_free(advanced_memory_system_t *system, void *ptr) { memory_free(system, ptr); }
