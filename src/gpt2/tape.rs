//! What a forward pass keeps for the backward pass.

use super::attention::{Heads, Scratch};
use super::buffers::grown;
use super::config::Config;
use super::dropout::{MASK_GROUP, Masks, Site};
use super::norm::{RowDropout, Stats};
use crate::error::{Error, Result};
use crate::packet::Ragged;
use crate::tokens::Token;
use std::ops::Range;

/// Rows that a chunk has at least, unless the batch ends: enough that a matrix product is efficient, few enough that
/// what lies between two products stays in the processor's cache.
const CHUNK_ROWS: usize = 256;

/// The activations and gradient scratch of one ragged batch. Memory grows to the largest batch seen and is kept.
#[derive(Default)]
pub struct Tape {
    /// Of the network that was run; `None` before the first forward pass.
    pub(super) config: Option<Config>,
    pub(super) masks: Option<Masks>,
    pub(super) tokens: Vec<Token>,
    pub(super) offsets: Vec<u64>,
    pub(super) chunks: Vec<Chunk>,
    pub(super) n_chunks: usize,
    pub(super) hidden: Vec<f32>,
    pub(super) d_hidden: Vec<f32>,
    pub(super) loss: super::loss::Scratch,
    /// One block's matrices transposed, for the backward pass.
    pub(super) transposed: Vec<f32>,
}

impl Tape {
    /// An empty tape.
    pub fn new() -> Self {
        Self::default()
    }

    /// The hidden states after the final layer norm, row-major `[total tokens, n_embd]`, of the last forward pass.
    pub fn hidden(&self) -> &[f32] {
        &self.hidden[..self.size()]
    }

    /// The gradient of the loss by [`Tape::hidden`], to be added to between forward and backward. The forward pass sets
    /// it to zero.
    pub fn d_hidden_mut(&mut self) -> &mut [f32] {
        let size = self.size();
        &mut self.d_hidden[..size]
    }

    /// Number of tokens in the last batch.
    pub(super) fn n_tokens(&self) -> usize {
        self.offsets.last().map_or(0, |&n| n as usize)
    }

    fn size(&self) -> usize {
        self.n_tokens() * self.config.as_ref().map_or(0, |c| c.n_embd)
    }

    /// Checks that the tape holds a forward pass of a network of this shape.
    pub(super) fn check(&self, config: &Config) -> Result<()> {
        match &self.config {
            None => Err(Error::invalid("the tape is empty; run forward first")),
            Some(own) if own != config => Err(Error::mismatch("the tape was recorded with a network of another shape")),
            Some(_) => Ok(()),
        }
    }

    /// Makes room for a batch and cuts it into chunks.
    pub(super) fn prepare(&mut self, config: &Config, sequences: Ragged<'_, Token>, masks: Option<Masks>) {
        self.config = Some(config.clone());
        self.masks = masks;
        self.tokens.clear();
        self.tokens.extend_from_slice(sequences.values());
        self.offsets.clear();
        self.offsets.extend_from_slice(sequences.offsets());
        let size = self.size();
        grown(&mut self.hidden, size);
        grown(&mut self.d_hidden, size).fill(0.0);

        self.n_chunks = 0;
        let mut begin = 0;
        for end in 1..=sequences.len() {
            let rows = self.offsets[begin] as usize..self.offsets[end] as usize;
            if rows.len() < CHUNK_ROWS && end < sequences.len() {
                continue;
            }
            if self.n_chunks == self.chunks.len() {
                self.chunks.push(Chunk::default());
            }
            self.chunks[self.n_chunks].prepare(config, begin..end, rows);
            self.n_chunks += 1;
            begin = end;
        }
    }
}

/// One thread's share of a batch: whole sequences, all layers.
#[derive(Default)]
pub(super) struct Chunk {
    /// Sequences of the batch.
    pub sequences: Range<usize>,
    /// Rows (tokens) of the batch.
    pub rows: Range<usize>,
    /// The residual stream `[2 layers + 1][rows, d]`: before attention, before the MLP, …, at the end.
    pub x: Vec<f32>,
    /// Mean and rstd of those rows.
    pub stats: Vec<Stats>,
    /// `[layers][rows, 3d]`
    pub qkv: Vec<f32>,
    /// Logarithm of the attention softmax's denominator, `[layers][rows, heads]`.
    pub lse: Vec<f32>,
    /// Attention's output before its projection, `[layers][rows, d]`.
    pub attention: Vec<f32>,
    /// The MLP before bias and `gelu_new`, `[layers][rows, 4d]`.
    pub pre: Vec<f32>,
    pub work: Work,
}

/// One layer's scratch of a chunk.
#[derive(Default)]
pub(super) struct Work {
    /// A row's dropout multipliers.
    pub mask: Vec<f32>,
    pub attention: Scratch,
    /// Layer norms' outputs `[rows, d]` before attention and before the MLP.
    pub h1: Vec<f32>,
    pub h2: Vec<f32>,
    /// A branch's output, or its input's gradient, `[rows, d]`.
    pub y: Vec<f32>,
    /// The MLP after `gelu_new`, `[rows, 4d]`.
    pub g: Vec<f32>,
    /// Gradients by: the residual stream, `[rows, d]`;
    pub dx: Vec<f32>,
    /// the outputs of both projections, `[rows, d]`;
    pub d_attn_proj: Vec<f32>,
    pub d_proj: Vec<f32>,
    /// the MLP before `gelu_new`, `[rows, 4d]`;
    pub d_pre: Vec<f32>,
    /// queries, keys and values, `[rows, 3d]`;
    pub d_qkv: Vec<f32>,
    /// biases and layer norms of one layer, summed over the chunk's rows, `[13d]`.
    pub d_vectors: Vec<f32>,
}

impl Chunk {
    fn prepare(&mut self, config: &Config, sequences: Range<usize>, rows: Range<usize>) {
        let (n, d, layers) = (rows.len(), config.n_embd, config.n_layer);
        self.sequences = sequences;
        self.rows = rows;
        grown(&mut self.x, (2 * layers + 1) * n * d);
        grown(&mut self.stats, (2 * layers + 1) * n);
        grown(&mut self.qkv, layers * n * 3 * d);
        grown(&mut self.lse, layers * n * config.n_head);
        grown(&mut self.attention, layers * n * d);
        grown(&mut self.pre, layers * n * 4 * d);
        let work = &mut self.work;
        grown(&mut work.mask, d.next_multiple_of(MASK_GROUP));
        for buffer in [&mut work.h1, &mut work.h2, &mut work.y, &mut work.dx, &mut work.d_attn_proj, &mut work.d_proj] {
            grown(buffer, n * d);
        }
        grown(&mut work.g, n * 4 * d);
        grown(&mut work.d_pre, n * 4 * d);
        grown(&mut work.d_qkv, n * 3 * d);
        grown(&mut work.d_vectors, 13 * d);
    }

    /// Dropout of this chunk's rows at `site`.
    pub fn dropout<'a>(&self, masks: Option<&'a Masks>, site: Site) -> Option<RowDropout<'a>> {
        masks.map(|masks| RowDropout { masks, site, first_row: self.rows.start })
    }

    /// Each sequence's rows within the chunk.
    pub fn sequence_rows<'a>(&self, offsets: &'a [u64]) -> impl Iterator<Item = Range<usize>> + 'a {
        let first = self.rows.start;
        offsets[self.sequences.start..=self.sequences.end]
            .windows(2)
            .map(move |w| w[0] as usize - first..w[1] as usize - first)
    }
}

/// How the heads of this network lie.
pub(super) fn heads(config: &Config) -> Heads {
    Heads { n_head: config.n_head, head_dim: config.head_dim() }
}
