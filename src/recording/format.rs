//! The file of a recording.
//!
//! ```text
//! file    "unimemtr", version: 4 bytes, 4 bytes of 0, then blocks
//! block   length of the records: 4 bytes, the lower half of their XXH3 hash: 4 bytes, records
//! record  its kind: 1 byte, then its fields in the order in which they are declared below
//! field   a number as LEB128 (7 bits a byte, lowest first, the top bit set in all but the last byte);
//!         a list as their number and that many numbers; a text as its length and that many bytes
//! ```
//! Numbers of the file and of blocks are little-endian. Times are nanoseconds since the recording began, sizes bytes.
//! A whole recording ends with the record `End`. If the program was killed or the disk was full, that is missing, and
//! the last block may be cut off.
use core::fmt;
use std::borrow::Cow;
use twox_hash::XxHash3_64;

/// The first bytes of a file.
pub const MAGIC: &[u8; 8] = b"unimemtr";
/// The version of the format.
pub const VERSION: u32 = 1;
/// Bytes of the file's head.
pub const HEAD: usize = 16;
/// Bytes before a block's records.
pub const BLOCK_HEAD: usize = 8;
/// The most bytes that a block's records have.
pub const LARGEST_BLOCK: usize = 64 << 10;
/// The most bytes that a record has.
pub const LARGEST_RECORD: usize = 8 << 10;

/// A list of numbers.
pub type List<'a> = Cow<'a, [u64]>;
/// Bytes that are mostly UTF-8.
pub type Text<'a> = Cow<'a, [u8]>;

/// Where encoded bytes go. What finds no room is cut off; [`LARGEST_RECORD`] prevents that.
pub trait Sink {
    /// Adds bytes.
    fn put(&mut self, bytes: &[u8]);
}
/// Bytes to decode.
pub struct Cursor<'a>(pub &'a [u8]);
impl Cursor<'_> {
    fn bytes(&mut self, count: usize) -> Option<&[u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }
}

trait Field: Sized {
    fn put(&self, sink: &mut dyn Sink);
    fn take(cursor: &mut Cursor) -> Option<Self>;
}
impl Field for u64 {
    fn put(&self, sink: &mut dyn Sink) {
        let (mut bytes, mut length, mut rest) = ([0; 10], 0, *self);
        loop {
            bytes[length] = (rest & 0x7F) as u8 | if rest > 0x7F { 0x80 } else { 0 };
            (length, rest) = (length + 1, rest >> 7);
            if rest == 0 {
                return sink.put(&bytes[..length]);
            }
        }
    }
    fn take(cursor: &mut Cursor) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = cursor.bytes(1)?[0];
            if shift == 63 && byte > 1 {
                return None;
            }
            value |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}
impl Field for bool {
    fn put(&self, sink: &mut dyn Sink) {
        u64::from(*self).put(sink);
    }
    fn take(cursor: &mut Cursor) -> Option<Self> {
        Some(u64::take(cursor)? != 0)
    }
}
impl Field for List<'_> {
    fn put(&self, sink: &mut dyn Sink) {
        (self.len() as u64).put(sink);
        self.iter().for_each(|number| number.put(sink));
    }
    fn take(cursor: &mut Cursor) -> Option<Self> {
        let count = u64::take(cursor)?;
        if count > cursor.0.len() as u64 {
            return None;
        }
        (0..count).map(|_| u64::take(cursor)).collect::<Option<Vec<u64>>>().map(Cow::Owned)
    }
}
impl Field for Text<'_> {
    fn put(&self, sink: &mut dyn Sink) {
        (self.len() as u64).put(sink);
        sink.put(self);
    }
    fn take(cursor: &mut Cursor) -> Option<Self> {
        let length = usize::try_from(u64::take(cursor)?).ok()?;
        cursor.bytes(length).map(|bytes| Cow::Owned(bytes.to_vec()))
    }
}

/// Declares an enumeration, each value of which is a number in the file and a word for people.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $number:literal $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$variant_doc])* $variant = $number,)* }
        impl $name {
            /// All values.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];
            /// The word for people.
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }
        impl Field for $name {
            fn put(&self, sink: &mut dyn Sink) {
                (*self as u64).put(sink);
            }
            fn take(cursor: &mut Cursor) -> Option<$name> {
                match u64::take(cursor)? { $($number => Some($name::$variant),)* _ => None }
            }
        }
    };
}
words! {
    /// What happened to a chunk.
    Movement {
        /// Brought in because it was touched or acquired.
        Fault = 1 "fault",
        /// Left its place in the region.
        Eviction = 2 "eviction",
        /// Brought in ahead of need.
        Prefetch = 3 "prefetch",
        /// Went from RAM, where it was encoded, to the disk.
        Spill = 4 "spill",
    }
}
words! {
    /// A kind of memory.
    Memory {
        /// Plain blocks.
        Plain = 1 "plain",
        /// Tensors.
        Geometric = 2 "geometric",
        /// Tiered memory with a tolerance.
        Hierarchical = 3 "hierarchical",
        /// Tiered memory without loss.
        Streaming = 4 "streaming",
    }
}
words! {
    /// Where a chunk came from, or went.
    Tier {
        /// Nowhere: all of it is zero.
        Zero = 1 "zero",
        /// Read ahead.
        Staged = 2 "staged",
        /// Encoded in RAM.
        Warm = 3 "warm",
        /// In the spill file.
        Cold = 4 "cold",
    }
}
words! {
    /// How pages move.
    Mechanism {
        /// userfaultfd, pages moved.
        Move = 1 "userfaultfd",
        /// userfaultfd, pages copied.
        Copy = 2 "userfaultfd-copy",
        /// SIGSEGV and mremap.
        Signal = 3 "signal",
        /// No mechanism: only acquired chunks come in.
        None = 4 "none",
    }
}

/// Declares the records: kind, name, fields.
macro_rules! records {
    ($($(#[$doc:meta])* $kind:literal $name:ident $(<$life:lifetime>)? {
        $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
    })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq)]
            pub struct $name $(<$life>)? { $($(#[$field_doc])* pub $field: $type,)* }
            impl<'a> From<$name $(<$life>)?> for Record<'a> {
                fn from(record: $name $(<$life>)?) -> Record<'a> {
                    Record::$name(record)
                }
            }
        )*
        /// A record.
        #[derive(Clone, Debug, PartialEq)]
        #[expect(missing_docs, reason = "said of each structure")]
        pub enum Record<'a> { $($name($name $(<$life>)?),)* }
        impl Record<'_> {
            /// Encodes the record.
            pub fn put(&self, sink: &mut dyn Sink) {
                match self {
                    $(Record::$name(record) => {
                        sink.put(&[$kind]);
                        $(Field::put(&record.$field, sink);)*
                    })*
                }
            }
            /// Decodes the next record. `None` if the bytes are not a record.
            pub fn take(cursor: &mut Cursor) -> Option<Record<'static>> {
                match cursor.bytes(1)?[0] {
                    $($kind => Some(Record::$name($name { $($field: Field::take(cursor)?),* })),)*
                    _ => None,
                }
            }
        }
    };
}
records! {
    /// The program that is recorded. This is the first record.
    1 Program<'a> {
        /// Nanoseconds since 1970 when the recording began.
        began: u64,
        /// The number of the process.
        process: u64,
        /// Bytes allocated per sampled allocation, on average.
        interval: u64,
        /// Arguments, separated by zero bytes.
        command: Text<'a>,
    }
    /// A file that code was loaded from.
    2 Module<'a> {
        /// What is added to the file's addresses.
        bias: u64,
        /// First address.
        start: u64,
        /// One past the last.
        end: u64,
        /// Bytes of the file, to know it again.
        size: u64,
        /// When it was changed last, in nanoseconds since 1970.
        modified: u64,
        /// The path of the file.
        path: Text<'a>,
    }
    /// Figures of the whole process at one moment.
    3 Sample<'a> {
        /// When.
        time: u64,
        /// Resident memory of the process, of which the library's is a part.
        resident: u64,
        /// Live bytes of all heaps, without tiered memory.
        live: u64,
        /// Those of them that are tensors.
        tensors: u64,
        /// RAM that heaps hold, chunks in place included.
        held: u64,
        /// Allocations so far.
        allocations: u64,
        /// Frees so far.
        frees: u64,
        /// Streaming memory: allocated, hot, warm, cold.
        streaming: List<'a>,
        /// Hierarchical memory: the same.
        hierarchical: List<'a>,
        /// Chunks put in place so far: touched, acquired or prefetched.
        faults: u64,
        /// Chunks that left, so far.
        evictions: u64,
        /// Chunks brought in ahead of need, so far.
        prefetches: u64,
    }
    /// A chunk came or went.
    #[derive(Copy)]
    4 Moved {
        /// When it began.
        time: u64,
        /// How long it took.
        duration: u64,
        /// The number of the thread that moved it.
        thread: u64,
        /// What happened.
        movement: Movement,
        /// The kind of memory.
        memory: Memory,
        /// Where the chunk came from, or went.
        tier: Tier,
        /// How its pages moved.
        mechanism: Mechanism,
        /// Bytes of the chunk.
        bytes: u64,
        /// Where it begins.
        address: u64,
    }
    /// Two tensors were contracted.
    5 Contracted<'a> {
        /// When it began.
        time: u64,
        /// How long it took.
        duration: u64,
        /// The number of the thread that asked for it.
        thread: u64,
        /// Floating-point operations: 8 a multiply-add.
        flops: u64,
        /// Whether any of the three is in tiered memory.
        tiered: bool,
        /// Sizes of the axes of the result that come from the left tensor.
        rows: List<'a>,
        /// Sizes of those from the right one.
        columns: List<'a>,
        /// Sizes of the axes summed over.
        sums: List<'a>,
    }
    /// A block was allocated that stands for others, too.
    6 Allocated<'a> {
        /// When.
        time: u64,
        /// Where it begins.
        address: u64,
        /// Bytes asked for.
        size: u64,
        /// Bytes it stands for.
        weight: u64,
        /// Its kind; tensors are plain here.
        memory: Memory,
        /// Return addresses, innermost first.
        stack: List<'a>,
    }
    /// A block that had been recorded as allocated was freed, or moved.
    7 Freed {
        /// When.
        time: u64,
        /// Where it began.
        address: u64,
    }
    /// Live blocks of heaps by size.
    8 Sizes<'a> {
        /// When.
        time: u64,
        /// For each size that occurs: its logarithm to base 2, rounded up, then blocks, then bytes.
        classes: List<'a>,
    }
    /// A block that is live at the end. Only the largest are listed.
    9 Live<'a> {
        /// Where it begins.
        address: u64,
        /// Bytes asked for.
        size: u64,
        /// Its kind.
        memory: Memory,
        /// The stack that allocated it, where `UNIMEM_DEBUG=trace` knows it.
        stack: List<'a>,
    }
    /// How many events found no room on their way to the file.
    10 Lost {
        /// When it was noticed.
        time: u64,
        /// How many.
        events: u64,
    }
    /// The end. This is the last record.
    #[derive(Copy)]
    11 End {
        /// When.
        time: u64,
        /// Live blocks, tiered ones included.
        blocks: u64,
        /// Their bytes.
        bytes: u64,
    }
}

/// The file's head.
pub fn head() -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(MAGIC);
    head[8..12].copy_from_slice(&VERSION.to_le_bytes());
    head
}
/// The head of a block, which stands before its records.
pub fn block_head(records: &[u8]) -> [u8; BLOCK_HEAD] {
    let mut head = [0; BLOCK_HEAD];
    head[..4].copy_from_slice(&(records.len() as u32).to_le_bytes());
    head[4..].copy_from_slice(&checksum(records).to_le_bytes());
    head
}
fn checksum(records: &[u8]) -> u32 {
    XxHash3_64::oneshot(records) as u32
}

/// Why a file is no recording.
#[derive(Debug, PartialEq)]
pub enum Damage {
    /// It has no bytes.
    Empty,
    /// It begins with something else.
    NotARecording,
    /// Its version is not the one known here.
    Version(u32),
    /// The block at this byte is not what was written.
    At(usize),
}
impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Damage::Empty => write!(f, "the file is empty"),
            Damage::NotARecording => write!(f, "this is not a recording of unimem"),
            Damage::Version(version) => {
                write!(f, "a recording of version {version}; this command reads version {VERSION}")
            }
            Damage::At(byte) => {
                write!(f, "the recording is damaged: the block at byte {byte} is not what was written")
            }
        }
    }
}

/// Calls `each` with every record of a file, and with the byte at which the record's block begins. Returns whether the
/// file goes on after its last whole block, which means that it was cut off.
pub fn read(file: &[u8], mut each: impl FnMut(Record<'static>, usize)) -> Result<bool, Damage> {
    if file.is_empty() {
        return Err(Damage::Empty);
    }
    if file.len() < HEAD || &file[..8] != MAGIC {
        return Err(Damage::NotARecording);
    }
    let number = |at: usize| file[at..at + 4].iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
    if number(8) != VERSION {
        return Err(Damage::Version(number(8)));
    }
    let mut at = HEAD;
    while file.len() - at >= BLOCK_HEAD {
        let length = number(at) as usize;
        if length > LARGEST_BLOCK {
            return Err(Damage::At(at));
        }
        let Some(records) = file.get(at + BLOCK_HEAD..at + BLOCK_HEAD + length) else { return Ok(true) };
        if checksum(records) != number(at + 4) {
            return Err(Damage::At(at));
        }
        let mut cursor = Cursor(records);
        while !cursor.0.is_empty() {
            each(Record::take(&mut cursor).ok_or(Damage::At(at))?, at);
        }
        at += BLOCK_HEAD + length;
    }
    Ok(at < file.len())
}

#[cfg(test)]
mod tests;
