/* systems.h - figures of advanced memory systems. Include it after unimem/memory_pool.h, whose names come first. */
#ifndef UNIMEM_TEST_SYSTEMS_H
#define UNIMEM_TEST_SYSTEMS_H

#include "support.h"
#include "unimem/advanced_memory_system.h"

static inline memory_metrics_t metrics_of(const advanced_memory_system_t *system) {
    memory_metrics_t metrics;
    memset(&metrics, 0xA5, sizeof metrics);
    EXPECT(get_memory_metrics(system, &metrics), "the system gives no figures");
    return metrics;
}

/* Bytes that are live in a system, those of its pools included. */
static inline size_t usage_of(const advanced_memory_system_t *system) { return metrics_of(system).current_usage; }

#endif
