/* thread_pointer.c - this thread's record, and what is known of a thread without one (thread.rs). Two words with the
 * initial-exec model: they are loaded relative to the thread register, without a call. If such a library is opened by dlopen,
 * all its thread-local variables together come out of 1.6 KiB that glibc keeps for all such libraries, so this one must have
 * few. Both words begin as zero, because a thread that starts while dlopen is at work may never see another initial value. */
#include <stdint.h>

#define OWN __attribute__((visibility("hidden")))
#define NEAR_REGISTER __attribute__((visibility("hidden"), tls_model("initial-exec"))) __thread

NEAR_REGISTER void *unimem_thread_record;
NEAR_REGISTER uintptr_t unimem_thread_mark;

OWN void **unimem_thread_record_address(void);
OWN uintptr_t *unimem_thread_mark_address(void);
void **unimem_thread_record_address(void) { return &unimem_thread_record; }
uintptr_t *unimem_thread_mark_address(void) { return &unimem_thread_mark; }
