/* test_tiers_chunks.c - chunks of tiered memory that the program acquires or advises on, and accesses that need two
 * chunks at once. On every fault mechanism (tiers.h). */
#define _GNU_SOURCE
#include "unimem.h"

#include "tiers.h"

#include <fcntl.h>

/* A word across two chunks needs both in place at once, also where plain blocks leave the tiers no more room than they are
 * promised, and that is full of encoded chunks and of chunks of other sizes. */
static void test_words_across_chunks(void)
{
    TEST("words across chunks of several sizes are reached while plain blocks fill the limit") {
        enum { REGIONS = 4, BYTES = MIB };
        unified_memory_interface_t *memory = open_with(4 * MIB, 0);
        unsigned char *regions[REGIONS];
        for (size_t r = 0; r < REGIONS; r++) {
            regions[r] = memory->allocate_streaming(BYTES, (size_t)4096 << 2 * r);
            for (size_t i = 0; i < BYTES; i += 8) memcpy(regions[r] + i, &i, 8);
        }
        size_t blocks = 0, wrong = 0;
        while (memory->allocate(60 * KIB, 0)) blocks++;
        EXPECT(blocks > 40, "%zu blocks", blocks);
        random_t random = {7};
        for (size_t step = 0; step < 1000; step++) {
            size_t r = random_below(&random, REGIONS), chunk = (size_t)4096 << 2 * r;
            size_t at = chunk * (1 + random_below(&random, BYTES / chunk - 1)), halves[2];
            memcpy(halves, regions[r] + at - 8, 16);
            uint64_t across;
            memcpy(&across, regions[r] + at - 4, 8);
            wrong += halves[0] != at - 8 || halves[1] != at || across != (halves[0] >> 32 | halves[1] << 32);
        }
        EXPECT(wrong == 0, "%zu of 1000 words are wrong", wrong);
        EXPECT(unimem_held_bytes(memory) <= 4 * MIB, "%zu bytes are held", unimem_held_bytes(memory));
        unimem_close(memory);
    }
}

/* A word at any address. One instruction reads or writes it, which goes on only when all of it is in place. */
typedef uint64_t unaligned_t __attribute__((aligned(1)));

/* Eight bytes across each boundary of two chunks that are not acquired: both have to be in place at once. */
static size_t wrong_across_boundaries(char *base, size_t first, size_t count, size_t chunk)
{
    size_t wrong = 0;
    for (size_t i = first; i + 1 < count; i++) {
        volatile unaligned_t *across = (unaligned_t *)(base + (i + 1) * chunk - 4);
        uint64_t value = *across;
        wrong += value != 0x0101010101010101;
        *across = value;
    }
    return wrong;
}

static void test_access_beside_acquired(unified_memory_interface_t *memory, char *base, size_t chunk, size_t count)
{
    TEST("beside all chunks that could be acquired, and all plain blocks that fit, plain access goes on, across two chunks too; in a child as well") {
        memset(base, 1, count * chunk - 100);
        for (size_t round = 0; round < 60; round++) {
            size_t plain = round % 3, acquired = 0, blocks = 0;
            void *block[64];
            if (plain == 1) while (blocks < 64 && (block[blocks] = memory->allocate(chunk / 2, 0))) blocks++;
            while (acquired < count && unimem_chunk_acquire(base, acquired, UNIMEM_WRITE)) acquired++;
            if (plain == 2) while (blocks < 64 && (block[blocks] = memory->allocate(chunk / 2, 0))) blocks++;
            EXPECT(acquired < 8 && unimem_last_error() == UNIMEM_ERROR_OUT_OF_MEMORY, "%zu acquired: %s", acquired, unimem_last_error_message());
            EXPECT(plain == 1 || acquired >= 4, "only %zu of a budget of 8", acquired);
            end_after(60);
            size_t wrong = wrong_across_boundaries(base, acquired, count - 1, chunk);
            EXPECT(wrong == 0, "%zu wrong of %zu, %zu acquired beside %zu plain blocks", wrong, count, acquired, blocks);
            pid_t child = fork();
            if (child == 0) {
                end_after(60);
                _exit(wrong_across_boundaries(base, acquired, count - 1, chunk) != 0);
            }
            int result = child_result(child);
            EXPECT(result == 0, "the child ended with %d", result);
            alarm(0);
            EXPECT(unimem_held_bytes(memory) <= 8 * chunk, "%zu bytes are held", unimem_held_bytes(memory));
            for (size_t i = 0; i < acquired; i++) EXPECT(unimem_chunk_release(base, i), "release of chunk %zu", i);
            while (blocks > 0) memory->free(block[--blocks]);
        }
    }
}

/* One instruction reads one memory and writes another, so that chunks of both have to be in place, while plain blocks take all
 * the room they can. */
static void test_copies_between_regions(void)
{
    static const struct { size_t chunk, chunks; } pairs[][2] = {
        {{16 * KIB, 1}, {16 * KIB, 1}}, {{64 * KIB, 1}, {16 * KIB, 1}}, {{64 * KIB, 1}, {4 * KIB, 4}}, {{16 * KIB, 4}, {64 * KIB, 1}}, {{64 * KIB, 6}, {4 * KIB, 60}}};
    TEST("bytes are copied from one memory to another while plain blocks fill the limit") {
        for (size_t p = 0; p < sizeof pairs / sizeof *pairs; p++) {
            unified_memory_interface_t *memory = open_with(512 * KIB, 0);
            size_t sizes[2], length = SIZE_MAX;
            unsigned char *regions[2];
            for (size_t i = 0; i < 2; i++) {
                sizes[i] = pairs[p][i].chunk * pairs[p][i].chunks;
                regions[i] = memory->allocate_streaming(sizes[i], pairs[p][i].chunk);
                pattern_fill(regions[i], 0, sizes[i], i);
                if (sizes[i] < length) length = sizes[i];
            }
            for (size_t size = 16 * KIB; size >= 64; size /= 16)
                while (memory->allocate(size, 0)) continue;
            end_after(60);
            for (int round = 0; round < 3; round++) {
                volatile unsigned char *from = regions[0], *to = regions[1];
#ifdef __x86_64__
                size_t left = length; /* as memcpy does on many processors */
                __asm__ volatile("rep movsb" : "+S"(from), "+D"(to), "+c"(left) : : "memory");
#else
                for (size_t i = 0; i < length; i++) to[i] = from[i];
#endif
            }
            EXPECT(pattern_holds(regions[1], 0, length, 0) && pattern_holds(regions[1], length, sizes[1], 1), "pair %zu", p);
            alarm(0);
            EXPECT(unimem_held_bytes(memory) <= 512 * KIB, "%zu bytes are held", unimem_held_bytes(memory));
            unimem_close(memory);
        }
    }
}

/* Of chunks that were encoded and are in place again, encoded copies may be kept, but not where others need the room. */
static void test_copies_of_acquired(void)
{
    size_t chunk = 64 * KIB, budget = 64 * chunk;
    for (size_t count = 32; count <= 56; count += 24) {
        unified_memory_interface_t *memory = open_with(budget, 0);
        unsigned char *base = memory->allocate_streaming(count * chunk, chunk);
        for (size_t i = 0; i < count; i++) {
            unsigned char *at = unimem_chunk_acquire(base, i, UNIMEM_OVERWRITE);
            random_t random = {i};
            for (size_t k = 0; at && k < chunk; k++) at[k] = k % 4 < 2 ? (unsigned char)random_next(&random) : 0;
            unimem_chunk_release(base, i);
        }
        unimem_advise(base, UNIMEM_DONT_NEED);
        TEST("all chunks of memory that fits can be acquired, whatever is kept encoded of them") {
            for (size_t i = 0; i < count; i++)
                EXPECT(unimem_chunk_acquire(base, i, UNIMEM_READ), "chunk %zu of %zu: %s", i, count, unimem_last_error_message());
        }
        TEST("beside them plain blocks have all room that is said to be there") {
            for (size_t size = chunk; size < budget - count * chunk; size += chunk) {
                bool can = unimem_can_allocate(memory, size);
                void *block = memory->allocate(size, 0);
                EXPECT(can == (block != NULL), "%zu bytes beside %zu chunks: %s, %s", size, count, can ? "can" : "cannot", block ? "there" : unimem_last_error_message());
                EXPECT(block || size + 4 * chunk > budget - count * chunk, "%zu bytes beside %zu chunks: %s", size, count, unimem_last_error_message());
                memory->free(block);
                unimem_trim(memory);
            }
            EXPECT(unimem_held_bytes(memory) <= budget, "%zu bytes are held", unimem_held_bytes(memory));
        }
        TEST("and they leave and come back as they were") {
            for (size_t i = 0; i < count; i++) unimem_chunk_release(base, i);
            unimem_advise(base, UNIMEM_DONT_NEED);
            for (size_t i = 0; i < count; i++) {
                unsigned char *at = unimem_chunk_acquire(base, i, UNIMEM_READ);
                random_t random = {i};
                size_t wrong = 0;
                for (size_t k = 0; at && k < chunk; k++) wrong += at[k] != (k % 4 < 2 ? (unsigned char)random_next(&random) : 0);
                EXPECT(at && wrong == 0, "chunk %zu: %zu bytes are wrong", i, wrong);
                unimem_chunk_release(base, i);
            }
        }
        memory->free(base);
        unimem_close(memory);
    }
}

static void test_chunks(void)
{
    size_t chunk = 64 * KIB, count = 32;
    unified_memory_interface_t *memory = open_with(8 * chunk, 0);
    char *base = memory->allocate_streaming(count * chunk - 100, chunk);
    TEST("acquired chunks can be filled and read, also by system calls") {
        int file = open("/dev/zero", O_RDONLY);
        for (size_t i = 0; i < count; i++) {
            char *at = unimem_chunk_acquire(base, i, UNIMEM_OVERWRITE);
            if (!EXPECT(at == base + i * chunk, "chunk %zu is at %p: %s", i, (void *)at, unimem_last_error_message())) continue;
            EXPECT(read(file, at, 1000) == 1000, "read into an acquired chunk: %s", strerror(errno));
            pattern_fill(at, 0, i + 1 < count ? chunk : chunk - 100, i);
            EXPECT(unimem_chunk_release(base, i), "release of chunk %zu", i);
        }
        close(file);
        for (size_t i = count; i-- > 0;) {
            char *at = unimem_chunk_acquire(base, i, UNIMEM_READ);
            EXPECT(at && pattern_holds(at, 0, i + 1 < count ? chunk : chunk - 100, i), "chunk %zu", i);
            unimem_chunk_release(base, i);
        }
    }
    TEST("pinned chunks stay; when all that fit are pinned the next is an error, until one is released") {
        size_t pinned = 0;
        while (pinned < count && unimem_chunk_acquire(base, pinned, UNIMEM_WRITE)) pinned++;
        EXPECT(pinned >= 2 && pinned <= 8, "%zu chunks of a budget of 8 could be pinned", pinned);
        EXPECT(unimem_last_error() == UNIMEM_ERROR_OUT_OF_MEMORY, "error %d", (int)unimem_last_error());
        unimem_chunk_release(base, 0);
        EXPECT(unimem_chunk_acquire(base, count - 1, UNIMEM_READ) != NULL, "after a release: %s", unimem_last_error_message());
        unimem_chunk_release(base, count - 1);
        for (size_t i = 1; i < pinned; i++) EXPECT(unimem_chunk_release(base, i), "release of chunk %zu", i);
        EXPECT(!unimem_chunk_release(base, 1), "a release too many");
    }
    if (serves_touches()) test_access_beside_acquired(memory, base, chunk, count);
    CHECK("prefetch takes chunks that exist", unimem_chunk_prefetch(base, 0, 4) && !unimem_chunk_prefetch(base, count, 1) && !unimem_chunk_prefetch(base, 1, count) && !unimem_chunk_prefetch(base, SIZE_MAX, 2));
    CHECK("advice is taken", unimem_advise(base, UNIMEM_SEQUENTIAL) && unimem_advise(base, UNIMEM_RANDOM) && unimem_advise(base, UNIMEM_WILL_NEED) && unimem_advise(base, UNIMEM_DONT_NEED));
    TEST("what memory grows by is zeros, whatever was there before it shrank, or lay behind an overwritten end") {
        for (int round = 0; round < 4; round++) {
            size_t size = 3 * chunk + 1000, kept = 2 * chunk + 100;
            char *grown = memory->allocate_streaming(size, chunk);
            for (size_t i = 0; i < 4; i++) {
                memset(unimem_chunk_acquire(grown, i, UNIMEM_OVERWRITE), 7, i < 3 ? chunk : 1000);
                unimem_chunk_release(grown, i);
            }
            if (round % 2) {
                grown = memory->realloc(grown, kept);
                unimem_advise(grown, UNIMEM_DONT_NEED);
                size = kept;
            }
            char *larger = memory->realloc(grown, round < 2 ? 4 * chunk : 30 * chunk);
            if (!larger && !serves_touches()) larger = grown; /* which does not grow beyond its room */
            else for (size_t i = 0; i < 4; i++) {
                char *at = unimem_chunk_acquire(larger, i, UNIMEM_READ);
                size_t own = i * chunk >= size ? 0 : size - i * chunk < chunk ? size - i * chunk : chunk, wrong = 0;
                for (size_t k = 0; at && k < chunk; k++) wrong += at[k] != (k < own ? 7 : 0);
                EXPECT(at && wrong == 0, "round %d, chunk %zu: %zu bytes are wrong", round, i, wrong);
                unimem_chunk_release(larger, i);
            }
            memory->free(larger);
        }
    }
    TEST("memory that has to move to grow says that a chunk is acquired, and is as it was") {
        uint64_t *words = memory->allocate_streaming(count * chunk, chunk), *grown;
        uint64_t *at = unimem_chunk_acquire(words, 3, UNIMEM_WRITE);
        *at = 9;
        EXPECT(!memory->realloc(words, 100 * count * chunk) && unimem_last_error() == UNIMEM_ERROR_UNSUPPORTED &&
                   strstr(unimem_last_error_message(), "acquired"),
               "error %d: %s", (int)unimem_last_error(), unimem_last_error_message());
        EXPECT(unimem_chunk_count(words) == count && *at == 9 && unimem_usable_size(words) == count * chunk, "it has changed");
        unimem_chunk_release(words, 3);
        grown = memory->realloc(words, 100 * count * chunk);
        if (EXPECT(grown, "after the release: %s", unimem_last_error_message())) words = grown;
        at = unimem_chunk_acquire(words, 3, UNIMEM_READ);
        EXPECT(at && *at == 9, "the contents are lost");
        unimem_chunk_release(words, 3);
        memory->free(words);
    }
    TEST("what is not needed is out, and nothing asked for before brings it in again") {
        char *other = memory->allocate_streaming(count * chunk, chunk);
        for (size_t i = 0; i < 2; i++) {
            memset(unimem_chunk_acquire(other, i, UNIMEM_OVERWRITE), 1, chunk);
            unimem_chunk_release(other, i);
        }
        end_after(60);
        for (int round = 0; round < 100; round++) {
            EXPECT(unimem_advise(other, UNIMEM_DONT_NEED) && residency_of(other).hot_bytes == 0, "round %d", round);
            unimem_chunk_prefetch(base, 0, 4);
            unimem_advise(base, UNIMEM_DONT_NEED);
            /* Jobs are done in the order they came: when this one is, so are those before it. */
            while (residency_of(other).hot_bytes < 2 * chunk) unimem_chunk_prefetch(other, 0, 2);
            if (!EXPECT(residency_of(base).hot_bytes == 0, "round %d: %zu bytes in place", round, residency_of(base).hot_bytes)) break;
        }
        alarm(0);
        memory->free(other);
    }
    CHECK("codes that do not exist are refused", !unimem_advise(base, (unimem_advice_t)77) && !unimem_chunk_acquire(base, 0, (unimem_access_t)9) && unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT);
    char *plain = memory->allocate(100, 0);
    int local = 0;
    unimem_residency_t figures;
    CHECK("plain blocks, inner pointers, foreign ones and NULL have no chunks",
          unimem_chunk_size(plain) == 0 && unimem_chunk_count(base + 4096) == 0 && unimem_chunk_size(&local) == 0 && unimem_chunk_count(NULL) == 0 && !unimem_chunk_acquire(plain, 0, UNIMEM_READ) && !unimem_chunk_release(&local, 0) && !unimem_chunk_prefetch(NULL, 0, 1) && !unimem_advise(plain, UNIMEM_RANDOM) && !unimem_residency(plain, &figures) && !unimem_residency(base, NULL));
    figures = residency_of(base);
    CHECK("residency adds up", figures.hot_bytes <= 8 * chunk && figures.faults > 0 && figures.evictions > 0 && figures.cold_bytes + figures.warm_bytes > 0);
    CHECK("a fault mechanism is named", strcmp(unimem_fault_mechanism(), getenv("UNIMEM_FAULTS")) == 0);
    memory->free(plain);
    memory->free(base);
    CHECK("nothing is live", unimem_close(memory));
}

static void test_figures_of_encoding(void)
{
    enum { COUNT = 64, SMALL_CHUNK = 64 << 10 };
    TEST("residency tells what encoding saves, and that it takes time both ways") {
        unified_memory_interface_t *memory = open_with(2 * MIB, 0);
        char *bytes = memory->allocate_streaming((size_t)COUNT * SMALL_CHUNK, SMALL_CHUNK);
        for (size_t i = 0; i < COUNT; i++) {
            char *chunk = unimem_chunk_acquire(bytes, i, UNIMEM_OVERWRITE);
            for (size_t k = 0; k < SMALL_CHUNK; k++) chunk[k] = (char)(k / 64);
            unimem_chunk_release(bytes, i);
        }
        unimem_advise(bytes, UNIMEM_DONT_NEED);
        unimem_residency_t out = residency_of(bytes);
        EXPECT(out.hot_bytes == 0 && out.evictions == COUNT && out.warm_bytes + out.cold_bytes <= (size_t)COUNT * SMALL_CHUNK / 4,
               "%zu bytes are hot, %zu warm, %zu cold, after %zu evictions", out.hot_bytes, out.warm_bytes, out.cold_bytes, out.evictions);
        EXPECT(out.compression_ratio >= 4 && out.compression_ns > 0, "a ratio of %g in %zu ns", out.compression_ratio, out.compression_ns);
        for (size_t i = 0; i < COUNT; i++) unimem_chunk_acquire(bytes, i, UNIMEM_READ), unimem_chunk_release(bytes, i);
        unimem_residency_t in = residency_of(bytes);
        EXPECT(in.faults == out.faults + COUNT && in.compression_ns > out.compression_ns, "%zu faults, %zu ns", in.faults - out.faults, in.compression_ns - out.compression_ns);
        memory->free(bytes);
        EXPECT(unimem_close(memory), "something is left");
    }
}

static int run_all(void)
{
    test_chunks();
    test_figures_of_encoding();
    test_copies_of_acquired();
    if (serves_touches()) test_words_across_chunks();
    if (serves_touches()) test_copies_between_regions();
    return tap_done();
}

int main(int count, char **arguments)
{
    spill_to_memory();
    return on_every_mechanism(count, arguments, run_all);
}
