//! The forward pass without a tape, on the calling thread, in scratch that is kept.
//!
//! Each row's result is the same bit by bit in whatever batch it is computed: every output is one chain of fused
//! multiply-adds over its inputs, and sequences do not meet. (One row alone would take another path through the matrix
//! kernel, so products have two rows at least.)

use super::attention::{Scratch, attention};
use super::buffers::{BlockWeights, fill_rows, grown, norm_before};
use super::embedding::embed;
use super::gelu::gelu_forward;
use super::norm::{Stats, norm, residual_norm};
use super::tape::heads;
use super::weights::Weights;
use crate::backend::matmul::{Mat, multiply, multiply_add};
use crate::backend::simd::vectorised;
use crate::packet::Ragged;
use crate::tokens::Token;
use std::ops::Range;

/// Rows computed at a time: enough that a matrix product is efficient, few enough that what lies between two products
/// stays in the processor's cache.
const BATCH_ROWS: usize = 192;

/// One thread's scratch.
#[derive(Default)]
pub(crate) struct Lane {
    x: Vec<f32>,
    middle: Vec<f32>,
    h: Vec<f32>,
    y: Vec<f32>,
    qkv: Vec<f32>,
    attention: Vec<f32>,
    pre: Vec<f32>,
    g: Vec<f32>,
    stats: Vec<Stats>,
    heads: Scratch,
    positions: Vec<usize>,
}

impl Lane {
    /// Embeds sequences `rows` of a batch, which were checked: the mean of the last hidden states over positions
    /// `first..len` of each, row-major in `out`.
    pub fn embed(
        &mut self,
        weights: &Weights,
        batch: Ragged<'_, Token>,
        rows: Range<usize>,
        first: usize,
        out: &mut [f32],
    ) {
        let d = weights.config().n_embd;
        let heads = heads(weights.config());
        let offsets = batch.offsets();
        let (mut scratch, mut positions) = (std::mem::take(&mut self.heads), std::mem::take(&mut self.positions));
        let mut begin = rows.start;
        while begin < rows.end {
            let base = offsets[begin] as usize;
            let fits = |end: &usize| offsets[*end] as usize - base <= BATCH_ROWS;
            let end = (begin + 1..=rows.end).rev().find(fits).unwrap_or(begin + 1);
            let span = |i: usize| offsets[i] as usize - base..offsets[i + 1] as usize - base;
            let tokens = &batch.values()[base..offsets[end] as usize];
            positions.clear();
            positions.extend((begin..end).flat_map(|i| 0..span(i).len()));
            let hidden = self.run(weights, tokens, &positions, |_, qkv, out| {
                for at in (begin..end).map(span) {
                    let (one, three) = (at.start * d..at.end * d, at.start * 3 * d..at.end * 3 * d);
                    attention(heads, &qkv[three], &mut out[one], &mut [], None, &mut scratch);
                }
            });
            for i in begin..end {
                let at = span(i);
                let out = &mut out[(i - rows.start) * d..(i - rows.start + 1) * d];
                vectorised!(mean(&hidden[(at.start + first) * d..at.end * d], out));
            }
            begin = end;
        }
        (self.heads, self.positions) = (scratch, positions);
    }

    /// Runs the network over rows of checked tokens at the given positions and returns their hidden states after the
    /// final layer norm. `attend` computes a layer's attention, from `[rows, 3d]` to `[rows, d]`.
    pub fn run(
        &mut self,
        weights: &Weights,
        tokens: &[Token],
        positions: &[usize],
        mut attend: impl FnMut(usize, &[f32], &mut [f32]),
    ) -> &[f32] {
        let (rows, d) = (tokens.len(), weights.config().n_embd);
        let n = rows.max(2);
        let x = grown(&mut self.x, n * d);
        let middle = grown(&mut self.middle, n * d);
        let h = grown(&mut self.h, n * d);
        let y = grown(&mut self.y, n * d);
        let qkv = grown(&mut self.qkv, n * 3 * d);
        let att = grown(&mut self.attention, n * d);
        let pre = grown(&mut self.pre, n * 4 * d);
        let g = grown(&mut self.g, n * 4 * d);
        let stats = grown(&mut self.stats, n);

        embed(weights, tokens, positions.iter().copied(), None, &mut [], x);
        norm(norm_before(weights, 0), x, h, stats);
        for layer in 0..weights.config().n_layer {
            let w = BlockWeights::new(weights, layer);
            fill_rows(qkv, w.qkv_bias);
            multiply_add(qkv, Mat::new(h, n, d), Mat::new(w.qkv, d, 3 * d));
            attend(layer, &qkv[..rows * 3 * d], &mut att[..rows * d]);
            multiply(y, Mat::new(att, n, d), Mat::new(w.attn_proj, d, d));
            residual_norm(w.ln2, x, y, w.attn_proj_bias, None, &mut [], middle, h, stats);
            multiply(pre, Mat::new(h, n, d), Mat::new(w.fc, d, 4 * d));
            gelu_forward(pre, w.fc_bias, g);
            multiply(y, Mat::new(g, n, 4 * d), Mat::new(w.proj, 4 * d, d));
            residual_norm(norm_before(weights, layer + 1), middle, y, w.proj_bias, None, &mut [], x, h, stats);
        }
        &self.h[..n * d]
    }
}

/// The mean of rows as wide as `out`.
#[inline(always)]
fn mean(rows: &[f32], out: &mut [f32]) {
    out.fill(0.0);
    for row in rows.chunks_exact(out.len()) {
        out.iter_mut().zip(row).for_each(|(out, v)| *out += *v);
    }
    let n = (rows.len() / out.len()) as f32;
    out.iter_mut().for_each(|out| *out /= n);
}
