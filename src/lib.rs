//! libunimem: one memory system for tensor-network programs.
//!
//! Modules point downwards only: the C boundary, then tensor networks, then instances, then the heap, then the
//! operating system. Recordings lie between heap and operating system.
pub mod advanced;
pub mod c_api;
mod defect;
pub mod error;
pub mod heap;
pub mod instance;
pub mod log;
pub mod os;
pub mod recording;
pub mod singleton;
pub mod tensor;
pub mod tiers;
