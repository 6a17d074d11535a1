//! All heaps and all threads' caches: ids, the end of a thread, the end of a heap, fork.
//!
//! One lock, taken before any heap's own: it guards the ids, every record's table of caches, and which caches exist.
//! A cache is entered into its thread's table by that thread and taken out either by it or, when the heap ends, by
//! whoever ends the heap; no thread may use a heap while another one ends it.
use super::cache::{self, ThreadCache};
use super::central::Central;
use super::{Heap, recorded, records_of_spans, scavenger};
use crate::os::{fork, lock::Mutex, records, thread};
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::Ordering::Relaxed;

/// Ids that callers choose themselves; all other heaps get the next free one.
pub const RESERVED: usize = 96;

struct Registry {
    /// Every heap record ever made, through `next`; type-stable.
    heaps: *mut Heap,
    /// Those out of service, through `next_spare`, but for reserved ones.
    spare: *mut Heap,
    /// Those with ids that callers chose (instances), by id.
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

/// A heap record for service: the one with the reserved `id`, which no heap in use has, or any other. None when memory
/// is short.
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
    // SAFETY: fresh memory of that size; from here on it is a heap for ever.
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

/// Puts a record back whose heap has ended.
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
/// The same after `begin`; no heap comes or goes, and no thread forks, between all that.
pub fn begin_with_heaps(begin: impl FnOnce(), each: impl FnMut(&'static Heap)) {
    let registry = REGISTRY.lock();
    begin();
    registry.heaps().filter(|h| h.in_use.load(Relaxed)).for_each(each);
}

/// This thread's cache of `heap`, made now if need be. None when memory is short or the thread is past its end.
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
    // SAFETY: fresh; listed under the heap's lock.
    link(&mut central, unsafe { cache.as_ref() });
    cache::set(record, heap.id(), Some(cache));
    // SAFETY: lives until this thread or the heap ends.
    Some(unsafe { &*cache.as_ptr() })
}

/// Dissolves every cache of a thread that ends: blocks go back to their heaps, counts are added to theirs.
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
        // SAFETY: empty, unlisted, and no longer in the thread's table.
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
/// Takes it out.
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

/// Dissolves every thread's cache of a heap that ends; the blocks in them go with the heap.
pub fn end_caches(heap: &Heap) {
    let _registry = REGISTRY.lock();
    let mut central = heap.central.lock();
    heap.take_over_abandoned(&mut central);
    while let Some(cache) = NonNull::new(central.caches) {
        // SAFETY: listed caches are live; their threads are outside the heap while it ends, by its contract, and
        // their tables are guarded by the registry's lock.
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
    // SAFETY: runs only after `prepare` has taken these locks and forgotten their guards; the list of heaps cannot
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
