//! Size classes: which stride a request gets, computed once at compile time.
//!
//! Three groups share one index space:
//! - *Shared* classes put many blocks into a span. They have four strides per doubling, from 32 bytes to 28 KiB.
//! - *Aligned* classes are powers of two, for requests that ask for more than a cache line. A block's alignment follows
//!   from its class, and so is known when the block is reallocated.
//! - *Single* classes, up to 1 MiB, have one block for each span. Such a span may change its class in place.
//!
//! Anything larger is mapped by itself (heap/large.rs).
//!
//! # Changing the classes
//! The strides follow from `next_stride` and the limits below, and everything else is computed from them. Only
//! `single_class_of` and `aligned_class_of` have the steps written into them. The compiler checks what other files depend
//! on:
//! - the size of a shared block fits its slot (below);
//! - a span has a slot for each block (arena.rs);
//! - a cache with all its magazines is no larger than the sentinel that stands in for it (cache.rs).
//!
//! Each class costs each cache a magazine of 32 bytes. After a change run `cargo checked --lib heap`,
//! `ONLY=test_budget make test` and `make bench-alloc`.
use super::slot;
use crate::os::in_register;

/// Alignment of a block when none is asked for: a cache line.
pub const DEFAULT_ALIGNMENT: usize = 64;
/// Unit of the arena; spans are runs of slices.
pub const SLICE: usize = 1 << 16;
/// Largest stride; beyond it blocks are mapped.
pub const MAX_STRIDE: usize = 1 << 20;

/// Smallest stride. The arena has one slot for each piece of this size.
pub const SMALLEST: usize = 32;
/// Largest stride of a shared class.
const MAX_SHARED: usize = 28 << 10;
const _: () = assert!(MAX_SHARED <= slot::MAX_ROOM, "a slot tells how much of its block is not asked for");
/// Largest stride of an aligned class.
const MAX_ALIGNED: usize = 16 << 10;
/// Largest alignment that comes from a span; a run of slices is aligned to it.
pub const MAX_SPAN_ALIGNMENT: usize = SLICE;

/// Index of a size class.
pub type Class = u8;

const fn next_stride(stride: usize) -> usize {
    // Steps of 16 bytes up to 128, then steps of a quarter of the power of two below.
    if stride < 128 { stride + 16 } else { stride + (1 << (stride.ilog2() - 2)) }
}
const fn count(from: usize, to: usize) -> usize {
    let (mut stride, mut n) = (from, 1);
    while stride < to {
        stride = next_stride(stride);
        n += 1;
    }
    n
}
/// Number of shared classes: those whose blocks share a span at the usual alignments. They come first.
pub const SHARED: usize = count(SMALLEST, MAX_SHARED);
const ALIGNED: usize = (MAX_ALIGNED / 128).ilog2() as usize + 1;
const SINGLE: usize = count(32 << 10, MAX_STRIDE);
/// The first class with one block a span; those with many come before it.
pub const FIRST_SINGLE: usize = SHARED + ALIGNED;
/// How many classes there are.
pub const CLASSES: usize = FIRST_SINGLE + SINGLE;

/// Slices of a span whose block is expected to grow: eight times what it needs, up to the largest stride. This is address
/// space only. Memory is touched, and counts, as far as the block's class reaches.
pub const fn slices_to_grow(class: Class) -> usize {
    let slices = SHAPES[class as usize].slices as usize * 8;
    if slices < MAX_STRIDE / SLICE { slices } else { MAX_STRIDE / SLICE }
}

/// What all blocks of a class have in common.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Bytes from one block to the next.
    pub stride: u32,
    /// Slices of a span.
    pub slices: u16,
    /// Blocks of a span.
    pub capacity: u16,
    /// Alignment that a block keeps when it is reallocated.
    pub alignment: u32,
}

const fn shape(stride: usize, aligned: bool) -> Shape {
    // A span has room for about 2048 blocks while blocks are small, and for a dozen or more when they are not.
    let slices = match stride {
        0..64 => 1,
        64..256 => 2,
        256..2048 => 4,
        _ => 8,
    };
    // Who asks for 32 bytes gets whole cache lines. So blocks that are not were asked for with at most a granule's alignment,
    // and when one moves it need not become whole cache lines because it happened to lie at a multiple of 32.
    let alignment = match (aligned, stride.is_multiple_of(DEFAULT_ALIGNMENT)) {
        (true, _) => stride,
        (false, true) => DEFAULT_ALIGNMENT,
        (false, false) => GRANULE,
    };
    Shape {
        stride: stride as u32,
        slices,
        capacity: (slices as usize * SLICE / stride) as u16,
        alignment: alignment as u32,
    }
}

/// Shape of every class.
pub static SHAPES: [Shape; CLASSES] = {
    let mut shapes = [shape(SMALLEST, false); CLASSES];
    let (mut i, mut stride) = (0, SMALLEST);
    while i < SHARED {
        shapes[i] = shape(stride, false);
        stride = next_stride(stride);
        i += 1;
    }
    stride = 128;
    while i < FIRST_SINGLE {
        shapes[i] = shape(stride, true);
        stride *= 2;
        i += 1;
    }
    stride = 32 << 10;
    while i < CLASSES {
        let slices = stride.div_ceil(SLICE) as u16;
        shapes[i] = Shape { stride: stride as u32, slices, capacity: 1, alignment: DEFAULT_ALIGNMENT as u32 };
        stride = next_stride(stride);
        i += 1;
    }
    shapes
};

/// Largest room whose class stands in a table.
pub const MAX_QUICK: usize = (64 << 10) + 256;
/// The class of that room.
pub const LAST_QUICK: usize = single_class_of(MAX_QUICK) as usize;
/// Largest room of a shared class.
pub const MAX_QUICK_SHARED: usize = MAX_SHARED;
/// The tables hold *scaled* classes: the class times the size of a magazine in bytes. That saves the fast path an
/// instruction.
pub const CLASS_SCALE: usize = 32;
const GRANULE: usize = 16;
/// For rooms of any size: scaled class by number of granules.
static BY_GRANULE: [u16; MAX_QUICK / GRANULE + 1] = classes_by(GRANULE);
const LINE: usize = DEFAULT_ALIGNMENT;
/// For rooms that are whole cache lines: scaled class by number of lines.
static BY_LINE: [u16; MAX_QUICK_SHARED / LINE + 1] = classes_by(LINE);

/// Scaled classes of rooms of 0, 1, 2 and more times `unit` bytes.
const fn classes_by<const LENGTH: usize>(unit: usize) -> [u16; LENGTH] {
    let mut table = [0; LENGTH];
    let (mut units, mut class) = (0, 0);
    while units < LENGTH {
        while (SHAPES[class].stride as usize) < units * unit {
            class = if class + 1 == SHARED { FIRST_SINGLE } else { class + 1 };
        }
        table[units] = (class * CLASS_SCALE) as u16;
        units += 1;
    }
    table
}

/// [`class_of`] for rooms up to [`MAX_QUICK`] bytes.
pub fn quick_class_of(bytes: usize) -> usize {
    quick_scaled_class_of(bytes) / CLASS_SCALE
}
/// Scaled class for rooms up to [`MAX_QUICK`] bytes.
#[inline(always)]
pub fn quick_scaled_class_of(bytes: usize) -> usize {
    // SAFETY: the table has an entry for every number of granules up to the limit, which callers keep to.
    unsafe { *in_register(&BY_GRANULE).get_unchecked(bytes.div_ceil(GRANULE)) as usize }
}
/// Scaled class for as many whole cache lines as `bytes` contains, at most [`MAX_QUICK_SHARED`] bytes.
#[inline(always)]
pub fn quick_scaled_class_of_lines(bytes: usize) -> usize {
    // SAFETY: the table has an entry for every number of lines up to the limit, which callers keep to.
    unsafe { *in_register(&BY_LINE).get_unchecked(bytes / LINE) as usize }
}

/// Class of the smallest stride that holds `bytes` (at most [`MAX_STRIDE`]) at 16-byte alignment. When `bytes` is a
/// multiple of 64, so is the stride.
#[inline(always)]
pub fn class_of(bytes: usize) -> Class {
    debug_assert!(0 < bytes && bytes <= MAX_STRIDE);
    if bytes <= MAX_SHARED { quick_class_of(bytes) as Class } else { single_class_of(bytes) }
}
const fn single_class_of(bytes: usize) -> Class {
    // The first single class is 32 KiB, and every fourth class after it doubles the stride.
    if bytes <= 32 << 10 {
        return FIRST_SINGLE as Class;
    }
    let log2 = (bytes - 1).ilog2(); // 15 or more
    let quarter = (bytes - 1) >> (log2 - 2) & 3;
    (FIRST_SINGLE + (log2 as usize - 15) * 4 + quarter + 1) as Class
}

/// Class for `bytes` at an `alignment` above [`DEFAULT_ALIGNMENT`], a power of two up to [`MAX_SPAN_ALIGNMENT`].
pub fn aligned_class_of(bytes: usize, alignment: usize) -> Class {
    let stride = bytes.max(alignment).next_power_of_two();
    if stride <= MAX_ALIGNED {
        // The first aligned class is 128 bytes, and each is twice the one before.
        (SHARED + stride.trailing_zeros() as usize - 7) as Class
    } else {
        single_class_of(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn every_size_fits_its_class_with_little_waste() {
        for bytes in 1..=MAX_STRIDE {
            assert!(bytes > MAX_QUICK || quick_class_of(bytes) == class_of(bytes) as usize);
            let of_lines =
                |bytes: usize| quick_scaled_class_of_lines(bytes.next_multiple_of(LINE)) / CLASS_SCALE;
            let whole_lines = bytes.is_multiple_of(LINE) && bytes <= MAX_QUICK_SHARED;
            assert!(!whole_lines || of_lines(bytes) == class_of(bytes) as usize);
            let stride = SHAPES[class_of(bytes) as usize].stride as usize;
            assert!(bytes <= stride, "{bytes} in {stride}");
            assert!(stride <= 32 || stride - bytes < (stride / 4).max(16), "{bytes} in {stride}");
            assert!(!bytes.is_multiple_of(64) || stride.is_multiple_of(64), "{bytes} in {stride}");
        }
    }
    #[test]
    fn aligned_classes_keep_their_promise() {
        for log2 in 7..=16 {
            for bytes in [1, 100, 128, 5000, 16 << 10, 17 << 10, 40 << 10, 65 << 10, 1 << 20] {
                let shape = SHAPES[aligned_class_of(bytes, 1 << log2) as usize];
                assert!(bytes <= shape.stride as usize);
                assert!(shape.capacity == 1 || shape.alignment >= 1 << log2);
                assert!(shape.capacity == 1 || (shape.stride as usize).is_multiple_of(1 << log2));
            }
        }
    }
    #[test]
    fn spans_hold_what_they_say() {
        for shape in SHAPES {
            assert!(shape.capacity as usize * shape.stride as usize <= shape.slices as usize * SLICE);
            assert!(shape.capacity <= 2048);
            assert!(shape.slices as usize * SLICE <= 1 << 20);
        }
    }
}
