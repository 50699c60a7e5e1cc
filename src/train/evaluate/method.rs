//! What one method's answers amount to.

use crate::classifier::argmax;
use crate::error::Result;
use crate::train::calibrate::{self, BINS, Bin};
use crate::train::metrics::{Confusion, LabelScore, Scores};
use serde::Serialize;

/// Thresholds on the best probability at which a reject option is judged.
const THRESHOLDS: [f32; 8] = [0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99];

/// What a method says of flows.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers {
    /// The label of each, or one past all of them for "unknown".
    pub verdicts: Vec<u32>,
    /// Row-major `[flows, n_labels]`.
    pub probabilities: Vec<f32>,
}

impl Answers {
    /// Those of a method that always names the most probable label.
    pub fn best(probabilities: Vec<f32>, n_labels: usize) -> Self {
        let verdicts = probabilities.chunks_exact(n_labels).map(|row| argmax(row).0 as u32).collect();
        Self { verdicts, probabilities }
    }

    /// The verdicts against the truths.
    pub fn confusion(&self, truths: &[u32], n_labels: usize) -> Result<Confusion> {
        let mut confusion = Confusion::new(n_labels);
        for (&verdict, &truth) in self.verdicts.iter().zip(truths) {
            confusion.add(truth, verdict)?;
        }
        Ok(confusion)
    }
}

/// One method's part of a report.
#[derive(Clone, Debug, Serialize)]
pub struct MethodReport {
    /// Its name.
    pub name: String,
    /// What it is.
    pub what: String,
    /// Accuracy and mean F1.
    #[serde(flatten)]
    pub scores: Scores,
    /// Mean negative log-likelihood of the truths in nats; a probability of 0 counts as the least positive one of f32.
    pub nll: f64,
    /// Expected calibration error of the best probability: over 15 bins of equal width, the mean gap between it and the
    /// share that is right (Guo et al., 2017).
    pub calibration_error: f64,
    /// The bins it is made of.
    pub reliability: Vec<Bin>,
    /// Flows called "unknown".
    pub unknown: u64,
    /// What a threshold on the best probability would give.
    pub rejection: Vec<Rejection>,
    /// Every label by name.
    pub labels: Vec<LabelReport>,
    /// Rows are truths, columns predictions in the order of `labels`, and "unknown" last.
    pub confusion: Vec<Vec<u64>>,
    /// Seconds that fitting took; absent where nothing was fitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fit_seconds: Option<f64>,
    /// Seconds that the answers took, all flows and threads together, by the clock on the wall.
    pub judge_seconds: f64,
}

/// One label's part of the report.
#[derive(Clone, Debug, Serialize)]
pub struct LabelReport {
    /// Its name.
    pub label: String,
    /// Its figures.
    #[serde(flatten)]
    pub score: LabelScore,
}

/// What is left if flows whose best probability is below a threshold get no label.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rejection {
    /// The threshold, as `reject_below`.
    pub threshold: f32,
    /// Share of the flows that get a label.
    pub coverage: f64,
    /// Share of these whose label is right; absent if there are none. One less this is the risk.
    pub accuracy: Option<f64>,
}

impl MethodReport {
    /// Of the `answers` for flows of labels `truths`.
    pub(super) fn new(name: &str, what: String, answers: &Answers, truths: &[u32], labels: &[String]) -> Result<Self> {
        let n = labels.len();
        let confusion = answers.confusion(truths, n)?;
        let best: Vec<(f32, bool)> = answers
            .probabilities
            .chunks_exact(n)
            .zip(truths)
            .map(|(row, &truth)| {
                let (label, probability) = argmax(row);
                (probability, label as u32 == truth)
            })
            .collect();
        let reliability: [Bin; BINS] = calibrate::reliability(best.iter().map(|&(p, right)| (f64::from(p), right)));
        // The softmax of logarithms of probabilities is these probabilities.
        let log: Vec<f32> = answers.probabilities.iter().map(|p| p.max(f32::MIN_POSITIVE).ln()).collect();
        let label =
            |(label, name): (usize, &String)| LabelReport { label: name.clone(), score: confusion.label(label) };
        Ok(Self {
            name: name.to_string(),
            what,
            scores: confusion.scores(),
            nll: calibrate::nll(&log, truths, n, 1.0),
            calibration_error: calibrate::error(&reliability),
            reliability: reliability.to_vec(),
            unknown: answers.verdicts.iter().filter(|&&verdict| verdict as usize >= n).count() as u64,
            rejection: THRESHOLDS.iter().map(|&threshold| Rejection::at(threshold, &best)).collect(),
            labels: labels.iter().enumerate().map(label).collect(),
            confusion: (0..n).map(|label| confusion.row(label).to_vec()).collect(),
            fit_seconds: None,
            judge_seconds: 0.0,
        })
    }
}

impl Rejection {
    fn at(threshold: f32, best: &[(f32, bool)]) -> Self {
        let kept = best.iter().filter(|(probability, _)| *probability >= threshold);
        let (n, right) = kept.fold((0usize, 0usize), |(n, right), kept| (n + 1, right + usize::from(kept.1)));
        Self {
            threshold,
            coverage: n as f64 / best.len().max(1) as f64,
            accuracy: (n > 0).then(|| right as f64 / n as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_what_was_answered() {
        let labels = ["a", "b"].map(String::from);
        let answers = Answers {
            verdicts: vec![0, 1, u32::MAX, 0],
            probabilities: vec![0.9, 0.1, 0.25, 0.75, 0.5, 0.5, 0.6, 0.4],
        };
        let report = MethodReport::new("m", String::new(), &answers, &[0, 1, 0, 1], &labels).unwrap();
        assert_eq!((report.scores.flows, report.scores.accuracy, report.unknown), (4, 0.5, 1));
        assert_eq!(report.confusion, [[1, 0, 1], [1, 1, 0]]);
        let nll = -(0.9f64.ln() + 0.75f64.ln() + 0.5f64.ln() + 0.4f64.ln()) / 4.0;
        assert!((report.nll - nll).abs() < 1e-6);
        // One flow a bin: the gaps are 0.1, 0.25, 0.5 and 0.6.
        assert!((report.calibration_error - 1.45 / 4.0).abs() < 1e-6, "{}", report.calibration_error);
        assert_eq!(report.rejection[0], Rejection { threshold: 0.0, coverage: 1.0, accuracy: Some(0.75) });
        assert_eq!(report.rejection[3], Rejection { threshold: 0.7, coverage: 0.5, accuracy: Some(1.0) });
        assert_eq!(report.rejection[7], Rejection { threshold: 0.99, coverage: 0.0, accuracy: None });
    }
}
