//! libunimem: one memory system for tensor-network programs.
//!
//! Rust programs use what this page shows: [`Interface`], [`Tensor`] and [`Tiered`]. C programs use `include/unimem.h`.
//! The modules belong to the library; they are hidden here and may change with every version. Their functions take
//! plain addresses, and can free what a [`Tensor`] still holds.
//!
//! A module uses only modules below it. From the top: the C and Rust boundaries (`c_api`, `rust_api`), `tensor`
//! networks, the surfaces (`instance`, `advanced`, `singleton`), `tiers`, the `heap`, `recording`, the operating system
//! (`os`). docs/design.md has a page for each; docs/contributing.md says where a change goes.
#[doc(hidden)]
pub mod advanced;
#[doc(hidden)]
pub mod c_api;
mod defect;
#[doc(hidden)]
pub mod error;
#[doc(hidden)]
pub mod heap;
#[doc(hidden)]
pub mod instance;
mod load;
#[doc(hidden)]
pub mod log;
#[doc(hidden)]
pub mod os;
#[doc(hidden)]
pub mod recording;
pub mod rust_api;
#[doc(hidden)]
pub mod singleton;
#[doc(hidden)]
pub mod tensor;
mod text;
#[doc(hidden)]
pub mod tiers;

pub use error::{Error, Result};
pub use heap::HeapStatistics as Statistics;
pub use instance::config::Config;
pub use rust_api::{Chunk, ChunkMut, Interface, Tensor, Tiered, last_error_message};
pub use tiers::{chunks::Advice, residency::Residency};
