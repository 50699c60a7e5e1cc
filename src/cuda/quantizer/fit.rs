//! Fitting a codebook to packets that lie on a GPU.

use super::encoder::{EncodeKernel, Report};
use super::lloyd::{self, Assign, Data};
use super::lookup::Lookup;
use super::packets::{CHUNK, Chunk, Packets};
use crate::cuda::device::Device;
use crate::cuda::fixed::{Moments, Share, TimeScale};
use crate::cuda::sums::{Accumulate, SumSquares};
use crate::error::{Error, Result};
use crate::packet::Packet;
use crate::quantizer::kmeans::{Fit, Options, Step};
use crate::quantizer::table::SEARCH;
use crate::quantizer::{Codebook, Scaler};
use cudarc::driver::CudaSlice;
use std::ops::ControlFlow;

/// Fits a codebook to `packets`, seen through `scaler`, by exact Lloyd iterations from the centroids of `start`, on the
/// device that holds the packets.
///
/// Of `options`, `k`, which must be `start`'s, `max_iterations` and `tolerance` count. A centroid that gets no packet moves
/// to a packet far from its centroid; one that has none in the end is dropped, which takes fewer different packets than
/// centroids. The result depends neither on the order of the packets nor on the device. `progress` sees each iteration
/// and may stop the fit.
pub fn fit(
    packets: &mut Packets,
    scaler: Scaler,
    start: &Codebook,
    options: &Options,
    progress: &mut dyn FnMut(Step) -> ControlFlow<()>,
) -> Result<Fit> {
    packets.flush()?;
    if packets.is_empty() {
        return Err(Error::invalid("there are no packets to fit a codebook to"));
    }
    if start.len() != options.k {
        let (k, len) = (options.k, start.len());
        return Err(Error::mismatch(format!("k is {k}, but the codebook to start from has {len}")));
    }
    let mut assign = DeviceAssign::new(packets, scaler)?;
    let data = Data {
        scaler,
        moments: assign.moments()?,
        points: packets.survey().kept().map(|packet| scaler.point(packet)).collect(),
    };
    lloyd::iterate(&mut assign, &data, start, options, progress)
}

/// Encodes and sums on the device, chunk by chunk.
struct DeviceAssign<'a> {
    device: &'a Device,
    chunks: &'a [Chunk],
    sizes: Vec<i32>,
    scaler: Scaler,
    scale: TimeScale,
    encode: EncodeKernel,
    accumulate: Accumulate,
    tokens: CudaSlice<u32>,
    report: CudaSlice<u32>,
}

impl<'a> DeviceAssign<'a> {
    fn new(packets: &'a Packets, scaler: Scaler) -> Result<Self> {
        let device = packets.device();
        let longest = packets.chunks().iter().map(|chunk| chunk.len).max().unwrap_or(CHUNK);
        let (tokens, report) = device
            .run("making room for tokens", |stream| Ok((stream.alloc_zeros(longest)?, stream.alloc_zeros(2)?)))?;
        Ok(Self {
            device,
            chunks: packets.chunks(),
            sizes: packets.survey().sizes(),
            scaler,
            scale: TimeScale::of(scaler),
            encode: EncodeKernel::load(device)?,
            accumulate: Accumulate::load(device)?,
            tokens,
            report,
        })
    }

    fn moments(&self) -> Result<Moments> {
        let kernel = SumSquares::load(self.device)?;
        let mut all = Moments::default();
        for Chunk { packets, len } in self.chunks {
            all.add_sums(*len as u64, kernel.run(self.device, packets, *len, &self.scale)?);
        }
        Ok(all)
    }

    /// Adds the packets of `chunk` that the table left undecided.
    fn decide(&self, chunk: &Chunk, codebook: &Codebook, shares: &mut [Share]) -> Result<()> {
        let (packets, tokens) = self.device.run("copying packets back", |stream| {
            let both = (stream.clone_dtoh(&chunk.packets)?, stream.clone_dtoh(&self.tokens)?);
            stream.synchronize()?;
            Ok(both)
        })?;
        let packets: &[Packet] = bytemuck::cast_slice(&packets);
        for (&packet, _) in packets.iter().zip(&tokens).filter(|(_, token)| **token == SEARCH) {
            shares[codebook.nearest(self.scaler.point(packet)) as usize].add(&self.scale, packet);
        }
        Ok(())
    }
}

impl Assign for DeviceAssign<'_> {
    fn assign(&mut self, codebook: &Codebook) -> Result<Vec<Share>> {
        let lookup = Lookup::of_sizes(self.scaler, codebook, &self.sizes).upload(self.device)?;
        let mut shares = vec![Share::default(); codebook.len()];
        for chunk in self.chunks {
            let Chunk { packets, len } = chunk;
            self.encode.launch(self.device, packets, *len, &lookup, &mut self.tokens, &mut self.report)?;
            let sums = self.accumulate.run(self.device, packets, &self.tokens, *len, codebook.len(), &self.scale)?;
            shares.iter_mut().zip(sums).for_each(|(share, sums)| share.add_sums(sums));
            if Report::read(self.device, &self.report)?.undecided > 0 {
                self.decide(chunk, codebook, &mut shares)?;
            }
        }
        Ok(shares)
    }
}
