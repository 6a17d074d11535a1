//! The page map: leads from an address to the span that covers it, in two loads.
//!
//! A static root has one pointer for each 16 GiB of address space. It leads to a leaf with one entry for each slice. The
//! leaf needed first is static too. A block of 2 MiB or more enters one pointer for each whole huge page in place of 32 for
//! its slices; a look-up reads these only when the slice's own entry is empty.
//!
//! Leaves are never unmapped, and a span record is never anything else. So any thread may look up any number at any time:
//! leaves.rs has the protocol, and its model.
use super::leaves::{First, enter, found};
use super::size_class::{CLASS_SCALE, Class, SLICE};
use super::span::Span;
use crate::os::in_register;
use crate::os::map::{self, HUGE_PAGE};
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering::Relaxed};

/// Bits of a user address that the system hands out unless asked for more: aarch64 kernels map from the top of 48 bits down.
const ADDRESS_BITS: u32 = if cfg!(target_arch = "x86_64") { 47 } else { 48 };
const LEAF_BITS: u32 = 34;
const COVERED: usize = 1 << LEAF_BITS;
const SLICES: usize = COVERED / SLICE;
const HUGE_PAGES: usize = COVERED / HUGE_PAGE;

struct Leaf {
    slices: [AtomicPtr<Span>; SLICES],
    /// Scaled class of each span, so that a free finds its magazine without waiting for the span's record.
    scaled_classes: [AtomicU32; SLICES],
    huge_pages: [AtomicPtr<Span>; HUGE_PAGES],
}
static ROOT: [AtomicPtr<Leaf>; 1 << (ADDRESS_BITS - LEAF_BITS)] =
    [const { AtomicPtr::new(null_mut()) }; 1 << (ADDRESS_BITS - LEAF_BITS)];

/// The leaf for the 16 GiB that are used first. Most programs need no other. A look-up there needs no pointer to the leaf.
struct FirstLeaf {
    range: First,
    leaf: Leaf,
}
static FIRST_LEAF: FirstLeaf = FirstLeaf {
    range: First::new(),
    leaf: Leaf {
        slices: [const { AtomicPtr::new(null_mut()) }; SLICES],
        scaled_classes: [const { AtomicU32::new(0) }; SLICES],
        huge_pages: [const { AtomicPtr::new(null_mut()) }; HUGE_PAGES],
    },
};

fn leaf(address: usize) -> Option<&'static Leaf> {
    let leaf = found(ROOT.get(address >> LEAF_BITS)?);
    // SAFETY: a leaf is complete before it is published, and it stays mapped for ever.
    unsafe { leaf.as_ref() }
}

/// The span whose memory `address` lies in.
pub fn span_of(address: usize) -> Option<&'static Span> {
    let leaf = leaf(address)?;
    let span = found(&leaf.slices[address % COVERED / SLICE]);
    // SAFETY: entries are null or point at a span record, which is never unmapped.
    match unsafe { span.as_ref() } {
        None => huge_span_of(leaf, address),
        found => found,
    }
}
/// The span that `address` lies in, and its scaled class. Also None for addresses in a mapped block's whole huge pages.
#[inline(always)]
pub fn blocks_of(address: usize) -> Option<(&'static Span, usize)> {
    let first_leaf = in_register(&FIRST_LEAF);
    let offset = first_leaf.range.offset_of(address);
    let (leaf, slice) = match offset < COVERED {
        true => (&first_leaf.leaf, offset / SLICE),
        false => (leaf(address)?, address % COVERED / SLICE),
    };
    // SAFETY: entries are null or point at a span record, which is never unmapped.
    let span = unsafe { found(&leaf.slices[slice]).as_ref() }?;
    Some((span, leaf.scaled_classes[slice].load(Relaxed) as usize))
}
#[cold]
fn huge_span_of(leaf: &'static Leaf, address: usize) -> Option<&'static Span> {
    // SAFETY: entries are null or point at a span record, which is never unmapped.
    unsafe { found(&leaf.huge_pages[address % COVERED / HUGE_PAGE]).as_ref() }
}

/// Makes sure that [`insert`] cannot fail for the range or any part of it. False when memory is short.
pub fn make_ready(start: usize, end: usize) -> bool {
    if end > 1 << ADDRESS_BITS {
        return false;
    }
    let length = map::round_to_page(size_of::<Leaf>());
    // Zero bytes are null pointers, so the fresh mapping is an empty leaf.
    let make = || map::map(length, map::PAGE, 0).map(|leaf| leaf as *mut Leaf);
    // SAFETY: no other thread has seen this mapping.
    let drop = |leaf: *mut Leaf| unsafe { map::unmap(leaf as usize, length) };
    let leaves = [null_mut(), core::ptr::from_ref(&FIRST_LEAF.leaf).cast_mut()];
    let first = start >> LEAF_BITS;
    (first..)
        .zip(&ROOT[first..=(end - 1) >> LEAF_BITS])
        .all(|(index, root)| FIRST_LEAF.range.make_ready(root, leaves, [index, index * COVERED], make, drop))
}

fn set(start: usize, end: usize, span: *mut Span, class: Class) {
    let mut address = start;
    while address < end {
        let leaf = leaf(address).expect("leaves were made");
        let within = address % COVERED;
        if address.is_multiple_of(HUGE_PAGE) && end - address >= HUGE_PAGE {
            enter(&leaf.huge_pages[within / HUGE_PAGE], span);
            address += HUGE_PAGE;
        } else {
            leaf.scaled_classes[within / SLICE].store((class as usize * CLASS_SCALE) as u32, Relaxed);
            enter(&leaf.slices[within / SLICE], span);
            address += SLICE;
        }
    }
}

/// Enters `span` for `[start, end)`; `start` is a multiple of [`SLICE`]. False, with nothing entered, when memory is short.
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
