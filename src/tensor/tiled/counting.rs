//! A model of memory in chunks, for tests: it knows what is in place, what is pinned, and what moves, and it fails when told
//! to. A chunk that is not in place reads as NaN. What is written to it, or to a chunk that was acquired only to be read, is
//! lost when the chunk leaves.
use super::{ChunkedMemory, Purpose, Room, Source, Target, Temporary};
use crate::error::{Error, Result, fail};
use crate::tensor::Complex;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// RAM that several tensors share. Of the chunks that are not pinned, the one that was used longest ago leaves first.
pub struct Ram {
    room: usize,
    clock: usize,
    /// The chunks in place, by tensor and number.
    pub hot: HashMap<(usize, usize), Hot>,
    /// Those of them that are not pinned, by their last use.
    free: BTreeMap<usize, (usize, usize)>,
    /// Elements in place.
    used: usize,
    /// The contents of chunks outside.
    stored: HashMap<(usize, usize), Vec<Complex>>,
    /// Elements moved in and out so far.
    traffic: usize,
}
pub struct Hot {
    last_use: usize,
    pins: usize,
    is_written: bool,
    size: usize,
    /// Its elements in the tensor. The chunk at the tensor's end has fewer than its size.
    place: *mut [Complex],
}
impl Hot {
    fn elements(&mut self) -> &mut [Complex] {
        // SAFETY: the tensor exists, since dropping it takes its chunks from the RAM. Nobody reads or writes through the
        // tensor's slices meanwhile, because a test is one thread, and that is here.
        unsafe { &mut *self.place }
    }
}
const NOTHING: Complex = Complex::new(f32::NAN, f32::NAN);
impl Ram {
    fn new(room: usize) -> Rc<RefCell<Ram>> {
        let (hot, free, stored) = (HashMap::new(), BTreeMap::new(), HashMap::new());
        Rc::new(RefCell::new(Ram { room, clock: 0, hot, free, used: 0, stored, traffic: 0 }))
    }
    /// Elements moved in and out, including what is still to be written.
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
    memory: *mut [Complex],
    pub served: bool,
    /// How many acquisitions succeed before one fails, and its error.
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
                let Some((_, oldest)) = ram.free.pop_first() else {
                    return fail!(OutOfMemory, "all is pinned");
                };
                if let Some(mut gone) = ram.hot.remove(&oldest) {
                    ram.used -= gone.size;
                    if gone.is_written {
                        ram.traffic += gone.size;
                        ram.stored.insert(oldest, gone.elements().to_vec());
                    }
                    gone.elements().fill(NOTHING);
                }
            }
            ram.used += self.chunk;
            let mut new = self.hot(index);
            match ram.stored.get(&key) {
                _ if purpose == Purpose::Overwrite => {}
                Some(stored) => {
                    ram.traffic += self.chunk;
                    new.elements().copy_from_slice(stored);
                }
                None => new.elements().fill(Complex::new(0.0, 0.0)),
            }
            ram.hot.insert(key, new);
        }
        let hot = ram.hot.get_mut(&key).expect("in place");
        ram.free.remove(&hot.last_use);
        if purpose == Purpose::Overwrite && hot.pins == 0 {
            hot.elements().fill(NOTHING);
        }
        (hot.last_use, hot.pins) = (ram.clock, hot.pins + 1);
        hot.is_written |= purpose != Purpose::Read;
        Ok(())
    }
    fn release(&self, index: usize) {
        let ram = &mut *self.ram.borrow_mut();
        let hot = ram.hot.get_mut(&(self.tensor, index)).expect("released what is not in place");
        hot.pins = hot.pins.checked_sub(1).expect("released what is not pinned");
        if hot.pins == 0 {
            ram.free.insert(hot.last_use, (self.tensor, index));
        }
    }
    fn count(&self) -> usize {
        self.memory.len().div_ceil(self.chunk)
    }
    fn is_served(&self) -> bool {
        self.served
    }
    fn is_compressed(&self) -> bool {
        false
    }
    fn prefetch(&self, first: usize, count: usize) {
        for index in first..first + count {
            // Like the engine, prefetch only what fits without sending out a pinned chunk.
            if self.acquire(index, Purpose::Read).is_ok() {
                self.release(index);
            }
        }
    }
}
impl Counting {
    fn hot(&self, index: usize) -> Hot {
        let (start, end) = (index * self.chunk, self.memory.len().min((index + 1) * self.chunk));
        let first = self.memory.cast::<Complex>().wrapping_add(start);
        let place = core::ptr::slice_from_raw_parts_mut(first, end - start);
        Hot { last_use: 0, pins: 0, is_written: false, size: self.chunk, place }
    }
    /// The tensor to read, as a product sees it.
    pub fn source(&self) -> Source<'_> {
        // SAFETY: the tensor's own memory. As in tiers, a chunk changes only while it is not pinned, and is read only while it
        // is.
        Source { elements: unsafe { &*self.memory }, chunked: Some(self) }
    }
    /// The tensor to write.
    pub fn target(&self) -> Target<'_> {
        // SAFETY: as in `source`, and a product has no other slice of what it writes.
        Target { elements: unsafe { &mut *self.memory }.into(), chunked: Some(self) }
    }
    /// Makes the acquisition after so many more fail.
    pub fn fail_after(&mut self, acquisitions: usize, error: Error) {
        self.fails.set(Some((acquisitions, error)));
    }
    /// All its elements, wherever they are.
    pub fn elements(&self) -> Vec<Complex> {
        let ram = &mut *self.ram.borrow_mut();
        let chunk = |index: usize| match ram.hot.get_mut(&(self.tensor, index)) {
            Some(hot) => hot.elements().to_vec(),
            None => ram.stored.get(&(self.tensor, index)).cloned().unwrap_or_default(),
        };
        (0..self.count()).flat_map(chunk).collect()
    }
}
impl Drop for Counting {
    fn drop(&mut self) {
        let ram = &mut *self.ram.borrow_mut();
        ram.hot.retain(|key, _| key.0 != self.tensor);
        ram.free.retain(|_, key| key.0 != self.tensor);
        ram.used = ram.hot.values().map(|hot| hot.size).sum();
        // SAFETY: `tensor` made the memory with `Box`, and the RAM has just forgotten where it is.
        drop(unsafe { Box::from_raw(self.memory) });
    }
}

/// What goes wrong with copies: the copy of this number is refused, or each copy fails after so many chunks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trouble {
    NoRoom(usize),
    DiskFull(usize),
    Damage(usize),
}
/// The RAM as a product sees it. Each temporary is a tensor of its own.
pub struct Limited {
    pub ram: Rc<RefCell<Ram>>,
    pub pinnable: usize,
    pub temporaries: Option<usize>,
    pub trouble: Option<Trouble>,
    /// Number of temporaries so far.
    pub made: Cell<usize>,
}
impl Limited {
    /// A RAM of `room` elements, of which a product may pin nine tenths.
    pub fn new(room: usize) -> Limited {
        let (ram, temporaries) = (Ram::new(room), Some((room / 256).next_power_of_two()));
        Limited { ram, pinnable: room * 9 / 10, temporaries, trouble: None, made: Cell::new(0) }
    }
    /// Two operands, whose chunks are all outside, and a result of `count` elements.
    pub fn tensors(
        &self,
        served: bool,
        chunk: usize,
        operands: [&[Complex]; 2],
        count: usize,
    ) -> [Counting; 3] {
        for (tensor, elements) in operands.into_iter().enumerate() {
            let chunks = elements.chunks(chunk).enumerate();
            let stored = chunks.map(|(index, chunk)| ((tensor, index), chunk.to_vec()));
            self.ram.borrow_mut().stored.extend(stored);
        }
        let counts = [operands[0].len(), operands[1].len(), count];
        [0, 1, 2].map(|tensor| {
            let mut made = self.tensor(tensor, chunk, counts[tensor]);
            made.served = served;
            made
        })
    }
    fn tensor(&self, tensor: usize, chunk: usize, count: usize) -> Counting {
        let (ram, fails) = (self.ram.clone(), Cell::new(None));
        let memory = Box::into_raw(vec![NOTHING; count].into_boxed_slice());
        Counting { ram, tensor, chunk, memory, served: true, fails }
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
        let chunked = self.tensor(3 + number, chunk, elements);
        chunked.fails.set(match self.trouble {
            Some(Trouble::DiskFull(chunks)) => Some((chunks, Error::Io)),
            Some(Trouble::Damage(chunks)) => Some((chunks, Error::Corruption)),
            _ => None,
        });
        Some(Box::new(chunked))
    }
}
impl Temporary for Counting {
    fn source(&self) -> Source<'_> {
        Counting::source(self)
    }
    fn target(&mut self) -> Target<'_> {
        Counting::target(self)
    }
}
