//! Memory for packed blocks.
//!
//! All of a block is read over and over while it should stay in the second-level cache. On small pages that depends on where
//! the system put them: their addresses meet in the same sets of the cache by chance, and each page has to be looked up.
//! A huge page spares both (4 to 29 % of a product, as the small pages happened to lie).
use super::Complex;
use crate::os::map;
use core::ptr::NonNull;
use std::alloc::{self, Layout};

/// Bytes of a cache line, with which every buffer begins.
const LINE: usize = 64;
/// Buffers of more bytes are whole huge pages; products that need less are over before one is cleared.
const SMALL: usize = 128 << 10;

/// PackBuffer for elements; what it holds is lost when it grows.
#[derive(Default)]
pub struct PackBuffer {
    memory: Option<(NonNull<u8>, Layout)>,
}
// SAFETY: it owns its memory.
unsafe impl Send for PackBuffer {}

impl PackBuffer {
    /// Where it starts, from the last call of `reserve` on.
    pub fn start(&self) -> *mut Complex {
        self.memory.map_or(NonNull::dangling(), |(start, _)| start.cast()).as_ptr()
    }
    /// Makes it large enough for so many elements.
    pub fn reserve(&mut self, elements: usize) {
        let bytes = elements * size_of::<Complex>();
        if self.memory.is_some_and(|(_, layout)| bytes <= layout.size()) {
            return;
        }
        self.release();
        let unit = if bytes > SMALL { map::HUGE_PAGE } else { LINE };
        let layout = Layout::from_size_align(bytes.max(1), unit).map(|layout| layout.pad_to_align());
        let layout = layout.expect("a block is far smaller than the address space");
        // SAFETY: the size is not 0.
        let start = unsafe { alloc::alloc(layout) };
        let Some(start) = NonNull::new(start) else { alloc::handle_alloc_error(layout) };
        if unit == map::HUGE_PAGE {
            map::advise_huge(start.as_ptr().addr(), layout.size());
        }
        self.memory = Some((start, layout));
    }
    fn release(&mut self) {
        if let Some((start, layout)) = self.memory.take() {
            // SAFETY: allocated above with this layout.
            unsafe { alloc::dealloc(start.as_ptr(), layout) };
        }
    }
}
impl Drop for PackBuffer {
    fn drop(&mut self) {
        self.release();
    }
}
