//! All heaps and all threads' caches: ids, the end of a thread, the end of a heap, fork.
//!
//! One lock, which is taken before any heap's own, guards the ids, every record's table of caches, and which caches
//! exist. A cache is entered into its thread's table by that thread. It is taken out by that thread or, when the heap
//! ends, by the thread that ends the heap. No thread may use a heap while another one ends it.
use super::cache::{self, ThreadCache};
use super::central::Central;
use super::{Heap, recorded, records_of_spans, scavenger};
use crate::os::{fork, lock::Mutex, records, thread};
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::Ordering::Relaxed;

/// Ids below this are chosen by callers. All other heaps get the next free id from here on.
pub const RESERVED: usize = 96;

struct Registry {
    /// Every heap record ever made, linked through `next`. Records are type-stable.
    heaps: *mut Heap,
    /// Records out of service, linked through `next_spare`, except those with reserved ids.
    spare: *mut Heap,
    /// Records with ids that callers chose (instances), by id.
    reserved: [*mut Heap; RESERVED],
    /// The next id to give out.
    count: usize,
}
// SAFETY: only followed under the lock.
unsafe impl Send for Registry {}
static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
    heaps: null_mut(),
    spare: null_mut(),
    reserved: [null_mut(); RESERVED],
    count: RESERVED,
});

impl Registry {
    fn heaps(&self) -> impl Iterator<Item = &'static Heap> {
        let mut next = self.heaps;
        core::iter::from_fn(move || {
            // SAFETY: heap records live for ever.
            let heap = unsafe { next.as_ref() }?;
            next = heap.next.load(Relaxed);
            Some(heap)
        })
    }
}

/// Takes a heap record into service: the one with the reserved `id`, which no heap in use has, or any other. None when
/// memory is short.
pub fn take_record(id: Option<usize>) -> Option<&'static Heap> {
    thread::at_exit(end_thread);
    recorded::install();
    let mut registry = REGISTRY.lock();
    let known = id.map_or(registry.spare, |id| registry.reserved[id]);
    // SAFETY: heap records live for ever.
    if let Some(heap) = unsafe { known.as_ref() } {
        if id.is_none() {
            registry.spare = heap.next_spare.load(Relaxed);
        }
        heap.in_use.store(true, Relaxed);
        return Some(heap);
    }
    let record = records::allocate(size_of::<Heap>())?.cast::<Heap>();
    // SAFETY: the memory is fresh and of that size. From here on it is a heap record for ever.
    let heap = unsafe {
        record.write(Heap::out_of_service(id.unwrap_or(registry.count), registry.heaps));
        record.as_ref()
    };
    heap.in_use.store(true, Relaxed);
    match id {
        Some(id) => registry.reserved[id] = record.as_ptr(),
        None => registry.count += 1,
    }
    registry.heaps = record.as_ptr();
    Some(heap)
}

/// Puts back the record of a heap that has ended.
pub fn give_record(heap: &'static Heap) {
    let mut registry = REGISTRY.lock();
    heap.in_use.store(false, Relaxed);
    if heap.id() >= RESERVED {
        heap.next_spare.store(registry.spare, Relaxed);
        registry.spare = core::ptr::from_ref(heap).cast_mut();
    }
}

/// The heap in use whose companion record is at `address`.
pub fn heap_of_companion(address: *const u8) -> Option<&'static Heap> {
    let registry = REGISTRY.lock();
    registry
        .heaps()
        .find(|heap| heap.in_use.load(Relaxed) && core::ptr::eq(heap.companion.load(Relaxed), address))
}

/// Calls `each` with every heap in use, which cannot end meanwhile.
pub fn for_each_heap(each: impl FnMut(&'static Heap)) {
    begin_with_heaps(|| (), each);
}
/// Calls `begin`, then `each` with every heap in use. No heap comes or goes and no thread forks until all of that is
/// done.
pub fn begin_with_heaps(begin: impl FnOnce(), each: impl FnMut(&'static Heap)) {
    let registry = REGISTRY.lock();
    begin();
    registry.heaps().filter(|h| h.in_use.load(Relaxed)).for_each(each);
}

/// This thread's cache of `heap`; it is made if there is none. None when memory is short or the thread has ended
/// already.
pub fn cache_of(heap: &'static Heap) -> Option<&'static ThreadCache> {
    let record = thread::current()?;
    if let Some(cache) = cache::existing(record, heap.id()) {
        return Some(cache);
    }
    let _registry = REGISTRY.lock();
    if !cache::make_entry(record, heap.id()) {
        return None;
    }
    let cache = ThreadCache::make(heap, record)?;
    let mut central = heap.central.lock();
    // SAFETY: the cache is fresh, and listed caches are live under the heap's lock.
    link(&mut central, unsafe { cache.as_ref() });
    cache::set(record, heap.id(), Some(cache));
    // SAFETY: the cache lives until this thread or the heap ends.
    Some(unsafe { &*cache.as_ptr() })
}

/// Ends every cache of a thread that ends. The blocks go back to their spans, and the counts are added to the heaps'.
fn end_thread(record: &'static thread::Record) {
    let registry = REGISTRY.lock();
    for id in cache::ids(record) {
        let Some(cache) = cache::existing(record, id) else { continue };
        // SAFETY: heap records live for ever.
        let heap = unsafe { &*cache.heap };
        let mut central = heap.central.lock();
        heap.flush(&mut central, cache);
        cache::retire(cache, heap, &mut central);
        unlink(&mut central, cache);
        cache::set(record, id, None);
        // SAFETY: the cache is empty, in no list, and no longer in the thread's table.
        unsafe { ThreadCache::release(NonNull::from(cache)) };
    }
    cache::release_table(record);
    drop(registry);
    scavenger::start_if_wanted();
}

/// Enters a cache into its heap's list.
pub fn link(central: &mut Central, cache: &ThreadCache) {
    cache.next.set(central.caches);
    central.caches = core::ptr::from_ref(cache).cast_mut();
    central.number_of_caches += 1;
}
/// Takes a cache out of its heap's list.
pub fn unlink(central: &mut Central, cache: &ThreadCache) {
    let mut link: *mut *mut ThreadCache = &mut central.caches;
    // SAFETY: listed caches are live under the heap's lock.
    unsafe {
        while *link != core::ptr::from_ref(cache).cast_mut() {
            link = (**link).next.as_ptr();
        }
        *link = cache.next.get();
    }
    central.number_of_caches -= 1;
}

/// Ends every thread's cache of a heap that ends. The blocks in them go with the heap.
pub fn end_caches(heap: &Heap) {
    let _registry = REGISTRY.lock();
    let mut central = heap.central.lock();
    heap.take_over_abandoned(&mut central);
    while let Some(cache) = NonNull::new(central.caches) {
        // SAFETY: listed caches are live. By the heap's contract their threads are outside the heap while it ends, and
        // the registry's lock guards their tables.
        unsafe {
            central.caches = cache.as_ref().next.get();
            central.number_of_caches -= 1;
            cache::retire(cache.as_ref(), heap, &mut central);
            cache::set(&*cache.as_ref().record, heap.id(), None);
            ThreadCache::release(cache);
        }
    }
}

/// See load.rs.
pub(crate) static HOOKS: fork::Hooks = fork::Hooks {
    prepare: || {
        let registry = REGISTRY.lock();
        registry.heaps().for_each(|heap| core::mem::forget(heap.orphans.lock()));
        registry.heaps().for_each(|heap| core::mem::forget(heap.central.lock()));
        records_of_spans::lock();
        core::mem::forget(registry);
    },
    parent: unlock,
    child: || {
        scavenger::forget_thread();
        // SAFETY: `prepare` has taken the locks of the registry and of all heaps; the child has no other thread.
        unsafe {
            let registry = &*REGISTRY.data_ptr();
            registry.heaps().for_each(|heap| heap.abandon_caches(&mut *heap.central.data_ptr()));
        }
        unlock();
    },
};
fn unlock() {
    // SAFETY: runs only after `prepare` has taken these locks and forgotten their guards. The list of heaps cannot
    // have changed in between.
    unsafe {
        records_of_spans::unlock();
        let registry = &*REGISTRY.data_ptr();
        registry.heaps().for_each(|heap| {
            heap.central.force_unlock();
            heap.orphans.force_unlock();
        });
        REGISTRY.force_unlock();
    }
}
