//! The temperature that makes a classifier's probabilities honest: the one with the least negative log-likelihood on
//! held-out flows; and how honest they are (both after Guo et al., "On calibration of modern neural networks", ICML 2017).

use serde::Serialize;

/// Temperatures that are searched, as natural logarithms: 0.05 to 20.
const LOG_RANGE: (f64, f64) = (-3.0, 3.0);

/// Bins of the calibration error.
pub const BINS: usize = 15;

/// Golden-section steps; each shrinks the interval to 0.618 of it, to 1e-8 in all.
const STEPS: usize = 42;

/// The temperature for `logits` (row-major `[labels.len(), n_labels]`) of flows whose truths are `labels`; 1 where
/// there is nothing to fit.
///
/// The negative log-likelihood is convex in the inverse temperature, so it has one minimum in the temperature too.
pub fn temperature(logits: &[f32], labels: &[u32], n_labels: usize) -> f32 {
    if labels.is_empty() || n_labels < 2 {
        return 1.0;
    }
    let golden = (5f64.sqrt() - 1.0) / 2.0;
    let loss = |log_t: f64| nll(logits, labels, n_labels, log_t.exp());
    let (mut low, mut high) = LOG_RANGE;
    let (mut left, mut right) = (high - golden * (high - low), low + golden * (high - low));
    let (mut at_left, mut at_right) = (loss(left), loss(right));
    for _ in 0..STEPS {
        if at_left <= at_right {
            (high, right, at_right) = (right, left, at_left);
            left = high - golden * (high - low);
            at_left = loss(left);
        } else {
            (low, left, at_left) = (left, right, at_right);
            right = low + golden * (high - low);
            at_right = loss(right);
        }
    }
    ((low + high) / 2.0).exp() as f32
}

/// Mean negative log-likelihood in nats of the truths under `softmax(logits / temperature)`; labels past `n_labels`
/// do not count.
pub fn nll(logits: &[f32], labels: &[u32], n_labels: usize, temperature: f64) -> f64 {
    let (mut sum, mut count) = (0.0, 0usize);
    for (row, &label) in logits.chunks_exact(n_labels).zip(labels) {
        let Some(&truth) = row.get(label as usize) else { continue };
        let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let total: f64 = row.iter().map(|&z| ((f64::from(z) - max) / temperature).exp()).sum();
        sum += total.ln() - (f64::from(truth) - max) / temperature;
        count += 1;
    }
    sum / count.max(1) as f64
}

/// Flows whose best probability is in `(i / BINS, (i + 1) / BINS]`, in the first bin also 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Bin {
    /// How many.
    pub flows: u64,
    /// Their mean best probability; 0 if there are none.
    pub confidence: f64,
    /// Share of them that is right; 0 if there are none.
    pub accuracy: f64,
}

/// Best probabilities, and whether the label they go with is right, in bins of equal width.
pub fn reliability(answers: impl IntoIterator<Item = (f64, bool)>) -> [Bin; BINS] {
    let mut bins = [Bin::default(); BINS];
    for (confidence, right) in answers {
        let i = (0..BINS - 1).find(|&i| confidence <= (i + 1) as f64 / BINS as f64).unwrap_or(BINS - 1);
        bins[i].flows += 1;
        bins[i].confidence += confidence;
        bins[i].accuracy += f64::from(u8::from(right));
    }
    for bin in bins.iter_mut().filter(|bin| bin.flows > 0) {
        bin.confidence /= bin.flows as f64;
        bin.accuracy /= bin.flows as f64;
    }
    bins
}

/// The expected calibration error: the mean gap between probability and share that is right, bins counting as their flows.
pub fn error(bins: &[Bin]) -> f64 {
    let flows: u64 = bins.iter().map(|bin| bin.flows).sum();
    let gaps: f64 = bins.iter().map(|bin| bin.flows as f64 * (bin.confidence - bin.accuracy).abs()).sum();
    gaps / flows.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Golden {
        calibration: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        confidence: Vec<f64>,
        right: Vec<bool>,
        error: f64,
        bin_confidence: Vec<f64>,
        bin_accuracy: Vec<f64>,
    }

    /// Bins and errors by scikit-learn's `calibration_curve` (`dev/golden_metrics.py`).
    #[test]
    fn the_calibration_error_is_that_of_scikit_learns_bins() {
        let golden: Golden = serde_json::from_str(include_str!("../../tests/golden/metrics.json")).unwrap();
        assert!(golden.calibration.len() >= 3);
        for case in golden.calibration {
            let bins = reliability(case.confidence.iter().copied().zip(case.right));
            assert!((error(&bins) - case.error).abs() < 1e-12, "{} is not {}", error(&bins), case.error);
            let full: Vec<&Bin> = bins.iter().filter(|bin| bin.flows > 0).collect();
            assert_eq!(full.len(), case.bin_confidence.len());
            for ((bin, confidence), accuracy) in full.iter().zip(case.bin_confidence).zip(case.bin_accuracy) {
                assert!((bin.confidence - confidence).abs() < 1e-12 && (bin.accuracy - accuracy).abs() < 1e-12);
            }
        }
        assert_eq!(error(&reliability([])), 0.0);
        assert_eq!(reliability([(0.0, true), (1.0, true), (1.0, false)])[BINS - 1].flows, 2);
    }

    /// Labels drawn from `softmax(z)` and logits given as `2 z`: the temperature to find is 2.
    #[test]
    fn an_overconfident_model_gets_its_factor_back() {
        let mut draws = Stream::new(3, 0);
        let (mut logits, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..20_000 {
            let z: Vec<f64> = (0..3).map(|_| 4.0 * draws.uniform()).collect();
            let total: f64 = z.iter().map(|v| v.exp()).sum();
            let mut u = draws.uniform() * total;
            let label = z.iter().position(|v| {
                u -= v.exp();
                u < 0.0
            });
            labels.push(label.unwrap_or(2) as u32);
            logits.extend(z.iter().map(|v| (2.0 * v) as f32));
        }
        let t = temperature(&logits, &labels, 3);
        assert!((t - 2.0).abs() < 0.06, "{t}");
        assert!(nll(&logits, &labels, 3, 2.0) < nll(&logits, &labels, 3, 1.0));
    }

    #[test]
    fn nll_is_the_cross_entropy() {
        let expected = (1.0 + (-2f64).exp()).ln();
        assert!((nll(&[2.0, 0.0], &[0], 2, 1.0) - expected).abs() < 1e-12);
        assert_eq!(temperature(&[], &[], 2), 1.0);
    }
}
