//! Decoding with cached keys and values.

use super::buffers::grown;
use super::config::Config;
use super::infer::{Lane, parts};
use super::network::Network;
use super::tile::{block_product, weighted_sums};
use crate::backend::packed::End;
use crate::backend::simd::{LANES, exponentials};
use crate::packet::Ragged;
use crate::tokens::Token;
use pulp::{Arch, Simd, WithSimd};
use std::ops::Range;

/// Where the keys and values of a flow lie in a layer, so that both are read from the first to the last, as a processor
/// fetches memory ahead best: keys `[positions / LANES, n_head, head_dim, LANES]`, where a query meets those of `LANES`
/// positions in one vector loop; then values `[positions, n_head, width]`.
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

    /// Values of a block of keys, of all heads.
    fn block(self) -> usize {
        self.n_head * self.head_dim * LANES
    }

    /// Values of a position's values, of all heads.
    fn row(self) -> usize {
        self.n_head * self.width
    }

    /// Values of a layer's keys.
    fn keys(self) -> usize {
        self.positions / LANES * self.block()
    }

    /// Values of a layer.
    fn layer(self) -> usize {
        self.keys() + self.positions * self.row()
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
    /// Values that a slot of this network holds.
    pub fn size(config: &Config) -> usize {
        config.n_layer * Layout::new(config).layer()
    }

    /// An empty slot.
    pub fn new(config: &Config) -> Self {
        Self { len: 0, cache: vec![0.0; Self::size(config)] }
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
        for (row, k) in block.as_chunks_mut::<LANES>().0.iter_mut().zip(&qkv[d..2 * d]) {
            row[lane] = *k;
        }
        let row = &mut values[place.at * layout.row()..][..layout.row()];
        if layout.width == layout.head_dim {
            row.copy_from_slice(&qkv[2 * d..]);
            continue;
        }
        for (row, v) in row.chunks_exact_mut(layout.width).zip(qkv[2 * d..].chunks_exact(layout.head_dim)) {
            row[..layout.head_dim].copy_from_slice(v);
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
}

impl WithSimd for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { layout, layer, slots, places, qkv, scratch, out } = self;
        let Layout { n_head, head_dim, positions, width } = layout;
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
                for (head, (q, keys)) in
                    qkv[..d].chunks_exact(head_dim).zip(block.chunks_exact(head_dim * LANES)).enumerate()
                {
                    let ahead = &ahead[head * head_dim * LANES..];
                    block_product(simd, q, keys, ahead, &mut scores[head * positions + i * LANES..][..LANES]);
                }
            }
            for (scores, whole) in scores.chunks_exact_mut(positions).zip(whole.iter_mut()) {
                *whole = exponentials(&mut scores[..n_blocks * LANES], place.at + 1, scale).1;
            }
            let values = &values[..(place.at + 1) * layout.row()];
            weighted_sums(simd, scores, positions, values, next, width, sums);
            for ((out, sums), whole) in out.chunks_exact_mut(head_dim).zip(sums.chunks_exact(width)).zip(&*whole) {
                let share = 1.0 / *whole;
                for (out, s) in out.iter_mut().zip(sums) {
                    *out = *s * share;
                }
            }
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
}

impl Decoder {
    /// Appends `tokens[i]` to `slots[i]`, all checked to fit, and writes the next token's logits, row-major
    /// `[slots, vocab_size]`.
    pub fn step(&mut self, network: &Network, slots: &mut [Slot], tokens: &[Token], logits: &mut [f32]) {
        let config = network.config();
        let (n, d, v) = (slots.len(), config.n_embd, config.vocab_size);
        self.places.clear();
        self.places.extend(slots.iter().enumerate().map(|(slot, flow)| Place { slot, at: flow.len }));
        let hidden = self.run(network, slots, tokens, true);
        network.head().multiply(n, (hidden, d), (logits, v), End::Store, &mut Vec::new());
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
        let (layout, n_layers) = (Layout::new(network.config()), network.config().n_layer);
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
