//! How good a classifier is: the confusion matrix and what scikit-learn derives from it.
//!
//! Formulas are those of scikit-learn's `classification_report` with `zero_division=0`: averages run over the labels
//! that occur among the truths or the predictions.

use crate::error::{Error, Result};
use serde::Serialize;

/// How often each label was taken for each other.
#[derive(Clone, Debug)]
pub struct Confusion {
    n_labels: usize,
    /// Row-major `[n_labels, n_labels + 1]`: rows are truths, columns predictions, the last column "unknown".
    counts: Vec<u64>,
}

/// What one label's row and column of the confusion matrix amount to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LabelScore {
    /// Of the flows predicted as this label, the share that is it.
    pub precision: f64,
    /// Of the flows of this label, the share that was found.
    pub recall: f64,
    /// Harmonic mean of the two.
    pub f1: f64,
    /// Flows of this label.
    pub support: u64,
}

/// The figures of a whole evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Scores {
    /// Share of flows whose prediction is the truth; "unknown" is never the truth.
    pub accuracy: f64,
    /// Mean F1 of the labels, each counting the same.
    pub macro_f1: f64,
    /// Mean F1 of the labels, each counting as its flows.
    pub weighted_f1: f64,
    /// Number of flows.
    pub flows: u64,
}

impl Confusion {
    /// Nothing counted yet.
    pub fn new(n_labels: usize) -> Self {
        Self { n_labels, counts: vec![0; n_labels * (n_labels + 1)] }
    }

    /// Counts one flow; a prediction that is no label is "unknown".
    pub fn add(&mut self, truth: u32, prediction: u32) -> Result<()> {
        let (row, column) = (truth as usize, (prediction as usize).min(self.n_labels));
        if row >= self.n_labels {
            return Err(Error::invalid(format!("label {truth} is not one of the {} known", self.n_labels)));
        }
        self.counts[row * (self.n_labels + 1) + column] += 1;
        Ok(())
    }

    /// Number of labels.
    pub fn n_labels(&self) -> usize {
        self.n_labels
    }

    /// Predictions for the flows of label `truth`: one count for every label, and "unknown" last.
    pub fn row(&self, truth: usize) -> &[u64] {
        let width = self.n_labels + 1;
        &self.counts[truth * width..(truth + 1) * width]
    }

    /// How well one label was told from the others.
    pub fn label(&self, label: usize) -> LabelScore {
        let hits = self.row(label)[label];
        let predicted: u64 = (0..self.n_labels).map(|truth| self.row(truth)[label]).sum();
        let support: u64 = self.row(label).iter().sum();
        LabelScore {
            precision: ratio(hits, predicted),
            recall: ratio(hits, support),
            f1: ratio(2 * hits, predicted + support),
            support,
        }
    }

    /// The figures over all labels.
    pub fn scores(&self) -> Scores {
        let flows: u64 = self.counts.iter().sum();
        let hits = (0..self.n_labels).map(|l| self.row(l)[l]).sum();
        let (mut present, mut f1_sum, mut weighted) = (0u64, 0.0, 0.0);
        for label in 0..self.n_labels {
            let score = self.label(label);
            let occurs = score.support > 0 || (0..self.n_labels).any(|truth| self.row(truth)[label] > 0);
            present += u64::from(occurs);
            f1_sum += score.f1;
            weighted += score.f1 * score.support as f64;
        }
        Scores {
            accuracy: ratio(hits, flows),
            macro_f1: if present == 0 { 0.0 } else { f1_sum / present as f64 },
            weighted_f1: if flows == 0 { 0.0 } else { weighted / flows as f64 },
            flows,
        }
    }
}

/// Area under the ROC curve: how often a score of `positives` is above one of `negatives`, ties counting half, as
/// scikit-learn's `roc_auc_score`. 0.5: the scores cannot tell; `None` if either is empty.
pub fn auc(positives: &[f64], negatives: &[f64]) -> Option<f64> {
    if positives.is_empty() || negatives.is_empty() {
        return None;
    }
    let mut sorted = negatives.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let wins = |score: &f64| {
        let below = sorted.partition_point(|n| n < score);
        let not_above = sorted.partition_point(|n| n <= score);
        (below + not_above) as f64 / 2.0
    };
    let total: f64 = positives.iter().map(wins).sum();
    Some(total / (positives.len() as f64 * negatives.len() as f64))
}

/// Share of `negatives` that pass where a share `rate` of `positives` does: the false positive rate at the highest threshold that
/// `rate` of the positives reach, scores equal to it passing, as read off scikit-learn's `roc_curve`. `None` if either is empty.
pub fn false_positive_rate(positives: &[f64], negatives: &[f64], rate: f64) -> Option<f64> {
    if positives.is_empty() || negatives.is_empty() {
        return None;
    }
    let mut sorted = positives.to_vec();
    sorted.sort_unstable_by(|a, b| b.total_cmp(a));
    let n = sorted.len();
    // By shares, not by a product that may fall short of a whole number.
    let needed = (1..=n).find(|&k| k as f64 / n as f64 >= rate).unwrap_or(n);
    let passes = negatives.iter().filter(|score| **score >= sorted[needed - 1]).count();
    Some(passes as f64 / negatives.len() as f64)
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Golden {
        labels: Vec<Case>,
        scores: Vec<Scored>,
    }

    #[derive(Deserialize)]
    struct Scored {
        positives: Vec<f64>,
        negatives: Vec<f64>,
        auc: f64,
        fpr_at_95: f64,
        fpr_at_50: f64,
    }

    fn golden() -> Golden {
        serde_json::from_str(include_str!("../../tests/golden/metrics.json")).unwrap()
    }

    #[derive(Deserialize)]
    struct Case {
        n_labels: usize,
        truth: Vec<u32>,
        prediction: Vec<u32>,
        accuracy: f64,
        macro_f1: f64,
        weighted_f1: f64,
        precision: Vec<f64>,
        recall: Vec<f64>,
        f1: Vec<f64>,
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} is not {b}");
    }

    /// Arrays and figures by scikit-learn (`dev/golden_metrics.py`).
    #[test]
    fn figures_equal_scikit_learns() {
        let cases = golden().labels;
        assert!(cases.len() >= 4);
        for case in cases {
            let mut confusion = Confusion::new(case.n_labels);
            for (t, p) in case.truth.iter().zip(&case.prediction) {
                confusion.add(*t, *p).unwrap();
            }
            let scores = confusion.scores();
            close(scores.accuracy, case.accuracy);
            close(scores.macro_f1, case.macro_f1);
            close(scores.weighted_f1, case.weighted_f1);
            for label in 0..case.n_labels {
                let score = confusion.label(label);
                close(score.precision, case.precision[label]);
                close(score.recall, case.recall[label]);
                close(score.f1, case.f1[label]);
            }
        }
    }

    #[test]
    fn how_well_scores_part_two_kinds_equals_scikit_learns() {
        let cases = golden().scores;
        assert!(cases.len() >= 4);
        for case in cases {
            let Scored { positives, negatives, .. } = &case;
            close(auc(positives, negatives).unwrap(), case.auc);
            close(false_positive_rate(positives, negatives, 0.95).unwrap(), case.fpr_at_95);
            close(false_positive_rate(positives, negatives, 0.5).unwrap(), case.fpr_at_50);
        }
        assert!(auc(&[], &[1.0]).is_none() && false_positive_rate(&[1.0], &[], 0.95).is_none());
    }

    #[test]
    fn unknown_is_a_miss_but_no_label() {
        let mut confusion = Confusion::new(2);
        for (t, p) in [(0, 0), (0, u32::MAX), (1, 1), (1, 2)] {
            confusion.add(t, p).unwrap();
        }
        let scores = confusion.scores();
        assert_eq!((scores.accuracy, scores.macro_f1, scores.flows), (0.5, 2.0 / 3.0, 4));
        assert_eq!(confusion.row(1), [0, 1, 1]);
        assert!(confusion.add(2, 0).is_err());
    }

    #[test]
    fn nothing_counted_gives_zeros() {
        assert_eq!(Confusion::new(3).scores(), Scores::default());
    }
}
