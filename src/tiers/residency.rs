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
    /// Chunks brought in because they were touched or acquired.
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
    /// Takes over what another region had counted so far.
    pub fn inherit(&self, old: &Counters) {
        for (new, old) in [
            (&self.faults, &old.faults),
            (&self.evictions, &old.evictions),
            (&self.clean_evictions, &old.clean_evictions),
            (&self.prefetches, &old.prefetches),
            (&self.prefetch_hits, &old.prefetch_hits),
            (&self.encoded_from, &old.encoded_from),
            (&self.encoded_to, &old.encoded_to),
            (&self.encode_ns, &old.encode_ns),
            (&self.decode_ns, &old.decode_ns),
            (&self.spilled, &old.spilled),
            (&self.fetched, &old.fetched),
        ] {
            new.fetch_add(old.load(Relaxed), Relaxed);
        }
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
    /// Chunks brought in because they were touched or acquired.
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

impl Region {
    /// The region's figures.
    pub fn residency(&self) -> Residency {
        let c = &self.counters;
        let (from, to) = (c.encoded_from.load(Relaxed), c.encoded_to.load(Relaxed));
        Residency {
            hot_bytes: c.hot.load(Relaxed) + c.staged.load(Relaxed),
            warm_bytes: c.warm.load(Relaxed),
            cold_bytes: c.cold.load(Relaxed),
            faults: c.faults.load(Relaxed),
            evictions: c.evictions.load(Relaxed),
            prefetches: c.prefetches.load(Relaxed),
            prefetch_hits: c.prefetch_hits.load(Relaxed),
            compression_ratio: if to == 0 { 1.0 } else { from as f64 / to as f64 },
            compression_ns: c.encode_ns.load(Relaxed) + c.decode_ns.load(Relaxed),
        }
    }
}
impl Engine {
    /// The sum over all regions.
    pub fn residency(&self) -> Residency {
        let mut sum = Residency { compression_ratio: 1.0, ..Residency::default() };
        let (mut from, mut to) = (0, 0);
        let _inside = super::gate::enter();
        for region in self.regions().iter() {
            let r = region.residency();
            sum.hot_bytes += r.hot_bytes;
            sum.warm_bytes += r.warm_bytes;
            sum.cold_bytes += r.cold_bytes;
            sum.faults += r.faults;
            sum.evictions += r.evictions;
            sum.prefetches += r.prefetches;
            sum.prefetch_hits += r.prefetch_hits;
            sum.compression_ns += r.compression_ns;
            from += region.counters.encoded_from.load(Relaxed);
            to += region.counters.encoded_to.load(Relaxed);
        }
        if to != 0 {
            sum.compression_ratio = from as f64 / to as f64;
        }
        sum
    }
}
