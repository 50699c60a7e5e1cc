//! `manifest.json`: what a bundle says of itself.

use crate::error::{Error, Kind, Result};
use crate::gpt2::Config;
use crate::quantizer::Scaler;
use crate::tokens::Vocabulary;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The format this library writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

/// A linear head on the embedding.
pub const LINEAR: &str = "linear";

/// The references nearest to the embedding.
pub const KNN: &str = "knn";

/// Support vector machines on the embedding.
pub const SVM: &str = "svm";

/// What follows the kind of a head beside which a forest votes.
pub const AND_FOREST: &str = "+forest";

/// Every kind of head that this library knows.
const HEADS: [&str; 3] = [LINEAR, KNN, SVM];

/// Most labels a classifier may have, and most bytes of a label's or a class's name.
const MAX_LABELS: usize = 1 << 16;
const MAX_NAME: usize = 1 << 10;

/// Most files a bundle may list.
const MAX_FILES: usize = 256;

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
    /// Kind of head: [`LINEAR`], [`KNN`] or [`SVM`], with [`AND_FOREST`] after it where a forest votes.
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

impl Manifest {
    /// Reads the JSON of `manifest.json` and checks all that it says of itself. The version is looked at first: a
    /// newer format need not even parse otherwise.
    pub fn parse(json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            format_version: u64,
        }
        let not_json = |e: serde_json::Error| Error::format(format!("not a bundle's manifest: {e}"));
        let version = serde_json::from_slice::<Version>(json).map_err(not_json)?.format_version;
        if version > u64::from(FORMAT_VERSION) {
            return Err(Error::new(
                Kind::Version,
                format!("format_version is {version}; this library reads up to {FORMAT_VERSION}: use a newer one"),
            ));
        }
        let manifest: Self = serde_json::from_slice(json).map_err(not_json)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Checks every field against its limits and against the others.
    pub fn check(&self) -> Result<()> {
        if self.format_version == 0 {
            return Err(Error::format("format_version is 0; it must be at least 1"));
        }
        self.model.check().map_err(|e| Error::format(e.message()))?;
        if self.model.n_positions < 2 {
            return Err(Error::format("n_positions is 1: too few for a flow of even one packet"));
        }
        self.vocabulary.check()?;
        if self.vocabulary.len() != self.model.vocab_size {
            let (ids, rows) = (self.vocabulary.len(), self.model.vocab_size);
            return Err(Error::mismatch(format!("the vocabulary has {ids} ids, the model's vocab_size is {rows}")));
        }
        check_names("class", self.vocabulary.classes.iter().map(|c| &c.0))?;
        if let Some(classifier) = &self.classifier {
            classifier.check()?;
        }
        if self.files.len() > MAX_FILES {
            return Err(Error::format(format!("{} files are listed; at most {MAX_FILES} may be", self.files.len())));
        }
        self.files.keys().try_for_each(|name| check_file_name(name))
    }
}

impl ClassifierSpec {
    /// Kind of head, whether a forest votes beside it or not.
    pub fn kind(&self) -> &str {
        self.head.strip_suffix(AND_FOREST).unwrap_or(&self.head)
    }

    /// Whether a forest votes beside the head.
    pub fn has_forest(&self) -> bool {
        self.head.ends_with(AND_FOREST)
    }

    /// Checks the labels, the kind of head and the threshold.
    pub fn check(&self) -> Result<()> {
        let n = self.labels.len();
        if !(1..=MAX_LABELS).contains(&n) {
            return Err(Error::format(format!("the classifier has {n} labels; it must have 1..={MAX_LABELS}")));
        }
        check_names("label", self.labels.iter())?;
        if !HEADS.contains(&self.kind()) {
            let known = HEADS.join(", ");
            let message = format!(
                "the head is of kind \"{}\"; this library knows {known}, each alone and {AND_FOREST}: use a newer one",
                self.head
            );
            return Err(Error::new(Kind::Version, message));
        }
        if !(0.0..=1.0).contains(&self.reject_below) {
            return Err(Error::format(format!("reject_below is {}; it must be in 0..=1", self.reject_below)));
        }
        Ok(())
    }
}

/// Names go to C as strings and to people in tables: not empty, no control characters, each once.
fn check_names<'a>(what: &str, names: impl Iterator<Item = &'a String>) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for (i, name) in names.enumerate() {
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(Error::format(format!(
                "the name of {what} {i} must have 1..={MAX_NAME} bytes and no control character"
            )));
        }
        if !seen.insert(name) {
            return Err(Error::format(format!("{what} \"{name}\" is there twice")));
        }
    }
    Ok(())
}

/// A file of a bundle lies in its directory: the name is no path.
fn check_file_name(name: &str) -> Result<()> {
    let plain = !name.is_empty()
        && name.len() <= 255
        && name != "."
        && name != ".."
        && !name.chars().any(|c| matches!(c, '/' | '\\' | ':') || c.is_control());
    if plain {
        return Ok(());
    }
    Err(Error::format(format!("file name {name:?} is not allowed; files lie directly in the bundle's directory")))
}
