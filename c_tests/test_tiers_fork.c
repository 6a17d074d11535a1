/* test_tiers_fork.c - fork and tiered memory, on every fault mechanism (tiers.h). Child and parent each go on with
 * the data as they were at the fork, whatever the other does to its own. */
#define _GNU_SOURCE
#include "unimem.h"

#include "tiers.h"

#include <stdatomic.h>
#include <sys/time.h>

/* A child reads what its parent wrote, writes, allocates more, has a child itself, and frees all. Returns 0, or what failed. */
static int child_of_round(unified_memory_interface_t *memory, uint64_t *words, size_t count, size_t chunk, uint64_t round)
{
    for (size_t i = 0; i < count; i++)
        if (words[i] != mix(i) + round) return 1;
    for (size_t i = 0; i < count; i++) words[i] ^= 12345;
    for (size_t i = 0; i < count; i++)
        if (words[i] != ((mix(i) + round) ^ 12345)) return 2;
    size_t more_count = 4 * chunk / 8;
    uint64_t *more = memory->allocate_streaming(more_count * 8, chunk);
    if (!more) return 3;
    for (size_t i = 0; i < more_count; i++) more[i] = i;
    pid_t grandchild = fork();
    if (grandchild == 0) {
        for (size_t i = 0; i < more_count; i++)
            if (more[i] != i) _exit(1);
        _exit(words[count / 2] == ((mix(count / 2) + round) ^ 12345) ? 0 : 2);
    }
    memory->free(more);
    if (child_result(grandchild) != 0) return 4;
    memory->free(words);
    return unimem_close(memory) ? 0 : 5;
}

static void test_both_go_on(size_t chunk)
{
    char name[96];
    snprintf(name, sizeof name, "parent and child both go on with the data, chunks of %zu KiB", chunk / KIB);
    TEST(name) {
        unified_memory_interface_t *memory = open_with(8 * chunk, 0);
        size_t count = 24 * chunk / 8;
        uint64_t *words = memory->allocate_streaming(count * 8, chunk);
        for (size_t i = 0; i < count; i++) words[i] = mix(i);
        for (uint64_t round = 0; round < 3; round++) {
            unimem_chunk_prefetch(words, 0, 6);
            pid_t child = fork();
            if (child == 0) {
                end_after(120);
                _exit(child_of_round(memory, words, count, chunk, round));
            }
            for (size_t i = 0; i < count; i++) words[i]++;
            int result = child_result(child);
            EXPECT(result == 0, "round %zu: the child ended with %d", (size_t)round, result);
            for (size_t i = 0; i < count; i++)
                if (!EXPECT(words[i] == mix(i) + round + 1, "round %zu: word %zu of the parent", (size_t)round, i)) break;
        }
        memory->free(words);
        EXPECT(unimem_close(memory), "something was live");
    }
}

/* Parent and child have chunks in one spill file. What one of them frees there must stay for the other. */
static void test_frees_apart(void)
{
    TEST("what one of them frees stays with the other") {
        unified_memory_interface_t *memory = open_with(1 * MIB, 0);
        size_t count = 8 * MIB / 8;
        uint64_t *words[2];
        for (size_t k = 0; k < 2; k++) {
            words[k] = memory->allocate_streaming(count * 8, 64 * KIB);
            for (size_t i = 0; i < count; i++) words[k][i] = mix(i + k);
        }
        int ends[2];
        EXPECT(pipe(ends) == 0, "no pipe");
        pid_t child = fork();
        if (child == 0) {
            end_after(120);
            memory->free(words[0]);
            char gone;
            close(ends[1]);
            if (read(ends[0], &gone, 1) != 1) _exit(1); /* the parent has freed the other */
            for (size_t i = 0; i < count; i++)
                if (words[1][i] != mix(i + 1)) _exit(2);
            memory->free(words[1]);
            _exit(unimem_close(memory) ? 0 : 3);
        }
        memory->free(words[1]);
        EXPECT(write(ends[1], "x", 1) == 1, "the child is gone");
        EXPECT(child_result(child) == 0, "the child read something wrong");
        for (size_t i = 0; i < count; i++)
            if (!EXPECT(words[0][i] == mix(i), "word %zu of the parent", i)) break;
        memory->free(words[0]);
        close(ends[0]);
        close(ends[1]);
        EXPECT(unimem_close(memory), "something was live");
    }
}

/* Memory that is larger than the disk gives the blocks of a part of a stretch back when it becomes smaller. */
static void test_smaller_apart(void)
{
    const char *name = "memory larger than the disk that one of them makes smaller stays whole for the other";
    const char *directory = getenv("UNIMEM_SPILL_DIR");
    struct statvfs disk;
    if (statvfs(directory ? directory : "/var/tmp", &disk) != 0 || disk.f_blocks * disk.f_frsize > 512 * GIB) {
        SKIP(name, "the disk is too large");
        return;
    }
    TEST(name) {
        size_t chunks = 2 * disk.f_blocks * disk.f_frsize / MIB, count = 32 * MIB / 8;
        unified_memory_interface_t *memory = open_with(8 * MIB + 128 * chunks, 0);
        uint64_t *words = memory->allocate_streaming(chunks * MIB, MIB);
        if (EXPECT(words != NULL, "%zu MiB: %s", chunks, unimem_last_error_message())) {
            for (size_t i = 0; i < count; i++) words[i] = mix(i);
            unimem_advise(words, UNIMEM_DONT_NEED);
            pid_t child = fork();
            if (child == 0) {
                end_after(120);
                uint64_t *smaller = memory->realloc(words, 6 * MIB);
                if (!smaller) _exit(1);
                for (size_t i = 0; i < 6 * MIB / 8; i++)
                    if (smaller[i] != mix(i)) _exit(2);
                memory->free(smaller);
                _exit(unimem_close(memory) ? 0 : 3);
            }
            int result = child_result(child);
            EXPECT(result == 0, "the child ended with %d", result);
            for (size_t i = 0; i < count; i++)
                if (!EXPECT(words[i] == mix(i), "word %zu of the parent", i)) break;
            memory->free(words);
        }
        EXPECT(unimem_close(memory), "something was live");
    }
}

/* Each writer writes n to its words one after the other, then n + 1. So at any moment they are n + 1 up to some place, and
 * n from there on. */
typedef struct {
    uint64_t *words;
    size_t count, first, step;
    atomic_bool *stop;
} writer_t;

static void *count_up(void *argument)
{
    writer_t *w = argument;
    for (uint64_t n = 1; !atomic_load(w->stop); n++)
        for (size_t i = w->first; i < w->count; i += w->step) w->words[i] = n << 32 | (mix(n ^ i) & UINT32_MAX);
    return NULL;
}

static bool is_snapshot(const writer_t *w)
{
    uint64_t top = w->words[w->first] >> 32;
    for (size_t i = w->first, late = 0; i < w->count; i += w->step) {
        uint64_t n = w->words[i] >> 32;
        late |= n != top;
        if (n != (late ? top - 1 : top)) return false;
        if (n != 0 && w->words[i] != (n << 32 | (mix(n ^ i) & UINT32_MAX))) return false;
    }
    return true;
}

static void test_under_load(void)
{
    TEST("a child forked while threads write has all that was written, and nothing else") {
        enum { WRITERS = 3 };
        unified_memory_interface_t *memory = open_with(1 * MIB, 0);
        size_t count = 3 * MIB / 8;
        uint64_t *words = memory->allocate_streaming(count * 8, 64 * KIB);
        atomic_bool stop = false;
        writer_t writers[WRITERS];
        pthread_t ids[WRITERS];
        for (size_t t = 0; t < WRITERS; t++) {
            writers[t] = (writer_t){words, count, t, WRITERS, &stop};
            ids[t] = start_thread(count_up, &writers[t]);
        }
        for (size_t round = 0; round < scaled(8); round++) {
            pid_t child = fork();
            if (child == 0) {
                end_after(120);
                for (size_t t = 0; t < WRITERS; t++)
                    if (!is_snapshot(&writers[t])) _exit(1);
                memory->free(words);
                _exit(unimem_close(memory) ? 0 : 2);
            }
            int result = child_result(child);
            EXPECT(result == 0, "round %zu: the child ended with %d", round, result);
        }
        stop = true;
        for (size_t t = 0; t < WRITERS; t++) {
            pthread_join(ids[t], NULL);
            EXPECT(is_snapshot(&writers[t]), "words of thread %zu in the parent", t);
        }
        memory->free(words);
        EXPECT(unimem_close(memory), "something was live");
    }
}

static void test_files(void)
{
    TEST("spill files that a fork left behind are closed when they are empty") {
        unified_memory_interface_t *memory = open_with(512 * KIB, 0);
        size_t count = 2 * MIB / 8, before = open_files();
        uint64_t *words = memory->allocate_streaming(count * 8, 64 * KIB);
        for (size_t round = 0; round < 30; round++) {
            for (size_t i = 0; i < count; i++) words[i] = mix(i ^ round);
            pid_t child = fork();
            if (child == 0) _exit(words[round * 1000] == mix((round * 1000) ^ round) ? 0 : 1);
            EXPECT(child_result(child) == 0, "round %zu: the child read something wrong", round);
        }
        EXPECT(open_files() <= before + 4, "%zu files open, %zu before", open_files(), before);
        memory->free(words);
        /* The current one; and where the thread sanitizer has a report to suppress, pipes to its symbolizer. */
        EXPECT(open_files() <= before + 1 + 2 * THREAD_SANITIZED, "%zu files open after the free, %zu before", open_files(), before);
        EXPECT(unimem_close(memory), "something was live");
    }
}

/* Writes and reads four times what the instance may hold. */
static bool stream(void)
{
    unified_memory_interface_t *memory = open_with(8 * MIB, 0);
    size_t count = 32 * MIB / 8;
    uint64_t *words = memory ? memory->allocate_streaming(count * sizeof *words, 256 * KIB) : NULL;
    if (!words) return false;
    for (uint64_t i = 0; i < count; i++) words[i] = mix(i);
    for (uint64_t i = 0; i < count; i++)
        if (words[i] != mix(i)) return false;
    memory->free(words);
    return unimem_close(memory);
}

/* The handler wants what a fork has locked, in the very thread that forks. So signals wait until it is over. */
static struct {
    unsigned char *bytes;
    size_t chunks, chunk, next;
} touched;
static void touch_next(int signal)
{
    (void)signal;
    touched.bytes[touched.next++ % touched.chunks * touched.chunk]++;
}
static int fork_among_signals(void *unused)
{
    (void)unused;
    enum { FORKS = 200 };
    unified_memory_interface_t *memory = open_with(1 * MIB, 0);
    touched.chunks = 32, touched.chunk = 64 * KIB;
    touched.bytes = memory->allocate_streaming(touched.chunks * touched.chunk, touched.chunk);
    for (size_t i = 0; i < touched.chunks * touched.chunk; i++) touched.bytes[i] = (unsigned char)mix(i);
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = touch_next, .sa_flags = SA_RESTART}, NULL);
    const struct itimerval often = {{0, 200}, {0, 200}}, never = {{0, 0}, {0, 0}};
    int failed = 0;
    for (int i = 0; i < FORKS; i++) {
        setitimer(ITIMER_REAL, &often, NULL);
        pid_t child = fork();
        if (child == 0) _exit(0); /* timers are not inherited */
        setitimer(ITIMER_REAL, &never, NULL);
        failed += child < 0 || child_result(child) != 0;
    }
    EXPECT(failed == 0 && touched.next > 0, "%d of %d forks failed, %zu signals came", failed, FORKS, touched.next);
    memory->free(touched.bytes);
    return unimem_close(memory) ? 0 : 1;
}

static int stream_in_child(void *unused)
{
    (void)unused;
    return stream() ? 0 : 1;
}

static int run_all(void)
{
    if (!serves_touches()) {
        SKIP("children go on with tiered memory", "nothing serves faults here");
        return tap_done();
    }
    /* Before the first streaming memory of the process: this has to be the first test. */
    check_in_child("a child of a program that only asked for the mechanism", stream_in_child, NULL, 120);
    CHECK("the program itself", stream());
    check_in_child("a child of a program that has used streaming memory", stream_in_child, NULL, 120);
    test_both_go_on(64 * KIB);
    test_both_go_on(2 * MIB);
    test_frees_apart();
    test_smaller_apart();
    test_under_load();
    test_files();
    if (THREAD_SANITIZED) SKIP("signals whose handler touches tiered memory come while the program forks", "the sanitizer runs handlers where faults are blocked");
    else check_in_child("signals whose handler touches tiered memory come while the program forks", fork_among_signals, NULL, 60);
    return tap_done();
}

int main(int count, char **arguments)
{
    spill_to_memory();
    return on_every_mechanism(count, arguments, run_all);
}
