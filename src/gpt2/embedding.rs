//! Token and position embeddings, and the checks of what is fed to them.

use super::Weights;
use super::config::Config;
use super::norm::RowDropout;
use crate::backend::simd::vectorised;
use crate::error::{Error, Result};
use crate::packet::Ragged;
use crate::tokens::Token;

/// Checks that the network can read `sequences`: none empty or too long, every token known.
pub(crate) fn check_sequences(config: &Config, sequences: Ragged<'_, Token>) -> Result<()> {
    for (i, row) in sequences.rows().enumerate() {
        if row.is_empty() || row.len() > config.n_positions {
            let (n, most) = (row.len(), config.n_positions);
            return Err(Error::invalid(format!("sequence {i} has {n} tokens; it must have 1 to {most}")));
        }
        if let Some(at) = row.iter().position(|&t| t as usize >= config.vocab_size) {
            let (token, most) = (row[at], config.vocab_size - 1);
            return Err(Error::invalid(format!("sequence {i}, position {at}: token {token} is above {most}")));
        }
    }
    Ok(())
}

/// `x = dropout(wte[token] + wpe[position])` for the tokens of whole sequences, of the given lengths.
pub(super) fn embed(
    weights: &Weights,
    tokens: &[Token],
    positions: impl Iterator<Item = usize>,
    dropout: Option<RowDropout<'_>>,
    mask: &mut [f32],
    x: &mut [f32],
) {
    let d = weights.config().n_embd;
    let (wte, wpe) = (&weights.data()[weights.wte()], &weights.data()[weights.wpe()]);
    for (((row, &token), position), x) in tokens.iter().enumerate().zip(positions).zip(x.chunks_exact_mut(d)) {
        let (te, pe) = (&wte[token as usize * d..][..d], &wpe[position * d..][..d]);
        vectorised!({
            x.iter_mut().zip(te).zip(pe).for_each(|((x, t), p)| *x = *t + *p);
            mask_row(dropout, row, mask, x);
        });
    }
}

/// Applies embedding dropout to row `row` of a chunk: of the embeddings, or of their gradient.
#[inline(always)]
pub(super) fn mask_row(dropout: Option<RowDropout<'_>>, row: usize, mask: &mut [f32], x: &mut [f32]) {
    if let Some(RowDropout { masks, site, first_row }) = dropout {
        masks.fill(site, first_row + row, mask);
        x.iter_mut().zip(mask).for_each(|(x, m)| *x *= *m);
    }
}
