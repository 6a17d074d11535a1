/* preloaded.c - a program that knows nothing of libunimem; preloaded.sh runs it with libunimem as its malloc. It
 * checks what malloc promises. With the argument "ours" it also checks that the blocks are libunimem's. */
#define _GNU_SOURCE
#include "support.h"

#include <dlfcn.h>
#include <malloc.h>
#include <sys/resource.h>

enum { THREADS = 4, BLOCKS = 20000 };

static pthread_key_t late_key;
/* Runs in several rounds, and so also after the library's record of the thread is gone. */
static void late(void *block) {
    static _Thread_local int round;
    free(block);
    if (++round < 3) pthread_setspecific(late_key, malloc(1000));
}

static void *churn(void *argument) {
    random_t random = {(uintptr_t)argument};
    static void *shared[64];
    unsigned char **blocks = calloc(256, sizeof *blocks);
    pthread_setspecific(late_key, malloc(100));
    for (int i = 0; blocks && i < BLOCKS; i++) {
        size_t at = random_below(&random, 256), size = 1 + random_below(&random, 4096);
        if (blocks[at] && blocks[at][0] != (unsigned char)at) return NULL;
        blocks[at] = realloc(blocks[at], size);
        if (!blocks[at]) return NULL;
        blocks[at][0] = (unsigned char)at;
        free(__atomic_exchange_n(&shared[at & 63], malloc(size), __ATOMIC_ACQ_REL));
    }
    for (int i = 0; blocks && i < 256; i++) free(blocks[i]);
    free(blocks);
    return argument;
}

static size_t zeroed(size_t count, size_t size) {
    unsigned char *block = calloc(count, size);
    size_t wrong = !block;
    for (size_t i = 0; block && i < count * size; i++) wrong += block[i] != 0;
    if (block) memset(block, 0xAA, count * size);
    free(block);
    return wrong;
}

static void check_promises(void) {
    void *one = malloc(0), *other = malloc(0);
    CHECK("malloc(0) gives blocks of their own", one && other && one != other);
    free(one), free(other);
    size_t wrong = 0;
    for (int round = 0; round < 3; round++)
        for (size_t size = 1; size <= (size_t)8 << 20; size *= 2) wrong += zeroed(size, 1);
    CHECK("calloc zeroes memory that was used before", wrong == 0);
    volatile size_t huge = SIZE_MAX / 2;
    errno = 0;
    CHECK("calloc: a product that overflows is NULL, ENOMEM", !calloc(huge, 3) && errno == ENOMEM);
    errno = 0;
    CHECK("reallocarray: the same", !reallocarray(NULL, huge, 3) && errno == ENOMEM);
    errno = 0;
    CHECK("malloc: what no machine has is NULL, ENOMEM", !malloc(huge) && errno == ENOMEM);
    wrong = 0;
    for (size_t alignment = 8; alignment <= (size_t)1 << 22; alignment *= 2) {
        void *block = NULL;
        wrong += posix_memalign(&block, alignment, 100) || (uintptr_t)block % alignment;
        free(block);
        block = aligned_alloc(alignment, alignment * 3);
        wrong += !block || (uintptr_t)block % alignment || malloc_usable_size(block) < alignment * 3;
        free(block);
    }
    CHECK("posix_memalign, aligned_alloc: every power of two", wrong == 0);
    void *untouched = &wrong;
    CHECK("posix_memalign: EINVAL changes nothing",
          posix_memalign(&untouched, 24, 8) == EINVAL && posix_memalign(&untouched, 4, 8) == EINVAL && untouched == &wrong);
    void *paged = valloc(10), *pages = pvalloc(10);
    CHECK("valloc, pvalloc: whole pages", paged && pages && (uintptr_t)paged % 4096 == 0 && malloc_usable_size(pages) >= 4096);
    errno = 77;
    free(paged), free(pages), free(NULL);
    for (size_t size = 1; size <= (size_t)64 << 20; size *= 4) free(malloc(size));
    CHECK("malloc and free keep errno", errno == 77);
    char *text = malloc(10);
    if (text) memcpy(text, "contents", 9);
    for (size_t size = 10; text && size < (size_t)32 << 20; size = size * 3 / 2) text = realloc(text, size);
    text = text ? realloc(text, 9) : NULL;
    CHECK("realloc: contents stay through growing and shrinking", text && strcmp(text, "contents") == 0);
    CHECK("realloc: failure leaves the block", text && !realloc(text, huge) && strcmp(text, "contents") == 0);
    free(text);
}

static void check_threads(void) {
    pthread_t threads[THREADS];
    size_t failed = (size_t)pthread_key_create(&late_key, late);
    for (int round = 0; round < 20; round++) {
        void *result;
        for (uintptr_t t = 0; t < THREADS; t++) threads[t] = start_thread(churn, (void *)(t + 1));
        for (size_t t = 0; t < THREADS; t++) failed += pthread_join(threads[t], &result) != 0 || !result;
        pid_t child = fork();
        if (child == 0) _exit(churn((void *)9) ? 0 : 1);
        failed += child_result(child) != 0;
    }
    CHECK("threads share, end and leave blocks to each other, processes fork: contents stay whole", failed == 0);
}

static void *at_start;
__attribute__((constructor)) static void before_main(void) { at_start = malloc(50); }
__attribute__((destructor)) static void after_main(void) { free(at_start); }

/* Listing the blocks of one heap holds its locks. So it must ask malloc, which is this library too, for nothing meanwhile. */
static void check_leaks(void) {
    enum { LIVE = 200000 };
    void *open = dlsym(RTLD_DEFAULT, "unimem_open"), *report = dlsym(RTLD_DEFAULT, "unimem_report_leaks");
    unified_memory_interface_t *(*open_one)(const unified_pool_config_t *);
    size_t (*report_leaks)(unified_memory_interface_t *, unimem_leak_callback_t, void *);
    memcpy(&open_one, &open, sizeof open);
    memcpy(&report_leaks, &report, sizeof report);
    unified_memory_interface_t *memory = open_one(NULL);
    size_t made = 0;
    while (made < LIVE && memory->allocate(32, 0)) made++;
    struct rlimit none;
    getrlimit(RLIMIT_AS, &none);
    none.rlim_cur = 0;
    setrlimit(RLIMIT_AS, &none);
    end_after(20);
    CHECK("without memory for a list leaks are counted all the same", made == LIVE && report_leaks(memory, NULL, NULL) == LIVE);
}

int main(int count, char **arguments) {
    if (count > 1 && strcmp(arguments[1], "capped") == 0) { /* UNIMEM_MAX_SIZE=64M */
        errno = 0;
        CHECK("more than the cap is NULL, ENOMEM", !malloc((size_t)100 << 20) && errno == ENOMEM);
        CHECK("less than the cap is there", malloc((size_t)20 << 20));
        return tap_done();
    }
    if (count > 1 && strcmp(arguments[1], "leaks") == 0) {
        check_leaks();
        return tap_done();
    }
    CHECK("a constructor's block lives", at_start && malloc_usable_size(at_start) >= 50);
    check_promises();
    check_threads();
    if (count > 1 && strcmp(arguments[1], "ours") == 0) {
        void *none = NULL;
        errno = 77;
        CHECK("posix_memalign: ENOMEM is told by its result alone",
              posix_memalign(&none, 64, (size_t)1 << 60) == ENOMEM && !none && errno == 77);
        bool (*owns)(const void *);
        void *found = dlsym(RTLD_DEFAULT, "unimem_owns"), *block = malloc(33);
        memcpy(&owns, &found, sizeof owns);
        CHECK("the blocks are libunimem's", found && owns(block) && owns(at_start) && malloc_usable_size(block) == 33);
        int local = 0;
        void *volatile wrong[] = {&local, (char *)block + 8};
        free(wrong[0]), free(wrong[1]);
        CHECK("free ignores what is no block", owns(block));
        free(block);
        void *volatile again = block;
        free(again);
        CHECK("and a second free", !owns(again));
    }
    return tap_done();
}
