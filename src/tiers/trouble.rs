//! Why a chunk could not be moved. Small and copied, because it travels through fault handlers.
use super::mapping::Errno;
use super::state::MOST_ACQUIRED;
use crate::error::{Error, pending};
use core::fmt;

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
        let error = match self {
            Trouble::NoRoom | Trouble::NoRoomBeside | Trouble::Pages(_) => Error::OutOfMemory,
            Trouble::Disk(_) => Error::Io,
            Trouble::Damaged => Error::Corruption,
            Trouble::Acquired => Error::Limit,
            Trouble::Leaving => Error::NotOwned,
        };
        pending(error, format_args!("{self}"))
    }
}
/// Needs no memory.
impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::NoRoom => {
                f.write_str("the budget has no room for another chunk, and nothing in it can leave")
            }
            Trouble::NoRoomBeside => f.write_str(
                "beside the chunks that are acquired the budget has no room for the two that plain access may need",
            ),
            Trouble::Disk(errno) => write!(f, "spill file: {errno}"),
            Trouble::Damaged => f.write_str("a stored chunk does not match its checksum"),
            Trouble::Pages(errno) => write!(f, "moving pages: {errno}"),
            Trouble::Acquired => write!(f, "the chunk is acquired {MOST_ACQUIRED} times already"),
            Trouble::Leaving => f.write_str("another thread is freeing or reallocating this memory"),
        }
    }
}
