//! Checkpoints: one safetensors file with the network under its Hugging Face names, the head, the optimiser's moments,
//! and in the metadata the counters that say where the run stood.

use crate::bundle::tensors::{Tensors, metadata, serialize, size_limit};
use crate::error::{Error, Result};
use crate::gpt2::{Config, Weights};
use crate::head::Linear;
use crate::train::atomic::AtomicFile;
use crate::train::schedule::Plateau;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;

/// Key of the counters in the file's metadata.
const STATE: &str = "trafficgpt.state";

/// What the names of the optimiser's tensors begin with.
const FIRST: &str = "adam.m.";
const SECOND: &str = "adam.v.";

/// Where a run stands. All that decides how it goes on is here, so that it goes on bit for bit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps done.
    pub step: u64,
    /// The epoch it is in, from 0.
    pub epoch: u64,
    /// The window of that epoch, from 0; there are several if the flows are too many for memory.
    #[serde(default)]
    pub window: u64,
    /// Batches of that window done.
    pub batch: usize,
    /// Tokens read.
    pub tokens: u64,
    /// The step after which the last evaluation was; 0: none yet.
    pub evaluated: u64,
    /// Score of the best evaluation.
    pub best: Option<f64>,
    /// The step it was after.
    pub best_step: u64,
    /// Evaluations since.
    pub since_best: u32,
    /// The plateau schedule.
    pub plateau: Plateau,
    /// Whether the run came to its end.
    pub finished: bool,
}

/// What is trained: the network, and the classifier's head where there is one.
#[derive(Clone, Debug)]
pub struct Model {
    /// The network.
    pub weights: Weights,
    /// The head.
    pub head: Option<Linear>,
}

/// The optimiser's means of gradients and of their squares, of one buffer of parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments<T> {
    /// Which buffer.
    pub name: String,
    /// Means of the gradients.
    pub m: T,
    /// Means of their squares.
    pub v: T,
}

/// A checkpoint that was read.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Where the run stood.
    pub state: State,
    /// What it had learnt.
    pub model: Model,
    /// What it takes to go on; none in the best checkpoint, which is for use.
    pub moments: Vec<Moments<Vec<f32>>>,
}

impl Model {
    /// The same shape, all zeros: room for gradients.
    pub fn zeros_like(&self) -> Result<Self> {
        let head = self.head.as_ref().map(|head| Linear {
            weight: vec![0.0; head.weight.len()],
            bias: vec![0.0; head.bias.len()],
            temperature: 1.0,
        });
        Ok(Self { weights: Weights::zeros(self.weights.config())?, head })
    }

    /// Every tensor with its name.
    fn tensors(&self) -> Vec<(String, Vec<usize>, &[f32])> {
        let network = self.weights.tensors().into_iter();
        let mut out: Vec<_> = network.map(|t| (t.name, t.shape, &self.weights.data()[t.range])).collect();
        if let Some(head) = &self.head {
            let n = head.bias.len();
            out.push(("head.weight".to_string(), vec![n, head.weight.len() / n.max(1)], &head.weight));
            out.push(("head.bias".to_string(), vec![n], &head.bias));
            out.push(("head.temperature".to_string(), vec![1], std::slice::from_ref(&head.temperature)));
        }
        out
    }

    fn read(file: &Tensors<'_>, config: &Config, n_labels: Option<usize>) -> Result<Self> {
        let mut weights = Weights::zeros(config)?;
        for tensor in weights.tensors() {
            file.copy(&tensor.name, &tensor.shape, &mut weights.data_mut()[tensor.range])?;
        }
        let head = n_labels.map(|n| {
            let d = config.n_embd;
            let (mut weight, mut bias, mut temperature) = (vec![0.0; n * d], vec![0.0; n], [0.0]);
            file.copy("head.weight", &[n, d], &mut weight)?;
            file.copy("head.bias", &[n], &mut bias)?;
            file.copy("head.temperature", &[1], &mut temperature)?;
            Ok(Linear { weight, bias, temperature: temperature[0] })
        });
        Ok(Self { weights, head: head.transpose()? })
    }
}

/// Writes the file at `path`: whole or not at all, so that a full disk leaves what was there.
pub fn write(path: &Path, state: &State, model: &Model, moments: &[Moments<&[f32]>]) -> Result<()> {
    let state = toml::to_string(state).map_err(|e| Error::invalid(format!("state: {e}")))?;
    let mut tensors = model.tensors();
    for of in moments {
        tensors.push((format!("{FIRST}{}", of.name), vec![of.m.len()], of.m));
        tensors.push((format!("{SECOND}{}", of.name), vec![of.v.len()], of.v));
    }
    let entries = tensors.iter().map(|(name, shape, values)| (name.as_str(), shape.as_slice(), *values));
    let bytes = serialize(entries, (STATE, state))?;
    let mut file = AtomicFile::create(path)?;
    file.write_all(&bytes).map_err(|e| Error::io(path, &e))?;
    file.commit()
}

impl Checkpoint {
    /// Reads the file at `path` of a network of shape `config` with a head of `n_labels`, if any.
    pub fn read(path: &Path, config: &Config, n_labels: Option<usize>) -> Result<Self> {
        Self::parse(&read_bounded(path, config, n_labels)?, config, n_labels).map_err(|e| e.at(path.display()))
    }

    pub(super) fn parse(bytes: &[u8], config: &Config, n_labels: Option<usize>) -> Result<Self> {
        let file = Tensors::parse(bytes, config.n_parameters())?;
        let state = metadata(bytes, STATE)?
            .and_then(|text| toml::from_str(&text).ok())
            .ok_or_else(|| Error::format("not a checkpoint: its metadata has no state"))?;
        let model = Model::read(&file, config, n_labels)?;
        let names = file.names().into_iter().filter_map(|name| name.strip_prefix(FIRST).map(String::from));
        let read = |name: String| {
            let buffer = |prefix: &str| {
                let tensor = format!("{prefix}{name}");
                let shape = file.shape(&tensor).unwrap_or_default();
                // As many values as the file, whose size is bounded, really holds.
                let mut out = vec![0.0; shape.iter().product()];
                file.copy(&tensor, &shape, &mut out).map(|()| out)
            };
            Ok(Moments { m: buffer(FIRST)?, v: buffer(SECOND)?, name })
        };
        let moments = names.map(read).collect::<Result<_>>()?;
        Ok(Self { state, model, moments })
    }
}

/// Most bytes that a checkpoint of such a network can have.
pub(super) fn limit(config: &Config, n_labels: Option<usize>) -> Result<u64> {
    config.check()?;
    let head = n_labels.unwrap_or(0) * (config.n_embd + 1) + 1;
    Ok(size_limit(3 * (config.n_parameters() + head)))
}

pub(super) fn read_bounded(path: &Path, config: &Config, n_labels: Option<usize>) -> Result<Vec<u8>> {
    let limit = limit(config, n_labels)?;
    let size = path.metadata().map_err(|e| Error::io(path, &e))?.len();
    if size > limit {
        return Err(Error::mismatch(format!("{}: {size} bytes; this run's have at most {limit}", path.display())));
    }
    std::fs::read(path).map_err(|e| Error::io(path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        let weights = Weights::init(&Config::new(9, 2, 8, 2), 1).unwrap();
        let head = Linear { weight: (0..24).map(|i| i as f32 / 7.0).collect(), bias: vec![0.5; 3], temperature: 1.25 };
        Model { weights, head: Some(head) }
    }

    #[test]
    fn a_checkpoint_comes_back_bit_for_bit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("step.safetensors");
        let (model, first) = (model(), [1e-30, -0.0, 3.0]);
        let state = State { step: 7, best: Some(0.1 + 0.2), tokens: 12, ..State::default() };
        let moments = Moments { name: "network".to_string(), m: &first[..], v: model.weights.data() };
        write(&path, &state, &model, std::slice::from_ref(&moments)).unwrap();
        let back = Checkpoint::read(&path, model.weights.config(), Some(3)).unwrap();
        assert_eq!(back.state, state);
        assert_eq!(back.model.weights.data(), model.weights.data());
        assert_eq!(back.model.head, model.head);
        assert_eq!((back.moments.len(), back.moments[0].name.as_str()), (1, "network"));
        assert_eq!((&back.moments[0].m[..], &back.moments[0].v[..]), (moments.m, moments.v));
    }

    #[test]
    fn files_that_are_no_checkpoint_of_the_run_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("step.safetensors");
        let model = model();
        write(&path, &State::default(), &model, &[]).unwrap();
        let config = model.weights.config().clone();
        for (config, labels) in [(Config::new(9, 3, 8, 2), Some(3)), (config.clone(), Some(4))] {
            let error = Checkpoint::read(&path, &config, labels).unwrap_err();
            assert!(error.message().contains("step.safetensors"), "{error}");
        }
        let bytes = std::fs::read(&path).unwrap();
        for cut in [0, 7, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            assert!(Checkpoint::read(&path, &config, Some(3)).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_place_that_cannot_be_written_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("none").join("step.safetensors");
        assert_eq!(write(&path, &State::default(), &model(), &[]).unwrap_err().kind(), crate::Kind::Io);
    }
}
