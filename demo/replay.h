/* Replays a trace through one surface, each time in a process of its own: once for the time, once for contents and
 * memory. */
#ifndef UNIMEM_DEMO_REPLAY_H
#define UNIMEM_DEMO_REPLAY_H

#include "measure.h"
#include "surfaces.h"
#include "trace.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* What a replay found. It lies in memory that is shared with the parent, which shows `progress` meanwhile. */
typedef struct {
    volatile size_t progress; /* operations done */
    double seconds;           /* processor time of the replay alone */
    size_t peak_resident;     /* bytes above the process's idle level */
    size_t peak_live;         /* bytes, as the surface counts them; for malloc, as the replay does */
    size_t fragmentation;     /* percent, when the most bytes were live */
    size_t cache_hits, cache_misses;
    size_t live_at_end; /* blocks the surface reports live when the trace has ended */
    size_t leaks;       /* and that it reports when the replay has freed them */
    size_t mismatches;  /* blocks whose contents, alignment or count were wrong */
    char failure[160];  /* the first mismatch, or why the replay could not go on; empty if all is well */
} replay_t;

enum { PAGE = 4096 };

typedef struct {
    void *block;
    size_t size, tag;
} slot_t;

typedef struct {
    const trace_t *trace;
    const surface_t *surface;
    slot_t *slots;
    replay_t *result;
} player_t;

/* Processor time of all threads of this process, so that other work on the machine does not count. */
static inline double processor_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static inline void forget_peak_resident(void) {
    int file = open("/proc/self/clear_refs", O_WRONLY);
    if (file < 0) return;           /* then the peak counts from the fork on, which is the idle level, too */
    if (write(file, "5", 1) != 1) { /* the same holds */
    }
    close(file);
}

static inline void mismatch(const player_t *player, size_t at, const char *what) {
    if (player->result->mismatches++ == 0)
        snprintf(player->result->failure, sizeof player->result->failure, "operation %zu: %s", at, what);
}

/* The word at each place of a block follows from the block's tag and the place. This is cheap to write and to
 * check, and no two live blocks have the same words. */
static inline uint64_t word_of(size_t tag, size_t place) {
    return ((uint64_t)tag << 32 | 0x5A5A5A5A) + place * 0x9E3779B97F4A7C15u;
}

static inline void contents_write(void *block, size_t size, size_t tag) {
    uint64_t *words = block, last = word_of(tag, size / 8);
    for (size_t i = 0; i < size / 8; i++) words[i] = word_of(tag, i);
    memcpy(words + size / 8, &last, size % 8);
}

static inline bool contents_hold(const void *block, size_t size, size_t tag) {
    const uint64_t *words = block;
    uint64_t difference = 0, last = word_of(tag, size / 8);
    for (size_t i = 0; i < size / 8; i++) difference |= words[i] ^ word_of(tag, i);
    return difference == 0 && memcmp(words + size / 8, &last, size % 8) == 0;
}

static inline bool all_zero(const void *block, size_t size) {
    const unsigned char *bytes = block;
    return size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0);
}

static inline size_t alignment_of(const trace_operation_t *operation) {
    return operation->alignment_log2 ? (size_t)1 << operation->alignment_log2 : MALLOC_ALIGNMENT;
}

/* The replay for the time: does what the program did, and writes into each page of every block, since the first
 * touch of a page is part of what an allocator costs. */
static inline void play_for_time(const player_t *player) {
    const surface_t *surface = player->surface;
    slot_t *slots = player->slots;
    const trace_operation_t *operation = player->trace->operations, *end = operation + player->trace->count;
    double start = processor_seconds();
    for (; operation < end; operation++) {
        slot_t *slot = &slots[operation->slot];
        if (operation->kind == TRACE_FREE) {
            surface->free(slot->block);
            continue;
        }
        void *block;
        if (operation->kind == TRACE_ALLOCATE) {
            block = surface->allocate(operation->size, alignment_of(operation));
            if (operation->zero && block && !surface->zeroed) memset(block, 0, operation->size);
        } else {
            block = surface->resize(slot->block, slot->size, operation->size);
        }
        if (!block) {
            mismatch(player, (size_t)(operation - player->trace->operations), "NULL");
            return;
        }
        for (size_t at = 0; at < operation->size; at += PAGE) ((volatile char *)block)[at] = 1;
        slot->block = block;
        slot->size = operation->size;
    }
    player->result->seconds = processor_seconds() - start;
    player->result->progress = player->trace->count;
}

static inline memory_stats_t figures_of(const player_t *player) {
    memory_stats_t figures = {0};
    player->surface->interface()->get_stats(&figures);
    return figures;
}

static inline void note_fragmentation(const player_t *player, size_t live, size_t held_idle) {
    if (player->surface->interface) {
        player->result->fragmentation = figures_of(player).fragmentation;
    } else {
        size_t held = malloc_held() - held_idle;
        player->result->fragmentation = held > live ? (held - live) * 100 / held : 0;
    }
}

/* The replay for contents and memory: writes every byte of every block, and reads it again before the block
 * goes. */
static inline void play_for_contents(const player_t *player) {
    const trace_t *trace = player->trace;
    const surface_t *surface = player->surface;
    size_t live = 0, held_idle = malloc_held();
    bool at_peak = false;
    for (size_t i = 0; i < trace->count; i++) {
        const trace_operation_t *operation = &trace->operations[i];
        slot_t *slot = &player->slots[operation->slot];
        if (operation->kind != TRACE_ALLOCATE && !contents_hold(slot->block, slot->size, slot->tag))
            mismatch(player, i, "the block's contents have changed");
        if (operation->kind == TRACE_FREE) {
            surface->free(slot->block);
            live -= slot->size;
            *slot = (slot_t){0};
        } else {
            void *block;
            if (operation->kind == TRACE_ALLOCATE) {
                block = surface->allocate(operation->size, alignment_of(operation));
                if (block && (uintptr_t)block % alignment_of(operation))
                    mismatch(player, i, "the block is not aligned as asked");
                if (block && surface->zeroed && !all_zero(block, operation->size))
                    mismatch(player, i, "the block is not zeroed");
            } else {
                size_t common = slot->size < operation->size ? slot->size : operation->size;
                block = surface->resize(slot->block, slot->size, operation->size);
                if (block && !contents_hold(block, common / 8 * 8, slot->tag))
                    mismatch(player, i, "contents were lost in realloc");
            }
            if (!block) {
                mismatch(player, i, "NULL");
                return;
            }
            live += operation->size - slot->size;
            *slot = (slot_t){block, operation->size, i + 1};
            contents_write(block, slot->size, slot->tag);
        }
        if (!at_peak && live == trace->peak_live) {
            at_peak = true;
            note_fragmentation(player, live, held_idle);
        }
        if (i % 4096 == 0) {
            player->result->progress = i;
            if (surface->interface && figures_of(player).total_allocated != live)
                mismatch(player, i, "the surface's count of live bytes is wrong");
        }
    }
    size_t resident = status_bytes("VmHWM:");
    player->result->peak_resident = resident;
    player->result->progress = trace->count;
    player->result->peak_live = trace->peak_live;
    if (surface->interface) {
        memory_stats_t figures = figures_of(player);
        player->result->peak_live = figures.peak_allocated;
        player->result->cache_hits = figures.cache_hits;
        player->result->cache_misses = figures.cache_misses;
        player->result->live_at_end = unimem_report_leaks(surface->interface(), NULL, NULL);
        if (player->result->live_at_end != trace->live_at_end || figures.total_allocated != trace->bytes_at_end)
            mismatch(player, trace->count, "the report of what is live at the end is wrong");
        /* A block that moves may be counted at both places for a moment. */
        if (figures.peak_allocated < trace->peak_live || figures.peak_allocated > trace->peak_live + trace->largest)
            mismatch(player, trace->count, "the peak is wrong");
    }
    for (size_t i = 0; i < trace->slots; i++) {
        slot_t *slot = &player->slots[i];
        if (!slot->block) continue;
        if (!contents_hold(slot->block, slot->size, slot->tag))
            mismatch(player, trace->count, "the contents of a block live at the end have changed");
        surface->free(slot->block);
    }
    if (surface->interface) {
        player->result->leaks = unimem_report_leaks(surface->interface(), NULL, NULL);
        if (player->result->leaks || figures_of(player).total_allocated)
            mismatch(player, trace->count, "blocks are live after all were freed");
    }
}

/* The body of the child. It touches its tables before it takes the idle level. */
static inline int play(const trace_t *trace, const surface_t *surface, bool for_time, replay_t *result) {
    player_t player = {trace, surface, trace_memory(trace->slots * sizeof(slot_t)), result};
    uint64_t sum = 0;
    memset(player.slots, 0, trace->slots * sizeof(slot_t));
    for (size_t i = 0; i < trace->count; i++) sum += trace->operations[i].size;
    if (!surface->open() || sum == 0) {
        mismatch(&player, 0, "the surface cannot be opened");
        return 1;
    }
    forget_peak_resident();
    size_t idle = status_bytes("VmRSS:");
    if (for_time)
        play_for_time(&player);
    else
        play_for_contents(&player);
    result->peak_resident = result->peak_resident > idle ? result->peak_resident - idle : 0;
    if (!for_time) surface->close();
    return result->mismatches != 0;
}

/* Forks the child and waits. Calls `watch`, if it is given, every tenth of a second. Returns false if the child
 * failed or was ended. */
static inline bool replay_in_child(const trace_t *trace, const surface_t *surface, bool for_time, replay_t *result,
                                   void (*watch)(const replay_t *)) {
    *result = (replay_t){0};
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) _exit(play(trace, surface, for_time, result));
    int status = 0;
    pid_t ended = child < 0 ? -1 : 0;
    while (ended == 0) {
        ended = waitpid(child, &status, watch ? WNOHANG : 0);
        if (ended != 0) break;
        watch(result);
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
    if (ended == child && WIFEXITED(status) && WEXITSTATUS(status) == 0) return true;
    if (!result->failure[0]) {
        if (ended == child && WIFSIGNALED(status))
            snprintf(result->failure, sizeof result->failure, "ended by signal %d after %zu operations",
                     WTERMSIG(status), result->progress);
        else
            snprintf(result->failure, sizeof result->failure, "the child process failed");
    }
    return false;
}

/* Memory in which a child can leave what it found. */
static inline replay_t *shared_replay(void) {
    void *shared = mmap(NULL, sizeof(replay_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        perror("mmap");
        exit(EXIT_FAILURE);
    }
    return shared;
}

#endif
