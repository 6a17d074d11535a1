//! Atomics that are the real ones in the library and the model checker's (loom) in models, so that a model runs the very code
//! of a protocol, with its orders.
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

/// An atomic and the fence that goes with it: as the standard library has them.
#[expect(missing_docs, reason = "the standard library describes them")]
pub trait Atomic {
    type Value: Copy + PartialEq;
    fn load(&self, order: Ordering) -> Self::Value;
    fn store(&self, value: Self::Value, order: Ordering);
    fn swap(&self, value: Self::Value, order: Ordering) -> Self::Value;
    fn compare_exchange(
        &self,
        current: Self::Value,
        new: Self::Value,
        success: Ordering,
        failure: Ordering,
    ) -> Result<Self::Value, Self::Value>;
    fn fence(order: Ordering);
}
macro_rules! atomic {
    ($fence:path: $($atomic:ty, $value:ty $(, $parameter:ident)?;)*) => {$(
        impl$(<$parameter>)? Atomic for $atomic {
            type Value = $value;
            #[inline(always)]
            fn load(&self, order: Ordering) -> $value {
                self.load(order)
            }
            #[inline(always)]
            fn store(&self, value: $value, order: Ordering) {
                self.store(value, order);
            }
            #[inline(always)]
            fn swap(&self, value: $value, order: Ordering) -> $value {
                self.swap(value, order)
            }
            #[inline(always)]
            fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(current, new, success, failure)
            }
            #[inline(always)]
            fn fence(order: Ordering) {
                $fence(order);
            }
        }
    )*};
}
atomic!(core::sync::atomic::fence: AtomicBool, bool; AtomicU32, u32; AtomicUsize, usize; AtomicPtr<T>, *mut T, T;);
#[cfg(test)]
mod of_models {
    use super::{Atomic, Ordering};
    use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, fence};
    atomic!(fence: AtomicBool, bool; AtomicU32, u32; AtomicUsize, usize; AtomicPtr<T>, *mut T, T;);
}
