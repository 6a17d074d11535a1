//! Guard bytes behind blocks: a pattern that a program destroys when it writes beyond its block.
use super::Block;
use super::tracking_table::TrackingTable;
use core::ptr::NonNull;

/// Bytes of a guard.
pub const GUARD: usize = 16;

/// The blocks of memory systems that have a guard, each with the size behind which the guard lies. Not all such
/// blocks have one. They are marked (attributes.rs), so whatever call frees or reallocates them takes them out
/// of this table.
pub static GUARDED: TrackingTable = TrackingTable::new();

/// The pattern differs from byte to byte and from block to block, so that no fill pattern of a program looks
/// like it.
fn pattern(start: usize) -> [u8; GUARD] {
    let mixed = (start as u64 ^ 0x5AFE_6A2D_B10C_0DD5).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut bytes = [0; GUARD];
    bytes[..8].copy_from_slice(&mixed.to_le_bytes());
    bytes[8..].copy_from_slice(&mixed.rotate_left(29).to_be_bytes());
    bytes
}

/// Writes the guard behind a block's `size` bytes.
///
/// # Safety
/// `block` belongs to the caller and has at least `size + GUARD` bytes.
pub unsafe fn write(block: NonNull<u8>, size: usize) {
    // SAFETY: by the caller's promise.
    unsafe { block.add(size).cast::<[u8; GUARD]>().write_unaligned(pattern(block.as_ptr() as usize)) };
}

/// Zeroes a block's `size` bytes and writes the guard behind them.
///
/// # Safety
/// `block` belongs to the caller and has at least `size + GUARD` bytes.
pub unsafe fn prepare(block: NonNull<u8>, size: usize) {
    // SAFETY: by the caller's promise.
    unsafe {
        block.write_bytes(0, size);
        write(block, size);
    }
}

/// Position of the first byte that was overwritten in the guard behind a live block.
///
/// # Safety
/// As for [`is_whole`].
pub unsafe fn first_damage(block: &Block) -> Option<usize> {
    // SAFETY: by the caller's promise.
    let found = unsafe { read(block) };
    found.iter().zip(pattern(block.start)).position(|(&found, written)| found != written)
}

/// Whether the guard that was written behind a live block is undamaged.
///
/// # Safety
/// `block` is live, and [`write`] or [`prepare`] was called for it with its size.
pub unsafe fn is_whole(block: &Block) -> bool {
    // SAFETY: by the caller's promise.
    unsafe { first_damage(block) }.is_none()
}
unsafe fn read(block: &Block) -> [u8; GUARD] {
    debug_assert!(block.capacity - block.size >= GUARD);
    // SAFETY: `write` wrote the guard there, within the block's capacity.
    unsafe { ((block.start + block.size) as *const [u8; GUARD]).read_unaligned() }
}
