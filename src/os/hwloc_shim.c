/* hwloc_shim.c - libhwloc, opened at run time.
 *
 * hwlocality calls libhwloc's functions by name. Here each of those names is a jump through a slot, and unimem_hwloc_open()
 * fills the slots from libhwloc.so.15 if the machine has it. So libunimem is built without hwloc's headers and runs without
 * the library: then src/os/numa.rs has to do with what sysfs says. */
#include <dlfcn.h>
#include <stddef.h>
#include "hwloc_functions.h"

#define HIDDEN __attribute__((visibility("hidden")))

#if defined(__x86_64__)
#define DEFINE(name)                                                                                       \
    __asm__(".text\n.globl " #name "\n.hidden " #name "\n.type " #name ", @function\n" #name ":\n"         \
            "\tjmp *unimem_slot_" #name "(%rip)\n.size " #name ", . - " #name "\n");
#elif defined(__aarch64__)
#define DEFINE(name)                                                                                       \
    __asm__(".text\n.globl " #name "\n.hidden " #name "\n.type " #name ", @function\n" #name ":\n"         \
            "\tadrp x16, unimem_slot_" #name "\n\tldr x16, [x16, :lo12:unimem_slot_" #name "]\n\tbr x16\n" \
            ".size " #name ", . - " #name "\n");
#else
#error "no jump written for this processor: build with --no-default-features"
#endif

#define SLOT(name) HIDDEN void *unimem_slot_##name;
HWLOC_FUNCTIONS(SLOT)
HWLOC_FUNCTIONS(DEFINE)

/* Returns 1 if every function was found; then the library stays open. Threads that call this at the same time store the same
 * addresses. */
HIDDEN int unimem_hwloc_open(void);
int unimem_hwloc_open(void) {
#define ROW(name) {#name, &unimem_slot_##name},
    static const struct {
        const char *name;
        void **slot;
    } rows[] = {HWLOC_FUNCTIONS(ROW)};
    void *library = dlopen("libhwloc.so.15", RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        void *function = dlsym(library, rows[i].name);
        if (!function) {
            dlclose(library);
            return 0;
        }
        __atomic_store_n(rows[i].slot, function, __ATOMIC_RELAXED);
    }
    return 1;
}
