//! Pretraining: a language model of flows.

use crate::error::{Error, Result};
use crate::gpt2::{self, Config, Tape, Weights};
use crate::quantizer::Quantizer;
use crate::tokens::{Token, Vocabulary};
use crate::train::batch::{Batch, Draw, Plan};
use crate::train::checkpoint::Model;
use crate::train::dataset::{Dataset, Flows};
use crate::train::jitter::Jitter;
use crate::train::settings::Pretrain;
use crate::train::smooth;
use crate::train::trainer::{At, StepLoss, Task, Validation};
use serde_json::{Map, json};

/// The language model's task.
pub struct LanguageModel<'a> {
    data: &'a Dataset,
    vocabulary: &'a Vocabulary,
    settings: &'a Pretrain,
    costs: Vec<usize>,
    /// The token of each label that has one.
    class_tokens: Vec<Option<Token>>,
    jitter: Jitter<'a>,
    batch: Batch,
    tape: Tape,
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
        let (costs, batch, tape) = (data.train.costs(), Batch::default(), Tape::new());
        Self { data, vocabulary, settings, costs, class_tokens, jitter, batch, tape }
    }

    /// The token of the flow's class, if it has one.
    fn class_token(&self, flows: &Flows, flow: usize) -> Option<Token> {
        flows.labels[flow].and_then(|label| self.class_tokens[label as usize])
    }

    /// The token that leads training flow `flow` in `epoch`.
    fn lead(&self, flow: usize, epoch: u64) -> Token {
        let by_class = |_: &Token| Draw::Lead.uniform(self.settings.run.seed, epoch, flow) >= self.settings.bof_share;
        self.class_token(&self.data.train, flow).filter(by_class).unwrap_or(self.vocabulary.bof)
    }
}

impl Task for LanguageModel<'_> {
    fn costs(&self) -> &[usize] {
        &self.costs
    }

    fn step(&mut self, model: &Model, flows: &[usize], at: At, grads: &mut Model) -> Result<StepLoss> {
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        for &flow in flows {
            let train = &self.data.train;
            let lead = self.lead(flow, at.epoch);
            // What a class token leads is to be generated as it is; classifiers, which read BOF, are to know it changed.
            let packets = match lead == self.vocabulary.bof {
                true => self.jitter.tokens(train, flow, at.epoch)?,
                false => train.tokens.row(flow),
            };
            batch.push(self.vocabulary, lead, packets, train.ended[flow]);
        }
        let run = &self.settings.run;
        let dropout = run.dropout(at.step);
        gpt2::forward(&model.weights, batch.inputs.as_ragged(), dropout, &mut self.tape)?;
        let n = batch.n_targets().max(1) as f64;
        let sum = gpt2::lm_loss(&model.weights, &mut self.tape, &batch.targets, (1.0 / n) as f32, &mut grads.weights)?;
        gpt2::backward(&model.weights, &mut self.tape, &mut grads.weights)?;
        let tokens = batch.targets.len();
        self.batch = batch;
        Ok(StepLoss { loss: sum / n, tokens })
    }

    fn validate(&mut self, model: &Model) -> Result<Validation> {
        let val = &self.data.val;
        let plan = Plan::sequential(&val.costs(), self.settings.run.batch_tokens);
        let (mut batch, mut nll) = (std::mem::take(&mut self.batch), Vec::new());
        let (mut sum, mut n) = (0.0, 0);
        for i in 0..plan.len() {
            batch.clear();
            for &flow in plan.batch(i) {
                let lead = self.class_token(val, flow).unwrap_or(self.vocabulary.bof);
                batch.push(self.vocabulary, lead, val.tokens.row(flow), val.ended[flow]);
            }
            sum += sum_nll(model, &batch, &mut self.tape, &mut nll)?;
            n += batch.n_targets();
        }
        self.batch = batch;
        let loss = sum / n.max(1) as f64;
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
