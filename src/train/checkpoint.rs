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

/// Where a run stands. All that decides how it goes on is here, so that it goes on bit for bit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps done.
    pub step: u64,
    /// The epoch it is in, from 0.
    pub epoch: u64,
    /// Batches of that epoch done.
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

/// The optimiser's first and second moments.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Means of the gradients, in the shape of what is trained.
    pub first: Model,
    /// Means of their squares.
    pub second: Model,
}

/// One checkpoint.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Where the run stood.
    pub state: State,
    /// What it had learnt.
    pub model: Model,
    /// What it takes to go on; absent in the best checkpoint, which is for use.
    pub moments: Option<Moments>,
}

impl Model {
    /// The same shape, all zeros.
    pub fn zeros_like(&self) -> Result<Self> {
        let head = self.head.as_ref().map(|head| Linear {
            weight: vec![0.0; head.weight.len()],
            bias: vec![0.0; head.bias.len()],
            temperature: 1.0,
        });
        Ok(Self { weights: Weights::zeros(self.weights.config())?, head })
    }

    /// Every tensor with its name after `prefix`.
    fn tensors(&self, prefix: &str) -> Vec<(String, Vec<usize>, &[f32])> {
        let network = self.weights.tensors().into_iter();
        let mut out: Vec<_> =
            network.map(|t| (format!("{prefix}{}", t.name), t.shape, &self.weights.data()[t.range])).collect();
        if let Some(head) = &self.head {
            let n = head.bias.len();
            out.push((format!("{prefix}head.weight"), vec![n, head.weight.len() / n.max(1)], &head.weight));
            out.push((format!("{prefix}head.bias"), vec![n], &head.bias));
            out.push((format!("{prefix}head.temperature"), vec![1], std::slice::from_ref(&head.temperature)));
        }
        out
    }

    fn read(file: &Tensors<'_>, prefix: &str, config: &Config, n_labels: Option<usize>) -> Result<Self> {
        let mut weights = Weights::zeros(config)?;
        for tensor in weights.tensors() {
            let name = format!("{prefix}{}", tensor.name);
            file.copy(&name, &tensor.shape, &mut weights.data_mut()[tensor.range])?;
        }
        let head = n_labels.map(|n| {
            let d = config.n_embd;
            let (mut weight, mut bias, mut temperature) = (vec![0.0; n * d], vec![0.0; n], [0.0]);
            file.copy(&format!("{prefix}head.weight"), &[n, d], &mut weight)?;
            file.copy(&format!("{prefix}head.bias"), &[n], &mut bias)?;
            file.copy(&format!("{prefix}head.temperature"), &[1], &mut temperature)?;
            Ok(Linear { weight, bias, temperature: temperature[0] })
        });
        Ok(Self { weights, head: head.transpose()? })
    }
}

impl Checkpoint {
    /// Writes the file at `path`: whole or not at all, so that a full disk leaves what was there.
    pub fn write(&self, path: &Path) -> Result<()> {
        let state = toml::to_string(&self.state).map_err(|e| Error::invalid(format!("state: {e}")))?;
        let mut tensors = self.model.tensors("");
        if let Some(moments) = &self.moments {
            tensors.extend(moments.first.tensors("adam.m."));
            tensors.extend(moments.second.tensors("adam.v."));
        }
        let entries = tensors.iter().map(|(name, shape, values)| (name.as_str(), shape.as_slice(), *values));
        let bytes = serialize(entries, (STATE, state))?;
        let mut file = AtomicFile::create(path)?;
        file.write_all(&bytes).map_err(|e| Error::io(path, &e))?;
        file.commit()
    }

    /// Reads the file at `path` of a network of shape `config` with a head of `n_labels`, if any.
    pub fn read(path: &Path, config: &Config, n_labels: Option<usize>) -> Result<Self> {
        Self::parse(&read_bounded(path, config, n_labels)?, config, n_labels).map_err(|e| e.at(path.display()))
    }

    fn parse(bytes: &[u8], config: &Config, n_labels: Option<usize>) -> Result<Self> {
        let file = Tensors::parse(bytes, config.n_parameters())?;
        let state = metadata(bytes, STATE)?
            .and_then(|text| toml::from_str(&text).ok())
            .ok_or_else(|| Error::format("not a checkpoint: its metadata has no state"))?;
        let model = Model::read(&file, "", config, n_labels)?;
        let moments = if file.shape("adam.m.transformer.wte.weight").is_some() {
            let first = Model::read(&file, "adam.m.", config, n_labels)?;
            Some(Moments { first, second: Model::read(&file, "adam.v.", config, n_labels)? })
        } else {
            None
        };
        Ok(Self { state, model, moments })
    }
}

fn read_bounded(path: &Path, config: &Config, n_labels: Option<usize>) -> Result<Vec<u8>> {
    config.check()?;
    let size = path.metadata().map_err(|e| Error::io(path, &e))?.len();
    let head = n_labels.unwrap_or(0) * (config.n_embd + 1) + 1;
    let limit = size_limit(3 * (config.n_parameters() + head));
    if size > limit {
        return Err(Error::mismatch(format!("{}: {size} bytes; this run's have at most {limit}", path.display())));
    }
    std::fs::read(path).map_err(|e| Error::io(path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        let weights = Weights::init(&Config::new(9, 2, 8, 2), 1).unwrap();
        let head = Linear { weight: (0..24).map(|i| i as f32 / 7.0).collect(), bias: vec![0.5; 3], temperature: 1.25 };
        let model = Model { weights, head: Some(head) };
        let mut first = model.zeros_like().unwrap();
        first.weights.data_mut()[5] = 1e-30;
        let moments = Moments { second: model.clone(), first };
        let state = State { step: 7, best: Some(0.1 + 0.2), tokens: 12, ..State::default() };
        Checkpoint { state, model, moments: Some(moments) }
    }

    #[test]
    fn a_checkpoint_comes_back_bit_for_bit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("step.safetensors");
        let written = checkpoint();
        written.write(&path).unwrap();
        let config = written.model.weights.config().clone();
        let back = Checkpoint::read(&path, &config, Some(3)).unwrap();
        assert_eq!(back.state, written.state);
        assert_eq!(back.model.weights.data(), written.model.weights.data());
        assert_eq!(back.model.head, written.model.head);
        let (a, b) = (back.moments.unwrap(), written.moments.unwrap());
        assert_eq!(a.first.weights.data(), b.first.weights.data());
        assert_eq!(a.second.head, b.second.head);
    }

    #[test]
    fn files_that_are_no_checkpoint_of_the_run_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("step.safetensors");
        let written = checkpoint();
        written.write(&path).unwrap();
        let config = written.model.weights.config().clone();
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
    fn a_write_that_fails_leaves_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("none").join("step.safetensors");
        assert_eq!(checkpoint().write(&path).unwrap_err().kind(), crate::Kind::Io);
    }
}
