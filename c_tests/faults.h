/* faults.h - fault injection, for programs linked with build/libunimem_faults.so: the names and numbers of
 * src/os/injection.rs, and the errors that each kind of call can have. */
#ifndef FAULTS_H
#define FAULTS_H
#include <errno.h>
#include <stddef.h>
#include <stdint.h>

/* The calls of the kinds in `operations` (one bit each) fail with `error`, `how_many` of them from the `first` (1: the
 * next) on. Starts all counts anew. */
void unimem_inject_faults(uint32_t operations, size_t first, size_t how_many, int error);
/* Every call works again; how many failed. */
size_t unimem_end_faults(void);
/* Calls of a kind since the last arming. */
size_t unimem_fault_calls(uint32_t operation);

enum { SHORT_TRANSFER = -1, DAMAGED_READ = -2 };

enum { MOST_ERRORS = 8 };
typedef struct {
    const char *name;
    int errors[MOST_ERRORS]; /* ends with 0 */
} operation_t;

static const operation_t operations[] = {
    {"mmap", {ENOMEM, EAGAIN}},
    {"munmap", {ENOMEM}},
    {"mprotect", {ENOMEM}},
    {"mremap", {ENOMEM, EFAULT, EAGAIN}},
    {"madvise that gives pages back", {EINVAL, EAGAIN}},
    {"madvise that makes pages", {ENOMEM, EINVAL, EFAULT, EAGAIN}},
    {"other advice", {EINVAL}},
    {"mbind", {EINVAL, EPERM, EIO}},
    {"open", {EMFILE, ENOSPC, EROFS, EACCES, EINVAL, EOPNOTSUPP}},
    {"unlink", {EPERM}},
    {"fallocate", {ENOSPC, EDQUOT, EFBIG, EIO, EINTR, EOPNOTSUPP}},
    {"fallocate that punches holes", {EOPNOTSUPP, EIO}},
    {"pread", {EIO, EINTR, SHORT_TRANSFER, DAMAGED_READ}},
    {"pwrite", {ENOSPC, EIO, EDQUOT, EFBIG, EINTR, SHORT_TRANSFER}},
    {"userfaultfd", {EPERM, ENOSYS, EMFILE, ENOMEM}},
    {"UFFDIO_REGISTER", {ENOMEM, EINVAL, EBUSY}},
    {"UFFDIO_MOVE", {EBUSY, EAGAIN, ENOMEM, EINVAL, SHORT_TRANSFER}},
    {"UFFDIO_COPY", {EAGAIN, ENOMEM, EINVAL, SHORT_TRANSFER}},
    {"UFFDIO_WRITEPROTECT", {EAGAIN, ENOMEM, EINVAL}},
    {"pthread_create", {EAGAIN}},
    {"pthread keys", {EAGAIN, ENOMEM}},
    {"a record of the library", {ENOMEM}},
};
/* The one after them: every guarded call of the interface panics. */
enum { OPERATIONS = sizeof operations / sizeof operations[0], DEFECT = OPERATIONS };

/* Errors after which a caller is right to try again for ever. */
static inline int is_passing(int error) {
    return error == EINTR || error == EAGAIN || error == EBUSY || error == SHORT_TRANSFER;
}
#endif
