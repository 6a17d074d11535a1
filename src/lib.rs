//! libunimem: one memory system for tensor-network programs.
