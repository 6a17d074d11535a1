/* copies.h - the functions of one copy of libunimem, whichever module it is linked into. */
#ifndef COPIES_H
#define COPIES_H
#include "unimem.h"

#define COPY_FUNCTIONS(X)                                                                                                 \
    X(unimem_open) X(unimem_close) X(unimem_owns) X(unimem_usable_size) X(unimem_last_error) X(unimem_refused_frees)      \
    X(unimem_fault_mechanism)
#define COPY_MEMBER(name) __typeof__(name) *name;
#define COPY_ADDRESS(name) .name = name,
typedef struct {
    COPY_FUNCTIONS(COPY_MEMBER)
} copy_t;
#endif
