//! Tree tensor networks: dense complex tensors joined by bonds, and everything that contracts them.
//!
//! From the bottom up: `kernel` multiplies two strided tensors; `memory` wraps the caller's table of allocation
//! functions; `network` holds nodes and bonds; `pair`, `tree`, `adapt`, `convert` and `stream` are the operations.
//! One thread at a time uses a network. Any number of threads may use different networks.
pub mod adapt;
pub mod convert;
pub mod kernel;
pub mod live;
pub mod memory;
pub mod network;
pub mod out;
pub mod pair;
pub mod progress;
pub mod records;
pub mod shape;
pub mod stream;
#[cfg(test)]
mod testing;
pub mod tiled;
pub mod tree;

/// An element: 32-bit real and imaginary part, laid out as C's `ComplexFloat`.
pub type Complex = faer::c32;
