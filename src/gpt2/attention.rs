//! Causal self-attention of one sequence, forward and backward, head by head.
//!
//! `S = Q K^T / sqrt(head_dim)`, `P = softmax(S)` over keys at or before the query, `O = dropout(P) V`. Scores never
//! leave a block of [`ROWS`] queries, of which only the keys up to the last query exist; the backward pass computes them
//! again from the logarithm of the softmax's denominator (Dao et al., "FlashAttention", 2022).

use super::buffers::{grown, pieces};
use super::dropout::{MASK_GROUP, Masks, Site};
use super::tile::{ROWS, rows_outer, rows_product};
use crate::backend::simd::{LANES, exp, exponentials, fma, sum_by};
use pulp::{Arch, Simd, WithSimd};

/// Heads of a layer: how many, how wide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    pub n_head: usize,
    pub head_dim: usize,
}

impl Heads {
    /// Width of a row of hidden states.
    pub fn n_embd(self) -> usize {
        self.n_head * self.head_dim
    }
}

/// Dropout of the attention probabilities of one sequence; `first_row` is its first row in the batch.
#[derive(Clone, Copy)]
pub(super) struct AttentionDropout<'a> {
    pub masks: &'a Masks,
    pub layer: usize,
    pub first_row: usize,
}

impl AttentionDropout<'_> {
    /// The multipliers of the `ROWS` queries from `query` on, rows of `stride` values.
    #[inline(always)]
    fn fill(&self, head: usize, query: usize, mask: &mut [f32]) {
        self.masks.fill(Site::Attention { layer: self.layer, head }, self.first_row + query, mask);
    }
}

/// Scratch of one head of one sequence; grows to the longest seen.
#[derive(Default)]
pub(super) struct Scratch(Vec<f32>);

/// Sizes of the padded pieces of one head: rows rounded up to `ROWS`, widths to [`LANES`]. What pads is zero.
#[derive(Clone, Copy)]
struct Padded {
    /// Rows, rounded up.
    n: usize,
    /// Row width of keys or scores, rounded up.
    keys: usize,
    /// Row width of a head, rounded up.
    dim: usize,
}

impl Padded {
    fn new(n: usize, head_dim: usize) -> Self {
        let n = n.next_multiple_of(ROWS);
        Self { n, keys: n.next_multiple_of(LANES), dim: head_dim.next_multiple_of(LANES) }
    }

    /// Values of `ROWS` rows of scores, in whole mask groups.
    fn block(self) -> usize {
        (ROWS * self.keys).next_multiple_of(MASK_GROUP)
    }
}

impl Scratch {
    /// Pieces of the given sizes.
    fn pieces<const N: usize>(&mut self, sizes: [usize; N]) -> [&mut [f32]; N] {
        pieces(grown(&mut self.0, sizes.iter().sum()), sizes)
    }
}

/// Copies `n` rows of `width` values that lie `stride` apart, scaled, into padded rows.
#[inline(always)]
fn gather(from: &[f32], stride: usize, n: usize, width: usize, scale: f32, to: &mut [f32], to_stride: usize) {
    to.fill(0.0);
    for (row, out) in from.chunks(stride).zip(to.chunks_exact_mut(to_stride)).take(n) {
        for (o, v) in out[..width].iter_mut().zip(&row[..width]) {
            *o = scale * *v;
        }
    }
}

/// The transpose of [`gather`]: row `i` of `from` becomes column `i`.
#[inline(always)]
fn gather_transposed(from: &[f32], stride: usize, n: usize, width: usize, to: &mut [f32], to_stride: usize) {
    to.fill(0.0);
    for (i, row) in from.chunks(stride).take(n).enumerate() {
        for (c, v) in row[..width].iter().enumerate() {
            to[c * to_stride + i] = *v;
        }
    }
}

/// Attention of one sequence: `qkv` `[n, 3d]` to `out` `[n, d]`. `lse` `[n, n_head]`, if not empty, gets the logarithm
/// of each softmax's denominator.
pub(super) fn attention(
    heads: Heads,
    qkv: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
    dropout: Option<AttentionDropout<'_>>,
    scratch: &mut Scratch,
) {
    for head in 0..heads.n_head {
        Arch::new().dispatch(Forward { heads, head, qkv, out, lse, dropout, scratch });
    }
}

/// One head of [`attention`].
struct Forward<'a> {
    heads: Heads,
    head: usize,
    qkv: &'a [f32],
    out: &'a mut [f32],
    lse: &'a mut [f32],
    dropout: Option<AttentionDropout<'a>>,
    scratch: &'a mut Scratch,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { heads, head, qkv, out, lse, dropout, scratch } = self;
        let (d, dim) = (heads.n_embd(), heads.head_dim);
        let n = out.len() / d;
        let p = Padded::new(n, dim);
        let [q, kt, v, s, mask, o] =
            scratch.pieces([p.n * p.dim, dim * p.keys, p.n * p.dim, ROWS * p.keys, p.block(), ROWS * p.dim]);
        let begin = head * dim;
        gather(&qkv[begin..], 3 * d, n, dim, 1.0 / (dim as f32).sqrt(), q, p.dim);
        gather_transposed(&qkv[d + begin..], 3 * d, n, dim, kt, p.keys);
        gather(&qkv[2 * d + begin..], 3 * d, n, dim, 1.0, v, p.dim);

        for i in (0..n).step_by(ROWS) {
            let last = (i + ROWS).min(n);
            let keys = (i + ROWS).next_multiple_of(LANES).min(p.keys);
            rows_product::<S, ROWS>(simd, &q[i * p.dim..], p.dim, kt, p.keys, dim, keys, s, p.keys);
            let mut scale = [0.0; ROWS];
            for r in 0..last - i {
                let row = &mut s[r * p.keys..r * p.keys + keys];
                let (top, sum) = exponentials(row, i + r + 1, 1.0);
                scale[r] = 1.0 / sum;
                if !lse.is_empty() {
                    lse[(i + r) * heads.n_head + head] = top + sum.ln();
                }
            }
            if let Some(dropout) = dropout {
                dropout.fill(head, i, &mut mask[..(ROWS * keys).next_multiple_of(MASK_GROUP)]);
                for (row, mask) in s.chunks_exact_mut(p.keys).zip(mask.chunks_exact(keys)) {
                    for (x, m) in row.iter_mut().zip(mask) {
                        *x *= *m;
                    }
                }
            }
            rows_product::<S, ROWS>(simd, s, p.keys, v, p.dim, last, p.dim, o, p.dim);
            for (r, scale) in scale.iter().enumerate().take(last - i) {
                let from = (i + r) * d + begin;
                for (out, x) in out[from..from + dim].iter_mut().zip(&o[r * p.dim..]) {
                    *out = scale * *x;
                }
            }
        }
    }
}

/// Backward of [`attention`]: `d_qkv` `[n, 3d]` is written from `d_out` `[n, d]` and what the forward pass kept.
#[allow(clippy::too_many_arguments)]
pub(super) fn attention_backward(
    heads: Heads,
    qkv: &[f32],
    out: &[f32],
    lse: &[f32],
    d_out: &[f32],
    d_qkv: &mut [f32],
    dropout: Option<AttentionDropout<'_>>,
    scratch: &mut Scratch,
) {
    for head in 0..heads.n_head {
        Arch::new().dispatch(Backward { heads, head, qkv, out, lse, d_out, d_qkv, dropout, scratch });
    }
}

/// One head of [`attention_backward`].
struct Backward<'a> {
    heads: Heads,
    head: usize,
    qkv: &'a [f32],
    out: &'a [f32],
    lse: &'a [f32],
    d_out: &'a [f32],
    d_qkv: &'a mut [f32],
    dropout: Option<AttentionDropout<'a>>,
    scratch: &'a mut Scratch,
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { heads, head, qkv, out, lse, d_out, d_qkv, dropout, scratch } = self;
        let (d, dim) = (heads.n_embd(), heads.head_dim);
        let n = out.len() / d;
        let p = Padded::new(n, dim);
        let (rows, columns, block) = (p.n * p.dim, dim * p.keys, ROWS * p.keys);
        let sums = p.keys * p.dim;
        let [q, k, kt, vt, go, dk, dv, s, ds, mask, dq] =
            scratch.pieces([rows, rows, columns, columns, rows, sums, sums, block, block, p.block(), ROWS * p.dim]);
        let begin = head * dim;
        let scale = 1.0 / (dim as f32).sqrt();
        gather(&qkv[begin..], 3 * d, n, dim, scale, q, p.dim);
        gather(&qkv[d + begin..], 3 * d, n, dim, 1.0, k, p.dim);
        gather_transposed(&qkv[d + begin..], 3 * d, n, dim, kt, p.keys);
        gather_transposed(&qkv[2 * d + begin..], 3 * d, n, dim, vt, p.keys);
        gather(&d_out[begin..], d, n, dim, 1.0, go, p.dim);
        dk.fill(0.0);
        dv.fill(0.0);

        for i in (0..n).step_by(ROWS) {
            let last = (i + ROWS).min(n);
            let keys = (i + ROWS).next_multiple_of(LANES).min(p.keys);
            rows_product::<S, ROWS>(simd, &q[i * p.dim..], p.dim, kt, p.keys, dim, keys, s, p.keys);
            rows_product::<S, ROWS>(simd, &go[i * p.dim..], p.dim, vt, p.keys, dim, keys, ds, p.keys);
            if let Some(dropout) = dropout {
                dropout.fill(head, i, &mut mask[..(ROWS * keys).next_multiple_of(MASK_GROUP)]);
            }
            for r in 0..ROWS {
                let (s, ds) = (&mut s[r * p.keys..r * p.keys + keys], &mut ds[r * p.keys..r * p.keys + keys]);
                let seen = if i + r < n { i + r + 1 } else { 0 };
                s[seen..].fill(0.0);
                ds[seen..].fill(0.0);
                if seen == 0 {
                    continue;
                }
                let at = (i + r) * d + begin;
                // The sum over keys of P dP equals the product of the output with its gradient, dropout or not.
                let dot = sum_by(&out[at..at + dim], &d_out[at..at + dim], |o, go| o * go);
                let lse = lse[(i + r) * heads.n_head + head];
                let (s, ds) = (&mut s[..seen], &mut ds[..seen]);
                if dropout.is_some() {
                    let mask = &mask[r * keys..r * keys + seen];
                    for ((s, ds), m) in s.iter_mut().zip(ds).zip(mask) {
                        let p = exp(*s - lse);
                        *ds = p * fma(*ds, *m, -dot);
                        *s = p * *m;
                    }
                } else {
                    for (s, ds) in s.iter_mut().zip(ds) {
                        *s = exp(*s - lse);
                        *ds = *s * (*ds - dot);
                    }
                }
            }
            rows_outer(simd, s, p.keys, &go[i * p.dim..], p.dim, last, p.dim, dv, p.dim);
            rows_outer(simd, ds, p.keys, &q[i * p.dim..], p.dim, last, p.dim, dk, p.dim); // q holds the scale
            rows_product::<S, ROWS>(simd, ds, p.keys, k, p.dim, last, p.dim, dq, p.dim);
            for r in 0..last - i {
                let from = (i + r) * 3 * d + begin;
                for (out, x) in d_qkv[from..from + dim].iter_mut().zip(&dq[r * p.dim..]) {
                    *out = scale * *x;
                }
            }
        }
        for (i, row) in d_qkv.chunks_exact_mut(3 * d).enumerate() {
            row[d + begin..d + begin + dim].copy_from_slice(&dk[i * p.dim..i * p.dim + dim]);
            row[2 * d + begin..2 * d + begin + dim].copy_from_slice(&dv[i * p.dim..i * p.dim + dim]);
        }
    }
}
