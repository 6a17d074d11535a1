/* The workloads: what the allocators are made to do. A workload's loop is compiled once for each way to call an
 * allocator, so that each is called as a program would call it: the pool and glibc by name, the interface through
 * its table, and all others, which are opened at run time, through one pointer. */
#ifndef UNIMEM_BENCH_WORKLOADS_H
#define UNIMEM_BENCH_WORKLOADS_H

#include "contenders.h"
#include "../demo/trace.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

enum { MOST_THREADS = 8, SCRATCH = 4 << 20, BATCH = 1000, LIVE = 10000, RING = 1024, LEFT = 8, CARRIED = 64 };

typedef enum { BY_POOL, BY_INTERFACE, BY_GLIBC, BY_POINTER } calling_t;

/* Blocks on their way from one thread to another. */
typedef struct {
    _Alignas(64) atomic_size_t written;
    _Alignas(64) atomic_size_t read;
    _Alignas(64) void *blocks[RING];
} ring_t;

/* One thread's share of a run. */
typedef struct {
    size_t size;      /* bytes of a block; for `aligned`, the alignment */
    size_t count;     /* operations; for most workloads one is an allocation and its free */
    size_t index;     /* number of this thread */
    uint64_t seed;    /* not 0 */
    void *scratch;    /* SCRATCH bytes, touched before */
    ring_t *ring;     /* for `pass`: of this thread and its partner */
    trace_t *trace;   /* for the traces */
} job_t;

static uint64_t random_next(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* A size from 16 B up to 16 B << octaves. Each octave is as frequent as any other. */
static inline size_t log_uniform(uint64_t *state, unsigned octaves) {
    uint64_t random = random_next(state);
    size_t base = (size_t)16 << (random >> 32) % octaves;
    return base + (random & 0xFFFF) * base / 0x10000;
}

static _Noreturn void failed(const char *what) {
    fprintf(stderr, "bench_alloc: %s\n", what);
    exit(EXIT_FAILURE);
}

static inline void *touched(void *block) {
    if (__builtin_expect(!block, 0)) failed("an allocation failed");
    *(volatile char *)block = 1;
    return block;
}

#define INLINE static inline __attribute__((always_inline))

INLINE void *get(calling_t by, const contender_t *contender, size_t size) {
    return touched(by == BY_POOL        ? pool_allocate(surface_pool, size)
                   : by == BY_INTERFACE ? surface_memory->allocate(size, 0)
                   : by == BY_GLIBC     ? malloc(size)
                                        : contender->allocate(size));
}

INLINE void *get_aligned(calling_t by, const contender_t *contender, size_t alignment, size_t size) {
    return touched(by == BY_POOL        ? pool_get(size, alignment)
                   : by == BY_INTERFACE ? surface_memory->allocate(size, alignment)
                   : by == BY_GLIBC     ? memalign(alignment, size)
                                        : contender->allocate_aligned(alignment, size));
}

INLINE void give(calling_t by, const contender_t *contender, void *block) {
    if (by == BY_POOL)
        pool_free(surface_pool, block);
    else if (by == BY_INTERFACE)
        surface_memory->free(block);
    else if (by == BY_GLIBC)
        free(block);
    else
        contender->free(block);
}

INLINE void *resize(calling_t by, const contender_t *contender, void *block, size_t old_size, size_t size) {
    return touched(by == BY_POOL        ? pool_resize(block, old_size, size)
                   : by == BY_INTERFACE ? surface_memory->realloc(block, size)
                   : by == BY_GLIBC     ? realloc(block, size)
                                        : contender->reallocate(block, size));
}

INLINE void touch_pages(void *block, size_t size) {
    for (size_t at = 0; at < size; at += 4096) ((volatile char *)block)[at] = 1;
}

INLINE void pairs_by(calling_t by, const contender_t *contender, job_t *job) {
    for (size_t i = 0; i < job->count; i++) give(by, contender, get(by, contender, job->size));
}

/* Makes a batch of blocks, and returns their number. The functions below free them last first, first first, or in a
 * random order. */
INLINE size_t batch(calling_t by, const contender_t *contender, job_t *job) {
    void **blocks = job->scratch;
    size_t many = job->size > 4096 ? BATCH / 10 : BATCH;
    for (size_t i = 0; i < many; i++) blocks[i] = get(by, contender, job->size);
    return many;
}

INLINE void last_first_by(calling_t by, const contender_t *contender, job_t *job) {
    void **blocks = job->scratch;
    for (size_t done = 0, many; done < job->count; done += many) {
        many = batch(by, contender, job);
        for (size_t i = many; i-- > 0;) give(by, contender, blocks[i]);
    }
}

INLINE void first_first_by(calling_t by, const contender_t *contender, job_t *job) {
    void **blocks = job->scratch;
    for (size_t done = 0, many; done < job->count; done += many) {
        many = batch(by, contender, job);
        for (size_t i = 0; i < many; i++) give(by, contender, blocks[i]);
    }
}

INLINE void at_random_by(calling_t by, const contender_t *contender, job_t *job) {
    void **blocks = job->scratch;
    for (size_t done = 0, many; done < job->count; done += many) {
        many = batch(by, contender, job);
        for (size_t left = many; left > 0; left--) {
            size_t chosen = (size_t)((random_next(&job->seed) >> 32) * left >> 32);
            give(by, contender, blocks[chosen]);
            blocks[chosen] = blocks[left - 1];
        }
    }
}

/* Replaces one after another of 10,000 live blocks of 16 B to 16 KiB, at random. */
INLINE void churn_by(calling_t by, const contender_t *contender, job_t *job) {
    void **blocks = job->scratch;
    size_t live = job->count < LIVE ? job->count : LIVE;
    for (size_t i = 0; i < live; i++) blocks[i] = get(by, contender, log_uniform(&job->seed, 10));
    for (size_t i = live; i < job->count; i++) {
        void **block = &blocks[(size_t)((random_next(&job->seed) >> 32) * live >> 32)];
        give(by, contender, *block);
        *block = get(by, contender, log_uniform(&job->seed, 10));
    }
    for (size_t i = 0; i < live; i++) give(by, contender, blocks[i]);
}

/* Threads of even number allocate blocks of 16 B to 1 KiB; the thread with the next number frees them. There may be
 * more threads than processors, so a thread that cannot go on gives way. */
INLINE void pass_by(calling_t by, const contender_t *contender, job_t *job) {
    ring_t *ring = job->ring;
    bool gives = job->index % 2 == 0;
    /* Both threads go on where the run before ended. */
    size_t start = atomic_load(gives ? &ring->written : &ring->read), end = start + job->count;
    size_t known = start;
    for (size_t i = start; i < end; i++) {
        bool publish = i % 32 == 31 || i + 1 == end;
        if (gives) {
            while (i - known == RING) {
                known = atomic_load_explicit(&ring->read, memory_order_acquire);
                if (i - known == RING) sched_yield();
            }
            ring->blocks[i % RING] = get(by, contender, log_uniform(&job->seed, 6));
            if (publish) atomic_store_explicit(&ring->written, i + 1, memory_order_release);
        } else {
            while (i == known) {
                known = atomic_load_explicit(&ring->written, memory_order_acquire);
                if (i == known) sched_yield();
            }
            give(by, contender, ring->blocks[i % RING]);
            if (publish) atomic_store_explicit(&ring->read, i + 1, memory_order_release);
        }
    }
}

/* A thread that starts, allocates 64 blocks, frees all but 8, and ends. The thread that started it frees those. */
typedef struct {
    const contender_t *contender;
    void *blocks[CARRIED];
    uint64_t seed;
} visit_t;

INLINE void visit_by(calling_t by, const contender_t *contender, visit_t *visit) {
    for (size_t i = 0; i < CARRIED; i++) visit->blocks[i] = get(by, contender, log_uniform(&visit->seed, 6));
    for (size_t i = LEFT; i < CARRIED; i++) give(by, contender, visit->blocks[i]);
}
static void *visit_pool(void *visit) { return visit_by(BY_POOL, NULL, visit), NULL; }
static void *visit_interface(void *visit) { return visit_by(BY_INTERFACE, NULL, visit), NULL; }
static void *visit_pointer(void *visit) { return visit_by(BY_POINTER, ((visit_t *)visit)->contender, visit), NULL; }

INLINE void threads_by(calling_t by, const contender_t *contender, job_t *job) {
    visit_t *visit = job->scratch;
    *visit = (visit_t){.contender = contender, .seed = job->seed};
    for (size_t i = 0; i < job->count; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL,
                           by == BY_POOL        ? visit_pool
                           : by == BY_INTERFACE ? visit_interface
                                                : visit_pointer,
                           visit))
            failed("a thread cannot be started");
        pthread_join(thread, NULL);
        for (size_t block = 0; block < LEFT; block++) give(by, contender, visit->blocks[block]);
    }
}

/* Allocates 100 aligned blocks of 16 B to 4 KiB, and frees them first first. */
INLINE void aligned_by(calling_t by, const contender_t *contender, job_t *job) {
    void **blocks = job->scratch;
    for (size_t done = 0; done < job->count; done += BATCH / 10) {
        for (size_t i = 0; i < BATCH / 10; i++)
            blocks[i] = get_aligned(by, contender, job->size, log_uniform(&job->seed, 8));
        if ((uintptr_t)blocks[done % (BATCH / 10)] % job->size) failed("a block is not aligned as asked");
        for (size_t i = 0; i < BATCH / 10; i++) give(by, contender, blocks[i]);
    }
}

/* Lets a block grow from 16 B up to `size`, by a half each time. One operation is a whole growth. */
INLINE void growth_by(calling_t by, const contender_t *contender, job_t *job) {
    for (size_t i = 0; i < job->count; i++) {
        size_t size = 16;
        char *block = get(by, contender, size);
        while (size < job->size) {
            size_t larger = size + size / 2;
            block = resize(by, contender, block, size, larger);
            block[larger - 1] = 1;
            size = larger;
        }
        give(by, contender, block);
    }
}

/* Allocates large blocks, and touches each page. */
INLINE void large_by(calling_t by, const contender_t *contender, job_t *job) {
    for (size_t i = 0; i < job->count; i++) {
        void *block = get(by, contender, job->size);
        touch_pages(block, job->size);
        give(by, contender, block);
    }
}

/* Replays a recorded program until `count` operations are done: what it allocated, with one write into each page. What
 * it never freed is freed at the end. */
INLINE void trace_by(calling_t by, const contender_t *contender, job_t *job) {
    struct {
        void *block;
        size_t size;
    } *slots = job->scratch;
    const trace_t *trace = job->trace;
    memset(slots, 0, trace->slots * sizeof *slots);
    for (size_t done = 0; done < job->count; done += trace->count) {
        for (const trace_operation_t *next = trace->operations, *end = next + trace->count; next < end; next++) {
            void *block = slots[next->slot].block;
            size_t size = next->size;
            if (next->kind == TRACE_FREE) {
                give(by, contender, block);
                slots[next->slot].block = NULL;
                continue;
            }
            if (next->kind == TRACE_REALLOC)
                block = resize(by, contender, block, slots[next->slot].size, size);
            else if (next->alignment_log2 > 4 || by == BY_INTERFACE)
                block = get_aligned(by, contender, next->alignment_log2 ? (size_t)1 << next->alignment_log2 : 16, size);
            else
                block = get(by, contender, size);
            if (next->zero) memset(block, 0, size);
            touch_pages(block, size);
            slots[next->slot].block = block;
            slots[next->slot].size = size;
        }
        for (size_t slot = 0; slot < trace->slots; slot++) {
            if (slots[slot].block) give(by, contender, slots[slot].block);
            slots[slot].block = NULL;
        }
    }
}

typedef void run_t(const contender_t *contender, job_t *job);

#define WORKLOAD(name)                                                                                                 \
    static __attribute__((noinline)) void name(const contender_t *contender, job_t *job) {                             \
        if (contender == &contenders[POOL])                                                                            \
            name##_by(BY_POOL, contender, job);                                                                        \
        else if (contender == &contenders[INTERFACE])                                                                  \
            name##_by(BY_INTERFACE, contender, job);                                                                   \
        else if (contender == &contenders[GLIBC])                                                                      \
            name##_by(BY_GLIBC, contender, job);                                                                       \
        else                                                                                                           \
            name##_by(BY_POINTER, contender, job);                                                                     \
    }

WORKLOAD(pairs)
WORKLOAD(last_first)
WORKLOAD(first_first)
WORKLOAD(at_random)
WORKLOAD(churn)
WORKLOAD(pass)
WORKLOAD(threads)
WORKLOAD(aligned)
WORKLOAD(growth)
WORKLOAD(large)
WORKLOAD(trace)

#endif
