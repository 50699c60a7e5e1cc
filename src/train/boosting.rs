//! Gradient boosting by the crate `forust-ml`: histograms and second-order steps, as XGBoost's and LightGBM's.
//!
//! The crate tells two labels apart, so each label gets a booster of its own against all others, and the probabilities are
//! theirs, divided by their sum, as those of scikit-learn's `OneVsRestClassifier` are.

use crate::error::{Error, Kind, Result};
use crate::head::Forest;
use crate::head::forest::Node;
use crate::train::generation::forest::Matrix;
use crate::train::interrupt::Interrupt;
use forust_ml::tree::Tree;
use forust_ml::{GradientBooster, Matrix as Columns};
use rayon::prelude::*;

/// LightGBM's defaults where the crate has them too.
pub const ROUNDS: usize = 100;
const LEARNING_RATE: f32 = 0.1;
const LEAVES: usize = 31;
const DEPTH: usize = 8;

/// Log-odds of what never is, and of what always is: no probability of it can be told from 0 or 1.
const CERTAIN: f32 = 100.0;

/// What boosters of [`ROUNDS`] rounds are.
pub const SETTINGS: &str = "100 rounds, learning rate 0.1, at most 31 leaves";

/// Boosted trees, `rounds` of them a label, on rows of `x` and their labels, each below `n_labels`. The same on any number of
/// threads.
pub fn fit(x: &Matrix, labels: &[u32], n_labels: usize, rounds: usize, interrupt: &Interrupt) -> Result<Forest> {
    let columns = columns(x);
    let data = Columns::new(&columns, x.len(), x.width);
    let fit = |label: usize| -> Result<Booster> {
        interrupt.check()?;
        let targets: Vec<f64> = labels.iter().map(|&l| f64::from(u8::from(l as usize == label))).collect();
        let n = targets.iter().filter(|t| **t > 0.0).count();
        if n == 0 || n == targets.len() {
            return Ok(Booster { odds: if n == 0 { -CERTAIN } else { CERTAIN }, trees: Vec::new() });
        }
        let mut booster = GradientBooster::default()
            .set_iterations(rounds)
            .set_learning_rate(LEARNING_RATE)
            .set_max_leaves(LEAVES)
            .set_max_depth(DEPTH)
            .set_parallel(false);
        let fitted = booster.fit_unweighted(&data, &targets, None);
        fitted.map_err(|e| Error::new(Kind::Runtime, format!("gradient boosting: {e}")))?;
        Ok(Booster { odds: booster.base_score as f32, trees: booster.trees.iter().map(walk).collect() })
    };
    let boosters: Vec<Booster> = (0..n_labels).into_par_iter().map(fit).collect::<Result<_>>()?;
    Ok(forest(&boosters))
}

/// What tells one label from all others.
struct Booster {
    /// Its log-odds before any tree.
    odds: f32,
    trees: Vec<Vec<Step>>,
}

/// A node of one tree: children stand after their parents, the higher one after the lower one.
enum Step {
    Split { feature: u32, threshold: f32, low: usize },
    Leaf(f32),
}

/// The crate's tree in the order of ours. It goes left where a value is below the border, ours where it is at most the
/// threshold; of f32 values that is the same where the threshold is the last f32 below the border.
fn walk(tree: &Tree) -> Vec<Step> {
    let mut steps = vec![Step::Leaf(0.0)];
    let mut open = vec![(0, 0)];
    while let Some((place, node)) = open.pop() {
        let node = &tree.nodes[node];
        steps[place] = if node.is_leaf {
            Step::Leaf(node.weight_value)
        } else {
            let low = steps.len();
            steps.extend([Step::Leaf(0.0), Step::Leaf(0.0)]);
            open.extend([(low, node.left_child), (low + 1, node.right_child)]);
            Step::Split { feature: node.split_feature as u32, threshold: last_below(node.split_value), low }
        };
    }
    steps
}

/// The largest f32 below `border`.
fn last_below(border: f64) -> f32 {
    let near = border as f32;
    if f64::from(near) < border { near } else { near.next_down() }
}

/// All boosters' trees, label after label.
fn forest(boosters: &[Booster]) -> Forest {
    let mut forest =
        Forest { weight: 1.0, temperature: 1.0, roots: Vec::new(), nodes: Vec::new(), shares: Vec::new(), odds: None };
    for (label, booster) in boosters.iter().enumerate() {
        for tree in &booster.trees {
            let root = forest.nodes.len() as u32;
            forest.roots.push(root);
            for step in tree {
                let leaf = forest.shares.len() as u32;
                forest.nodes.push(match *step {
                    Step::Split { feature, threshold, low } => {
                        Node::Split { feature, threshold, low: root + low as u32 }
                    }
                    Step::Leaf(value) => {
                        forest.shares.push((label as u32, value));
                        Node::Leaf { begin: leaf, end: leaf + 1 }
                    }
                });
            }
        }
    }
    forest.odds = Some(boosters.iter().map(|booster| booster.odds).collect());
    forest
}

/// The values column after column, as the crate wants them.
fn columns(x: &Matrix) -> Vec<f64> {
    let column = |j: usize| x.values.iter().skip(j).step_by(x.width).map(|&v| f64::from(v));
    (0..x.width).flat_map(column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    /// Rows of three columns with ties at the borders: labels 0 and 1 by the first two, label 3 without rows.
    fn rows(n: usize) -> (Matrix, Vec<u32>) {
        let mut draws = Stream::new(4, 0);
        let (mut values, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..n {
            let row: [f32; 3] = std::array::from_fn(|_| draws.below(40) as f32 / 3.0);
            labels.push(u32::from(row[0] + row[1] > 13.0) + u32::from(row[0] > 10.0));
            values.extend(row);
        }
        (Matrix { values, width: 3 }, labels)
    }

    #[test]
    fn the_trees_say_what_the_crate_says() {
        let (x, labels) = rows(400);
        let found = fit(&x, &labels, 4, 20, &Interrupt::none()).unwrap();
        found.check(4).unwrap();
        let columns = columns(&x);
        let data = Columns::new(&columns, x.len(), x.width);
        let odds: Vec<Vec<f64>> = (0..3)
            .map(|label| {
                let targets: Vec<f64> = labels.iter().map(|&l| f64::from(u8::from(l == label))).collect();
                let mut booster = GradientBooster::default()
                    .set_iterations(20)
                    .set_learning_rate(LEARNING_RATE)
                    .set_max_leaves(LEAVES)
                    .set_max_depth(DEPTH)
                    .set_parallel(false);
                booster.fit_unweighted(&data, &targets, None).unwrap();
                booster.predict(&data, false)
            })
            .collect();
        let mut right = 0;
        for (i, row) in x.values.chunks_exact(3).enumerate() {
            let mut out = [0.0; 4];
            found.probabilities(row, &mut out);
            let truth: Vec<f64> = odds.iter().map(|o| 1.0 / (1.0 + (-o[i]).exp())).collect();
            let sum: f64 = truth.iter().sum();
            for (p, t) in out.iter().zip(&truth) {
                assert!((f64::from(*p) - t / sum).abs() < 1e-5, "row {i}: {out:?} {truth:?}");
            }
            assert!(out[3] < 1e-30);
            right += usize::from(crate::classifier::argmax(&out).0 == labels[i] as usize);
        }
        assert!(right > 380, "{right} of 400");
    }

    #[test]
    fn borders_part_values_as_the_crate_does() {
        for border in [1.0, 0.1, -3.3, 1e-40, f64::from(f32::MIN_POSITIVE)] {
            let last = last_below(border);
            assert!(f64::from(last) < border && f64::from(last.next_up()) >= border, "{border} {last}");
        }
    }

    #[test]
    fn a_single_label_is_certain() {
        let (x, _) = rows(20);
        let found = fit(&x, &[1; 20], 2, 5, &Interrupt::none()).unwrap();
        let mut out = [0.0; 2];
        found.probabilities(&x.values[..3], &mut out);
        assert!(out[1] > 0.999 && out[0] < 1e-30, "{out:?}");
    }
}
