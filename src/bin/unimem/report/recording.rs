//! A recording, put together from its records: the samples, the events, and who allocated what.
use super::symbols::{Frame, Names};
use crate::output::{Failure, Progress};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use unimem::recording::Memory;
use unimem::recording::format::{self, Contracted, End, Moved, Record};

/// Bytes of tiered memory of one kind.
#[derive(Clone, Copy, Default)]
pub struct Tiered {
    pub size: u64,
    pub hot: u64,
    pub warm: u64,
    pub cold: u64,
}
impl Tiered {
    fn of(list: &[u64]) -> Option<Tiered> {
        let [size, hot, warm, cold] = *list else { return None };
        Some(Tiered { size, hot, warm, cold })
    }
}
/// Figures at one moment; times are nanoseconds since the recording began, sizes bytes.
pub struct Sample {
    pub time: u64,
    pub resident: u64,
    /// Live bytes of heaps, tensors included.
    pub live: u64,
    pub tensors: u64,
    pub held: u64,
    pub allocations: u64,
    pub frees: u64,
    pub streaming: Tiered,
    pub hierarchical: Tiered,
    pub faults: u64,
    pub evictions: u64,
    pub prefetches: u64,
}
impl Sample {
    /// `None` if the record contradicts itself.
    fn of(sample: format::Sample) -> Option<Sample> {
        Some(Sample {
            time: sample.time,
            resident: sample.resident,
            live: sample.live,
            tensors: sample.tensors,
            held: sample.held,
            allocations: sample.allocations,
            frees: sample.frees,
            streaming: Tiered::of(&sample.streaming)?,
            hierarchical: Tiered::of(&sample.hierarchical)?,
            faults: sample.faults,
            evictions: sample.evictions,
            prefetches: sample.prefetches,
        })
    }
    /// Live bytes of plain blocks, without tensors.
    pub fn plain(&self) -> u64 {
        self.live.saturating_sub(self.tensors)
    }
}
/// Live blocks of sizes up to a power of two.
pub struct SizeClass {
    /// The logarithm of that power to base 2.
    pub log2: u64,
    pub blocks: u64,
    pub bytes: u64,
}
/// Sizes of live blocks at one moment.
pub struct Sizes {
    pub time: u64,
    pub classes: Vec<SizeClass>,
}
/// A stack that allocates. The figures are estimates from samples.
pub struct Site {
    pub memory: Memory,
    /// Return addresses, innermost first.
    pub stack: Vec<u64>,
    pub frames: Vec<Frame>,
    /// Bytes allocated in all.
    pub bytes: u64,
    pub blocks: f64,
    /// Those of them that are live at the end.
    pub live_bytes: u64,
    pub live_blocks: f64,
    /// Samples behind these estimates.
    pub samples: u64,
}
impl Site {
    /// A site without samples.
    pub fn new(memory: Memory, stack: Vec<u64>) -> Site {
        Site {
            memory,
            stack,
            frames: Vec::new(),
            bytes: 0,
            blocks: 0.0,
            live_bytes: 0,
            live_blocks: 0.0,
            samples: 0,
        }
    }
}
/// A block that was live at the end.
pub struct Live {
    pub address: u64,
    pub size: u64,
    pub memory: Memory,
    pub stack: Vec<u64>,
    pub frames: Vec<Frame>,
}
impl Live {
    fn of(live: format::Live) -> Live {
        let format::Live { address, size, memory, stack } = live;
        Live { address, size, memory, stack: stack.into_owned(), frames: Vec::new() }
    }
}
/// A file that code was loaded from.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Module {
    pub bias: u64,
    pub start: u64,
    pub end: u64,
    pub size: u64,
    pub modified: u64,
    pub path: String,
}
impl Module {
    fn of(module: format::Module) -> Module {
        let format::Module { bias, start, end, size, modified, path } = module;
        Module { bias, start, end, size, modified, path: String::from_utf8_lossy(&path).into_owned() }
    }
}
/// A whole recording.
#[derive(Default)]
pub struct Recording {
    pub command: Vec<String>,
    pub process: u64,
    /// Nanoseconds since 1970.
    pub began: u64,
    pub interval: u64,
    pub samples: Vec<Sample>,
    pub moved: Vec<Moved>,
    pub contracted: Vec<Contracted<'static>>,
    pub sizes: Vec<Sizes>,
    /// Sites with most bytes live at the end come first; among equals, those with most bytes allocated.
    pub sites: Vec<Site>,
    pub live: Vec<Live>,
    pub modules: Vec<Module>,
    pub lost: u64,
    /// The last record, if there is one.
    pub end: Option<End>,
    /// Whether the file is cut off within a block.
    pub cut: bool,
}

/// A sampled allocation that has not been freed yet.
struct Outstanding {
    site: usize,
    weight: u64,
    blocks: f64,
}
#[derive(Default)]
struct Reader {
    recording: Recording,
    sites: HashMap<(Memory, Vec<u64>), usize>,
    /// Those that the recording has already.
    modules: HashSet<Module>,
    outstanding: HashMap<u64, Outstanding>,
    /// Whether a record that is whole contradicts itself.
    odd: bool,
}

impl Recording {
    /// Reads a recording. Fails if the file is none, or has no samples.
    pub fn read(path: &Path) -> Result<Recording, Failure> {
        let failed =
            |problem: &dyn std::fmt::Display| Failure::new(1, format!("{}: {problem}", path.display()));
        let file = std::fs::read(path).map_err(|error| failed(&error))?;
        let mut reader = Reader::default();
        let mut progress = Progress::of("reading");
        let read = format::read(&file, |record, at| {
            progress.at(at, file.len());
            reader.take(record);
        });
        drop(progress);
        let cut = read.map_err(|damage| failed(&damage))?;
        let mut recording = reader.finish().ok_or_else(|| failed(&"the recording contradicts itself"))?;
        recording.cut = cut;
        Ok(recording)
    }
    /// Nanoseconds from the beginning to the last event that is known.
    pub fn duration(&self) -> u64 {
        let samples = self.samples.iter().map(|sample| sample.time);
        let moved = self.moved.iter().map(|moved| moved.time + moved.duration);
        let contracted = self.contracted.iter().map(|contracted| contracted.time + contracted.duration);
        let end = self.end.map(|end| end.time);
        samples.chain(moved).chain(contracted).chain(end).max().unwrap_or(0)
    }
    /// Why the recording is not whole, if it is not.
    pub fn incomplete(&self) -> Option<&'static str> {
        match (self.end, self.cut) {
            (Some(_), false) => None,
            (_, true) => Some("the recording is cut off: what came before is shown"),
            (None, false) => Some(
                "the recording has no end: the program was killed, left by _exit, or the disk was full; what came before is shown",
            ),
        }
    }
}

/// Joins sites that differ only below the function that the program called.
fn joined(sites: Vec<Site>) -> Vec<Site> {
    let mut known: HashMap<(Memory, Vec<(u64, String)>), usize> = HashMap::new();
    let mut kept: Vec<Site> = Vec::new();
    for site in sites {
        let calls = site.frames.iter().map(|frame| (frame.address, frame.function.clone())).collect();
        match known.entry((site.memory, calls)) {
            Entry::Vacant(free) => {
                free.insert(kept.len());
                kept.push(site);
            }
            Entry::Occupied(place) => {
                let whole = &mut kept[*place.get()];
                whole.bytes += site.bytes;
                whole.blocks += site.blocks;
                whole.live_bytes += site.live_bytes;
                whole.live_blocks += site.live_blocks;
                whole.samples += site.samples;
            }
        }
    }
    kept
}

/// Splits words, each of which ends with a zero byte.
fn words(command: &[u8]) -> Vec<String> {
    let words = command.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    let mut words: Vec<String> = words.collect();
    while words.last().is_some_and(String::is_empty) {
        words.pop();
    }
    words
}

impl Reader {
    fn take(&mut self, record: Record<'static>) {
        let recording = &mut self.recording;
        match record {
            Record::Program(program) => {
                recording.began = program.began;
                recording.process = program.process;
                recording.interval = program.interval;
                recording.command = words(&program.command);
            }
            Record::Module(module) => {
                let module = Module::of(module);
                if self.modules.insert(module.clone()) {
                    recording.modules.push(module);
                }
            }
            Record::Sample(sample) => match Sample::of(sample) {
                Some(sample) => recording.samples.push(sample),
                None => self.odd = true,
            },
            Record::Moved(moved) => recording.moved.push(moved),
            Record::Contracted(contracted) => recording.contracted.push(contracted),
            Record::Allocated(allocated) => self.allocated(allocated),
            Record::Freed(freed) => self.freed(freed.address),
            Record::Sizes(sizes) => {
                let (classes, rest) = sizes.classes.as_chunks::<3>();
                self.odd |= !rest.is_empty() || classes.iter().any(|class| class[0] > 64);
                let class = |&[log2, blocks, bytes]: &[u64; 3]| SizeClass { log2, blocks, bytes };
                recording
                    .sizes
                    .push(Sizes { time: sizes.time, classes: classes.iter().map(class).collect() });
            }
            Record::Live(live) => recording.live.push(Live::of(live)),
            Record::Lost(lost) => recording.lost += lost.events,
            Record::End(end) => recording.end = Some(end),
        }
    }
    fn allocated(&mut self, allocated: format::Allocated) {
        let format::Allocated { address, size, weight, memory, stack, .. } = allocated;
        let sites = &mut self.recording.sites;
        let site = *self.sites.entry((memory, stack.into_owned())).or_insert_with_key(|(memory, stack)| {
            sites.push(Site::new(*memory, stack.clone()));
            sites.len() - 1
        });
        // A sample stands for as many blocks of its size as make up its weight.
        let blocks = weight as f64 / size.max(1) as f64;
        let found = &mut sites[site];
        found.bytes += weight;
        found.blocks += blocks;
        found.live_bytes += weight;
        found.live_blocks += blocks;
        found.samples += 1;
        // If there is still one at this address, it was freed and the event was lost.
        self.freed(address);
        self.outstanding.insert(address, Outstanding { site, weight, blocks });
    }
    fn freed(&mut self, address: u64) {
        if let Some(gone) = self.outstanding.remove(&address) {
            let site = &mut self.recording.sites[gone.site];
            site.live_bytes = site.live_bytes.saturating_sub(gone.weight);
            site.live_blocks = (site.live_blocks - gone.blocks).max(0.0);
        }
    }
    fn finish(self) -> Option<Recording> {
        let Reader { mut recording, outstanding, odd, .. } = self;
        if odd {
            return None;
        }
        let mut names = Names::new(&recording.modules);
        let mut progress = Progress::of("looking up names");
        let stacks = recording.live.len() + recording.sites.len();
        for (done, live) in recording.live.iter_mut().enumerate() {
            progress.at(done, stacks);
            if live.stack.is_empty()
                && let Some(known) = outstanding.get(&live.address)
            {
                live.stack = recording.sites[known.site].stack.clone();
            }
            live.frames = names.frames(&live.stack);
        }
        for (done, site) in recording.sites.iter_mut().enumerate() {
            progress.at(recording.live.len() + done, stacks);
            site.frames = names.frames(&site.stack);
        }
        recording.sites = joined(recording.sites);
        recording.sites.sort_by_key(|site| std::cmp::Reverse((site.live_bytes, site.bytes)));
        recording.samples.sort_by_key(|sample| sample.time);
        Some(recording)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;
    #[test]
    fn a_block_whose_free_was_lost_is_live_no_more() {
        let mut reader = Reader::default();
        for weight in [100, 30] {
            let stack = Cow::Borrowed(&[7][..]);
            let (time, address, size, memory) = (1, 0x1000, 10, Memory::Plain);
            reader.take(format::Allocated { time, address, size, weight, memory, stack }.into());
        }
        let site = &reader.recording.sites[0];
        assert_eq!((site.bytes, site.live_bytes, site.live_blocks), (130, 30, 3.0));
    }
}
