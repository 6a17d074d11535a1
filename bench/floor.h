/* The floor: what a checked allocation and its free must touch, and nothing else. That is one thread-local record, a list
 * of free blocks to pop from and push to, the block's slot (live and how large, or free), and one load from the page map.
 * It has no size classes but powers of two, no blocks of other threads, no ownership, no statistics, and gives no memory
 * back: a measure, not an allocator. */
#ifndef UNIMEM_BENCH_FLOOR_H
#define UNIMEM_BENCH_FLOOR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

/* The size of a block is a power of two from 16 B to 64 KiB. A page of the map is 64 KiB and has blocks of one size. */
enum { FLOOR_PAGE = 1 << 16, FLOOR_PAGES = 1 << 16, FLOOR_LEAST = 4, FLOOR_CLASSES = 17, FLOOR_LISTED = 4096 };

typedef struct {
    char *block;
    uint32_t *slot;
} floor_entry_t;

/* A word of the page map is the address of the page's slots, with the shift of its blocks in the low bits. */
static char *floor_region;
static uintptr_t *floor_map;
static uint32_t *floor_slots;
static atomic_size_t floor_used;

static _Thread_local struct {
    floor_entry_t *top[FLOOR_CLASSES], *base[FLOOR_CLASSES];
} floor_record;

static inline void *floor_reserve(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static inline bool floor_open(void) {
    floor_region = floor_reserve((size_t)FLOOR_PAGE * FLOOR_PAGES);
    floor_map = floor_reserve(sizeof *floor_map * FLOOR_PAGES);
    floor_slots = floor_reserve((size_t)(FLOOR_PAGE >> FLOOR_LEAST) * FLOOR_PAGES * sizeof *floor_slots);
    return floor_region && floor_map && floor_slots;
}

/* Adds a page of blocks to the list, the lowest on top. Returns false if all pages are used. */
static __attribute__((noinline)) bool floor_refill(unsigned class) {
    if (!floor_record.base[class]) {
        floor_record.base[class] = floor_reserve(FLOOR_LISTED * 2 * sizeof(floor_entry_t));
        floor_record.top[class] = floor_record.base[class];
    }
    size_t page = atomic_fetch_add(&floor_used, 1);
    if (page >= FLOOR_PAGES || !floor_record.base[class]) return false;
    uint32_t *slots = floor_slots + page * (FLOOR_PAGE >> FLOOR_LEAST);
    floor_map[page] = (uintptr_t)slots | class;
    for (size_t i = (size_t)FLOOR_PAGE >> class; i-- > 0;) {
        char *block = floor_region + page * FLOOR_PAGE + (i << class);
        *floor_record.top[class]++ = (floor_entry_t){block, &slots[i]};
    }
    return true;
}

static inline void *floor_allocate(size_t size) {
    unsigned class = size <= (1u << FLOOR_LEAST) ? FLOOR_LEAST : 64 - (unsigned)__builtin_clzl(size - 1);
    if (class >= FLOOR_CLASSES) return NULL;
    if (floor_record.top[class] == floor_record.base[class] && !floor_refill(class)) return NULL;
    floor_entry_t entry = *--floor_record.top[class];
    *entry.slot = (uint32_t)size;
    return entry.block;
}

static inline void floor_free(void *block) {
    size_t offset = (size_t)((char *)block - floor_region);
    if (offset >= (size_t)FLOOR_PAGE * FLOOR_PAGES) return;
    uintptr_t word = floor_map[offset / FLOOR_PAGE];
    unsigned class = word & 31;
    uint32_t *slot = (uint32_t *)(word - class) + (offset % FLOOR_PAGE >> class);
    if (*slot == 0 || offset & (((size_t)1 << class) - 1)) return; /* not live, or inside a block */
    *slot = 0;
    *floor_record.top[class]++ = (floor_entry_t){block, slot};
}

#endif
