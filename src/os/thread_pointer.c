/* thread_pointer.c - this thread's record, or the one that stands for none (thread.rs), and what is known of a thread
 * without one. Two words with the initial-exec model: loads relative to the thread register instead of calls, and small
 * enough for the room that dlopen keeps for such variables. */
#include <stdint.h>

#define OWN __attribute__((visibility("hidden")))
#define NEAR_REGISTER __attribute__((visibility("hidden"), tls_model("initial-exec"))) __thread

extern OWN char unimem_no_record[];
NEAR_REGISTER void *unimem_thread_record = unimem_no_record;
NEAR_REGISTER uintptr_t unimem_thread_mark;

OWN void **unimem_thread_record_address(void);
OWN uintptr_t *unimem_thread_mark_address(void);
void **unimem_thread_record_address(void) { return &unimem_thread_record; }
uintptr_t *unimem_thread_mark_address(void) { return &unimem_thread_mark; }
