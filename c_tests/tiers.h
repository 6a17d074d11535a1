/* tiers.h - what the tests of tiered memory share. A test program runs itself once for every fault mechanism, with
 * UNIMEM_FAULTS set, and collects what those runs report. */
#ifndef UNIMEM_TEST_TIERS_H
#define UNIMEM_TEST_TIERS_H

#include "support.h"

/* An instance with streaming memory, with a budget and a default size of chunks (0: none). */
static inline unified_memory_interface_t *open_with(size_t max_size, size_t chunk_size)
{
    return unimem_open(&(unified_pool_config_t){
        .max_size = max_size, .enable_growth = true, .enable_streaming = true, .chunk_size = chunk_size});
}

static inline unimem_residency_t residency_of(const void *memory)
{
    unimem_residency_t figures = {0};
    unimem_residency(memory, &figures);
    return figures;
}

/* Whether a program may touch memory that is not in place. With the mechanism "none" it has to acquire it. */
static inline bool serves_touches(void)
{
    return strcmp(unimem_fault_mechanism(), "none") != 0;
}

/* What is written to word i: no coder makes such words smaller. */
static inline uint64_t mix(uint64_t i)
{
    return random_next(&(random_t){i});
}

/* Runs this program with one mechanism, and reports that run's tests as this one's. */
static inline void run_with(const char *program, const char *mechanism)
{
    int ends[2];
    if (pipe(ends) != 0) abort();
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 1);
        close(ends[0]);
        close(ends[1]);
        setenv("UNIMEM_FAULTS", mechanism, 1);
        execl(program, program, "inside", (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    FILE *lines = fdopen(ends[0], "r");
    char line[512], name[600];
    bool done = false, available = true;
    while (fgets(line, sizeof line, lines)) {
        line[strcspn(line, "\n")] = 0;
        char *text = strstr(line, " - ");
        bool held = strncmp(line, "ok ", 3) == 0;
        done |= strncmp(line, "1..", 3) == 0;
        if (strcmp(line, "unavailable") == 0) available = false;
        else if (text && (held || strncmp(line, "not ok ", 7) == 0)) {
            snprintf(name, sizeof name, "%s: %s", mechanism, text + 3);
            tap_line(held, name, "");
        } else if (line[0] == '#') printf("%s\n", line);
    }
    fclose(lines);
    int result = child_result(child);
    snprintf(name, sizeof name, "%s: all tests ran", mechanism);
    if (!available) SKIP(name, "this system does not have it");
    else CHECK(name, done && (result == EXIT_SUCCESS || result == EXIT_FAILURE));
}

/* Whether this is built with the thread sanitizer, which gcc and clang announce in different ways. */
#if defined __SANITIZE_THREAD__
#define THREAD_SANITIZED 1
#elif defined __has_feature
#if __has_feature(thread_sanitizer)
#define THREAD_SANITIZED 1
#endif
#endif
#ifndef THREAD_SANITIZED
#define THREAD_SANITIZED 0
#endif

/* The main function. It calls `run` with every mechanism, or only with the one that is the first argument. `run`
 * ends with tap_done(). */
static inline int on_every_mechanism(int count, char **arguments, int (*run)(void))
{
    if (count > 1 && strcmp(arguments[1], "inside") == 0) {
        if (strcmp(unimem_fault_mechanism(), getenv("UNIMEM_FAULTS")) == 0) return run();
        puts("unavailable");
        return 0;
    }
    const char *mechanisms[] = {"userfaultfd", "userfaultfd-copy", "signal", "none"};
    for (size_t i = 0; i < sizeof mechanisms / sizeof *mechanisms; i++)
        if (count < 2 || strcmp(arguments[1], mechanisms[i]) == 0) run_with("/proc/self/exe", mechanisms[i]);
    return tap_done();
}

#endif
