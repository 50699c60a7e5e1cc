//! Buffers that grow and are kept, and views of the network's weights.

use super::Weights;
use super::norm::Norm;
use super::weights::Block;
use std::ops::Range;

/// The first `n` values of `buffer`, which grows if it must. What they hold is left from before.
pub(super) fn grown<T: Copy + Default>(buffer: &mut Vec<T>, n: usize) -> &mut [T] {
    if buffer.len() < n {
        buffer.resize(n, T::default());
    }
    &mut buffer[..n]
}

/// Cuts `data` into pieces of the given sizes.
pub(super) fn pieces<const N: usize>(data: &mut [f32], sizes: [usize; N]) -> [&mut [f32]; N] {
    let mut rest = data;
    sizes.map(|size| {
        let (piece, tail) = std::mem::take(&mut rest).split_at_mut(size);
        rest = tail;
        piece
    })
}

/// The weights of one block.
#[derive(Clone, Copy)]
pub(super) struct BlockWeights<'a> {
    pub ln1: Norm<'a>,
    pub qkv: &'a [f32],
    pub qkv_bias: &'a [f32],
    pub attn_proj: &'a [f32],
    pub attn_proj_bias: &'a [f32],
    pub ln2: Norm<'a>,
    pub fc: &'a [f32],
    pub fc_bias: &'a [f32],
    pub proj: &'a [f32],
    pub proj_bias: &'a [f32],
}

impl<'a> BlockWeights<'a> {
    pub fn new(weights: &'a Weights, layer: usize) -> Self {
        let part = |b| &weights.data()[weights.block(layer, b)];
        let epsilon = weights.config().layer_norm_epsilon;
        Self {
            ln1: Norm { weight: part(Block::Ln1Weight), bias: part(Block::Ln1Bias), epsilon },
            qkv: part(Block::QkvWeight),
            qkv_bias: part(Block::QkvBias),
            attn_proj: part(Block::AttnProjWeight),
            attn_proj_bias: part(Block::AttnProjBias),
            ln2: Norm { weight: part(Block::Ln2Weight), bias: part(Block::Ln2Bias), epsilon },
            fc: part(Block::FcWeight),
            fc_bias: part(Block::FcBias),
            proj: part(Block::ProjWeight),
            proj_bias: part(Block::ProjBias),
        }
    }
}

/// The layer norm before block `layer`, or the final one after the last block.
pub(super) fn norm_before(weights: &Weights, layer: usize) -> Norm<'_> {
    if layer < weights.config().n_layer {
        return BlockWeights::new(weights, layer).ln1;
    }
    let (weight, bias) = weights.ln_f();
    let data = weights.data();
    Norm { weight: &data[weight], bias: &data[bias], epsilon: weights.config().layer_norm_epsilon }
}

/// Where all of block `layer` lies in the buffer.
pub(super) fn block_range(weights: &Weights, layer: usize) -> Range<usize> {
    weights.block(layer, Block::Ln1Weight).start..weights.block(layer, Block::ProjBias).end
}

/// Writes `bias` into every row.
pub(super) fn fill_rows(rows: &mut [f32], bias: &[f32]) {
    for row in rows.chunks_exact_mut(bias.len()) {
        row.copy_from_slice(bias);
    }
}
