/* test_kept.c - memory kept for reuse, in programs whose blocks grow and shrink while they live: what such blocks leave
 * does not serve the next ones. Long after a peak it must not keep as much as at the peak. */
#define _GNU_SOURCE
#include "unimem.h"

#include "support.h"
#include "tap.h"

#include <time.h>

#define PEAK (256 * MIB)
#define LIVE (4 * MIB)
#define FEW (32 * MIB)
enum { SECONDS_TO_GIVE_UP = 100 };

typedef struct {
    const char *name;
    size_t first, second;
    unified_memory_interface_t *memory;
    size_t held;
} use_t;

static void once(use_t *use) {
    char *block = use->memory->allocate(use->first, 0);
    if (block) block[use->first - 1] = 1;
    char *resized = use->memory->realloc(block, use->second);
    if (!EXPECT(block && resized, "%s: %s", use->name, unimem_last_error_message())) return;
    resized[use->second - 1] = 1;
    use->memory->free(resized);
    use->held = unimem_held_bytes(use->memory);
    EXPECT(use->held <= PEAK + MIB, "%s: %zu bytes held", use->name, use->held);
}

int main(void) {
    if (debug_mode("quarantine")) {
        SKIP("blocks that grow or shrink keep little of a peak", "what is in quarantine is held");
        return tap_done();
    }
    use_t uses[] = {{.name = "growing", .first = LIVE / 2, .second = LIVE},
                    {.name = "shrinking", .first = LIVE, .second = LIVE / 2}};
    TEST("blocks that grow or shrink, over and over after a peak, keep little of it") {
        for (size_t i = 0; i < 2; i++) {
            uses[i].memory = unimem_open(NULL);
            void *peak = uses[i].memory->allocate(PEAK, 0);
            EXPECT(peak, "%s", unimem_last_error_message());
            uses[i].memory->free(peak);
            for (size_t k = 0; k < 2 * PEAK / LIVE; k++) once(&uses[i]);
        }
        time_t end = time(NULL) + patience(SECONDS_TO_GIVE_UP);
        do {
            for (size_t i = 0; i < 2; i++) once(&uses[i]);
        } while ((uses[0].held > FEW || uses[1].held > FEW) && time(NULL) < end);
        for (size_t i = 0; i < 2; i++) {
            EXPECT(uses[i].held <= FEW, "%s: %zu KiB of %zu are held for one block of %zu", uses[i].name, uses[i].held / KIB,
                   PEAK / KIB, LIVE / KIB);
            EXPECT(unimem_close(uses[i].memory), "%s: something is left", uses[i].name);
        }
    }
    return tap_done();
}
