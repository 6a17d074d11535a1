/* test_tiers_signals.c - signals by which faults arrive, but sent by somebody: they do what they do without the library. On
 * every fault mechanism. */
#define _GNU_SOURCE
#include "unimem.h"

#include "tiers.h"

#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>

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

/* Writes and reads all of it, with a quarter in place. */
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

/* Memory that the machine found broken under a chunk in place: as the system tells of it. */
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
    if (strcmp(unimem_fault_mechanism(), "none") == 0) {
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
    int result = run_in_child(be_told_of_broken_memory, NULL, 60);
    CHECK("memory found broken is told to the program's handler", result == 0);
    return tap_done();
}

int main(int count, char **arguments)
{
    return on_every_mechanism(count, arguments, run_all);
}
