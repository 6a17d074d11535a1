/* The speed of the disk that the library's spill files go to: UNIMEM_SPILL_DIR, else TMPDIR, else /var/tmp. */
#ifndef UNIMEM_BENCH_DISK_H
#define UNIMEM_BENCH_DISK_H

#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../demo/measure.h"

enum { DISK_PIECE = 2 << 20, DISK_THREADS = 2 };

/* A thread's part of the work: every `step`-th piece from `first` on. `failed` if a piece was not transferred as a
 * whole. */
typedef struct {
    int file;
    bool reading, failed;
    size_t first, step, pieces;
} disk_work_t;

static inline void *disk_transfer(void *argument) {
    disk_work_t *work = argument;
    void *piece = NULL;
    work->failed = posix_memalign(&piece, 4096, DISK_PIECE) != 0;
    if (!work->failed) memset(piece, 1, DISK_PIECE);
    for (size_t i = work->first; !work->failed && i < work->pieces; i += work->step) {
        off_t place = (off_t)(i * DISK_PIECE);
        work->failed = (work->reading ? pread(work->file, piece, DISK_PIECE, place) : pwrite(work->file, piece, DISK_PIECE, place)) != DISK_PIECE;
    }
    free(piece);
    return NULL;
}

/* Measures the GB/s at which `bytes` are written and then read past the page cache, in pieces as large as chunks, by
 * one thread or by two at once. Returns false if the disk refuses. */
static inline bool disk_rates(size_t bytes, size_t threads, double rates[2]) {
    const char *names[] = {getenv("UNIMEM_SPILL_DIR"), getenv("TMPDIR"), "/var/tmp"}, *directory = NULL;
    for (size_t i = 0; i < 3 && !directory; i++) directory = names[i] && *names[i] ? names[i] : NULL;
    size_t pieces = bytes / DISK_PIECE;
    int file = open(directory, O_TMPFILE | O_RDWR | O_DIRECT, 0600);
    bool done = file >= 0 && posix_fallocate(file, 0, (off_t)(pieces * DISK_PIECE)) == 0;
    for (size_t reading = 0; done && reading < 2; reading++) {
        pthread_t ids[DISK_THREADS];
        disk_work_t work[DISK_THREADS];
        double begin = seconds_now();
        for (size_t t = 0; t < threads; t++) {
            work[t] = (disk_work_t){file, reading, false, t, threads, pieces};
            if (pthread_create(&ids[t], NULL, disk_transfer, &work[t]) != 0) exit(EXIT_FAILURE);
        }
        for (size_t t = 0; t < threads; t++) {
            pthread_join(ids[t], NULL);
            done = done && !work[t].failed;
        }
        rates[reading] = (double)(pieces * DISK_PIECE) * 1e-9 / (seconds_now() - begin);
    }
    if (file >= 0) close(file);
    return done;
}

#endif
