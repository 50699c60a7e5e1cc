//! The GPU that a run trains on: the one handle that the task computes losses and gradients through and the parameters are
//! stepped through. Weights, gradients and moments stay on it; the host's copies are brought up to date where they are read.

use crate::backend::packed::Precision;
use crate::cuda::nccl::Communicator;
use crate::cuda::train::{Adam, Training};
use crate::error::{Error, Result};
use crate::gpt2::Dropout;
use crate::train::batch::Batch;
use crate::train::checkpoint::Model;
use crate::train::optimizer::Options;
use crate::train::parallel::{Group, Transport, device};
use crate::train::settings::{self, Loop};
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

impl Accelerator {
    /// Puts `model` on the device that `settings` name; none if that is the CPU. The ranks of `group` have a GPU each.
    ///
    /// # Errors
    /// Without a driver or a GPU, if the network does not fit it or its kernels, and if the GPUs do not find each other.
    pub fn open(settings: &Loop, model: &Model, options: Options, group: &mut Group) -> Result<Option<Self>> {
        let precision = match settings.device {
            settings::Device::Cpu => return Ok(None),
            settings::Device::Cuda => Precision::Bf16,
            settings::Device::CudaF32 => Precision::F32,
        };
        if precision == Precision::Bf16 && !model.weights.config().n_embd.is_multiple_of(8) {
            let d = model.weights.config().n_embd;
            return Err(Error::mismatch(format!(
                "--device cuda: the network is {d} wide; products in bf16 take multiples of 8: give --device cuda-f32"
            )));
        }
        let Options { beta1, beta2, epsilon, weight_decay } = options;
        let adam = Adam { beta1, beta2, epsilon, weight_decay, clip: settings.clip as f32 };
        let head = model.head.as_ref().map(|head| [&head.weight[..], &head.bias[..]]);
        let device = device::open(group)?;
        let timeout = group.timeout();
        let others = if group.is_alone() { None } else { Some(device::connect(group, &device, timeout)?) };
        let training = Training::new(&device, precision, model.weights.clone(), head, adam)?;
        Ok(Some(Self(Arc::new(Mutex::new(Own { others, training })))))
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the gradients of a batch: of `scale` times the language model's losses, if any are learnt, and of the classifier's.
    /// Returns both losses, the former not scaled.
    pub fn learn(
        &self,
        batch: &Batch,
        dropout: Option<Dropout>,
        scale: Option<f32>,
        classified: Option<Classified<'_>>,
    ) -> Result<[f64; 2]> {
        let Own { training, .. } = &mut *self.own();
        training.forward(batch.inputs.as_ragged(), dropout)?;
        let mut losses = [0.0; 2];
        if let Some(Classified { n, targets, total }) = classified {
            let total = if total > 0.0 { total as f32 } else { 1.0 };
            losses[1] = training.head_loss(n, targets, total)?;
        }
        if scale.is_some() {
            losses[0] = training.lm_loss(&batch.targets, scale)?.iter().map(|&x| f64::from(x)).sum();
        }
        training.backward()?;
        Ok(losses)
    }

    /// The sum of the language model's losses of a batch, if asked for, and the classifier's logits of its first `n` sequences.
    pub fn judge(&self, batch: &Batch, with_nll: bool, n: usize) -> Result<(f64, Vec<f32>)> {
        let Own { training, .. } = &mut *self.own();
        training.forward(batch.inputs.as_ragged(), None)?;
        let logits = if n > 0 { training.logits(n)? } else { Vec::new() };
        if !with_nll {
            return Ok((0.0, logits));
        }
        let nll = training.lm_loss(&batch.targets, None)?;
        Ok((nll.iter().map(|&x| f64::from(x)).sum(), logits))
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
