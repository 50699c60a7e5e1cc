//! Keys and values of the flows of a decode: per layer `[slots, heads, n_positions, head_dim]` of either.

use super::budget::{Budget, Share};
use super::buffer::Buffer;
use super::width;
use crate::backend::packed::Precision;
use crate::cuda::device::Device;
use crate::error::{Error, Result};
use crate::gpt2::Config;
use crate::tokens::Token;
use std::sync::Arc;

/// Most slots of a decode: what no kernel's index passes.
const MAX_SLOTS: usize = 1 << 20;

pub(super) struct Cache {
    keys: Buffer,
    values: Buffer,
    /// Bytes of a layer's keys.
    layer: usize,
    /// Tokens of each slot's flow so far.
    lengths: Vec<usize>,
    /// The step that a slot took part in last, to find a slot that is named twice.
    stamps: Vec<u64>,
    stamp: u64,
    _share: Share,
}

impl Cache {
    /// Bytes that a slot takes.
    pub(super) fn each(config: &Config, precision: Precision) -> usize {
        2 * width(precision) * config.n_layer * config.n_positions * config.n_embd
    }

    /// A cache of `slots` empty slots.
    pub(super) fn new(
        device: &Device,
        budget: &Arc<Budget>,
        config: &Config,
        precision: Precision,
        slots: usize,
    ) -> Result<Self> {
        if slots > MAX_SLOTS {
            return Err(Error::invalid(format!(
                "{slots} flows are to be decoded at once; the limit is {MAX_SLOTS} slots"
            )));
        }
        let what = format!("a cache for {slots} flows");
        let share = budget.take(slots * Self::each(config, precision), &what)?;
        let layer = slots * Self::each(config, precision) / (2 * config.n_layer);
        let room = || Buffer::zeros(device, layer * config.n_layer, &what);
        Ok(Self {
            keys: room()?,
            values: room()?,
            layer,
            lengths: vec![0; slots],
            stamps: vec![0; slots],
            stamp: 0,
            _share: share,
        })
    }

    /// What no other cache is called.
    pub(super) fn id(&self) -> u64 {
        self.keys.id()
    }

    pub(super) fn slots(&self) -> usize {
        self.lengths.len()
    }

    pub(super) fn clear(&mut self, slot: usize) {
        if let Some(length) = self.lengths.get_mut(slot) {
            *length = 0;
        }
    }

    pub(super) fn clear_all(&mut self) {
        self.lengths.fill(0);
    }

    pub(super) fn len(&self, slot: usize) -> usize {
        self.lengths[slot]
    }

    /// One token of each of these slots is in the cache now.
    pub(super) fn grow(&mut self, slots: &[usize]) {
        slots.iter().for_each(|&slot| self.lengths[slot] += 1);
    }

    /// Where a layer's keys and values begin.
    pub(super) fn of_layer(&self, layer: usize) -> [u64; 2] {
        [self.keys.at(layer * self.layer), self.values.at(layer * self.layer)]
    }

    /// Checks that `tokens[i]` can be appended to the flow in `slots[i]`, for all of them at once.
    pub(super) fn check(&mut self, config: &Config, slots: &[usize], tokens: &[Token]) -> Result<()> {
        if tokens.len() != slots.len() {
            return Err(Error::invalid(format!("a step of {} flows is given {} tokens", slots.len(), tokens.len())));
        }
        self.stamp += 1;
        for (i, (&slot, &token)) in slots.iter().zip(tokens).enumerate() {
            let Some(&length) = self.lengths.get(slot) else {
                let n = self.slots();
                return Err(Error::invalid(format!("row {i}: slot {slot} is not one of the {n} begun")));
            };
            if self.stamps[slot] == self.stamp {
                return Err(Error::invalid(format!("row {i}: slot {slot} is named twice in one step")));
            }
            self.stamps[slot] = self.stamp;
            if length >= config.n_positions {
                let most = config.n_positions;
                return Err(Error::invalid(format!("row {i}: the flow in slot {slot} has all its {most} tokens")));
            }
            if token as usize >= config.vocab_size {
                let most = config.vocab_size - 1;
                return Err(Error::invalid(format!("row {i}: token {token} is above {most}")));
            }
        }
        Ok(())
    }
}
