/* An array larger than the memory that it may use. The program writes it through an ordinary pointer and reads it
 * chunk by chunk.
 *
 *   stream_larger_than_ram [MIB [BUDGET_MIB]]       default 256 MiB in 32; needs as much disk (UNIMEM_SPILL_DIR) */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unimem.h>

enum { MIB = 1 << 20 };

/* Numbers that no coder can compress. */
static uint64_t number(uint64_t i) {
    i = (i ^ i >> 31) * 0x9E3779B97F4A7C15u;
    return (i ^ i >> 29) * 0xBF58476D1CE4E5B9u;
}

int main(int count, char **arguments) {
    size_t bytes = (count > 1 ? strtoul(arguments[1], NULL, 10) : 256) * MIB;
    size_t budget = (count > 2 ? strtoul(arguments[2], NULL, 10) : 32) * MIB, most = 0, wrong = 0;
    unified_pool_config_t config = {.max_size = budget, .enable_growth = true, .enable_streaming = true};
    unified_memory_interface_t *memory = unimem_open(&config);
    uint64_t *numbers = memory ? memory->allocate_streaming(bytes, 0) : NULL;
    if (!numbers) {
        fprintf(stderr, "%s\n", unimem_last_error_message());
        return 1;
    }
    unimem_advise(numbers, UNIMEM_SEQUENTIAL);

    /* By pointer: chunks are brought in and sent out as the program touches them. */
    for (size_t i = 0; i < bytes / sizeof *numbers; i++) {
        numbers[i] = number(i);
        if (i % (MIB / 8) == 0 && unimem_held_bytes(memory) > most) most = unimem_held_bytes(memory);
    }
    /* By chunk: no access to an acquired chunk faults, and it may be given to system calls, MPI or a device. */
    size_t chunk = unimem_chunk_size(numbers) / sizeof *numbers;
    for (size_t c = 0; c < unimem_chunk_count(numbers); c++) {
        const uint64_t *part = unimem_chunk_acquire(numbers, c, UNIMEM_READ);
        if (!part) {
            fprintf(stderr, "chunk %zu: %s\n", c, unimem_last_error_message());
            return 1;
        }
        for (size_t i = 0; i < chunk && c * chunk + i < bytes / sizeof *numbers; i++)
            wrong += part[i] != number(c * chunk + i);
        unimem_chunk_release(numbers, c);
        if (unimem_held_bytes(memory) > most) most = unimem_held_bytes(memory);
    }
    unimem_residency_t tiers;
    unimem_residency(numbers, &tiers);
    printf("%zu MiB in at most %zu of %zu MiB of memory: %zu wrong; %zu chunks sent out, %zu read ahead, now hot %zu, "
           "cold %zu MiB; touches served by %s\n", bytes / MIB, most / MIB, budget / MIB, wrong, tiers.evictions,
           tiers.prefetches, tiers.hot_bytes / MIB, tiers.cold_bytes / MIB, unimem_fault_mechanism());
    memory->free(numbers);
    bool closed = unimem_close(memory);
    return !(closed && wrong == 0 && most <= budget && (bytes <= budget || tiers.evictions > 0));
}
