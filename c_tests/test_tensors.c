/* test_tensors.c - tensors, and the arguments of streaming and hierarchical memory, with good input and bad. */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/memory_pool.h"

#include "one_instance.h"

#include <math.h>

static const unified_pool_config_t tiered_config = {
    .enable_growth = true, .enable_streaming = true, .chunk_size = 64 * KIB, .compression_tolerance = 1e-3};

/* Tensors of 2 MiB and more among blocks of such sizes. */
static void use_again(unified_memory_interface_t *instance) {
    random_t random = {31};
    void *blocks[40] = {0};
    for (size_t i = 0; i < 2000; i++) {
        void **slot = &blocks[random_below(&random, 40)];
        size_t more = random_below(&random, 3) ? random_below(&random, 8192) : 0; /* often exactly 2 MiB */
        size_t dimensions[] = {64, 4096 + more}, size = 64 * dimensions[1] * 8;
        instance->free(*slot);
        *slot = i % 2 ? instance->allocate(size, 0) : instance->allocate_geometric(dimensions, 2);
        if (i % 2 == 0) EXPECT(*slot && is_aligned(*slot, 2 * MIB), "a tensor of %zu bytes is at %p", size, *slot);
        if (*slot) *(char *)*slot = 1;
    }
    for (size_t i = 0; i < 40; i++) instance->free(blocks[i]);
}

static void test_layouts(void) {
    TEST("allocate_geometric: aligned to 64, to 2 MiB from 2 MiB up; its layout is dense and row-major") {
        size_t shapes[][4] = {{1, 1, 1, 1},           {2, 3, 5, 7},     {16, 16, 16, 4}, {64, 64, 64, 1},
                              {2 * MIB / 8, 1, 1, 1}, {32, 32, 32, 32}, {1, 511, 513, 3}};
        for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
            size_t elements = shapes[s][0] * shapes[s][1] * shapes[s][2] * shapes[s][3], size = elements * 8,
                   before = live_bytes();
            unsigned char *tensor = memory->allocate_geometric(shapes[s], 4);
            if (!EXPECT(tensor != NULL, "shape %zu is NULL", s)) continue;
            size_t alignment = size >= 2 * MIB ? 2 * MIB : 64;
            EXPECT(is_aligned(tensor, alignment), "shape %zu of %zu bytes is at %p, expected alignment %zu", s, size,
                   (void *)tensor, alignment);
            EXPECT(live_bytes() == before + size, "shape %zu counts %zu bytes, expected %zu", s, live_bytes() - before,
                   size);
            tensor[0] = tensor[size - 1] = 1;
            unimem_layout_t layout;
            memset(&layout, 0, sizeof layout);
            EXPECT(unimem_layout(tensor, &layout), "no layout of shape %zu", s);
            EXPECT(layout.num_dims == 4 && layout.element_size == 8 && layout.size == size,
                   "layout of shape %zu: %zu dimensions, element %zu, size %zu", s, layout.num_dims,
                   layout.element_size, layout.size);
            size_t stride = 1;
            for (size_t d = 4; layout.num_dims == 4 && d-- > 0; stride *= shapes[s][d]) {
                EXPECT(layout.dimensions[d] == shapes[s][d], "shape %zu: dimension %zu is %zu", s, d,
                       layout.dimensions[d]);
                EXPECT(layout.strides[d] == stride, "shape %zu: stride %zu is %zu, expected %zu", s, d,
                       layout.strides[d], stride);
            }
            memory->free(tensor);
            EXPECT(!unimem_layout(tensor, &layout), "a freed tensor of shape %zu still has a layout", s);
        }
    }
}
static void test_dimensions(void) {
    size_t many[20], big[] = {SIZE_MAX / 8, 2}, exact[] = {(size_t)1 << 32, (size_t)1 << 32},
                     eighth[] = {(size_t)1 << 61}, zero[] = {4, 0, 4}, one[] = {1}, before = live_bytes();
    for (size_t i = 0; i < 20; i++) many[i] = i % 2 ? 2 : 1;
    void *tensor = memory->allocate_geometric(many, 20);
    CHECK("allocate_geometric: 20 dimensions", tensor && live_bytes() == 1024 * 8);
    memory->free(tensor);
    size_t ones[65];
    for (size_t i = 0; i < 65; i++) ones[i] = 1;
    tensor = memory->allocate_geometric(ones, 64);
    CHECK("allocate_geometric: 64 dimensions, and no more",
          tensor && !memory->allocate_geometric(ones, 65) && unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT);
    memory->free(tensor);
    TEST("allocate_geometric: no, zero, missing or overflowing dimensions are NULL with an error") {
        struct {
            const char *what;
            size_t *dimensions, count;
        } bad[] = {{"no dimensions", one, 0},          {"NULL dimensions", NULL, 2},    {"a zero dimension", zero, 3},
                   {"an overflowing product", big, 2}, {"a product of 2^64", exact, 2}, {"a size of 2^64", eighth, 1}};
        for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
            set_other_error(UNIMEM_ERROR_INVALID_ARGUMENT);
            void *got = memory->allocate_geometric(bad[i].dimensions, bad[i].count);
            EXPECT(got == NULL, "%s gave %p", bad[i].what, got);
            EXPECT(unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT, "%s left error %d, expected invalid argument",
                   bad[i].what, (int)unimem_last_error());
        }
    }
    CHECK("allocate_geometric: refused calls left nothing live", live_bytes() == before);
}
static void test_element_sizes(void) {
    size_t dimensions[] = {3, 5}, before = live_bytes();
    TEST("unimem_allocate_tensor: any element size") {
        for (size_t element = 1; element <= 4096; element = element * 3 + 1) {
            unimem_layout_t layout;
            void *block = unimem_allocate_tensor(memory, dimensions, 2, element);
            EXPECT(block && unimem_layout(block, &layout) && layout.element_size == element &&
                       layout.size == 15 * element && layout.strides[0] == 5 && layout.strides[1] == 1,
                   "element size %zu", element);
            memory->free(block);
        }
    }
    CHECK("unimem_allocate_tensor: element size 0 is NULL", unimem_allocate_tensor(memory, dimensions, 1, 0) == NULL);
    CHECK("unimem_allocate_tensor: an overflowing element size is NULL",
          unimem_allocate_tensor(memory, dimensions, 2, SIZE_MAX / 2) == NULL);
    CHECK("unimem_allocate_tensor: NULL interface is NULL", unimem_allocate_tensor(NULL, dimensions, 1, 8) == NULL);
    CHECK("unimem_allocate_tensor: refused calls left nothing live", live_bytes() == before);
}
static void test_what_has_no_layout(void) {
    unimem_layout_t layout;
    void *plain = memory->allocate(64, 0);
    CHECK("unimem_layout: a plain block has none", !unimem_layout(plain, &layout));
    CHECK("unimem_layout: nor has NULL, a foreign pointer, or a NULL answer",
          !unimem_layout(NULL, &layout) && !unimem_layout(opaque(&layout), &layout) && !unimem_layout(plain, NULL));
    memory->free(plain);
    TEST("unimem_layout: nor has a tensor that was reallocated, whether it has moved or not") {
        static size_t sizes[][2] = {{1000, 7990}, {1000, 80000}, {1000, 8000}, {MIB / 2, 4 * MIB + 4096}, {MIB / 2, 3 * MIB}};
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            void *tensor = memory->allocate_geometric(&sizes[i][0], 1);
            EXPECT(tensor && unimem_layout(tensor, &layout), "%zu: no tensor", i);
            void *resized = memory->realloc(tensor, sizes[i][1]);
            EXPECT(resized && !unimem_layout(resized, &layout), "%zu elements, now %zu bytes: it has one", sizes[i][0], sizes[i][1]);
            memory->free(resized);
        }
    }
}
static void test_placement(void) {
    TEST("allocate_geometric: aligned to 2 MiB also where memory of plain blocks is used again") use_again(memory);
    TEST("through a pool's interface too, whose blocks have headers") {
        MemoryPool *pool = create_memory_pool(&(PoolConfig){.thread_cache_size = 32});
        use_again(unimem_pool_interface(pool));
        destroy_memory_pool(pool);
    }
    TEST("realloc of a tensor of 2 MiB keeps its placement") {
        size_t dimensions[] = {512, 512};
        unsigned char *block = memory->allocate_geometric(dimensions, 2);
        for (size_t size = 3 * MIB; block && size <= 48 * MIB; size *= 2) {
            block[size / 4] = 77;
            unsigned char *moved = memory->realloc(block, size);
            if (!EXPECT(moved != NULL, "realloc to %zu is NULL", size)) continue;
            block = moved;
            EXPECT(is_aligned(block, 2 * MIB) && block[size / 4] == 77,
                   "realloc to %zu gave %p, expected alignment 2 MiB and contents kept", size, (void *)block);
        }
        memory->free(block);
    }
}

static void test_tiered_arguments(void) {
    unified_memory_interface_t *tiered = unimem_open(&tiered_config);
    if (!CHECK("an instance with streaming", tiered != NULL)) return;
    static const size_t sizes[] = {1, 100, 4096, 65536, 65537, 3 * MIB + 5};
    TEST("allocate_hierarchical: zeroed memory of every size; a negative tolerance takes the config's") {
        static const double tolerances[] = {0.0, 1e-30, 1e-3, 1.0, -0.0, -1.0, -1e300};
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
            for (size_t t = 0; t < sizeof tolerances / sizeof tolerances[0]; t++) {
                unsigned char *block = tiered->allocate_hierarchical(sizes[s], tolerances[t]);
                if (!EXPECT(block != NULL, "allocate_hierarchical(%zu, %g) is NULL", sizes[s], tolerances[t])) continue;
                EXPECT(all_zero(block, sizes[s]), "allocate_hierarchical(%zu, %g) is not zeroed", sizes[s],
                       tolerances[t]);
                EXPECT(unimem_owns(block), "allocate_hierarchical(%zu, %g) is not owned", sizes[s], tolerances[t]);
                EXPECT(stats_of(tiered).total_allocated == sizes[s], "%zu bytes live, expected %zu",
                       stats_of(tiered).total_allocated, sizes[s]);
                memset(block, 0xFF, sizes[s]);
                tiered->free(block);
            }
    }
    TEST("allocate_hierarchical: a tolerance that is no number or infinite is NULL, invalid argument") {
        static const double tolerances[] = {(double)NAN, (double)INFINITY, -(double)INFINITY};
        for (size_t t = 0; t < 3; t++) {
            set_other_error(UNIMEM_ERROR_INVALID_ARGUMENT);
            EXPECT(tiered->allocate_hierarchical(4096, tolerances[t]) == NULL, "tolerance %g is not refused",
                   tolerances[t]);
            EXPECT(unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT, "tolerance %g left error %d", tolerances[t],
                   (int)unimem_last_error());
        }
    }
    TEST("allocate_streaming: zeroed memory of every size and chunk, again after reuse") {
        static const size_t chunks[] = {0, 4096, 65536, MIB, 16 * MIB};
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
            for (size_t c = 0; c < sizeof chunks / sizeof chunks[0]; c++) {
                unsigned char *block = tiered->allocate_streaming(sizes[s], chunks[c]);
                if (!EXPECT(block != NULL, "allocate_streaming(%zu, %zu) is NULL", sizes[s], chunks[c])) continue;
                EXPECT(all_zero(block, sizes[s]), "allocate_streaming(%zu, %zu) is not zeroed", sizes[s], chunks[c]);
                memset(block, 0xFF, sizes[s]);
                tiered->free(block);
            }
    }
    CHECK("allocate_hierarchical and allocate_streaming: size 0 is NULL",
          tiered->allocate_hierarchical(0, 0.0) == NULL && tiered->allocate_streaming(0, 4096) == NULL);
    CHECK("allocate_hierarchical and allocate_streaming: sizes that overflow are NULL",
          tiered->allocate_hierarchical(SIZE_MAX, 0.0) == NULL &&
              tiered->allocate_streaming(SIZE_MAX - 100, 4096) == NULL &&
              tiered->allocate_streaming(SIZE_MAX / 2 + 2, SIZE_MAX / 2) == NULL);
    TEST("realloc of tiered memory keeps its contents") {
        unsigned char *block = tiered->allocate_streaming(100000, 0);
        if (EXPECT(block != NULL, "allocate_streaming is NULL")) {
            pattern_fill(block, 0, 100000, 4);
            unsigned char *moved = tiered->realloc(block, 300000);
            EXPECT(moved && pattern_holds(moved, 0, 100000, 4), "growing lost contents");
            tiered->free(moved ? moved : block);
        }
    }
    CHECK_EQ("tiered memory: nothing is left behind", stats_of(tiered).total_allocated, 0);
    CHECK("tiered memory: the instance closes clean", unimem_close(tiered));

    unified_pool_config_t without = tiered_config;
    without.enable_streaming = false;
    unified_memory_interface_t *plain = unimem_open(&without);
    set_other_error(UNIMEM_ERROR_UNSUPPORTED);
    CHECK("allocate_streaming: NULL, unsupported, where streaming is off",
          plain && plain->allocate_streaming(65536, 4096) == NULL && unimem_last_error() == UNIMEM_ERROR_UNSUPPORTED);
    if (plain) CHECK("allocate_streaming: a refused call leaves nothing", unimem_close(plain));
}

int main(void) {
    unified_pool_config_t config = {.enable_growth = true};
    memory = unimem_open(&config);
    if (!CHECK("an instance", memory != NULL)) return tap_done();
    test_layouts();
    test_dimensions();
    test_element_sizes();
    test_what_has_no_layout();
    test_placement();
    test_tiered_arguments();
    CHECK_EQ("nothing is left live", live_bytes(), 0);
    CHECK("the instance closes clean", unimem_close(memory));
    return tap_done();
}
