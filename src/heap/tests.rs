//! Tests of the heap as a whole, by subject.
use super::*;
use crate::error::Error;
use std::sync::mpsc::{Receiver, Sender, channel};

mod blocks;
mod front;
mod late_frees;
mod limits;
mod model;
mod threads;

/// One side of a barrier between two threads. If the other thread panics this one does, too, where a barrier of the
/// standard library would let it wait for ever.
struct Meeting {
    says: Sender<()>,
    hears: Receiver<()>,
}
impl Meeting {
    /// The two sides. Each belongs to its thread: a panic there must drop it.
    fn sides() -> [Meeting; 2] {
        let ((says, hears), (answers, asks)) = (channel(), channel());
        [Meeting { says, hears: asks }, Meeting { says: answers, hears }]
    }
    /// Waits until the other thread has come as far.
    fn wait(&self) {
        let met = self.says.send(()).is_ok() && self.hears.recv().is_ok();
        assert!(met, "the other thread has failed");
    }
}
