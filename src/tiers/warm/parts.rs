//! Encoded chunks of less than a page: parts of pages of the warm arena.
//!
//! Such a page is cut into sixteenths, and its record says which are in use. Pages with room are in a list. A search looks at
//! its first few pages, and moves those where there is not enough room to the end. All of this is under the arena's lock.
use crate::os::map::PAGE;

/// Bytes of a sixteenth.
pub const UNIT: usize = PAGE / 16;
/// How many pages a search looks at.
const TRIED: usize = 8;

/// How many sixteenths encoded bytes take; None if they take whole pages.
pub fn units_of(length: usize) -> Option<usize> {
    Some(length.div_ceil(UNIT)).filter(|&units| units < 16)
}
/// Bytes that encoded bytes take.
pub fn room_for(length: usize) -> usize {
    units_of(length).map_or_else(|| length.next_multiple_of(PAGE), |units| units * UNIT)
}

/// The record of a page. Zeros are a page that is not cut.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Cut {
    /// Neighbours in the list, plus one; 0: none.
    next: u32,
    previous: u32,
    /// The sixteenths in use.
    used: u16,
}

/// The ends of the list, as in [`Cut`].
#[derive(Default)]
pub struct List {
    first: u32,
    last: u32,
}

/// The list with the records of all pages.
pub struct Parts<'a> {
    pub list: &'a mut List,
    pub cuts: &'a mut [Cut],
}
impl Parts<'_> {
    /// Takes `units` sixteenths in a row. Returns the page and the first of them; None if no page has been found that has
    /// room.
    pub fn take(&mut self, units: usize) -> Option<(usize, usize)> {
        for _ in 0..TRIED {
            let page = (self.list.first as usize).checked_sub(1)?;
            let used = self.cuts[page].used;
            let first = (0..=16 - units).find(|&first| used & mask(first, units) == 0);
            self.remove(page);
            if let Some(first) = first {
                self.cuts[page].used |= mask(first, units);
                if self.cuts[page].used != u16::MAX {
                    self.put_first(page);
                }
                return Some((page, first));
            }
            self.put_last(page);
        }
        None
    }
    /// Cuts a page, of which the first `units` sixteenths are taken at once.
    pub fn cut(&mut self, page: usize, units: usize) {
        debug_assert!(self.cuts[page] == Cut::default() && units < 16);
        self.cuts[page].used = mask(0, units);
        self.put_first(page);
    }
    /// Gives sixteenths back. Returns true if the page has none in use any more, and is not cut from then on.
    pub fn give(&mut self, page: usize, first: usize, units: usize) -> bool {
        let before = self.cuts[page].used;
        debug_assert!(before & mask(first, units) == mask(first, units));
        self.cuts[page].used = before & !mask(first, units);
        let is_empty = self.cuts[page].used == 0;
        match (before == u16::MAX, is_empty) {
            (true, false) => self.put_first(page),
            (false, true) => self.remove(page),
            _ => {}
        }
        is_empty
    }
    fn put_first(&mut self, page: usize) {
        let (number, next) = (page as u32 + 1, self.list.first);
        (self.cuts[page].next, self.cuts[page].previous) = (next, 0);
        self.list.first = number;
        match next {
            0 => self.list.last = number,
            next => self.cuts[next as usize - 1].previous = number,
        }
    }
    fn put_last(&mut self, page: usize) {
        let (number, previous) = (page as u32 + 1, self.list.last);
        (self.cuts[page].next, self.cuts[page].previous) = (0, previous);
        self.list.last = number;
        match previous {
            0 => self.list.first = number,
            previous => self.cuts[previous as usize - 1].next = number,
        }
    }
    fn remove(&mut self, page: usize) {
        let Cut { next, previous, .. } = self.cuts[page];
        match previous {
            0 => self.list.first = next,
            previous => self.cuts[previous as usize - 1].next = next,
        }
        match next {
            0 => self.list.last = previous,
            next => self.cuts[next as usize - 1].previous = previous,
        }
        (self.cuts[page].next, self.cuts[page].previous) = (0, 0);
    }
}
fn mask(first: usize, units: usize) -> u16 {
    (((1_u32 << units) - 1) << first) as u16
}
