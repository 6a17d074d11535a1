#!/bin/sh
# Each header alone, and in both orders, with every compiler and language that programs use them from.  headers.sh
set -u
W="-Wall -Wextra -Werror -pedantic -fsyntax-only"
# What programs that are to be C++ one day are warned of, and what some C++ programs are.
W_C="-Wc++-compat" W_CXX="-Weffc++"
# shellcheck source=c_tests/try.sh
. c_tests/try.sh

# Each file uses the names that the first of its headers gives.
cat >"$D/unimem.c" <<'C'
#include "unimem.h"
bool f(unified_memory_interface_t *memory) { return unimem_close(memory); }
C
cat >"$D/pool.c" <<'C'
#include "unimem/memory_pool.h"
size_t f(MemoryPool *pool) { pool_free(pool, pool_allocate(pool, 8)); return pool->total_size; }
C
cat >"$D/system.c" <<'C'
#include "unimem/advanced_memory_system.h"
size_t f(advanced_memory_system_t *system, MemoryPool *pool) {
    pool_free(system, pool, pool_allocate(system, pool, 8));
    return pool->num_layouts;
}
C
cat >"$D/singleton.c" <<'C'
#include "unimem/memory_singleton.h"
advanced_memory_system_t *f(void) { return get_global_memory_system(); }
C
cat >"$D/trees.c" <<'C'
#include "unimem/tree_tensor_network.h"
size_t f(tree_tensor_network_t *ttn) { return optimize_tree_structure(ttn) ? ttn->num_nodes : 0; }
C
cat >"$D/pool_then_system.c" <<'C'
#include "unimem/memory_pool.h"
#include "unimem/memory_singleton.h"
#include "unimem.h"
size_t f(MemoryPool *pool) { pool_free(pool, pool_allocate(pool, 8)); return pool->total_size; }
size_t g(advanced_memory_pool_t *pool) { return unimem_pool_interface(0) ? 0 : pool->num_layouts; }
C
cat >"$D/system_then_pool.c" <<'C'
#include "unimem.h"
#include "unimem/memory_singleton.h"
#include "unimem/memory_pool.h"
size_t f(advanced_memory_system_t *system, MemoryPool *pool) {
    pool_free(system, pool, pool_allocate(system, pool, 8));
    return pool->num_layouts;
}
size_t g(simple_memory_pool_t *pool) { return unimem_pool_interface(pool) ? get_total_allocated(pool) : 0; }
C
# The legacy advanced_memory_system.h, before ours and after: its MemoryPool has no tag, its system has.
cat >"$D/legacy_system.h" <<'C'
#ifndef ADVANCED_MEMORY_SYSTEM_H
#define ADVANCED_MEMORY_SYSTEM_H
typedef struct { int layouts; } MemoryPool;
typedef struct advanced_memory_system_t advanced_memory_system_t;
#endif
C
cat >"$D/legacy_system_first.c" <<'C'
#include "legacy_system.h"
#include "unimem.h"
#include "unimem/memory_pool.h"
int f(advanced_memory_system_t *system, MemoryPool *pool) { return unimem_system_interface(system) ? pool->layouts : 0; }
size_t g(simple_memory_pool_t *pool) { return unimem_pool_interface(pool) ? get_total_allocated(pool) : 0; }
C
cat >"$D/legacy_system_last.c" <<'C'
#include "unimem.h"
#if defined __GNUC__ && !defined __cplusplus
#pragma GCC diagnostic ignored "-Wc++-compat" /* in the legacy header, whose typedef is now a tag too */
#endif
#include "legacy_system.h"
int f(advanced_memory_system_t *system, MemoryPool *pool) { return unimem_system_interface(system) ? pool->layouts : 0; }
C
cat >"$D/new_names.c" <<'C'
#define UNIMEM_NO_OLD_NAMES
#include "unimem/advanced_memory_system.h"
#include "unimem/memory_pool.h"
size_t f(MemoryPool *pool) { pool_free(pool, pool_allocate(pool, 8)); return pool->total_size; }
C
# A legacy tree: its header of shared types, and its own memory_pool.h first.
mkdir -p "$D/tree/quantum_geometric/core"
{
    echo '#define TREE_TYPES 1'
    sed -n '/^#define QGT_MAX/,/^#endif/p' include/unimem/legacy_types.h | grep -v '^#endif'
} >"$D/tree/quantum_geometric/core/quantum_geometric_types.h"
cat >"$D/tree.c" <<'C'
#include "unimem/memory_pool.h"
#include "unimem/memory_singleton.h"
#ifndef TREE_TYPES
#error "the tree's own types were not taken"
#endif
size_t f(MemoryPool *pool) { return pool->config.alignment; }
C
cat >"$D/tree_pool.c" <<'C'
#define MEMORY_POOL_H
typedef struct MemoryPool MemoryPool;
void pool_free(MemoryPool *pool, void *ptr);
#include "unimem/advanced_memory_system.h"
#include "unimem/memory_pool.h"
void f(MemoryPool *pool) { pool_free(pool, 0); }
C

for compiler in "${TEST_CC:-cc}" clang; do
    command -v "$compiler" >/dev/null || continue
    for standard in c99 c11 c17; do
        for file in unimem pool system singleton trees pool_then_system system_then_pool new_names legacy_system_first \
            legacy_system_last; do
            # shellcheck disable=SC2086  # a list of words
            try "$compiler $standard $file" "$compiler" -std=$standard $W $W_C -Iinclude "$D/$file.c"
        done
        for file in tree tree_pool; do
            # shellcheck disable=SC2086
            try "$compiler $standard $file" "$compiler" -std=$standard $W $W_C -Iinclude -I"$D/tree" -include stddef.h \
                -include stdbool.h "$D/$file.c"
        done
    done
done
for compiler in "${TEST_CXX:-c++}" clang++; do
    command -v "$compiler" >/dev/null || continue
    for standard in c++11 c++17 c++20; do
        for file in unimem pool system singleton trees pool_then_system system_then_pool new_names legacy_system_first \
            legacy_system_last; do
            # shellcheck disable=SC2086
            try "$compiler $standard $file" "$compiler" -std=$standard $W $W_CXX -Iinclude -x c++ "$D/$file.c"
        done
    done
    for standard in c++17 c++20; do
        for file in unimem.hpp unimem/tree_tensor_network.hpp; do
            echo "#include \"$file\"" >"$D/plus_plus.cpp"
            # shellcheck disable=SC2086
            try "$compiler $standard $file" "$compiler" -std=$standard $W $W_CXX -Wshadow -Wconversion -Iinclude "$D/plus_plus.cpp"
        done
    done
    # shellcheck disable=SC2086
    try "$compiler c++17 layouts" "$compiler" -std=c++17 $W -Iinclude -x c++ c_tests/test_layouts.c
done
# Structures with enumerations in them would differ from the library's.
short_enums() { ! ${TEST_CC:-cc} -std=c11 -fshort-enums -Iinclude -fsyntax-only "$1" && ${TEST_CC:-cc} -std=c11 -Iinclude -fsyntax-only "$1"; }
for file in pool system singleton trees; do try "-fshort-enums is refused, $file" short_enums "$D/$file.c"; done
command -v clang >/dev/null || { n=$((n + 1)) && echo "ok $n - clang # SKIP there is no clang"; }
finish
