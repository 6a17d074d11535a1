/* thread_pointer.c - this thread's record, and what is known of a thread without one (thread.rs). Two words with the
 * initial-exec model: loads relative to the thread register instead of calls. So all variables of threads of this library
 * take of the 1.6 KiB that glibc has for such libraries where they are opened by dlopen, all together; they are to be few. The
 * two begin as zero: a thread that starts while dlopen is at work may never see another value. */
#include <stdint.h>

#define OWN __attribute__((visibility("hidden")))
#define NEAR_REGISTER __attribute__((visibility("hidden"), tls_model("initial-exec"))) __thread

NEAR_REGISTER void *unimem_thread_record;
NEAR_REGISTER uintptr_t unimem_thread_mark;

OWN void **unimem_thread_record_address(void);
OWN uintptr_t *unimem_thread_mark_address(void);
void **unimem_thread_record_address(void) { return &unimem_thread_record; }
uintptr_t *unimem_thread_mark_address(void) { return &unimem_thread_mark; }
