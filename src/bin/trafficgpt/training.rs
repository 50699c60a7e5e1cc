//! What `pretrain` and `finetune` share: arguments, threads, and how a run is reported.

use crate::exit::Outcome;
use clap::Args;
use serde::Serialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;
use trafficgpt::train::interrupt::Interrupt;
use trafficgpt::train::parallel::{Group, ranks};
use trafficgpt::train::progress::Progress;
use trafficgpt::train::schedule::Schedule;
use trafficgpt::train::session::{self, Data, Session, Summary};
use trafficgpt::train::settings::{self, Choose, Device};
use trafficgpt::train::table::{Filter, Table};
use trafficgpt::{Error, Kind, Result};

/// The figures of an evaluation that are worth a last line.
const FIGURES: [&str; 5] = ["val_loss", "perplexity", "accuracy", "macro_f1", "lm_loss"];

/// Range of --rank-timeout.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(500);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(86_400);

/// Which flows, where to, and from which configuration.
#[derive(Args)]
pub struct RunArgs {
    /// Flow tables (Parquet, CSV or JSON lines), or directories of them, searched as deep as they go; not needed with
    /// --resume.
    flows: Vec<PathBuf>,
    /// Tables to read as well, without their labels.
    #[arg(long, value_name = "FLOWS", num_args = 1..)]
    unlabelled: Vec<PathBuf>,
    /// Directory of the run; must not exist, but for --resume.
    #[arg(short, long, value_name = "RUN")]
    output: PathBuf,
    /// Go on with the run in RUN, bit for bit.
    #[arg(long)]
    resume: bool,
    /// Settings as TOML; the command line wins over it. RUN/config.toml of another run is one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Leave out rows where a column has this value.
    #[arg(long, value_name = "COLUMN=VALUE")]
    exclude: Vec<String>,
    /// Leave out all flows of this class, as --exclude label=NAME does, so that `evaluate` can show whether the model sees
    /// that they are none of those it knows; may be given several times.
    #[arg(long, value_name = "NAME")]
    hold_out_class: Vec<String>,
    /// Allow groups that have flows in several splits: figures will flatter.
    #[arg(long)]
    allow_shared_groups: bool,
    /// Learn from the validation flows too, once everything is chosen: figures on them then say nothing.
    #[arg(long)]
    learn_val: bool,
    /// Of several ranks (RANK and WORLD_SIZE, or as mpirun and srun tell them): how long one may take to come, or later say
    /// nothing, before the run ends.
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    rank_timeout: f64,
    /// Say nothing but errors.
    #[arg(short, long)]
    quiet: bool,
}

/// Settings of the loop that both commands have. Names are those of the configuration file.
#[derive(Args, Serialize)]
pub struct LoopArgs {
    /// Passes over the training flows.
    #[arg(long)]
    epochs: Option<u64>,
    /// Steps after which to end even so; 0: none.
    #[arg(long)]
    steps: Option<u64>,
    /// Most tokens in a batch.
    #[arg(long)]
    batch_tokens: Option<usize>,
    /// Batches whose gradients make one step: large batches in the memory of small ones.
    #[arg(long)]
    accumulate: Option<usize>,
    /// Full learning rate.
    #[arg(long)]
    lr: Option<f64>,
    /// Steps over which the learning rate rises.
    #[arg(long)]
    warmup: Option<u64>,
    /// cosine, plateau or constant.
    #[arg(long)]
    schedule: Option<Schedule>,
    /// Evaluations without a lower loss before the plateau schedule halves the rate.
    #[arg(long)]
    plateau_patience: Option<u32>,
    /// Decoupled weight decay.
    #[arg(long)]
    weight_decay: Option<f64>,
    /// Probability of dropout.
    #[arg(long)]
    dropout: Option<f64>,
    /// Decades by which a flow's times are shaken in every epoch; 0: not.
    #[arg(long)]
    time_jitter: Option<f64>,
    /// Share by which what a packet carries is made longer or shorter in every epoch, for every other packet; 0: not.
    #[arg(long)]
    size_jitter: Option<f64>,
    /// Probability that the headers of a flow are longer or shorter, as with other TCP options or IPv6.
    #[arg(long)]
    header_shift: Option<f64>,
    /// Probability that a packet is missing.
    #[arg(long)]
    packet_loss: Option<f64>,
    /// Probability that the first one to four packets of a flow are missing.
    #[arg(long)]
    late_start: Option<f64>,
    /// Largest norm of the gradients; 0: unlimited.
    #[arg(long)]
    clip: Option<f64>,
    /// Seed of every draw.
    #[arg(long)]
    seed: Option<u64>,
    /// Evaluations without a gain before the run ends; 0: never.
    #[arg(long)]
    patience: Option<u32>,
    /// Which evaluation the run gives: best or last.
    #[arg(long)]
    choose: Option<Choose>,
    /// Steps between evaluations; 0: once an epoch.
    #[arg(long)]
    eval_every: Option<u64>,
    /// Steps between checkpoints; 0: at each evaluation.
    #[arg(long)]
    save_every: Option<u64>,
    /// Steps between lines of metrics.jsonl.
    #[arg(long)]
    log_every: Option<u64>,
    /// Checkpoints to keep besides the best.
    #[arg(long)]
    keep: Option<usize>,
    /// CPU threads; 0: all.
    #[arg(long)]
    threads: Option<usize>,
    /// Where the network is trained: cpu, cuda (products in bf16) or cuda-f32; checkpoints of one are gone on with by another.
    /// Of several ranks each has a GPU of its own.
    #[arg(long)]
    device: Option<Device>,
    /// Share of the groups held out for validation among flows that name no split.
    #[arg(long)]
    val_share: Option<f64>,
}

/// What to do once arguments, configuration and data are sorted out.
pub enum Plan {
    /// A new run with these flags.
    New {
        /// What the flags say.
        flags: toml::Table,
        /// Which flows.
        data: Data,
    },
    /// Going on, with these flags and, if any are given, these places of the flows.
    Resume {
        /// What the flags say.
        flags: toml::Table,
        /// Where the flows lie now.
        data: Data,
    },
}

impl RunArgs {
    /// The configuration file, if one is given.
    pub fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// Joins the configuration file and `flags`; the flows are learnt with `teachers`.
    pub fn plan(&self, flags: toml::Table, teachers: &[PathBuf]) -> Result<Plan> {
        let given = Data {
            flows: self.flows.clone(),
            unlabelled: self.unlabelled.clone(),
            exclude: [self.exclude.clone(), self.held_out()?].concat(),
            allow_shared_groups: self.allow_shared_groups,
            learn_val: self.learn_val,
            teachers: teachers.to_vec(),
        };
        if self.resume {
            if self.config.is_some() || !given.exclude.is_empty() || self.allow_shared_groups || self.learn_val {
                return Err(Error::invalid(
                    "--resume keeps the run's settings and rows: leave out --config, --exclude, \
                     --hold-out-class, --allow-shared-groups and --learn-val",
                ));
            }
            return Ok(Plan::Resume { flags, data: given });
        }
        let of_file = match &self.config {
            Some(path) => session::take_data(&mut settings::read_table(path)?)?,
            None => Data::default(),
        };
        let data = if given.flows.is_empty() && given.unlabelled.is_empty() {
            Data {
                exclude: if given.exclude.is_empty() { of_file.exclude } else { given.exclude },
                allow_shared_groups: given.allow_shared_groups || of_file.allow_shared_groups,
                learn_val: given.learn_val || of_file.learn_val,
                teachers: if given.teachers.is_empty() { of_file.teachers } else { given.teachers },
                ..of_file
            }
        } else {
            given
        };
        Ok(Plan::New { flags, data })
    }

    /// The exclusions of the classes to hold out, which must be there, or a slip of the pen would go unseen.
    fn held_out(&self) -> Result<Vec<String>> {
        let exclusion = |name: &String| {
            let of_class = Filter { column: "label".to_string(), value: name.clone(), exclude: false };
            if !self.flows.is_empty() && Table::read_many(&self.flows, &[of_class])?.rows.is_empty() {
                return Err(Error::invalid(format!("--hold-out-class {name}: no flow has this label")));
            }
            Ok(format!("label={name}"))
        };
        self.hold_out_class.iter().map(exclusion).collect()
    }

    /// Runs `work` on `threads` threads (0: all) with progress and interrupts, and reports how it ended.
    pub fn run(&self, threads: usize, work: impl FnOnce(Session<'_>) -> Result<Summary> + Send) -> Outcome {
        let mut group = self.group()?;
        let (is_quiet, is_alone) = (self.quiet || !group.leads(), group.is_alone());
        let mut progress = if is_quiet { Progress::hidden() } else { Progress::stderr() };
        let interrupt = if is_alone { Interrupt::on_signals()? } else { Interrupt::on_signals_of_launcher()? };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .map_err(|e| Error::new(Kind::NoMemory, format!("{threads} threads: {e}")))?;
        let summary = pool.install(|| {
            work(Session {
                output: &self.output,
                arguments: std::env::args().collect(),
                progress: &mut progress,
                interrupt: &interrupt,
                group: &mut group,
            })
        });
        let summary = match summary {
            Ok(summary) => summary,
            Err(error) => return Err(group.end(error).into()),
        };
        let figures =
            FIGURES.iter().filter_map(|name| Some(format!("{name} {:.4}", summary.best.get(name)?.as_f64()?)));
        let (figures, state) = (figures.collect::<Vec<_>>().join(", "), summary.state);
        progress.line(&format!("done after {} steps; best after step {}: {figures}", state.step, state.best_step));
        Ok(())
    }
}

impl RunArgs {
    /// The ranks that the environment tells of, once all have come.
    fn group(&self) -> Result<Group> {
        // What is no text is none of the variables that are looked for.
        let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        let Some(place) = ranks::place(&std::env::vars_os().filter_map(text).collect())? else {
            return Ok(Group::alone());
        };
        let timeout = Duration::try_from_secs_f64(self.rank_timeout).ok();
        let timeout = timeout.filter(|t| (SHORTEST_TIMEOUT..=LONGEST_TIMEOUT).contains(t)).ok_or_else(|| {
            let (least, most) = (SHORTEST_TIMEOUT.as_secs_f64(), LONGEST_TIMEOUT.as_secs_f64());
            Error::invalid(format!("--rank-timeout is {}; it must be in {least}..={most}", self.rank_timeout))
        })?;
        Group::join(&place, timeout).map_err(|e| e.at(format_args!("rank {}", place.rank)))
    }
}

impl LoopArgs {
    /// Threads to run on; 0: all.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or(0)
    }
}
