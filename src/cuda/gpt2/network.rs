//! A network on a GPU, shared by all who use it.

use super::budget::Budget;
use super::kernels::{Epilogue, Factors, Kernels, Layout, Shape};
use super::lane::Lane;
use super::weights::DeviceWeights;
use super::width;
use super::workspace::Workspace;
use crate::backend::packed::Precision;
use crate::cuda::device::Device;
use crate::error::{Error, Result};
use crate::gpt2::weights::Block;
use crate::gpt2::{Config, Weights};
use std::sync::Arc;

/// Widest head of the attention kernels.
const MAX_HEAD_DIM: usize = 256;

/// How a network is put on a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Which GPU, from 0 on.
    pub device: usize,
    /// Bytes of the GPU's memory that weights, caches and batches may take; half of what is free at the start, if absent.
    pub memory: Option<usize>,
    /// Launch kernels one by one also where many launches come again and could be replayed as one.
    pub plain_launches: bool,
}

/// A network, loaded and ready to run: weights, kernels, and memory for those who run it.
pub struct Network {
    device: Arc<Device>,
    kernels: Kernels,
    weights: DeviceWeights,
    budget: Arc<Budget>,
    plain_launches: bool,
}

impl Network {
    /// Copies `weights` to the GPU of `options`.
    pub fn open(weights: Arc<Weights>, precision: Precision, options: &Options) -> Result<Arc<Self>> {
        Self::on(&Device::open(options.device)?, weights, precision, options)
    }

    /// Copies `weights` to `device`.
    pub fn on(
        device: &Arc<Device>,
        weights: Arc<Weights>,
        precision: Precision,
        options: &Options,
    ) -> Result<Arc<Self>> {
        let config = weights.config().clone();
        check_shape(&config, precision)?;
        let memory = match options.memory {
            Some(bytes) => bytes,
            None => device.memory()?.0 / 2,
        };
        let needed = DeviceWeights::bytes(config.n_parameters(), precision);
        // A batch of one longest sequence is the least that can be run.
        let least = needed + 2 * config.n_positions * Workspace::each(&config, precision);
        if memory < least {
            return Err(Error::new(
                crate::Kind::NoMemory,
                format!("CUDA: {memory} bytes of the GPU's memory may be taken; this network needs {least}"),
            ));
        }
        let kernels = Kernels::load(device, precision)?;
        let weights = DeviceWeights::upload(device, weights, precision)?;
        let (budget, plain_launches) = (Budget::new(memory - needed), options.plain_launches);
        Ok(Arc::new(Self { device: device.clone(), kernels, weights, budget, plain_launches }))
    }

    /// The network's shape.
    pub fn config(&self) -> &Config {
        self.weights.host().config()
    }

    /// What its products are computed from.
    pub fn precision(&self) -> Precision {
        self.kernels.precision()
    }

    /// The weights, as the host has them.
    pub fn weights(&self) -> &Arc<Weights> {
        self.weights.host()
    }

    /// One worker's way through it, with a stream, buffers and caches of its own.
    pub fn lane(self: &Arc<Self>) -> Result<Lane> {
        Ok(Lane::new(self.clone(), self.device.beside()?, !self.plain_launches))
    }

    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    pub(super) fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Runs the blocks over `rows` rows whose tokens and positions lie at `input`; what comes out is in the residual stream of
    /// `space`, before the final norm. `attend` computes a layer's attention from `space.qkv` to `space.attention`.
    pub(super) fn forward(
        &self,
        device: &Device,
        space: &Workspace,
        rows: usize,
        input: [u64; 2],
        mut attend: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let (config, kernels, weights) = (self.config(), &self.kernels, &self.weights);
        let host = weights.host();
        let d = config.n_embd;
        let [x, h, qkv] = [space.x.begin(), space.h.begin(), space.qkv.begin()];
        let [attention, inner] = [space.attention.begin(), space.inner.begin()];
        let product = |layer: usize, [weight, bias]: [Block; 2], [n, k]: [usize; 2], [a, c]: [u64; 2], epilogue| {
            let (b, bias) = (weights.matrix(host.block(layer, weight)), weights.vector(host.block(layer, bias)));
            let factors = Factors { a, b, layout: Layout::Dense, bias, c };
            kernels.product(device, Shape { m: rows, n, k }, factors, epilogue)
        };

        let embeddings = [weights.vector(host.wte()), weights.vector(host.wpe())];
        kernels.embed(device, config, rows, input, embeddings, weights.norm_before(0), [x, h])?;
        for layer in 0..config.n_layer {
            product(layer, [Block::QkvWeight, Block::QkvBias], [3 * d, d], [h, qkv], Epilogue::Bias)?;
            attend(layer)?;
            let names = [Block::AttnProjWeight, Block::AttnProjBias];
            product(layer, names, [d, d], [attention, x], Epilogue::Residual)?;
            kernels.norm(device, config, rows, weights.norm_inside(layer), [x, h])?;
            product(layer, [Block::FcWeight, Block::FcBias], [4 * d, d], [h, inner], Epilogue::Gelu)?;
            product(layer, [Block::ProjWeight, Block::ProjBias], [d, 4 * d], [inner, x], Epilogue::Residual)?;
            if layer + 1 < config.n_layer {
                kernels.norm(device, config, rows, weights.norm_before(layer + 1), [x, h])?;
            }
        }
        Ok(())
    }

    /// The means of the final hidden states of `n` sequences over their rows `first..`, to where the feed-forward layer was.
    pub(super) fn pool(&self, device: &Device, space: &Workspace, n: usize, first: usize, begins: u64) -> Result<()> {
        let norm = self.weights.norm_before(self.config().n_layer);
        let places = [space.x.begin(), begins, space.inner.begin()];
        self.kernels.pool(device, self.config(), n, first, norm, places)
    }

    /// The final norm of `rows` rows, to `space.h`.
    pub(super) fn final_norm(&self, device: &Device, space: &Workspace, rows: usize) -> Result<()> {
        let norm = self.weights.norm_before(self.config().n_layer);
        self.kernels.norm(device, self.config(), rows, norm, [space.x.begin(), space.h.begin()])
    }

    /// The logits of `rows` rows of `space.h` from row `begin` on.
    pub(super) fn logits(
        &self,
        device: &Device,
        space: &Workspace,
        [begin, rows]: [usize; 2],
        logits: u64,
    ) -> Result<()> {
        let config = self.config();
        let a = space.h.at(begin * config.n_embd * width(self.precision()));
        let b = self.weights.matrix(self.weights.host().wte());
        let factors = Factors { a, b, layout: Layout::Transposed, bias: 0, c: logits };
        let shape = Shape { m: rows, n: config.vocab_size, k: config.n_embd };
        self.kernels.product(device, shape, factors, Epilogue::Plain)
    }
}

/// Whether the kernels of `precision` can run a network of this shape.
pub(in crate::cuda) fn check_shape(config: &Config, precision: Precision) -> Result<()> {
    let dim = config.head_dim();
    if dim > MAX_HEAD_DIM {
        return Err(Error::mismatch(format!(
            "CUDA: the network's heads are {dim} wide; the kernels take at most {MAX_HEAD_DIM}; use native or onnx"
        )));
    }
    if precision == Precision::Bf16 && !config.n_embd.is_multiple_of(8) {
        let d = config.n_embd;
        return Err(Error::mismatch(format!(
            "CUDA: the network is {d} wide; in bf16 that must be a multiple of 8; set precision to f32"
        )));
    }
    Ok(())
}
