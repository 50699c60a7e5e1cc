//! AdamW with decoupled weight decay, and clipping by the global norm of the gradients.
//!
//! Loshchilov and Hutter, "Decoupled weight decay regularization", 2019, as PyTorch computes it:
//! `p -= lr * decay * p`, `m = b1 m + (1 - b1) g`, `v = b2 v + (1 - b2) g^2`,
//! `p -= lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps)`.

use crate::backend::simd::{fma, vectorised};
use crate::error::{Error, Result};
use crate::gpt2::Weights;
use rayon::prelude::*;
use std::ops::Range;

/// Parameters that one task steps.
const BLOCK: usize = 1 << 15;

/// AdamW's constants; the learning rate is given at every step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of their squares.
    pub beta2: f32,
    /// Added to the root of the latter.
    pub epsilon: f32,
    /// Share of a matrix that a step of learning rate 1 takes away; vectors are not decayed.
    pub weight_decay: f32,
}

impl Default for Options {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 }
    }
}

impl Options {
    fn check(&self) -> Result<()> {
        for (name, value, most) in [
            ("beta1", self.beta1, 1.0),
            ("beta2", self.beta2, 1.0),
            ("epsilon", self.epsilon, f32::INFINITY),
            ("weight_decay", self.weight_decay, f32::INFINITY),
        ] {
            if !(0.0..most).contains(&value) {
                return Err(Error::invalid(format!("optimizer: {name} is {value}; it must be in [0, {most})")));
            }
        }
        Ok(())
    }
}

/// The optimiser of one flat buffer of parameters, with its moments.
#[derive(Clone, Debug)]
pub struct AdamW {
    options: Options,
    /// Ranges that tile the buffer, and whether each decays.
    spans: Vec<(Range<usize>, bool)>,
    steps: u64,
    m: Vec<f32>,
    v: Vec<f32>,
}

impl AdamW {
    /// For the weights of a network: matrices decay, biases and layer norms do not.
    ///
    /// # Errors
    /// If an option is out of its range.
    pub fn for_weights(weights: &Weights, options: Options) -> Result<Self> {
        Self::new(weights.tensors().into_iter().map(|t| (t.range.len(), t.decays())), options)
    }

    /// For a buffer of consecutive tensors, each given by its number of values and whether it decays.
    ///
    /// # Errors
    /// If an option is out of its range.
    pub fn new(tensors: impl IntoIterator<Item = (usize, bool)>, options: Options) -> Result<Self> {
        options.check()?;
        let mut end = 0;
        let spans = tensors
            .into_iter()
            .map(|(n, decays)| {
                end += n;
                (end - n..end, decays)
            })
            .collect();
        Ok(Self { options, spans, steps: 0, m: vec![0.0; end], v: vec![0.0; end] })
    }

    /// Steps `parameters` down `factor * grads` at learning rate `lr` and sets `grads` to zero for the next batch.
    /// `factor` is what [`clip_factor`] returned, or 1.
    ///
    /// # Errors
    /// If `parameters` or `grads` are not as many as the optimiser was made for.
    pub fn step(&mut self, parameters: &mut [f32], grads: &mut [f32], factor: f32, lr: f32) -> Result<()> {
        let n = self.m.len();
        if parameters.len() != n || grads.len() != n {
            return Err(Error::mismatch(format!(
                "optimizer: {} parameters and {} gradients are given; it was made for {n}",
                parameters.len(),
                grads.len()
            )));
        }
        self.steps += 1;
        let Options { beta1, beta2, epsilon, weight_decay } = self.options;
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(self.steps as f64);
        let rule = Rule {
            beta1,
            beta2,
            epsilon,
            factor,
            step: (f64::from(lr) / correction(beta1)) as f32,
            root: (1.0 / correction(beta2).sqrt()) as f32,
        };
        let kept = (1.0 - f64::from(lr) * f64::from(weight_decay)) as f32;
        let spans = &self.spans;
        parameters
            .par_chunks_mut(BLOCK)
            .zip(grads.par_chunks_mut(BLOCK))
            .zip(self.m.par_chunks_mut(BLOCK).zip(self.v.par_chunks_mut(BLOCK)))
            .enumerate()
            .for_each(|(i, ((p, g), (m, v)))| {
                let block = i * BLOCK..i * BLOCK + p.len();
                let first = spans.partition_point(|(span, _)| span.end <= block.start);
                for (span, decays) in spans[first..].iter().take_while(|(span, _)| span.start < block.end) {
                    let part = span.start.max(block.start) - block.start..span.end.min(block.end) - block.start;
                    let kept = if *decays { kept } else { 1.0 };
                    let (p, g) = (&mut p[part.clone()], &mut g[part.clone()]);
                    let (m, v) = (&mut m[part.clone()], &mut v[part]);
                    vectorised!(rule.apply(kept, p, g, m, v));
                }
            });
        Ok(())
    }

    /// Number of steps taken, and the moments: all that a checkpoint needs to go on bit by bit.
    pub fn state(&self) -> (u64, &[f32], &[f32]) {
        (self.steps, &self.m, &self.v)
    }

    /// Takes up the state of an optimiser of the same parameters.
    ///
    /// # Errors
    /// If the moments are not as many as the parameters, or not finite, or those of squares are negative.
    pub fn restore(&mut self, steps: u64, m: &[f32], v: &[f32]) -> Result<()> {
        let n = self.m.len();
        if m.len() != n || v.len() != n {
            let (m, v) = (m.len(), v.len());
            return Err(Error::mismatch(format!("optimizer: state of {m} and {v} values for {n} parameters")));
        }
        if !m.iter().all(|x| x.is_finite()) || !v.iter().all(|&x| x.is_finite() && x >= 0.0) {
            return Err(Error::format("optimizer: the state holds values that are not finite, or negative squares"));
        }
        self.steps = steps;
        self.m.copy_from_slice(m);
        self.v.copy_from_slice(v);
        Ok(())
    }
}

/// One step's constants.
#[derive(Clone, Copy)]
struct Rule {
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    factor: f32,
    /// `lr / (1 - beta1^t)`
    step: f32,
    /// `1 / sqrt(1 - beta2^t)`
    root: f32,
}

impl Rule {
    #[inline(always)]
    fn apply(self, kept: f32, p: &mut [f32], g: &mut [f32], m: &mut [f32], v: &mut [f32]) {
        for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            let gradient = *g * self.factor;
            *g = 0.0;
            *m = fma(1.0 - self.beta1, gradient - *m, *m);
            *v = fma(self.beta2, *v, (1.0 - self.beta2) * gradient * gradient);
            *p = fma(-self.step, *m / fma(v.sqrt(), self.root, self.epsilon), *p * kept);
        }
    }
}

/// The Euclidean norm of all values of several buffers, summed in `f64` in an order of its own, whatever the threads.
pub fn global_norm(buffers: &[&[f32]]) -> f64 {
    let sums = |buffer: &[f32]| -> Vec<f64> {
        buffer.par_chunks(BLOCK).map(|block| vectorised!(sum_of_squares(block))).collect()
    };
    buffers.iter().flat_map(|buffer| sums(buffer)).sum::<f64>().sqrt()
}

#[inline(always)]
fn sum_of_squares(values: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 16];
    let (groups, rest) = values.as_chunks::<16>();
    for group in groups {
        for (lane, x) in lanes.iter_mut().zip(group) {
            *lane += f64::from(*x) * f64::from(*x);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
}

/// What gradients of norm `norm` are multiplied with so that their norm is at most `most`; 1 without a limit.
///
/// # Errors
/// If `norm` is not finite: training has diverged, and a step would spoil the weights.
pub fn clip_factor(norm: f64, most: Option<f32>) -> Result<f32> {
    if !norm.is_finite() {
        return Err(Error::invalid(format!(
            "training has diverged: the gradients' norm is {norm}; use a lower learning rate, warm-up or clipping"
        )));
    }
    Ok(most.map_or(1.0, |most| (f64::from(most) / (norm + 1e-6)).min(1.0) as f32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_optimiser_goes_on_bit_by_bit() {
        let gradient = |step: u64| -> Vec<f32> { (0..5).map(|i| ((step * 7 + i) % 5) as f32 - 2.0).collect() };
        let run = |from: &mut AdamW, p: &mut Vec<f32>, steps: Range<u64>| {
            for step in steps {
                from.step(p, &mut gradient(step), 0.5, 0.1).unwrap();
            }
        };
        let new = || AdamW::new([(3, true), (2, false)], Options::default()).unwrap();
        let (mut whole, mut p) = (new(), vec![1.0; 5]);
        run(&mut whole, &mut p, 0..6);
        let (mut first, mut q) = (new(), vec![1.0; 5]);
        run(&mut first, &mut q, 0..3);
        let (steps, m, v) = first.state();
        let mut second = new();
        second.restore(steps, m, v).unwrap();
        run(&mut second, &mut q, 3..6);
        assert_eq!(p, q);
        assert_eq!(whole.state(), second.state());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut adam = AdamW::new([(3, true)], Options::default()).unwrap();
        assert!(adam.step(&mut [0.0; 3], &mut [0.0; 2], 1.0, 0.1).is_err());
        assert!(adam.restore(1, &[0.0; 3], &[0.0; 2]).is_err());
        assert!(adam.restore(1, &[0.0; 3], &[0.0, -1.0, 0.0]).is_err());
        assert!(AdamW::new([], Options { beta1: 1.0, ..Options::default() }).is_err());
        assert!(AdamW::new([], Options { weight_decay: f32::NAN, ..Options::default() }).is_err());
    }

    #[test]
    fn clipping_scales_to_the_limit_and_refuses_what_is_not_finite() {
        let values = vec![2.0f32; 100_000];
        let norm = global_norm(&[&values[..60_000], &values[60_000..]]);
        assert!((norm - 2.0 * 100_000f64.sqrt()).abs() < 1e-9 * norm);
        assert!((f64::from(clip_factor(norm, Some(1.0)).unwrap()) * norm - 1.0).abs() < 1e-6);
        assert_eq!((clip_factor(0.5, Some(1.0)).unwrap(), clip_factor(9.0, None).unwrap()), (1.0, 1.0));
        assert!(clip_factor(f64::NAN, None).is_err());
    }
}
