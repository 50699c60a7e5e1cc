//! How work is cut: into batches that fit the memory, and into blocks.

use crate::error::{Error, Result};
use cudarc::driver::LaunchConfig;
use std::ops::Range;

/// Most packets of one launch: what keeps the kernels' 64-bit sums and 32-bit indices from passing their ends.
pub(super) const MAX_BATCH: usize = 1 << 26;

/// Fewest packets of a batch, however small the budget: below, launches cost more than work.
const MIN_BATCH: usize = 1 << 10;

/// Threads of a block, in every kernel.
pub(super) const THREADS: u32 = 256;

/// Packets or points of a block in the kernels whose threads take four each: encode, nearest_brute.
pub(super) const FOUR_EACH: u32 = 4 * THREADS;

/// Packets of a block in the kernels that sum: accumulate, moments.
pub(super) const TILE: u32 = 1 << 14;

/// Blocks of `per_block` items each, for `n` items, which must be in `1..=MAX_BATCH`.
pub(super) fn launch(n: usize, per_block: u32) -> Result<LaunchConfig> {
    if n == 0 || n > MAX_BATCH {
        return Err(Error::invalid(format!("{n} packets in one launch; there must be 1..={MAX_BATCH}")));
    }
    let blocks = (n as u32).div_ceil(per_block);
    Ok(LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 })
}

/// Items of a batch that take `each` bytes of `budget`.
pub(super) fn batch_len(budget: usize, each: usize) -> usize {
    (budget / each).clamp(MIN_BATCH, MAX_BATCH)
}

/// `0..n` in batches of `len`, the last of what is left.
pub(super) fn batches(n: usize, len: usize) -> impl ExactSizeIterator<Item = Range<usize>> {
    (0..n.div_ceil(len)).map(move |i| i * len..((i + 1) * len).min(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_has_a_thread_and_no_block_is_idle() {
        for per_block in [FOUR_EACH, TILE] {
            for n in [1, 31, 33, 1023, 1024, 1025, 16_384, 16_385, 1_000_007, MAX_BATCH] {
                let blocks = launch(n, per_block).unwrap().grid_dim.0 as usize;
                assert!(blocks * per_block as usize >= n && (blocks - 1) * (per_block as usize) < n, "{n}");
            }
        }
        assert!(launch(0, TILE).is_err() && launch(MAX_BATCH + 1, TILE).is_err());
    }

    #[test]
    fn batches_cover_all_once_and_keep_the_budget() {
        for (n, budget) in [(0, 1 << 20), (1, 1 << 20), (1_000_007, 1 << 20), (5000, 0), (200_000_000, usize::MAX)] {
            let len = batch_len(budget, 12);
            assert!(len * 12 <= budget.max(12 * MIN_BATCH) && len <= MAX_BATCH);
            let mut next = 0;
            for batch in batches(n, len) {
                assert!(batch.start == next && !batch.is_empty() && batch.len() <= len);
                next = batch.end;
            }
            assert_eq!(next, n);
        }
    }
}
