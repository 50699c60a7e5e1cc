//! Stepping a decode through the generator's graph.

use super::cache::Cache;
use crate::backend::ort::{Graph, Input, Output};
use crate::error::{Error, Result};
use crate::gpt2::Config;
use crate::tokens::Token;
use std::ffi::CString;
use std::sync::Arc;

/// One thread's decode.
pub struct Decoder {
    graph: Arc<Graph>,
    config: Config,
    names: Vec<LayerNames>,
    cache: Cache,
    tokens: Vec<i64>,
    positions: Vec<i64>,
    mask: Vec<f32>,
    /// The new position's keys and values, per layer.
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    /// The step's logits, where the rows' order is not the caller's.
    logits: Vec<f32>,
}

/// What the graph calls a layer's tensors.
struct LayerNames {
    past_key: CString,
    past_value: CString,
    key: CString,
    value: CString,
}

impl LayerNames {
    fn new(layer: usize) -> Self {
        // No name holds a NUL, so none is replaced by the default.
        let name = |what: &str| CString::new(format!("{what}.{layer}")).unwrap_or_default();
        Self { past_key: name("past_key"), past_value: name("past_value"), key: name("key"), value: name("value") }
    }
}

impl Decoder {
    pub fn new(graph: Arc<Graph>, config: &Config) -> Self {
        Self {
            graph,
            config: config.clone(),
            names: (0..config.n_layer).map(LayerNames::new).collect(),
            cache: Cache::new(config),
            tokens: Vec::new(),
            positions: Vec::new(),
            mask: Vec::new(),
            keys: vec![Vec::new(); config.n_layer],
            values: vec![Vec::new(); config.n_layer],
            logits: Vec::new(),
        }
    }

    /// See [`crate::engine::Session::begin`].
    pub fn begin(&mut self, slots: usize) -> Result<()> {
        const MAX_SLOTS: usize = 1 << 20;
        if slots > MAX_SLOTS {
            return Err(Error::invalid(format!("{slots} slots asked for; a decode has at most {MAX_SLOTS}")));
        }
        self.cache.reset(slots);
        Ok(())
    }

    /// Empties a slot; one that does not exist is empty.
    pub fn clear(&mut self, slot: usize) {
        if slot < self.cache.slots() {
            self.cache.clear(slot);
        }
    }

    /// See [`crate::engine::Session::step`].
    pub fn step(&mut self, slots: &[usize], tokens: &[Token], logits: &mut [f32]) -> Result<()> {
        self.check(slots, tokens, logits.len())?;
        if slots.is_empty() {
            return Ok(());
        }
        self.cache.gather(slots);
        self.cache.fit()?;
        self.stage(slots, tokens);
        if slots.iter().enumerate().all(|(row, &slot)| self.cache.row_of(slot) == row) {
            self.run(slots.len(), logits)?;
        } else {
            let mut staged = std::mem::take(&mut self.logits);
            staged.resize(logits.len(), 0.0);
            let done = self.run(slots.len(), &mut staged);
            self.logits = staged;
            done?;
            let vocab = self.config.vocab_size;
            for (&slot, out) in slots.iter().zip(logits.chunks_exact_mut(vocab)) {
                out.copy_from_slice(&self.logits[self.cache.row_of(slot) * vocab..][..vocab]);
            }
        }
        self.cache.append(slots.len(), &self.keys, &self.values);
        Ok(())
    }

    fn check(&self, slots: &[usize], tokens: &[Token], room: usize) -> Result<()> {
        let Config { vocab_size, n_positions, .. } = self.config;
        let n = slots.len();
        if tokens.len() != n || n.checked_mul(vocab_size) != Some(room) {
            let t = tokens.len();
            return Err(Error::invalid(format!(
                "a step of {n} slots, {t} tokens and room for {room} logits; each slot needs one token and {vocab_size} \
                 logits"
            )));
        }
        let mut seen = vec![false; self.cache.slots()];
        for (&slot, &token) in slots.iter().zip(tokens) {
            match seen.get_mut(slot) {
                Some(seen) if !*seen => *seen = true,
                Some(_) => return Err(Error::invalid(format!("slot {slot} is stepped twice at once"))),
                None => {
                    let n = self.cache.slots();
                    return Err(Error::invalid(format!("slot {slot} is stepped; the decode has {n} slots")));
                }
            }
            if token as usize >= vocab_size {
                return Err(Error::invalid(format!("slot {slot}: token {token}; the model knows 0..{vocab_size}")));
            }
            if self.cache.len(slot) >= n_positions {
                return Err(Error::invalid(format!("slot {slot} is full: it has {n_positions} tokens already")));
            }
        }
        Ok(())
    }

    /// Brings tokens, positions and mask into the order of the rows.
    fn stage(&mut self, slots: &[usize], tokens: &[Token]) {
        let capacity = self.cache.capacity();
        self.tokens.resize(slots.len(), 0);
        for (&slot, &token) in slots.iter().zip(tokens) {
            self.tokens[self.cache.row_of(slot)] = i64::from(token);
        }
        self.positions.clear();
        self.mask.clear();
        for row in 0..slots.len() {
            let len = self.cache.len(self.cache.slot_of(row));
            self.positions.push(len as i64);
            self.mask.resize(row * capacity + len, 1.0);
            self.mask.resize((row + 1) * capacity, 0.0);
        }
    }

    /// Runs the graph over the first `n` rows.
    fn run(&mut self, n: usize, logits: &mut [f32]) -> Result<()> {
        let Config { n_head: heads, n_embd, vocab_size, .. } = self.config;
        let width = self.config.head_dim();
        let past = [n, heads, self.cache.capacity(), width];
        let new = [n, heads, 1, width];
        let (mask, one, all) = ([n, 1, 1, self.cache.capacity()], [n, 1], [n, vocab_size]);

        let mut inputs = vec![
            (c"token", Input::I64(&one, &self.tokens)),
            (c"position", Input::I64(&one, &self.positions)),
            (c"mask", Input::F32(&mask, &self.mask)),
        ];
        for (layer, names) in self.names.iter().enumerate() {
            let [keys, values] = self.cache.past(layer, n);
            inputs.push((&names.past_key, Input::F32(&past, keys)));
            inputs.push((&names.past_value, Input::F32(&past, values)));
        }
        let mut outputs = vec![(c"logits", Output(&all, logits))];
        for ((names, keys), values) in self.names.iter().zip(&mut self.keys).zip(&mut self.values) {
            keys.resize(n * n_embd, 0.0);
            values.resize(n * n_embd, 0.0);
            outputs.push((&names.key, Output(&new, keys)));
            outputs.push((&names.value, Output(&new, values)));
        }
        self.graph.run(&inputs, &mut outputs)
    }
}
