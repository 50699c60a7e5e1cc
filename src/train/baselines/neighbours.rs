//! The nearest training flows, found by looking at all of them.

use crate::train::generation::forest::Matrix;
use rayon::prelude::*;

/// How many are asked: scikit-learn's default.
pub const K: usize = 5;

/// Rows of the training flows and their labels.
#[derive(Debug)]
pub struct Neighbours {
    rows: Matrix,
    labels: Vec<u32>,
}

impl Neighbours {
    /// Keeps the rows and their labels.
    pub fn new(rows: Matrix, labels: Vec<u32>) -> Self {
        Self { rows, labels }
    }

    /// The share of each label among the [`K`] rows that are nearest, of equally near ones those that come first:
    /// `[x.len(), n_labels]`.
    pub fn probabilities(&self, x: &Matrix, n_labels: usize) -> Vec<f32> {
        let mut out = vec![0.0; x.len() * n_labels];
        out.par_chunks_mut(n_labels).zip(x.values.par_chunks(x.width)).for_each(|(out, row)| {
            let (nearest, n) = self.nearest(row);
            nearest[..n].iter().for_each(|&(_, label)| out[label as usize] += 1.0 / n as f32);
        });
        out
    }

    /// Squared distance and label of the nearest rows, the nearest first, and how many there are.
    fn nearest(&self, row: &[f32]) -> ([(f32, u32); K], usize) {
        let mut nearest = [(f32::INFINITY, 0); K];
        for (other, &label) in self.rows.values.chunks_exact(self.rows.width).zip(&self.labels) {
            let distance: f32 = row.iter().zip(other).map(|(a, b)| (a - b) * (a - b)).sum();
            if distance < nearest[K - 1].0 {
                let place = nearest.partition_point(|n| n.0 <= distance);
                nearest.copy_within(place..K - 1, place + 1);
                nearest[place] = (distance, label);
            }
        }
        (nearest, self.labels.len().min(K))
    }
}
