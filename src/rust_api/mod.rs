//! The library for Rust programs: what C has, with lifetimes and types in place of promises.
//!
//! [`Interface`] is an instance, and an allocator for containers. [`Tensor`] is a dense tensor in an instance.
//! [`Tiered`] is memory that may be larger than RAM. Whatever lives in an instance keeps it open.
//!
//! ```
//! use unimem::{Config, Interface};
//!
//! # fn main() -> Result<(), unimem::Error> {
//! let memory = Interface::open(Config { max_size: 64 << 20, ..Config::default() })?;
//! let mut tensor = memory.tensor::<f32>(&[3, 4, 5])?;
//! tensor[[1, 2, 3]] = 1.5;
//! assert_eq!(tensor.iter().sum::<f32>(), 1.5);
//! assert_eq!(memory.statistics().live, 3 * 4 * 5 * 4);
//! # Ok(())
//! # }
//! ```
//!
//! Containers take an instance as their allocator through the traits of `allocator-api2`, because those of the standard
//! library are not stable. `allocator-api2` has containers of its own; `hashbrown` and others accept its traits too.
//!
//! ```
//! use allocator_api2::vec::Vec;
//! use unimem::Interface;
//!
//! let memory = Interface::open(Default::default()).unwrap();
//! let mut numbers = Vec::new_in(memory.clone());
//! numbers.extend(0..1000u64);
//! assert!(memory.statistics().live >= 8000);
//! drop(numbers);
//! assert_eq!(memory.statistics().live, 0);
//! ```
mod tensor;
mod tiered;

pub use tensor::Tensor;
pub use tiered::{Chunk, ChunkMut, Tiered};

use crate::c_api::{tables, types::unified_memory_interface_t};
use crate::error::{self, Result, fail};
use crate::heap::HeapStatistics;
use crate::instance::{Instance, config::Config, slots};
use allocator_api2::alloc::{AllocError, Allocator, Layout};
use core::ptr::NonNull;
use std::sync::Arc;

/// An instance of the library. Its clones share it. It is closed when the last clone and everything allocated in it are
/// gone.
#[derive(Clone)]
pub struct Interface {
    opened: Arc<Opened>,
}

struct Opened {
    slot: usize,
    instance: &'static Instance,
}
impl Drop for Opened {
    fn drop(&mut self) {
        if self.slot != slots::GLOBAL {
            // Only what was leaked on purpose can still be live. Closing reports it to the log, as for C.
            let closed = slots::close(self.slot);
            debug_assert!(closed.is_ok(), "an instance opened here is closed here");
        }
    }
}

impl Interface {
    /// Opens an instance. `InvalidArgument` for an impossible configuration, `Limit` if no more can be opened,
    /// `OutOfMemory`.
    pub fn open(config: Config) -> Result<Interface> {
        told(config.checked(true).and_then(slots::open))
            .and_then(|slot| told(Interface::at(slot, slots::open_at(slot))))
    }
    /// The instance of the whole process. The environment configures it, and it is never closed.
    pub fn global() -> Result<Interface> {
        told(Interface::at(slots::GLOBAL, slots::global()))
    }
    fn at(slot: usize, instance: Result<&'static Instance>) -> Result<Interface> {
        Ok(Interface { opened: Arc::new(Opened { slot, instance: instance? }) })
    }
    /// The table of functions that C calls. It is valid as long as a clone of this instance lives.
    pub fn as_ptr(&self) -> *mut unified_memory_interface_t {
        tables::of_slot(self.opened.slot)
    }
    /// Allocates a dense row-major tensor of zeros. A large tensor asks for huge pages.
    pub fn tensor<T: bytemuck::Pod>(&self, dimensions: &[usize]) -> Result<Tensor<T>> {
        Tensor::zeros(self, dimensions)
    }
    /// Allocates `length` zeros that may be larger than RAM, in chunks of `chunk_size` bytes (0: the configured size).
    /// Every byte comes back as it was written.
    pub fn streaming<T: bytemuck::Pod>(&self, length: usize, chunk_size: usize) -> Result<Tiered<T>> {
        told(Tiered::new(self, length, |bytes| self.instance().allocate_streaming(bytes, chunk_size)))
    }
    /// Allocates `length` zeros that may be compressed. They are made of float32 numbers, each of which comes back
    /// within `tolerance` (an absolute error; negative: the configured one).
    pub fn hierarchical<T: bytemuck::Pod>(&self, length: usize, tolerance: f64) -> Result<Tiered<T>> {
        told(Tiered::new(self, length, |bytes| self.instance().allocate_hierarchical(bytes, tolerance)))
    }
    /// The statistics of the instance.
    pub fn statistics(&self) -> HeapStatistics {
        self.instance().statistics()
    }
    /// Whether `size` bytes would fit the budget now.
    pub fn can_allocate(&self, size: usize) -> bool {
        self.instance().can_allocate(size)
    }
    /// Returns unused memory to the system. Gives the number of bytes.
    pub fn trim(&self) -> usize {
        self.instance().trim()
    }
    fn instance(&self) -> &'static Instance {
        self.opened.instance
    }
    /// Frees a block of this instance. Nobody may use it any more.
    fn release(&self, block: NonNull<u8>) {
        let freed = self.instance().free(block.as_ptr());
        debug_assert!(freed.is_ok(), "a block is freed where it was made");
    }
}

/// Says in words what the calling thread's last failed call was about; empty if none has failed. The error itself says
/// only what kind it is. This is C's `unimem_last_error_message`.
///
/// ```
/// let error = unimem::Interface::global().unwrap().tensor::<f32>(&[3, 0]).unwrap_err();
/// assert_eq!(error, unimem::Error::InvalidArgument);
/// assert!(unimem::last_error_message().contains("dimension"));
/// ```
pub fn last_error_message() -> String {
    // SAFETY: the text is zero-terminated, and stays until this thread's next failure.
    unsafe { core::ffi::CStr::from_ptr(error::last_message()) }.to_string_lossy().into_owned()
}

/// Makes a failure the thread's last error, as the functions of `c_api` do.
fn told<T>(result: Result<T>) -> Result<T> {
    result.inspect_err(|error| error.report())
}

/// Number of bytes of `length` elements.
fn bytes_of<T>(length: usize) -> Result<usize> {
    match length.checked_mul(size_of::<T>()) {
        Some(bytes) => Ok(bytes),
        None => fail!(InvalidArgument, "{length} elements of {} bytes", size_of::<T>()),
    }
}

// SAFETY: a block stays where it is until it is freed. Clones are the same instance, which lives as long as any of
// them.
unsafe impl Allocator for Interface {
    fn allocate(&self, layout: Layout) -> core::result::Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            let nowhere =
                NonNull::new(core::ptr::without_provenance_mut(layout.align())).ok_or(AllocError)?;
            return Ok(NonNull::slice_from_raw_parts(nowhere, 0));
        }
        let block = self.instance().allocate(layout.size(), layout.align()).map_err(|_| AllocError)?;
        Ok(NonNull::slice_from_raw_parts(block, layout.size()))
    }
    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        if layout.size() != 0 {
            self.release(block);
        }
    }
    unsafe fn grow(
        &self,
        block: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> core::result::Result<NonNull<[u8]>, AllocError> {
        if old.size() == 0 || new.align() > old.align() {
            let grown = self.allocate(new)?;
            // SAFETY: both blocks have at least the bytes of the old layout, and they are different. The old one is not
            // used any more.
            unsafe {
                grown.cast::<u8>().copy_from_nonoverlapping(block, old.size());
                self.deallocate(block, old);
            }
            return Ok(grown);
        }
        // The instance grows large blocks without a copy, and keeps the alignment.
        match self.instance().reallocate(block.as_ptr(), new.size()) {
            Ok(Some(grown)) => Ok(NonNull::slice_from_raw_parts(grown, new.size())),
            _ => Err(AllocError),
        }
    }
}

/// Makes the documentation tests run the examples of the guide too.
#[cfg(doctest)]
#[doc = include_str!("../../docs/rust.md")]
struct Guide;

#[cfg(test)]
mod tests;
