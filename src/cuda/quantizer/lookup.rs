//! The table of thresholds in the layout that `kernels/encode.cu` reads.

use crate::cuda::device::Device;
use crate::error::Result;
use crate::quantizer::table::{Arrays, LIST, MAX_SIZE, RANGES, SEARCH, Step, Table};
use crate::quantizer::{Codebook, Scaler};
use cudarc::driver::CudaSlice;
use rayon::prelude::*;

/// Into how many tables the sizes are divided that are built at once: fixed, and few, for each may take its own bound
/// of memory.
const PARTS: usize = 8;

/// Ranges and steps, as in [`Table`].
#[derive(Debug)]
pub(in crate::cuda) struct Lookup {
    pub ranges: Vec<u32>,
    pub steps: Vec<Step>,
}

impl Lookup {
    /// The whole of `table`.
    pub(in crate::cuda) fn of(table: &Table) -> Self {
        let Arrays { ranges, steps } = table.arrays();
        Self { ranges: ranges.to_vec(), steps: steps.to_vec() }
    }

    /// The steps of `sizes`, which rise and lie within ±65,535, built on all threads. Packets of other sizes are left
    /// undecided.
    pub(in crate::cuda) fn of_sizes(scaler: Scaler, codebook: &Codebook, sizes: &[i32]) -> Self {
        let parts: Vec<(&[i32], Table)> = sizes
            .par_chunks(sizes.len().div_ceil(PARTS).max(1))
            .map(|sizes| (sizes, Table::of_sizes(scaler, codebook, [sizes.to_vec()])))
            .collect();
        // What a table without sizes has, and all of them begin with.
        let mut all = Self::of(&Table::of_sizes(scaler, codebook, []));
        for (sizes, table) in &parts {
            let base = all.steps.len() as u32;
            let arrays = table.arrays();
            for &size in *sizes {
                let at = (size + MAX_SIZE) as usize * RANGES;
                for (range, own) in all.ranges[at..at + RANGES].iter_mut().zip(&arrays.ranges[at..]) {
                    *range = own + (base << 5);
                }
            }
            all.steps.extend(arrays.steps.iter().map(|&[time, token]| {
                let is_list = (LIST..SEARCH).contains(&token);
                [time, if is_list { token + base } else { token }]
            }));
        }
        all
    }

    /// Copies it to `device`.
    pub(in crate::cuda) fn upload(&self, device: &Device) -> Result<DeviceLookup> {
        device.run("copying the quantizer's table", |stream| {
            Ok(DeviceLookup {
                ranges: stream.clone_htod(&self.ranges)?,
                steps: stream.clone_htod::<u32, _>(bytemuck::cast_slice(&self.steps))?,
            })
        })
    }
}

/// A [`Lookup`] in the device's memory.
pub(in crate::cuda) struct DeviceLookup {
    pub ranges: CudaSlice<u32>,
    pub steps: CudaSlice<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;
    use crate::random::Stream;

    impl Lookup {
        /// What the kernel does.
        fn token(&self, packet: Packet) -> Option<u32> {
            let index = (packet.size as u32).wrapping_add(MAX_SIZE as u32);
            let bits = if packet.ipt_us == 0.0 { 0 } else { packet.ipt_us.to_bits() };
            if index > 2 * MAX_SIZE as u32 {
                return None;
            }
            let octave = ((bits >> 23).max(124) - 124).min(RANGES as u32 - 1);
            let range = self.ranges[index as usize * RANGES + octave as usize];
            let at = ((range >> 5) + ((bits & 0x7f_ffff) >> (range & 31))) as usize;
            let token = if bits < self.steps[at][0] { self.steps[at][1] } else { self.steps[at + 1][1] };
            if !(LIST..SEARCH).contains(&token) {
                return Some(token).filter(|&token| token != SEARCH);
            }
            let [_, token] = self.steps[(token - LIST) as usize..].iter().find(|[time, _]| bits < *time)?;
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

    /// What has nowhere else to stand: every read of the kernel stays inside the arrays.
    #[test]
    fn every_bucket_and_every_list_ends_inside_the_table() {
        let codebook = codebook(300);
        for lookup in [
            Lookup::of(&Table::new(Scaler::Log1pUs, &codebook)),
            Lookup::of_sizes(Scaler::Log1pUs, &codebook, &[-1500, -52, 0, 40, 1500]),
        ] {
            assert!(lookup.ranges.len() > (2 * MAX_SIZE as usize + 1) * RANGES);
            for range in &lookup.ranges {
                let (first, shift) = ((range >> 5) as usize, range & 31);
                assert!(shift <= 23 && first + (0x7f_ffff >> shift) + 1 < lookup.steps.len());
            }
            for [_, token] in lookup.steps.iter().filter(|step| (LIST..SEARCH).contains(&step[1])) {
                let list = &lookup.steps[(token - LIST) as usize..];
                assert!(list.iter().any(|[bits, _]| *bits == f32::INFINITY.to_bits()));
            }
        }
    }
}
