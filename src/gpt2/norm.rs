//! Layer norm, fused with the residual sum before it.
//!
//! `h = (x - mean) rstd w + b` per row, `rstd = 1 / sqrt(var + eps)` with the biased variance (Ba et al., 2016).

use super::dropout::{Masks, Site};
use crate::backend::simd::{fma, sum, sum_by, vectorised};

/// Weight, bias and epsilon of one layer norm.
#[derive(Clone, Copy)]
pub(super) struct Norm<'a> {
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub epsilon: f32,
}

/// Mean and reciprocal standard deviation of each row, kept for the backward pass.
pub(super) type Stats = [f32; 2];

/// Dropout of the rows of one chunk at one site. `first_row` is the chunk's first row in the batch.
#[derive(Clone, Copy)]
pub(super) struct RowDropout<'a> {
    pub masks: &'a Masks,
    pub site: Site,
    pub first_row: usize,
}

/// `h = norm(x)` for rows of `x`; `stats` gets a row's mean and rstd, if given.
pub(super) fn norm(norm: Norm<'_>, x: &[f32], h: &mut [f32], stats: &mut [Stats]) {
    let d = norm.weight.len();
    vectorised!({
        for ((x, h), stats) in x.chunks_exact(d).zip(h.chunks_exact_mut(d)).zip(stats) {
            *stats = norm_row(norm, x, h);
        }
    });
}

/// `next = x + dropout(y + bias)`, `h = norm(next)`: the end of each half of a block and the beginning of the next.
/// `mask` is scratch of a row's width rounded up to whole mask groups; it may be empty without dropout.
#[allow(clippy::too_many_arguments)]
pub(super) fn residual_norm(
    n: Norm<'_>,
    x: &[f32],
    y: &[f32],
    bias: &[f32],
    dropout: Option<RowDropout<'_>>,
    mask: &mut [f32],
    next: &mut [f32],
    h: &mut [f32],
    stats: &mut [Stats],
) {
    let d = n.weight.len();
    vectorised!({
        let rows = x.chunks_exact(d).zip(y.chunks_exact(d)).zip(next.chunks_exact_mut(d)).zip(h.chunks_exact_mut(d));
        for (r, ((((x, y), next), h), stats)) in rows.zip(stats).enumerate() {
            if let Some(RowDropout { masks, site, first_row }) = dropout {
                masks.fill(site, first_row + r, mask);
                for ((((next, x), y), b), m) in next.iter_mut().zip(x).zip(y).zip(bias).zip(mask.iter()) {
                    *next = fma(*y + *b, *m, *x);
                }
            } else {
                for (((next, x), y), b) in next.iter_mut().zip(x).zip(y).zip(bias) {
                    *next = *x + (*y + *b);
                }
            }
            *stats = norm_row(n, next, h);
        }
    });
}

#[inline(always)]
fn norm_row(norm: Norm<'_>, x: &[f32], h: &mut [f32]) -> Stats {
    let n = x.len();
    let mean = sum(x) / n as f32;
    let variance = sum_by(x, x, |x, _| (x - mean) * (x - mean)) / n as f32;
    let rstd = 1.0 / (variance + norm.epsilon).sqrt();
    for (((h, x), w), b) in h.iter_mut().zip(x).zip(norm.weight).zip(norm.bias) {
        *h = fma((*x - mean) * rstd, *w, *b);
    }
    [mean, rstd]
}

/// Backward of [`norm`]: adds to `dx`, `d_weight` and `d_bias` from `dh`, and computes `h` again from `x`.
#[allow(clippy::too_many_arguments)]
pub(super) fn norm_backward(
    norm: Norm<'_>,
    x: &[f32],
    stats: &[Stats],
    dh: &[f32],
    dx: &mut [f32],
    h: &mut [f32],
    d_weight: &mut [f32],
    d_bias: &mut [f32],
) {
    let d = norm.weight.len();
    vectorised!({
        let rows = x.chunks_exact(d).zip(dh.chunks_exact(d)).zip(dx.chunks_exact_mut(d)).zip(h.chunks_exact_mut(d));
        for ((((x, dh), dx), h), &[mean, rstd]) in rows.zip(stats) {
            // h holds the gradient by the normalised x until that is known.
            for ((g, dh), w) in h.iter_mut().zip(dh).zip(norm.weight) {
                *g = *dh * *w;
            }
            let mean_g = sum(h) / d as f32;
            let mean_gx = sum_by(h, x, |g, x| g * ((x - mean) * rstd)) / d as f32;
            let (w, b) = (&norm.weight[..d], &norm.bias[..d]);
            let (d_weight, d_bias) = (&mut d_weight[..d], &mut d_bias[..d]);
            for i in 0..d {
                let x = (x[i] - mean) * rstd;
                dx[i] = fma(rstd, fma(-x, mean_gx, h[i] - mean_g), dx[i]);
                h[i] = fma(x, w[i], b[i]);
                d_weight[i] = fma(dh[i], x, d_weight[i]);
                d_bias[i] += dh[i];
            }
        }
    });
}

/// Backward of the residual sum's branch: `dy = dropout(d_next)` and `d_bias += dy` over rows.
pub(super) fn residual_backward(
    d_next: &[f32],
    dropout: Option<RowDropout<'_>>,
    mask: &mut [f32],
    dy: &mut [f32],
    d_bias: &mut [f32],
) {
    let d = d_bias.len();
    vectorised!({
        for (r, (d_next, dy)) in d_next.chunks_exact(d).zip(dy.chunks_exact_mut(d)).enumerate() {
            if let Some(RowDropout { masks, site, first_row }) = dropout {
                masks.fill(site, first_row + r, mask);
                for (((dy, g), m), db) in dy.iter_mut().zip(d_next).zip(mask.iter()).zip(d_bias.iter_mut()) {
                    *dy = *g * *m;
                    *db += *dy;
                }
            } else {
                for ((dy, g), db) in dy.iter_mut().zip(d_next).zip(d_bias.iter_mut()) {
                    *dy = *g;
                    *db += *g;
                }
            }
        }
    });
}
