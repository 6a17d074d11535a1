//! What a few blocks carry beyond their size: further owners, the layout of a tensor, and whether their allocation was
//! recorded.
//!
//! A block with attributes has a marked slot, which sends its free down the slow path; no other block ever comes here. Tracked
//! and guarded blocks are marked too (tracked.rs, guarded.rs), so a marked block need not be in this table. The table is sharded
//! by address and lies in the library's own records.
use super::span::Span;
use super::tracking_table::give_room_back;
use super::{page_map, slot, tracked};
use crate::error::{Result, fail};
use crate::os::lock::{Mutex, MutexGuard};
use crate::os::{fork::AtFork, records::Records};
use crate::recording;
use allocator_api2::boxed::Box;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// Most dimensions of a layout.
pub const MAX_DIMENSIONS: usize = 64;

/// Dimensions and strides of a tensor, in elements, row-major.
pub struct Layout {
    /// Bytes of an element.
    pub element_size: usize,
    /// Number of dimensions.
    pub rank: usize,
    /// `rank` extents, then `rank` strides.
    pub extents: Box<[usize], Records>,
}
impl Layout {
    fn bytes(&self) -> usize {
        self.extents[..self.rank].iter().product::<usize>() * self.element_size
    }
}

#[derive(Default)]
struct Attributes {
    /// Number of owners beyond the first.
    further_owners: usize,
    /// Whether its allocation was recorded (recorded.rs).
    sampled: bool,
    layout: Option<Layout>,
}
impl Attributes {
    /// Takes off what others count of the block at `start`, which goes, moves or is resized.
    fn leave(&mut self, start: usize) {
        self.set_layout(None);
        if core::mem::take(&mut self.sampled) {
            recording::freed(start);
        }
    }
    fn set_layout(&mut self, layout: Option<Layout>) {
        let bytes = |layout: &Option<Layout>| layout.as_ref().map_or(0, Layout::bytes);
        TENSOR_BYTES.fetch_add(bytes(&layout).wrapping_sub(bytes(&self.layout)), Relaxed);
        self.layout = layout;
    }
}
/// Bytes of all tensors with a layout.
static TENSOR_BYTES: AtomicUsize = AtomicUsize::new(0);
/// Live bytes of tensors in all heaps.
pub fn tensor_bytes() -> usize {
    TENSOR_BYTES.load(Relaxed)
}
/// cbindgen:ignore
type Shard = HashMap<usize, Attributes, FixedState, Records>;
const SHARDS: usize = 16;
static TABLE: [Mutex<Shard>; SHARDS] =
    [const { Mutex::new(HashMap::with_hasher_in(FixedState::with_seed(0), Records)) }; SHARDS];

fn shard(pointer: *const u8) -> MutexGuard<'static, Shard> {
    TABLE[(pointer as usize >> 6 ^ pointer as usize >> 16) % SHARDS].lock()
}
/// See load.rs.
pub(crate) static HOOKS: &dyn AtFork = &TABLE;

fn live_slot(pointer: *const u8) -> Option<(&'static Span, usize)> {
    let span = page_map::span_of(pointer as usize)?;
    span.whole(|| {
        let index = span.index_of(pointer as usize)?;
        slot::is_live(span.value(index)).then_some((span, index))
    })
}
/// Whether the block at `pointer` is live and marked.
pub fn is_marked(pointer: *const u8) -> bool {
    live_slot(pointer).is_some_and(|(span, index)| slot::is_marked(span.value(index)))
}

/// Runs `f` on the attributes of the live block at `pointer`; they are made if there are none. Errors: NotOwned,
/// OutOfMemory.
fn with<R>(pointer: *const u8, f: impl FnOnce(&mut Attributes) -> R) -> Result<R> {
    let Some((span, index)) = live_slot(pointer) else {
        return fail!(NotOwned, "{pointer:p} is not a live block");
    };
    let mut shard = shard(pointer);
    if shard.try_reserve(1).is_err() {
        return fail!(OutOfMemory, "no memory for the attributes of {pointer:p}");
    }
    if !mark_slot(span, index, pointer)? {
        // If there are attributes they are an earlier block's, which another thread freed just when it was given them.
        remove(&mut shard, pointer);
    }
    Ok(f(shard.entry(pointer as usize).or_default()))
}
/// Marks the slot of a live block. Returns whether it was marked before.
fn mark_slot(span: &'static Span, index: usize, pointer: *const u8) -> Result<bool> {
    let marked = |value| slot::is_live(value).then(|| slot::marked(value));
    let place = span.slot_to_change(index);
    let before = place.fetch_update(Relaxed, Relaxed, marked);
    let is_same = live_slot(pointer).is_some_and(|(found, at)| core::ptr::eq(found, span) && at == index);
    match before {
        Ok(before) if is_same => Ok(slot::is_marked(before)),
        before => {
            // The span has ended since it was found, and the slot belongs to another block. It gets its value back.
            before.into_iter().for_each(|before| _ = slot::surrender(place, slot::marked(before), before));
            fail!(NotOwned, "the block was freed at the same moment")
        }
    }
}
/// Marks the live block at `pointer`, so that its free takes the path that ends its tracking and its guard. Error:
/// NotOwned.
pub fn mark(pointer: *const u8) -> Result<()> {
    match live_slot(pointer) {
        Some((span, index)) => mark_slot(span, index, pointer).map(|_| ()),
        None => fail!(NotOwned, "{pointer:p} is not a live block"),
    }
}

/// Adds an owner to the live block at `pointer`.
pub fn retain(pointer: *const u8) -> Result<()> {
    with(pointer, |attributes| attributes.further_owners += 1)
}
/// Number of owners of the live block at `pointer`; 0 if there is no such block.
pub fn references(pointer: *const u8) -> usize {
    match live_slot(pointer) {
        None => 0,
        Some(_) => 1 + shard(pointer).get(&(pointer as usize)).map_or(0, |a| a.further_owners),
    }
}
/// Takes an owner off. True if it was the last: then the attributes are gone, and the caller has to free the block.
pub fn give_up(pointer: *const u8) -> bool {
    let mut shard = shard(pointer);
    match shard.get_mut(&(pointer as usize)) {
        Some(attributes) if attributes.further_owners > 0 => {
            attributes.further_owners -= 1;
            false
        }
        _ => {
            remove(&mut shard, pointer);
            drop(shard);
            tracked::ended(pointer as usize);
            true
        }
    }
}
/// Drops the attributes of a block that ends with its heap.
pub fn forget(pointer: *const u8) {
    remove(&mut shard(pointer), pointer);
    tracked::ended(pointer as usize);
}
fn remove(shard: &mut Shard, pointer: *const u8) -> Option<Attributes> {
    let mut removed = shard.remove(&(pointer as usize))?;
    give_room_back(shard);
    removed.leave(pointer as usize);
    Some(removed)
}
/// Follows a reallocation to `size` bytes, which has perhaps moved the block. Its owners go along; its layout and its record
/// as a sampled allocation end. The block still has its old place, which cannot be another's yet.
pub fn rename(from: *const u8, to: *const u8, size: usize) {
    if from == to {
        tracked::moved(from as usize, to as usize, size);
        // Changed in place, so that the entry is never missing: another owner may give up at the same moment.
        if let Some(attributes) = shard(from).get_mut(&(from as usize)) {
            attributes.leave(from as usize);
        }
        return;
    }
    begin_relocation(from).finish(to, size);
}

/// What a block carries while it moves. Its old address may become another block's before its new address is known. So the
/// tracked places of the old address are taken out first, and its shard stays locked until one of the functions below is
/// called: until then the next block at that address cannot be given attributes.
pub struct Relocation {
    from: *const u8,
    shard: MutexGuard<'static, Shard>,
    tracked: tracked::Relocation,
}
/// Begins to move the block at `from`. The caller may hold a heap's lock.
pub fn begin_relocation(from: *const u8) -> Relocation {
    Relocation { from, shard: shard(from), tracked: tracked::begin_relocation(from as usize) }
}
impl Relocation {
    /// Ends the move: the block is at `to`, another place, and has `size` bytes.
    pub fn finish(mut self, to: *const u8, size: usize) {
        let removed = remove(&mut self.shard, self.from);
        // Released before the other shard is locked, which may be the same one.
        drop(self.shard);
        if let Some(attributes) = removed {
            // If this fails the block has no attributes, and so one owner.
            let _ = with(to, |new| *new = Attributes { sampled: new.sampled, ..attributes });
        }
        if self.tracked.finish(to as usize, size) {
            mark(to).expect("the block is live");
        }
    }
    /// Ends the move: the block has stayed where it was.
    pub fn cancel(self) {
        self.tracked.cancel();
    }
}
/// Notes the layout of the live block at `pointer`.
pub fn set_layout(pointer: *const u8, layout: Layout) -> Result<()> {
    with(pointer, |attributes| attributes.set_layout(Some(layout)))
}
/// Notes that the allocation of the live block at `pointer` was recorded, so that its free will be too.
pub fn set_sampled(pointer: *const u8) -> Result<()> {
    with(pointer, |attributes| attributes.sampled = true)
}
/// Runs `f` on the layout of the live block at `pointer`. None if it has none.
pub fn with_layout<R>(pointer: *const u8, f: impl FnOnce(&Layout) -> R) -> Option<R> {
    live_slot(pointer)?;
    shard(pointer).get(&(pointer as usize))?.layout.as_ref().map(f)
}
