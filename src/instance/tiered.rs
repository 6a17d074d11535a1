//! Streaming and hierarchical memory of an instance. Each block is a region of the instance's residency engine.
use super::{Instance, slots};
use crate::error::{Error, Result, fail, pending};
use crate::heap::debug::{self, regions};
use crate::heap::{Block, Heap, freed, tracked};
use crate::log::{lock_quietly, log};
use crate::os::map::{HUGE_PAGE, PAGE};
use crate::os::{fork::AtFork, lock::Mutex};
use crate::recording;
use crate::tiers::budget::Budget;
use crate::tiers::engine::Engine;
use crate::tiers::gate;
use crate::tiers::region::{CHUNK_SIZES, Params, Policy, Region};
use crate::tiers::registry;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

/// How many chunks should fit the budget at once, if the library chooses the chunk size.
const CHUNKS_AT_ONCE: usize = 16;
/// Room that is asked for in addition to a plain block that did not fit, because the heap takes memory in pieces larger
/// than blocks.
const PIECES: usize = HUGE_PAGE;
/// How often chunks are sent out for a plain block, which other blocks may deprive of the room each time.
const ROUNDS: usize = 64;

/// The budget of an engine: chunks are charged to the limit of the heap, which plain blocks share.
struct HeapBudget(&'static Heap);
impl Budget for HeapBudget {
    fn try_charge(&self, bytes: usize) -> bool {
        let charged = self.0.charge(bytes);
        if charged {
            self.0.count_chunks(bytes, 0);
        }
        charged
    }
    fn charge_anyway(&self, bytes: usize) {
        self.0.charge_anyway(bytes);
        self.0.count_chunks(bytes, 0);
    }
    fn discharge(&self, bytes: usize) {
        self.0.count_chunks(0, bytes);
        self.0.discharge(bytes);
    }
    fn limit(&self) -> usize {
        self.0.limit()
    }
    fn make_room(&self) -> bool {
        self.0.trim() > 0
    }
}

/// The engine of an instance. It is made with the instance's first region.
#[derive(Default)]
pub struct Tiered {
    engine: OnceLock<Arc<Engine>>,
}

impl Tiered {
    /// The engine, if there has been a region.
    pub fn engine(&self) -> Option<&Arc<Engine>> {
        self.engine.get()
    }
    fn made(&self, heap: &'static Heap) -> Result<&Arc<Engine>> {
        if let Some(engine) = self.engine.get() {
            return Ok(engine);
        }
        let engine = Engine::new(Box::new(HeapBudget(heap)))?;
        // Inside the gate, which fork closes: a child finds the engine there or not, but never half there.
        let superfluous = {
            let _inside = gate::enter();
            self.engine.set(engine)
        };
        drop(superfluous);
        self.engine.get().ok_or(Error::Internal)
    }
    /// Whether a region belongs to this instance.
    pub fn has(&self, region: &Region) -> bool {
        self.engine.get().is_some_and(|engine| Arc::ptr_eq(engine, region.engine()))
    }
    /// The region that starts at `pointer`, if it belongs to this instance.
    pub fn region(&self, pointer: *const u8) -> Option<Arc<Region>> {
        self.engine.get()?;
        region_at(pointer).filter(|region| self.has(region))
    }
    /// In debug mode, reports the regions that were overrun. To be called before they are freed, and without a lock.
    pub fn tell_overruns(&self) {
        if let Some(engine) = self.engine.get().filter(|_| debug::guards_are_on()) {
            engine.list().iter().for_each(|region| _ = check(region));
        }
    }
    /// Frees all regions.
    pub fn clear(&self) {
        if let Some(engine) = self.engine.get() {
            engine.list().iter().for_each(|region| tracked::ended(region.start()));
            engine.clear();
        }
    }
}

/// The live region that starts at `pointer`.
pub fn region_at(pointer: *const u8) -> Option<Arc<Region>> {
    registry::lookup(pointer as usize).filter(|region| region.start() == pointer as usize)
}
/// The live region that contains `pointer`, at its start or inside.
pub(super) fn region_of(pointer: *const u8) -> Option<Arc<Region>> {
    registry::lookup(pointer as usize).filter(|region| (pointer as usize) < region.start() + region.size())
}
/// Frees the live region that starts at `pointer`, whichever instance it belongs to. False if there is none.
pub fn free_anywhere(pointer: *const u8) -> bool {
    region_at(pointer).is_some_and(|region| {
        // Before the slots are locked: an overrun is reported to the program's callback.
        check(&region).is_ok()
            && slots::for_any(|instance| instance.tiered.has(&region) && instance.give_up(&region).is_ok())
    })
}
/// Held while one of several owners makes a region smaller.
static RESIZING: Mutex<()> = Mutex::new(());
/// See load.rs.
pub(crate) static HOOKS: &dyn AtFork = &RESIZING;
/// A region as a block.
pub fn as_block(region: &Region) -> Block {
    let size = region.size();
    Block { start: region.start(), size, capacity: size, alignment: PAGE }
}
/// The instance that made a region, if it is that of the pool or system with this heap.
pub fn maker(heap: &'static Heap, region: &Region) -> Option<&'static Instance> {
    slots::adopted(heap).filter(|instance| instance.tiered.has(region))
}
/// The live region that starts at `pointer` and its instance, if that is the instance of the pool or system with this
/// heap. The functions of pools and systems take such memory as they take blocks.
pub fn made_through(heap: &'static Heap, pointer: *const u8) -> Option<(&'static Instance, Arc<Region>)> {
    let region = region_at(pointer)?;
    Some((maker(heap, &region)?, region))
}
/// To be called when a heap refused `pointer`. If it lies in tiered memory, of which heaps know nothing, says so.
pub fn refused(pointer: *const u8, error: Error) -> Error {
    match region_of(pointer).filter(|_| error == Error::NotOwned) {
        Some(region) if region.start() == pointer as usize => {
            pending(error, format_args!("{pointer:p} belongs to another pool, system or instance"))
        }
        Some(region) => pending(
            error,
            format_args!("{pointer:p} is inside the tiered memory that starts at {:#x}", region.start()),
        ),
        None => error,
    }
}
/// Like [`refused`], for a free by the function `call`; logs it, too.
pub fn free_refused(call: &str, pointer: *const u8, error: Error) -> Error {
    let message = refused(pointer, error).message();
    log!(Warning, "{call} refused: {message}");
    // The program's callback may have called the library, whose failures have messages of their own.
    pending(error, format_args!("{message}"))
}
/// The region that starts at `pointer`. NotOwned for any other pointer.
pub fn expect_region(pointer: *const u8) -> Result<Arc<Region>> {
    match region_at(pointer) {
        Some(region) => Ok(region),
        None => fail!(NotOwned, "{pointer:p} is no live streaming or hierarchical memory"),
    }
}

/// In debug mode, looks whether a region was overrun. If it was, reports it and fails with Corruption.
pub fn check(region: &Region) -> Result<()> {
    if !debug::guards_are_on() {
        return Ok(());
    }
    // If a chunk cannot be brought in, it cannot be checked, and counts as whole.
    if let Ok(Some(offset)) = region.first_overrun() {
        debug::tell_overrun(region.start(), region.size(), offset);
        return fail!(Corruption, "bytes behind the tiered memory at {:#x} were overwritten", region.start());
    }
    Ok(())
}

impl Instance {
    /// Allocates a region of `size` bytes in chunks of `chunk` bytes (0: chosen here).
    pub(super) fn allocate_region(&self, size: usize, chunk: usize, policy: Policy) -> Result<NonNull<u8>> {
        if size == 0 {
            return fail!(InvalidArgument, "tiered memory of no bytes");
        }
        let chunk = match chunk {
            0 => self.fitting_chunk(size),
            asked => asked.clamp(*CHUNK_SIZES.start(), *CHUNK_SIZES.end()).next_multiple_of(PAGE),
        };
        let engine = self.tiered.made(self.heap)?;
        let params = Params { size, chunk, policy };
        let region = engine.allocate(&params)?;
        if let Err(error) = self.heap.count_region(size) {
            engine.free(&region);
            return Err(error);
        }
        freed::forget(region.start());
        regions::made(self.heap, region.start(), size);
        region.record_allocation();
        let start = region.start() as *mut u8;
        NonNull::new(start).ok_or(Error::Internal)
    }
    /// The configured chunk size, or a smaller one if the memory or the budget is small.
    fn fitting_chunk(&self, size: usize) -> usize {
        let chunk =
            self.config.chunk_size.clamp(*CHUNK_SIZES.start(), *CHUNK_SIZES.end()).next_multiple_of(PAGE);
        let whole = size.checked_next_power_of_two().map_or(chunk, |whole| whole.max(PAGE));
        let share = match self.heap.limit() / CHUNKS_AT_ONCE {
            0 => chunk,
            share => (share.max(PAGE) + 1).next_power_of_two() / 2,
        };
        chunk.min(whole).min(share)
    }
    /// Checks a region in debug mode, and gives up one of its owners.
    pub fn free_region(&self, region: &Arc<Region>) -> Result<()> {
        if region.further_owners.load(Relaxed) == 0 {
            check(region)?;
        }
        self.give_up(region)
    }
    /// Gives up one owner of a region that was checked already.
    fn give_up(&self, region: &Arc<Region>) -> Result<()> {
        let last = region.further_owners.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)).is_err();
        if !last {
            return Ok(());
        }
        // Makes now what counting needs, because counting must not fail once the region is freed.
        self.heap.ready_to_count()?;
        let size = region.size();
        tracked::ended(region.start());
        regions::ends(region.start());
        if !region.engine().free(region) {
            self.heap.count_refused();
            return fail!(DoubleFree, "the memory at {:#x} is being freed already", region.start());
        }
        recording::freed(region.start());
        freed::note(region.start());
        self.heap.uncount_region(size)
    }
    /// Changes the size of a region. On failure the region is untouched.
    pub fn reallocate_region(&self, region: &Arc<Region>, size: usize) -> Result<NonNull<u8>> {
        let is_shared = region.further_owners.load(Relaxed) > 0;
        check(region)?;
        // Only one owner at a time may change what is known of the region's size.
        let _alone = is_shared.then(|| lock_quietly(&RESIZING));
        let old = region.size();
        if is_shared && size > old {
            return fail!(Unsupported, "memory with several owners does not grow: it could move");
        }
        // Makes now what counting needs, because counting must not fail once the region may have moved.
        self.heap.recount_region(0, 0)?;
        let before = region.start();
        let traced = regions::ends(before);
        let resized = region.engine().resize(region, size);
        let region = resized.inspect_err(|_| regions::stays(before, traced))?;
        if size < old && debug::guards_are_on() {
            // What the program wrote there before it gave up these bytes is not an overrun.
            region.clear_tail().unwrap_or_else(|error| log!(Warning, "{error} behind memory that shrinks"));
        }
        tracked::moved(before, region.start(), size);
        recording::freed(before);
        freed::forget(region.start());
        regions::made(self.heap, region.start(), size);
        region.record_allocation();
        self.heap.recount_region(old, size)?;
        NonNull::new(region.start() as *mut u8).ok_or(Error::Internal)
    }
    /// Runs `allocate`. If the budget has no room, sends chunks out to make room for a block of `size` bytes, of which
    /// `old` are there already, and runs it again.
    #[inline(always)]
    pub(super) fn with_room<T>(
        &self,
        size: usize,
        alignment: usize,
        old: impl Fn() -> usize,
        allocate: impl Fn() -> Result<T>,
    ) -> Result<T> {
        match (allocate(), self.tiered.engine()) {
            (Err(Error::OutOfMemory), Some(engine)) => {
                self.send_out_and(engine, size, alignment, old(), allocate)
            }
            (result, _) => result,
        }
    }
    #[cold]
    fn send_out_and<T>(
        &self,
        engine: &Engine,
        size: usize,
        alignment: usize,
        old: usize,
        allocate: impl Fn() -> Result<T>,
    ) -> Result<T> {
        let mut result = Err(Error::OutOfMemory);
        let mut wanted = size.saturating_add(PIECES);
        let (mut had_room, mut rounds) = (false, 0);
        while let Err(Error::OutOfMemory) = result {
            if self.heap.limit() == 0 || size > self.heap.limit() {
                break;
            }
            if self.heap.can_allocate(size, alignment, 0) {
                // Another thread made room, and a third one may take it first. Or the system has no memory: there is
                // room time and again, and to send chunks out would not help.
                if had_room {
                    break;
                }
                (had_room, result) = (true, allocate());
                continue;
            }
            // No chunk leaves for what there will be no room for.
            let more = size.saturating_sub(old).max(1);
            let enough = |movable| self.heap.can_allocate(more, alignment, movable);
            if rounds == ROUNDS || !engine.could_make_room(enough) || engine.reclaim(wanted) == 0 {
                break;
            }
            (had_room, rounds, result) = (false, rounds + 1, allocate());
            wanted = wanted.saturating_mul(2);
        }
        result
    }
}

/// Adds an owner to the region that starts at `pointer`. The region counts its further owners itself.
pub fn retain(pointer: *const u8) -> Result<()> {
    expect_region(pointer)?.further_owners.fetch_add(1, Relaxed);
    Ok(())
}
/// Number of owners of the region that starts at `pointer`; 0 if there is none.
pub fn references(pointer: *const u8) -> usize {
    region_at(pointer).map_or(0, |region| 1 + region.further_owners.load(Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::config::Config;
    use crate::tiers::fill::Access;
    use crate::tiers::tests::beside_others;

    /// An instance with a limit, a region much larger than that, and the region.
    fn crowded(limit: usize) -> (usize, &'static Instance, Arc<Region>) {
        let slot =
            slots::open(Config { max_size: limit, enable_streaming: true, ..Config::default() }).unwrap();
        let instance = slots::open_at(slot).unwrap();
        let start = instance.allocate_streaming(4 * limit, 64 << 10).unwrap();
        (slot, instance, region_at(start.as_ptr()).unwrap())
    }
    fn fill(region: &Region) {
        for index in 0..region.count() {
            let chunk = region.acquire(index, Access::Overwrite).unwrap();
            // SAFETY: the chunk is acquired.
            unsafe { chunk.write_bytes(index as u8, region.chunk_size()) };
            region.release(index).unwrap();
        }
    }
    fn close(slot: usize, instance: &Instance, block: NonNull<u8>, region: Arc<Region>) {
        instance.free(block.as_ptr()).unwrap();
        instance.free_region(&region).unwrap();
        drop(region);
        assert_eq!(slots::close(slot), Ok(0));
    }
    /// Chunks do not leave for it, and other threads that bring in more do not keep it waiting.
    #[test]
    fn a_block_that_cannot_fit_is_refused_at_once() {
        let limit = 16 << 20;
        let (slot, instance, region) = crowded(limit);
        let block = instance.allocate(limit / 2, 0).unwrap();
        fill(&region);
        let before = region.residency().hot_bytes;
        assert_eq!(instance.allocate(limit / 2, 0), Err(Error::OutOfMemory));
        assert_eq!(instance.reallocate(block.as_ptr(), limit), Err(Error::OutOfMemory));
        // Worker threads may still send out a few.
        assert!(region.residency().hot_bytes > before / 2);
        let refused = beside_others(&region, move || {
            let instance = slots::open_at(slot).unwrap();
            (0..100).all(|_| instance.allocate(limit / 2, 0) == Err(Error::OutOfMemory))
        });
        assert!(refused);
        close(slot, instance, block, region);
    }
    /// It needs room only for what is added.
    #[test]
    fn a_block_grows_in_place_where_it_would_not_fit_twice() {
        let limit = 32 << 20;
        let (slot, instance, region) = crowded(limit);
        let block = instance.allocate(limit / 2, 0).unwrap();
        fill(&region);
        assert!(!instance.can_allocate(limit / 4 * 3));
        let grown = instance.reallocate(block.as_ptr(), limit / 4 * 3).unwrap().unwrap();
        close(slot, instance, grown, region);
    }
    /// Two threads that free one region at the same moment.
    #[test]
    fn the_second_of_two_frees_is_refused_and_counted() {
        let slot = slots::open(Config::default()).unwrap();
        let instance = slots::open_at(slot).unwrap();
        let start = instance.allocate_streaming(100_000, 0).unwrap();
        let region = region_at(start.as_ptr()).unwrap();
        assert_eq!(instance.free_region(&region), Ok(()));
        assert_eq!(instance.free_region(&region), Err(Error::DoubleFree));
        assert_eq!((instance.heap().refused(), instance.statistics().frees), (1, 1));
        drop(region);
        assert_eq!(slots::close(slot), Ok(0));
    }
}
