//! Tiered memory: ordinary pointers to more memory than there is RAM.
//!
//! A [`piece::Piece`] is what one allocation gave the program: a [`region::Region`], which is a range of addresses cut into
//! chunks, or one chunk of a region that small pieces share. Each chunk is hot (in place), warm (encoded in
//! RAM), cold (encoded in a spill file) or zero (never written). Two policies share the [`engine::Engine`]: streaming
//! memory is lossless, hierarchical memory may differ by a tolerance once it has been encoded. An engine belongs to
//! one instance and lives on that instance's budget.
//!
//! Read state.rs first: it states the protocol of a chunk. fault/pages.rs states how pages move.
pub mod budget;
mod by_address;
mod by_age;
mod chunk_error;
pub mod chunks;
mod claims;
mod clear_share;
pub mod codec;
pub mod engine;
mod evict;
pub mod fault;
mod files;
pub mod fill;
mod fork;
pub(crate) mod gate;
mod mapping;
mod mappings;
mod moving;
pub mod piece;
mod reclaim;
mod recorded;
pub mod region;
pub mod registry;
mod regret;
pub mod residency;
mod resize;
mod slab;
mod snapshot;
pub mod spill;
mod spill_space;
mod staging;
mod state;
mod stock;
mod store;
mod sweep;
pub(crate) mod sync_points;
mod table;
mod tail;
mod transit;
mod waiting;
mod warm;
pub(crate) mod word;
mod workers;
mod workspace;

pub(crate) use fork::{HOOKS, report};

#[cfg(test)]
pub(crate) mod tests;
