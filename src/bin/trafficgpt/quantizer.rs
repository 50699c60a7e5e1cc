//! `trafficgpt quantizer`: fitting a codebook.

use crate::exit::Outcome;
use serde_json::json;
use std::ops::ControlFlow;
use std::path::PathBuf;
use trafficgpt::quantizer::columns::Columns;
use trafficgpt::quantizer::histogram::Histogram;
use trafficgpt::quantizer::kmeans::{self, Options};
use trafficgpt::quantizer::{Quantizer, Scaler};
use trafficgpt::train::dataset;
use trafficgpt::train::interrupt::Interrupt;
use trafficgpt::train::progress::Progress;
use trafficgpt::train::quantizer_file;

/// Quantizers: packets to tokens and back.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Fit(FitArgs),
}

/// Fit the centroids of a quantizer to the packets of the training flows (splits val and test are left out).
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trafficgpt quantizer fit flows.parquet -k 1024 -o quantizer.safetensors
  trafficgpt quantizer fit a.parquet b.parquet -k 4096 --exclude corpus=lab -o quantizer.safetensors")]
struct FitArgs {
    /// Flow tables (Parquet or CSV), or directories of them.
    #[arg(required = true)]
    flows: Vec<PathBuf>,
    /// Number of centroids.
    #[arg(short, default_value_t = Options::default().k)]
    k: usize,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// How packets become points: log1p-us, log1p-us-fine or log10-ms.
    #[arg(long, default_value = "log1p-us")]
    scaler: Scaler,
    /// Seed of the first centroids.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Most iterations.
    #[arg(long, default_value_t = Options::default().max_iterations)]
    iterations: usize,
    /// Stop when an iteration gains less than this share.
    #[arg(long, default_value_t = Options::default().tolerance)]
    tolerance: f64,
    /// Leave out rows where a column has this value.
    #[arg(long, value_name = "COLUMN=VALUE")]
    exclude: Vec<String>,
    /// Say nothing but errors.
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    match args.command {
        Command::Fit(args) => fit(args),
    }
}

fn fit(args: FitArgs) -> Outcome {
    let mut progress = if args.quiet { Progress::hidden() } else { Progress::stderr() };
    let interrupt = Interrupt::on_signals()?;
    progress.line("reading flows");
    let (packets, sources) = dataset::training_packets(&args.flows, &args.exclude)?;
    let n = packets.len();
    let mut histogram = Histogram::default();
    histogram.add(&packets)?;
    let points = Columns::new(histogram, args.scaler)?;
    progress.line(&format!("{n} packets, {} of them different; fitting {} centroids", points.len(), args.k));
    let options =
        Options { k: args.k, seed: args.seed, trials: 4, max_iterations: args.iterations, tolerance: args.tolerance };
    progress.begin("k-means", None);
    let fit = kmeans::fit(&points, None, &options, &mut |_, inertia| {
        progress.note(format!("inertia {inertia:.4}"));
        progress.advance(1);
        if interrupt.asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    progress.end();
    let (inertia, iterations) = (fit.inertia, fit.iterations);
    let meta = json!({
        "seed": args.seed,
        "inertia": inertia,
        "iterations": iterations,
        "converged": fit.converged,
        "packets": n,
        "data": sources,
    });
    quantizer_file::write(&args.output, &Quantizer::new(args.scaler, fit.codebook), meta)?;
    let how = if fit.converged { "converged" } else { "not converged" };
    progress.line(&format!(
        "{how} after {iterations} iterations, inertia {inertia:.4}, {:.6} a packet; wrote {}",
        inertia / n as f64,
        args.output.display()
    ));
    Ok(())
}
