//! The room of a region in spill files: where its chunks are written. It is taken before any chunk has to be written.
use super::engine::Engine;
use super::mapping::Errno;
use super::spill::{self, Spill};
use crate::error::{Error, Result, pending};
use crate::os::lock::Mutex;
use std::sync::Arc;

/// The blocks of a sparse region are made on disk for this many bytes at a time, or for one chunk if that is larger.
const PIECE: usize = 4 << 20;

/// A part of a spill file that belongs to a region: the place of chunk `first + i` is at `start + i * chunk`.
struct Extent {
    /// Number of the file.
    file: u16,
    spill: Arc<Spill>,
    first: usize,
    count: usize,
    start: u64,
    /// How many chunks are stored there.
    stored: usize,
}
impl Extent {
    fn holds(&self, index: usize) -> bool {
        index.wrapping_sub(self.first) < self.count
    }
}

/// The room of one region.
pub struct SpillSpace {
    engine: Arc<Engine>,
    /// Bytes of a chunk.
    chunk: usize,
    /// Chunks the region has address space for.
    capacity: usize,
    extents: Mutex<Vec<Extent>>,
    /// None: blocks on disk are made for all of the room. Otherwise the room is sparse, and blocks are made for the
    /// pieces noted here, one bit each.
    made: Mutex<Option<Vec<u64>>>,
}

impl SpillSpace {
    /// No room yet.
    pub fn new(engine: &Arc<Engine>, chunk: usize, capacity: usize) -> SpillSpace {
        let (extents, made) = (Mutex::sheltered(Vec::new()), Mutex::sheltered(None));
        SpillSpace { engine: engine.clone(), chunk, capacity, extents, made }
    }
    fn chunks_a_piece(&self) -> usize {
        (PIECE / self.chunk).max(1)
    }
    /// Words of a bitmap with one bit for each piece.
    fn words(&self) -> usize {
        self.capacity.div_ceil(self.chunks_a_piece()).div_ceil(64)
    }
    /// Takes room in the current file for `count` chunks from `first` on. Fails with Io.
    pub fn take(&self, first: usize, count: usize) -> Result<()> {
        let disk = |errno| -> Error {
            let directory = spill::directory();
            // The reason first: a message has no room for every path.
            pending(Error::Io, format_args!("spill file: {errno}: {}", directory.display()))
        };
        let (file, spill) = self.engine.spill().map_err(disk)?;
        let length = (count * self.chunk) as u64;
        let start = spill.take_range(length);
        let mut made = self.made.lock();
        // What the disk could never hold must be sparse. Otherwise blocks are made now.
        if length > spill.capacity() || made.is_some() {
            let bits = made.get_or_insert_default();
            bits.resize(self.words(), 0);
            // The bits from the first new piece on are cleared. The first piece may have blocks only as far as the
            // region went before, and pieces behind it may be marked from a time when the region was larger.
            let piece = first / self.chunks_a_piece();
            bits[piece / 64] &= (1 << (piece % 64)) - 1;
            bits[piece / 64 + 1..].fill(0);
        } else if let Err(errno) = spill.make_blocks(start, length) {
            spill.give_range(start, length);
            return Err(disk(errno));
        }
        drop(made);
        self.extents.lock().push(Extent { file, spill, first, count, start, stored: 0 });
        Ok(())
    }
    /// Takes room for all chunks that the region has address space for, without making blocks.
    fn take_sparse(&self, extents: &mut Vec<Extent>, file: u16, spill: &Arc<Spill>) {
        let (first, count) = (0, self.capacity);
        let start = spill.take_range((count * self.chunk) as u64);
        extents.push(Extent { file, spill: spill.clone(), first, count, start, stored: 0 });
    }
    /// Makes blocks so that chunk `index` of `count`, which is about to be used for the first time, can be spilled.
    pub fn make_blocks(&self, index: usize, count: usize) -> core::result::Result<(), Errno> {
        let mut made = self.made.lock();
        let Some(bits) = made.as_mut() else { return Ok(()) };
        let piece = index / self.chunks_a_piece();
        if bits[piece / 64] >> (piece % 64) & 1 != 0 {
            return Ok(());
        }
        let first = piece * self.chunks_a_piece();
        let (file, last) = (self.engine.current_file(), count.min(first + self.chunks_a_piece()));
        let (mut next, mut any) = (first, false);
        while next < last {
            // For a chunk without room in this file, a full disk shows when the chunk is spilled.
            let Some((spill, start, left)) = self.run(file, next) else {
                next += 1;
                continue;
            };
            let run = left.min(last - next);
            spill.make_blocks(start, (run * self.chunk) as u64)?;
            (next, any) = (next + run, true);
        }
        bits[piece / 64] |= u64::from(any) << (piece % 64);
        Ok(())
    }
    /// The number of the file that a chunk is to be written to now, the file, and the chunk's offset. If no room was
    /// taken in advance, because there is no budget, it is taken now.
    pub fn place_for_writing(&self, index: usize) -> core::result::Result<(u16, Arc<Spill>, u64), Errno> {
        let (file, spill) = self.engine.spill()?;
        // Looking and taking are one step: two threads that write the first two chunks are not to take room for all twice.
        let mut extents = self.extents.lock();
        if self.run_in(&extents, file, index).is_none() {
            self.take_sparse(&mut extents, file, &spill);
        }
        let (spill, offset, _) = self.run_in(&extents, file, index).ok_or(Errno(libc::ENOSPC))?;
        Ok((file, spill, offset))
    }
    /// The file with this number and a chunk's offset in it.
    pub fn place(&self, file: u16, index: usize) -> Option<(Arc<Spill>, u64)> {
        self.run(file, index).map(|(spill, offset, _)| (spill, offset))
    }
    /// Like `place`; also tells how many chunks, from this one on, lie there one behind the other.
    fn run(&self, file: u16, index: usize) -> Option<(Arc<Spill>, u64, usize)> {
        self.run_in(&self.extents.lock(), file, index)
    }
    fn run_in(&self, extents: &[Extent], file: u16, index: usize) -> Option<(Arc<Spill>, u64, usize)> {
        let extent = extents.iter().find(|extent| extent.file == file && extent.holds(index))?;
        let before = index - extent.first;
        Some((extent.spill.clone(), extent.start + (before * self.chunk) as u64, extent.count - before))
    }
    /// Notes that a chunk is stored in a file, or no longer is.
    pub fn note_stored(&self, file: u16, index: usize, stored: bool) {
        if let Some(extent) =
            self.extents.lock().iter_mut().find(|extent| extent.file == file && extent.holds(index))
        {
            extent.stored = if stored { extent.stored + 1 } else { extent.stored - 1 };
        }
    }
    /// Whether any chunk is stored in the file with this number.
    pub fn stores_in(&self, file: u16) -> bool {
        self.extents.lock().iter().any(|extent| extent.file == file && extent.stored > 0)
    }
    /// After a fork: takes room in the file that is current now, if the region had room before. Makes no blocks.
    pub fn move_to(&self, file: u16, spill: &Arc<Spill>) {
        let mut extents = self.extents.lock();
        if !extents.is_empty() {
            self.take_sparse(&mut extents, file, spill);
            drop(extents);
            *self.made.lock() = Some(vec![0; self.words()]);
        }
    }
    /// Gives up the room in a file that is being closed.
    pub fn leave(&self, file: u16) {
        self.extents.lock().retain(|extent| extent.file != file);
    }
    /// Takes over the room of a smaller region, and takes what is missing: `more` chunks from `first` on.
    pub fn inherit(&self, old: &SpillSpace, first: usize, more: usize) -> Result<()> {
        let mut made = old.made.lock().clone();
        made.iter_mut().for_each(|bits| bits.resize(self.words(), 0));
        *self.made.lock() = made;
        if !old.extents.lock().is_empty() && more > 0 {
            self.take(first, more)?;
        }
        let inherited = core::mem::take(&mut *old.extents.lock());
        self.extents.lock().extend(inherited);
        Ok(())
    }
    /// Undoes `inherit`: gives the room of the first `count` chunks back to `old`, and the rest back to the file.
    pub fn return_to(&self, old: &SpillSpace, count: usize) {
        self.shorten(count);
        let extents = core::mem::take(&mut *self.extents.lock());
        *old.extents.lock() = extents;
    }
    /// Gives back the room of all chunks from `count` on.
    pub fn shorten(&self, count: usize) {
        let mut extents = self.extents.lock();
        for extent in extents.iter_mut() {
            let kept = count.saturating_sub(extent.first).min(extent.count);
            if kept < extent.count {
                let start = extent.start + (kept * self.chunk) as u64;
                extent.spill.give_range(start, ((extent.count - kept) * self.chunk) as u64);
                extent.count = kept;
            }
        }
        extents.retain(|extent| extent.count > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::watch::look_on;
    use crate::tiers::budget::Unlimited;
    use std::sync::Barrier;

    #[test]
    fn two_threads_that_write_first_take_room_once() {
        const ROUNDS: usize = 5000;
        let engine = Engine::new(Box::new(Unlimited)).unwrap();
        look_on();
        engine.spill().unwrap();
        let spaces: Vec<_> = (0..ROUNDS).map(|_| SpillSpace::new(&engine, 4096, 2)).collect();
        let together = Barrier::new(2);
        let write = |index: usize| {
            look_on();
            let place = |space: &SpillSpace| {
                together.wait();
                space.place_for_writing(index).map(|(_, _, offset)| offset)
            };
            spaces.iter().map(place).collect::<Vec<_>>()
        };
        let [first, second] = std::thread::scope(|scope| {
            let write = &write;
            [0, 1].map(|index| scope.spawn(move || write(index))).map(|thread| thread.join().unwrap())
        });
        for ((space, first), second) in spaces.iter().zip(first).zip(second) {
            assert_eq!(first.unwrap() + 4096, second.unwrap());
            assert_eq!(space.extents.lock().len(), 1);
        }
    }
}
