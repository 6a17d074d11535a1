/* fault_sweep.c - the fault sweep. It runs whole scenarios, and in each of them makes every system call of the
 * library fail, one in a run, with every error that the call can have. In each run there must be no crash, no hang,
 * no wrong byte and no leak; each call that fails must give a proper error; and once the fault is over the same
 * scenario must work.
 *
 *   fault_sweep          a sample of the places, some seconds (part of make test)
 *   fault_sweep full     every place (make fault-sweep)
 *   fault_sweep full TEXT   only scenarios whose name contains TEXT
 *   fault_sweep replay TEXT OPERATION FIRST HOW_MANY ERROR   one run, in this process: for a debugger
 *
 * It is linked with build/libunimem_faults.so, the same archive as libunimem.so with three more names (faults.h). */
#define _GNU_SOURCE
#include "fault_scenarios.h"

enum { HANGS = 256 + SIGKILL };
/* What a run tells the sweep. */
static struct { size_t calls[OPERATIONS], injected; } *told;

static void run_scenario(const scenario_t *scenario) {
    faulty = fault.how_many != 0;
    unimem_inject_faults(1u << fault.operation, fault.first, fault.how_many, fault.error);
    scenario->run();
    unimem_end_faults();
    faulty = false;
}
static int run_child(void *argument) {
    const scenario_t *scenario = argument;
    if (scenario->mechanism) setenv("UNIMEM_FAULTS", scenario->mechanism, 1);
    size_t before = open_files();
    run_scenario(scenario);
    told->injected = unimem_end_faults();
    for (size_t o = 0; o < OPERATIONS; o++) told->calls[o] = unimem_fault_calls((uint32_t)o);
    if (fault.how_many == 0) return 0;
    /* Once it is over everything works, and nothing stays open: two descriptors are the mechanism's own. */
    fault.how_many = 0;
    run_scenario(scenario);
    EXPECT(open_files() <= before + 2, "%zu files open, were %zu", open_files(), before);
    return 0;
}
/* Whether the system has the fault mechanism of a scenario. In a process apart: the question tries mechanisms out. */
static int has_mechanism(void *argument) {
    const scenario_t *scenario = argument;
    if (scenario->mechanism) setenv("UNIMEM_FAULTS", scenario->mechanism, 1);
    return scenario->mechanism && strcmp(unimem_fault_mechanism(), scenario->mechanism) != 0;
}
/* One run with one fault; whether all was well. */
static bool survives(const scenario_t *scenario, uint32_t operation, size_t first, size_t how_many, int error) {
    fault.operation = operation, fault.first = first, fault.how_many = how_many, fault.error = error;
    told->injected = 0;
    int result = run_in_child(run_child, (void *)(uintptr_t)scenario, 20);
    if (result == 0) return true;
    EXPECT(false, "%s: %s, call %zu%s, error %d: %s %d; replay '%s' %u %zu %zd %d", scenario->name,
           operations[operation].name, first, how_many == 1 ? "" : " and all later ones", error,
           result == HANGS ? "hangs, signal" : result > 256 ? "signal" : "exit", result > 256 ? result - 256 : result,
           scenario->name, operation, first, (ssize_t)how_many, error);
    return false;
}
/* Where a scenario's stdout and stderr go. */
static int printed;
static int run_printing(void *argument) {
    const scenario_t *scenario = argument;
    dup2(printed, STDOUT_FILENO);
    dup2(printed, STDERR_FILENO);
    if (scenario->mechanism) setenv("UNIMEM_FAULTS", scenario->mechanism, 1);
    tap.misses = TAP_MISSES_SHOWN; /* what is wrong was said elsewhere */
    run_scenario(scenario);
    _exit(0);
}
/* How many bytes a scenario prints while all calls of a kind fail; -1 where that cannot be told. */
static off_t bytes_printed(const scenario_t *scenario, uint32_t operation, int error) {
    char name[] = "/tmp/unimem-printed-XXXXXX";
    printed = mkstemp(name);
    if (printed < 0) return -1;
    unlink(name);
    fault.operation = operation, fault.first = 1, fault.how_many = error ? SIZE_MAX : 0, fault.error = error;
    int result = run_in_child(run_printing, (void *)(uintptr_t)scenario, 20);
    off_t size = lseek(printed, 0, SEEK_END);
    close(printed);
    return result == 0 ? size : -1;
}
static void prints_nothing(const scenario_t *scenario) {
    const struct { uint32_t operation; int error; } cases[] = {
        {MAP, 0}, {DEFECT, EINVAL}, {MAP, ENOMEM}, {WRITE, ENOSPC}, {START_THREAD, EAGAIN}};
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        off_t bytes = bytes_printed(scenario, cases[c].operation, cases[c].error);
        EXPECT(bytes == 0, "%s, operation %u fails with %d: %lld bytes printed", scenario->name, cases[c].operation,
               cases[c].error, (long long)bytes);
    }
}
/* A panic is an internal error of the call in which it happens, is told to the log, and leaves the library working. */
static void note_message(int level, const char *message, void *context) {
    if (level == 0 && strstr(message, "defect")) *(int *)context = 1;
}
static int meet_a_panic(void *argument) {
    int *noted = argument;
    unimem_set_log(note_message, noted);
    unimem_inject_faults(1u << DEFECT, 1, 1, EINVAL);
    bool refused = unimem_open(NULL) == NULL && unimem_last_error() == UNIMEM_ERROR_INTERNAL;
    unified_memory_interface_t *memory = unimem_open(NULL);
    return !(refused && *noted && memory && unimem_close(memory));
}
static int replay(char **arguments) {
    for (size_t s = 0; s < sizeof scenarios / sizeof scenarios[0]; s++) {
        if (strcmp(scenarios[s].name, arguments[0]) != 0) continue;
        fault.operation = (uint32_t)strtoul(arguments[1], NULL, 10);
        fault.first = strtoul(arguments[2], NULL, 10), fault.how_many = (size_t)strtol(arguments[3], NULL, 10);
        fault.error = (int)strtol(arguments[4], NULL, 10);
        return run_child((void *)(uintptr_t)&scenarios[s]) || tap.misses;
    }
    return 2;
}

/* Has each call of a scenario fail, with each error, in a run of its own: everywhere, or at `places` places for each kind of
 * call; then that call and all later ones, unless the error is a passing one. Returns how many runs had a fault. */
static size_t sweep(const scenario_t *scenario, size_t places) {
    size_t calls[OPERATIONS], runs = 0;
    if (!survives(scenario, MAP, 0, 0, 0)) return 0;
    memcpy(calls, told->calls, sizeof calls);
    for (uint32_t o = 0; o < OPERATIONS; o++) {
        for (const int *error = operations[o].errors; *error; error++) {
            for (size_t first = 1; first <= calls[o]; first += calls[o] / places + 1) {
                survives(scenario, o, first, 1, *error), runs += told->injected > 0;
                if (!is_passing(*error) && (places == SIZE_MAX || first == 1))
                    survives(scenario, o, first, SIZE_MAX, *error), runs += told->injected > 0;
            }
        }
    }
    EXPECT(runs > 0, "nothing was made to fail");
    return runs;
}

int main(int count, char **arguments) {
    bool full = count > 1 && strcmp(arguments[1], "full") == 0;
    const char *only = count > 2 ? arguments[2] : "";
    told = mmap(NULL, sizeof *told, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsetenv("UNIMEM_FAULTS");
    spill_to_memory();
    if (count == 7 && strcmp(arguments[1], "replay") == 0) return replay(arguments + 2);
    size_t runs = 0;
    for (size_t s = 0; s < sizeof scenarios / sizeof scenarios[0]; s++) {
        const scenario_t *scenario = &scenarios[s];
        if (!strstr(scenario->name, only)) continue;
        char name[120];
        snprintf(name, sizeof name, "%s: every call that fails is survived", scenario->name);
        if (run_in_child(has_mechanism, (void *)(uintptr_t)scenario, 20) != 0) SKIP(name, "this system does not have the mechanism");
        else TEST(name) {
            double began = seconds_now();
            size_t here = sweep(scenario, full ? SIZE_MAX : scaled(6));
            printf("# %s: %zu runs with a fault in %.1f s\n", scenario->name, here, seconds_now() - began);
            runs += here;
        }
    }
    printf("# %zu runs with a fault\n", runs);
    unsetenv("UNIMEM_LOG");
    int noted = 0;
    CHECK_EQ("a panic is an internal error of its call, and told to the log", (size_t)run_in_child(meet_a_panic, &noted, 10), 0);
    TEST("no scenario prints anything, neither with faults nor with panics at every call") {
        for (size_t s = 0; s < sizeof scenarios / sizeof scenarios[0]; s++)
            if (strstr(scenarios[s].name, only)) prints_nothing(&scenarios[s]);
    }
    return tap_done();
}
