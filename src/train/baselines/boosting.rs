//! Gradient boosting by the crate `forust-ml`: histograms and second-order steps, as XGBoost's and LightGBM's.
//!
//! The crate tells two labels apart, so each label gets a booster of its own against all others, and the probabilities are
//! theirs, divided by their sum, as those of scikit-learn's `OneVsRestClassifier` are.

use crate::error::{Error, Kind, Result};
use crate::train::generation::forest::Matrix;
use crate::train::interrupt::Interrupt;
use forust_ml::{GradientBooster, Matrix as Columns};
use rayon::prelude::*;

/// LightGBM's defaults where the crate has them too; [`SETTINGS`] in words.
const ROUNDS: usize = 100;
const LEARNING_RATE: f32 = 0.1;
const LEAVES: usize = 31;
const DEPTH: usize = 8;

/// What they are.
pub const SETTINGS: &str = "100 rounds, learning rate 0.1, at most 31 leaves";

/// One booster for every label that has flows, and rows without; none for the others.
#[derive(Debug)]
pub struct Boosting {
    boosters: Vec<Option<Booster>>,
}

enum Booster {
    Fitted(Box<GradientBooster>),
    /// All rows are of this label.
    Always,
}

impl std::fmt::Debug for Booster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fitted(_) => "Fitted",
            Self::Always => "Always",
        })
    }
}

impl Boosting {
    /// Fits boosters to rows of `x` and their labels, each below `n_labels`.
    pub fn fit(x: &Matrix, labels: &[u32], n_labels: usize, seed: u64, interrupt: &Interrupt) -> Result<Self> {
        let columns = columns(x);
        let data = Columns::new(&columns, x.len(), x.width);
        let fit = |label: usize| -> Result<Option<Booster>> {
            interrupt.check()?;
            let targets: Vec<f64> = labels.iter().map(|&l| f64::from(u8::from(l as usize == label))).collect();
            let n = targets.iter().filter(|t| **t > 0.0).count();
            if n == 0 || n == targets.len() {
                return Ok((n > 0).then_some(Booster::Always));
            }
            let mut booster = GradientBooster::default()
                .set_iterations(ROUNDS)
                .set_learning_rate(LEARNING_RATE)
                .set_max_leaves(LEAVES)
                .set_max_depth(DEPTH)
                .set_seed(seed)
                .set_parallel(false);
            let fitted = booster.fit_unweighted(&data, &targets, None);
            fitted.map_err(|e| Error::new(Kind::Runtime, format!("gradient boosting: {e}")))?;
            Ok(Some(Booster::Fitted(Box::new(booster))))
        };
        let boosters = (0..n_labels).into_par_iter().map(fit).collect::<Result<_>>()?;
        Ok(Self { boosters })
    }

    /// The probability of every label for every row of `x`, `[x.len(), n_labels]`.
    pub fn probabilities(&self, x: &Matrix, n_labels: usize) -> Vec<f32> {
        let columns = columns(x);
        let data = Columns::new(&columns, x.len(), x.width);
        let of_label = |booster: &Option<Booster>| match booster {
            None => vec![0.0; x.len()],
            Some(Booster::Always) => vec![1.0; x.len()],
            Some(Booster::Fitted(booster)) => {
                let odds = booster.predict(&data, false);
                odds.into_iter().map(|log_odds| 1.0 / (1.0 + (-log_odds).exp())).collect::<Vec<f64>>()
            }
        };
        let by_label: Vec<Vec<f64>> = self.boosters.par_iter().map(of_label).collect();
        let mut out = vec![0.0; x.len() * n_labels];
        for (i, row) in out.chunks_exact_mut(n_labels).enumerate() {
            let sum: f64 = by_label.iter().map(|p| p[i]).sum();
            row.iter_mut().zip(&by_label).for_each(|(out, p)| *out = (p[i] / sum.max(f64::MIN_POSITIVE)) as f32);
        }
        out
    }
}

/// The values column after column, as the crate wants them.
fn columns(x: &Matrix) -> Vec<f64> {
    let column = |j: usize| x.values.iter().skip(j).step_by(x.width).map(|&v| f64::from(v));
    (0..x.width).flat_map(column).collect()
}
