/* test_tiers_fork.c - a program that forks before its first streaming memory: the child's is as good as the parent's. */
#define _POSIX_C_SOURCE 200809L
#include "unimem.h"
#include "tap.h"
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MIB = 1 << 20, WORDS = 32 * MIB / 8 };

/* Writes and reads four times what the instance may hold. */
static bool stream(void) {
    unified_pool_config_t config = {.max_size = 8 * MIB, .enable_growth = true, .enable_streaming = true};
    unified_memory_interface_t *memory = unimem_open(&config);
    uint64_t *words = memory ? memory->allocate_streaming(WORDS * sizeof *words, 256 * 1024) : NULL;
    if (!words) return false;
    for (uint64_t i = 0; i < WORDS; i++) words[i] = i * 0x9E3779B97F4A7C15u;
    for (uint64_t i = 0; i < WORDS; i++)
        if (words[i] != i * 0x9E3779B97F4A7C15u) return false;
    memory->free(words);
    return unimem_close(memory);
}

static bool stream_in_child(void) {
    pid_t child = fork();
    if (child == 0) {
        alarm(60);
        _exit(stream() ? 0 : 1);
    }
    int status = 1;
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

int main(void) {
    bool explicit_only = strcmp(unimem_fault_mechanism(), "none") == 0;
    if (explicit_only) {
        SKIP("children of a program without streaming memory", "nothing serves faults here");
    } else {
        CHECK("a child of a program that only asked for the mechanism", stream_in_child());
        CHECK("the program itself", stream());
        CHECK("a child of a program that has used streaming memory", stream_in_child());
    }
    return tap_done();
}
