/* recorded.c - a program to be recorded, for recorded.sh. It sweeps over tiered memory under a tight budget,
 * contracts trees, and leaks a block whose figures are known. It prints what the recording has to agree with.
 *
 *   recorded              records if the environment asks for it
 *   recorded start FILE   begins the recording itself, and ends it
 *   recorded fork FILE    has a child, which records itself into the file
 *   recorded pooled       only leaks the blocks, in a pool of a memory system
 *   recorded killed       ends by a signal
 *   recorded left         ends by _exit, at once */
#define _GNU_SOURCE
#include "support.h"
#include "unimem/tree_tensor_network.h"

#include <sched.h>
#include <sys/stat.h>

enum { LEAKED = 3000, LEAKED_SIZE = 2000 };

static void *leaked[LEAKED];

__attribute__((noinline)) void leak_blocks(unified_memory_interface_t *memory)
{
    for (int i = 0; i < LEAKED; i++) leaked[i] = memory->allocate(LEAKED_SIZE, 0);
}

__attribute__((noinline)) void sweep(float *values, size_t count, int kind)
{
    random_t random = {1};
    for (int round = 0; round < 2; round++)
        for (size_t i = 0; i < count; i++) {
            uint32_t number = (uint32_t)random_next(&random);
            values[i] = kind == 0 ? (float)number : kind == 1 ? (float)(i % 4096) * 0.001f : (float)(number >> 24);
        }
}

static int leak_pooled_blocks(void)
{
    advanced_memory_system_t *system = create_memory_system(&(memory_system_config_t){.type = MEM_SYSTEM_POOLED});
    void *pool = ams_create_memory_pool(system, &(pool_config_t){.enable_growth = true});
    for (int i = 0; i < LEAKED; i++)
        if (!(leaked[i] = ams_pool_allocate(system, pool, LEAKED_SIZE))) return 3;
    printf("{\"leaked_blocks\": %d, \"leaked_bytes\": %d}\n", LEAKED, LEAKED * LEAKED_SIZE);
    return 0;
}

/* Waits until the recording has been written twice more, and so holds all that was done before. */
static void wait_for_the_recording(const char *path)
{
    struct stat file = {0};
    off_t length = 0;
    for (int grown = -1; grown < 2; sched_yield()) {
        if (stat(path, &file) != 0) give_up("there is no recording");
        grown += file.st_size != length;
        length = file.st_size;
    }
}

static size_t contract(unified_memory_interface_t *memory)
{
    tree_tensor_network_t *network = create_tree_tensor_network(4, 64, 1e-6);
    if (!network) return 0;
    network->memory = memory;
    size_t dimensions[2] = {256, 256};
    ComplexFloat *data = calloc(256 * 256, sizeof *data);
    for (int i = 0; i < 256 * 256; i++) data[i] = (ComplexFloat){1, 0.5f};
    tree_tensor_node_t *first = add_tree_tensor_node(network, data, dimensions, 2, false);
    tree_tensor_node_t *second = add_tree_tensor_node(network, data, dimensions, 2, false);
    size_t contractions = 0;
    tree_tensor_node_t *result = NULL;
    for (int i = 0; first && second && i < 5; i++) contractions += contract_tree_tensor_nodes(network, first, second, &result);
    free(data);
    destroy_tree_tensor_network(network);
    return contractions;
}

int main(int count, char **arguments)
{
    const char *mode = count > 1 ? arguments[1] : "";
    if (strcmp(mode, "left") == 0) _exit(unimem_global()->allocate(100, 0) ? 0 : 3);
    if (strcmp(mode, "pooled") == 0) return leak_pooled_blocks();
    if (strcmp(mode, "start") == 0) {
        if (!unimem_trace_start(arguments[2]) || unimem_trace_start(arguments[2])) return 3;
    }
    unified_memory_interface_t *memory = unimem_open(&(unified_pool_config_t){
        .max_size = 24 * MIB, .enable_growth = true, .enable_streaming = true, .chunk_size = MIB});
    if (!memory) return 1;
    float *noise = memory->allocate_streaming(40 * MIB, 0), *steps = memory->allocate_streaming(40 * MIB, 0);
    float *weights = memory->allocate_hierarchical(40 * MIB, 1e-3);
    if (!noise || !steps || !weights) return 1;
    sweep(noise, 10 * MIB, 0);
    sweep(steps, 10 * MIB, 2);
    sweep(weights, 10 * MIB, 1);
    uint64_t faults = 0, evictions = 0;
    float *regions[] = {noise, steps, weights};
    for (int i = 0; i < 3; i++) {
        unimem_residency_t residency;
        if (!unimem_residency(regions[i], &residency)) return 1;
        faults += residency.faults;
        evictions += residency.evictions;
    }
    size_t contractions = contract(memory);
    if (strcmp(mode, "fork") == 0) {
        pid_t child = fork();
        if (child == 0) {
            sweep(noise, 10 * MIB, 0); /* of which nothing is recorded */
            if (unimem_trace_stop() || !unimem_trace_start(arguments[2])) exit(1);
            sweep(steps, 10 * MIB, 2);
            exit(!unimem_trace_stop());
        }
        if (child_result(child) != 0) return 4;
    }
    for (int i = 0; i < 3; i++) memory->free(regions[i]);
    leak_blocks(memory);
    printf("{\"faults\": %llu, \"evictions\": %llu, \"contractions\": %zu, \"leaked_blocks\": %d, \"leaked_bytes\": %d}\n",
           (unsigned long long)faults, (unsigned long long)evictions, contractions, LEAKED, LEAKED * LEAKED_SIZE);
    fflush(stdout);
    if (strcmp(mode, "start") == 0 && (!unimem_trace_stop() || unimem_trace_stop())) return 3;
    if (strcmp(mode, "killed") == 0) {
        wait_for_the_recording(getenv("UNIMEM_TRACE"));
        abort();
    }
    return 0;
}
