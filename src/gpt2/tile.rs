//! The small products inside attention: `ROWS` rows of one factor at a time, kept in registers.
//!
//! Sequences are at most a few hundred tokens and heads 32 to 64 wide, so a general matrix product would spend its time
//! on packing; and only these know that half of the scores do not exist.

use crate::backend::simd::{LANES, fma};

/// Rows of a block of queries, computed together.
pub(super) const ROWS: usize = 4;

/// `c[r][..n] = sum over l < k of a[r][l] b[l][..n]` for `R` rows. `a` and `c` have rows of `a_stride` and
/// `c_stride` values, `b` of `b_stride`; `n` is a multiple of [`LANES`].
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) fn rows_product<const R: usize>(
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
    while j + 2 * LANES <= n {
        rows_product_at::<R, 2>(a, a_stride, b, b_stride, k, j, c, c_stride);
        j += 2 * LANES;
    }
    if j < n {
        rows_product_at::<R, 1>(a, a_stride, b, b_stride, k, j, c, c_stride);
    }
}

/// Columns `j..j + G * LANES` of [`rows_product`].
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn rows_product_at<const R: usize, const G: usize>(
    a: &[f32],
    a_stride: usize,
    b: &[f32],
    b_stride: usize,
    k: usize,
    j: usize,
    c: &mut [f32],
    c_stride: usize,
) {
    let rows: [&[f32]; R] = std::array::from_fn(|r| &a[r * a_stride..r * a_stride + k]);
    let mut sums = [[[0.0f32; LANES]; G]; R];
    for (l, row) in b[j..].chunks(b_stride).take(k).enumerate() {
        let (groups, _) = row[..G * LANES].as_chunks::<LANES>();
        for r in 0..R {
            let factor = rows[r][l];
            for g in 0..G {
                for i in 0..LANES {
                    sums[r][g][i] = fma(factor, groups[g][i], sums[r][g][i]);
                }
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let from = r * c_stride + j;
        c[from..from + G * LANES].copy_from_slice(sums.as_flattened());
    }
}

/// `c[l][..n] += sum over r < ROWS of a[r][l] b[r][..n]` for `l < k`: the transposed product, added. Strides and `n` as
/// in [`rows_product`].
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) fn rows_outer(
    a: &[f32],
    a_stride: usize,
    b: &[f32],
    b_stride: usize,
    k: usize,
    n: usize,
    c: &mut [f32],
    c_stride: usize,
) {
    let factors: [&[f32]; ROWS] = std::array::from_fn(|r| &a[r * a_stride..r * a_stride + k]);
    for j in (0..n).step_by(LANES) {
        let mut rows = [[0.0f32; LANES]; ROWS];
        for (r, row) in rows.iter_mut().enumerate() {
            row.copy_from_slice(&b[r * b_stride + j..r * b_stride + j + LANES]);
        }
        for l in 0..k {
            let out = &mut c[l * c_stride + j..l * c_stride + j + LANES];
            for i in 0..LANES {
                let mut sum = out[i];
                for r in 0..ROWS {
                    sum = fma(factors[r][l], rows[r][i], sum);
                }
                out[i] = sum;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::simd::vectorised;

    #[test]
    fn tiles_equal_the_definition() {
        let (k, n) = (7, 3 * LANES);
        let a: Vec<f32> = (0..ROWS * k).map(|i| (i % 5) as f32 - 2.0).collect();
        let b: Vec<f32> = (0..k * n).map(|i| (i % 11) as f32 - 5.0).collect();
        let mut c = vec![9.0; ROWS * n];
        vectorised(
            #[inline(always)]
            || rows_product::<ROWS>(&a, k, &b, n, k, n, &mut c, n),
        );
        for r in 0..ROWS {
            for j in 0..n {
                assert_eq!(c[r * n + j], (0..k).map(|l| a[r * k + l] * b[l * n + j]).sum::<f32>());
            }
        }
        let mut outer = vec![1.0; k * n];
        vectorised(
            #[inline(always)]
            || rows_outer(&a, k, &c, n, k, n, &mut outer, n),
        );
        for l in 0..k {
            for j in 0..n {
                assert_eq!(outer[l * n + j], 1.0 + (0..ROWS).map(|r| a[r * k + l] * c[r * n + j]).sum::<f32>());
            }
        }
    }
}
