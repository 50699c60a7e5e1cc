//! Embedding ragged batches through a graph that takes rectangles: rows of similar length go together.

use crate::backend::ort::{Graph, Input, Output};
use crate::error::{Error, Result};
use crate::gpt2::Config;
use crate::packet::Ragged;
use crate::tokens::Token;
use std::ops::Range;
use std::sync::Arc;

/// Most positions of a rectangle, padding included: full matrix products, and a bound on memory.
const MAX_POSITIONS: usize = 2048;

/// Padding that costs less than a run of its own for the rows would.
const CHEAP_PADDING: usize = 64;

/// One thread's way through the classifier's graph.
pub struct Embedder {
    graph: Arc<Graph>,
    config: Config,
    order: Vec<usize>,
    tokens: Vec<i64>,
    mask: Vec<f32>,
    embeddings: Vec<f32>,
}

impl Embedder {
    pub fn new(graph: Arc<Graph>, config: &Config) -> Self {
        let (order, tokens, mask, embeddings) = Default::default();
        Self { graph, config: config.clone(), order, tokens, mask, embeddings }
    }

    /// See [`crate::engine::Session::embed`].
    pub fn embed(&mut self, sequences: Ragged<'_, Token>, first: usize, out: &mut [f32]) -> Result<()> {
        let d = self.config.n_embd;
        self.check(sequences, first, out.len())?;
        self.order.clear();
        self.order.extend(0..sequences.len());
        self.order.sort_by_key(|&i| sequences.row(i).len());
        let mut begin = 0;
        while begin < self.order.len() {
            let rows = batch(&self.order, begin, |i| sequences.row(i).len());
            begin = rows.end;
            self.run(sequences, first, rows.clone())?;
            for (&i, embedding) in self.order[rows].iter().zip(self.embeddings.chunks_exact(d)) {
                out[i * d..(i + 1) * d].copy_from_slice(embedding);
            }
        }
        Ok(())
    }

    fn check(&self, sequences: Ragged<'_, Token>, first: usize, room: usize) -> Result<()> {
        let Config { n_embd, n_positions, vocab_size, .. } = self.config;
        let n = sequences.len();
        if n.checked_mul(n_embd) != Some(room) {
            return Err(Error::invalid(format!("{n} sequences of {n_embd} values, but room for {room} values")));
        }
        for (i, row) in sequences.rows().enumerate() {
            if row.len() <= first || row.len() > n_positions {
                let (has, min) = (row.len(), first.saturating_add(1));
                return Err(Error::invalid(format!(
                    "sequence {i} has {has} tokens; it must have {min}..={n_positions}"
                )));
            }
            if let Some(token) = row.iter().find(|t| **t as usize >= vocab_size) {
                return Err(Error::invalid(format!("sequence {i}: token {token}; the model knows 0..{vocab_size}")));
            }
        }
        Ok(())
    }

    /// Runs the graph over the rows at `rows` of the order.
    fn run(&mut self, sequences: Ragged<'_, Token>, first: usize, rows: Range<usize>) -> Result<()> {
        let batch = rows.len();
        let seq = sequences.row(self.order[rows.end - 1]).len();
        self.tokens.clear();
        self.mask.clear();
        for (row, &i) in self.order[rows].iter().enumerate() {
            let sequence = sequences.row(i);
            self.tokens.extend(sequence.iter().map(|&t| i64::from(t)));
            self.tokens.resize((row + 1) * seq, 0);
            self.mask.resize(row * seq + first, 0.0);
            self.mask.resize(row * seq + sequence.len(), 1.0);
            self.mask.resize((row + 1) * seq, 0.0);
        }
        self.embeddings.resize(batch * self.config.n_embd, 0.0);
        self.graph.run(
            &[(c"tokens", Input::I64(&[batch, seq], &self.tokens)), (c"mask", Input::F32(&[batch, seq], &self.mask))],
            &mut [(c"embedding", Output(&[batch, self.config.n_embd], &mut self.embeddings))],
        )
    }
}

/// The rows from `begin` on, of rising length, that make one rectangle: as many as fit with little padding.
fn batch(order: &[usize], begin: usize, len: impl Fn(usize) -> usize) -> Range<usize> {
    let (mut end, mut tokens) = (begin, 0);
    while end < order.len() {
        let longest = len(order[end]);
        let positions = (end + 1 - begin) * longest;
        let padding = positions - (tokens + longest);
        if end > begin && (positions > MAX_POSITIONS || padding > CHEAP_PADDING.max(positions / 8)) {
            break;
        }
        tokens += longest;
        end += 1;
    }
    begin..end
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn batches_cover_all_rows_once_with_bounded_padding(mut lengths in prop::collection::vec(1usize..200, 1..300)) {
            lengths.sort_unstable();
            let order: Vec<usize> = (0..lengths.len()).collect();
            let mut begin = 0;
            while begin < order.len() {
                let rows = batch(&order, begin, |i| lengths[i]);
                prop_assert_eq!(rows.start, begin);
                prop_assert!(!rows.is_empty());
                let positions = rows.len() * lengths[rows.end - 1];
                let padding = positions - lengths[rows.clone()].iter().sum::<usize>();
                prop_assert!(positions <= MAX_POSITIONS);
                prop_assert!(padding <= CHEAP_PADDING.max(positions / 8));
                begin = rows.end;
            }
        }
    }
}
