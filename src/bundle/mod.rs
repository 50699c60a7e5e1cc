//! The bundle: a directory that holds a model ready to load.
//!
//! ```text
//! model.tgpt/
//!   manifest.json           what everything is, and size and SHA-256 of every other file
//!   quantizer.safetensors   centroids f32 [K, 2], what packets lie behind each, `spread` f32 [K, 8, 3], and which of them
//!                           are of each class, `class_layers` f32 [n, 4] up to `class_ends` f32 [classes]
//!   model.safetensors       the network, Hugging Face GPT-2 names and shapes
//!   config.json             its shape for Hugging Face's `transformers`
//!   head.safetensors        the classifier's head, of whichever kind; absent in a bundle that only generates
//!   forest.safetensors      trees that vote beside the head, in a bundle that has some
//!   classifier.onnx generator.onnx   the graphs; their weights point into model.safetensors
//! ```
//!
//! It is checked whole before anything of it runs, and written whole or not at all.

pub(crate) mod files;
pub(crate) mod heads;
pub mod manifest;
pub(crate) mod tensors;
#[cfg(feature = "train")]
mod write;

pub use manifest::{ClassifierSpec, Manifest, Pool};
#[cfg(feature = "train")]
pub use write::{Parts, write};

use crate::error::{Error, Kind, Result};
use crate::gpt2::Weights;
use crate::head::{Forest, Head};
use crate::quantizer::Quantizer;
use files::Directory;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names of the files.
const MANIFEST: &str = "manifest.json";
const QUANTIZER: &str = "quantizer.safetensors";
const MODEL: &str = "model.safetensors";
pub(crate) const HEAD: &str = "head.safetensors";
/// The trees that vote beside the head.
pub(crate) const FOREST: &str = "forest.safetensors";
/// The graph that embeds sequences and scores them.
pub const CLASSIFIER_GRAPH: &str = "classifier.onnx";
/// The graph that does one step of a decode.
pub const GENERATOR_GRAPH: &str = "generator.onnx";
#[cfg(feature = "train")]
const CONFIG: &str = "config.json";

/// Most bytes of `manifest.json`, and of a graph: its big tensors lie in `model.safetensors`.
const MAX_MANIFEST: u64 = 1 << 24;
const MAX_GRAPH: u64 = 1 << 28;

/// Most bytes of the file of a forest.
pub(crate) const MAX_FOREST: u64 = 1 << 28;

/// A bundle, read and checked whole.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Where it lies.
    pub directory: PathBuf,
    /// What it says of itself.
    pub manifest: Manifest,
    /// Packets ↔ tokens.
    pub quantizer: Quantizer,
    /// The network.
    pub weights: Arc<Weights>,
    /// The classifier's head, in a bundle that classifies.
    pub head: Option<Arc<Head>>,
    /// What votes beside it.
    pub forest: Option<Arc<Forest>>,
    /// The graphs for ONNX Runtime by file name, as many as there are.
    graphs: BTreeMap<&'static str, Arc<[u8]>>,
}

impl Bundle {
    /// Reads the bundle in `directory` and checks all of it: version, sizes and checksums of every listed file, names,
    /// shapes and values of every tensor. Files that the manifest does not list are ignored.
    pub fn open(directory: &Path) -> Result<Self> {
        let files = Directory::open(directory)?;
        let manifest =
            Manifest::parse(&files.read(MANIFEST, MAX_MANIFEST)?).map_err(|e| e.at(files.join(MANIFEST).display()))?;
        let model = &manifest.model;
        let k = manifest.vocabulary.n_packet_tokens as usize;

        let read = |name: &str, limit: u64| match manifest.files.get(name) {
            Some(spec) => files.read_checked(name, spec, limit),
            None => Err(Error::format(format!("{}: {name} is not listed", files.join(MANIFEST).display()))),
        };
        let within = |name: &'static str| {
            let path = files.join(name);
            move |e: Error| e.at(path.display())
        };
        // Another model's quantizer would give every token another meaning, and nothing else would show it.
        let foreign = |e: Error| {
            let why = "the quantizer is not the one that this model was trained with";
            if e.kind() == Kind::Io { e } else { Error::new(e.kind(), format!("{e}; {why}")) }
        };
        let bytes = read(QUANTIZER, tensors::quantizer_limit(k)).map_err(foreign)?;
        let quantizer = tensors::read_quantizer(&bytes, manifest.scaler, Some(k)).map_err(within(QUANTIZER))?;
        quantizer.check_classes(manifest.vocabulary.classes.len()).map_err(within(QUANTIZER))?;
        let weights = tensors::read_weights(&read(MODEL, tensors::size_limit(model.n_parameters()))?, model)
            .map_err(within(MODEL))?;
        let head = match &manifest.classifier {
            Some(classifier) => {
                let (n, d) = (classifier.labels.len(), model.n_embd);
                let bytes = read(HEAD, heads::limit(classifier.kind(), n, d))?;
                Some(Arc::new(heads::read(classifier.kind(), &bytes, n, d).map_err(within(HEAD))?))
            }
            None => None,
        };
        let forest = match &manifest.classifier {
            Some(classifier) if classifier.has_forest() => {
                let forest = tensors::read_forest(&read(FOREST, MAX_FOREST)?, classifier.labels.len());
                Some(Arc::new(forest.map_err(within(FOREST))?))
            }
            _ => None,
        };
        let mut graphs = BTreeMap::new();
        for (name, spec) in &manifest.files {
            match name.as_str() {
                QUANTIZER | MODEL => {}
                HEAD if head.is_some() => {}
                FOREST if forest.is_some() => {}
                CLASSIFIER_GRAPH => {
                    graphs.insert(CLASSIFIER_GRAPH, files.read_checked(name, spec, MAX_GRAPH)?.into());
                }
                GENERATOR_GRAPH => {
                    graphs.insert(GENERATOR_GRAPH, files.read_checked(name, spec, MAX_GRAPH)?.into());
                }
                _ => files.check(name, spec)?,
            }
        }
        Ok(Self {
            directory: directory.to_path_buf(),
            quantizer,
            weights: Arc::new(weights),
            head,
            forest,
            graphs,
            manifest,
        })
    }

    /// The content of [`CLASSIFIER_GRAPH`] or [`GENERATOR_GRAPH`] as it was when the bundle was checked. A graph is no
    /// part of a bundle for engines that do without.
    pub fn graph(&self, name: &str) -> Result<Arc<[u8]>> {
        self.graphs.get(name).cloned().ok_or_else(|| {
            let place = self.directory.join(MANIFEST);
            Error::mismatch(format!("{}: {name} is not listed: the engine \"onnx\" needs it", place.display()))
        })
    }
}
