//! What is learnt, on the device: master weights in f32, their bf16 copy for the products, gradients and moments, each one flat
//! buffer: the network as [`Weights`] lays it out, and behind it the head's weight and bias.

use super::kernels::{Kernels, SQUARES};
use crate::backend::packed::Precision;
use crate::cuda::device::Device;
use crate::cuda::gpt2::{Buffer, Norm, bf16};
use crate::cuda::nccl::Floats;
use crate::error::{Error, Result};
use crate::gpt2::Weights;
use crate::gpt2::weights::Block;
use std::ops::Range;

/// A step's constants, those of AdamW as `src/train/optimizer.rs` has them.
#[derive(Clone, Copy, Debug)]
pub struct Adam {
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of their squares.
    pub beta2: f32,
    /// Added to the root of the latter.
    pub epsilon: f32,
    /// Share of a matrix that a step of learning rate 1 takes away.
    pub weight_decay: f32,
    /// Largest norm of the gradients; 0: unlimited.
    pub clip: f32,
}

pub(super) struct Parameters {
    /// The shape and the layout; its values are those that the run began with.
    pub shape: Weights,
    pub n_labels: usize,
    n: usize,
    master: Buffer,
    rounded: Option<Buffer>,
    pub grads: Floats,
    moments: [Buffer; 2],
    spans: Buffer,
    n_spans: usize,
    squares: Buffer,
    norm: Buffer,
    steps: u64,
}

impl Parameters {
    pub fn new(device: &Device, precision: Precision, shape: Weights, head: Option<[&[f32]; 2]>) -> Result<Self> {
        let [weight, bias] = head.unwrap_or_default();
        let mut spans: Vec<[u32; 2]> = Vec::new();
        let mut end = 0;
        let tensors = shape.tensors().into_iter().map(|t| (t.range.len(), t.decays()));
        for (len, decays) in tensors.chain([(weight.len(), true), (bias.len(), false)]) {
            end += len;
            spans.push([end as u32, u32::from(decays)]);
        }
        if end > i32::MAX as usize {
            return Err(Error::invalid(format!("CUDA: {end} parameters are more than are trained on one GPU")));
        }
        let values = [shape.data(), weight, bias].concat();
        let what = "the parameters";
        let room = |bytes| Buffer::zeros(device, bytes, what);
        let mut parameters = Self {
            n_labels: bias.len(),
            n: end,
            master: room(4 * end)?,
            rounded: if precision == Precision::Bf16 { Some(room(2 * end)?) } else { None },
            grads: Floats::zeros(device, end, what)?,
            moments: [room(4 * end)?, room(4 * end)?],
            n_spans: spans.len(),
            spans: Buffer::of(device, &spans, what)?,
            squares: room(8 * end.div_ceil(SQUARES))?,
            norm: room(16)?,
            steps: 0,
            shape,
        };
        parameters.write(device, &values)?;
        Ok(parameters)
    }

    /// Parameters in all.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Takes up these values.
    pub fn write(&mut self, device: &Device, values: &[f32]) -> Result<()> {
        self.check(values.len())?;
        if let Some(rounded) = &mut self.rounded {
            let values: Vec<u16> = values.iter().map(|&v| bf16(v)).collect();
            rounded.write(device, &values, "the parameters")?;
        }
        self.master.write(device, values, "the parameters")
    }

    pub fn read(&self, device: &Device, values: &mut [f32]) -> Result<()> {
        self.check(values.len())?;
        self.master.read(device, values, "the parameters")
    }

    pub fn read_grads(&self, device: &Device, values: &mut [f32]) -> Result<()> {
        self.check(values.len())?;
        self.grads.read(device, values)
    }

    pub fn write_grads(&mut self, device: &Device, values: &[f32]) -> Result<()> {
        self.check(values.len())?;
        self.grads.write(device, values)
    }

    pub fn read_moments(&self, device: &Device, values: [&mut [f32]; 2]) -> Result<()> {
        for (buffer, values) in self.moments.iter().zip(values) {
            self.check(values.len())?;
            buffer.read(device, values, "the optimizer's moments")?;
        }
        Ok(())
    }

    /// Takes up the moments after `steps` steps.
    pub fn write_moments(&mut self, device: &Device, steps: u64, values: [&[f32]; 2]) -> Result<()> {
        for (buffer, values) in self.moments.iter_mut().zip(values) {
            if values.len() != self.n {
                return Err(wrong(values.len(), self.n));
            }
            buffer.write(device, values, "the optimizer's moments")?;
        }
        self.steps = steps;
        Ok(())
    }

    fn check(&self, n: usize) -> Result<()> {
        if n == self.n { Ok(()) } else { Err(wrong(n, self.n)) }
    }

    /// Steps down the gradients, which become 0, and returns their norm; if that is not finite, nothing was stepped.
    pub fn step(&mut self, device: &Device, kernels: &Kernels, options: &Adam, lr: f32) -> Result<f64> {
        kernels.clip(self.grads.at(0), self.n, self.squares.begin(), options.clip, self.norm.begin())?;
        let steps = (self.steps + 1) as f64;
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(steps);
        let constants = [
            options.beta1,
            options.beta2,
            options.epsilon,
            (f64::from(lr) / correction(options.beta1)) as f32,
            (1.0 / correction(options.beta2).sqrt()) as f32,
            (1.0 - f64::from(lr) * f64::from(options.weight_decay)) as f32,
        ];
        let [m, v] = self.moments.each_ref().map(Buffer::begin);
        let rounded = self.rounded.as_ref().map_or(0, Buffer::begin);
        let at = [self.master.begin(), self.grads.at(0), m, v, rounded];
        kernels.adam(at, self.n, (self.spans.begin(), self.n_spans), self.norm.begin(), constants)?;
        let mut norm = [0.0f64; 2];
        self.norm.read(device, &mut norm, "the gradients' norm")?;
        if norm[0].is_finite() {
            self.steps += 1;
        }
        Ok(norm[0])
    }

    /// A vector or an embedding, in f32.
    pub fn vector(&self, range: Range<usize>) -> u64 {
        self.master.at(4 * range.start)
    }

    /// A matrix as the products read it.
    pub fn matrix(&self, range: Range<usize>) -> u64 {
        match &self.rounded {
            Some(rounded) => rounded.at(2 * range.start),
            None => self.vector(range),
        }
    }

    /// Where the gradient of what begins there lies.
    pub fn grad(&self, range: Range<usize>) -> u64 {
        self.grads.at(range.start)
    }

    /// The head's weight `[n_labels, d]` and bias.
    pub fn head(&self) -> [Range<usize>; 2] {
        let bias = self.n - self.n_labels;
        [self.shape.data().len()..bias, bias..self.n]
    }

    /// Weight and bias of the norm before block `layer`; with `n_layer` of the final one. The bias follows the weight.
    pub fn norm_before(&self, layer: usize) -> (Range<usize>, Range<usize>) {
        if layer == self.shape.config().n_layer {
            return self.shape.ln_f();
        }
        (self.shape.block(layer, Block::Ln1Weight), self.shape.block(layer, Block::Ln1Bias))
    }

    /// The same of the norm inside the block.
    pub fn norm_inside(&self, layer: usize) -> (Range<usize>, Range<usize>) {
        (self.shape.block(layer, Block::Ln2Weight), self.shape.block(layer, Block::Ln2Bias))
    }

    pub fn norm(&self, (weight, bias): (Range<usize>, Range<usize>)) -> Norm {
        Norm { weight: self.vector(weight), bias: self.vector(bias) }
    }
}

fn wrong(has: usize, needs: usize) -> Error {
    Error::mismatch(format!("CUDA: {has} values are given for {needs} parameters"))
}
