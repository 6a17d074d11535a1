/* legacy.h - the stand-ins for the four legacy C files, and how a test tells which of them are in the program.
 *
 * Each stand-in defines every function of its header, with the semantics libunimem promises, as small as they go,
 * and a function here that counts the calls it has served. In the other programs that function is absent (NULL). */
#ifndef LEGACY_H
#define LEGACY_H
#include <stddef.h>

/* Calls that pool_allocate() of memory_pool.c has served. */
__attribute__((weak)) size_t legacy_pool_calls(void);
/* Calls that memory_allocate() of advanced_memory_system.c has served. */
__attribute__((weak)) size_t legacy_system_calls(void);
/* Calls that register_memory_system() of memory_singleton.c has served. */
__attribute__((weak)) size_t legacy_singleton_calls(void);
/* Blocks that were still tracked when memory_singleton.c lost its last reference. */
__attribute__((weak)) size_t legacy_singleton_leaks(void);
/* Products that tree_tensor_network.c has made. */
__attribute__((weak)) size_t legacy_network_calls(void);

#endif
