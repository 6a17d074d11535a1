/* Tiered memory: how much RAM it takes, and whether it loses anything. Measures peaks of RAM while 4 GiB go through small
 * budgets, alone and inside a memory cgroup; what an eviction costs apart from encoding; and increments that are lost to
 * evictions, of which there may be none.
 *
 *   bench_tiers_limits [MIB of data]        4096; that much disk is used
 */
#define _GNU_SOURCE
#include "unimem.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "../demo/measure.h"
#include "bench.h"

#define MIB ((size_t)1 << 20)

static const char *verdict(bool is_met)
{
    return is_met ? "met" : "NOT MET";
}

static unified_memory_interface_t *open_with(size_t max_size)
{
    unified_memory_interface_t *memory = unimem_open(&(unified_pool_config_t){.max_size = max_size, .enable_growth = true, .enable_streaming = true, .chunk_size = MIB});
    if (memory) return memory;
    fprintf(stderr, "%s\n", unimem_last_error_message());
    exit(1);
}

static void put(const char *path, const char *name, const char *text, bool *written)
{
    char file[300];
    snprintf(file, sizeof file, "%s/%s", path, name);
    int descriptor = open(file, O_WRONLY | O_CLOEXEC);
    if (descriptor < 0 || write(descriptor, text, strlen(text)) < 0) *written = false;
    if (descriptor >= 0) close(descriptor);
}

/* How often the group ran into its limit; -1 if the system does not tell. */
static long limit_hits(const char *group)
{
    char file[300], line[100];
    long hits = -1;
    snprintf(file, sizeof file, "%s/memory.failcnt", group);
    FILE *first = fopen(file, "r");
    if (first && fscanf(first, "%ld", &hits) == 1) {
        fclose(first);
        return hits;
    }
    snprintf(file, sizeof file, "%s/memory.events", group);
    FILE *second = fopen(file, "r");
    while (second && fgets(line, sizeof line, second)) sscanf(line, "max %ld", &hits);
    if (second) fclose(second);
    return hits;
}

/* Puts this process into a new group with a limit. Returns false if groups cannot be written. */
static bool enter_group(size_t limit, char group[200])
{
    static const char *const roots[] = {"/sys/fs/cgroup/memory", "/sys/fs/cgroup"};
    for (size_t i = 0; i < 2; i++) {
        bool written = true;
        char text[32];
        snprintf(group, 200, "%s/unimem-bench-%ld", roots[i], (long)getpid());
        if (mkdir(group, 0755) != 0) continue;
        snprintf(text, sizeof text, "%zu", limit);
        put(group, i == 0 ? "memory.limit_in_bytes" : "memory.max", text, &written);
        snprintf(text, sizeof text, "%ld", (long)getpid());
        put(group, "cgroup.procs", text, &written);
        if (written) return true;
        rmdir(group);
    }
    return false;
}

/* Writes, reads and rewrites data, half of which are incompressible. */
static void sweep(size_t bytes, size_t max_size, bool grouped)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        char group[200] = "";
        if (grouped && !enter_group(max_size + 32 * MIB, group)) {
            printf("%zu MiB in a memory group SKIP: groups cannot be written here\n", max_size / MIB);
            fflush(stdout);
            _exit(0);
        }
        size_t before = status_bytes("VmHWM:");
        unified_memory_interface_t *memory = open_with(max_size);
        uint64_t *data = memory->allocate_streaming(bytes, MIB);
        if (!data) {
            fprintf(stderr, "%s\n", unimem_last_error_message());
            _exit(1);
        }
        size_t wrong = 0, words = MIB / 8;
        double start = seconds_now();
        for (int pass = 0; pass < 3; pass++)
            for (size_t chunk = 0; chunk < bytes / MIB; chunk++) {
                uint64_t *at = unimem_chunk_acquire(data, chunk, pass == 0 ? UNIMEM_OVERWRITE : pass == 1 ? UNIMEM_READ : UNIMEM_WRITE);
                if (!at) _exit(1);
                for (size_t i = 0; i < words; i++) {
                    uint64_t word = chunk % 2 ? (chunk * words + i) * 0x9E3779B97F4A7C15u : i & 255;
                    if (pass == 0) at[i] = word;
                    else wrong += at[i] != word;
                    if (pass == 2) at[i] = ~word;
                }
                unimem_chunk_release(data, chunk);
            }
        double seconds = seconds_now() - start;
        size_t peak = status_bytes("VmHWM:");
        /* The peak includes the program's own pages, which are not in the budget. */
        printf("%zu MiB through %zu MiB%s: peak %zu MiB (%zu before), target %zu: %s; %.2f GB/s, %zu wrong words", bytes / MIB, max_size / MIB, grouped ? ", in a memory group" : "", peak / MIB, before / MIB, max_size / MIB + 24, verdict(peak <= max_size + 24 * MIB), 3 * (double)bytes / seconds / 1e9, wrong);
        if (grouped) {
            long hits = limit_hits(group);
            printf("; limit of %zu MiB touched %ld times, target 0: %s", max_size / MIB + 32, hits, verdict(hits == 0));
        }
        printf("\n");
        fflush(stdout);
        memory->free(data);
        unimem_close(memory);
        _exit(wrong != 0);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0) exit(1);
    char group[200];
    snprintf(group, sizeof group, "/sys/fs/cgroup/memory/unimem-bench-%ld", (long)child);
    if (rmdir(group) != 0) {
        snprintf(group, sizeof group, "/sys/fs/cgroup/unimem-bench-%ld", (long)child);
        rmdir(group);
    }
}

/* Measures what it takes to send a chunk out by advice, without the time of encoding; the median of many. The pages of the
 * chunk and of its encoded bytes exist already, as in a steady state. It is done once with hardly any encoded bytes, so
 * that only moving the chunk and accounting for it count, and once with a sixteenth of the chunk, which is hashed and
 * copied. */
static void eviction_cost(void)
{
    enum { TIMES = MOST_ROUNDS, CHUNK = 2 << 20, WORDS = CHUNK / 8 };
    unified_memory_interface_t *memory = open_with(256 * MIB);
    uint64_t *data = memory->allocate_streaming(CHUNK, CHUNK);
    if (!data) exit(1);
    for (size_t random = 0; random <= WORDS / 16; random += WORDS / 16) {
        double costs[TIMES];
        size_t encoded = 0;
        for (size_t i = 0; i < TIMES; i++) {
            unimem_residency_t before, after;
            if (!unimem_chunk_acquire(data, 0, UNIMEM_OVERWRITE)) exit(1);
            for (size_t word = 0; word < WORDS; word++) data[word] = word < random ? (word + i) * 0x9E3779B97F4A7C15u : 1;
            unimem_chunk_release(data, 0);
            unimem_residency(data, &before);
            double start = seconds_now();
            unimem_advise(data, UNIMEM_DONT_NEED);
            double seconds = seconds_now() - start;
            unimem_residency(data, &after);
            if (after.evictions != before.evictions + 1) exit(1);
            costs[i] = seconds * 1e6 - (double)(after.compression_ns - before.compression_ns) * 1e-3;
            encoded = after.warm_bytes;
        }
        double cost = median(costs, TIMES);
        printf("eviction of 2 MiB beside encoding, %zu KiB encoded: %.1f us, target 2: %s\n", encoded >> 10, cost, verdict(cost <= 2));
    }
    unimem_close(memory);
}

enum { OWNERS = 2, INCREMENTS = 50000000, RUN = 2000, CHUNKS = 64 };
static _Atomic uint64_t *counters;

/* Increments words that all threads share, many in one chunk before the next. */
static void *increment(void *argument)
{
    uint64_t state = (uint64_t)(uintptr_t)argument;
    for (size_t done = 0; done < INCREMENTS; done += RUN) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        _Atomic uint64_t *chunk = counters + (state >> 33) % CHUNKS * (65536 / 8);
        for (size_t i = 0; i < RUN; i++) atomic_fetch_add_explicit(&chunk[i % 512 * 16], 1, memory_order_relaxed);
    }
    return NULL;
}

static void increments(void)
{
    unified_memory_interface_t *memory = open_with(2 * MIB);
    counters = memory->allocate_streaming(CHUNKS * 65536, 65536);
    if (!counters) exit(1);
    pthread_t threads[OWNERS];
    double start = seconds_now();
    for (size_t t = 0; t < OWNERS; t++) pthread_create(&threads[t], NULL, increment, (void *)(t + 1));
    for (size_t t = 0; t < OWNERS; t++) pthread_join(threads[t], NULL);
    double seconds = seconds_now() - start;
    unimem_residency_t figures;
    unimem_residency(counters, &figures);
    uint64_t sum = 0;
    for (size_t i = 0; i < CHUNKS * 65536 / 8; i++) sum += counters[i];
    uint64_t lost = (uint64_t)OWNERS * INCREMENTS - sum;
    printf("%d increments by %d threads, %zu evictions, %.1f s: %llu lost, target 0: %s\n", OWNERS * INCREMENTS, OWNERS, figures.evictions, seconds, (unsigned long long)lost, verdict(lost == 0 && figures.evictions > 0));
    unimem_close(memory);
}

int main(int count, char **arguments)
{
    size_t bytes = (count > 1 ? strtoul(arguments[1], NULL, 10) : 4096) * MIB;
    printf("faults: %s\n", unimem_fault_mechanism());
    sweep(bytes, 512 * MIB, false);
    sweep(bytes, 512 * MIB, true);
    sweep(bytes, 64 * MIB, false);
    sweep(bytes, 64 * MIB, true);
    eviction_cost();
    increments();
    return 0;
}
