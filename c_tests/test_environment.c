/* The environment: what it asks of the global instance and of the log. Each case is this program run anew. */
#define _GNU_SOURCE
#include "unimem.h"

#include "support.h"
#include "tap.h"

#include <errno.h>

/* What the program sees of the library, as bits of its exit status. */
enum { ALLOCATES = 1, BEYOND_16_MIB = 2, HUGE_PLACEMENT = 4, STREAMS = 8, READY = 16 };

static int observe(void) {
    unified_memory_interface_t *memory = unimem_global();
    if (!memory) return 0;
    int seen = unimem_held_bytes(memory) >= 8 * MIB ? READY : 0;
    void *small = memory->allocate(1000, 0), *middle = memory->allocate(3 * MIB, 0),
         *large = memory->allocate(32 * MIB, 0);
    void *stream = memory->allocate_streaming(100000, 0);
    if (small && middle) seen |= ALLOCATES;
    if (large) seen |= BEYOND_16_MIB;
    if (middle && is_aligned(middle, 2 * MIB)) {
        /* By chance too: three in a row are not. */
        void *more[2] = {memory->allocate(2 * MIB + 5000, 0), memory->allocate(2 * MIB + 9000, 0)};
        if (more[0] && more[1] && is_aligned(more[0], 2 * MIB) && is_aligned(more[1], 2 * MIB)) seen |= HUGE_PLACEMENT;
        memory->free(more[0]);
        memory->free(more[1]);
    }
    if (stream) seen |= STREAMS;
    memory->free(small);
    memory->free(middle);
    memory->free(large);
    memory->free(stream);
    memory->free(opaque(&seen)); /* a warning for the log */
    return seen;
}

/* Runs this program with one setting; what it printed goes to `text`. */
static int run_with(const char *name, const char *value, char *text, size_t size) {
    int ends[2];
    if (pipe(ends) != 0) return -1;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(20);
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        if (name) setenv(name, value, 1);
        execl("/proc/self/exe", "test_environment", "observe", (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    size_t used = 0;
    for (;;) {
        ssize_t got = read(ends[0], text + used, size - 1 - used);
        if (got > 0)
            used += (size_t)got;
        else if (got == 0 || errno != EINTR)
            break;
    }
    text[used] = 0;
    close(ends[0]);
    return child_result(child);
}

int main(int count, char **arguments) {
    if (count > 1 && strcmp(arguments[1], "observe") == 0) return observe();
    static const char *const settings[] = {"UNIMEM_INITIAL_SIZE", "UNIMEM_MAX_SIZE",  "UNIMEM_CHUNK_SIZE",
                                           "UNIMEM_GEOMETRIC",    "UNIMEM_STREAMING", "UNIMEM_TOLERANCE",
                                           "UNIMEM_LOG"};
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) unsetenv(settings[i]);
    char text[4096];
    int plain = run_with(NULL, NULL, text, sizeof text);
    CHECK("without settings: the global instance allocates without a limit",
          plain >= 0 && plain < 32 && (plain & (ALLOCATES | BEYOND_16_MIB | READY)) == (ALLOCATES | BEYOND_16_MIB));
    CHECK("without settings: nothing is printed", text[0] == 0);
    const struct {
        const char *what, *name, *value;
        int expected;
    } cases[] = {
        {"UNIMEM_MAX_SIZE caps the global instance", "UNIMEM_MAX_SIZE", "16M", plain & ~BEYOND_16_MIB},
        {"UNIMEM_MAX_SIZE in bytes", "UNIMEM_MAX_SIZE", "16777216", plain & ~BEYOND_16_MIB},
        {"UNIMEM_MAX_SIZE of 1 GiB is no hindrance", "UNIMEM_MAX_SIZE", "1G", plain},
        {"UNIMEM_INITIAL_SIZE makes memory ready", "UNIMEM_INITIAL_SIZE", "8M", plain | READY},
        {"UNIMEM_STREAMING=0 turns streaming off", "UNIMEM_STREAMING", "0", plain & ~STREAMS},
        {"UNIMEM_STREAMING=1 turns it on", "UNIMEM_STREAMING", "1", plain | STREAMS},
        {"UNIMEM_GEOMETRIC=1 places big blocks at 2 MiB", "UNIMEM_GEOMETRIC", "1", plain | HUGE_PLACEMENT},
        {"a setting that is nonsense is as good as none", "UNIMEM_MAX_SIZE", "much", plain},
        {"an empty setting is as good as none", "UNIMEM_MAX_SIZE", "", plain},
        {"a negative size is as good as none", "UNIMEM_MAX_SIZE", "-5", plain},
        {"a size that overflows is as good as none", "UNIMEM_MAX_SIZE", "99999999999999T", plain},
        {"a tolerance that is no number is as good as none", "UNIMEM_TOLERANCE", "nan", plain},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int seen = run_with(cases[i].name, cases[i].value, text, sizeof text);
        if (!CHECK(cases[i].what, seen == cases[i].expected && text[0] == 0))
            printf("# %s=%s: saw %d, expected %d; printed '%s'\n", cases[i].name, cases[i].value, seen,
                   cases[i].expected, text);
    }
    run_with("UNIMEM_LOG", "warning", text, sizeof text);
    if (!CHECK("UNIMEM_LOG=warning: a refused free is told on stderr",
               strstr(text, "unimem") && text[strlen(text) - 1] == '\n'))
        printf("# printed '%s'\n", text);
    run_with("UNIMEM_LOG", "error", text, sizeof text);
    if (!CHECK("UNIMEM_LOG=error: a warning is not", text[0] == 0)) printf("# printed '%s'\n", text);
    return tap_done();
}
