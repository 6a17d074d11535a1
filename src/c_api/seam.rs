//! Calls that cross from the functions of one legacy file to those of another.
//!
//! If a program still contains one of the legacy C files, the final link takes its definitions instead of ours. A call
//! from Rust to Rust would be bound to ours before that, and the program would have two singletons. So these calls
//! leave Rust through `seam.c`, and reach whichever definition the link chose. All other calls go straight to inner
//! Rust functions.
use super::legacy_types::AdvancedMemorySystem;
use core::ffi::c_void;

mod outside {
    use super::*;
    unsafe extern "C" {
        #[link_name = "unimem_seam_get_global_memory_system"]
        pub safe fn get_global_memory_system() -> *mut AdvancedMemorySystem;
        #[link_name = "unimem_seam_register_memory_system"]
        pub fn register_memory_system(system: *mut AdvancedMemorySystem);
        #[link_name = "unimem_seam_unregister_memory_system"]
        pub fn unregister_memory_system(system: *mut AdvancedMemorySystem);
        #[link_name = "unimem_seam_is_memory_block_tracked"]
        pub safe fn is_memory_block_tracked(ptr: *mut c_void) -> bool;
        #[link_name = "unimem_seam_untrack_memory_block"]
        pub safe fn untrack_memory_block(ptr: *mut c_void) -> bool;
        #[link_name = "unimem_seam_memory_allocate"]
        pub fn memory_allocate(
            system: *mut AdvancedMemorySystem,
            size: usize,
            alignment: usize,
        ) -> *mut c_void;
        #[link_name = "unimem_seam_memory_free"]
        pub fn memory_free(system: *mut AdvancedMemorySystem, ptr: *mut c_void);
    }
}
pub use outside::*;
