/* test_contract_floating_point.c - hierarchical memory, and truncating, in a program whose floating-point exceptions are
 * signals. */
#define _GNU_SOURCE
#include "unimem/tree_tensor_network.h"

#include <fenv.h>
#include <math.h>

#include "support.h"
#include "tap.h"

enum { CHUNK = 64 * 1024, COUNT = 4 * CHUNK };

/* Bits of an element: ordinary numbers, with those among them whose arithmetic overflows, underflows or is invalid. */
static uint32_t element(size_t i) {
    static const uint32_t odd[] = {0x7F800000, 0xFF800000, 0x7FC00001, 0x7FA00001,
                                   0x7F7FFFFF, 0xFF7FFFFF, 0x00000001, 0x80012345};
    return i % 5 ? 0x3F000000 + (uint32_t)(i * 2654435761u) % 0x800000 : odd[i / 5 % 8];
}
static bool is_finite(uint32_t bits) { return (bits & 0x7F800000) != 0x7F800000; }
static float number(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Stores elements, sends them out and brings them in by all ways there are; 0 if they are right then. */
static int with_signals(void *argument) {
    const int *exceptions = argument;
    if (feenableexcept(*exceptions) < 0) return 50;
    unified_pool_config_t config = {.max_size = 8 * MIB, .enable_growth = true, .enable_streaming = true,
                                    .chunk_size = CHUNK};
    unified_memory_interface_t *memory = unimem_open(&config);
    static const double tolerances[] = {0, 1e-3, 1e30, 1e300};
    for (size_t t = 0; t < 4; t++) {
        uint32_t *words = memory->allocate_hierarchical(COUNT * sizeof *words, tolerances[t]);
        if (!words) return 51;
        for (size_t i = 0; i < COUNT; i++) words[i] = element(i);
        for (int round = 0; round < 3; round++) {
            unimem_advise(words, UNIMEM_DONT_NEED);
            if (round == 1) unimem_chunk_prefetch(words, 0, unimem_chunk_count(words));
            for (size_t c = 0; round == 2 && c < unimem_chunk_count(words); c++)
                if (!unimem_chunk_acquire(words, c, UNIMEM_READ) || !unimem_chunk_release(words, c)) return 52;
            for (size_t i = 0; i < COUNT; i++) {
                uint32_t got = words[i], wrote = element(i);
                if (!is_finite(wrote) ? got != wrote
                                      : !is_finite(got) || fabs((double)number(got) - (double)number(wrote)) > tolerances[t])
                    return 53;
            }
        }
        memory->free(words);
    }
    return unimem_close(memory) && fegetexcept() == *exceptions ? 0 : 54;
}

/* Truncates a tree of tensors with many zeros; 0 if that works. */
static int with_trees(void *argument) {
    const int *exceptions = argument;
    tree_tensor_network_t *network = create_tree_tensor_network(0, 0, 0);
    tree_tensor_node_t *parent = NULL;
    for (size_t i = 0; i < 12; i++) {
        ComplexFloat elements[175] = {{0, 0}};
        for (size_t k = 0; k < 175; k += 1 + i) elements[k] = (ComplexFloat){(float)(k * i % 17) - 8, (float)(k % 5)};
        tree_tensor_node_t *node = add_tree_tensor_node(network, elements, (size_t[]){5, 7, 5}, 3, false);
        if (parent && !unimem_connect_axes(network, parent, 2, node, 0)) return 60;
        parent = node;
    }
    if (feenableexcept(*exceptions) < 0) return 50;
    for (int times = 0; times < 2; times++)
        if (!adapt_bond_dimensions(network, 0.1)) return 61;
    destroy_tree_tensor_network(network);
    return fegetexcept() == *exceptions ? 0 : 54;
}

/* All elements right in a program that rounds otherwise, and whose rounding stays. */
static int with_rounding(void *argument) {
    const int *direction = argument;
    int none = 0;
    if (fesetround(*direction) != 0) return 50;
    int result = with_signals(&none);
    return result ? result : fegetround() == *direction ? 0 : 55;
}

int main(void) {
    static const struct {
        const char *name;
        int exceptions;
    } cases[] = {{"no coder is a program's SIGFPE: invalid", FE_INVALID},
                 {"division by zero", FE_DIVBYZERO},
                 {"overflow", FE_OVERFLOW},
                 {"underflow", FE_UNDERFLOW}};
    int none = feenableexcept(FE_INVALID);
    fedisableexcept(FE_ALL_EXCEPT);
    for (size_t i = 0; i < 4; i++) {
        int exceptions = cases[i].exceptions;
        if (without_faults() || none < 0)
            SKIP(cases[i].name, none < 0 ? "this processor has no such signals" : "no access to what is not in place");
        else
            CHECK_EQ(cases[i].name, (size_t)run_in_child(with_signals, &exceptions, 60), 0);
    }
    int common = FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW;
    if (none < 0)
        SKIP("truncating is no SIGFPE either", "this processor has no such signals");
    else
        CHECK_EQ("truncating is no SIGFPE either", (size_t)run_in_child(with_trees, &common, 60), 0);
    static const int directions[] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    TEST("whichever way the program rounds")
        for (size_t i = 0; i < 3 && !without_faults(); i++) {
            int direction = directions[i], result = run_in_child(with_rounding, &direction, 60);
            EXPECT(result == 0, "direction %d: %d", direction, result);
        }
    return tap_done();
}
