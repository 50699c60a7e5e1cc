//! The language model's loss: next-token cross-entropy through the tied head.
//!
//! Rows that count are taken in waves, so that the logits of a whole batch (`[tokens, vocab_size]`, by far the largest
//! matrix of a step) never exist at once.

use super::buffers::grown;
use super::tape::Tape;
use super::weights::Weights;
use crate::backend::matmul::{Mat, multiply, multiply_add, transpose};
use crate::backend::simd::{exp, max, sum, vectorised};
use crate::error::{Error, Result};
use crate::tokens::Token;
use rayon::prelude::*;
use std::ops::Range;

/// Target of a row that does not count.
pub const NO_TARGET: Token = Token::MAX;

/// Logits held at a time: 32 MiB.
const WAVE_LOGITS: usize = 1 << 23;
/// Rows whose logits one task computes.
const TASK_ROWS: usize = 128;
/// Rows of the head whose gradient one task computes.
const HEAD_ROWS: usize = 256;

/// Buffers of the loss, kept between batches.
#[derive(Default)]
pub(super) struct Scratch {
    /// Rows that count.
    rows: Vec<u32>,
    /// Their hidden states, gradients, logits and losses, a wave at a time.
    hidden: Vec<f32>,
    d_hidden: Vec<f32>,
    logits: Vec<f32>,
    nll: Vec<f32>,
    /// The head `[d, vocab_size]`.
    head: Vec<f32>,
}

/// The sum over counted rows of the negative log-likelihood of `targets` (one a row; [`NO_TARGET`] does not count), in
/// nats. Adds the gradient of `scale` times that sum to [`Tape::d_hidden_mut`] and to the token embedding in `grads`.
///
/// # Errors
/// If the tape, `grads` and `weights` differ in shape, `targets` is not one per token, or a target is no token.
pub fn lm_loss(weights: &Weights, tape: &mut Tape, targets: &[Token], scale: f32, grads: &mut Weights) -> Result<f64> {
    if grads.config() != weights.config() {
        return Err(Error::mismatch("the gradients are of a network of another shape"));
    }
    let wte = grads.wte();
    let mut sum = 0.0;
    waves(weights, tape, targets, Some((scale, &mut grads.data_mut()[wte])), |_, nll| {
        sum += nll.iter().map(|&x| f64::from(x)).sum::<f64>();
    })?;
    Ok(sum)
}

/// Writes the negative log-likelihood of each row's target to `nll`, in nats; 0 where it is [`NO_TARGET`].
///
/// # Errors
/// As [`lm_loss`], and if `nll` is not one value per token.
pub fn lm_nll(weights: &Weights, tape: &mut Tape, targets: &[Token], nll: &mut [f32]) -> Result<()> {
    if nll.len() != targets.len() {
        return Err(Error::invalid(format!("{} losses are asked for {} targets", nll.len(), targets.len())));
    }
    nll.fill(0.0);
    waves(weights, tape, targets, None, |rows, losses| {
        for (&row, loss) in rows.iter().zip(losses) {
            nll[row as usize] = *loss;
        }
    })
}

/// Computes the losses wave by wave and hands each wave's rows and losses to `done`. With `gradients`, a scale and the
/// gradient of the token embedding, computes these as well.
fn waves(
    weights: &Weights,
    tape: &mut Tape,
    targets: &[Token],
    mut gradients: Option<(f32, &mut [f32])>,
    mut done: impl FnMut(&[u32], &[f32]),
) -> Result<()> {
    let config = weights.config();
    tape.check(config)?;
    let (n, d, v) = (tape.n_tokens(), config.n_embd, config.vocab_size);
    if targets.len() != n {
        return Err(Error::invalid(format!("{} targets are given for {n} tokens", targets.len())));
    }
    if let Some(row) = targets.iter().position(|&t| t != NO_TARGET && t as usize >= v) {
        return Err(Error::invalid(format!("target of row {row} is {}; the vocabulary has {v} tokens", targets[row])));
    }

    let Tape { hidden, d_hidden, loss: scratch, .. } = tape;
    let Scratch { rows, hidden: wave_hidden, d_hidden: wave_d_hidden, logits, nll, head } = scratch;
    rows.clear();
    rows.extend((0..n as u32).filter(|&row| targets[row as usize] != NO_TARGET));
    let wave_rows = (WAVE_LOGITS / v).next_multiple_of(TASK_ROWS);
    let embedding = &weights.data()[weights.wte()];
    let head = grown(head, d * v);
    transpose(embedding, v, d, head);
    let (embedding, head) = (Mat::new(embedding, v, d), Mat::new(head, d, v));
    let span = |row: u32| -> Range<usize> { row as usize * d..(row as usize + 1) * d };

    for rows in rows.chunks(wave_rows) {
        let n = rows.len();
        let wave_hidden = grown(wave_hidden, n * d);
        let wave_d_hidden = grown(wave_d_hidden, n * d);
        let logits = grown(logits, n * v);
        let nll = grown(nll, n);
        for (&row, out) in rows.iter().zip(wave_hidden.chunks_exact_mut(d)) {
            out.copy_from_slice(&hidden[span(row)]);
        }
        let scale = gradients.as_ref().map(|(scale, _)| *scale);
        wave_hidden
            .par_chunks(TASK_ROWS * d)
            .zip(logits.par_chunks_mut(TASK_ROWS * v))
            .zip(wave_d_hidden.par_chunks_mut(TASK_ROWS * d))
            .zip(nll.par_chunks_mut(TASK_ROWS))
            .zip(rows.par_chunks(TASK_ROWS))
            .for_each(|((((hidden, logits), d_hidden), nll), rows)| {
                let n = rows.len();
                multiply(logits, Mat::new(hidden, n, d), head);
                for ((logits, nll), &row) in logits.chunks_exact_mut(v).zip(nll).zip(rows) {
                    *nll = vectorised!(cross_entropy(logits, targets[row as usize] as usize, scale));
                }
                if scale.is_some() {
                    multiply(d_hidden, Mat::new(logits, n, v), embedding);
                }
            });
        if let Some((_, d_head)) = &mut gradients {
            let (logits, hidden) = (Mat::new(logits, n, v), Mat::new(wave_hidden, n, d));
            d_head.par_chunks_mut(HEAD_ROWS * d).enumerate().for_each(|(i, out)| {
                let (begin, end) = (i * HEAD_ROWS, i * HEAD_ROWS + out.len() / d);
                multiply_add(out, logits.columns(begin, end).t(), hidden);
            });
            for (&row, from) in rows.iter().zip(wave_d_hidden.chunks_exact(d)) {
                d_hidden[span(row)].iter_mut().zip(from).for_each(|(out, v)| *out += *v);
            }
        }
        done(rows, nll);
    }
    Ok(())
}

/// The negative log-likelihood of `target`. With `scale`, the logits are replaced by `scale (softmax - onehot)`.
#[inline(always)]
fn cross_entropy(logits: &mut [f32], target: usize, scale: Option<f32>) -> f32 {
    let top = max(logits);
    let of_target = logits[target] - top;
    for x in logits.iter_mut() {
        *x = exp(*x - top);
    }
    let sum = sum(logits);
    if let Some(scale) = scale {
        let factor = scale / sum;
        logits.iter_mut().for_each(|x| *x *= factor);
        logits[target] -= scale;
    }
    sum.ln() - of_target
}
