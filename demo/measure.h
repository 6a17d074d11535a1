/* Time and memory of this process, for the demos. */
#ifndef UNIMEM_DEMO_MEASURE_H
#define UNIMEM_DEMO_MEASURE_H

#include <fcntl.h>
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

/* One figure of /proc/self/status, in bytes; 0 where there is none. */
static inline size_t status_bytes(const char *field) {
    /* Not stdio: its buffer would come from the allocator under measurement. */
    char text[4096];
    int file = open("/proc/self/status", O_RDONLY);
    ssize_t length = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (file >= 0) close(file);
    if (length <= 0) return 0;
    text[length] = 0;
    const char *line = strstr(text, field);
    return line ? strtoul(line + strlen(field), NULL, 10) * 1024 : 0;
}

#endif
