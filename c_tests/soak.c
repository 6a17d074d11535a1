/* soak.c - the soak: everything at once, for as long as one likes. Threads mix all surfaces, tiers under tight
 * budgets, tree networks and wrong calls. They pass blocks to each other, fork, come and go, and are interrupted by
 * signals whose handler uses tiered memory.
 *
 * Contents are checked when they are read and freed, and totals whenever no thread is inside the library. At the end
 * nothing may be live, and memory and descriptors must be back where they were.
 *
 *   soak                           two rounds with each fault mechanism: what `make test` runs
 *   soak MINUTES [SEED]            `make soak MINUTES=n`: one process after another, 20 seconds each, mechanisms by turns
 *   soak replay MECHANISM SEED ROUNDS   one of those processes alone, for a debugger */
#define _GNU_SOURCE
#include "soak_blocks.h"
#include "soak_tiers.h"
#include "soak_trees.h"

#include <malloc.h>

enum { WORKERS = 4, STEPS = 500, SECONDS_OF_AN_EPOCH = 20, SECONDS_OF_A_HANG = 60, QUIET_ROUNDS = 5 };
static const char *const mechanisms[] = {"userfaultfd", "userfaultfd-copy", "signal"};
enum { MECHANISMS = sizeof mechanisms / sizeof mechanisms[0] };

/* ---- what a thread does ---- */
static void come_and_go(worker_t *worker) {
    unified_memory_interface_t *own = unimem_open(&(unified_pool_config_t){
        .max_size = one_in(worker, 2) ? 1 * MIB : 0, .enable_growth = true, .enable_streaming = true, .chunk_size = 16 * KIB});
    MemoryPool *own_pool = create_memory_pool(&(PoolConfig){.thread_cache_size = below(worker, 2) * 64, .enable_stats = true});
    if (EXPECT(own && own_pool, "no instance: %s", unimem_last_error_message())) {
        uint64_t *words = own->allocate_streaming(2 * MIB, 0);
        if (EXPECT(words, "streaming: %s", unimem_last_error_message())) {
            for (size_t i = 0; i < 2 * MIB / 8; i += 64) words[i] = ~i;
            for (size_t i = 0; i < 2 * MIB / 8; i += 64)
                if (!EXPECT(words[i] == ~i, "word %zu of an instance of its own", i)) break;
        }
        bool leak = one_in(worker, 4);
        if (!leak) own->free(words);
        for (uintptr_t i = 1; i <= 100; i++) EXPECT(own->track_allocation((void *)(i * 64), 8), "tracking"), count(tracked);
        for (uintptr_t i = 1; i <= 100; i++) EXPECT(own->untrack_allocation((void *)(i * 64)), "untracking");
        for (size_t i = 0; i < 100; i++) EXPECT(pool_allocate(own_pool, 1 + below(worker, 5000)), "pool: %s", unimem_last_error_message());
        EXPECT(unimem_close(own) == !leak, "close with%s a leak", leak ? "" : "out");
    }
    destroy_memory_pool(own_pool); /* with all its blocks */
    void *address = worker; /* its own, so no other thread tracks it */
    EXPECT(track_memory_block(address) && is_memory_block_tracked(address) && untrack_memory_block(address), "singleton");
    count(instances);
}

static void mix(worker_t *worker, size_t steps);

static void *short_thread(void *argument) {
    worker_t worker = {.random.state = (uint64_t)(uintptr_t)argument};
    mix(&worker, 40);
    for (size_t i = 0; i < HANDS; i++) /* leaves its blocks behind, and full caches */
        while (worker.items[i]) drop_item(worker.items[i]), worker.items[i] = NULL, pass_on(&worker, &worker.items[i]);
    return NULL;
}
static void start_a_thread(worker_t *worker) {
    pthread_t thread;
    if (!EXPECT(pthread_create(&thread, NULL, short_thread, (void *)(uintptr_t)random_next(&worker->random)) == 0, "no thread")) return;
    pthread_join(thread, NULL);
    count(threads);
}

/* The child has one thread; nothing that the others held, or had half done, may be in its way. */
static int child(void *argument) {
    worker_t *worker = argument;
    worker->may_fork = false;
    for (size_t i = 0; i < HANDS; i++) {
        if (worker->items[i] && one_in(worker, 2)) item_holds(worker->items[i]);
        if (one_in(worker, 2)) drop_item(worker->items[i]), worker->items[i] = NULL;
    }
    mix(worker, 60);
    start_a_thread(worker);
    contract_tree(worker);
    come_and_go(worker);
    return 0;
}

static void one_step(worker_t *worker) {
    item_t **hand = &worker->items[below(worker, HANDS)];
    size_t dice = below(worker, 1000);
    if (dice < 2) {
        if (!worker->may_fork) return;
        int result = run_in_child(child, worker, SECONDS_OF_A_HANG);
        EXPECT(result == 0, "a forked child ended with %d", result);
        count(forks);
    } else if (dice < 8) {
        if (worker->may_fork) start_a_thread(worker);
    } else if (dice < 30) {
        contract_tree(worker);
    } else if (dice < 40) {
        come_and_go(worker);
    } else if (dice < 100) {
        add_to_shared_words(worker);
    } else if (dice < 110) {
        surface_t table = (surface_t)below(worker, TABLES);
        unimem_trim(tables[table]);
        if (budgets[table]) {
            size_t held = unimem_held_bytes(tables[table]);
            EXPECT(held <= budgets[table], "%zu bytes held with a budget of %zu", held, budgets[table]);
        }
    } else if (dice < 300) {
        pass_on(worker, hand);
    } else if (!*hand) {
        *hand = make_item(worker);
    } else if ((*hand)->kind >= STREAMING && dice < 700) {
        use_chunks(worker, *hand);
    } else if (dice < 600) {
        *hand = drop_owner(*hand);
    } else if (dice < 700) {
        resize_item(worker, *hand);
    } else if (dice < 800) {
        look_at_item(worker, *hand);
    } else if ((*hand)->kind >= STREAMING) {
        *hand = drop_owner(*hand);
    } else {
        segment_holds(*hand, 0, (*hand)->size);
    }
}
static void mix(worker_t *worker, size_t steps) {
    for (size_t i = 0; i < steps; i++) one_step(worker);
}

static atomic_size_t working;
static void *work(void *argument) {
    worker_t *worker = argument;
    sigset_t interrupt;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGUSR1);
    pthread_sigmask(SIG_UNBLOCK, &interrupt, NULL);
    mix(worker, scaled(STEPS));
    pthread_sigmask(SIG_BLOCK, &interrupt, NULL);
    for (size_t i = 0; i < HANDS; i++) {
        if (one_in(worker, 2)) pass_on(worker, &worker->items[i]);
        drop_item(worker->items[i]);
    }
    atomic_fetch_sub(&working, 1);
    return NULL;
}

/* ---- what must hold when nobody is inside ---- */
static void check_totals(void) {
    static const size_t shared[TABLES] = {[TIGHT] = SHARED_WORDS * sizeof(uint64_t), [TIGHTER] = SIGNAL_WORDS * sizeof(uint64_t)};
    for (size_t t = 0; t < TABLES; t++) {
        size_t live = stats_of(tables[t]).total_allocated, blocks = unimem_report_leaks(tables[t], NULL, NULL);
        EXPECT(live == model.bytes[t] + shared[t], "table %zu: %zu bytes live, expected %zu", t, live, model.bytes[t] + shared[t]);
        EXPECT(blocks == model.blocks[t] + (shared[t] != 0), "table %zu: %zu blocks, expected %zu", t, blocks, model.blocks[t] + (shared[t] != 0));
        EXPECT(unimem_refused_frees(tables[t]) == model.wrong_frees[t], "table %zu: %zu frees refused, expected %zu", t,
               unimem_refused_frees(tables[t]), model.wrong_frees[t]);
        if (budgets[t]) EXPECT(unimem_held_bytes(tables[t]) <= budgets[t], "table %zu holds %zu", t, unimem_held_bytes(tables[t]));
    }
    EXPECT(get_total_allocated(pool) == model.bytes[POOL], "pool: %zu bytes, expected %zu", get_total_allocated(pool), model.bytes[POOL]);
    size_t expected = model.bytes[SYSTEM] + model.bytes[SYSTEM_POOL] + model.bytes[TRACKED_SYSTEM];
    memory_metrics_t metrics = {0};
    EXPECT(get_memory_metrics(memory_system, &metrics) && metrics.current_usage == expected, "system: %zu bytes, expected %zu",
           metrics.current_usage, expected);
    check_shared_words();
    count(quiet_checks);
}

static void open_world(void) {
    for (size_t t = 0; t < TABLES; t++) {
        tables[t] = t == GLOBAL ? unimem_global() : unimem_open(&(unified_pool_config_t){
            .max_size = budgets[t], .enable_growth = true, .enable_streaming = true, .chunk_size = t == TIGHT ? 64 * KIB : 16 * KIB});
    }
    pool = create_memory_pool(&(PoolConfig){.thread_cache_size = 64, .cache_local_free_lists = true, .enable_stats = true});
    memory_system = create_memory_system(&(memory_system_config_t){0});
    system_pool = ams_create_memory_pool(memory_system, &(pool_config_t){.enable_growth = true});
    if (!EXPECT(tables[WIDE] && tables[TIGHT] && tables[TIGHTER] && tables[GLOBAL] && pool && memory_system && system_pool,
                "%s", unimem_last_error_message()))
        exit(1);
    open_shared_words();
}
static void close_world(void) {
    close_shared_words();
    for (size_t t = 0; t < GLOBAL; t++) EXPECT(unimem_close(tables[t]), "table %zu: something was live at close", t);
    EXPECT(unimem_report_leaks(tables[GLOBAL], NULL, NULL) == 0, "the global instance leaks");
    destroy_memory_pool(pool);
    ams_destroy_memory_pool(memory_system, system_pool);
    destroy_memory_system(memory_system);
    unimem_trim(tables[GLOBAL]);
    malloc_trim(0);
}

/* Threads at work, and the first one sending them signals. */
static void one_round(uint64_t seed) {
    static worker_t workers[WORKERS];
    pthread_t ids[WORKERS];
    atomic_store(&working, WORKERS);
    in_an_epoch = true;
    for (size_t i = 0; i < WORKERS; i++) {
        workers[i] = (worker_t){.random.state = seed * 1000 + i, .may_fork = true};
        if (pthread_create(&ids[i], NULL, work, &workers[i]) != 0) abort();
    }
    for (size_t i = 0; atomic_load(&working) > 0; i++) {
        pthread_kill(ids[i % WORKERS], SIGUSR1); /* blocked, and so without effect, once it is done */
        nanosleep(&(struct timespec){.tv_nsec = 300000}, NULL);
    }
    for (size_t i = 0; i < WORKERS; i++) pthread_join(ids[i], NULL);
    in_an_epoch = false;
    count(rounds);
    check_totals();
}

typedef struct {
    const char *mechanism;
    uint64_t seed;
    size_t rounds; /* 0: as many as fit the seconds */
    double seconds;
} epoch_t;

static int run_epoch(void *argument) {
    const epoch_t *epoch = argument;
    setenv("UNIMEM_FAULTS", epoch->mechanism, 1);
    if (strcmp(unimem_fault_mechanism(), epoch->mechanism) != 0) return UNAVAILABLE;
    struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART: calls are to be interrupted */
    sigaction(SIGUSR1, &action, NULL);
    sigset_t interrupt;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &interrupt, NULL);
    open_world();
    tables[WIDE]->free(opaque(epoch)); /* names of a first stack are looked up, where debug mode tells of it: what that takes stays */
    close_world();
    size_t files = open_files(), resident = resident_bytes();
    open_world();
    double end = seconds_now() + epoch->seconds;
    for (size_t round = 0; epoch->rounds ? round < epoch->rounds : seconds_now() < end; round++) {
        one_round(epoch->seed * 1000 + round);
        if (tap.misses) break;
        if (round % QUIET_ROUNDS == QUIET_ROUNDS - 1) clear_shelves(), check_totals();
    }
    clear_shelves();
    check_totals();
    close_world();
    EXPECT(open_files() <= files, "%zu files open at the end, %zu at the start", open_files(), files);
    EXPECT(resident_bytes() <= resident + 32 * MIB, "%zu KiB resident at the end, %zu at the start", resident_bytes() / KIB, resident / KIB);
    count(epochs);
    return tap.misses != 0;
}

/* ---- the supervisor: uses no libunimem, so each epoch starts afresh ---- */
static size_t all_counts(void) {
    size_t sum = 0;
    for (size_t c = 0; c < NUMBER_OF_COUNTERS; c++) sum += counters[c];
    return sum;
}
static int supervise(const epoch_t *epoch) {
    fflush(stdout);
    pid_t process = fork();
    if (process == 0) exit(run_epoch((void *)epoch));
    size_t last = all_counts();
    double moved = seconds_now();
    int status = 0;
    while (waitpid(process, &status, WNOHANG) == 0) {
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
        if (all_counts() != last) last = all_counts(), moved = seconds_now();
        if (seconds_now() - moved < patience(SECONDS_OF_A_HANG)) continue;
        printf("# nothing has moved for %u seconds\n", patience(SECONDS_OF_A_HANG));
        kill(process, SIGABRT);
        moved = seconds_now();
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

static void print_counts(void) {
    for (size_t c = 0; c < NUMBER_OF_COUNTERS; c++) printf("# %12zu %s\n", counters[c], counter_texts[c]);
}

int main(int number, char **arguments) {
    counters = mmap(NULL, NUMBER_OF_COUNTERS * sizeof *counters, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (counters == MAP_FAILED) return 1;
    if (number >= 5 && strcmp(arguments[1], "replay") == 0) {
        epoch_t epoch = {arguments[2], strtoull(arguments[3], NULL, 10), strtoull(arguments[4], NULL, 10), 0};
        int result = run_epoch(&epoch);
        print_counts();
        return result;
    }
    double minutes = number > 1 ? strtod(arguments[1], NULL) : 0, start = seconds_now();
    uint64_t seed = number > 2 ? strtoull(arguments[2], NULL, 10) : 1;
    if (minutes <= 0) {
        for (size_t m = 0; m < MECHANISMS; m++) {
            int result = supervise(&(epoch_t){mechanisms[m], seed, 2, 0});
            char name[100];
            snprintf(name, sizeof name, "%s: everything at once", mechanisms[m]);
            if (result == UNAVAILABLE) SKIP(name, "this system does not have it");
            else CHECK_EQ(name, (size_t)result, 0);
        }
        CHECK("budgets refused what had no room", counters[full] > 0);
        print_counts();
        return tap_done();
    }
    size_t bad = 0;
    for (size_t n = 0; seconds_now() - start < minutes * 60; n++) {
        double left = minutes * 60 - (seconds_now() - start);
        epoch_t epoch = {mechanisms[n % MECHANISMS], seed + n, 0, left < SECONDS_OF_AN_EPOCH ? left : SECONDS_OF_AN_EPOCH};
        int result = supervise(&epoch);
        if (result != 0 && result != UNAVAILABLE) {
            bad++;
            printf("# process %zu ended with %d: soak replay %s %llu 100\n", n, result, epoch.mechanism, (unsigned long long)epoch.seed);
        }
        fprintf(stderr, "soak: %.0f of %.0f s, %zu operations, %zu rounds, %zu forks, %zu signals, %zu bad processes\n",
                seconds_now() - start, minutes * 60, all_counts(), counters[rounds], counters[forks], counters[signals_outside] + counters[signals_inside], bad);
    }
    char name[100];
    snprintf(name, sizeof name, "%.1f minutes of everything at once", (seconds_now() - start) / 60);
    CHECK_EQ(name, bad, 0);
    print_counts();
    return tap_done();
}
