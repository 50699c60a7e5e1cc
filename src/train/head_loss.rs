//! The classifier's part of a step: mean of the packets' hidden states, linear head, weighted cross-entropy with label
//! smoothing as PyTorch's `CrossEntropyLoss` defines it, and the gradients of all three.

use crate::head::Linear;
use crate::head::linear::softmax;
use std::ops::Range;

/// How mistakes count.
#[derive(Clone, Debug)]
pub struct Objective {
    /// Weight of each label.
    pub label_weights: Vec<f32>,
    /// Probability mass that the target gives to all labels alike.
    pub smoothing: f32,
}

/// The mean of the rows `positions` of `hidden`, row-major in rows of `out.len()`, written to `out`.
pub fn pool(hidden: &[f32], positions: Range<usize>, out: &mut [f32]) {
    let d = out.len();
    let scale = 1.0 / positions.len() as f32;
    out.fill(0.0);
    for row in hidden[positions.start * d..positions.end * d].chunks_exact(d) {
        for (o, h) in out.iter_mut().zip(row) {
            *o += h * scale;
        }
    }
}

/// Adds the gradient of a pooled mean to the rows `positions` of `d_hidden`.
pub fn pool_backward(d_out: &[f32], positions: Range<usize>, d_hidden: &mut [f32]) {
    let d = d_out.len();
    let scale = 1.0 / positions.len() as f32;
    for row in d_hidden[positions.start * d..positions.end * d].chunks_exact_mut(d) {
        for (h, g) in row.iter_mut().zip(d_out) {
            *h += g * scale;
        }
    }
}

/// The head's logits, without its temperature, for `embeddings` row-major `[n, n_embd]`, written to `logits`
/// `[n, n_labels]`.
pub fn logits(head: &Linear, embeddings: &[f32], logits: &mut Vec<f32>) {
    let n = head.bias.len();
    let d = head.weight.len() / n;
    logits.clear();
    for embedding in embeddings.chunks_exact(d) {
        let rows = head.weight.chunks_exact(d).zip(&head.bias);
        logits.extend(rows.map(|(w, b)| w.iter().zip(embedding).map(|(w, e)| w * e).sum::<f32>() + b));
    }
}

/// Gradients of the head, added to `grads`, and of the embeddings, written to `d_embeddings`, from those of the logits.
pub fn logits_backward(
    head: &Linear,
    embeddings: &[f32],
    d_logits: &[f32],
    grads: &mut Linear,
    d_embeddings: &mut Vec<f32>,
) {
    let n = head.bias.len();
    let d = head.weight.len() / n;
    d_embeddings.clear();
    d_embeddings.resize(embeddings.len(), 0.0);
    let rows = embeddings.chunks_exact(d).zip(d_embeddings.chunks_exact_mut(d)).zip(d_logits.chunks_exact(n));
    for ((embedding, d_embedding), d_row) in rows {
        for (label, &g) in d_row.iter().enumerate() {
            grads.bias[label] += g;
            let span = label * d..(label + 1) * d;
            for ((dw, e), (de, w)) in
                grads.weight[span.clone()].iter_mut().zip(embedding).zip(d_embedding.iter_mut().zip(&head.weight[span]))
            {
                *dw += g * e;
                *de += g * w;
            }
        }
    }
}

impl Objective {
    /// The loss of rows of `logits`, which become its gradients.
    ///
    /// `[(1 - s) sum_i w(y_i) nll_i(y_i) + s/C sum_i sum_c w(c) nll_i(c)] / sum_i w(y_i)` for labels `y`, weights `w`,
    /// smoothing `s` and C labels.
    pub fn apply(&self, logits: &mut [f32], labels: &[u32]) -> f64 {
        let n = self.label_weights.len();
        let total: f64 = labels.iter().map(|&y| f64::from(self.label_weights[y as usize])).sum();
        let spread = self.smoothing / n as f32;
        let mut loss = 0.0;
        for (row, &label) in logits.chunks_exact_mut(n).zip(labels) {
            let target = |c: usize, w: f32| w * (if c == label as usize { 1.0 - self.smoothing } else { 0.0 } + spread);
            let mass: f32 = self.label_weights.iter().enumerate().map(|(c, &w)| target(c, w)).sum();
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let log_sum = f64::from(max) + row.iter().map(|z| f64::from(z - max).exp()).sum::<f64>().ln();
            let weighted = self.label_weights.iter().enumerate().zip(row.iter());
            loss += weighted.map(|((c, &w), &z)| f64::from(target(c, w)) * (log_sum - f64::from(z))).sum::<f64>();
            softmax(row);
            for ((c, &w), p) in self.label_weights.iter().enumerate().zip(row.iter_mut()) {
                *p = (mass * *p - target(c, w)) / total as f32;
            }
        }
        loss / total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Case {
        n_labels: usize,
        n_embd: usize,
        lengths: Vec<usize>,
        hidden: Vec<f32>,
        weight: Vec<f32>,
        bias: Vec<f32>,
        labels: Vec<u32>,
        label_weights: Vec<f32>,
        smoothing: f32,
        loss: f64,
        d_hidden: Vec<f32>,
        d_weight: Vec<f32>,
        d_bias: Vec<f32>,
    }

    fn close(name: &str, ours: &[f32], theirs: &[f32]) {
        assert_eq!(ours.len(), theirs.len());
        let scale = theirs.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (a, b) in ours.iter().zip(theirs) {
            assert!((a - b).abs() <= 1e-5 * scale, "{name}: {a} is not {b}");
        }
    }

    /// Loss and gradients by PyTorch (`dev/golden_head_loss.py`); position 0 of each row is not pooled.
    #[test]
    fn loss_and_gradients_equal_pytorchs() {
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../tests/golden/head_loss.json")).unwrap();
        assert_eq!(cases.len(), 2);
        for case in cases {
            let (n, d) = (case.n_labels, case.n_embd);
            let head = Linear { weight: case.weight, bias: case.bias, temperature: 1.0 };
            let mut spans = Vec::new();
            let mut begin = 0;
            for len in &case.lengths {
                spans.push(begin + 1..begin + len);
                begin += len;
            }
            let mut embeddings = vec![0.0; spans.len() * d];
            for (span, out) in spans.iter().zip(embeddings.chunks_exact_mut(d)) {
                pool(&case.hidden, span.clone(), out);
            }
            let (mut values, mut d_embeddings) = (Vec::new(), Vec::new());
            logits(&head, &embeddings, &mut values);
            let objective = Objective { label_weights: case.label_weights, smoothing: case.smoothing };
            let loss = objective.apply(&mut values, &case.labels);
            assert!((loss - case.loss).abs() < 1e-6 * case.loss, "{loss} is not {}", case.loss);
            let mut grads = Linear { weight: vec![0.0; n * d], bias: vec![0.0; n], temperature: 1.0 };
            logits_backward(&head, &embeddings, &values, &mut grads, &mut d_embeddings);
            let mut d_hidden = vec![0.0; case.hidden.len()];
            for (span, g) in spans.iter().zip(d_embeddings.chunks_exact(d)) {
                pool_backward(g, span.clone(), &mut d_hidden);
            }
            close("d_weight", &grads.weight, &case.d_weight);
            close("d_bias", &grads.bias, &case.d_bias);
            close("d_hidden", &d_hidden, &case.d_hidden);
        }
    }
}
