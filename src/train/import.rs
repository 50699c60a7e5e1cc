//! A checkpoint of Hugging Face's `transformers` becomes a bundle.

use crate::bundle::files::sha256;
use crate::bundle::{self, Bundle, Parts};
use crate::error::{Error, Result};
use crate::gpt2::Weights;
use crate::quantizer::Quantizer;
use crate::tokens::Vocabulary;
use crate::train::{huggingface, original, record};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What says which packets the tokens of a checkpoint mean.
#[derive(Clone, Debug)]
pub enum Meaning {
    /// The files of the original project: `clusters.json` and `ids_to_tokens.json`.
    Original {
        /// The centroids.
        clusters: PathBuf,
        /// The names of the other ids.
        names: PathBuf,
    },
    /// A bundle of the same vocabulary: for weights that went from it to `transformers` and come back.
    Bundle(PathBuf),
}

/// The same, read.
struct Tokens {
    quantizer: Quantizer,
    vocabulary: Vocabulary,
    /// What a message says of the number of ids.
    said: String,
    notes: Vec<String>,
    /// Files, or the stages that made the bundle.
    source: Value,
}

/// Writes the bundle `output` of the checkpoint in `directory`; its tokens mean what `meaning` says. `arguments` are for
/// the record. Returns what the user should know.
///
/// The bundle has no head: it generates and scores, and a classifier is fine-tuned from it.
pub fn bundle(directory: &Path, meaning: &Meaning, output: &Path, arguments: Vec<String>) -> Result<Vec<String>> {
    if !directory.is_dir() {
        return Err(Error::invalid(format!("{}: give the directory of a checkpoint", directory.display())));
    }
    let tokens = meaning.read()?;
    let network = huggingface::read(directory)?;
    check(&network.weights, &tokens).map_err(|e| e.at(directory.display()))?;
    let mut notes = tokens.notes;
    notes.extend(network.notes);
    let file = |(name, sha256): &(String, String)| json!({ "file": name, "sha256": sha256 });
    let mut stages = match &tokens.source {
        Value::Array(stages) => stages.clone(),
        _ => Vec::new(),
    };
    stages.push(json!({
        "command": record::shown_arguments(arguments).join(" "),
        "stage": "import",
        "library_version": env!("CARGO_PKG_VERSION"),
        "checkpoint": network.files.iter().map(file).collect::<Vec<_>>(),
        "tokens": if tokens.source.is_array() { Value::Null } else { tokens.source },
        "notes": notes,
    }));
    let parts = Parts {
        quantizer: &tokens.quantizer,
        vocabulary: &tokens.vocabulary,
        weights: &network.weights,
        classifier: None,
        forest: None,
        training: json!({ "stages": stages }),
    };
    bundle::write(output, &parts)?;
    Ok(notes)
}

/// Refuses tokens that are not those of the network.
fn check(weights: &Weights, tokens: &Tokens) -> Result<()> {
    let (rows, ids) = (weights.config().vocab_size, tokens.vocabulary.len());
    if rows == ids {
        return Ok(());
    }
    let said = &tokens.said;
    Err(Error::mismatch(format!(
        "config.json has vocab_size {rows}, but {said}, {ids} ids: they do not belong together"
    )))
}

impl Meaning {
    fn read(&self) -> Result<Tokens> {
        match self {
            Self::Original { clusters, names } => of_original(clusters, names),
            Self::Bundle(path) => {
                let bundle = Bundle::open(path)?;
                let vocabulary = bundle.manifest.vocabulary;
                let (k, classes) = (vocabulary.n_packet_tokens, vocabulary.classes.len());
                let source = match bundle.manifest.training.get("stages") {
                    Some(stages @ Value::Array(_)) => stages.clone(),
                    _ => json!([bundle.manifest.training]),
                };
                let said = format!("{} has {k} packets, 4 special tokens and {classes} classes", path.display());
                Ok(Tokens { quantizer: bundle.quantizer, vocabulary, said, notes: Vec::new(), source })
            }
        }
    }
}

/// The tokens of the original project, with the ids of its files.
fn of_original(clusters: &Path, names: &Path) -> Result<Tokens> {
    let imported = original::read_clusters(clusters)?;
    let k = imported.quantizer.n_tokens() as u32;
    let classes = original::read_names(names, k as usize)?;
    let said =
        format!("{} has {k} finite rows and {} {} names", file_name(clusters), file_name(names), 4 + classes.len());
    let vocabulary = Vocabulary {
        n_packet_tokens: k,
        eof: k,
        pad: k + 1,
        unk: k + 2,
        bof: k + 3,
        classes: classes.into_iter().zip(k + 4..).collect(),
    };
    let mut notes = Vec::new();
    if imported.dropped > 0 {
        notes.push(format!("{} empty clusters are dropped; ids count the others", imported.dropped));
    }
    if imported.rounded > 0 {
        notes.push(format!("{} coordinates of clusters are rounded to f32", imported.rounded));
    }
    let file = |path: &Path| {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, &e))?;
        Ok(json!({ "file": file_name(path), "sha256": sha256(&bytes) }))
    };
    let source = json!({ "clusters": file(clusters)?, "names": file(names)? });
    Ok(Tokens { quantizer: imported.quantizer, vocabulary, said, notes, source })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
