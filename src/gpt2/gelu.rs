//! `gelu_new`, fused with the bias before it: `0.5 x (1 + tanh(u))`, `u = sqrt(2/pi) (x + 0.044715 x^3)`
//! (Hendrycks and Gimpel, 2016).
//!
//! As `0.5 (1 + tanh(u)) = 1 / (1 + e^(-2u))`, one exponential does for value and derivative, and small values of the
//! left tail keep their relative accuracy.

use crate::backend::simd::{exp, fma, vectorised};

const ROOT: f32 = 0.797_884_6; // sqrt(2 / pi)
const CUBIC: f32 = 0.044_715;

/// `(gelu(x), gelu'(x))`.
#[inline(always)]
fn gelu(x: f32) -> (f32, f32) {
    let c = x.clamp(-12.0, 12.0); // beyond, the gate is 0 or 1 in f32, and the cube could overflow
    let c2 = c * c;
    let u = ROOT * c * fma(CUBIC, c2, 1.0);
    let gate = 1.0 / (1.0 + exp(-2.0 * u));
    let slope = 2.0 * ROOT * c * fma(3.0 * CUBIC, c2, 1.0);
    (x * gate, fma(gate * slope, 1.0 - gate, gate))
}

/// `out = gelu(pre + bias)` for rows of `pre`.
pub(super) fn gelu_forward(pre: &[f32], bias: &[f32], out: &mut [f32]) {
    let n = bias.len();
    vectorised!({
        for (pre, out) in pre.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
            for ((out, x), b) in out.iter_mut().zip(pre).zip(bias) {
                *out = gelu(*x + *b).0;
            }
        }
    });
}

/// Backward of [`gelu_forward`]: turns `d` from the gradient of the output into that of `pre`, adds its column sums to
/// `d_bias`, and computes the output again into `out`.
pub(super) fn gelu_backward(pre: &[f32], bias: &[f32], out: &mut [f32], d: &mut [f32], d_bias: &mut [f32]) {
    let n = bias.len();
    vectorised!({
        let d_bias = &mut d_bias[..n];
        for ((pre, out), d) in pre.chunks_exact(n).zip(out.chunks_exact_mut(n)).zip(d.chunks_exact_mut(n)) {
            for i in 0..n {
                let (value, slope) = gelu(pre[i] + bias[i]);
                out[i] = value;
                d[i] *= slope;
                d_bias[i] += d[i];
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(x: f64) -> f64 {
        0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
    }

    #[test]
    fn value_and_slope_are_the_formulas() {
        for i in -4000..4000 {
            let x = i as f32 / 400.0;
            let (value, slope) = gelu(x);
            let want = reference(f64::from(x));
            assert!((f64::from(value) - want).abs() <= 1e-6 * want.abs().max(1e-3), "gelu({x}) = {value}, not {want}");
            let h = 1e-5;
            let want = (reference(f64::from(x) + h) - reference(f64::from(x) - h)) / (2.0 * h);
            assert!((f64::from(slope) - want).abs() < 2e-6, "gelu'({x}) = {slope}, not {want}");
        }
        for x in [-1e30, -100.0, 100.0, 1e30] {
            let (value, slope) = gelu(x);
            assert!(value.is_finite() && slope.is_finite(), "{x}: {value} {slope}");
        }
    }
}
