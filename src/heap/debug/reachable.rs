//! Which live blocks nothing points to any more: these are a program's leaks at its end, unlike what it merely keeps.
//!
//! The search is conservative, as in leak sanitizers. A word that is an address in a live block reaches that block.
//! Searched are
//! - every aligned word of the program's writable memory: data, stacks, thread-local variables, other mappings;
//! - the words of blocks that were reached.
//!
//! Not searched are heap memory that is not a live block, the library's records, and the registers of other threads.
//!
//! Memory is read through /proc/self/mem, because other threads may unmap it meanwhile. Only pages that are there are
//! read, so reserved address space costs nothing and tiered memory stays where it is.
use super::super::{Block, page_map};
use crate::os::map::PAGE;
use crate::os::records::{self, Records};
use allocator_api2::vec::Vec;
use core::ops::Range;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Most bytes read at once.
const PIECE: usize = 16 * PAGE;
/// Most pages asked about at once.
const PAGES: usize = 512;

struct Search<'a> {
    /// Sorted by address.
    live: &'a [Block],
    reached: Vec<bool, Records>,
    /// Blocks that were reached and not searched yet, as indices.
    waiting: Vec<u32, Records>,
    memory: File,
    buffer: Vec<u8, Records>,
}

/// For each of the blocks in `live`, which are sorted by address, whether it is reached. Of the stack that `frame` lies
/// in, only the part from `frame` up is searched. None if the system has no memory for this or does not let memory be
/// read.
pub(super) fn reached(live: &[Block], frame: usize) -> Option<Vec<bool, Records>> {
    debug_assert!(live.is_sorted_by_key(|block| block.start));
    let mut search = Search {
        live,
        reached: filled(live.len())?,
        waiting: Vec::new_in(Records),
        memory: File::open("/proc/self/mem").ok()?,
        buffer: filled(PIECE)?,
    };
    search.waiting.try_reserve(live.len()).ok()?;
    let pages = File::open("/proc/self/pagemap").ok();
    let own = own_records()?;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    for range in maps.lines().filter_map(writable) {
        let start = if range.contains(&frame) { frame & !7 } else { range.start };
        search.look_into_mapping(start..range.end, pages.as_ref(), &own);
    }
    while let Some(block) = search.waiting.pop() {
        let block = live[block as usize];
        // Tiered memory is not searched: it holds numbers, and would have to be brought in.
        if page_map::span_of(block.start).is_some() {
            search.look_into(block.start..block.start + block.size);
        }
    }
    Some(search.reached)
}

fn filled<T: Clone + Default>(length: usize) -> Option<Vec<T, Records>> {
    let mut vec = Vec::new_in(Records);
    vec.try_reserve_exact(length).ok()?;
    vec.resize(length, T::default());
    Some(vec)
}
/// The ranges of the library's records, sorted by address.
fn own_records() -> Option<Vec<(usize, usize), Records>> {
    let mut own = Vec::new_in(Records);
    own.try_reserve_exact(records::MAPPINGS).ok()?;
    own.extend(records::mappings().map(|range| (range.start, range.end)));
    own.sort_unstable();
    Some(own)
}
/// The range that a line of /proc/self/maps names, if it is writable.
fn writable(line: &str) -> Option<Range<usize>> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    rest.starts_with("rw").then_some(number(start)?..number(end)?)
}

impl Search<'_> {
    fn look_into_mapping(&mut self, range: Range<usize>, pages: Option<&File>, own: &[(usize, usize)]) {
        const THERE: u64 = 3 << 62; // in memory, or swapped out
        let mut page = range.start / PAGE * PAGE;
        while page < range.end {
            let count = ((range.end - page) / PAGE).min(PAGES);
            let mut entries = [[0u8; 8]; PAGES];
            let bytes = entries[..count].as_flattened_mut();
            let known = pages.is_some_and(|file| file.read_exact_at(bytes, (page / PAGE * 8) as u64).is_ok());
            for entry in &entries[..count] {
                let there = !known || u64::from_ne_bytes(*entry) & THERE != 0;
                let after = own.partition_point(|&(start, _)| start <= page);
                let ours = after > 0 && page < own[after - 1].1 || page_map::span_of(page).is_some();
                if there && !ours {
                    self.look_into(page.max(range.start)..page + PAGE);
                }
                page += PAGE;
            }
        }
    }
    fn look_into(&mut self, range: Range<usize>) {
        let mut at = range.start;
        while at < range.end {
            let length = (range.end - at).min(PIECE);
            let mut buffer = core::mem::replace(&mut self.buffer, Vec::new_in(Records));
            let got = self.memory.read_at(&mut buffer[..length], at as u64).unwrap_or(0);
            for word in buffer[..got].as_chunks::<8>().0 {
                self.reach(usize::from_ne_bytes(*word));
            }
            self.buffer = buffer;
            at += length;
        }
    }
    fn reach(&mut self, address: usize) {
        let (Some(first), Some(last)) = (self.live.first(), self.live.last()) else { return };
        if address < first.start || address >= last.start + last.size {
            return;
        }
        let index = self.live.partition_point(|block| block.start <= address) - 1;
        let block = &self.live[index];
        if address < block.start + block.size && !self.reached[index] {
            self.reached[index] = true;
            self.waiting.push(index as u32);
        }
    }
}
