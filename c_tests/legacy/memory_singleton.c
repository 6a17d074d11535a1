/* memory_singleton.c - stand-in for the legacy file of that name: a pointer, a count, a list of what is tracked. */
#include "unimem/memory_singleton.h"
#include <pthread.h>
#include <stdlib.h>
size_t legacy_singleton_calls(void);
size_t legacy_singleton_leaks(void);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static advanced_memory_system_t *global;
static size_t references, calls, leaks;
static struct tracked {
    struct tracked *next;
    void *ptr;
} *tracked;

static struct tracked **find(void *ptr) {
    struct tracked **at = &tracked;
    while (*at && (*at)->ptr != ptr)
        at = &(*at)->next;
    return at;
}

static bool forget(struct tracked **at) {
    struct tracked *found = *at;
    if (!found)
        return false;
    *at = found->next;
    free(found);
    return true;
}

advanced_memory_system_t *get_global_memory_system(void) {
    pthread_mutex_lock(&lock);
    advanced_memory_system_t *system = global;
    pthread_mutex_unlock(&lock);
    return system;
}

void register_memory_system(advanced_memory_system_t *system) {
    if (!system)
        return;
    pthread_mutex_lock(&lock);
    calls++;
    references++;
    if (!global)
        global = system;
    pthread_mutex_unlock(&lock);
}

void unregister_memory_system(advanced_memory_system_t *system) {
    pthread_mutex_lock(&lock);
    bool last = system && system == global && --references == 0;
    if (last)
        global = NULL;
    pthread_mutex_unlock(&lock);
    while (last && tracked) {
        leaks++;
        memory_free(system, tracked->ptr);
        forget(&tracked);
    }
}

bool track_memory_block(void *ptr) {
    pthread_mutex_lock(&lock);
    bool done = ptr && *find(ptr);
    struct tracked *entry = ptr && !done ? malloc(sizeof *entry) : NULL;
    if (entry) {
        *entry = (struct tracked){tracked, ptr};
        tracked = entry;
        done = true;
    }
    pthread_mutex_unlock(&lock);
    return done;
}

bool untrack_memory_block(void *ptr) {
    pthread_mutex_lock(&lock);
    bool done = forget(find(ptr));
    pthread_mutex_unlock(&lock);
    return done;
}

bool is_memory_block_tracked(void *ptr) {
    pthread_mutex_lock(&lock);
    bool found = *find(ptr);
    pthread_mutex_unlock(&lock);
    return found;
}

void *safe_memory_allocate(advanced_memory_system_t *system, size_t size, size_t alignment) {
    void *ptr = memory_allocate(system, size, alignment);
    if (ptr)
        track_memory_block(ptr);
    return ptr;
}

void safe_memory_free(advanced_memory_system_t *system, void *ptr) {
    if (system && untrack_memory_block(ptr))
        memory_free(system, ptr);
}

size_t legacy_singleton_calls(void) { return calls; }
size_t legacy_singleton_leaks(void) { return leaks; }
