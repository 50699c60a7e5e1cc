//! Settings of pretraining.

use super::{Loop, range};
use crate::error::{Error, Result};
use crate::packet::N_PACKETS;
use serde::{Deserialize, Serialize};

/// Bytes of a mebibyte.
const MIB: f64 = (1 << 20) as f64;

/// Pretraining of the language model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pretrain {
    /// The loop.
    #[serde(flatten)]
    pub run: Loop,
    /// Blocks of the network.
    pub layers: usize,
    /// Width of its hidden state.
    pub width: usize,
    /// Attention heads of a block.
    pub heads: usize,
    /// Most packets of a flow that the network reads, whatever it is used for; at most [`N_PACKETS`].
    pub n_packets: usize,
    /// Whether the labels of the flows get tokens that lead their sequences.
    pub with_classes: bool,
    /// With classes: the probability that a labelled flow is led by `BOF` all the same, as it is when it is classified.
    pub bof_share: f64,
    /// Share of the variance of the packets' first embeddings that is a smooth function of size and time, so that like
    /// packets begin alike; 0: every token begins on its own.
    pub smooth_embeddings: f64,
    /// Most memory for training flows, MiB (12 bytes a packet and 64 a flow). Tables that need more are read anew in every
    /// epoch, in windows of that size, and shuffled within each.
    pub shuffle_mib: f64,
    /// Share of the groups held out for validation among flows that name no split.
    pub val_share: f64,
}

impl Default for Pretrain {
    fn default() -> Self {
        let (layers, width, heads) = EDGE;
        Self {
            run: Loop::default(),
            layers,
            width,
            heads,
            n_packets: N_PACKETS,
            with_classes: false,
            bof_share: 0.5,
            smooth_embeddings: 0.0,
            shuffle_mib: 2048.0,
            val_share: 0.05,
        }
    }
}

/// Layers, width and heads of the small network: a CPU core classifies tens of thousands of flows a second with it.
const EDGE: (usize, usize, usize) = (4, 128, 4);

/// Layers, width and heads of the papers' network.
const BASE: (usize, usize, usize) = (6, 512, 8);

/// Layers, width and heads of the network called `name`.
pub fn preset(name: &str) -> Result<(usize, usize, usize)> {
    match name {
        "edge" => Ok(EDGE),
        "base" => Ok(BASE),
        _ => Err(Error::invalid(format!("preset is \"{name}\"; it must be edge or base"))),
    }
}

impl Pretrain {
    /// Most memory for training flows, bytes.
    pub fn most_bytes(&self) -> u64 {
        (self.shuffle_mib * MIB) as u64
    }

    /// Checks every value against its range; the network's shape is checked where the vocabulary is known.
    pub fn check(&self) -> Result<()> {
        range("bof_share", self.bof_share, 0.0, 1.0)?;
        if !(1..=N_PACKETS).contains(&self.n_packets) {
            let n = self.n_packets;
            return Err(Error::invalid(format!("n_packets is {n}; it must be in 1..={N_PACKETS}")));
        }
        range("smooth_embeddings", self.smooth_embeddings, 0.0, 1.0)?;
        range("shuffle_mib", self.shuffle_mib, 0.01, 1e7)?;
        range("val_share", self.val_share, 0.0, 0.9)?;
        self.run.check()
    }
}
