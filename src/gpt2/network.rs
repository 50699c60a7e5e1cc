//! A network made ready for inference: its weights, and its matrices packed once.

use super::buffers::BlockWeights;
use super::config::Config;
use super::weights::Weights;
use crate::backend::packed::{Packed, Precision};
use std::sync::{Arc, OnceLock};

/// The matrices of a block.
pub(super) struct Matrices {
    pub qkv: Packed,
    pub attn_proj: Packed,
    pub fc: Packed,
    pub proj: Packed,
}

/// Immutable; shared by every thread. The packed matrices take as much memory again as the weights, of bf16 half.
pub(crate) struct Network {
    weights: Arc<Weights>,
    precision: Precision,
    blocks: Vec<Matrices>,
    /// The token embedding as the output layer; made when logits are asked for first.
    head: OnceLock<Packed>,
}

impl Network {
    pub fn new(weights: Arc<Weights>, precision: Precision) -> Self {
        let matrix = |w: &[f32], bias: &[f32]| {
            let n = bias.len();
            Packed::new(precision, w.len() / n, n, bias, |l, j| w[l * n + j])
        };
        let blocks = (0..weights.config().n_layer)
            .map(|layer| {
                let w = BlockWeights::new(&weights, layer);
                Matrices {
                    qkv: matrix(w.qkv, w.qkv_bias),
                    attn_proj: matrix(w.attn_proj, w.attn_proj_bias),
                    fc: matrix(w.fc, w.fc_bias),
                    proj: matrix(w.proj, w.proj_bias),
                }
            })
            .collect();
        Self { weights, precision, blocks, head: OnceLock::new() }
    }

    pub fn config(&self) -> &Config {
        self.weights.config()
    }

    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// What the factors of its products are rounded to.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    pub(super) fn block(&self, layer: usize) -> &Matrices {
        &self.blocks[layer]
    }

    /// From hidden states `[d]` to logits `[vocab_size]`.
    pub(super) fn head(&self) -> &Packed {
        self.head.get_or_init(|| {
            let (d, v) = (self.config().n_embd, self.config().vocab_size);
            let wte = &self.weights.data()[self.weights.wte()];
            Packed::new(self.precision, d, v, &[], |l, j| wte[j * d + l])
        })
    }
}
