/* test_contract_report.c - what closing an instance says, and its fragmentation. */
#define _GNU_SOURCE
#include "unimem.h"

#include "one_instance.h"
#include "tap.h"

static struct {
    size_t lines, with_address;
    bool with_sums;
    const char *blocks, *bytes;
} said;

static void listen(int level, const char *message, void *context) {
    (void)context;
    said.lines += level <= 1;
    said.with_address += strstr(message, "0x") != NULL;
    said.with_sums |= strstr(message, said.blocks) != NULL && strstr(message, said.bytes) != NULL;
}

static void test_close(size_t blocks, const char *count, const char *bytes) {
    memory = unimem_open(NULL);
    for (size_t i = 0; i < blocks; i++) (void)memory->allocate(1001, 0);
    memset(&said, 0, sizeof said);
    said.blocks = count, said.bytes = bytes;
    unimem_set_log(listen, NULL);
    bool clean = unimem_close(memory);
    unimem_set_log(NULL, NULL);
    EXPECT(!clean && said.with_sums, "%zu blocks: close is %d, %s and %s are %s", blocks, clean, count, bytes,
           said.with_sums ? "told" : "not told");
    EXPECT(said.with_address == (blocks < 16 ? blocks : 16) || debug_mode("trace"), "%zu blocks: %zu lines name one", blocks,
           said.with_address); /* with stacks there are more addresses */
}

/* Whether the statistics tell the fragmentation that follows from the other figures. Memory goes back by itself after some
 * seconds, so what is held is read on both sides. */
static bool fragmentation_fits(void) {
    size_t held = unimem_held_bytes(memory);
    memory_stats_t stats = stats_of(memory);
    return unimem_held_bytes(memory) != held || stats.fragmentation == (held - stats.total_allocated) * 100 / held;
}

static void test_fragmentation(void) {
    static char *blocks[400];
    memory = unimem_open(NULL);
    TEST("fragmentation is the percentage of what is held that is not live") {
        for (size_t i = 0; i < 400; i++) {
            blocks[i] = memory->allocate(100 * KIB, 0);
            EXPECT(fragmentation_fits(), "%zu %% of %zu, %zu live", stats_of(memory).fragmentation, unimem_held_bytes(memory),
                   live_bytes());
        }
        for (size_t i = 0; i < 400; i++) {
            if (i % 20) memory->free(blocks[i]);
            EXPECT(fragmentation_fits(), "%zu %% of %zu, %zu live", stats_of(memory).fragmentation, unimem_held_bytes(memory),
                   live_bytes());
        }
        EXPECT(stats_of(memory).fragmentation > 50, "%zu %% with one block in twenty live", stats_of(memory).fragmentation);
        for (size_t i = 0; i < 400; i += 20) memory->free(blocks[i]);
    }
    CHECK_EQ("nothing is live", live_bytes(), 0);
    size_t held = unimem_held_bytes(memory), given = unimem_trim(memory);
    CHECK("unimem_trim tells what went back", given > 0 && unimem_held_bytes(memory) + given <= held);
    set_other_error(UNIMEM_ERROR_NOT_OWNED);
    CHECK("close: true where nothing is left, and the last error stays",
          unimem_close(memory) && unimem_last_error() == UNIMEM_ERROR_INVALID_ARGUMENT);
}

int main(void) {
    TEST("close names up to 16 blocks, and tells how many blocks and bytes were live") {
        test_close(1, "1", "1001");
        test_close(16, "16", "16016");
        test_close(17, "17", "17017");
        test_close(1000, "1000", "1001000");
    }
    test_fragmentation();
    return tap_done();
}
