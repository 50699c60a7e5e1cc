//! The random forest as a judge: what tells real flows from generated ones, and classes of flows from each other.
//!
//! It is grown as the one that votes beside a head ([`crate::train::forest`]), but sees more than tokens say, draws flow
//! by flow and weighs all alike. The crates that offer forests give votes at best, and an AUC needs scores.

use crate::error::Result;
use crate::head;
use crate::train::boosting;
use crate::train::forest::{Cuts, Sample, fit};
use crate::train::interrupt::Interrupt;
use rayon::prelude::*;

/// Trees of a forest.
const TREES: usize = 100;

/// Flows that one thread scores at a time.
const ROWS_PER_TASK: usize = 256;

/// Rows of numbers, each of `width` columns.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// Row after row; finite.
    pub values: Vec<f32>,
    /// Columns of a row.
    pub width: usize,
}

impl Matrix {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

/// A fitted forest.
#[derive(Clone, Debug)]
pub struct Forest {
    trees: head::Forest,
    n_classes: usize,
}

impl Forest {
    /// Fits a forest to rows of `x` and their classes `labels`, each below `n_classes`; the same seed gives the same
    /// forest. Fails if there are too many rows.
    pub fn fit(x: &Matrix, labels: &[u32], n_classes: usize, seed: u64) -> Result<Self> {
        // A single group: rows are drawn one by one.
        let (groups, label_weights) = (vec![0; labels.len()], vec![1.0; n_classes]);
        let sample = Sample {
            features: &x.values,
            width: x.width,
            labels,
            groups: &groups,
            label_weights: &label_weights,
            cuts: Cuts::NONE,
        };
        Ok(Self { trees: fit(sample, TREES, seed)?, n_classes })
    }

    /// Boosted trees ([`crate::train::boosting`]) on rows of `x` and their classes.
    pub fn boosted(x: &Matrix, labels: &[u32], n_classes: usize, interrupt: &Interrupt) -> Result<Self> {
        Ok(Self { trees: boosting::fit(x, labels, n_classes, boosting::ROUNDS, interrupt)?, n_classes })
    }

    /// The score of every class for every row of `x`, `[x.len(), n_classes]`; those of a row sum to 1.
    pub fn scores(&self, x: &Matrix) -> Vec<f32> {
        let n = self.n_classes;
        let mut scores = vec![0.0; x.len() * n];
        scores.par_chunks_mut(ROWS_PER_TASK * n).zip(x.values.par_chunks(ROWS_PER_TASK * x.width)).for_each(
            |(scores, rows)| {
                for (scores, row) in scores.chunks_exact_mut(n).zip(rows.chunks_exact(x.width)) {
                    self.trees.probabilities(row, scores);
                }
            },
        );
        scores
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;
    use crate::train::metrics::auc;

    /// Two noisy spirals of `n` points, with two columns of noise.
    fn spirals(n: usize, stream: u64) -> (Matrix, Vec<u32>) {
        let mut draws = Stream::new(9, stream);
        let (mut values, mut labels) = (Vec::new(), Vec::new());
        for i in 0..n {
            let (angle, label) = (6.0 * draws.uniform(), (i % 2) as u32);
            let turned = angle + std::f64::consts::PI * f64::from(label);
            values.extend([angle * turned.cos(), angle * turned.sin()].map(|v| (v + 0.3 * draws.normal()) as f32));
            values.extend([draws.uniform() as f32, 1.0]);
            labels.push(label);
        }
        (Matrix { values, width: 4 }, labels)
    }

    fn score(forest: &Forest, x: &Matrix, labels: &[u32]) -> f64 {
        let scores = forest.scores(x);
        let of = |wanted: u32| -> Vec<f64> {
            let rows = scores.chunks_exact(2).zip(labels).filter(|(_, label)| **label == wanted);
            rows.map(|(scores, _)| f64::from(scores[1])).collect()
        };
        auc(&of(1), &of(0)).unwrap()
    }

    #[test]
    fn it_learns_what_can_be_learnt_and_nothing_else() {
        let ((x, labels), (test, truth)) = (spirals(600, 1), spirals(600, 2));
        let forest = Forest::fit(&x, &labels, 2, 7).unwrap();
        let found = score(&forest, &test, &truth);
        assert!(found > 0.95, "{found}");
        let mut shuffled = labels.clone();
        Stream::new(1, 1).shuffle(&mut shuffled);
        let nothing = score(&Forest::fit(&x, &shuffled, 2, 7).unwrap(), &test, &truth);
        assert!((0.4..0.6).contains(&nothing), "{nothing}");
        assert_eq!(forest.scores(&test), Forest::fit(&x, &labels, 2, 7).unwrap().scores(&test));
    }

    /// The golden figures are means of five forests of 100 trees; one forest strays from them.
    #[test]
    fn it_is_as_good_as_that_of_scikit_learn() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/golden/generation.json")).unwrap();
        let case = &golden["forest"];
        let numbers = |value: &serde_json::Value| -> Vec<f64> {
            value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
        };
        let n = case["n_train"].as_u64().unwrap() as usize;
        let rows: Vec<Vec<f64>> = case["x"].as_array().unwrap().iter().map(numbers).collect();
        let labels: Vec<u32> = numbers(&case["labels"]).into_iter().map(|v| v as u32).collect();
        let part = |rows: &[Vec<f64>]| Matrix { values: rows.iter().flatten().map(|&v| v as f32).collect(), width: 8 };
        let (train, test) = (part(&rows[..n]), part(&rows[n..]));
        let mut found = [0.0; 3];
        for seed in 0..5 {
            let scores = Forest::fit(&train, &labels[..n], 3, seed).unwrap().scores(&test);
            for (class, found) in found.iter_mut().enumerate() {
                let of = |is: bool| -> Vec<f64> {
                    let rows = scores.chunks_exact(3).zip(&labels[n..]).filter(|(_, l)| (**l as usize == class) == is);
                    rows.map(|(scores, _)| f64::from(scores[class])).collect()
                };
                *found += auc(&of(true), &of(false)).unwrap() / 5.0;
            }
        }
        for (ours, theirs) in found.iter().zip(numbers(&case["auc"])) {
            assert!((ours - theirs).abs() < 0.025, "{found:?} {}", case["auc"]);
        }
    }

    #[test]
    fn rows_that_cannot_be_told_apart_share_a_leaf() {
        let x = Matrix { values: vec![1.0; 6], width: 2 };
        let scores = Forest::fit(&x, &[0, 0, 2], 3, 1).unwrap().scores(&x);
        for row in scores.chunks_exact(3) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5 && row[0] > row[2] && row[1] == 0.0, "{row:?}");
        }
        assert!(Forest::fit(&x, &[0, 0, 2], 3, 1).unwrap().scores(&Matrix { values: vec![], width: 2 }).is_empty());
    }

    #[test]
    fn neighbouring_and_huge_numbers_are_split() {
        for pair in [[1.0, f32::from_bits(1.0f32.to_bits() + 1)], [f32::MIN, f32::MAX], [-0.0, f32::MIN_POSITIVE]] {
            let x = Matrix { values: pair.repeat(20), width: 1 };
            let labels = [0, 1].repeat(20);
            let scores = Forest::fit(&x, &labels, 2, 3).unwrap().scores(&x);
            assert!(scores[0] > 0.99 && scores[3] > 0.99, "{pair:?}: {:?}", &scores[..4]);
        }
    }
}
