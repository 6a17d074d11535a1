//! The arena: address space for spans, shared by all heaps.
//!
//! Regions of 32 MiB are reserved as needed and handed out in runs of 64 KiB slices. A free slice is always clean: never
//! touched, or given back to the system. So a run reads as zero.
//!
//! Beside each region lie the side arrays of its slices: for each slice 2048 slots and one bitmap, which are touched only
//! as far as blocks exist. They stay mapped for ever, so that a wild pointer can be looked up without a lock. What nobody
//! uses of them goes back to the system: slots with their slices, and bitmaps, sixteen of which share a page, when no
//! slice of their region is used any more. When the system is short, the address space of unused regions is given up as
//! well.
use super::size_class::{SLICE, SMALLEST};
use crate::os::{fork, lock::Mutex, map, records};
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::AtomicU16;

const REGION_SLICES: usize = 512;
/// Slots beside each slice: one for each block if blocks are of the smallest size.
pub const SLOTS: usize = SLICE / SMALLEST;
/// Bitmap words beside each slice.
const BITMAP_WORDS: usize = SLOTS / 64;
const WORDS: usize = REGION_SLICES / 64;

struct Region {
    /// Start of the address space. 0 while the region is vacant: its address space was given up, its side arrays were not.
    base: usize,
    /// Slices of address space; 0 while vacant.
    slices: usize,
    /// Slices that the side arrays serve.
    capacity: usize,
    side: usize,
    used: [u64; WORDS],
    free: usize,
    huge_pages: bool,
    next: *mut Region,
}
struct Arena {
    regions: *mut Region,
}
// SAFETY: regions are only reached under the lock.
unsafe impl Send for Arena {}
static ARENA: Mutex<Arena> = Mutex::new(Arena { regions: null_mut() });

/// A run of clean slices with its side arrays.
#[derive(Clone, Copy)]
pub struct Run {
    /// Address of the first slice; a multiple of [`SLICE`].
    pub base: usize,
    /// Slots, one for each 32 bytes of the run. All are `FREE` when the run is taken.
    pub slots: *mut AtomicU16,
    /// Words of the bitmap, one bit for each slot. Their contents are undefined.
    pub bitmap: *mut u64,
}
impl Run {
    /// The run without its first `slices`.
    pub fn skip(self, slices: usize) -> Run {
        Run {
            base: self.base + slices * SLICE,
            slots: self.slots.wrapping_add(slices * SLOTS),
            bitmap: self.bitmap.wrapping_add(slices * BITMAP_WORDS),
        }
    }
}

const fn side_length(slices: usize) -> usize {
    map::round_to_page(slices * (SLOTS * size_of::<AtomicU16>() + BITMAP_WORDS * size_of::<u64>()))
}

/// Bytes of memory that the side arrays of a run of `slices` take when `slots` of its slots are used. Slots count in whole
/// pages, because those of each slice begin on one. Bitmaps count as the run's share of their pages.
pub const fn side_bytes(slices: usize, slots: usize) -> usize {
    const BITMAP: usize = BITMAP_WORDS * size_of::<u64>();
    let bitmaps = if slices * BITMAP < map::PAGE { slices * BITMAP } else { map::PAGE };
    map::round_to_page(slots * size_of::<AtomicU16>()) + bitmaps
}

impl Region {
    fn run(&self, slice: usize) -> Run {
        let bitmap = (self.side + self.capacity * SLOTS * size_of::<AtomicU16>()) as *mut u64;
        Run { base: self.base, slots: self.side as *mut AtomicU16, bitmap }.skip(slice)
    }
    fn is_used(&self, slice: usize) -> bool {
        self.used[slice / 64] >> (slice % 64) & 1 == 1
    }
    fn mark(&mut self, slice: usize, count: usize, used: bool) {
        for s in slice..slice + count {
            self.used[s / 64] = self.used[s / 64] & !(1 << (s % 64)) | (used as u64) << (s % 64);
        }
        self.free = if used { self.free - count } else { self.free + count };
    }
    /// The first run of `count` free slices.
    fn find(&self, count: usize) -> Option<usize> {
        let (mut slice, mut length) = (0, 0);
        while slice < self.slices {
            if slice.is_multiple_of(64) && self.used[slice / 64] == u64::MAX {
                (slice, length) = (slice + 64, 0);
                continue;
            }
            length = if self.is_used(slice) { 0 } else { length + 1 };
            slice += 1;
            if length == count {
                return Some(slice - count);
            }
        }
        None
    }
    fn make(slices: usize, huge_pages: bool) -> Option<NonNull<Region>> {
        let record = records::allocate(size_of::<Region>())?.cast::<Region>();
        let base = map::map(slices * SLICE, map::HUGE_PAGE, 0);
        let side = base.and_then(|_| map::map(side_length(slices), map::PAGE, 0));
        let (Some(base), Some(side)) = (base, side) else {
            // SAFETY: nobody else knows what was made so far.
            unsafe {
                base.inspect(|&base| map::unmap(base, slices * SLICE));
                records::release(record.cast(), size_of::<Region>());
            }
            return None;
        };
        if huge_pages {
            map::advise_huge(base, slices * SLICE);
        }
        let region = Region {
            base,
            slices,
            capacity: slices,
            side,
            used: [0; WORDS],
            free: slices,
            huge_pages,
            next: null_mut(),
        };
        // SAFETY: a fresh record of that size.
        unsafe { record.write(region) };
        Some(record)
    }
    fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.base) < self.slices * SLICE
    }
    /// Gives up the address space of an unused region. Returns the number of bytes.
    fn vacate(&mut self) -> usize {
        if self.base == 0 || self.free < self.slices {
            return 0;
        }
        // SAFETY: no slice is used, so nobody uses memory of the region.
        unsafe { map::unmap(self.base, self.slices * SLICE) };
        let given = self.slices * SLICE;
        (self.base, self.slices, self.free) = (0, 0, 0);
        given
    }
    /// Takes address space for a vacant region again: for all the slices it can serve, or else for `slices`.
    fn occupy(&mut self, slices: usize) -> bool {
        let map = |slices: usize| Some((map::map(slices * SLICE, map::HUGE_PAGE, 0)?, slices));
        let Some((base, slices)) = map(self.capacity).or_else(|| map(slices)) else { return false };
        if self.huge_pages {
            map::advise_huge(base, slices * SLICE);
        }
        (self.base, self.slices, self.free) = (base, slices, slices);
        true
    }
}

impl Arena {
    /// All regions. Whoever has `self` holds the lock.
    fn iter(&mut self) -> impl Iterator<Item = &mut Region> {
        let mut next = self.regions;
        core::iter::from_fn(move || {
            // SAFETY: listed regions are live, and the lock makes them exclusive. Each is given out once.
            let region = unsafe { next.as_mut() }?;
            next = region.next;
            Some(region)
        })
    }
}

/// Takes a run of `slices` clean slices, from a region of huge pages if these are asked for. None when memory is short.
pub fn take(slices: usize, huge_pages: bool) -> Option<Run> {
    let mut arena = ARENA.lock();
    for region in arena.iter().filter(|r| r.free >= slices && r.huge_pages == huge_pages) {
        if let Some(slice) = region.find(slices) {
            region.mark(slice, slices, true);
            return Some(region.run(slice));
        }
    }
    if let Some(region) =
        arena.iter().find(|r| r.base == 0 && r.capacity >= slices && r.huge_pages == huge_pages)
        && region.occupy(slices)
    {
        region.mark(0, slices, true);
        return Some(region.run(0));
    }
    // Where address space is limited, a region that is just large enough may still fit.
    let mut fresh = Region::make(REGION_SLICES, huge_pages).or_else(|| Region::make(slices, huge_pages))?;
    // SAFETY: the region was just made. Others get to know it by the store into the list, under the lock.
    let region = unsafe { fresh.as_mut() };
    region.next = arena.regions;
    arena.regions = fresh.as_ptr();
    region.mark(0, slices, true);
    Some(region.run(0))
}

/// Gives a run back. Its first `touched` bytes go back to the system, with the slots beside the run, and with the last run
/// in use of a region the region's bitmaps.
///
/// # Safety
/// The run came from [`take`] with the same count and nothing uses it any more.
pub unsafe fn give(base: usize, slices: usize, touched: usize) {
    let mut arena = ARENA.lock();
    let region = arena.iter().find(|r| r.contains(base)).expect("runs come from regions");
    let slice = (base - region.base) / SLICE;
    let slots = region.run(slice).slots;
    // SAFETY: the caller has given up the run, and both ranges lie within mappings of the region. What the system refuses
    // to take back (locked pages) is zeroed, because free slices have to be clean.
    unsafe {
        if touched > 0 && !map::decommit(base, touched) {
            core::ptr::write_bytes(base as *mut u8, 0, touched);
        }
        let length = slices * SLOTS * size_of::<AtomicU16>();
        if !map::decommit(slots as usize, length) {
            slots.cast::<u8>().write_bytes(0, length);
        }
    }
    region.mark(slice, slices, false);
    if region.free == region.slices {
        let bitmap = region.run(0).bitmap as usize;
        // SAFETY: the range is part of the side arrays' mapping, and no run of the region is in use. Then it matters
        // neither what the bitmaps hold nor whether the system takes them.
        let _ = unsafe { map::decommit(bitmap, region.capacity * BITMAP_WORDS * size_of::<u64>()) };
    }
}

/// Gives up the address space of all unused regions. Returns the number of bytes.
pub fn vacate_unused() -> usize {
    ARENA.lock().iter().map(Region::vacate).sum()
}

/// See load.rs.
pub(crate) static HOOKS: &dyn fork::AtFork = &ARENA;
