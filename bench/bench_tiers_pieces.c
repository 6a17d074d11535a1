/* Many small pieces of tiered memory: what one costs, and whether it costs the same beside a thousand others and beside a
 * hundred thousand; then pieces of two chunks, which are regions of their own. Beside them what a program can do without this
 * library: a mapping for each.
 *
 *   bench_tiers_pieces [PIECES]        100000
 */
#define _GNU_SOURCE
#include "unimem.h"

#include <sys/mman.h>

#include "bench.h"

enum { SIZE = 4096, ROUNDS = 5, PHASES = 4, REGIONS = 8000 };
static const char *const phases[PHASES] = {"allocate", "first touch", "touch in no order", "free"};

static size_t size = SIZE;
static void *mapped(void)
{
    void *start = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return start == MAP_FAILED ? NULL : start;
}
static void unmap(void *start)
{
    munmap(start, size);
}

static unified_memory_interface_t *memory;
static void *allocated(void)
{
    return size == SIZE ? memory->allocate_hierarchical(SIZE, 1e-3) : memory->allocate_streaming(size, SIZE);
}

/* ns for a piece in each phase. Returns how many pieces there could be. */
static size_t run(size_t count, void *(*allocate)(void), void (*release)(void *), double ns[PHASES])
{
    void **pieces = calloc(count, sizeof *pieces);
    if (!pieces) exit(1);
    double began = seconds_now();
    size_t made = 0;
    while (made < count && (pieces[made] = allocate())) made++;
    double allocated_at = seconds_now();
    for (size_t i = 0; i < made; i++) *(float *)pieces[i] = (float)i;
    double touched_at = seconds_now();
    size_t wrong = 0;
    for (size_t i = 0; i < made; i++) {
        size_t at = i * 7919 % made;
        float difference = *(volatile float *)pieces[at] - (float)at;
        wrong += difference > 1e-3F || difference < -1e-3F;
    }
    double used_at = seconds_now();
    for (size_t i = 0; i < made; i++) release(pieces[i]);
    double freed_at = seconds_now();
    if (wrong) {
        fprintf(stderr, "%zu pieces are not what they were\n", wrong);
        exit(1);
    }
    const double times[PHASES + 1] = {began, allocated_at, touched_at, used_at, freed_at};
    for (size_t i = 0; i < PHASES; i++) ns[i] = (times[i + 1] - times[i]) * 1e9 / (double)(made ? made : 1);
    free(pieces);
    return made;
}

/* The medians of some rounds, beside which the system's mappings are measured. */
static void measure(const char *name, size_t count, size_t budget, report_t *report)
{
    double ours[PHASES][ROUNDS], mappings[PHASES][ROUNDS], ns[PHASES];
    memory = unimem_open(&(unified_pool_config_t){.max_size = budget, .enable_growth = true, .enable_streaming = true});
    if (!memory) exit(1);
    for (size_t round = 0; round < ROUNDS; round++) {
        if (run(count, allocated, memory->free, ns) < count) {
            fprintf(stderr, "%s\n", unimem_last_error_message());
            exit(1);
        }
        for (size_t i = 0; i < PHASES; i++) ours[i][round] = ns[i];
        /* The system joins neighbours, so it has room for as many. */
        run(count, mapped, unmap, ns);
        for (size_t i = 0; i < PHASES; i++) mappings[i][round] = ns[i];
    }
    unimem_close(memory);
    printf("%-34s", name);
    for (size_t i = 0; i < PHASES; i++) {
        double value = median(ours[i], ROUNDS), ratio = median_ratio(ours[i], mappings[i], ROUNDS);
        printf("  %8.0f ns %6.1f", value, ratio);
        report_add(report, phases[i], count, 1, name, value, "ns", "mmap", ratio, 0);
    }
    puts("");
}

int main(int argument_count, char **arguments)
{
    size_t most = argument_count > 1 ? strtoul(arguments[1], NULL, 10) : 100000;
    report_t report = report_open("bench-tiers-pieces.csv");
    printf("== pieces of %d bytes, %s; ns each, and ratio to a mapping for each\n%-34s", SIZE, unimem_fault_mechanism(), "");
    for (size_t i = 0; i < PHASES; i++) printf("  %18s", phases[i]);
    puts("");
    measure("all fit, 1000 pieces", 1000, 0, &report);
    char name[64];
    snprintf(name, sizeof name, "all fit, %zu pieces", most);
    measure(name, most, 0, &report);
    snprintf(name, sizeof name, "an eighth fits, %zu pieces", most);
    measure(name, most, most * SIZE / 8, &report);
    size = 2 * SIZE;
    measure("two chunks each, 500 pieces", 500, 0, &report);
    measure("two chunks each, 8000 pieces", REGIONS, 0, &report);
    /* A page of records each, and room for a quarter of the chunks that are touched. */
    measure("a quarter fits, 8000 pieces", REGIONS, (size_t)REGIONS * (SIZE + SIZE / 4), &report);
    return fclose(report.csv) != 0;
}
