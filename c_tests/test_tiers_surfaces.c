/* test_tiers_surfaces.c - tiered memory that the interface of a memory pool or memory system allocated. The
 * functions of that surface must take it as they take blocks. And what realloc of tiered memory brings back. On
 * every fault mechanism (tiers.h). */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/memory_pool.h"
#include "unimem/memory_singleton.h"

#include "tiers.h"

static void *streaming(unified_memory_interface_t *memory) { return memory->allocate_streaming(3 * MIB, 64 * KIB); }
static void *hierarchical(unified_memory_interface_t *memory) { return memory->allocate_hierarchical(3 * MIB, 1e-3); }
static void *(*const kinds[])(unified_memory_interface_t *) = {streaming, hierarchical};

static void note_leaks(int level, const char *message, void *context)
{
    (void)level;
    *(size_t *)context += strncmp(message, "leak: ", 6) == 0;
}

static void test_leaks(void)
{
    size_t messages = 0;
    char foreign[100];
    MemoryPool *pool = create_memory_pool(&(PoolConfig){0});
    advanced_memory_system_t *system = create_memory_system(&(memory_system_config_t){0});
    unified_memory_interface_t *tables[] = {unimem_pool_interface(pool), unimem_system_interface(system)};
    unimem_set_log(note_leaks, &messages);
    for (size_t i = 0; i < 2; i++) {
        const char *names[] = {"destroy_memory_pool", "destroy_memory_system"};
        char name[100];
        snprintf(name, sizeof name, "%s: reports tiered memory and what was tracked", names[i]);
        CHECK("tiered memory is live, and a foreign block tracked", streaming(tables[i]) && tables[i]->track_allocation(foreign, sizeof foreign));
        messages = 0;
        if (i) destroy_memory_system(system);
        else destroy_memory_pool(pool);
        CHECK_EQ(name, messages, 3 + (size_t)debug_mode("trace")); /* one each, how many they are, and who allocated */
    }
    unimem_set_log(NULL, NULL);
}

static void test_pool(void)
{
    MemoryPool *pool = create_memory_pool(&(PoolConfig){.enable_stats = true});
    MemoryPool *other = create_memory_pool(&(PoolConfig){.enable_stats = true});
    unified_memory_interface_t *memory = unimem_pool_interface(pool), *others = unimem_pool_interface(other);
    if (!CHECK("two pools with interfaces", memory && others)) return;
    TEST("pool_free: frees tiered memory of the pool's interface, and counts it") {
        for (size_t i = 0; i < 2; i++) {
            memory_stats_t before = stats_of(memory);
            unsigned char *tiered = kinds[i](memory);
            if (!EXPECT(tiered, "kind %zu: %s", i, unimem_last_error_message())) continue;
            tiered[MIB] = 1;
            EXPECT(get_total_allocated(pool) == 3 * MIB, "%zu bytes are counted", get_total_allocated(pool));
            pool_free(pool, tiered);
            memory_stats_t after = stats_of(memory);
            EXPECT(!unimem_owns(tiered) && get_total_allocated(pool) == 0, "%zu bytes are live", get_total_allocated(pool));
            EXPECT(after.num_frees == before.num_frees + 1 && after.num_allocations == before.num_allocations + 1,
                   "%zu allocations, %zu frees", after.num_allocations, after.num_frees);
            EXPECT(unimem_refused_frees(memory) == 2 * i, "%zu frees were refused", unimem_refused_frees(memory));
            pool_free(pool, opaque(tiered));
            EXPECT(unimem_last_error() == UNIMEM_ERROR_DOUBLE_FREE, "freed twice: error %d", (int)unimem_last_error());
            pool_free(pool, opaque(tiered + 64 * KIB));
            EXPECT(unimem_last_error() == UNIMEM_ERROR_NOT_OWNED, "inside: error %d", (int)unimem_last_error());
        }
    }
    TEST("pool_free: refuses that of another pool, and of an instance") {
        unified_memory_interface_t *instance = unimem_open(NULL), *wrong[] = {others, instance};
        for (size_t i = 0; i < 2; i++) {
            unsigned char *tiered = streaming(wrong[i]);
            memory_stats_t before = stats_of(wrong[i]), own = stats_of(memory);
            pool_free(pool, opaque(tiered));
            EXPECT(unimem_last_error() == UNIMEM_ERROR_NOT_OWNED && unimem_owns(tiered), "it is gone");
            EXPECT(same_totals(before, stats_of(wrong[i])) && same_totals(own, stats_of(memory)), "something was counted");
            void *places[64]; /* so many that some begin where others did */
            for (size_t k = 0; k < 64; k++) places[k] = streaming(wrong[i]);
            for (size_t k = 0; k < 64; k++) wrong[i]->free(places[k]);
            for (size_t k = 0; k < 64; k++) {
                places[k] = streaming(wrong[i]);
                pool_free(pool, opaque(places[k]));
                EXPECT(unimem_last_error() == UNIMEM_ERROR_NOT_OWNED, "live where other memory was freed: error %d", (int)unimem_last_error());
            }
            for (size_t k = 0; k < 64; k++) wrong[i]->free(places[k]);
            for (size_t k = 0; serves_touches() && k < 64; k++) {
                places[k] = wrong[i]->realloc(wrong[i]->allocate_streaming(64 * KIB, 64 * KIB), 3 * MIB);
                pool_free(pool, opaque(places[k]));
                EXPECT(unimem_last_error() == UNIMEM_ERROR_NOT_OWNED, "moved to where other memory was freed: error %d", (int)unimem_last_error());
            }
            for (size_t k = 0; serves_touches() && k < 64; k++) wrong[i]->free(places[k]);
            wrong[i]->free(tiered);
        }
        EXPECT(unimem_close(instance), "something is left");
    }
    TEST("pool_free: gives up one owner") {
        unsigned char *tiered = streaming(memory);
        unimem_retain(tiered);
        pool_free(pool, tiered);
        EXPECT(unimem_reference_count(tiered) == 1, "%zu owners", unimem_reference_count(tiered));
        pool_free(pool, tiered);
        EXPECT(!unimem_owns(tiered), "it is still there");
    }
    destroy_memory_pool(pool);
    destroy_memory_pool(other);
}

static void test_system(void)
{
    advanced_memory_system_t *system = create_memory_system(&(memory_system_config_t){0});
    unified_memory_interface_t *memory = unimem_system_interface(system);
    pool_config_t config = {.pool_size = MIB};
    void *pool = ams_create_memory_pool(system, &config);
    if (!CHECK("a system with an interface and a pool", memory && pool)) return;
    TEST("memory_free: frees tiered memory of the system's interface; its pools refuse it") {
        for (size_t i = 0; i < 2; i++) {
            unsigned char *tiered = kinds[i](memory);
            if (!EXPECT(tiered, "kind %zu: %s", i, unimem_last_error_message())) continue;
            tiered[MIB] = 1;
            EXPECT(get_allocation_size(system, tiered) == 3 * MIB && validate_memory_block(system, tiered + MIB) &&
                       check_memory_corruption(system, tiered), "the system does not know it");
            ams_pool_free(system, pool, tiered);
            EXPECT(unimem_owns(tiered), "a pool of the system freed it");
            memory_free(system, tiered);
            EXPECT(!unimem_owns(tiered) && live_in(memory) == 0 && get_allocation_size(system, tiered) == 0 &&
                       !validate_memory_block(system, tiered + MIB), "it is still there");
        }
    }
    TEST("memory_free: ignores that of others") {
        unified_memory_interface_t *instance = unimem_open(NULL);
        unsigned char *tiered = streaming(instance);
        EXPECT(get_allocation_size(system, tiered) == 0 && !validate_memory_block(system, tiered), "it is the system's");
        memory_free(system, tiered);
        EXPECT(unimem_owns(tiered) && memory_reallocate(system, tiered, 100) == NULL, "the system took it");
        instance->free(tiered);
        EXPECT(unimem_close(instance), "something is left");
    }
    TEST("memory_reallocate: resizes it, new bytes are zero") {
        unsigned char *tiered = memory->allocate_streaming(MIB, 64 * KIB);
        memset(tiered, 7, MIB);
        EXPECT(memory_reallocate(system, tiered, 1000) == tiered && memory_reallocate(system, tiered, 60 * KIB) == tiered,
               "it moved");
        EXPECT(tiered[999] == 7 && all_zero(tiered + 1000, 59000), "wrong contents");
        EXPECT(get_allocation_size(system, tiered) == 60 * KIB && memory_reallocate(system, tiered, 0) == NULL &&
                   !unimem_owns(tiered), "it is still there");
    }
    ams_destroy_memory_pool(system, pool);
    destroy_memory_system(system);
}

static void test_tracking(void)
{
    unified_memory_interface_t *memory = unimem_open(NULL);
    TEST("tracking in tiered memory adds nothing and ends with it") {
        for (size_t i = 0; i < 2; i++) {
            char *tiered = kinds[i](memory);
            if (!EXPECT(tiered, "kind %zu: %s", i, unimem_last_error_message())) continue;
            for (size_t at = 0; at < 3 * MIB; at += MIB)
                EXPECT(memory->track_allocation(tiered + at, 100) && track_memory_block(tiered + at) &&
                           live_in(memory) == 3 * MIB, "%zu are counted", live_in(memory));
            EXPECT(memory->realloc(tiered, 2 * MIB) == tiered, "it moved");
            EXPECT(memory->untrack_allocation(tiered + MIB) && !memory->untrack_allocation(tiered + 2 * MIB), "after shrinking");
            EXPECT(is_memory_block_tracked(tiered) && is_memory_block_tracked(tiered + MIB) && !is_memory_block_tracked(tiered + 2 * MIB),
                   "the program's system after shrinking");
            memory->free(tiered);
            EXPECT(!memory->untrack_allocation(tiered) && !is_memory_block_tracked(tiered) && !is_memory_block_tracked(tiered + MIB),
                   "it is still tracked");
            EXPECT(live_in(memory) == 0, "%zu are counted", live_in(memory));
        }
    }
    if (serves_touches()) TEST("and goes along when it moves") {
        char *tiered = streaming(memory);
        memory->track_allocation(tiered, 1);
        track_memory_block(tiered + MIB);
        char *moved = memory->realloc(tiered, 64 * MIB);
        EXPECT(moved && moved != tiered, "it did not move");
        EXPECT(memory->untrack_allocation(moved) && is_memory_block_tracked(moved + MIB) && !is_memory_block_tracked(tiered + MIB), "not tracked there");
        memory->free(moved);
        EXPECT(!is_memory_block_tracked(moved + MIB), "still tracked");
    }
    TEST("what is tracked when the last reference of the program's system goes is freed") {
        advanced_memory_system_t *system = create_memory_system(&(memory_system_config_t){0});
        char *tiered = streaming(memory);
        track_memory_block(tiered);
        track_memory_block(tiered + 4096);
        destroy_memory_system(system);
        EXPECT(!unimem_owns(tiered) && !is_memory_block_tracked(tiered + 4096) && live_in(memory) == 0, "it is still there");
    }
    TEST("tiered memory that goes with its instance is tracked no more") {
        char *tiered = streaming(memory);
        track_memory_block(tiered);
        EXPECT(!unimem_close(memory) && !is_memory_block_tracked(tiered), "it is still tracked");
    }
}

/* The most that unimem_can_allocate says yes to, and the least that it says no to. */
static size_t most_that_can_be(unified_memory_interface_t *memory, size_t cap, size_t *beyond)
{
    size_t most = 0, before = 1;
    /* Until the answer is the same twice: what was begun ahead of need is over then. */
    for (int tries = 0; tries < 1000 && most != before; tries++) {
        for (before = most, most = 1, *beyond = cap + 1; *beyond - most > 1;)
            *(unimem_can_allocate(memory, (most + *beyond) / 2) ? &most : beyond) = (most + *beyond) / 2;
    }
    return most;
}

/* Where chunks fill the budget, unimem_can_allocate says what allocate then does: it has chunks leave. */
static void test_can_allocate(void)
{
    TEST("unimem_can_allocate counts on chunks that can leave, and on no others") {
        for (uint64_t round = 0; round < 6; round++) {
            const size_t cap = 8 * MIB, bytes = 12 * MIB;
            unified_memory_interface_t *memory = open_with(cap, 64 * KIB);
            uint64_t *words = memory->allocate_streaming(bytes, 64 * KIB);
            void *plain = round < 2 ? NULL : memory->allocate(MIB, 0);
            for (size_t i = 0; i < bytes / 8; i += 8) words[i] = round % 2 ? mix(i) : i;
            size_t beyond, most = most_that_can_be(memory, cap, &beyond);
            size_t held = unimem_held_bytes(memory);
            EXPECT(held + MIB > cap, "only %zu are held", held);
            EXPECT(most > cap / 2, "the most is %zu", most);
            size_t size = (size_t[]){most, beyond, 1000}[round % 3];
            void *block = memory->allocate(size, 0);
            EXPECT((block != NULL) == (size <= most), "%zu of at most %zu: %p", size, most, block);
            for (size_t i = 0; i < bytes / 8; i += 512)
                if (!EXPECT(words[i] == (round % 2 ? mix(i) : i), "word %zu is lost", i)) break;
            memory->free(block);
            memory->free(plain);
            memory->free(words);
            EXPECT(unimem_close(memory), "something is left");
        }
    }
}

/* The same where all memory is in place: it can leave, but not where nothing serves faults. */
static void test_can_allocate_beside_what_is_in_place(void)
{
    TEST("unimem_can_allocate counts on memory in place where it can leave, and only there") {
        for (int round = 0; round < 4; round++) {
            const size_t cap = 8 * MIB, bytes = 5 * MIB;
            unified_memory_interface_t *memory = open_with(cap, 64 * KIB);
            uint64_t *words = memory->allocate_streaming(bytes, 64 * KIB);
            for (size_t i = 0; i < bytes / 8; i += 8) words[i] = mix(i);
            if (round / 2) memory->allocate_streaming(20 * MIB, 64 * KIB); /* of which nothing is in place */
            size_t beyond, most = most_that_can_be(memory, cap, &beyond);
            EXPECT(serves_touches() ? most > cap / 2 : most <= cap - bytes && most > MIB, "the most is %zu", most);
            size_t size = round % 2 ? beyond : most;
            void *block = memory->allocate(size, 0);
            EXPECT((block != NULL) == (size == most), "%zu of at most %zu: %p", size, most, block);
            for (size_t i = 0; i < bytes / 8; i += 512)
                if (!EXPECT(words[i] == mix(i), "word %zu is lost", i)) break;
            unimem_close(memory);
        }
    }
}

/* Memory shrinks and grows again, to sizes in the middle of pages and chunks: what comes back is zero. */
static void test_what_comes_back(void)
{
    bool faults = serves_touches();
    TEST("realloc of tiered memory: what was given up and comes back is zero") {
        const size_t chunk = 64 * KIB, sizes[][3] = {{3 * chunk, 1000, chunk},          {3 * chunk, chunk + 1, 2 * chunk - 1},
                                                     {100, 1, 100},                     {3 * chunk, 4096, 8192},
                                                     {2 * chunk + 5000, 2 * chunk, 2 * chunk + 5000}, {3 * chunk, 777, 3 * chunk},
                                                     {3 * chunk, 777, 40 * chunk},      {chunk + 9, 4097, 9 * chunk + 3}};
        for (size_t kind = 0; kind < 3; kind++) {
            unified_memory_interface_t *memory = kind == 2 ? open_with(MIB, chunk) : unimem_open(NULL);
            for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
                const size_t *size = sizes[i];
                if (!faults && (kind == 2 || (size[2] + chunk - 1) / chunk > (size[1] + chunk - 1) / chunk)) continue;
                unsigned char *bytes = kind == 1 ? memory->allocate_hierarchical(size[0], 0) : memory->allocate_streaming(size[0], chunk);
                memset(bytes, 9, size[0]);
                size_t middle = (size[1] + size[2]) / 2 < chunk ? (size[1] + size[2]) / 2 : size[2];
                bool resized = memory->realloc(bytes, size[1]) == bytes;
                if (kind == 2) unimem_advise(bytes, UNIMEM_DONT_NEED);
                unsigned char *grown = resized ? memory->realloc(bytes, middle) : NULL;
                EXPECT(grown && all_zero(grown + size[1], middle - size[1]), "%zu to %zu to %zu: old bytes", size[0], size[1], middle);
                grown = grown ? memory->realloc(grown, size[2]) : NULL;
                if (!EXPECT(grown, "%zu to %zu: %s", size[1], size[2], unimem_last_error_message())) continue;
                bool same = true;
                for (size_t at = 0; at < size[1]; at++) same &= grown[at] == 9;
                EXPECT(same, "%zu to %zu to %zu: contents are lost", size[0], size[1], size[2]);
                EXPECT(all_zero(grown + size[1], size[2] - size[1]), "%zu to %zu to %zu: old bytes", size[0], size[1], size[2]);
                memory->free(grown);
            }
            EXPECT(unimem_close(memory), "something is left");
        }
    }
}

/* Pages of chunks that have left are kept for those to come. */
static void test_trim(void)
{
    TEST("unimem_trim hands back what tiered memory keeps, and says how much") {
        unified_memory_interface_t *memory = open_with(4 * MIB, 0);
        unsigned char *tiered = memory->allocate_streaming(16 * MIB, 64 * KIB);
        for (size_t at = 0; at < 16 * MIB; at += 4096) tiered[at] = 1;
        unimem_advise(tiered, UNIMEM_DONT_NEED);
        size_t held = unimem_held_bytes(memory), back = unimem_trim(memory), kept = unimem_held_bytes(memory);
        EXPECT(back >= 128 * KIB && held == kept + back, "%zu bytes were held, %zu went back, %zu are held", held, back, kept);
        memory->free(tiered);
        EXPECT(unimem_close(memory), "something is left");
    }
}

static void test_chunk_sizes(void)
{
    TEST("where nobody says the size of chunks, sixteen fit the budget") {
        for (size_t cap = 64 * KIB; cap <= 64 * MIB; cap = cap * 2 + 4096) {
            unified_memory_interface_t *memory = open_with(cap, 0);
            char *tiered = memory->allocate_streaming(4 * cap, 0);
            size_t chunk = unimem_chunk_size(tiered), most = cap / 16 < MIB ? cap / 16 : MIB;
            EXPECT(tiered && chunk <= most && chunk * 2 > most, "a budget of %zu bytes has chunks of %zu", cap, chunk);
            memory->free(tiered);
            EXPECT(unimem_close(memory), "something is left");
        }
    }
}

static void test_too_large(void)
{
    TEST("realloc to more than there can be changes nothing") {
        const size_t too_large[] = {SIZE_MAX, SIZE_MAX - 4095, SIZE_MAX - 4096, SIZE_MAX / 2, (size_t)1 << 48};
        unified_memory_interface_t *memory = open_with(MIB, 0);
        unsigned char *kinds_of_size[] = {memory->allocate_hierarchical(100, 0), memory->allocate_streaming(100 * KIB, 4096)};
        for (size_t i = 0; i < sizeof too_large / sizeof *too_large; i++)
            for (size_t k = 0; k < 2; k++)
                EXPECT(!memory->realloc(kinds_of_size[k], too_large[i]) && unimem_usable_size(kinds_of_size[k]) == (k ? 100 * KIB : 100),
                       "%zx bytes", too_large[i]);
        for (size_t k = 0; k < 2; k++) memory->free(kinds_of_size[k]);
        EXPECT(unimem_close(memory), "something is left");
    }
}

/* Tiered memory and foreign blocks are live, but not as large in what is held. */
static void test_fragmentation(void)
{
    static char *blocks[200];
    advanced_memory_system_t *system = create_memory_system(&(memory_system_config_t){0});
    TEST("fragmentation is what blocks leave unused, whatever else is live") {
        unified_memory_interface_t *memory = unimem_system_interface(system);
        for (size_t i = 0; i < 200; i++) blocks[i] = memory->allocate(100 * KIB, 0);
        for (size_t i = 0; i < 200; i++)
            if (i % 20) memory->free(blocks[i]);
        size_t before = unimem_held_bytes(memory), unused = before - live_in(memory);
        char *tiered = memory->allocate_streaming(GIB, 64 * KIB);
        for (size_t i = 0; i < 20; i++) {
            memset(unimem_chunk_acquire(tiered, i, UNIMEM_WRITE), 1, 1);
            unimem_chunk_release(tiered, i);
        }
        memory->track_allocation(&before, GIB);
        size_t held = unimem_held_bytes(memory);
        double share = -1;
        EXPECT(analyze_fragmentation(system, &share) && share > 0 && stats_of(memory).fragmentation == (size_t)(share * 100 + 1e-9),
               "%f and %zu %%", share, stats_of(memory).fragmentation);
        /* Memory goes back by itself after some seconds. */
        EXPECT(held != unimem_held_bytes(memory) || stats_of(memory).fragmentation == unused * 100 / held,
               "%zu %% of %zu bytes, of which %zu are unused", stats_of(memory).fragmentation, held, unused);
        memory->untrack_allocation(&before);
        memory->free(tiered);
        for (size_t i = 0; i < 200; i += 20) memory->free(blocks[i]);
    }
    destroy_memory_system(system);
}

static int run_all(void)
{
    test_fragmentation();
    test_pool();
    test_leaks();
    test_system();
    test_tracking();
    if (serves_touches()) test_can_allocate();
    test_can_allocate_beside_what_is_in_place();
    test_what_comes_back();
    if (serves_touches()) test_trim();
    test_chunk_sizes();
    test_too_large();
    return tap_done();
}

int main(int count, char **arguments)
{
    spill_to_memory();
    return on_every_mechanism(count, arguments, run_all);
}
