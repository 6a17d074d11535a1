//! The registry of who owns an address: two loads from an address to the span that covers it.
//!
//! A static root holds one pointer for each 16 GiB of address space, to a leaf with one entry a slice; the leaf needed
//! first is static too. Blocks of 2 MiB and more enter one pointer for each whole huge page instead of thirty-two for its
//! slices; they are looked at only when the slice's own entry is empty. Leaves are never unmapped and span records are
//! never anything but span records, so any number may be looked up at any time, from any thread.
use super::size_class::{CLASS_SCALE, Class, SLICE};
use super::span::Span;
use crate::os::in_register;
use crate::os::map::{self, HUGE_PAGE};
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering::*};

/// Bits of a user address that the system hands out unasked: aarch64 kernels map from the top of 48 bits down.
const ADDRESS_BITS: u32 = if cfg!(target_arch = "x86_64") { 47 } else { 48 };
const LEAF_BITS: u32 = 34;
const COVERED: usize = 1 << LEAF_BITS;
const SLICES: usize = COVERED / SLICE;
const HUGE_PAGES: usize = COVERED / HUGE_PAGE;

struct Leaf {
    slices: [AtomicPtr<Span>; SLICES],
    /// Class of each span, scaled: a free then need not wait for the span's record to find its magazine.
    scaled_classes: [AtomicU32; SLICES],
    huge_pages: [AtomicPtr<Span>; HUGE_PAGES],
}
static ROOT: [AtomicPtr<Leaf>; 1 << (ADDRESS_BITS - LEAF_BITS)] =
    [const { AtomicPtr::new(null_mut()) }; 1 << (ADDRESS_BITS - LEAF_BITS)];

/// The leaf of the 16 GiB that are used first, which hold all of most programs: a look-up there needs no pointer to it.
struct FirstLeaf {
    /// Where they begin.
    start: AtomicUsize,
    leaf: Leaf,
}
static FIRST_LEAF: FirstLeaf = FirstLeaf {
    start: AtomicUsize::new(NOWHERE),
    leaf: Leaf {
        slices: [const { AtomicPtr::new(null_mut()) }; SLICES],
        scaled_classes: [const { AtomicU32::new(0) }; SLICES],
        huge_pages: [const { AtomicPtr::new(null_mut()) }; HUGE_PAGES],
    },
};
/// Where the first leaf starts as long as none is needed. Zero, so that the static takes no room in the file. Until then the
/// fast path looks up addresses of the lowest 16 GiB there in vain; slow paths find them through the root.
const NOWHERE: usize = 0;

fn leaf(address: usize) -> Option<&'static Leaf> {
    let leaf = ROOT.get(address >> LEAF_BITS)?.load(Acquire);
    // SAFETY: leaves are published whole and stay mapped for ever.
    unsafe { leaf.as_ref() }
}

/// The span whose memory `address` lies in.
pub fn span_of(address: usize) -> Option<&'static Span> {
    let leaf = leaf(address)?;
    let span = leaf.slices[address % COVERED / SLICE].load(Acquire);
    // SAFETY: entries are null or point at a span record, which is never unmapped.
    match unsafe { span.as_ref() } {
        None => huge_span_of(leaf, address),
        found => found,
    }
}
/// The span that `address` lies in and its class, scaled; None too where a mapped block of 2 MiB or more lies.
#[inline(always)]
pub fn blocks_of(address: usize) -> Option<(&'static Span, usize)> {
    let first_leaf = in_register(&FIRST_LEAF);
    let offset = address.wrapping_sub(first_leaf.start.load(Relaxed));
    let (leaf, slice) = match offset < COVERED {
        true => (&first_leaf.leaf, offset / SLICE),
        false => (leaf(address)?, address % COVERED / SLICE),
    };
    // SAFETY: entries are null or point at a span record, which is never unmapped.
    let span = unsafe { leaf.slices[slice].load(Acquire).as_ref() }?;
    Some((span, leaf.scaled_classes[slice].load(Relaxed) as usize))
}
#[cold]
fn huge_span_of(leaf: &'static Leaf, address: usize) -> Option<&'static Span> {
    // SAFETY: entries are null or point at a span record, which is never unmapped.
    unsafe { leaf.huge_pages[address % COVERED / HUGE_PAGE].load(Acquire).as_ref() }
}

/// Makes sure that [`insert`] for the range, or any part of it, cannot fail. False when memory is short.
pub fn make_ready(start: usize, end: usize) -> bool {
    if end > 1 << ADDRESS_BITS {
        return false;
    }
    let first = start >> LEAF_BITS;
    for (index, root) in (first..).zip(&ROOT[first..=(end - 1) >> LEAF_BITS]) {
        if !root.load(Acquire).is_null() {
            continue;
        }
        let start = index * COVERED;
        let claimed = FIRST_LEAF.start.compare_exchange(NOWHERE, start, Relaxed, Relaxed);
        if start != NOWHERE && (claimed.is_ok() || claimed == Err(start)) {
            root.store(core::ptr::from_ref(&FIRST_LEAF.leaf).cast_mut(), Release);
            continue;
        }
        let length = map::round_to_page(size_of::<Leaf>());
        let Some(fresh) = map::map(length, map::PAGE, 0) else { return false };
        // Zero bytes are null pointers, so the fresh mapping is an empty leaf.
        if root.compare_exchange(null_mut(), fresh as *mut Leaf, AcqRel, Acquire).is_err() {
            // SAFETY: another thread was first; nobody has seen this mapping.
            unsafe { map::unmap(fresh, length) };
        }
    }
    true
}

fn set(start: usize, end: usize, span: *mut Span, class: Class) {
    let mut address = start;
    while address < end {
        let leaf = leaf(address).expect("leaves were made");
        let within = address % COVERED;
        if address.is_multiple_of(HUGE_PAGE) && end - address >= HUGE_PAGE {
            leaf.huge_pages[within / HUGE_PAGE].store(span, Release);
            address += HUGE_PAGE;
        } else {
            leaf.scaled_classes[within / SLICE].store((class as usize * CLASS_SCALE) as u32, Relaxed);
            leaf.slices[within / SLICE].store(span, Release);
            address += SLICE;
        }
    }
}

/// Enters `span` for `[start, end)`; `start` is a multiple of [`SLICE`]. False when memory is short.
pub fn insert(start: usize, end: usize, span: NonNull<Span>) -> bool {
    let ready = make_ready(start, end);
    if ready {
        // SAFETY: span records are never unmapped.
        set(start, end, span.as_ptr(), unsafe { span.as_ref() }.class());
    }
    ready
}

/// Removes what [`insert`] entered for the same range.
pub fn remove(start: usize, end: usize) {
    set(start, end, null_mut(), 0);
}
