/* Time and memory of this process, and the directory it was built in, for demos and benchmarks. */
#ifndef UNIMEM_DEMO_MEASURE_H
#define UNIMEM_DEMO_MEASURE_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Seconds since some moment. */
static inline double seconds_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* One figure of /proc/self/status, in bytes; 0 if it is not there. */
static inline size_t status_bytes(const char *field) {
    /* Not stdio, whose buffer would come from the allocator under measurement. */
    char text[4096];
    int file = open("/proc/self/status", O_RDONLY);
    ssize_t length = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (file >= 0) close(file);
    if (length <= 0) return 0;
    text[length] = 0;
    const char *line = strstr(text, field);
    return line ? strtoul(line + strlen(field), NULL, 10) * 1024 : 0;
}

/* The path of a file in the build directory. This program lies one level below that directory. */
static inline const char *built_path(const char *name, char *path, size_t size) {
    char program[3000] = "";
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    while (length > 0 && program[length - 1] != '/') length--;
    snprintf(path, size, "%.*s../%s", length > 0 ? (int)length : 0, program, name);
    return path;
}

#endif
