//! Which chunks of a region that is being swept leave: the youngest or the oldest.
//!
//! If the sweep is longer than what fits, the chunk that it has just left behind is the best to leave: it is wanted
//! last. If the sweep is a loop that would fit, it is the worst: the loop would never be in place, beside old chunks
//! that nobody wants any more. Nothing in the lists tells which it is, because touches of chunks in place are not seen.
//! Chunks that come back do. So both orders are in use: nearly always the one whose chunks come back less often, and
//! now and then the other, to know how it would do. A chunk counts as back if it comes in again before as many others
//! have left as are in place, for then the other order would have kept it.
//!
//! It is LeCaR (Vietri et al., Driving Cache Replacement with ML-based LeCaR, HotStorage 2018), where two orders are
//! blamed for what comes back of what they sent out, with rates in place of weights. Linux compares the distances of
//! refaults with the size of memory in the same way.

/// In which order a chunk left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Left {
    /// Neither: it was not chosen by its age, or it has not left.
    #[default]
    Unordered,
    /// As the oldest.
    Oldest,
    /// As one of the youngest.
    Youngest,
}

/// Every how many chunks one leaves in the order that is not preferred.
const TRIAL: u32 = 16;
/// The same while no chunk comes back, as in a long sweep, where nothing can be much better than it is.
const RARE_TRIAL: u32 = 64;
/// After how many chunks that left in one order all figures are halved, so that they follow the program.
const LATELY: u32 = 128;

/// How many chunks left in one order, and how many of them came back, lately.
#[derive(Clone, Copy, Default)]
struct Tally {
    left: u32,
    back: u32,
}

/// The figures of one region.
#[derive(Default)]
pub struct Regret {
    oldest: Tally,
    youngest: Tally,
    since_trial: u32,
}
impl Regret {
    /// In which order the next chunk leaves, while the region is being swept.
    pub fn choose(&mut self) -> Left {
        let (preferred, other) = match self.youngest_are_better() {
            true => (Left::Youngest, Left::Oldest),
            false => (Left::Oldest, Left::Youngest),
        };
        self.since_trial += 1;
        let trial = if self.youngest.back == 0 && preferred == Left::Youngest { RARE_TRIAL } else { TRIAL };
        if self.since_trial < trial {
            return preferred;
        }
        self.since_trial = 0;
        other
    }
    /// Whether no more than one and a half times as many of the youngest come back as of the oldest.
    fn youngest_are_better(&self) -> bool {
        let (oldest, youngest) = (self.oldest, self.youngest);
        2 * youngest.back * (oldest.left + 1) <= 3 * oldest.back * (youngest.left + 1)
    }
    /// Notes that a chunk leaves.
    pub fn note_left(&mut self, left: Left) {
        let Some(tally) = self.tally(left) else { return };
        tally.left += 1;
        if tally.left >= LATELY {
            for tally in [&mut self.oldest, &mut self.youngest] {
                *tally = Tally { left: tally.left / 2, back: tally.back / 2 };
            }
        }
    }
    /// Notes that a chunk that has left is back.
    pub fn note_back(&mut self, left: Left) {
        if let Some(tally) = self.tally(left) {
            tally.back += 1;
        }
    }
    fn tally(&mut self, left: Left) -> Option<&mut Tally> {
        match left {
            Left::Unordered => None,
            Left::Oldest => Some(&mut self.oldest),
            Left::Youngest => Some(&mut self.youngest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    /// Lets `count` chunks leave, of which all come back that left in the orders `back`. Returns how many left as the
    /// youngest.
    fn leave(regret: &mut Regret, count: usize, back: &[Left]) -> usize {
        let mut young = 0;
        for _ in 0..count {
            let left = regret.choose();
            regret.note_left(left);
            young += usize::from(left == Left::Youngest);
            if back.contains(&left) {
                regret.note_back(left);
            }
        }
        young
    }
    #[test]
    fn while_nothing_comes_back_the_youngest_leave() {
        assert_eq!(leave(&mut Regret::default(), 640, &[]), 630);
    }
    #[test]
    fn the_order_whose_chunks_come_back_is_only_tried() {
        let mut regret = Regret::default();
        leave(&mut regret, 2, &[Left::Youngest]);
        assert_eq!(leave(&mut regret, 640, &[Left::Youngest]), 40);
        leave(&mut regret, 640, &[Left::Oldest]);
        assert_eq!(leave(&mut regret, 640, &[Left::Oldest]), 630);
    }
    #[test]
    fn the_youngest_leave_if_all_come_back() {
        let mut regret = Regret::default();
        leave(&mut regret, 640, &[Left::Youngest, Left::Oldest]);
        assert_eq!(leave(&mut regret, 640, &[Left::Youngest, Left::Oldest]), 600);
    }
    #[test]
    fn chunks_that_left_for_other_reasons_do_not_count() {
        let mut regret = Regret::default();
        for _ in 0..1000 {
            regret.note_left(Left::Unordered);
            regret.note_back(Left::Unordered);
        }
        assert_eq!(leave(&mut regret, 64, &[]), 63);
    }
}
