//! Events on their way to the file: a bounded queue that any thread may add to, from signal handlers too, without
//! waiting, and one thread at a time takes from.
//!
//! Each cell has a turn. It is a multiple of `N` while the cell is free, namely of the ticket, rounded down, that may
//! fill it next; one more while it is full. A ticket is taken by advancing `tail`; its holder fills the cell and then
//! advances the turn, which hands it to the reader. The reader empties the cell and advances the turn to the next lap,
//! which hands it to the next ticket. So a cell belongs to one side at any time, and all zeroes are an empty queue.
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*};

struct Cell<T> {
    turn: AtomicUsize,
    value: UnsafeCell<MaybeUninit<T>>,
}

/// A queue of at most `N` events, a power of two.
pub struct Queue<T, const N: usize> {
    cells: [Cell<T>; N],
    /// Tickets given out.
    tail: AtomicUsize,
    /// Cells emptied.
    head: AtomicUsize,
    lost: AtomicU64,
}
// SAFETY: a value is moved in by one thread and copied out by another, by turns as told above.
unsafe impl<T: Copy + Send, const N: usize> Sync for Queue<T, N> {}

impl<T: Copy + Send, const N: usize> Queue<T, N> {
    /// An empty one.
    pub const fn new() -> Queue<T, N> {
        assert!(N.is_power_of_two() && N > 1);
        Queue {
            cells: [const { Cell { turn: AtomicUsize::new(0), value: UnsafeCell::new(MaybeUninit::uninit()) } };
                N],
            tail: AtomicUsize::new(0),
            head: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
        }
    }
    /// Adds a value; where the queue is full it is lost, and counted.
    pub fn push(&self, value: T) {
        let mut ticket = self.tail.load(Relaxed);
        loop {
            let cell = &self.cells[ticket % N];
            let lap = ticket & !(N - 1);
            match cell.turn.load(Acquire).wrapping_sub(lap) as isize {
                0 => {
                    match self.tail.compare_exchange_weak(ticket, ticket.wrapping_add(1), Relaxed, Relaxed) {
                        Ok(_) => {
                            // SAFETY: it is this ticket's turn, which nobody else has.
                            unsafe { (*cell.value.get()).write(value) };
                            cell.turn.store(lap + 1, Release);
                            return;
                        }
                        Err(now) => ticket = now,
                    }
                }
                behind if behind < 0 => {
                    self.lost.fetch_add(1, Relaxed);
                    return;
                }
                _ => ticket = self.tail.load(Relaxed),
            }
        }
    }
    /// Takes the oldest value; None while there is none, or its cell is being filled.
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
        // SAFETY: full, and it is the reader's turn, of which there is one.
        let value = unsafe { (*cell.value.get()).assume_init_read() };
        cell.turn.store(lap.wrapping_add(N), Release);
        self.head.store(ticket.wrapping_add(1), Relaxed);
        Some(value)
    }
    /// Values lost since the last call.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Relaxed)
    }
    /// Empties it, cells that were being filled included.
    ///
    /// # Safety
    /// No other thread exists that knows it: in a forked child.
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
            // SAFETY: one thread.
            let taken: Vec<u32> = core::iter::from_fn(|| unsafe { QUEUE.pop() }).collect();
            assert_eq!(taken, (0..4).map(|i| lap * 10 + i).collect::<Vec<_>>());
            assert_eq!(QUEUE.take_lost(), 2);
        }
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
