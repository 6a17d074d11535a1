/* test_singleton.c - the program's one memory system, and the blocks that it tracks. */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/memory_singleton.h"

#include "systems.h"

/* A system of somebody else's making: a legacy C file registers its own. Only its address counts. */
static char foreign_systems[2][64];
#define FOREIGN(i) ((advanced_memory_system_t *)(void *)foreign_systems[i])

static void test_registration(void) {
    CHECK("get_global_memory_system: NULL at first", get_global_memory_system() == NULL);
    register_memory_system(NULL);
    unregister_memory_system(NULL);
    unregister_memory_system(FOREIGN(0));
    CHECK("register and unregister of NULL, unregister of an unknown one: nothing", get_global_memory_system() == NULL);
    register_memory_system(FOREIGN(0));
    CHECK("register_memory_system: any system can be the program's", get_global_memory_system() == FOREIGN(0));
    register_memory_system(FOREIGN(0));
    register_memory_system(FOREIGN(0));
    unregister_memory_system(FOREIGN(1));
    unregister_memory_system(FOREIGN(0));
    unregister_memory_system(FOREIGN(0));
    CHECK("unregister_memory_system: as many as were registered, another's are ignored",
          get_global_memory_system() == FOREIGN(0));
    CHECK("create_memory_system: returns the one registered, with one more reference",
          create_memory_system(NULL) == FOREIGN(0));
    unregister_memory_system(FOREIGN(0));
    CHECK("the reference that create_memory_system took is counted", get_global_memory_system() == FOREIGN(0));
    unregister_memory_system(FOREIGN(0));
    CHECK("the last reference: none any more", get_global_memory_system() == NULL);
    unregister_memory_system(FOREIGN(0));
    register_memory_system(FOREIGN(1));
    CHECK("another can be registered then, a count below zero was not kept", get_global_memory_system() == FOREIGN(1));
    unregister_memory_system(FOREIGN(1));
    CHECK("and unregistered", get_global_memory_system() == NULL);
}

static void test_tracking(void) {
    char a[8], b[8];
    CHECK("track_memory_block: true, also again",
          track_memory_block(a) && track_memory_block(a) && track_memory_block(b));
    CHECK("is_memory_block_tracked: exactly those", is_memory_block_tracked(a) && is_memory_block_tracked(b) &&
                                                        !is_memory_block_tracked(a + 1) &&
                                                        !is_memory_block_tracked(NULL));
    CHECK("untrack_memory_block: true once, however often it was tracked",
          untrack_memory_block(a) && !untrack_memory_block(a) && !is_memory_block_tracked(a) &&
              is_memory_block_tracked(b));
    CHECK("track and untrack of NULL are false", !track_memory_block(NULL) && !untrack_memory_block(NULL));
    untrack_memory_block(b);
    const size_t blocks = scaled(100000);
    char *base = (char *)((uintptr_t)3 << 40);
    TEST("100,000 blocks: no limit, each found, none confused with its neighbour") {
        for (size_t i = 0; i < blocks; i++) EXPECT(track_memory_block(base + i * 64), "block %zu is refused", i);
        for (size_t i = 0; i < blocks; i++)
            EXPECT(is_memory_block_tracked(base + i * 64) && !is_memory_block_tracked(base + i * 64 + 8), "block %zu",
                   i);
        for (size_t i = 0; i < blocks; i += 2)
            EXPECT(untrack_memory_block(base + i * 64), "block %zu is not tracked", i);
        for (size_t i = 0; i < blocks; i++)
            EXPECT(is_memory_block_tracked(base + i * 64) == (i % 2 == 1), "block %zu after every second was untracked",
                   i);
        for (size_t i = 1; i < blocks; i += 2)
            EXPECT(untrack_memory_block(base + i * 64), "block %zu is not tracked", i);
    }
}

typedef struct {
    size_t warnings;
} log_t;

static void note(int level, const char *message, void *context) {
    if (level <= 1 && message && *message) ((log_t *)context)->warnings++;
}

static void test_last_reference(void) {
    log_t log = {0};
    unified_memory_interface_t *global = unimem_global();
    char *ours = global->allocate(500, 0), *foreign = malloc(500), local[8];
    pattern_fill(foreign, 0, 500, 1);
    register_memory_system(FOREIGN(0));
    register_memory_system(FOREIGN(0));
    track_memory_block(ours);
    track_memory_block(foreign);
    track_memory_block(local);
    unimem_set_log(note, &log);
    unregister_memory_system(FOREIGN(0));
    CHECK("while references are left, tracked blocks stay",
          log.warnings == 0 && is_memory_block_tracked(ours) && unimem_owns(ours));
    unregister_memory_system(FOREIGN(0));
    unimem_set_log(NULL, NULL);
    CHECK("with the last reference tracked blocks are reported", log.warnings >= 1);
    CHECK("they are forgotten",
          !is_memory_block_tracked(ours) && !is_memory_block_tracked(foreign) && !is_memory_block_tracked(local));
    CHECK("those of ours are freed", !unimem_owns(ours));
    CHECK("those that are foreign are not", pattern_holds(foreign, 0, 500, 1));
    free(foreign); /* where glibc ends the program if it was freed before */
}

typedef struct {
    advanced_memory_system_t *system;
    size_t answers;
} question_t;

static void ask(int level, const char *message, void *context) {
    question_t *question = context;
    memory_metrics_t metrics;
    (void)level, (void)message;
    question->answers += get_memory_metrics(question->system, &metrics);
}

static void test_last_reference_of_a_system(void) {
    const memory_system_config_t zeros = {0};
    question_t question = {create_memory_system(&zeros), 0};
    safe_memory_allocate(question.system, 500, 64);
    unimem_set_log(ask, &question);
    destroy_memory_system(question.system);
    unimem_set_log(NULL, NULL);
    CHECK("who is told of a tracked block may ask its system for figures", question.answers >= 1);

    advanced_memory_system_t *system = create_memory_system(&zeros);
    void *pool = advanced_create_memory_pool(system, &(pool_config_t){0});
    void *block = advanced_pool_allocate(system, pool, 500);
    track_memory_block(block);
    unregister_memory_system(system);
    memory_metrics_t metrics = metrics_of(system);
    CHECK("a tracked block of a pool is freed and counted as freed",
          !unimem_owns(block) && metrics.current_usage == 0 && metrics.total_freed == 500);
    destroy_memory_system(system);
}

/* A log callback that is told of tracked blocks makes the next system of the program, and forks. */
typedef struct {
    advanced_memory_system_t *next;
    int children;
} successor_t;
static void succeed(int level, const char *message, void *context) {
    successor_t *successor = context;
    (void)level;
    if (!strstr(message, "tracked still")) return;
    const memory_system_config_t zeros = {0};
    successor->next = create_memory_system(&zeros);
    pid_t child = fork();
    if (child == 0) {
        end_after(60);
        destroy_memory_system(successor->next);
        _exit(get_global_memory_system() != NULL);
    }
    successor->children += child_result(child) == 0;
}
static void test_successor(void) {
    const memory_system_config_t zeros = {0};
    successor_t successor = {NULL, 0};
    advanced_memory_system_t *system = create_memory_system(&zeros);
    safe_memory_allocate(system, 500, 64);
    unimem_set_log(succeed, &successor);
    end_after(60); /* once it waited for itself, for ever */
    destroy_memory_system(system);
    alarm(0);
    unimem_set_log(NULL, NULL);
    CHECK("who is told of a tracked block may make another system, and fork",
          successor.next && get_global_memory_system() == successor.next && successor.children == 1);
    destroy_memory_system(successor.next);
}

/* Blocks that are freed or moved by other calls than the safe ones. */
static void test_what_ends_tracking(void) {
    static const size_t sizes[] = {24, 900, 30000, 500000, 5000000};
    unified_memory_interface_t *instance = unimem_open(NULL);
    advanced_memory_system_t *system = create_memory_system(&(memory_system_config_t){0});
    log_t log = {0};
    unimem_set_log(note, &log);
    TEST("a block that is freed is tracked no more, whatever frees it") {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            unsigned char *block = safe_memory_allocate(system, sizes[i], 64);
            track_memory_block(block + 5);
            EXPECT(is_memory_block_tracked(block) && is_memory_block_tracked(block + 5), "%zu bytes: not tracked", sizes[i]);
            memory_free(system, block);
            EXPECT(!is_memory_block_tracked(block) && !is_memory_block_tracked(block + 5) &&
                       !untrack_memory_block(opaque(block)), "%zu bytes: still tracked", sizes[i]);
            block = safe_memory_allocate(system, sizes[i], 64);
            unimem_system_interface(system)->free(block);
            EXPECT(!is_memory_block_tracked(block), "%zu bytes, freed through the interface: still tracked", sizes[i]);
            block = instance->allocate(sizes[i], 0);
            track_memory_block(block);
            instance->free(block);
            EXPECT(!is_memory_block_tracked(block), "%zu bytes of an instance: still tracked", sizes[i]);
            block = memory_allocate(system, sizes[i], 64);
            EXPECT(!is_memory_block_tracked(block), "%zu bytes: a new block is tracked", sizes[i]);
            memory_free(system, block);
        }
    }
    for (int monitored = 0; monitored < 2; monitored++) {
        if (monitored) start_memory_monitoring(system);
        TEST(monitored ? "so does one with a guard" : "a block that moves stays tracked") {
            unsigned char *block = safe_memory_allocate(system, 100, 64);
            track_memory_block(block + 5);
            for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
                unsigned char *moved = memory_reallocate(system, block, sizes[i]);
                EXPECT(is_memory_block_tracked(moved) && (moved == block || !is_memory_block_tracked(block)), "to %zu", sizes[i]);
                EXPECT(sizes[i] <= 5 || is_memory_block_tracked(moved + 5), "to %zu: not inside", sizes[i]);
                EXPECT(check_memory_corruption(system, moved), "to %zu: damaged", sizes[i]);
                block = moved;
            }
            safe_memory_free(system, block);
            EXPECT(!is_memory_block_tracked(block) && !is_memory_block_tracked(block + 5), "still tracked");
            EXPECT(get_allocation_size(system, block) == 0, "it was not freed");
        }
    }
    stop_memory_monitoring(system);
    TEST("blocks that go with their instance are tracked no more") {
        unsigned char *block = instance->allocate(100, 0), *large = instance->allocate(5000000, 0);
        track_memory_block(block);
        track_memory_block(large);
        unimem_set_log(NULL, NULL);
        unimem_close(instance);
        unimem_set_log(note, &log);
        EXPECT(!is_memory_block_tracked(block) && !is_memory_block_tracked(large), "still tracked");
    }
    destroy_memory_system(system);
    unimem_set_log(NULL, NULL);
    CHECK_EQ("nothing is reported as a leak at the end", log.warnings, 0);
}

static void test_safe_calls(void) {
    CHECK("safe_memory_allocate: NULL for no system", safe_memory_allocate(NULL, 100, 64) == NULL);
    advanced_memory_system_t *system = create_memory_system(&(memory_system_config_t){0});
    if (!CHECK("a system", system && get_global_memory_system() == system)) return;
    unsigned char *block = safe_memory_allocate(system, 1000, 100);
    CHECK("safe_memory_allocate: zeroed, aligned to the next power of two, tracked",
          block && all_zero(block, 1000) && is_aligned(block, 128) && is_memory_block_tracked(block));
    CHECK("safe_memory_allocate: size 0 and sizes that overflow are NULL",
          safe_memory_allocate(system, 0, 64) == NULL && safe_memory_allocate(system, SIZE_MAX, 64) == NULL);
    unsigned char *untracked = memory_allocate(system, 300, 64), *foreign = malloc(100), local[8];
    safe_memory_free(system, untracked);
    CHECK("safe_memory_free: what is not tracked is ignored", get_allocation_size(system, untracked) == 300);
    safe_memory_free(system, foreign);
    safe_memory_free(system, opaque(local));
    safe_memory_free(system, NULL);
    safe_memory_free(NULL, block);
    CHECK("safe_memory_free: foreign pointers and NULL are ignored",
          is_memory_block_tracked(block) && get_allocation_size(system, block) == 1000);
    safe_memory_free(system, block);
    CHECK("safe_memory_free: a tracked block is freed and tracked no more",
          !is_memory_block_tracked(block) && get_allocation_size(system, block) == 0);
    safe_memory_free(system, opaque(block));
    memset(foreign, 1, 100);
    free(foreign);
    TEST("safe calls: 50,000 live blocks") {
        const size_t blocks = scaled(50000);
        void **all = table_new(blocks * sizeof *all);
        for (size_t i = 0; i < blocks; i++)
            EXPECT((all[i] = safe_memory_allocate(system, 64 + i % 100, 64)) != NULL, "block %zu is NULL", i);
        for (size_t i = 0; i < blocks; i++) {
            EXPECT(is_memory_block_tracked(all[i]), "block %zu is not tracked", i);
            safe_memory_free(system, all[i]);
            EXPECT(!is_memory_block_tracked(all[i]), "block %zu is still tracked", i);
        }
        munmap(all, blocks * sizeof *all);
    }
    CHECK_EQ("only the block that was not tracked is live", usage_of(system), 300);
    register_memory_system(system);
    destroy_memory_system(system);
    CHECK("a registered reference keeps the system",
          get_global_memory_system() == system && get_allocation_size(system, untracked) == 300);
    block = safe_memory_allocate(system, 10, 8);
    destroy_memory_system(system);
    CHECK("the last reference ends it, its blocks are freed and forgotten",
          get_global_memory_system() == NULL && !unimem_owns(block) && !is_memory_block_tracked(block) &&
              !unimem_owns(untracked));
}

enum { THREADS = 4 };

static void *track_many(void *number) {
    char *base = (char *)((uintptr_t)number << 36);
    const size_t blocks = scaled(50000);
    for (size_t i = 0; i < blocks; i++) EXPECT(track_memory_block(base + i * 16), "block %zu is refused", i);
    for (size_t i = 0; i < blocks; i++) EXPECT(is_memory_block_tracked(base + i * 16), "block %zu is lost", i);
    for (size_t i = 0; i < blocks; i++) EXPECT(untrack_memory_block(base + i * 16), "block %zu was not tracked", i);
    return NULL;
}

static size_t wins[THREADS][8]; /* each on a cache line of its own */
static void *race_for_one(void *number) {
    size_t *won = wins[(uintptr_t)number - 1];
    for (size_t i = 1; i <= scaled(50000); i++) *won += untrack_memory_block((void *)(i * 16));
    return NULL;
}

static void *create_and_destroy(void *argument) {
    (void)argument;
    for (size_t i = 0; i < scaled(2000); i++) {
        advanced_memory_system_t *system = create_memory_system(&(memory_system_config_t){0});
        if (!EXPECT(system != NULL, "no system in round %zu", i)) continue;
        unsigned char *block = safe_memory_allocate(system, 100, 64);
        EXPECT(block && all_zero(block, 100), "a block of a system just created is NULL or not zeroed");
        if (block) memset(block, 1, 100);
        safe_memory_free(system, block);
        destroy_memory_system(system);
    }
    return NULL;
}

static void test_threads(void) {
    TEST("four threads track, look up and untrack") run_threads(THREADS, track_many);
    for (size_t i = 1; i <= scaled(50000); i++) track_memory_block((void *)(i * 16));
    run_threads(THREADS, race_for_one);
    CHECK_EQ("four threads untrack the same blocks: each is won once",
             wins[0][0] + wins[1][0] + wins[2][0] + wins[3][0], scaled(50000));
    TEST("four threads create and destroy the system, which comes and goes") run_threads(THREADS, create_and_destroy);
    CHECK("at the end there is none", get_global_memory_system() == NULL);
}

int main(void) {
    test_registration();
    test_tracking();
    test_last_reference();
    test_last_reference_of_a_system();
    test_successor();
    test_what_ends_tracking();
    test_safe_calls();
    test_threads();
    return tap_done();
}
