/* Tiered memory: sweeps of data larger than the budget, beside plain RAM and the disk's own speed.
 *
 *   bench_tiers [MIB of data] [MIB of budget]
 *
 * Every line is GB/s of the program's own bytes, and its share of what bounds it in this run: the rate of plain memory
 * for the same work, or that of the disk if the data do not compress. The program runs itself once for each fault
 * mechanism that there is, the slower ones with a quarter of the data. */
#define _GNU_SOURCE
#include "unimem.h"

#include <math.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "bench.h"
#include "disk.h"

#define MIB ((size_t)1 << 20)
enum { CHUNK_MIB = 2, TIMES = 3 };

typedef enum { FILL, READ, SCALE } work_t;
static const char *const work_names[] = {"fill", "read", "scale"};
typedef enum { NORMAL, WEIGHTS, WAVE, BITS } data_t;
static const char *const data_names[] = {"normal", "weights", "wave", "random bits"};

static float pattern[1 << 20]; /* 4 MiB of the kind of data under test */
static volatile double sink;

static double uniform(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(*state >> 11) + 0.5) / 9007199254740992.0;
}

static void make_pattern(data_t data)
{
    uint64_t state = 42;
    for (size_t i = 0; i < sizeof pattern / sizeof *pattern; i++) {
        double normal = sqrt(-2 * log(uniform(&state))) * cos(6.283185307179586 * uniform(&state));
        if (data == BITS) {
            uint32_t bits = (uint32_t)(uniform(&state) * 4294967296.0);
            memcpy(&pattern[i], &bits, 4);
        } else pattern[i] = (float)(data == WAVE ? sin((double)i * 0.01) + cos((double)i * 0.0013) : data == WEIGHTS ? normal * 0.02 : normal);
    }
}

#if defined(__GNUC__) && !defined(__clang__)
#define FAST __attribute__((optimize("O3", "fast-math")))
#else
#define FAST
#endif

/* One pass over a piece of memory. The compiler makes it as fast as it can. */
FAST static double pass(float *at, size_t count, work_t work)
{
    float sums[16] = {0};
    if (work == FILL) memcpy(at, pattern, count * sizeof *at);
    else if (work == SCALE) for (size_t i = 0; i < count; i++) at[i] *= -1.0f;
    else for (size_t i = 0; i + 16 <= count; i += 16) for (size_t j = 0; j < 16; j++) sums[j] += at[i + j];
    double sum = 0;
    for (size_t j = 0; j < 16; j++) sum += sums[j];
    return sum;
}

typedef struct {
    char *base;
    size_t bytes, first, step;
    work_t work;
    int acquire;
} job_t;

static void *run(void *argument)
{
    job_t *job = argument;
    size_t chunk = CHUNK_MIB * MIB;
    unimem_access_t access[] = {UNIMEM_OVERWRITE, UNIMEM_READ, UNIMEM_WRITE};
    for (size_t i = job->first; i < job->bytes / chunk; i += job->step) {
        float *at = (float *)(job->base + i * chunk);
        if (job->acquire && !unimem_chunk_acquire(job->base, i, access[job->work])) {
            fprintf(stderr, "acquire: %s\n", unimem_last_error_message());
            exit(1);
        }
        sink += pass(at, chunk / sizeof *at, job->work);
        if (job->acquire) unimem_chunk_release(job->base, i);
    }
    return NULL;
}

static double sweep(char *base, size_t bytes, work_t work, int acquire, size_t threads)
{
    pthread_t ids[8];
    job_t jobs[8];
    double start = seconds_now();
    for (size_t t = 0; t < threads; t++) {
        /* Threads that acquire chunks take them in turn. Threads that use plain pointers sweep an equal part each. */
        jobs[t] = (job_t){base, bytes, t, threads, work, acquire};
        if (!acquire) jobs[t] = (job_t){base + bytes / threads / (CHUNK_MIB * MIB) * (CHUNK_MIB * MIB) * t, bytes / threads, 0, 1, work, 0};
        pthread_create(&ids[t], NULL, run, &jobs[t]);
    }
    for (size_t t = 0; t < threads; t++) pthread_join(ids[t], NULL);
    return (double)bytes / (seconds_now() - start) / 1e9;
}

static double best(char *base, size_t bytes, work_t work, int acquire, size_t threads, int times)
{
    double most = 0;
    for (int i = 0; i < times; i++) {
        double rate = sweep(base, bytes, work, acquire, threads);
        if (rate > most) most = rate;
    }
    return most;
}

static double plain_rates[3][2];
static double disk[2]; /* written, read */
static size_t targets, met;

/* The share of its bound that a sweep by two threads has to reach; 0 if there is no target. Data that fit compressed
 * are measured against plain memory, incompressible data against the disk. A pass that reads and writes back has to
 * reach 0.8 of the share for reading. */
static double target_of(data_t data, work_t work, int acquire)
{
    if (work == FILL || (data != WAVE && data != BITS)) return 0;
    double share = data == WAVE ? (acquire ? 0.50 : 0.20) : (acquire ? 0.95 : 0.75);
    return work == SCALE ? 0.8 * share : share;
}

static double bound_of(data_t data, work_t work, size_t threads)
{
    if (data != BITS) return plain_rates[work][threads - 1];
    return work == FILL ? disk[0] : work == READ ? disk[1] : 1 / (1 / disk[0] + 1 / disk[1]);
}

static const char *verdict(double reached, double target)
{
    static char text[40];
    if (target == 0) return "";
    targets++;
    met += reached >= target;
    snprintf(text, sizeof text, "target %.0f%%: %s", 100 * target, reached >= target ? "met" : "NOT MET");
    return text;
}

static void measure(data_t data, double tolerance, size_t bytes, size_t budget)
{
    make_pattern(data);
    unified_memory_interface_t *memory = unimem_open(&(unified_pool_config_t){.max_size = budget, .enable_growth = true, .enable_streaming = true, .chunk_size = CHUNK_MIB * MIB});
    char *base = tolerance > 0 ? memory->allocate_hierarchical(bytes, tolerance) : memory->allocate_streaming(bytes, CHUNK_MIB * MIB);
    if (!base) {
        printf("no memory: %s\n", unimem_last_error_message());
        exit(1);
    }
    for (int acquire = 1; acquire >= 0; acquire--)
        for (size_t threads = 1; threads <= 2; threads++)
            for (work_t work = FILL; work <= SCALE; work++) {
                double rate = best(base, bytes, work, acquire, threads, work == FILL ? 1 : TIMES), share = rate / bound_of(data, work, threads);
                printf("%-12s %-6g %-8s %zu thread%s %-6s %6.2f GB/s %4.0f%% of %s %s\n", data_names[data], tolerance, acquire ? "chunks" : "pointers", threads, threads > 1 ? "s" : " ", work_names[work], rate, 100 * share, data == BITS ? "the disk" : "plain", threads == 2 ? verdict(share, target_of(data, work, acquire)) : "");
            }
    unimem_residency_t r;
    unimem_residency(base, &r);
    printf("%-12s %-6g ratio %.2f, hot %zu, warm %zu, cold %zu MiB, %zu evictions, %zu faults, %zu of %zu prefetches used; held %zu MiB, peak %zu MiB of %zu\n", data_names[data], tolerance, r.compression_ratio, r.hot_bytes / MIB, r.warm_bytes / MIB, r.cold_bytes / MIB, r.evictions, r.faults, r.prefetch_hits, r.prefetches, unimem_held_bytes(memory) / MIB, status_bytes("VmHWM:") / MIB, budget / MIB);
    memory->free(base);
    unimem_close(memory);
}

/* Measures data that fit the budget, after the first touch, beside plain memory: medians of alternating passes. */
static void measure_fitting(void)
{
    enum { ROUNDS = 15, BYTES = 64 << 20 };
    unified_memory_interface_t *memory = unimem_open(&(unified_pool_config_t){.max_size = 4 * (size_t)BYTES, .enable_growth = true, .enable_streaming = true});
    char *tiered = memory->allocate_streaming(BYTES, CHUNK_MIB * MIB);
    char *plain = mmap(NULL, BYTES + 2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!tiered || plain == MAP_FAILED) exit(1);
    plain += -(uintptr_t)plain % (2 * MIB);
    madvise(plain, BYTES, MADV_HUGEPAGE);
    sweep(tiered, BYTES, FILL, 0, 1);
    sweep(plain, BYTES, FILL, 0, 1);
    for (work_t work = READ; work <= SCALE; work++) {
        double shares[ROUNDS];
        for (int i = 0; i < ROUNDS; i++) {
            double rate = sweep(tiered, BYTES, work, 0, 1);
            shares[i] = rate / sweep(plain, BYTES, work, 0, 1);
        }
        double share = median(shares, ROUNDS);
        printf("fits         pointers 1 thread  %-6s %4.0f%% of plain %s\n", work_names[work], 100 * share, verdict(share, 0.97));
    }
    unimem_close(memory);
}

/* Measures everything with the mechanism that this process was told to use. */
static int inside(size_t bytes, size_t budget)
{
    printf("-- faults: %s, %zu MiB of data in a budget of %zu MiB\n", unimem_fault_mechanism(), bytes / MIB, budget / MIB);
    measure(WAVE, 1e-3, bytes, budget);
    measure(WEIGHTS, 1e-3, bytes, budget);
    measure(BITS, 0, bytes, budget);
    measure_fitting();
    printf("peak of the process: %zu MiB, budget %zu MiB; %zu of %zu targets met\n", status_bytes("VmHWM:") / MIB, budget / MIB, met, targets);
    return 0;
}

int main(int count, char **arguments)
{
    static const char *const mechanisms[] = {"userfaultfd", "userfaultfd-copy", "signal"};
    size_t bytes = (count > 1 ? strtoul(arguments[1], NULL, 10) : 1024) * MIB, budget = (count > 2 ? strtoul(arguments[2], NULL, 10) : 128) * MIB;
    {
        /* Plain memory is measured in a child, so that the peak of this process is its own. */
        size_t plain = 256 * MIB;
        int ends[2];
        if (pipe(ends) != 0) return 1;
        if (fork() == 0) {
            char *base = mmap(NULL, plain, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            madvise(base, plain, MADV_HUGEPAGE);
            memset(base, 1, plain);
            for (work_t work = FILL; work <= SCALE; work++)
                for (size_t threads = 1; threads <= 2; threads++) plain_rates[work][threads - 1] = best(base, plain, work, 0, threads, TIMES);
            if (write(ends[1], plain_rates, sizeof plain_rates) < 0) _exit(1);
            _exit(0);
        }
        if (read(ends[0], plain_rates, sizeof plain_rates) != sizeof plain_rates) return 1;
        wait(NULL);
    }
    for (work_t work = FILL; work <= SCALE; work++) printf("plain memory %-6s %.1f GB/s, 2 threads %.1f\n", work_names[work], plain_rates[work][0], plain_rates[work][1]);
    if (!disk_rates(bytes, 2, disk)) {
        perror("the disk");
        return 1;
    }
    printf("disk, direct, 2 threads: write %.2f, read %.2f GB/s\n", disk[0], disk[1]);
    for (size_t i = 0; i < sizeof mechanisms / sizeof *mechanisms; i++) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            /* Set before the library looks. */
            setenv("UNIMEM_FAULTS", mechanisms[i], 1);
            size_t part = strcmp(mechanisms[i], "userfaultfd") == 0 ? 1 : 4;
            if (strcmp(unimem_fault_mechanism(), mechanisms[i]) != 0) {
                printf("-- faults: %s SKIP: this system does not have it\n", mechanisms[i]);
                exit(0);
            }
            exit(inside(bytes / part, budget / part));
        }
        int status;
        if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0) return 1;
    }
    return 0;
}
