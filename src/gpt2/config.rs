//! The size of a network, as data.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Shape of a GPT-2. Field names are those of a Hugging Face `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Token ids the embedding has rows for.
    pub vocab_size: usize,
    /// Longest sequence.
    pub n_positions: usize,
    /// Width of the hidden state.
    pub n_embd: usize,
    /// Number of blocks.
    pub n_layer: usize,
    /// Attention heads of a block; divides `n_embd`.
    pub n_head: usize,
    /// Added to the variance in every layer norm.
    pub layer_norm_epsilon: f32,
}

/// Limits that a configuration from outside must keep, so that no file can ask for absurd memory.
const MAX_VOCAB: usize = 1 << 20;
const MAX_POSITIONS: usize = 1 << 14;
const MAX_EMBD: usize = 1 << 14;
const MAX_LAYERS: usize = 256;
const MAX_PARAMETERS: usize = 1 << 32;

impl Config {
    /// A network of `n_layer` blocks of width `n_embd` with the field's usual defaults: 128 positions.
    pub fn new(vocab_size: usize, n_layer: usize, n_embd: usize, n_head: usize) -> Self {
        Self { vocab_size, n_positions: 128, n_embd, n_layer, n_head, layer_norm_epsilon: 1e-5 }
    }

    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.n_embd / self.n_head
    }

    /// Width of the feed-forward layer.
    pub fn n_inner(&self) -> usize {
        4 * self.n_embd
    }

    /// Number of weights; the output head shares the embedding's.
    pub fn n_parameters(&self) -> usize {
        let d = self.n_embd;
        (self.vocab_size + self.n_positions) * d + self.n_layer * (12 * d * d + 13 * d) + 2 * d
    }

    /// Checks every field against its limits and against the others.
    pub fn check(&self) -> Result<()> {
        let range = |name: &str, value: usize, max: usize| {
            if (1..=max).contains(&value) {
                return Ok(());
            }
            Err(Error::invalid(format!("model config: {name} is {value}; it must be in 1..={max}")))
        };
        range("vocab_size", self.vocab_size, MAX_VOCAB)?;
        range("n_positions", self.n_positions, MAX_POSITIONS)?;
        range("n_embd", self.n_embd, MAX_EMBD)?;
        range("n_layer", self.n_layer, MAX_LAYERS)?;
        range("n_head", self.n_head, self.n_embd)?;
        if !self.n_embd.is_multiple_of(self.n_head) {
            return Err(Error::invalid(format!(
                "model config: n_head {} does not divide n_embd {}",
                self.n_head, self.n_embd
            )));
        }
        if !(self.layer_norm_epsilon > 0.0 && self.layer_norm_epsilon < 1.0) {
            return Err(Error::invalid(format!(
                "model config: layer_norm_epsilon is {}; it must be in (0, 1)",
                self.layer_norm_epsilon
            )));
        }
        range("number of weights", self.n_parameters(), MAX_PARAMETERS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_out_of_range_are_refused() {
        let good = Config::new(100, 2, 32, 4);
        good.check().unwrap();
        for bad in [
            Config { vocab_size: 0, ..good.clone() },
            Config { n_head: 5, ..good.clone() },
            Config { n_layer: usize::MAX, ..good.clone() },
            Config { layer_norm_epsilon: f32::NAN, ..good.clone() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn base_has_the_papers_size() {
        let n = Config::new(9_907, 6, 512, 8).n_parameters();
        assert!((23_500_000..24_500_000).contains(&n), "{n}");
    }
}
