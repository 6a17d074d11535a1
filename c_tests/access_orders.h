/* access_orders.h - in which orders programs touch chunks: for test_tiers_order.c and bench/bench_tiers_order.c, each of
 * which says what a touch is. */
#ifndef UNIMEM_ACCESS_ORDERS_H
#define UNIMEM_ACCESS_ORDERS_H

#include <stddef.h>

static void touch(size_t chunk);

static inline void sweep(size_t first, size_t chunks)
{
    for (size_t i = 0; i < chunks; i++) touch(first + i);
}
static inline void loop(size_t first, size_t chunks, size_t rounds)
{
    while (rounds--) sweep(first, chunks);
}
/* A matrix transposed in place by 16 blocks of 16 chunks: each chunk of one block against all of another. */
static inline void transposition(void)
{
    enum { BLOCK = 16, BLOCKS = 16 };
    for (size_t i = 0; i < BLOCKS; i++)
        for (size_t j = i + 1; j < BLOCKS; j++)
            for (size_t row = 0; row < BLOCK; row++) {
                touch(i * BLOCK + row);
                sweep(j * BLOCK, BLOCK);
            }
}

#endif
