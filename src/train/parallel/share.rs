//! Which part of the work is a rank's own.

use std::ops::Range;

/// One rank's part of what all do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The rank.
    pub rank: usize,
    /// How many there are.
    pub size: usize,
}

impl Default for Share {
    fn default() -> Self {
        Self::WHOLE
    }
}

impl Share {
    /// Everything, for a process that is alone.
    pub const WHOLE: Self = Self { rank: 0, size: 1 };

    /// Its part of `n` equal things.
    pub fn of(self, n: usize) -> Range<usize> {
        let edge = |rank: usize| (n as u128 * rank as u128 / self.size as u128) as usize;
        edge(self.rank)..edge(self.rank + 1)
    }

    /// Its part of sequences that begin at `offsets`, the last of which is where they end: one after another, and about as many
    /// tokens as the parts of the others.
    pub fn of_sequences(self, offsets: &[u64]) -> Range<usize> {
        let n = offsets.len().saturating_sub(1);
        let total = u128::from(offsets.last().copied().unwrap_or(0));
        // A sequence belongs to the part that its middle lies in.
        let middles: Vec<u128> = offsets.windows(2).map(|pair| u128::from(pair[0]) + u128::from(pair[1])).collect();
        let edge = |rank: usize| match rank == self.size {
            true => n,
            false => middles.partition_point(|twice| twice * (self.size as u128) < 2 * total * rank as u128),
        };
        edge(self.rank)..edge(self.rank + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_tile_the_whole_and_are_about_equal() {
        let lengths: Vec<u64> = (0..60).map(|i| 1 + i * 7 % 40).collect();
        let offsets: Vec<u64> = std::iter::once(0)
            .chain(lengths.iter().scan(0, |at, n| {
                Some({
                    *at += n;
                    *at
                })
            }))
            .collect();
        for size in [1, 2, 3, 7, 59, 60, 61, 200] {
            let (mut of_all, mut of_sequences) = (0, 0);
            for rank in 0..size {
                let share = Share { rank, size };
                let (things, sequences) = (share.of(60), share.of_sequences(&offsets));
                assert_eq!((things.start, sequences.start), (of_all, of_sequences));
                (of_all, of_sequences) = (things.end, sequences.end);
                let tokens: u64 = lengths[sequences].iter().sum();
                let fair = offsets[60] / size as u64;
                assert!(tokens <= fair + 41 && tokens + 41 >= fair, "{tokens} of {fair}, {size} ranks");
            }
            assert_eq!((of_all, of_sequences), (60, 60));
        }
        assert_eq!(Share { rank: 1, size: 2 }.of_sequences(&[0]), 0..0);
        assert_eq!(Share { rank: 0, size: 2 }.of_sequences(&[]), 0..0);
        // One sequence is somebody's.
        let owners: usize = (0..3).map(|rank| Share { rank, size: 3 }.of_sequences(&[0, 9]).len()).sum();
        assert_eq!(owners, 1);
    }
}
