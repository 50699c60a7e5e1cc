//! `trafficgpt evaluate`: how good a bundle's classifier is, and with `generator` how good its generator.

mod generator;

use crate::engine::EngineArgs;
use crate::exit::Outcome;
use crate::output;
use std::path::{Path, PathBuf};
use trafficgpt::classifier::Classifier;
use trafficgpt::generator::Generator;
use trafficgpt::train::atomic::AtomicFile;
use trafficgpt::train::baselines::Baseline;
use trafficgpt::train::dataset;
use trafficgpt::train::evaluate::{self, Settings, page};
use trafficgpt::train::interrupt::Interrupt;
use trafficgpt::train::progress::Progress;
use trafficgpt::train::table::{Split, Table};
use trafficgpt::{Error, Result};

/// For --json: standard output instead of a file.
const STDOUT: &str = "-";

/// Judge a bundle's classifier by labelled flows, beside simpler methods fitted to the same table.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Examples:
  trafficgpt evaluate model.tgpt flows.parquet --split val
  trafficgpt evaluate model.tgpt flows.parquet --split test --json report.json --html report.html
  trafficgpt evaluate model.tgpt flows.parquet --baselines none
  trafficgpt evaluate generator model.tgpt flows.parquet --split test --html report.html

Reported are accuracy, macro- and weighted F1, calibration error, every label, the figures after 1, 2, 4, 8, 16 and 32 \
packets, what a reject threshold would give, and the confusion matrix. Flows of labels that the model does not know are \
judged apart: how well it sees that they are strangers (AUROC, false positives where 95% of the known flows pass). To \
make a model that does not know a class, pretrain and finetune it with --hold-out-class CLASS.

Baselines are fitted to split train and see a flow's first 20 packets as they are: majority, forest and boosting (sizes), \
forest-times and boosting-times (sizes and times), neighbours. All of them take about a minute for 3,000 training flows of \
20 labels; boosting, most of that, takes longer by flows times labels: leave it out of large tables by --baselines \
majority,forest,forest-times. The test split is for the last figure alone: choose everything on val.")]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// The bundle.
    #[arg(required = true)]
    bundle: Option<PathBuf>,
    /// Labelled flow tables (Parquet, CSV or JSON lines), or directories of them.
    #[arg(required = true)]
    flows: Vec<PathBuf>,
    /// Which flows: train, val, test or all.
    #[arg(long, default_value = "val")]
    split: String,
    /// Leave out rows where a column has this value.
    #[arg(long, value_name = "COLUMN=VALUE")]
    exclude: Vec<String>,
    /// What to compare with: names with commas between, all, or none.
    #[arg(long, value_name = "NAMES", default_value = "all")]
    baselines: String,
    /// Allow groups that have flows in several splits: figures will flatter.
    #[arg(long)]
    allow_shared_groups: bool,
    /// Write the report as JSON; without a file to standard output, instead of the text.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = STDOUT)]
    json: Option<PathBuf>,
    /// Write the report as a page that needs nothing else, with pictures.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write what goes to standard output to a file.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Seed of the baselines' draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    engine: EngineArgs,
}

/// What else of a bundle can be judged.
#[derive(clap::Subcommand)]
enum What {
    Generator(Box<generator::Args>),
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    if let Some(What::Generator(args)) = args.what {
        return generator::run(*args);
    }
    let bundle = args.bundle.as_deref().ok_or_else(|| Error::invalid("a bundle is needed"))?;
    let split = match args.split.as_str() {
        "all" => None,
        name => Some(name.parse::<Split>().map_err(|e| Error::invalid(format!("{e}, or all")))?),
    };
    let baselines = baselines(&args.baselines)?;
    let json_file = args.json.as_deref().filter(|path| *path != Path::new(STDOUT));
    // Told before any work: what cannot be written.
    for path in json_file.into_iter().chain(args.html.as_deref()).chain(args.output.as_deref()) {
        drop(AtomicFile::create(path)?);
    }
    let interrupt = Interrupt::on_signals()?;
    let context = args.engine.context()?;
    let classifier = Classifier::open(&context, bundle)?;
    let generator = Generator::open(&context, bundle)?;
    let table = Table::read_many(&args.flows, &dataset::exclusions(&args.exclude)?)?;
    let settings = Settings { split, baselines, allow_shared_groups: args.allow_shared_groups, seed: args.seed };
    let mut progress = Progress::stderr();
    let report = evaluate::evaluate(&classifier, Some(&generator), &table, &settings, &mut progress, &interrupt)?;
    let json = || {
        let json = serde_json::to_string_pretty(&report).map_err(|e| Error::invalid(format!("report: {e}")))?;
        Ok::<String, Error>(format!("{json}\n"))
    };
    if json_file.is_some() {
        output::write(json_file, &json()?)?;
    }
    if let Some(path) = &args.html {
        let name = bundle.file_name().unwrap_or(bundle.as_os_str()).to_string_lossy();
        output::write(Some(path), &page::page(&format!("{name} as a classifier"), &report)?)?;
    }
    let text = if args.json.is_some() && json_file.is_none() { json()? } else { report.to_string() };
    output::write(args.output.as_deref(), &text)
}

fn baselines(text: &str) -> Result<Vec<Baseline>> {
    match text {
        "all" => Ok(Baseline::ALL.to_vec()),
        "none" => Ok(Vec::new()),
        names => names.split(',').map(|name| name.trim().parse()).collect(),
    }
}
