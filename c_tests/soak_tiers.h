/* soak_tiers.h - what threads do to tiered memory: each uses its own regions, all of them add to shared words, and a
 * signal handler adds to other words. */
#ifndef SOAK_TIERS_H
#define SOAK_TIERS_H
#include "soak_blocks.h"

static void use_chunks(worker_t *worker, item_t *item) {
    size_t chunks = unimem_chunk_count(item->start), segment = below(worker, segments_of(item));
    EXPECT(chunks == segments_of(item), "%zu chunks, expected %zu", chunks, segments_of(item));
    unimem_access_t access = (unimem_access_t)below(worker, 3);
    unimem_residency_t residency;
    switch (below(worker, 6)) {
    case 0: EXPECT(unimem_advise(item->start, (unimem_advice_t)below(worker, 4)), "advice: %s", unimem_last_error_message()); break;
    case 1: EXPECT(unimem_chunk_prefetch(item->start, segment, chunks - segment), "prefetch: %s", unimem_last_error_message()); break;
    case 2: EXPECT(unimem_residency(item->start, &residency), "residency: %s", unimem_last_error_message()); break;
    case 3: segment_holds(item, segment, item->size); break;
    case 4: write_segment(item, segment); break;
    default:
        if (!unimem_chunk_acquire(item->start, segment, access)) {
            may_be_full(item->surface, "acquire");
            break;
        }
        if (access != UNIMEM_OVERWRITE) segment_holds(item, segment, item->size);
        if (access != UNIMEM_READ) write_segment(item, segment);
        EXPECT(unimem_chunk_release(item->start, segment), "release: %s", unimem_last_error_message());
        count(pins);
    }
}

/* Adds to a run of words at a random place. A run, so that a chunk that was brought in is also used. */
static void add_to_shared_words(worker_t *worker) {
    size_t first = below(worker, SHARED_WORDS - 512);
    outside = true;
    for (size_t i = 0; i < 64; i++) {
        atomic_fetch_add(&shared_words[first + 8 * i], 1);
        count(additions);
    }
    outside = false;
    atomic_fetch_add(&model.additions, 64);
}

static volatile sig_atomic_t in_an_epoch;
static void on_signal(int signal) {
    static atomic_size_t place;
    (void)signal;
    if (!in_an_epoch) return;
    size_t words = outside ? SIGNAL_WORDS : PINNED_WORDS;
    atomic_fetch_add(&signal_words[atomic_fetch_add(&place, 1) * 4099 % words], 1);
    atomic_fetch_add(&model.signals, 1);
    count(outside ? signals_outside : signals_inside);
}

static void open_shared_words(void) {
    shared_words = tables[TIGHT]->allocate_streaming(SHARED_WORDS * sizeof(uint64_t), 64 * KIB);
    signal_words = tables[TIGHTER]->allocate_streaming(SIGNAL_WORDS * sizeof(uint64_t), 16 * KIB);
    if (!EXPECT(shared_words && signal_words && unimem_chunk_acquire((void *)signal_words, 0, UNIMEM_WRITE), "shared words: %s", unimem_last_error_message())) exit(1);
}
static uint64_t sum_of(const _Atomic uint64_t *words, size_t number) {
    uint64_t sum = 0;
    for (size_t i = 0; i < number; i++) sum += words[i];
    return sum;
}
static void check_shared_words(void) {
    uint64_t sum = sum_of(shared_words, SHARED_WORDS), expected = model.additions;
    EXPECT(sum == expected, "the shared words add up to %zu, expected %zu", (size_t)sum, (size_t)expected);
    sum = sum_of(signal_words, SIGNAL_WORDS), expected = model.signals;
    EXPECT(sum == expected, "the words of the handler add up to %zu, expected %zu", (size_t)sum, (size_t)expected);
}
static void close_shared_words(void) {
    unimem_chunk_release((void *)signal_words, 0);
    tables[TIGHT]->free((void *)shared_words);
    tables[TIGHTER]->free((void *)signal_words);
}

#endif
