//! The backward pass: gradients of every weight from the gradient of the hidden states.
//!
//! Layer by layer from the top, in two parallel parts: each chunk computes the gradients of its own rows, then each
//! tile of the layer's matrices sums its gradient over the chunks, in their order.

use super::attention::{AttentionDropout, attention_backward};
use super::buffers::{BlockWeights, block_range, grown, norm_before, pieces};
use super::dropout::{Masks, Site};
use super::embedding::mask_row;
use super::gelu::gelu_backward;
use super::norm::{norm_backward, residual_backward};
use super::tape::{Chunk, Tape, heads};
use super::weights::Weights;
use crate::backend::matmul::{Mat, multiply, multiply_add, transpose};
use crate::backend::simd::vectorised;
use crate::error::{Error, Result};
use crate::tokens::Token;
use rayon::prelude::*;

/// Adds to `grads` the gradient of every weight, from [`Tape::d_hidden_mut`] of the forward pass on `tape`.
///
/// # Errors
/// If the tape is empty, or was recorded with a network of another shape, or `grads` has another shape.
pub fn backward(weights: &Weights, tape: &mut Tape, grads: &mut Weights) -> Result<()> {
    let config = weights.config();
    tape.check(config)?;
    if grads.config() != config {
        return Err(Error::mismatch("the gradients are of a network of another shape"));
    }
    let Tape { tokens, offsets, chunks, n_chunks, d_hidden, masks, transposed, .. } = tape;
    let (chunks, masks, d) = (&mut chunks[..*n_chunks], masks.as_ref(), config.n_embd);

    chunks.par_iter_mut().for_each(|chunk| {
        let d_hidden = &d_hidden[chunk.rows.start * d..chunk.rows.end * d];
        chunk.backward_final_norm(weights, d_hidden);
    });
    let (ln_f, _) = grads.ln_f();
    add_vectors(chunks, 0, &mut grads.data_mut()[ln_f.start..ln_f.start + 2 * d]);

    for layer in (0..config.n_layer).rev() {
        let transposed = Transposed::new(weights, layer, transposed);
        chunks.par_iter_mut().for_each(|chunk| chunk.backward_block(weights, layer, &transposed, offsets, masks));
        let range = block_range(grads, layer);
        block_gradients(chunks, layer, d, &mut grads.data_mut()[range]);
    }

    chunks.par_iter_mut().for_each(|chunk| chunk.backward_embedding(d, masks));
    embedding_gradients(chunks, tokens, offsets, grads);
    Ok(())
}

impl Chunk {
    fn backward_final_norm(&mut self, weights: &Weights, d_hidden: &[f32]) {
        let config = weights.config();
        let (n, d, last) = (self.rows.len(), config.n_embd, 2 * config.n_layer);
        let work = &mut self.work;
        let [d_weight, d_bias] = pieces(&mut work.d_vectors[..2 * d], [d, d]);
        d_weight.fill(0.0);
        d_bias.fill(0.0);
        let dx = &mut work.dx[..n * d];
        dx.fill(0.0);
        let (x, stats) = (&self.x[last * n * d..(last + 1) * n * d], &self.stats[last * n..(last + 1) * n]);
        norm_backward(norm_before(weights, config.n_layer), x, stats, d_hidden, dx, &mut work.y, d_weight, d_bias);
    }

    /// From `dx` after the block to `dx` before it, leaving the gradients of all outputs in `work`.
    fn backward_block(
        &mut self,
        weights: &Weights,
        layer: usize,
        transposed: &Transposed<'_>,
        offsets: &[u64],
        masks: Option<&Masks>,
    ) {
        let config = weights.config();
        let (n, d, heads) = (self.rows.len(), config.n_embd, heads(config));
        let w = BlockWeights::new(weights, layer);
        let drop_attention = self.dropout(masks, Site::AttentionOutput { layer });
        let drop_mlp = self.dropout(masks, Site::MlpOutput { layer });
        let sequences = self.sequence_rows(offsets);
        let residual = |i: usize| (&self.x[i * n * d..(i + 1) * n * d], &self.stats[i * n..(i + 1) * n]);
        let ((x, stats), (middle, stats_middle)) = (residual(2 * layer), residual(2 * layer + 1));

        let work = &mut self.work;
        let mask = &mut work.mask[..];
        let (dx, y, g) = (&mut work.dx[..n * d], &mut work.y[..n * d], &mut work.g[..n * 4 * d]);
        let (d_proj, d_pre) = (&mut work.d_proj[..n * d], &mut work.d_pre[..n * 4 * d]);
        let (d_attn_proj, d_qkv) = (&mut work.d_attn_proj[..n * d], &mut work.d_qkv[..n * 3 * d]);
        let d_vectors = &mut work.d_vectors[..13 * d];
        d_vectors.fill(0.0);
        let [d_ln1, d_ln1_bias, d_qkv_bias, d_attn_proj_bias, d_ln2, d_ln2_bias, d_fc_bias, d_proj_bias] =
            pieces(d_vectors, VECTORS.map(|width| width * d));

        residual_backward(dx, drop_mlp, mask, d_proj, d_proj_bias);
        multiply(d_pre, Mat::new(d_proj, n, d), Mat::new(transposed.proj, d, 4 * d));
        let pre = &self.pre[layer * n * 4 * d..(layer + 1) * n * 4 * d];
        gelu_backward(pre, w.fc_bias, g, d_pre, d_fc_bias);
        multiply(y, Mat::new(d_pre, n, 4 * d), Mat::new(transposed.fc, 4 * d, d));
        norm_backward(w.ln2, middle, stats_middle, y, dx, &mut work.h2[..n * d], d_ln2, d_ln2_bias);

        residual_backward(dx, drop_attention, mask, d_attn_proj, d_attn_proj_bias);
        multiply(y, Mat::new(d_attn_proj, n, d), Mat::new(transposed.attn_proj, d, d));
        let qkv = &self.qkv[layer * n * 3 * d..(layer + 1) * n * 3 * d];
        let att = &self.attention[layer * n * d..(layer + 1) * n * d];
        let lse = &self.lse[layer * n * heads.n_head..(layer + 1) * n * heads.n_head];
        for rows in sequences {
            let first_row = self.rows.start + rows.start;
            let (one, three) = (rows.start * d..rows.end * d, rows.start * 3 * d..rows.end * 3 * d);
            attention_backward(
                heads,
                &qkv[three.clone()],
                &att[one.clone()],
                &lse[rows.start * heads.n_head..rows.end * heads.n_head],
                &y[one],
                &mut d_qkv[three],
                masks.map(|masks| AttentionDropout { masks, layer, first_row }),
                &mut work.attention,
            );
        }
        column_sums(d_qkv, d_qkv_bias);
        multiply(y, Mat::new(d_qkv, n, 3 * d), Mat::new(transposed.qkv, 3 * d, d));
        norm_backward(w.ln1, x, stats, y, dx, &mut work.h1[..n * d], d_ln1, d_ln1_bias);
    }

    fn backward_embedding(&mut self, d: usize, masks: Option<&Masks>) {
        let dropout = self.dropout(masks, Site::Embedding);
        let (n, mask) = (self.rows.len(), &mut self.work.mask);
        for (row, dx) in self.work.dx[..n * d].chunks_exact_mut(d).enumerate() {
            vectorised!(mask_row(dropout, row, mask, dx));
        }
    }

    /// Input and output gradient of one of the block's four products.
    fn product(&self, product: Product, layer: usize, d: usize) -> (Mat<'_>, Mat<'_>) {
        let (n, work) = (self.rows.len(), &self.work);
        match product {
            Product::Qkv => (Mat::new(&work.h1, n, d), Mat::new(&work.d_qkv, n, 3 * d)),
            Product::AttnProj => {
                let att = &self.attention[layer * n * d..];
                (Mat::new(att, n, d), Mat::new(&work.d_attn_proj, n, d))
            }
            Product::Fc => (Mat::new(&work.h2, n, d), Mat::new(&work.d_pre, n, 4 * d)),
            Product::Proj => (Mat::new(&work.g, n, 4 * d), Mat::new(&work.d_proj, n, d)),
        }
    }
}

/// The matrices of one block, transposed.
struct Transposed<'a> {
    qkv: &'a [f32],
    attn_proj: &'a [f32],
    fc: &'a [f32],
    proj: &'a [f32],
}

impl<'a> Transposed<'a> {
    fn new(weights: &Weights, layer: usize, buffer: &'a mut Vec<f32>) -> Self {
        let (w, d) = (BlockWeights::new(weights, layer), weights.config().n_embd);
        let dd = d * d;
        let [qkv, attn_proj, fc, proj] = pieces(grown(buffer, 12 * dd), [3 * dd, dd, 4 * dd, 4 * dd]);
        transpose(w.qkv, d, 3 * d, qkv);
        transpose(w.attn_proj, d, d, attn_proj);
        transpose(w.fc, d, 4 * d, fc);
        transpose(w.proj, 4 * d, d, proj);
        Self { qkv, attn_proj, fc, proj }
    }
}

/// Widths of a block's vectors, in units of `d`, in buffer order: `ln_1` weight and bias, `c_attn` bias, attention's
/// `c_proj` bias, `ln_2` weight and bias, `c_fc` bias, the MLP's `c_proj` bias.
const VECTORS: [usize; 8] = [1, 1, 3, 1, 1, 1, 4, 1];

/// A block's matrix products.
#[derive(Clone, Copy)]
enum Product {
    Qkv,
    AttnProj,
    Fc,
    Proj,
}

/// Adds the chunks' sums for a block's vectors and the products of its matrices to `grads`, the block's part of the
/// buffer.
fn block_gradients(chunks: &[Chunk], layer: usize, d: usize, grads: &mut [f32]) {
    let dd = d * d;
    let [ln1, qkv, qkv_bias, attn_proj, attn_proj_bias_ln2, fc, fc_bias, proj, proj_bias] =
        pieces(grads, [2 * d, 3 * dd, 3 * d, dd, 3 * d, 4 * dd, 4 * d, 4 * dd, d]);
    let mut at = 0;
    for vectors in [ln1, qkv_bias, attn_proj_bias_ln2, fc_bias, proj_bias] {
        add_vectors(chunks, at, vectors);
        at += vectors.len();
    }

    let tile_rows = (d / 4).clamp(32, 128);
    let mut tiles = Vec::new();
    for (product, out, width) in [
        (Product::Fc, fc, 4 * d),
        (Product::Proj, proj, d),
        (Product::Qkv, qkv, 3 * d),
        (Product::AttnProj, attn_proj, d),
    ] {
        for (i, tile) in out.chunks_mut(tile_rows * width).enumerate() {
            tiles.push((product, i * tile_rows, tile.len() / width, tile));
        }
    }
    tiles.into_par_iter().for_each(|(product, first, rows, tile)| {
        for chunk in chunks {
            let (input, d_output) = chunk.product(product, layer, d);
            multiply_add(tile, input.columns(first, first + rows).t(), d_output);
        }
    });
}

/// Adds values `at..` of every chunk's vector gradients to `out`.
fn add_vectors(chunks: &[Chunk], at: usize, out: &mut [f32]) {
    for chunk in chunks {
        out.iter_mut().zip(&chunk.work.d_vectors[at..]).for_each(|(out, v)| *out += *v);
    }
}

/// Adds the gradients of the embedded rows to their tokens' and positions' embeddings, row after row.
fn embedding_gradients(chunks: &[Chunk], tokens: &[Token], offsets: &[u64], grads: &mut Weights) {
    let d = grads.config().n_embd;
    let (wte, wpe) = (grads.wte(), grads.wpe());
    let (wte, wpe) = grads.data_mut()[wte.start..wpe.end].split_at_mut(wte.end);
    vectorised!({
        for chunk in chunks {
            for rows in chunk.sequence_rows(offsets) {
                for (position, row) in rows.enumerate() {
                    let dx = &chunk.work.dx[row * d..(row + 1) * d];
                    let token = tokens[chunk.rows.start + row] as usize;
                    wte[token * d..(token + 1) * d].iter_mut().zip(dx).for_each(|(g, v)| *g += *v);
                    wpe[position * d..(position + 1) * d].iter_mut().zip(dx).for_each(|(g, v)| *g += *v);
                }
            }
        }
    });
}

/// Adds the sum of the rows to `sums`.
fn column_sums(rows: &[f32], sums: &mut [f32]) {
    vectorised!({
        for row in rows.chunks_exact(sums.len()) {
            sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += *v);
        }
    });
}
