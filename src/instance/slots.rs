//! The slots of instances. There are as many as tables of functions (c_api/tables.rs).
//!
//! - A slot belongs to one instance from opening to closing, and then to the next.
//! - Calls reach the instance of a slot without a lock. Opening and closing take the lock of this file.
//! - A caller must not use an instance while another thread closes it; that is not checked. Closing it twice is checked
//!   and refused. It happens easily: when two owners both clean up, or when a program's callback is told of the leaks
//!   and closes the instance again.
//!
//! # Protocol
//! A [`Slot`] has two words.
//!
//! | word | changes | by |
//! | --- | --- | --- |
//! | the instance | from null to an instance that is complete | whoever has the lock |
//! | | back to null | whoever has the lock, and has begun to close it |
//! | whether it is being closed | to true | one thread at a time, without the lock |
//! | | to false | that thread, under the lock, when the instance has left the slot |
//!
//! So a thread that begins to close a slot finds there what the last one that did so has left: nothing, or the next instance.
//! The model at the end of this file tries all interleavings.
use super::config::Config;
use super::{Instance, Whole};
use crate::error::{Result, fail};
use crate::heap::fast::NO_HEAP;
use crate::heap::{Heap, HeapParams, RESERVED, debug};
use crate::log::{QuietGuard, lock_quietly};
use crate::os::atomic::Atomic;
use crate::os::lock::Mutex;
use crate::os::{fork, fork::AtFork, records::Records};
use allocator_api2::boxed::Box;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::*};

/// Number of slots.
pub const SLOTS: usize = 160;
/// The slot of the global instance.
pub const GLOBAL: usize = 0;
/// Slots of the instances that programs open. The rest is for pools and systems.
const OPENED: core::ops::Range<usize> = 1..RESERVED;
const ADOPTED: core::ops::Range<usize> = RESERVED..SLOTS;

/// See the module's comment.
struct Slot<P = AtomicPtr<Instance>, B = AtomicBool> {
    instance: P,
    is_closing: B,
}
impl<T, P: Atomic<Value = *mut T>, B: Atomic<Value = bool>> Slot<P, B> {
    /// The instance, or null.
    #[inline(always)]
    fn get(&self) -> *mut T {
        self.instance.load(Acquire)
    }
    /// Puts an instance that is complete into the slot, which is empty. The lock is held.
    fn put(&self, instance: *mut T) {
        self.instance.store(instance, Release);
    }
    /// Takes the instance out. The lock is held, and orders this.
    fn take(&self) -> *mut T {
        self.instance.swap(null_mut(), Relaxed)
    }
    /// Whether the caller may close what is in the slot, as nobody else does.
    fn begin_closing(&self) -> bool {
        !self.is_closing.swap(true, Acquire)
    }
    /// Ends what [`Slot::begin_closing`] began. The lock is held.
    fn end_closing(&self) {
        self.is_closing.store(false, Release);
    }
}
static ALL: [Slot; SLOTS] =
    [const { Slot { instance: AtomicPtr::new(null_mut()), is_closing: AtomicBool::new(false) } }; SLOTS];
/// Ids of the heaps in the slots of pools and systems.
static HEAP_IDS: [AtomicUsize; SLOTS - RESERVED] = [const { AtomicUsize::new(NO_HEAP) }; SLOTS - RESERVED];
/// A bit that is set in such an id while the heap is guarding (heap/guarded.rs). Fast paths know no heap with that number.
const GUARDING: usize = 1 << 62;
static LOCK: Mutex<()> = Mutex::new(());

/// Takes the lock. Messages wait until it is released, because the program's callback may open and close instances.
fn lock() -> QuietGuard<'static, ()> {
    lock_quietly(&LOCK)
}

/// Id of the heap in a slot, for heap/fast.rs; that of no heap while it is guarding. The heap of an opened instance has
/// the number of its slot.
#[inline(always)]
pub fn heap_id(slot: usize) -> usize {
    if slot < RESERVED { slot } else { HEAP_IDS[slot - RESERVED].load(Relaxed) }
}

/// Bytes before each block of the heap in a slot, if they are the same for every heap that can be there.
#[inline(always)]
pub const fn prefix(slot: usize) -> Option<usize> {
    if slot < RESERVED { Some(0) } else { None }
}

/// See load.rs.
pub(crate) static HOOKS: fork::Hooks = fork::Hooks {
    prepare: || core::mem::forget(LOCK.lock()),
    parent: unlock,
    child: || {
        // The parent's other threads do not exist here, so the instances that they were closing stay open.
        ALL.iter().for_each(Slot::end_closing);
        unlock();
    },
};
fn unlock() {
    // SAFETY: `prepare` has taken the lock and forgotten its guard before this runs.
    unsafe { LOCK.force_unlock() }
}
/// See load.rs.
pub(crate) static TRACKING_HOOKS: fork::Hooks = fork::Hooks {
    prepare: || all().for_each(|instance| instance.foreign.prepare()),
    parent: unlock_tracking,
    child: unlock_tracking,
};
fn unlock_tracking() {
    // SAFETY: `prepare` locked the tables of the same instances. No instance opens or closes in between, because the
    // lock of the slots is held.
    all().for_each(|instance| unsafe { instance.foreign.parent() });
}
fn all() -> impl Iterator<Item = &'static Instance> {
    (0..SLOTS).filter_map(get)
}

/// The instance in a slot, if it is open.
#[inline(always)]
pub fn get(slot: usize) -> Option<&'static Instance> {
    // SAFETY: an instance lives until it is closed, and the contract forbids closing it while it is in use.
    unsafe { ALL[slot].get().as_ref() }
}
/// The instance in a slot, or the error for one that is closed.
#[inline(always)]
pub fn open_at(slot: usize) -> Result<&'static Instance> {
    match get(slot) {
        Some(instance) => Ok(instance),
        None if slot == GLOBAL => global(),
        None => fail!(InvalidArgument, "the instance is closed"),
    }
}

fn put(
    slot: usize,
    heap: &'static Heap,
    config: Config,
    whole: Option<&'static dyn Whole>,
) -> Result<&'static Instance> {
    // In a record, because a failure of malloc would end the program.
    let Ok(instance) = Box::try_new_in(Instance::new(heap, config, whole), Records) else {
        return fail!(OutOfMemory, "no memory for an instance");
    };
    let instance = Box::leak(instance);
    ALL[slot].put(instance);
    if slot >= RESERVED {
        note_id(slot, heap);
    }
    Ok(instance)
}
/// Stores what fast paths find of the heap in the slot of a pool or system. The lock is held.
fn note_id(slot: usize, heap: &Heap) {
    let guarding = if heap.is_guarding() { GUARDING } else { 0 };
    HEAP_IDS[slot - RESERVED].store(heap.id() | guarding, Relaxed);
}
/// Tells the slot of a heap, if it has one, that the heap is guarding from now on, or no longer.
pub fn guarding_changed(heap: &Heap) {
    let _lock = lock();
    if let Some(slot) = slot_of(heap) {
        note_id(slot, heap);
    }
}
/// Creates a heap and the instance in a slot.
fn make(slot: usize, config: Config) -> Result<&'static Instance> {
    let heap = Heap::create(&heap_params(&config, slot))?;
    put(slot, heap, config, None).inspect_err(|_| _ = heap.destroy())
}
fn heap_params(config: &Config, slot: usize) -> HeapParams {
    HeapParams { id: Some(slot), ..config.heap_params() }
}
fn free_slot(range: core::ops::Range<usize>) -> Result<usize> {
    let count = range.len();
    match range.into_iter().find(|&slot| get(slot).is_none()) {
        Some(slot) => Ok(slot),
        None => fail!(Limit, "{count} instances are open already"),
    }
}

/// The global instance, which is created on first use.
pub fn global() -> Result<&'static Instance> {
    if let Some(instance) = get(GLOBAL) {
        return Ok(instance);
    }
    // Before the lock: what cannot be understood is reported to the program's callback, which may use the library.
    let config = Config::from_environment();
    debug::modes();
    let _lock = lock();
    if let Some(instance) = get(GLOBAL) {
        return Ok(instance);
    }
    make(GLOBAL, config)
}

/// Whether `f` is true for any open instance. No instance opens or closes meanwhile.
pub fn for_any(f: impl Fn(&'static Instance) -> bool) -> bool {
    let _lock = lock();
    all().any(f)
}

/// Opens an instance. Gives its slot.
pub fn open(config: Config) -> Result<usize> {
    debug::modes(); // before the lock, as in `global`
    let _lock = lock();
    let slot = free_slot(OPENED)?;
    make(slot, config)?;
    Ok(slot)
}

/// Makes the heap of a pool or system an instance too, and gives its slot. It is the same slot each time. `whole` is what
/// the heap is the main one of.
pub fn adopt(heap: &'static Heap, whole: Option<&'static dyn Whole>) -> Result<usize> {
    let _lock = lock();
    if let Some(slot) = slot_of(heap) {
        return Ok(slot);
    }
    let slot = free_slot(ADOPTED)?;
    put(slot, heap, Config { max_size: heap.limit(), ..Config::default() }, whole)?;
    Ok(slot)
}

/// The slot of the heap of a pool or system, if it has one. No lock is needed, because no other heap has this id while
/// the heap lives.
fn slot_of(heap: &Heap) -> Option<usize> {
    ADOPTED.into_iter().find(|&slot| heap_id(slot) & !GUARDING == heap.id())
}
/// The instance of the heap of a pool or system, if [`adopt`] was called for it.
pub fn adopted(heap: &Heap) -> Option<&'static Instance> {
    slot_of(heap).and_then(get)
}

/// Closes the slot of a heap that its owner is about to end. Tracked blocks and tiered memory that is live are reported
/// to the log.
pub fn disown(heap: &'static Heap) {
    let Some(slot) = slot_of(heap) else { return };
    // The instance cannot end meanwhile, because only the owner of this heap ends it.
    if let Some(instance) = get(slot) {
        instance.tiered.tell_overruns();
        instance.report_leaks_beside_blocks();
    }
    let _lock = lock();
    // SAFETY: `put` stored it there as a box. The owner of the heap promises that nobody uses it any more.
    let instance = unsafe { Box::from_raw_in(ALL[slot].take(), Records) };
    instance.tiered.clear();
    HEAP_IDS[slot - RESERVED].store(NO_HEAP, Relaxed);
}

/// Closes an instance and frees everything that belongs to it. Gives the number of leaks, which are reported to the
/// log.
pub fn close(slot: usize) -> Result<usize> {
    if !OPENED.contains(&slot) {
        return fail!(
            InvalidArgument,
            "the global instance, and those of pools and systems, are not closed by hand"
        );
    }
    if !ALL[slot].begin_closing() {
        return fail!(InvalidArgument, "the instance is being closed already");
    }
    let leaks = open_at(slot).map(|instance| {
        instance.tiered.tell_overruns();
        let leaks = instance.report_leaks();
        // Before the lock: the program's callback may use other instances, and may thereby create the global one.
        instance.heap.tell_end();
        leaks
    });
    let _lock = lock();
    let instance = match leaks {
        Ok(_) => ALL[slot].take(),
        Err(_) => null_mut(),
    };
    // After the instance has left the slot, and under the lock: the next instance there may be closed as soon as it is
    // open.
    ALL[slot].end_closing();
    let leaks = leaks?;
    // SAFETY: `put` stored it there as a box. It was open, and no other thread was closing it. The
    // contract forbids using it meanwhile.
    let instance = unsafe { Box::from_raw_in(instance, Records) };
    instance.foreign.clear();
    instance.tiered.clear();
    instance.heap.destroy_told();
    Ok(leaks)
}

#[cfg(test)]
mod model {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::atomic::{AtomicBool, AtomicPtr};
    use loom::sync::{Arc, Mutex};

    /// An instance. The checker complains of whoever reads it before it is complete, or while it ends.
    struct Instance(UnsafeCell<State>);
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum State {
        ToBeMade,
        Open,
        Ended,
    }
    impl Instance {
        fn state(&self) -> State {
            // SAFETY: the checker sees to it that nobody writes meanwhile.
            self.0.with(|state| unsafe { *state })
        }
        fn change(&self, from: State, to: State) {
            assert_eq!(self.state(), from);
            // SAFETY: as above.
            self.0.with_mut(|state| unsafe { *state = to });
        }
    }
    struct Model {
        slot: Slot<AtomicPtr<Instance>, AtomicBool>,
        /// How many of the instances were made.
        lock: Mutex<usize>,
        instances: [Instance; 3],
    }
    impl Model {
        fn get(&self) -> Option<&Instance> {
            // SAFETY: null, or an instance of this model.
            unsafe { self.slot.get().as_ref() }
        }
        /// Makes an instance if the slot is empty, as `global` and `open` do.
        fn open(&self) -> Option<&Instance> {
            let mut made = self.lock.lock().unwrap();
            if self.get().is_some() {
                return None;
            }
            let instance = &self.instances[*made];
            *made += 1;
            instance.change(State::ToBeMade, State::Open);
            self.slot.put(core::ptr::from_ref(instance).cast_mut());
            Some(instance)
        }
        /// As the function of that name. Whether there was something to close.
        fn close(&self) -> bool {
            if !self.slot.begin_closing() {
                return false;
            }
            let found = self.get().is_some_and(|instance| instance.state() == State::Open);
            let lock = self.lock.lock().unwrap();
            let instance = if found { self.slot.take() } else { null_mut() };
            self.slot.end_closing();
            drop(lock);
            // SAFETY: null, or an instance of this model.
            if let Some(instance) = unsafe { instance.as_ref() } {
                instance.change(State::Open, State::Ended);
            }
            found
        }
    }
    fn explore(beside: fn(&Model), here: fn(&Model), end: fn(&Model)) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || {
            let model = Arc::new(Model {
                slot: Slot { instance: AtomicPtr::new(null_mut()), is_closing: AtomicBool::new(false) },
                lock: Mutex::new(0),
                instances: [0; 3].map(|_| Instance(UnsafeCell::new(State::ToBeMade))),
            });
            let other = model.clone();
            let thread = loom::thread::spawn(move || beside(&other));
            here(&model);
            thread.join().unwrap();
            end(&model);
        });
    }

    #[test]
    fn threads_that_come_first_find_one_global_instance() {
        let use_global = |model: &Model| {
            let instance = model.get().or_else(|| model.open()).or_else(|| model.get());
            assert_eq!(instance.expect("one of the two made it").state(), State::Open);
        };
        explore(use_global, use_global, |model| assert_eq!(*model.lock.lock().unwrap(), 1));
    }
    #[test]
    fn owners_may_close_at_once_and_the_slot_serves_the_next() {
        let close_and_open = |model: &Model| {
            model.open();
            model.close();
            model.open();
        };
        let end = |model: &Model| {
            let made = *model.lock.lock().unwrap();
            let open = model.instances.iter().filter(|instance| instance.state() == State::Open).count();
            let ended = model.instances.iter().filter(|instance| instance.state() == State::Ended).count();
            assert_eq!((open, ended), (usize::from(model.get().is_some()), made - open));
        };
        explore(close_and_open, |model| _ = model.close(), end);
    }
}
