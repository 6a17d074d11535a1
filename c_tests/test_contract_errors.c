/* test_contract_errors.c - each call that fails says why, and one that succeeds says nothing. */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/memory_singleton.h"

#include "one_instance.h"
#include "tap.h"

/* Makes a call that is to fail with `expected`, after another error, so that the call has to set it. */
#define FAILS(expected, failed)                                                                      \
    do {                                                                                             \
        set_other_error(expected);                                                                   \
        bool held = (failed);                                                                        \
        EXPECT(held && unimem_last_error() == (expected) && unimem_last_error_message()[0] != 0,     \
               "%s: %d, error %d, expected %d (%s)", #failed, held, unimem_last_error(), (expected), \
               unimem_last_error_message());                                                         \
    } while (0)

static void test_singleton(advanced_memory_system_t *system) {
    char foreign;
    TEST("singleton: tracking that fails says why") {
        FAILS(UNIMEM_ERROR_INVALID_ARGUMENT, !untrack_memory_block(&foreign));
        FAILS(UNIMEM_ERROR_INVALID_ARGUMENT, !untrack_memory_block(NULL));
        FAILS(UNIMEM_ERROR_INVALID_ARGUMENT, !track_memory_block(NULL));
    }
    TEST("safe_memory_free that frees nothing says why, and the block stays tracked") {
        char *block = safe_memory_allocate(system, 10, 0);
        FAILS(UNIMEM_ERROR_INVALID_ARGUMENT, (safe_memory_free(NULL, block), is_memory_block_tracked(block)));
        FAILS(UNIMEM_ERROR_NOT_OWNED, (safe_memory_free(system, &foreign), true));
        safe_memory_free(system, block);
        EXPECT(!is_memory_block_tracked(block), "the block is still tracked");
    }
}

int main(void) {
    memory = unimem_open(NULL);
    advanced_memory_system_t *system = create_memory_system(&(memory_system_config_t){.alignment = 64});
    if (!CHECK("an instance and a system", memory && system)) return tap_done();
    test_singleton(system);
    destroy_memory_system(system);
    CHECK_EQ("failed calls left nothing live", live_bytes(), 0);
    CHECK("nothing is left", unimem_close(memory));
    return tap_done();
}
