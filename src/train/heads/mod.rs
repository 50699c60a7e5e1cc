//! Heads that are fitted at once, on embeddings of a network that stays as it is.

pub mod add;
pub mod knn;
pub mod options;
mod smo;
mod svm;

pub use options::{HeadKind, Options};

use crate::error::Result;
use crate::head::{Head, Scratch, Standard};
use rayon::prelude::*;

/// Embeddings that one thread scores at a time.
const ROWS_PER_TASK: usize = 256;

/// Standard deviations below it are those of a dimension that says nothing.
const MIN_DEVIATION: f64 = 1e-6;

/// Embeddings with labels.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Row-major `[labels.len(), n_embd]`.
    pub embeddings: &'a [f32],
    /// Length of one.
    pub n_embd: usize,
    /// Label of each.
    pub labels: &'a [u32],
    /// How many labels there are.
    pub n_labels: usize,
}

/// The head that `options` ask for, fitted to `sample`, at temperature 1; none where that is a linear one, which is
/// learnt step by step. The same on any number of threads.
pub fn fit(options: &Options, sample: Sample<'_>, seed: u64) -> Result<Option<Head>> {
    options.check_sizes(sample.labels.len(), sample.n_labels)?;
    Ok(match options.head {
        HeadKind::Linear => None,
        HeadKind::Knn => Some(Head::Knn(knn::fit(options, sample, seed)?)),
        HeadKind::Svm => Some(Head::Svm(svm::fit(options, sample, seed)?)),
    })
}

/// Logarithms of the probabilities that `head` gives each of `n_labels` labels, row-major, one row for each of
/// `embeddings` of `n_embd`.
pub fn log_scores(head: &Head, embeddings: &[f32], n_embd: usize, n_labels: usize) -> Vec<f32> {
    let mut out = vec![0.0; embeddings.len() / n_embd * n_labels];
    let rows = embeddings.par_chunks(ROWS_PER_TASK * n_embd).zip(out.par_chunks_mut(ROWS_PER_TASK * n_labels));
    rows.for_each_init(Scratch::default, |scratch, (embeddings, scores)| {
        head.scores(embeddings, n_embd, scratch, scores);
        scores.iter_mut().for_each(|p| *p = p.max(f32::MIN_POSITIVE).ln());
    });
    out
}

/// What standardises `embeddings` of `n_embd`; a dimension in which all are equal is only brought to 0.
fn standard(embeddings: &[f32], n_embd: usize) -> Standard {
    let n = (embeddings.len() / n_embd) as f64;
    let (mut mean, mut square) = (vec![0.0; n_embd], vec![0.0; n_embd]);
    for row in embeddings.chunks_exact(n_embd) {
        row.iter().zip(&mut mean).for_each(|(&x, mean)| *mean += f64::from(x) / n);
    }
    for row in embeddings.chunks_exact(n_embd) {
        row.iter()
            .zip(&mean)
            .zip(&mut square)
            .for_each(|((&x, mean), square)| *square += (f64::from(x) - mean).powi(2));
    }
    let scale = |square: &f64| match (square / n).sqrt() {
        deviation if deviation > MIN_DEVIATION => (1.0 / deviation) as f32,
        _ => 1.0,
    };
    Standard { mean: mean.iter().map(|&x| x as f32).collect(), scale: square.iter().map(scale).collect() }
}

#[cfg(test)]
mod tests;
