//! Fitting a codebook to packets that lie on a GPU.

use super::encoder::{EncodeKernel, Report};
use super::lloyd::{self, Assign, Data};
use super::lookup::Lookup;
use super::packets::{CHUNK, Chunk, Packets};
use crate::cuda::device::Device;
use crate::cuda::fixed::{Moments, Share, TimeScale};
use crate::cuda::geometry::{self, TILE};
use crate::cuda::module;
use crate::error::{Error, Result};
use crate::packet::Packet;
use crate::quantizer::kmeans::{Fit, Options};
use crate::quantizer::table::SEARCH;
use crate::quantizer::{Codebook, Scaler};
use crate::tokens::Token;
use cudarc::driver::{CudaFunction, CudaSlice, PushKernelArg};
use std::ops::ControlFlow;

/// Fits a codebook to `packets`, seen through `scaler`, by exact Lloyd iterations from the centroids of `start`, on the
/// device that holds the packets.
///
/// Of `options`, `max_iterations` and `tolerance` count: how many centroids there are and where they begin is `start`'s to
/// say. A centroid that gets no packet moves to a packet far from its centroid; one that has none in the end is dropped,
/// which takes fewer different packets than centroids. The result depends neither on the order of the packets nor on the
/// device. `progress` sees each iteration's number and inertia and may stop the fit.
pub fn fit(
    packets: &mut Packets,
    scaler: Scaler,
    start: &Codebook,
    options: &Options,
    progress: &mut dyn FnMut(usize, f64) -> ControlFlow<()>,
) -> Result<Fit> {
    packets.flush()?;
    if packets.is_empty() {
        return Err(Error::invalid("there are no packets to fit a codebook to"));
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
    accumulate: CudaFunction,
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
            accumulate: module::ACCUMULATE.load(device)?,
            tokens,
            report,
        })
    }

    fn moments(&self) -> Result<Moments> {
        let kernel = module::MOMENTS.load(self.device)?;
        let mut all = Moments::default();
        for Chunk { packets, len } in self.chunks {
            all.add_sums(*len as u64, moments(self.device, &kernel, packets, *len, &self.scale)?);
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
            let sums =
                accumulate(self.device, &self.accumulate, packets, &self.tokens, *len, codebook.len(), &self.scale)?;
            shares.iter_mut().zip(sums).for_each(|(share, sums)| share.add_sums(sums));
            if Report::read(self.device, &self.report)?.undecided > 0 {
                self.decide(chunk, codebook, &mut shares)?;
            }
        }
        Ok(shares)
    }
}

/// Sums `n` packets by their tokens below `k`, with `kernels/accumulate.cu`.
fn accumulate(
    device: &Device,
    kernel: &CudaFunction,
    packets: &CudaSlice<u32>,
    tokens: &CudaSlice<Token>,
    n: usize,
    k: usize,
    scale: &TimeScale,
) -> Result<Vec<[u64; 3]>> {
    let grid = geometry::launch(n, TILE)?;
    if packets.len() < 2 * n || tokens.len() < n {
        return Err(Error::mismatch(format!("{n} packets do not fit the buffers of the device")));
    }
    let (n, k) = (n as u32, k as u32);
    let mut host = vec![[0; 3]; k as usize];
    device.run("summing packets", |stream| {
        let mut sums: CudaSlice<u64> = stream.alloc_zeros(3 * k as usize)?;
        let mut launch = stream.launch_builder(kernel);
        launch.arg(packets).arg(tokens).arg(&n).arg(&k).arg(&scale.unit).arg(&scale.offset).arg(&scale.last_zero);
        launch.arg(&mut sums);
        // SAFETY: the arguments are those of the kernel, in order and type (module.rs tests the list). It reads `n`
        // packets and tokens, which are there as checked above, and writes the three sums of tokens below `k` only.
        unsafe { launch.launch(grid) }?;
        stream.memcpy_dtoh(&sums, bytemuck::cast_slice_mut::<[u64; 3], u64>(&mut host))?;
        stream.synchronize()
    })?;
    Ok(host)
}

/// Sums the squares of `n` packets, with `kernels/moments.cu`.
fn moments(
    device: &Device,
    kernel: &CudaFunction,
    packets: &CudaSlice<u32>,
    n: usize,
    scale: &TimeScale,
) -> Result<[u64; 5]> {
    let grid = geometry::launch(n, TILE)?;
    if packets.len() < 2 * n {
        return Err(Error::mismatch(format!("{n} packets do not fit the buffers of the device")));
    }
    let n = n as u32;
    let mut host = [0; 5];
    device.run("summing squares", |stream| {
        let mut sums: CudaSlice<u64> = stream.alloc_zeros(5)?;
        let mut launch = stream.launch_builder(kernel);
        launch.arg(packets).arg(&n).arg(&scale.unit).arg(&scale.offset).arg(&scale.last_zero).arg(&mut sums);
        // SAFETY: the arguments are those of the kernel, in order and type (module.rs tests the list). It reads `n`
        // packets, which are there as checked above, and writes five sums.
        unsafe { launch.launch(grid) }?;
        stream.memcpy_dtoh(&sums, &mut host)?;
        stream.synchronize()
    })?;
    Ok(host)
}
