//! Synchronisation points: at these a test can let other threads go first, so that one interleaving happens every time.
//! In the library itself they are nothing.

/// Where a thread passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPoint {
    /// There is no spill file, and one is about to be opened.
    OpeningFile,
    /// A chunk's bytes are in the file, and nobody knows yet.
    Written,
    /// Chosen from which regions chunks may leave.
    RegionsListed,
    /// A region that is freed or moved is in no list any more, and has all its chunks still.
    Concealed,
    /// A growing region's room on disk is the new one's, its chunks are not yet.
    RoomInherited,
    /// An encoded chunk is about to be claimed to be written out.
    OldestChosen,
    /// A chunk in place is looked at for the encoded copy it may have.
    CopyLookedFor,
    /// A chunk is claimed to be brought in.
    Claimed,
    /// A chunk is claimed to be acquired, and there is no room for that.
    AcquiredInVain,
    /// A chunk in place is pinned, because its touch was a fault.
    Reopening,
    /// A chunk is about to be brought in by the worker threads.
    BringingAhead,
    /// The records of a page are claimed, to give the page back.
    RecordsClaimed,
    /// Nothing has been found that could leave for a plain block.
    ReclaimedNothing,
    /// A chunk that is read ahead is claimed, and about to be given a slot.
    Staging,
}

#[cfg(not(test))]
#[inline(always)]
pub fn pass(_: SyncPoint) {}

#[cfg(test)]
type Action = Box<dyn FnOnce()>;
#[cfg(test)]
thread_local! {
    static ACTIONS: core::cell::RefCell<Vec<(SyncPoint, Action)>> = const { core::cell::RefCell::new(Vec::new()) };
}
/// Does what this thread was told to do here.
#[cfg(test)]
pub fn pass(point: SyncPoint) {
    let action = ACTIONS.with_borrow_mut(|actions| {
        let at = actions.iter().position(|(other, _)| *other == point)?;
        Some(actions.remove(at).1)
    });
    if let Some(action) = action {
        action();
    }
}
/// Has this thread call `action` when it next passes `point`.
#[cfg(test)]
pub fn at(point: SyncPoint, action: impl FnOnce() + 'static) {
    ACTIONS.with_borrow_mut(|actions| actions.push((point, Box::new(action))));
}
