//! How the page map's leaves come to be, and what they lead to, without a lock.
//!
//! # Protocol
//! | word | changes | by |
//! | --- | --- | --- |
//! | a root | once, from null to a leaf that is complete | whoever finds it null, by compare-and-swap |
//! | [`First::claimed_by`] | once, from 0 to 1 + the index of a root | whoever finds it 0, by compare-and-swap |
//! | [`First::start`] | once, to where that root's range begins | all who find that root's number there |
//! | an entry of a leaf | to a span's record that is complete, or to null | whoever has the memory it stands for |
//!
//! Roots and entries are pointers that are released when what they lead to is complete, and acquired. The start is only a
//! hint, and is not ordered with anything. Who does not see it yet takes the lowest addresses for those of the first leaf, and
//! so finds nothing there or a span that does not have the address; a quick free asks the span in any case, and leaves the rest
//! to slow paths, which look up all addresses through their roots.
//!
//! The model at the end of this file tries all interleavings.
use crate::os::atomic::Atomic;
use core::sync::atomic::{AtomicUsize, Ordering::*};

/// What an entry leads to, or null.
#[inline(always)]
pub fn found<P: Atomic>(entry: &P) -> P::Value {
    entry.load(Acquire)
}
/// Makes an entry lead to what is complete now, or to null.
pub fn enter<P: Atomic>(entry: &P, span: P::Value) {
    entry.store(span, Release);
}

/// Which range of the address space the first leaf stands for. That leaf is static, so a look-up there needs no pointer to it.
/// Zero bytes: none yet.
pub struct First<A = AtomicUsize> {
    start: A,
    claimed_by: A,
}
impl First {
    /// No range yet.
    pub const fn new() -> First {
        First { start: AtomicUsize::new(0), claimed_by: AtomicUsize::new(0) }
    }
}
impl<A: Atomic<Value = usize>> First<A> {
    /// Where `address` lies in the first leaf's range. An answer below the range's length can be wrong, see the head of this
    /// file.
    #[inline(always)]
    pub fn offset_of(&self, address: usize) -> usize {
        address.wrapping_sub(self.start.load(Relaxed))
    }
    /// Whether the first leaf is the one for the root with this index, whose range begins at `start`.
    fn serves(&self, index: usize, start: usize) -> bool {
        let serves = match self.claimed_by.compare_exchange(0, index + 1, Relaxed, Relaxed) {
            Ok(_) => true,
            Err(other) => other == index + 1,
        };
        if serves {
            self.start.store(start, Relaxed);
        }
        serves
    }
    /// Makes sure that the root with this index, whose range begins at `start`, leads to a leaf: the first, or one that `make`
    /// makes. That is given to `drop` if another thread was faster. False if there is none.
    pub fn make_ready<P: Atomic>(
        &self,
        root: &P,
        [null, first_leaf]: [P::Value; 2],
        [index, start]: [usize; 2],
        make: impl FnOnce() -> Option<P::Value>,
        drop: impl FnOnce(P::Value),
    ) -> bool {
        let publish = |leaf| root.compare_exchange(null, leaf, Release, Relaxed).is_ok();
        if found(root) != null {
            return true;
        }
        if self.serves(index, start) {
            publish(first_leaf);
            return true;
        }
        let Some(fresh) = make() else { return false };
        if !publish(fresh) {
            drop(fresh); // nobody else has seen it
        }
        true
    }
}

#[cfg(test)]
mod model {
    //! A map of three ranges of one slice each; an address is the number of its range.
    use super::*;
    use core::ptr::null_mut;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicPtr, AtomicUsize};

    /// A span's record. The checker complains of whoever reads it before it is complete.
    struct Span(UnsafeCell<usize>);
    /// A leaf, with the same care.
    struct Leaf {
        is_made: UnsafeCell<bool>,
        entry: AtomicPtr<Span>,
    }
    impl Leaf {
        fn new(is_made: bool) -> Leaf {
            Leaf { is_made: UnsafeCell::new(is_made), entry: AtomicPtr::new(null_mut()) }
        }
    }
    struct Map {
        first: First<AtomicUsize>,
        first_leaf: Leaf,
        roots: [AtomicPtr<Leaf>; 3],
        /// A leaf and a span for each thread to make.
        leaves: [Leaf; 2],
        spans: [Span; 2],
    }
    fn pointer<T>(to: &T) -> *mut T {
        core::ptr::from_ref(to).cast_mut()
    }
    impl Map {
        fn new() -> Map {
            Map {
                first: First { start: AtomicUsize::new(0), claimed_by: AtomicUsize::new(0) },
                first_leaf: Leaf::new(true),
                roots: [0; 3].map(|_| AtomicPtr::new(null_mut())),
                leaves: [0; 2].map(|_| Leaf::new(false)),
                spans: [0; 2].map(|_| Span(UnsafeCell::new(usize::MAX))),
            }
        }
        fn make_ready(&self, thread: usize, address: usize) {
            let leaf = &self.leaves[thread];
            let make = || {
                // SAFETY: nobody else has this leaf yet.
                leaf.is_made.with_mut(|made| unsafe { *made = true });
                Some(pointer(leaf))
            };
            let leaves = [null_mut(), pointer(&self.first_leaf)];
            assert!(self.first.make_ready(&self.roots[address], leaves, [address; 2], make, |_| ()));
        }
        /// Enters the thread's span at `address`.
        fn insert(&self, thread: usize, address: usize) {
            self.make_ready(thread, address);
            let span = &self.spans[thread];
            // SAFETY: nobody else has this span yet.
            span.0.with_mut(|at| unsafe { *at = address });
            enter(&self.leaf(address).expect("made ready").entry, pointer(span));
        }
        fn leaf(&self, address: usize) -> Option<&Leaf> {
            // SAFETY: a root is null or leads to a leaf of this map.
            let leaf = unsafe { found(&self.roots[address]).as_ref() }?;
            // SAFETY: the checker sees to it that nobody writes meanwhile.
            assert!(leaf.is_made.with(|made| unsafe { *made }));
            Some(leaf)
        }
        /// Looks an address up as a quick free does. Whether a span with that address was found.
        fn look_up_quickly(&self, address: usize) -> bool {
            match self.first.offset_of(address) {
                0 => Map::has(Some(&self.first_leaf), address),
                _ => self.look_up(address),
            }
        }
        /// Looks an address up as slow paths do.
        fn look_up(&self, address: usize) -> bool {
            Map::has(self.leaf(address), address)
        }
        fn has(leaf: Option<&Leaf>, address: usize) -> bool {
            // SAFETY: an entry is null or leads to a span of this map.
            let span = leaf.and_then(|leaf| unsafe { found(&leaf.entry).as_ref() });
            // SAFETY: the checker sees to it that nobody writes meanwhile.
            span.is_some_and(|span| span.0.with(|at| unsafe { *at }) == address)
        }
    }

    /// Two threads enter spans at these addresses, while a third looks them up.
    fn explore(addresses: [usize; 2]) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || {
            let map = Arc::new(Map::new());
            let beside = [0, 1].map(|thread| {
                let map = map.clone();
                loom::thread::spawn(move || {
                    map.insert(thread, addresses[thread]);
                    assert!(map.look_up(addresses[thread]), "a thread finds what it has entered");
                })
            });
            addresses.iter().for_each(|&address| _ = map.look_up_quickly(address));
            beside.into_iter().for_each(|thread| thread.join().unwrap());
            addresses.iter().for_each(|&address| assert!(map.look_up_quickly(address), "{address} is lost"));
        });
    }
    #[test]
    fn one_of_two_ranges_has_the_first_leaf_and_both_are_found() {
        explore([1, 2]);
    }
    /// Addresses that look as if they were in the first leaf's range while it has none.
    #[test]
    fn the_lowest_range_may_have_the_first_leaf() {
        explore([0, 1]);
    }
    #[test]
    fn two_threads_make_one_leaf_ready() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        for first_is_taken in [false, true] {
            builder.check(move || {
                let map = Arc::new(Map::new());
                if first_is_taken {
                    map.first.serves(0, 0);
                }
                let other = map.clone();
                let beside = loom::thread::spawn(move || {
                    other.make_ready(0, 1);
                    pointer(other.leaf(1).expect("made ready")) as usize
                });
                map.make_ready(1, 1);
                let leaf = pointer(map.leaf(1).expect("made ready")) as usize;
                assert_eq!(beside.join().unwrap(), leaf, "the leaf was replaced");
                assert_eq!(leaf == pointer(&map.first_leaf) as usize, !first_is_taken);
            });
        }
    }
}
