/* test_debug.c - UNIMEM_DEBUG: what it finds, and that it finds nothing where nothing is wrong. It is read only
 * once, so each case runs this program anew with its setting. Where a MUST does not hold that program says so and ends. */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/memory_pool.h" /* first: the pool functions are its */
#include "unimem/advanced_memory_system.h"
#include "unimem/memory_singleton.h"

#include "support.h"

#include <stdatomic.h>
#include <sys/resource.h>

enum { TEXT = 1 << 16, THREADS = 4 };
/* Without malloc or stdio: threads and forked children use it. */
#define MUST(condition) \
    do { \
        if (!(condition)) dprintf(STDOUT_FILENO, "# line %d: expected %s\n", __LINE__, #condition), _exit(3); \
    } while (0)

static char logged[TEXT];
static size_t logged_length;
static void note(int level, const char *message, void *context) {
    (void)level, (void)context;
    int written = snprintf(logged + logged_length, TEXT - logged_length, "%s\n", message);
    if (written > 0 && logged_length + (size_t)written < TEXT) logged_length += (size_t)written;
}
static unified_memory_interface_t *memory;
static size_t live(void) { return live_in(memory); }

__attribute__((noinline)) void *allocates_the_block(size_t size) {
    void *block = memory->allocate(size, 0);
    MUST(block);
    return block;
}

/* One byte is changed behind small, middle and mapped blocks: the free finds it and leaves the block, close finds it too. */
static void overrun(void) {
    size_t sizes[] = {1, 24, 64, 1000, 40000, 300000, 3 * MIB + 5, 8 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *block = allocates_the_block(sizes[i]);
        MUST(live() == sizes[i] && unimem_usable_size(block) == sizes[i]);
        unsigned char was = block[sizes[i]];
        block[sizes[i]] ^= 1;
        memory->free(block);
        MUST(unimem_last_error() == UNIMEM_ERROR_CORRUPTION);
        MUST(live() == sizes[i] && memory->realloc(block, 2 * sizes[i]) == NULL); /* the block stays, to be looked at */
        block[sizes[i]] = was;
        memory->free(block);
        MUST(live() == 0);
    }
    MUST(strstr(logged, "overrun: bytes behind the block of 1000 bytes"));

    const memory_system_config_t config = {.alignment = 64, .enable_monitoring = false};
    advanced_memory_system_t *system = create_memory_system(&config);
    MUST(system);
    unsigned char *block = memory_allocate(system, 100, 64);
    MUST(block && check_memory_corruption(system, block));
    block[100] ^= 1;
    MUST(!check_memory_corruption(system, block));
    block[100] ^= 1;
    MUST(check_memory_corruption(system, block));

    unsigned char *left = allocates_the_block(77);
    left[77] ^= 1;
    logged_length = 0;
    MUST(!unimem_close(memory) && strstr(logged, "overrun: bytes behind the block of 77 bytes"));
}

static void after_free(void) {
    for (size_t size = 8; size < MIB; size *= 3) {
        unsigned char *block = allocates_the_block(size);
        memset(block, 1, size);
        memory->free(block);
        MUST(live() == 0 && !unimem_owns(block) && block[size / 2] == 0xDD);
        memory->free(block);
        MUST(unimem_last_error() == UNIMEM_ERROR_DOUBLE_FREE && !strstr(logged, "write after free"));
        block[size / 2] = 3;
        unimem_trim(memory); /* ends the quarantine */
        MUST(strstr(logged, "write after free"));
        logged_length = 0;
        *logged = 0;
    }
    void *large = allocates_the_block(40 * MIB); /* more than the quarantine holds */
    memory->free(large);
    memory->free(large);
    MUST(unimem_last_error() == UNIMEM_ERROR_DOUBLE_FREE);
    MUST(unimem_close(memory));
}
static void after_free_large(void) {
    unsigned char *block = allocates_the_block(4 * MIB);
    memory->free(block);
    ((volatile unsigned char *)block)[MIB] = 1; /* SIGSEGV */
}
/* The quarantine gives way to a limit, and is bounded without one. */
static void bounded(void) {
    for (int i = 0; i < 4000; i++) memory->free(allocates_the_block(100000));
    MUST(live() == 0 && unimem_held_bytes(memory) < 64 * MIB);
    unified_memory_interface_t *small =
        unimem_open(&(unified_pool_config_t){.max_size = 8 * MIB, .enable_growth = true});
    for (int i = 0; i < 100; i++) {
        void *block = small->allocate(3 * MIB, 0);
        MUST(block);
        small->free(block);
    }
    MUST(unimem_can_allocate(small, 6 * MIB) && unimem_close(small) && unimem_close(memory) && !*logged);
}
static void traced(void) {
    void *blocks[3] = {allocates_the_block(1000), allocates_the_block(1000), allocates_the_block(1000)};
    MUST(unimem_write_leaks("/dev/null") && !unimem_write_leaks("/nonexistent/file") && !unimem_write_leaks(NULL));
    MUST(unimem_write_leaks(getenv("REPORT")));
    blocks[1] = memory->realloc(blocks[1], 5000);
    memory->free(blocks[0]);
    MUST(blocks[1] && !unimem_close(memory));
    MUST(strstr(logged, "allocates_the_block") && strstr(logged, "1 blocks, 5000 bytes, allocated by"));
}

/* The report lists the first 64 findings. Those after them change it only where memory was damaged, which it counts. */
static void many(void) {
    const char *report = getenv("UNIMEM_DEBUG_REPORT");
    static char foreign[100];
    for (int i = 0; i < 64; i++) memory->free(foreign + i);
    MUST(unlink(report) == 0);
    for (int i = 64; i < 100; i++) memory->free(foreign + i);
    size_t told = 0;
    for (const char *at = logged; (at = strstr(at, "bad free")) != NULL; at++) told++;
    MUST(told == 100 && access(report, F_OK) != 0);
    unsigned char *block = allocates_the_block(100);
    block[100] ^= 1;
    memory->free(block);
    MUST(access(report, F_OK) == 0);
    block[100] ^= 1;
    memory->free(block);
}

/* A path longer than any message: it is the path that is cut, not the reason. */
static void long_path(void) {
    char path[1200] = "/proc"; /* where nothing can be made */
    while (strlen(path) + sizeof "/nonexistent" <= sizeof path) strcat(path, "/nonexistent");
    MUST(!unimem_write_leaks(path) && unimem_last_error() == UNIMEM_ERROR_IO);
    MUST(strstr(unimem_last_error_message(), strerror(ENOENT)));
    MUST(!unimem_trace_start(path) && unimem_last_error() == UNIMEM_ERROR_IO);
    MUST(strstr(unimem_last_error_message(), strerror(ENOENT)));
}

__attribute__((noinline)) void *allocates_the_region(size_t size) {
    void *region = memory->allocate_streaming(size, 64 * KIB);
    MUST(region);
    return region;
}
/* Tiered memory that leaks is told with the stack that allocated it. */
static void tiered(void) {
    char *kept = allocates_the_region(3 * MIB), *freed = allocates_the_region(MIB);
    kept[MIB] = 1;
    MUST(unimem_write_leaks(getenv("REPORT")));
    kept = memory->realloc(kept, 5 * MIB);
    memory->free(freed);
    MUST(kept && !memory->realloc(kept, SIZE_MAX / 2) && !unimem_close(memory));
    MUST(strstr(logged, "leak: 1 blocks, 5242880 bytes, allocated by") && strstr(logged, "tiered"));
}

/* Small pieces that fill their chunks, from the start or later, have no other's memory behind them. */
static int overruns_its_chunk(void *size) {
    signal(SIGSEGV, SIG_DFL);
    signal(SIGBUS, SIG_DFL);
    unsigned char *first = memory->allocate_streaming(*(size_t *)size, 64 * KIB);
    MUST(first && memory->allocate_streaming(*(size_t *)size, 64 * KIB));
    MUST(first = memory->realloc(first, 64 * KIB));
    first[64 * KIB] = 1;
    return 0;
}
/* One byte behind tiered memory, which is in place, encoded or on disk, is found. Writing to all of the memory is no overrun. */
static void tiered_overrun(void) {
    size_t chunk = 64 * KIB, sizes[] = {1, 5000, 64 * KIB + 1, 3 * MIB - 1};
    for (size_t i = 0; i < 2 * sizeof sizes / sizeof *sizes; i++) {
        size_t size = sizes[i / 2], last = (size - 1) / chunk;
        unsigned char *region = i % 2 ? memory->allocate_streaming(size, chunk) : memory->allocate_hierarchical(size, 1e-3);
        MUST(region);
        region[size] = 1;
        if (i > 3) unimem_advise(region, UNIMEM_DONT_NEED);
        memory->free(region);
        MUST(unimem_last_error() == UNIMEM_ERROR_CORRUPTION && live() == size && !memory->realloc(region, 2 * size));
        MUST(strstr(logged, "overrun: bytes behind the block of"));
        region[size] = 0;
        if (i % 2) {
            unimem_advise(region, UNIMEM_DONT_NEED);
            MUST(unimem_chunk_acquire(region, last, UNIMEM_OVERWRITE));
            memset(region + last * chunk, 3, size - last * chunk);
            MUST(unimem_chunk_release(region, last));
        }
        memset(region, 7, size);
        region = memory->realloc(region, (size + 1) / 2);
        MUST(region && (region = memory->realloc(region, 3 * size)) != NULL);
        memory->free(region);
        MUST(live() == 0);
    }
    for (size_t size = 64 * KIB; size > 0; size = size > 100 ? 100 : 0) {
        int result = run_in_child(overruns_its_chunk, &size, 20);
        MUST(result == 256 + SIGSEGV || result == 256 + SIGBUS);
    }
    const memory_system_config_t config = {.alignment = 64, .enable_monitoring = false};
    advanced_memory_system_t *system = create_memory_system(&config);
    unsigned char *block = unimem_system_interface(system)->allocate_hierarchical(5000, 0);
    MUST(block && check_memory_corruption(system, block));
    block[5000] = 1;
    MUST(!check_memory_corruption(system, block));
    block[5000] = 0;
    MUST(check_memory_corruption(system, block));

    unsigned char *left = memory->allocate_streaming(70000, chunk);
    left[70000] = 1;
    logged_length = 0;
    MUST(!unimem_close(memory) && strstr(logged, "overrun: bytes behind the block of 70000 bytes"));
}

/* The last reference to the program's system frees what was tracked; a callback that is told of an overrun uses the library. */
static unsigned opened;
static void open_another(int level, const char *message, void *context) {
    note(level, message, context);
    unified_memory_interface_t *another = unimem_open(NULL);
    opened += another != NULL;
    unimem_close(another);
}
static void tracked_overrun(void) {
    advanced_memory_system_t *system = opaque(&(int){0});
    register_memory_system(system);
    unsigned char *region = memory->allocate_streaming(5000, 64 * KIB);
    MUST(region && track_memory_block(region));
    region[5000] = 1;
    unimem_set_log(open_another, NULL);
    unregister_memory_system(system);
    unimem_set_log(note, NULL);
    MUST(opened > 0 && strstr(logged, "overrun: bytes behind the block of 5000 bytes") && live() == 5000);
    region[5000] = 0;
    memory->free(region);
    MUST(live() == 0);
}

/* Callbacks that are told of something use the library. */
static advanced_memory_system_t *asked;
static void ask_system(int level, const char *message, void *context) {
    note(level, message, context);
    memory_metrics_t metrics;
    MUST(get_memory_metrics(asked, &metrics));
}
static void asked_while_trimming(void) {
    asked = create_memory_system(&(memory_system_config_t){.alignment = 64});
    void *pool = advanced_create_memory_pool(asked, &(pool_config_t){.enable_growth = true});
    unsigned char *block = advanced_pool_allocate(asked, pool, 1000);
    MUST(block);
    advanced_pool_free(asked, pool, block);
    block[10] = 1;
    unimem_set_log(ask_system, NULL);
    MUST(optimize_memory_usage(asked, MEM_OPT_ADVANCED) && strstr(logged, "write after free"));
    unimem_set_log(note, NULL);
    destroy_memory_system(asked);
}
/* Memory that the system refuses empties the quarantine, in the middle of an allocation from a pool with limits. */
static void *asked_pool;
static void allocate_from_pool(int level, const char *message, void *context) {
    note(level, message, context);
    advanced_pool_allocate(asked, asked_pool, 10); /* whether there is any or not */
}
static void asked_by_a_limited_pool(void) {
    asked = create_memory_system(&(memory_system_config_t){.alignment = 64});
    asked_pool = advanced_create_memory_pool(asked, &(pool_config_t){.pool_size = 4 * (size_t)1024 * MIB});
    unsigned char *block = advanced_pool_allocate(asked, asked_pool, 1000);
    MUST(block);
    advanced_pool_free(asked, asked_pool, block);
    block[10] = 1;
    unimem_set_log(allocate_from_pool, NULL);
    MUST(setrlimit(RLIMIT_AS, &(struct rlimit){512 * MIB, RLIM_INFINITY}) == 0);
    MUST(!advanced_pool_allocate(asked, asked_pool, 1024 * MIB) && strstr(logged, "write after free"));
    MUST(setrlimit(RLIMIT_AS, &(struct rlimit){RLIM_INFINITY, RLIM_INFINITY}) == 0);
    unimem_set_log(note, NULL);
    destroy_memory_system(asked);
}
static void use_global(int level, const char *message, void *context) {
    note(level, message, context);
    void *block = unimem_global()->allocate(100, 0);
    MUST(block);
    unimem_global()->free(block);
}
static void global_at_close(void) {
    unsigned char *left = allocates_the_block(77);
    left[77] ^= 1;
    unimem_set_log(use_global, NULL);
    MUST(!unimem_close(memory) && strstr(logged, "overrun: bytes behind the block of 77 bytes"));
}
static void unknown_mode(void) { MUST(strstr(logged, "not understood")); }

/* Nothing is wrong here, and nothing is to be found. */
static void work_for(size_t steps, uint64_t seed) {
    random_t random = {seed};
    enum { HELD = 64 };
    unsigned char *blocks[HELD] = {0};
    size_t sizes[HELD] = {0};
    for (size_t i = 0; i < steps; i++) {
        size_t at = random_below(&random, HELD);
        size_t size = 1 + random_below(&random, random_below(&random, 64) == 0 ? 2 * MIB : 3000);
        for (size_t k = 0; k < sizes[at]; k += 97) MUST(blocks[at][k] == (unsigned char)at);
        if (random_below(&random, 2)) {
            blocks[at] = memory->realloc(blocks[at], size);
        } else {
            memory->free(blocks[at]);
            blocks[at] = memory->allocate(size, (size_t)16 << random_below(&random, 8));
        }
        MUST(blocks[at]);
        sizes[at] = size;
        memset(blocks[at], (int)at, size);
        if (at == 0) {
            MUST(unimem_retain(blocks[at]));
            memory->free(blocks[at]);
        }
    }
    for (int at = 0; at < HELD; at++) memory->free(blocks[at]);
}
static void *work(void *seed) {
    work_for(6000, (uintptr_t)seed);
    return NULL;
}
static void clean(void) {
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++) threads[i] = start_thread(work, (void *)(i + 1));
    for (int i = 0; i < 20; i++) { /* children of a program whose threads are inside */
        pid_t child = fork();
        if (child == 0) {
            end_after(20);
            memory->free(allocates_the_block(500));
            work_for(500, 99);
            _exit(unimem_write_leaks("/dev/null") ? 0 : 1);
        }
        MUST(child_result(child) == 0);
    }
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    MUST(live() == 0);
    PoolConfig config = {.enable_stats = true};
    MemoryPool *pool = create_memory_pool(&config);
    void *block = pool_allocate(pool, 100);
    MUST(block && get_total_allocated(pool) == 100);
    pool_free(pool, block);
    MUST(get_total_allocated(pool) == 0);
    destroy_memory_pool(pool);
    size_t extents[] = {64, 64};
    void *tensor = memory->allocate_geometric(extents, 2);
    MUST(tensor);
    memory->free(tensor);
    MUST(unimem_close(memory) && !*logged);
}

/* All live blocks are looked at while threads allocate, reallocate and free: those just made or gone are not taken for damaged. */
static atomic_int at_work;
static void *work_beside(void *seed) {
    for (size_t i = 0; i < 10; i++) work((void *)((size_t)seed + THREADS * i));
    atomic_fetch_sub(&at_work, 1);
    return NULL;
}
static void looked_at(void) {
    pthread_t threads[THREADS];
    atomic_store(&at_work, THREADS);
    for (size_t i = 0; i < THREADS; i++) threads[i] = start_thread(work_beside, (void *)(i + 1));
    do MUST(unimem_write_leaks("/dev/null"));
    while (atomic_load(&at_work) > 0);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    MUST(!*logged && unimem_close(memory) && !*logged);
}
/* However many blocks are in quarantine, each is found there when it is freed again: its stacks are told. */
static size_t told_stacks[2];
static void count_stacks(int level, const char *message, void *context) {
    (void)level, (void)context;
    told_stacks[0] += strcmp(message, "  allocated by") == 0;
    told_stacks[1] += strcmp(message, "  freed by") == 0;
}
static void freed_twice(void) {
    enum { BLOCKS = 50000 };
    static void *blocks[BLOCKS];
    unimem_set_log(count_stacks, NULL);
    for (size_t i = 0; i < BLOCKS; i++) blocks[i] = allocates_the_block(16);
    for (size_t i = 0; i < BLOCKS; i++) memory->free(blocks[i]);
    for (size_t i = 0; i < BLOCKS; i++) memory->free(opaque(blocks[BLOCKS - 1 - i]));
    MUST(unimem_refused_frees(memory) == BLOCKS && live() == 0);
    MUST(told_stacks[0] == BLOCKS && told_stacks[1] == BLOCKS && unimem_close(memory));
}
/* Where stacks are not told nobody looks up their names, which takes long and much memory: no more files are mapped. */
static size_t mappings_of_files(void) {
    static mapping_t list[2000];
    size_t all = list_mappings(list, 2000), count = 0;
    MUST(all > 0 && all <= 2000);
    for (size_t i = 0; i < all; i++) count += list[i].of_file;
    return count;
}
static void errors_alone(void) {
    static char foreign;
    unimem_set_log(NULL, NULL); /* stderr has them */
    size_t before = mappings_of_files();
    memory->free(&foreign);
    MUST(unimem_last_error() == UNIMEM_ERROR_NOT_OWNED && mappings_of_files() == before);
}

/* A thread that has been cancelled makes bad frees, which are told and written to the report: it ends after them. */
static void *frees_badly(void *unused) {
    static char foreign[64];
    cancel_self_later();
    for (size_t i = 0; i < sizeof foreign; i++) memory->free(&foreign[i]);
    pthread_testcancel();
    return unused;
}
static void cancelled(void) {
    void *result = NULL;
    MUST(pthread_join(start_thread(frees_badly, NULL), &result) == 0);
    MUST(result == PTHREAD_CANCELED && unimem_refused_frees(memory) == 64);
}

/* An instance, a pool of a system and a system end while blocks are live in them. */
static void left(void) {
    const memory_system_config_t config = {.alignment = 64};
    advanced_memory_system_t *system = create_memory_system(&config);
    void *pool = advanced_create_memory_pool(system, &(pool_config_t){.enable_growth = true});
    MUST(memory_allocate(system, 300, 0) && advanced_pool_allocate(system, pool, 20));
    destroy_memory_system(system);
    for (int i = 0; i < 2; i++) allocates_the_block(1000);
    char *damaged = allocates_the_block(77); /* reported as that */
    damaged[77] ^= 1;
    MUST(!unimem_close(memory));
}

static const struct {
    const char *name;
    void (*run)(void);
} CASES[] = {{"overrun", overrun}, {"after_free", after_free}, {"after_free_large", after_free_large},
             {"bounded", bounded}, {"traced", traced}, {"long_path", long_path}, {"many", many}, {"tiered", tiered},
             {"tiered_overrun", tiered_overrun}, {"tracked_overrun", tracked_overrun}, {"clean", clean},
             {"asked_while_trimming", asked_while_trimming},
             {"asked_by_a_limited_pool", asked_by_a_limited_pool}, {"global_at_close", global_at_close},
             {"unknown_mode", unknown_mode}, {"looked_at", looked_at}, {"freed_twice", freed_twice},
             {"errors_alone", errors_alone}, {"cancelled", cancelled}, {"left", left}};

static int run(const char *setting, const char *name) { return run_anew(name, "UNIMEM_DEBUG", setting, 60, NULL, 0); }
static bool passes(const char *setting, const char *name) {
    int result = run(setting, name);
    if (result != 0) printf("# %s with %s: result %d\n", name, setting, result);
    return result == 0;
}

int main(int argc, char **argv) {
    if (argc > 1) {
        unimem_set_log(strcmp(argv[1], "unknown_mode") == 0 ? use_global : note, NULL);
        memory = unimem_open(NULL);
        MUST(memory);
        for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++)
            if (strcmp(argv[1], CASES[i].name) == 0) return CASES[i].run(), 0;
        return 2;
    }
    char report[] = "/tmp/unimem_debug_XXXXXX";
    int file = mkstemp(report);
    if (file >= 0) close(file);
    setenv("REPORT", report, 1);
    unsetenv("UNIMEM_DEBUG_REPORT"); /* that of whoever runs the tests */
    CHECK("an overrun by one byte is found at free, by check_memory_corruption and at close", passes("guard", "overrun"));
    CHECK("with everything on too", passes("guard,quarantine,trace", "overrun"));
    CHECK("an overrun of tiered memory is found in its last chunk", passes("guard", "tiered_overrun"));
    CHECK("a callback may use the library when it is told of one in tracked memory", passes("guard", "tracked_overrun"));
    CHECK("it may ask a system that gives memory back what it has done", passes("quarantine", "asked_while_trimming"));
    CHECK("it may allocate from a pool with limits, in the middle of whose allocation it is called",
          passes("quarantine", "asked_by_a_limited_pool"));
    CHECK("it may make the global instance while another is closed", passes("guard", "global_at_close"));
    CHECK("it may make the global instance when UNIMEM_DEBUG is not understood", passes("odd", "unknown_mode"));
    CHECK("a write after free is found, a read sees the pattern", passes("quarantine", "after_free"));
    CHECK("with everything on too", passes("guard,quarantine,trace", "after_free"));
    CHECK_EQ("a large block cannot be touched after its free", (size_t)run("quarantine", "after_free_large"), 256 + SIGSEGV);
    CHECK("the quarantine is bounded and gives way to limits", passes("guard,quarantine", "bounded"));
    CHECK("leaks are reported with the stacks that allocated them", passes("trace", "traced"));
    CHECK("live blocks are looked at while threads change them, and nothing is found: guard", passes("guard", "looked_at"));
    CHECK("with everything on too", passes("guard,quarantine,trace", "looked_at"));
    CHECK("of fifty thousand blocks in quarantine each is found when it is freed twice", passes("guard,quarantine,trace", "freed_twice"));
    setenv("UNIMEM_LOG", "error", 1);
    printf("# an error is told on stderr:\n");
    CHECK("where errors alone are told, no names of stacks are looked up", passes("trace", "errors_alone"));
    unsetenv("UNIMEM_LOG");
    static char text[TEXT];
    read_text(report, text, sizeof text);
    CHECK("the report in JSON has them too", text[0] == '{' && strstr(text, "\"blocks\": 3") &&
                                                 strstr(text, "\"bytes\": 3000") && strstr(text, "allocates_the_block"));
    CHECK("a report that cannot be written says why, however long its path", passes("trace", "long_path"));
    CHECK("leaks of tiered memory are reported too", passes("guard,quarantine,trace", "tiered"));
    read_text(report, text, sizeof text);
    CHECK("and in JSON", strstr(text, "\"bytes\": 3145728") && strstr(text, "allocates_the_region"));
    setenv("UNIMEM_DEBUG_REPORT", report, 1);
    CHECK("nothing is found where nothing is wrong: guard", passes("guard", "clean"));
    CHECK("nothing is found where nothing is wrong: quarantine", passes("quarantine", "clean"));
    CHECK("nothing is found where nothing is wrong: all, four threads and fork",
          passes("guard,quarantine,trace", "clean"));
    read_text(report, text, sizeof text);
    CHECK("UNIMEM_DEBUG_REPORT is written at the end", strstr(text, "\"blocks\": 0") && strstr(text, "\"damaged\": 0"));
    CHECK("and tells what was live when an instance, a pool and a system ended",
          passes("guard,quarantine,trace", "left") && (read_text(report, text, sizeof text), true) &&
              strstr(text, "\"left_blocks\": 4") && strstr(text, "\"left_bytes\": 2320") &&
              strstr(text, "\"blocks\": 0") && strstr(text, "allocates_the_block"));
    CHECK("a thread is cancelled after its bad frees are told, not in their middle", passes("guard,quarantine,trace", "cancelled"));
    CHECK("it is written when a finding changes it, and only then", passes("guard", "many"));
    read_text(report, text, sizeof text);
    size_t listed = 0;
    for (const char *at = text; (at = strstr(at, "\"bad free\"")) != NULL; at++) listed++;
    CHECK("and lists the first 64 findings", listed == 64 && strstr(text, "\"damaged\": 1"));
    unlink(report);
    return tap_done();
}
