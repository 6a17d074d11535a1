//! Slabs: regions whose chunks are pieces of memory of their own.
//!
//! A region takes mappings of the process, a page of records, and a place in lists that are copied when they change. A
//! program may have millions of tensors that fit one chunk. So each of these is a chunk of a slab, beside others of the
//! same chunk size and policy. To the engine a slab is a region.
//!
//! # Protocol
//! A chunk of a slab is free, or a piece. Its word tells the size of the piece; 0: none.
//! - To begin a piece a thread takes a free chunk, which nobody else finds then, and stores the size. The chunk's contents
//!   are zero.
//! - To end it, a thread replaces the size by 0, while it holds [`Region::resizing`]. Of two threads one succeeds. From
//!   then on faults there are not served, and nobody brings the chunk in: see the fences of [`Region::end_part`] and
//!   `Region::bring_claimed`. Then the contents are dropped, and last the chunk is free again.
//! - The thread that gives back the last piece closes the slab, under the lock of the free chunks, so that nobody takes
//!   a chunk of it any more, and frees the region.
use super::chunk_error::ChunkError;
use super::claims::Claimant;
use super::mapping::{Advice, Mapping, Protection, advise};
use super::region::{Params, Region};
use super::residency::Counters;
use super::spill_space::disk_error;
use super::sync_points::{self, SyncPoint};
use crate::error::{Result, fail};
use crate::heap::debug;
use crate::os::lock::Mutex;
use crate::os::map::{self, HUGE_PAGE};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*, fence};

/// The first slab of a chunk size and policy has this many chunks, fewer if they are large. Each later one has four times as
/// many as the one before, up to the most chunks, or the most bytes.
const FIRST: usize = 64;
const FIRST_BYTES: usize = 4 << 20;
const MOST_CHUNKS: usize = 1 << 16;
const MOST_BYTES: usize = 1 << 30;

/// Whether memory is a piece of a slab. Larger chunks are few, and are aligned as huge pages.
pub fn suits(params: &Params) -> bool {
    fits(params.size, params.chunk) && params.chunk < HUGE_PAGE
}
/// Whether a piece of `size` bytes fits a chunk. In debug mode an overrun by a byte has to be found, so none fills its chunk:
/// behind that is the next one's.
pub fn fits(size: usize, chunk: usize) -> bool {
    size.saturating_add(usize::from(debug::guards_are_on())) <= chunk
}
/// How many chunks the next slab gets if there are `slabs` with the same chunks, and then what it gets, one after the other, if
/// there is less address space.
pub fn capacities(slabs: usize, chunk: usize) -> impl Iterator<Item = usize> {
    let first = (FIRST_BYTES / chunk).clamp(4, FIRST);
    let wanted = (first << (2 * slabs.min(8))).min(MOST_CHUNKS).min(MOST_BYTES / chunk);
    core::iter::successors(Some(wanted), |&chunks| (chunks > 1).then_some(chunks.div_ceil(4)))
}

/// The record of one piece. All zeros is a chunk that never was a piece.
#[derive(Default)]
struct Part {
    /// A live piece: bytes, and from [`OWNER`] on the owners beyond the first. A free chunk: 0 bytes, and the next free
    /// chunk, plus one.
    word: AtomicU64,
    counters: Counters,
}
/// One owner, or one chunk, in a word.
const OWNER: u64 = 1 << 32;
fn bytes_of(word: u64) -> usize {
    (word % OWNER) as usize
}

/// The free chunks.
#[derive(Default)]
struct Free {
    /// The first one that was a piece before, plus one; 0: none.
    first: u64,
    /// All from here on have never been pieces.
    fresh: usize,
    /// Bytes of records that are charged to the budget.
    charged: usize,
    /// Pieces that are live, begin or end.
    taken: usize,
    closed: bool,
}

/// The records of a slab's pieces.
pub struct Slab {
    records: Mapping,
    capacity: usize,
    free: Mutex<Free>,
    live_bytes: AtomicUsize,
}
impl Slab {
    /// Records for `capacity` pieces.
    pub fn new(capacity: usize) -> Option<Slab> {
        let records =
            Mapping::reserve(capacity * size_of::<Part>(), align_of::<Part>(), Protection::ReadWrite)?;
        advise(records.span(), Advice::SmallPages);
        Some(Slab {
            records,
            capacity,
            free: Mutex::sheltered(Free::default()),
            live_bytes: AtomicUsize::new(0),
        })
    }
    fn part(&self, index: usize) -> &Part {
        assert!(index < self.capacity);
        // SAFETY: the index is below the capacity, so the record is inside the mapping. Zeroed memory is a valid record,
        // and all its fields are atomic.
        unsafe { &*(self.records.span().start as *const Part).add(index) }
    }
    /// Takes a free chunk; None if there is none. `charge` is asked for records that have not been used so far.
    fn take(&self, charge: impl Fn(usize) -> bool) -> Result<Option<usize>> {
        let mut free = self.free.lock();
        loop {
            if free.closed {
                return Ok(None);
            }
            if let Some(index) = free.first.checked_sub(1) {
                free.first = self.part(index as usize).word.load(Relaxed) / OWNER;
                free.taken += 1;
                return Ok(Some(index as usize));
            }
            if free.fresh == self.capacity {
                return Ok(None);
            }
            let wanted = map::round_to_page((free.fresh + 1) * size_of::<Part>());
            let more = wanted.saturating_sub(free.charged);
            if more == 0 {
                free.fresh += 1;
                free.taken += 1;
                return Ok(Some(free.fresh - 1));
            }
            // Without the lock, because chunks may have to leave for it, to disk even. Nobody closes the slab meanwhile.
            free.taken += 1;
            drop(free);
            let charged = charge(more);
            free = self.free.lock();
            free.taken -= 1;
            if charged {
                free.charged += more;
            } else if free.first == 0 {
                free.closed |= free.taken == 0;
                return fail!(
                    OutOfMemory,
                    "the budget has no room for {more} bytes of records of small pieces"
                );
            }
        }
    }
    /// Gives back a chunk that is no piece. Returns true if it was the last that was taken: the slab is closed then.
    fn give_back(&self, index: usize) -> bool {
        let mut free = self.free.lock();
        self.part(index).word.store(free.first * OWNER, Relaxed);
        free.first = index as u64 + 1;
        free.taken -= 1;
        free.closed |= free.taken == 0;
        free.closed
    }
    /// Whether there are no pieces any more.
    pub fn is_closed(&self) -> bool {
        self.free.lock().closed
    }
    fn change(&self, index: usize, edit: impl Fn(u64) -> Option<u64>) -> Option<u64> {
        let edit = |word| if bytes_of(word) > 0 { edit(word) } else { None };
        self.part(index).word.fetch_update(AcqRel, Acquire, edit).ok()
    }
    fn begin(&self, index: usize, size: usize) {
        self.live_bytes.fetch_add(size, Relaxed);
        self.part(index).counters.begin_anew();
        self.part(index).word.store(size as u64, Release);
    }
    /// Ends a piece. Returns its size; None if it is none.
    fn end(&self, index: usize) -> Option<usize> {
        let size = self.change(index, |_| Some(0)).map(bytes_of)?;
        self.live_bytes.fetch_sub(size, Relaxed);
        Some(size)
    }
    /// Bytes of a piece; 0: there is none.
    pub fn size(&self, index: usize) -> usize {
        bytes_of(self.part(index).word.load(Acquire))
    }
    /// Changes the size of a piece. Returns the one before; None if it is none. Only while [`Region::resizing`] is held.
    pub fn resize(&self, index: usize, size: usize) -> Option<usize> {
        let before = self.change(index, |word| Some(word - word % OWNER + size as u64)).map(bytes_of)?;
        self.live_bytes.fetch_add(size.wrapping_sub(before), Relaxed);
        Some(before)
    }
    /// Adds an owner to a piece.
    pub fn add_owner(&self, index: usize) {
        self.change(index, |word| word.checked_add(OWNER));
    }
    /// Takes an owner from a piece. Returns false if there is only one.
    pub fn take_owner(&self, index: usize) -> bool {
        self.change(index, |word| word.checked_sub(OWNER)).is_some()
    }
    /// How many owners a piece has beyond the first.
    pub fn further_owners(&self, index: usize) -> usize {
        let word = self.part(index).word.load(Relaxed);
        if bytes_of(word) > 0 { (word / OWNER) as usize } else { 0 }
    }
    /// Figures of a piece.
    pub fn counters(&self, index: usize) -> &Counters {
        &self.part(index).counters
    }
    /// The pieces there are now.
    pub fn pieces(&self) -> impl Iterator<Item = usize> {
        let used = self.free.lock().fresh;
        (0..used).filter(|&index| self.size(index) > 0)
    }
    /// Bytes of all pieces.
    pub fn live_bytes(&self) -> usize {
        self.live_bytes.load(Relaxed)
    }
}

impl Region {
    /// Begins a piece of `size` bytes, and returns its chunk; None if the region has none to spare. On failure the
    /// caller frees the region if it is [unused](Region::give_back_part).
    pub(super) fn begin_part(&self, size: usize) -> Result<Option<usize>> {
        let Some(slab) = self.slab() else { return Ok(None) };
        let taken = slab.take(|bytes| {
            sync_points::pass(SyncPoint::ChargingRecords);
            self.charge_more_records(bytes)
        })?;
        let Some(index) = taken else { return Ok(None) };
        sync_points::pass(SyncPoint::ChunkTaken);
        self.make_room_for(index).inspect_err(|_| _ = slab.give_back(index))?;
        slab.begin(index, size);
        Ok(Some(index))
    }
    fn make_room_for(&self, index: usize) -> Result<()> {
        let chunk = self.chunk_size();
        if !self.engine().guarantee(|account| account.extend(chunk)).map_err(ChunkError::error)? {
            return fail!(OutOfMemory, "the budget has no room for two chunks of {chunk} bytes");
        }
        self.extent.fetch_add(chunk, Relaxed);
        self.spill_space().make_blocks(index, self.count()).map_err(|errno| {
            self.shorten_by(chunk);
            disk_error(errno)
        })
    }
    /// Ends a piece. Returns its size, or None if another thread ended it first.
    pub(super) fn end_part(&self, index: usize) -> Option<usize> {
        let ended = self.slab().and_then(|slab| slab.end(index));
        fence(SeqCst); // see `Region::bring_claimed`
        ended
    }
    /// Drops what an ended piece held, and makes its chunk free. Returns true if no piece is left: the caller frees the
    /// region then.
    pub(super) fn give_back_part(&self, index: usize) -> bool {
        sync_points::pass(SyncPoint::PieceEnded);
        self.forget(Claimant::Anybody, index);
        self.shorten_by(self.chunk_size());
        let last = self.slab().is_some_and(|slab| slab.give_back(index));
        sync_points::pass(SyncPoint::ChunkFree);
        last
    }
    fn shorten_by(&self, bytes: usize) {
        self.extent.fetch_sub(bytes, Relaxed);
        self.engine().account().shorten(bytes);
    }
    /// Whether the program may use a chunk.
    pub(super) fn is_used(&self, index: usize) -> bool {
        index < self.count() && self.slab().is_none_or(|slab| slab.size(index) > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn slabs_grow_and_do_with_less_address_space() {
        let wanted = |slabs, chunk| capacities(slabs, chunk).next().unwrap();
        assert_eq!([0, 1, 2, 5, 100].map(|slabs| wanted(slabs, 4096)), [64, 256, 1024, 1 << 16, 1 << 16]);
        assert_eq!([0, 1, 4, 5].map(|slabs| wanted(slabs, 1 << 20)), [4, 16, 1024, 1024]);
        assert_eq!(capacities(1, 4096).collect::<Vec<_>>(), [256, 64, 16, 4, 1]);
        assert!((12..21).all(|log| capacities(9, (1 << log) + 4096).last() == Some(1)));
    }
}
#[cfg(test)]
mod model {
    //! A piece is freed while other threads touch it. When that is done its chunk is free: it holds nothing, and nobody
    //! brings it in any more.
    use super::super::state::{Phase, Settle, State};
    use super::super::word::modelled::{ModelledWord, explore};
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU32, Ordering::*, fence};
    use loom::thread;

    const ABSENT: u32 = u32::MAX;
    struct Model {
        size: AtomicU32,
        state: State<ModelledWord>,
        page: AtomicU32,
    }
    impl Model {
        /// What `Region::bring_in` does. Returns false if there is no piece any more.
        fn bring_in(&self) -> bool {
            loop {
                let word = self.state.load();
                match word.phase() {
                    Phase::Hot => return true,
                    Phase::Busy => self.state.wait(),
                    from if self.state.claim(word) => {
                        fence(SeqCst);
                        let is_used = self.size.load(Acquire) > 0;
                        if is_used {
                            self.page.store(0, Release);
                        }
                        self.state.settle(if is_used { Phase::Hot } else { from }, Settle::default());
                        return is_used;
                    }
                    _ => thread::yield_now(),
                }
            }
        }
        fn touch(&self) {
            while self.page.load(Acquire) == ABSENT && self.bring_in() {}
        }
        /// What `Region::end_part` and `Region::forget` do.
        fn free(&self) {
            self.size.swap(0, AcqRel);
            fence(SeqCst);
            loop {
                let word = self.state.load();
                match word.phase() {
                    Phase::Zero => return,
                    Phase::Busy => self.state.wait(),
                    _ if self.state.claim(word) => {
                        self.page.store(ABSENT, Release);
                        return self.state.settle(Phase::Zero, Settle::default());
                    }
                    _ => thread::yield_now(),
                }
            }
        }
    }
    #[test]
    fn a_chunk_that_is_free_holds_nothing() {
        explore(3, || {
            let model = Arc::new(Model {
                size: AtomicU32::new(1),
                state: State::new(Phase::Zero),
                page: AtomicU32::new(ABSENT),
            });
            let touching = [0; 2].map(|_| {
                let model = model.clone();
                thread::spawn(move || model.touch())
            });
            model.free();
            touching.into_iter().for_each(|thread| thread.join().unwrap());
            assert_eq!((model.state.load().phase(), model.page.load(Acquire)), (Phase::Zero, ABSENT));
        });
    }
}
