/* unimem.h - one memory system for tensor-network programs.
 *
 * Every function may be called from any thread. A function that fails returns NULL, false or 0, changes nothing, and
 * says why through unimem_last_error(). Made by cbindgen from src/; `make header` makes it anew. */

#ifndef UNIMEM_H
#define UNIMEM_H

#include <stdbool.h>
#include <stddef.h>

/** A memory pool: see unimem/memory_pool.h. In C++ a tag is a type's name, too, and the legacy advanced_memory_system.h
 * has another type of this name; so there any pointer goes through, and the call says whether it is a pool. */
#ifdef __cplusplus
typedef void unimem_memory_pool_t;
#else
typedef struct MemoryPool unimem_memory_pool_t;
#endif
/** An advanced memory system: see unimem/advanced_memory_system.h. */
struct advanced_memory_system_t;

/**
 * Why a call failed.
 */
typedef enum {
  /**
   * Nothing has failed.
   */
  UNIMEM_OK = 0,
  /**
   * An argument is out of its range, or does not fit the others.
   */
  UNIMEM_ERROR_INVALID_ARGUMENT,
  /**
   * The system, or the instance's budget, has no memory left.
   */
  UNIMEM_ERROR_OUT_OF_MEMORY,
  /**
   * A fixed number of things is used up.
   */
  UNIMEM_ERROR_LIMIT,
  /**
   * The address is not a live block of the one it was given to.
   */
  UNIMEM_ERROR_NOT_OWNED,
  /**
   * The block was freed before.
   */
  UNIMEM_ERROR_DOUBLE_FREE,
  /**
   * Bytes that must not change have changed.
   */
  UNIMEM_ERROR_CORRUPTION,
  /**
   * A file could not be read or written.
   */
  UNIMEM_ERROR_IO,
  /**
   * This machine, this build or this instance's configuration does not allow it.
   */
  UNIMEM_ERROR_UNSUPPORTED,
  /**
   * A defect of the library.
   */
  UNIMEM_ERROR_INTERNAL,
} unimem_error_t;

/**
 * What a chunk is acquired for.
 */
typedef enum {
  /**
   * Reading.
   */
  UNIMEM_READ = 0,
  /**
   * Reading and writing.
   */
  UNIMEM_WRITE,
  /**
   * Writing all of it: what it held is not brought in.
   */
  UNIMEM_OVERWRITE,
} unimem_access_t;

/**
 * How streaming or hierarchical memory will be used.
 */
typedef enum {
  /**
   * In order: it is read ahead from the first chunk on.
   */
  UNIMEM_SEQUENTIAL = 0,
  /**
   * In no order: nothing is read ahead.
   */
  UNIMEM_RANDOM,
  /**
   * Soon: it is brought in as far as the budget goes.
   */
  UNIMEM_WILL_NEED,
  /**
   * Not for a while: it is sent out.
   */
  UNIMEM_DONT_NEED,
} unimem_advice_t;

/**
 * Figures of an instance. Exact while no other thread is inside it.
 */
typedef struct {
  /**
   * Live bytes, as requested; tracked foreign blocks included.
   */
  size_t total_allocated;
  /**
   * Highest `total_allocated` since creation or reset: exact with one thread, with several never low by more
   * than 64 KiB a thread.
   */
  size_t peak_allocated;
  /**
   * Allocations that succeeded. To reallocate is not to allocate, nor to free, whether the block moves or not.
   */
  size_t num_allocations;
  /**
   * Blocks freed.
   */
  size_t num_frees;
  /**
   * Largest request, bytes.
   */
  size_t largest_allocation;
  /**
   * Share of the RAM held that is not live, percent.
   */
  size_t fragmentation;
  /**
   * Allocations served by the calling threads' own caches.
   */
  size_t cache_hits;
  /**
   * All others.
   */
  size_t cache_misses;
} memory_stats_t;

/**
 * One instance's functions. They may be called from any thread, also to free what another thread allocated.
 *
 * Sizes are bytes. A function that fails gives NULL or false and sets the calling thread's last error
 * (`unimem_last_error`); nothing is changed then.
 */
typedef struct {
  /**
   * `size` bytes at `alignment`, a power of two up to 1 GiB; 0 means 64. NULL for 0 bytes.
   */
  void *(*allocate)(size_t size, size_t alignment);
  /**
   * Frees a live block of this instance; NULL is fine. Anything else is refused: `UNIMEM_ERROR_NOT_OWNED` for
   * foreign and interior pointers, `UNIMEM_ERROR_DOUBLE_FREE` for blocks freed before, as far as the heap still knows
   * their memory.
   */
  void (*free)(void *ptr);
  /**
   * Changes a block's size; contents up to the smaller size, alignment and kind stay. NULL allocates, 0 frees.
   */
  void *(*realloc)(void *ptr, size_t size);
  /**
   * A dense row-major tensor of `ComplexFloat` (8 bytes an element) of 1 to 64 dimensions, none of them 0, aligned to
   * 64, from 2 MiB up to 2 MiB with huge pages advised.
   */
  void *(*allocate_geometric)(size_t *dimensions, size_t num_dims);
  /**
   * Zeroed memory that may be compressed: float32 elements come back within `tolerance` (0: exactly; negative: the
   * configured one).
   */
  void *(*allocate_hierarchical)(size_t size, double tolerance);
  /**
   * Zeroed memory that may be larger than RAM, in chunks of `chunk_size` bytes (0: the configured size).
   */
  void *(*allocate_streaming)(size_t total_size, size_t chunk_size);
  /**
   * Tracks any pointer, ours or not; tracking again replaces the size. Foreign ones count as live bytes, until they are
   * untracked. One into a live block of this instance, at its start or inside, adds nothing to what the block counts;
   * its tracking goes along when the block is reallocated and ends when it is freed. More than 2^48 bytes, which no block
   * can have, are refused: `UNIMEM_ERROR_INVALID_ARGUMENT`.
   */
  bool (*track_allocation)(void *ptr, size_t size);
  /**
   * Forgets a tracked pointer; false when it is not tracked.
   */
  bool (*untrack_allocation)(void *ptr);
  /**
   * Fills `stats` in.
   */
  void (*get_stats)(memory_stats_t *stats);
} unified_memory_interface_t;

/**
 * Where the bytes of streaming or hierarchical memory are, and what moving them has cost.
 */
typedef struct {
  /**
   * Bytes in place in RAM.
   */
  size_t hot_bytes;
  /**
   * Encoded bytes in RAM. A chunk that is in place unchanged may be kept encoded as well.
   */
  size_t warm_bytes;
  /**
   * Encoded bytes in the spill file; so may one in RAM.
   */
  size_t cold_bytes;
  /**
   * Chunks brought in because they were touched or acquired.
   */
  size_t faults;
  /**
   * Chunks sent out.
   */
  size_t evictions;
  /**
   * Chunks brought in ahead of need.
   */
  size_t prefetches;
  /**
   * Those of them that were then used.
   */
  size_t prefetch_hits;
  /**
   * Bytes before encoding for each byte after it, over all that was encoded; 1 if nothing was.
   */
  double compression_ratio;
  /**
   * Nanoseconds spent encoding and decoding.
   */
  size_t compression_ns;
} unimem_residency_t;

/**
 * What an instance is made from. In all sizes 0 means: none, or the default.
 */
typedef struct {
  /**
   * Bytes made ready at creation; 0: none.
   */
  size_t initial_size;
  /**
   * Cap on the RAM the instance holds, everything counted; 0: none.
   */
  size_t max_size;
  /**
   * False: the cap is `initial_size`.
   */
  bool enable_growth;
  /**
   * `allocate` places tensors as `allocate_geometric` does.
   */
  bool use_geometric_layout;
  /**
   * False: `allocate_streaming` gives NULL.
   */
  bool enable_streaming;
  /**
   * Default chunk of streaming and hierarchical memory; 0: 1 MiB.
   */
  size_t chunk_size;
  /**
   * Used where a call passes a negative tolerance.
   */
  double compression_tolerance;
} unified_pool_config_t;

/**
 * Receives the library's messages. `level`: 0 error, 1 warning, 2 info, 3 debug. It may be called on any thread, and
 * must return: a C++ exception that leaves it ends the program.
 */
typedef void (*unimem_log_t)(int level, const char *message, void *context);

/**
 * The layout of a tensor. The arrays belong to the block and live as long as it does.
 */
typedef struct {
  /**
   * Dimensions.
   */
  size_t num_dims;
  /**
   * Bytes of an element.
   */
  size_t element_size;
  /**
   * Bytes of the tensor.
   */
  size_t size;
  /**
   * Extent of each dimension.
   */
  const size_t *dimensions;
  /**
   * Elements from one index to the next, of each dimension; the last one is 1.
   */
  const size_t *strides;
} unimem_layout_t;

/**
 * A block that is live, or tracked.
 */
typedef struct {
  /**
   * Where it begins.
   */
  void *address;
  /**
   * Bytes asked for, or the size it is tracked with.
   */
  size_t size;
  /**
   * Tracked, and not the instance's own.
   */
  bool foreign;
  /**
   * Owners (`unimem_retain`); 1 for foreign blocks.
   */
  size_t references;
} unimem_leak_t;

/**
 * Receives leaks one by one. It may use the instance, but must not close it, and must return: a C++ exception
 * that leaves it ends the program.
 */
typedef void (*unimem_leak_callback_t)(const unimem_leak_t *leak, void *context);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The interface of a memory system: its functions work on the system's memory. The same table each time; it ends with
 * the system. NULL for a system that is not libunimem's.
 */
unified_memory_interface_t *unimem_system_interface(struct advanced_memory_system_t *system);

/**
 * Bytes of a chunk of the streaming or hierarchical memory that starts at `ptr`; the last chunk may be shorter. 0
 * for any other pointer.
 */
size_t unimem_chunk_size(const void *ptr);

/**
 * Number of its chunks; 0 for any other pointer.
 */
size_t unimem_chunk_count(const void *ptr);

/**
 * Brings chunk `index` in, pins it, and gives its address, which is `ptr` plus `index` chunks: until it is released,
 * as often as it was acquired, by whatever thread, no access to it faults, and system calls may be given its memory; in a
 * forked child too it stays acquired as often as it was. The calling thread does the work, so several threads that acquire
 * chunks decode in parallel. With `UNIMEM_OVERWRITE` the contents are unspecified until written.
 *
 * NULL if beside the chunks that are acquired the budget has no room for this one and two more, which plain access may
 * need at once (`UNIMEM_ERROR_OUT_OF_MEMORY`; where all chunks fit, all can be acquired), or the spill file fails
 * (`UNIMEM_ERROR_IO`), or its bytes are not what was written (`UNIMEM_ERROR_CORRUPTION`), or the chunk is acquired 65535
 * times already, or, where faults are served by a signal, no mapping of the process is left for it (`UNIMEM_ERROR_LIMIT`).
 */
void *unimem_chunk_acquire(void *ptr,
                           size_t index,
                           unimem_access_t access);

/**
 * Gives up one acquisition. False if the chunk is not acquired.
 */
bool unimem_chunk_release(void *ptr, size_t index);

/**
 * Asks for `count` chunks from `index` on to be brought in by the library's own threads. Returns at once; as many
 * come as there is room and time for. False if there are no such chunks.
 */
bool unimem_chunk_prefetch(void *ptr,
                           size_t index,
                           size_t count);

/**
 * Says how the memory will be used. `UNIMEM_DONT_NEED` sends out what is in place; it never loses anything.
 */
bool unimem_advise(void *ptr, unimem_advice_t advice);

/**
 * Fills in where the bytes of the memory at `ptr` are and what moving them has cost.
 *
 * @pre `out` may be written.
 */
bool unimem_residency(const void *ptr, unimem_residency_t *out);

/**
 * How direct access to memory that is not in place is served: "userfaultfd", "userfaultfd-copy", "signal" or "none".
 * `UNIMEM_FAULTS` in the environment forces one. Under each, system calls given such memory fail with `EFAULT`;
 * acquired chunks are safe. Under "none" only acquired chunks, and memory that fit the budget as a whole when it was
 * allocated, may be touched; to make the latter larger may fail (`UNIMEM_ERROR_UNSUPPORTED`). The first two serve a touch in
 * a handler of SIGBUS, "signal" in one of SIGSEGV, which chain to the program's own: threads that touch tiered memory must
 * not block that signal, and a handler installed later comes first until the next tiered allocation.
 */
const char *unimem_fault_mechanism(void);

/**
 * The global instance: made on first use, lives as long as the process. Its configuration comes from the
 * environment: `UNIMEM_INITIAL_SIZE`, `UNIMEM_MAX_SIZE`, `UNIMEM_CHUNK_SIZE` (bytes, or with a suffix K, M, G, T),
 * `UNIMEM_GEOMETRIC`, `UNIMEM_STREAMING` (0 or 1), `UNIMEM_TOLERANCE`. NULL only when memory is short.
 */
unified_memory_interface_t *unimem_global(void);

/**
 * Opens an instance; a NULL `config` means defaults: no cap, growth, streaming, chunks of 1 MiB, tolerance 0. At least 64 can be
 * open at once; one more is NULL with `UNIMEM_ERROR_LIMIT`.
 *
 * @pre `config` is NULL or points at a configuration.
 */
unified_memory_interface_t *unimem_open(const unified_pool_config_t *config);

/**
 * Closes an instance: frees all that is live. False when anything was, tracked foreign blocks included; 16 of them, how
 * many there are and their bytes are then reported to the log (`unimem_report_leaks` tells all). Also false, with
 * `UNIMEM_ERROR_INVALID_ARGUMENT`, for the global instance and the interfaces of pools and systems, which end otherwise,
 * and while another thread closes it. No other thread may be inside the instance.
 *
 * @pre Nobody uses the instance or its blocks afterwards.
 */
bool unimem_close(unified_memory_interface_t *memory);

/**
 * The interface of a memory pool: its functions work on the pool's memory. The same table each time; it ends with the
 * pool. NULL for anything but a live pool of libunimem, a pool that the program's own C code made included.
 */
unified_memory_interface_t *unimem_pool_interface(unimem_memory_pool_t *pool);

/**
 * The calling thread's last error; `UNIMEM_OK` when no call of it has failed. A success leaves it alone.
 */
unimem_error_t unimem_last_error(void);

/**
 * What the calling thread's last error was about; empty when no call has failed. Valid until the thread's next
 * failure.
 */
const char *unimem_last_error_message(void);

/**
 * A description of an error code. Static storage.
 */
const char *unimem_error_string(unimem_error_t error);

/**
 * The library's version, "major.minor.patch". Static storage.
 */
const char *unimem_version(void);

/**
 * Bytes of the live block that starts at `ptr`, exactly as asked for; 0: not ours, or not live.
 */
size_t unimem_usable_size(const void *ptr);

/**
 * Whether `ptr` lies in a live block of libunimem, at its start or inside.
 */
bool unimem_owns(const void *ptr);

/**
 * One more owner of a live block: each free gives one up, the last one frees. A block with several owners is not
 * moved by `realloc`. False for anything but the start of a live block.
 */
bool unimem_retain(void *ptr);

/**
 * Owners of the live block that starts at `ptr`; 0: not ours, or not live.
 */
size_t unimem_reference_count(const void *ptr);

/**
 * Whether `allocate(size, 0)` of the calling thread would find room in the instance's budget now: in what is free, in what
 * that thread caches and the instance keeps, which may go back into the common stock for it, and in what chunks of tiered
 * memory hold, which would leave. Without a cap true for every size from 1 to 2^46, the largest there is. What it cannot
 * know: whether the system has the memory, or the disk room for those chunks, and what other threads do meanwhile.
 */
bool unimem_can_allocate(unified_memory_interface_t *memory,
                         size_t size);

/**
 * Hands memory that nothing lives in back to the system: what the instance keeps for reuse and what the calling
 * thread caches. Gives the bytes handed back.
 */
size_t unimem_trim(unified_memory_interface_t *memory);

/**
 * Begins a new history: counts at 0, the peak at what is live. Exact while no other thread is inside the instance.
 */
void unimem_reset_stats(unified_memory_interface_t *memory);

/**
 * Sends the library's messages to `callback`; NULL: to nobody. Independent of it, `UNIMEM_LOG` (error, warning, info
 * or debug) in the environment sends them to stderr. The callback may allocate and free, but must not make or end
 * instances, pools or systems.
 *
 * @pre `callback` may be called with `context` on any thread until another one is set.
 */
void unimem_set_log(unimem_log_t callback,
                    void *context);

/**
 * A dense row-major tensor of `num_dims` dimensions with elements of `element_size` bytes; otherwise as
 * `allocate_geometric`.
 *
 * @pre `dimensions` is NULL or points at `num_dims` numbers.
 */
void *unimem_allocate_tensor(unified_memory_interface_t *memory,
                             const size_t *dimensions,
                             size_t num_dims,
                             size_t element_size);

/**
 * Fills in the layout of the tensor at `ptr`. False for a block that was not allocated as a tensor, or was
 * reallocated since.
 *
 * @pre `layout` may be written.
 */
bool unimem_layout(const void *ptr, unimem_layout_t *layout);

/**
 * Writes what is live in the whole process to the file `path`, as JSON: blocks and bytes by the stack that allocated
 * them, most bytes first. The stacks are known where the environment says `UNIMEM_DEBUG=trace`; blocks whose bytes
 * behind were overwritten are counted where it says `guard`, freed ones that were written to where it says
 * `quarantine` (several: with commas). `UNIMEM_DEBUG_REPORT=path` writes the same when the program ends, and which
 * blocks nothing points to any more; `%p` in that path is the process's number. False when the file cannot be written.
 *
 * @pre `path` is zero-terminated.
 */
bool unimem_write_leaks(const char *path);

/**
 * Begins a recording of the whole process into the file `path`, which is made or replaced: memory over time by kind
 * and tier, faults and evictions, contractions, allocation sites, and what is live at the end. `%p` in the name
 * becomes the number of the process. `unimem report` makes a page of it. `UNIMEM_TRACE=path` in the environment does
 * the same from the first allocation on; `UNIMEM_TRACE_INTERVAL` is how many bytes are allocated between two
 * allocations whose stacks are recorded (524288). It goes on until `unimem_trace_stop()` or the end of the program.
 * A forked child is no part of it and may begin one of its own. False while a recording is under way, and when the
 * file cannot be written or another process records into it.
 *
 * @pre `path` is zero-terminated.
 */
bool unimem_trace_start(const char *path);

/**
 * Ends the recording. False when there is none, also because it has ended before: the disk was full; and when the rest
 * of it cannot be written.
 */
bool unimem_trace_stop(void);

/**
 * Calls `callback`, which may be NULL, with every live block and every tracked foreign one. Gives how many there are.
 *
 * @pre `callback` may be called with `context`.
 */
size_t unimem_report_leaks(unified_memory_interface_t *memory,
                           unimem_leak_callback_t callback,
                           void *context);

/**
 * Frees refused since the instance was opened or its statistics reset: foreign, interior, wild and double ones.
 */
size_t unimem_refused_frees(unified_memory_interface_t *memory);

/**
 * Bytes of RAM the instance holds now, everything counted; what `max_size` caps.
 */
size_t unimem_held_bytes(unified_memory_interface_t *memory);

/**
 * NUMA nodes of the machine, at least 1.
 */
size_t unimem_numa_nodes(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* UNIMEM_H */
