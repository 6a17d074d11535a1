//! Streaming and hierarchical memory of an instance: pieces of the instance's residency engine.
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
use crate::tiers::piece::Piece;
use crate::tiers::region::{CHUNK_SIZES, Params, Policy};
use core::ptr::NonNull;
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

/// The engine of an instance. It is made with the instance's first piece.
#[derive(Default)]
pub struct Tiered {
    engine: OnceLock<Arc<Engine>>,
}

impl Tiered {
    /// The engine, if there has been a piece.
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
    /// Whether a piece belongs to this instance.
    pub fn has(&self, piece: &Piece) -> bool {
        self.engine.get().is_some_and(|engine| Arc::ptr_eq(engine, piece.engine()))
    }
    /// The piece that starts at `pointer`, if it belongs to this instance.
    pub fn piece(&self, pointer: *const u8) -> Option<Piece> {
        self.engine.get()?;
        piece_at(pointer).filter(|piece| self.has(piece))
    }
    /// In debug mode, reports the pieces that were overrun. To be called before they are freed, and without a lock.
    pub fn tell_overruns(&self) {
        if let Some(engine) = self.engine.get().filter(|_| debug::guards_are_on()) {
            engine.pieces().iter().for_each(|piece| _ = check(piece));
        }
    }
    /// Frees all pieces.
    pub fn clear(&self) {
        if let Some(engine) = self.engine.get() {
            engine.pieces().iter().for_each(|piece| tracked::ended(piece.start()));
            engine.clear();
        }
    }
}

/// The live piece that starts at `pointer`.
pub fn piece_at(pointer: *const u8) -> Option<Piece> {
    Piece::around(pointer as usize).filter(|piece| piece.start() == pointer as usize)
}
/// The live piece that contains `pointer`, at its start or inside.
pub(super) fn piece_of(pointer: *const u8) -> Option<Piece> {
    Piece::around(pointer as usize).filter(|piece| (pointer as usize) < piece.start() + piece.size())
}
/// Frees the live piece that starts at `pointer`, whichever instance it belongs to. False if there is none.
pub fn free_anywhere(pointer: *const u8) -> bool {
    piece_at(pointer).is_some_and(|piece| {
        // Before the slots are locked: an overrun is reported to the program's callback.
        check(&piece).is_ok()
            && slots::for_any(|instance| instance.tiered.has(&piece) && instance.give_up(&piece).is_ok())
    })
}
/// Held while one of several owners makes a piece smaller.
static RESIZING: Mutex<()> = Mutex::new(());
/// See load.rs.
pub(crate) static HOOKS: &dyn AtFork = &RESIZING;
/// A piece as a block.
pub fn as_block(piece: &Piece) -> Block {
    let size = piece.size();
    Block { start: piece.start(), size, capacity: size, alignment: PAGE }
}
/// The instance that made a piece, if it is that of the pool or system with this heap.
pub fn maker(heap: &'static Heap, piece: &Piece) -> Option<&'static Instance> {
    slots::adopted(heap).filter(|instance| instance.tiered.has(piece))
}
/// The live piece that starts at `pointer` and its instance, if that is the instance of the pool or system with this
/// heap. The functions of pools and systems take such memory as they take blocks.
pub fn made_through(heap: &'static Heap, pointer: *const u8) -> Option<(&'static Instance, Piece)> {
    let piece = piece_at(pointer)?;
    Some((maker(heap, &piece)?, piece))
}
/// To be called when a heap refused `pointer`. If it lies in tiered memory, of which heaps know nothing, says so.
pub fn refused(pointer: *const u8, error: Error) -> Error {
    match piece_of(pointer).filter(|_| error == Error::NotOwned) {
        Some(piece) if piece.start() == pointer as usize => {
            pending(error, format_args!("{pointer:p} belongs to another pool, system or instance"))
        }
        Some(piece) => pending(
            error,
            format_args!("{pointer:p} is inside the tiered memory that starts at {:#x}", piece.start()),
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
/// The piece that starts at `pointer`. NotOwned for any other pointer.
pub fn expect_piece(pointer: *const u8) -> Result<Piece> {
    match piece_at(pointer) {
        Some(piece) => Ok(piece),
        None => fail!(NotOwned, "{pointer:p} is no live streaming or hierarchical memory"),
    }
}

/// In debug mode, looks whether a piece was overrun. If it was, reports it and fails with Corruption.
pub fn check(piece: &Piece) -> Result<()> {
    if !debug::guards_are_on() {
        return Ok(());
    }
    // If a chunk cannot be brought in, it cannot be checked, and counts as whole.
    if let Ok(Some(offset)) = piece.first_overrun() {
        debug::tell_overrun(piece.start(), piece.size(), offset);
        return fail!(Corruption, "bytes behind the tiered memory at {:#x} were overwritten", piece.start());
    }
    Ok(())
}

impl Instance {
    /// Allocates a piece of `size` bytes in chunks of `chunk` bytes (0: chosen here).
    pub(super) fn allocate_piece(&self, size: usize, chunk: usize, policy: Policy) -> Result<NonNull<u8>> {
        if size == 0 {
            return fail!(InvalidArgument, "tiered memory of no bytes");
        }
        let chunk = match chunk {
            0 => self.fitting_chunk(size),
            asked => asked.clamp(*CHUNK_SIZES.start(), *CHUNK_SIZES.end()).next_multiple_of(PAGE),
        };
        let engine = self.tiered.made(self.heap)?;
        let params = Params { size, chunk, policy };
        let piece = engine.allocate(&params)?;
        if let Err(error) = self.heap.count_region(size) {
            engine.free(&piece);
            return Err(error);
        }
        freed::forget(piece.start());
        regions::made(self.heap, piece.start(), size);
        piece.record_allocation();
        let start = piece.start() as *mut u8;
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
    /// Checks a piece in debug mode, and gives up one of its owners.
    pub fn free_piece(&self, piece: &Piece) -> Result<()> {
        if piece.further_owners() == 0 {
            check(piece)?;
        }
        self.give_up(piece)
    }
    /// Gives up one owner of a piece that was checked already.
    fn give_up(&self, piece: &Piece) -> Result<()> {
        if piece.take_owner() {
            return Ok(());
        }
        // Makes now what counting needs, because counting must not fail once the piece is freed.
        self.heap.ready_to_count()?;
        tracked::ended(piece.start());
        regions::ends(piece.start());
        // First, because another piece may begin there as soon as this one is freed.
        recording::freed(piece.start());
        freed::note(piece.start());
        let Some(size) = piece.engine().end(piece) else {
            self.heap.count_refused();
            return fail!(DoubleFree, "the memory at {:#x} is being freed already", piece.start());
        };
        self.heap.uncount_region(size)
    }
    /// Changes the size of a piece. On failure the piece is untouched.
    pub fn reallocate_piece(&self, piece: &Piece, size: usize) -> Result<NonNull<u8>> {
        let is_shared = piece.further_owners() > 0;
        check(piece)?;
        // Only one owner at a time may change what is known of the piece's size.
        let _alone = is_shared.then(|| lock_quietly(&RESIZING));
        let old = piece.size();
        if is_shared && size > old {
            return fail!(Unsupported, "memory with several owners does not grow: it could move");
        }
        // Makes now what counting needs, because counting must not fail once the piece may have moved.
        self.heap.recount_region(0, 0)?;
        let (from, before) = (piece, piece.start());
        let traced = regions::ends(before);
        let resized = from.engine().change_size(from, size);
        let (piece, last) = resized.inspect_err(|_| regions::stays(before, traced))?;
        if size < old && debug::guards_are_on() {
            // What the program wrote there before it gave up these bytes is not an overrun.
            piece.clear_tail().unwrap_or_else(|error| log!(Warning, "{error} behind memory that shrinks"));
        }
        tracked::moved(before, piece.start(), size);
        recording::freed(before);
        let last = last.or_else(|| from.engine().end(from));
        freed::forget(piece.start());
        regions::made(self.heap, piece.start(), size);
        piece.record_allocation();
        match last {
            Some(last) => self.heap.recount_region(last, size)?,
            None => self.heap.count_region(size)?, // another thread has freed what was left of the old piece
        }
        NonNull::new(piece.start() as *mut u8).ok_or(Error::Internal)
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

/// Adds an owner to the piece that starts at `pointer`. The piece counts its further owners itself.
pub fn retain(pointer: *const u8) -> Result<()> {
    expect_piece(pointer)?.add_owner();
    Ok(())
}
/// Number of owners of the piece that starts at `pointer`; 0 if there is none.
pub fn references(pointer: *const u8) -> usize {
    piece_at(pointer).map_or(0, |piece| 1 + piece.further_owners())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::config::Config;
    use crate::tiers::fill::Access;
    use crate::tiers::sync_points::{SyncPoint, at};
    use crate::tiers::tests::beside_others;

    /// An instance with a limit, a piece much larger than that, and the piece.
    fn crowded(limit: usize) -> (usize, &'static Instance, Piece) {
        let slot =
            slots::open(Config { max_size: limit, enable_streaming: true, ..Config::default() }).unwrap();
        let instance = slots::open_at(slot).unwrap();
        let start = instance.allocate_streaming(4 * limit, 64 << 10).unwrap();
        (slot, instance, piece_at(start.as_ptr()).unwrap())
    }
    fn fill(piece: &Piece) {
        for index in 0..piece.count() {
            let chunk = piece.acquire(index, Access::Overwrite).unwrap();
            // SAFETY: the chunk is acquired.
            unsafe { chunk.write_bytes(index as u8, piece.chunk_size()) };
            piece.release(index).unwrap();
        }
    }
    fn close(slot: usize, instance: &Instance, block: NonNull<u8>, piece: Piece) {
        instance.free(block.as_ptr()).unwrap();
        instance.free_piece(&piece).unwrap();
        drop(piece);
        assert_eq!(slots::close(slot), Ok(0));
    }
    /// Chunks do not leave for it, and other threads that bring in more do not keep it waiting.
    #[test]
    fn a_block_that_cannot_fit_is_refused_at_once() {
        let limit = 16 << 20;
        let (slot, instance, piece) = crowded(limit);
        let block = instance.allocate(limit / 2, 0).unwrap();
        fill(&piece);
        let before = piece.residency().hot_bytes;
        assert_eq!(instance.allocate(limit / 2, 0), Err(Error::OutOfMemory));
        assert_eq!(instance.reallocate(block.as_ptr(), limit), Err(Error::OutOfMemory));
        // Worker threads may still send out a few.
        assert!(piece.residency().hot_bytes > before / 2);
        let refused = beside_others(&piece, move || {
            let instance = slots::open_at(slot).unwrap();
            (0..100).all(|_| instance.allocate(limit / 2, 0) == Err(Error::OutOfMemory))
        });
        assert!(refused);
        close(slot, instance, block, piece);
    }
    /// It needs room only for what is added.
    #[test]
    fn a_block_grows_in_place_where_it_would_not_fit_twice() {
        let limit = 32 << 20;
        let (slot, instance, piece) = crowded(limit);
        let block = instance.allocate(limit / 2, 0).unwrap();
        fill(&piece);
        assert!(!instance.can_allocate(limit / 4 * 3));
        let grown = instance.reallocate(block.as_ptr(), limit / 4 * 3).unwrap().unwrap();
        close(slot, instance, grown, piece);
    }
    /// A small piece, whose place is another's as soon as it is free.
    #[test]
    fn what_is_known_of_a_piece_is_forgotten_before_another_is_in_its_place() {
        let slot = slots::open(Config::default()).unwrap();
        let instance = slots::open_at(slot).unwrap();
        let allocate = || instance.allocate_streaming(100, 0).unwrap().as_ptr() as usize;
        let kept = allocate();
        for grows in [true, false] {
            let first = allocate();
            let piece = piece_at(first as *const u8).unwrap();
            let (tell, told) = std::sync::mpsc::channel();
            at(SyncPoint::ChunkFree, move || {
                let other = std::thread::spawn(move || {
                    let next = instance.allocate_streaming(100, 0).unwrap().as_ptr() as usize;
                    tracked::INSTANCES.track(next, next).unwrap();
                    next
                });
                tell.send(other.join().unwrap()).unwrap();
            });
            if grows {
                let grown = instance.reallocate_piece(&piece, 10 * PAGE).unwrap();
                instance.free_piece(&piece_at(grown.as_ptr()).unwrap()).unwrap();
            } else {
                instance.free_piece(&piece).unwrap();
            }
            assert_eq!(told.recv(), Ok(first));
            assert!(tracked::INSTANCES.is_tracked(first) && !freed::lately(first), "grows: {grows}");
            instance.free_piece(&piece_at(first as *const u8).unwrap()).unwrap();
        }
        instance.free_piece(&piece_at(kept as *const u8).unwrap()).unwrap();
        assert_eq!(slots::close(slot), Ok(0));
    }
    /// A program that frees a piece while another thread resizes it is in error, but the figures are not.
    #[test]
    fn what_is_freed_while_it_is_resized_counts_as_large_as_it_is() {
        let slot = slots::open(Config::default()).unwrap();
        let instance = slots::open_at(slot).unwrap();
        let figures = || {
            let statistics = instance.statistics();
            (statistics.live, statistics.allocations - statistics.frees)
        };
        let meanwhile = |work: fn(&Instance, &Piece), piece: &Piece| {
            let piece = piece.clone();
            at(SyncPoint::Freeing, move || {
                std::thread::spawn(move || work(instance, &piece)).join().unwrap();
            });
        };
        for size in [100, 3 * PAGE] {
            let piece = piece_at(instance.allocate_streaming(size, PAGE).unwrap().as_ptr()).unwrap();
            meanwhile(
                |instance, piece| _ = instance.reallocate_piece(piece, piece.size() + 1).unwrap(),
                &piece,
            );
            assert_eq!((instance.free_piece(&piece), figures()), (Ok(()), (0, 0)));
        }
        // Its contents are elsewhere already, and then another thread frees what is left of it.
        let piece = piece_at(instance.allocate_streaming(100, PAGE).unwrap().as_ptr()).unwrap();
        meanwhile(|instance, piece| instance.free_piece(piece).unwrap(), &piece);
        let grown = instance.reallocate_piece(&piece, 2 * PAGE).unwrap();
        assert_eq!(figures(), (2 * PAGE, 1));
        instance.free_piece(&piece_at(grown.as_ptr()).unwrap()).unwrap();
        assert_eq!(figures(), (0, 0));
        drop(piece);
        assert_eq!(slots::close(slot), Ok(0));
    }
    /// Two threads that free one piece at the same moment.
    #[test]
    fn the_second_of_two_frees_is_refused_and_counted() {
        let slot = slots::open(Config::default()).unwrap();
        let instance = slots::open_at(slot).unwrap();
        let start = instance.allocate_streaming(100_000, 0).unwrap();
        let piece = piece_at(start.as_ptr()).unwrap();
        assert_eq!(instance.free_piece(&piece), Ok(()));
        assert_eq!(instance.free_piece(&piece), Err(Error::DoubleFree));
        assert_eq!((instance.heap().refused(), instance.statistics().frees), (1, 1));
        drop(piece);
        assert_eq!(slots::close(slot), Ok(0));
    }
}
