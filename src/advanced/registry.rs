//! Records that C holds by address. They are blocks of a heap of their own, which knows whether an address is that of a
//! live block. So a wild pointer, or a pointer to a record that is gone, is refused instead of followed.
use super::Structure;
use crate::error::Result;
use crate::heap::{Block, Heap, HeapParams};
use crate::os::records::{self, Records};
use allocator_api2::vec::Vec;
use core::marker::PhantomData;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, Ordering::*};

/// All live records of type `T`.
pub struct Registry<T> {
    heap: AtomicPtr<Heap>,
    /// The newest record, while it lives. Most programs have only one, which a single comparison finds.
    newest: AtomicPtr<T>,
    records: PhantomData<fn() -> T>,
}

impl<T: Sync + 'static> Default for Registry<T> {
    fn default() -> Registry<T> {
        Registry::new()
    }
}
impl<T: Sync + 'static> Registry<T> {
    /// No records.
    pub const fn new() -> Registry<T> {
        Registry {
            heap: AtomicPtr::new(null_mut()),
            newest: AtomicPtr::new(null_mut()),
            records: PhantomData,
        }
    }
    fn known_heap(&self) -> Option<&'static Heap> {
        // SAFETY: heaps are never unmapped, and only `heap` below stores here.
        unsafe { self.heap.load(Acquire).as_ref() }
    }
    fn heap(&self) -> Result<&'static Heap> {
        if let Some(heap) = self.known_heap() {
            return Ok(heap);
        }
        let made = Heap::create(&HeapParams::default())?;
        let made_pointer = core::ptr::from_ref(made).cast_mut();
        match self.heap.compare_exchange(null_mut(), made_pointer, AcqRel, Acquire) {
            Ok(_) => Ok(made),
            Err(_) => {
                made.destroy();
                self.heap()
            }
        }
    }
    /// Makes a record. Like [`remove`](Self::remove) it needs the structure lock, so that [`all`](Self::all) finds no
    /// record half made.
    pub fn insert(&self, value: T, _structure: &Structure) -> Result<&'static T> {
        const { assert!(align_of::<T>() <= 64) };
        let record = self.heap()?.allocate(size_of::<T>(), 64)?.cast::<T>();
        record.as_ptr().expose_provenance(); // C passes only the address back
        // SAFETY: the block is fresh, and has this size and alignment.
        let inserted = unsafe {
            record.write(value);
            record.as_ref()
        };
        self.newest.store(record.as_ptr(), Release);
        Ok(inserted)
    }
    /// The live record at `address`. It must not be used after it is removed. The program sees to that: it must not
    /// destroy what its other threads use.
    #[inline]
    pub fn get(&self, address: *const ()) -> Option<&'static T> {
        let newest = self.newest.load(Acquire);
        if !newest.is_null() && newest.addr() == address.addr() {
            // SAFETY: `insert` stored the pointer, and `remove` clears it before the record goes.
            return Some(unsafe { &*newest });
        }
        self.known_heap()?.block(address.cast())?;
        // SAFETY: a live block of this heap starts there, and all its blocks are records that `insert` made.
        Some(unsafe { &*core::ptr::with_exposed_provenance::<T>(address.addr()) })
    }
    /// All live records, as far as there is memory for the list.
    pub fn all(&self, _structure: &Structure) -> Vec<&'static T, Records> {
        let (mut blocks, mut all) = (Vec::new_in(Records), Vec::new_in(Records));
        if let Some(heap) = self.known_heap() {
            heap.list_live(&mut blocks);
        }
        let record = |block: &Block| self.get(core::ptr::with_exposed_provenance(block.start));
        blocks.iter().filter_map(record).for_each(|record| records::push(&mut all, record));
        all
    }
    /// Removes a record. False if there is none.
    ///
    /// # Safety
    /// Nobody uses the record any more.
    pub unsafe fn remove(&self, record: NonNull<T>, _structure: &Structure) -> bool {
        if self.get(record.as_ptr().cast_const().cast()).is_none() {
            return false;
        }
        // Another record may be the newest by now.
        let _ = self.newest.compare_exchange(record.as_ptr(), null_mut(), AcqRel, Relaxed);
        // SAFETY: the record is live, and nobody else uses it, by the caller's promise.
        unsafe { record.drop_in_place() };
        self.known_heap().is_some_and(|heap| heap.free(record.as_ptr().cast()).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advanced::structure;
    #[test]
    fn only_live_records_are_found() {
        static REGISTRY: Registry<u64> = Registry::new();
        let address = |record: &u64| core::ptr::from_ref(record).cast::<()>();
        assert!(REGISTRY.get(address(&7)).is_none());
        let lock = structure();
        let (first, second) = (REGISTRY.insert(1, &lock).unwrap(), REGISTRY.insert(2, &lock).unwrap());
        assert_eq!(REGISTRY.all(&lock).len(), 2);
        assert_eq!((REGISTRY.get(address(first)), REGISTRY.get(address(second))), (Some(&1), Some(&2)));
        assert!(REGISTRY.get(address(first).wrapping_byte_add(8)).is_none());
        assert!(REGISTRY.get(core::ptr::without_provenance(usize::MAX)).is_none());
        // SAFETY: not used afterwards.
        assert!(unsafe { REGISTRY.remove(NonNull::from(first), &lock) });
        assert!(REGISTRY.get(address(first)).is_none());
        // SAFETY: as above.
        assert!(!unsafe { REGISTRY.remove(NonNull::from(first), &lock) });
        assert_eq!(REGISTRY.all(&lock)[..], [&2]);
        assert_eq!(REGISTRY.get(address(second)), Some(&2));
    }
}
