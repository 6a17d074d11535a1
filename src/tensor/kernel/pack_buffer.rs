//! Memory for packed blocks.
//!
//! A packed block is read over and over, and should stay in the second-level cache. On small pages that depends on where the
//! system put them: by chance, several of them need the same sets of the cache. Each small page has to be looked up, too.
//! The two cost 4 to 29 % of a product's time, depending on where the pages lie. A huge page avoids both.
use super::Complex;
use crate::os::map;
use core::ptr::NonNull;
use std::alloc::{self, Layout};

/// Bytes of a cache line. Every buffer begins with a whole one.
const LINE: usize = 64;
/// Buffers with more bytes than this are whole huge pages. A product that needs less is over before a huge page is cleared.
const SMALL: usize = 128 << 10;

/// A buffer for packed elements. Its contents are lost when it grows.
#[derive(Default)]
pub struct PackBuffer {
    memory: Option<(NonNull<u8>, Layout)>,
}
// SAFETY: the buffer owns its memory, which any thread may use and free.
unsafe impl Send for PackBuffer {}

impl PackBuffer {
    /// Where the buffer starts. It stays there until the next call of `reserve`.
    pub fn start(&self) -> *mut Complex {
        self.memory.map_or(NonNull::dangling(), |(start, _)| start.cast()).as_ptr()
    }
    /// Makes the buffer large enough for so many elements.
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
            // SAFETY: `reserve` allocated the memory with this layout, and `take` lets nobody free it again.
            unsafe { alloc::dealloc(start.as_ptr(), layout) };
        }
    }
}
impl Drop for PackBuffer {
    fn drop(&mut self) {
        self.release();
    }
}
