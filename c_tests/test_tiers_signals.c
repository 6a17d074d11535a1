/* test_tiers_signals.c - signals around tiered memory, on every fault mechanism (tiers.h). The signals by which
 * faults arrive do what they do without the library if the program causes them itself or somebody sends them.
 * Handlers of other signals may touch tiered memory. */
#define _GNU_SOURCE
#include "unimem.h"

#include "tiers.h"

#include <dlfcn.h>
#include <setjmp.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>

typedef struct {
    const char *name;
    int signal;
    void (*handler)(int);
} way_t;

static volatile sig_atomic_t heard;

static void hear(int signal)
{
    (void)signal;
    heard++;
}

/* Writes to all words and reads them, of which a quarter can be in place. */
static bool works(uint64_t *words, size_t count)
{
    for (size_t i = 0; i < count; i++) words[i] = mix(i);
    for (size_t i = 0; i < count; i++)
        if (words[i] != mix(i)) return false;
    return true;
}

enum { SENDERS = 3 };

static void send(int signal, int sender)
{
    if (sender == 0) kill(getpid(), signal);
    else if (sender == 1) sigqueue(getpid(), signal, (union sigval){.sival_int = 1});
    else pthread_kill(pthread_self(), signal);
}

static int first_sender;

static int be_sent(void *argument)
{
    const way_t *way = argument;
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    signal(way->signal, way->handler);
    unified_memory_interface_t *memory = open_with(1 * MIB, 0);
    size_t count = 4 * MIB / 8;
    uint64_t *words = memory->allocate_streaming(count * 8, 64 * KIB);
    if (!words || !works(words, count)) return 1;
    for (int sender = first_sender; sender < SENDERS; sender++) {
        send(way->signal, sender);
        if (way->handler == SIG_DFL) return 2;
        if (way->handler == hear && heard != sender + 1) return 3;
        if (!works(words, count)) return 4;
    }
    memory->free(words);
    return unimem_close(memory) ? 0 : 5;
}

/* Where the machine finds memory broken under a chunk in place (BUS_MCEERR_AR), the program's handler is told. */
static int be_told_of_broken_memory(void *unused)
{
    (void)unused;
    signal(SIGBUS, hear);
    unified_memory_interface_t *memory = open_with(1 * MIB, 0);
    size_t count = 4 * MIB / 8;
    uint64_t *words = memory->allocate_streaming(count * 8, 64 * KIB);
    if (!words || !works(words, count)) return 1;
    siginfo_t info = {.si_signo = SIGBUS, .si_code = BUS_MCEERR_AR, .si_addr = &words[count - 1]};
    if (syscall(SYS_rt_tgsigqueueinfo, getpid(), syscall(SYS_gettid), SIGBUS, &info) != 0) return 2;
    if (heard != 1) return 3;
    memory->free(words);
    return unimem_close(memory) ? 0 : 4;
}

/* A file without bytes: memory that maps it is there, and each touch of that is SIGBUS. */
static int empty_file(void)
{
    int file = memfd_create("empty", MFD_CLOEXEC);
    if (file < 0) give_up("there is no empty file");
    return file;
}

static sigjmp_buf back;
static void *volatile seen_address;

static void on_fault(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)context;
    seen_address = info->si_addr;
    siglongjmp(back, 1);
}

/* Faults that are not the library's go to the handlers that were there before. */
static int fault_with_handlers(void *unused)
{
    (void)unused;
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    unified_memory_interface_t *memory = open_with(1 * MIB, 0);
    volatile char *bytes = memory->allocate_streaming(3 * MIB, 64 * KIB);
    for (size_t i = 0; i < 3 * MIB; i += 4096) bytes[i] = 1;
    volatile char *hole = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int round = 0; round < 3; round++) {
        if (sigsetjmp(back, 1) == 0) {
            *hole = 1;
            return 1;
        }
        if (seen_address != hole) return 2;
        for (size_t i = 0; i < 3 * MIB; i += 4096)
            if (bytes[i] != 1) return 3;
    }
    volatile char *beyond = mmap(NULL, 4096, PROT_READ, MAP_SHARED, empty_file(), 0);
    if (sigsetjmp(back, 1) == 0) {
        (void)*beyond;
        return 4;
    }
    return seen_address == beyond ? 0 : 5;
}

static int fault_without_handlers(void *unused)
{
    (void)unused;
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    unified_memory_interface_t *memory = open_with(1 * MIB, 0);
    volatile char *bytes = memory->allocate_streaming(3 * MIB, 64 * KIB);
    bytes[0] = 1;
    *(volatile char *)opaque((void *)8) = 1;
    return 0;
}

static volatile int others_faults;
static void on_others_fault(int signal, siginfo_t *info, void *context)
{
    others_faults++;
    on_fault(signal, info, context);
}

/* A program that installs its handlers anew, again and again, one or two in turn, and allocates in between. */
static int install_again_and_again(void *in_turn)
{
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    unified_memory_interface_t *memory = open_with(1 * MIB, 0);
    for (int round = 0; round < 40; round++) {
        if (in_turn) action.sa_sigaction = round % 2 ? on_others_fault : on_fault;
        sigaction(SIGSEGV, &action, NULL);
        sigaction(SIGBUS, &action, NULL);
        size_t count = 4 * MIB / 8;
        uint64_t *words = memory->allocate_streaming(count * 8, 64 * KIB);
        if (sigsetjmp(back, 1) != 0 || !works(words, count)) return 1;
        volatile char *hole = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (sigsetjmp(back, 1) == 0) {
            *hole = 1;
            return 2;
        }
        if (seen_address != hole || others_faults != (in_turn ? (round + 1) / 2 : 0)) return 3;
        memory->free(words);
    }
    return 0;
}

/* A touch that cannot be served, because nothing can be written out to make room, in a program that blocks or ignores
 * SIGBUS. */
static int touch_in_vain(void *ignored)
{
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    sigset_t bus;
    sigemptyset(&bus);
    sigaddset(&bus, SIGBUS);
    if (ignored) signal(SIGBUS, SIG_IGN);
    unified_memory_interface_t *memory = open_with(1 * MIB, 0);
    size_t count = 4 * MIB / 8;
    uint64_t *words = memory->allocate_streaming(count * 8, 64 * KIB);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){0, 0});
    if (!ignored) pthread_sigmask(SIG_BLOCK, &bus, NULL);
    return words && works(words, count) ? 1 : 2;
}

/* Ways to fault that the program's own handler repairs: a page that must not be touched, and one beyond the end of its file. */
static volatile char *shut, *beyond_end;
static int short_file;
static bool by_jump;
static size_t repaired, passed_on;
static struct sigaction before_ours[2];

static void repair(int signal, siginfo_t *info, void *context)
{
    (void)info, (void)context;
    repaired++;
    if (signal == SIGSEGV) mprotect((void *)shut, 4096, PROT_READ | PROT_WRITE);
    else if (ftruncate(short_file, 4096) != 0) _exit(9);
    if (by_jump) siglongjmp(back, 1);
}
static void pass_it_on(int signal, siginfo_t *info, void *context)
{
    passed_on++;
    before_ours[signal == SIGBUS].sa_sigaction(signal, info, context);
}
static __attribute__((noinline)) void touch(volatile char *place)
{
    if (!by_jump || sigsetjmp(back, 1) == 0) *place = 1;
}
/* From the same place each time, so that the system's record of a fault is where that of the last one was. */
static bool fault_twice(void)
{
    if (mprotect((void *)shut, 4096, PROT_NONE) != 0 || ftruncate(short_file, 0) != 0) return false;
    touch(shut);
    touch(beyond_end);
    return true;
}
static int pass_on_what_was_passed_on(void *jump)
{
    by_jump = jump != NULL;
    struct sigaction action = {.sa_sigaction = repair, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);
    short_file = empty_file();
    shut = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    beyond_end = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, short_file, 0);
    unified_memory_interface_t *memory = open_with(1 * MIB, 0);
    if (!memory->allocate_streaming(3 * MIB, 64 * KIB)) return 1;
    for (size_t round = 0; round < 3; round++)
        if (!fault_twice() || repaired != 2 * (round + 1)) return 2;
    action.sa_sigaction = pass_it_on;
    sigaction(SIGSEGV, &action, &before_ours[0]);
    sigaction(SIGBUS, &action, &before_ours[1]);
    for (size_t round = 0; round < 3; round++)
        if (!fault_twice() || passed_on != 2 * (round + 1) || repaired != 6 + passed_on) return 3;
    return 0;
}

/* Two handlers that pass on what comes, to what was there before, are installed in turn in front of one that leaves. */
static volatile size_t passed_by[2];
static struct sigaction before_these[2];
static void pass_as_first(int signal, siginfo_t *info, void *context)
{
    passed_by[0]++;
    before_these[0].sa_sigaction(signal, info, context);
}
static void pass_as_second(int signal, siginfo_t *info, void *context)
{
    passed_by[1]++;
    before_these[1].sa_sigaction(signal, info, context);
}
static int pass_on_in_turn(void *unused)
{
    (void)unused;
    short_file = empty_file();
    unified_memory_interface_t *memory = open_with(1 * MIB, 0);
    bool by_segv = strcmp(unimem_fault_mechanism(), "signal") == 0;
    volatile char *place = by_segv ? mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                                   : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, short_file, 0);
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(by_segv ? SIGSEGV : SIGBUS, &action, NULL);
    for (size_t round = 0; round < 40; round++) {
        void *words = memory->allocate_streaming(4 * MIB, 64 * KIB);
        passed_by[0] = passed_by[1] = 0;
        if (!words || sigsetjmp(back, 1) == 0) {
            *place = 1;
            return 1;
        }
        if (seen_address != place || passed_by[0] != (round > 0) || passed_by[1] != (round > 1)) return 2;
        memory->free(words);
        action.sa_sigaction = round % 2 ? pass_as_second : pass_as_first;
        sigaction(by_segv ? SIGSEGV : SIGBUS, &action, &before_these[round % 2]);
    }
    return 0;
}

/* Stands before the C library's sigaction(), for the library under test too. When asked to, it installs another handler first,
 * as another thread might between two of the library's calls. */
static bool another_thread_installs;
int sigaction(int signal, const struct sigaction *new, struct sigaction *old)
{
    int (*real)(int, const struct sigaction *, struct sigaction *);
    *(void **)&real = dlsym(RTLD_NEXT, "sigaction");
    if (another_thread_installs && new && (signal == SIGSEGV || signal == SIGBUS)) {
        struct sigaction action = {.sa_sigaction = repair, .sa_flags = SA_SIGINFO};
        real(signal, &action, NULL);
        another_thread_installs = false;
    }
    return real(signal, new, old);
}
static int install_meanwhile(void *unused)
{
    (void)unused;
    short_file = empty_file();
    shut = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    beyond_end = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, short_file, 0);
    unified_memory_interface_t *memory = open_with(1 * MIB, 0);
    another_thread_installs = true;
    volatile char *bytes = memory->allocate_streaming(3 * MIB, 64 * KIB);
    if (!bytes || another_thread_installs) return 1;
    bytes[0] = 1;
    bool by_segv = strcmp(unimem_fault_mechanism(), "signal") == 0;
    touch(by_segv ? shut : beyond_end);
    return repaired == 1 ? 0 : 2;
}

/* Faults that the program makes itself. */
static void test_chaining(void)
{
    check_in_child("handlers that are installed anew are passed once each time", install_again_and_again, NULL, 60);
    bool in_turn = true;
    check_in_child("also two that are installed in turn", install_again_and_again, &in_turn, 60);
    check_in_child("and two that pass on what comes", pass_on_in_turn, NULL, 60);
    for (int ignored = 0; ignored < 2; ignored++)
        CHECK_EQ(ignored ? "what cannot be served ends a program that ignores SIGBUS" : "what cannot be served ends a program that blocks SIGBUS",
                 (size_t)run_in_child(touch_in_vain, ignored ? &ignored : NULL, 20), 256 + SIGBUS);
    check_in_child("faults that are not ours go to the program's own handlers", fault_with_handlers, NULL, 60);
    check_in_child("a handler installed later may pass them on to ours", pass_on_what_was_passed_on, NULL, 60);
    check_in_child("also where the first one leaves by longjmp", pass_on_what_was_passed_on, &by_jump, 60);
    check_in_child("one that is installed at the same moment is not lost", install_meanwhile, NULL, 60);
    const char *name = "without one they end the program with SIGSEGV";
    if (THREAD_SANITIZED) SKIP(name, "the thread sanitizer has one");
    else CHECK_EQ(name, (size_t)run_in_child(fault_without_handlers, NULL, 60), 256 + SIGSEGV);
}

static uint64_t *alarmed;
static const size_t alarmed_words = 1 * MIB, acquired_words = 64 * KIB / sizeof *alarmed;
/* The program's own code runs, no call of the library or of malloc. */
static volatile sig_atomic_t outside;
static volatile sig_atomic_t alarms[2], alarm_errors;

/* Serving a fault takes locks that an interrupted call may hold. So there the handler touches acquired chunks only. */
static void on_alarm(int signal)
{
    (void)signal;
    int where = outside;
    for (size_t i = 0; i < 3; i++) {
        size_t at = mix((uint64_t)alarms[where] * 3 + i) % (where ? alarmed_words : acquired_words) / 2 * 2;
        if (alarmed[at] != mix(at / 2) || alarmed[at + 1] != mix(at / 2)) alarm_errors = 1;
    }
    alarms[where]++;
}

/* Handlers that touch tiered memory wherever they interrupt the program, and acquired chunks wherever they come. */
static void test_alarms(void)
{
    const char *name = "handlers touch tiered memory, and acquired chunks in calls too";
    if (THREAD_SANITIZED) {
        SKIP(name, "the thread sanitizer calls handlers with all signals blocked, those of faults too");
        return;
    }
    TEST(name) {
        unified_memory_interface_t *memory = open_with(1 * MIB, 0);
        alarmed = memory->allocate_streaming(8 * MIB + 16, 64 * KIB);
        for (size_t i = 0; i < alarmed_words; i++) alarmed[i] = mix(i / 2);
        EXPECT(unimem_chunk_acquire(alarmed, 0, UNIMEM_READ), "%s", unimem_last_error_message());
        struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART}, old;
        sigaction(SIGALRM, &action, &old);
        setitimer(ITIMER_REAL, &(struct itimerval){{0, 700}, {0, 700}}, NULL);
        for (size_t round = 0; round < scaled(150) || alarms[0] < 20 || alarms[1] < 20; round++) {
            void *plain = memory->allocate(random_size(&(random_t){round}, 6, 16), 0);
            size_t index = mix(round) % unimem_chunk_count(alarmed), wrong = 0;
            if (unimem_chunk_acquire(alarmed, index, UNIMEM_READ)) unimem_chunk_release(alarmed, index);
            outside = 1;
            for (size_t i = 0; i < 4; i++) {
                size_t at = mix(round * 7 + i) % alarmed_words / 2 * 2;
                wrong += alarmed[at] != mix(at / 2);
            }
            outside = 0;
            EXPECT(!wrong, "%zu wrong words", wrong);
            EXPECT(plain, "no room for a plain block: %s", unimem_last_error_message());
            free(malloc(1000));
            memory->free(plain);
        }
        setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
        sigaction(SIGALRM, &old, NULL);
        EXPECT(!alarm_errors, "a handler read something else");
        unimem_chunk_release(alarmed, 0);
        memory->free(alarmed);
        EXPECT(unimem_close(memory), "something was live");
    }
}

static int run_all(void)
{
    way_t ways[] = {
        {"SIGBUS ends the program", SIGBUS, SIG_DFL},
        {"SIGSEGV ends the program", SIGSEGV, SIG_DFL},
        {"SIGBUS is ignored where the program does so", SIGBUS, SIG_IGN},
        {"SIGSEGV is ignored where the program does so", SIGSEGV, SIG_IGN},
        {"SIGBUS goes to the program's handler", SIGBUS, hear},
        {"SIGSEGV goes to the program's handler", SIGSEGV, hear},
    };
    if (!serves_touches()) {
        SKIP("signals that are sent", "nothing serves faults here");
        return tap_done();
    }
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        bool ends = ways[i].handler == SIG_DFL;
        TEST(ways[i].name) {
            for (first_sender = 0; first_sender < (ends ? SENDERS : 1); first_sender++) {
                int result = run_in_child(be_sent, &ways[i], 60), wanted = ends ? 256 + ways[i].signal : 0;
                EXPECT(result == wanted, "from sender %d on: %d, not %d", first_sender, result, wanted);
            }
        }
    }
    check_in_child("memory found broken is told to the program's handler", be_told_of_broken_memory, NULL, 60);
    test_chaining();
    test_alarms();
    return tap_done();
}

int main(int count, char **arguments)
{
    spill_to_memory();
    return on_every_mechanism(count, arguments, run_all);
}
