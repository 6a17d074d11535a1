/* Tree tensor networks through the C interface: the cost of a node in trees of small tensors, and a network that does
 * not fit its budget beside the same one in RAM.
 *
 *   bench_tensor           a minute at most, 0.6 GB of disk
 *   bench_tensor --large   the same with 500 million parameters: three minutes, 4.2 GB of RAM, 4.1 GB of disk
 *
 * Files go where the library's spill files go: UNIMEM_SPILL_DIR, else TMPDIR, else /var/tmp.
 * benches/contraction.rs measures single contractions beside a plain matrix product. */
#define _GNU_SOURCE
#include "unimem/tree_tensor_network.h"

#include <math.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "bench.h"
#include "disk.h"

static void fill(ComplexFloat *elements, size_t count, unsigned seed, float scale)
{
    unsigned state = seed;
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        elements[i].real = ((float)(state >> 8) / 8388608.0f - 1.0f) * scale;
        state = state * 1664525u + 1013904223u;
        elements[i].imag = ((float)(state >> 8) / 8388608.0f - 1.0f) * scale;
    }
}

/* A binary tree of tensors with bonds of size 2. Each leaf has one free axis of size 1. Measures microseconds a node, to
 * plan and contract, and to contract again with the plan that was kept. */
static void small_trees(report_t *report)
{
    enum { ROUNDS = 11 };
    ComplexFloat elements[8];
    fill(elements, 8, 1, 0.7f);
    printf("%-34s%14s%14s\n", "trees of small nodes, us a node", "planned", "plan kept");
    const size_t sizes[] = {64, 255, 1023};
    for (size_t s = 0; s < 3; s++) {
        double first[ROUNDS], again[ROUNDS];
        for (size_t round = 0; round < ROUNDS; round++) {
            tree_tensor_network_t *ttn = create_tree_tensor_network(0, 0, 0);
            tree_tensor_node_t **nodes = calloc(sizes[s], sizeof(*nodes));
            for (size_t i = 0; i < sizes[s]; i++) {
                /* Axis 0 goes to the parent, the others to the children. */
                size_t children = 2 * i + 2 < sizes[s] ? 2 : 2 * i + 1 < sizes[s] ? 1 : 0;
                nodes[i] = add_tree_tensor_node(ttn, elements, (size_t[]){i ? 2 : 1, children > 0 ? 2 : 1, children > 1 ? 2 : 1}, 3, false);
                if (i) unimem_connect_axes(ttn, nodes[(i - 1) / 2], 1 + (i - 1) % 2, nodes[i], 0);
            }
            for (size_t turn = 0; turn < 2; turn++) {
                ComplexFloat *result = NULL;
                size_t count;
                double begin = seconds_now();
                if (!contract_full_tree_network(ttn, &result, NULL, &count)) exit(EXIT_FAILURE);
                (turn ? again : first)[round] = (seconds_now() - begin) * 1e6 / (double)sizes[s];
                free(result);
            }
            free(nodes);
            destroy_tree_tensor_network(ttn);
        }
        double value = median(first, ROUNDS);
        char mark = report_add(report, "tensor tree", sizes[s], 1, "contract_full_tree_network", value, "us/node", "20 us", value / 20, 1);
        printf("  %-32zu%13.2f%c%14.2f\n", sizes[s], value, mark, median(again, ROUNDS));
    }
}

/* A matrix of `rows` by `bond`, times `matrices` matrices of `bond` by `bond`. A single one is a pair contraction, whose
 * result stays in the network's memory. With more, the whole tree is contracted, and the result is the caller's. */
typedef struct {
    size_t matrices, bond, rows, limit;
} chain_t;
enum { SAMPLES = 4096 };
typedef struct {
    double seconds, flops;
    size_t peak;
    double disk_read, disk_written; /* bytes during the contraction */
    double brought, ahead; /* chunks of the operands that came in since these were made */
    ComplexFloat sample[SAMPLES];
} outcome_t;

/* Bytes that this process has read from disk, or written, so far. */
static double disk_bytes(const char *name)
{
    char line[128];
    double bytes = NAN;
    FILE *file = fopen("/proc/self/io", "r");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, name, strlen(name)) == 0) bytes = strtod(line + strlen(name), NULL);
    if (file) fclose(file);
    return bytes;
}

/* Contracts a chain. Runs in a child of its own, so that its memory can be measured. */
static void run_chain(const chain_t *chain, outcome_t *outcome)
{
    unified_pool_config_t config = {.max_size = chain->limit, .enable_growth = true, .enable_streaming = true, .chunk_size = (size_t)2 << 20};
    unified_memory_interface_t *memory = unimem_open(&config);
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, 0, 0);
    ttn->memory = memory;
    tree_tensor_node_t *before = NULL, *last = NULL;
    for (size_t i = 0; i <= chain->matrices; i++) {
        size_t rows = i ? chain->bond : chain->rows;
        before = last;
        last = add_tree_tensor_node(ttn, NULL, (size_t[]){rows, chain->bond}, 2, false);
        if (!last) exit(3);
        /* The tensor is written through the pointer, so that no second copy is needed. */
        fill(last->data, rows * chain->bond, (unsigned)i + 1, 1.2f / sqrtf((float)chain->bond));
        if (before && !connect_tree_tensor_nodes(ttn, before, last)) exit(4);
    }
    double peak_bytes;
    ComplexFloat *result = NULL, *elements;
    tree_tensor_node_t *product = NULL;
    size_t sizes[16], count;
    unimem_contraction_cost(ttn, &outcome->flops, &peak_bytes);
    double read = disk_bytes("read_bytes:"), written = disk_bytes("write_bytes:"), begin = seconds_now();
    bool done = chain->matrices == 1 ? contract_tree_tensor_nodes(ttn, before, last, &product)
                                     : contract_full_tree_network(ttn, &result, sizes, &count);
    if (!done) exit(5);
    outcome->seconds = seconds_now() - begin;
    outcome->disk_read = disk_bytes("read_bytes:") - read, outcome->disk_written = disk_bytes("write_bytes:") - written;
    outcome->brought = outcome->ahead = 0;
    for (tree_tensor_node_t *node = last; node; node = node->parent) {
        unimem_residency_t tiers;
        if (!unimem_residency(node->data, &tiers)) continue; /* plain memory */
        outcome->brought += (double)tiers.faults, outcome->ahead += (double)tiers.prefetch_hits;
    }
    elements = product ? product->data : result;
    /* The result is `rows` by `bond`. An odd stride meets all rows and columns. */
    for (size_t i = 0; i < SAMPLES; i++) outcome->sample[i] = elements[i * 2654435761u % (chain->rows * chain->bond)];
    free(result);
    destroy_tree_tensor_network(ttn);
    if (!unimem_close(memory)) exit(6);
}

/* Runs this program anew for one chain, so that what it has done so far does not count, and no thread of it is
 * missing. */
static bool in_child(const chain_t *chain, outcome_t *outcome, int shared)
{
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        char text[5][24];
        const size_t numbers[5] = {chain->matrices, chain->bond, chain->rows, chain->limit, (size_t)shared};
        for (size_t i = 0; i < 5; i++) snprintf(text[i], sizeof text[i], "%zu", numbers[i]);
        execl("/proc/self/exe", "bench_tensor", "--chain", text[0], text[1], text[2], text[3], text[4], (char *)NULL);
        _exit(127);
    }
    int status = 0;
    struct rusage usage;
    if (wait4(child, &status, 0, &usage) != child || status != 0) {
        printf("  the run failed (status %d)\n", status);
        return false;
    }
    outcome->peak = (size_t)usage.ru_maxrss << 10;
    return true;
}

/* What the child of `in_child` does. */
static int run_child(char **arguments)
{
    chain_t chain = {strtoul(arguments[0], NULL, 10), strtoul(arguments[1], NULL, 10), strtoul(arguments[2], NULL, 10), strtoul(arguments[3], NULL, 10)};
    outcome_t *outcome = mmap(NULL, sizeof *outcome, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(arguments[4]), 0);
    if (outcome == MAP_FAILED) return EXIT_FAILURE;
    run_chain(&chain, outcome);
    return EXIT_SUCCESS;
}

/* Compares a chain with a limit and without one, `rounds` times each. */
static bool compare(report_t *report, const char *name, chain_t chain, size_t limit, size_t rounds)
{
    static outcome_t outcomes[2];
    int shared = memfd_create("outcome", 0);
    if (shared < 0 || ftruncate(shared, sizeof(outcome_t)) != 0) return false;
    double in_core[MOST_ROUNDS], limited[MOST_ROUNDS], rates[2] = {0, 0}, far = 0, norm = 0;
    for (size_t round = 0; round < rounds; round++)
        for (size_t i = 0; i < 2; i++) {
            chain.limit = i ? limit : 0;
            if (!in_child(&chain, &outcomes[i], shared)) return false;
            size_t peak = outcomes[i].peak;
            if (pread(shared, &outcomes[i], sizeof(outcome_t), 0) != (ssize_t)sizeof(outcome_t)) return false;
            outcomes[i].peak = peak;
            (i ? limited : in_core)[round] = outcomes[i].seconds;
        }
    close(shared);
    for (size_t i = 0; i < SAMPLES; i++) {
        ComplexFloat a = outcomes[0].sample[i], b = outcomes[1].sample[i];
        far += pow(a.real - b.real, 2) + pow(a.imag - b.imag, 2);
        norm += pow(a.real, 2) + pow(a.imag, 2);
    }
    double ratio = median_ratio(limited, in_core, rounds), error = sqrt(far / norm);
    double bytes = (double)chain.matrices * (double)chain.bond * (double)chain.bond * 8;
    for (size_t i = 0; i < 2; i++) {
        double seconds = median(i ? limited : in_core, rounds);
        printf("  %-20s %8.2f s %8.1f GFLOP/s   peak RSS %5zu MiB\n", i ? "limited" : "in RAM", seconds, outcomes[i].flops / seconds * 1e-9, outcomes[i].peak >> 20);
        report_add(report, name, (size_t)bytes, unimem_threads(), i ? "limited" : "in RAM", seconds, "s", "in RAM", i ? ratio : 1, 0);
    }
    char speed = report_add(report, name, (size_t)bytes, unimem_threads(), "speed", ratio, "times", "in RAM", ratio, 1 / 0.9);
    char memory = report_add(report, name, (size_t)bytes, unimem_threads(), "peak RSS", (double)(outcomes[1].peak >> 20), "MiB", "limit", (double)outcomes[1].peak / ((double)limit + (88 << 20)), 1);
    printf("  %.0f%% of the speed in RAM, wanted 90%% %c   memory %c   difference %.1e%s\n", 100 / ratio, speed, memory, error, error < 1e-5 ? "" : "  TOO LARGE");

    /* The least traffic: every operand once, and the result if there is no room for it; but no less than 2 m n k /
     * sqrt(M) elements for each product. */
    const outcome_t *o = &outcomes[1];
    double flops = o->flops / 8, result = chain.matrices == 1 ? bytes : 0;
    double least = fmax(bytes + (double)(chain.rows * chain.bond) * 8 + result, 8 * 2 * flops / sqrt((double)limit / 8));
    double moved = o->disk_read + o->disk_written;
    char traffic = report_add(report, name, (size_t)bytes, unimem_threads(), "traffic", moved * 1e-9, "GB", "least traffic", moved / least, 2);
    printf("  read %.2f GB, written %.2f GB: %.2f of the least there is, wanted 2 %c   %.0f chunks brought in, %.0f of them ahead\n", o->disk_read * 1e-9, o->disk_written * 1e-9, moved / least, traffic, o->brought, o->ahead);
    if (disk_rates((size_t)256 << 20, 1, rates)) {
        double reading = o->disk_read * 1e-9 / rates[1], writing = o->disk_written * 1e-9 / rates[0], multiplying = median(in_core, rounds);
        printf("  the disk now: written at %.2f GB/s, read at %.2f: %.2f s; the products: %.2f s; so no faster than %.2f s\n", rates[0], rates[1], reading + writing, multiplying, fmax(reading + writing, multiplying));
    }
    return error < 1e-5;
}

static bool out_of_core(report_t *report, bool large)
{
    chain_t chain = large ? (chain_t){30, 4096, 1024, 0} : (chain_t){15, 2048, 512, 0}, square = {1, 4096, 4096, 0};
    size_t limit = large ? (size_t)512 << 20 : (size_t)64 << 20;
    double bytes = (double)chain.matrices * (double)chain.bond * (double)chain.bond * 8;
    if (large) printf("This takes about three minutes, 4.2 GB of RAM, and 4.1 GB of disk.\n");
    printf("\n%.0f million parameters (%.2f GB) in %zu MiB, and without a limit\n", bytes / 8e6, bytes / 1e9, limit >> 20);
    bool right = compare(report, "tensor chain", chain, limit, 3);
    if (!large) {
        printf("\nOne product of 4096 cubed (0.40 GB) in %zu MiB, and without a limit\n", limit >> 20);
        right &= compare(report, "tensor product", square, limit, 1);
    }
    return right;
}

int main(int count, char **arguments)
{
    if (count == 7 && strcmp(arguments[1], "--chain") == 0) return run_child(arguments + 2);
    bool large = count > 1 && strcmp(arguments[1], "--large") == 0;
    report_t report = report_open("bench_tensor.csv");
    if (!large) small_trees(&report);
    bool right = out_of_core(&report, large);
    report_close(&report);
    return right ? EXIT_SUCCESS : EXIT_FAILURE;
}
