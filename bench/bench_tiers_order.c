/* Tiered memory: which chunks leave. Touches chunks by pointers in the orders of typical programs, and counts how many
 * come in: without advice, with UNIMEM_RANDOM (the oldest leave) and with UNIMEM_SEQUENTIAL (the youngest leave); beside
 * what the same touches cost if the least recently used chunk left, and at the least (Belady: the one that is wanted
 * last leaves), both computed. It measures no time.
 *
 *   bench_tiers_order [TEXT]        only the patterns with TEXT in their names
 */
#define _GNU_SOURCE
#include "unimem.h"

#include "../c_tests/access_orders.h"
#include "bench.h"

/* The budget holds some chunks less: records, and slots through which chunks move. */
enum { CHUNK = 16 << 10, BUDGET = 64, DATA = 8 * BUDGET, MOST_TOUCHES = 1 << 17, NEVER = 1 << 30 };

static uint16_t touches[MOST_TOUCHES];
static size_t count;
static uint64_t state;

static void touch(size_t chunk)
{
    if (chunk >= DATA || count >= MOST_TOUCHES) exit(1);
    touches[count++] = (uint16_t)chunk;
}
static size_t below(size_t bound)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (size_t)(state >> 33) % bound;
}
static void sweep_down(size_t first, size_t chunks)
{
    while (chunks--) touch(first + chunks);
}

/* Cyclic sweeps. Everything was written before, so that the budget is full of other chunks. */
static void cyclic_half(void) { loop(200, BUDGET / 2, 40); }
static void cyclic_08(void) { loop(200, BUDGET * 8 / 10, 40); }
static void cyclic_11(void) { loop(200, BUDGET * 11 / 10, 40); }
static void cyclic_12(void) { loop(200, BUDGET * 12 / 10, 40); }
static void cyclic_2(void) { loop(200, BUDGET * 2, 20); }
static void cyclic_8(void) { loop(0, DATA, 8); }
static void one_pass(void) { sweep(0, DATA); }
/* From end to end and back, as symmetric Gauss-Seidel does. */
static void to_and_fro(size_t chunks, size_t rounds)
{
    while (rounds--) {
        sweep(100, chunks);
        sweep_down(100, chunks);
    }
}
static void to_and_fro_fits(void) { to_and_fro(BUDGET * 3 / 4, 20); }
static void to_and_fro_12(void) { to_and_fro(BUDGET * 12 / 10, 20); }
static void to_and_fro_2(void) { to_and_fro(BUDGET * 2, 10); }
/* Parts that fit, each swept ten times; and all of that again. */
static void parts_swept_again(void)
{
    for (size_t round = 0; round < 2; round++)
        for (size_t part = 0; part < DATA; part += BUDGET / 2) loop(part, BUDGET / 2, 10);
}
/* C += A B by blocks of eight chunks, of four by four. */
static void product_blocked(void)
{
    enum { BLOCK = 8, BLOCKS = 4, MATRIX = BLOCK * BLOCKS * BLOCKS };
    for (size_t i = 0; i < BLOCKS; i++)
        for (size_t j = 0; j < BLOCKS; j++)
            for (size_t k = 0; k < BLOCKS; k++)
                for (size_t row = 0; row < BLOCK; row++) {
                    touch((i * BLOCKS + k) * BLOCK + row);
                    sweep(MATRIX + (k * BLOCKS + j) * BLOCK, BLOCK);
                    touch(2 * MATRIX + (i * BLOCKS + j) * BLOCK + row);
                }
}
/* C = A B row by row: all of B, which does not fit, for each chunk of A and C. */
static void product_by_rows(void)
{
    for (size_t row = 0; row < 40; row++) {
        touch(row);
        sweep(100, BUDGET * 3 / 2);
        touch(400 + row);
    }
}
/* Time steps from one array to another, which together do not fit. */
static void time_steps(void)
{
    for (size_t step = 0; step < 20; step++)
        for (size_t i = 1; i + 1 < BUDGET * 3 / 4; i++) {
            size_t from = step % 2 * 256, to = 256 - from;
            sweep(from + i - 1, 3);
            touch(to + i);
        }
}
/* The same by parts that fit: eight steps in each part before the next. */
static void time_steps_blocked(void)
{
    enum { PART = BUDGET * 3 / 8 };
    for (size_t first = 0; first + PART < DATA / 2; first += PART)
        for (size_t step = 0; step < 8; step++)
            for (size_t i = 0; i < PART; i++) {
                touch(first + i + (step % 2 ? DATA / 2 : 0));
                touch(first + i + (step % 2 ? 0 : DATA / 2));
            }
}
static void strided(void)
{
    for (size_t round = 0; round < 4; round++)
        for (size_t first = 0; first < 8; first++)
            for (size_t i = first; i < DATA; i += 8) touch(i);
}
static void sweeps_at_once(size_t sweeps)
{
    for (size_t round = 0; round < 4; round++)
        for (size_t i = 0; i < DATA / sweeps; i++)
            for (size_t s = 0; s < sweeps; s++) touch(s * (DATA / sweeps) + i);
}
static void two_sweeps(void) { sweeps_at_once(2); }
static void four_sweeps(void) { sweeps_at_once(4); }
static void at_random(size_t first, size_t chunks, size_t times)
{
    while (times--) touch(first + below(chunks));
}
static void random_all(void) { at_random(0, DATA, 4000); }
static void random_fits(void) { at_random(300, BUDGET * 3 / 4, 4000); }
static void zipf_some(size_t times)
{
    double sum = 0, sums[DATA];
    for (size_t i = 0; i < DATA; i++) sums[i] = sum += 1.0 / (double)(i + 1);
    while (times--) {
        double wanted = (double)below(1 << 30) / (1 << 30) * sum;
        size_t i = 0;
        while (i + 1 < DATA && sums[i] < wanted) i++;
        touch(i * 5 % DATA * 13 % DATA);
    }
}
static void zipf(void) { zipf_some(6000); }
static void hot_beside_sweep(void)
{
    for (size_t round = 0; round < 4; round++)
        for (size_t i = 0; i < DATA - 32; i++) {
            touch(i);
            touch(DATA - 32 + below(24));
        }
}
static void hot_between_sweeps(void)
{
    for (size_t round = 0; round < 6; round++) {
        loop(DATA - 40, 30, 8);
        sweep(0, BUDGET * 3);
    }
}
static void phases(void)
{
    sweep(0, DATA);
    loop(40, BUDGET / 2, 20);
    loop(200, BUDGET * 12 / 10, 20);
    at_random(300, BUDGET / 2, 1000);
    loop(400, BUDGET * 3 / 4, 20);
    loop(0, DATA, 2);
    loop(100, BUDGET / 2, 20);
    zipf_some(1000);
    loop(300, BUDGET * 12 / 10, 20);
}

typedef struct {
    const char *name;
    void (*make)(void);
} pattern_t;
static const pattern_t patterns[] = {
    {"cyclic, 0.5 of the budget", cyclic_half},
    {"cyclic, 0.8", cyclic_08},
    {"cyclic, 1.1", cyclic_11},
    {"cyclic, 1.2", cyclic_12},
    {"cyclic, 2", cyclic_2},
    {"cyclic, 8", cyclic_8},
    {"one pass over 8", one_pass},
    {"to and fro, 0.75", to_and_fro_fits},
    {"to and fro, 1.2", to_and_fro_12},
    {"to and fro, 2", to_and_fro_2},
    {"parts of 0.5, ten times each", parts_swept_again},
    {"transposition by blocks", transposition},
    {"product by blocks", product_blocked},
    {"product by rows", product_by_rows},
    {"time steps", time_steps},
    {"time steps by parts", time_steps_blocked},
    {"sweeps with stride 8", strided},
    {"two sweeps at once", two_sweeps},
    {"four sweeps at once", four_sweeps},
    {"random, all", random_all},
    {"random, 0.75", random_fits},
    {"zipf", zipf},
    {"hot set beside sweeps", hot_beside_sweep},
    {"hot set between sweeps", hot_between_sweeps},
    {"phases", phases},
};
enum { PATTERNS = sizeof patterns / sizeof *patterns };

static void make(const pattern_t *pattern)
{
    count = 0;
    state = 42;
    pattern->make();
}

/* What comes in if `room` chunks are kept, the last ones to begin with: with `ahead`, the one that is wanted last leaves,
 * otherwise the least recently used. */
static size_t computed(size_t room, bool ahead)
{
    static size_t next[MOST_TOUCHES];
    size_t last[DATA], rank[DATA], misses = 0;
    bool kept[DATA];
    for (size_t c = 0; c < DATA; c++) last[c] = NEVER;
    for (size_t i = count; i-- > 0;) {
        next[i] = last[touches[i]];
        last[touches[i]] = i;
    }
    /* The kept chunk with the greatest rank leaves. */
    for (size_t c = 0; c < DATA; c++) {
        kept[c] = c >= DATA - room;
        rank[c] = ahead ? last[c] : NEVER + DATA - c;
    }
    for (size_t i = 0; i < count; i++) {
        size_t chunk = touches[i], leaves = DATA;
        if (!kept[chunk]) {
            misses++;
            for (size_t c = 0; c < DATA; c++)
                if (kept[c] && (leaves == DATA || rank[c] > rank[leaves])) leaves = c;
            kept[leaves] = false;
            kept[chunk] = true;
        }
        rank[chunk] = ahead ? next[i] : NEVER - i;
    }
    return misses;
}

typedef struct {
    size_t faults, loads, room;
} figures_t;

/* Runs the touches on the engine. */
static figures_t counted(int advice)
{
    unified_memory_interface_t *memory = unimem_open(&(unified_pool_config_t){.max_size = BUDGET * CHUNK, .enable_growth = true, .enable_streaming = true});
    uint64_t *words = memory ? memory->allocate_streaming((size_t)DATA * CHUNK, CHUNK) : NULL;
    if (!words) {
        fprintf(stderr, "%s\n", unimem_last_error_message());
        exit(1);
    }
    uint64_t random = 1;
    for (size_t i = 0; i < (size_t)DATA * CHUNK / sizeof *words; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        words[i] = random ^ random >> 29;
    }
    if (advice >= 0) unimem_advise(words, (unimem_advice_t)advice);
    unimem_residency_t before, after;
    unimem_residency(words, &before);
    for (size_t i = 0; i < count; i++) ((volatile uint64_t *)words)[touches[i] * (CHUNK / sizeof *words) + i % 64]++;
    unimem_residency(words, &after);
    memory->free(words);
    unimem_close(memory);
    size_t faults = after.faults - before.faults, ahead = after.prefetches - before.prefetches, used = after.prefetch_hits - before.prefetch_hits;
    return (figures_t){faults, faults + ahead - used, after.hot_bytes / CHUNK};
}

int main(int arguments, char **texts)
{
    printf("%d chunks in a budget of %d; chunks that come in on a touch (and all that are read, with those in vain)\n", DATA, BUDGET);
    printf("%-30s %8s %16s %16s %16s %8s %8s\n", "", "touches", "no advice", "RANDOM", "SEQUENTIAL", "LRU", "least");
    for (size_t p = 0; p < PATTERNS; p++) {
        if (arguments > 1 && !strstr(patterns[p].name, texts[1])) continue;
        make(&patterns[p]);
        figures_t none = counted(-1), random = counted(UNIMEM_RANDOM), sequential = counted(UNIMEM_SEQUENTIAL);
        printf("%-30s %8zu %7zu (%6zu) %7zu (%6zu) %7zu (%6zu) %8zu %8zu\n", patterns[p].name, count, none.faults, none.loads, random.faults, random.loads, sequential.faults, sequential.loads, computed(none.room, false), computed(none.room, true));
        fflush(stdout);
    }
    return 0;
}
