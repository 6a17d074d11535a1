//! The heap's slow paths: allocation and free by everything but a hit in a thread's cache.
use super::cache::ThreadCache;
use super::central::requested_size;
use super::magazine::Entry;
use super::size_class::{
    Class, FIRST_SINGLE, MAX_SPAN_ALIGNMENT, MAX_STRIDE, SHAPES, aligned_class_of, class_of,
};
use super::span::{ALL, Span};
use super::*;
use crate::error::fail;

/// Most bytes of blocks that a thread may cache of a heap with a limit.
const MOST_CACHED: usize = 16 << 20;
/// The same bound as a share of the limit: one part in so many. The smaller bound counts.
const SHARE_CACHED: usize = 32;
/// Slow calls of a thread between two looks at how much it caches.
const CALLS_A_LOOK: u32 = 16;

/// What a block is to have beside the bytes asked for.
#[derive(Clone, Copy, Default)]
pub(super) struct Extras {
    /// Bytes of capacity beyond the size.
    pub slack: usize,
    /// Whether its span is to have address space to grow into, where the class can have it.
    pub growth: bool,
    /// Whether its span is to remember how much of it was written to, for [`Span::take_written`].
    pub zeroed: bool,
}

impl Heap {
    /// Runs `f` with this thread's cache, or with the one shared by threads that have none.
    pub(super) fn with_cache<R>(&'static self, f: impl FnOnce(&ThreadCache) -> R) -> Result<R> {
        if let Some(cache) = registry::cache_of(self) {
            return Ok(f(cache));
        }
        let mut orphans = self.orphans.lock();
        let cache = match *orphans {
            Some(cache) => cache,
            None => match ThreadCache::make(self, core::ptr::null()) {
                Some(cache) => *orphans.insert(cache),
                None => return fail!(OutOfMemory, "no memory for a thread's cache"),
            },
        };
        // SAFETY: the orphans' cache is only reached under this lock, which is held until `f` has returned.
        Ok(f(unsafe { cache.as_ref() }))
    }

    /// How many blocks of a class `cache` may hold. The orphans' cache holds none.
    fn blocks_cached(&self, cache: &ThreadCache) -> usize {
        if cache.record.is_null() { 0 } else { self.cache_blocks.load(Relaxed) }
    }

    /// Allocates a block of zeroes. Memory that was never written to is zero already, and is not touched.
    pub fn allocate_zeroed(&'static self, size: usize, alignment: usize) -> Result<NonNull<u8>> {
        let block = match self.allocate_quickly(size, alignment, true) {
            Some(block) => block,
            None => self.allocate_slow(size, alignment, Extras { zeroed: true, ..Extras::default() })?,
        };
        let written = span_of_block(block.as_ptr()).take_written();
        // SAFETY: the block is fresh and has at least `size` bytes.
        unsafe { block.write_bytes(0, size.min(written)) };
        Ok(block)
    }

    #[cold]
    #[inline(never)]
    pub(super) fn allocate_slow(
        &'static self,
        size: usize,
        alignment: usize,
        extras: Extras,
    ) -> Result<NonNull<u8>> {
        if size == 0 {
            return fail!(InvalidArgument, "a block of 0 bytes");
        }
        if alignment != 0 && !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
            return fail!(InvalidArgument, "alignment {alignment} is not a power of two up to 1 GiB");
        }
        if size > MAX_SIZE {
            return fail!(OutOfMemory, "{size} bytes are more than any address space holds");
        }
        let alignment = self.alignment_for(alignment);
        let extras = Extras { slack: extras.slack.max(debug::slack()), ..extras };
        let mut result = self.allocate_anywhere(size, alignment, extras);
        if result.is_err() && debug::empty_quarantine(Some(self)) {
            result = self.allocate_anywhere(size, alignment, extras);
        }
        if result.is_err() && self.make_room() {
            result = self.allocate_anywhere(size, alignment, extras);
        }
        if result.is_err() {
            self.want_caches();
        }
        if result.is_err() && self.limit_refuses(size, alignment) {
            result = self.no_room(size);
        } else if result.is_err() {
            // The system is short: of memory that heaps keep, or of addresses that the arena has.
            registry::for_each_heap(|heap| _ = heap.release_kept(None));
            debug::empty_quarantine(None);
            arena::vacate_unused();
            result = self.allocate_anywhere(size, alignment, extras);
        }
        scavenger::start_if_wanted();
        if let Ok(block) = result {
            debug::allocated(block);
            self.sample(block, size);
        }
        result
    }

    fn allocate_anywhere(
        &'static self,
        size: usize,
        alignment: usize,
        extras: Extras,
    ) -> Result<NonNull<u8>> {
        match self.class_for(size + extras.slack, alignment) {
            Some(class) => self.allocate_from_class(class, size, extras).inspect(|block| {
                if class as usize >= FIRST_SINGLE && alignment > DEFAULT_ALIGNMENT {
                    span_of_block(block.as_ptr())
                        .alignment_log2
                        .store(alignment.trailing_zeros() as u8, Relaxed);
                }
            }),
            None => self.allocate_large(size, alignment, extras.slack),
        }
    }

    /// Gives the budget back what this thread caches and what spans have beyond the last block in use. False if there is nothing.
    pub(super) fn make_room(&'static self) -> bool {
        self.flush_caches() | self.central.lock().give_back_tails(self)
    }
    /// Puts back what this thread caches and, in a forked child, what abandoned caches hold. False if there is nothing.
    pub(super) fn flush_caches(&'static self) -> bool {
        let cache = self.existing_cache().filter(|cache| {
            self.empty_front(cache);
            cache.magazines().iter().any(|m| m.length() > 0)
        });
        let mut central = self.central.lock();
        if let Some(cache) = cache {
            self.flush(&mut central, cache);
        }
        self.take_over_abandoned(&mut central) || cache.is_some()
    }

    /// Makes every other thread put back what it caches when it next takes a slow path of this heap. A thread that sleeps
    /// keeps its blocks: magazines have no lock, so only their own thread may empty them.
    pub(super) fn want_caches(&self) {
        self.caches_wanted.fetch_add(1, Relaxed);
    }
    /// Empties the front. Puts back all this thread caches if `want_caches` asked for it or, with a limit, it is too much.
    pub(super) fn tidy(&self, cache: &ThreadCache) {
        self.empty_front(cache);
        let wanted = self.caches_wanted.load(Relaxed);
        if cache.wanted_seen.replace(wanted) != wanted || self.limit() != 0 && self.caches_too_much(cache) {
            self.flush(&mut self.central.lock(), cache);
        }
    }
    /// Moves the block in the front of this thread's cache into its magazine, or into its span if the magazine is full.
    pub(super) fn empty_front(&self, cache: &ThreadCache) {
        if let Some((class, entry)) = cache.front.remove(0)
            && !cache.magazine(class).push(entry)
        {
            self.put_back(&mut self.central.lock(), cache, class, entry);
        }
    }
    /// Whether `cache` holds too much. Only one call in [`CALLS_A_LOOK`] adds it up, the others say no.
    fn caches_too_much(&self, cache: &ThreadCache) -> bool {
        let calls = cache.slow_calls.get().wrapping_add(1);
        cache.slow_calls.set(calls);
        calls.is_multiple_of(CALLS_A_LOOK) && cache.bytes() > MOST_CACHED.min(self.limit() / SHARE_CACHED)
    }

    /// The alignment that a block gets when the caller asks for `alignment`; 0: the caller asks for none.
    pub(super) fn alignment_for(&self, alignment: usize) -> usize {
        match (alignment, self.alignment.load(Relaxed)) {
            (0, own) => own,
            (alignment, own) if own > DEFAULT_ALIGNMENT => own.max(alignment),
            (alignment, _) => alignment,
        }
    }

    /// The class whose spans serve `room` bytes at `alignment`. None: the block becomes a mapping of its own.
    pub(super) fn class_for(&self, room: usize, alignment: usize) -> Option<Class> {
        let prefix = self.prefix();
        let bytes = room.checked_add(prefix)?;
        let too_aligned = alignment > MAX_SPAN_ALIGNMENT || prefix > 0 && !prefix.is_multiple_of(alignment);
        if bytes > MAX_STRIDE || too_aligned {
            return None;
        }
        if alignment > DEFAULT_ALIGNMENT {
            let class = aligned_class_of(bytes, alignment);
            let fits = SHAPES[class as usize].stride as usize >= bytes;
            return fits.then_some(class);
        }
        let granule = if prefix == 0 && alignment <= 16 { 16 } else { 64 };
        Some(class_of(bytes.next_multiple_of(granule)))
    }

    fn allocate_from_class(&'static self, class: Class, size: usize, extras: Extras) -> Result<NonNull<u8>> {
        let index = class as usize;
        let entry = self.with_cache(|cache| {
            self.tidy(cache);
            if extras.growth
                && let Some(entry) = self.central.lock().take_to_grow(self, cache, class)
                && self.claim(cache, index, entry, size, extras.zeroed)
            {
                cache.count_allocation(self, size, false);
                return Some(entry);
            }
            let magazine = cache.magazine(index);
            while let Some(entry) = magazine.pop() {
                if self.claim(cache, index, entry, size, extras.zeroed) {
                    cache.count_allocation(self, size, true);
                    return Some(entry);
                }
            }
            // One block to use now, and some for later calls.
            let extra = magazine.room_to_fill(index, self.blocks_cached(cache));
            let mut first = None;
            let mut central = self.central.lock();
            central.take(self, cache, class, 1 + extra, |entry| match first {
                None => first = Some(entry),
                Some(_) => assert!(magazine.push(entry), "an empty magazine has room for half its capacity"),
            });
            drop(central);
            // The block with the lowest address is to be handed out first.
            magazine.reverse();
            let entry = first.filter(|&entry| self.claim(cache, index, entry, size, extras.zeroed))?;
            cache.count_allocation(self, size, false);
            Some(entry)
        })?;
        match entry.and_then(|entry| NonNull::new(entry.pointer)) {
            Some(pointer) => Ok(pointer),
            None => self.out_of_memory(size),
        }
    }

    fn claim(&self, cache: &ThreadCache, class: usize, entry: Entry, size: usize, zeroed: bool) -> bool {
        let magazine = cache.magazine(class);
        let single = class >= FIRST_SINGLE;
        let live = if single { slot::LIVE } else { magazine.labels().zero_size_value() - size as u16 };
        if debug::guards_are_on() {
            // Reports look at all that is live. There is no fast path then, which is all that could make the claim fail.
            if single {
                span_of_block(entry.pointer).note_request(size);
            }
            debug::write_guard(entry.pointer, size);
        }
        if !slot::claim(entry.slot(), magazine.tag(), live) {
            cache.refuse(self, class, entry);
            return false;
        }
        if single {
            let span = span_of_block(entry.pointer);
            span.note_request(size);
            if !zeroed {
                span.set_written(ALL);
            }
        }
        true
    }

    /// The error for an allocation of `size` bytes that found no memory.
    #[cold]
    pub(super) fn out_of_memory<T>(&self, size: usize) -> Result<T> {
        match self.limit() {
            limit if limit == 0 || self.held().saturating_add(size) <= limit => {
                fail!(OutOfMemory, "the system has no memory for {size} bytes")
            }
            _ => self.no_room(size),
        }
    }
    fn no_room<T>(&self, size: usize) -> Result<T> {
        fail!(OutOfMemory, "no room for {size} bytes: {} of {} are held", self.held(), self.limit())
    }

    /// [`Heap::give_up`] for what fast.rs leaves over.
    #[cold]
    #[inline(never)]
    pub(super) fn free_slow(&'static self, pointer: *mut u8) -> Result<bool> {
        if pointer.is_null() {
            return Ok(false);
        }
        let (span, index, value) = match self.find(pointer) {
            Ok(found) => found,
            Err(error) => {
                self.counters.refused.fetch_add(1, Relaxed);
                debug::refused(pointer, error);
                return Err(error);
            }
        };
        debug::check(pointer)?;
        if slot::is_marked(value) {
            // Counting needs the thread's cache. Making it may fail, so it is made before the block loses what it carries.
            self.ready_to_count()?;
            if !attributes::give_up(pointer) {
                return Ok(false); // other owners are left
            }
        }
        if debug::quarantine(self, span, index, pointer as usize)? {
            return Ok(true);
        }
        if span.is_large() {
            self.free_large(span, pointer)?;
        } else if !self.with_cache(|cache| self.free_to_class(cache, span, index, value, pointer))? {
            return self.free_slow(pointer); // it changed meanwhile: freed by another thread, or marked
        }
        scavenger::start_if_wanted();
        Ok(true)
    }

    pub(super) fn free_to_class(
        &self,
        cache: &ThreadCache,
        span: &'static Span,
        index: usize,
        value: u16,
        pointer: *mut u8,
    ) -> bool {
        self.tidy(cache);
        let mut central = self.central.lock();
        if !self.has_block_of_class(span, index, pointer) {
            return false;
        }
        let class = span.class() as usize;
        let magazine = cache.magazine(class);
        let (block, tag) = (span.slot(index), magazine.tag());
        let size = requested_size(span, value);
        if !slot::surrender(block, value, tag) {
            return false;
        }
        if !magazine.has_room(class, self.blocks_cached(cache)) && magazine.capacity() > 0 {
            let oldest = magazine.capacity().div_ceil(2);
            magazine.drain_oldest(oldest, |entry| self.put_back(&mut central, cache, class, entry));
        }
        cache.tally.free(self, size);
        let entry = Entry::new(pointer, block, slot::plain(value));
        if !magazine.push(entry) {
            self.put_back(&mut central, cache, class, entry);
        }
        true
    }

    /// Puts a block back into its span. If another thread or the span has it already, refuses the free that made the entry.
    fn put_back(&self, central: &mut Central, cache: &ThreadCache, class: usize, entry: Entry) {
        let place = page_map::span_of(entry.pointer as usize)
            .and_then(|span| Some((span, span.index_of(entry.pointer as usize)?)))
            // Its memory may have become part of another span since, perhaps another heap's.
            .filter(|&(span, index)| {
                self.has_block_of_class(span, index, entry.pointer) && entry.has_slot(span.slot(index))
            });
        if !place.is_some_and(|(span, index)| central.put(self, span, index, cache.magazine(class).tag())) {
            cache.refuse(self, class, entry);
        }
    }

    /// Marks the live block at `start` as in quarantine. Returns what its slot held; None: another thread has freed it.
    pub(super) fn set_aside(&self, span: &'static Span, index: usize, start: usize) -> Option<u16> {
        let _central = self.central.lock();
        let pointer = start as *const u8;
        let aside = |value| slot::is_live(value).then_some(slot::ASIDE);
        let found = self.has_block(span, index, pointer);
        found.then(|| span.slot_to_change(index).fetch_update(AcqRel, Relaxed, aside).ok())?
    }
    /// Counts a free of `size` bytes whose block stays in quarantine.
    pub(super) fn count_quarantined(&'static self, size: usize) -> Result<()> {
        self.with_cache(|cache| cache.tally.free(self, size))
    }
    /// Takes a block out of quarantine: puts it back into its span, or keeps the range of a mapped one.
    pub(super) fn take_back(&self, span: &'static Span, index: usize) {
        let mut central = self.central.lock();
        if !span.is_large() {
            central.put(self, span, index, slot::ASIDE);
            return;
        }
        span.large_slot.store(slot::FREE, Relaxed);
        freed::note(span.first());
        // SAFETY: the block was in quarantine until now, so its span is still in the heap's list; the lock is held.
        unsafe {
            central.remove_large(NonNull::from(span));
            central.kept.keep_range(self, NonNull::from(span));
        }
    }

    /// Puts the blocks of all magazines of `cache` back into their spans.
    pub(super) fn flush(&self, central: &mut Central, cache: &ThreadCache) {
        self.drain_from(central, cache, 0);
    }

    /// Puts back the large blocks that `cache` has in magazines: the run of each can then serve spans of any class. False if
    /// there is none.
    pub(super) fn put_back_singles(&self, central: &mut Central, cache: &ThreadCache) -> bool {
        self.drain_from(central, cache, FIRST_SINGLE)
    }
    /// Puts back what the front and the magazines of all classes from `first` on hold. False if that is nothing.
    fn drain_from(&self, central: &mut Central, cache: &ThreadCache, first: usize) -> bool {
        let mut any = false;
        if let Some((class, entry)) = cache.front.remove(first) {
            self.put_back(central, cache, class, entry);
            any = true;
        }
        for (class, magazine) in cache.magazines().iter().enumerate().skip(first) {
            magazine.drain_oldest(usize::MAX, |entry| {
                self.put_back(central, cache, class, entry);
                any = true;
            });
        }
        any
    }

    /// Gives back to the system what this thread caches and what the heap keeps. Returns the number of bytes.
    pub fn trim(&'static self) -> usize {
        let before = self.held();
        debug::empty_quarantine(Some(self));
        self.trim_quietly();
        before.saturating_sub(self.held())
    }
    /// Trims without emptying the quarantine: that may find damage, of which the program would be told.
    pub fn trim_quietly(&'static self) -> usize {
        let before = self.held();
        self.flush_caches();
        self.want_caches();
        {
            let mut central = self.central.lock();
            central.give_back_tails(self);
            central.kept.release(self, None);
        }
        before.saturating_sub(self.held())
    }

    /// Gives back memory that was kept before the tick `before`, or all that is kept. True if something that ages is left.
    pub(super) fn release_kept(&self, before: Option<u32>) -> bool {
        let mut central = self.central.lock();
        central.kept.release(self, before);
        central.kept.ages()
    }

    /// Writes the header before a block, if the heap has headers.
    pub(super) fn write_header(&self, pointer: usize, room: usize, class: u16) {
        let write_header = self.write_header.load(Relaxed);
        if !write_header.is_null() {
            // SAFETY: stored from a function of this type when the heap was made.
            unsafe {
                core::mem::transmute::<*mut (), WriteHeader>(write_header)(pointer as *mut u8, room, class)
            };
        }
    }
    /// Makes this thread's cache if it has none. Callers do this before they change anything, so that counting cannot fail.
    pub fn ready_to_count(&'static self) -> Result<()> {
        self.with_cache(|_| ())
    }
    pub(super) fn count(&'static self, f: impl FnOnce(&ThreadCache)) -> Result<()> {
        self.with_cache(f)
    }
}
