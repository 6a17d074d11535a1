/* test_cancellation.c - threads that are cancelled (pthread_cancel) while they are inside the library. They must end
 * only when they have left it; nothing may stay held or be lost, and no unwinding may pass through it. Half of the
 * threads are cancelled before their first call, which would end at once if it had a cancellation point inside. */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/advanced_memory_system.h"
#include "unimem/tree_tensor_network.h"

#include "support.h"

#include <stdatomic.h>

enum { CHUNK = 64 * 1024, CHUNKS = 128 };
static unified_memory_interface_t *memory;
static unsigned char *tiered;
static atomic_bool begun;
static char recording[] = "/var/tmp/unimem-cancelled-XXXXXX";

static void acquire(size_t round) {
    unsigned char *chunk = unimem_chunk_acquire(tiered, round % CHUNKS, UNIMEM_WRITE);
    if (!EXPECT(chunk, "no chunk: %s", unimem_last_error_message())) return;
    chunk[5] = (unsigned char)(round % CHUNKS);
    EXPECT(unimem_chunk_release(tiered, round % CHUNKS), "it was not acquired");
}
static void touch(size_t round) { tiered[round % CHUNKS * CHUNK + 5] = (unsigned char)(round % CHUNKS); }
static void make_tiered(size_t round) {
    unsigned char *bytes = memory->allocate_streaming(4 * MIB, CHUNK);
    EXPECT(bytes, "no tiered memory: %s", unimem_last_error_message());
    for (size_t i = 0; bytes && i < 4 * MIB; i += CHUNK) bytes[i] = (unsigned char)round;
    memory->free(bytes);
}
static void make_plain(size_t round) {
    for (size_t i = 0; i < 8; i++) touch(round * 8 + i);
    void *block = memory->allocate((round % 5 + 5) * 200000, 0);
    EXPECT(block, "no plain block: %s", unimem_last_error_message());
    memory->free(block);
}
/* Bytes that no coder makes smaller. */
static void fill_at_random(unsigned char *bytes, size_t size, uint64_t seed) {
    random_t random = {seed};
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = random_next(&random);
        memcpy(bytes + i, &word, 8);
    }
}
static void open_and_close(size_t round) {
    unified_memory_interface_t *other = unimem_open(&(unified_pool_config_t){.max_size = MIB, .enable_growth = true, .enable_streaming = true});
    unsigned char *bytes = other->allocate_streaming(3 * MIB, CHUNK);
    fill_at_random(bytes, 3 * MIB, round);
    other->free(bytes);
    EXPECT(unimem_close(other), "something leaked");
}
static void write_files(size_t round) {
    if (round % 2 && !getenv("UNIMEM_TRACE")) /* else one is under way */
        EXPECT(unimem_trace_start(recording) && unimem_trace_stop(), "no recording: %s", unimem_last_error_message());
    EXPECT(unimem_write_leaks("/dev/null"), "no report: %s", unimem_last_error_message());
}
static void contract(size_t round) {
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, 0, 0);
    ttn->memory = memory;
    tree_tensor_node_t *result, *left = add_tree_tensor_node(ttn, NULL, (size_t[]){520, 520 + round % 7}, 2, false);
    EXPECT(left && contract_tree_tensor_nodes(ttn, left, left, &result), "no product: %s", unimem_last_error_message());
    destroy_tree_tensor_network(ttn);
}
static void say(int level, const char *message, void *context) {
    FILE *file = fopen("/dev/null", "w"); /* which has cancellation points */
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
/* Cancelled before the first call, which takes effect at the first cancellation point that is not the library's. */
static void *a_few_times(void *unused) {
    cancel_self_later();
    for (size_t round = 0; round < 5; round++) what(round);
    begun = true; /* all calls have returned */
    pthread_testcancel();
    return unused;
}
/* Cancels threads that make one kind of call; then all chunks hold what was written, nothing is acquired, and nothing
 * more is live than before. */
static int cancelled(void *call) {
    what = *(void (**)(size_t))call;
    memory = unimem_open(&(unified_pool_config_t){.max_size = 2 * MIB, .enable_growth = true, .enable_streaming = true});
    tiered = memory->allocate_streaming((size_t)CHUNK * CHUNKS, CHUNK);
    fill_at_random(tiered, (size_t)CHUNK * CHUNKS, 1);
    for (size_t i = 0; i < CHUNKS; i++) tiered[i * CHUNK + 5] = (unsigned char)i;
    unimem_set_log(say, NULL);
    size_t live = live_in(memory);
    for (size_t round = 0; round < scaled(16); round++) {
        void *result = NULL;
        begun = false;
        pthread_t thread = start_thread(round % 2 ? a_few_times : again_and_again, NULL);
        if (round % 2 == 0) {
            while (!begun) sched_yield();
            usleep((unsigned)(round * 37 % 500)); /* at another moment of a call each time */
            pthread_cancel(thread);
        }
        pthread_join(thread, &result);
        EXPECT(result == PTHREAD_CANCELED && begun, "round %zu: the thread was not cancelled, or in the middle of a call", round);
    }
    unimem_set_log(NULL, NULL);
    for (size_t i = 0; i < CHUNKS; i++) {
        EXPECT(unimem_chunk_acquire(tiered, i, UNIMEM_READ) == tiered + i * CHUNK && tiered[i * CHUNK + 5] == i, "chunk %zu", i);
        EXPECT(unimem_chunk_release(tiered, i) && !unimem_chunk_release(tiered, i), "chunk %zu stayed acquired", i);
    }
    EXPECT(live_in(memory) == live, "%zu bytes live, were %zu", live_in(memory), live);
    memory->free(tiered);
    EXPECT(unimem_close(memory), "something was live at close");
    return 0;
}

/* What the library does at exit may not end in the middle either: exit() in a thread that has been cancelled. */
static void *ends_the_program(void *unused) {
    pthread_cancel(pthread_self());
    exit(3);
    return unused;
}
static int exits(void *unused) {
    (void)unused;
    if (!unimem_trace_start(recording)) return 1;
    pthread_join(start_thread(ends_the_program, NULL), NULL);
    return 4;
}

int main(void) {
    spill_to_memory();
    struct {
        const char *name;
        void (*call)(size_t round);
    } calls[] = {{"acquiring chunks", acquire}, {"touching chunks", touch}, {"tiered memory", make_tiered},
                 {"plain memory that sends chunks out", make_plain}, {"opening and closing", open_and_close},
                 {"writing files", write_files}, {"contractions", contract}, {"a log callback that writes", be_told}};
    if (!CHECK("a file for recordings", mkstemp(recording) >= 0)) return tap_done();
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        char name[100];
        snprintf(name, sizeof name, "cancelled in the middle of %s", calls[i].name);
        if (without_faults()) SKIP(name, "without a fault mechanism tiered memory beyond its budget cannot be touched");
        else check_in_child(name, cancelled, &calls[i].call, 60);
    }
    CHECK_EQ("cancelled while exit() ends a recording", (size_t)run_in_child(exits, NULL, 60), 3);
    unlink(recording);
    return tap_done();
}
