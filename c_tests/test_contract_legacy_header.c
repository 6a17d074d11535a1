/* test_contract_legacy_header.c - our headers behind the legacy advanced_memory_system.h, in one file. */
/* What the legacy header defines, as far as ours have the same names: its MemoryPool has no tag. */
#define ADVANCED_MEMORY_SYSTEM_H
typedef struct {
    int num_layouts;
} MemoryPool;
typedef struct advanced_memory_system_t advanced_memory_system_t;

#include "unimem/advanced_memory_system.h"
#include "unimem/memory_pool.h"

#include "tap.h"

int main(void) {
    MemoryPool of_the_legacy_header = {3};
    CHECK("MemoryPool is the legacy header's", of_the_legacy_header.num_layouts == 3);
    simple_memory_pool_t *no_pool = NULL;
    CHECK_EQ("ours is simple_memory_pool_t", get_total_allocated(no_pool), 0);
    return tap_done();
}
