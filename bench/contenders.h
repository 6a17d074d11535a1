/* The allocators that are measured side by side in one process: the two surfaces of libunimem, glibc's malloc, and
 * those that are installed. Each of these is opened privately (RTLD_LOCAL) and called through its own functions.
 * The process's malloc stays glibc's, and library_open makes sure of it. The floor (floor.h) is among them, though
 * it is no allocator to be used. */
#ifndef UNIMEM_BENCH_CONTENDERS_H
#define UNIMEM_BENCH_CONTENDERS_H

#include "../demo/surfaces.h"
#include "floor.h"

#include <dlfcn.h>
#include <stdio.h>

enum { POOL, INTERFACE, GLIBC, MIMALLOC, MIMALLOC_SECURE, JEMALLOC, TCMALLOC, FLOOR, CONTENDERS };

typedef struct {
    const char *name;
    void *(*allocate)(size_t size);
    void *(*allocate_aligned)(size_t alignment, size_t size); /* NULL: allocate's alignment is all there is */
    void *(*reallocate)(void *block, size_t size);            /* NULL: allocate, copy, free */
    void (*free)(void *block);
    void (*trim)(void);   /* gives back what it can */
    const char *library;  /* NULL: nothing to open */
    const char *names[5]; /* the functions above, by their names in the library */
    const char *package;  /* what would install it */
    bool present;
} contender_t;

static void glibc_trim(void) { malloc_trim(0); }
static void interface_trim(void) { unimem_trim(surface_memory); }
static void pool_trim(void) { unimem_trim(unimem_pool_interface(surface_pool)); }
static void nothing_to_trim(void) {}

/* Pool and interface have no pointers here, because they are called by name (workloads.h), as a program would call
 * them. */
static contender_t contenders[CONTENDERS] = {
    [POOL] = {.name = "pool", .free = pool_give, .trim = pool_trim},
    [INTERFACE] = {.name = "interface", .free = interface_free, .trim = interface_trim},
    [GLIBC] = {"glibc", malloc, memalign, realloc, free, glibc_trim, .present = true},
    [MIMALLOC] = {.name = "mimalloc",
                  .library = "libmimalloc.so.2",
                  .names = {"mi_malloc", "mi_memalign", "mi_realloc", "mi_free", "mi_collect"},
                  .package = "Debian: libmimalloc2.0"},
    [MIMALLOC_SECURE] = {.name = "secure",
                         .library = "libmimalloc_secure.so",
                         .names = {"mi_malloc", "mi_memalign", "mi_realloc", "mi_free", "mi_collect"},
                         .package = "`make bench-alloc` builds it from crates.io"},
    [JEMALLOC] = {.name = "jemalloc",
                  .library = "libjemalloc.so.2",
                  .names = {"malloc", "memalign", "realloc", "free", "mallctl"},
                  .package = "Debian: libjemalloc2"},
    [TCMALLOC] = {.name = "tcmalloc",
                  .library = "libtcmalloc_minimal.so.4",
                  .names = {"tc_malloc", "tc_memalign", "tc_realloc", "tc_free", "MallocExtension_ReleaseFreeMemory"},
                  .package = "Debian: libtcmalloc-minimal4"},
    [FLOOR] = {.name = "floor", .allocate = floor_allocate, .free = floor_free, .trim = nothing_to_trim},
};

/* Functions to trim for allocators whose own takes arguments. */
static void (*mimalloc_collect[2])(bool force);
static void mimalloc_trim(void) { mimalloc_collect[0](true); }
static void mimalloc_secure_trim(void) { mimalloc_collect[1](true); }
static int (*jemalloc_control)(const char *name, void *old, size_t *old_size, void *new, size_t new_size);
static void jemalloc_trim(void) {
    jemalloc_control("thread.tcache.flush", NULL, NULL, NULL, 0);
    jemalloc_control("arena.4096.purge", NULL, NULL, NULL, 0); /* 4096: all arenas */
}

/* POSIX promises that a pointer to data holds a function; ISO C has no cast for it. */
static bool function_of(void *library, const char *name, void *function) {
    void *found = dlsym(library, name);
    memcpy(function, &found, sizeof found);
    return found != NULL;
}

/* Whether `allocate` is glibc's. The block is larger than those that glibc keeps in a thread's cache, so glibc's
 * own count of live bytes shows who gave it. */
static bool given_by_glibc(void *(*allocate)(size_t), void (*release)(void *)) {
    enum { SIZE = 100000 };
    size_t before = mallinfo2().uordblks;
    void *block = allocate(SIZE);
    bool grew = mallinfo2().uordblks >= before + SIZE;
    release(block);
    return grew;
}

static bool library_open(contender_t *contender, size_t which, const char *directory, const char **problem) {
    char path[4200];
    snprintf(path, sizeof path, "%s%s", which == MIMALLOC_SECURE ? directory : "", contender->library);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        *problem = dlerror();
        return false;
    }
    void *trim = which == JEMALLOC   ? (void *)&jemalloc_control
                 : which == TCMALLOC ? (void *)&contender->trim
                                     : (void *)&mimalloc_collect[which == MIMALLOC_SECURE];
    if (!function_of(library, contender->names[0], &contender->allocate) ||
        !function_of(library, contender->names[1], &contender->allocate_aligned) ||
        !function_of(library, contender->names[2], &contender->reallocate) ||
        !function_of(library, contender->names[3], &contender->free) ||
        !function_of(library, contender->names[4], trim)) {
        *problem = "a function is missing";
        return false;
    }
    if (which == JEMALLOC) contender->trim = jemalloc_trim;
    if (which == MIMALLOC) contender->trim = mimalloc_trim;
    if (which == MIMALLOC_SECURE) contender->trim = mimalloc_secure_trim;
    if (!given_by_glibc(malloc, free) || given_by_glibc(contender->allocate, contender->free)) {
        *problem = "it and the process's malloc are not apart";
        return false;
    }
    return true;
}

/* Opens a contender. Returns false and the reason if it is not there. `directory` is that of the build, with a
 * slash at the end. */
static bool contender_open(size_t which, const char *directory, const char **problem) {
    contender_t *contender = &contenders[which];
    if (contender->present) return true;
    switch (which) {
    case POOL:
    case INTERFACE:
        contender->present = which == POOL ? pool_open() : interface_open();
        if (!contender->present) *problem = unimem_last_error_message();
        break;
    case FLOOR:
        contender->present = floor_open();
        if (!contender->present) *problem = "no address space";
        break;
    default: contender->present = library_open(contender, which, directory, problem);
    }
    return contender->present;
}

#endif
