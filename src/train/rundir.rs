//! The directory of a run:
//!
//! ```text
//! RUN/
//!   config.toml             every setting of the run, as resolved
//!   run.json                what is trained on what: shapes, vocabulary, labels, files with their checksums
//!   quantizer.safetensors   copy of the quantizer the flows were read through
//!   metrics.jsonl           one line per log interval and one per evaluation
//!   loss.svg perplexity.svg scores.svg   pictures of it, drawn anew at each evaluation
//!   head.safetensors        the head, of a run that gives one of kind knn or svm
//!   forest.safetensors      the trees that vote beside the head, at the end of a run that grows some
//!   checkpoints/step-00000200.safetensors   the newest few
//!   checkpoints/best.safetensors            the one to use
//! ```

use crate::bundle::files::sha256;
use crate::bundle::{FOREST, HEAD, MAX_FOREST, heads, tensors};
use crate::error::{Error, Kind, Result};
use crate::gpt2::Config;
use crate::head::{Forest, Head};
use crate::quantizer::Quantizer;
use crate::tokens::Vocabulary;
use crate::train::atomic::AtomicFile;
use crate::train::checkpoint::{self, Checkpoint, Model, Moments, State};
use crate::train::dataset::{Dataset, Source};
use crate::train::heads::HeadKind;
use crate::train::teacher::Teacher;
use crate::train::{pictures, quantizer_file};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.toml";
const RECORD: &str = "run.json";
const QUANTIZER: &str = "quantizer.safetensors";
const METRICS: &str = "metrics.jsonl";
const CHECKPOINTS: &str = "checkpoints";
const BEST: &str = "best.safetensors";

/// Largest `run.json` that is read.
pub(super) const MAX_RECORD: u64 = 64 << 20;

/// What a run is, apart from its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// `pretrain` or `finetune`.
    pub command: String,
    /// Version of the library that began it.
    pub library_version: String,
    /// The command line, files by name only.
    pub arguments: Vec<String>,
    /// The network's shape.
    pub model: Config,
    /// Which token means what.
    pub vocabulary: Vocabulary,
    /// The labels that a head tells apart; empty in a run without one.
    pub labels: Vec<String>,
    /// The kind of that head.
    #[serde(default)]
    pub head: HeadKind,
    /// SHA-256 of the quantizer's file.
    pub quantizer_sha256: String,
    /// How its centroids came to be, if it says so.
    #[serde(default)]
    pub quantizer_fit: Value,
    /// What it learns from and is judged by.
    pub data: Vec<Source>,
    /// Whose answers it learns.
    #[serde(default)]
    pub teachers: Vec<Teacher>,
    /// Training flows and validation flows.
    pub flows: (usize, usize),
    /// What was left out of the data and why.
    pub notes: Vec<String>,
    /// The stages before this one that made the network it starts from.
    pub history: Vec<Value>,
}

/// An open run directory. No other process can have it open to write.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    metrics: File,
}

impl RunDir {
    /// Makes the directory of a new run, whole or not at all. What exists is never overwritten.
    pub fn create(path: &Path, config: &toml::Table, record: &Record, quantizer: &[u8]) -> Result<Self> {
        Self::check_new(path)?;
        let name = path
            .file_name()
            .ok_or_else(|| Error::invalid(format!("{}: not the name of a directory", path.display())))?;
        let temporary = path.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
        let filled = Self::fill(&temporary, config, record, quantizer)
            .and_then(|()| fs::rename(&temporary, path).map_err(|e| Error::io(path, &e)));
        if let Err(error) = filled {
            let _ = fs::remove_dir_all(&temporary);
            return Err(error);
        }
        Self::open(path)
    }

    /// Refuses a path that exists: before the data are read, rather than after.
    pub fn check_new(path: &Path) -> Result<()> {
        if path.symlink_metadata().is_ok() {
            return Err(Error::new(
                Kind::Io,
                format!("{}: exists already; give another -o, or --resume to go on with that run", path.display()),
            ));
        }
        Ok(())
    }

    fn fill(path: &Path, config: &toml::Table, record: &Record, quantizer: &[u8]) -> Result<()> {
        fs::create_dir(path).map_err(|e| Error::io(path, &e))?;
        let checkpoints = path.join(CHECKPOINTS);
        fs::create_dir(&checkpoints).map_err(|e| Error::io(&checkpoints, &e))?;
        let config = toml::to_string(config).map_err(|e| Error::invalid(format!("settings: {e}")))?;
        let record = serde_json::to_vec_pretty(record).map_err(|e| Error::invalid(format!("{RECORD}: {e}")))?;
        for (name, bytes) in
            [(CONFIG, config.as_bytes()), (RECORD, &record), (QUANTIZER, quantizer), (METRICS, b"".as_slice())]
        {
            write(&path.join(name), bytes)?;
        }
        Ok(())
    }

    /// Opens the directory of a run to go on with it.
    pub fn open(path: &Path) -> Result<Self> {
        let file = path.join(METRICS);
        let metrics = OpenOptions::new().append(true).read(true).open(&file).map_err(|e| {
            Error::new(Kind::Io, format!("{}: not the directory of a run ({METRICS}: {e})", path.display()))
        })?;
        match metrics.try_lock() {
            Ok(()) => {
                remove_unfinished(&path.join(CHECKPOINTS));
                Ok(Self { path: path.to_path_buf(), metrics })
            }
            Err(TryLockError::WouldBlock) => {
                Err(Error::new(Kind::Busy, format!("{}: another process is training there", path.display())))
            }
            Err(TryLockError::Error(e)) => Err(Error::io(&file, &e)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The settings of the run.
    pub fn config(path: &Path) -> Result<toml::Table> {
        crate::train::settings::read_table(&path.join(CONFIG))
    }

    /// Replaces the settings of the run.
    pub fn set_config(&self, config: &toml::Table) -> Result<()> {
        let text = toml::to_string(config).map_err(|e| Error::invalid(format!("settings: {e}")))?;
        write(&self.path.join(CONFIG), text.as_bytes()).map_err(|e| explain_full(e, &self.path))
    }

    /// What the run at `path` is.
    pub fn record(path: &Path) -> Result<Record> {
        Record::parse(&Self::record_bytes(path)?).map_err(|e| e.at(path.join(RECORD).display()))
    }

    /// The same as it is written there.
    pub(super) fn record_bytes(path: &Path) -> Result<Vec<u8>> {
        read_bounded(&path.join(RECORD), MAX_RECORD)
    }

    /// The settings as they are written there.
    pub(super) fn config_text(path: &Path) -> Result<String> {
        crate::train::settings::read_text(&path.join(CONFIG))
    }

    /// The quantizer of the run at `path`, if it is still the one that the run began with.
    pub fn quantizer(path: &Path, record: &Record) -> Result<Quantizer> {
        let file = path.join(QUANTIZER);
        record.parse_quantizer(&quantizer_file::read_bytes(&file)?).map_err(|e| e.at(file.display()))
    }

    /// The lines of `metrics.jsonl` in the run at `path`, but for torn ones.
    pub fn metrics(path: &Path) -> Result<Vec<Value>> {
        let file = path.join(METRICS);
        let text = fs::read_to_string(&file).map_err(|e| Error::io(&file, &e))?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// The figures of the evaluation after `step` in the run at `path`; null if its line is lost.
    pub fn figures(path: &Path, step: u64) -> Result<Value> {
        let lines = Self::metrics(path)?.into_iter();
        let mut found = lines.filter(|v| v["step"].as_u64() == Some(step) && v.get("val_loss").is_some());
        Ok(found.next_back().unwrap_or(Value::Null))
    }

    /// Writes the forest that votes beside the head.
    pub fn save_forest(&self, forest: &Forest) -> Result<()> {
        write(&self.path.join(FOREST), &tensors::forest_bytes(forest)?)
    }

    /// The forest of the run at `path`, over `n_labels` labels.
    pub fn forest(path: &Path, n_labels: usize) -> Result<Forest> {
        let file = path.join(FOREST);
        file.metadata().map_err(|e| {
            let run = path.display();
            Error::new(Kind::Io, format!("{run}: no forest yet, it is grown at the end; go on with --resume ({e})"))
        })?;
        let bytes = read_bounded(&file, MAX_FOREST)?;
        tensors::read_forest(&bytes, n_labels).map_err(|e| e.at(file.display()))
    }

    /// Writes a head that is no part of the checkpoints.
    pub fn save_head(&self, head: &Head, record: &Record) -> Result<()> {
        let bytes = heads::bytes(head, record.labels.len(), record.model.n_embd)?;
        write(&self.path.join(HEAD), &bytes).map_err(|e| e.at("the head is not saved; make room and begin anew"))
    }

    /// The head of the run at `path`, of kind `kind` as a manifest names it.
    pub fn head(path: &Path, record: &Record, kind: &str) -> Result<Head> {
        let (n_labels, n_embd) = (record.labels.len(), record.model.n_embd);
        let bytes = read_bounded(&path.join(HEAD), heads::limit(kind, n_labels, n_embd))?;
        heads::read(kind, &bytes, n_labels, n_embd).map_err(|e| e.at(path.join(HEAD).display()))
    }

    /// Path of the quantizer's copy in the run at `path`.
    pub fn quantizer_path(path: &Path) -> PathBuf {
        path.join(QUANTIZER)
    }

    /// Adds a line to `metrics.jsonl`.
    pub fn log(&mut self, line: &Value) -> Result<()> {
        // One write for the line, so that a crash tears at most the last.
        let text = format!("{line}\n");
        let written = self.metrics.write_all(text.as_bytes());
        written.map_err(|e| explain_full(Error::io(&self.path.join(METRICS), &e), &self.path))
    }

    /// Draws the pictures of what `metrics.jsonl` says anew.
    pub fn draw(&self) -> Result<()> {
        pictures::draw(&self.path).map_err(|e| explain_full(e, &self.path))
    }

    /// Drops the lines of `metrics.jsonl` past `step`, which a resumed run will do again, and torn ones.
    pub fn rewind_log(&mut self, step: u64) -> Result<()> {
        let path = self.path.join(METRICS);
        let text = fs::read_to_string(&path).map_err(|e| Error::io(&path, &e))?;
        let kept = text.split_inclusive('\n').filter(|line| {
            let parsed = serde_json::from_str::<Value>(line).ok();
            parsed.and_then(|v| v.get("step")?.as_u64()).is_some_and(|s| s <= step)
        });
        let kept: String = kept.collect();
        // In place, to keep the lock; a crash between the two loses lines of a log, never of a model.
        self.metrics.set_len(0).and_then(|()| self.metrics.write_all(kept.as_bytes())).map_err(|e| Error::io(&path, &e))
    }

    /// Writes the checkpoint to go on from, then removes all but the newest `keep`.
    pub fn save(&self, state: &State, model: &Model, moments: &[Moments<&[f32]>], keep: usize) -> Result<()> {
        let path = self.path.join(CHECKPOINTS).join(format!("step-{:08}.safetensors", state.step));
        checkpoint::write(&path, state, model, moments).map_err(|e| explain_full(e, &self.path))?;
        let steps = self.steps()?;
        for (_, old) in steps.iter().rev().skip(keep) {
            fs::remove_file(old).map_err(|e| Error::io(old, &e))?;
        }
        Ok(())
    }

    /// Writes the best checkpoint.
    pub fn save_best(&self, state: &State, model: &Model) -> Result<()> {
        checkpoint::write(&Self::best_path(&self.path), state, model, &[]).map_err(|e| explain_full(e, &self.path))
    }

    /// Path of the best checkpoint of the run at `path`.
    fn best_path(path: &Path) -> PathBuf {
        path.join(CHECKPOINTS).join(BEST)
    }

    /// The best checkpoint of the run at `path`.
    pub fn best(path: &Path, record: &Record) -> Result<Checkpoint> {
        let file = Self::best_path(path);
        if !file.exists() {
            return Err(Error::invalid(format!(
                "{}: the run has no evaluation yet, so no best checkpoint; go on with --resume",
                path.display()
            )));
        }
        Checkpoint::read(&file, &record.model, record.n_labels())
    }

    /// The newest checkpoint to go on from, if there is one, as it is written, and where.
    pub(super) fn last(&self, record: &Record) -> Result<Option<(PathBuf, Vec<u8>)>> {
        let Some((_, path)) = self.steps()?.pop() else { return Ok(None) };
        let bytes = checkpoint::read_bounded(&path, &record.model, record.n_labels())?;
        Ok(Some((path, bytes)))
    }

    /// The checkpoints to go on from, oldest first.
    fn steps(&self) -> Result<Vec<(u64, PathBuf)>> {
        let directory = self.path.join(CHECKPOINTS);
        let mut out = Vec::new();
        for entry in fs::read_dir(&directory).map_err(|e| Error::io(&directory, &e))? {
            let path = entry.map_err(|e| Error::io(&directory, &e))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let step = name.strip_prefix("step-").and_then(|n| n.strip_suffix(".safetensors"));
            if let Some(step) = step.and_then(|s| s.parse().ok()) {
                out.push((step, path));
            }
        }
        out.sort();
        Ok(out)
    }
}

impl Record {
    /// What `bytes`, as they are written, say.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let record: Self = serde_json::from_slice(bytes).map_err(|e| Error::format(e.to_string()))?;
        record.model.check().and_then(|()| record.vocabulary.check())?;
        if record.vocabulary.len() != record.model.vocab_size {
            let (ids, rows) = (record.vocabulary.len(), record.model.vocab_size);
            return Err(Error::mismatch(format!("{ids} ids, but vocab_size {rows}")));
        }
        Ok(record)
    }

    /// The quantizer in `bytes`, if it is the one that the run began with.
    pub(super) fn parse_quantizer(&self, bytes: &[u8]) -> Result<Quantizer> {
        let found = sha256(bytes);
        if found != self.quantizer_sha256 {
            return Err(Error::mismatch(format!(
                "its SHA-256 is {found}, the run began with {}: the tokens would mean other packets",
                self.quantizer_sha256
            )));
        }
        let quantizer = quantizer_file::parse(bytes)?;
        if quantizer.n_tokens() != self.vocabulary.n_packet_tokens as usize {
            let (k, n) = (quantizer.n_tokens(), self.vocabulary.n_packet_tokens);
            return Err(Error::mismatch(format!("{k} centroids, the run has {n} packet tokens")));
        }
        Ok(quantizer)
    }

    /// Number of labels of the head in the run's checkpoints, if there is one: linear heads are there.
    pub fn n_labels(&self) -> Option<usize> {
        (!self.labels.is_empty() && self.head == HeadKind::Linear).then_some(self.labels.len())
    }

    /// Checks that `data` is what the run began with.
    pub fn check_data(&self, data: &Dataset) -> Result<()> {
        if data.sources != self.data {
            let list = |sources: &[Source]| {
                let one = |s: &Source| format!("{} (SHA-256 {:.12}, {} rows)", s.file, s.sha256, s.rows);
                sources.iter().map(one).collect::<Vec<_>>().join(", ")
            };
            return Err(Error::mismatch(format!(
                "the flows are not those that the run began with: then {}; now {}",
                list(&self.data),
                list(&data.sources)
            )));
        }
        Ok(())
    }
}

fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let size = path.metadata().map_err(|e| Error::io(path, &e))?.len();
    if size > limit {
        return Err(Error::format(format!("{}: {size} bytes are too many", path.display())));
    }
    fs::read(path).map_err(|e| Error::io(path, &e))
}

/// Removes what a process that was killed while it saved has left. Nothing else is writing there; what cannot be removed
/// does no harm.
fn remove_unfinished(checkpoints: &Path) {
    let Ok(entries) = fs::read_dir(checkpoints) else { return };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') && name.ends_with(".tmp") {
            let _ = fs::remove_file(&path);
        }
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).map_err(|e| Error::io(path, &e))?;
    file.commit()
}

/// Adds to a failure to write that nothing is lost.
fn explain_full(error: Error, run: &Path) -> Error {
    let message =
        format!("{error}: the checkpoint before it is whole; make room, then go on with --resume -o {}", run.display());
    Error::new(error.kind(), message)
}
