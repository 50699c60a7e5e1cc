//! The linear head: `softmax((W e + b) / temperature)`.

use crate::error::{Error, Result};

/// Scores labels by one affine map of the embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// Row-major `[n_labels, n_embd]`.
    pub weight: Vec<f32>,
    /// `[n_labels]`
    pub bias: Vec<f32>,
    /// Divides the logits before the softmax; fitted on held-out flows so that probabilities are calibrated
    /// (Guo et al., 2017).
    pub temperature: f32,
}

impl Linear {
    /// Checks shapes and values for `n_labels` labels over embeddings of `n_embd`.
    pub fn check(&self, n_labels: usize, n_embd: usize) -> Result<()> {
        if self.bias.len() != n_labels || self.weight.len() != n_labels * n_embd {
            return Err(Error::mismatch(format!(
                "linear head: {} weights and {} biases do not fit {n_labels} labels of {n_embd} dimensions",
                self.weight.len(),
                self.bias.len()
            )));
        }
        if !self.weight.iter().chain(&self.bias).all(|w| w.is_finite()) {
            return Err(Error::format("linear head: a weight is not finite"));
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            let t = self.temperature;
            return Err(Error::format(format!("linear head: temperature is {t}; it must be positive")));
        }
        Ok(())
    }

    /// The probability of each label, written to `scores` `[n_labels]`, for one embedding `[n_embd]`.
    pub fn scores(&self, embedding: &[f32], scores: &mut [f32]) {
        for (score, (row, bias)) in scores.iter_mut().zip(self.weight.chunks_exact(embedding.len()).zip(&self.bias)) {
            let dot: f32 = row.iter().zip(embedding).map(|(w, e)| w * e).sum();
            *score = (dot + bias) / self.temperature;
        }
        softmax(scores);
    }
}

/// Turns logits into probabilities in place.
pub fn softmax(values: &mut [f32]) {
    let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for v in values.iter_mut() {
        *v = (*v - max).exp();
        sum += *v;
    }
    for v in values.iter_mut() {
        *v /= sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_the_tempered_softmax() {
        let head = Linear { weight: vec![1.0, 0.0, 0.0, 2.0], bias: vec![0.0, 1.0], temperature: 2.0 };
        head.check(2, 2).unwrap();
        let mut scores = [0.0; 2];
        head.scores(&[3.0, -1.0], &mut scores);
        let (a, b) = (1.5f32.exp(), (-0.5f32).exp());
        assert!((scores[0] - a / (a + b)).abs() < 1e-6 && (scores[1] - b / (a + b)).abs() < 1e-6);
    }

    #[test]
    fn shapes_and_values_that_do_not_fit_are_refused() {
        let head = Linear { weight: vec![0.0; 4], bias: vec![0.0; 2], temperature: 1.0 };
        assert!(head.check(2, 3).is_err() && head.check(3, 2).is_err());
        assert!(Linear { temperature: 0.0, ..head.clone() }.check(2, 2).is_err());
        assert!(Linear { bias: vec![0.0, f32::NAN], ..head }.check(2, 2).is_err());
    }
}
