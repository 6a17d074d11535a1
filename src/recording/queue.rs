//! Events on their way to the file: a bounded queue. Any thread may add to it without waiting, even in a signal
//! handler. One thread at a time takes from it.
//!
//! Each cell has a turn, which says whose the cell is:
//!
//! - While the cell is free, its turn is a multiple of `N`: the ticket that may fill the cell next, rounded down to
//!   one.
//! - While the cell is full, its turn is one more.
//! - A thread that adds takes a ticket by advancing `tail`. It fills the ticket's cell and then advances the turn,
//!   which hands the cell to the reader.
//! - The reader empties the cell and advances the turn to the next lap, which hands the cell to the next ticket.
//!
//! So a cell belongs to one side at any time. An empty queue is all zeros. The model at the end of this file tries all
//! interleavings.
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicUsize, Ordering, Ordering::*};

/// An atomic number. Implemented by the real one and by the model checker's.
pub trait Number {
    /// As atomics do.
    fn load(&self, order: Ordering) -> usize;
    /// As atomics do.
    fn store(&self, value: usize, order: Ordering);
    /// As atomics do.
    fn swap(&self, value: usize, order: Ordering) -> usize;
    /// Increments the number if it is `current`, without ordering other memory. Otherwise, or spuriously, fails with
    /// the number.
    fn advance(&self, current: usize) -> Result<usize, usize>;
    /// Increments the number, without ordering other memory.
    fn count(&self);
}
macro_rules! number {
    ($atomic:ty) => {
        impl Number for $atomic {
            fn load(&self, order: Ordering) -> usize {
                self.load(order)
            }
            fn store(&self, value: usize, order: Ordering) {
                self.store(value, order);
            }
            fn swap(&self, value: usize, order: Ordering) -> usize {
                self.swap(value, order)
            }
            fn advance(&self, current: usize) -> Result<usize, usize> {
                self.compare_exchange_weak(current, current.wrapping_add(1), Relaxed, Relaxed)
            }
            fn count(&self) {
                self.fetch_add(1, Relaxed);
            }
        }
    };
}
number!(AtomicUsize);

/// The place of a value. Implemented by the real one and by the model checker's, which finds two threads that touch it
/// at once.
pub trait Place<T> {
    /// Moves a value in.
    ///
    /// # Safety
    /// Nobody else touches the place meanwhile.
    unsafe fn write(&self, value: T);
    /// Copies the value out.
    ///
    /// # Safety
    /// The place has a value, and nobody else touches it meanwhile.
    unsafe fn read(&self) -> T;
}
impl<T: Copy> Place<T> for UnsafeCell<MaybeUninit<T>> {
    unsafe fn write(&self, value: T) {
        // SAFETY: the caller promises that nobody else touches the place.
        unsafe { (*self.get()).write(value) };
    }
    unsafe fn read(&self) -> T {
        // SAFETY: the caller promises that there is a value, and that nobody else touches the place.
        unsafe { (*self.get()).assume_init_read() }
    }
}

struct Cell<A, P> {
    turn: A,
    value: P,
}

/// A queue of at most `N` events, a power of two.
pub struct Queue<T, const N: usize, A = AtomicUsize, P = UnsafeCell<MaybeUninit<T>>> {
    cells: [Cell<A, P>; N],
    /// How many tickets were given out.
    tail: A,
    /// How many cells were emptied.
    head: A,
    /// How many events found the queue full, since this was last asked.
    lost: A,
    values: PhantomData<T>,
}
// SAFETY: one thread moves a value in and another copies it out. The turn of the cell orders the two.
unsafe impl<T: Copy + Send, const N: usize, A: Number + Sync, P: Place<T>> Sync for Queue<T, N, A, P> {}

impl<T: Copy + Send, const N: usize> Queue<T, N> {
    /// An empty queue.
    pub const fn new() -> Queue<T, N> {
        assert!(N.is_power_of_two() && N > 1);
        Queue {
            cells: [const { Cell { turn: AtomicUsize::new(0), value: UnsafeCell::new(MaybeUninit::uninit()) } };
                N],
            tail: AtomicUsize::new(0),
            head: AtomicUsize::new(0),
            lost: AtomicUsize::new(0),
            values: PhantomData,
        }
    }
}
impl<T: Copy + Send, const N: usize, A: Number, P: Place<T>> Queue<T, N, A, P> {
    /// Adds a value. If the queue is full, the value is lost, and counted.
    pub fn push(&self, value: T) {
        let mut ticket = self.tail.load(Relaxed);
        loop {
            let cell = &self.cells[ticket % N];
            let lap = ticket & !(N - 1);
            match cell.turn.load(Acquire).wrapping_sub(lap) as isize {
                0 => {
                    match self.tail.advance(ticket) {
                        Ok(_) => {
                            // SAFETY: the cell has the turn of this ticket, which no other thread has.
                            unsafe { cell.value.write(value) };
                            cell.turn.store(lap + 1, Release);
                            return;
                        }
                        Err(now) => ticket = now,
                    }
                }
                behind if behind < 0 => {
                    self.lost.count();
                    return;
                }
                _ => ticket = self.tail.load(Relaxed),
            }
        }
    }
    /// Takes the oldest value. `None` if there is none, or if its cell is still being filled.
    ///
    /// # Safety
    /// No other thread takes meanwhile.
    pub unsafe fn pop(&self) -> Option<T> {
        let ticket = self.head.load(Relaxed);
        let cell = &self.cells[ticket % N];
        let lap = ticket & !(N - 1);
        if cell.turn.load(Acquire) != lap + 1 {
            return None;
        }
        // SAFETY: the turn says that the cell is full and the reader's, and by the rule above there is one reader.
        let value = unsafe { cell.value.read() };
        cell.turn.store(lap.wrapping_add(N), Release);
        self.head.store(ticket.wrapping_add(1), Relaxed);
        Some(value)
    }
    /// Calls `each` with what is in the queue, oldest first, and with what comes meanwhile, but not with more than fit. So it ends
    /// however fast other threads add. Returns how many they were.
    ///
    /// # Safety
    /// No other thread takes meanwhile.
    pub unsafe fn pop_all<E>(&self, mut each: impl FnMut(T) -> Result<(), E>) -> Result<usize, E> {
        let mut taken = 0;
        while taken < N
            // SAFETY: by the caller's promise.
            && let Some(value) = unsafe { self.pop() }
        {
            each(value)?;
            taken += 1;
        }
        Ok(taken)
    }
    /// Values lost since the last call.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Relaxed) as u64
    }
    /// Empties the queue, including cells that were being filled.
    ///
    /// # Safety
    /// No other thread that knows the queue exists, as in a forked child.
    pub unsafe fn reset(&self) {
        self.cells.iter().for_each(|cell| cell.turn.store(0, Relaxed));
        self.tail.store(0, Relaxed);
        self.head.store(0, Relaxed);
        self.lost.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_lost_and_counted() {
        static QUEUE: Queue<u32, 4> = Queue::new();
        for lap in 0..3 {
            (0..6).for_each(|i| QUEUE.push(lap * 10 + i));
            // SAFETY: the test has one thread.
            let taken: Vec<u32> = core::iter::from_fn(|| unsafe { QUEUE.pop() }).collect();
            assert_eq!(taken, (0..4).map(|i| lap * 10 + i).collect::<Vec<_>>());
            assert_eq!(QUEUE.take_lost(), 2);
        }
    }
    #[test]
    fn taking_ends_although_one_comes_for_each_that_goes() {
        static QUEUE: Queue<u32, 4> = Queue::new();
        QUEUE.push(0);
        let mut taken = Vec::new();
        let take = |number| {
            taken.push(number);
            QUEUE.push(number + 1);
            if taken.len() < 100 { Ok(()) } else { Err("it does not end") }
        };
        // SAFETY: the test has one thread.
        assert_eq!(unsafe { QUEUE.pop_all(take) }, Ok(4));
        assert_eq!(taken, [0, 1, 2, 3]);
    }
    #[test]
    fn threads_neither_lose_nor_repeat_and_keep_their_order() {
        const EACH: u64 = 50_000;
        static QUEUE: Queue<(u64, u64), 16> = Queue::new();
        let (mut seen, mut next) = (0, [0; 3]);
        let mut take = || {
            // SAFETY: only this thread takes.
            while let Some((thread, number)) = unsafe { QUEUE.pop() } {
                assert!(number >= next[thread as usize], "in order");
                next[thread as usize] = number + 1;
                seen += 1;
            }
        };
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..3)
                .map(|thread| scope.spawn(move || (0..EACH).for_each(|number| QUEUE.push((thread, number)))))
                .collect();
            while !writers.iter().all(|writer| writer.is_finished()) {
                take();
            }
        });
        take();
        assert_eq!(seen + QUEUE.take_lost(), 3 * EACH);
    }
}

#[cfg(test)]
mod model {
    //! All interleavings of two threads that add and one that takes, in a queue so short that it fills and laps.
    use super::*;
    use loom::sync::Arc;

    number!(loom::sync::atomic::AtomicUsize);

    /// The checker complains if two threads touch the place and nothing orders them.
    struct Watched<T>(loom::cell::UnsafeCell<MaybeUninit<T>>);
    impl<T: Copy> Place<T> for Watched<T> {
        unsafe fn write(&self, value: T) {
            self.0.with_mut(|place| {
                // SAFETY: the caller's promise; the checker verifies it.
                unsafe { (*place).write(value) };
            });
        }
        unsafe fn read(&self) -> T {
            self.0.with(|place| {
                // SAFETY: the caller's promise; the checker verifies it.
                unsafe { (*place).assume_init_read() }
            })
        }
    }
    type Modelled = Queue<usize, 2, loom::sync::atomic::AtomicUsize, Watched<usize>>;

    fn empty() -> Modelled {
        let zero = || loom::sync::atomic::AtomicUsize::new(0);
        let cell =
            || Cell { turn: zero(), value: Watched(loom::cell::UnsafeCell::new(MaybeUninit::uninit())) };
        Queue { cells: [cell(), cell()], tail: zero(), head: zero(), lost: zero(), values: PhantomData }
    }

    /// The queue has `before` values when two threads add as many each as `adds` says. Meanwhile this thread tries
    /// `takes` times to take one.
    fn explore(before: usize, adds: [usize; 2], takes: usize) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.max_branches = 20_000;
        builder.check(move || {
            let queue = Arc::new(empty());
            (0..before).for_each(|number| queue.push(number));
            let writers = [(100, adds[0]), (200, adds[1])].map(|(first, count)| {
                let queue = queue.clone();
                loom::thread::spawn(move || (first..first + count).for_each(|number| queue.push(number)))
            });
            // SAFETY: only this thread takes.
            let mut taken: Vec<usize> = (0..takes).filter_map(|_| unsafe { queue.pop() }).collect();
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            // SAFETY: only this thread takes.
            taken.extend(core::iter::from_fn(|| unsafe { queue.pop() }));
            let (all, lost) = (before + adds[0] + adds[1], queue.take_lost() as usize);
            assert_eq!(taken.len() + lost, all, "taken {taken:?}, lost {lost}");
            assert!(lost <= all.saturating_sub(2), "lost {lost} of {all}, two of which fit");
            for first in [0, 100, 200] {
                let of_one: Vec<_> = taken.iter().filter(|&number| number / 100 * 100 == first).collect();
                assert!(of_one.is_sorted_by(|one, next| one < next), "out of order or repeated: {taken:?}");
            }
            // Afterwards the queue is intact: as many values fit as before.
            (0..3).for_each(|number| queue.push(number));
            // SAFETY: only this thread takes.
            assert_eq!(core::iter::from_fn(|| unsafe { queue.pop() }).collect::<Vec<_>>(), [0, 1]);
            assert_eq!(queue.take_lost(), 1);
        });
    }

    #[test]
    fn two_that_add_at_once_have_a_cell_each() {
        explore(0, [1, 1], 1);
    }
    #[test]
    fn what_is_added_while_it_is_full_is_lost_and_counted() {
        explore(1, [1, 1], 2);
    }
    #[test]
    fn a_cell_is_filled_again_only_when_it_is_empty() {
        explore(2, [2, 1], 2);
    }
}
