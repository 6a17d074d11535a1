//! The operating system: mapped memory, locks, threads, fork. The only layer that makes system calls, and all of those
//! that can fail go through one file, `system`, where tests make them fail.
pub mod environment;
pub mod fork;
pub mod injection;
pub mod lock;
pub mod map;
pub mod numa;
pub mod records;
pub mod system;
pub mod thread;
