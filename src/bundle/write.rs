//! Writing a bundle: whole or not at all, and the same bytes for the same parts.

use super::files::sha256;
use super::manifest::{ClassifierSpec, FORMAT_VERSION, FileSpec, Manifest};
use super::{
    CLASSIFIER_GRAPH, CONFIG, FOREST, GENERATOR_GRAPH, HEAD, MANIFEST, MAX_MANIFEST, MODEL, QUANTIZER, heads, tensors,
};
use crate::error::{Error, Kind, Result};
use crate::gpt2::{Config, Weights};
use crate::head::{Forest, Head};
use crate::onnx::{self, External};
use crate::quantizer::Quantizer;
use crate::tokens::Vocabulary;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// What a bundle is made of.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// Packets ↔ tokens.
    pub quantizer: &'a Quantizer,
    /// Which token means what.
    pub vocabulary: &'a Vocabulary,
    /// The network.
    pub weights: &'a Weights,
    /// What the classifier says of itself, and its head; absent in a bundle that only generates.
    pub classifier: Option<(ClassifierSpec, &'a Head)>,
    /// What votes beside the head, if its kind says so. The graphs know nothing of it: they score by the network alone, and
    /// end at the embedding where the head is not linear.
    pub forest: Option<&'a Forest>,
    /// How the model came to be, for people.
    pub training: serde_json::Value,
}

/// Writes the bundle `directory`. What is there already is replaced if it is a bundle, refused if it is not. A failure
/// leaves what was there, and nothing else.
pub fn write(directory: &Path, parts: &Parts<'_>) -> Result<()> {
    let files = contents(parts)?;
    let name = directory.file_name().ok_or_else(|| {
        Error::invalid(format!("{}: a bundle needs a directory name of its own", directory.display()))
    })?;
    let parent = match directory.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let exists = check_replaceable(directory)?;

    let scratch = Scratch::create(parent, name)?;
    let new = scratch.path.join("new");
    fs::create_dir(&new).map_err(|e| Error::io(&new, &e))?;
    for (file, bytes) in &files {
        let path = new.join(file);
        let written = File::create_new(&path).and_then(|mut f| f.write_all(bytes).and_then(|()| f.sync_all()));
        written.map_err(|e| Error::io(&path, &e))?;
    }
    sync_directory(&new)?;
    let rename = |from: &Path, to: &Path| fs::rename(from, to).map_err(|e| Error::io(to, &e));
    if exists {
        let old = scratch.path.join("old");
        rename(directory, &old)?;
        if let Err(error) = rename(&new, directory) {
            if fs::rename(&old, directory).is_err() {
                let kept = std::mem::ManuallyDrop::new(scratch);
                return Err(error.at(format_args!("what was there is kept in {}", kept.path.display())));
            }
            return Err(error);
        }
    } else {
        rename(&new, directory)?;
    }
    sync_directory(parent)
}

/// Every file of the bundle by name.
fn contents(parts: &Parts<'_>) -> Result<BTreeMap<&'static str, Vec<u8>>> {
    let config = parts.weights.config();
    let k = parts.quantizer.n_tokens();
    if k != parts.vocabulary.n_packet_tokens as usize {
        let n = parts.vocabulary.n_packet_tokens;
        return Err(Error::mismatch(format!("the quantizer has {k} centroids, the vocabulary {n} packet tokens")));
    }
    parts.quantizer.check_classes(parts.vocabulary.classes.len())?;
    if let Some((spec, head)) = &parts.classifier {
        head.check(spec.labels.len(), config.n_embd)?;
        if spec.kind() != head.kind() {
            let (says, is) = (&spec.head, head.kind());
            return Err(Error::mismatch(format!("the head is said to be of kind \"{says}\" and is of kind \"{is}\"")));
        }
    }

    let mut files = BTreeMap::new();
    let model = tensors::weights_bytes(parts.weights)?;
    let external = External { file: MODEL, offsets: tensors::offsets(&model)? };
    let head = parts.classifier.as_ref().and_then(|(_, head)| match head {
        Head::Linear(head) => Some(head),
        Head::Knn(_) | Head::Svm(_) => None,
    });
    files.insert(CLASSIFIER_GRAPH, onnx::classifier(parts.weights, &external, head)?);
    files.insert(GENERATOR_GRAPH, onnx::generator(parts.weights, &external)?);
    files.insert(MODEL, model);
    files.insert(QUANTIZER, tensors::quantizer_bytes(parts.quantizer, None)?);
    files.insert(CONFIG, json(&HuggingFace::new(config, parts.vocabulary))?);
    if let Some((spec, head)) = &parts.classifier {
        files.insert(HEAD, heads::bytes(head, spec.labels.len(), config.n_embd)?);
        if spec.has_forest() != parts.forest.is_some() {
            return Err(Error::mismatch(format!("a head of kind \"{}\" with or without a forest", spec.head)));
        }
        if let Some(forest) = parts.forest {
            forest.check(spec.labels.len())?;
            files.insert(FOREST, tensors::forest_bytes(forest)?);
        }
    }
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        library_version: env!("CARGO_PKG_VERSION").to_string(),
        scaler: parts.quantizer.scaler(),
        vocabulary: parts.vocabulary.clone(),
        model: config.clone(),
        classifier: parts.classifier.as_ref().map(|(spec, _)| spec.clone()),
        training: parts.training.clone(),
        files: files
            .iter()
            .map(|(name, bytes)| (name.to_string(), FileSpec { size: bytes.len() as u64, sha256: sha256(bytes) }))
            .collect(),
    };
    manifest.check()?;
    let bytes = json(&manifest)?;
    if bytes.len() as u64 > MAX_MANIFEST {
        let n = bytes.len();
        return Err(Error::invalid(format!("{MANIFEST} would have {n} bytes; at most {MAX_MANIFEST} are allowed")));
    }
    files.insert(MANIFEST, bytes);
    Ok(files)
}

/// `config.json` as `transformers` wants it for its `GPT2LMHeadModel`.
#[derive(Serialize)]
struct HuggingFace<'a> {
    architectures: [&'static str; 1],
    model_type: &'static str,
    #[serde(flatten)]
    config: &'a Config,
    activation_function: &'static str,
    tie_word_embeddings: bool,
    bos_token_id: u32,
    eos_token_id: u32,
    pad_token_id: u32,
}

impl<'a> HuggingFace<'a> {
    fn new(config: &'a Config, vocabulary: &Vocabulary) -> Self {
        Self {
            architectures: ["GPT2LMHeadModel"],
            model_type: "gpt2",
            config,
            activation_function: "gelu_new",
            tie_word_embeddings: true,
            bos_token_id: vocabulary.bof,
            eos_token_id: vocabulary.eof,
            pad_token_id: vocabulary.pad,
        }
    }
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|e| Error::invalid(format!("JSON: {e}")))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Whether there is something at `directory`; an error if it is no bundle, which is not ours to replace.
fn check_replaceable(directory: &Path) -> Result<bool> {
    match directory.symlink_metadata() {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::io(directory, &e)),
        Ok(_) => {}
    }
    #[derive(serde::Deserialize)]
    #[allow(dead_code, reason = "only their presence is asked")]
    struct Marks {
        format_version: u64,
        files: serde_json::Map<String, serde_json::Value>,
    }
    let manifest = super::Directory::open(directory).and_then(|d| d.read(MANIFEST, MAX_MANIFEST));
    match manifest.map(|bytes| serde_json::from_slice::<Marks>(&bytes)) {
        Ok(Ok(_)) => Ok(true),
        _ => Err(Error::new(
            Kind::Io,
            format!("{}: exists and is not a bundle; it is not overwritten", directory.display()),
        )),
    }
}

fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|d| d.sync_all()).map_err(|e| Error::io(path, &e))
}

/// A hidden directory beside the target, on the same file system, that disappears with this value.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A new one in `parent` for the bundle `name`.
    fn create(parent: &Path, name: &OsStr) -> Result<Self> {
        let process = std::process::id();
        let mut attempt = 0;
        loop {
            let mut hidden = OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{process}-{attempt}"));
            let path = parent.join(hidden);
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path }),
                // Another thread's, or left by a process that was killed.
                Err(e) if e.kind() == ErrorKind::AlreadyExists && attempt < 1000 => attempt += 1,
                Err(e) => return Err(Error::io(&path, &e)),
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What could not be removed is hidden and harmless; the outcome is decided before.
        let _ = fs::remove_dir_all(&self.path);
    }
}
