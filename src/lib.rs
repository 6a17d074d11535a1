//! libunimem: one memory system for tensor-network programs.
pub mod error;
pub mod tensor;
