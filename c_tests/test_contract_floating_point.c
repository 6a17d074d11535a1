/* test_contract_floating_point.c - hierarchical memory and tree tensor networks in programs that have set a floating-point
 * environment: exceptions that are signals, another rounding, no subnormals. */
#define _GNU_SOURCE

#include <fenv.h>
#include <math.h>
#ifdef __SSE2__
#include <xmmintrin.h>
/* The bits of MXCSR that take subnormals for zero, as results and as operands. */
enum { FLUSHING = 0x8040 };
static unsigned get_modes(void) { return _mm_getcsr(); }
static void set_modes(unsigned modes) { _mm_setcsr(modes); }
#elif defined __aarch64__
/* The bit of FPCR that does. */
enum { FLUSHING = 1 << 24 };
static unsigned get_modes(void) {
    unsigned long modes;
    __asm__ volatile("mrs %0, fpcr" : "=r"(modes));
    return (unsigned)modes;
}
static void set_modes(unsigned modes) { __asm__ volatile("msr fpcr, %0" : : "r"((unsigned long)modes)); }
#else
enum { FLUSHING = 0 };
static unsigned get_modes(void) { return 0; }
static void set_modes(unsigned modes) { (void)modes; }
#endif

#include "tap.h"
#include "trees.h"

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

/* An environment that a program may have set. */
typedef struct {
    const char *name;
    int rounding, signals;
    bool flushes;
} environment_t;

static bool set(const environment_t *environment) {
    if (fesetround(environment->rounding) != 0) return false;
    if (environment->signals && feenableexcept(environment->signals) < 0) return false;
    if (environment->flushes) set_modes(get_modes() | FLUSHING);
    return !environment->flushes || FLUSHING;
}
/* Whether the thread has this environment, and no exception was seen since they were cleared. */
static bool is_set(const environment_t *environment) {
    return fegetround() == environment->rounding && fegetexcept() == environment->signals &&
           fetestexcept(FE_ALL_EXCEPT) == 0 && (get_modes() & FLUSHING) == (environment->flushes ? FLUSHING : 0);
}

/* What a child is to do, and what it finds; shared with it. */
typedef struct {
    const environment_t *environment;
    bool told, told_otherwise; /* the callback was called; it was called in another environment */
    size_t digest;
} computation_t;

static bool told(double done, double total, void *context) {
    computation_t *computation = context;
    computation->told = true;
    computation->told_otherwise |= !is_set(computation->environment) || done > total;
    feclearexcept(FE_ALL_EXCEPT); /* of the comparison */
    return true;
}
/* A tensor of integers below 16, times `unit`: with a unit near the limits, the squares leave the range of float. */
static tree_tensor_node_t *scaled_node(tree_tensor_network_t *network, random_t *random, float unit, size_t *sizes, size_t axes) {
    size_t count = volume_of(sizes, axes);
    ComplexFloat *elements = malloc(count * sizeof *elements);
    for (size_t i = 0; elements && i < count; i++)
        elements[i] = (ComplexFloat){unit * (float)random_below(random, 16), unit / (float)(1 + random_below(random, 16))};
    tree_tensor_node_t *node = elements ? add_tree_tensor_node(network, elements, sizes, axes, false) : NULL;
    free(elements);
    return node;
}
static void digest(computation_t *computation, const void *bytes, size_t size) {
    const unsigned char *byte = bytes;
    for (size_t i = 0; i < size; i++) computation->digest = computation->digest * 1099511628211u + byte[i];
}

/* Does what computes with tensors, in an environment; 0 if all calls succeed and leave the environment alone. */
static int with_tensors(void *argument) {
    computation_t *computation = argument;
    const environment_t *environment = computation->environment;
    random_t random = {7};
    enum { SIDE = 320, LONG = 1400 };
    static const float units[] = {1.0f, 1e-22f, 1e19f};
    tree_tensor_network_t *pairs = create_tree_tensor_network(0, 0, 0), *chain = create_tree_tensor_network(0, 0, 0);
    tree_tensor_node_t *square[3][3], *parent = NULL;
    for (size_t unit = 0; unit < 3; unit++)
        for (size_t i = 0; i < 3; i++)
            square[unit][i] = scaled_node(pairs, &random, units[unit], (size_t[]){SIDE, SIDE}, 2);
    /* Its value, and what planning expects of orders, are far beyond the range of double. */
    for (size_t i = 0; i < LONG; i++) {
        tree_tensor_node_t *node = scaled_node(chain, &random, units[i % 3], (size_t[]){3, 2, 3}, 3);
        if (parent && !unimem_connect_axes(chain, parent, 2, node, 0)) return 61;
        parent = node;
    }
    if (!unimem_set_progress(pairs, told, computation)) return 62;
    if (!set(environment)) return UNAVAILABLE;
    feclearexcept(FE_ALL_EXCEPT);

    if (unimem_threads() == 0) return 63; /* this may start the threads of products */
    for (size_t unit = 0; unit < 3; unit++) {
        tree_tensor_node_t *result = NULL;
        if (!contract_tree_tensor_nodes(pairs, square[unit][0], square[unit][1], &result)) return 64;
        if (!is_set(environment)) return 65;
        digest(computation, result->data, SIDE * SIDE * sizeof(ComplexFloat));
        tensor_stream_t *streams[3];
        for (size_t i = 0; i < 3; i++) streams[i] = create_tensor_stream(pairs, square[unit][i], 0);
        if (!contract_tensor_streams(streams[0], streams[1], streams[2])) return 66;
        if (!is_set(environment)) return 67;
        digest(computation, square[unit][2]->data, SIDE * SIDE * sizeof(ComplexFloat));
    }
    double operations, bytes;
    if (!unimem_contraction_cost(chain, &operations, &bytes) || !optimize_tree_structure(chain)) return 68;
    if (!is_set(environment)) return 69;
    if (adapt_bond_dimensions(chain, 0.5)) digest(computation, chain->root->data, 3 * sizeof(ComplexFloat));
    if (!is_set(environment)) return 70;
    destroy_tree_tensor_network(chain);
    destroy_tree_tensor_network(pairs);
    if (!is_set(environment)) return 71;
    return !computation->told ? 72 : computation->told_otherwise ? 73 : 0;
}

int main(void) {
    static const environment_t environments[] = {
        {"as programs begin", FE_TONEAREST, 0, false},
        {"tensors are the same: rounding upwards", FE_UPWARD, 0, false},
        {"rounding towards zero", FE_TOWARDZERO, 0, false},
        {"without subnormals", FE_TONEAREST, 0, true},
        {"with exceptions as signals", FE_TONEAREST, FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW | FE_UNDERFLOW, false},
    };
    computation_t *computations = mmap(NULL, sizeof *computations * 5, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (computations == MAP_FAILED) give_up("no memory");
    for (size_t i = 0; i < 5; i++) {
        computations[i].environment = &environments[i];
        int result = run_in_child(with_tensors, &computations[i], 100);
        if (result == UNAVAILABLE) {
            SKIP(environments[i].name, "this processor has no such environment");
            continue;
        }
        TEST(environments[i].name) {
            EXPECT(result == 0, "the child returned %d", result);
            EXPECT(computations[i].digest == computations[0].digest, "the tensors are others");
        }
    }

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
