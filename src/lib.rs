//! libunimem: one memory system for tensor-network programs.
pub mod c_api;
pub mod error;
pub mod tensor;
