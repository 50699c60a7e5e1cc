//! The SVM head: ν-support vector machines (Schölkopf et al., "New support vector algorithms", 2000), one for each pair of
//! labels, in the layout of libsvm and of scikit-learn's `NuSVC`.
//!
//! The machine of labels `i < j` decides by `f = sum_v a_v K(v, x) + b` over the support vectors of both: above 0 for `i`. A
//! pair gives `ln σ(f)` to the one and `ln σ(-f)` to the other, and the probabilities are `softmax(sum / temperature)` of what
//! each label is given: as if pairs were independent, which the temperature makes good. `NuSVC` counts the signs instead,
//! which says the same of most flows and cannot say how sure it is.

use super::linear::softmax;
use super::{MAX_VALUES, Scratch, Standard};
use crate::backend::matmul::{Mat, multiply};
use crate::backend::simd::{self, vectorised};
use crate::error::{Error, Result};

/// Most labels: there is a machine for each pair of them.
pub const MAX_LABELS: usize = 1 << 10;

/// Embeddings that are decided on together.
const QUERIES: usize = 64;

/// Support vectors and what they count for each pair of labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Svm {
    /// What embeddings become first.
    pub standard: Standard,
    /// Row-major `[n, n_embd]`, standardised; label after label.
    pub vectors: Vec<f32>,
    /// Number of support vectors of each label.
    pub counts: Vec<u32>,
    /// Row-major `[n_labels - 1, n]`: what a vector counts against each other label, in their order.
    pub coefficients: Vec<f32>,
    /// `b` of each pair of labels: (0, 1), (0, 2), ..., (1, 2), ...
    pub intercepts: Vec<f32>,
    /// What vectors are compared by.
    pub kernel: Kernel,
    /// Divides the logits before the softmax.
    pub temperature: f32,
}

/// How alike two points are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kernel {
    /// `x·y`
    Linear,
    /// `exp(-gamma |x - y|²)`
    Rbf {
        /// Above 0.
        gamma: f32,
    },
}

impl Kernel {
    /// The values of the kernel for each of `a` with each of `b`, row-major, to `out` `[rows of a, rows of b]`.
    /// `squares_of_b` by [`squares`].
    pub fn apply(self, a: &[f32], b: &[f32], squares_of_b: &[f32], out: &mut Vec<f32>) {
        let m = squares_of_b.len();
        out.clear();
        if m == 0 {
            return;
        }
        let d = b.len() / m;
        let n = a.len() / d;
        out.resize(n * m, 0.0);
        multiply(out, Mat::new(a, n, d), Mat::new(b, m, d).t());
        let Self::Rbf { gamma } = self else { return };
        for (row, products) in a.chunks_exact(d).zip(out.chunks_exact_mut(m)) {
            vectorised!({
                let square = simd::sum_by(row, row, |x, y| x * y);
                for (value, other) in products.iter_mut().zip(squares_of_b) {
                    // Rounding may bring the distance of equals below 0.
                    *value = simd::exp(-gamma * (square + other - 2.0 * *value).max(0.0));
                }
            });
        }
    }
}

/// The squared length of each of `rows` of `d`, to `out`.
pub fn squares(rows: &[f32], d: usize, out: &mut Vec<f32>) {
    out.clear();
    out.extend(rows.chunks_exact(d).map(|row| dot(row, row)));
}

impl Svm {
    /// Number of support vectors.
    pub fn len(&self) -> usize {
        self.counts.iter().map(|&n| n as usize).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The probability of each label, written to `scores` `[n, n_labels]`, for `embeddings` `[n, n_embd]`.
    pub(super) fn scores(&self, embeddings: &[f32], scratch: &mut Scratch, scores: &mut [f32]) {
        let (d, n_labels, n) = (self.standard.mean.len(), self.counts.len(), self.len());
        let Scratch { points, products, squares, .. } = scratch;
        self::squares(&self.vectors, d, squares);
        for (embeddings, scores) in embeddings.chunks(QUERIES * d).zip(scores.chunks_mut(QUERIES * n_labels)) {
            self.standard.apply(embeddings, points);
            self.kernel.apply(points, &self.vectors, squares, products);
            for (i, scores) in scores.chunks_exact_mut(n_labels).enumerate() {
                self.score(&products[i * n..(i + 1) * n], scores);
            }
        }
    }

    /// The probabilities, given the kernel's value for each support vector.
    fn score(&self, kernel: &[f32], scores: &mut [f32]) {
        let scale = 1.0 / self.temperature;
        scores.fill(0.0);
        self.decide(kernel, |i, j, f| {
            scores[i] += scale * log_sigmoid(f);
            scores[j] += scale * log_sigmoid(-f);
        });
        softmax(scores);
    }

    /// Gives the decision of every pair of labels to `take`.
    fn decide(&self, kernel: &[f32], mut take: impl FnMut(usize, usize, f32)) {
        let (n, n_labels) = (kernel.len(), self.counts.len());
        let mut pair = 0;
        let mut begin_i = 0;
        for i in 0..n_labels {
            let end_i = begin_i + self.counts[i] as usize;
            let mut begin_j = end_i;
            for j in i + 1..n_labels {
                let end_j = begin_j + self.counts[j] as usize;
                // Row r of a label's coefficients is that of the r-th of the other labels.
                let of_i = &self.coefficients[(j - 1) * n..j * n][begin_i..end_i];
                let of_j = &self.coefficients[i * n..(i + 1) * n][begin_j..end_j];
                let f = dot(of_i, &kernel[begin_i..end_i]) + dot(of_j, &kernel[begin_j..end_j]);
                take(i, j, f + self.intercepts[pair]);
                pair += 1;
                begin_j = end_j;
            }
            begin_i = end_i;
        }
    }

    /// Checks shapes and values for `n_labels` labels over embeddings of `n_embd`.
    pub fn check(&self, n_labels: usize, n_embd: usize) -> Result<()> {
        let wrong = |what: String| Err(Error::format(format!("SVM head: {what}")));
        self.standard.check(n_embd).map_err(|e| e.at("SVM head"))?;
        if !(2..=MAX_LABELS).contains(&n_labels) {
            return wrong(format!("{n_labels} labels; there must be 2..={MAX_LABELS}"));
        }
        // Each count alone is bounded by what there is, so the sum cannot overflow.
        let n = self.vectors.len() / n_embd;
        let most = self.counts.iter().copied().max().unwrap_or(0) as usize;
        let fits = self.counts.len() == n_labels && most <= n && self.len() == n;
        if !fits || self.vectors.len() != n * n_embd {
            return wrong(format!("{} values are not the support vectors of {n_labels} labels", self.vectors.len()));
        }
        let (rows, pairs) = (n_labels - 1, n_labels * (n_labels - 1) / 2);
        if self.vectors.len() > MAX_VALUES || n.saturating_mul(rows) > MAX_VALUES {
            return wrong(format!("{n} support vectors for {n_labels} labels are too many"));
        }
        if self.coefficients.len() != rows * n || self.intercepts.len() != pairs {
            let (has, intercepts) = (self.coefficients.len(), self.intercepts.len());
            return wrong(format!(
                "{has} coefficients and {intercepts} intercepts do not fit {n} vectors, {pairs} pairs"
            ));
        }
        if !self.vectors.iter().chain(&self.coefficients).chain(&self.intercepts).all(|x| x.is_finite()) {
            return wrong("a vector, a coefficient or an intercept is not finite".to_string());
        }
        if let Kernel::Rbf { gamma } = self.kernel
            && !(gamma.is_finite() && gamma > 0.0)
        {
            return wrong(format!("gamma is {gamma}; it must be positive"));
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return wrong(format!("temperature is {}; it must be positive", self.temperature));
        }
        Ok(())
    }
}

/// `ln(1 / (1 + exp(-x)))`
fn log_sigmoid(x: f32) -> f32 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    vectorised!(simd::sum_by(a, b, |x, y| x * y))
}
