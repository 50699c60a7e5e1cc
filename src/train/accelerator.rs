//! The GPU that a run trains on: the one handle that the task computes losses and gradients through and the parameters are
//! stepped through. Weights, gradients and moments stay on it; the host's copies are brought up to date where they are read.

use crate::backend::packed::Precision;
use crate::cuda::gpt2::{self, Lane, Network};
use crate::cuda::nccl::Communicator;
use crate::cuda::train::{Adam, Training};
use crate::error::{Error, Kind, Result};
use crate::gpt2::{Config, Dropout};
use crate::packet::Ragged;
use crate::tokens::Token;
use crate::train::batch::Batch;
use crate::train::checkpoint::Model;
use crate::train::optimizer::Options;
use crate::train::parallel::{Group, Transport, device};
use crate::train::settings::{self, Loop};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A network on a GPU, shared by the task and the parameters of a run.
#[derive(Clone)]
pub struct Accelerator(Arc<Mutex<Own>>);

/// What a rank has.
struct Own {
    /// What sums over the GPUs of all ranks, if there are others. Ends before what it sums.
    others: Option<Communicator>,
    training: Training,
}

/// The first sequences of a batch, which are classified.
#[derive(Clone, Copy, Debug)]
pub struct Classified<'a> {
    /// How many.
    pub n: usize,
    /// What each label's negative log-likelihood is multiplied by, row-major `[n, labels]`.
    pub targets: &'a [f32],
    /// What divides the sum; 0: nothing.
    pub total: f64,
}

/// What products read on the device that `settings` name; none if that is the CPU.
fn precision(settings: &Loop, config: &Config) -> Result<Option<Precision>> {
    match (settings.device, config.n_embd) {
        (settings::Device::Cpu, _) => Ok(None),
        (settings::Device::Cuda, d) if !d.is_multiple_of(8) => Err(Error::mismatch(format!(
            "--device cuda: the network is {d} wide; products in bf16 take multiples of 8: give --device cuda-f32"
        ))),
        (settings::Device::Cuda, _) => Ok(Some(Precision::Bf16)),
        (settings::Device::CudaF32, _) => Ok(Some(Precision::F32)),
    }
}

/// A way through the network of `model`, which stays as it is, on the device that `settings` name; none if that is the CPU. The
/// ranks of `group` have a GPU each.
///
/// # Errors
/// As [`Accelerator::open`].
pub fn frozen(settings: &Loop, model: &Model, group: &Group) -> Result<Option<Lane>> {
    let Some(precision) = precision(settings, model.weights.config())? else { return Ok(None) };
    let (device, weights) = (device::open(group)?, Arc::new(model.weights.clone()));
    Network::on(&device, weights, precision, &gpt2::Options::default())?.lane().map(Some)
}

impl Accelerator {
    /// Puts `model` on the device that `settings` name; none if that is the CPU. The ranks of `group` have a GPU each.
    ///
    /// # Errors
    /// Without a driver or a GPU, if the network does not fit it or its kernels, and if the GPUs do not find each other.
    pub fn open(settings: &Loop, model: &Model, options: Options, group: &mut Group) -> Result<Option<Self>> {
        let Some(precision) = precision(settings, model.weights.config())? else { return Ok(None) };
        let Options { beta1, beta2, epsilon, weight_decay } = options;
        let adam = Adam { beta1, beta2, epsilon, weight_decay, clip: settings.clip as f32 };
        let head = model.head.as_ref().map(|head| [&head.weight[..], &head.bias[..]]);
        let device = device::open(group)?;
        let timeout = group.timeout();
        let others = if group.is_alone() { None } else { Some(device::connect(group, &device, timeout)?) };
        let training = Training::new(&device, precision, model.weights.clone(), head, adam)?;
        Ok(Some(Self(Arc::new(Mutex::new(Own { others, training })))))
    }

    /// One that is alone.
    #[cfg(test)]
    fn of(training: Training) -> Self {
        Self(Arc::new(Mutex::new(Own { others: None, training })))
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the gradients of a batch: of `scale` times the language model's losses, if any are learnt, and of the classifier's.
    /// Returns both losses, the former not scaled. A batch that the GPU's memory does not hold goes through the network in parts.
    pub fn learn(
        &self,
        batch: &Batch,
        dropout: Option<Dropout>,
        scale: Option<f32>,
        classified: Option<Classified<'_>>,
    ) -> Result<[f64; 2]> {
        let mut losses = [0.0; 2];
        self.own().for_each_part(batch, dropout, |training, part, next| {
            if let Some(Classified { n, targets, total }) = classified {
                let total = if total > 0.0 { total as f32 } else { 1.0 };
                let (own, labels) = (part.start.min(n)..part.end.min(n), targets.len().checked_div(n).unwrap_or(0));
                let targets = &targets[own.start * labels..own.end * labels];
                losses[1] += training.head_loss(own.len(), targets, total)?;
            }
            if scale.is_some() {
                losses[0] += sum(&training.lm_loss(next, scale)?);
            }
            training.backward()
        })?;
        Ok(losses)
    }

    /// The sum of the language model's losses of a batch, if asked for, and the classifier's logits of its first `n` sequences.
    pub fn judge(&self, batch: &Batch, with_nll: bool, n: usize) -> Result<(f64, Vec<f32>)> {
        let (mut nll, mut logits) = (0.0, Vec::new());
        self.own().for_each_part(batch, None, |training, part, next| {
            let own = part.end.min(n) - part.start.min(n);
            if own > 0 {
                logits.append(&mut training.logits(own)?);
            }
            if with_nll {
                nll += sum(&training.lm_loss(next, None)?);
            }
            Ok(())
        })?;
        Ok((nll, logits))
    }

    /// Sums the gradients over the GPUs of all ranks, where they lie.
    pub fn sum(&self) -> Result<()> {
        let Own { others, training } = &mut *self.own();
        others.as_mut().map_or(Ok(()), |others| Transport::sum(others, training.gradients()))
    }

    /// Steps down the gradients and sets them to zero. Returns their norm before clipping; if it is not finite, nothing was
    /// stepped.
    pub fn step(&self, lr: f64) -> Result<f64> {
        self.own().training.step(lr as f32)
    }

    /// Takes up these parameters, and the moments after `steps` steps, all as flat lists.
    pub fn write(&self, parameters: &[f32], steps: u64, [m, v]: [&[f32]; 2]) -> Result<()> {
        let Own { training, .. } = &mut *self.own();
        training.write(parameters)?;
        training.write_moments(steps, m, v)
    }

    /// All parameters and both moments, as flat lists.
    pub fn read(&self) -> Result<[Vec<f32>; 3]> {
        let Own { training, .. } = &*self.own();
        let [mut p, mut m, mut v] = [(); 3].map(|()| vec![0.0; training.len()]);
        training.read(&mut p)?;
        training.read_moments(&mut m, &mut v)?;
        Ok([p, m, v])
    }
}

fn sum(losses: &[f32]) -> f64 {
    losses.iter().map(|&x| f64::from(x)).sum()
}

impl Own {
    /// Runs `batch` through the network, as many of its sequences at a time as the memory holds, and hands each part to `work`:
    /// which sequences they are, and their targets. Masks of dropout are those of the whole.
    fn for_each_part(
        &mut self,
        batch: &Batch,
        dropout: Option<Dropout>,
        mut work: impl FnMut(&mut Training, Range<usize>, &[Token]) -> Result<()>,
    ) -> Result<()> {
        let (inputs, training) = (batch.inputs.as_ragged(), &mut self.training);
        let offsets = inputs.offsets();
        let mut begin = 0;
        while begin < inputs.len() {
            let end = begin + training.fitting(&offsets[begin..])?;
            let rows = offsets[begin] as usize..offsets[end] as usize;
            let own: Vec<u64> = offsets[begin..=end].iter().map(|at| at - offsets[begin]).collect();
            let part = Ragged::new(&inputs.values()[rows.clone()], &own)?;
            let dropout = dropout.map(|whole| Dropout { first_row: whole.first_row + rows.start, ..whole });
            match training.forward(part, dropout) {
                // Others have taken memory since it was planned. No gradient of this part has been added yet.
                Err(error) if error.kind() == Kind::NoMemory && end - begin > 1 => training.give_back()?,
                result => {
                    result?;
                    work(training, begin..end, &batch.targets[rows])?;
                    begin = end;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::print_stdout, reason = "says why a test was skipped")]
mod tests {
    use super::*;
    use crate::cuda::device::Device;
    use crate::cuda::nccl::Floats;
    use crate::gpt2::Weights;
    use crate::random::Stream;
    use crate::tokens::Vocabulary;

    const DROPOUT: Option<Dropout> = Some(Dropout { p: 0.2, seed: 3, step: 5, first_row: 7 });

    fn gpu() -> Option<Arc<Device>> {
        match Device::open(0) {
            Ok(device) => Some(device),
            Err(error) => {
                println!("skipped: {error}");
                None
            }
        }
    }

    /// Losses, gradients and judgements of a batch whose first sequences are classified.
    fn run(accelerator: &Accelerator, batch: &Batch, n: usize) -> (Vec<f64>, Vec<f32>) {
        let targets: Vec<f32> = (0..3 * n).map(|i| (i % 5) as f32 / 10.0).collect();
        let classified = Classified { n, targets: &targets, total: 4.0 };
        let learnt = accelerator.learn(batch, DROPOUT, Some(0.125), Some(classified)).unwrap();
        let (nll, logits) = accelerator.judge(batch, true, n).unwrap();
        assert_eq!(logits.len(), 3 * n);
        let mut own = accelerator.own();
        let mut grads = vec![0.0; own.training.len()];
        own.training.read_gradients(&mut grads).unwrap();
        let zeros = vec![0.0; grads.len()];
        own.training.write_gradients(&zeros).unwrap();
        let figures = learnt.into_iter().chain([nll]).chain(logits.into_iter().map(f64::from));
        (figures.collect(), grads)
    }

    fn assert_alike((figures, grads): &(Vec<f64>, Vec<f32>), (of_whole, grads_of_whole): &(Vec<f64>, Vec<f32>)) {
        for (a, b) in figures.iter().zip(of_whole) {
            assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{figures:?} {of_whole:?}");
        }
        let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let error = norm(&mut grads.iter().zip(grads_of_whole).map(|(a, b)| a - b));
        let size = norm(&mut grads_of_whole.iter().copied());
        assert!(size > 0.0 && error < 1e-5 * size, "gradients are off by {}", error / size);
    }

    /// By the memory that there was, and by less that others have left meanwhile.
    #[test]
    fn a_batch_that_does_not_fit_goes_through_in_parts_and_changes_nothing() {
        let Some(device) = gpu() else { return };
        let vocabulary = Vocabulary::new(40, []);
        let weights = Weights::init(&Config { n_positions: 40, ..Config::new(vocabulary.len(), 2, 16, 2) }, 3).unwrap();
        let head: Vec<f32> = (0..3 * 16).map(|i| (i % 7) as f32 - 3.0).collect();
        let adam = Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, clip: 0.0 };
        let start = || {
            let head = Some([&head[..], &[0.0; 3]]);
            Training::new(&device, Precision::F32, weights.clone(), head, adam).unwrap()
        };
        let (mut batch, mut draws) = (Batch::default(), Stream::new(2, 2));
        for n in [30, 4, 17, 9, 30, 1, 12, 30] {
            let packets: Vec<Token> = (0..n).map(|_| draws.below(40) as Token).collect();
            batch.push(&vocabulary, vocabulary.bof, &packets, true);
        }
        let offsets = batch.inputs.as_ragged().offsets();
        let whole = run(&Accelerator::of(start()), &batch, 5);

        let mut training = start();
        training.limit_memory(training.bytes(40, 2));
        assert_eq!(training.fitting(offsets).unwrap(), 2);
        assert_alike(&run(&Accelerator::of(training), &batch, 5), &whole);

        let mut training = start();
        training.limit_memory(training.bytes(20, 1));
        let error = Accelerator::of(training).learn(&batch, DROPOUT, None, None).unwrap_err();
        assert_eq!(error.kind(), Kind::NoMemory);
        assert!(error.message().contains("31 tokens") && error.message().contains("--n-packets"), "{error}");

        let training = start();
        let left = (training.bytes(40, 2) + training.bytes(62, 3)) / 2;
        assert_eq!(training.fitting(offsets).unwrap(), 8);
        let _others = Floats::zeros(&device, (device.memory().unwrap().0 - left) / 4, "what others hold").unwrap();
        assert_alike(&run(&Accelerator::of(training), &batch, 5), &whole);
    }
}
