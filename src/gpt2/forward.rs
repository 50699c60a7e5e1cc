//! The forward pass with a tape.

use super::attention::{AttentionDropout, attention};
use super::buffers::{BlockWeights, fill_rows, norm_before};
use super::dropout::{Dropout, Masks, Site};
use super::embedding::{check_sequences, embed};
use super::gelu::gelu_forward;
use super::norm::{norm, residual_norm};
use super::tape::{Chunk, Tape, heads};
use super::weights::Weights;
use crate::backend::matmul::{Mat, multiply, multiply_add};
use crate::error::Result;
use crate::packet::Ragged;
use crate::tokens::Token;
use rayon::prelude::*;

/// Runs the network over `sequences` and records on `tape` what [`super::backward`] needs. Returns the hidden states
/// after the final layer norm, row-major `[total tokens, n_embd]`.
///
/// # Errors
/// If a sequence is empty or longer than `n_positions`, holds a token outside the vocabulary, or the dropout
/// probability is not in `[0, 1)`.
pub fn forward<'t>(
    weights: &Weights,
    sequences: Ragged<'_, Token>,
    dropout: Option<Dropout>,
    tape: &'t mut Tape,
) -> Result<&'t [f32]> {
    let config = weights.config();
    check_sequences(config, sequences)?;
    let masks = Masks::new(dropout)?;
    tape.prepare(config, sequences, masks);

    let Tape { tokens, offsets, chunks, n_chunks, hidden, masks, .. } = tape;
    let mut rest = &mut hidden[..];
    let mut tasks = Vec::with_capacity(*n_chunks);
    for chunk in &mut chunks[..*n_chunks] {
        let (out, tail) = rest.split_at_mut(chunk.rows.len() * config.n_embd);
        rest = tail;
        tasks.push((chunk, out));
    }
    tasks.into_par_iter().for_each(|(chunk, out)| chunk.forward(weights, tokens, offsets, masks.as_ref(), out));
    Ok(tape.hidden())
}

impl Chunk {
    fn forward(
        &mut self,
        weights: &Weights,
        tokens: &[Token],
        offsets: &[u64],
        masks: Option<&Masks>,
        out: &mut [f32],
    ) {
        let config = weights.config();
        let (n, d, n_layer, heads) = (self.rows.len(), config.n_embd, config.n_layer, heads(config));
        let drop = |site| self.dropout(masks, site);
        let (embedding, outputs): (_, Vec<_>) = (
            drop(Site::Embedding),
            (0..n_layer)
                .map(|layer| (drop(Site::AttentionOutput { layer }), drop(Site::MlpOutput { layer })))
                .collect(),
        );
        let sequences: Vec<_> = self.sequence_rows(offsets).collect();
        let first_row = self.rows.start;

        let mask = &mut self.work.mask[..];
        let (h, y, g) = (&mut self.work.h1[..n * d], &mut self.work.y[..n * d], &mut self.work.g[..n * 4 * d]);
        let positions = sequences.iter().flat_map(|rows| 0..rows.len());
        embed(weights, &tokens[self.rows.clone()], positions, embedding, mask, &mut self.x[..n * d]);
        norm(norm_before(weights, 0), &self.x[..n * d], h, &mut self.stats[..n]);

        for layer in 0..n_layer {
            let w = BlockWeights::new(weights, layer);
            let (before, after) = self.x.split_at_mut((2 * layer + 1) * n * d);
            let x = &before[2 * layer * n * d..];
            let (middle, next) = after.split_at_mut(n * d);
            let (_, stats) = self.stats.split_at_mut((2 * layer + 1) * n);
            let (stats_middle, stats_next) = stats.split_at_mut(n);

            let qkv = &mut self.qkv[layer * n * 3 * d..(layer + 1) * n * 3 * d];
            fill_rows(qkv, w.qkv_bias);
            multiply_add(qkv, Mat::new(h, n, d), Mat::new(w.qkv, d, 3 * d));
            let att = &mut self.attention[layer * n * d..(layer + 1) * n * d];
            let lse = &mut self.lse[layer * n * heads.n_head..(layer + 1) * n * heads.n_head];
            for rows in &sequences {
                let dropout = masks.map(|masks| AttentionDropout { masks, layer, first_row: first_row + rows.start });
                attention(
                    heads,
                    &qkv[rows.start * 3 * d..rows.end * 3 * d],
                    &mut att[rows.start * d..rows.end * d],
                    &mut lse[rows.start * heads.n_head..rows.end * heads.n_head],
                    dropout,
                    &mut self.work.attention,
                );
            }
            multiply(y, Mat::new(att, n, d), Mat::new(w.attn_proj, d, d));
            let (drop_attention, drop_mlp) = outputs[layer];
            residual_norm(w.ln2, x, y, w.attn_proj_bias, drop_attention, mask, middle, h, stats_middle);

            let pre = &mut self.pre[layer * n * 4 * d..(layer + 1) * n * 4 * d];
            multiply(pre, Mat::new(h, n, d), Mat::new(w.fc, d, 4 * d));
            gelu_forward(pre, w.fc_bias, g);
            multiply(y, Mat::new(g, n, 4 * d), Mat::new(w.proj, 4 * d, d));
            let h = if layer + 1 < n_layer { &mut *h } else { &mut *out };
            let (next, stats_next) = (&mut next[..n * d], &mut stats_next[..n]);
            residual_norm(norm_before(weights, layer + 1), middle, y, w.proj_bias, drop_mlp, mask, next, h, stats_next);
        }
    }
}
