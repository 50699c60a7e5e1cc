//! Hash → slot: buckets of one cache line each, of a number fixed at creation.
//!
//! A bucket holds ten entries: 16 bits of the hash, compared side by side, and the slot. An entry that finds its bucket
//! full goes to the next that is not, and every bucket on the way counts it: a search goes on only where something
//! passed, and taking out leaves nothing behind. So the cost never creeps up however long the table lives, and nothing
//! is ever moved or allocated, which a general hash map cannot promise.

use super::slot::NONE;
use crate::backend::prefetch::prefetch;
use crate::error::Result;

const ENTRIES: usize = 10;

/// Of ten places, seven are filled when the table is full: few entries then miss their bucket.
const FILLED: usize = 7;

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Bucket {
    slots: [u32; ENTRIES],
    tags: [u16; ENTRIES],
    /// Entries that would be here had there been room.
    passed: u32,
}

const EMPTY: Bucket = Bucket { slots: [NONE; ENTRIES], tags: [NO_TAG; ENTRIES], passed: 0 };

/// The tag of an empty place.
const NO_TAG: u16 = 0;

fn tag(hash: u64) -> u16 {
    (hash as u16).max(1)
}

impl Bucket {
    /// One bit per entry with this tag.
    #[inline(always)]
    fn matches(&self, tag: u16) -> u32 {
        self.tags.iter().enumerate().fold(0, |bits, (i, &t)| bits | u32::from(t == tag) << i)
    }
}

/// The slots of at most as many flows as it was made for.
pub(super) struct Index(Vec<Bucket>);

impl Index {
    /// Number of buckets for `n` flows.
    fn buckets(n: usize) -> usize {
        n / FILLED + 1
    }

    /// Bytes of an index of `n` flows.
    pub fn memory(n: usize) -> usize {
        Self::buckets(n) * size_of::<Bucket>()
    }

    /// An index with room for `n` flows.
    pub fn new(n: usize) -> Result<Self> {
        Ok(Self(super::table::reserved(Self::buckets(n), EMPTY)?))
    }

    /// Where the search for `hash` begins.
    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.0.len() as u128) >> 64) as usize
    }

    fn next(&self, at: usize) -> usize {
        if at + 1 == self.0.len() { 0 } else { at + 1 }
    }

    /// Brings the first bucket of `hash` into the cache.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        prefetch(&self.0[self.home(hash)]);
    }

    /// The slot that is most likely that of `hash`, or [`NONE`].
    #[inline(always)]
    pub fn guess(&self, hash: u64) -> u32 {
        let bucket = &self.0[self.home(hash)];
        match bucket.matches(tag(hash)) {
            0 => NONE,
            bits => bucket.slots[bits.trailing_zeros() as usize],
        }
    }

    /// The slot with this hash that `is_it`.
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let (mut at, tag) = (self.home(hash), tag(hash));
        for _ in 0..self.0.len() {
            let bucket = &self.0[at];
            let mut bits = bucket.matches(tag);
            while bits != 0 {
                let slot = bucket.slots[bits.trailing_zeros() as usize];
                if is_it(slot) {
                    return Some(slot);
                }
                bits &= bits - 1;
            }
            if bucket.passed == 0 {
                return None;
            }
            at = self.next(at);
        }
        None
    }

    /// Enters `slot` under `hash`. There must be fewer flows than it was made for.
    pub fn insert(&mut self, hash: u64, slot: u32) {
        let mut at = self.home(hash);
        for _ in 0..self.0.len() {
            let bucket = &mut self.0[at];
            if let Some(i) = bucket.tags.iter().position(|&tag| tag == NO_TAG) {
                (bucket.slots[i], bucket.tags[i]) = (slot, tag(hash));
                return;
            }
            bucket.passed += 1;
            at = self.next(at);
        }
    }

    /// Takes out `slot`, which was entered under `hash`.
    pub fn remove(&mut self, hash: u64, slot: u32) {
        let mut at = self.home(hash);
        for _ in 0..self.0.len() {
            let bucket = &mut self.0[at];
            if let Some(i) = bucket.slots.iter().position(|&s| s == slot) {
                (bucket.slots[i], bucket.tags[i]) = (NONE, NO_TAG);
                return;
            }
            bucket.passed -= 1;
            at = self.next(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;
    use std::collections::HashMap;

    /// Random work on a full index, among hashes that meet often, beside the standard library's map.
    #[test]
    fn it_finds_what_a_map_finds() {
        let n = 70;
        let mut index = Index::new(n).unwrap();
        let mut map: HashMap<u32, u64> = HashMap::new();
        let mut draws = Stream::new(1, 1);
        for round in 0..20_000u32 {
            let slot = draws.below(100) as u32;
            match map.remove(&slot) {
                Some(hash) => index.remove(hash, slot),
                None if map.len() < n => {
                    // Few homes and few tags.
                    let hash = (draws.below(3) as u64) << 62 | draws.below(4) as u64;
                    index.insert(hash, slot);
                    map.insert(slot, hash);
                }
                None => {}
            }
            if round % 16 == 0 {
                for slot in 0..100 {
                    let hash = map.get(&slot).copied();
                    let found = index.find(hash.unwrap_or(u64::from(slot)), |s| s == slot);
                    assert_eq!(found, hash.map(|_| slot));
                }
            }
        }
        for (slot, hash) in map.drain() {
            index.remove(hash, slot);
        }
        assert!(index.0.iter().all(|bucket| bucket.passed == 0 && bucket.tags == [NO_TAG; ENTRIES]));
    }

    #[test]
    fn a_guess_is_an_entry_with_the_same_tag() {
        let mut index = Index::new(7).unwrap();
        assert_eq!(index.guess(5), NONE);
        index.insert(5, 3);
        assert_eq!((index.guess(5), index.guess(6)), (3, NONE));
        // Tag 0 is taken.
        index.insert(1 << 16, 4);
        assert_eq!(index.find(1 << 16, |slot| slot == 4), Some(4));
    }
}
