/* support.h - what most test programs need: random numbers, contents that can be checked, chains of blocks, figures of
 * an instance. What they need of threads, children and the system is in process.h, which comes with this.
 *
 * UNIMEM_TEST_DIVISOR=n in the environment divides the amount of work by n (for valgrind and sanitizers). */
#ifndef UNIMEM_TEST_SUPPORT_H
#define UNIMEM_TEST_SUPPORT_H

#include "process.h"
#include "tap.h"

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

/* Bytes that a recording's queue takes, if the environment asks for a recording. */
static inline size_t recording_queue(void) { return getenv("UNIMEM_TRACE") ? 3 * MIB / 2 : 0; }

/* Bytes by which resident memory may grow while things are made and destroyed over and over: what a sanitizer keeps, and a
 * recording's queue. */
static inline size_t growth_allowed(void) { return (UNDER_SANITIZER ? 8 * MIB : 512 * KIB) + recording_queue(); }

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

static inline memory_stats_t stats_of(unified_memory_interface_t *memory) {
    memory_stats_t stats;
    memset(&stats, 0xA5, sizeof stats);
    memory->get_stats(&stats);
    return stats;
}

/* Bytes that are live in an instance. */
static inline size_t live_in(unified_memory_interface_t *memory) { return stats_of(memory).total_allocated; }

/* Whether no figure that a caller can count has changed. */
static inline bool same_totals(memory_stats_t before, memory_stats_t after) {
    return before.total_allocated == after.total_allocated && before.peak_allocated == after.peak_allocated &&
           before.num_allocations == after.num_allocations && before.num_frees == after.num_frees &&
           before.largest_allocation == after.largest_allocation;
}

/* Allocates blocks of one size until there is no more or there are `most`, and writes to each of their pages. They are
 * linked through their first words. Returns the newest. */
static inline void **allocate_chain(unified_memory_interface_t *memory, size_t size, size_t alignment, size_t most, size_t *count) {
    void **newest = NULL;
    for (*count = 0; *count < most; ++*count) {
        void **block = memory->allocate(size, alignment);
        if (!block) break;
        for (size_t at = 0; at < size; at += 4096) ((volatile char *)block)[at] = 1;
        *block = newest;
        newest = block;
    }
    return newest;
}

static inline void free_chain(unified_memory_interface_t *memory, void **newest) {
    while (newest) {
        void **older = *newest;
        memory->free(newest);
        newest = older;
    }
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

#endif
