/* faults.h - fault injection, for programs that are linked with build/libunimem_faults.so. It has the names and
 * numbers of src/os/injection.rs, and the errors that each kind of call can have. */
#ifndef FAULTS_H
#define FAULTS_H
#include <errno.h>
#include <stddef.h>
#include <stdint.h>

/* Makes calls of the kinds in `operations` (one bit each) fail with `error`: `how_many` of them, beginning with the
 * call number `first` (1: the next one). Starts all counts anew. */
void unimem_inject_faults(uint32_t operations, size_t first, size_t how_many, int error);
/* Ends the faults, so that every call works again. Returns how many calls failed. */
size_t unimem_end_faults(void);
/* Returns how many calls of a kind there were since faults were last injected. */
size_t unimem_fault_calls(uint32_t operation);

enum { SHORT_TRANSFER = -1, DAMAGED_READ = -2 };

/* Kinds of calls, in the order of src/os/injection.rs. */
enum {
    MAP, UNMAP, PROTECT, REMAP, DISCARD, POPULATE, ADVISE, BIND, OPEN, REMOVE_NAME, MAKE_BLOCKS, PUNCH_HOLE, READ, WRITE,
    USERFAULTFD, REGISTER, MOVE_PAGES, COPY_PAGES, WRITE_PROTECT, START_THREAD, AFFINITY, THREAD_KEY, RECORD,
    OPERATIONS,
    DEFECT = OPERATIONS, /* every guarded call of the interface panics */
};

enum { MOST_ERRORS = 8 };
typedef struct {
    const char *name;
    int errors[MOST_ERRORS]; /* ends with a 0 */
} operation_t;

static const operation_t operations[OPERATIONS] = {
    [MAP] = {"mmap", {ENOMEM, EAGAIN}},
    [UNMAP] = {"munmap", {ENOMEM}},
    [PROTECT] = {"mprotect", {ENOMEM}},
    [REMAP] = {"mremap", {ENOMEM, EFAULT, EAGAIN}},
    [DISCARD] = {"madvise that gives pages back", {EINVAL, EAGAIN}},
    [POPULATE] = {"madvise that makes pages", {ENOMEM, EINVAL, EFAULT, EAGAIN}},
    [ADVISE] = {"other advice", {EINVAL}},
    [BIND] = {"mbind", {EINVAL, EPERM, EIO}},
    [OPEN] = {"open", {EMFILE, ENOSPC, EROFS, EACCES, EINVAL, EOPNOTSUPP}},
    [REMOVE_NAME] = {"unlink", {EPERM}},
    [MAKE_BLOCKS] = {"fallocate", {ENOSPC, EDQUOT, EFBIG, EIO, EINTR, EOPNOTSUPP}},
    [PUNCH_HOLE] = {"fallocate that punches holes", {EOPNOTSUPP, EIO}},
    [READ] = {"pread", {EIO, EINTR, SHORT_TRANSFER, DAMAGED_READ}},
    [WRITE] = {"pwrite", {ENOSPC, EIO, EDQUOT, EFBIG, EINTR, SHORT_TRANSFER}},
    [USERFAULTFD] = {"userfaultfd", {EPERM, ENOSYS, EMFILE, ENOMEM}},
    [REGISTER] = {"UFFDIO_REGISTER", {ENOMEM, EINVAL, EBUSY}},
    [MOVE_PAGES] = {"UFFDIO_MOVE", {EBUSY, EAGAIN, ENOMEM, EINVAL, SHORT_TRANSFER}},
    [COPY_PAGES] = {"UFFDIO_COPY", {EAGAIN, ENOMEM, EINVAL, SHORT_TRANSFER}},
    [WRITE_PROTECT] = {"UFFDIO_WRITEPROTECT", {EAGAIN, ENOMEM, EINVAL}},
    [START_THREAD] = {"pthread_create", {EAGAIN}},
    [AFFINITY] = {"processors of a thread", {EINVAL, EPERM}},
    [THREAD_KEY] = {"pthread keys", {EAGAIN, ENOMEM}},
    [RECORD] = {"a record of the library", {ENOMEM}},
};

/* Errors after which a caller may try again without end. */
static inline int is_passing(int error) {
    return error == EINTR || error == EAGAIN || error == EBUSY || error == SHORT_TRANSFER;
}
#endif
