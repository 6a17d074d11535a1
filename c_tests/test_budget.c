/* A budget against what the system says: resident memory grows by no more than `max_size`, bookkeeping included. Each
 * case in a process of its own, so that nothing resident is left from another. */
#define _GNU_SOURCE
#include "support.h"
#include "tap.h"

/* What is not the instance's: the library's own pages, this thread's cache, page tables of the library. */
static const size_t OTHERS = 512 * KIB;
static const size_t CAP = 64 * MIB;

typedef struct {
    size_t size, alignment;
} filling_t;

/* Blocks until there is no more room, each written to. */
static int fill(void *argument) {
    const filling_t *filling = argument;
    unified_memory_interface_t *memory = unimem_open(&(unified_pool_config_t){.max_size = CAP, .enable_growth = true});
    memory->free(memory->allocate(filling->size, filling->alignment));
    unimem_trim(memory);
    size_t before = resident_bytes(), count = 0;
    for (char *block; (block = memory->allocate(filling->size, filling->alignment)) != NULL; count++)
        for (size_t i = 0; i < filling->size; i += 4096) block[i] = 1;
    size_t grown = resident_bytes() - before, held = unimem_held_bytes(memory);
    printf("# blocks of %zu bytes: %zu KiB live, %zu KiB held, resident memory grew by %zu KiB\n", filling->size,
           count * filling->size / KIB, held / KIB, grown / KIB);
    EXPECT(held <= CAP, "%zu bytes held", held);
    EXPECT(grown <= CAP + OTHERS, "blocks of %zu bytes: %zu KiB became resident", filling->size, grown / KIB);
    EXPECT(held <= grown + OTHERS, "blocks of %zu bytes: %zu KiB are said to be held, %zu are resident", filling->size, held / KIB,
           grown / KIB);
    EXPECT(count * filling->size > CAP / 2, "only %zu blocks of %zu bytes", count, filling->size);
    return tap.misses != 0;
}

/* The whole budget made ready: used as it is, for blocks of any size. */
static int fill_ready(void *argument) {
    const filling_t *filling = argument;
    unimem_global()->free(unimem_global()->allocate(100, 0)); /* what the library itself needs, once */
    size_t before = resident_bytes(), count = 0;
    unified_memory_interface_t *memory = unimem_open(&(unified_pool_config_t){.initial_size = CAP});
    size_t ready = resident_bytes() - before, held = unimem_held_bytes(memory);
    EXPECT(held <= CAP && held + OTHERS >= CAP, "%zu bytes of %zu are ready", held, CAP);
    EXPECT(ready + OTHERS >= held && ready <= held + OTHERS, "%zu KiB held, %zu KiB resident", held / KIB, ready / KIB);
    for (char *block; (block = memory->allocate(filling->size, filling->alignment)) != NULL; count++)
        for (size_t i = 0; i < filling->size; i += 4096) block[i] = 1;
    size_t full = resident_bytes() - before;
    printf("# ready, then blocks of %zu bytes: %zu KiB live, %zu KiB held, resident memory grew by %zu, then %zu KiB\n",
           filling->size, count * filling->size / KIB, unimem_held_bytes(memory) / KIB, ready / KIB, full / KIB);
    EXPECT(full <= CAP + OTHERS && unimem_held_bytes(memory) <= CAP, "%zu KiB became resident", full / KIB);
    EXPECT(count * filling->size > CAP / 2, "only %zu blocks of %zu bytes", count, filling->size);
    return tap.misses != 0;
}

int main(void) {
    filling_t fillings[] = {{32, 16}, {48, 16}, {64, 0}, {320, 0}, {1000, 0}, {4096, 0}, {20000, 0}, {32 * KIB, 0}, {40000, 0}, {MIB, 0}, {3 * MIB, 0}};
    TEST("blocks of every size: what is resident stays within the budget, and what is held is resident") {
        for (size_t i = 0; i < sizeof fillings / sizeof fillings[0]; i++) {
            int result = run_in_child(fill, &fillings[i], 60);
            EXPECT(result == 0, "blocks of %zu bytes: %d", fillings[i].size, result);
        }
    }
    TEST("the same where the whole budget is made ready first") {
        for (size_t i = 0; i < sizeof fillings / sizeof fillings[0]; i += 2) {
            int result = run_in_child(fill_ready, &fillings[i], 60);
            EXPECT(result == 0, "blocks of %zu bytes: %d", fillings[i].size, result);
        }
    }
    return tap_done();
}
