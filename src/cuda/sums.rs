//! Sums over packets on the device: `kernels/accumulate.cu` and `kernels/moments.cu`.

use super::device::Device;
use super::fixed::TimeScale;
use super::geometry::{self, TILE};
use super::module::{ACCUMULATE, MOMENTS};
use crate::error::{Error, Result};
use cudarc::driver::{CudaFunction, CudaSlice, PushKernelArg};

/// Sums the packets of each centroid.
pub(super) struct Accumulate(CudaFunction);

impl Accumulate {
    pub(super) fn load(device: &Device) -> Result<Self> {
        ACCUMULATE.load(device).map(Self)
    }

    /// Number, bytes and scaled times (two's complement) of the first `n` of `packets`, for each token below `k`.
    pub(super) fn run(
        &self,
        device: &Device,
        packets: &CudaSlice<u32>,
        tokens: &CudaSlice<u32>,
        n: usize,
        k: usize,
        scale: &TimeScale,
    ) -> Result<Vec<[u64; 3]>> {
        let grid = geometry::launch(n, TILE)?;
        if packets.len() < 2 * n || tokens.len() < n {
            return Err(Error::mismatch(format!("{n} packets do not fit the buffers of the device")));
        }
        let (count, tokens_below) = (n as u32, k as u32);
        let mut host = vec![[0; 3]; k];
        device.run("summing packets", |stream| {
            let mut sums: CudaSlice<u64> = stream.alloc_zeros(3 * k)?;
            let mut launch = stream.launch_builder(&self.0);
            launch.arg(packets).arg(tokens).arg(&count).arg(&tokens_below);
            launch.arg(&scale.unit).arg(&scale.offset).arg(&scale.last_zero).arg(&mut sums);
            // SAFETY: the arguments are those of the kernel, in order and type (module.rs tests the list). It reads `n`
            // packets and tokens, which are there as checked above, and writes the three sums of tokens below `k` only.
            unsafe { launch.launch(grid) }?;
            stream.memcpy_dtoh(&sums, bytemuck::cast_slice_mut::<[u64; 3], u64>(&mut host))?;
            stream.synchronize()
        })?;
        Ok(host)
    }
}

/// Sums the squares of packets.
pub(super) struct SumSquares(CudaFunction);

impl SumSquares {
    pub(super) fn load(device: &Device) -> Result<Self> {
        MOMENTS.load(device).map(Self)
    }

    /// The five sums of the first `n` of `packets`.
    pub(super) fn run(
        &self,
        device: &Device,
        packets: &CudaSlice<u32>,
        n: usize,
        scale: &TimeScale,
    ) -> Result<[u64; 5]> {
        let grid = geometry::launch(n, TILE)?;
        if packets.len() < 2 * n {
            return Err(Error::mismatch(format!("{n} packets do not fit the buffers of the device")));
        }
        let count = n as u32;
        let mut host = [0; 5];
        device.run("summing squares", |stream| {
            let mut sums: CudaSlice<u64> = stream.alloc_zeros(5)?;
            let mut launch = stream.launch_builder(&self.0);
            launch.arg(packets).arg(&count);
            launch.arg(&scale.unit).arg(&scale.offset).arg(&scale.last_zero).arg(&mut sums);
            // SAFETY: the arguments are those of the kernel, in order and type (module.rs tests the list). It reads `n`
            // packets, which are there as checked above, and writes five sums.
            unsafe { launch.launch(grid) }?;
            stream.memcpy_dtoh(&sums, &mut host)?;
            stream.synchronize()
        })?;
        Ok(host)
    }
}
