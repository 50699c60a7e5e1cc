//! What a run trains, taken together: one AdamW for each buffer of a [`Model`], clipped by the norm of them all.

use crate::error::{Error, Result};
use crate::train::accelerator::Accelerator;
use crate::train::checkpoint::{Model, Moments};
use crate::train::optimizer::{AdamW, Options, clip_factor, global_norm};
use crate::train::parallel::{Group, Transport};
use crate::train::settings::Loop;

/// The optimisers of a model's buffers.
pub struct Parameters {
    optimizers: Vec<(&'static str, AdamW)>,
    freeze: bool,
    clip: Option<f32>,
    /// Where they lie; the optimisers' moments are then what was fetched last.
    accelerator: Option<Accelerator>,
}

/// The buffers of `model` that are trained, in the order of their optimisers.
fn buffers(model: &mut Model, freeze: bool) -> Vec<&mut [f32]> {
    let mut out = Vec::new();
    if !freeze {
        out.push(model.weights.data_mut());
    }
    if let Some(head) = &mut model.head {
        out.push(head.weight.as_mut_slice());
        out.push(head.bias.as_mut_slice());
    }
    out
}

impl Parameters {
    /// Those of `model`; with `freeze`, of its head alone. All ranks of `group` have the same.
    pub fn new(model: &Model, settings: &Loop, freeze: bool, group: &mut Group) -> Result<Self> {
        let options = Options { weight_decay: settings.weight_decay as f32, ..Options::default() };
        let mut optimizers = Vec::new();
        if !freeze {
            optimizers.push(("network", AdamW::for_weights(&model.weights, options)?));
        }
        if let Some(head) = &model.head {
            optimizers.push(("head.weight", AdamW::new([(head.weight.len(), true)], options)?));
            optimizers.push(("head.bias", AdamW::new([(head.bias.len(), false)], options)?));
        }
        // A head alone is so little that the CPU learns it, wherever the network runs.
        let accelerator = if freeze { None } else { Accelerator::open(settings, model, options, group)? };
        Ok(Self { optimizers, freeze, clip: (settings.clip > 0.0).then_some(settings.clip as f32), accelerator })
    }

    /// The GPU that they lie on, if they do.
    pub fn accelerator(&self) -> Option<&Accelerator> {
        self.accelerator.as_ref()
    }

    /// Brings `model` and the moments up to date with the GPU's, where there is one.
    pub fn fetch(&mut self, model: &mut Model, steps: u64) -> Result<()> {
        let Some(accelerator) = &self.accelerator else { return Ok(()) };
        let [p, m, v] = accelerator.read()?;
        let mut begin = 0;
        for ((_, optimizer), to) in self.optimizers.iter_mut().zip(buffers(model, self.freeze)) {
            let span = begin..begin + to.len();
            begin = span.end;
            to.copy_from_slice(&p[span.clone()]);
            optimizer.restore(steps, &m[span.clone()], &v[span])?;
        }
        Ok(())
    }

    /// Takes `model`, and the moments that were restored, to the GPU, where there is one.
    pub fn load(&self, model: &mut Model, steps: u64) -> Result<()> {
        let Some(accelerator) = &self.accelerator else { return Ok(()) };
        let [mut p, mut m, mut v] = [(); 3].map(|()| Vec::new());
        buffers(model, self.freeze).iter().for_each(|buffer| p.extend_from_slice(buffer));
        for (_, optimizer) in &self.optimizers {
            let (_, own_m, own_v) = optimizer.state();
            m.extend_from_slice(own_m);
            v.extend_from_slice(own_v);
        }
        accelerator.write(&p, steps, [&m, &v])
    }

    /// Steps `model` down its gradients at learning rate `lr` and sets them to zero. Returns their norm before clipping.
    pub fn step(&mut self, model: &mut Model, grads: &mut Model, lr: f64) -> Result<f64> {
        if let Some(accelerator) = &self.accelerator {
            let norm = accelerator.step(lr)?;
            return clip_factor(norm, self.clip).map(|_| norm);
        }
        let (parameters, grads) = (buffers(model, self.freeze), buffers(grads, self.freeze));
        let norm = global_norm(&grads.iter().map(|g| &**g).collect::<Vec<_>>());
        let factor = clip_factor(norm, self.clip)?;
        for (((_, optimizer), p), g) in self.optimizers.iter_mut().zip(parameters).zip(grads) {
            optimizer.step(p, g, factor, lr as f32)?;
        }
        Ok(norm)
    }

    /// Sums the gradients over all ranks: `grads`, or those on the GPUs.
    pub fn sum(&self, grads: &mut Model, group: &mut Group) -> Result<()> {
        if let Some(accelerator) = &self.accelerator {
            return accelerator.sum();
        }
        buffers(grads, self.freeze).into_iter().try_for_each(|buffer| group.sum(buffer))
    }

    /// What a checkpoint must keep of the optimisers.
    pub fn moments(&self) -> Vec<Moments<&[f32]>> {
        let moments = self.optimizers.iter().map(|(name, optimizer)| {
            let (_, m, v) = optimizer.state();
            Moments { name: name.to_string(), m, v }
        });
        moments.collect()
    }

    /// Takes up what a checkpoint kept after `steps` steps.
    pub fn restore(&mut self, steps: u64, moments: &[Moments<Vec<f32>>]) -> Result<()> {
        for (name, optimizer) in &mut self.optimizers {
            let of = moments.iter().find(|of| of.name == *name).ok_or_else(|| {
                Error::mismatch(format!("the checkpoint holds no optimiser's moments of {name}: it is of another run"))
            })?;
            optimizer.restore(steps, &of.m, &of.v)?;
        }
        Ok(())
    }
}
