//! Encoded chunks in RAM: extents of whole pages in one reserved arena, or parts of a page (parts.rs).
//!
//! A bitmap shows which pages (*units*) are in use, and a second one which have memory. Nothing is allocated.
mod parts;

use super::budget::BudgetAccount;
use super::mapping::{Advice, Mapping, Protection, Span, advise, discard};
use crate::os::lock::Mutex;
use crate::os::map::PAGE;
use core::ops::Range;
pub use parts::room_for;
use parts::{Cut, List, Parts, UNIT};

/// The most bytes of freed pages that are kept for the next extent. They stay charged to the budget.
const MOST_CACHED: usize = 4 << 20;

/// The most bytes of an arena: an extent's number tells the sixteenth of a page.
const MOST: usize = (u32::MAX as usize / 16 + 1) * PAGE;

/// The arena.
pub struct Warm {
    arena: Mapping,
    units: usize,
    /// Both bitmaps, one behind the other, in mapped memory: one word of each for 64 units.
    bitmaps: Mapping,
    /// A record for each unit that is cut.
    cuts: Mapping,
    state: Mutex<State>,
}
struct State {
    next: usize,
    /// Number of units that are free but have pages.
    cached: usize,
    /// The range of units that contains all of these.
    cached_in: Range<usize>,
    with_room: List,
}
const NOWHERE: Range<usize> = Range { start: usize::MAX, end: 0 };

/// The first unit of an extent, or the first sixteenth, counted from the start of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, packed(2))] // so that a chunk's record takes no more room than it has (table.rs)
pub struct Extent(u32);

/// The budget has no room.
struct NoRoom;

/// A bitmap over units.
struct Bits<'a>(&'a mut [u64]);
impl Bits<'_> {
    fn get(&self, unit: usize) -> bool {
        self.0[unit / 64] >> (unit % 64) & 1 != 0
    }
    fn set(&mut self, unit: usize, value: bool) {
        let mask = 1 << (unit % 64);
        if value {
            self.0[unit / 64] |= mask;
        } else {
            self.0[unit / 64] &= !mask;
        }
    }
    /// The first run of `count` clear bits that begins in `from..to`.
    fn clear_run(&self, from: usize, to: usize, count: usize, end: usize) -> Option<usize> {
        let (mut start, mut unit) = (from, from);
        while start < to && start + count <= end {
            if unit - start == count {
                return Some(start);
            }
            let word = self.0[unit / 64];
            if unit % 64 == 0 && word == 0 {
                unit += 64.min(count - (unit - start));
            } else if unit % 64 == 0 && word == u64::MAX {
                unit += 64;
                start = unit;
            } else if word >> (unit % 64) & 1 == 0 {
                unit += 1;
            } else {
                unit += 1;
                start = unit;
            }
        }
        None
    }
}

fn units_for(length: usize) -> usize {
    length.div_ceil(PAGE)
}

impl Warm {
    /// An arena that can hold `bytes`, with room for fragmentation.
    pub fn new(bytes: usize) -> Option<Warm> {
        let units = units_for(bytes.checked_mul(2)?.min(MOST)).next_multiple_of(64);
        let arena = Mapping::reserve(units * PAGE, PAGE, Protection::ReadWrite)?;
        advise(arena.span(), Advice::NotDumped);
        // Extents are charged by the page.
        advise(arena.span(), Advice::SmallPages);
        let bitmaps = Mapping::reserve(units / 64 * 2 * 8, PAGE, Protection::ReadWrite)?;
        let cuts = Mapping::reserve(units * size_of::<Cut>(), PAGE, Protection::ReadWrite)?;
        let state = State { next: 0, cached: 0, cached_in: NOWHERE, with_room: List::default() };
        Some(Warm { arena, units, bitmaps, cuts, state: Mutex::sheltered(state) })
    }
    /// The bitmaps: units in use, and units that have pages.
    fn bitmaps<'a>(&'a self, _state: &'a mut State) -> (Bits<'a>, Bits<'a>) {
        let words = self.units / 64;
        let start = self.bitmaps.span().start as *mut u64;
        // SAFETY: these are two separate halves of the mapping. They are reached only under the lock, for which the
        // borrow of the state stands.
        unsafe {
            (
                Bits(core::slice::from_raw_parts_mut(start, words)),
                Bits(core::slice::from_raw_parts_mut(start.add(words), words)),
            )
        }
    }
    fn parts<'a>(&'a self, state: &'a mut State) -> Parts<'a> {
        // SAFETY: zeros are valid records. They are reached only under the lock, for which the borrow of the state stands.
        let cuts = unsafe { core::slice::from_raw_parts_mut(self.cuts.span().start as *mut Cut, self.units) };
        Parts { list: &mut state.with_room, cuts }
    }
    fn span(&self, unit: usize, count: usize) -> Span {
        self.arena.part(unit * PAGE, count * PAGE)
    }

    /// Stores `bytes`. Returns the extent, or None if the budget has no room. The rest of its room is padded with zeros.
    pub fn store(&self, account: &BudgetAccount, bytes: &[u8]) -> Option<Extent> {
        let extent = match parts::units_of(bytes.len()) {
            None => Extent(self.take_units(account, units_for(bytes.len()))? as u32),
            Some(count) => {
                let found = self.parts(&mut self.state.lock()).take(count);
                let (unit, first) = match found {
                    Some(found) => found,
                    None => {
                        let unit = self.take_units(account, 1)?;
                        self.parts(&mut self.state.lock()).cut(unit, count);
                        (unit, 0)
                    }
                };
                Extent((unit * 16 + first) as u32)
            }
        };
        let span = self.span_of(extent, bytes.len());
        // SAFETY: the extent was free, and is marked as used. Nobody else knows of it yet.
        let target = unsafe { core::slice::from_raw_parts_mut(span.start as *mut u8, span.length) };
        target[..bytes.len()].copy_from_slice(bytes);
        target[bytes.len()..].fill(0);
        Some(extent)
    }
    /// All the room of an extent of `length` bytes.
    fn span_of(&self, extent: Extent, length: usize) -> Span {
        let number = extent.0 as usize;
        match parts::units_of(length) {
            None => self.span(number, units_for(length)),
            Some(_) => self.arena.part(number * UNIT, room_for(length)),
        }
    }
    fn take_units(&self, account: &BudgetAccount, count: usize) -> Option<usize> {
        loop {
            match self.take(account, count)? {
                Ok(unit) => return Some(unit),
                // There may be cached pages elsewhere, which can be given back.
                Err(NoRoom) if self.trim(account) > 0 => {}
                Err(NoRoom) => return None,
            }
        }
    }
    /// Takes `count` units for an extent, and charges those that have no pages yet. Returns the first of them; None if there
    /// are not so many free ones in a row.
    fn take(&self, account: &BudgetAccount, count: usize) -> Option<Result<usize, NoRoom>> {
        let mut state = self.state.lock();
        let mut next = state.next;
        let (mut used, mut paged) = self.bitmaps(&mut state);
        // The search prefers low addresses, where freed pages are likely. `next` skips units that were found in use.
        let unit = used
            .clear_run(next, self.units, count, self.units)
            .or_else(|| used.clear_run(0, next, count, self.units))?;
        let fresh = (unit..unit + count).filter(|u| !paged.get(*u)).count();
        if !account.charge_encoded(fresh * PAGE) {
            return Some(Err(NoRoom));
        }
        for u in unit..unit + count {
            used.set(u, true);
            paged.set(u, true);
        }
        next = if unit <= next { unit + count } else { next };
        state.next = next.min(self.units - 1);
        state.cached -= count - fresh;
        Some(Ok(unit))
    }
    /// The bytes of an extent of `length` bytes, and its padding.
    ///
    /// # Safety
    /// `extent` came from `store` with as many bytes, and is not freed while the bytes are used.
    pub unsafe fn bytes(&self, extent: Extent, length: usize) -> &[u8] {
        let span = self.span_of(extent, length);
        // SAFETY: nobody writes to a stored extent.
        unsafe { core::slice::from_raw_parts(span.start as *const u8, span.length) }
    }
    /// Frees an extent of `length` bytes.
    pub fn free(&self, account: &BudgetAccount, extent: Extent, length: usize) {
        let number = extent.0 as usize;
        match parts::units_of(length) {
            None => self.free_units(account, number, units_for(length)),
            Some(count) => {
                let is_empty = self.parts(&mut self.state.lock()).give(number / 16, number % 16, count);
                if is_empty {
                    self.free_units(account, number / 16, 1);
                }
            }
        }
    }
    fn free_units(&self, account: &BudgetAccount, unit: usize, count: usize) {
        let mut state = self.state.lock();
        let keep = (state.cached + count) * PAGE <= MOST_CACHED;
        let (mut used, mut paged) = self.bitmaps(&mut state);
        for u in unit..unit + count {
            debug_assert!(used.get(u));
            used.set(u, false);
            paged.set(u, keep);
        }
        state.next = state.next.min(unit);
        if keep {
            state.cached += count;
            state.cached_in = state.cached_in.start.min(unit)..state.cached_in.end.max(unit + count);
        } else {
            // SAFETY: the units are free, and nobody can get them while the lock is held.
            let _ = unsafe { discard(self.span(unit, count)) };
            account.discharge_encoded(count * PAGE);
        }
    }
    /// Gives cached pages back. Returns how many bytes.
    pub fn trim(&self, account: &BudgetAccount) -> usize {
        let mut state = self.state.lock();
        let bytes = state.cached * PAGE;
        if bytes == 0 {
            return 0;
        }
        let all = core::mem::replace(&mut state.cached_in, NOWHERE);
        let (used, mut paged) = self.bitmaps(&mut state);
        let mut unit = all.start / 64 * 64;
        while unit < all.end {
            let idle = paged.0[unit / 64] & !used.0[unit / 64];
            if idle == 0 {
                unit += 64;
                continue;
            }
            for u in unit..unit + 64 {
                if idle >> (u % 64) & 1 != 0 {
                    paged.set(u, false);
                    // SAFETY: the unit is free, and nobody can get it while the lock is held.
                    let _ = unsafe { discard(self.span(u, 1)) };
                }
            }
            unit += 64;
        }
        state.cached = 0;
        account.discharge_encoded(bytes);
        bytes
    }
    /// How many bytes are in extents, and how many have pages.
    #[cfg(test)]
    pub fn used_and_paged(&self) -> (usize, usize) {
        let mut state = self.state.lock();
        let (used, paged) = self.bitmaps(&mut state);
        let bytes = |bits: &Bits| bits.0.iter().map(|word| word.count_ones() as usize).sum::<usize>() * PAGE;
        (bytes(&used), bytes(&paged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiers::budget::Unlimited;
    use crate::tiers::gate;
    use proptest::prelude::*;
    proptest! {
        #[test]
        fn extents_keep_their_bytes(
            steps in prop::collection::vec(
                (prop_oneof![1usize..4096, 1usize..40_000], any::<bool>(), any::<prop::sample::Index>()),
                1..300,
            ),
        ) {
            let _inside = gate::enter();
            let warm = Warm::new(4 << 20).unwrap();
            let account = BudgetAccount::new(Box::new(Unlimited));
            let mut live: Vec<(Extent, Vec<u8>)> = vec![];
            for (i, (length, free, which)) in steps.into_iter().enumerate() {
                if free && !live.is_empty() {
                    let (extent, bytes) = live.swap_remove(which.index(live.len()));
                    warm.free(&account, extent, bytes.len());
                } else {
                    let bytes = vec![i as u8 | 1; length];
                    live.push((warm.store(&account, &bytes).unwrap(), bytes));
                }
                for (extent, bytes) in &live {
                    // SAFETY: live.
                    let pages = unsafe { warm.bytes(*extent, bytes.len()) };
                    prop_assert!(pages[..bytes.len()] == bytes[..] && pages[bytes.len()..].iter().all(|b| *b == 0));
                }
            }
            let is_part = |length: &usize| parts::units_of(*length).is_some();
            let (parts, whole): (Vec<_>, Vec<_>) = live.iter().map(|(_, bytes)| bytes.len()).partition(is_part);
            let whole: usize = whole.into_iter().map(|length| units_for(length) * PAGE).sum();
            let rooms: usize = parts.iter().map(|&length| room_for(length)).sum();
            let used = warm.used_and_paged().0;
            prop_assert!((whole + rooms.next_multiple_of(PAGE)..=whole + parts.len() * PAGE).contains(&used));
            warm.trim(&account);
            prop_assert_eq!(account.held(), used);
            prop_assert_eq!(warm.used_and_paged(), (used, used));
            live.iter().for_each(|(extent, bytes)| warm.free(&account, *extent, bytes.len()));
            warm.trim(&account);
            prop_assert_eq!((account.held(), warm.used_and_paged()), (0, (0, 0)));
        }
    }
    #[test]
    fn parts_share_pages_and_fill_the_gaps_of_others() {
        let _inside = gate::enter();
        let warm = Warm::new(4 << 20).unwrap();
        let account = BudgetAccount::new(Box::new(Unlimited));
        let store = |length: usize| warm.store(&account, &vec![7; length]).unwrap();
        let mut extents: Vec<_> = (0..800).map(|_| store(300)).collect();
        assert_eq!(account.held(), 100 * PAGE, "eight of two sixteenths in each");
        for at in (0..800).step_by(2) {
            warm.free(&account, extents[at], 300);
            extents[at] = store(512);
        }
        assert_eq!(account.held(), 100 * PAGE);
        for at in (0..800).step_by(2) {
            warm.free(&account, extents[at], 512);
        }
        (0..200).for_each(|_| _ = store(513));
        assert_eq!(
            account.held(),
            (100 + 40) * PAGE,
            "gaps of two do not hold three, and five of three are in a page"
        );
    }
}
