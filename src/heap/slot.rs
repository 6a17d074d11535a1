//! The 16-bit slot of a block: what state the block is in, and who may change it.
//!
//! # Protocol
//! The slot alone decides. A magazine's entries and a span's bitmap only say where to look for a block.
//!
//! | value | the block is | who may change it |
//! | --- | --- | --- |
//! | [`FREE`] | in its span, for anyone | whoever holds the heap's lock |
//! | [`ASIDE`] | in quarantine | the quarantine |
//! | a *tag* | in the magazine with that tag | the magazine's thread |
//! | [`LIVE`] + bytes of its room not asked for, or the same [`marked`] | live | its owner, which is any thread |
//!
//! A free on the fast path is a load and a plain store. So two threads that free one block at the same moment may both find
//! it live, and both keep an entry for it. Only a locked instruction or a fence in every free could exclude that (Attiya and
//! others, *Laws of Order*, 2011), and either costs as much as all the rest of a free. The last store decides whose tag the
//! slot holds. Two things follow from this:
//!
//! - At most one of the two entries is good. When the thread with the other entry comes to it, it finds that the slot does
//!   not hold its magazine's tag. It drops the entry and takes back what its free had counted ([`claim`], [`put`]).
//! - A *late free* is one whose thread stood still between its load and its store. Its store may turn any state into the tag
//!   of its magazine. So a span trusts its slots, not its bitmap, when it hands out blocks ([`take`]), and counts as unused
//!   only when all its slots say so.
//!
//! Two cases cannot be helped:
//!
//! - A thread whose free was late, and which allocates next, may be given a block that another thread was given just before.
//!   The same happens after any double free of a block that was handed out again in between.
//! - If every other block of the span was freed while the thread stood still, the span may have ended, and its slots may
//!   belong to blocks of another class. The late store then takes one of those slots, and the thread is given a part of that
//!   block's memory. Look-ups and slow paths notice ([`Span::whole`](super::span::Span::whole), `Heap::has_block`); the fast
//!   path cannot.
//!
//! Slow paths free live blocks by compare-and-swap ([`surrender`]), so two frees there never both succeed. Debug mode has no
//! fast path, so its check is exact. The model at the end of this file tries all interleavings.
use core::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// The block is in its span, for anyone.
pub const FREE: u16 = 0;
/// Debug mode holds the block back (quarantine).
pub const ASIDE: u16 = 1;
const FIRST_TAG: u16 = 2;
/// How many tags there are; all of them lie below [`LEAST_LIVE`]. The number is prime, so magazines of one class share a tag
/// only if one cache was made a multiple of 4093 caches after the other.
const TAGS: usize = 4093;
/// Values of live blocks begin here.
const LEAST_LIVE: u16 = FIRST_TAG + TAGS as u16;
/// This bit is set in the slot of a plain live block. One without it is marked: it has attributes (attributes.rs), is tracked
/// (tracked.rs), or has a guard (guard.rs).
const PLAIN: u16 = 0x8000;
/// A plain live block that fills its room. The slot of any plain live block is this plus the bytes of its room that were not
/// asked for.
pub const LIVE: u16 = PLAIN + LEAST_LIVE;
/// Most bytes of room that a block may have if its slot is to tell how many were asked for.
pub const MAX_ROOM: usize = (u16::MAX - LIVE) as usize;

/// The tag of the magazine with this number.
pub fn tag(number: usize) -> u16 {
    FIRST_TAG + (number % TAGS) as u16
}
/// Whether `value` is that of a live block without a mark.
#[inline(always)]
pub fn is_plainly_live(value: u16) -> bool {
    value & PLAIN != 0
}
/// Whether `value` is that of a live block.
pub fn is_live(value: u16) -> bool {
    value >= LEAST_LIVE
}
/// Whether `value`, of a live block, is marked.
pub fn is_marked(value: u16) -> bool {
    value & PLAIN == 0
}
/// `value`, of a live block, with the mark.
pub fn marked(value: u16) -> u16 {
    value & !PLAIN
}
/// `value`, of a live block, without the mark.
#[inline(always)]
pub fn plain(value: u16) -> u16 {
    value | PLAIN
}

/// A slot: the real one, or the model checker's. It orders no other memory. A block passes from thread to thread through the
/// program's own synchronisation or the heap's lock, and these order it.
pub trait Slot {
    /// Reads the value.
    fn value(&self) -> u16;
    /// Stores a value.
    fn set(&self, value: u16);
    /// Replaces `current` by `new`, atomically. False if the value was something else.
    fn replace(&self, current: u16, new: u16) -> bool;
}
impl Slot for AtomicU16 {
    #[inline(always)]
    fn value(&self) -> u16 {
        self.load(Relaxed)
    }
    #[inline(always)]
    fn set(&self, value: u16) {
        self.store(value, Relaxed);
    }
    fn replace(&self, current: u16, new: u16) -> bool {
        self.compare_exchange(current, new, Relaxed, Relaxed).is_ok()
    }
}

/// Changes the state by a load and a store. Only the one who may change a block in the state `from` calls this. False, with
/// nothing changed, if the block is in another state.
#[inline(always)]
fn change(slot: &impl Slot, from: u16, to: u16) -> bool {
    let is_in_state = slot.value() == from;
    if is_in_state {
        slot.set(to);
    }
    is_in_state
}
/// Makes a block live, for the thread of the magazine with `tag`. False: its entry is to be dropped.
#[inline(always)]
pub fn claim(slot: &impl Slot, tag: u16, live: u16) -> bool {
    change(slot, tag, live)
}
/// Takes a block that a slow path found live, and puts `tag` into its slot: a magazine's tag, or another value that says
/// where the block is now. False: the slot changed meanwhile.
pub fn surrender(slot: &impl Slot, live: u16, tag: u16) -> bool {
    slot.replace(live, tag)
}
/// Returns a block of the magazine with `tag` to its span. False: the entry is to be dropped.
pub fn put(slot: &impl Slot, tag: u16) -> bool {
    change(slot, tag, FREE)
}
/// Moves a block from its span into the magazine with `tag`. False: the block is not in the span.
pub fn take(slot: &impl Slot, tag: u16) -> bool {
    change(slot, FREE, tag)
}

#[cfg(test)]
mod model {
    //! Two threads free one block at the same moment, and both go on to use their magazines. The model checker tries all
    //! interleavings.
    use super::*;
    use core::cell::Cell;
    use core::sync::atomic::AtomicBool;
    use core::sync::atomic::Ordering::{AcqRel, Acquire, SeqCst};
    use loom::sync::atomic::AtomicU16;
    use loom::sync::{Arc, Mutex};

    fn is_tag(value: u16) -> bool {
        (FIRST_TAG..LEAST_LIVE).contains(&value)
    }

    /// The block and its span.
    struct Model {
        slot: AtomicU16,
        /// Whether the span's bitmap has the block.
        marked_free: Mutex<bool>,
        /// Whether the block was released (freed, or found in its span) since it was last given out. This is none of the
        /// checker's atomics: the checker switches threads only at those, so this changes together with the slot.
        released: AtomicBool,
        /// Whether the block was put into its span by an operation that had the right to. Only then does an operation that
        /// finds it there release it.
        put_back: AtomicBool,
    }
    /// The slot as one operation sees it; it keeps `released` up to date.
    ///
    /// The protocol rests on one thing only: all loads and stores of one place have a single order, whatever their memory
    /// ordering. Loom keeps that order for read-modify-writes only, so these stand in for loads and stores.
    struct Watched<'a> {
        model: &'a Model,
        looked: Cell<Option<u16>>,
        /// Whether an operation that finds this value releases the block by what it stores.
        releases: fn(u16) -> bool,
        /// For an operation that gives the block out: what `released` was when the operation looked at the slot.
        gives: Option<Cell<Option<bool>>>,
    }
    impl Watched<'_> {
        fn give_out(&self) {
            if let Some(gives) = self.gives.as_ref().filter(|gives| gives.get().is_none()) {
                gives.set(Some(self.model.released.swap(false, SeqCst)));
            }
        }
    }
    impl Slot for Watched<'_> {
        fn value(&self) -> u16 {
            let value = self.model.slot.fetch_or(0, AcqRel);
            self.looked.set(Some(value));
            self.give_out();
            value
        }
        fn set(&self, value: u16) {
            self.model.slot.swap(value, AcqRel);
            self.give_out();
            if self.looked.get().is_some_and(self.releases) {
                self.model.put_back.fetch_or(value == FREE, SeqCst);
                let found_in_span = self.looked.get() == Some(FREE);
                self.model.released.fetch_or(!found_in_span || self.model.put_back.load(SeqCst), SeqCst);
            }
        }
        fn replace(&self, current: u16, new: u16) -> bool {
            let replaced = self.model.slot.compare_exchange(current, new, AcqRel, Acquire).is_ok();
            self.model.released.fetch_or(replaced, SeqCst);
            replaced
        }
    }
    impl Model {
        fn slot(&self, releases: fn(u16) -> bool) -> Watched<'_> {
            Watched { model: self, looked: Cell::new(None), releases, gives: None }
        }
        /// Claims the block. If several threads are given the block, each must find that it was released since the one
        /// before.
        fn claim(&self, tag: u16) -> bool {
            let slot = Watched { gives: Some(Cell::new(None)), ..self.slot(|_| false) };
            let claimed = claim(&slot, tag, LIVE);
            let released = slot.gives.and_then(Cell::into_inner).unwrap_or(false);
            if claimed {
                assert!(released, "given out twice with no free between");
            } else {
                self.released.fetch_or(released, SeqCst);
            }
            claimed
        }
    }
    /// A thread with its magazine, and what it has counted.
    struct Thread {
        model: Arc<Model>,
        tag: u16,
        entries: usize,
        /// Frees accepted, and how many of these were refused later.
        frees: isize,
        refused: isize,
        /// Times that it was given the block.
        given: isize,
    }
    impl Thread {
        fn new(model: &Arc<Model>, number: usize) -> Thread {
            Thread { model: model.clone(), tag: tag(number), entries: 0, frees: 0, refused: 0, given: 0 }
        }
        /// Frees as fast.rs does.
        fn free(&mut self) {
            let slot = self.model.slot(is_live);
            if is_plainly_live(slot.value()) {
                self.entries += 1;
                slot.set(self.tag);
                self.frees += 1;
            }
        }
        fn free_slow(&mut self) {
            let slot = self.model.slot(is_live);
            let value = slot.value();
            if is_plainly_live(value) && surrender(&slot, value, self.tag) {
                self.entries += 1;
                self.frees += 1;
            }
        }
        fn allocate(&mut self) {
            while self.entries > 0 {
                self.entries -= 1;
                if self.model.claim(self.tag) {
                    self.given += 1;
                    return;
                }
                self.refused += 1;
            }
        }
        fn put_back(&mut self) {
            while self.entries > 0 {
                self.entries -= 1;
                let mut marked_free = self.model.marked_free.lock().unwrap();
                match put(&self.model.slot(is_tag), self.tag) {
                    true if *marked_free => self.refused += 1,
                    true => *marked_free = true,
                    false => self.refused += 1,
                }
            }
        }
        fn take_from_span(&mut self) {
            let mut marked_free = self.model.marked_free.lock().unwrap();
            if core::mem::take(&mut *marked_free) {
                match take(&self.model.slot(|value| value == FREE), self.tag) {
                    true => self.entries += 1,
                    false => self.refused += 1,
                }
            }
        }
    }

    /// Lets two threads do what they do to a block that was allocated once, and looks at what they have come to.
    /// `exact`: no free is accepted and refused later.
    fn explore(one: fn(&mut Thread), other: fn(&mut Thread), exact: bool) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || {
            let model = Arc::new(Model {
                slot: AtomicU16::new(LIVE),
                marked_free: Mutex::new(false),
                released: AtomicBool::new(false),
                put_back: AtomicBool::new(false),
            });
            let (mut first, mut second) = (Thread::new(&model, 0), Thread::new(&model, 1));
            let beside = loom::thread::spawn(move || {
                one(&mut first);
                first
            });
            other(&mut second);
            let mut first = beside.join().unwrap();
            first.put_back();
            second.put_back();
            first.take_from_span();
            first.put_back();
            let refused = first.refused + second.refused;
            assert!(!exact || refused == 0, "both frees were accepted");
            let (frees, given) = (first.frees + second.frees - refused, first.given + second.given);
            let live = is_live(model.slot.load(Acquire));
            let in_span = *model.marked_free.lock().unwrap();
            assert!(live != in_span, "live {live}, in its span {in_span}");
            assert_eq!(
                1 + given - frees,
                isize::from(live),
                "given out {given} times more, freed {frees} times"
            );
        });
    }

    #[test]
    fn frees_at_the_same_moment_count_once_and_give_one_block() {
        explore(Thread::free, Thread::free, false);
    }
    #[test]
    fn both_threads_may_allocate_at_once() {
        let free_and_allocate = |thread: &mut Thread| {
            thread.free();
            thread.allocate();
        };
        explore(free_and_allocate, free_and_allocate, false);
    }
    #[test]
    fn the_span_may_take_it_back_and_hand_it_out() {
        explore(
            |late| {
                late.free();
                late.allocate();
            },
            |other| {
                other.free();
                other.put_back();
                other.take_from_span();
                other.allocate();
            },
            false,
        );
    }
    #[test]
    fn of_two_slow_frees_one_succeeds() {
        explore(Thread::free_slow, Thread::free_slow, true);
    }
}
