/* test_environment.c - what the environment asks of the global instance and of the log. Each case runs this program
 * anew. */
#define _GNU_SOURCE
#include "unimem.h"

#include "support.h"

#include <fcntl.h>
#include <grp.h>
#include <sys/auxv.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

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
        /* One may be there by chance. Three in a row are not. */
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

/* Runs this program with one setting. What it printed goes to `text`. */
static int run_with(const char *name, const char *value, char *text, size_t size) {
    return run_anew("observe", name, value, 20, text, size);
}

/* The spill file of an instance whose tiered memory does not fit: in `directory`, without a name in it, for nobody else,
 * and not for programs that this one starts. */
static int spill_file_in(void *directory) {
    unified_pool_config_t config = {.max_size = MIB, .enable_growth = true, .enable_streaming = true};
    unified_memory_interface_t *memory = unimem_open(&config);
    char *bytes = memory->allocate_streaming(4 * MIB, 64 * KIB);
    for (size_t i = 0; bytes && i < 4 * MIB; i += 4096) bytes[i] = 1;
    size_t files = 0, wrong = 0;
    for (int file = 3; file < 100; file++) {
        char link[64], name[4096] = "";
        struct stat status;
        snprintf(link, sizeof link, "/proc/self/fd/%d", file);
        if (readlink(link, name, sizeof name - 1) < 0 || strncmp(name, directory, strlen(directory)) != 0 ||
            fstat(file, &status) != 0)
            continue;
        files++;
        wrong += !S_ISREG(status.st_mode) || (status.st_mode & 07777) != 0600 || status.st_nlink != 0 ||
                 !(fcntl(file, F_GETFD) & FD_CLOEXEC);
    }
    DIR *listing = opendir(directory);
    for (struct dirent *entry; listing && (entry = readdir(listing));) wrong += strncmp(entry->d_name, ".unimem", 7) == 0;
    if (listing) closedir(listing);
    EXPECT(bytes && files > 0 && wrong == 0, "%zu files in %s, %zu of them wrong", files, (char *)directory, wrong);
    return 0;
}
/* Where spill files cannot be made the error says why, however long the name of the place: the name is what is cut. */
static int says_why_not(void *unused) {
    (void)unused;
    static char name[3000] = "/nonexistent/";
    memset(name + 13, 'x', sizeof name - 14);
    setenv("UNIMEM_SPILL_DIR", name, 1);
    unified_memory_interface_t *memory = unimem_open(&(unified_pool_config_t){.max_size = MIB, .enable_growth = true, .enable_streaming = true});
    char *bytes = memory->allocate_streaming(16 * MIB, 64 * KIB);
    const char *why = strerror(ENOENT);
    for (size_t i = 0; bytes && i < 16 * MIB / (64 * KIB) && unimem_chunk_acquire(bytes, i, UNIMEM_OVERWRITE); i++) {
        memset(bytes + i * 64 * KIB, (int)i * 131 + 7, 64 * KIB);
        unimem_chunk_release(bytes, i);
    }
    EXPECT(unimem_last_error() == UNIMEM_ERROR_IO && strstr(unimem_last_error_message(), why), "error %d: %s", (int)unimem_last_error(),
           unimem_last_error_message());
    return 0;
}
static void test_spill_directory(void) {
    check_in_child("where spill files cannot be, the error says why", says_why_not, NULL, 20);
    char first[] = "/var/tmp/unimem-first-XXXXXX", second[] = "/var/tmp/unimem-second-XXXXXX";
    if (!CHECK("two directories", mkdtemp(first) && mkdtemp(second))) return;
    mode_t before = umask(0);
    setenv("UNIMEM_SPILL_DIR", first, 1);
    setenv("TMPDIR", second, 1);
    check_in_child("spill files are in UNIMEM_SPILL_DIR, without a name, mode 0600", spill_file_in, first, 20);
    setenv("UNIMEM_SPILL_DIR", "", 1);
    check_in_child("else in TMPDIR", spill_file_in, second, 20);
    unsetenv("UNIMEM_SPILL_DIR");
    unsetenv("TMPDIR");
    static char last[] = "/var/tmp/";
    check_in_child("else in /var/tmp", spill_file_in, last, 20);
    umask(before);
    CHECK("nothing is left behind", rmdir(first) == 0 && rmdir(second) == 0);
}

/* What a program with more rights than its user sees, if the system says that it is one. */
static int observe_with_more_rights(void) { return getauxval(AT_SECURE) ? observe() : UNAVAILABLE; }
/* Whoever starts a program that has more rights than himself chooses its environment. So that must not say which files the
 * program writes, nor anything else. */
static int starts_one_with_more_rights(void *unused) {
    (void)unused;
    enum { NOBODY = 65534 };
    char directory[] = "/var/tmp/unimem-rights-XXXXXX", program[64], trace[64], report[64];
    if (geteuid() != 0 || !mkdtemp(directory)) return UNAVAILABLE;
    snprintf(program, sizeof program, "%s/program", directory);
    snprintf(trace, sizeof trace, "%s/trace", directory);
    snprintf(report, sizeof report, "%s/report", directory);
    int from = open("/proc/self/exe", O_RDONLY), to = open(program, O_WRONLY | O_CREAT | O_EXCL, 0755);
    struct stat size;
    bool copied = fstat(from, &size) == 0 && sendfile(to, from, NULL, (size_t)size.st_size) == size.st_size;
    close(from);
    close(to);
    pid_t child = -1;
    if (copied && chmod(program, 04755) == 0 && chmod(directory, 0755) == 0 && (child = fork()) == 0) {
        end_after(20);
        setenv("UNIMEM_TRACE", trace, 1);
        setenv("UNIMEM_DEBUG", "1", 1);
        setenv("UNIMEM_DEBUG_REPORT", report, 1);
        setenv("UNIMEM_MAX_SIZE", "16M", 1);
        if (setgroups(0, NULL) != 0 || setgid(NOBODY) != 0 || setuid(NOBODY) != 0) _exit(UNAVAILABLE);
        execl(program, "program", "observe with more rights", (char *)NULL);
        _exit(UNAVAILABLE);
    }
    int seen = child > 0 ? child_result(child) : UNAVAILABLE;
    EXPECT(access(trace, F_OK) != 0, "a recording was made");
    EXPECT(access(report, F_OK) != 0, "a report was written");
    EXPECT(seen == UNAVAILABLE || (seen & BEYOND_16_MIB), "the program saw %d", seen);
    const char *const made[] = {program, trace, report};
    for (size_t i = 0; i < 3; i++) unlink(made[i]);
    EXPECT(rmdir(directory) == 0, "something was left in %s", directory);
    return seen == UNAVAILABLE ? UNAVAILABLE : 0;
}

/* The global instance's chunks and tolerance, as the environment says. */
static int chunk_and_tolerance(void *unused) {
    (void)unused;
    setenv("UNIMEM_CHUNK_SIZE", "128K", 1);
    setenv("UNIMEM_TOLERANCE", "0.25", 1);
    unified_memory_interface_t *memory = unimem_global();
    float *exact = memory->allocate_streaming(MIB, 0), *rough = memory->allocate_hierarchical(MIB, -1);
    if (!exact || !rough || unimem_chunk_size(exact) != 128 * KIB || unimem_chunk_size(rough) != 128 * KIB) return 1;
    size_t changed = 0, wrong = 0;
    for (size_t i = 0; i < MIB / 4; i++) exact[i] = rough[i] = (float)i * 0.37f;
    unimem_advise(exact, UNIMEM_DONT_NEED);
    unimem_advise(rough, UNIMEM_DONT_NEED);
    for (size_t i = 0; i < MIB / 4; i++) {
        double difference = (double)rough[i] - (double)((float)i * 0.37f);
        changed += difference != 0;
        wrong += difference > 0.25 || difference < -0.25 || exact[i] != (float)i * 0.37f;
    }
    EXPECT(wrong == 0 && changed > 0, "%zu elements are wrong, %zu are not as they were", wrong, changed);
    return 0;
}

int main(int count, char **arguments) {
    if (count > 1 && strcmp(arguments[1], "observe") == 0) return observe();
    if (count > 1 && strcmp(arguments[1], "observe with more rights") == 0) return observe_with_more_rights();
    check_in_child("a program that has more rights than its user reads none of it", starts_one_with_more_rights, NULL, 30);
    check_in_child("UNIMEM_CHUNK_SIZE and UNIMEM_TOLERANCE hold for the global instance", chunk_and_tolerance, NULL, 20);
    test_spill_directory();
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
    setenv("UNIMEM_MAX_SIZE", "16M", 1);
    CHECK("a tolerance below 0 is as good as none, and leaves the other settings alone",
          run_with("UNIMEM_TOLERANCE", "-1", text, sizeof text) == (plain & ~BEYOND_16_MIB));
    CHECK("more made ready than the limit is the limit made ready",
          run_with("UNIMEM_INITIAL_SIZE", "17M", text, sizeof text) == ((plain & ~BEYOND_16_MIB) | READY));
    unsetenv("UNIMEM_MAX_SIZE");
    run_with("UNIMEM_LOG", "warning", text, sizeof text);
    if (!CHECK("UNIMEM_LOG=warning: a refused free is told on stderr, with the reason",
               strstr(text, "unimem") && strstr(text, "free refused: ") && strstr(text, "is not memory of libunimem") &&
                   text[strlen(text) - 1] == '\n'))
        printf("# printed '%s'\n", text);
    setenv("UNIMEM_LOG", "warning", 1);
    run_with("UNIMEM_CHUNK_SIZE", "64K\xE9", text, sizeof text);
    if (!CHECK("a setting that is no text is told of too", strstr(text, "UNIMEM_CHUNK_SIZE=64K\\xe9 is not understood")))
        printf("# printed '%s'\n", text);
    unsetenv("UNIMEM_LOG");
    run_with("UNIMEM_LOG", "error", text, sizeof text);
    if (debug_mode(NULL)) SKIP("UNIMEM_LOG=error: a warning is not", "to debug mode a refused free is an error");
    else if (!CHECK("UNIMEM_LOG=error: a warning is not", text[0] == 0)) printf("# printed '%s'\n", text);
    return tap_done();
}
