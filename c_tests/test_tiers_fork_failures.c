/* test_tiers_fork_failures.c - what a forked child is refused, and what else happens around a fork. There must be no
 * wrong byte in the child or its parent and no hang, and nothing of the program's may be touched. On every fault
 * mechanism (tiers.h). */
#define _GNU_SOURCE
#include "unimem.h"

#include "sandbox.h"
#include "tiers.h"

#include <setjmp.h>
#include <sys/resource.h>

enum { CHUNK = 64 << 10, CHUNKS = 128, WORDS = CHUNK / 8, SECONDS = 30 };

/* An eighth of the chunks fits the budget. */
static unified_memory_interface_t *memory;
static uint64_t *words;

static bool fill(void)
{
    memory = open_with(CHUNKS / 8 * CHUNK, 0);
    words = memory ? memory->allocate_streaming((size_t)CHUNKS * CHUNK, CHUNK) : NULL;
    for (size_t i = 0; words && i < (size_t)CHUNKS * WORDS; i++) words[i] = mix(i);
    return words != NULL;
}

/* Acquires every chunk: how many are refused; SIZE_MAX if one holds other words than mix(i) + plus. */
static size_t refused_chunks(uint64_t plus)
{
    size_t refused = 0;
    for (size_t chunk = 0; chunk < CHUNKS; chunk++) {
        const uint64_t *held = unimem_chunk_acquire(words, chunk, UNIMEM_READ);
        if (!held) {
            refused++;
            continue;
        }
        for (size_t i = 0; i < WORDS; i++)
            if (held[i] != mix(chunk * WORDS + i) + plus) return SIZE_MAX;
        unimem_chunk_release(words, chunk);
    }
    return refused;
}

static bool can_all_be_changed(void)
{
    for (size_t i = 0; i < (size_t)CHUNKS * WORDS; i++) words[i]++;
    return refused_chunks(1) == 0;
}

/* ---- no descriptor ---- */

static int with_all_descriptors_used(void *unused)
{
    (void)unused;
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){64, 64});
    if (!fill()) return 1;
    int used[64], count = 0;
    while ((used[count] = dup(1)) >= 0) count++;
    pid_t child = fork();
    if (child == 0) {
        if (refused_chunks(0) == SIZE_MAX) _exit(10);
        while (count > 0) close(used[--count]);
        if (refused_chunks(0) != 0) _exit(11);
        if (!can_all_be_changed()) _exit(12);
        memory->free(words);
        _exit(unimem_close(memory) ? 0 : 13);
    }
    while (count > 0) close(used[--count]);
    int result = child_result(child);
    if (result != 0) return result;
    return can_all_be_changed() ? 0 : 2;
}

/* ---- no userfaultfd ---- */

static sigjmp_buf back;

static void on_fault(int signal)
{
    (void)signal;
    siglongjmp(back, 1);
}

/* Whether a touch of the chunk is a fault. */
static bool faults(size_t chunk)
{
    struct sigaction action = {.sa_handler = on_fault}, segv, bus;
    sigaction(SIGSEGV, &action, &segv);
    sigaction(SIGBUS, &action, &bus);
    volatile bool fault = true;
    if (sigsetjmp(back, 1) == 0) {
        (void)*(volatile uint64_t *)(words + chunk * WORDS);
        fault = false;
    }
    sigaction(SIGSEGV, &segv, NULL);
    sigaction(SIGBUS, &bus, NULL);
    return fault;
}

static int sandboxed_child(bool userfaultfd)
{
    size_t refused = refused_chunks(0);
    if (refused == SIZE_MAX) return 10;
    if (!userfaultfd) return refused == 0 && can_all_be_changed() ? 0 : 11;
    /* Without userfaultfd what was in place stays there, and all else is refused. */
    if (refused == 0 || refused == CHUNKS) return 12;
    for (size_t chunk = 0; chunk < CHUNKS; chunk++) {
        uint64_t *held = unimem_chunk_acquire(words, chunk, UNIMEM_WRITE);
        if (!held) {
            if (unimem_last_error() == UNIMEM_OK || !faults(chunk)) return 13;
            continue;
        }
        for (size_t i = 0; i < WORDS; i++) held[i] = 7;
        unimem_chunk_release(words, chunk);
        if (words[chunk * WORDS] != 7) return 14;
    }
    if (memory->allocate_streaming(CHUNK, CHUNK)) return 15;
    if (!memory->realloc(words, CHUNK)) return 16;
    memory->free(words);
    return unimem_close(memory) ? 0 : 17;
}

static int in_a_sandbox(void *unused)
{
    (void)unused;
    bool userfaultfd = strncmp(unimem_fault_mechanism(), "userfaultfd", 11) == 0;
    if (!fill()) return 1;
    if (!refuse_calls((unsigned[]){SYS_userfaultfd}, 1, EPERM)) return UNAVAILABLE;
    pid_t child = fork();
    if (child == 0) {
        pid_t grandchild = fork();
        if (grandchild == 0) _exit(sandboxed_child(userfaultfd));
        int result = child_result(grandchild);
        _exit(result ? result + 20 : sandboxed_child(userfaultfd));
    }
    int result = child_result(child);
    if (result != 0) return result;
    return can_all_be_changed() ? 0 : 2;
}

/* ---- mappings of the program ---- */

enum { MADE = 64 };
static bool make_mappings;
static unsigned char *made[MADE];

static void map_in_child(void)
{
    for (int i = 0; make_mappings && i < MADE; i++) {
        made[i] = mmap(NULL, CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (made[i] == MAP_FAILED) _exit(1);
        memset(made[i], i + 1, CHUNK);
    }
}
/* Handlers run in the child in the order in which they were registered: this one before any library's, the thread
 * sanitizer's included. */
__attribute__((no_sanitize("thread"))) static void register_first(void)
{
    pthread_atfork(NULL, NULL, map_in_child);
}
__attribute__((section(".preinit_array"), used)) static void (*const at_start)(void) = register_first;

static int with_mappings_made_by_a_handler(void *unused)
{
    (void)unused;
    if (!fill()) return 1;
    make_mappings = true;
    pid_t child = fork();
    if (child == 0) {
        if (!made[0] || !can_all_be_changed()) _exit(10);
        for (int i = 0; i < MADE; i++)
            for (size_t k = 0; k < CHUNK; k++)
                if (made[i][k] != i + 1) _exit(11);
        _exit(0);
    }
    int result = child_result(child);
    if (result != 0) return result;
    return can_all_be_changed() ? 0 : 2;
}

/* ---- messages ---- */

static size_t told, lost; /* messages, and those whose callback did not get what it asked for */

static void allocate_when_told(int level, const char *text, void *other)
{
    unified_memory_interface_t *instance = other;
    (void)level, (void)text;
    told++;
    void *plain = instance->allocate(3 * MIB, 0);
    uint64_t *tiered = instance->allocate_streaming(4 * CHUNK, CHUNK);
    if (tiered) tiered[WORDS] = 5;
    if (!plain || !tiered || tiered[WORDS] != 5) lost++;
    instance->free(tiered);
    instance->free(plain);
}

/* Nothing of the library's may be under way in a thread that calls a callback. A fork asks for that most strictly. */
static void fork_when_told(int level, const char *text, void *unused)
{
    (void)level, (void)text, (void)unused;
    told++;
    unimem_set_log(NULL, NULL);
    pid_t child = fork();
    if (child == 0) _exit(0);
    if (child_result(child) != 0) lost++;
}

static int without_a_place_for_files(void *unused)
{
    (void)unused;
    char place[] = "/tmp/unimem-test-XXXXXX";
    if (!mkdtemp(place)) return UNAVAILABLE;
    setenv("UNIMEM_SPILL_DIR", place, 1);
    unified_memory_interface_t *other = open_with(0, 0);
    bool filled = fill() && other;
    rmdir(place); /* the file in it has no name */
    if (!filled) return 1;
    unimem_set_log(allocate_when_told, other);
    pid_t child = fork();
    if (child == 0) {
        _exit(told > 0 && lost == 0 && refused_chunks(0) != SIZE_MAX ? 0 : 10);
    }
    if (told == 0 || lost > 0) return 2;
    int result = child_result(child);
    if (result != 0) return result;
    /* Now nothing can leave, so a touch fails, and the callback that is told of it forks. */
    told = 0;
    unimem_set_log(fork_when_told, NULL);
    size_t failed = 0;
    for (size_t chunk = 0; chunk < CHUNKS; chunk++) {
        if (sigsetjmp(back, 1) == 0) words[chunk * WORDS]++;
        else failed++;
    }
    if (failed == 0 || told != 1 || lost > 0) return 3;
    return 0;
}

static int with_handlers_and_without_files(void *unused)
{
    /* Before the library's handler, which passes on faults that it cannot serve. */
    sigaction(SIGBUS, &(struct sigaction){.sa_handler = on_fault}, NULL);
    return without_a_place_for_files(unused);
}

/* Runs a test in a process group of its own, and kills all of the group at the end: what hangs in a fork has its signals
 * blocked, and may be a child's child. */
static void test(const char *name, int (*body)(void *))
{
    sigset_t ended;
    sigemptyset(&ended);
    sigaddset(&ended, SIGCHLD);
    sigprocmask(SIG_BLOCK, &ended, NULL);
    fflush(stdout);
    pid_t process = fork();
    if (process == 0) {
        setpgid(0, 0);
        sigprocmask(SIG_UNBLOCK, &ended, NULL);
        _exit(body(NULL));
    }
    setpgid(process, process);
    bool hung = sigtimedwait(&ended, NULL, &(struct timespec){.tv_sec = patience(SECONDS)}) < 0;
    kill(-process, SIGKILL);
    int result = child_result(process);
    if (result == UNAVAILABLE) {
        SKIP(name, "this system does not let a program bring it about");
        return;
    }
    if (result != 0) printf("# it ended with %d%s\n", result, hung ? ": it hung" : "");
    CHECK(name, result == 0);
}

static int run_all(void)
{
    if (!serves_touches()) {
        SKIP("children that are refused something", "nothing serves faults here");
        return tap_done();
    }
    test("a child of a program that has used up all descriptors", with_all_descriptors_used);
    test("a child of a sandboxed program, and its child", in_a_sandbox);
    test("mappings that a handler of the program makes in the child", with_mappings_made_by_a_handler);
    test("messages of a fork and of a touch that failed let the program do what it likes", with_handlers_and_without_files);
    return tap_done();
}

int main(int count, char **arguments)
{
    spill_to_memory();
    return on_every_mechanism(count, arguments, run_all);
}
