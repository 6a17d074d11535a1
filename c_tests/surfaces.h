/* surfaces.h - the three surfaces under the same two functions, for tests that do the same to each of them. */
#ifndef SURFACES_H
#define SURFACES_H
#include "systems.h"

static unified_memory_interface_t *memory;
static MemoryPool *pool;
static advanced_memory_system_t *memory_system;

static void *of_interface(size_t size) { return memory->allocate(size, 0); }
static void to_interface(void *block) { memory->free(block); }
static void *of_pool(size_t size) { return pool_allocate(pool, size); }
static void to_pool(void *block) { pool_free(pool, block); }
static void *of_system(size_t size) { return memory_allocate(memory_system, size, 0); }
static void to_system(void *block) { memory_free(memory_system, block); }

typedef struct {
    const char *name;
    void *(*allocate)(size_t size);
    void (*free)(void *block);
} surface_t;

static const surface_t surfaces[] = {{"interface", of_interface, to_interface},
                                     {"memory pool", of_pool, to_pool},
                                     {"advanced system", of_system, to_system}};

#endif
