//! A run from its settings to its end: reads the data, makes or opens the run directory, trains, and for a classifier
//! fits the temperature.

use crate::bundle::Bundle;
use crate::bundle::files::sha256;
use crate::error::{Error, Kind, Result};
use crate::gpt2::Config;
use crate::head::Forest;
use crate::packet::N_PACKETS;
use crate::quantizer::Quantizer;
use crate::tokens::Vocabulary;
use crate::train::checkpoint::{Checkpoint, Model, State};
use crate::train::dataset::{self, Dataset, Request};
use crate::train::finetune::{self, Classification};
use crate::train::heads::HeadKind;
use crate::train::interrupt::Interrupt;
use crate::train::metrics::Scores;
use crate::train::parallel::{self, Facts, Group};
use crate::train::pretrain::{self, LanguageModel};
use crate::train::progress::Progress;
use crate::train::resumed::Resumed;
use crate::train::rundir::{Record, RunDir};
use crate::train::schedule::Schedule;
use crate::train::settings::{self, Choose, DATA, Finetune, Loop, Pretrain};
use crate::train::teacher::{Teacher, Teachers};
use crate::train::trainer::{Task, Trainer};
use crate::train::{quantizer_file, record};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Which flows a run reads, as its `config.toml` keeps it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Data {
    /// Tables whose labels count.
    pub flows: Vec<PathBuf>,
    /// Tables whose labels are ignored.
    pub unlabelled: Vec<PathBuf>,
    /// Rows to leave out: `column=value`.
    pub exclude: Vec<String>,
    /// Whether groups may have flows in several splits.
    pub allow_shared_groups: bool,
    /// Whether validation flows are learnt too.
    pub learn_val: bool,
    /// Bundles whose classifiers answer for the training flows.
    pub teachers: Vec<PathBuf>,
}

/// What every run is given besides its settings.
pub struct Session<'a> {
    /// The run directory.
    pub output: &'a Path,
    /// The command line, for the record.
    pub arguments: Vec<String>,
    /// Where to tell how it gets on.
    pub progress: &'a mut Progress,
    /// Whether to stop.
    pub interrupt: &'a Interrupt,
    /// Who trains with this process. Only the first of them writes and tells.
    pub group: &'a mut Group,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Where it ended.
    pub state: State,
    /// The figures of its best evaluation.
    pub best: Value,
}

/// What a network starts from.
struct Origin {
    quantizer: Quantizer,
    quantizer_bytes: Vec<u8>,
    vocabulary: Vocabulary,
    model: Model,
    history: Vec<Value>,
}

impl Data {
    /// The flows; `most_bytes` as in [`Request`].
    fn read(
        &self,
        quantizer: &Quantizer,
        n_packets: usize,
        val_share: f64,
        most_bytes: Option<u64>,
    ) -> Result<Dataset> {
        if self.flows.is_empty() && self.unlabelled.is_empty() {
            return Err(Error::invalid("no flows are given"));
        }
        let filters = dataset::exclusions(&self.exclude)?;
        let request = Request {
            labelled: &self.flows,
            unlabelled: &self.unlabelled,
            filters: &filters,
            val_share,
            allow_shared_groups: self.allow_shared_groups,
            most_bytes,
        };
        let mut flows = Dataset::read(&request, quantizer, n_packets)?;
        if self.learn_val {
            flows.learn_validation()?;
        }
        Ok(flows)
    }

    /// Refuses to choose by validation flows that are learnt.
    fn check(&self, run: &Loop) -> Result<()> {
        let chooses = run.choose != Choose::Last || run.patience > 0 || run.schedule == Schedule::Plateau;
        if self.learn_val && chooses {
            return Err(Error::invalid(
                "with --learn-val no flow is left to choose by: give --choose last, --patience 0 and a schedule other \
                 than plateau",
            ));
        }
        Ok(())
    }

    /// The same, of a classifier.
    fn check_classifier(&self, settings: &Finetune) -> Result<()> {
        if self.learn_val && settings.temperature == 0.0 {
            return Err(Error::invalid(
                "with --learn-val no flow is left to fit the temperature by: give --temperature, that of a run without \
                 --learn-val, which tells it at its end, or 1",
            ));
        }
        if !self.teachers.is_empty() && settings.head.head != HeadKind::Linear {
            return Err(Error::invalid("--teacher: teachers teach a linear head only; leave out --head or --teacher"));
        }
        self.check(&settings.run)
    }

    /// The flows as a classifier learns them, and the teachers' answers for the training flows.
    fn lessons(&self, flows: Dataset, settings: &Finetune) -> Result<(Dataset, Teachers, Option<Vec<f32>>)> {
        let taught = !self.teachers.is_empty() && settings.unlabelled_weight > 0.0;
        let flows = dataset::for_classifier(flows, taught, settings.min_flows)?;
        let teachers = Teachers::open(&self.teachers, &flows.labels)?;
        let answers = teachers.answers(&flows.train, &flows.labels)?;
        Ok((flows, teachers, answers))
    }
}

impl Session<'_> {
    /// Pretrains a language model on `data`, read through the quantizer in the file `quantizer`.
    pub fn pretrain(mut self, settings: &Pretrain, data: &Data, quantizer: &Path) -> Result<Summary> {
        settings.check()?;
        data.check(&settings.run)?;
        parallel::device::check(self.group, settings.run.device, true)?;
        self.check_new()?;
        let quantizer_bytes = quantizer_file::read_bytes(quantizer)?;
        let parsed = quantizer_file::parse(&quantizer_bytes).map_err(|e| e.at(quantizer.display()))?;
        let flows = self.read(data, &parsed, settings.n_packets, settings.val_share, Some(settings.most_bytes()))?;
        let vocabulary = pretrain::vocabulary(parsed.n_tokens(), &flows, settings)?;
        let model = pretrain::model(&pretrain::config(&vocabulary, settings)?, &parsed, settings)?;
        if !vocabulary.classes.is_empty() {
            self.progress.line("gathering each class's packets");
        }
        let quantizer = pretrain::with_class_packets(parsed, &flows, &vocabulary, settings)?;
        let quantizer_bytes = quantizer_file::to_bytes(&quantizer, quantizer_file::fit_of(&quantizer_bytes)?)?;
        let origin = Origin { quantizer, quantizer_bytes, vocabulary, model, history: Vec::new() };
        let mut directory = self.create("pretrain", settings, data, &flows, &origin, (HeadKind::Linear, Vec::new()))?;
        let task = LanguageModel::new(&flows, &origin.quantizer, &origin.vocabulary, settings);
        let mut task = task.shared(self.group.share());
        self.train(directory.as_mut(), &settings.run, &mut task, origin.model, false, None)
    }

    /// Fine-tunes a classifier on `data`, from the run or bundle at `from`.
    pub fn finetune(mut self, settings: &Finetune, data: &Data, from: &Path) -> Result<Summary> {
        settings.check()?;
        data.check_classifier(settings)?;
        parallel::device::check(self.group, settings.run.device, !settings.freeze)?;
        if settings.head.head != HeadKind::Linear && !self.group.is_alone() {
            return Err(parallel::only_alone("a head of kind knn or svm is fitted in one go"));
        }
        self.check_new()?;
        let mut origin = Origin::open(from)?;
        let n_packets = max_packets(origin.model.weights.config());
        let flows = self.read(data, &origin.quantizer, n_packets, settings.val_share, None)?;
        let (flows, teachers, answers) = data.lessons(flows, settings)?;
        let d = origin.model.weights.config().n_embd;
        let kind = settings.head.head;
        settings.head.check_sizes(flows.train.len(), flows.labels.len())?;
        origin.model.head =
            (kind == HeadKind::Linear).then(|| finetune::head(flows.labels.len(), d, settings.run.seed));
        let mut directory = self.create("finetune", settings, data, &flows, &origin, (kind, teachers.records))?;
        let task = Classification::new(&flows, answers, &origin.quantizer, &origin.vocabulary, settings);
        let mut task = task.shared(self.group.share());
        match &mut directory {
            Some(directory) if kind != HeadKind::Linear => self.fit(directory, settings, &mut task, &origin.model),
            directory => self.classify(directory.as_mut(), settings, &mut task, origin.model, None),
        }
    }

    /// Goes on with the run in the output directory. `flags` may change what [`MAY_CHANGE`] lists; `flows`, if any are
    /// given, are where the files of the run lie now.
    pub fn resume(mut self, command: &str, flags: &toml::Table, moved: &Data) -> Result<Summary> {
        let mut directory = self.group.leads().then(|| RunDir::open(self.output)).transpose()?;
        let resumed = Resumed::read(self.output, directory.as_ref(), self.group)?;
        let (config, data) = resumed.settings(self.output, flags, moved)?;
        let Resumed { record, quantizer, checkpoint, .. } = resumed;
        if record.command != command {
            let is = record.command;
            return Err(Error::mismatch(format!("{}: is a run of {is}, not of {command}", self.output.display())));
        }
        match command {
            "pretrain" => {
                let settings: Pretrain = settings::resolve(None, config)?;
                settings.check()?;
                parallel::device::check(self.group, settings.run.device, true)?;
                let flows =
                    self.read(&data, &quantizer, settings.n_packets, settings.val_share, Some(settings.most_bytes()))?;
                record.check_data(&flows)?;
                let model = pretrain::model(&record.model, &quantizer, &settings)?;
                self.go_on(directory.as_ref(), &settings, &data, &flows)?;
                let task = LanguageModel::new(&flows, &quantizer, &record.vocabulary, &settings);
                let mut task = task.shared(self.group.share());
                self.train(directory.as_mut(), &settings.run, &mut task, model, false, checkpoint)
            }
            _ => {
                let settings: Finetune = settings::resolve(None, config)?;
                settings.check()?;
                parallel::device::check(self.group, settings.run.device, !settings.freeze)?;
                if settings.head.head != HeadKind::Linear {
                    return Err(Error::invalid(format!(
                        "{}: a head of kind knn or svm is fitted in one go; there is nothing to go on with: begin it anew",
                        self.output.display()
                    )));
                }
                let flows = self.read(&data, &quantizer, max_packets(&record.model), settings.val_share, None)?;
                let (flows, teachers, answers) = data.lessons(flows, &settings)?;
                record.check_data(&flows)?;
                teachers.check(&record.teachers)?;
                let checkpoint = checkpoint.ok_or_else(|| {
                    Error::invalid(format!("{}: the run has no checkpoint; begin it anew", self.output.display()))
                })?;
                self.go_on(directory.as_ref(), &settings, &data, &flows)?;
                let task = Classification::new(&flows, answers, &quantizer, &record.vocabulary, &settings);
                let (mut task, model) = (task.shared(self.group.share()), checkpoint.model.clone());
                self.classify(directory.as_mut(), &settings, &mut task, model, Some(checkpoint))
            }
        }
    }

    fn read(
        &mut self,
        data: &Data,
        quantizer: &Quantizer,
        n_packets: usize,
        val_share: f64,
        most_bytes: Option<u64>,
    ) -> Result<Dataset> {
        self.progress.line("reading flows");
        let flows = data.read(quantizer, n_packets, val_share, most_bytes)?;
        for note in &flows.notes {
            self.progress.line(&format!("note: {note}"));
        }
        Ok(flows)
    }

    /// Refuses a directory that exists, before the flows are read.
    fn check_new(&self) -> Result<()> {
        if self.group.leads() { RunDir::check_new(self.output) } else { Ok(()) }
    }

    /// Sees that all ranks go on with the same, and keeps what has changed.
    fn go_on<T: Serialize>(
        &mut self,
        directory: Option<&RunDir>,
        settings: &T,
        data: &Data,
        flows: &Dataset,
    ) -> Result<()> {
        let facts = Facts::default().with_settings(&settings::to_table(settings)?).with_data(flows);
        self.group.agree(&facts)?;
        directory.map_or(Ok(()), |directory| directory.set_config(&with_data(settings, data)?))
    }

    /// Sees that all ranks begin with the same; then the first makes the directory.
    fn create<T: Serialize>(
        &mut self,
        command: &str,
        settings: &T,
        data: &Data,
        flows: &Dataset,
        origin: &Origin,
        (head, teachers): (HeadKind, Vec<Teacher>),
    ) -> Result<Option<RunDir>> {
        if !self.group.is_alone() {
            let facts = Facts::default().with("command", command).with_settings(&settings::to_table(settings)?);
            let facts = facts.with_data(flows).with_parts(&origin.quantizer_bytes, &origin.vocabulary, &teachers)?;
            self.group.agree(&facts.with_model(&origin.model))?;
        }
        if !self.group.leads() {
            return Ok(None);
        }
        let record = Record {
            command: command.to_string(),
            library_version: env!("CARGO_PKG_VERSION").to_string(),
            arguments: record::shown_arguments(std::mem::take(&mut self.arguments)),
            model: origin.model.weights.config().clone(),
            vocabulary: origin.vocabulary.clone(),
            // Those that the head tells apart, where there is one.
            labels: if command == "finetune" { flows.labels.clone() } else { Vec::new() },
            head,
            quantizer_sha256: sha256(&origin.quantizer_bytes),
            quantizer_fit: quantizer_file::fit_of(&origin.quantizer_bytes)?,
            data: flows.sources.clone(),
            teachers,
            flows: (flows.train_size().0 as usize, flows.val.len()),
            notes: flows.notes.clone(),
            history: origin.history.clone(),
        };
        self.progress.line(&record::table(&record, &settings::to_table(settings)?, flows));
        RunDir::create(self.output, &with_data(settings, data)?, &record, &origin.quantizer_bytes).map(Some)
    }

    fn classify(
        mut self,
        mut directory: Option<&mut RunDir>,
        settings: &Finetune,
        task: &mut Classification<'_>,
        model: Model,
        checkpoint: Option<Checkpoint>,
    ) -> Result<Summary> {
        if settings.freeze {
            self.progress.line("embedding all flows once, since the network stays as it is");
            task.freeze(&model, self.group)?;
        }
        let path = self.output;
        // Before the training: who asks for too many trees need not wait for the answer.
        let forest = if self.group.leads() { task.forest(self.interrupt)? } else { None };
        let summary = self.train(directory.as_deref_mut(), &settings.run, task, model, settings.freeze, checkpoint)?;
        // The rest takes no time that is worth sharing.
        let Some(directory) = directory else { return Ok(summary) };
        let record = RunDir::record(path)?;
        let mut best = RunDir::best(path, &record)?;
        let mut logits = task.validation_logits(&best.model, &mut Group::alone())?.0;
        let voted = forest.is_some();
        let temperature = self.calibrate(directory, settings, task, forest, &mut logits)?;
        if let (Some(head), false) = (&mut best.model.head, voted) {
            head.temperature = temperature;
        }
        best.state.finished = true;
        directory.save_best(&best.state, &best.model)?;
        Ok(summary)
    }

    /// The temperature for what a head says of the validation flows, `logits`. Where a `forest` votes, it goes to the run with
    /// the temperature of the whole, and `logits` become those of both.
    fn calibrate(
        &self,
        directory: &mut RunDir,
        settings: &Finetune,
        task: &Classification<'_>,
        forest: Option<Forest>,
        logits: &mut [f32],
    ) -> Result<f32> {
        if let Some(forest) = &forest {
            task.vote(forest, logits);
        }
        let mut temperature = settings.temperature as f32;
        if temperature == 0.0 {
            temperature = task.temperature(logits);
            self.progress.line(&format!("temperature {temperature:.4}"));
        }
        if let Some(forest) = forest {
            directory.save_forest(&Forest { temperature, ..forest })?;
            let Scores { accuracy, macro_f1, .. } = task.scores(logits)?;
            self.progress.line(&format!("with the trees: accuracy {accuracy:.4}, macro_f1 {macro_f1:.4}"));
        }
        Ok(temperature)
    }

    /// Fits a head that is not learnt step by step.
    fn fit(
        self,
        directory: &mut RunDir,
        settings: &Finetune,
        task: &mut Classification<'_>,
        model: &Model,
    ) -> Result<Summary> {
        let path = self.output;
        let asked_to_stop = |interrupt: &Interrupt| match interrupt.asked() {
            true => Err(Error::new(
                Kind::Interrupted,
                format!("interrupted before the head was fitted: remove {} and begin anew", path.display()),
            )),
            false => Ok(()),
        };
        self.progress.line("embedding all flows once, since the network stays as it is");
        task.freeze(model, self.group)?;
        asked_to_stop(self.interrupt)?;
        self.progress.line("fitting the head");
        let Some((mut head, mut logits)) = task.fit()? else {
            return Err(Error::invalid("there are no training flows to fit a head to"));
        };
        asked_to_stop(self.interrupt)?;
        let forest = task.forest(self.interrupt)?;
        let voted = forest.is_some();
        let temperature = self.calibrate(directory, settings, task, forest, &mut logits)?;
        if !voted {
            head.set_temperature(temperature);
        }
        let (Scores { accuracy, macro_f1, .. }, loss) = (task.scores(&logits)?, task.loss(&logits, temperature));
        let mut line = json!({ "step": 0, "epoch": 0.0, "best": true, "val_loss": loss, "accuracy": accuracy, "macro_f1": macro_f1 });
        if let Some(recall) = task.recall(&head) {
            self.progress.line(&format!("the cells looked at hold {recall:.4} of the nearest references"));
            line["recall"] = json!(recall);
        }
        directory.log(&line)?;
        directory.save_head(&head, &RunDir::record(path)?)?;
        let state = State { best: Some(macro_f1), finished: true, ..State::default() };
        directory.save_best(&state, model)?;
        Ok(Summary { best: line, state })
    }

    fn train(
        &mut self,
        directory: Option<&mut RunDir>,
        settings: &Loop,
        task: &mut dyn Task,
        model: Model,
        freeze: bool,
        checkpoint: Option<Checkpoint>,
    ) -> Result<Summary> {
        let mut trainer = Trainer::new(settings, directory, self.progress, self.interrupt, self.group, model, freeze)?;
        match checkpoint {
            Some(checkpoint) => trainer.resume(checkpoint)?,
            // So that even a run killed in its first steps can be gone on with.
            None => trainer.save()?,
        }
        trainer.run(task)?;
        let state = trainer.state().clone();
        let best = if self.group.leads() { RunDir::figures(self.output, state.best_step)? } else { Value::Null };
        Ok(Summary { best, state })
    }
}

impl Origin {
    /// What the run or the bundle at `path` holds.
    fn open(path: &Path) -> Result<Self> {
        if path.join("manifest.json").exists() {
            let bundle = Bundle::open(path)?;
            let history = match bundle.manifest.training.get("stages") {
                Some(Value::Array(stages)) => stages.clone(),
                _ => vec![bundle.manifest.training.clone()],
            };
            return Ok(Self {
                quantizer_bytes: quantizer_file::to_bytes(&bundle.quantizer, Value::Null)?,
                quantizer: bundle.quantizer,
                vocabulary: bundle.manifest.vocabulary,
                model: Model { weights: std::sync::Arc::unwrap_or_clone(bundle.weights), head: None },
                history,
            });
        }
        let record = RunDir::record(path)
            .map_err(|e| Error::new(e.kind(), format!("{}: neither a run nor a bundle ({e})", path.display())))?;
        let best = RunDir::best(path, &record)?;
        let quantizer = RunDir::quantizer(path, &record)?;
        Ok(Self {
            quantizer,
            quantizer_bytes: quantizer_file::read_bytes(&RunDir::quantizer_path(path))?,
            model: Model { weights: best.model.weights, head: None },
            history: record::stages(path, &record)?,
            vocabulary: record.vocabulary,
        })
    }
}

/// Most packets of a flow that a network of shape `config` reads.
fn max_packets(config: &Config) -> usize {
    config.n_positions.saturating_sub(2).clamp(1, N_PACKETS)
}

/// `settings` and `data` as `config.toml` holds them.
fn with_data<T: Serialize>(settings: &T, data: &Data) -> Result<toml::Table> {
    let mut table = settings::to_table(settings)?;
    table.insert(DATA.to_string(), toml::Value::Table(settings::to_table(data)?));
    Ok(table)
}

/// Takes the part that names the data out of a `config.toml`.
pub fn take_data(config: &mut toml::Table) -> Result<Data> {
    match config.remove(DATA) {
        None => Ok(Data::default()),
        Some(data) => data.try_into().map_err(|e: toml::de::Error| Error::invalid(format!("data: {}", e.message()))),
    }
}
