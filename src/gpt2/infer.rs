//! The forward pass without a tape, on the calling thread, in scratch that is kept.
//!
//! Each row's result is the same bit by bit in whatever batch it is computed: every output is one chain of fused
//! multiply-adds over its inputs, and sequences do not meet.

use super::attention::{Scratch, attention};
use super::buffers::{BlockWeights, grown, norm_before};
use super::embedding::embed;
use super::network::Network;
use super::norm::{Stats, norm};
use super::tape::heads;
use crate::backend::packed::End;
use crate::backend::simd::{LANES, vectorised};
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
    h: Vec<f32>,
    qkv: Vec<f32>,
    attention: Vec<f32>,
    g: Vec<f32>,
    rounded: Vec<f32>,
    stats: Vec<Stats>,
    heads: Scratch,
    logits: Vec<f32>,
    head_rounded: Vec<f32>,
    positions: Vec<usize>,
}

impl Lane {
    /// Embeds sequences `rows` of a batch, which were checked: the mean of the last hidden states over positions
    /// `first..len` of each, row-major in `out`.
    pub fn embed(
        &mut self,
        network: &Network,
        batch: Ragged<'_, Token>,
        rows: Range<usize>,
        first: usize,
        out: &mut [f32],
    ) {
        let d = network.config().n_embd;
        let offsets = batch.offsets();
        let mut out = out.chunks_exact_mut(d);
        self.for_each_part(network, batch, rows, |part, hidden| {
            let base = offsets[part.start] as usize;
            for (i, out) in part.zip(&mut out) {
                let (begin, end) = (offsets[i] as usize - base + first, offsets[i + 1] as usize - base);
                vectorised!(mean(&hidden[begin * d..end * d], out));
            }
        });
    }

    /// Gives each token of sequences `rows` of a batch, which were checked, to `value`: its place in the batch and the
    /// logits of the token after it. What comes back goes to `out`, one value a token of these sequences.
    pub fn logits(
        &mut self,
        network: &Network,
        batch: Ragged<'_, Token>,
        rows: Range<usize>,
        value: &(dyn Fn(usize, &[f32]) -> f32 + Sync),
        out: &mut [f32],
    ) {
        let (d, v) = (network.config().n_embd, network.config().vocab_size);
        let (mut logits, mut rounded) = (std::mem::take(&mut self.logits), std::mem::take(&mut self.head_rounded));
        let mut place = batch.offsets()[rows.start] as usize;
        let mut out = out.iter_mut();
        self.for_each_part(network, batch, rows, |_, hidden| {
            for hidden in hidden.chunks(HEAD_ROWS * d) {
                let n = hidden.len() / d;
                let logits = grown(&mut logits, n * v);
                network.head().multiply(n, (hidden, d), (logits, v), End::Store, &mut rounded);
                for (row, out) in logits.chunks_exact(v).zip(&mut out) {
                    *out = value(place, row);
                    place += 1;
                }
            }
        });
        (self.logits, self.head_rounded) = (logits, rounded);
    }

    /// Runs the network over sequences `rows` of a batch, some at a time, and hands each part and its hidden states on.
    fn for_each_part(
        &mut self,
        network: &Network,
        batch: Ragged<'_, Token>,
        rows: Range<usize>,
        mut done: impl FnMut(Range<usize>, &[f32]),
    ) {
        let d = network.config().n_embd;
        let heads = heads(network.config());
        let offsets = batch.offsets();
        let (mut scratch, mut positions) = (std::mem::take(&mut self.heads), std::mem::take(&mut self.positions));
        for part in parts(offsets, rows) {
            let base = offsets[part.start] as usize;
            let span = |i: usize| offsets[i] as usize - base..offsets[i + 1] as usize - base;
            let tokens = &batch.values()[base..offsets[part.end] as usize];
            positions.clear();
            positions.extend(part.clone().flat_map(|i| 0..span(i).len()));
            let hidden = self.run(network, tokens, &positions, |_, qkv, out| {
                for at in part.clone().map(span) {
                    let (one, three) = (at.start * d..at.end * d, at.start * 3 * d..at.end * 3 * d);
                    attention(heads, &qkv[three], &mut out[one], &mut [], None, &mut scratch);
                }
                true
            });
            done(part, hidden);
        }
        (self.heads, self.positions) = (scratch, positions);
    }

    /// Runs the network over rows of checked tokens at the given positions and returns their hidden states after the
    /// final layer norm. `attend` computes a layer's attention, from `[rows, 3d]` to `[rows, d]`, and says whether to go on:
    /// where only keys and values are wanted, those of the last layer are the end.
    pub fn run(
        &mut self,
        network: &Network,
        tokens: &[Token],
        positions: &[usize],
        mut attend: impl FnMut(usize, &[f32], &mut [f32]) -> bool,
    ) -> &[f32] {
        let (n, d) = (tokens.len(), network.config().n_embd);
        let weights = network.weights();
        // Rows whose length is a power of two would all lie in the same few lines of the nearest cache.
        let wide = 4 * d + LANES;
        let x = grown(&mut self.x, n * d);
        let h = grown(&mut self.h, n * d);
        let qkv = grown(&mut self.qkv, n * 3 * d);
        let att = grown(&mut self.attention, n * d);
        let g = grown(&mut self.g, n * wide);
        let stats = grown(&mut self.stats, n);
        let rounded = &mut self.rounded;

        embed(weights, tokens, positions.iter().copied(), None, &mut [], x);
        norm(norm_before(weights, 0), x, h, stats);
        for layer in 0..network.config().n_layer {
            let w = network.block(layer);
            w.qkv.multiply(n, (h, d), (qkv, 3 * d), End::Store, rounded);
            if !attend(layer, qkv, att) {
                break;
            }
            w.attn_proj.multiply(n, (att, d), (x, d), End::Add, rounded);
            norm(BlockWeights::new(weights, layer).ln2, x, h, stats);
            w.fc.multiply(n, (h, d), (g, wide), End::Gelu, rounded);
            w.proj.multiply(n, (g, wide), (x, d), End::Add, rounded);
            norm(norm_before(weights, layer + 1), x, h, stats);
        }
        h
    }
}

/// Cuts rows of a batch, whose offsets these are, into parts of at most [`BATCH_ROWS`] tokens, or of one row.
pub(super) fn parts(offsets: &[u64], rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut begin = rows.start;
    std::iter::from_fn(move || {
        let part = begin..rows.end;
        let (first, ends) = (offsets[part.start], &offsets[part.start + 1..=part.end]);
        let fits = ends.partition_point(|&end| end - first <= BATCH_ROWS as u64);
        begin += fits.max(1);
        (!part.is_empty()).then_some(part.start..begin)
    })
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
