//! `manifest.json`: what a bundle says of itself.

use crate::gpt2::Config;
use crate::quantizer::Scaler;
use crate::tokens::Vocabulary;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The format this library writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

/// The manifest. Unknown fields are ignored, so that later versions may add to the format without breaking it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// Version of the library that wrote it.
    pub library_version: String,
    /// How packets become points.
    pub scaler: Scaler,
    /// Which token means what; its `n_packet_tokens` is K.
    pub vocabulary: Vocabulary,
    /// The network's shape.
    pub model: Config,
    /// What the classifier's head is; absent in a bundle that only generates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classifier: Option<ClassifierSpec>,
    /// How the model came to be: free-form, for people (commands, data, metrics).
    #[serde(default)]
    pub training: serde_json::Value,
    /// Every other file of the bundle by name.
    pub files: BTreeMap<String, FileSpec>,
}

/// The classifier's part of the manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassifierSpec {
    /// Names of the labels, in the order of the head's outputs.
    pub labels: Vec<String>,
    /// Kind of head: `linear`.
    pub head: String,
    /// Which positions the embedding averages.
    #[serde(default)]
    pub pool: Pool,
    /// Probability below which the verdict is "unknown"; 0 never rejects.
    #[serde(default)]
    pub reject_below: f32,
}

/// Positions the embedding is the mean of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pool {
    /// The flow's packets, not `BOF`, `EOF` or padding.
    #[default]
    Packets,
    /// All positions, padding included, as the original's checkpoints were trained.
    All,
}

/// One file of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSpec {
    /// Its length in bytes.
    pub size: u64,
    /// SHA-256 of its content, lower-case hexadecimal.
    pub sha256: String,
}
