//! Pretraining: a language model of flows.

use crate::error::{Error, Result};
use crate::gpt2::{self, Config, Tape, Weights};
use crate::quantizer::Quantizer;
use crate::quantizer::class_spread::ClassPackets;
use crate::tokens::{Token, Vocabulary};
use crate::train::accelerator::Accelerator;
use crate::train::batch::{Batch, Draw, Plan};
use crate::train::checkpoint::Model;
use crate::train::dataset::{Dataset, Flows};
use crate::train::jitter::Jitter;
use crate::train::parallel::{Group, Share};
use crate::train::settings::Pretrain;
use crate::train::smooth;
use crate::train::trainer::{At, StepLoss, Task, Validation};
use serde_json::{Map, json};

/// The language model's task.
pub struct LanguageModel<'a> {
    data: &'a Dataset,
    vocabulary: &'a Vocabulary,
    settings: &'a Pretrain,
    quantizer: &'a Quantizer,
    /// The training flows of the window that the run is in, where they come in windows.
    window: Flows,
    costs: Vec<usize>,
    /// The token of each label that has one.
    class_tokens: Vec<Option<Token>>,
    jitter: Jitter<'a>,
    /// What of every batch is this rank's.
    share: Share,
    /// The batches of a step, kept between steps.
    batches: Vec<Batch>,
    tape: Tape,
    accelerator: Option<Accelerator>,
}

/// The vocabulary over `k` packet tokens, with a class token for each label of `data` if `settings` ask for them.
pub fn vocabulary(k: usize, data: &Dataset, settings: &Pretrain) -> Result<Vocabulary> {
    if settings.with_classes && data.labels.is_empty() {
        return Err(Error::invalid(
            "--with-classes: no flow has a label; give tables with a column label, or leave out --with-classes",
        ));
    }
    let classes = if settings.with_classes { data.labels.clone() } else { Vec::new() };
    Ok(Vocabulary::new(k as u32, classes))
}

/// `quantizer` with the packets of each class of `vocabulary` in the training flows of `data`, for flows of a class to be
/// drawn from; as it is where it has none of other packets either, or `vocabulary` no classes.
pub fn with_class_packets(
    quantizer: Quantizer,
    data: &Dataset,
    vocabulary: &Vocabulary,
    settings: &Pretrain,
) -> Result<Quantizer> {
    // The quantizer may come from a run with classes of its own.
    let quantizer = quantizer.without_class_spread();
    if vocabulary.classes.is_empty() || quantizer.spread().is_none() {
        return Ok(quantizer);
    }
    let mut gathered = ClassPackets::new(vocabulary.classes.len());
    let mut add = |flows: &Flows| {
        for (i, label) in flows.labels.iter().enumerate() {
            // Classes stand in the order of the labels.
            if let Some(class) = label {
                gathered.add(*class, flows.tokens.row(i), flows.packets.row(i));
            }
        }
    };
    match &data.windows {
        None => add(&data.train),
        Some(windows) => {
            for window in 0..windows.n() {
                add(&windows.read(&quantizer, settings.run.seed, 0, window)?);
            }
        }
    }
    gathered.spread(quantizer)
}

/// The shape of the network that `settings` ask for.
pub fn config(vocabulary: &Vocabulary, settings: &Pretrain) -> Result<Config> {
    // The token that leads a flow and the `EOF` that ends it take a position each.
    let n_positions = settings.n_packets + 2;
    let config =
        Config { n_positions, ..Config::new(vocabulary.len(), settings.layers, settings.width, settings.heads) };
    config.check()?;
    Ok(config)
}

/// A network of shape `config` that reads tokens of `quantizer`, at its beginning.
pub fn model(config: &Config, quantizer: &Quantizer, settings: &Pretrain) -> Result<Model> {
    let mut weights = Weights::init(config, settings.run.seed)?;
    smooth::embeddings(&mut weights, quantizer, settings.smooth_embeddings, settings.run.seed)?;
    Ok(Model { weights, head: None })
}

impl<'a> LanguageModel<'a> {
    /// The task on `data`, read through `quantizer`, whose labels are those that `vocabulary` was made for.
    pub fn new(
        data: &'a Dataset,
        quantizer: &'a Quantizer,
        vocabulary: &'a Vocabulary,
        settings: &'a Pretrain,
    ) -> Self {
        let jitter = Jitter::new(quantizer, settings.run.time_jitter, settings.run.reshape, settings.run.seed);
        let class_tokens = data.labels.iter().map(|label| vocabulary.class(label)).collect();
        let (window, costs, batches, tape) = (Flows::default(), data.train.costs(), Vec::new(), Tape::new());
        Self {
            data,
            vocabulary,
            settings,
            quantizer,
            window,
            costs,
            class_tokens,
            jitter,
            share: Share::WHOLE,
            batches,
            tape,
            accelerator: None,
        }
    }

    /// The same task, of which this process does `share` alone.
    #[must_use]
    pub fn shared(self, share: Share) -> Self {
        Self { share, ..self }
    }

    /// The training flows in memory.
    fn train(&self) -> &Flows {
        if self.data.windows.is_some() { &self.window } else { &self.data.train }
    }

    /// The token of the flow's class, if it has one.
    fn class_token(&self, flows: &Flows, flow: usize) -> Option<Token> {
        flows.labels[flow].and_then(|label| self.class_tokens[label as usize])
    }

    /// The token that leads training flow `flow` in `epoch`.
    fn lead(&self, flow: usize, epoch: u64) -> Token {
        let by_class = |_: &Token| Draw::Lead.uniform(self.settings.run.seed, epoch, flow) >= self.settings.bof_share;
        self.class_token(self.train(), flow).filter(by_class).unwrap_or(self.vocabulary.bof)
    }
}

impl Task for LanguageModel<'_> {
    fn windows(&self) -> u64 {
        self.data.windows.as_ref().map_or(1, |windows| windows.n())
    }

    fn accelerate(&mut self, accelerator: Option<Accelerator>) {
        self.accelerator = accelerator;
    }

    fn enter(&mut self, epoch: u64, window: u64) -> Result<()> {
        if let Some(windows) = &self.data.windows {
            // The memory of the one before goes first.
            self.window = Flows::default();
            self.window = windows.read(self.quantizer, self.settings.run.seed, epoch, window)?;
            self.costs = self.window.costs();
        }
        Ok(())
    }

    fn costs(&self) -> &[usize] {
        &self.costs
    }

    fn step(&mut self, model: &Model, batches: &[&[usize]], at: At, grads: &mut Model) -> Result<StepLoss> {
        self.batches.resize_with(self.batches.len().max(batches.len()), Batch::default);
        for (i, flows) in batches.iter().enumerate() {
            let mut batch = std::mem::take(&mut self.batches[i]);
            batch.clear();
            for &flow in *flows {
                let lead = self.lead(flow, at.epoch);
                let train = if self.data.windows.is_some() { &self.window } else { &self.data.train };
                let packets = self.jitter.tokens(train, flow, at.epoch)?;
                batch.push(self.vocabulary, lead, packets, train.ended[flow]);
            }
            self.batches[i] = batch;
        }
        // All of every batch has been read, so that every rank knows what a loss is a mean over and which rows are its own.
        let batches = &mut self.batches[..batches.len()];
        let n = batches.iter().map(Batch::n_targets).sum::<usize>().max(1) as f64;
        let (mut sum, mut tokens) = (0.0, 0);
        for (i, batch) in batches.iter_mut().enumerate() {
            let (sequences, first_row) = batch.take_share(self.share);
            if sequences.is_empty() {
                continue;
            }
            let dropout = self.settings.run.dropout(at.step, i, first_row);
            let scale = (1.0 / n) as f32;
            tokens += batch.targets.len();
            if let Some(accelerator) = &self.accelerator {
                sum += accelerator.learn(batch, dropout, Some(scale), None)?[0];
                continue;
            }
            gpt2::forward(&model.weights, batch.inputs.as_ragged(), dropout, &mut self.tape)?;
            sum += gpt2::lm_loss(&model.weights, &mut self.tape, &batch.targets, scale, &mut grads.weights)?;
            gpt2::backward(&model.weights, &mut self.tape, &mut grads.weights)?;
        }
        Ok(StepLoss { loss: sum / n, tokens })
    }

    fn validate(&mut self, model: &Model, group: &mut Group) -> Result<Validation> {
        let val = &self.data.val;
        let plan = Plan::sequential(&val.costs(), self.settings.run.batch_tokens);
        let (mut batch, mut nll) = (Batch::default(), Vec::new());
        let mut parts = Vec::new();
        for i in group.share().of(plan.len()) {
            batch.clear();
            for &flow in plan.batch(i) {
                let lead = self.class_token(val, flow).unwrap_or(self.vocabulary.bof);
                batch.push(self.vocabulary, lead, val.tokens.row(flow), val.ended[flow]);
            }
            let nll = match &self.accelerator {
                Some(accelerator) => accelerator.judge(&batch, true, 0)?.0,
                None => sum_nll(model, &batch, &mut self.tape, &mut nll)?,
            };
            parts.push([nll, batch.n_targets() as f64]);
        }
        let parts = group.concatenate(parts, plan.len())?;
        let [sum, n] = parts.iter().fold([0.0; 2], |[sum, n], part| [sum + part[0], n + part[1]]);
        let loss = sum / n.max(1.0);
        let mut figures = Map::new();
        figures.insert("val_loss".into(), json!(loss));
        figures.insert("perplexity".into(), json!(loss.exp()));
        Ok(Validation { score: -loss, loss, figures })
    }
}

/// The summed negative log-likelihood of the targets of `batch`, without dropout.
fn sum_nll(model: &Model, batch: &Batch, tape: &mut Tape, nll: &mut Vec<f32>) -> Result<f64> {
    gpt2::forward(&model.weights, batch.inputs.as_ragged(), None, tape)?;
    nll.resize(batch.targets.len(), 0.0);
    gpt2::lm_nll(&model.weights, tape, &batch.targets, nll)?;
    Ok(nll.iter().map(|&x| f64::from(x)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;
    use crate::quantizer::{Codebook, Scaler};

    /// Batches of very different numbers of targets, so that a mean of their means would be another gradient.
    #[test]
    fn batches_of_a_step_give_the_gradient_of_one_large_batch() {
        let centroids = (0..6).map(|i| [i as f32 / 10.0, 0.0]).collect();
        let quantizer = Quantizer::new(Scaler::Log1pUs, Codebook::new(centroids).unwrap());
        let mut train = Flows::default();
        for (i, n) in [1, 40, 2, 17, 3, 60].into_iter().enumerate() {
            train.packets.push((0..n).map(|_| Packet { size: 40, ipt_us: 0.0 }));
            train.tokens.push((0..n).map(|j| (i * 5 + j * j) as Token % 6));
            train.ended.push(i.is_multiple_of(2));
            train.labels.push(None);
            train.groups.push(i as u32);
        }
        let data = Dataset { val: train.clone(), train, ..Dataset::default() };
        let mut settings = Pretrain { layers: 2, width: 8, heads: 2, ..Pretrain::default() };
        settings.run.dropout = 0.0;
        let vocabulary = vocabulary(6, &data, &settings).unwrap();
        let mut model = model(&config(&vocabulary, &settings).unwrap(), &quantizer, &settings).unwrap();
        model.weights.data_mut().iter_mut().for_each(|w| *w *= 5.0);
        let mut task = LanguageModel::new(&data, &quantizer, &vocabulary, &settings);
        let mut gradient = |batches: &[&[usize]]| {
            let mut grads = model.zeros_like().unwrap();
            let found = task.step(&model, batches, At { step: 3, epoch: 0 }, &mut grads).unwrap();
            (found, grads.weights.data().to_vec())
        };
        let (whole_found, whole) = gradient(&[&[0, 1, 2, 3, 4, 5]]);
        let (found, parts) = gradient(&[&[0], &[1, 2], &[3, 4, 5]]);
        assert_eq!((found.tokens, found.tokens), (whole_found.tokens, 129));
        assert!((found.loss - whole_found.loss).abs() < 1e-6 * found.loss);
        let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let error = norm(&mut whole.iter().zip(&parts).map(|(a, b)| a - b)) / norm(&mut whole.iter().copied());
        assert!(error < 1e-6, "relative error {error}");
    }
}
