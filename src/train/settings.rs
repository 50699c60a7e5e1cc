//! What a run is told to do: defaults, then a TOML file, then the command line.

use crate::error::{Error, Result};
use crate::gpt2::Dropout;
use crate::packet::N_PACKETS;
use crate::train::forest::Trees;
use crate::train::heads::{self, HeadKind};
use crate::train::reshape::Reshape;
use crate::train::schedule::Schedule;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Largest configuration file that is read.
pub(super) const MAX_FILE: u64 = 1 << 20;

/// Fewest tokens a batch may be given: one whole sequence.
const MIN_BATCH_TOKENS: usize = 128;

/// Most tokens a batch may be given; its activations must fit into memory.
const MAX_BATCH_TOKENS: usize = 1 << 22;

/// Most batches of a step.
const MAX_ACCUMULATE: usize = 1 << 16;

/// Bytes of a mebibyte.
const MIB: f64 = (1 << 20) as f64;

/// Most trees of a forest.
const MAX_TREES: usize = 10_000;

/// Most times that an epoch may go through the labelled flows.
const MAX_REPEATS: u64 = 1000;

/// The loop of steps, the same for every kind of training. Where 0 means "none" or "automatic" it says so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loop {
    /// Passes over the training flows.
    pub epochs: u64,
    /// Steps after which to end even so; 0: none.
    pub steps: u64,
    /// Most tokens in a batch.
    pub batch_tokens: usize,
    /// Batches whose gradients make one step: as of one batch so many times as large, in the memory of one.
    pub accumulate: usize,
    /// Full learning rate.
    pub lr: f64,
    /// Steps over which it rises from 0.
    pub warmup: u64,
    /// What becomes of it after that.
    pub schedule: Schedule,
    /// Evaluations without a lower loss before the plateau schedule halves it.
    pub plateau_patience: u32,
    /// Decoupled weight decay of the matrices.
    pub weight_decay: f64,
    /// Probability that dropout zeroes a value.
    pub dropout: f64,
    /// Standard deviation, in decades, by which a training flow's times are shaken anew in every epoch, once for the
    /// whole flow and once for each packet: what is learnt then depends less on the delays of the captures; 0: not.
    pub time_jitter: f64,
    /// How else training flows are changed anew in every epoch.
    #[serde(flatten)]
    pub reshape: Reshape,
    /// Largest global norm of the gradients; 0: unlimited.
    pub clip: f64,
    /// Seed of every draw.
    pub seed: u64,
    /// Evaluations without a gain before the run ends; 0: never.
    pub patience: u32,
    /// Which evaluation the run gives: the best, or the last whatever it is.
    pub choose: Choose,
    /// Steps between evaluations; 0: once an epoch.
    pub eval_every: u64,
    /// Steps between checkpoints; 0: at each evaluation. They are also written every five minutes.
    pub save_every: u64,
    /// Steps between lines of `metrics.jsonl`.
    pub log_every: u64,
    /// Checkpoints to keep besides the best.
    pub keep: usize,
    /// CPU threads; 0: as many as there are.
    pub threads: usize,
    /// Where the network is computed.
    pub device: Device,
}

impl Default for Loop {
    fn default() -> Self {
        Self {
            epochs: 20,
            steps: 0,
            batch_tokens: 4096,
            accumulate: 1,
            lr: 1e-3,
            warmup: 50,
            schedule: Schedule::Cosine,
            plateau_patience: 2,
            weight_decay: 0.01,
            dropout: 0.1,
            time_jitter: 0.0,
            reshape: Reshape::default(),
            clip: 1.0,
            seed: 0,
            patience: 0,
            choose: Choose::Best,
            eval_every: 0,
            save_every: 0,
            log_every: 10,
            keep: 2,
            threads: 0,
            device: Device::Cpu,
        }
    }
}

/// Where the network is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// The CPU.
    #[default]
    Cpu,
    /// A GPU: of several ranks each its own, else the first that CUDA shows. Products read bf16, master weights and gradients
    /// are f32.
    Cuda,
    /// The same, all in f32.
    CudaF32,
}

impl Device {
    /// As it is given on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::CudaF32 => "cuda-f32",
        }
    }
}

impl std::str::FromStr for Device {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            "cuda-f32" => Ok(Self::CudaF32),
            _ => Err(Error::invalid(format!("device is \"{text}\"; it must be cpu, cuda or cuda-f32"))),
        }
    }
}

/// Which of its evaluations a run gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choose {
    /// The best by the validation flows.
    #[default]
    Best,
    /// The last: nothing is chosen by the validation flows, so their figures do not flatter.
    Last,
}

impl std::str::FromStr for Choose {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "best" => Ok(Self::Best),
            "last" => Ok(Self::Last),
            _ => Err(Error::invalid(format!("choose is \"{text}\"; it must be best or last"))),
        }
    }
}

/// The table of a run's `config.toml` that names its data; no setting.
pub const DATA: &str = "data";

/// Keys that a resumed run may be given anew: none of them changes what a step computes, the device but for rounding.
pub const MAY_CHANGE: [&str; 9] =
    ["epochs", "steps", "patience", "eval_every", "save_every", "log_every", "keep", "threads", "device"];

/// Keys that ranks which train together may have different values of.
pub const MAY_DIFFER: [&str; 1] = ["threads"];

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

/// How much a flow counts in the classifier's loss, by the number of training flows of its label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClassWeights {
    /// Each flow the same.
    None,
    /// By one over the square root of the label's flows.
    #[default]
    Sqrt,
    /// By one over the label's flows: each label the same.
    Balanced,
}

impl std::str::FromStr for ClassWeights {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(Self::None),
            "sqrt" => Ok(Self::Sqrt),
            "balanced" => Ok(Self::Balanced),
            _ => Err(Error::invalid(format!("class weights are \"{text}\"; they must be none, sqrt or balanced"))),
        }
    }
}

/// Fine-tuning of a classifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finetune {
    /// The loop.
    #[serde(flatten)]
    pub run: Loop,
    /// Whether the network stays as it is and only the head learns.
    pub freeze: bool,
    /// Which head, and how it is fitted.
    #[serde(flatten)]
    pub head: heads::Options,
    /// Fewest training flows that a label may have.
    pub min_flows: usize,
    /// What the language model's loss is multiplied by beside the classifier's; 0: left out.
    pub lm_weight: f64,
    /// How labels of different size count.
    pub class_weights: ClassWeights,
    /// Probability mass that the target gives to all labels alike.
    pub label_smoothing: f64,
    /// Probability that a training flow is cut after a random number of its packets, whose logarithm is uniform.
    pub crop: f64,
    /// Probability that a training flow is classified with the times of another flow, so that the classifier leans on
    /// sizes: times depend on where a capture was made. The language model does not learn such sequences.
    pub borrow_times: f64,
    /// Trees of a random forest that votes beside the network; 0: none.
    pub forest_trees: usize,
    /// Boosted trees of each label that vote beside the network; 0: none.
    pub boost_rounds: usize,
    /// Share of the trees in the probabilities.
    pub forest_weight: f64,
    /// Whether the trees look at the packets' times as well as at their sizes. Good where flows to come are recorded at the
    /// places of the training flows.
    pub forest_times: bool,
    /// Share of the teachers' answer, beside the label, in what a labelled flow is to give.
    pub teacher_weight: f64,
    /// What a flow without a label, of which only the teachers' answer is known, counts beside one with a label.
    pub unlabelled_weight: f64,
    /// Times that an epoch goes through the labelled flows for each time through those without a label.
    pub labelled_repeats: u64,
    /// What divides the logits before the softmax, or the logarithms of probabilities that a forest has voted on; 0: what
    /// fits the validation flows best.
    pub temperature: f64,
    /// Probability below which the classifier says "unknown"; 0: never.
    pub reject_below: f64,
    /// Share of the groups held out for validation among flows that name no split.
    pub val_share: f64,
}

impl Default for Finetune {
    fn default() -> Self {
        Self {
            run: Loop { lr: 5e-4, schedule: Schedule::Plateau, patience: 8, ..Loop::default() },
            freeze: false,
            head: heads::Options::default(),
            min_flows: 2,
            lm_weight: 0.5,
            class_weights: ClassWeights::Sqrt,
            label_smoothing: 0.0,
            crop: 0.0,
            borrow_times: 0.0,
            forest_trees: 0,
            boost_rounds: 0,
            forest_weight: 0.5,
            forest_times: false,
            teacher_weight: 0.5,
            unlabelled_weight: 1.0,
            labelled_repeats: 1,
            temperature: 0.0,
            reject_below: 0.0,
            val_share: 0.1,
        }
    }
}

impl Loop {
    /// The dropout of batch `batch` of step `step` from row `first_row` on, if there is any.
    pub fn dropout(&self, step: u64, batch: usize, first_row: usize) -> Option<Dropout> {
        // Steps take the low bits alone, so that every batch of every step has masks of its own.
        let step = step | (batch as u64) << 48;
        (self.dropout > 0.0).then_some(Dropout { p: self.dropout as f32, seed: self.seed, step, first_row })
    }

    /// Checks every value against its range.
    pub fn check(&self) -> Result<()> {
        if self.device != Device::Cpu {
            // Told before the flows are read, which may take long.
            crate::cuda::device::count().map_err(|e| e.at("--device cuda"))?;
        }
        if self.epochs == 0 {
            return Err(Error::invalid("epochs is 0; it must be at least 1"));
        }
        if !(MIN_BATCH_TOKENS..=MAX_BATCH_TOKENS).contains(&self.batch_tokens) {
            let n = self.batch_tokens;
            return Err(Error::invalid(format!(
                "batch_tokens is {n}; it must be in {MIN_BATCH_TOKENS}..={MAX_BATCH_TOKENS}"
            )));
        }
        if !(1..=MAX_ACCUMULATE).contains(&self.accumulate) {
            let n = self.accumulate;
            return Err(Error::invalid(format!("accumulate is {n}; it must be in 1..={MAX_ACCUMULATE}")));
        }
        if self.seed > i64::MAX as u64 {
            return Err(Error::invalid(format!("seed is {}; it must be at most {}", self.seed, i64::MAX)));
        }
        if self.log_every == 0 || self.keep == 0 {
            return Err(Error::invalid("log_every and keep must be at least 1"));
        }
        range("lr", self.lr, 0.0, 10.0)?;
        range("weight_decay", self.weight_decay, 0.0, 10.0)?;
        range("dropout", self.dropout, 0.0, 0.9)?;
        range("time_jitter", self.time_jitter, 0.0, 10.0)?;
        range("size_jitter", self.reshape.size_jitter, 0.0, 10.0)?;
        range("header_shift", self.reshape.header_shift, 0.0, 1.0)?;
        range("packet_loss", self.reshape.packet_loss, 0.0, 1.0)?;
        range("late_start", self.reshape.late_start, 0.0, 1.0)?;
        range("clip", self.clip, 0.0, 1e6)
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

impl Finetune {
    /// The trees that are to vote beside the network, if any.
    pub fn trees(&self) -> Option<Trees> {
        match (self.forest_trees, self.boost_rounds) {
            (0, 0) => None,
            (0, rounds) => Some(Trees::Boosted { rounds }),
            (n, _) => Some(Trees::Bagged(n)),
        }
    }

    /// Checks every value against its range and against the others.
    pub fn check(&self) -> Result<()> {
        range("lm_weight", self.lm_weight, 0.0, 1e3)?;
        range("label_smoothing", self.label_smoothing, 0.0, 0.9)?;
        range("crop", self.crop, 0.0, 1.0)?;
        range("borrow_times", self.borrow_times, 0.0, 1.0)?;
        range("forest_weight", self.forest_weight, 0.0, 1.0)?;
        range("teacher_weight", self.teacher_weight, 0.0, 1.0)?;
        range("unlabelled_weight", self.unlabelled_weight, 0.0, 1e3)?;
        range("temperature", self.temperature, 0.0, 100.0)?;
        for (name, n) in [("forest_trees", self.forest_trees), ("boost_rounds", self.boost_rounds)] {
            if n > MAX_TREES {
                return Err(Error::invalid(format!("{name} is {n}; it must be at most {MAX_TREES}")));
            }
        }
        if !(1..=MAX_REPEATS).contains(&self.labelled_repeats) {
            let n = self.labelled_repeats;
            return Err(Error::invalid(format!("labelled_repeats is {n}; it must be in 1..={MAX_REPEATS}")));
        }
        range("reject_below", self.reject_below, 0.0, 1.0)?;
        self.head.check(self.freeze)?;
        if self.forest_trees > 0 && self.boost_rounds > 0 {
            return Err(Error::invalid(
                "forest_trees and boost_rounds: one kind of trees may vote: leave the other at 0",
            ));
        }
        if self.head.head != HeadKind::Linear && self.trees().is_some() {
            let name = if self.boost_rounds > 0 { "boost_rounds" } else { "forest_trees" };
            return Err(Error::invalid(format!("{name}: trees vote beside a linear head only: leave it at 0")));
        }
        let run = &self.run;
        let changes = self.crop > 0.0 || self.borrow_times > 0.0 || run.time_jitter > 0.0 || !run.reshape.is_none();
        if self.freeze && changes {
            return Err(Error::invalid(
                "crop, borrow_times, time_jitter, size_jitter, header_shift, packet_loss and late_start change what the \
                 network reads anew in every epoch; with freeze it reads every flow once: leave them at 0",
            ));
        }
        range("val_share", self.val_share, 0.0, 0.9)?;
        self.run.check()
    }
}

fn range(name: &str, value: f64, min: f64, max: f64) -> Result<()> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(Error::invalid(format!("{name} is {value}; it must be in {min}..={max}")))
}

/// The defaults of `T`, overridden by the keys of `file`, overridden by `flags`. A key that `T` does not have is
/// refused with the list of those that it has.
pub fn resolve<T: Default + Serialize + DeserializeOwned>(file: Option<&Path>, flags: toml::Table) -> Result<T> {
    let defaults = to_table(&T::default())?;
    let mut settings = defaults.clone();
    if let Some(path) = file {
        for (key, value) in read_table(path)?.into_iter().filter(|(key, _)| key != DATA) {
            if !defaults.contains_key(&key) {
                let known: Vec<&str> = defaults.keys().map(String::as_str).collect();
                return Err(Error::invalid(format!(
                    "{}: no setting is called \"{key}\"; there are {}",
                    path.display(),
                    known.join(", ")
                )));
            }
            settings.insert(key, value);
        }
    }
    settings.extend(flags);
    settings.try_into().map_err(|e: toml::de::Error| {
        let place = file.map_or_else(String::new, |p| format!("{}: ", p.display()));
        Error::invalid(format!("{place}settings: {}", e.message()))
    })
}

/// `value` as a TOML table; absent options are left out.
pub fn to_table<T: Serialize>(value: &T) -> Result<toml::Table> {
    toml::Table::try_from(value).map_err(|e| Error::invalid(format!("settings: {e}")))
}

/// The table in the TOML file at `path`.
pub fn read_table(path: &Path) -> Result<toml::Table> {
    parse_table(&read_text(path)?).map_err(|e| e.at(path.display()))
}

/// The table that the TOML `text` holds.
pub fn parse_table(text: &str) -> Result<toml::Table> {
    text.parse().map_err(|e: toml::de::Error| Error::invalid(e.to_string()))
}

/// The configuration file at `path`.
pub(super) fn read_text(path: &Path) -> Result<String> {
    let size = path.metadata().map_err(|e| Error::io(path, &e))?.len();
    if size > MAX_FILE {
        return Err(Error::invalid(format!("{}: {size} bytes are too many for a configuration", path.display())));
    }
    std::fs::read_to_string(path).map_err(|e| Error::io(path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> toml::Table {
        text.parse().unwrap()
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("run.toml");
        std::fs::write(&file, "lr = 0.002\nlayers = 2\nschedule = \"plateau\"\n").unwrap();
        let s: Pretrain = resolve(Some(&file), table("layers = 3\nwith_classes = true")).unwrap();
        assert_eq!((s.run.lr, s.layers, s.run.schedule, s.with_classes), (0.002, 3, Schedule::Plateau, true));
        assert_eq!(s.width, Pretrain::default().width);
        s.check().unwrap();
    }

    #[test]
    fn resolved_settings_survive_their_own_file() {
        let mut settings = Finetune { crop: 0.25, class_weights: ClassWeights::Balanced, ..Finetune::default() };
        settings.run.reshape = Reshape { size_jitter: 0.1, header_shift: 0.2, packet_loss: 0.3, late_start: 0.4 };
        settings.run.choose = Choose::Last;
        let text = toml::to_string(&settings).unwrap();
        assert_eq!(resolve::<Finetune>(None, table(&text)).unwrap(), settings);
    }

    #[test]
    fn mistakes_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("run.toml");
        for (text, word) in
            [("learning_rate = 1", "learning_rate"), ("lr = \"fast\"", "run.toml"), ("lr = ", "run.toml")]
        {
            std::fs::write(&file, text).unwrap();
            let error = resolve::<Pretrain>(Some(&file), toml::Table::new()).unwrap_err();
            assert!(error.message().contains(word), "{error}");
        }
        let missing = resolve::<Pretrain>(Some(&directory.path().join("none.toml")), toml::Table::new());
        assert_eq!(missing.unwrap_err().kind(), crate::Kind::Io);
        for bad in [
            "epochs = 0",
            "lr = -1.0",
            "dropout = 1.5",
            "batch_tokens = 3",
            "bof_share = nan",
            "smooth_embeddings = 1.1",
            "size_jitter = -0.1",
            "header_shift = 2.0",
            "packet_loss = nan",
            "late_start = 1.01",
            "n_packets = 0",
            "n_packets = 127",
            "accumulate = 0",
            "shuffle_mib = 0.001",
        ] {
            let settings: Pretrain = resolve(None, table(bad)).unwrap();
            let error = settings.check().unwrap_err();
            assert!(error.message().starts_with(bad.split(' ').next().unwrap()), "{error}");
        }
        for bad in [
            "teacher_weight = 1.1",
            "unlabelled_weight = -1.0",
            "labelled_repeats = 0",
            "forest_trees = 10001",
            "boost_rounds = 10001",
            "forest_trees = 1\nboost_rounds = 1",
            "boost_rounds = 1\nfreeze = true\nhead = \"svm\"",
            "temperature = -1.0",
            "knn_k = 0",
            "knn_cells = 1048577",
            "knn_probes = 9\nknn_cells = 8",
            "svm_nu = 0.0",
            "svm_nu = nan",
            "svm_gamma = -1.0",
            "svm_flows = 5000",
            "forest_trees = 1\nfreeze = true\nhead = \"svm\"",
        ] {
            let settings: Finetune = resolve(None, table(bad)).unwrap();
            let error = settings.check().unwrap_err();
            assert!(error.message().starts_with(bad.split(' ').next().unwrap()), "{error}");
        }
        assert!(resolve::<Pretrain>(None, table("choose = \"first\"")).is_err());
        assert!(resolve::<Finetune>(None, table("head = \"forest\"")).is_err());
        let settings: Finetune = resolve(None, table("head = \"knn\"")).unwrap();
        assert!(settings.check().unwrap_err().message().contains("--freeze"));
        for change in
            ["crop", "borrow_times", "time_jitter", "size_jitter", "header_shift", "packet_loss", "late_start"]
        {
            let settings: Finetune = resolve(None, table(&format!("freeze = true\n{change} = 0.1"))).unwrap();
            assert!(settings.check().unwrap_err().message().contains(change), "{change}");
        }
    }
}
