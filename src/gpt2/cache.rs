//! Decoding with cached keys and values.

use super::buffers::grown;
use super::config::Config;
use super::infer::{Lane, parts};
use super::network::Network;
use super::tile::{block_product, weighted_sums};
use crate::backend::packed::{End, Precision, pair, unpair};
use crate::backend::simd::{LANES, exponentials};
use crate::packet::Ragged;
use crate::tokens::Token;
use pulp::{Arch, Simd, WithSimd};
use std::ops::Range;

/// Where the keys and values of a flow lie in a layer, so that both are read from the first to the last, as a processor
/// fetches memory ahead best: keys `[positions / LANES, n_head, head_dim, LANES]`, where a query meets those of `LANES`
/// positions in one vector loop; then values `[positions, n_head, width]`. Of bf16 a word holds two: keys of two dimensions,
/// or values of two positions, so that a step reads half as much.
#[derive(Clone, Copy)]
struct Layout {
    /// Values in a word, 1 or 2.
    packing: usize,
    n_head: usize,
    head_dim: usize,
    /// `n_positions` rounded up.
    positions: usize,
    /// `head_dim` rounded up.
    width: usize,
}

impl Layout {
    fn new(config: &Config, precision: Precision) -> Self {
        let head_dim = config.head_dim();
        let up = |n: usize| n.next_multiple_of(LANES);
        let packing = match precision {
            Precision::F32 => 1,
            Precision::Bf16 => 2,
        };
        Self { packing, n_head: config.n_head, head_dim, positions: up(config.n_positions), width: up(head_dim) }
    }

    /// Words of a block of keys, of one head.
    fn head_block(self) -> usize {
        self.head_dim.div_ceil(self.packing) * LANES
    }

    /// Words of a block of keys, of all heads.
    fn block(self) -> usize {
        self.n_head * self.head_block()
    }

    /// Words of a position's values, of all heads.
    fn row(self) -> usize {
        self.n_head * self.width
    }

    /// Words of a layer's keys.
    fn keys(self) -> usize {
        self.positions / LANES * self.block()
    }

    /// Words of a layer.
    fn layer(self) -> usize {
        self.keys() + self.positions / self.packing * self.row()
    }

    /// Where layer `layer` lies in a flow's cache.
    fn of_layer(self, layer: usize) -> Range<usize> {
        layer * self.layer()..(layer + 1) * self.layer()
    }
}

/// One flow being decoded: its length, and the keys and values of its tokens, layer by layer.
#[derive(Default)]
pub(crate) struct Slot {
    pub len: usize,
    cache: Vec<f32>,
}

impl Slot {
    /// Words of four bytes that a slot of this network holds.
    pub fn size(config: &Config, precision: Precision) -> usize {
        config.n_layer * Layout::new(config, precision).layer()
    }

    /// An empty slot.
    pub fn new(config: &Config, precision: Precision) -> Self {
        Self { len: 0, cache: vec![0.0; Self::size(config, precision)] }
    }
}

/// A token to append: the slot of its flow, and its position there.
#[derive(Clone, Copy)]
struct Place {
    slot: usize,
    at: usize,
}

/// Appends the keys and values of new tokens in a layer: `qkv` `[3d]`, a row for each of `places`. Not compiled for wide
/// vectors, whose scattered stores are slower than one after another.
fn append(layout: Layout, layer: usize, slots: &mut [Slot], places: &[Place], qkv: &[f32]) {
    let d = layout.n_head * layout.head_dim;
    for (place, qkv) in places.iter().zip(qkv.chunks_exact(3 * d)) {
        let (keys, values) = slots[place.slot].cache[layout.of_layer(layer)].split_at_mut(layout.keys());
        let lane = place.at % LANES;
        let block = &mut keys[place.at / LANES * layout.block()..];
        let row = &mut values[place.at / layout.packing * layout.row()..][..layout.row()];
        if layout.packing == 2 {
            append_pairs(layout, lane, &qkv[d..2 * d], block, &qkv[2 * d..], row);
            continue;
        }
        for (row, k) in block.as_chunks_mut::<LANES>().0.iter_mut().zip(&qkv[d..2 * d]) {
            row[lane] = *k;
        }
        if layout.width == layout.head_dim {
            row.copy_from_slice(&qkv[2 * d..]);
            continue;
        }
        for (row, v) in row.chunks_exact_mut(layout.width).zip(qkv[2 * d..].chunks_exact(layout.head_dim)) {
            row[..layout.head_dim].copy_from_slice(v);
        }
    }
}

/// Appends the keys and values of a token in pairs: `lane` is its position in the block, and of two positions that share a
/// row of values the first is even.
fn append_pairs(layout: Layout, lane: usize, k: &[f32], block: &mut [f32], v: &[f32], row: &mut [f32]) {
    for (block, k) in block.chunks_exact_mut(layout.head_block()).zip(k.chunks_exact(layout.head_dim)) {
        for (row, k) in block.as_chunks_mut::<LANES>().0.iter_mut().zip(k.chunks(2)) {
            row[lane] = pair(k[0], k.get(1).copied().unwrap_or(0.0));
        }
    }
    for (row, v) in row.chunks_exact_mut(layout.width).zip(v.chunks_exact(layout.head_dim)) {
        for (word, v) in row.iter_mut().zip(v) {
            let [first, second] = if lane.is_multiple_of(2) { [*v, 0.0] } else { [unpair(*word)[0], *v] };
            *word = pair(first, second);
        }
    }
}

/// Lets each of new tokens, whose keys and values are appended, attend to all of its flow up to it: `qkv` `[3d]` to `out`
/// `[d]`, a row for each of `places`.
struct Attend<'a> {
    layout: Layout,
    layer: usize,
    slots: &'a [Slot],
    places: &'a [Place],
    qkv: &'a [f32],
    scratch: &'a mut [f32],
    out: &'a mut [f32],
}

impl Attend<'_> {
    /// Values of scratch: every head's scores, the sums of the values, and of each head's weights.
    fn scratch(layout: Layout) -> usize {
        layout.n_head * layout.positions + layout.row() + layout.n_head
    }

    /// With `N` values in a word.
    #[inline(always)]
    fn attend<S: Simd, const N: usize>(self, simd: S) {
        let Self { layout, layer, slots, places, qkv, scratch, out } = self;
        let Layout { n_head, head_dim, positions, width, .. } = layout;
        let d = n_head * head_dim;
        let (scores, scratch) = scratch.split_at_mut(n_head * positions);
        let (sums, whole) = scratch.split_at_mut(layout.row());
        let scale = 1.0 / (head_dim as f32).sqrt();
        for (i, (qkv, out)) in qkv.chunks_exact(3 * d).zip(out.chunks_exact_mut(d)).enumerate() {
            let place = places[i];
            let n_blocks = place.at / LANES + 1;
            let (keys, values) = slots[place.slot].cache[layout.of_layer(layer)].split_at(layout.keys());
            // A cache is read once a step and seldom near: while a part of it is read, the next is asked for.
            let next = places.get(i + 1).unwrap_or(&place);
            let next = &slots[next.slot].cache[layout.of_layer(layer)];

            for (i, block) in keys.chunks_exact(layout.block()).take(n_blocks).enumerate() {
                let ahead = if i + 1 < n_blocks { &keys[(i + 1) * layout.block()..] } else { values };
                let of_head = layout.head_block();
                for (head, (q, keys)) in qkv[..d].chunks_exact(head_dim).zip(block.chunks_exact(of_head)).enumerate() {
                    let (ahead, at) = (&ahead[head * of_head..], head * positions + i * LANES);
                    block_product::<S, N>(simd, q, keys, ahead, &mut scores[at..][..LANES]);
                }
            }
            for (scores, whole) in scores.chunks_exact_mut(positions).zip(whole.iter_mut()) {
                *whole = exponentials(&mut scores[..n_blocks * LANES], place.at + 1, scale).1;
            }
            let values = &values[..(place.at + 1).div_ceil(N) * layout.row()];
            weighted_sums::<S, N>(simd, scores, positions, values, next, width, sums);
            for ((out, sums), whole) in out.chunks_exact_mut(head_dim).zip(sums.chunks_exact(width)).zip(&*whole) {
                let share = 1.0 / *whole;
                for (out, s) in out.iter_mut().zip(sums) {
                    *out = *s * share;
                }
            }
        }
    }
}

impl WithSimd for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.layout.packing {
            2 => self.attend::<S, 2>(simd),
            _ => self.attend::<S, 1>(simd),
        }
    }
}

/// One thread's scratch for decoding.
#[derive(Default)]
pub(crate) struct Decoder {
    lane: Lane,
    places: Vec<Place>,
    positions: Vec<usize>,
    scratch: Vec<f32>,
    rounded: Vec<f32>,
}

impl Decoder {
    /// Appends `tokens[i]` to `slots[i]`, all checked to fit, and writes the next token's logits, row-major
    /// `[slots, vocab_size]`.
    pub fn step(&mut self, network: &Network, slots: &mut [Slot], tokens: &[Token], logits: &mut [f32]) {
        let config = network.config();
        let (n, d, v) = (slots.len(), config.n_embd, config.vocab_size);
        self.places.clear();
        self.places.extend(slots.iter().enumerate().map(|(slot, flow)| Place { slot, at: flow.len }));
        let mut rounded = std::mem::take(&mut self.rounded);
        let hidden = self.run(network, slots, tokens, true);
        network.head().multiply(n, (hidden, d), (logits, v), End::Store, &mut rounded);
        self.rounded = rounded;
        slots.iter_mut().for_each(|slot| slot.len += 1);
    }

    /// Appends row `i` of `begun` to `slots[i - rows.start]` for each `i` of `rows`, all checked to fit.
    pub fn prefill(&mut self, network: &Network, slots: &mut [Slot], begun: Ragged<'_, Token>, rows: Range<usize>) {
        let offsets = begun.offsets();
        for part in parts(offsets, rows.clone()) {
            let slots = &mut slots[part.start - rows.start..part.end - rows.start];
            self.places.clear();
            for (slot, row) in part.clone().enumerate() {
                let len = slots[slot].len;
                self.places.extend((len..len + begun.row(row).len()).map(|at| Place { slot, at }));
            }
            let tokens = offsets[part.start] as usize..offsets[part.end] as usize;
            self.run(network, slots, &begun.values()[tokens], false);
            slots.iter_mut().zip(part).for_each(|(slot, row)| slot.len += begun.row(row).len());
        }
    }

    /// Runs the network over tokens that belong to `self.places`, and returns their hidden states, if `wanted`.
    fn run(&mut self, network: &Network, slots: &mut [Slot], tokens: &[Token], wanted: bool) -> &[f32] {
        let (layout, n_layers) = (Layout::new(network.config(), network.precision()), network.config().n_layer);
        let places = &self.places;
        let scratch = grown(&mut self.scratch, Attend::scratch(layout));
        self.positions.clear();
        self.positions.extend(places.iter().map(|place| place.at));
        self.lane.run(network, tokens, &self.positions, |layer, qkv, out| {
            append(layout, layer, slots, places, qkv);
            let goes_on = wanted || layer + 1 < n_layers;
            if goes_on {
                Arch::new().dispatch(Attend { layout, layer, slots, places, qkv, scratch, out });
            }
            goes_on
        })
    }
}
