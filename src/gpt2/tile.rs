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

/// `c[..LANES] = sum over l < a.len() of a[l] block[l][..LANES]`. A row of `block` is of [`LANES`] words of `N` values: of one,
/// or of two `l` as bf16. `ahead`, at least as long as `block`, is what will be read later, and is asked for meanwhile.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "an index into arrays of registers")]
pub(super) fn block_product<S: Simd, const N: usize>(simd: S, a: &[f32], block: &[f32], ahead: &[f32], c: &mut [f32]) {
    let (a, a_rest) = a.split_at(a.len() / (4 * N) * 4 * N);
    let (rows, rows_rest) = block.as_chunks::<LANES>().0.split_at(a.len() / N);
    let (rows, ahead) = (rows.as_chunks::<4>().0, ahead.as_chunks::<LANES>().0.as_chunks::<4>().0);
    for j in (0..LANES).step_by(S::F32_LANES) {
        // Four sums at a time, as a chain of one would wait for every addition.
        let mut sums = [simd.splat_f32s(0.0); 4];
        for ((a, rows), ahead) in a.chunks_exact(4 * N).zip(rows).zip(ahead) {
            for l in 0..4 {
                prefetch(&ahead[l][j]);
                let values = unpack::<S, N>(simd, lanes::<S>(&rows[l], j));
                for i in 0..N {
                    sums[l] = simd.mul_add_e_f32s(simd.splat_f32s(a[N * l + i]), values[i], sums[l]);
                }
            }
        }
        for (a, row) in a_rest.chunks(N).zip(rows_rest) {
            let values = unpack::<S, N>(simd, lanes::<S>(row, j));
            for (a, values) in a.iter().zip(values) {
                sums[0] = simd.mul_add_e_f32s(simd.splat_f32s(*a), values, sums[0]);
            }
        }
        let sum = simd.add_f32s(simd.add_f32s(sums[0], sums[1]), simd.add_f32s(sums[2], sums[3]));
        S::as_mut_simd_f32s(&mut c[j..j + S::F32_LANES]).0[0] = sum;
    }
}

/// `c[h][..] = sum over l of a[h][l] b[l][h][..]`: of each head its own sum of rows, all heads in one pass over `b`
/// `[n, heads, width]`. The factors of a head are a row of `a`, of `a_stride` values; `width` is a multiple of [`LANES`].
/// With `N` of 2, a word of `b` holds the bf16 of two `l`, and of an odd number of them the last factor must be 0.
/// `next`, at least [`AHEAD`] `/ N` rows long, is what will be read after `b`, and is asked for meanwhile.
#[inline(always)]
pub(super) fn weighted_sums<S: Simd, const N: usize>(
    simd: S,
    a: &[f32],
    a_stride: usize,
    b: &[f32],
    next: &[f32],
    width: usize,
    c: &mut [f32],
) {
    let sums = Weighted { a, a_stride, b, next, width };
    match width / S::F32_LANES {
        1 => sums.heads::<S, N, 8, 1>(simd, c),
        2 => sums.heads::<S, N, 4, 2>(simd, c),
        4 => sums.heads::<S, N, 2, 4>(simd, c),
        8 => sums.heads::<S, N, 1, 8>(simd, c),
        _ => {
            for j in (0..c.len()).step_by(S::F32_LANES) {
                sums.at::<S, N, 1, 1>(simd, j, c);
            }
        }
    }
}

/// The factors of [`weighted_sums`].
#[derive(Clone, Copy)]
struct Weighted<'a> {
    a: &'a [f32],
    a_stride: usize,
    b: &'a [f32],
    next: &'a [f32],
    width: usize,
}

/// How many `l` ahead [`weighted_sums`] asks for.
pub(super) const AHEAD: usize = LANES;

impl Weighted<'_> {
    /// All columns, those of `H` heads of `R` registers at a time.
    #[inline(always)]
    fn heads<S: Simd, const N: usize, const H: usize, const R: usize>(self, simd: S, c: &mut [f32]) {
        let mut j = 0;
        while j + H * self.width <= c.len() {
            self.at::<S, N, H, R>(simd, j, c);
            j += H * self.width;
        }
        while j < c.len() {
            self.at::<S, N, 1, R>(simd, j, c);
            j += self.width;
        }
    }

    /// Columns from column `j` on: `R` registers of each of `H` heads, whole heads if those are several.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    fn at<S: Simd, const N: usize, const H: usize, const R: usize>(self, simd: S, j: usize, c: &mut [f32]) {
        let row = c.len();
        let n = self.b.len() / row;
        let factors: [&[f32]; H] = std::array::from_fn(
            #[inline(always)]
            |h| &self.a[(j / self.width + h) * self.a_stride..][..N * n],
        );
        let mut sums = [[simd.splat_f32s(0.0); R]; H];
        let middle = n.saturating_sub(AHEAD / N);
        for (rows, ahead) in [(0..middle, &self.b[(n - middle) * row..]), (middle..n, self.next)] {
            let values = self.b[rows.start * row..].chunks_exact(row);
            for ((l, values), ahead) in rows.zip(values).zip(ahead.chunks_exact(row)) {
                let (columns, _) = S::as_simd_f32s(&values[j..][..H * R * S::F32_LANES]);
                let ahead = &ahead[j..][..H * R * S::F32_LANES];
                for h in 0..H {
                    let factors: [S::f32s; N] = std::array::from_fn(
                        #[inline(always)]
                        |i| simd.splat_f32s(factors[h][N * l + i]),
                    );
                    for r in 0..R {
                        prefetch(&ahead[(h * R + r) * S::F32_LANES]);
                        let values = unpack::<S, N>(simd, columns[h * R + r]);
                        for i in 0..N {
                            sums[h][r] = simd.mul_add_e_f32s(factors[i], values[i], sums[h][r]);
                        }
                    }
                }
            }
        }
        let (out, _) = S::as_mut_simd_f32s(&mut c[j..][..H * R * S::F32_LANES]);
        for h in 0..H {
            out[h * R..(h + 1) * R].copy_from_slice(&sums[h]);
        }
    }
}

/// The `N` values of each word of a register: see [`unpair`](crate::backend::packed::unpair).
#[inline(always)]
fn unpack<S: Simd, const N: usize>(simd: S, words: S::f32s) -> [S::f32s; N] {
    let bits = simd.transmute_u32s_f32s(words);
    std::array::from_fn(
        #[inline(always)]
        |i| match (N, i) {
            (1, _) => words,
            (_, 0) => simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(bits, simd.splat_u32s(16))),
            _ => simd.transmute_f32s_u32s(simd.and_u32s(bits, simd.splat_u32s(0xffff_0000))),
        },
    )
}

/// One register of a row of lanes, from column `j` on.
#[inline(always)]
fn lanes<S: Simd>(row: &[f32; LANES], j: usize) -> S::f32s {
    S::as_simd_f32s(&row[j..j + S::F32_LANES]).0[0]
}

/// One register of row `l` of `b`, from column `j` on.
#[inline(always)]
fn row<S: Simd>(b: &[f32], l: usize, stride: usize, j: usize) -> S::f32s {
    S::as_simd_f32s(&b[l * stride + j..l * stride + j + S::F32_LANES]).0[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::packed::pair;
    use pulp::WithSimd;

    struct Both<'a> {
        k: usize,
        n: usize,
        a: &'a [f32],
        b: &'a [f32],
        c: &'a mut [f32],
        outer: &'a mut [f32],
        sums: &'a mut [f32],
        blocks: &'a [f32],
        columns: &'a mut [f32],
    }

    impl WithSimd for Both<'_> {
        type Output = ();

        fn with_simd<S: Simd>(self, simd: S) {
            let Both { k, n, a, b, c, outer, sums, blocks, columns } = self;
            rows_product::<S, ROWS>(simd, a, k, b, n, k, n, c, n);
            rows_outer(simd, a, k, c, n, k, n, outer, n);
            weighted_sums::<S, 1>(simd, a, k, b, &[0.0; AHEAD * 3 * LANES], LANES, sums);
            for (block, c) in blocks.chunks_exact(k * LANES).zip(columns.chunks_exact_mut(LANES)) {
                block_product::<S, 1>(simd, &a[..k], block, block, c);
            }
        }
    }

    /// Those of `sums` and `columns` again, of values that are bf16 as they are.
    struct Pairs<'a> {
        k: usize,
        n: usize,
        a: &'a [f32],
        b: &'a [f32],
        sums: &'a mut [f32],
        blocks: &'a [f32],
        columns: &'a mut [f32],
    }

    impl WithSimd for Pairs<'_> {
        type Output = ();

        fn with_simd<S: Simd>(self, simd: S) {
            let Pairs { k, n, a, b, sums, blocks, columns } = self;
            // Every factor's row has one more, for the second of the last pair.
            let factors: Vec<f32> = a.chunks(k).flat_map(|row| row.iter().copied().chain([0.0])).collect();
            let pairs = |rows: &[f32], width: usize| -> Vec<f32> {
                let at = |l: usize, j: usize| rows.get(l * width + j).copied().unwrap_or(0.0);
                let words = |l: usize| (0..width).map(move |j| pair(at(l, j), at(l + 1, j)));
                (0..rows.len() / width).step_by(2).flat_map(words).collect()
            };
            weighted_sums::<S, 2>(simd, &factors, k + 1, &pairs(b, n), &[0.0; AHEAD * 3 * LANES], LANES, sums);
            for (block, c) in blocks.chunks_exact(k * LANES).zip(columns.chunks_exact_mut(LANES)) {
                let block = pairs(block, LANES);
                block_product::<S, 2>(simd, &a[..k], &block, &block, c);
            }
        }
    }

    #[test]
    fn tiles_equal_the_definition_with_every_instruction_set() {
        let (k, n, n_blocks) = (7, 3 * LANES, 6);
        let a: Vec<f32> = (0..ROWS * k).map(|i| (i % 5) as f32 - 2.0).collect();
        let b: Vec<f32> = (0..k * n).map(|i| (i % 11) as f32 - 5.0).collect();
        let blocks: Vec<f32> = (0..n_blocks * k * LANES).map(|i| (i % 13) as f32 - 6.0).collect();
        for scalar in [false, true] {
            let (mut c, mut outer, mut sums) = (vec![9.0; ROWS * n], vec![1.0; k * n], vec![9.0; n]);
            let mut columns = vec![9.0; n_blocks * LANES];
            let both = Both {
                k,
                n,
                a: &a,
                b: &b,
                c: &mut c,
                outer: &mut outer,
                sums: &mut sums,
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
            // The same of words that hold two: of blocks, two rows; of rows, two positions.
            let (mut pair_sums, mut pair_columns) = (vec![9.0; n], vec![9.0; n_blocks * LANES]);
            let pairs = Pairs { k, n, a: &a, b: &b, sums: &mut pair_sums, blocks: &blocks, columns: &mut pair_columns };
            if scalar {
                pairs.with_simd(pulp::Scalar);
            } else {
                pulp::Arch::new().dispatch(pairs);
            }
            assert_eq!((&pair_sums, &pair_columns), (&sums, &columns));
            // Three heads as wide as a group of lanes, of which each has a row of factors of its own.
            for (j, sum) in sums.iter().enumerate() {
                assert_eq!(*sum, c[j / LANES * n + j]);
            }
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
