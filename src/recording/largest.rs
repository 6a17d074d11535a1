//! The live blocks that a recording lists when it ends.
use super::Live;

/// How many live blocks are listed.
const TOLD: usize = 256;

/// The largest live blocks, largest first.
pub struct Largest {
    blocks: [Option<Live>; TOLD],
    count: usize,
}
impl Largest {
    pub fn new() -> Largest {
        Largest { blocks: [None; TOLD], count: 0 }
    }
    /// Keeps a block if it is one of the largest so far.
    pub fn offer(&mut self, live: Live) {
        let size = |place: Option<Live>| place.map_or(0, |live| live.size);
        if self.count == TOLD && size(self.blocks[TOLD - 1]) >= live.size {
            return;
        }
        let at = self.blocks[..self.count].partition_point(|kept| size(*kept) >= live.size);
        self.count = (self.count + 1).min(TOLD);
        self.blocks[at..self.count].rotate_right(1);
        self.blocks[at] = Some(live);
    }
    /// The blocks that were kept.
    pub fn blocks(&self) -> impl Iterator<Item = &Live> {
        self.blocks[..self.count].iter().flatten()
    }
}
