//! A heap's beginning and end, and what other layers keep with it.
use super::cache::ThreadCache;
use super::central::Central;
use super::size_class::MAX_SPAN_ALIGNMENT;
use super::*;
use crate::error::fail;
use crate::os::map;

impl Heap {
    /// Makes a heap. Errors: InvalidArgument, OutOfMemory, and Unsupported where the system's pages are not of 4 KiB.
    pub fn create(params: &HeapParams) -> Result<&'static Heap> {
        let alignment = params.alignment.max(DEFAULT_ALIGNMENT);
        if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
            return fail!(InvalidArgument, "alignment {alignment} is not a power of two up to 1 GiB");
        }
        if !map::pages_are_supported() {
            return fail!(Unsupported, "this system's pages are not of 4 KiB");
        }
        if params.ready > map::physical_memory() {
            return fail!(OutOfMemory, "{} bytes ready are more than this machine has", params.ready);
        }
        if params.limit != 0 && params.ready > params.limit {
            return fail!(
                InvalidArgument,
                "{} bytes ready exceed the limit of {}",
                params.ready,
                params.limit
            );
        }
        let Some(heap) = registry::take_record(params.id) else {
            return fail!(OutOfMemory, "no memory for a heap");
        };
        // Blocks aligned to more than this are mappings of their own, in which the prefix has a slice to itself.
        let prefix = params.prefix.next_multiple_of(alignment.min(MAX_SPAN_ALIGNMENT));
        heap.prefix.store(prefix, Relaxed);
        heap.alignment.store(alignment, Relaxed);
        // Without caches fast.rs serves no call. All of them come to slow.rs, where debug/ sees them.
        let cached = if debug::modes().any() { 0 } else { params.cache_blocks };
        heap.cache_blocks.store(cached, Relaxed);
        heap.huge_pages.store(params.huge_pages, Relaxed);
        heap.guarding.store(false, Relaxed);
        heap.placed.store(params.placed, Relaxed);
        heap.limit.store(params.limit, Relaxed);
        heap.write_header.store(params.write_header.map_or(core::ptr::null_mut(), |f| f as *mut ()), Relaxed);
        heap.counted_in.store(core::ptr::null_mut(), Relaxed);
        heap.counters.begin_anew();
        if !heap.central.lock().make_ready(heap, params.ready) {
            heap.destroy();
            return fail!(OutOfMemory, "{} bytes could not be made ready", params.ready);
        }
        Ok(heap)
    }

    /// Ends the heap, with all its blocks, live ones too. Returns what was live. No other thread may be inside the heap.
    pub fn destroy(&'static self) -> Leaks {
        self.tell_end();
        self.destroy_told()
    }
    /// Reports what is damaged or live, in debug mode. This is apart from [`Heap::destroy_told`] for callers that end the
    /// heap under a lock, which the program's callback might take.
    pub fn tell_end(&'static self) {
        debug::heap_ends(self);
    }
    /// Does what [`Heap::destroy`] does after [`Heap::tell_end`].
    pub fn destroy_told(&'static self) -> Leaks {
        let mut leaks = Leaks::default();
        let mut marked = false;
        self.for_each_live(&mut |block| {
            leaks.blocks += 1;
            leaks.bytes += block.size;
            marked |= attributes::is_marked(block.start as *mut u8);
        });
        if marked {
            self.for_each_live(&mut |block| attributes::forget(block.start as *mut u8));
        }
        registry::end_caches(self);
        if let Some(orphans) = self.orphans.lock().take() {
            // SAFETY: its blocks go with the heap, and nobody else reaches this cache.
            unsafe { ThreadCache::release(orphans) };
        }
        let mut central = self.central.lock();
        central.release_all(self);
        *central = Central::new();
        drop(central);
        self.counters.count_held_in(None);
        registry::give_record(self);
        leaks
    }

    /// A record of `size` bytes that belongs to whoever wraps the heap. It is made once and stays with the heap's own
    /// record, so later heaps with that record use it too. None when memory is short.
    pub fn companion(&self, size: usize) -> Option<NonNull<u8>> {
        let known = NonNull::new(self.companion.load(Relaxed));
        known.or_else(|| {
            let made = crate::os::records::allocate(size)?;
            self.companion.store(made.as_ptr(), Relaxed);
            Some(made)
        })
    }
    /// Makes this heap a part of `whole`, which lasts as long as this one. Its owner counts all its blocks there too
    /// ([`Heap::count_block_of_part`]). A free that is refused later is then taken back there as well.
    pub fn count_in(&self, whole: &'static Heap) {
        self.counted_in.store(core::ptr::from_ref(whole).cast_mut(), Relaxed);
    }
    /// Whether it is a part of another heap.
    pub(super) fn is_part(&self) -> bool {
        !self.counted_in.load(Relaxed).is_null()
    }
    /// Counts held bytes in `counter`, which lives as long as the heap.
    pub fn count_held_in(&self, counter: &'static AtomicUsize) {
        self.counters.count_held_in(Some(counter));
    }
}
