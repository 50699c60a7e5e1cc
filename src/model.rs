//! Model: a bundle that is loaded and ready to run; what a classifier and a generator share.

use crate::bundle::{Bundle, Manifest};
use crate::config::Settings;
use crate::engine::{self, Engine};
use crate::error::{Error, Result};
use crate::head::{Forest, Head};
use crate::packet::{N_PACKETS, Packet};
use crate::quantizer::Quantizer;
use crate::tokens::{Token, Vocabulary};
use std::fmt;
use std::sync::Arc;

/// Immutable; shared by any number of handles and threads, with its weights in memory once.
pub(crate) struct Model {
    manifest: Manifest,
    quantizer: Quantizer,
    head: Option<Arc<Head>>,
    forest: Option<Arc<Forest>>,
    engine: Arc<dyn Engine>,
}

impl Model {
    /// Puts the network of `bundle` on the engine that `settings` ask for.
    pub fn load(bundle: Bundle, settings: &Settings) -> Result<Self> {
        let engine = engine::open(&bundle, settings)?;
        Ok(Self {
            manifest: bundle.manifest,
            quantizer: bundle.quantizer,
            head: bundle.head,
            forest: bundle.forest,
            engine,
        })
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn vocabulary(&self) -> &Vocabulary {
        &self.manifest.vocabulary
    }

    pub fn quantizer(&self) -> &Quantizer {
        &self.quantizer
    }

    pub fn head(&self) -> Option<&Arc<Head>> {
        self.head.as_ref()
    }

    pub fn forest(&self) -> Option<&Forest> {
        self.forest.as_deref()
    }

    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// Most packets of a flow the network can read: its positions less the first token and `EOF`.
    pub fn max_packets(&self) -> usize {
        self.manifest.model.n_positions.saturating_sub(2).clamp(1, N_PACKETS)
    }

    /// The tokens of the packets of `flow` that the network can read, written to `tokens` (cleared first).
    pub fn encode(&self, flow: &[Packet], tokens: &mut Vec<Token>) -> Result<()> {
        if flow.is_empty() {
            return Err(Error::invalid("a flow must have at least one packet"));
        }
        let kept = &flow[..flow.len().min(self.max_packets())];
        tokens.clear();
        tokens.resize(kept.len(), 0);
        self.quantizer.encode(kept, tokens)
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("engine", &self.engine.kind()).field("config", &self.manifest.model).finish()
    }
}
