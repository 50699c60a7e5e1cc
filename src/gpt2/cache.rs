//! Decoding with cached keys and values.

use super::buffers::grown;
use super::config::Config;
use super::infer::Lane;
use super::network::Network;
use super::tile::{rows_product, weighted_sum};
use crate::backend::packed::End;
use crate::backend::simd::{LANES, exponentials};
use crate::tokens::Token;
use pulp::{Arch, Simd, WithSimd};

/// Where keys and values of a flow lie. Keys are transposed, so that a query meets all of them in one vector loop.
#[derive(Clone, Copy)]
struct Layout {
    head_dim: usize,
    /// `n_positions` rounded up.
    positions: usize,
    /// `head_dim` rounded up.
    width: usize,
}

impl Layout {
    fn new(config: &Config) -> Self {
        let head_dim = config.head_dim();
        let up = |n: usize| n.next_multiple_of(LANES);
        Self { head_dim, positions: up(config.n_positions), width: up(head_dim) }
    }

    /// Values of one head's keys `[head_dim, positions]` and of its values `[positions, width]`.
    fn sizes(self) -> (usize, usize) {
        (self.head_dim * self.positions, self.positions * self.width)
    }
}

/// One flow being decoded: its length, and the keys and values of its tokens `[layers][heads]`.
#[derive(Default)]
pub(crate) struct Slot {
    pub len: usize,
    cache: Vec<f32>,
}

impl Slot {
    /// Values that a slot of this network holds.
    pub fn size(config: &Config) -> usize {
        let (keys, values) = Layout::new(config).sizes();
        config.n_layer * config.n_head * (keys + values)
    }

    /// An empty slot.
    pub fn new(config: &Config) -> Self {
        Self { len: 0, cache: vec![0.0; Self::size(config)] }
    }

    /// Appends a token's keys and values in `layer` and attends to all up to it: `qkv` `[3d]` to `out` `[d]`.
    fn attend(&mut self, config: &Config, layer: usize, qkv: &[f32], scores: &mut [f32], out: &mut [f32]) {
        let layout = Layout::new(config);
        let (d, dim, at) = (config.n_embd, layout.head_dim, self.len);
        let (keys, values) = layout.sizes();
        let size = keys + values;
        let heads = self.cache[layer * config.n_head * size..].chunks_exact_mut(size);
        for (head, (cache, out)) in heads.zip(out.chunks_exact_mut(dim)).enumerate() {
            let part = |i: usize| &qkv[i * d + head * dim..i * d + (head + 1) * dim];
            let (keys, values) = cache.split_at_mut(keys);
            for (row, k) in keys.chunks_exact_mut(layout.positions).zip(part(1)) {
                row[at] = *k;
            }
            values[at * layout.width..at * layout.width + dim].copy_from_slice(part(2));
            Arch::new().dispatch(Attend { layout, n: at + 1, query: part(0), keys, values, scratch: scores, out });
        }
    }
}

/// One query's attention to the first `n` positions of a head.
struct Attend<'a> {
    layout: Layout,
    n: usize,
    query: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    scratch: &'a mut [f32],
    out: &'a mut [f32],
}

impl WithSimd for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { layout, n, query, keys, values, scratch, out } = self;
        let Layout { head_dim, positions, width } = layout;
        let (scores, sums) = scratch.split_at_mut(positions);
        let padded = n.next_multiple_of(LANES);
        rows_product::<S, 1>(simd, query, head_dim, keys, positions, head_dim, padded, scores, padded);
        let (_, sum) = exponentials(&mut scores[..padded], n, 1.0 / (head_dim as f32).sqrt());
        weighted_sum(simd, &scores[..n], values, width, sums);
        for (out, s) in out.iter_mut().zip(sums) {
            *out = *s / sum;
        }
    }
}

/// One thread's scratch for decoding.
#[derive(Default)]
pub(crate) struct Decoder {
    lane: Lane,
    positions: Vec<usize>,
    scores: Vec<f32>,
}

impl Decoder {
    /// Appends `tokens[i]` to `slots[i]`, all checked to fit, and writes the next token's logits, row-major
    /// `[slots, vocab_size]`.
    pub fn step(&mut self, network: &Network, slots: &mut [Slot], tokens: &[Token], logits: &mut [f32]) {
        let config = network.config();
        let (n, d, v) = (slots.len(), config.n_embd, config.vocab_size);
        let layout = Layout::new(config);
        let scores = grown(&mut self.scores, layout.positions + layout.width);
        self.positions.clear();
        self.positions.extend(slots.iter().map(|slot| slot.len));
        let hidden = self.lane.run(network, tokens, &self.positions, |layer, qkv, out| {
            for ((slot, qkv), out) in slots.iter_mut().zip(qkv.chunks_exact(3 * d)).zip(out.chunks_exact_mut(d)) {
                slot.attend(config, layer, qkv, scores, out);
            }
        });
        slots.iter_mut().for_each(|slot| slot.len += 1);
        network.head().multiply(n, (hidden, d), (logits, v), End::Store, &mut Vec::new());
    }
}
