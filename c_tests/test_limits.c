/* test_limits.c - programs with little: no descriptors, no disk, no /proc, no userfaultfd, one processor, tiny
 * stacks. And calls at unusual times: before main, from thread destructors, from atexit. Each limit is tested in a
 * child of its own. */
#define _GNU_SOURCE
#include "unimem.h"
#include "unimem/memory_pool.h"
#include "unimem/tree_tensor_network.h"

#include "sandbox.h"
#include "trees.h"

#include <fcntl.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/mount.h>
#include <sys/resource.h>

static unified_pool_config_t small_budget = {.max_size = 2 * MIB, .enable_growth = true, .enable_streaming = true, .chunk_size = 64 << 10};

/* Plain memory, tiers four times the budget, and a tree. */
static void everything_works(void) {
    unified_memory_interface_t *memory = unimem_open(&small_budget);
    if (!EXPECT(memory, "no instance: %s", unimem_last_error_message())) return;
    void *plain = memory->allocate(100000, 0);
    size_t words = MIB;
    uint64_t *tiered = memory->allocate_streaming(words * 8, 0);
    if (EXPECT(plain && tiered, "no memory: %s", unimem_last_error_message())) {
        for (size_t i = 0; i < words; i += 64) tiered[i] = i * 7919;
        for (size_t i = 0; i < words; i += 64)
            if (!EXPECT(tiered[i] == i * 7919, "word %zu is wrong", i)) break;
    }
    memory->free(plain);
    memory->free(tiered);
    enum { SIDE = 64 };
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, 0, 0);
    tree_tensor_node_t *a = add_tree_tensor_node(ttn, NULL, (size_t[]){SIDE, SIDE}, 2, false);
    tree_tensor_node_t *b = add_tree_tensor_node(ttn, NULL, (size_t[]){SIDE, SIDE}, 2, false);
    for (size_t i = 0; a && b && i < SIDE * SIDE; i++) a->data[i].real = 1, b->data[i].real = 2;
    ComplexFloat *result = NULL;
    size_t dimensions[8], count = 8;
    bool contracted = a && b && connect_tree_tensor_nodes(ttn, a, b) && contract_full_tree_network(ttn, &result, dimensions, &count);
    EXPECT(contracted && result[SIDE * SIDE - 1].real == 2 * SIDE, "the tree: %s", unimem_last_error_message());
    free(result);
    destroy_tree_tensor_network(ttn);
    EXPECT(unimem_close(memory), "something was live at close");
}
/* Tiers are refused with one of two errors, plain memory works. */
static void tiers_are_refused(unimem_error_t expected, unimem_error_t or_this) {
    unified_memory_interface_t *memory = unimem_open(&small_budget);
    if (!EXPECT(memory, "no instance: %s", unimem_last_error_message())) return;
    void *tiered = memory->allocate_streaming(8 * MIB, 0), *plain = memory->allocate(100000, 0);
    EXPECT(!tiered && (unimem_last_error() == expected || unimem_last_error() == or_this), "%p, error %d: %s", tiered,
           (int)unimem_last_error(), unimem_last_error_message());
    EXPECT(plain != NULL, "no plain memory");
    memory->free(plain);
    EXPECT(unimem_close(memory), "something was live at close");
}

/* The limit of some resource, lowered; returns what it was. */
static struct rlimit lower(int resource, rlim_t limit) {
    struct rlimit was, now;
    getrlimit(resource, &was);
    now = was;
    now.rlim_cur = limit;
    if (setrlimit(resource, &now) != 0) give_up("a limit cannot be lowered");
    return was;
}

static int no_descriptors(void *unused) {
    (void)unused;
    struct rlimit limit = lower(RLIMIT_NOFILE, 3);
    tiers_are_refused(UNIMEM_ERROR_IO, UNIMEM_ERROR_UNSUPPORTED);
    setrlimit(RLIMIT_NOFILE, &limit);
    everything_works();
    return 0;
}
static int no_file_size(void *unused) {
    (void)unused;
    signal(SIGXFSZ, SIG_IGN); /* its default ends the program, as for every write beyond the limit */
    struct rlimit limit = lower(RLIMIT_FSIZE, 4 * MIB);
    tiers_are_refused(UNIMEM_ERROR_IO, UNIMEM_ERROR_IO);
    setrlimit(RLIMIT_FSIZE, &limit);
    everything_works();
    return 0;
}
/* What the library writes for the program does not end it, with SIGXFSZ, either. */
static int no_room_for_a_report(void *unused) {
    (void)unused;
    char name[] = "/tmp/unimem-report-XXXXXX";
    int file = mkstemp(name);
    if (file < 0) return UNAVAILABLE;
    lower(RLIMIT_FSIZE, 10);
    EXPECT(!unimem_write_leaks(name) && unimem_last_error() == UNIMEM_ERROR_IO, "error %d", (int)unimem_last_error());
    EXPECT(unimem_write_leaks("/dev/null"), "what is no regular file has no limit: %s", unimem_last_error_message());
    close(file);
    unlink(name);
    return 0;
}
/* Some programs close descriptors that they do not know. Their own files get these numbers, and no call may touch them;
 * what needs the library's is refused with an error, or right. */
static int descriptors_become_the_programs(void *mechanism) {
    enum { MOST = 1024, CHUNK = 64 << 10, CHUNKS = 256 };
    static bool known[MOST];
    setenv("UNIMEM_FAULTS", mechanism, 1);
    int file = memfd_create("the program's", MFD_CLOEXEC);
    for (int i = 0; i < MOST; i++) known[i] = fcntl(i, F_GETFD) >= 0;
    if (strcmp(unimem_fault_mechanism(), mechanism) != 0) return UNAVAILABLE;
    if (file < 0 || write(file, "mine", 4) != 4) return UNAVAILABLE;
    unified_memory_interface_t *memory = unimem_open(&small_budget);
    char *tiered = memory ? memory->allocate_streaming(CHUNKS * CHUNK, CHUNK) : NULL;
    if (!EXPECT(tiered, "no tiered memory: %s", unimem_last_error_message())) return 1;
    random_t random = {1};
    for (size_t c = 0; c < CHUNKS; c++) {
        uint64_t *part = unimem_chunk_acquire(tiered, c, UNIMEM_OVERWRITE);
        if (!EXPECT(part, "chunk %zu: %s", c, unimem_last_error_message())) return 1;
        for (size_t i = 0; i < CHUNK / 8; i++) part[i] = random_next(&random);
        unimem_chunk_release(tiered, c);
    }
    size_t count = 0, served = 0;
    for (int i = 0; i < MOST; i++)
        if (!known[i] && fcntl(i, F_GETFD) >= 0) count += dup2(file, i) == i;
    EXPECT(count > 0, "the library has no descriptors");
    random.state = 1;
    for (size_t c = 0; c < CHUNKS; c++) {
        uint64_t *part = unimem_chunk_acquire(tiered, c, UNIMEM_WRITE);
        for (size_t i = 0; i < CHUNK / 8; i++) {
            uint64_t value = random_next(&random);
            if (part && !EXPECT(part[i] == value, "chunk %zu, word %zu is wrong", c, i)) break;
        }
        served += part != NULL;
        if (part) unimem_chunk_release(tiered, c);
        else EXPECT(unimem_last_error() != UNIMEM_OK && unimem_last_error() != UNIMEM_ERROR_INTERNAL, "chunk %zu", c);
    }
    EXPECT(served > 0 && served < CHUNKS, "%zu chunks were served", served);
    memory->free(tiered);
    EXPECT(unimem_close(memory), "something was live at close");
    for (int i = 0; i < MOST; i++) count -= !known[i] && fcntl(i, F_GETFD) >= 0;
    char text[5] = "";
    EXPECT(count == 0, "%zu descriptors of the program were closed", count);
    EXPECT(lseek(file, 0, SEEK_END) == 4 && pread(file, text, 4, 0) == 4 && strcmp(text, "mine") == 0, "its file was changed");
    return 0;
}
/* A program without standard output, say, prints to whatever has its number. */
static int no_standard_files(void *unused) {
    (void)unused;
    for (int i = 0; i < 3; i++) close(i);
    everything_works();
    unified_memory_interface_t *memory = unimem_open(&small_budget);
    void *tiered = memory->allocate_streaming(8 * MIB, 0);
    for (int i = 0; i < 3; i++)
        if (!tiered || fcntl(i, F_GETFD) >= 0) return 3 + i;
    memory->free(tiered);
    return unimem_close(memory) ? 0 : 6;
}
/* An empty file system in a place, for this process alone. False if the system does not allow that. */
static bool mount_for_this_process(const char *place, const char *options) {
    return unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 && mount("tmpfs", place, "tmpfs", 0, options) == 0;
}
static int full_disk(void *unused) {
    (void)unused;
    char directory[] = "/tmp/unimem-full-XXXXXX";
    if (!mkdtemp(directory)) return UNAVAILABLE;
    if (!mount_for_this_process(directory, "size=4m")) {
        rmdir(directory);
        return UNAVAILABLE;
    }
    setenv("UNIMEM_SPILL_DIR", directory, 1);
    unified_memory_interface_t *memory = unimem_open(&small_budget);
    uint64_t *tiered = memory->allocate_streaming(3 * MIB, 0), *more;
    EXPECT(tiered, "what fits the disk: %s", unimem_last_error_message());
    more = memory->allocate_streaming(3 * MIB, 0);
    EXPECT(!more && unimem_last_error() == UNIMEM_ERROR_IO, "what does not: %p, error %d", (void *)more, (int)unimem_last_error());
    for (size_t i = 0; tiered && i < 3 * MIB / 8; i++) tiered[i] = i ^ 0x5555;
    for (size_t i = 0; tiered && i < 3 * MIB / 8; i++)
        if (!EXPECT(tiered[i] == (i ^ 0x5555), "word %zu", i)) break;
    memory->free(tiered);
    EXPECT(unimem_close(memory), "something was live at close");
    umount2(directory, MNT_DETACH);
    rmdir(directory);
    return 0;
}
static int no_spill_directory(void *directory) {
    setenv("UNIMEM_SPILL_DIR", directory, 1);
    tiers_are_refused(UNIMEM_ERROR_IO, UNIMEM_ERROR_IO);
    EXPECT(strstr(unimem_last_error_message(), directory), "where is not said: %s", unimem_last_error_message());
    return 0;
}
static int no_proc(void *unused) {
    (void)unused;
    if (!mount_for_this_process("/proc", "size=4k")) return UNAVAILABLE;
    everything_works();
    return 0;
}
/* One that is worth sharing between threads. */
static void large_product(void) {
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, 0, 0);
    tree_tensor_node_t *a = add_tree_tensor_node(ttn, NULL, (size_t[]){300, 300}, 2, false), *product = NULL;
    tree_tensor_node_t *b = add_tree_tensor_node(ttn, NULL, (size_t[]){300, 300}, 2, false);
    EXPECT(a && b && contract_tree_tensor_nodes(ttn, a, b, &product), "a product: %s", unimem_last_error_message());
    destroy_tree_tensor_network(ttn);
}
static int no_userfaultfd(void *unused) {
    (void)unused;
    if (!refuse_calls((unsigned[]){SYS_userfaultfd}, 1, EPERM)) return UNAVAILABLE;
    everything_works();
    EXPECT(strcmp(unimem_fault_mechanism(), "signal") == 0, "the mechanism is %s", unimem_fault_mechanism());
    return 0;
}
/* The library has threads that look at something from time to time. They go on, and keep waiting in between. */
static int no_sleep(void *unused) {
    (void)unused;
    char name[] = "/tmp/unimem-recording-XXXXXX";
    int file = mkstemp(name);
    if (file < 0 || !refuse_calls((unsigned[]){SYS_nanosleep, SYS_clock_nanosleep}, 2, EPERM)) return UNAVAILABLE;
    EXPECT(unimem_trace_start(name), "%s", unimem_last_error_message());
    off_t length = 0; /* grows each time that its thread has waited */
    for (int looks = 0; looks < 3; sched_yield()) {
        off_t now = lseek(file, 0, SEEK_END);
        looks += now != length;
        length = now;
        unimem_global()->free(unimem_global()->allocate(5 * MIB, 0)); /* kept for a while, and looked at then */
    }
    EXPECT(unimem_trace_stop(), "%s", unimem_last_error_message());
    close(file);
    unlink(name);
    everything_works();
    return 0;
}
static int no_random_numbers(void *unused) {
    (void)unused;
    if (!mount_for_this_process("/dev", "size=4k") || !refuse_calls((unsigned[]){SYS_getrandom}, 1, ENOSYS)) return UNAVAILABLE;
    everything_works();
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, 0, 0), *back = NULL;
    tree_tensor_node_t *a = add_tree_tensor_node(ttn, NULL, (size_t[]){4, 4}, 2, false);
    EXPECT(connect_tree_tensor_nodes(ttn, a, add_tree_tensor_node(ttn, NULL, (size_t[]){4, 4}, 2, false)), "not joined");
    tensor_network_t *general = NULL;
    if (EXPECT(convert_tree_to_tensor_network(ttn, &general), "to a general network: %s", unimem_last_error_message())) {
        EXPECT(convert_tensor_network_to_tree(general, &back), "and back: %s", unimem_last_error_message());
        free_network(general);
    }
    destroy_tree_tensor_network(back);
    destroy_tree_tensor_network(ttn);
    large_product();
    return 0;
}
/* As under valgrind, on emulated kernels and before Linux 5.7: no userfaultfd, and mremap leaves no mapping behind. */
static int no_moving_of_pages(void *unused) {
    (void)unused;
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 4, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mremap, 0, 2),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[3])),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 4 /* MREMAP_DONTUNMAP */, 2, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
    };
    if (!install_filter(rules, sizeof rules / sizeof rules[0])) return UNAVAILABLE;
    unified_memory_interface_t *memory = unimem_open(&small_budget);
    unsigned *fits = memory->allocate_streaming(256 * KIB, 0), *large = memory->allocate_streaming(16 * MIB, 64 * KIB);
    EXPECT(fits && large, "%s", unimem_last_error_message());
    EXPECT(strcmp(unimem_fault_mechanism(), "none") == 0, "the mechanism is %s", unimem_fault_mechanism());
    for (unsigned i = 0; fits && i < 256 * KIB / 4; i++) fits[i] = i;
    size_t words = 64 * KIB / 4, wrong = 0;
    for (unsigned round = 0; large && round < 3; round++)
        for (unsigned chunk = 0; chunk < unimem_chunk_count(large); chunk++) {
            unsigned *part = unimem_chunk_acquire(large, chunk, UNIMEM_WRITE);
            if (!EXPECT(part, "chunk %u: %s", chunk, unimem_last_error_message())) break;
            for (unsigned i = 0; i < words; i++) {
                wrong += part[i] != (round == 0 ? 0 : (chunk * 2654435761u ^ i * 40503u) + round - 1);
                part[i] = (chunk * 2654435761u ^ i * 40503u) + round;
            }
            unimem_chunk_release(large, chunk);
        }
    for (unsigned i = 0; fits && i < 256 * KIB / 4; i++) wrong += fits[i] != i;
    unimem_residency_t where = {0};
    EXPECT(wrong == 0, "%zu words are wrong", wrong);
    EXPECT(unimem_residency(large, &where) && where.evictions > 0, "nothing was sent out");
    EXPECT(unimem_held_bytes(memory) <= small_budget.max_size, "%zu bytes are held", unimem_held_bytes(memory));
    memory->free(fits), memory->free(large);
    EXPECT(unimem_close(memory), "something was live at close");
    return 0;
}
/* A program that has locked all memory there will be (mlockall): chunks come and go all the same. */
static int locked_memory(void *mechanism) {
    enum { CHUNK = 64 << 10, CHUNKS = 512 };
    struct rlimit limit = {0, 0};
    getrlimit(RLIMIT_MEMLOCK, &limit);
    if (geteuid() != 0 && limit.rlim_cur != RLIM_INFINITY) return UNAVAILABLE;
    setenv("UNIMEM_FAULTS", mechanism, 1);
    if (strcmp(unimem_fault_mechanism(), mechanism) != 0 || mlockall(MCL_CURRENT | MCL_FUTURE) != 0) return UNAVAILABLE;
    size_t before = resident_bytes();
    unified_memory_interface_t *memory = unimem_open(&small_budget);
    uint64_t *tiered = memory ? memory->allocate_streaming(CHUNKS * CHUNK, CHUNK) : NULL;
    if (!EXPECT(tiered, "no tiered memory: %s", unimem_last_error_message())) return 1;
    size_t words = CHUNK / 8, wrong = 0;
    for (size_t i = 0; i < CHUNKS * words; i++) tiered[i] = i * 7919;
    size_t more = resident_bytes() - before;
    EXPECT(more < CHUNKS * CHUNK / 2, "%zu KiB are resident, of a budget of 2 MiB", more / KIB);
    for (size_t c = 0; c < CHUNKS; c++) {
        uint64_t *part = unimem_chunk_acquire(tiered, c, UNIMEM_READ);
        if (!EXPECT(part, "chunk %zu: %s", c, unimem_last_error_message())) break;
        for (size_t i = 0; i < words; i++) wrong += part[i] != (c * words + i) * 7919;
        unimem_chunk_release(tiered, c);
    }
    EXPECT(wrong == 0, "%zu words are wrong", wrong);
    memory->free(tiered);
    EXPECT(unimem_close(memory), "something was live at close");
    return 0;
}
/* What prints is the program: neither the library nor what it uses. */
static int no_sys(void *unused) {
    (void)unused;
    char name[] = "/tmp/unimem-printed-XXXXXX";
    int file = mkstemp(name);
    if (file < 0 || !mount_for_this_process("/sys", "size=4k")) return UNAVAILABLE;
    int out = dup(1), errors = dup(2);
    dup2(file, 1), dup2(file, 2);
    everything_works();
    size_t nodes = unimem_numa_nodes();
    off_t printed = lseek(file, 0, SEEK_END);
    dup2(out, 1), dup2(errors, 2);
    EXPECT(printed == 0 && nodes == 1, "%zu nodes, %ld bytes printed", nodes, (long)printed);
    unlink(name);
    return 0;
}
static int little_data(void *unused) {
    (void)unused;
    lower(RLIMIT_DATA, 60 * MIB);
    large_product();
    return 0;
}
static int one_processor(void *unused) {
    (void)unused;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((size_t)sched_getcpu(), &one);
    if (sched_setaffinity(0, sizeof one, &one) != 0) return UNAVAILABLE;
    everything_works();
    return 0;
}
static void *in_a_thread(void *unused) {
    everything_works();
    return unused;
}
static int tiny_stack(void *unused) {
    (void)unused;
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64 * KIB);
    if (pthread_create(&thread, &attributes, in_a_thread, NULL) != 0) return UNAVAILABLE;
    pthread_join(thread, NULL);
    return 0;
}

/* Odd times. */
static void *from_before_main;
static pthread_key_t older_key; /* than the library's */
static sem_t among_destructors, go_on;
static void wait_in_destructor(void *first) {
    if (first != &go_on) return;
    sem_post(&among_destructors);
    sem_wait(&go_on);
}
__attribute__((constructor)) static void before_main(void) {
    pthread_key_create(&older_key, wait_in_destructor);
    from_before_main = unimem_global()->allocate(1000, 0);
}

static pthread_key_t keys[3];
static size_t destroyed;
static void in_destructor(void *left) {
    uintptr_t round = (uintptr_t)left;
    destroyed++;
    for (size_t size = 10; size < 3000000; size *= 7) {
        void *block = unimem_global()->allocate(size, 0);
        EXPECT(block, "destructor, round %zu: no %zu bytes", (size_t)round, size);
        unimem_global()->free(block);
    }
    if (round > 1) pthread_setspecific(keys[0], (void *)(round - 1)); /* once more, after all others have run */
}
static void *with_destructors(void *unused) {
    for (size_t k = 0; k < 3; k++) pthread_setspecific(keys[k], (void *)(uintptr_t)3);
    unimem_global()->free(unimem_global()->allocate(100, 0));
    return unused;
}
static int thread_destructors(void *unused) {
    (void)unused;
    for (size_t k = 0; k < 3; k++) pthread_key_create(&keys[k], in_destructor);
    size_t live = live_in(unimem_global());
    pthread_join(start_thread(with_destructors, NULL), NULL);
    EXPECT(destroyed == 5, "%zu destructors ran, not one for each of three keys and two more for the first", destroyed);
    EXPECT(live_in(unimem_global()) == live, "%zu bytes live, were %zu", live_in(unimem_global()), live);
    return 0;
}
/* A fork may find a thread among its destructors. To a thread of the child the C library gives that one's stack, and the
 * values of keys that it had. */
static void *set_older_key(void *value) {
    pthread_setspecific(older_key, value);
    if (value == &go_on) unimem_global()->free(unimem_global()->allocate(100, 0));
    return NULL;
}
static int end_in_the_child(void *unused) {
    (void)unused;
    pthread_join(start_thread(set_older_key, &older_key), NULL);
    everything_works();
    return 0;
}
static int fork_among_destructors(void *unused) {
    sem_init(&among_destructors, 0, 0);
    sem_init(&go_on, 0, 0);
    pthread_t thread = start_thread(set_older_key, &go_on);
    sem_wait(&among_destructors);
    int result = run_in_child(end_in_the_child, unused, 20);
    sem_post(&go_on);
    pthread_join(thread, NULL);
    return result;
}
static void at_exit(void) {
    everything_works();
    fflush(stdout);
    _exit(tap.misses != 0);
}
static int calls_from_atexit(void *unused) {
    (void)unused;
    everything_works();
    if (atexit(at_exit) != 0) return 1;
    exit(2); /* at_exit() has another status for the program */
}

int main(void) {
    static char nowhere[] = "/nonexistent/directory", proc[] = "/proc";
    static char uffd[] = "userfaultfd", copy[] = "userfaultfd-copy", handler[] = "signal";
    const struct {
        const char *name;
        int (*body)(void *);
        void *argument;
    } cases[] = {
        {"without descriptors tiers are an error, and work when there are some again", no_descriptors, NULL},
        {"RLIMIT_FSIZE: tiers that could not be spilled are an error", no_file_size, NULL},
        {"RLIMIT_FSIZE: a report that is too long is an error", no_room_for_a_report, NULL},
        {"its descriptors become the program's (userfaultfd): nothing of that is touched", descriptors_become_the_programs, uffd},
        {"its descriptors become the program's (userfaultfd-copy): nothing of that is touched", descriptors_become_the_programs, copy},
        {"its descriptors become the program's (signal): nothing of that is touched", descriptors_become_the_programs, handler},
        {"without standard files none of the library's has their numbers", no_standard_files, NULL},
        {"a full disk: what fits works, what does not is an error", full_disk, NULL},
        {"a spill directory that does not exist is an error", no_spill_directory, nowhere},
        {"one that cannot be written is an error", no_spill_directory, proc},
        {"without /proc everything works", no_proc, NULL},
        {"without /sys everything works, and nothing is printed", no_sys, NULL},
        {"RLIMIT_DATA of 60 MiB: products need no more than their tensors", little_data, NULL},
        {"seccomp forbids userfaultfd: signals take its place", no_userfaultfd, NULL},
        {"nothing moves pages: acquired chunks work, and memory that fits", no_moving_of_pages, NULL},
        {"seccomp forbids to sleep: everything works", no_sleep, NULL},
        {"neither getrandom nor /dev: everything works", no_random_numbers, NULL},
        {"all memory is locked (userfaultfd): chunks come and go", locked_memory, uffd},
        {"all memory is locked (userfaultfd-copy): chunks come and go", locked_memory, copy},
        {"all memory is locked (signal): chunks come and go", locked_memory, handler},
        {"on one processor everything works", one_processor, NULL},
        {"on a stack of 64 KiB everything works", tiny_stack, NULL},
        {"destructors of threads may allocate and free, to the last round", thread_destructors, NULL},
        {"a fork while a thread is among its destructors: threads of the child end as ever", fork_among_destructors, NULL},
        {"functions at exit may use the library", calls_from_atexit, NULL},
    };
    unsetenv("UNIMEM_FAULTS");
    CHECK("a constructor that runs before main may allocate", from_before_main && unimem_owns(from_before_main));
    unimem_global()->free(from_before_main);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_in_child(cases[i].name, cases[i].body, cases[i].argument, 30);
    return tap_done();
}
