//! The record of each chunk, and the lists that order chunks by age.
//!
//! Records stand in one reserved array. Untouched ones are zero bytes in memory that was never touched, which is what
//! makes a region of a tebibyte with three chunks in use cost three records.
//!
//! Of the chunks in place, those with an encoded copy in RAM are also in a list of their own, so that giving up copies looks
//! at these alone. It is changed under the lists' lock only, by a thread that settles its claim of a chunk (transit.rs),
//! before anybody else can claim or pin that; and by one that has pinned a chunk, which excludes claims, and takes its copy
//! (`Region::take_copy`). So the list has exactly the chunks whose records name a copy, but for those that are Busy: of these,
//! the ones that had a copy when they were claimed.
use super::mapping::{Access, Advice, Mapping, advise, discard};
use super::state::{Phase, Settle, State};
use super::sync_points::{self, SyncPoint};
use crate::os::map::{self, PAGE};
use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// How a chunk is stored while it is not in place, and, while it is in place and unchanged, what is still stored.
/// All-zero bytes: nothing is stored. Packed, so that no byte of a record is left over; in a record all are aligned.
#[derive(Clone, Copy, Default)]
#[repr(C, packed(2))]
pub struct Stored {
    /// Hash of the decoded bytes, if `content_known`.
    pub content: [u64; 2],
    /// Hash of the encoded bytes.
    pub checksum: u64,
    /// Encoded bytes.
    pub length: u32,
    /// Where they are in the warm arena, plus one; 0: not there.
    pub warm: u32,
    /// The number of the spill file that holds them too; 0: none does.
    pub file: u16,
    /// The staging slot of a chunk in phase Staged.
    pub slot: u8,
    /// Whether the encoded bytes are blocks; else they are the chunk itself.
    pub blocks: bool,
    /// Whether `content` is valid.
    pub content_known: bool,
}
impl Stored {
    /// The number of a file that there never is: the bytes are lost.
    pub const LOST: u16 = u16::MAX;
    /// Forgets the encoded copy in RAM, and gives its extent and length. What is on disk stays known.
    pub fn take_copy(&mut self) -> Option<(u32, usize)> {
        let copy = (self.warm != 0).then_some((self.warm, self.length as usize));
        self.warm = 0;
        if copy.is_some() && self.file == 0 {
            *self = Stored::default();
        }
        copy
    }
    /// Whether encoded bytes are kept anywhere.
    pub fn is_kept(&self) -> bool {
        self.warm != 0 || self.file != 0
    }
}

/// Which list a chunk is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ListKind {
    /// None.
    Nowhere,
    /// In place.
    Hot,
    /// In place, with an encoded copy in RAM: among those in place, and in the list of copies.
    Copied,
    /// Encoded in RAM.
    Warm,
    /// In a staging slot.
    Staged,
}

impl ListKind {
    /// Whether chunks listed so are in place.
    pub fn is_in_place(self) -> bool {
        matches!(self, ListKind::Hot | ListKind::Copied)
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
    /// By age, among those where it is.
    aged: Place,
    /// In the list of copies.
    copies: Place,
    stamp: u32,
}

/// One chunk's record. 64 bytes; all zero is a chunk never touched.
#[repr(C)]
pub struct Chunk {
    /// Who may touch it.
    pub state: State,
    links: UnsafeCell<Links>,
    stored: UnsafeCell<Stored>,
    which: Cell<ListKind>,
    /// In the first record of a page: whether the page is charged to the budget.
    charged: AtomicU8,
}
const _: () = assert!(size_of::<Chunk>() == 64);
// SAFETY: `stored` is reached through a claim (Transit), or with the chunk pinned and under the lists' lock, which excludes
// claims and each other; `links` and `which` under the lists' lock only.
unsafe impl Sync for Chunk {}

impl Chunk {
    /// # Safety
    /// The caller holds the claim of this chunk, or has pinned it and holds the lock of its region's lists; and no other
    /// reference from here.
    #[allow(clippy::mut_from_ref)] // that is what a claim is
    pub unsafe fn stored(&self) -> &mut Stored {
        // SAFETY: a claim is exclusive, and a pinned chunk cannot be claimed (state.rs); the lock is exclusive among those who pin.
        unsafe { &mut *self.stored.get() }
    }
}

/// How many records a page holds.
pub const RECORDS_PER_PAGE: usize = PAGE / size_of::<Chunk>();

/// Bytes of memory that the records of `count` chunks come to take.
pub fn bytes(count: usize) -> usize {
    map::round_to_page(count * size_of::<Chunk>())
}

/// All records of a region.
pub struct Table {
    mapping: Mapping,
    capacity: usize,
}
impl Table {
    /// Records for up to `capacity` chunks.
    pub fn new(capacity: usize) -> Option<Table> {
        let mapping = Mapping::reserve(capacity.checked_mul(size_of::<Chunk>())?, 64, Access::ReadWrite)?;
        // They are charged by the page.
        advise(mapping.span(), Advice::SmallPages);
        Some(Table { mapping, capacity })
    }
    /// The record of a chunk.
    pub fn get(&self, index: usize) -> &Chunk {
        assert!(index < self.capacity);
        // SAFETY: inside the mapping; zeroed memory is a valid record, and all changes go through `Chunk`.
        unsafe { &*(self.mapping.span().start as *const Chunk).add(index) }
    }
    fn first_of_page(&self, index: usize) -> &Chunk {
        self.get(index / RECORDS_PER_PAGE * RECORDS_PER_PAGE)
    }
    /// Gives the page of records that begins with `first` back to the system: they are as if never touched. False, with nothing
    /// changed, if one of them is claimed or used. Without a lock: all of the records are claimed first, and whoever wants one
    /// of them meanwhile waits for its claim to end. Since the mark that a waiter leaves in the state word may go with the
    /// page, all waiters are woken.
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
        // SAFETY: all records of the page are claimed, and in no list, as they are Zero.
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
    /// Notes that it is. False if it was already.
    pub fn note_charged(&self, index: usize) -> bool {
        self.first_of_page(index).charged.swap(1, Relaxed) == 0
    }
    /// How many records there can be.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

/// Which of its places a list has in a chunk's links.
type PlaceIn = fn(&mut Links) -> &mut Place;

/// One list, oldest first. Indices are stored plus one; 0 is none.
#[derive(Default)]
struct List {
    first: u32,
    last: u32,
    count: usize,
}
#[allow(clippy::mut_from_ref)] // the borrow of the lists makes it exclusive, not the table's
fn links(table: &Table, index: u32) -> &mut Links {
    // SAFETY: links are touched through a `&mut Lists` of the same region only, which is one at a time, and no
    // two references to the same record's live together below.
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
        self.count += 1;
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
        self.count -= 1;
    }
}
/// The lists of a region. Used under its lock.
#[derive(Default)]
pub struct Lists {
    hot: List,
    copies: List,
    warm: List,
    staged: List,
}
impl Lists {
    const AGED: PlaceIn = |links| &mut links.aged;
    const COPIES: PlaceIn = |links| &mut links.copies;
    /// The list that tells the age of chunks listed so.
    fn aged(&mut self, which: ListKind) -> &mut List {
        match which {
            ListKind::Warm => &mut self.warm,
            ListKind::Staged => &mut self.staged,
            _ => &mut self.hot,
        }
    }
    /// All that are listed so.
    fn list(&mut self, which: ListKind) -> &mut List {
        if which == ListKind::Copied { &mut self.copies } else { self.aged(which) }
    }
    /// Puts a chunk that is in no list at the young end.
    pub fn append(&mut self, table: &Table, which: ListKind, index: usize, stamp: u32) {
        let chunk = table.get(index);
        debug_assert_eq!(chunk.which.get(), ListKind::Nowhere);
        chunk.which.set(which);
        links(table, index as u32).stamp = stamp;
        self.aged(which).append(table, index as u32, Lists::AGED);
        if which == ListKind::Copied {
            self.copies.append(table, index as u32, Lists::COPIES);
        }
    }
    /// Takes a chunk out of whatever list it is in.
    pub fn remove(&mut self, table: &Table, index: usize) -> ListKind {
        let which = table.get(index).which.get();
        if which != ListKind::Nowhere {
            self.lose_copy(table, index);
            self.aged(which).remove(table, index as u32, Lists::AGED);
            table.get(index).which.set(ListKind::Nowhere);
        }
        which
    }
    /// Has a chunk in place no copy any more, and the age that it had.
    pub fn lose_copy(&mut self, table: &Table, index: usize) {
        let chunk = table.get(index);
        if chunk.which.get() == ListKind::Copied {
            chunk.which.set(ListKind::Hot);
            self.copies.remove(table, index as u32, Lists::COPIES);
        }
    }
    /// The oldest chunk of a list; of copies the one that came first.
    pub fn oldest(&mut self, which: ListKind) -> Option<usize> {
        (self.list(which).first as usize).checked_sub(1)
    }
    /// The stamp of the oldest.
    pub fn oldest_stamp(&mut self, table: &Table, which: ListKind) -> Option<u32> {
        let first = self.list(which).first.checked_sub(1)?;
        Some(links(table, first).stamp)
    }
    /// The chunk `back` places from the young end (0: the youngest).
    pub fn youngest(&mut self, table: &Table, which: ListKind, back: usize) -> Option<usize> {
        let mut number = self.aged(which).last;
        for _ in 0..back {
            number = links(table, number.checked_sub(1)?).aged.previous;
        }
        (number as usize).checked_sub(1)
    }
    /// The chunk with a copy behind one that has one, on the way to the young end.
    pub fn next_copy(&mut self, table: &Table, index: usize) -> Option<usize> {
        (links(table, index as u32).copies.next as usize).checked_sub(1)
    }
    /// Puts a chunk that is in a list at its young end.
    pub fn rotate(&mut self, table: &Table, index: usize) {
        let stamp = links(table, index as u32).stamp;
        self.renew(table, index, stamp);
    }
    /// The same with another stamp.
    pub fn renew(&mut self, table: &Table, index: usize, stamp: u32) {
        let which = table.get(index).which.get();
        if which != ListKind::Nowhere {
            self.remove(table, index);
            self.append(table, which, index, stamp);
        }
    }
    /// The list a chunk is in.
    pub fn which(&self, table: &Table, index: usize) -> ListKind {
        table.get(index).which.get()
    }
    /// By how many the mappings of a region become more when this chunk comes in, and fewer when it leaves, where each chunk in place
    /// is one, and each gap between them.
    pub fn mappings_of(&self, table: &Table, index: usize) -> isize {
        let beside = [index.checked_sub(1), Some(index + 1).filter(|&next| next < table.capacity)];
        // It becomes one, and cuts its gap in two; there is no gap on the side where there is a neighbour, or an end.
        let without_gap =
            |side: &&Option<usize>| side.is_none_or(|side| self.which(table, side).is_in_place());
        2 - beside.iter().filter(without_gap).count() as isize
    }
    /// How many chunks are in a list.
    pub fn count(&mut self, which: ListKind) -> usize {
        self.list(which).count
    }
}

#[cfg(test)]
mod tests {
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
        let table = Table::new(CHUNKS).unwrap();
        let mut lists = Lists::default();
        let mut mappings = 1;
        for step in 0..10_000_usize {
            let index = step.wrapping_mul(step).wrapping_mul(2_654_435_761) >> 7 & 0xFFFF;
            let index = index % CHUNKS;
            match lists.remove(&table, index) {
                ListKind::Nowhere => {
                    mappings += lists.mappings_of(&table, index);
                    let which = if step % 3 == 0 { ListKind::Copied } else { ListKind::Hot };
                    lists.append(&table, which, index, 0);
                }
                _ => mappings -= lists.mappings_of(&table, index),
            }
            let in_place = |index| lists.which(&table, index).is_in_place();
            let chunks = (0..CHUNKS).filter(|&index| in_place(index)).count();
            let gaps = (0..CHUNKS).filter(|&index| !in_place(index) && (index == 0 || in_place(index - 1)));
            assert_eq!(mappings, (chunks + gaps.count()) as isize, "step {step}");
        }
    }
    #[test]
    fn lists_keep_their_order() {
        let table = Table::new(10).unwrap();
        let mut lists = Lists::default();
        for i in 0..5 {
            lists.append(&table, ListKind::Hot, i, i as u32);
        }
        assert_eq!((lists.oldest(ListKind::Hot), lists.count(ListKind::Hot)), (Some(0), 5));
        assert_eq!(lists.youngest(&table, ListKind::Hot, 1), Some(3));
        for i in [2, 0, 4] {
            assert_eq!(lists.remove(&table, i), ListKind::Hot);
            assert_eq!(lists.remove(&table, i), ListKind::Nowhere);
        }
        lists.append(&table, ListKind::Warm, 2, 9);
        assert_eq!(
            (lists.oldest(ListKind::Hot), lists.youngest(&table, ListKind::Hot, 0)),
            (Some(1), Some(3))
        );
        assert_eq!(lists.youngest(&table, ListKind::Hot, 2), None);
        assert_eq!(lists.oldest_stamp(&table, ListKind::Warm), Some(9));
        // Among those in place and in the list of copies at once.
        lists.append(&table, ListKind::Copied, 5, 10);
        lists.append(&table, ListKind::Copied, 6, 11);
        assert_eq!((lists.count(ListKind::Hot), lists.count(ListKind::Copied)), (4, 2));
        assert_eq!((lists.oldest(ListKind::Copied), lists.next_copy(&table, 5)), (Some(5), Some(6)));
        assert_eq!(lists.youngest(&table, ListKind::Hot, 1), Some(5));
        lists.rotate(&table, 5);
        assert_eq!((lists.oldest(ListKind::Copied), lists.next_copy(&table, 5)), (Some(6), None));
        (0..2).for_each(|_| lists.lose_copy(&table, 6));
        assert_eq!((lists.oldest(ListKind::Copied), lists.which(&table, 6)), (Some(5), ListKind::Hot));
        assert_eq!(lists.youngest(&table, ListKind::Hot, 1), Some(6), "as old as before");
        assert_eq!((lists.remove(&table, 5), lists.remove(&table, 6)), (ListKind::Copied, ListKind::Hot));
        assert_eq!((lists.count(ListKind::Copied), lists.oldest(ListKind::Copied)), (0, None));
        lists.remove(&table, 1);
        lists.remove(&table, 3);
        assert_eq!(
            (lists.oldest(ListKind::Hot), lists.count(ListKind::Hot), lists.count(ListKind::Warm)),
            (None, 0, 1)
        );
    }
}
