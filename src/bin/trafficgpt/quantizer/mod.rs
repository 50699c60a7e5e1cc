//! `trafficgpt quantizer`: codebooks, fitted, judged, looked at and imported.

mod choose;
mod eval;
mod fit;
mod import;
mod inspect;

use crate::exit::Outcome;
use std::path::Path;
use std::sync::Arc;
use trafficgpt::bundle::Bundle;
use trafficgpt::cuda::device::Device;
use trafficgpt::packet::Packet;
use trafficgpt::quantizer::Quantizer;
use trafficgpt::quantizer::histogram::{BYTES_PER_ENTRY, DEFAULT_ROOM, Histogram};
use trafficgpt::train::dataset::Source;
use trafficgpt::train::interrupt::Interrupt;
use trafficgpt::train::packets::{self, Part};
use trafficgpt::train::progress::Progress;
use trafficgpt::train::{quantizer_file, table::Split};
use trafficgpt::{Error, Result};

/// Quantizers: packets to tokens and back.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Fit(fit::Args),
    Eval(eval::Args),
    Inspect(inspect::Args),
    ChooseK(choose::Args),
    Import(import::Args),
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    match args.command {
        Command::Fit(args) => fit::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::ChooseK(args) => choose::run(args),
        Command::Import(args) => import::run(args),
    }
}

/// Which packets to read, and in how much memory.
#[derive(clap::Args)]
struct Packets {
    /// Flow tables (Parquet or CSV), or directories of them. They may be larger than memory.
    #[arg(required = true)]
    flows: Vec<std::path::PathBuf>,
    /// Leave out rows where a column has this value.
    #[arg(long, value_name = "COLUMN=VALUE")]
    exclude: Vec<String>,
    /// Memory for different packets, in MiB. Where there are more, times lose their last bits until they fit.
    #[arg(long, value_name = "MIB", default_value_t = (DEFAULT_ROOM * BYTES_PER_ENTRY) as u64 >> 20, value_parser = clap::value_parser!(u64).range(4..1 << 20))]
    memory: u64,
}

impl Packets {
    /// Counts the packets of `part`.
    fn count(&self, part: Part, progress: &mut Progress) -> Result<(Histogram, Vec<Source>)> {
        let mut histogram = Histogram::new((self.memory << 20) as usize / BYTES_PER_ENTRY);
        let sources = self.read(part, progress, &mut |flow| histogram.add(flow))?;
        Ok((histogram, sources))
    }

    /// Shows `sink` the packets of each flow of `part`, a batch of rows at a time.
    fn read(
        &self,
        part: Part,
        progress: &mut Progress,
        sink: &mut dyn FnMut(&[Packet]) -> Result<()>,
    ) -> Result<Vec<Source>> {
        let interrupt = Interrupt::on_signals()?;
        progress.begin("reading flows", None);
        let sources = packets::stream(&self.flows, &self.exclude, part, &mut |flow| {
            progress.advance(1);
            interrupt.check()?;
            sink(flow)
        })?;
        progress.end();
        Ok(sources)
    }
}

/// Where the work is done.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum DeviceName {
    /// On the processor.
    Cpu,
    /// On the first GPU that CUDA_VISIBLE_DEVICES lets through; fails where there is none.
    Cuda,
}

impl DeviceName {
    /// The GPU, if it is to be one.
    fn open(self) -> Result<Option<Arc<Device>>> {
        match self {
            Self::Cpu => Ok(None),
            Self::Cuda => Device::open(0).map(Some),
        }
    }
}

/// Says so where a histogram kept fewer bits of the times than there were.
fn tell_dropped(dropped: u32, progress: &mut Progress) {
    if dropped > 0 {
        progress.line(&format!(
            "more different packets than fit the memory allowed: times are kept to one part in {}; --memory allows more",
            1u32 << (24 - dropped)
        ));
    }
}

/// The quantizer in a file of its own or in a bundle, and how it came to be.
fn open(path: &Path) -> Result<(Quantizer, serde_json::Value)> {
    if path.is_dir() {
        let bundle = Bundle::open(path)?;
        let fit = bundle.manifest.training.pointer("/stages/0/quantizer/fit").cloned().unwrap_or_default();
        return Ok((bundle.quantizer, fit));
    }
    let bytes = quantizer_file::read_bytes(path)?;
    let parsed = quantizer_file::parse(&bytes).and_then(|q| Ok((q, quantizer_file::fit_of(&bytes)?)));
    parsed.map_err(|e| e.at(path.display()))
}

/// The part of the flows that a word on the command line means.
fn part(word: &str) -> Result<Part> {
    Ok(match word {
        "all" => Part::All,
        "train" | "val" | "test" => Part::Split(word.parse::<Split>()?),
        _ => return Err(Error::invalid(format!("split is \"{word}\"; it must be all, train, val or test"))),
    })
}

/// Fails unless `path`, where a picture is to go, has a name for one.
fn check_picture(path: &Path) -> Result<()> {
    if path.extension().is_some_and(|e| e == "svg") {
        return Ok(());
    }
    Err(Error::invalid(format!("{}: the picture is SVG; its name must end in .svg", path.display())))
}

/// Draws the codebook over the packets counted.
fn draw(path: &Path, quantizer: &Quantizer, counts: &[(Packet, u64)]) -> Result<()> {
    let centroids = trafficgpt::train::codebook::centroids(quantizer)?;
    trafficgpt::train::plot::codebook(path, "Codebook", counts, &centroids)
}
