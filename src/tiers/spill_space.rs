//! The room of a region in spill files: where its chunks are written. It is taken before any chunk has to be written.
//!
//! Most regions take it when they are made, for all chunks, with blocks on disk. A region that is larger than the disk,
//! a slab, one without a budget, and any region after a fork are *sparse* instead: they take it stretch by stretch, when a
//! chunk of the stretch is first used. So a file ends where what is used of it ends, however much address space there is: no
//! file system has files of any size.
use super::engine::Engine;
use super::mapping::Errno;
use super::spill::{self, Spill};
use crate::error::{Error, Result, pending};
use crate::os::lock::Mutex;
use crate::os::records::Records;
use allocator_api2::vec::Vec as RecordVec;
use std::sync::Arc;

/// Bytes of a stretch, or one chunk if that is larger.
const STRETCH: usize = 4 << 20;
/// The most chunks of a stretch of a slab, most of which may never be used.
const STRETCH_OF_SLAB: usize = 64;

/// The room of several chunks, with blocks on disk: the place of chunk `first + i` is at `start + i * chunk`.
struct Extent {
    first: usize,
    count: usize,
    start: u64,
}
/// The room of one stretch of a sparse region.
struct Stretch {
    number: usize,
    start: u64,
    /// For how many of its chunks, from the first one on, there are blocks on disk.
    made: usize,
}
/// The room of a region in one file.
struct Room {
    /// Number of the file.
    file: u16,
    spill: Arc<Spill>,
    extents: Vec<Extent>,
    /// Whether the other chunks get room as they are used.
    sparse: bool,
    /// In order. In records, because a fault handler adds to it.
    stretches: RecordVec<Stretch, Records>,
    /// How many chunks are stored there.
    stored: usize,
}

/// The room of one region.
pub struct SpillSpace {
    engine: Arc<Engine>,
    /// Bytes of a chunk.
    chunk: usize,
    is_slab: bool,
    rooms: Mutex<Vec<Room>>,
    /// Held while blocks are made for a stretch or given back, so that `Stretch::made` is what there is.
    making: Mutex<()>,
}

impl SpillSpace {
    /// No room yet.
    pub fn new(engine: &Arc<Engine>, chunk: usize, is_slab: bool) -> SpillSpace {
        let (rooms, making) = (Mutex::sheltered(Vec::new()), Mutex::sheltered(()));
        SpillSpace { engine: engine.clone(), chunk, is_slab, rooms, making }
    }
    fn chunks_a_stretch(&self) -> usize {
        let most = if self.is_slab { STRETCH_OF_SLAB } else { usize::MAX };
        (STRETCH / self.chunk).clamp(1, most)
    }
    fn bytes(&self, chunks: usize) -> u64 {
        (chunks * self.chunk) as u64
    }
    /// Takes room in the current file for `count` chunks from `first` on. Fails with Io.
    pub fn take(&self, first: usize, count: usize) -> Result<()> {
        let (file, spill) = self.engine.files.current().map_err(disk_error)?;
        let length = self.bytes(count);
        let too_large = length > spill.capacity();
        {
            let mut rooms = self.rooms.lock();
            let room = room_in(&mut rooms, file, &spill);
            room.sparse |= too_large || self.is_slab;
            if room.sparse {
                return Ok(());
            }
        }
        let start = spill.take_range(length);
        if let Err(errno) = spill.make_blocks(start, length) {
            spill.give_range(start, length);
            return Err(disk_error(errno));
        }
        room_in(&mut self.rooms.lock(), file, &spill).extents.push(Extent { first, count, start });
        Ok(())
    }
    /// Makes blocks so that chunk `index` of `count`, which is about to be used for the first time, can be spilled. For a
    /// chunk without room in the current file, a full disk shows when the chunk is spilled.
    pub fn make_blocks(&self, index: usize, count: usize) -> core::result::Result<(), Errno> {
        // Without a budget nothing has to leave.
        if index >= count || self.engine.account().limit() == 0 {
            return Ok(());
        }
        let (file, each) = (self.engine.files.current_number(), self.chunks_a_stretch());
        let (number, within) = (index / each, index % each);
        // The room, if it has no blocks for the chunk.
        let lacking = |rooms: &[Room]| {
            let at = rooms.iter().position(|room| room.file == file && room.sparse)?;
            let has_blocks = match rooms[at].stretch(number) {
                Ok(stretch) => within < rooms[at].stretches[stretch].made,
                Err(_) => rooms[at].extent_of(index).is_some(),
            };
            (!has_blocks).then_some(at)
        };
        if lacking(&self.rooms.lock()).is_none() {
            return Ok(());
        }
        let _making = self.making.lock();
        let (spill, start, made) = {
            let mut rooms = self.rooms.lock();
            let Some(at) = lacking(&rooms) else { return Ok(()) };
            let spill = rooms[at].spill.clone();
            let stretch = rooms[at].take_stretch(number, self.bytes(each))?;
            (spill, stretch.start, stretch.made)
        };
        let all = each.min(count - number * each);
        spill.make_blocks(start + self.bytes(made), self.bytes(all - made))?;
        if let Some(room) = self.rooms.lock().iter_mut().find(|room| room.file == file)
            && let Ok(at) = room.stretch(number)
        {
            room.stretches[at].made = all;
        }
        Ok(())
    }
    /// The number of the file that a chunk is to be written to now, the file, and the chunk's offset. If no room was
    /// taken in advance, because there is no budget, it is taken now.
    pub fn place_for_writing(&self, index: usize) -> core::result::Result<(u16, Arc<Spill>, u64), Errno> {
        let (file, spill) = self.engine.files.current()?;
        // Looking and taking are one step: two threads that write two chunks of a stretch are not to take it twice.
        let mut rooms = self.rooms.lock();
        let room = room_in(&mut rooms, file, &spill);
        if self.offset_in(room, index).is_none() {
            room.sparse = true;
            room.take_stretch(index / self.chunks_a_stretch(), self.bytes(self.chunks_a_stretch()))?;
        }
        let offset = self.offset_in(room, index).ok_or(Errno(libc::ENOSPC))?;
        Ok((file, spill, offset))
    }
    /// The file with this number and a chunk's offset in it.
    pub fn place(&self, file: u16, index: usize) -> Option<(Arc<Spill>, u64)> {
        let rooms = self.rooms.lock();
        let room = rooms.iter().find(|room| room.file == file)?;
        Some((room.spill.clone(), self.offset_in(room, index)?))
    }
    fn offset_in(&self, room: &Room, index: usize) -> Option<u64> {
        if let Some(extent) = room.extent_of(index) {
            return Some(extent.start + self.bytes(index - extent.first));
        }
        let at = room.stretch(index / self.chunks_a_stretch()).ok()?;
        Some(room.stretches[at].start + self.bytes(index % self.chunks_a_stretch()))
    }
    /// Notes that a chunk is stored in a file, or no longer is.
    pub fn note_stored(&self, file: u16, stored: bool) {
        if let Some(room) = self.rooms.lock().iter_mut().find(|room| room.file == file) {
            room.stored = if stored { room.stored + 1 } else { room.stored - 1 };
        }
    }
    /// Whether any chunk is stored in the file with this number.
    pub fn stores_in(&self, file: u16) -> bool {
        self.rooms.lock().iter().any(|room| room.file == file && room.stored > 0)
    }
    /// After a fork: the region is sparse in the file that is current now, if it had room before.
    pub fn move_to(&self, file: u16, spill: &Arc<Spill>) {
        let mut rooms = self.rooms.lock();
        if !rooms.is_empty() {
            room_in(&mut rooms, file, spill).sparse = true;
        }
    }
    /// Gives up the room in a file that is being closed.
    pub fn leave(&self, file: u16) {
        self.rooms.lock().retain(|room| room.file != file);
    }
    /// Takes over the room of a smaller region, and takes what is missing: `more` chunks from `first` on. On failure the
    /// smaller region has its room as before.
    pub fn inherit(&self, old: &SpillSpace, first: usize, more: usize) -> Result<()> {
        let rooms = core::mem::take(&mut *old.rooms.lock());
        let had_room = !rooms.is_empty();
        *self.rooms.lock() = rooms;
        if had_room && more > 0 {
            self.take(first, more).inspect_err(|_| self.return_to(old, first))?;
        }
        Ok(())
    }
    /// Undoes `inherit`: gives the room of the first `count` chunks back to `old`, and the rest back to the file.
    pub fn return_to(&self, old: &SpillSpace, count: usize) {
        self.shorten(count);
        let rooms = core::mem::take(&mut *self.rooms.lock());
        *old.rooms.lock() = rooms;
    }
    /// Gives back the room of all chunks from `count` on.
    pub fn shorten(&self, count: usize) {
        let _making = self.making.lock();
        let mut rooms = self.rooms.lock();
        for room in rooms.iter_mut() {
            for extent in &mut room.extents {
                let kept = count.saturating_sub(extent.first).min(extent.count);
                if kept < extent.count {
                    room.spill.give_range(extent.start + self.bytes(kept), self.bytes(extent.count - kept));
                    extent.count = kept;
                }
            }
            room.extents.retain(|extent| extent.count > 0);
            let each = self.chunks_a_stretch();
            while let Some(stretch) = room.stretches.last()
                && stretch.number * each >= count
            {
                room.spill.give_range(stretch.start, self.bytes(each));
                room.stretches.pop();
            }
            if let Some(stretch) = room.stretches.last_mut()
                && let kept = count - stretch.number * each
                && kept < stretch.made
            {
                room.spill.drop_blocks(stretch.start + self.bytes(kept), self.bytes(stretch.made - kept));
                stretch.made = kept;
            }
        }
        if count == 0 {
            rooms.clear();
        }
    }
}

/// Why there is no room on disk for memory that is allocated.
pub fn disk_error(errno: Errno) -> Error {
    let directory = spill::directory();
    // The reason first: a message has no room for every path.
    pending(Error::Io, format_args!("spill file: {errno}: {}", directory.display()))
}

/// The room in a file; none of it is taken yet if the region had no room there.
fn room_in<'a>(rooms: &'a mut Vec<Room>, file: u16, spill: &Arc<Spill>) -> &'a mut Room {
    let at = rooms.iter().position(|room| room.file == file).unwrap_or_else(|| {
        let (extents, stretches) = (Vec::new(), RecordVec::new_in(Records));
        rooms.push(Room { file, spill: spill.clone(), extents, sparse: false, stretches, stored: 0 });
        rooms.len() - 1
    });
    &mut rooms[at]
}
impl Room {
    fn extent_of(&self, index: usize) -> Option<&Extent> {
        self.extents.iter().find(|extent| index.wrapping_sub(extent.first) < extent.count)
    }
    /// Where the stretch with this number is among the stretches, or would be.
    fn stretch(&self, number: usize) -> core::result::Result<usize, usize> {
        self.stretches.binary_search_by_key(&number, |stretch| stretch.number)
    }
    /// The stretch with this number. If the region has no room for it yet, takes that from the file: `length` bytes.
    fn take_stretch(&mut self, number: usize, length: u64) -> core::result::Result<&mut Stretch, Errno> {
        let at = match self.stretch(number) {
            Ok(at) => at,
            Err(at) => {
                self.stretches.try_reserve(1).map_err(|_| Errno(libc::ENOMEM))?;
                self.stretches.insert(at, Stretch { number, start: self.spill.take_range(length), made: 0 });
                at
            }
        };
        Ok(&mut self.stretches[at])
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
        engine.files.current().unwrap();
        let spaces: Vec<_> = (0..ROUNDS).map(|_| SpillSpace::new(&engine, 4096, false)).collect();
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
            assert_eq!(space.rooms.lock()[0].stretches.len(), 1);
        }
    }
}
