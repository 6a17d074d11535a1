//! Looking blocks up: which block is at an address, and which blocks are live.
use super::central::requested_size;
use super::size_class::SHAPES;
use super::span::Span;
use super::*;
use crate::error::fail;
use crate::os::records::{self, Records};
use allocator_api2::vec::Vec;

impl Heap {
    /// Finds the live block at `pointer`: its span, index and slot value. Errors: NotOwned, DoubleFree.
    pub(super) fn find(&self, pointer: *const u8) -> Result<(&'static Span, usize, u16)> {
        let address = pointer as usize;
        let Some(span) = page_map::span_of(address) else {
            if freed::lately(address) {
                return fail!(DoubleFree, "{pointer:p} is not live: freed before");
            }
            return fail!(NotOwned, "{pointer:p} is not memory of libunimem");
        };
        let found = span.whole(|| {
            let index = span.index_of(address);
            Some((span.heap(), index, index.map_or(slot::FREE, |index| span.value(index))))
        });
        let Some((heap, index, value)) = found else {
            return fail!(DoubleFree, "{pointer:p} is not live: freed by another thread at the same moment");
        };
        if heap.is_none_or(|heap| !core::ptr::eq(heap, self)) {
            return fail!(NotOwned, "{pointer:p} belongs to another pool, system or instance");
        }
        let Some(index) = index else {
            return fail!(NotOwned, "{pointer:p} is not the start of a block");
        };
        if !slot::is_live(value) {
            return fail!(DoubleFree, "{pointer:p} is not live: freed before, or never handed out");
        }
        Ok((span, index, value))
    }

    /// Runs `f` with the live block of this heap that starts at `pointer`, under the lock: nobody frees or resizes it meanwhile.
    pub(super) fn with_live<R>(&self, pointer: *const u8, f: impl FnOnce(Block) -> R) -> Option<R> {
        let span = page_map::span_of(pointer as usize)?;
        let _central = self.central.lock();
        let index = span.index_of(pointer as usize)?;
        if !self.has_block(span, index, pointer) {
            return None;
        }
        let value = span.value(index);
        slot::is_live(value).then(|| f(self.describe(span, pointer as usize, value)))
    }

    /// The live block of this heap that starts at `pointer`.
    pub fn block(&self, pointer: *const u8) -> Option<Block> {
        owner(pointer).filter(|(heap, _)| core::ptr::eq(*heap, self)).map(|(_, block)| block)
    }

    /// Whether `span` is still this heap's, and its block `index` begins at `pointer`. It may have ended since it was found,
    /// and its record may be another one's, of the other kind. The caller holds the heap's lock, which keeps the answer true.
    pub(super) fn has_block(&self, span: &'static Span, index: usize, pointer: *const u8) -> bool {
        page_map::span_of(pointer as usize).is_some_and(|found| core::ptr::eq(found, span))
            && span.heap().is_some_and(|heap| core::ptr::eq(heap, self))
            && span.index_of(pointer as usize) == Some(index)
    }
    /// The same for a block of a class.
    pub(super) fn has_block_of_class(&self, span: &'static Span, index: usize, pointer: *const u8) -> bool {
        !span.is_large() && self.has_block(span, index, pointer)
    }
    /// The same for a block that is a mapping of its own, which is live.
    pub(super) fn has_live_mapping(&self, span: &'static Span, pointer: *const u8) -> bool {
        span.is_large() && self.has_block(span, 0, pointer) && slot::is_live(span.large_slot.load(Relaxed))
    }

    pub(super) fn describe(&self, span: &Span, start: usize, value: u16) -> Block {
        let (size, capacity) = if span.is_large() {
            (span.large_size.load(Relaxed), span.large_capacity.load(Relaxed))
        } else {
            let shape = &SHAPES[span.class() as usize];
            (requested_size(span, value), shape.stride as usize - self.prefix())
        };
        Block { start, size, capacity, alignment: 1 << span.alignment_log2.load(Relaxed) }
    }

    /// Adds the live blocks to a list as far as there is memory for it, and returns how many there are. The list consists of
    /// records, as malloc may be one of our heaps: its locks and the registry's may not be taken under the lock held here.
    pub fn list_live(&self, blocks: &mut Vec<Block, Records>) -> usize {
        let mut count = 0;
        self.for_each_live(&mut |block| {
            count += 1;
            records::push(blocks, block);
        });
        count
    }
    /// Calls `each`, which may allocate only records, with every live block. May miss blocks allocated or freed meanwhile.
    pub fn for_each_live(&self, each: &mut dyn FnMut(Block)) {
        let central = self.central.lock();
        central.for_each_live(&mut |span, start, value| each(self.describe(span, start, value)));
    }
}
