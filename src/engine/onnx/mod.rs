//! The ONNX engine: the bundle's graphs in ONNX Runtime, loaded at run time.

mod cache;
mod decode;
mod embed;
mod library;

pub use library::find_library;

use super::{Engine, EngineKind, Session};
use crate::backend::ort::{self, Graph};
use crate::bundle::{Bundle, CLASSIFIER_GRAPH, GENERATOR_GRAPH};
use crate::error::Result;
use crate::gpt2::{Config, Weights};
use crate::packet::Ragged;
use crate::tokens::Token;
use decode::Decoder;
use embed::Embedder;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// A bundle's two graphs over one copy of its weights.
pub struct Onnx {
    weights: Arc<Weights>,
    threads: usize,
    embed: Lazy,
    step: Lazy,
}

/// A graph that is compiled when it is first asked for: most users need one of the two, and each packs the weights
/// for its products. Its file was read and checked before.
struct Lazy {
    file: &'static str,
    model: Arc<[u8]>,
    graph: Mutex<Option<Arc<Graph>>>,
}

impl Onnx {
    /// Loads ONNX Runtime, found by [`find_library`], and takes the graphs of `bundle`. Every session's products use
    /// `threads` threads.
    pub fn open(bundle: &Bundle, library: Option<&Path>, threads: usize) -> Result<Arc<Self>> {
        let lazy = |file| Ok(Lazy { file, model: bundle.graph(file)?, graph: Mutex::default() });
        let (embed, step) = (lazy(CLASSIFIER_GRAPH)?, lazy(GENERATOR_GRAPH)?);
        ort::load(&find_library(library)?)?;
        Ok(Arc::new(Self { weights: bundle.weights.clone(), threads: threads.max(1), embed, step }))
    }

    fn graph(&self, lazy: &Lazy) -> Result<Arc<Graph>> {
        let mut graph = lazy.graph.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(graph) = &*graph {
            return Ok(graph.clone());
        }
        let compiled = Graph::compile(&lazy.model, self.weights.clone(), self.threads).map_err(|e| e.at(lazy.file))?;
        Ok(graph.insert(Arc::new(compiled)).clone())
    }
}

impl Engine for Onnx {
    fn kind(&self) -> EngineKind {
        EngineKind::Onnx
    }

    fn config(&self) -> &Config {
        self.weights.config()
    }

    fn session(self: Arc<Self>) -> Result<Box<dyn Session>> {
        Ok(Box::new(OnnxSession { engine: self, embedder: None, decoder: None }))
    }
}

/// One thread's staging and caches; the graphs are the engine's.
struct OnnxSession {
    engine: Arc<Onnx>,
    embedder: Option<Embedder>,
    decoder: Option<Decoder>,
}

impl Session for OnnxSession {
    fn embed(&mut self, sequences: Ragged<'_, Token>, first: usize, out: &mut [f32]) -> Result<()> {
        let embedder = match &mut self.embedder {
            Some(embedder) => embedder,
            None => {
                let graph = self.engine.graph(&self.engine.embed)?;
                self.embedder.insert(Embedder::new(graph, self.engine.config()))
            }
        };
        embedder.embed(sequences, first, out)
    }

    fn vocab_size(&self) -> usize {
        self.engine.config().vocab_size
    }

    fn begin(&mut self, slots: usize) -> Result<()> {
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            None => {
                let graph = self.engine.graph(&self.engine.step)?;
                self.decoder.insert(Decoder::new(graph, self.engine.config()))
            }
        };
        decoder.begin(slots)
    }

    fn step(&mut self, slots: &[usize], tokens: &[Token], logits: &mut [f32]) -> Result<()> {
        match &mut self.decoder {
            Some(decoder) => decoder.step(slots, tokens, logits),
            None => Err(crate::Error::invalid("a decode must begin before it steps")),
        }
    }

    fn clear(&mut self, slot: usize) {
        if let Some(decoder) = &mut self.decoder {
            decoder.clear(slot);
        }
    }
}
