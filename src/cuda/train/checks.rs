//! What kernels of training must do whose threads wait for each other, whoever runs them; the others are compared as parts of a
//! whole step (`on_gpu_train`). References are plain sums in f64.

use super::modules as m;
use crate::backend::packed::Precision;
use crate::cuda::gpt2::checks::Value::{F32, In, Out, U32};
use crate::cuda::gpt2::checks::{RunKernel, assert_close, bytes, numbers, packed, unpacked, unwritten};

const BOTH: [Precision; 2] = [Precision::F32, Precision::Bf16];

/// `a^T b` of `[rows, m]` and `[rows, n]`, in parts: as many columns of `a` as count, parts that have no rows.
pub(in crate::cuda) fn gradients_are_multiplied(run: &dyn RunKernel, shapes: &[[usize; 4]]) {
    for &[m, n, rows, parts] in shapes {
        let (precision, across) = (Precision::Bf16, m.next_multiple_of(8));
        let (a, b) = (numbers(rows * across, 1, precision), numbers(rows * n, 2, precision));
        for (kernel, side) in [(m::PRODUCT_BF16_GRADIENT, 128), (m::PRODUCT_BF16_GRADIENT_SMALL, 64)] {
            let mut c = unwritten(parts * m * n, Precision::F32);
            let mut values = vec![In(packed(&a, precision)), In(packed(&b, precision)), Out(&mut c)];
            values.extend([m, n, rows, across, parts, 0].map(U32));
            run.run(kernel, parts * m.div_ceil(side) * n.div_ceil(side), &mut values);
            let got = unpacked(&c, Precision::F32);
            let sums: Vec<f32> = (0..m * n).map(|i| (0..parts).map(|p| got[p * m * n + i]).sum()).collect();
            let product = |i: usize, l: usize| f64::from(a[l * across + i / n]) * f64::from(b[l * n + i % n]);
            let expected: Vec<f64> = (0..m * n).map(|i| (0..rows).map(|l| product(i, l)).sum()).collect();
            assert_close(&sums, &expected, Precision::F32, &format!("{m} x {rows} times {rows} x {n}, {parts} parts"));
        }
    }
}

/// Losses and gradients of rows with and without a target; what pads the rows does not count.
pub(in crate::cuda) fn losses_are_those_of_the_softmax(run: &dyn RunKernel) {
    for (vocabulary, stride) in [(1, 8), (300, 304)] {
        let targets = [vocabulary as u32 - 1, u32::MAX, 0];
        let mut logits = numbers(targets.len() * stride, 3, Precision::F32);
        logits.chunks_mut(stride).for_each(|row| row[vocabulary..].fill(1e9));
        for precision in BOTH {
            let kernel = if precision == Precision::F32 { m::CROSS_ENTROPY_F32 } else { m::CROSS_ENTROPY_BF16 };
            let [mut nll, mut d] = [(3, Precision::F32), (3 * stride, precision)].map(|(n, p)| unwritten(n, p));
            let mut values = vec![In(bytes(&logits)), In(bytes(&targets)), U32(vocabulary), U32(stride), F32(0.5)];
            values.extend([Out(&mut nll), Out(&mut d)]);
            run.run(kernel, 3, &mut values);
            let (mut losses, mut grads) = (Vec::new(), Vec::new());
            for (row, &target) in logits.chunks(stride).zip(&targets) {
                let sum: f64 = row[..vocabulary].iter().map(|&z| f64::from(z).exp()).sum();
                let counts = target != u32::MAX;
                losses.push(if counts { sum.ln() - f64::from(row[target as usize]) } else { 0.0 });
                grads.extend((0..stride).map(|c| match c < vocabulary && counts {
                    true => 0.5 * (f64::from(row[c]).exp() / sum - f64::from(u8::from(c == target as usize))),
                    false => 0.0,
                }));
            }
            assert_close(&unpacked(&nll, Precision::F32), &losses, Precision::F32, "losses");
            assert_close(&unpacked(&d, precision), &grads, precision, "gradients of logits");
        }
    }
}

/// The norm over several parts, and what clips to it; without a limit nothing is clipped.
pub(in crate::cuda) fn gradients_are_clipped(run: &dyn RunKernel) {
    for n in [1, 70_001] {
        let g = numbers(n, 5, Precision::F32);
        let mut parts = bytes(&vec![f64::NAN; n.div_ceil(super::kernels::SQUARES)]);
        let n_parts = parts.len() / 8;
        run.run(m::SQUARES, n_parts, &mut [In(bytes(&g)), U32(n), Out(&mut parts)]);
        let expected = g.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        for most in [0.0, 1e-3, 1e9] {
            let mut norm = bytes(&[f64::NAN; 2]);
            run.run(m::CLIP, 1, &mut [In(parts.clone()), U32(n_parts), F32(most), Out(&mut norm)]);
            let norm: Vec<f64> = norm.chunks_exact(8).map(bytemuck::pod_read_unaligned).collect();
            assert!((norm[0] / expected - 1.0).abs() < 1e-12, "{} is not {expected}", norm[0]);
            let factor = if most == 1e-3 { f64::from(most) / (expected + 1e-6) } else { 1.0 };
            assert!((norm[1] / factor - 1.0).abs() < 1e-9, "{} is not {factor}", norm[1]);
        }
    }
}
