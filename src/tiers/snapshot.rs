//! Values that are replaced, never changed: a reader takes the current one, and can go on using it.
//!
//! The lock is held only while a value is taken or replaced. Nothing is allocated or freed meanwhile, because malloc may
//! be this library's own heap (docs/contributing.md).
use crate::os::lock::Mutex;
use std::sync::Arc;

/// The current value. None stands for the default value in a static, which cannot be made with an `Arc`.
pub struct Snapshot<T>(Mutex<Option<Arc<T>>>);
impl<T: Default> Default for Snapshot<T> {
    #[track_caller]
    fn default() -> Snapshot<T> {
        Snapshot(Mutex::sheltered(Some(Arc::default())))
    }
}
impl<T> Snapshot<T> {
    /// The default value, for a static.
    #[track_caller]
    pub const fn new() -> Snapshot<T> {
        Snapshot(Mutex::sheltered(None))
    }
    /// Runs `look` on the current value, with the lock held. It is not called for the default value of a static.
    pub fn look<R>(&self, look: impl FnOnce(&T) -> Option<R>) -> Option<R> {
        self.0.lock().as_deref().and_then(look)
    }
}
impl<T: Clone + Default> Snapshot<T> {
    /// The current value.
    pub fn get(&self) -> Arc<T> {
        let current = self.0.lock().clone();
        current.unwrap_or_default()
    }
    /// Replaces the value by a changed copy, and returns what `edit` returned for that. Other threads may replace it
    /// meanwhile; then `edit` runs again, on a copy of theirs.
    pub fn change<R>(&self, edit: impl Fn(&mut T) -> R) -> R {
        loop {
            let old = self.0.lock().clone();
            let mut copy = old.as_deref().cloned().unwrap_or_default();
            let result = edit(&mut copy);
            let new = Some(Arc::new(copy));
            let mut current = self.0.lock();
            if current.as_ref().map(Arc::as_ptr) == old.as_ref().map(Arc::as_ptr) {
                let replaced = core::mem::replace(&mut *current, new);
                drop(current);
                drop(replaced);
                return result;
            }
        }
    }
}
