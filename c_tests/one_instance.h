/* one_instance.h - what is shared by tests that use a single instance. */
#ifndef UNIMEM_TEST_ONE_INSTANCE_H
#define UNIMEM_TEST_ONE_INSTANCE_H

#include "support.h"

static unified_memory_interface_t *memory;

static size_t live_bytes(void) { return live_in(memory); }

/* Sets this thread's last error to something other than `expected`. A later call that is to fail with `expected`
 * then shows that it sets the error itself. */
static void set_other_error(unimem_error_t expected) {
    if (expected == UNIMEM_ERROR_INVALID_ARGUMENT) {
        int local = 0;
        memory->free(opaque(&local));
    } else {
        (void)memory->allocate(64, 3);
    }
}

#endif
