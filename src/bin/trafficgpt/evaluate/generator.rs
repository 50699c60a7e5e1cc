//! `trafficgpt evaluate generator`: whether a bundle's flows pass for real ones.

use crate::engine::EngineArgs;
use crate::exit::Outcome;
use crate::generate::SamplingArgs;
use crate::output::write;
use std::path::PathBuf;
use trafficgpt::generator::Generator;
use trafficgpt::train::atomic::AtomicFile;
use trafficgpt::train::dataset;
use trafficgpt::train::generation::{self, Given, Settings, page};
use trafficgpt::train::interrupt::Interrupt;
use trafficgpt::train::progress::Progress;
use trafficgpt::train::table::{Split, Table};
use trafficgpt::{Error, Kind, Result};

/// Judge a bundle's generator: real flows against its own, and against those of simpler generators.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trafficgpt evaluate generator model.tgpt flows.parquet --split test --html report.html
  trafficgpt evaluate generator model.tgpt flows.parquet --json report.json --given tool=tool.parquet

Flows of the split are compared, class by class, with as many flows of the model, of a first-order Markov chain and a \
hidden Markov model per class fitted to split train, and of split train itself, resampled: the best to be hoped for. \
Figures are means over the classes: Kolmogorov-Smirnov, Jensen-Shannon and Wasserstein distances per quantity and \
direction; how well a forest tells generated flows from real ones; how well a forest that learnt from generated flows \
classifies real ones; how many generated flows are, token by token, a training flow.")]
pub struct Args {
    /// The bundle's directory.
    bundle: PathBuf,
    /// Flow tables (Parquet or CSV) with splits, or directories of them.
    #[arg(required = true)]
    flows: Vec<PathBuf>,
    /// Which flows to compare with: val or test.
    #[arg(long, default_value = "val")]
    split: Split,
    /// Most flows of a class.
    #[arg(long, value_name = "N", default_value_t = 500)]
    per_class: usize,
    /// Leave out classes with fewer flows in the split.
    #[arg(long, value_name = "N", default_value_t = 10)]
    min_flows: usize,
    /// Leave out rows where a column has this value.
    #[arg(long, value_name = "COLUMN=VALUE")]
    exclude: Vec<String>,
    /// A table of labelled flows of another generator, to be judged as well; may be given several times.
    #[arg(long, value_name = "NAME=FILE")]
    given: Vec<String>,
    /// States of the hidden Markov model; 0 to leave it out.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(..=256))]
    states: u16,
    /// Write the report as JSON, every class of every generator.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report as a page that needs nothing else, with pictures.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let interrupt = Interrupt::on_signals()?;
    // Told before any work: what cannot be written, and what cannot be read.
    for path in args.json.iter().chain(&args.html) {
        drop(AtomicFile::create(path)?);
    }
    let generator = Generator::open(&args.engine.context()?, &args.bundle)?;
    let sampling = args.sampling.sampling(&generator, args.seed, None)?;
    let table = Table::read_many(&args.flows, &dataset::exclusions(&args.exclude)?)?;
    let given = args.given.iter().map(|text| read_given(text)).collect::<Result<Vec<_>>>()?;
    let settings = Settings {
        split: args.split,
        per_class: args.per_class,
        min_flows: args.min_flows,
        seed: args.seed,
        sampling,
        states: args.states.into(),
    };
    let mut progress = Progress::stderr();
    let (report, pictures) = generation::evaluate(&generator, &table, &given, &settings, &mut progress, &interrupt)?;
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report).map_err(|e| Error::invalid(format!("report: {e}")))?;
        write(Some(path), &format!("{json}\n"))?;
    }
    if let Some(path) = &args.html {
        let name = args.bundle.file_name().unwrap_or(args.bundle.as_os_str()).to_string_lossy();
        write(Some(path), &page::page(&format!("Flows of {name} beside real ones"), &report, &pictures)?)?;
    }
    write(None, &report.to_string())?;
    if report.interrupted {
        let judged: Vec<&str> = report.sources.iter().map(|s| s.name.as_str()).collect();
        let told = format!("interrupted: the report is of {} alone", judged.join(", "));
        return Err(Error::new(Kind::Interrupted, told).into());
    }
    Ok(())
}

fn read_given(text: &str) -> Result<Given> {
    let (name, path) =
        text.split_once('=').ok_or_else(|| Error::invalid(format!("--given {text}: not of the form name=file")))?;
    Ok(Given { name: name.to_string(), table: Table::read(path.as_ref())? })
}
