/* The threads that help with contractions: how many there are, and on which processors they may run. */
#define _GNU_SOURCE
#include <sched.h>

#include "support.h"
#include "tap.h"
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

/* A product worth sharing: of a matrix of ones with one of twos. */
static bool multiplies(void) {
    static ComplexFloat ones[SIDE * SIDE], twos[SIDE * SIDE];
    for (size_t i = 0; i < SIDE * SIDE; i++) ones[i].real = 1, twos[i].real = 2;
    tree_tensor_network_t *ttn = create_tree_tensor_network(0, SIDE, 1e-6);
    size_t sizes[] = {SIDE, SIDE};
    tree_tensor_node_t *a = add_tree_tensor_node(ttn, ones, sizes, 2, false), *b = add_tree_tensor_node(ttn, twos, sizes, 2, false);
    tree_tensor_node_t *product = NULL;
    bool right = a && b && contract_tree_tensor_nodes(ttn, a, b, &product);
    for (size_t i = 0; right && i < SIDE * SIDE; i++) right = product->data[i].real == 2.0f * SIDE && product->data[i].imag == 0;
    destroy_tree_tensor_network(ttn);
    return right;
}

static int on_one_processor(void *first) {
    pid_t threads[MOST_HELPERS];
    return !(place(0, *(int *)first) && multiplies() && helpers(threads) == 0);
}

int main(void) {
    cpu_set_t all = processors_of(0);
    int count = CPU_COUNT(&all), first = 0;
    while (first < CPU_SETSIZE - 1 && !CPU_ISSET(first, &all)) first++;
    CHECK("a process that has one processor starts no threads", run_in_child(on_one_processor, &first, 60) == 0);

    static pid_t threads[MOST_HELPERS];
    CHECK("a product of all processors is right", multiplies());
    size_t found = helpers(threads);
    CHECK_EQ("the caller counts as one of the threads", found, (size_t)count - 1);
    if (count == 1 || count > 16) {
        SKIP("where the threads are", "there is one processor, or so many that nobody is moved");
        return tap_done();
    }
    TEST("they are kept off the processor of whoever calls") {
        for (int processor = first; processor < CPU_SETSIZE; processor++) {
            if (!CPU_ISSET(processor, &all)) continue;
            EXPECT(place(0, processor) && multiplies(), "processor %d: no product", processor);
            for (size_t i = 0; i < found; i++) {
                cpu_set_t there = processors_of(threads[i]);
                EXPECT(!CPU_ISSET(processor, &there), "a thread may be on processor %d of its caller", processor);
                EXPECT(CPU_COUNT(&there) == count - 1, "a thread may be on %d processors of %d", CPU_COUNT(&there), count);
            }
        }
    }
    TEST("those that the program has placed are left alone") {
        EXPECT(sched_setaffinity(threads[0], sizeof all, &all) == 0 && place(0, first) && multiplies(), "no product");
        cpu_set_t there = processors_of(threads[0]);
        EXPECT(CPU_EQUAL(&there, &all), "a thread was moved");
    }
    return tap_done();
}
