//! Standardising: each dimension of an embedding less its mean, over its standard deviation.
//!
//! Embeddings of one network all point about the same way; angles and distances between them tell little before their mean
//! is taken away and all dimensions are of one size.

use crate::error::{Error, Result};

/// What is subtracted from each dimension, and what it is then multiplied by.
#[derive(Clone, Debug, PartialEq)]
pub struct Standard {
    /// `[n_embd]`
    pub mean: Vec<f32>,
    /// `[n_embd]`: one over the standard deviation.
    pub scale: Vec<f32>,
}

impl Standard {
    /// Writes the standardised rows of `embeddings` to `out`, which is made as long.
    pub fn apply(&self, embeddings: &[f32], out: &mut Vec<f32>) {
        out.clear();
        for row in embeddings.chunks_exact(self.mean.len()) {
            out.extend(row.iter().zip(&self.mean).zip(&self.scale).map(|((x, mean), scale)| (x - mean) * scale));
        }
    }

    /// The same, and each row is brought to length 1; a row of zeros stays.
    pub fn apply_unit(&self, embeddings: &[f32], out: &mut Vec<f32>) {
        self.apply(embeddings, out);
        for row in out.chunks_exact_mut(self.mean.len()) {
            let length = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            row.iter_mut().for_each(|x| *x = (f64::from(*x) / length.max(f64::MIN_POSITIVE)) as f32);
        }
    }

    /// Checks shapes and values for embeddings of `n_embd`.
    pub fn check(&self, n_embd: usize) -> Result<()> {
        if self.mean.len() != n_embd || self.scale.len() != n_embd {
            let (means, scales) = (self.mean.len(), self.scale.len());
            return Err(Error::mismatch(format!("{means} means and {scales} scales do not fit {n_embd} dimensions")));
        }
        if !self.mean.iter().chain(&self.scale).all(|x| x.is_finite()) {
            return Err(Error::format("a mean or a scale is not finite"));
        }
        Ok(())
    }
}
