//! Why a chunk could not be moved. Small and copied, because it travels through fault handlers.
use super::mapping::Errno;
use super::state::MOST_ACQUIRED;
use crate::error::{Error, pending};
use core::fmt;

/// The reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkError {
    /// The budget has no room, and nothing in it can leave.
    NoRoom,
    /// The spill file cannot be written or read.
    Disk(Errno),
    /// The stored bytes are not those that were written.
    Damaged,
    /// The system refused to move pages back that were on their way, so that they are lost.
    Lost,
    /// Pages cannot be moved: the system is out of memory or mappings.
    Pages(Errno),
    /// Chunks in place take as many of the process's mappings as they may, and none of them can leave.
    Mappings,
    /// If this chunk were acquired too, or if the region grew, the budget would have no room for the two chunks that
    /// a plain access may need.
    NoRoomBeside,
    /// The memory has to move to grow, and a chunk of it is acquired.
    Fixed,
    /// The chunk's count of acquisitions is full.
    Acquired,
    /// The memory is being freed or moved.
    Leaving,
}
impl ChunkError {
    /// As an error of the library, with a message for this thread.
    pub fn error(self) -> Error {
        let error = match self {
            ChunkError::NoRoom | ChunkError::NoRoomBeside | ChunkError::Pages(_) => Error::OutOfMemory,
            ChunkError::Fixed => Error::Unsupported,
            ChunkError::Disk(_) | ChunkError::Lost => Error::Io,
            ChunkError::Damaged => Error::Corruption,
            ChunkError::Acquired | ChunkError::Mappings => Error::Limit,
            ChunkError::Leaving => Error::NotOwned,
        };
        pending(error, format_args!("{self}"))
    }
}
/// Writes the message without allocating.
impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChunkError::NoRoom => {
                f.write_str("the budget has no room for another chunk, and nothing in it can leave")
            }
            ChunkError::NoRoomBeside => f.write_str(
                "acquired chunks, plain blocks and records of chunks would leave no room in the budget for the two chunks that plain access may need",
            ),
            ChunkError::Fixed => f.write_str(
                "the memory has to move to grow, and cannot as long as a chunk of it is acquired",
            ),
            ChunkError::Disk(errno) => write!(f, "spill file: {errno}"),
            ChunkError::Lost => f.write_str("the chunk is lost: the system refused to move its pages back"),
            ChunkError::Damaged => f.write_str("a stored chunk does not match its checksum"),
            ChunkError::Pages(errno) => write!(f, "moving pages: {errno}"),
            ChunkError::Mappings => f.write_str(
                "chunks in place take as many of the process's mappings (vm.max_map_count) as they may, and none of them can leave",
            ),
            ChunkError::Acquired => write!(f, "the chunk is acquired {MOST_ACQUIRED} times already"),
            ChunkError::Leaving => f.write_str("another thread is freeing or reallocating this memory"),
        }
    }
}
