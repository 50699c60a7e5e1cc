//! The queue of slots that are due for a verdict. A slot is in it at most once, so with a place for each it never fills.

use super::slot::NONE;
use crate::error::Result;

pub(super) struct Due {
    ring: Vec<u32>,
    head: usize,
    len: usize,
}

impl Due {
    /// Bytes of a queue of `n` slots.
    pub fn memory(n: usize) -> usize {
        n * size_of::<u32>()
    }

    pub fn new(n: usize) -> Result<Self> {
        Ok(Self { ring: super::table::reserved(n, NONE)?, head: 0, len: 0 })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    fn place(&self, i: usize) -> usize {
        let at = self.head + i;
        if at < self.ring.len() { at } else { at - self.ring.len() }
    }

    /// Appends a slot that is not in the queue.
    pub fn push(&mut self, slot: u32) {
        let at = self.place(self.len);
        self.ring[at] = slot;
        self.len += 1;
    }

    /// The slots in their order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.len).map(|i| self.ring[self.place(i)])
    }

    /// Forgets the first `n`.
    pub fn drop_first(&mut self, n: usize) {
        self.head = self.place(n);
        self.len -= n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_in_first_out_around_the_end() {
        let mut due = Due::new(3).unwrap();
        for round in 0..5 {
            for i in 0..3 {
                due.push(round * 3 + i);
            }
            assert!(due.iter().eq(round * 3..round * 3 + 3));
            due.drop_first(2);
            assert_eq!(due.len(), 1);
            due.push(99);
            assert!(due.iter().eq([round * 3 + 2, 99]));
            due.drop_first(2);
        }
    }
}
