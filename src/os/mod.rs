//! The operating system: mapped memory, locks, threads, fork. The only layer that makes system calls.
pub mod fork;
pub mod lock;
pub mod map;
pub mod numa;

pub mod records;
pub mod thread;
