/* process.h - threads, child processes, and what the system says about this process. */
#ifndef UNIMEM_TEST_PROCESS_H
#define UNIMEM_TEST_PROCESS_H

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tap.h"

/* Ends the program as a failure: without this the test would test nothing. */
static inline _Noreturn void give_up(const char *why) {
    printf("# %s\n", why);
    exit(EXIT_FAILURE);
}

/* ---- what the system says ---- */

/* The number of this process's descriptors plus a constant. Only differences between two counts mean something. */
static inline size_t open_files(void) {
    size_t count = 0;
    DIR *directory = opendir("/proc/self/fd");
    if (!directory) give_up("nobody tells how many files are open");
    while (readdir(directory)) count++;
    closedir(directory);
    return count;
}

/* Resident memory of this process that no file backs, in bytes. It is read from the page tables if the system offers
 * that. The system's counters are wrong by up to 64 pages for each processor, and pages of program text come and go
 * with the page cache. */
static inline size_t resident_bytes(void) {
    char line[256];
    unsigned long anonymous = 0, shared = 0, total = 0, resident = 0;
    int found = 0;
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    while (file && fgets(line, sizeof line, file))
        found += sscanf(line, "Anonymous: %lu", &anonymous) == 1 || sscanf(line, "Pss_Shmem: %lu", &shared) == 1;
    if (file) fclose(file);
    if (found == 2) return (size_t)(anonymous + shared) * 1024;
    file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%lu %lu", &total, &resident) != 2) give_up("nobody tells how much memory is resident");
    fclose(file);
    return (size_t)resident * (size_t)sysconf(_SC_PAGESIZE);
}

/* The number that a file begins with; 0 if there is none. */
static inline size_t number_in(const char *path) {
    size_t number = 0;
    FILE *file = fopen(path, "r");
    if (file && fscanf(file, "%zu", &number) != 1) number = 0;
    if (file) fclose(file);
    return number;
}

/* Has tiered memory spill to memory instead of a disk, where there is room for that: for tests whose subject is not the
 * disk, most of whose time would be waits for it. */
static inline void spill_to_memory(void) {
    struct statvfs room;
    if (getenv("UNIMEM_SPILL_DIR") || statvfs("/dev/shm", &room) != 0) return;
    if ((uint64_t)room.f_bavail * room.f_frsize > (uint64_t)1 << 30) setenv("UNIMEM_SPILL_DIR", "/dev/shm", 1);
}

/* What a file holds, as much of it as there is room for; empty if it cannot be read. */
static inline void read_text(const char *path, char *text, size_t size) {
    FILE *file = fopen(path, "r");
    size_t length = file ? fread(text, 1, size - 1, file) : 0;
    if (file) fclose(file);
    text[length] = 0;
}

/* A mapping of this process. */
typedef struct {
    uintptr_t from, to;
    bool of_file;
} mapping_t;

/* Lists the mappings of this process, the first `most` of them. Returns how many there are in all; 0 if that cannot be
 * told. */
static inline size_t list_mappings(mapping_t *list, size_t most) {
    size_t count = 0;
    char line[PATH_MAX + 200];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps)) {
        unsigned long from, to;
        if (count < most && sscanf(line, "%lx-%lx", &from, &to) == 2)
            list[count] = (mapping_t){from, to, strchr(line, '/') != NULL};
        count++;
    }
    if (maps) fclose(maps);
    return count;
}

/* ---- threads ---- */

static inline pthread_t start_thread(void *(*body)(void *), void *argument) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, body, argument) != 0) give_up("there is no thread");
    return thread;
}

/* Runs `count` threads, whose argument is their number from 1 on, until all have ended. */
static inline void run_threads(size_t count, void *(*body)(void *)) {
    enum { MOST_THREADS_AT_ONCE = 64 };
    pthread_t threads[MOST_THREADS_AT_ONCE];
    if (count > MOST_THREADS_AT_ONCE) abort();
    for (size_t i = 0; i < count; i++) threads[i] = start_thread(body, (void *)(i + 1));
    for (size_t i = 0; i < count; i++) pthread_join(threads[i], NULL);
}

/* Leaves the calling thread with a cancellation that waits: it takes effect at the thread's next cancellation point. */
static inline void cancel_self_later(void) {
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    pthread_cancel(pthread_self());
    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL);
}

/* ---- children, and what hangs ---- */

/* The seconds after which something hangs: as many as are said, times UNIMEM_TEST_PATIENCE if that is in the environment,
 * where the whole machine is slow (emulated_init.sh). */
static inline unsigned patience(unsigned seconds) {
    const char *text = getenv("UNIMEM_TEST_PATIENCE");
    unsigned times = text ? (unsigned)strtoul(text, NULL, 10) : 1;
    return seconds * (times ? times : 1);
}
/* Has this process end by a signal if it hangs; alarm(0) takes it back. */
static inline void end_after(unsigned seconds) { alarm(patience(seconds)); }

/* What a child returns where the system does not let it set up what it is to test. */
enum { UNAVAILABLE = 77 };

/* Waits for a child. Returns its exit status, or 256 plus the signal that ended it. */
static inline int child_result(pid_t child) {
    int status = 0;
    pid_t ended;
    while ((ended = waitpid(child, &status, 0)) < 0 && errno == EINTR) continue;
    if (child < 0 || ended != child) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

/* Runs `body` in a forked child, and ends the child after `seconds` by a signal that cannot be blocked. Returns its
 * result like child_result(); 1 instead of 0 if an EXPECT in it has failed. */
static inline int run_in_child(int (*body)(void *), void *argument, unsigned seconds) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct sigevent kill_it = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
        struct itimerspec when = {.it_value.tv_sec = patience(seconds)};
        timer_t timer;
        if (timer_create(CLOCK_MONOTONIC, &kill_it, &timer) != 0 || timer_settime(timer, 0, &when, NULL) != 0) _exit(121);
        tap_begin_child();
        int result = body(argument);
        fflush(stdout);
        _exit(result == 0 && tap.misses ? 1 : result);
    }
    return child_result(child);
}

/* A test in a child: `body` has to return 0, and its EXPECTs have to hold. It is skipped if `body` says UNAVAILABLE. */
static inline bool check_in_child(const char *name, int (*body)(void *), void *argument, unsigned seconds) {
    int result = run_in_child(body, argument, seconds);
    if (result == UNAVAILABLE) {
        tap_skip(name, "this system does not let the test set that up");
        return true;
    }
    if (result > 256) printf("# the child was ended by signal %d%s\n", result - 256, result == 256 + SIGKILL ? ": it hung" : "");
    else if (result != 0) printf("# the child returned %d\n", result);
    return tap_line(result == 0, name, "");
}

/* Runs this program anew, with one argument, and with one variable of the environment set unless `name` is NULL. Ends it
 * after `seconds`. What it prints goes to `text`, and is cut off there, unless that is NULL. Returns its result like
 * child_result(). */
static inline int run_anew(const char *argument, const char *name, const char *value, unsigned seconds, char *text, size_t size) {
    int ends[2];
    if (text && pipe(ends) != 0) return -1;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        end_after(seconds);
        if (text) {
            dup2(ends[1], STDOUT_FILENO);
            dup2(ends[1], STDERR_FILENO);
            close(ends[0]);
            close(ends[1]);
        }
        if (name) setenv(name, value, 1);
        execl("/proc/self/exe", "this program anew", argument, (char *)NULL);
        _exit(127);
    }
    if (text) {
        close(ends[1]);
        FILE *printed = fdopen(ends[0], "r");
        size_t length = printed ? fread(text, 1, size - 1, printed) : 0;
        text[length] = 0;
        if (printed) fclose(printed);
    }
    return child_result(child);
}

#endif
