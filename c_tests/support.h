/* support.h - what several test programs need: random numbers, contents that can be checked, this process's memory
 * and files, children.
 *
 * UNIMEM_TEST_DIVISOR=n in the environment divides the amount of work by n (for valgrind and sanitizers). */
#ifndef UNIMEM_TEST_SUPPORT_H
#define UNIMEM_TEST_SUPPORT_H

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "unimem.h"

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UNDER_SANITIZER 1
#else
#define UNDER_SANITIZER 0
#endif

/* `amount` of work, or less if the environment asks for less; never 0. */
static inline size_t scaled(size_t amount) {
    const char *text = getenv("UNIMEM_TEST_DIVISOR");
    size_t divisor = text ? strtoul(text, NULL, 10) : UNDER_SANITIZER ? 10 : 1;
    size_t less = divisor > 1 ? amount / divisor : amount;
    return less ? less : 1;
}

/* Whether the environment has switched on debug mode's `mode`, or any for NULL (docs/debugging.md): what a test says of
 * caches, of memory that comes back at once, or of bytes behind a block may not hold there. */
static inline bool debug_mode(const char *mode) {
    const char *text = getenv("UNIMEM_DEBUG");
    if (!text) return false;
    if (!mode) return debug_mode("guard") || debug_mode("quarantine") || debug_mode("trace");
    return strcmp(text, "1") == 0 || strcmp(text, "all") == 0 || strstr(text, mode) != NULL;
}

/* Bytes that debug mode holds back at most of what is freed, records of them included. */
static inline size_t held_back(void) { return debug_mode("quarantine") ? 32 * MIB : 0; }

/* Whether the environment forbids all fault mechanisms: plain access beyond a budget is SIGSEGV then (docs/tuning.md). */
static inline bool without_faults(void) {
    const char *text = getenv("UNIMEM_FAULTS");
    return text && strcmp(text, "none") == 0;
}

/* SplitMix64 (Steele, Lea, Flood 2014): every seed gives a good sequence. */
typedef struct {
    uint64_t state;
} random_t;

static inline uint64_t random_next(random_t *random) {
    uint64_t z = random->state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static inline size_t random_below(random_t *random, size_t limit) { return (size_t)(random_next(random) % limit); }

/* Sizes as programs ask for them: every power of two is equally likely, then every size up to it. */
static inline size_t random_size(random_t *random, unsigned smallest_log2, unsigned largest_log2) {
    size_t top = (size_t)1 << (smallest_log2 + random_below(random, largest_log2 - smallest_log2 + 1));
    return top / 2 + 1 + random_below(random, (top + 1) / 2);
}

/* Fills a block with bytes that depend on the tag and the place. So it shows if another block's writer wrote them. */
static inline unsigned char pattern_byte(uint64_t tag, size_t offset) {
    return (unsigned char)(tag * 131 + offset * 7 + (offset >> 8) * 13);
}

static inline void pattern_fill(void *block, size_t from, size_t to, uint64_t tag) {
    unsigned char *bytes = block;
    for (size_t i = from; i < to; i++) bytes[i] = pattern_byte(tag, i);
}

static inline bool pattern_holds(const void *block, size_t from, size_t to, uint64_t tag) {
    const unsigned char *bytes = block;
    for (size_t i = from; i < to; i++)
        if (bytes[i] != pattern_byte(tag, i)) return false;
    return true;
}

static inline bool all_zero(const void *block, size_t size) {
    const unsigned char *bytes = block;
    return size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0);
}

static inline bool is_aligned(const void *pointer, size_t alignment) { return (uintptr_t)pointer % alignment == 0; }

/* The smallest power of two that is not below `value`. */
static inline size_t next_power_of_two(size_t value) {
    size_t power = 1;
    while (power < value) power *= 2;
    return power;
}

/* A pointer that the compiler cannot follow. So it neither warns of the tests' wrong frees nor optimises by them. */
static inline void *opaque(const volatile void *pointer) {
    volatile uintptr_t address = (uintptr_t)pointer;
    return (void *)address;
}

static inline double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* The number of this process's descriptors plus a constant. Only differences between two counts mean something. */
static inline size_t open_files(void) {
    size_t count = 0;
    DIR *directory = opendir("/proc/self/fd");
    while (directory && readdir(directory)) count++;
    if (directory) closedir(directory);
    return count;
}

/* Resident memory of this process that no file backs, in bytes. It is read from the page tables if the system offers
 * that. The system's counters are wrong by up to 64 pages for each processor, and pages of program text come and go
 * with the page cache. */
static inline size_t resident_bytes(void) {
    char line[256];
    unsigned long anonymous = 0, shared = 0, total = 0, resident = 0;
    int found = 0;
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    while (file && fgets(line, sizeof line, file))
        found += sscanf(line, "Anonymous: %lu", &anonymous) == 1 || sscanf(line, "Pss_Shmem: %lu", &shared) == 1;
    if (file) fclose(file);
    if (found == 2) return (size_t)(anonymous + shared) * KIB;
    if ((file = fopen("/proc/self/statm", "r")) == NULL) return 0;
    if (fscanf(file, "%lu %lu", &total, &resident) != 2) resident = 0;
    fclose(file);
    return (size_t)resident * (size_t)sysconf(_SC_PAGESIZE);
}

static inline memory_stats_t stats_of(unified_memory_interface_t *memory) {
    memory_stats_t stats;
    memset(&stats, 0xA5, sizeof stats);
    memory->get_stats(&stats);
    return stats;
}

/* Whether no figure that a caller can count has changed. */
static inline bool same_totals(memory_stats_t before, memory_stats_t after) {
    return before.total_allocated == after.total_allocated && before.peak_allocated == after.peak_allocated &&
           before.num_allocations == after.num_allocations && before.num_frees == after.num_frees &&
           before.largest_allocation == after.largest_allocation;
}

/* Memory for the test's own tables. It comes straight from the system, so that it disturbs no allocator under test. */
static inline void *table_new(size_t bytes) {
    void *table = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (table == MAP_FAILED) {
        perror("mmap");
        exit(EXIT_FAILURE);
    }
    return table;
}

/* Leaves the calling thread with a cancellation that waits: it takes effect at the thread's next cancellation point. */
static inline void cancel_self_later(void) {
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    pthread_cancel(pthread_self());
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
}

/* Waits for a child. Returns its exit status, or 256 plus the signal that ended it. */
static inline int child_result(pid_t child) {
    int status = 0;
    pid_t ended;
    while ((ended = waitpid(child, &status, 0)) < 0 && errno == EINTR) continue;
    if (child < 0 || ended != child) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

/* Runs `body` in a forked child, and ends the child after `seconds` by a signal that cannot be blocked. Returns its
 * result like child_result(). */
static inline int run_in_child(int (*body)(void *), void *argument, unsigned seconds) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct sigevent kill_it = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
        struct itimerspec when = {.it_value.tv_sec = seconds};
        timer_t timer;
        if (timer_create(CLOCK_MONOTONIC, &kill_it, &timer) != 0 || timer_settime(timer, 0, &when, NULL) != 0) _exit(121);
        int result = body(argument);
        fflush(stdout);
        _exit(result);
    }
    return child_result(child);
}

#endif
