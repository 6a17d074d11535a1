//! libunimem: one memory system for tensor-network programs.
//!
//! Rust programs use [`Interface`], [`Tensor`] and [`Tiered`]; C programs `include/unimem.h`, whose functions are in
//! [`c_api`]. The other modules are the library's own, and may change with every version.
//!
//! Modules point downwards only: the C and Rust boundaries, then tensor networks, then instances, then the heap, then
//! the operating system.
pub mod advanced;
pub mod c_api;
mod defect;
pub mod error;
pub mod heap;
pub mod instance;
pub mod log;
pub mod os;
pub mod rust_api;
pub mod singleton;
pub mod tensor;
pub mod tiers;

pub use instance::config::Config;
pub use rust_api::{Interface, Tensor, Tiered};
