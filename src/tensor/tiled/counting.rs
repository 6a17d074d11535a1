//! Memory that only counts: what is in place, what is pinned, what moves; and that fails when told to.
use super::{ChunkedMemory, Purpose, Room, Source, Target, Temporary};
use crate::error::{Error, Result, fail};
use crate::tensor::Complex;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// RAM that several tensors share: chunks in place, the one used longest ago goes first.
pub struct Ram {
    room: usize,
    clock: usize,
    /// Tensor and chunk: what is in place.
    pub hot: HashMap<(usize, usize), Hot>,
    /// Elements in place.
    used: usize,
    /// Chunks that exist outside.
    stored: HashSet<(usize, usize)>,
    /// Elements moved in and out.
    traffic: usize,
}
pub struct Hot {
    last_use: usize,
    pins: usize,
    is_written: bool,
    size: usize,
}
impl Ram {
    fn new(room: usize) -> Rc<RefCell<Ram>> {
        let (hot, stored) = (HashMap::new(), HashSet::new());
        Rc::new(RefCell::new(Ram { room, clock: 0, hot, used: 0, stored, traffic: 0 }))
    }
    /// Elements moved in and out, with what is left to be written.
    pub fn traffic(&self) -> usize {
        self.traffic + self.hot.values().filter(|hot| hot.is_written).map(|hot| hot.size).sum::<usize>()
    }
    pub fn assert_nothing_is_pinned(&self) {
        assert!(self.hot.values().all(|hot| hot.pins == 0), "something is still pinned");
    }
}

/// One tensor's chunks.
pub struct Counting {
    ram: Rc<RefCell<Ram>>,
    tensor: usize,
    chunk: usize,
    count: usize,
    pub served: bool,
    /// How many acquisitions do well before one fails, and how it does.
    fails: Cell<Option<(usize, Error)>>,
}
impl ChunkedMemory for Counting {
    fn chunk(&self) -> usize {
        self.chunk
    }
    fn acquire(&self, index: usize, purpose: Purpose) -> Result<()> {
        if let Some((left, error)) = self.fails.get() {
            self.fails.set(left.checked_sub(1).map(|left| (left, error)));
            if left == 0 {
                return Err(error);
            }
        }
        let ram = &mut *self.ram.borrow_mut();
        ram.clock += 1;
        let key = (self.tensor, index);
        if !ram.hot.contains_key(&key) {
            while ram.used + self.chunk > ram.room {
                let free = ram.hot.iter().filter(|(_, hot)| hot.pins == 0);
                let Some(oldest) = free.min_by_key(|(_, hot)| hot.last_use).map(|(key, _)| *key) else {
                    return fail!(OutOfMemory, "all is pinned");
                };
                if let Some(gone) = ram.hot.remove(&oldest) {
                    ram.used -= gone.size;
                    if gone.is_written {
                        ram.traffic += gone.size;
                        ram.stored.insert(oldest);
                    }
                }
            }
            ram.used += self.chunk;
            if purpose != Purpose::Overwrite && ram.stored.contains(&key) {
                ram.traffic += self.chunk;
            }
        }
        let new = Hot { last_use: 0, pins: 0, is_written: false, size: self.chunk };
        let hot = ram.hot.entry(key).or_insert(new);
        (hot.last_use, hot.pins) = (ram.clock, hot.pins + 1);
        hot.is_written |= purpose != Purpose::Read;
        Ok(())
    }
    fn release(&self, index: usize) {
        let ram = &mut *self.ram.borrow_mut();
        let hot = ram.hot.get_mut(&(self.tensor, index)).expect("released what is not in place");
        hot.pins = hot.pins.checked_sub(1).expect("released what is not pinned");
    }
    fn count(&self) -> usize {
        self.count
    }
    fn is_served(&self) -> bool {
        self.served
    }
    fn is_compressed(&self) -> bool {
        false
    }
    fn prefetch(&self, first: usize, count: usize) {
        for index in first..first + count {
            // Like the engine: only what fits without sending out what is pinned.
            if self.acquire(index, Purpose::Read).is_ok() {
                self.release(index);
            }
        }
    }
}

/// What goes wrong with copies: the one of this number is refused, or each fails after so many chunks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trouble {
    NoRoom(usize),
    DiskFull(usize),
    Damage(usize),
}
/// The RAM as a product sees it; what it makes for a time is a tensor of its own.
pub struct Limited {
    pub ram: Rc<RefCell<Ram>>,
    pub pinnable: usize,
    pub temporaries: Option<usize>,
    pub trouble: Option<Trouble>,
    /// Temporaries so far.
    pub made: Cell<usize>,
}
impl Limited {
    /// A RAM of `room` elements, all but a tenth of it for one product.
    pub fn new(room: usize) -> Limited {
        let (ram, temporaries) = (Ram::new(room), Some((room / 256).next_power_of_two()));
        Limited { ram, pinnable: room * 9 / 10, temporaries, trouble: None, made: Cell::new(0) }
    }
    /// Three tensors, the first two all outside.
    pub fn tensors(&self, served: bool, chunk: usize, sizes: [usize; 3]) -> [Counting; 3] {
        let count = |tensor: usize| sizes[tensor].div_ceil(chunk);
        let stored = (0..2).flat_map(|tensor| (0..count(tensor)).map(move |i| (tensor, i)));
        self.ram.borrow_mut().stored.extend(stored);
        [0, 1, 2].map(|tensor| Counting { served, ..self.tensor(tensor, chunk, count(tensor)) })
    }
    fn tensor(&self, tensor: usize, chunk: usize, count: usize) -> Counting {
        let (ram, fails) = (self.ram.clone(), Cell::new(None));
        Counting { ram, tensor, chunk, count, served: true, fails }
    }
}
impl Room for Limited {
    fn pinnable(&self) -> usize {
        self.pinnable
    }
    fn chunk_of_temporaries(&self) -> Option<usize> {
        self.temporaries
    }
    fn temporary(&self, elements: usize, chunk: usize) -> Option<Box<dyn Temporary>> {
        let number = self.made.get();
        if self.trouble == Some(Trouble::NoRoom(number)) {
            return None;
        }
        self.made.set(number + 1);
        let chunked = self.tensor(3 + number, chunk, elements.div_ceil(chunk));
        chunked.fails.set(match self.trouble {
            Some(Trouble::DiskFull(chunks)) => Some((chunks, Error::Io)),
            Some(Trouble::Damage(chunks)) => Some((chunks, Error::Corruption)),
            _ => None,
        });
        Some(Box::new(Made { elements: vec![Complex::new(f32::NAN, 0.0); elements], chunked }))
    }
}
struct Made {
    elements: Vec<Complex>,
    chunked: Counting,
}
impl Temporary for Made {
    fn source(&self) -> Source<'_> {
        Source { elements: &self.elements, chunked: Some(&self.chunked) }
    }
    fn target(&mut self) -> Target<'_> {
        Target { elements: &mut self.elements, chunked: Some(&self.chunked) }
    }
}
impl Drop for Made {
    fn drop(&mut self) {
        let ram = &mut *self.chunked.ram.borrow_mut();
        ram.hot.retain(|key, _| key.0 != self.chunked.tensor);
        ram.used = ram.hot.values().map(|hot| hot.size).sum();
    }
}
