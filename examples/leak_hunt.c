/* Finding leaks and overruns in a running program. It lists what is left in an instance, block by block. With
 * UNIMEM_DEBUG it also shows the stacks that allocated the blocks, and finds writes behind a block. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unimem.h>

static unified_memory_interface_t *memory;
static void *volatile forgotten;

static char *read_file(const char *path) {
    static char text[1 << 16];
    FILE *file = fopen(path, "r");
    if (!file) return "";
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    return text;
}

/* The defects: a block that nobody frees, and a terminating zero written behind a block. The functions are not
 * inlined, so that reports can name them. */
__attribute__((noinline)) static void leaky_function(void) { forgotten = memory->allocate(1234, 0); }
__attribute__((noinline)) static void overrun(void) {
    char *name = memory->allocate(8, 0);
    if (name) memcpy(name, "12345678", 9);
    memory->free(name); /* refused: the damaged block stays, so that it can be inspected */
}

static void show(const unimem_leak_t *leak, void *total) {
    printf("  %zu bytes at %p, %zu owner(s)\n", leak->size, leak->address, leak->references);
    *(size_t *)total += leak->size;
}
/* The log receives a stack line by line, indented. Of those lines only the ones of this file are shown. */
static void count_messages(int level, const char *message, void *count) {
    if (level <= 1 && (message[0] != ' ' || strstr(message, "leak_hunt.c"))) printf("  log: %s\n", message);
    ++*(size_t *)count;
}

int main(void) {
    setenv("UNIMEM_DEBUG", "guard,trace", 0); /* usually set outside; read when the first memory is allocated */
    size_t messages = 0, bytes = 0;
    unimem_set_log(count_messages, &messages);
    memory = unimem_open(NULL);
    if (!memory) return 1;
    leaky_function();
    void *good = memory->allocate(100, 0);
    memory->free(good);
    printf("an overrun:\n");
    overrun();
    bool found_overrun = unimem_last_error() == UNIMEM_ERROR_CORRUPTION && messages > 0;

    printf("what is live:\n");
    size_t leaks = unimem_report_leaks(memory, show, &bytes);
    char path[] = "/tmp/leak_hunt.XXXXXX";
    int file = mkstemp(path);
    bool written = file >= 0 && unimem_write_leaks(path);
    char *report = read_file(path);
    bool named = strstr(report, "leaky_function") != NULL;
    printf("the report, %zu bytes of JSON, %s the function that leaks\n", strlen(report), named ? "names" : "DOES NOT NAME");
    remove(path);

    unimem_set_log(NULL, NULL); /* closing would report all of it again */
    bool clean = unimem_close(memory); /* false: something is live */
    return !(found_overrun && leaks == 2 && bytes == 1234 + 8 && written && named && !clean);
}
