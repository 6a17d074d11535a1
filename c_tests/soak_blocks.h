/* soak_blocks.h - blocks of every surface and kind. Their contents follow from what the model knows about them. */
#ifndef SOAK_BLOCKS_H
#define SOAK_BLOCKS_H
#include "soak.h"

typedef enum { PLAIN, TENSOR, STREAMING, EXACT, ROUGH } kind_t;
enum { MOST_SEGMENTS = 256, SHELVES = 64 };

/* A block and what must be in it. Items are in the program's own malloc. A segment is a chunk of tiered memory, or
 * the whole block. */
typedef struct item {
    unsigned char *start;
    size_t size, segment, owners;
    surface_t surface;
    kind_t kind;
    uint64_t tag;
    uint16_t versions[MOST_SEGMENTS];
} item_t;
static const float tolerance = 1e-2f;

static size_t segments_of(const item_t *item) { return (item->size + item->segment - 1) / item->segment; }

/* The word at byte 8 * i of the block. */
static uint64_t word_of(const item_t *item, size_t segment, size_t i) {
    uint64_t z = (item->tag ^ (uint64_t)item->versions[segment] << 40 ^ i) * 0x9E3779B97F4A7C15u;
    return z ^ z >> 29;
}
static float number_of(const item_t *item, size_t segment, size_t i) {
    return (float)((i + item->versions[segment] * 37u + item->tag % 1000) % 4096) * 0.0625f;
}
static void write_segment(item_t *item, size_t segment) {
    size_t from = segment * item->segment, to = from + item->segment < item->size ? from + item->segment : item->size;
    item->versions[segment]++;
    outside = true;
    if (item->kind == ROUGH) {
        for (size_t i = from / 4; i < to / 4; i++) ((float *)(void *)item->start)[i] = number_of(item, segment, i);
    } else {
        for (size_t i = from / 8; i < to / 8; i++) ((uint64_t *)(void *)item->start)[i] = word_of(item, segment, i);
        for (size_t i = to & ~(size_t)7; i < to; i++) item->start[i] = (unsigned char)item->tag;
    }
    outside = false;
    count(segments_written);
}
/* Checks that the first bytes of a segment, up to byte `to` of the block, are what was written. */
static bool segment_holds(const item_t *item, size_t segment, size_t to) {
    size_t from = segment * item->segment, wrong = SIZE_MAX;
    if (to > from + item->segment) to = from + item->segment;
    if (to > item->size) to = item->size;
    outside = true;
    if (item->kind == ROUGH) {
        for (size_t i = from / 4; i < to / 4 && wrong == SIZE_MAX; i++) {
            float off = ((float *)(void *)item->start)[i] - number_of(item, segment, i);
            if (!(off <= tolerance && off >= -tolerance)) wrong = 4 * i;
        }
    } else {
        for (size_t i = from / 8; i < to / 8 && wrong == SIZE_MAX; i++)
            if (((uint64_t *)(void *)item->start)[i] != word_of(item, segment, i)) wrong = 8 * i;
        for (size_t i = to & ~(size_t)7; to == item->size && i < to && wrong == SIZE_MAX; i++)
            if (item->start[i] != (unsigned char)item->tag) wrong = i;
    }
    outside = false;
    count(segments_checked);
    return EXPECT(wrong == SIZE_MAX, "surface %d, kind %d, %zu bytes: byte %zu is wrong", (int)item->surface, (int)item->kind,
                  item->size, wrong);
}
static bool item_holds(const item_t *item) {
    bool whole = true;
    for (size_t s = 0; s < segments_of(item) && whole; s++) whole = segment_holds(item, s, item->size);
    return whole;
}

static void *take(const item_t *item, size_t alignment) {
    size_t size = item->size, dimensions[2] = {size / 64, 8};
    unified_memory_interface_t *table = item->surface < TABLES ? tables[item->surface] : NULL;
    switch (item->kind) {
    case TENSOR: return table->allocate_geometric(dimensions, 2);
    case STREAMING: return table->allocate_streaming(size, 16 * KIB << (item->tag % 5));
    case EXACT: return table->allocate_hierarchical(size, 0);
    case ROUGH: return table->allocate_hierarchical(size, (double)tolerance);
    default: break;
    }
    switch (item->surface) {
    case POOL: return pool_allocate(pool, size);
    case SYSTEM: return memory_allocate(memory_system, size, alignment);
    case SYSTEM_POOL: return ams_pool_allocate(memory_system, system_pool, size);
    case TRACKED_SYSTEM: return safe_memory_allocate(memory_system, size, alignment);
    default: return table->allocate(size, alignment);
    }
}
static void give_back(surface_t surface, void *start) {
    switch (surface) {
    case POOL: pool_free(pool, start); break;
    case SYSTEM: memory_free(memory_system, start); break;
    case SYSTEM_POOL: ams_pool_free(memory_system, system_pool, start); break;
    case TRACKED_SYSTEM: safe_memory_free(memory_system, start); break;
    default: tables[surface]->free(start);
    }
}

static item_t *make_item(worker_t *worker) {
    item_t *item = calloc(1, sizeof *item);
    if (!EXPECT(item, "malloc")) return NULL;
    item->surface = (surface_t)below(worker, SURFACES);
    item->tag = random_next(&worker->random);
    item->owners = 1;
    item->size = random_size(&worker->random, 0, one_in(worker, 200) ? 22 : one_in(worker, 20) ? 18 : 12);
    bool tight = budgets[item->surface] != 0;
    if (tight && one_in(worker, 4)) {
        item->kind = STREAMING + (kind_t)below(worker, 3);
        item->size = random_size(&worker->random, 14, 21) / 4 * 4 + 4;
    } else if (item->surface < TABLES && one_in(worker, 8)) {
        item->kind = TENSOR;
        item->size = (item->size + 63) / 64 * 64;
    } else if (item->surface == SYSTEM_POOL && item->size > 1 * MIB) {
        item->size = 1 * MIB;
    }
    bool tiered = item->kind >= STREAMING;
    /* Plain blocks leave half of a budget for chunks. */
    if (tight && !tiered && atomic_fetch_add(&model.plain_bytes[item->surface], item->size) + item->size > budgets[item->surface] / 2) {
        atomic_fetch_sub(&model.plain_bytes[item->surface], item->size);
        free(item);
        return NULL;
    }
    if (tight && !tiered && one_in(worker, 100)) { /* more than the budget, whatever makes room */
        void *none = tables[item->surface]->allocate(budgets[item->surface] + 1, 0);
        if (!none) may_be_full(item->surface, "allocation of more than the budget");
        EXPECT(!none, "%zu bytes were given within a budget of %zu", budgets[item->surface] + 1, budgets[item->surface]);
    }
    item->start = take(item, one_in(worker, 4) ? (size_t)1 << below(worker, 13) : 0);
    if (!item->start) {
        may_be_full(item->surface, "allocation");
        if (tight && !tiered) atomic_fetch_sub(&model.plain_bytes[item->surface], item->size);
        free(item);
        return NULL;
    }
    count(allocated);
    atomic_fetch_add(&model.bytes[item->surface], item->size);
    atomic_fetch_add(&model.blocks[item->surface], 1);
    item->segment = tiered ? unimem_chunk_size(item->start) : item->size;
    EXPECT(segments_of(item) <= MOST_SEGMENTS, "%zu chunks of %zu", segments_of(item), item->segment);
    if (tiered) count(regions);
    if (tiered || item->surface >= SYSTEM) {
        size_t shown = item->size < 64 * KIB ? item->size : 64 * KIB;
        EXPECT(all_zero(item->start, shown), "surface %d, kind %d: not zeroed", (int)item->surface, (int)item->kind);
    }
    for (size_t s = 0; s < segments_of(item); s++) write_segment(item, s);
    return item;
}
/* Gives up one owner. NULL if that was the last. */
static item_t *drop_owner(item_t *item) {
    bool tight = budgets[item->surface] != 0;
    if (--item->owners > 0) {
        tables[item->surface]->free(item->start);
        return item;
    }
    item_holds(item);
    atomic_fetch_sub(&model.bytes[item->surface], item->size);
    atomic_fetch_sub(&model.blocks[item->surface], 1);
    give_back(item->surface, item->start);
    if (tight && item->kind < STREAMING) atomic_fetch_sub(&model.plain_bytes[item->surface], item->size);
    count(freed);
    free(item);
    return NULL;
}
static void drop_item(item_t *item) {
    while (item) item = drop_owner(item);
}

static void resize_item(worker_t *worker, item_t *item) {
    bool tight = budgets[item->surface] != 0;
    if ((item->surface >= TABLES && item->surface != SYSTEM) || item->owners > 1) return;
    size_t size = random_size(&worker->random, 0, item->kind >= STREAMING ? 20 : 14), old = item->size;
    if (item->kind >= STREAMING) size = size / 4 * 4 + 4;
    if (item->kind >= STREAMING && (size + item->segment - 1) / item->segment > MOST_SEGMENTS) return;
    if (tight && item->kind < STREAMING && size > old) return;
    unsigned char *moved = item->surface == SYSTEM ? memory_reallocate(memory_system, item->start, size)
                                                   : tables[item->surface]->realloc(item->start, size);
    if (!moved) {
        may_be_full(item->surface, "reallocation");
        return;
    }
    item_t before = *item;
    item->start = before.start = moved;
    before.size = old;
    size_t kept = (old < size ? old : size) & ~(size_t)7; /* not the last bytes: they depend on the size */
    for (size_t s = 0; s * before.segment < kept; s++) segment_holds(&before, s, kept);
    atomic_fetch_add(&model.bytes[item->surface], size - old); /* unsigned: a smaller size wraps, which is right */
    if (tight && item->kind < STREAMING) atomic_fetch_sub(&model.plain_bytes[item->surface], old - size);
    item->size = size;
    if (item->kind < STREAMING) item->segment = size;
    for (size_t s = 0; s < segments_of(item); s++) write_segment(item, s);
    count(resized);
}

/* Asks questions and makes wrong frees. None of them may change anything. */
static void look_at_item(worker_t *worker, item_t *item) {
    EXPECT(unimem_usable_size(item->start) == item->size, "usable size %zu of %zu", unimem_usable_size(item->start), item->size);
    EXPECT(unimem_owns(item->start + below(worker, item->size)), "an inner address is not owned");
    if (item->surface >= TABLES) return;
    EXPECT(unimem_reference_count(item->start) == item->owners, "%zu owners of %zu", unimem_reference_count(item->start), item->owners);
    if (one_in(worker, 3) && EXPECT(unimem_retain(item->start), "retain: %s", unimem_last_error_message())) item->owners++, count(retained);
    if (item->size > 1 && one_in(worker, 3)) {
        tables[item->surface]->free(item->start + 1 + below(worker, item->size - 1));
        atomic_fetch_add(&model.wrong_frees[item->surface], 1);
        count(wrong_frees);
    }
}

/* Blocks that threads pass to each other. The thread that takes a block off a shelf is usually not the one that
 * allocated it. */
static _Atomic(item_t *) shelves[SHELVES];
static void pass_on(worker_t *worker, item_t **hand) {
    *hand = atomic_exchange(&shelves[below(worker, SHELVES)], *hand);
    count(passed_on);
}
static void clear_shelves(void) {
    for (size_t i = 0; i < SHELVES; i++) drop_item(atomic_exchange(&shelves[i], NULL));
}

#endif
