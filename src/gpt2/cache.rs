//! Decoding with cached keys and values.

use super::buffers::grown;
use super::config::Config;
use super::infer::Lane;
use super::network::Network;
use super::tile::{block_products, weighted_sum};
use crate::backend::packed::End;
use crate::backend::simd::{LANES, exponentials};
use crate::tokens::Token;
use pulp::{Arch, Simd, WithSimd};

/// Where keys and values of a flow lie. The keys of `LANES` positions are a block `[head_dim, LANES]`, so that a query
/// meets them in one vector loop, and those of any number of positions are one piece of memory.
#[derive(Clone, Copy)]
struct Layout {
    n_head: usize,
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
        Self { n_head: config.n_head, head_dim, positions: up(config.n_positions), width: up(head_dim) }
    }

    /// Values of one head's keys `[positions / LANES, head_dim, LANES]` and of its values `[positions, width]`.
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
}

/// Appends the keys and values of each flow's new token in a layer, and lets it attend to all up to it: `qkv` `[3d]`
/// to `out` `[d]`, a row for each of `slots`.
struct Attend<'a> {
    layout: Layout,
    layer: usize,
    slots: &'a mut [Slot],
    qkv: &'a [f32],
    scratch: &'a mut [f32],
    out: &'a mut [f32],
}

impl WithSimd for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { layout, layer, slots, qkv, scratch, out } = self;
        let Layout { n_head, head_dim, positions, width } = layout;
        let d = n_head * head_dim;
        let (keys_size, values_size) = layout.sizes();
        let size = keys_size + values_size;
        let (scores, sums) = scratch.split_at_mut(positions);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let heads = layer * n_head * size..(layer + 1) * n_head * size;
        for (i, (qkv, out)) in qkv.chunks_exact(3 * d).zip(out.chunks_exact_mut(d)).enumerate() {
            let (slot, later) = slots[i..].split_at_mut(1);
            let at = slot[0].len;
            let (n_blocks, lane) = (at / LANES + 1, at % LANES);
            let mut rest = &mut slot[0].cache[heads.clone()];
            for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
                let part = |i: usize| &qkv[i * d + head * head_dim..i * d + (head + 1) * head_dim];
                let (cache, tail) = std::mem::take(&mut rest).split_at_mut(size);
                rest = tail;
                let (keys, values) = cache.split_at_mut(keys_size);
                let keys = &mut keys[..n_blocks * head_dim * LANES];
                let newest = &mut keys[(n_blocks - 1) * head_dim * LANES..];
                for (row, k) in newest.as_chunks_mut::<LANES>().0.iter_mut().zip(part(1)) {
                    row[lane] = *k;
                }
                values[at * width..at * width + head_dim].copy_from_slice(part(2));

                // A cache is read once a step and seldom near: each part of it is asked for while the one before is read.
                block_products(simd, part(0), keys, values, scores);
                let (_, whole) = exponentials(&mut scores[..n_blocks * LANES], at + 1, scale);
                let scores = &scores[..=at];
                let next = match (&*rest, later.first()) {
                    ([], Some(slot)) => &slot.cache[heads.clone()],
                    ([], None) => &*values,
                    (next, _) => next,
                };
                weighted_sum(simd, scores, values, next, width, sums);
                for (out, s) in out.iter_mut().zip(&*sums) {
                    *out = *s / whole;
                }
            }
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
            Arch::new().dispatch(Attend { layout, layer, slots, qkv, scratch: scores, out });
        });
        slots.iter_mut().for_each(|slot| slot.len += 1);
        network.head().multiply(n, (hidden, d), (logits, v), End::Store, &mut Vec::new());
    }
}
