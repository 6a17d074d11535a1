//! Synchronisation points. At these a test can let other threads go first, so that one interleaving happens every
//! time. In the library itself they do nothing.

/// A point that threads pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPoint {
    /// There is no spill file, and one is about to be opened.
    OpeningFile,
    /// A chunk's bytes are in the file, but nothing notes that yet.
    Written,
    /// An eviction has chosen a region from which a chunk may leave.
    RegionChosen,
    /// A region that is being freed or moved is in no list any more, but still has all its chunks.
    Concealed,
    /// A new region is known by its addresses, but not to its engine.
    HalfPublished,
    /// A growing region's room on disk has moved to the new region, but its chunks have not yet.
    RoomInherited,
    /// An encoded chunk is about to be claimed to be written out.
    OldestChosen,
    /// A chunk in place is about to be pinned for the encoded copy that it has.
    CopyLookedFor,
    /// A chunk is claimed to be brought in.
    Claimed,
    /// A chunk is claimed to be acquired, but there is no room for that.
    AcquiredInVain,
    /// A chunk in place is pinned, because its touch was a fault.
    Reopening,
    /// A worker thread is about to bring a chunk in.
    BringingAhead,
    /// The records of a page are claimed so that the page can be given back.
    RecordsClaimed,
    /// Nothing has been found that could leave for a plain block.
    ReclaimedNothing,
    /// A chunk has left, and its pages are about to be kept in stock.
    KeepingPages,
    /// A chunk is acquired no more, but its room has not been given back.
    Released,
    /// The last chunk of a region is pinned for what lies behind the region's end.
    TailPinned,
    /// A chunk that is read ahead is claimed, and about to be given a slot.
    Staging,
    /// No slab has a free chunk for a new piece, and the thread is about to make one.
    NoChunkFree,
    /// Another page of records of pieces is about to be charged.
    ChargingRecords,
    /// A free chunk of a slab is taken for a piece, and there is no room for it yet.
    ChunkTaken,
    /// A piece is about to be freed.
    Freeing,
    /// A piece of a slab is ended, but its contents are still there.
    PieceEnded,
    /// The chunk of a piece that was ended is free.
    ChunkFree,
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
/// Runs the action that this thread has set for this point.
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
