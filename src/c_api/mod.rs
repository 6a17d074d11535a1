//! The C boundary: thin `extern "C"` functions over safe Rust.
//! (Stand-in of this branch for the boundary's guard and for the interfaces of pools and systems.)
pub mod tensor_types;
pub mod tree_tensor_network;

use crate::error::{Error, Result};

/// Runs a call: failures and panics become this thread's last error and `otherwise`.
pub fn guard<T>(otherwise: T, call: impl FnOnce() -> Result<T>) -> T {
    match std::panic::catch_unwind(core::panic::AssertUnwindSafe(call)) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => {
            error.report();
            otherwise
        }
        Err(_) => {
            Error::Internal.report();
            otherwise
        }
    }
}
