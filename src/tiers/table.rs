//! The record of each chunk, and the lists that order chunks by age.
//!
//! The records of a region are one reserved array. A record that was never touched is zero bytes in memory that was
//! never touched, so a region of a tebibyte with three chunks in use costs three records.
//!
//! A chunk in place that has an encoded copy in RAM is also in the list of copies, so that a search for copies to
//! give up looks at these chunks alone. Only these threads change this list, under the lists' lock:
//! - a thread that settles its claim of a chunk (transit.rs), before any other thread can claim or pin the chunk;
//! - a thread that takes the copy of a chunk that it has pinned (`Region::take_copy`). The pin excludes claims.
//!
//! So the list holds exactly the chunks in place whose records name a copy. A Busy chunk is the exception: it is
//! still in the list if it had a copy when it was claimed.
use super::mapping::{Advice, Mapping, Protection, advise, discard};
use super::regret::Left;
use super::state::{Phase, Settle, State};
use super::sync_points::{self, SyncPoint};
use super::warm::Extent;
use crate::os::lock::{Mutex, MutexGuard};
use crate::os::map::{self, PAGE};
use core::cell::{Cell, UnsafeCell};
use core::num::NonZeroU8;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};

/// How a chunk is stored while it is not in place. While it is in place and unchanged: what is still stored of it.
/// All-zero bytes mean that nothing is stored. The structure is packed so that no byte of a record is wasted; inside
/// a record all fields are aligned.
#[derive(Clone, Copy, Default)]
#[repr(C, packed(2))]
pub struct Stored {
    /// Hash of the decoded bytes, if `content_known`.
    pub content: [u64; 2],
    /// Hash of the encoded bytes.
    pub checksum: u64,
    /// Encoded bytes.
    pub length: u32,
    /// Where they are.
    pub kept: Kept,
    /// The staging slot of a chunk in phase Staged: see [`Transit::keep_slot`](super::transit::Transit::keep_slot).
    pub slot: Option<NonZeroU8>,
    /// Whether the encoded bytes are blocks; otherwise they are the bytes of the chunk itself.
    pub blocks: bool,
    /// Whether `content` is valid.
    pub content_known: bool,
    /// In which order the chunk left.
    pub left: Left,
}
impl Stored {
    /// Forgets the encoded bytes in RAM, and returns their extent and length. Returns None if there are none there.
    pub fn take_copy(&mut self) -> Option<(Extent, usize)> {
        let Kept::InRam(extent) = self.kept else { return None };
        Some((extent, core::mem::take(self).length as usize))
    }
    /// Whether encoded bytes are in RAM.
    pub fn is_in_ram(&self) -> bool {
        matches!(self.kept, Kept::InRam(_))
    }
}

/// Where the encoded bytes of a chunk are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Kept {
    /// Nowhere: nothing is stored.
    #[default]
    Nowhere = 0,
    /// In the warm arena.
    InRam(Extent),
    /// In the spill file of this number.
    InFile(u16),
    /// Nowhere any more: they are lost.
    Lost,
}

/// Which list a chunk is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ListKind {
    /// In no list: the chunk is zero, or encoded on disk only.
    Nowhere,
    /// In place.
    Hot,
    /// In place, with an encoded copy in RAM: in the list of chunks in place and in the list of copies.
    Copied,
    /// Encoded in RAM.
    Warm,
    /// In a staging slot.
    Staged,
}
const KINDS: usize = ListKind::Staged as usize + 1;

impl ListKind {
    /// Whether chunks of this kind are in place.
    pub fn is_in_place(self) -> bool {
        matches!(self, ListKind::Hot | ListKind::Copied)
    }
    /// The lists that such a chunk is in.
    pub fn lists(self) -> impl Iterator<Item = ListKind> {
        let aged = (self != ListKind::Nowhere).then_some(self.aged());
        aged.into_iter().chain((self == ListKind::Copied).then_some(self))
    }
    /// The kind of the list that orders such chunks by age.
    fn aged(self) -> ListKind {
        if self == ListKind::Copied { ListKind::Hot } else { self }
    }
}

/// A chunk's place in one list.
#[derive(Clone, Copy)]
#[repr(C)]
struct Place {
    next: u32,
    previous: u32,
}
#[derive(Clone, Copy)]
#[repr(C)]
struct Links {
    /// The place in the list for its kind, by age.
    aged: Place,
    /// The place in the list of copies.
    copies: Place,
    stamp: u32,
}

/// One chunk's record, of 64 bytes. All zeros is a chunk that was never touched.
#[repr(C)]
pub struct Chunk {
    /// Who may touch it.
    pub state: State,
    links: UnsafeCell<Links>,
    stored: UnsafeCell<Stored>,
    which: Cell<ListKind>,
    /// In the first record of a page: whether the page is charged to the budget. Unused in the others.
    charged: AtomicU8,
}
const _: () = assert!(size_of::<Chunk>() == 64);
// SAFETY: `stored` is reached only through a claim (Transit), or with the chunk pinned and the lists' lock held. A
// pin excludes claims, and the lock excludes other threads with a pin. `links` and `which` are reached only under the
// lists' lock.
unsafe impl Sync for Chunk {}

impl Chunk {
    /// The part of the record that only a claim, or a pin together with the lists' lock, gives access to.
    ///
    /// # Safety
    /// The caller holds the claim of this chunk, or has pinned it and holds the lock of its region's lists. No other
    /// reference from this function is alive.
    #[allow(clippy::mut_from_ref)] // that is what a claim is
    pub unsafe fn stored(&self) -> &mut Stored {
        // SAFETY: the caller's promise makes the reference exclusive: there is one claim of a chunk at a time, a
        // pinned chunk cannot be claimed (state.rs), and among threads with a pin the lock excludes all but one.
        unsafe { &mut *self.stored.get() }
    }
}

/// How many records a page holds.
pub const RECORDS_PER_PAGE: usize = PAGE / size_of::<Chunk>();

/// Bytes of memory that the records of `count` chunks take when all are used.
pub fn bytes(count: usize) -> usize {
    map::round_to_page(count * size_of::<Chunk>())
}

/// All records of a region, and the lists that link them.
pub struct Table {
    mapping: Mapping,
    capacity: usize,
    lists: Mutex<AllLists>,
    /// How many chunks each list has. They change under the lock.
    counts: [AtomicUsize; KINDS],
}
impl Table {
    /// Records for up to `capacity` chunks.
    pub fn new(capacity: usize) -> Option<Table> {
        let mapping = Mapping::reserve(capacity.checked_mul(size_of::<Chunk>())?, 64, Protection::ReadWrite)?;
        // Records are charged by the page.
        advise(mapping.span(), Advice::SmallPages);
        Some(Table {
            mapping,
            capacity,
            lists: Mutex::sheltered(AllLists::default()),
            counts: Default::default(),
        })
    }
    /// The record of a chunk.
    pub fn get(&self, index: usize) -> &Chunk {
        assert!(index < self.capacity);
        // SAFETY: the index is below the capacity, so the record is inside the mapping. Zeroed memory is a valid
        // record, and all changes go through `Chunk`.
        unsafe { &*(self.mapping.span().start as *const Chunk).add(index) }
    }
    /// How many chunks of this kind there are; for `Hot`, how many are in place. Without the lock, so it may be out of date.
    pub fn count(&self, which: ListKind) -> usize {
        self.counts[which as usize].load(Relaxed)
    }
    /// Locks the lists.
    pub fn lists(&self) -> Lists<'_> {
        Lists { table: self, all: self.lists.lock() }
    }
    fn first_of_page(&self, index: usize) -> &Chunk {
        self.get(index / RECORDS_PER_PAGE * RECORDS_PER_PAGE)
    }
    /// Gives the page of records that begins with `first` back to the system, after which they are as if never
    /// touched. Returns false, with nothing changed, if one of the records is claimed or in use.
    ///
    /// No lock is needed, because all records of the page are claimed first: a thread that wants one of them
    /// meanwhile waits until its claim ends. The mark of a waiter in the state word may go with the page, so all
    /// waiters are woken.
    pub fn forget_page(&self, first: usize) -> bool {
        let page = first..(first + RECORDS_PER_PAGE).min(self.capacity);
        let claim = |index: &usize| {
            let state = &self.get(*index).state;
            let word = state.load();
            word.phase() == Phase::Zero && state.claim(word)
        };
        let claimed = page.clone().take_while(claim).count();
        sync_points::pass(SyncPoint::RecordsClaimed);
        let span = self.mapping.part(first * size_of::<Chunk>(), PAGE);
        // SAFETY: all records of the page are claimed, and as they are Zero they are in no list: nobody reads or
        // writes the page.
        let forgotten = claimed == page.len() && unsafe { discard(span) }.is_ok();
        for index in page.take(claimed) {
            match forgotten {
                true => self.get(index).state.wake(),
                false => self.get(index).state.settle(Phase::Zero, Settle::default()),
            }
        }
        forgotten
    }
    /// Whether the page of a chunk's record is charged to the budget.
    pub fn is_charged(&self, index: usize) -> bool {
        self.first_of_page(index).charged.load(Relaxed) != 0
    }
    /// Notes that the page of a chunk's record is charged. Returns false if that was noted already.
    pub fn note_charged(&self, index: usize) -> bool {
        self.first_of_page(index).charged.swap(1, Relaxed) == 0
    }
    /// How many records there can be.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

/// Selects one of the two places in a chunk's links.
type PlaceIn = fn(&mut Links) -> &mut Place;

/// One list, oldest first. Indices are stored plus one; 0 means none.
#[derive(Default)]
struct List {
    first: u32,
    last: u32,
}
#[allow(clippy::mut_from_ref)] // the borrow of the lists makes it exclusive, not the table's
fn links(table: &Table, index: u32) -> &mut Links {
    // SAFETY: links are reached only by a `&mut Lists` of this table, which holds the lock; the code below never holds
    // two references to the links of the same record.
    unsafe { &mut *table.get(index as usize).links.get() }
}
impl List {
    fn append(&mut self, table: &Table, index: u32, place: PlaceIn) {
        let number = index + 1;
        let last = core::mem::replace(&mut self.last, number);
        *place(links(table, index)) = Place { next: 0, previous: last };
        match last {
            0 => self.first = number,
            last => place(links(table, last - 1)).next = number,
        }
    }
    fn remove(&mut self, table: &Table, index: u32, place: PlaceIn) {
        let Place { next, previous } = *place(links(table, index));
        match previous {
            0 => self.first = next,
            previous => place(links(table, previous - 1)).next = next,
        }
        match next {
            0 => self.last = previous,
            next => place(links(table, next - 1)).previous = previous,
        }
    }
}
/// All lists, by kind: the list for `Hot` has all chunks in place. There is none for `Nowhere`.
type AllLists = [List; KINDS];

/// The lists of a region, locked.
pub struct Lists<'a> {
    table: &'a Table,
    all: MutexGuard<'a, AllLists>,
}
impl Lists<'_> {
    const AGED: PlaceIn = |links| &mut links.aged;
    const COPIES: PlaceIn = |links| &mut links.copies;
    /// Puts a chunk at the young end of the lists for `which`, out of those that it is in.
    pub fn put(&mut self, index: usize, which: ListKind, stamp: u32) {
        let chunk = self.table.get(index);
        let before = chunk.which.replace(which);
        self.unlink(index, before);
        links(self.table, index as u32).stamp = stamp;
        self.link(index, which);
        // Not by way of a count without this chunk, which others could see.
        self.count_change(before.aged(), which.aged());
        let copied = |which| if which == ListKind::Copied { which } else { ListKind::Nowhere };
        self.count_change(copied(before), copied(which));
    }
    fn link(&mut self, index: usize, which: ListKind) {
        if which != ListKind::Nowhere {
            self.all[which.aged() as usize].append(self.table, index as u32, Lists::AGED);
        }
        if which == ListKind::Copied {
            self.all[ListKind::Copied as usize].append(self.table, index as u32, Lists::COPIES);
        }
    }
    fn unlink(&mut self, index: usize, which: ListKind) {
        if which != ListKind::Nowhere {
            self.all[which.aged() as usize].remove(self.table, index as u32, Lists::AGED);
        }
        if which == ListKind::Copied {
            self.all[ListKind::Copied as usize].remove(self.table, index as u32, Lists::COPIES);
        }
    }
    fn count_change(&self, before: ListKind, after: ListKind) {
        if before != after {
            for (which, change) in [(before, -1), (after, 1)] {
                let count = &self.table.counts[which as usize];
                count.store(count.load(Relaxed).wrapping_add_signed(change), Relaxed);
            }
        }
    }
    /// Takes a chunk out of the list of copies. A chunk in place keeps its age.
    pub fn lose_copy(&mut self, index: usize) {
        let chunk = self.table.get(index);
        if chunk.which.get() == ListKind::Copied {
            chunk.which.set(ListKind::Hot);
            self.all[ListKind::Copied as usize].remove(self.table, index as u32, Lists::COPIES);
            self.count_change(ListKind::Copied, ListKind::Nowhere);
        }
    }
    /// The oldest chunk of a list. The list of copies is in the order in which chunks were added to it.
    pub fn oldest(&mut self, which: ListKind) -> Option<usize> {
        (self.all[which as usize].first as usize).checked_sub(1)
    }
    /// The stamp of the oldest chunk of a list.
    pub fn oldest_stamp(&mut self, which: ListKind) -> Option<u32> {
        let first = self.all[which as usize].first.checked_sub(1)?;
        Some(links(self.table, first).stamp)
    }
    /// When a chunk that is in place came in or was acquired, or one that is not left.
    pub fn stamp(&mut self, index: usize) -> u32 {
        links(self.table, index as u32).stamp
    }
    /// Sets the stamp of a chunk.
    pub fn set_stamp(&mut self, index: usize, stamp: u32) {
        links(self.table, index as u32).stamp = stamp;
    }
    /// The chunk `back` places from the young end (0: the youngest).
    pub fn youngest(&mut self, which: ListKind, back: usize) -> Option<usize> {
        let mut number = self.all[which.aged() as usize].last;
        for _ in 0..back {
            number = links(self.table, number.checked_sub(1)?).aged.previous;
        }
        (number as usize).checked_sub(1)
    }
    /// The chunk that follows `index` in the list of copies, towards the young end.
    pub fn next_copy(&mut self, index: usize) -> Option<usize> {
        (links(self.table, index as u32).copies.next as usize).checked_sub(1)
    }
    /// Moves a chunk to the young end of its list. It keeps its stamp.
    pub fn rotate(&mut self, index: usize) {
        let stamp = links(self.table, index as u32).stamp;
        self.renew(index, stamp);
    }
    /// Moves a chunk to the young end of its list, with a new stamp.
    pub fn renew(&mut self, index: usize, stamp: u32) {
        let which = self.which(index);
        if which != ListKind::Nowhere {
            self.put(index, which, stamp);
        }
    }
    /// The list a chunk is in.
    pub fn which(&self, index: usize) -> ListKind {
        self.table.get(index).which.get()
    }
    /// By how many the region's mappings grow when this chunk comes in, and shrink when it leaves, if each chunk in
    /// place is a mapping, and each gap between them.
    pub fn mappings_of(&self, index: usize) -> isize {
        let beside = [index.checked_sub(1), Some(index + 1).filter(|&next| next < self.table.capacity)];
        // The chunk becomes a mapping, and cuts the gap that it was part of in two. On a side with a neighbour in
        // place, or the end of the region, there is no gap.
        let without_gap = |side: &&Option<usize>| side.is_none_or(|side| self.which(side).is_in_place());
        2 - beside.iter().filter(without_gap).count() as isize
    }
}

#[cfg(test)]
mod tests {
    use super::super::gate;
    use super::super::mapping::is_present;
    use super::super::sync_points::at;
    use super::*;
    use std::sync::Arc;
    #[test]
    fn a_page_of_records_goes_only_when_nobody_is_at_one() {
        fn claim(table: &Table, index: usize) -> bool {
            let state = &table.get(index).state;
            state.claim(state.load())
        }
        let settle =
            |table: &Table, index: usize, phase| table.get(index).state.settle(phase, Settle::default());
        let table = Arc::new(Table::new(3 * RECORDS_PER_PAGE).unwrap());
        let page = RECORDS_PER_PAGE..2 * RECORDS_PER_PAGE;
        let (one, around) = (RECORDS_PER_PAGE + 9, [RECORDS_PER_PAGE - 1, 2 * RECORDS_PER_PAGE]);
        around.iter().for_each(|index| settle(&table, *index, Phase::Hot));
        for phase in [Phase::Busy, Phase::Stored, Phase::Staged, Phase::Hot] {
            settle(&table, one, phase);
            assert!(!table.forget_page(page.start), "{phase:?}");
            assert_eq!(table.get(one).state.load().phase(), phase);
            for index in page.clone().filter(|index| *index != one) {
                assert!(claim(&table, index), "{phase:?}: the claim of record {index} has not ended");
                settle(&table, index, Phase::Zero);
            }
        }
        settle(&table, one, Phase::Zero);
        {
            let (table, mut page) = (table.clone(), page.clone());
            at(SyncPoint::RecordsClaimed, move || assert!(!page.any(|index| claim(&table, index))));
        }
        assert!(table.forget_page(page.start));
        assert!(!is_present(core::ptr::from_ref(table.get(one)).addr()));
        assert!(page.into_iter().all(|index| claim(&table, index)));
        assert_eq!(around.map(|index| table.get(index).state.load().phase()), [Phase::Hot; 2]);
    }
    #[test]
    fn mappings_are_chunks_in_place_and_gaps_between_them() {
        const CHUNKS: usize = 9;
        let _inside = gate::enter();
        let table = Table::new(CHUNKS).unwrap();
        let mut lists = table.lists();
        let mut mappings = 1;
        for step in 0..10_000_usize {
            let index = step.wrapping_mul(step).wrapping_mul(2_654_435_761) >> 7 & 0xFFFF;
            let index = index % CHUNKS;
            match lists.which(index) {
                ListKind::Nowhere => {
                    mappings += lists.mappings_of(index);
                    let which = if step % 3 == 0 { ListKind::Copied } else { ListKind::Hot };
                    lists.put(index, which, 0);
                }
                _ => {
                    lists.put(index, ListKind::Nowhere, 0);
                    mappings -= lists.mappings_of(index);
                }
            }
            let in_place = |index| lists.which(index).is_in_place();
            let chunks = (0..CHUNKS).filter(|&index| in_place(index)).count();
            let gaps = (0..CHUNKS).filter(|&index| !in_place(index) && (index == 0 || in_place(index - 1)));
            assert_eq!(mappings, (chunks + gaps.count()) as isize, "step {step}");
        }
    }
    #[test]
    fn lists_keep_their_order() {
        let _inside = gate::enter();
        let table = Table::new(10).unwrap();
        let mut lists = table.lists();
        for i in 0..5 {
            lists.put(i, ListKind::Hot, i as u32);
        }
        assert_eq!((lists.oldest(ListKind::Hot), table.count(ListKind::Hot)), (Some(0), 5));
        assert_eq!(lists.youngest(ListKind::Hot, 1), Some(3));
        for i in [2, 0, 4] {
            for which in [ListKind::Hot, ListKind::Nowhere] {
                assert_eq!(lists.which(i), which);
                lists.put(i, ListKind::Nowhere, 0);
            }
        }
        lists.put(2, ListKind::Warm, 9);
        assert_eq!((lists.oldest(ListKind::Hot), lists.youngest(ListKind::Hot, 0)), (Some(1), Some(3)));
        assert_eq!(lists.youngest(ListKind::Hot, 2), None);
        assert_eq!(lists.oldest_stamp(ListKind::Warm), Some(9));
        // Such chunks are in the list of chunks in place and in the list of copies.
        lists.put(5, ListKind::Copied, 10);
        lists.put(6, ListKind::Copied, 11);
        assert_eq!((table.count(ListKind::Hot), table.count(ListKind::Copied)), (4, 2));
        assert_eq!((lists.oldest(ListKind::Copied), lists.next_copy(5)), (Some(5), Some(6)));
        assert_eq!(lists.youngest(ListKind::Hot, 1), Some(5));
        lists.rotate(5);
        assert_eq!((lists.oldest(ListKind::Copied), lists.next_copy(5)), (Some(6), None));
        (0..2).for_each(|_| lists.lose_copy(6));
        assert_eq!((lists.oldest(ListKind::Copied), lists.which(6)), (Some(5), ListKind::Hot));
        assert_eq!(lists.youngest(ListKind::Hot, 1), Some(6), "as old as before");
        assert_eq!((lists.which(5), lists.which(6)), (ListKind::Copied, ListKind::Hot));
        [5, 6].iter().for_each(|&index| lists.put(index, ListKind::Nowhere, 0));
        assert_eq!((table.count(ListKind::Copied), lists.oldest(ListKind::Copied)), (0, None));
        [1, 3].iter().for_each(|&index| lists.put(index, ListKind::Nowhere, 0));
        assert_eq!(
            (lists.oldest(ListKind::Hot), table.count(ListKind::Hot), table.count(ListKind::Warm)),
            (None, 0, 1)
        );
    }
}
