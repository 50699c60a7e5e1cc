//! The small products inside attention: `ROWS` rows of one factor at a time, kept in registers.
//!
//! Sequences are at most a few hundred tokens and heads 32 to 64 wide, so a general matrix product would spend its time
//! on packing; and only these know that half of the scores do not exist.

use crate::backend::prefetch::prefetch;
use crate::backend::simd::LANES;
use pulp::Simd;

/// Rows of a block of queries, computed together.
pub(super) const ROWS: usize = 4;

/// `c[r][..n] = sum over l < k of a[r][l] b[l][..n]` for `R` rows. `a` and `c` have rows of `a_stride` and `c_stride`
/// values, `b` of `b_stride`; `n` is a multiple of [`LANES`].
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

/// `c[b][..] = sum over l < a.len() of a[l] blocks[b][l][..]`: the products of one row with columns that lie in blocks
/// `[a.len(), LANES]`, so that any number of columns is one piece of memory. `c` is `[blocks, LANES]`. `ahead`, at least
/// as long as `blocks`, is what will be read next, and is asked for meanwhile.
#[inline(always)]
pub(super) fn block_products<S: Simd>(simd: S, a: &[f32], blocks: &[f32], ahead: &[f32], c: &mut [f32]) {
    let size = a.len() * LANES;
    for ((block, ahead), c) in blocks.chunks_exact(size).zip(ahead.chunks_exact(size)).zip(c.chunks_exact_mut(LANES)) {
        let (rows, ahead) = (block.as_chunks::<LANES>().0, ahead.as_chunks::<LANES>().0);
        for j in (0..LANES).step_by(S::F32_LANES) {
            // Four sums at a time, as a chain of one would wait for every addition.
            let mut sums = [simd.splat_f32s(0.0); 4];
            for (l, ((x, row), ahead)) in a.iter().zip(rows).zip(ahead).enumerate() {
                if j == 0 {
                    prefetch(ahead);
                }
                let columns = S::as_simd_f32s(&row[j..j + S::F32_LANES]).0[0];
                sums[l % 4] = simd.mul_add_e_f32s(simd.splat_f32s(*x), columns, sums[l % 4]);
            }
            let sum = simd.add_f32s(simd.add_f32s(sums[0], sums[1]), simd.add_f32s(sums[2], sums[3]));
            S::as_mut_simd_f32s(&mut c[j..j + S::F32_LANES]).0[0] = sum;
        }
    }
}

/// `c[..n] = sum over l < a.len() of a[l] b[l][..n]`: [`rows_product`] of one row over a long sum. `n` is the stride of
/// `b` and a multiple of `LANES`. `ahead`, at least as long as what is read of `b`, is what will be read next, and is
/// asked for meanwhile.
#[inline(always)]
pub(super) fn weighted_sum<S: Simd>(simd: S, a: &[f32], b: &[f32], ahead: &[f32], n: usize, c: &mut [f32]) {
    let mut j = 0;
    while j + 2 * S::F32_LANES <= n {
        weighted_sum_at::<S, 2>(simd, a, b, ahead, n, j, c);
        j += 2 * S::F32_LANES;
    }
    while j < n {
        weighted_sum_at::<S, 1>(simd, a, b, ahead, n, j, c);
        j += S::F32_LANES;
    }
}

/// `G` registers of [`weighted_sum`], from column `j` on. Four sums each at a time, as a chain of one would wait for
/// every addition.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
fn weighted_sum_at<S: Simd, const G: usize>(
    simd: S,
    a: &[f32],
    b: &[f32],
    ahead: &[f32],
    n: usize,
    j: usize,
    c: &mut [f32],
) {
    let mut sums = [[simd.splat_f32s(0.0); G]; 4];
    for (l, ((x, row), ahead)) in a.iter().zip(b.chunks_exact(n)).zip(ahead.chunks_exact(n)).enumerate() {
        let factor = simd.splat_f32s(*x);
        let columns = S::as_simd_f32s(&row[j..j + G * S::F32_LANES]).0;
        for g in 0..G {
            if (j + g * S::F32_LANES).is_multiple_of(LANES) {
                prefetch(&ahead[j + g * S::F32_LANES]);
            }
            sums[l % 4][g] = simd.mul_add_e_f32s(factor, columns[g], sums[l % 4][g]);
        }
    }
    for g in 0..G {
        let sum = simd.add_f32s(simd.add_f32s(sums[0][g], sums[1][g]), simd.add_f32s(sums[2][g], sums[3][g]));
        let from = j + g * S::F32_LANES;
        S::as_mut_simd_f32s(&mut c[from..from + S::F32_LANES]).0[0] = sum;
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
    use pulp::WithSimd;

    struct Both<'a> {
        k: usize,
        n: usize,
        a: &'a [f32],
        b: &'a [f32],
        c: &'a mut [f32],
        outer: &'a mut [f32],
        one: &'a mut [f32],
        blocks: &'a [f32],
        columns: &'a mut [f32],
    }

    impl WithSimd for Both<'_> {
        type Output = ();

        fn with_simd<S: Simd>(self, simd: S) {
            let Both { k, n, a, b, c, outer, one, blocks, columns } = self;
            rows_product::<S, ROWS>(simd, a, k, b, n, k, n, c, n);
            rows_outer(simd, a, k, c, n, k, n, outer, n);
            weighted_sum(simd, &a[..k], b, b, n, one);
            block_products(simd, &a[..k], blocks, blocks, columns);
        }
    }

    #[test]
    fn tiles_equal_the_definition_with_every_instruction_set() {
        let (k, n, n_blocks) = (7, 3 * LANES, 6);
        let a: Vec<f32> = (0..ROWS * k).map(|i| (i % 5) as f32 - 2.0).collect();
        let b: Vec<f32> = (0..k * n).map(|i| (i % 11) as f32 - 5.0).collect();
        let blocks: Vec<f32> = (0..n_blocks * k * LANES).map(|i| (i % 13) as f32 - 6.0).collect();
        for scalar in [false, true] {
            let (mut c, mut outer, mut one) = (vec![9.0; ROWS * n], vec![1.0; k * n], vec![9.0; n]);
            let mut columns = vec![9.0; n_blocks * LANES];
            let both = Both {
                k,
                n,
                a: &a,
                b: &b,
                c: &mut c,
                outer: &mut outer,
                one: &mut one,
                blocks: &blocks,
                columns: &mut columns,
            };
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
            for (i, column) in columns.iter().enumerate() {
                let (block, lane) = (i / LANES, i % LANES);
                let expected = (0..k).map(|l| a[l] * blocks[(block * k + l) * LANES + lane]).sum::<f32>();
                assert_eq!(*column, expected);
            }
            for l in 0..k {
                for j in 0..n {
                    assert_eq!(outer[l * n + j], 1.0 + (0..ROWS).map(|r| a[r * k + l] * c[r * n + j]).sum::<f32>());
                }
            }
        }
    }
}
