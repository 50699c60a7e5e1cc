//! The nearest centroid by comparing all of them: what the table is measured against, and with f64 an oracle for it.

use super::device::Device;
use super::geometry::{self, FOUR_EACH};
use super::module::{NEAREST_BRUTE_F32, NEAREST_BRUTE_F64};
use crate::error::{Error, Result};
use crate::quantizer::Codebook;
use crate::quantizer::scaler::Point;
use crate::tokens::Token;
use cudarc::driver::{CudaFunction, CudaSlice, PushKernelArg};
use std::sync::Arc;

/// In which numbers distances are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// As [`Codebook`] computes them: the same tokens.
    F64,
    /// With rounding that may take another centroid where two are about equally near.
    F32,
}

/// A codebook on a GPU, searched from end to end for each point.
pub struct Brute {
    device: Arc<Device>,
    kernel: CudaFunction,
    precision: Precision,
    centroids: CudaSlice<u32>,
    k: u32,
}

/// Points on the device, and room for their tokens.
pub struct Points {
    points: CudaSlice<u32>,
    tokens: CudaSlice<u32>,
    len: usize,
}

impl Brute {
    /// Copies `codebook` to `device`.
    pub fn new(device: &Arc<Device>, codebook: &Codebook, precision: Precision) -> Result<Self> {
        let kernel = match precision {
            Precision::F64 => NEAREST_BRUTE_F64,
            Precision::F32 => NEAREST_BRUTE_F32,
        };
        let points: Vec<Point> = codebook.centroids().iter().map(|c| c.map(f64::from)).collect();
        Ok(Self {
            device: device.clone(),
            kernel: kernel.load(device)?,
            precision,
            centroids: copy(device, &points, precision)?,
            k: codebook.len() as u32,
        })
    }

    /// Copies `points`, at most 2^26 and at least one, to the device.
    pub fn upload(&self, points: &[Point]) -> Result<Points> {
        geometry::launch(points.len(), FOUR_EACH)?;
        let tokens = self.device.run("making room for tokens", |stream| stream.alloc_zeros(points.len()))?;
        Ok(Points { points: copy(&self.device, points, self.precision)?, tokens, len: points.len() })
    }

    /// Asks the device for the nearest centroids and does not wait for it.
    pub fn launch(&self, batch: &mut Points) -> Result<()> {
        let Points { points, tokens, len } = batch;
        let (grid, n) = (geometry::launch(*len, FOUR_EACH)?, *len as u32);
        let words = match self.precision {
            Precision::F64 => 4,
            Precision::F32 => 2,
        };
        if points.len() != words * *len || tokens.len() != *len {
            return Err(Error::mismatch("the points were copied for another precision"));
        }
        self.device.run("comparing all centroids", |stream| {
            let mut launch = stream.launch_builder(&self.kernel);
            launch.arg(&*points).arg(&n).arg(&self.centroids).arg(&self.k).arg(tokens);
            // SAFETY: the arguments are those of the kernel, in order and type (module.rs tests the list). It reads `n`
            // points and `k` centroids of the kernel's precision and writes `n` tokens, for all of which there is room:
            // `copy` made the centroids, and the points are checked above.
            unsafe { launch.launch(grid) }.map(drop)
        })
    }

    /// Waits for the tokens of `points` and copies them.
    pub fn tokens(&self, points: &Points) -> Result<Vec<Token>> {
        self.device.run("copying tokens", |stream| {
            let tokens = stream.clone_dtoh(&points.tokens)?;
            stream.synchronize()?;
            Ok(tokens)
        })
    }
}

/// Copies `points` in `precision`, as 32-bit words.
fn copy(device: &Device, points: &[Point], precision: Precision) -> Result<CudaSlice<u32>> {
    device.run("copying points", |stream| match precision {
        Precision::F64 => stream.clone_htod::<u32, _>(bytemuck::cast_slice(points)),
        Precision::F32 => {
            let points: Vec<[f32; 2]> = points.iter().map(|point| point.map(|v| v as f32)).collect();
            stream.clone_htod::<u32, _>(bytemuck::cast_slice::<[f32; 2], u32>(&points))
        }
    })
}
