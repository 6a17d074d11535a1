/* A tiny writer of the Test Anything Protocol: named checks, one line each, the plan at the end.
 *
 *   CHECK("freed memory is not owned", !unimem_owns(p));         one condition
 *   CHECK_EQ("one block is live", stats.num_allocations, 1);     two sizes; both are shown when they differ
 *   TEST("every bad alignment is refused") {                     many conditions under one name
 *       for (...) EXPECT(p == NULL, "allocate(64, %zu) gave %p, expected NULL", alignment, p);
 *   }
 *   SKIP("pool on two nodes", "this machine has one node");
 *   return tap_done();                                           prints the plan; 0 only if everything held
 *
 * EXPECT may be called from any thread. What it finds outside of a TEST is a failure with a line of its own. A TEST must
 * run to its closing brace: leaving it early is a failure.
 */
#ifndef UNIMEM_TAP_H
#define UNIMEM_TAP_H

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

static struct {
    pthread_mutex_t lock;
    const char *name;     /* of the TEST that is running, or NULL */
    unsigned long number; /* lines printed so far */
    unsigned long failed;
    unsigned long misses; /* EXPECTs that failed in the TEST that is running, or since the last one */
} tap = {PTHREAD_MUTEX_INITIALIZER, NULL, 0, 0, 0};

enum { TAP_MISSES_SHOWN = 5 };

static inline bool tap_line(bool held, const char *name, const char *directive) {
    tap.number++;
    tap.failed += !held;
    printf("%s %lu - %s%s\n", held ? "ok" : "not ok", tap.number, name, directive);
    fflush(stdout);
    return held;
}

static inline bool tap_end(void) {
    const char *name = tap.name;
    tap.name = NULL;
    if (tap.misses > TAP_MISSES_SHOWN) printf("# ... and %lu more\n", tap.misses - TAP_MISSES_SHOWN);
    tap_line(tap.misses == 0, name, "");
    tap.misses = 0;
    return false;
}

/* Ends what came before a TEST, or the end of the program: a TEST that was left, or EXPECTs that failed outside of one. */
static inline void tap_settle(void) {
    if (tap.name) {
        tap.misses++;
        printf("# the test was left before its end\n");
        tap_end();
    } else if (tap.misses) {
        tap.name = "what is expected outside of the tests";
        tap_end();
    }
}

static inline bool tap_begin(const char *name) {
    tap_settle();
    tap.name = name;
    tap.misses = 0;
    return true;
}

/* Begins a forked child, whose EXPECTs are counted apart from its parent's. */
static inline void tap_begin_child(void) {
    tap.name = NULL;
    tap.misses = 0;
}

/* Keeps compilers from warning that the result of an EXPECT is not used. */
static inline bool tap_held(bool held) { return held; }

/* Reports an EXPECT that failed. */
__attribute__((format(printf, 3, 4))) static inline bool tap_expect(const char *file, int line, const char *format, ...) {
    va_list arguments;
    pthread_mutex_lock(&tap.lock);
    if (tap.misses++ < TAP_MISSES_SHOWN) {
        printf("# %s:%d: ", file, line);
        va_start(arguments, format);
        vprintf(format, arguments);
        va_end(arguments);
        putchar('\n');
        fflush(stdout);
    }
    pthread_mutex_unlock(&tap.lock);
    return false;
}

static inline bool tap_check(bool held, const char *name, const char *file, int line, const char *condition) {
    if (!held) printf("# %s:%d: expected %s\n", file, line, condition);
    return tap_line(held, name, "");
}

static inline bool tap_check_equal(size_t got, size_t expected, const char *name, const char *file, int line,
                                   const char *what) {
    if (got != expected) printf("# %s:%d: %s is %zu, expected %zu\n", file, line, what, got, expected);
    return tap_line(got == expected, name, "");
}

static inline void tap_skip(const char *name, const char *reason) {
    char directive[256];
    snprintf(directive, sizeof directive, " # SKIP %s", reason);
    tap_line(true, name, directive);
}

static inline int tap_done(void) {
    tap_settle();
    printf("1..%lu\n", tap.number);
    if (tap.failed) printf("# %lu of %lu failed\n", tap.failed, tap.number);
    fflush(stdout);
    return tap.failed == 0 && tap.number > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#define CHECK(name, condition) tap_check((condition), (name), __FILE__, __LINE__, #condition)
#define CHECK_EQ(name, got, expected) tap_check_equal((got), (expected), (name), __FILE__, __LINE__, #got)
#define TEST(name) for (bool tap_running = tap_begin(name); tap_running; tap_running = tap_end())
/* The message's arguments are evaluated after the condition, so they may ask why it does not hold. */
#define EXPECT(condition, ...) tap_held((condition) || tap_expect(__FILE__, __LINE__, __VA_ARGS__))
#define SKIP(name, reason) tap_skip((name), (reason))

#endif
