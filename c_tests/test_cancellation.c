/* test_cancellation.c - threads that are cancelled (pthread_cancel) while they are inside the library. They must end
 * only when they have left it; nothing may stay held or be lost, and no unwinding may pass through it. For half of
 * the threads the cancellation is pending before the first call, so it would take effect at once if there were a
 * cancellation point inside. */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/advanced_memory_system.h"
#include "unimem/tree_tensor_network.h"

#include "support.h"
#include "tap.h"

enum { CHUNK = 64 * 1024, CHUNKS = 128 };
static unified_memory_interface_t *memory;
static unsigned char *tiered;
static volatile bool begun;
static char recording[] = "/var/tmp/unimem-cancelled-XXXXXX";

static void acquire(size_t round) {
    unsigned char *chunk = unimem_chunk_acquire(tiered, round % CHUNKS, UNIMEM_WRITE);
    if (chunk) chunk[5] = (unsigned char)(round % CHUNKS);
    if (chunk) unimem_chunk_release(tiered, round % CHUNKS);
}
static void touch(size_t round) { tiered[round % CHUNKS * CHUNK + 5] = (unsigned char)(round % CHUNKS); }
static void make_tiered(size_t round) {
    unsigned char *bytes = memory->allocate_streaming(4 * MIB, CHUNK);
    for (size_t i = 0; bytes && i < 4 * MIB; i += CHUNK) bytes[i] = (unsigned char)round;
    memory->free(bytes);
}
static void make_plain(size_t round) {
    for (size_t i = 0; i < 8; i++) touch(round * 8 + i);
    memory->free(memory->allocate((round % 5 + 5) * 200000, 0));
}
static void open_and_close(size_t round) {
    unified_memory_interface_t *other = unimem_open(&(unified_pool_config_t){.max_size = MIB, .enable_growth = true, .enable_streaming = true});
    unsigned char *bytes = other->allocate_streaming(3 * MIB, CHUNK);
    random_t random = {round};
    for (size_t i = 0; i < 3 * MIB; i += 8) {
        uint64_t word = random_next(&random);
        memcpy(bytes + i, &word, 8);
    }
    other->free(bytes);
    EXPECT(unimem_close(other), "something leaked");
}
static void write_files(size_t round) {
    if (round % 2 && unimem_trace_start(recording)) unimem_trace_stop();
    unimem_write_leaks("/dev/null");
}
static void contract(size_t round) {
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, 0, 0);
    ttn->memory = memory;
    tree_tensor_node_t *result, *left = add_tree_tensor_node(ttn, NULL, (size_t[]){520, 520 + round % 7}, 2, false);
    if (left) contract_tree_tensor_nodes(ttn, left, left, &result);
    destroy_tree_tensor_network(ttn);
}
static void say(int level, const char *message, void *context) {
    FILE *file = fopen("/dev/null", "w"); /* cancellation points in a callback */
    if (file) fprintf(file, "%d %s %p", level, message, context);
    if (file) fclose(file);
}
static void be_told(size_t round) { memory->free((void *)(round * 64 + 64)); }

static void (*what)(size_t round);
static void *again_and_again(void *unused) {
    for (size_t round = 0;; round++) {
        what(round);
        begun = true;
        pthread_testcancel();
    }
    return unused;
}
/* With the cancellation waiting from the beginning: it takes effect at the first cancellation point that is not the
 * library's. */
static void *once(void *unused) {
    cancel_self_later();
    for (size_t round = 0; round < 5; round++) what(round);
    begun = true;
    pthread_testcancel();
    return unused;
}
static int cancelled(void *call) {
    what = *(void (**)(size_t))call;
    memory = unimem_open(&(unified_pool_config_t){.max_size = 2 * MIB, .enable_growth = true, .enable_streaming = true});
    tiered = memory->allocate_streaming((size_t)CHUNK * CHUNKS, CHUNK);
    random_t random = {1};
    for (size_t i = 0; i < (size_t)CHUNK * CHUNKS; i += 8) {
        uint64_t word = random_next(&random);
        memcpy(tiered + i, &word, 8);
    }
    for (size_t i = 0; i < CHUNKS; i++) tiered[i * CHUNK + 5] = (unsigned char)i;
    unimem_set_log(say, NULL);
    size_t live = stats_of(memory).total_allocated;
    for (size_t round = 0; round < scaled(16); round++) {
        pthread_t thread;
        void *result = NULL;
        begun = false;
        if (pthread_create(&thread, NULL, round % 2 ? once : again_and_again, NULL) != 0) return 1;
        if (round % 2 == 0) {
            while (!begun) sched_yield();
            usleep((unsigned)(round * 37 % 500));
            pthread_cancel(thread);
        }
        pthread_join(thread, &result);
        if (result != PTHREAD_CANCELED || !begun) return 2;
    }
    unimem_set_log(NULL, NULL);
    for (size_t i = 0; i < CHUNKS; i++) {
        if (unimem_chunk_acquire(tiered, i, UNIMEM_READ) != tiered + i * CHUNK || tiered[i * CHUNK + 5] != i) return 3;
        if (!unimem_chunk_release(tiered, i) || unimem_chunk_release(tiered, i)) return 4;
    }
    if (stats_of(memory).total_allocated != live) return 5;
    memory->free(tiered);
    return unimem_close(memory) ? 0 : 6;
}

/* exit() runs what the library does at exit, in a thread that a cancellation waits for. */
static void *ends_the_program(void *unused) {
    pthread_cancel(pthread_self());
    exit(3);
    return unused;
}
static int exits(void *unused) {
    (void)unused;
    if (!unimem_trace_start(recording)) return 1;
    pthread_t thread;
    if (pthread_create(&thread, NULL, ends_the_program, NULL) != 0) return 2;
    pthread_join(thread, NULL);
    return 4;
}

int main(void) {
    struct {
        const char *name;
        void (*call)(size_t round);
    } calls[] = {{"acquiring chunks", acquire}, {"touching chunks", touch}, {"tiered memory", make_tiered},
                 {"plain memory that sends chunks out", make_plain}, {"opening and closing", open_and_close},
                 {"writing files", write_files}, {"contractions", contract}, {"a log callback that writes", be_told}};
    if (without_faults()) {
        SKIP("cancelled while chunks move", "without a fault mechanism tiered memory beyond its budget cannot be touched");
        return tap_done();
    }
    int file = mkstemp(recording);
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        char name[100];
        snprintf(name, sizeof name, "cancelled in the middle of %s", calls[i].name);
        CHECK_EQ(name, (size_t)run_in_child(cancelled, &calls[i].call, 60), 0);
    }
    CHECK_EQ("cancelled while exit() ends a recording", (size_t)run_in_child(exits, NULL, 60), 3);
    if (file >= 0) unlink(recording);
    return tap_done();
}
