//! The weights on the device.

use super::bf16;
use super::buffer::Buffer;
use crate::backend::packed::Precision;
use crate::cuda::device::Device;
use crate::error::Result;
use crate::gpt2::Weights;
use crate::gpt2::weights::Block;
use std::ops::Range;
use std::sync::Arc;

/// All weights in f32, and in bf16 where products read that; both laid out as [`Weights`].
pub(super) struct DeviceWeights {
    host: Arc<Weights>,
    f32: Buffer,
    bf16: Option<Buffer>,
}

/// A vector's weight and bias, as the kernels take them.
#[derive(Clone, Copy)]
pub(in crate::cuda) struct Norm {
    pub weight: u64,
    pub bias: u64,
}

impl DeviceWeights {
    /// Copies the weights to `device` and waits for it, so that other streams may read them.
    pub(super) fn upload(device: &Device, host: Arc<Weights>, precision: Precision) -> Result<Self> {
        let f32 = Buffer::of(device, host.data(), "weights")?;
        let bf16 = match precision {
            Precision::F32 => None,
            Precision::Bf16 => {
                let rounded: Vec<u16> = host.data().iter().map(|&w| bf16(w)).collect();
                Some(Buffer::of(device, &rounded, "weights")?)
            }
        };
        device.synchronize()?;
        Ok(Self { host, f32, bf16 })
    }

    /// Bytes that the weights of `n_parameters` take.
    pub(super) fn bytes(n_parameters: usize, precision: Precision) -> usize {
        match precision {
            Precision::F32 => 4 * n_parameters,
            Precision::Bf16 => 6 * n_parameters,
        }
    }

    pub(super) fn host(&self) -> &Arc<Weights> {
        &self.host
    }

    /// A vector or an embedding, in f32.
    pub(super) fn vector(&self, range: Range<usize>) -> u64 {
        self.f32.at(4 * range.start)
    }

    /// A matrix in the precision that products read.
    pub(super) fn matrix(&self, range: Range<usize>) -> u64 {
        match &self.bf16 {
            Some(bf16) => bf16.at(2 * range.start),
            None => self.f32.at(4 * range.start),
        }
    }

    /// The norm before block `layer`; with `n_layer` the final one.
    pub(super) fn norm_before(&self, layer: usize) -> Norm {
        let (weight, bias) = if layer == self.host.config().n_layer {
            self.host.ln_f()
        } else {
            (self.host.block(layer, Block::Ln1Weight), self.host.block(layer, Block::Ln1Bias))
        };
        Norm { weight: self.vector(weight), bias: self.vector(bias) }
    }

    /// The norm inside block `layer`.
    pub(super) fn norm_inside(&self, layer: usize) -> Norm {
        let vector = |part| self.vector(self.host.block(layer, part));
        Norm { weight: vector(Block::Ln2Weight), bias: vector(Block::Ln2Bias) }
    }
}
