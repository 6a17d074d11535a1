/* test_mappings.c - mappings of the process where a signal serves faults. There each chunk in place is a mapping,
 * and a process may have only so many (vm.max_map_count). Chunks must leave before none is left, whoever has the
 * others. Each case runs in a child. */
#define _GNU_SOURCE
#include "unimem.h"

#include "support.h"

enum { CHUNK = 4096 };
static const unified_pool_config_t roomy = {.max_size = 1024 * MIB, .enable_growth = true, .enable_streaming = true, .chunk_size = CHUNK};

static size_t mappings(void)
{
    return list_mappings(NULL, 0);
}
/* As many as a process may have; 0 if that cannot be told. */
static size_t most(void)
{
    return number_in("/proc/sys/vm/max_map_count");
}
/* Has the program take all mappings but so many. False if the system lets it have more than are tried. */
static bool take_all_but(size_t left)
{
    const size_t tried = (size_t)1 << 21;
    static char *pages;
    static size_t taken;
    if (!pages) pages = mmap(NULL, 2 * tried * CHUNK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) return false;
    while (taken < tried && mprotect(pages + 2 * taken * CHUNK, CHUNK, PROT_READ) == 0) taken++;
    if (taken == tried || taken < left) return false;
    for (size_t i = 0; i < left / 2; i++) taken--, mprotect(pages + 2 * taken * CHUNK, CHUNK, PROT_NONE);
    return true;
}
static uint64_t *words_of(char *memory, size_t chunk)
{
    return (uint64_t *)(void *)(memory + chunk * CHUNK);
}
static uint64_t value(size_t chunk, size_t round)
{
    return chunk * 2654435761u + round + 1;
}
static char *streaming(unified_memory_interface_t *memory, size_t chunks)
{
    char *start = memory ? memory->allocate_streaming(chunks * CHUNK, CHUNK) : NULL;
    EXPECT(start, "no tiered memory: %s", unimem_last_error_message());
    if (start) unimem_advise(start, UNIMEM_RANDOM);
    return start;
}
static size_t hot_chunks(const char *memory)
{
    unimem_residency_t where = {0};
    EXPECT(unimem_residency(memory, &where), "no figures");
    return where.hot_bytes / CHUNK;
}
/* Writes to a word of each chunk, `step` chunks apart, and reads them in the opposite order. Returns how many are wrong. */
static size_t written_and_read(char *memory, size_t chunks, size_t step, size_t round)
{
    size_t wrong = 0;
    for (size_t i = 0; i < chunks; i++) words_of(memory, i * step % chunks)[i % 512] = value(i, round);
    for (size_t i = chunks; i-- > 0;) wrong += words_of(memory, i * step % chunks)[i % 512] != value(i, round);
    return wrong;
}

/* Acquires every other chunk, as many as can be. Returns how many. */
static size_t every_other_acquired(char *tiered, size_t chunks)
{
    size_t acquired = 0;
    while (acquired < chunks / 2 && unimem_chunk_acquire(tiered, 2 * acquired, UNIMEM_WRITE)) acquired++;
    return acquired;
}
static int ended(unified_memory_interface_t *memory, char *tiered)
{
    memory->free(tiered);
    EXPECT(unimem_close(memory), "something was live at close");
    return 0;
}

/* The program has none itself, and the budget would hold more chunks than there can be mappings. */
static int more_than_a_process_may_have(void *unused)
{
    (void)unused;
    size_t chunks = most() + most() / 16;
    if (most() == 0 || chunks > 100000) return UNAVAILABLE;
    unified_memory_interface_t *memory = unimem_open(&roomy);
    char *tiered = streaming(memory, chunks);
    if (!tiered) return 1;
    size_t wrong = 0;
    for (size_t c = 0; c < chunks; c++) words_of(tiered, c)[0] = value(c, 0);
    for (size_t c = 0; c < chunks; c += 16) wrong += words_of(tiered, c)[0] != value(c, 0);
    EXPECT(wrong == 0, "%zu chunks are wrong", wrong);
    EXPECT(mappings() < most() - most() / 20, "%zu mappings of %zu", mappings(), most());
    EXPECT(hot_chunks(tiered) > most() / 4 * 3, "%zu chunks are in place, of %zu mappings", hot_chunks(tiered), most());
    return ended(memory, tiered);
}
/* The program has taken most of them before; chunks are used in order, and with gaps between those in place. */
static int most_are_the_programs(void *unused)
{
    (void)unused;
    enum { LEFT = 8000, CHUNKS = 7001 };
    if (!take_all_but(LEFT)) return UNAVAILABLE;
    unified_memory_interface_t *memory = unimem_open(&roomy);
    char *tiered = streaming(memory, CHUNKS);
    if (!tiered) return 1;
    EXPECT(written_and_read(tiered, CHUNKS, 1, 0) == 0, "chunks are wrong in order");
    EXPECT(written_and_read(tiered, CHUNKS, 7919, 1) == 0, "chunks are wrong in no order");
    EXPECT(mappings() < most() - most() / 20, "%zu mappings of %zu", mappings(), most());
    return ended(memory, tiered);
}
/* The program takes all that are left while many chunks are in place, and then those that these have given up. */
static int the_program_takes_the_rest(void *unused)
{
    (void)unused;
    enum { LEFT = 8000, CHUNKS = 7001, ROUNDS = 2 };
    if (!take_all_but(LEFT)) return UNAVAILABLE;
    unified_memory_interface_t *memory = unimem_open(&roomy);
    char *tiered = streaming(memory, CHUNKS);
    if (!tiered) return 1;
    for (size_t c = 0; c < 3000; c++) words_of(tiered, c)[0] = value(c, 0);
    for (size_t round = 0; round < ROUNDS; round++) {
        if (!take_all_but(0)) return UNAVAILABLE;
        size_t wrong = 0;
        for (size_t c = 0; c < 3000; c++) wrong += words_of(tiered, c)[0] != value(c, round);
        for (size_t i = 0; i < 6000; i++) words_of(tiered, i * 7919 % CHUNKS)[1]++;
        for (size_t c = 0; c < 3000; c++) words_of(tiered, c)[0] = value(c, round + 1);
        EXPECT(wrong == 0, "round %zu: %zu chunks are wrong", round, wrong);
    }
    return ended(memory, tiered);
}
/* Acquired chunks stay in place, so at some number the next is refused; plain access goes on beside them. */
static int acquired_chunks_have_an_end(void *unused)
{
    (void)unused;
    enum { LEFT = 8000, CHUNKS = 9000 };
    if (!take_all_but(LEFT)) return UNAVAILABLE;
    unified_memory_interface_t *memory = unimem_open(&roomy);
    char *tiered = streaming(memory, CHUNKS);
    if (!tiered) return 1;
    size_t acquired = every_other_acquired(tiered, CHUNKS);
    EXPECT(acquired > 1000 && acquired < LEFT / 2 && unimem_last_error() == UNIMEM_ERROR_LIMIT, "%zu are acquired: %s", acquired, unimem_last_error_message());
    for (size_t c = 0; c < acquired; c++) words_of(tiered, 2 * c)[3] = value(c, 0);
    size_t wrong = 0;
    for (size_t round = 0; round < 2; round++)
        for (size_t c = 1; c < CHUNKS; c += 2) {
            wrong += words_of(tiered, c)[5] != (round ? value(c, 1) : 0);
            words_of(tiered, c)[5] = value(c, 1);
        }
    EXPECT(wrong == 0, "%zu other chunks are wrong", wrong);
    /* A word in two chunks, which have to be in place together. */
    uint64_t across = 0;
    memcpy(&across, tiered + (CHUNKS - 1) * CHUNK - 4, sizeof across);
    EXPECT(across == 0, "%zx across two chunks", (size_t)across);
    for (size_t c = 0; c < acquired; c++) wrong += words_of(tiered, 2 * c)[3] != value(c, 0);
    for (size_t c = 0; c < acquired; c++) EXPECT(unimem_chunk_release(tiered, 2 * c), "chunk %zu was not acquired", 2 * c);
    EXPECT(wrong == 0 && unimem_chunk_acquire(tiered, 2 * acquired, UNIMEM_READ), "%zu wrong; none is acquired once all others are released: %s", wrong, unimem_last_error_message());
    unimem_chunk_release(tiered, 2 * acquired);
    return ended(memory, tiered);
}
static size_t acquired_and_released(char *tiered, size_t chunks)
{
    size_t acquired = every_other_acquired(tiered, chunks);
    for (size_t c = 0; c < acquired; c++) unimem_chunk_release(tiered, 2 * c);
    return acquired;
}
/* Chunks that another instance has in place, and has not acquired, leave for those that are acquired, although that instance
 * has fewer. */
static int acquired_beside_another_instance(void *unused)
{
    (void)unused;
    enum { LEFT = 8000, CHUNKS = 9000, THEIRS = 1009 };
    if (!take_all_but(LEFT)) return UNAVAILABLE;
    unified_memory_interface_t *memory = unimem_open(&roomy), *other = unimem_open(&roomy);
    char *tiered = streaming(memory, CHUNKS), *theirs = streaming(other, THEIRS);
    if (!tiered || !theirs) return 1;
    size_t alone = acquired_and_released(tiered, CHUNKS);
    unimem_advise(tiered, UNIMEM_DONT_NEED);
    EXPECT(written_and_read(theirs, THEIRS, 1, 0) == 0 && hot_chunks(theirs) == THEIRS, "%zu are in place", hot_chunks(theirs));
    size_t beside = acquired_and_released(tiered, CHUNKS);
    EXPECT(alone > 1000 && beside + 100 > alone, "%zu are acquired, beside others %zu", alone, beside);
    other->free(theirs);
    EXPECT(unimem_close(other), "something was live at close");
    return ended(memory, tiered);
}
/* The chunks of one instance have taken what there is. Other instances, in threads of their own, get their share. */
enum { THREADS = 4, THEIRS = 1009 };
static void *work_elsewhere(void *number)
{
    unified_memory_interface_t *memory = unimem_open(&roomy);
    char *tiered = streaming(memory, THEIRS);
    for (size_t round = 0; tiered && round < 2; round++) EXPECT(written_and_read(tiered, THEIRS, 1 + *(size_t *)number * 100, round) == 0, "thread %zu", *(size_t *)number);
    if (tiered) memory->free(tiered);
    EXPECT(unimem_close(memory), "something was live at close");
    return NULL;
}
static int instances_share_them(void *unused)
{
    (void)unused;
    enum { LEFT = 8000, CHUNKS = 7001 };
    if (!take_all_but(LEFT)) return UNAVAILABLE;
    unified_memory_interface_t *memory = unimem_open(&roomy);
    char *tiered = streaming(memory, CHUNKS);
    if (!tiered) return 1;
    EXPECT(written_and_read(tiered, CHUNKS, 7919, 0) == 0, "chunks are wrong");
    pthread_t threads[THREADS];
    size_t numbers[THREADS];
    for (size_t t = 0; t < THREADS; t++) numbers[t] = t, threads[t] = start_thread(work_elsewhere, &numbers[t]);
    EXPECT(written_and_read(tiered, CHUNKS, 31, 1) == 0, "chunks are wrong beside others");
    for (size_t t = 0; t < THREADS; t++) pthread_join(threads[t], NULL);
    return ended(memory, tiered);
}
/* Chunks that have left take no mappings. Most are encoded in RAM; of the budget an eighth is in the clear. */
static int chunks_that_have_left(void *unused)
{
    (void)unused;
    enum { CHUNKS = 8192, LEFT = 2000 };
    static const unified_pool_config_t small = {.max_size = 2 * MIB, .enable_growth = true, .enable_streaming = true};
    unified_memory_interface_t *memory = unimem_open(&small);
    char *tiered = streaming(memory, CHUNKS);
    if (!tiered) return 1;
    if (!take_all_but(LEFT)) return UNAVAILABLE;
    for (size_t round = 0; round < 2; round++)
        for (size_t c = 0; c < CHUNKS; c += 2) {
            if (!EXPECT(*words_of(tiered, c) == round * c, "round %zu, chunk %zu: %zu", round, c, (size_t)*words_of(tiered, c))) return 1;
            *words_of(tiered, c) += c;
        }
    size_t before = mappings(), hot = hot_chunks(tiered);
    unimem_advise(tiered, UNIMEM_DONT_NEED);
    EXPECT(hot > 64 && hot_chunks(tiered) == 0 && mappings() + hot < before, "%zu mappings with %zu chunks, %zu without", before, hot, mappings());
    return ended(memory, tiered);
}

int main(void)
{
    const struct {
        const char *name;
        int (*body)(void *);
    } cases[] = {
        {"more chunks than a process may have mappings", more_than_a_process_may_have},
        {"most mappings are the program's", most_are_the_programs},
        {"the program takes what mappings are left", the_program_takes_the_rest},
        {"acquired chunks have an end before mappings have", acquired_chunks_have_an_end},
        {"acquired chunks get the mappings of another instance's", acquired_beside_another_instance},
        {"instances share the mappings of the process", instances_share_them},
        {"chunks that have left take none", chunks_that_have_left},
    };
    setenv("UNIMEM_FAULTS", "signal", 1);
    spill_to_memory();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) check_in_child(cases[i].name, cases[i].body, NULL, 120);
    return tap_done();
}
