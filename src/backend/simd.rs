//! Vector instructions chosen at run time, and the few functions that the loops between matrix products share.
//!
//! The bodies are plain loops that the compiler vectorises; `vectorised!` compiles each once per instruction set
//! (AVX-512, AVX2 with FMA, baseline) and picks one at run time. Everything inside must be `#[inline(always)]`: what stays
//! a function of its own is compiled for the baseline only, where `fma` is a call that costs a hundred times as much.

/// Values in one group: a 512-bit register of `f32`, or two of 256 bits.
pub const LANES: usize = 16;

/// Runs an expression with the widest vector instructions of this processor. A macro, because the closure around the
/// expression must be `#[inline(always)]`, which a function cannot ask of its callers.
macro_rules! vectorised {
    ($body:expr) => {{
        let once = $crate::backend::simd::Once;
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || {
                let $crate::backend::simd::Once {} = { once };
                $body
            },
        )
    }};
}
pub(crate) use vectorised;

/// Moved into the closure of `vectorised!`, so that it can be called once only. A closure that could be called again
/// is called through an adapter, which is not inlined.
pub(crate) struct Once;

/// `a * b + c`: fused, so that results do not depend on how a loop was compiled.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}

/// `e^x` with a relative error below 2 units in the last place for results in the normal range; below `e^-87.3` it
/// returns the smallest normal number's neighbourhood instead of subnormals, above `e^88.3` it saturates.
///
/// Range reduction by Cody and Waite, `x = n ln 2 + r`, and the Taylor polynomial of degree 7 for `|r| <= ln(2) / 2`,
/// whose truncation error is below 6e-9 there.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer, held in the low bits
    const LN2_HI: f32 = 0.693_359_4; // 355/512: n * LN2_HI is exact
    const LN2_LO: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.3, 88.3);
    let shifted = fma(x, std::f32::consts::LOG2_E, SHIFT);
    let n = shifted - SHIFT;
    let r = fma(n, -LN2_LO, fma(n, -LN2_HI, x));
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = fma(p, r, c);
    }
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    p * scale
}

/// The polynomial of degree 5 that interpolates `2^r` at the Chebyshev points of `|r| <= 1/2`, lowest power first.
pub const EXP2: [f32; 6] = [1.0000001, std::f32::consts::LN_2, 0.24022107, 0.05550357, 0.009676032, 0.0013390863];

/// `2^x` with a relative error below 3e-7, saturated at `2^-126` and `2^126`. `x = n + r`, and [`EXP2`] gives `2^r`.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // as in `exp`
    let x = x.clamp(-126.0, 126.0);
    let shifted = x + SHIFT;
    let r = x - (shifted - SHIFT);
    let mut p = EXP2[5];
    for c in [EXP2[4], EXP2[3], EXP2[2], EXP2[1], EXP2[0]] {
        p = fma(p, r, c);
    }
    p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// The sum of `f(a[i], b[i])`, in a fixed order: lane by lane, then the lanes pairwise.
#[inline(always)]
pub fn sum_by(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += f(a[i], b[i]);
        }
    }
    for (lane, (a, b)) in lanes.iter_mut().zip(a_rest.iter().zip(b_rest)) {
        *lane += f(*a, *b);
    }
    fold(lanes, |a, b| a + b)
}

/// The sum of `values`, in the order of [`sum_by`].
#[inline(always)]
pub fn sum(values: &[f32]) -> f32 {
    sum_by(values, values, |v, _| v)
}

/// The largest of `values`; minus infinity for none.
#[inline(always)]
pub fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (groups, rest) = values.as_chunks::<LANES>();
    for group in groups {
        for (lane, v) in lanes.iter_mut().zip(group) {
            *lane = if *v > *lane { *v } else { *lane };
        }
    }
    for (lane, v) in lanes.iter_mut().zip(rest) {
        *lane = if *v > *lane { *v } else { *lane };
    }
    fold(lanes, |a, b| if b > a { b } else { a })
}

/// Turns the first `n` scores of a row of whole groups into `e^(scale (score - top))`, `top` being the largest of them,
/// and the others into 0. Returns `top` and the sum. Every group is computed as a whole: short rows would else be
/// mostly what is left over.
#[inline(always)]
pub fn exponentials(row: &mut [f32], n: usize, scale: f32) -> (f32, f32) {
    let (groups, _) = row.as_chunks_mut::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for (group, first) in groups.iter().zip((0..).step_by(LANES)) {
        let left = n.saturating_sub(first).min(LANES) as u32;
        for i in 0..LANES {
            let x = if (i as u32) < left { group[i] } else { f32::NEG_INFINITY };
            lanes[i] = if x > lanes[i] { x } else { lanes[i] };
        }
    }
    let top = fold(lanes, |a, b| if b > a { b } else { a });
    let mut lanes = [0.0; LANES];
    for (group, first) in groups.iter_mut().zip((0..).step_by(LANES)) {
        let left = n.saturating_sub(first).min(LANES) as u32;
        for i in 0..LANES {
            let power = exp((group[i] - top) * scale);
            group[i] = if (i as u32) < left { power } else { 0.0 };
            lanes[i] += group[i];
        }
    }
    (top, fold(lanes, |a, b| a + b))
}

#[inline(always)]
fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let xs: Vec<f32> = (0..2_000_000).map(|i| -87.2 + 175.4 * (i as f32 / 2e6)).collect();
        let mut out = vec![0.0; xs.len()];
        vectorised!(out.iter_mut().zip(&xs).for_each(|(o, x)| *o = exp(*x)));
        for (x, got) in xs.iter().zip(&out) {
            let want = f64::from(*x).exp();
            let ulp = f64::from(f32::from_bits((want as f32).to_bits() + 1)) - f64::from(want as f32);
            let error = (f64::from(*got) - want).abs() / ulp;
            assert!(error <= 2.0, "exp({x}) = {got}, {error} ulp from {want}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 1.3e-38 && exp(f32::INFINITY) > 2.2e38 && exp(f32::INFINITY).is_finite());
    }

    #[test]
    fn exp2_is_as_close_as_it_says() {
        for i in 0..500_000 {
            let x = -126.0 + 252.0 * (i as f32 / 5e5);
            let error = (f64::from(exp2(x)) / f64::from(x).exp2() - 1.0).abs();
            assert!(error < 3e-7, "2^{x} is {error} off");
        }
        assert_eq!((exp2(f32::NEG_INFINITY), exp2(f32::INFINITY)), (exp2(-126.0), exp2(126.0)));
    }

    #[test]
    fn exponentials_are_those_of_the_first_scores_only() {
        for n in 1..=48 {
            let scores: Vec<f32> = (0..48).map(|i| if i < n { (i * 37 % 71) as f32 / 9.0 } else { f32::NAN }).collect();
            let mut row = scores.clone();
            let (top, sum) = vectorised!(exponentials(&mut row, n, 0.5));
            assert_eq!(top, max(&scores[..n]));
            assert!((row.iter().sum::<f32>() - sum).abs() < 1e-4 * sum);
            for (i, (got, score)) in row.iter().zip(&scores).enumerate() {
                let want = if i < n { (0.5 * (score - top)).exp() } else { 0.0 };
                assert!((got - want).abs() < 1e-6, "{n}: value {i} of score {score} is {got}");
            }
        }
    }

    #[test]
    fn sums_and_maxima_cover_every_element() {
        for n in 0..70 {
            let values: Vec<f32> = (0..n).map(|i| (i * 37 % 71) as f32 - 20.0).collect();
            let sum = vectorised!(sum(&values));
            assert_eq!(sum, values.iter().sum::<f32>());
            assert_eq!(max(&values), values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
