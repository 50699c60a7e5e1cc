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
/// Rows whose logits are computed at a time.
const HEAD_ROWS: usize = 64;

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
    logits: Vec<f32>,
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
        let offsets = batch.offsets();
        let mut out = out.chunks_exact_mut(d);
        self.for_each_part(weights, batch, rows, |part, hidden| {
            let base = offsets[part.start] as usize;
            for (i, out) in part.zip(&mut out) {
                let (begin, end) = (offsets[i] as usize - base + first, offsets[i + 1] as usize - base);
                vectorised!(mean(&hidden[begin * d..end * d], out));
            }
        });
    }

    /// Gives each token of sequences `rows` of a batch, which were checked, to `value`: its place in the batch and the
    /// logits of the token after it. What comes back goes to `out`, one value a token of these sequences. `head` is the
    /// token embedding transposed, `[d, vocab_size]`.
    pub fn logits(
        &mut self,
        weights: &Weights,
        head: &[f32],
        batch: Ragged<'_, Token>,
        rows: Range<usize>,
        value: &(dyn Fn(usize, &[f32]) -> f32 + Sync),
        out: &mut [f32],
    ) {
        let (d, v) = (weights.config().n_embd, weights.config().vocab_size);
        let offsets = batch.offsets();
        let head = Mat::new(head, d, v);
        let mut logits = std::mem::take(&mut self.logits);
        let mut place = offsets[rows.start] as usize;
        let mut out = out.iter_mut();
        self.for_each_part(weights, batch, rows, |part, hidden| {
            let n_tokens = (offsets[part.end] - offsets[part.start]) as usize;
            let mut begin = 0;
            while begin < n_tokens {
                let left = n_tokens - begin;
                // Never one row alone; `hidden` has two where there is one token.
                let n = if left == HEAD_ROWS + 1 { left } else { left.min(HEAD_ROWS) };
                let rows = n.max(2);
                let logits = grown(&mut logits, rows * v);
                multiply(logits, Mat::new(&hidden[begin * d..(begin + rows) * d], rows, d), head);
                for (row, out) in logits.chunks_exact(v).take(n).zip(&mut out) {
                    *out = value(place, row);
                    place += 1;
                }
                begin += n;
            }
        });
        self.logits = logits;
    }

    /// Runs the network over sequences `rows` of a batch, some at a time, and hands each part and its hidden states on.
    fn for_each_part(
        &mut self,
        weights: &Weights,
        batch: Ragged<'_, Token>,
        rows: Range<usize>,
        mut done: impl FnMut(Range<usize>, &[f32]),
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
            done(begin..end, hidden);
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
