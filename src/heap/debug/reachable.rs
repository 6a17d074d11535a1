//! Which live blocks nothing points to any more: the leaks of a program that ends, as against what it merely keeps.
//!
//! Conservative, as leak sanitizers are: every aligned word of the program's writable memory (data, stacks, thread-local
//! variables, other mappings) that is an address in a live block reaches it, and so do the words of reached blocks. Heap
//! memory that is no live block, and the library's records, count for nothing. Registers of other threads are not seen.
//!
//! Memory is read through /proc/self/mem, since other threads may unmap it meanwhile, and only pages that are there, so
//! that reserved address space costs nothing and tiered memory stays where it is.
use super::super::{Block, page_map};
use crate::os::map::PAGE;
use crate::os::records::{self, Records};
use allocator_api2::vec::Vec;
use core::ops::Range;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Bytes read at once.
const PIECE: usize = 16 * PAGE;
/// Pages asked about at once.
const PAGES: usize = 512;

struct Search<'a> {
    /// By address.
    live: &'a [Block],
    reached: Vec<bool, Records>,
    /// Reached, not yet looked into.
    waiting: Vec<u32, Records>,
    memory: File,
    buffer: Vec<u8, Records>,
}

/// For each of `live`, in order of their addresses, whether it is reached. The stack that `frame` lies in counts from
/// there up. None when the system does not let memory be read, or has none.
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
        // Tiered memory holds numbers, and would have to be brought in.
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
/// Where the library's records are, by address.
fn own_records() -> Option<Vec<(usize, usize), Records>> {
    let mut own = Vec::new_in(Records);
    own.try_reserve_exact(records::MAPPINGS).ok()?;
    own.extend(records::mappings().map(|range| (range.start, range.end)));
    own.sort_unstable();
    Some(own)
}
/// The range of a line of /proc/self/maps, if it can be written.
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
