//! The table of thresholds in the layout that `kernels/encode.cu` reads.

use crate::cuda::device::Device;
use crate::error::Result;
use crate::quantizer::table::{Arrays, Column, MAX_SIZE, Step, Table};
use crate::quantizer::{Codebook, Scaler};
use cudarc::driver::CudaSlice;
use rayon::prelude::*;

/// Into how many tables the sizes are divided that are built at once: fixed, and few, for each may take its own bound
/// of memory.
const PARTS: usize = 8;

/// Columns, buckets and steps, as in [`Table`].
#[derive(Debug)]
pub(in crate::cuda) struct Lookup {
    pub columns: Vec<Column>,
    pub buckets: Vec<u32>,
    pub steps: Vec<Step>,
}

impl Lookup {
    /// The whole of `table`.
    pub(in crate::cuda) fn of(table: &Table) -> Self {
        let Arrays { columns, buckets, steps } = table.arrays();
        Self { columns: columns.to_vec(), buckets: buckets.to_vec(), steps: steps.to_vec() }
    }

    /// The columns of `sizes`, which rise and lie within ±65,535, built on all threads. Packets of other sizes are left
    /// undecided.
    pub(in crate::cuda) fn of_sizes(scaler: Scaler, codebook: &Codebook, sizes: &[i32]) -> Self {
        let parts: Vec<(&[i32], Table)> = sizes
            .par_chunks(sizes.len().div_ceil(PARTS).max(1))
            .map(|sizes| (sizes, Table::of_sizes(scaler, codebook, [sizes.to_vec()])))
            .collect();
        // Column, bucket and step of a table without sizes: what all of them begin with.
        let mut all = Self::of(&Table::of_sizes(scaler, codebook, []));
        for (sizes, table) in &parts {
            let (bucket, step) = (all.buckets.len() as u32, all.steps.len() as u32);
            let arrays = table.arrays();
            for &size in *sizes {
                let at = (size + MAX_SIZE) as usize;
                let column = arrays.columns[at];
                all.columns[at] = Column { first: column.first + bucket, ..column };
            }
            all.buckets.extend(arrays.buckets.iter().map(|first| first + step));
            all.steps.extend_from_slice(arrays.steps);
        }
        all
    }

    /// Copies it to `device`.
    pub(in crate::cuda) fn upload(&self, device: &Device) -> Result<DeviceLookup> {
        device.run("copying the quantizer's table", |stream| {
            Ok(DeviceLookup {
                columns: stream.clone_htod::<u32, _>(bytemuck::cast_slice(&self.columns))?,
                buckets: stream.clone_htod(&self.buckets)?,
                steps: stream.clone_htod::<u32, _>(bytemuck::cast_slice(&self.steps))?,
            })
        })
    }
}

/// A [`Lookup`] in the device's memory.
pub(in crate::cuda) struct DeviceLookup {
    pub columns: CudaSlice<u32>,
    pub buckets: CudaSlice<u32>,
    pub steps: CudaSlice<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;
    use crate::quantizer::table::SEARCH;
    use crate::random::Stream;

    impl Lookup {
        /// What the kernel does.
        fn token(&self, packet: Packet) -> Option<u32> {
            let index = (packet.size as u32).wrapping_add(MAX_SIZE as u32);
            let bits = if packet.ipt_us == 0.0 { 0 } else { packet.ipt_us.to_bits() };
            if index > 2 * MAX_SIZE as u32 {
                return None;
            }
            let column = self.columns[index as usize];
            let bucket = ((bits.max(column.begin) - column.begin) >> column.shift).min(column.more);
            let first = self.buckets[(column.first + bucket) as usize] as usize;
            let [_, token] = self.steps[first..].iter().find(|[threshold, _]| *threshold > bits)?;
            Some(*token).filter(|&token| token != SEARCH)
        }
    }

    fn codebook(k: usize) -> Codebook {
        let mut draws = Stream::new(6, k as u64);
        Codebook::new((0..k).map(|_| [draws.uniform() as f32 * 2.0 - 1.0, draws.uniform() as f32 * 9.0]).collect())
            .unwrap()
    }

    fn packets(n: usize) -> impl Iterator<Item = Packet> {
        let mut draws = Stream::new(7, 0);
        let edges = [0.0, -0.0, f32::from_bits(1), f32::MIN_POSITIVE, 1e-5, 6e7, f32::MAX].into_iter().flat_map(|t| {
            [i32::MIN, -65_536, -65_535, -1500, -1, 0, 1, 40, 1500, 65_535, 65_536, i32::MAX].map(move |s| (s, t))
        });
        let drawn = (0..n).map(move |_| {
            let size = draws.below(2 * 1536 + 1) as i32 - 1536;
            (size, f32::from_bits((draws.uniform() * f64::from(f32::MAX.to_bits())) as u32))
        });
        edges.chain(drawn).map(|(size, ipt_us)| Packet { size, ipt_us })
    }

    #[test]
    fn the_flat_table_gives_the_tokens_of_the_table() {
        for scaler in [Scaler::Log1pUs, Scaler::Log10Ms] {
            for k in [1, 2, 700] {
                let table = Table::new(scaler, &codebook(k));
                let lookup = Lookup::of(&table);
                for packet in packets(100_000) {
                    assert_eq!(lookup.token(packet), table.token(packet), "{packet:?}");
                }
            }
        }
    }

    #[test]
    fn a_table_of_some_sizes_gives_their_tokens_and_no_others() {
        let codebook = codebook(700);
        let table = Table::new(Scaler::Log1pUs, &codebook);
        for n in [0, 1, 7, 300] {
            let mut sizes: Vec<i32> = (0..n).map(|i| i * 37 % 3000 - 1500).collect();
            sizes.sort_unstable();
            let lookup = Lookup::of_sizes(Scaler::Log1pUs, &codebook, &sizes);
            for packet in packets(100_000) {
                let there = sizes.binary_search(&packet.size).is_ok();
                assert_eq!(lookup.token(packet), table.token(packet).filter(|_| there), "{packet:?}");
            }
        }
    }

    /// One that has nowhere else to stand: every read of the kernel stays inside the arrays.
    #[test]
    fn every_column_ends_with_a_threshold_that_no_time_passes() {
        let codebook = codebook(300);
        for lookup in [
            Lookup::of(&Table::new(Scaler::Log1pUs, &codebook)),
            Lookup::of_sizes(Scaler::Log1pUs, &codebook, &[-1500, -52, 0, 40, 1500]),
        ] {
            assert_eq!(lookup.columns.len(), 2 * MAX_SIZE as usize + 1);
            for column in &lookup.columns {
                assert!(column.shift < 32);
                for bucket in column.first..=column.first + column.more {
                    let first = lookup.buckets[bucket as usize] as usize;
                    assert!(lookup.steps[first..].iter().any(|[bits, _]| *bits == f32::INFINITY.to_bits()));
                }
            }
        }
    }
}
