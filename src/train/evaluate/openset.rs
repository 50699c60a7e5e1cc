//! Flows of labels that the model does not know: does it see that they are strangers?

use super::method::Answers;
use crate::train::metrics::{auc, false_positive_rate};
use serde::Serialize;

/// Share of the known flows that a detector must let pass.
const KNOWN_THAT_PASS: f64 = 0.95;

/// Thresholds on the best probability at which strangers are counted.
const THRESHOLDS: [f64; 5] = [0.5, 0.7, 0.9, 0.95, 0.99];

/// How well flows of labels that the model knows are told from others.
#[derive(Clone, Debug, Serialize)]
pub struct OpenSet {
    /// The labels that it does not know, and their flows.
    pub labels: Vec<(String, usize)>,
    /// Flows of labels that it knows.
    pub known: usize,
    /// Flows of others.
    pub strange: usize,
    /// Every score that may tell them apart.
    pub detectors: Vec<Detector>,
    /// For thresholds on the model's best probability: the share of the strangers that stay below, as they should.
    pub rejected: Vec<(f64, f64)>,
}

/// A score that is to be higher for flows of known labels.
#[derive(Clone, Debug, Serialize)]
pub struct Detector {
    /// Whose score of what.
    pub name: String,
    /// Area under the ROC curve: how often it is higher for a known flow than for a stranger; 0.5: it cannot tell.
    pub auroc: Option<f64>,
    /// Share of the strangers that pass where 95% of the known flows do.
    pub fpr_at_95: Option<f64>,
}

impl OpenSet {
    /// Of the model's best probabilities for `known` flows and for `strange` ones, whose labels are `labels`.
    pub(super) fn new(labels: &[(String, usize)], known: &[f64], strange: &[f64]) -> Self {
        let below = |t: f64| strange.iter().filter(|p| **p < t).count() as f64 / strange.len().max(1) as f64;
        let mut out = Self {
            labels: labels.to_vec(),
            known: known.len(),
            strange: strange.len(),
            detectors: Vec::new(),
            rejected: THRESHOLDS.map(|t| (t, below(t))).to_vec(),
        };
        out.add("model: best probability", known, strange);
        out
    }

    /// Judges another score.
    pub(super) fn add(&mut self, name: &str, known: &[f64], strange: &[f64]) {
        self.detectors.push(Detector {
            name: name.to_string(),
            auroc: auc(known, strange),
            fpr_at_95: false_positive_rate(known, strange, KNOWN_THAT_PASS),
        });
    }
}

/// The best probability of each flow.
pub(super) fn best_probabilities(answers: &Answers, n_labels: usize) -> Vec<f64> {
    let best = |row: &[f32]| f64::from(row.iter().copied().fold(0.0, f32::max));
    answers.probabilities.chunks_exact(n_labels).map(best).collect()
}
