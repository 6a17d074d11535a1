//! The heap compared with a simple model. Proptest shrinks what fails.
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// One call. A number stands for a position among the live blocks.
#[derive(Clone, Debug)]
enum Step {
    Allocate { size: usize, alignment: usize },
    AllocateZeroed(usize),
    Free(usize),
    Reallocate(usize, usize),
    FreeInside(usize, usize),
    FreeAgain(usize),
    Trim,
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![8 => 1usize..300, 4 => 300usize..40_000, 2 => 40_000usize..1_200_000, 1 => 1_200_000usize..9_000_000]
}
fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (size(), 0u32..17).prop_map(|(size, log2)| Step::Allocate { size, alignment: if log2 == 0 { 0 } else { 1 << (log2 - 1) } }),
        1 => (1usize..5000, 17u32..22).prop_map(|(size, log2)| Step::Allocate { size, alignment: 1 << log2 }),
        2 => size().prop_map(Step::AllocateZeroed),
        5 => any::<usize>().prop_map(Step::Free),
        2 => (any::<usize>(), size()).prop_map(|(i, size)| Step::Reallocate(i, size)),
        1 => (any::<usize>(), 1usize..64).prop_map(|(i, offset)| Step::FreeInside(i, offset)),
        1 => any::<usize>().prop_map(Step::FreeAgain),
        1 => Just(Step::Trim),
    ]
}

fn params_with_limit() -> impl Strategy<Value = HeapParams> {
    let limit = prop_oneof![50_000usize..1_000_000, 1_000_000usize..20_000_000];
    let (prefix, cache_blocks) = (prop_oneof![Just(0), Just(128)], prop_oneof![Just(0), Just(64)]);
    (limit, prefix, cache_blocks, any::<bool>()).prop_map(|(limit, prefix, cache_blocks, ready)| HeapParams {
        limit,
        prefix,
        cache_blocks,
        ready: if ready { limit / 2 } else { 0 },
        ..HeapParams::default()
    })
}

struct Model {
    heap: &'static Heap,
    /// By address: size, alignment, fill byte.
    live: BTreeMap<usize, (usize, usize, u8)>,
    freed: Vec<usize>,
    peak: usize,
    fill: u8,
}
impl Model {
    fn nth(&self, n: usize) -> Option<usize> {
        self.live.keys().nth(n % self.live.len().max(1)).copied()
    }
    fn fill(&mut self, at: usize, size: usize) -> u8 {
        self.fill = self.fill.wrapping_add(1);
        // SAFETY: a live block of that size begins there.
        unsafe { core::ptr::write_bytes(at as *mut u8, self.fill, size) };
        self.fill
    }
    fn check_contents(&self, at: usize, size: usize, fill: u8) {
        // SAFETY: a live block of at least that size begins there.
        let bytes = unsafe { core::slice::from_raw_parts(at as *const u8, size) };
        assert!(bytes.iter().all(|&b| b == fill), "contents of a live block changed");
    }
    fn enter(&mut self, at: usize, size: usize, alignment: usize) {
        assert!(at.is_multiple_of(alignment.max(1)), "{at:#x} is not aligned to {alignment}");
        let before = self.live.range(..at).next_back();
        assert!(before.is_none_or(|(&a, &(s, ..))| a + s <= at), "overlaps the block before");
        let after = self.live.range(at..).next();
        assert!(after.is_none_or(|(&a, _)| at + size <= a), "overlaps the block after");
        let fill = self.fill(at, size);
        self.live.insert(at, (size, alignment, fill));
        self.freed.retain(|&f| f != at);
    }
    fn run(&mut self, step: &Step) {
        let heap = self.heap;
        match *step {
            Step::Allocate { size, alignment } => {
                let block = heap.allocate(size, alignment).unwrap().as_ptr() as usize;
                self.enter(block, size, if alignment == 0 { DEFAULT_ALIGNMENT } else { alignment });
            }
            Step::AllocateZeroed(size) => {
                let block = heap.allocate_zeroed(size, 0).unwrap().as_ptr() as usize;
                self.check_contents(block, size, 0);
                self.enter(block, size, DEFAULT_ALIGNMENT);
            }
            Step::Free(n) => {
                let Some(at) = self.nth(n) else { return };
                let (size, _, fill) = self.live.remove(&at).unwrap();
                self.check_contents(at, size, fill);
                heap.free(at as *mut u8).unwrap();
                self.freed.push(at);
            }
            Step::Reallocate(n, size) => {
                let Some(at) = self.nth(n) else { return };
                let (old, alignment, fill) = self.live.remove(&at).unwrap();
                let now = heap.reallocate(at as *mut u8, size).unwrap().as_ptr() as usize;
                self.check_contents(now, old.min(size), fill);
                self.enter(now, size, alignment);
            }
            Step::FreeInside(n, offset) => {
                let Some(at) = self.nth(n) else { return };
                if offset < self.live[&at].0 {
                    assert_eq!(heap.free((at + offset) as *mut u8), Err(Error::NotOwned));
                }
            }
            Step::FreeAgain(n) => {
                let Some(&at) = self.freed.get(n % self.freed.len().max(1)) else { return };
                if !self.live.contains_key(&at) {
                    assert!(matches!(heap.free(at as *mut u8), Err(Error::DoubleFree | Error::NotOwned)));
                }
            }
            Step::Trim => {
                heap.trim();
            }
        }
        let live: usize = self.live.values().map(|b| b.0).sum();
        self.peak = self.peak.max(live);
        let figures = heap.statistics();
        assert_eq!(figures.live, live);
        // With one thread the two are even equal: a reallocation that moves takes the old size off
        // before it adds the new one.
        assert!(figures.peak >= self.peak);
        assert_eq!(figures.allocations - figures.frees, self.live.len());
        assert!(figures.held >= live);
    }
}

fn against_model(params: HeapParams, steps: &[Step]) {
    let heap = Heap::create(&params).unwrap();
    let mut model = Model { heap, live: BTreeMap::new(), freed: Vec::new(), peak: 0, fill: 0 };
    for step in steps {
        model.run(step);
    }
    for (&at, &(size, alignment, fill)) in &model.live {
        model.check_contents(at, size, fill);
        let block = heap.block(at as *const u8).unwrap();
        assert_eq!((block.start, block.size), (at, size));
        assert!(block.capacity >= size && block.alignment >= alignment.min(DEFAULT_ALIGNMENT) / 4);
        assert_eq!(owner_of_interior((at + size - 1) as *const u8).unwrap().1, block);
    }
    let leaks = heap.destroy();
    assert_eq!(leaks.blocks, model.live.len());
    assert_eq!(leaks.bytes, model.live.values().map(|b| b.0).sum::<usize>());
    assert_eq!(heap.held(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn behaves_like_the_model(steps in prop::collection::vec(step(), 1..300)) {
        against_model(HeapParams::default(), &steps);
    }
    #[test]
    fn behaves_like_the_model_with_a_prefix_and_no_cache(
        steps in prop::collection::vec(step(), 1..150),
        alignment in prop_oneof![Just(0usize), Just(128), Just(1024)],
    ) {
        against_model(HeapParams { prefix: 128, alignment, cache_blocks: 0, ..HeapParams::default() }, &steps);
    }
    #[test]
    fn what_can_be_allocated_is_what_is_allocated(
        steps in prop::collection::vec(step(), 1..150),
        params in params_with_limit(),
    ) {
        let heap = Heap::create(&params).unwrap();
        let mut live = Vec::new();
        for step in steps {
            match step {
                Step::Allocate { size, alignment } => {
                    let expected = heap.can_allocate(size, alignment, 0);
                    let got = heap.allocate(size, alignment);
                    assert_eq!(got.is_ok(), expected, "{size} bytes at {alignment}, {} held", heap.held());
                    live.extend(got);
                }
                Step::Free(n) | Step::FreeAgain(n) if !live.is_empty() => {
                    heap.free(live.swap_remove(n % live.len()).as_ptr()).unwrap();
                }
                Step::Trim => _ = heap.trim(),
                _ => {}
            }
            assert!(heap.held() <= params.limit);
        }
        heap.destroy();
    }
}
