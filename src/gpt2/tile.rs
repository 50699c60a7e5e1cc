//! The small products inside attention: `ROWS` rows of one factor at a time, kept in registers.
//!
//! Sequences are at most a few hundred tokens and heads 32 to 64 wide, so a general matrix product would spend its time
//! on packing; and only these know that half of the scores do not exist.

use pulp::Simd;

/// Rows of a block of queries, computed together.
pub(super) const ROWS: usize = 4;

/// `c[r][..n] = sum over l < k of a[r][l] b[l][..n]` for `R` rows. `a` and `c` have rows of `a_stride` and `c_stride`
/// values, `b` of `b_stride`; `n` is a multiple of [`LANES`](crate::backend::simd::LANES).
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) fn rows_product<S: Simd, const R: usize>(
    simd: S,
    a: &[f32],
    a_stride: usize,
    b: &[f32],
    b_stride: usize,
    k: usize,
    n: usize,
    c: &mut [f32],
    c_stride: usize,
) {
    let mut j = 0;
    // One row has only its columns to keep the multipliers busy with.
    while R == 1 && j + 8 * S::F32_LANES <= n {
        rows_product_at::<S, R, 8>(simd, a, a_stride, b, b_stride, k, j, c, c_stride);
        j += 8 * S::F32_LANES;
    }
    while R == 1 && j + 4 * S::F32_LANES <= n {
        rows_product_at::<S, R, 4>(simd, a, a_stride, b, b_stride, k, j, c, c_stride);
        j += 4 * S::F32_LANES;
    }
    while j + 2 * S::F32_LANES <= n {
        rows_product_at::<S, R, 2>(simd, a, a_stride, b, b_stride, k, j, c, c_stride);
        j += 2 * S::F32_LANES;
    }
    while j < n {
        rows_product_at::<S, R, 1>(simd, a, a_stride, b, b_stride, k, j, c, c_stride);
        j += S::F32_LANES;
    }
}

/// `G` registers of columns of [`rows_product`], from column `j` on.
#[inline(always)]
#[allow(clippy::too_many_arguments, clippy::needless_range_loop)]
fn rows_product_at<S: Simd, const R: usize, const G: usize>(
    simd: S,
    a: &[f32],
    a_stride: usize,
    b: &[f32],
    b_stride: usize,
    k: usize,
    j: usize,
    c: &mut [f32],
    c_stride: usize,
) {
    let width = G * S::F32_LANES;
    let rows: [&[f32]; R] = std::array::from_fn(
        #[inline(always)]
        |r| &a[r * a_stride..r * a_stride + k],
    );
    let mut sums = [[simd.splat_f32s(0.0); G]; R];
    let mut from = j;
    for l in 0..k {
        let (groups, _) = S::as_simd_f32s(&b[from..from + width]);
        from += b_stride;
        for r in 0..R {
            let factor = simd.splat_f32s(rows[r][l]);
            for g in 0..G {
                sums[r][g] = simd.mul_add_e_f32s(factor, groups[g], sums[r][g]);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let from = r * c_stride + j;
        let (groups, _) = S::as_mut_simd_f32s(&mut c[from..from + width]);
        groups.copy_from_slice(sums);
    }
}

/// `c[l][..n] += sum over r < ROWS of a[r][l] b[r][..n]` for `l < k`: the transposed product, added. Strides and `n` as
/// in [`rows_product`].
#[inline(always)]
#[allow(clippy::too_many_arguments, clippy::needless_range_loop)]
pub(super) fn rows_outer<S: Simd>(
    simd: S,
    a: &[f32],
    a_stride: usize,
    b: &[f32],
    b_stride: usize,
    k: usize,
    n: usize,
    c: &mut [f32],
    c_stride: usize,
) {
    let factors: [&[f32]; ROWS] = std::array::from_fn(
        #[inline(always)]
        |r| &a[r * a_stride..r * a_stride + k],
    );
    for j in (0..n).step_by(S::F32_LANES) {
        let rows: [S::f32s; ROWS] = std::array::from_fn(
            #[inline(always)]
            |r| row::<S>(b, r, b_stride, j),
        );
        let mut from = j;
        for l in 0..k {
            let (groups, _) = S::as_mut_simd_f32s(&mut c[from..from + S::F32_LANES]);
            from += c_stride;
            let mut sum = groups[0];
            for r in 0..ROWS {
                sum = simd.mul_add_e_f32s(simd.splat_f32s(factors[r][l]), rows[r], sum);
            }
            groups[0] = sum;
        }
    }
}

/// `c[..n] = sum over l < a.len() of a[l] b[l][..n]`: [`rows_product`] of one row over a long sum. Four sums at a time,
/// as a chain of one would wait for every addition. `n` is the stride of `b` and a multiple of `LANES`.
#[inline(always)]
pub(super) fn weighted_sum<S: Simd>(simd: S, a: &[f32], b: &[f32], n: usize, c: &mut [f32]) {
    let (fours, rest) = a.as_chunks::<4>();
    for j in (0..n).step_by(S::F32_LANES) {
        let mut sums = [simd.splat_f32s(0.0); 4];
        for (i, four) in fours.iter().enumerate() {
            for r in 0..4 {
                sums[r] = simd.mul_add_e_f32s(simd.splat_f32s(four[r]), row::<S>(b, 4 * i + r, n, j), sums[r]);
            }
        }
        for (r, x) in rest.iter().enumerate() {
            sums[r] = simd.mul_add_e_f32s(simd.splat_f32s(*x), row::<S>(b, 4 * fours.len() + r, n, j), sums[r]);
        }
        let sum = simd.add_f32s(simd.add_f32s(sums[0], sums[1]), simd.add_f32s(sums[2], sums[3]));
        S::as_mut_simd_f32s(&mut c[j..j + S::F32_LANES]).0[0] = sum;
    }
}

/// One register of row `l` of `b`, from column `j` on.
#[inline(always)]
fn row<S: Simd>(b: &[f32], l: usize, stride: usize, j: usize) -> S::f32s {
    S::as_simd_f32s(&b[l * stride + j..l * stride + j + S::F32_LANES]).0[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::simd::LANES;
    use pulp::WithSimd;

    struct Both<'a> {
        k: usize,
        n: usize,
        a: &'a [f32],
        b: &'a [f32],
        c: &'a mut [f32],
        outer: &'a mut [f32],
        one: &'a mut [f32],
    }

    impl WithSimd for Both<'_> {
        type Output = ();

        fn with_simd<S: Simd>(self, simd: S) {
            let Both { k, n, a, b, c, outer, one } = self;
            rows_product::<S, ROWS>(simd, a, k, b, n, k, n, c, n);
            rows_outer(simd, a, k, c, n, k, n, outer, n);
            weighted_sum(simd, &a[..k], b, n, one);
        }
    }

    #[test]
    fn tiles_equal_the_definition_with_every_instruction_set() {
        let (k, n) = (7, 3 * LANES);
        let a: Vec<f32> = (0..ROWS * k).map(|i| (i % 5) as f32 - 2.0).collect();
        let b: Vec<f32> = (0..k * n).map(|i| (i % 11) as f32 - 5.0).collect();
        for scalar in [false, true] {
            let (mut c, mut outer, mut one) = (vec![9.0; ROWS * n], vec![1.0; k * n], vec![9.0; n]);
            let both = Both { k, n, a: &a, b: &b, c: &mut c, outer: &mut outer, one: &mut one };
            if scalar {
                both.with_simd(pulp::Scalar);
            } else {
                pulp::Arch::new().dispatch(both);
            }
            for r in 0..ROWS {
                for j in 0..n {
                    assert_eq!(c[r * n + j], (0..k).map(|l| a[r * k + l] * b[l * n + j]).sum::<f32>());
                }
            }
            assert_eq!(one, c[..n]);
            for l in 0..k {
                for j in 0..n {
                    assert_eq!(outer[l * n + j], 1.0 + (0..ROWS).map(|r| a[r * k + l] * c[r * n + j]).sum::<f32>());
                }
            }
        }
    }
}
