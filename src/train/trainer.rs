//! The loop of a run: steps, evaluations, checkpoints, and when to end. What a step computes is a [`Task`].

use crate::error::{Error, Kind, Result};
use crate::train::accelerator::Accelerator;
use crate::train::batch::Plan;
use crate::train::checkpoint::{Checkpoint, Model, State};
use crate::train::interrupt::Interrupt;
use crate::train::pace::Pace;
use crate::train::parallel::{Facts, Group, Report};
use crate::train::parameters::Parameters;
use crate::train::progress::Progress;
use crate::train::rundir::RunDir;
use crate::train::settings::{Choose, Loop};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest time between two checkpoints, if steps are slow.
const SAVE_AT_LEAST_EVERY: Duration = Duration::from_secs(300);

/// What is learnt: the loss of a batch with its gradients, and how good the model is.
pub trait Task: Send {
    /// Windows that an epoch's training flows come in: 1 if all are in memory.
    fn windows(&self) -> u64 {
        1
    }

    /// From now on losses and gradients come from this GPU, whose parameters count instead of the model's; none: from the CPU.
    fn accelerate(&mut self, accelerator: Option<Accelerator>);

    /// Brings the training flows of `window` of `epoch` into memory.
    fn enter(&mut self, epoch: u64, window: u64) -> Result<()> {
        let _ = (epoch, window);
        Ok(())
    }

    /// Tokens that each training flow in memory costs.
    fn costs(&self) -> &[usize];

    /// Adds the gradients of the mean loss over the training flows of all `batches` to `grads`; only one batch at a time
    /// goes through the network. All draws depend on `at`. Where several ranks share the work, what this one adds and finds
    /// is its part of the sum.
    fn step(&mut self, model: &Model, batches: &[&[usize]], at: At, grads: &mut Model) -> Result<StepLoss>;

    /// Judges `model` by the validation flows, which the ranks of `group` share; all find the same.
    fn validate(&mut self, model: &Model, group: &mut Group) -> Result<Validation>;
}

/// Where in a run a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The step, from 0.
    pub step: u64,
    /// The epoch, from 0; of flows that come in windows, every window of every epoch has a number of its own.
    pub epoch: u64,
}

/// What a step found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepLoss {
    /// Mean loss.
    pub loss: f64,
    /// Positions that went through the network.
    pub tokens: usize,
}

/// What an evaluation found.
#[derive(Clone, Debug, PartialEq)]
pub struct Validation {
    /// What the best checkpoint has most of.
    pub score: f64,
    /// What the plateau schedule looks at.
    pub loss: f64,
    /// All figures by name, for `metrics.jsonl`.
    pub figures: Map<String, Value>,
}

/// A run that can be gone on with.
pub struct Trainer<'a> {
    settings: &'a Loop,
    /// Where rank 0 writes.
    directory: Option<&'a mut RunDir>,
    progress: &'a mut Progress,
    interrupt: &'a Interrupt,
    group: &'a mut Group,
    /// Whether a rank was asked to stop.
    stop: bool,
    model: Model,
    parameters: Parameters,
    state: State,
    /// The plan of the window, with the number that draws for it are made under.
    plan: Option<(u64, Arc<Plan>)>,
    /// Windows of an epoch.
    windows: u64,
    pace: Pace,
    saved: Instant,
}

impl<'a> Trainer<'a> {
    /// A run at its beginning, with `model` as it is initialised. With `freeze`, the network stays so. The ranks of `group`
    /// run together; the first has a directory to write to.
    pub fn new(
        settings: &'a Loop,
        directory: Option<&'a mut RunDir>,
        progress: &'a mut Progress,
        interrupt: &'a Interrupt,
        group: &'a mut Group,
        model: Model,
        freeze: bool,
    ) -> Result<Self> {
        Ok(Self {
            parameters: Parameters::new(&model, settings, freeze, group)?,
            settings,
            directory,
            progress,
            interrupt,
            group,
            stop: false,
            model,
            state: State::default(),
            plan: None,
            windows: 1,
            pace: Pace::start(),
            saved: Instant::now(),
        })
    }

    /// Puts the run where `checkpoint` says that it stood.
    pub fn resume(&mut self, checkpoint: Checkpoint) -> Result<()> {
        self.parameters.restore(checkpoint.state.step, &checkpoint.moments)?;
        self.model = checkpoint.model;
        self.state = checkpoint.state;
        self.parameters.load(&mut self.model, self.state.step)?;
        self.state.finished = self.is_over();
        self.pace = Pace::start();
        match &mut self.directory {
            Some(directory) => directory.rewind_log(self.state.step),
            None => Ok(()),
        }
    }

    /// Where the run stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Steps until the run is over. An interrupt ends the step, saves, and comes back as [`Kind::Interrupted`].
    pub fn run(&mut self, task: &mut dyn Task) -> Result<()> {
        self.windows = task.windows();
        task.accelerate(self.parameters.accelerator().cloned());
        let mut grads = self.model.zeros_like()?;
        while !self.state.finished {
            let plan = self.plan(task)?;
            self.step(task, &plan, &mut grads)?;
            self.after_step(task)?;
        }
        task.accelerate(None);
        self.progress.end();
        self.group.meet()
    }

    /// What the draws of the window that the run is in are made under.
    fn pass(&self) -> u64 {
        self.state.epoch.wrapping_mul(self.windows).wrapping_add(self.state.window)
    }

    /// The plan of the window that the next step is in.
    fn plan(&mut self, task: &mut dyn Task) -> Result<Arc<Plan>> {
        let pass = self.pass();
        if let Some((of, plan)) = &self.plan
            && *of == pass
        {
            return Ok(plan.clone());
        }
        let began = Instant::now();
        let (epoch, window) = (self.state.epoch, self.state.window);
        task.enter(epoch, window)?;
        let plan = Arc::new(Plan::new(task.costs(), self.settings.batch_tokens, self.settings.seed, pass));
        if plan.is_empty() {
            return Err(Error::invalid(format!(
                "no training flow is left in window {} of epoch {}: all equal validation flows",
                window + 1,
                epoch + 1
            )));
        }
        self.pace.pause(began.elapsed());
        let mut name = format!("epoch {}/{}", epoch + 1, self.settings.epochs);
        if self.windows > 1 {
            name.push_str(&format!(", window {}/{}", window + 1, self.windows));
        }
        self.progress.begin(&name, Some(plan.len() as u64));
        self.progress.advance(self.state.batch as u64);
        self.plan = Some((pass, plan.clone()));
        Ok(plan)
    }

    fn step(&mut self, task: &mut dyn Task, plan: &Plan, grads: &mut Model) -> Result<()> {
        let at = At { step: self.state.step, epoch: self.pass() };
        let first = self.state.batch;
        let end = plan.len().min(first + self.settings.accumulate);
        let batches: Vec<&[usize]> = (first..end).map(|i| plan.batch(i)).collect();
        let found = task.step(&self.model, &batches, at, grads)?;
        let found = self.share(found, grads)?;
        let place = format_args!("step {}", at.step + 1);
        if !found.loss.is_finite() {
            return Err(diverged(found.loss).at(place));
        }
        let lr = self.settings.lr * self.rate(plan);
        let norm = self.parameters.step(&mut self.model, grads, lr).map_err(|e| e.at(place))?;
        self.state.step += 1;
        self.state.batch = end;
        self.state.tokens += found.tokens as u64;
        if self.state.batch == plan.len() {
            self.state.batch = 0;
            self.state.window += 1;
        }
        if self.state.window == self.windows {
            self.state.window = 0;
            self.state.epoch += 1;
        }
        self.pace.add(found);
        let note = self.note(plan, lr);
        self.progress.note(note);
        self.progress.advance((end - first) as u64);
        if self.state.step.is_multiple_of(self.settings.log_every) {
            self.log_step(lr, norm)?;
        }
        Ok(())
    }

    /// What all ranks found together, and their gradients in `grads`.
    fn share(&mut self, found: StepLoss, grads: &mut Model) -> Result<StepLoss> {
        self.stop = self.interrupt.asked();
        if self.group.is_alone() {
            return Ok(found);
        }
        let mine = Report { loss: found.loss, tokens: found.tokens as u64, stop: u64::from(self.stop) };
        let Report { loss, tokens, stop } = mine.total(self.group)?;
        self.stop = stop != 0;
        if loss.is_finite() {
            self.parameters.sum(grads, self.group)?;
        }
        Ok(StepLoss { loss, tokens: tokens as usize })
    }

    /// What is due after a step: evaluation, checkpoint, end.
    fn after_step(&mut self, task: &mut dyn Task) -> Result<()> {
        let epoch_ended = self.state.batch == 0 && self.state.window == 0;
        let due = |every: u64, otherwise: bool| match every {
            0 => otherwise,
            n => self.state.step.is_multiple_of(n),
        };
        let evaluate = due(self.settings.eval_every, epoch_ended);
        let save = due(self.settings.save_every, evaluate) || self.saved.elapsed() > SAVE_AT_LEAST_EVERY;
        if evaluate || self.is_over() {
            self.evaluate(task)?;
        }
        self.state.finished = self.is_over();
        // Alone, a signal that came during the evaluation counts as well; ranks stop after the step that all have heard it in.
        let asked = self.stop || (self.group.is_alone() && self.interrupt.asked());
        let stopped = asked && !self.state.finished;
        if save || stopped || self.state.finished {
            self.save()?;
        }
        if stopped {
            self.progress.end();
            // No rank leaves before the checkpoint is whole: launchers end the others then.
            self.group.meet()?;
            return Err(self.interrupted());
        }
        Ok(())
    }

    fn interrupted(&self) -> Error {
        let step = self.state.step;
        let what = match &self.directory {
            Some(directory) => format!("is saved; go on with --resume -o {}", directory.path().display()),
            None => "rank 0 has saved".to_string(),
        };
        Error::new(Kind::Interrupted, format!("interrupted after step {step}, which {what}"))
    }

    fn is_over(&self) -> bool {
        let s = self.settings;
        self.state.epoch >= s.epochs
            || (s.steps > 0 && self.state.step >= s.steps)
            || (s.patience > 0 && self.state.since_best >= s.patience)
    }

    /// Share of the run that lies behind, as far as epochs and steps tell.
    fn done(&self, plan: &Plan) -> f64 {
        let epochs = self.epochs_of(plan.len()) / self.settings.epochs as f64;
        match self.settings.steps {
            0 => epochs,
            steps => epochs.max(self.state.step as f64 / steps as f64),
        }
    }

    fn rate(&self, plan: &Plan) -> f64 {
        let s = self.settings;
        s.schedule.factor(self.state.step, self.done(plan), s.warmup, &self.state.plateau)
    }

    fn evaluate(&mut self, task: &mut dyn Task) -> Result<()> {
        let began = Instant::now();
        if !self.group.is_alone() {
            // Ranks that compute in other ways would drift apart unseen.
            self.parameters.fetch(&mut self.model, self.state.step)?;
            self.group.agree(&Facts::default().with_model(&self.model))?;
        }
        let found = task.validate(&self.model, self.group)?;
        self.pace.pause(began.elapsed());
        if !found.loss.is_finite() {
            return Err(diverged(found.loss).at(format_args!("evaluation after step {}", self.state.step)));
        }
        self.state.evaluated = self.state.step;
        self.state.plateau.observe(found.loss, self.settings.plateau_patience);
        let better = self.settings.choose == Choose::Last || self.state.best.is_none_or(|best| found.score > best);
        if better {
            self.state.best = Some(found.score);
            self.state.best_step = self.state.step;
            self.state.since_best = 0;
        } else {
            self.state.since_best += 1;
        }
        let mut line = json!({"step": self.state.step, "epoch": self.epochs_done(), "best": better});
        let mut text = format!("step {}, epoch {:.4}", self.state.step, self.epochs_done());
        if let Some((loss, rate)) = self.pace.take() {
            text.push_str(&format!(", loss {loss:.4}, {rate:.0} tokens/s"));
            line["loss"] = json!(loss);
            line["tokens_per_s"] = json!(rate);
        }
        for (name, value) in found.figures {
            text.push_str(&match value.as_f64() {
                Some(number) => format!(", {name} {number:.4}"),
                None => format!(", {name} {value}"),
            });
            line[name] = value;
        }
        self.progress.line(&format!("{text}{}", if better { " (best)" } else { "" }));
        let Some(directory) = &mut self.directory else { return Ok(()) };
        directory.log(&line)?;
        directory.draw()?;
        if better {
            self.parameters.fetch(&mut self.model, self.state.step)?;
            directory.save_best(&self.state, &self.model)?;
        }
        Ok(())
    }

    /// Has rank 0 write the checkpoint to go on from.
    pub fn save(&mut self) -> Result<()> {
        if let Some(directory) = &self.directory {
            self.parameters.fetch(&mut self.model, self.state.step)?;
            directory.save(&self.state, &self.model, &self.parameters.moments(), self.settings.keep)?;
        }
        self.saved = Instant::now();
        Ok(())
    }

    /// Epochs that lie behind, fractions included.
    fn epochs_done(&self) -> f64 {
        self.epochs_of(self.plan.as_ref().map_or(1, |(_, plan)| plan.len()))
    }

    /// The same in a window of `batches`.
    fn epochs_of(&self, batches: usize) -> f64 {
        let windows = self.state.window as f64 + self.state.batch as f64 / batches as f64;
        self.state.epoch as f64 + windows / self.windows as f64
    }

    /// What to show beside the bar.
    fn note(&mut self, plan: &Plan, lr: f64) -> String {
        let done = self.done(plan);
        let (loss, rate, left) = (self.pace.loss(), self.pace.tokens_per_second(), self.pace.left(done));
        format!("loss {loss:.4}, lr {lr:.2e}, {rate:.0} tokens/s, run ends in {left}")
    }

    fn log_step(&mut self, lr: f64, norm: f64) -> Result<()> {
        let line = json!({
            "step": self.state.step,
            "epoch": self.epochs_done(),
            "tokens": self.state.tokens,
            "loss": self.pace.loss(),
            "lr": lr,
            "grad_norm": norm,
            "tokens_per_s": self.pace.tokens_per_second(),
        });
        self.pace.next_interval();
        match &mut self.directory {
            Some(directory) => directory.log(&line),
            None => Ok(()),
        }
    }
}

fn diverged(loss: f64) -> Error {
    Error::new(Kind::Runtime, format!("training has diverged, the loss is {loss}: lower --lr or give it a --warmup"))
}
