//! `trafficgpt evaluate`: how good a bundle's classifier is, and with `generator` how good its generator.

mod generator;

use crate::engine::EngineArgs;
use crate::exit::Outcome;
use crate::output;
use std::path::PathBuf;
use trafficgpt::Error;
use trafficgpt::classifier::Classifier;
use trafficgpt::train::dataset;
use trafficgpt::train::evaluate;
use trafficgpt::train::table::{Split, Table};

/// Judge a bundle's classifier by labelled flows: accuracy, F1, every label, confusion matrix.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Examples:
  trafficgpt evaluate model.tgpt flows.parquet --split val
  trafficgpt evaluate model.tgpt flows.parquet --split test --json -o report.json
  trafficgpt evaluate generator model.tgpt flows.parquet --split test --html report.html")]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// The bundle.
    #[arg(required = true)]
    bundle: Option<PathBuf>,
    /// Labelled flow tables (Parquet or CSV), or directories of them.
    #[arg(required = true)]
    flows: Vec<PathBuf>,
    /// Which flows: train, val, test or all.
    #[arg(long, default_value = "val")]
    split: String,
    /// Leave out rows where a column has this value.
    #[arg(long, value_name = "COLUMN=VALUE")]
    exclude: Vec<String>,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
    /// Write the report to a file instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
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
    let bundle = args.bundle.ok_or_else(|| Error::invalid("a bundle is needed"))?;
    let split = match args.split.as_str() {
        "all" => None,
        name => Some(name.parse::<Split>().map_err(|e| Error::invalid(format!("{e}, or all")))?),
    };
    let classifier = Classifier::open(&args.engine.context()?, &bundle)?;
    let table = Table::read_many(&args.flows, &dataset::exclusions(&args.exclude)?)?;
    let report = evaluate::evaluate(&classifier, &table, split)?;
    let text = if args.json {
        let json = serde_json::to_string_pretty(&report).map_err(|e| Error::invalid(format!("report: {e}")))?;
        format!("{json}\n")
    } else {
        report.to_string()
    };
    output::write(args.output.as_deref(), &text)
}
