//! The record of each chunk, and the lists that order chunks by age.
//!
//! Records stand in one reserved array. Untouched ones are zero bytes in memory that was never touched, which is what
//! makes a region of a tebibyte with three chunks in use cost three records.
use super::mapping::{Access, Mapping};
use super::state::State;
use crate::os::map::{self, PAGE};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// How a chunk is stored while it is not in place, and, while it is in place and unchanged, what is still stored.
/// All-zero bytes: nothing is stored.
#[derive(Clone, Copy, Default)]
#[repr(C)]
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
    pub slot: u16,
    /// Whether the encoded bytes are blocks; else they are the chunk itself.
    pub blocks: bool,
    /// Whether `content` is valid.
    pub content_known: bool,
    _spare: [u8; 2],
}
impl Stored {
    /// The number of a file that there never is: the bytes are lost.
    pub const LOST: u16 = u16::MAX;
    /// The encoded copy in RAM, its extent and its length, which is known no more; what is on disk stays known.
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
#[repr(u32)]
pub enum ListKind {
    /// None.
    Nowhere,
    /// In place.
    Hot,
    /// Encoded in RAM.
    Warm,
    /// In a staging slot.
    Staged,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Links {
    next: u32,
    previous: u32,
    stamp: u32,
    which: ListKind,
}

/// One chunk's record. 64 bytes; all zero is a chunk never touched.
#[repr(C)]
pub struct Chunk {
    /// Who may touch it.
    pub state: State,
    links: UnsafeCell<Links>,
    /// In the first record of a page: whether the page is charged to the budget.
    charged: AtomicU32,
    stored: UnsafeCell<Stored>,
}
const _: () = assert!(size_of::<Chunk>() == 64);
// SAFETY: `stored` is reached through a claim (Transit), or with the chunk pinned and under the lists' lock, which excludes
// claims and each other; `links` under the lists' lock only.
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
        Some(Table { mapping, capacity })
    }
    /// The record of a chunk.
    pub fn get(&self, index: usize) -> &Chunk {
        assert!(index < self.capacity);
        // SAFETY: inside the mapping; zeroed memory is a valid record, and all changes go through `Chunk`.
        unsafe { &*(self.mapping.span().start as *const Chunk).add(index) }
    }
    fn first_of_page(&self, index: usize) -> &Chunk {
        const A_PAGE: usize = PAGE / size_of::<Chunk>();
        self.get(index / A_PAGE * A_PAGE)
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

/// One list, oldest first. Indices are stored plus one; 0 is none.
#[derive(Default)]
struct List {
    first: u32,
    last: u32,
    count: usize,
}
/// The lists of a region. Used under its lock.
#[derive(Default)]
pub struct Lists {
    lists: [List; 3],
}
impl Lists {
    fn list(&mut self, which: ListKind) -> &mut List {
        &mut self.lists[which as usize - 1]
    }
    #[allow(clippy::mut_from_ref)] // the borrow of the lists makes it exclusive, not the table's
    fn links<'a>(&self, table: &'a Table, index: u32) -> &'a mut Links {
        // SAFETY: links are touched through a `&mut Lists` of the same region only, which is one at a time, and no
        // two references to the same record's live together below.
        unsafe { &mut *table.get(index as usize).links.get() }
    }
    /// Puts a chunk that is in no list at the young end.
    pub fn append(&mut self, table: &Table, which: ListKind, index: usize, stamp: u32) {
        let number = index as u32 + 1;
        let last = core::mem::replace(&mut self.list(which).last, number);
        let links = self.links(table, index as u32);
        debug_assert_eq!(links.which, ListKind::Nowhere);
        *links = Links { next: 0, previous: last, stamp, which };
        match last {
            0 => self.list(which).first = number,
            last => self.links(table, last - 1).next = number,
        }
        self.list(which).count += 1;
    }
    /// Takes a chunk out of whatever list it is in.
    pub fn remove(&mut self, table: &Table, index: usize) -> ListKind {
        let links = self.links(table, index as u32);
        let Links { next, previous, which, .. } = *links;
        if which == ListKind::Nowhere {
            return which;
        }
        links.which = ListKind::Nowhere;
        match previous {
            0 => self.list(which).first = next,
            previous => self.links(table, previous - 1).next = next,
        }
        match next {
            0 => self.list(which).last = previous,
            next => self.links(table, next - 1).previous = previous,
        }
        self.list(which).count -= 1;
        which
    }
    /// The oldest chunk of a list.
    pub fn oldest(&mut self, which: ListKind) -> Option<usize> {
        (self.list(which).first as usize).checked_sub(1)
    }
    /// The stamp of the oldest.
    pub fn oldest_stamp(&mut self, table: &Table, which: ListKind) -> Option<u32> {
        let first = self.list(which).first.checked_sub(1)?;
        Some(self.links(table, first).stamp)
    }
    /// The chunk `back` places from the young end (0: the youngest).
    pub fn youngest(&mut self, table: &Table, which: ListKind, back: usize) -> Option<usize> {
        let mut number = self.list(which).last;
        for _ in 0..back {
            number = self.links(table, number.checked_sub(1)?).previous;
        }
        (number as usize).checked_sub(1)
    }
    /// The chunk behind one in its list, on the way to the young end.
    pub fn next(&mut self, table: &Table, index: usize) -> Option<usize> {
        (self.links(table, index as u32).next as usize).checked_sub(1)
    }
    /// Puts a chunk that is in a list at its young end.
    pub fn rotate(&mut self, table: &Table, index: usize) {
        let Links { stamp, which, .. } = *self.links(table, index as u32);
        if which != ListKind::Nowhere {
            self.remove(table, index);
            self.append(table, which, index, stamp);
        }
    }
    /// The list a chunk is in.
    pub fn which(&self, table: &Table, index: usize) -> ListKind {
        self.links(table, index as u32).which
    }
    /// How many chunks are in a list.
    pub fn count(&mut self, which: ListKind) -> usize {
        self.list(which).count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn lists_keep_their_order() {
        let table = Table::new(10).unwrap();
        let mut lists = Lists::default();
        for i in 0..5 {
            lists.append(&table, ListKind::Hot, i, i as u32);
        }
        assert_eq!((lists.oldest(ListKind::Hot), lists.count(ListKind::Hot)), (Some(0), 5));
        assert_eq!(lists.youngest(&table, ListKind::Hot, 1), Some(3));
        assert_eq!((lists.next(&table, 1), lists.next(&table, 4)), (Some(2), None));
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
        lists.remove(&table, 1);
        lists.remove(&table, 3);
        assert_eq!(
            (lists.oldest(ListKind::Hot), lists.count(ListKind::Hot), lists.count(ListKind::Warm)),
            (None, 0, 1)
        );
    }
}
