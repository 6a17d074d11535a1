//! Regions by address, in a list that is cheap to copy.
//!
//! Lists of regions are replaced, never changed (snapshot.rs). This one consists of short blocks. A copy shares them all, until
//! it changes one.
use std::sync::Arc;

/// The most entries of a block. A block and its neighbour are joined when they have half of that.
const MOST: usize = 128;

/// Where a region begins, and the region. With the address a search touches no region but the one that it finds.
type Entry<T> = (usize, Arc<T>);

/// A list by address. No two entries have the same.
pub struct ByAddress<T> {
    /// In order, and none is empty.
    blocks: Vec<Arc<Vec<Entry<T>>>>,
}
impl<T> Default for ByAddress<T> {
    fn default() -> ByAddress<T> {
        ByAddress { blocks: Vec::new() }
    }
}
impl<T> Clone for ByAddress<T> {
    fn clone(&self) -> ByAddress<T> {
        ByAddress { blocks: self.blocks.clone() }
    }
}
impl<T> ByAddress<T> {
    /// Adds an entry.
    pub fn insert(&mut self, start: usize, value: Arc<T>) {
        let Some(at) = self.block_of(start).or((!self.is_empty()).then_some(0)) else {
            return self.blocks.push(Arc::new(vec![(start, value)]));
        };
        let block = Arc::make_mut(&mut self.blocks[at]);
        block.insert(block.partition_point(|entry| entry.0 < start), (start, value));
        if block.len() > MOST {
            let rest = block.split_off(MOST / 2);
            self.blocks.insert(at + 1, Arc::new(rest));
        }
    }
    /// Takes out the entry of `value`, which begins at `start`. Returns false if there is none.
    pub fn remove(&mut self, start: usize, value: &Arc<T>) -> bool {
        let Some(at) = self.block_of(start) else { return false };
        let found = self.blocks[at].binary_search_by_key(&start, |entry| entry.0);
        let Some(place) = found.ok().filter(|&place| Arc::ptr_eq(&self.blocks[at][place].1, value)) else {
            return false;
        };
        Arc::make_mut(&mut self.blocks[at]).remove(place);
        self.join(at);
        at.checked_sub(1).into_iter().for_each(|before| self.join(before));
        true
    }
    /// Joins a block and the next one if both are short.
    fn join(&mut self, at: usize) {
        let length = |at: usize| self.blocks.get(at).map(|block| block.len());
        match (length(at), length(at + 1)) {
            (Some(0), _) => _ = self.blocks.remove(at),
            (Some(one), Some(next)) if one + next <= MOST / 2 => {
                let next = self.blocks.remove(at + 1);
                Arc::make_mut(&mut self.blocks[at]).extend(next.iter().cloned());
            }
            _ => {}
        }
    }
    /// The block that has the last entry at or before `address`.
    fn block_of(&self, address: usize) -> Option<usize> {
        self.blocks.partition_point(|block| block[0].0 <= address).checked_sub(1)
    }
    /// The last entry at or before `address`.
    pub fn at_or_before(&self, address: usize) -> Option<&Arc<T>> {
        let block = &self.blocks[self.block_of(address)?];
        Some(&block[block.partition_point(|entry| entry.0 <= address) - 1].1)
    }
    /// All entries, by address.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<T>> + Clone {
        self.blocks.iter().flat_map(|block| block.iter().map(|entry| &entry.1))
    }
    /// How many there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.blocks.iter().map(|block| block.len()).sum()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::btree_map::{BTreeMap, Entry::Vacant};

    #[test]
    fn it_is_what_a_map_is_and_copies_stay_as_they_are() {
        let (mut list, mut map) = (ByAddress::default(), BTreeMap::new());
        let mut state = 1_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let (mut copy, mut copied) = (list.clone(), Vec::new());
        for step in 0..60_000 {
            // Grows to a few thousand entries, and shrinks to none.
            let grows = step % 20_000 < 10_000;
            let start = random(10_000) as usize;
            if (random(10) < 7) == grows {
                if let Vacant(place) = map.entry(start) {
                    let value = Arc::new(start);
                    list.insert(start, value.clone());
                    place.insert(value);
                }
            } else {
                // Most often one that is there.
                let start = map.range(start..).next().map_or(start, |(start, _)| *start);
                let other = Arc::new(start);
                assert!(!list.remove(start, &other), "another value at the same address");
                let value = map.remove(&start);
                assert_eq!(list.remove(start, value.as_ref().unwrap_or(&other)), value.is_some());
            }
            let address = random(10_000) as usize;
            let expected = map.range(..=address).next_back().map(|(_, value)| value);
            assert_eq!(list.at_or_before(address), expected);
            assert_eq!(list.is_empty(), map.is_empty());
            if step % 1000 == 0 {
                assert!(list.iter().eq(map.values()));
                assert!(copy.iter().map(|value| **value).eq(copied.iter().copied()));
                (copy, copied) = (list.clone(), map.keys().copied().collect());
                let blocks: Vec<usize> = list.blocks.iter().map(|block| block.len()).collect();
                assert!(blocks.iter().all(|length| (1..=MOST).contains(length)));
                assert!(blocks.windows(2).all(|pair| pair[0] + pair[1] > MOST / 2), "{blocks:?}");
            }
        }
        while let Some((start, value)) = map.pop_last() {
            assert!(list.remove(start, &value));
        }
        assert!(list.is_empty() && list.iter().next().is_none());
    }
}
