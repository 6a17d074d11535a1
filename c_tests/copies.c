/* copies.c - loading and unloading: dlopen, dlclose and dlopen again, and several copies of libunimem in one
 * program.
 *
 *   copies LIBUNIMEM PLUGIN    paths of libunimem.so and of plugin.c as a shared library
 *
 * It is built three times: without libunimem, with the shared library and with the static one (LINKED). */
#define _GNU_SOURCE
#include "copies.h"

#include "support.h"

#include <dlfcn.h>

static const unified_pool_config_t tight = {.max_size = 2 * MIB, .enable_growth = true, .enable_streaming = true, .chunk_size = 64 * KIB};

static copy_t loaded(void *library) {
    copy_t copy;
#define COPY_LOOKUP(name) *(void **)&copy.name = dlsym(library, #name);
    COPY_FUNCTIONS(COPY_LOOKUP)
    return copy;
}

/* Plain blocks and tiered memory of one copy. */
typedef struct {
    const copy_t *copy;
    unified_memory_interface_t *memory;
    unsigned char *blocks[40];
    uint64_t *words;
} user_t;
enum { WORDS = 8 * MIB / sizeof(uint64_t) };

static void begin(user_t *user, const copy_t *copy) {
    *user = (user_t){.copy = copy, .memory = copy->unimem_open(&tight)};
    if (!user->memory) give_up("no instance");
    const char *wanted = getenv("UNIMEM_FAULTS");
    EXPECT(!wanted || strcmp(copy->unimem_fault_mechanism(), wanted) == 0, "faults are served by %s", copy->unimem_fault_mechanism());
    for (size_t i = 0; i < 40; i++) {
        user->blocks[i] = user->memory->allocate(1 + i * i * 7, 0);
        if (EXPECT(user->blocks[i], "no block")) pattern_fill(user->blocks[i], 0, 1 + i * i * 7, i);
    }
    user->words = user->memory->allocate_streaming(WORDS * sizeof(uint64_t), 0);
    for (size_t i = 0; EXPECT(user->words, "no tiered memory") && i < WORDS; i += 100) user->words[i] = ~i;
}
static bool holds(const user_t *user) {
    bool good = true;
    for (size_t i = 0; i < 40; i++) good &= pattern_holds(user->blocks[i], 0, 1 + i * i * 7, i) && user->copy->unimem_owns(user->blocks[i]);
    for (size_t i = 0; i < WORDS; i += 100) good &= user->words[i] == ~i;
    return good;
}
static void end(user_t *user) {
    EXPECT(holds(user), "contents");
    for (size_t i = 0; i < 40; i++) user->memory->free(user->blocks[i]);
    user->memory->free(user->words);
    EXPECT(user->copy->unimem_close(user->memory), "something was live at close");
}
static int child(void *both) {
    user_t *users = both;
    for (size_t u = 0; u < 2 && users[u].copy; u++) end(&users[u]);
    return 0;
}

#ifndef LINKED
/* A thread that fills its caches, waits until the library was closed, and exits. */
static pthread_barrier_t filled, closed;
static void *outlive(void *argument) {
    user_t *user = argument;
    for (size_t i = 0; i < 1000; i++) user->memory->free(user->memory->allocate(1 + i * 13, 0));
    pthread_barrier_wait(&filled);
    pthread_barrier_wait(&closed);
    return NULL;
}
static void test_again(const char *path) {
    TEST("dlclose while threads have caches and chunks move, dlopen again: it is still there, with all that lives") {
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!EXPECT(library, "%s", dlerror())) break;
        copy_t copy = loaded(library);
        user_t users[2] = {0};
        begin(&users[0], &copy);
        pthread_t threads[4];
        pthread_barrier_init(&filled, NULL, 5);
        pthread_barrier_init(&closed, NULL, 5);
        for (size_t i = 0; i < 4; i++) threads[i] = start_thread(outlive, &users[0]);
        pthread_barrier_wait(&filled);
        EXPECT(dlclose(library) == 0, "%s", dlerror());
        pthread_barrier_wait(&closed);
        for (size_t i = 0; i < 4; i++) pthread_join(threads[i], NULL);
        EXPECT(holds(&users[0]), "contents after dlclose");
        EXPECT(run_in_child(child, users, 60) == 0, "a child after dlclose");
        library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        copy_t again = loaded(library);
        EXPECT(memcmp(&again, &copy, sizeof copy) == 0, "other functions than before");
        EXPECT(holds(&users[0]), "contents after the second dlopen");
        end(&users[0]);
        dlclose(library);
    }
}

#else
/* Two copies work side by side, and each refuses what the other has made. */
static void test_two(const char *name, const copy_t *one, const copy_t *other) {
    TEST(name) {
        user_t users[2];
        begin(&users[0], one);
        begin(&users[1], other);
        EXPECT(one->unimem_open != other->unimem_open, "there is one copy, not two");
        for (size_t u = 0; u < 2; u++) {
            const copy_t *copy = users[1 - u].copy;
            unified_memory_interface_t *wrong = users[1 - u].memory;
            size_t refused = copy->unimem_refused_frees(wrong);
            for (size_t i = 0; i < 40; i++) wrong->free(users[u].blocks[i]);
            wrong->free(users[u].words);
            EXPECT(copy->unimem_refused_frees(wrong) == refused + 41, "%zu frees refused", copy->unimem_refused_frees(wrong) - refused);
            /* It is a double free where this copy had memory of its own before, and freed it. */
            unimem_error_t error = copy->unimem_last_error();
            EXPECT(error == UNIMEM_ERROR_NOT_OWNED || error == UNIMEM_ERROR_DOUBLE_FREE, "error %d", (int)error);
            EXPECT(!copy->unimem_owns(users[u].blocks[0]) && copy->unimem_usable_size(users[u].blocks[0]) == 0, "owned by both");
            EXPECT(wrong->realloc(users[u].blocks[1], 100) == NULL, "reallocated by the wrong one");
        }
        EXPECT(holds(&users[0]) && holds(&users[1]), "contents");
        EXPECT(run_in_child(child, users, 60) == 0, "a forked child");
        end(&users[1]);
        end(&users[0]);
    }
}

#endif

int main(int count, char **arguments) {
    if (count < 3) return 2;
#ifdef LINKED
    copy_t ours = {COPY_FUNCTIONS(COPY_ADDRESS)};
    void *plugin = dlopen(arguments[2], RTLD_NOW | RTLD_LOCAL);
    const copy_t *(*plugin_copy)(void);
    if (!CHECK("the plug-in is loaded", plugin)) return printf("# %s\n", dlerror()), tap_done();
    *(void **)&plugin_copy = dlsym(plugin, "plugin_copy");
    test_two("a program and a plug-in with a copy each", &ours, plugin_copy());
    if (LINKED == 2) {
        copy_t library = loaded(dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL));
        test_two("a program with the static library that loads the shared one", &ours, &library);
        test_two("a plug-in with the static library beside the shared one", plugin_copy(), &library);
    }
    TEST("a plug-in linked with -z nodelete may be closed") {
        user_t user;
        begin(&user, plugin_copy());
        EXPECT(dlclose(plugin) == 0, "%s", dlerror());
        end(&user);
    }
#else
    test_again(arguments[1]);
#endif
    return tap_done();
}
