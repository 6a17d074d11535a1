/* test_steady.c - a program in a steady state, which frees as much as it allocates, over and over. It must fault in
 * no new pages: what it has just freed is used again, whatever the sizes were and in whatever order blocks are
 * freed. The test counts page faults, not time. */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/memory_pool.h"
#include "unimem/memory_singleton.h"

#include "surfaces.h"

#include <sys/resource.h>

typedef enum { LAST_FIRST, FIRST_FIRST, AT_RANDOM, ORDERS } order_t;
static const char *const order_names[ORDERS] = {"last first", "first first", "at random"};

enum { MOST = 1000, ROUNDS = 200 };

static size_t most_bytes; /* of a batch */

static size_t blocks_of(size_t size) {
    return size * MOST <= most_bytes ? MOST : size < most_bytes ? most_bytes / size : 1;
}

static void batches(const surface_t *surface, size_t size, order_t order, size_t rounds) {
    static char *blocks[MOST];
    random_t random = {size};
    for (size_t round = 0; round < rounds; round++) {
        size_t count = blocks_of(size);
        for (size_t i = 0; i < count; i++) {
            blocks[i] = surface->allocate(size);
            if (!EXPECT(blocks[i] != NULL, "%s: %zu bytes: NULL", surface->name, size)) return;
            for (size_t at = 0; at < size; at += 4096) blocks[i][at] = 1;
        }
        for (size_t left = count; left > 0; left--) {
            size_t chosen = order == LAST_FIRST    ? left - 1
                            : order == FIRST_FIRST ? count - left
                                                   : random_below(&random, left);
            surface->free(blocks[chosen]);
            if (order == AT_RANDOM) blocks[chosen] = blocks[left - 1];
        }
    }
}

static long faults(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
}

static void test_surface(const surface_t *surface) {
    char name[120];
    snprintf(name, sizeof name, "%s: batches of one size after another, in every order", surface->name);
    TEST(name) {
        static const size_t amounts[] = {400 * KIB, 1600 * KIB, 6 * MIB};
        long most_faults = 0;
        for (size_t amount = 0; amount < 3; amount++)
            for (size_t size = 64; size <= 8 * MIB; size *= 4)
                for (int order = LAST_FIRST; order < ORDERS; order++) {
                    most_bytes = amounts[amount];
                    batches(surface, size, (order_t)order, 5); /* the state becomes steady */
                    long before = faults();
                    batches(surface, size, (order_t)order, ROUNDS);
                    long new_faults = faults() - before;
                    if (new_faults > most_faults) most_faults = new_faults;
                    /* None are the library's. Now and then one is the system's. */
                    EXPECT(new_faults <= ROUNDS / 10, "%zu blocks of %zu bytes, freed %s: %ld page faults in %d rounds, expected none",
                           blocks_of(size), size, order_names[order], new_faults, ROUNDS);
                }
        printf("# at most %ld page faults in %d rounds\n", most_faults, ROUNDS);
    }
}

int main(void) {
    memory = unimem_open(NULL);
    pool = create_memory_pool(&(PoolConfig){.num_size_classes = 32, .thread_cache_size = 64, .enable_stats = true});
    memory_system = create_memory_system(&(memory_system_config_t){0});
    if (!CHECK("an instance, a pool and a system", memory && pool && memory_system)) return tap_done();
    if (UNDER_SANITIZER || getenv("UNIMEM_TEST_DIVISOR")) {
        SKIP("page faults of steady programs", "under a sanitizer or valgrind they are not the library's");
        return tap_done();
    }
    if (debug_mode(NULL)) SKIP("page faults of steady programs", "in debug mode what was just freed is not what is used next");
    else if (getenv("UNIMEM_TRACE")) SKIP("page faults of steady programs", "those of a recording's own buffers would be counted too");
    else
        for (size_t i = 0; i < sizeof surfaces / sizeof surfaces[0]; i++) test_surface(&surfaces[i]);
    CHECK("the instance closes clean", unimem_close(memory));
    destroy_memory_pool(pool);
    destroy_memory_system(memory_system);
    return tap_done();
}
