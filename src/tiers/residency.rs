//! Figures of a region: where its bytes are and what moving them has cost.
use super::engine::Engine;
use super::region::Region;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Counted as things happen.
#[derive(Default)]
pub struct Counters {
    /// Bytes in place.
    pub hot: AtomicUsize,
    /// Chunks that the program has acquired.
    pub acquired: AtomicUsize,
    /// Bytes in staging slots, read ahead.
    pub staged: AtomicUsize,
    /// Encoded bytes in RAM.
    pub warm: AtomicUsize,
    /// Encoded bytes in the spill file.
    pub cold: AtomicUsize,
    /// Chunks put in place: touched, acquired or prefetched.
    pub faults: AtomicU64,
    /// Chunks that left.
    pub evictions: AtomicU64,
    /// How many of these were unchanged since they came in, so that nothing was encoded.
    pub clean_evictions: AtomicU64,
    /// Chunks brought in ahead of need, and those of them that were then used.
    pub prefetches: AtomicU64,
    /// See `prefetches`.
    pub prefetch_hits: AtomicU64,
    /// Bytes before and after encoding, and the time it took.
    pub encoded_from: AtomicU64,
    /// See `encoded_from`.
    pub encoded_to: AtomicU64,
    /// Nanoseconds spent encoding.
    pub encode_ns: AtomicU64,
    /// Nanoseconds spent decoding.
    pub decode_ns: AtomicU64,
    /// How often in a row a chunk that had been kept encoded was found changed. This is no figure: it decides whether
    /// more chunks are kept encoded.
    changed: AtomicU64,
    /// Bytes written to and read from the spill file.
    pub spilled: AtomicU64,
    /// See `spilled`.
    pub fetched: AtomicU64,
}

impl Counters {
    /// Sets to zero what has been counted for another piece at the same place, which held nothing any more.
    pub fn begin_anew(&self) {
        for count in self.events() {
            count.store(0, Relaxed);
        }
    }
    /// Takes over what another region had counted so far.
    pub fn inherit(&self, old: &Counters) {
        for (new, old) in self.events().into_iter().zip(old.events()) {
            new.fetch_add(old.load(Relaxed), Relaxed);
        }
    }
    /// Takes off what a piece has counted, which has moved to a region of its own.
    pub fn forgo(&self, piece: &Counters) {
        for (count, its) in self.events().into_iter().zip(piece.events()) {
            count.fetch_sub(its.load(Relaxed), Relaxed);
        }
    }
    /// What has happened so far.
    fn events(&self) -> [&AtomicU64; 11] {
        [
            &self.faults,
            &self.evictions,
            &self.clean_evictions,
            &self.prefetches,
            &self.prefetch_hits,
            &self.encoded_from,
            &self.encoded_to,
            &self.encode_ns,
            &self.decode_ns,
            &self.spilled,
            &self.fetched,
        ]
    }
    /// Where bytes are now.
    fn bytes(&self) -> [&AtomicUsize; 4] {
        [&self.hot, &self.staged, &self.warm, &self.cold]
    }
    /// Notes whether a chunk that was kept encoded while in place had stayed as it was.
    pub fn note_kept(&self, clean: bool) {
        if clean {
            self.clean_evictions.fetch_add(1, Relaxed);
            self.changed.store(0, Relaxed);
        } else {
            self.changed.fetch_add(1, Relaxed);
        }
    }
    /// Whether chunks brought in by a read are worth keeping encoded too. They are not if they are changed soon
    /// after; but one in sixteen is tried, in case the program behaves differently by now.
    pub fn keeping_pays(&self) -> bool {
        self.changed.load(Relaxed) < 4 || self.faults.load(Relaxed).is_multiple_of(16)
    }
}

/// A region's figures at one moment. C sees them as `unimem_residency_t`, which has these fields and never gets more.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Residency {
    /// Bytes in the clear in RAM.
    pub hot_bytes: usize,
    /// Encoded bytes in RAM. A chunk that is in place unchanged may be kept encoded as well.
    pub warm_bytes: usize,
    /// Encoded bytes in the spill file.
    pub cold_bytes: usize,
    /// Chunks put in place: touched, acquired or prefetched.
    pub faults: u64,
    /// Chunks that left.
    pub evictions: u64,
    /// Chunks brought in ahead of need.
    pub prefetches: u64,
    /// How many of these were used.
    pub prefetch_hits: u64,
    /// Bytes before encoding per byte after it, over all that was encoded; 1 if nothing was.
    pub compression_ratio: f64,
    /// Nanoseconds spent encoding and decoding.
    pub compression_ns: u64,
}

impl Counters {
    /// The figures at this moment.
    pub fn residency(&self) -> Residency {
        let (from, to) = (self.encoded_from.load(Relaxed), self.encoded_to.load(Relaxed));
        Residency {
            hot_bytes: self.hot.load(Relaxed) + self.staged.load(Relaxed),
            warm_bytes: self.warm.load(Relaxed),
            cold_bytes: self.cold.load(Relaxed),
            faults: self.faults.load(Relaxed),
            evictions: self.evictions.load(Relaxed),
            prefetches: self.prefetches.load(Relaxed),
            prefetch_hits: self.prefetch_hits.load(Relaxed),
            compression_ratio: if to == 0 { 1.0 } else { from as f64 / to as f64 },
            compression_ns: self.encode_ns.load(Relaxed) + self.decode_ns.load(Relaxed),
        }
    }
}
impl Region {
    /// The region's figures.
    pub fn residency(&self) -> Residency {
        self.counters.residency()
    }
}
impl Engine {
    /// The sum over all regions.
    pub fn residency(&self) -> Residency {
        let sum = Counters::default();
        let _inside = super::gate::enter();
        for region in self.regions().iter() {
            sum.inherit(&region.counters);
            for (sum, bytes) in sum.bytes().into_iter().zip(region.counters.bytes()) {
                sum.fetch_add(bytes.load(Relaxed), Relaxed);
            }
        }
        sum.residency()
    }
}
