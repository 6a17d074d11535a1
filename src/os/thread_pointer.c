/* thread_pointer.c - this thread's record. One pointer with the initial-exec model: a load relative to the thread
 * register instead of a call, and small enough for the room that dlopen keeps for such variables. */
__attribute__((visibility("hidden"), tls_model("initial-exec"))) __thread void *unimem_thread_record;
__attribute__((visibility("hidden"))) void **unimem_thread_record_address(void);
void **unimem_thread_record_address(void) { return &unimem_thread_record; }
