//! Fitting the SVM head: a machine for each pair of labels, then what they say in one table.

use super::options::KernelKind;
use super::smo::{Machine, Problem};
use super::{Options, Sample, standard};
use crate::error::{Error, Result};
use crate::head::svm::{Kernel, squares};
use crate::head::{MAX_VALUES, Svm};
use crate::random::Stream;
use rayon::prelude::*;

/// The stream of the draws, as none of the other draws of a run has it.
const STREAM: u64 = u64::MAX - 2;

/// The head that tells the labels of `sample` apart.
pub(super) fn fit(options: &Options, sample: Sample<'_>, seed: u64) -> Result<Svm> {
    let (d, n_labels) = (sample.n_embd, sample.n_labels);
    let flows = draw(sample, options.svm_flows, seed);
    let n: usize = flows.iter().map(Vec::len).sum();
    if n.saturating_mul(n_labels.max(d)) > MAX_VALUES {
        return Err(Error::invalid(format!(
            "{n} flows of {n_labels} labels are too many for an SVM head: lower svm_flows, now {}",
            options.svm_flows
        )));
    }
    let standard = standard(sample.embeddings, d);
    let mut points = Vec::new();
    standard.apply(sample.embeddings, &mut points);
    let kernel = kernel(options, &points, d);
    // Points of each label, in the order of the labels.
    let points: Vec<Vec<f32>> =
        flows.iter().map(|flows| flows.iter().flat_map(|&i| &points[i * d..(i + 1) * d]).copied().collect()).collect();

    let pairs: Vec<(usize, usize)> = (0..n_labels).flat_map(|i| (i + 1..n_labels).map(move |j| (i, j))).collect();
    let machine = |&(i, j): &(usize, usize)| -> Machine {
        let both = [points[i].as_slice(), &points[j]].concat();
        let (mut lengths, mut values) = (Vec::new(), Vec::new());
        squares(&both, d, &mut lengths);
        kernel.apply(&both, &both, &lengths, &mut values);
        Problem { kernel: &values, n_first: points[i].len() / d, n: lengths.len() }.solve(options.svm_nu)
    };
    let machines: Vec<Machine> = pairs.par_iter().map(machine).collect();

    // Of each label, the points that support any machine.
    let mut supports: Vec<Vec<bool>> = points.iter().map(|points| vec![false; points.len() / d]).collect();
    for (&(i, j), machine) in pairs.iter().zip(&machines) {
        let (of_i, of_j) = machine.coefficients.split_at(supports[i].len());
        for (label, coefficients) in [(i, of_i), (j, of_j)] {
            supports[label].iter_mut().zip(coefficients).for_each(|(supports, &a)| *supports |= a != 0.0);
        }
    }
    let counts: Vec<u32> = supports.iter().map(|s| s.iter().filter(|s| **s).count() as u32).collect();
    let n: usize = counts.iter().map(|&n| n as usize).sum();
    let begins: Vec<usize> = counts.iter().scan(0, |end, &n| Some(std::mem::replace(end, *end + n as usize))).collect();
    let mut coefficients = vec![0.0; n * (n_labels - 1)];
    for (&(i, j), machine) in pairs.iter().zip(&machines) {
        let (of_i, of_j) = machine.coefficients.split_at(supports[i].len());
        for (label, row, values) in [(i, j - 1, of_i), (j, i, of_j)] {
            let kept = values.iter().zip(&supports[label]).filter(|(_, supports)| **supports);
            let out = &mut coefficients[row * n + begins[label]..];
            kept.zip(out).for_each(|((&a, _), out)| *out = a);
        }
    }
    let kept = points.iter().zip(&supports).flat_map(|(points, supports)| {
        points.chunks_exact(d).zip(supports).filter(|(_, supports)| **supports).flat_map(|(row, _)| row)
    });
    let head = Svm {
        standard,
        vectors: kept.copied().collect(),
        counts,
        coefficients,
        intercepts: machines.iter().map(|machine| machine.intercept).collect(),
        kernel,
        temperature: 1.0,
    };
    head.check(n_labels, d)?;
    Ok(head)
}

/// The flows of each label, `most` of them at most, in the order they came.
fn draw(sample: Sample<'_>, most: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut out = vec![Vec::new(); sample.n_labels];
    for (flow, &label) in sample.labels.iter().enumerate() {
        out[label as usize].push(flow);
    }
    let mut draws = Stream::new(seed, STREAM);
    for flows in out.iter_mut().filter(|flows| flows.len() > most) {
        draws.shuffle(flows);
        flows.truncate(most);
        flows.sort_unstable();
    }
    out
}

fn kernel(options: &Options, points: &[f32], d: usize) -> Kernel {
    match (options.svm_kernel, options.svm_gamma) {
        (KernelKind::Linear, _) => Kernel::Linear,
        (KernelKind::Rbf, gamma) if gamma > 0.0 => Kernel::Rbf { gamma: gamma as f32 },
        (KernelKind::Rbf, _) => {
            let n = points.len().max(1) as f64;
            let mean = points.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            let variance = points.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
            let gamma = if variance > 0.0 { 1.0 / (d as f64 * variance) } else { 1.0 };
            Kernel::Rbf { gamma: gamma as f32 }
        }
    }
}
