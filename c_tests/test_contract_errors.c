/* test_contract_errors.c - each call that fails says why, and one that succeeds says nothing. */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/memory_pool.h"
#include "unimem/memory_singleton.h"

#include "one_instance.h"
#include "process.h"
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

static struct {
    char text[8000];
    bool fails;
} told;
static void listen(int level, const char *message, void *context) {
    (void)context;
    if (level <= 1 && strlen(told.text) + strlen(message) + 2 < sizeof told.text) strcat(strcat(told.text, message), "\n");
    char local;
    if (told.fails) unimem_retain(opaque(&local)); /* fails, and so has a message of its own */
}
#define SOMEBODY_ELSES "belongs to another pool, system or instance"
/* Frees what is to be refused, and looks whether the last error and the log give the reason. */
#define REFUSED(call, reason, is_logged)                                                                                       \
    do {                                                                                                                       \
        told.text[0] = 0;                                                                                                      \
        call;                                                                                                                  \
        EXPECT(unimem_last_error() == UNIMEM_ERROR_NOT_OWNED && strstr(unimem_last_error_message(), reason), "%s: %s", #call,  \
               unimem_last_error_message());                                                                                   \
        EXPECT(!(is_logged) || strstr(told.text, reason), "%s: the log says %s", #call, told.text);                            \
    } while (0)

static void test_refused(advanced_memory_system_t *system) {
    MemoryPool *pool = create_memory_pool(&(PoolConfig){.thread_cache_size = 32});
    unified_memory_interface_t *of_pool = unimem_pool_interface(pool);
    char *block = memory->allocate(100, 0), *tiered = memory->allocate_streaming(10000, 0), *foreign = malloc(10);
    unimem_set_log(listen, NULL);
    for (int fails = 0; fails < 2; fails++) {
        TEST(fails ? "the reason stays the last error's, whatever the log's callback calls"
                   : "a refused free says whose memory it is, in the last error and in the log") {
            told.fails = fails == 1;
            REFUSED(pool_free(pool, block), SOMEBODY_ELSES, true);
            REFUSED(of_pool->free(block), SOMEBODY_ELSES, true);
            REFUSED(memory_free(system, block), SOMEBODY_ELSES, false);
            REFUSED((void)of_pool->realloc(block, 10), SOMEBODY_ELSES, false);
            REFUSED(pool_free(pool, tiered), SOMEBODY_ELSES, true);
            REFUSED(of_pool->free(tiered), SOMEBODY_ELSES, true);
            REFUSED(memory_free(system, tiered), SOMEBODY_ELSES, false);
            REFUSED((void)of_pool->realloc(tiered, 10), SOMEBODY_ELSES, false);
            REFUSED(memory->free(tiered + 64), "is inside the tiered memory", true);
            REFUSED((void)memory->realloc(tiered + 64, 10), "is inside the tiered memory", false);
            REFUSED(memory->free(block + 16), "is not the start of a block", true);
            REFUSED(memory->free(foreign), "is not memory of libunimem", true);
        }
    }
    unimem_set_log(NULL, NULL);
    memory->free(block), memory->free(tiered), free(foreign);
    destroy_memory_pool(pool);
}

/* Not the last call, or it would be a jump, and this function in no stack. */
static __attribute__((noinline)) char *allocates_it(void) {
    char *volatile block = memory->allocate(100, 0);
    return block;
}
static __attribute__((noinline)) char *allocates_tiered(void) {
    char *volatile tiered = memory->allocate_streaming(10000, 0);
    return tiered;
}
/* In debug mode. */
#define FOUND(call, what, allocator)                                                                              \
    do {                                                                                                          \
        told.text[0] = 0;                                                                                         \
        call;                                                                                                     \
        EXPECT(strstr(told.text, what) && strstr(told.text, allocator), "%s: the log says %s", #call, told.text); \
    } while (0)
static int found(void *unused) {
    (void)unused;
    setenv("UNIMEM_DEBUG", "trace", 1);
    memory = unimem_open(NULL);
    MemoryPool *pool = create_memory_pool(&(PoolConfig){.thread_cache_size = 32});
    char *block = allocates_it(), *tiered = allocates_tiered();
    unimem_set_log(listen, NULL);
    FOUND(pool_free(pool, block), "bad free: the block of 100 bytes at", "allocates_it");
    FOUND(memory->free(block + 16), " is byte 16 of the block of 100 bytes at", "allocates_it");
    FOUND(pool_free(pool, tiered), "bad free: the block of 10000 bytes at", "allocates_tiered");
    FOUND(memory->free(tiered + 64), " is byte 64 of the block of 10000 bytes at", "allocates_tiered");
    unimem_set_log(NULL, NULL);
    memory->free(block), memory->free(tiered);
    destroy_memory_pool(pool);
    return !unimem_close(memory);
}

int main(void) {
    if (UNDER_SANITIZER) SKIP("debug mode says whose memory was freed", "the sanitizer has stacks of its own");
    else check_in_child("debug mode says whose memory was freed, and who allocated it", found, NULL, 60);
    memory = unimem_open(NULL);
    advanced_memory_system_t *system = create_memory_system(&(memory_system_config_t){.alignment = 64});
    if (!CHECK("an instance and a system", memory && system)) return tap_done();
    test_singleton(system);
    test_refused(system);
    destroy_memory_system(system);
    CHECK_EQ("failed calls left nothing live", live_bytes(), 0);
    CHECK("nothing is left", unimem_close(memory));
    return tap_done();
}
