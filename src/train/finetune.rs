//! Fine-tuning: a linear head on the mean of the packets' hidden states, with the network or on top of it as it is.
//!
//! The classifier reads `BOF` and packets, never a class token. Beside its loss stands the language model's (Radford et
//! al., "Improving language understanding by generative pre-training", 2018), on the same sequences and, where the
//! vocabulary has class tokens, on those led by them, so that the network still generates afterwards.

use crate::classifier::argmax;
use crate::error::Result;
use crate::gpt2::{self, Dropout, Tape};
use crate::head::Head;
use crate::head::forest::{Forest, features};
use crate::head::linear::{Linear, softmax};
use crate::quantizer::Quantizer;
use crate::random::Stream;
use crate::tokens::{Token, Vocabulary};
use crate::train::accelerator::{self, Accelerator, Classified};
use crate::train::batch::{Batch, Draw, Plan};
use crate::train::calibrate;
use crate::train::checkpoint::Model;
use crate::train::dataset::{Dataset, Flows};
use crate::train::forest;
use crate::train::head_loss::{self, Objective, Truth};
use crate::train::heads::{self, Sample};
use crate::train::interrupt::Interrupt;
use crate::train::jitter::Jitter;
use crate::train::lessons::{Lesson, Lessons};
use crate::train::metrics::{Confusion, Scores};
use crate::train::parallel::{Group, Share};
use crate::train::settings::{ClassWeights, Finetune};
use crate::train::trainer::{At, StepLoss, Task, Validation};
use serde_json::{Map, json};

/// Spread of the head's first weights, as of all others.
const HEAD_STD: f64 = 0.02;

/// Validation flows whose neighbours are looked for exactly, to tell how many the cells find.
const RECALL_FLOWS: usize = 500;

/// The classifier's task.
pub struct Classification<'a> {
    data: &'a Dataset,
    vocabulary: &'a Vocabulary,
    settings: &'a Finetune,
    objective: Objective,
    /// What the teachers say of each training flow.
    answers: Option<Vec<f32>>,
    lessons: Lessons,
    costs: Vec<usize>,
    class_tokens: Vec<Option<Token>>,
    centroids: &'a [[f32; 2]],
    jitter: Jitter<'a>,
    /// Embeddings of the training and the validation flows, of a network that stays as it is.
    frozen: Option<[Vec<f32>; 2]>,
    /// What of every batch is this rank's.
    share: Share,
    scratch: Scratch,
    accelerator: Option<Accelerator>,
}

/// Buffers of a step, kept between steps.
#[derive(Default)]
struct Scratch {
    batch: Batch,
    tape: Tape,
    embeddings: Vec<f32>,
    logits: Vec<f32>,
    d_embeddings: Vec<f32>,
    nll: Vec<f32>,
}

/// A head for `n_labels` over embeddings of `n_embd` at its beginning.
pub fn head(n_labels: usize, n_embd: usize, seed: u64) -> Linear {
    // Uniform with the spread of the network's weights; a stream that none of its tensors draws from.
    let mut draws = Stream::new(seed, u64::MAX);
    let weight = (0..n_labels * n_embd).map(|_| (HEAD_STD * 12f64.sqrt() * (draws.uniform() - 0.5)) as f32).collect();
    Linear { weight, bias: vec![0.0; n_labels], temperature: 1.0 }
}

/// What each label's flows count, so that the mean over the training flows is 1.
pub(super) fn label_weights(flows: &Flows, n_labels: usize, weights: ClassWeights) -> Vec<f32> {
    let mut counts = vec![0u32; n_labels];
    for label in flows.labels.iter().flatten() {
        counts[*label as usize] += 1;
    }
    let raw = |count: u32| match weights {
        ClassWeights::None => 1.0,
        ClassWeights::Sqrt => 1.0 / f64::from(count.max(1)).sqrt(),
        ClassWeights::Balanced => 1.0 / f64::from(count.max(1)),
    };
    let total: f64 = counts.iter().map(|&n| f64::from(n) * raw(n)).sum();
    let flows: u32 = counts.iter().sum();
    counts.iter().map(|&n| (raw(n) * f64::from(flows) / total) as f32).collect()
}

/// How many of the `n` packets of training flow `flow` the classifier sees in `pass`.
fn cut(settings: &Finetune, flow: usize, pass: u64, n: usize) -> usize {
    let draw = Draw::Cut.uniform(settings.run.seed, pass, flow);
    if draw >= settings.crop {
        return n;
    }
    // Below the threshold the draw is uniform in 0..crop, so one draw decides both. As many flows are cut after the first packet as
    // after two or three or after four to seven: what comes first says most.
    ((n as f64).powf(draw / settings.crop) as usize).clamp(1, n)
}

impl<'a> Classification<'a> {
    /// The task on `data`, read through `quantizer`. All flows have labels; or the training flows have `answers`, row-major
    /// `[data.train.len(), data.labels.len()]`, and some of them no label.
    pub fn new(
        data: &'a Dataset,
        answers: Option<Vec<f32>>,
        quantizer: &'a Quantizer,
        vocabulary: &'a Vocabulary,
        settings: &'a Finetune,
    ) -> Self {
        let n_labels = data.labels.len();
        let label_weights = label_weights(&data.train, n_labels, settings.class_weights);
        let objective = Objective {
            label_weights,
            smoothing: settings.label_smoothing as f32,
            teacher_share: settings.teacher_weight as f32,
            unlabelled: settings.unlabelled_weight as f32,
        };
        let class_tokens: Vec<Option<Token>> = data.labels.iter().map(|label| vocabulary.class(label)).collect();
        let mut task = Self {
            data,
            vocabulary,
            settings,
            objective,
            answers,
            lessons: Lessons::new(&data.train, settings.labelled_repeats),
            costs: Vec::new(),
            class_tokens,
            centroids: quantizer.codebook().centroids(),
            jitter: Jitter::new(quantizer, settings.run.time_jitter, settings.run.reshape, settings.run.seed),
            frozen: None,
            share: Share::WHOLE,
            scratch: Scratch::default(),
            accelerator: None,
        };
        let costs = data.train.costs();
        let cost = |i| {
            let flow = task.lessons.lesson(i, 0).flow;
            if task.class_led(flow).is_some() { 2 * costs[flow] } else { costs[flow] }
        };
        task.costs = (0..task.lessons.len()).map(cost).collect();
        task
    }

    /// The same task, of which this process does `share` alone.
    #[must_use]
    pub fn shared(self, share: Share) -> Self {
        Self { share, ..self }
    }

    /// Embeds all flows once, for a network that stays as it is, on the device of the settings. The ranks of `group` do a part each.
    pub fn freeze(&mut self, model: &Model, group: &mut Group) -> Result<()> {
        let d = model.weights.config().n_embd;
        let mut lane = accelerator::frozen(&self.settings.run, model, group)?;
        let mut embed = |scratch: &mut Scratch, flows: &Flows| -> Result<Vec<f32>> {
            let mut out = Vec::new();
            let plan = Plan::sequential(&flows.costs(), self.settings.run.batch_tokens);
            for i in group.share().of(plan.len()) {
                scratch.read(self.vocabulary, flows, plan.batch(i));
                match &mut lane {
                    Some(lane) => {
                        scratch.embeddings.resize(plan.batch(i).len() * d, 0.0);
                        lane.embed(scratch.batch.inputs.as_ragged(), 1, &mut scratch.embeddings)?;
                    }
                    None => scratch.embed(model, None, plan.batch(i).len())?,
                }
                out.extend_from_slice(&scratch.embeddings);
            }
            group.concatenate(out, flows.len() * d)
        };
        self.frozen = Some([embed(&mut self.scratch, &self.data.train)?, embed(&mut self.scratch, &self.data.val)?]);
        Ok(())
    }

    /// The head of another kind than linear that the settings ask for, fitted to the embeddings of [`Self::freeze`] and
    /// calibrated on those of the validation flows, with what it says of these: logarithms of probabilities at temperature
    /// 1, row-major `[data.val.len(), data.labels.len()]`. None where it is linear.
    pub fn fit(&self) -> Result<Option<(Head, Vec<f32>)>> {
        let (Some([train, val]), false) = (&self.frozen, self.data.train.is_empty()) else { return Ok(None) };
        // All have one: flows without a label are learnt from teachers alone, who teach linear heads only.
        let labels: Vec<u32> = self.data.train.labels.iter().flatten().copied().collect();
        let (n_embd, n_labels) = (train.len() / labels.len(), self.data.labels.len());
        let sample = Sample { embeddings: train, n_embd, labels: &labels, n_labels };
        let Some(head) = heads::fit(&self.settings.head, sample, self.settings.run.seed)? else { return Ok(None) };
        let logits = heads::log_scores(&head, val, n_embd, n_labels);
        Ok(Some((head, logits)))
    }

    /// Which share of the nearest references of validation flows a head with cells finds.
    pub fn recall(&self, head: &Head) -> Option<f64> {
        match (head, &self.frozen) {
            (Head::Knn(head), Some([_, val])) if head.cells.is_some() => {
                let most = RECALL_FLOWS * head.standard.mean.len();
                Some(heads::knn::recall(head, &val[..val.len().min(most)]))
            }
            _ => None,
        }
    }

    /// The class token that leads a second copy of training flow `flow`, if the language model is to learn it.
    fn class_led(&self, flow: usize) -> Option<Token> {
        let learns = self.settings.lm_weight > 0.0 && !self.settings.freeze;
        self.data.train.labels[flow].filter(|_| learns).and_then(|label| self.class_tokens[label as usize])
    }

    /// Logits of all validation flows, and the language model's mean loss where it is learnt. The ranks of `group` compute
    /// a part each.
    pub fn validation_logits(&mut self, model: &Model, group: &mut Group) -> Result<(Vec<f32>, Option<f64>)> {
        let Some(head) = &model.head else { return Ok((Vec::new(), None)) };
        let mut logits = Vec::new();
        if let Some([_, val]) = &self.frozen {
            head_loss::logits(head, val, &mut logits);
            return Ok((logits, None));
        }
        let val = &self.data.val;
        let plan = Plan::sequential(&val.costs(), self.settings.run.batch_tokens);
        let scratch = &mut self.scratch;
        let mut parts = Vec::new();
        for i in group.share().of(plan.len()) {
            scratch.read(self.vocabulary, val, plan.batch(i));
            if let Some(accelerator) = &self.accelerator {
                let learns = self.settings.lm_weight > 0.0;
                let (nll, part) = accelerator.judge(&scratch.batch, learns, plan.batch(i).len())?;
                logits.extend_from_slice(&part);
                if learns {
                    parts.push([nll, scratch.batch.n_targets() as f64]);
                }
                continue;
            }
            scratch.embed(model, None, plan.batch(i).len())?;
            head_loss::logits(head, &scratch.embeddings, &mut scratch.logits);
            logits.extend_from_slice(&scratch.logits);
            if self.settings.lm_weight > 0.0 {
                scratch.nll.resize(scratch.batch.targets.len(), 0.0);
                gpt2::lm_nll(&model.weights, &mut scratch.tape, &scratch.batch.targets, &mut scratch.nll)?;
                let sum = scratch.nll.iter().map(|&x| f64::from(x)).sum::<f64>();
                parts.push([sum, scratch.batch.n_targets() as f64]);
            }
        }
        let n_parts = if self.settings.lm_weight > 0.0 { plan.len() } else { 0 };
        let parts = group.concatenate(parts, n_parts)?;
        let [sum, n] = parts.iter().fold([0.0; 2], |[sum, n], part| [sum + part[0], n + part[1]]);
        let logits = group.concatenate(logits, val.len() * self.data.labels.len())?;
        Ok((logits, (n > 0.0).then(|| sum / n)))
    }

    /// Labels of the validation flows.
    pub fn validation_labels(&self) -> Vec<u32> {
        self.data.val.labels.iter().flatten().copied().collect()
    }

    /// The trees that are to vote beside the head, grown on the training flows; none if none are asked for.
    pub fn forest(&self, interrupt: &Interrupt) -> Result<Option<Forest>> {
        let Some(trees) = self.settings.trees() else {
            return Ok(None);
        };
        let Finetune { forest_times: times, crop: cut, .. } = *self.settings;
        let plan = forest::Plan { trees, times, cut, seed: self.settings.run.seed };
        let grown = forest::grow(&self.data.train, self.centroids, &self.objective.label_weights, plan, interrupt)?;
        let forest = Forest { weight: self.settings.forest_weight as f32, ..grown };
        forest.check(self.data.labels.len())?;
        Ok(Some(forest))
    }

    /// Mixes the votes of `forest` into what a head says of the validation flows: from `logits`, row-major `[data.val.len(),
    /// data.labels.len()]`, to logarithms of probabilities.
    pub fn vote(&self, forest: &Forest, logits: &mut [f32]) {
        let mut votes = Vec::new();
        for (i, row) in logits.chunks_exact_mut(self.data.labels.len()).enumerate() {
            softmax(row);
            forest.vote(&features(self.data.val.tokens.row(i), self.centroids), row, &mut votes);
            row.iter_mut().for_each(|p| *p = p.max(f32::MIN_POSITIVE).ln());
        }
    }

    /// The temperature that makes the probabilities of `logits` fit the validation flows best.
    pub fn temperature(&self, logits: &[f32]) -> f32 {
        calibrate::temperature(logits, &self.validation_labels(), self.data.labels.len())
    }

    /// Mean negative log-likelihood of the truths under `softmax(logits / temperature)`.
    pub fn loss(&self, logits: &[f32], temperature: f32) -> f64 {
        calibrate::nll(logits, &self.validation_labels(), self.data.labels.len(), temperature.into())
    }

    /// How good `logits` are on the validation flows.
    pub fn scores(&self, logits: &[f32]) -> Result<Scores> {
        let mut confusion = Confusion::new(self.data.labels.len());
        for (row, truth) in logits.chunks_exact(self.data.labels.len()).zip(self.validation_labels()) {
            confusion.add(truth, argmax(row).0 as u32)?;
        }
        Ok(confusion.scores())
    }

    /// What is known of the training flow `flow`.
    fn truth(&self, flow: usize) -> Truth<'_> {
        let n = self.data.labels.len();
        let answer = self.answers.as_ref().map(|answers| &answers[flow * n..(flow + 1) * n]);
        Truth { label: self.data.train.labels[flow], answer }
    }

    /// Adds the head's gradients for the embeddings of `lessons` in `scratch`; their part of its loss, which is a mean
    /// over flows that count `total`.
    fn head_step(&mut self, head: &Linear, lessons: &[Lesson], total: f64, grads: &mut Linear) -> f64 {
        let mut s = std::mem::take(&mut self.scratch);
        head_loss::logits(head, &s.embeddings, &mut s.logits);
        let truths = lessons.iter().map(|lesson| self.truth(lesson.flow));
        let loss = self.objective.apply(&mut s.logits, truths, total);
        head_loss::logits_backward(head, &s.embeddings, &s.logits, grads, &mut s.d_embeddings);
        self.scratch = s;
        loss
    }

    /// The sequences of `lessons`, changed as the settings say: led by `BOF` to be classified, then, where the language
    /// model learns them too, by their class.
    fn read(&mut self, lessons: &[Lesson], batch: &mut Batch) -> Result<()> {
        let (run, train) = (&self.settings.run, &self.data.train);
        batch.clear();
        for &Lesson { flow, pass } in lessons {
            let borrow = Draw::Borrow.uniform(run.seed, pass, flow) < self.settings.borrow_times;
            let packets = match borrow {
                true => self.jitter.borrowed(train, flow, pass)?,
                false => self.jitter.tokens(train, flow, pass)?,
            };
            let n = cut(self.settings, flow, pass, packets.len());
            batch.push(self.vocabulary, self.vocabulary.bof, &packets[..n], train.ended[flow] && n == packets.len());
            if borrow {
                batch.forget_targets();
            }
        }
        for &Lesson { flow, pass } in lessons {
            if let Some(class) = self.class_led(flow) {
                let packets = self.jitter.tokens(train, flow, pass)?;
                batch.push(self.vocabulary, class, packets, train.ended[flow]);
            }
        }
        Ok(())
    }
}

impl Scratch {
    /// The sequences of `flows`, whole and led by `BOF`.
    fn read(&mut self, vocabulary: &Vocabulary, flows: &Flows, which: &[usize]) {
        self.batch.clear();
        for &flow in which {
            self.batch.push(vocabulary, vocabulary.bof, flows.tokens.row(flow), flows.ended[flow]);
        }
    }

    /// Runs the batch through the network and embeds its first `n` sequences.
    fn embed(&mut self, model: &Model, dropout: Option<Dropout>, n: usize) -> Result<()> {
        let d = model.weights.config().n_embd;
        gpt2::forward(&model.weights, self.batch.inputs.as_ragged(), dropout, &mut self.tape)?;
        self.embeddings.resize(n * d, 0.0);
        for (i, out) in self.embeddings.chunks_exact_mut(d).enumerate() {
            head_loss::pool(self.tape.hidden(), self.batch.packets(i), out);
        }
        Ok(())
    }
}

impl Task for Classification<'_> {
    fn accelerate(&mut self, accelerator: Option<Accelerator>) {
        self.accelerator = accelerator;
    }

    fn costs(&self) -> &[usize] {
        &self.costs
    }

    fn step(&mut self, model: &Model, batches: &[&[usize]], at: At, grads: &mut Model) -> Result<StepLoss> {
        let (Some(head), Some(head_grads)) = (&model.head, &mut grads.head) else {
            return Ok(StepLoss { loss: 0.0, tokens: 0 });
        };
        let lessons = |batch: &[usize]| batch.iter().map(|&i| self.lessons.lesson(i, at.epoch)).collect();
        let lessons: Vec<Vec<Lesson>> = batches.iter().map(|batch| lessons(batch)).collect();
        let total = self.objective.total(lessons.iter().flatten().map(|lesson| self.truth(lesson.flow)));
        let d = model.weights.config().n_embd;
        if let Some([train, _]) = &self.frozen {
            let mut lessons = lessons.concat();
            let mine = self.share.of(lessons.len());
            let flows = batches.iter().copied().flatten().skip(mine.start).take(mine.len());
            let tokens = flows.map(|&i| self.costs[i]).sum();
            lessons.truncate(mine.end);
            lessons.drain(..mine.start);
            self.scratch.embeddings.clear();
            for &Lesson { flow, .. } in &lessons {
                self.scratch.embeddings.extend_from_slice(&train[flow * d..(flow + 1) * d]);
            }
            return Ok(StepLoss { loss: self.head_step(head, &lessons, total, head_grads), tokens });
        }

        let mut read = vec![Batch::default(); lessons.len()];
        lessons.iter().zip(&mut read).try_for_each(|(lessons, batch)| self.read(lessons, batch))?;
        let n = read.iter().map(Batch::n_targets).sum::<usize>().max(1) as f64;
        let (mut loss, mut tokens) = (0.0, 0);
        for (i, (lessons, mut batch)) in lessons.iter().zip(read).enumerate() {
            let (mine, first_row) = batch.take_share(self.share);
            if mine.is_empty() {
                continue;
            }
            // Of those led by their class none is classified.
            let lessons = &lessons[mine.start.min(lessons.len())..mine.end.min(lessons.len())];
            let dropout = self.settings.run.dropout(at.step, i, first_row);
            if let Some(accelerator) = &self.accelerator {
                let targets = self.objective.targets(lessons.iter().map(|lesson| self.truth(lesson.flow)));
                let classified = Classified { n: lessons.len(), targets: &targets, total };
                let scale = self.settings.lm_weight / n;
                let learnt = (scale > 0.0).then_some(scale as f32);
                let [lm, own] = accelerator.learn(&batch, dropout, learnt, Some(classified))?;
                loss += own + scale * lm;
                tokens += batch.targets.len();
                continue;
            }
            self.scratch.batch = batch;
            self.scratch.embed(model, dropout, lessons.len())?;
            loss += self.head_step(head, lessons, total, head_grads);
            let s = &mut self.scratch;
            for (i, g) in s.d_embeddings.chunks_exact(d).enumerate() {
                head_loss::pool_backward(g, s.batch.packets(i), s.tape.d_hidden_mut());
            }
            if self.settings.lm_weight > 0.0 {
                let scale = self.settings.lm_weight / n;
                let (tape, targets) = (&mut s.tape, &s.batch.targets);
                loss += scale * gpt2::lm_loss(&model.weights, tape, targets, scale as f32, &mut grads.weights)?;
            }
            gpt2::backward(&model.weights, &mut s.tape, &mut grads.weights)?;
            tokens += s.batch.targets.len();
        }
        Ok(StepLoss { loss, tokens })
    }

    fn validate(&mut self, model: &Model, group: &mut Group) -> Result<Validation> {
        let (logits, lm_loss) = self.validation_logits(model, group)?;
        let scores = self.scores(&logits)?;
        let loss = self.loss(&logits, 1.0);
        let mut figures = Map::new();
        figures.insert("val_loss".into(), json!(loss));
        figures.insert("accuracy".into(), json!(scores.accuracy));
        figures.insert("macro_f1".into(), json!(scores.macro_f1));
        if let Some(lm_loss) = lm_loss {
            figures.insert("lm_loss".into(), json!(lm_loss));
        }
        Ok(Validation { score: scores.macro_f1, loss, figures })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpt2::{Config, Weights};
    use crate::packet::Packet;
    use crate::quantizer::{Codebook, Scaler};

    fn quantizer() -> Quantizer {
        let centroids = (0..6).map(|i| [i as f32 / 10.0, 0.0]).collect();
        Quantizer::new(Scaler::Log1pUs, Codebook::new(centroids).unwrap())
    }

    fn flows(rows: &[(&[Token], u32)]) -> Flows {
        let mut out = Flows::default();
        for (tokens, label) in rows {
            out.packets.push(tokens.iter().map(|_| Packet { size: 40, ipt_us: 0.0 }));
            out.tokens.push(tokens.iter().copied());
            out.ended.push(true);
            out.labels.push(Some(*label));
            out.groups.push(out.groups.len() as u32);
        }
        out
    }

    fn data() -> Dataset {
        let train = flows(&[(&[0, 1, 2], 0), (&[3, 3], 1), (&[4, 0, 1, 5], 1)]);
        Dataset { val: train.clone(), train, labels: vec!["a".into(), "b".into()], ..Dataset::default() }
    }

    fn settings() -> Finetune {
        let mut settings = Finetune { lm_weight: 0.7, label_smoothing: 0.1, ..Finetune::default() };
        settings.run.dropout = 0.0;
        settings
    }

    fn model(vocabulary: &Vocabulary) -> Model {
        let weights = Weights::init(&Config::new(vocabulary.len(), 2, 8, 2), 3).unwrap();
        let mut head = head(2, 8, 3);
        head.weight.iter_mut().for_each(|w| *w *= 20.0);
        Model { weights, head: Some(head) }
    }

    /// The slope of the loss along the gradient is the gradient's norm.
    #[test]
    fn gradients_are_those_of_the_loss() {
        let (data, settings, vocabulary) = (data(), settings(), Vocabulary::new(6, ["a".to_string()]));
        check_gradients(&data, None, &settings, &vocabulary);
        let mut taught = data;
        taught.train.labels[1] = None;
        let answers = vec![0.5, 0.5, 0.25, 0.75, 1.0, 0.0];
        check_gradients(&taught, Some(answers), &Finetune { unlabelled_weight: 3.0, ..settings }, &vocabulary);
    }

    fn check_gradients(data: &Dataset, answers: Option<Vec<f32>>, settings: &Finetune, vocabulary: &Vocabulary) {
        let quantizer = quantizer();
        let mut task = Classification::new(data, answers, &quantizer, vocabulary, settings);
        let mut costs = task.costs().to_vec();
        costs.sort_unstable();
        assert_eq!(costs, [3, 5, 8], "the flow with a class token is read twice");
        let model = model(vocabulary);
        let at = At { step: 0, epoch: 0 };
        let mut grads = model.zeros_like().unwrap();
        let found = task.step(&model, &[&[0, 1, 2]], at, &mut grads).unwrap();
        assert_eq!(found.tokens, 16);
        let network: f64 = grads.weights.data().iter().map(|&g| f64::from(g).powi(2)).sum();
        let of_head = grads.head.as_ref().unwrap();
        let head: f64 = of_head.weight.iter().chain(&of_head.bias).map(|&g| f64::from(g).powi(2)).sum();
        let norm = (network + head).sqrt();
        let mut moved = |by: f64| {
            let mut model = model.clone();
            let scale = (by / norm) as f32;
            model.weights.data_mut().iter_mut().zip(grads.weights.data()).for_each(|(w, g)| *w += scale * g);
            let head = model.head.as_mut().unwrap();
            head.weight.iter_mut().zip(&of_head.weight).for_each(|(w, g)| *w += scale * g);
            head.bias.iter_mut().zip(&of_head.bias).for_each(|(w, g)| *w += scale * g);
            let mut unused = model.zeros_like().unwrap();
            task.step(&model, &[&[0, 1, 2]], at, &mut unused).unwrap().loss
        };
        let slope = (moved(3e-4) - moved(-3e-4)) / 6e-4;
        assert!((slope - norm).abs() < 2e-3 * norm, "slope {slope}, gradient {norm}");
    }

    #[test]
    fn batches_of_a_step_give_the_gradient_of_one_large_batch() {
        let (mut data, vocabulary, quantizer) = (data(), Vocabulary::new(6, ["a".to_string()]), quantizer());
        data.train.labels[1] = None;
        let answers = vec![0.5, 0.5, 0.25, 0.75, 1.0, 0.0];
        for freeze in [false, true] {
            let settings = Finetune { freeze, ..settings() };
            let mut task = Classification::new(&data, Some(answers.clone()), &quantizer, &vocabulary, &settings);
            let model = model(&vocabulary);
            if freeze {
                task.freeze(&model, &mut Group::alone()).unwrap();
            }
            let mut gradient = |batches: &[&[usize]]| {
                let mut grads = model.zeros_like().unwrap();
                let loss = task.step(&model, batches, At { step: 0, epoch: 0 }, &mut grads).unwrap().loss;
                (loss, [grads.weights.data(), &grads.head.unwrap().weight].concat())
            };
            let (whole_loss, whole) = gradient(&[&[0, 1, 2]]);
            let (loss, parts) = gradient(&[&[0], &[1, 2]]);
            assert!((loss - whole_loss).abs() < 1e-6 * whole_loss, "{loss} {whole_loss}");
            let size = whole.iter().fold(0f32, |size, g| size.max(g.abs()));
            let error = whole.iter().zip(&parts).fold(0f32, |error, (a, b)| error.max((a - b).abs()));
            assert!(size > 0.0 && error < 1e-6 * size, "freeze {freeze}: {error} of {size}");
        }
    }

    #[test]
    fn a_frozen_network_gives_the_same_figures() {
        let (data, settings, vocabulary) = (data(), Finetune { freeze: true, ..settings() }, Vocabulary::new(6, []));
        let model = model(&vocabulary);
        let quantizer = quantizer();
        let mut task = Classification::new(&data, None, &quantizer, &vocabulary, &settings);
        let group = &mut Group::alone();
        let (running, _) = task.validation_logits(&model, group).unwrap();
        task.freeze(&model, group).unwrap();
        let (frozen, _) = task.validation_logits(&model, group).unwrap();
        assert_eq!(running, frozen);
        let mut grads = model.zeros_like().unwrap();
        task.step(&model, &[&[2, 0]], At { step: 0, epoch: 0 }, &mut grads).unwrap();
        assert!(grads.weights.data().iter().all(|&g| g == 0.0));
        assert!(grads.head.unwrap().weight.iter().any(|&g| g != 0.0));
    }

    #[test]
    fn label_weights_average_to_one_over_the_flows() {
        let flows = flows(&[(&[0], 0), (&[0], 0), (&[0], 0), (&[0], 0), (&[0], 1)]);
        assert_eq!(label_weights(&flows, 2, ClassWeights::None), [1.0, 1.0]);
        let balanced = label_weights(&flows, 2, ClassWeights::Balanced);
        assert!((balanced[0] - 0.625).abs() < 1e-6 && (balanced[1] - 2.5).abs() < 1e-6, "{balanced:?}");
        let sqrt = label_weights(&flows, 3, ClassWeights::Sqrt);
        assert!((4.0 * sqrt[0] + sqrt[1] - 5.0).abs() < 1e-5 && (sqrt[1] / sqrt[0] - 2.0).abs() < 1e-5, "{sqrt:?}");
    }

    #[test]
    fn cuts_keep_at_least_one_packet_and_as_many_flows_as_asked() {
        let (n, settings) = (2000, Finetune { crop: 0.4, ..settings() });
        let mut counts = [0; 5];
        (0..n).for_each(|flow| counts[cut(&settings, flow, 3, 4)] += 1);
        assert_eq!(counts[0], 0);
        let halves = [counts[1], counts[2] + counts[3]];
        assert!(halves.iter().all(|c| (340..460).contains(c)), "a fifth each: {counts:?}");
        assert!(counts[2] > counts[3] && counts[3] > 100, "{counts:?}");
        assert_ne!(
            (0..n).map(|f| cut(&settings, f, 3, 4)).collect::<Vec<_>>(),
            (0..n).map(|f| cut(&settings, f, 4, 4)).collect::<Vec<_>>()
        );
    }
}
