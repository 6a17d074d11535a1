//! Why a chunk could not be moved. Small and copied, because it travels through fault handlers.
use super::mapping::Errno;
use super::state::MOST_ACQUIRED;
use crate::error::{Error, pending};

/// The reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The budget has no room, and nothing in it can leave.
    NoRoom,
    /// The spill file cannot be written or read.
    Disk(Errno),
    /// The stored bytes are not those that were written.
    Damaged,
    /// Pages cannot be moved: the system is out of memory or mappings.
    Pages(Errno),
    /// Beside the chunks that are acquired there would be no room for those that plain access needs.
    NoRoomBeside,
    /// The chunk is acquired as often as can be counted.
    Acquired,
    /// The memory is being freed or moved.
    Leaving,
}
impl Trouble {
    /// As an error of the library, with a message for this thread.
    pub fn error(self) -> Error {
        match self {
            Trouble::NoRoom => pending(
                Error::OutOfMemory,
                format_args!("the budget has no room for another chunk, and nothing in it can leave"),
            ),
            Trouble::NoRoomBeside => pending(
                Error::OutOfMemory,
                format_args!(
                    "beside the chunks that are acquired the budget has no room for the two that plain access may need"
                ),
            ),
            Trouble::Disk(errno) => {
                pending(Error::Io, format_args!("spill file: {}", std::io::Error::from_raw_os_error(errno.0)))
            }
            Trouble::Damaged => {
                pending(Error::Corruption, format_args!("a stored chunk does not match its checksum"))
            }
            Trouble::Pages(errno) => pending(
                Error::OutOfMemory,
                format_args!("moving pages: {}", std::io::Error::from_raw_os_error(errno.0)),
            ),
            Trouble::Acquired => {
                pending(Error::Limit, format_args!("the chunk is acquired {MOST_ACQUIRED} times already"))
            }
            Trouble::Leaving => pending(
                Error::NotOwned,
                format_args!("another thread is freeing or reallocating this memory"),
            ),
        }
    }
    /// For the log; needs no memory.
    pub fn text(self) -> (&'static str, i32) {
        match self {
            Trouble::NoRoom => ("the budget has no room and nothing can leave", 0),
            Trouble::NoRoomBeside => ("the budget has no room beside the chunks that are acquired", 0),
            Trouble::Disk(errno) => ("the spill file failed with error", errno.0),
            Trouble::Damaged => ("the stored bytes do not match their checksum", 0),
            Trouble::Pages(errno) => ("moving pages failed with error", errno.0),
            Trouble::Acquired => ("the chunk is acquired too often", 0),
            Trouble::Leaving => ("another thread is freeing or reallocating it", 0),
        }
    }
}
