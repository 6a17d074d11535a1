/* test_tree_threads.c - the threads that help with contractions: how many there are, and on which processors they
 * may run. */
#define _GNU_SOURCE
#include <sched.h>

#include "support.h"
#include "unimem/tree_tensor_network.h"

enum { SIDE = 256, MOST_HELPERS = 1024 };

/* The library's own threads. */
static size_t helpers(pid_t *threads) {
    size_t count = 0;
    DIR *directory = opendir("/proc/self/task");
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        char path[300], name[32] = "";
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", entry->d_name);
        FILE *file = fopen(path, "r");
        if (file && fgets(name, sizeof name, file) && strcmp(name, "unimem\n") == 0 && count < MOST_HELPERS)
            threads[count++] = (pid_t)atoi(entry->d_name);
        if (file) fclose(file);
    }
    if (directory) closedir(directory);
    return count;
}
static cpu_set_t processors_of(pid_t thread) {
    cpu_set_t set;
    CPU_ZERO(&set);
    sched_getaffinity(thread, sizeof set, &set);
    return set;
}
static bool place(pid_t thread, int processor) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    return sched_setaffinity(thread, sizeof set, &set) == 0;
}

/* Looks, while a product is under way, whether the library's threads are kept off the caller's processor. */
static struct { pid_t threads[MOST_HELPERS]; size_t found, looks, kept_off; int processors, caller; } seen;
static bool look(double done, double total, void *context) {
    (void)done, (void)total, (void)context;
    seen.looks++;
    for (size_t i = 0; i < seen.found; i++) {
        cpu_set_t there = processors_of(seen.threads[i]);
        seen.kept_off += CPU_COUNT(&there) == seen.processors - 1 && !CPU_ISSET(seen.caller, &there);
    }
    return true;
}

/* A product worth sharing: of a matrix of ones with one of twos. */
static bool multiplies(void) {
    static ComplexFloat ones[SIDE * SIDE], twos[SIDE * SIDE];
    for (size_t i = 0; i < SIDE * SIDE; i++) ones[i].real = 1, twos[i].real = 2;
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, SIDE, 1e-6);
    size_t sizes[] = {SIDE, SIDE};
    tree_tensor_node_t *a = add_tree_tensor_node(ttn, ones, sizes, 2, false), *b = add_tree_tensor_node(ttn, twos, sizes, 2, false);
    tree_tensor_node_t *product = NULL;
    bool right = a && b && unimem_set_progress(ttn, look, NULL) && contract_tree_tensor_nodes(ttn, a, b, &product);
    for (size_t i = 0; right && i < SIDE * SIDE; i++) right = product->data[i].real == 2.0f * SIDE && product->data[i].imag == 0;
    destroy_tree_tensor_network(ttn);
    return right;
}

/* A child that is forked in the middle of a product has none of the threads that are at it. */
static pid_t child;
static size_t children;
static bool fork_once(double done, double total, void *context) {
    (void)context;
    if (done > 0 && done < total && child < 0) {
        if ((child = fork()) == 0) end_after(60);
        return child >= 0;
    }
    return true;
}
static bool forks_inside(void) {
    static ComplexFloat zeroes[4 * SIDE * SIDE];
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, 2 * SIDE, 1e-6);
    size_t sizes[] = {2 * SIDE, 2 * SIDE};
    tree_tensor_node_t *a = add_tree_tensor_node(ttn, zeroes, sizes, 2, false), *b = add_tree_tensor_node(ttn, zeroes, sizes, 2, false);
    tree_tensor_node_t *product = NULL;
    child = -1;
    bool made = unimem_set_progress(ttn, fork_once, NULL) && contract_tree_tensor_nodes(ttn, a, b, &product);
    if (child == 0) {
        /* The child has done the rest of the product alone, or was refused; its next product works. */
        bool right = made || unimem_last_error() == UNIMEM_ERROR_UNSUPPORTED;
        _exit(!(right && unimem_set_progress(ttn, NULL, NULL) && contract_tree_tensor_nodes(ttn, a, b, &product)));
    }
    /* There is no child where the product was done before it was told of any middle. */
    int result = child < 0 ? 0 : child_result(child);
    if (result != 0) printf("# made %d, the child ended with %d\n", made, result);
    children += child > 0;
    destroy_tree_tensor_network(ttn);
    return made && result == 0;
}

/* Two threads close one stream at the same time, then destroy its network: once each is done, the other is refused. Whether
 * one of them looks at what the other has freed is seen by `make sanitize`. */
static struct { pthread_barrier_t begin; tree_tensor_network_t *ttn; tensor_stream_t *stream; } shared;
static void *destroys(void *unused) {
    (void)unused;
    pthread_barrier_wait(&shared.begin);
    destroy_tensor_stream(shared.stream);
    pthread_barrier_wait(&shared.begin);
    destroy_tree_tensor_network(shared.ttn);
    return NULL;
}
static bool destroyed_by_two(size_t rounds) {
    static ComplexFloat ones[4];
    size_t sizes[] = {2, 2};
    pthread_barrier_init(&shared.begin, NULL, 2);
    bool right = true;
    for (size_t round = 0; right && round < rounds; round++) {
        shared.ttn = create_tree_tensor_network(0, 2, 1e-6);
        tree_tensor_node_t *node = add_tree_tensor_node(shared.ttn, ones, sizes, 2, false);
        shared.stream = create_tensor_stream(shared.ttn, node, 16);
        right = node && shared.stream;
        if (!right) break;
        pthread_t other = start_thread(destroys, NULL);
        destroys(NULL);
        pthread_join(other, NULL);
        right = !add_tree_tensor_node(shared.ttn, ones, sizes, 2, false);
    }
    return right;
}

static int on_one_processor(void *first) {
    pid_t threads[MOST_HELPERS];
    return !(place(0, *(int *)first) && multiplies() && helpers(threads) == 0);
}

static int limited_to_one(void *unused) {
    (void)unused;
    pid_t threads[MOST_HELPERS];
    unimem_set_threads(1);
    return !(multiplies() && helpers(threads) == 0);
}

int main(void) {
    cpu_set_t all = processors_of(0);
    int count = CPU_COUNT(&all), first = 0;
    while (first < CPU_SETSIZE - 1 && !CPU_ISSET(first, &all)) first++;
    check_in_child("a process that has one processor starts no threads", on_one_processor, &first, 60);
    check_in_child("nor does one that limits its threads to one", limited_to_one, NULL, 60);

    CHECK("a product of all processors is right", multiplies());
    TEST("a child forked in its middle does not wait for the parent's threads") {
        for (size_t i = 0; i < scaled(20); i++) EXPECT(forks_inside(), "product %zu", i);
        /* Where no other threads help, a product is one piece and has no middle. */
        pid_t others[MOST_HELPERS];
        EXPECT(children > 0 || helpers(others) == 0, "no product was forked in its middle");
    }
    CHECK("of two threads that destroy a network at the same time one is refused", destroyed_by_two(scaled(2000)));
    /* A thread has its name once it runs, and a product may be done before. */
    for (size_t i = 0; i < 300 && (seen.found = helpers(seen.threads)) + 1 < (size_t)count; i++) multiplies();
    seen.processors = count;
    /* A quota on processor time counts as fewer processors. */
    CHECK("the caller counts as one of the threads", seen.found < (size_t)count);
    if (seen.found == 0 || seen.found > 15) {
        SKIP("where the threads are", "there is one processor, or so many that nobody is moved");
        return tap_done();
    }
    TEST("they are kept off the processor of whoever calls") {
        for (int processor = first; processor < CPU_SETSIZE; processor++) {
            if (!CPU_ISSET(processor, &all)) continue;
            seen.caller = processor, seen.looks = seen.kept_off = 0;
            EXPECT(place(0, processor) && multiplies(), "processor %d: no product", processor);
            /* The first look may come before any product. */
            EXPECT(seen.kept_off > 0 && seen.kept_off + seen.found >= seen.looks * seen.found, "processor %d: %zu of %zu", processor, seen.kept_off, seen.looks * seen.found);
        }
    }
    TEST("those that the program has placed are left alone") {
        /* On the last caller's processor, where the library would not put it. */
        pid_t thread = seen.threads[0];
        EXPECT(place(thread, seen.caller) && place(0, first) && multiplies() && place(0, seen.caller) && multiplies(), "no product");
        cpu_set_t there = processors_of(thread);
        EXPECT(CPU_COUNT(&there) == 1 && CPU_ISSET(seen.caller, &there), "a thread was moved");
    }
    return tap_done();
}
