/* one_instance.h - what tests share that do everything to one instance. */
#ifndef UNIMEM_TEST_ONE_INSTANCE_H
#define UNIMEM_TEST_ONE_INSTANCE_H

#include "support.h"

static unified_memory_interface_t *memory;

static size_t live_bytes(void) { return stats_of(memory).total_allocated; }

/* Leaves an error as this thread's last one that no call leaves which is to fail with the one expected. */
static void set_other_error(unimem_error_t expected) {
    if (expected == UNIMEM_ERROR_INVALID_ARGUMENT) {
        int local = 0;
        memory->free(opaque(&local));
    } else {
        (void)memory->allocate(64, 3);
    }
}

#endif
