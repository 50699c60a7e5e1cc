//! Settings of the loop of steps.

use super::range;
use crate::error::{Error, Result};
use crate::gpt2::Dropout;
use crate::train::reshape::Reshape;
use crate::train::schedule::Schedule;
use serde::{Deserialize, Serialize};

/// Fewest tokens a batch may be given: one whole sequence.
const MIN_BATCH_TOKENS: usize = 128;

/// Most tokens a batch may be given; its activations must fit into memory.
const MAX_BATCH_TOKENS: usize = 1 << 22;

/// Most batches of a step.
const MAX_ACCUMULATE: usize = 1 << 16;

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
