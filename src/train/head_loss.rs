//! The classifier's part of a step: mean of the packets' hidden states, linear head, weighted cross-entropy with label
//! smoothing as PyTorch's `CrossEntropyLoss` defines it and with the probabilities that teachers gave, and the gradients
//! of all three.

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
    /// Share of the teachers in the target of a flow that has a label and an answer.
    pub teacher_share: f32,
    /// What a flow counts of which only the answer is known.
    pub unlabelled: f32,
}

/// What is known of a flow: its label, or what the teachers answered, or both.
#[derive(Clone, Copy, Debug)]
pub struct Truth<'a> {
    /// Index of its label.
    pub label: Option<u32>,
    /// The probability of every label.
    pub answer: Option<&'a [f32]>,
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
    /// What all flows of `truths` count together: the sum of `v_i` of [`Self::apply`].
    pub fn total<'a>(&self, truths: impl Iterator<Item = Truth<'a>>) -> f64 {
        let mut target = vec![0.0; self.label_weights.len()];
        truths.map(|truth| f64::from(self.target(truth, &mut target))).sum()
    }

    /// The loss of rows of `logits`, which become its gradients; `truths` are those of the rows, and `total` is what all
    /// flows count over which the loss is a mean, those of these rows or more.
    ///
    /// `sum_i [(1 - a_i) hard_i + a_i v_i sum_c p_i(c) nll_i(c)] / sum_i v_i`, where `p` are the answers and `hard` is
    /// `(1 - s) w(y_i) nll_i(y_i) + s/C sum_c w(c) nll_i(c)` for labels `y`, weights `w`, smoothing `s` and C labels.
    /// A flow with a label counts `v = w(y)`; `a` is the teachers' share, or 0 without an answer. One with an answer
    /// alone has `a = 1` and counts as much as its label would on average, times the factor for such flows. Answers are
    /// not weighted by label: the teachers have learnt with weights already.
    pub fn apply<'a>(&self, logits: &mut [f32], truths: impl Iterator<Item = Truth<'a>>, total: f64) -> f64 {
        let n = self.label_weights.len();
        let mut target = vec![0.0; n];
        let mut loss = 0.0;
        for (row, truth) in logits.chunks_exact_mut(n).zip(truths) {
            self.target(truth, &mut target);
            let mass: f32 = target.iter().sum();
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let log_sum = f64::from(max) + row.iter().map(|z| f64::from(z - max).exp()).sum::<f64>().ln();
            loss += target.iter().zip(row.iter()).map(|(&t, &z)| f64::from(t) * (log_sum - f64::from(z))).sum::<f64>();
            softmax(row);
            row.iter_mut().zip(&target).for_each(|(p, t)| *p = mass * *p - t);
        }
        if total > 0.0 {
            logits.iter_mut().for_each(|g| *g /= total as f32);
            loss /= total;
        }
        loss
    }

    /// What each label's negative log-likelihood is multiplied by, row-major `[truths, labels]`: the loss of
    /// [`Self::apply`] is the sum of these products over `total`.
    pub fn targets<'a>(&self, truths: impl Iterator<Item = Truth<'a>>) -> Vec<f32> {
        let mut row = vec![0.0; self.label_weights.len()];
        let mut out = Vec::new();
        truths.for_each(|truth| {
            self.target(truth, &mut row);
            out.extend_from_slice(&row);
        });
        out
    }

    /// Writes what each label's negative log-likelihood is multiplied by for a flow; returns what the flow counts.
    fn target(&self, truth: Truth<'_>, out: &mut [f32]) -> f32 {
        let share = match truth {
            Truth { answer: None, .. } => 0.0,
            Truth { label: None, .. } => 1.0,
            _ => self.teacher_share,
        };
        let spread = self.smoothing / out.len() as f32;
        for (c, (t, &w)) in out.iter_mut().zip(&self.label_weights).enumerate() {
            let own = if truth.label == Some(c as u32) { 1.0 - self.smoothing } else { 0.0 };
            *t = (1.0 - share) * w * (own + spread);
        }
        let answer = truth.answer.unwrap_or_default();
        let counts = match truth.label {
            Some(label) => self.label_weights[label as usize],
            None => self.unlabelled * answer.iter().zip(&self.label_weights).map(|(p, w)| p * w).sum::<f32>(),
        };
        out.iter_mut().zip(answer).for_each(|(t, p)| *t += share * counts * p);
        counts
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
        labels: Vec<Option<u32>>,
        label_weights: Vec<f32>,
        smoothing: f32,
        answers: Vec<Option<Vec<f32>>>,
        teacher_share: f32,
        unlabelled: f32,
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
        assert_eq!(cases.len(), 3);
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
            let objective = Objective {
                label_weights: case.label_weights,
                smoothing: case.smoothing,
                teacher_share: case.teacher_share,
                unlabelled: case.unlabelled,
            };
            let truths = case.labels.iter().zip(&case.answers);
            let truths = truths.map(|(&label, answer)| Truth { label, answer: answer.as_deref() });
            let loss = objective.apply(&mut values, truths.clone(), objective.total(truths));
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
