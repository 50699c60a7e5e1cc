//! `trafficgpt quantizer fit`: a codebook for the packets at hand.

use super::{Packets, open};
use crate::exit::Outcome;
use serde_json::json;
use std::ops::ControlFlow;
use std::path::PathBuf;
use trafficgpt::quantizer::columns::Columns;
use trafficgpt::quantizer::kmeans::{self, Options};
use trafficgpt::quantizer::spread::Spread;
use trafficgpt::quantizer::{Quantizer, Scaler};
use trafficgpt::train::interrupt::Interrupt;
use trafficgpt::train::packets::Part;
use trafficgpt::train::progress::Progress;
use trafficgpt::train::quantizer_file;

/// Fit the centroids of a quantizer to the packets of the training flows (splits val and test are left out).
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trafficgpt quantizer fit flows.parquet -k 1024 -o quantizer.safetensors
  trafficgpt quantizer fit a.parquet b.parquet -k 4096 --exclude corpus=lab -o quantizer.safetensors
  trafficgpt quantizer fit more.parquet -k 1024 --start quantizer.safetensors -o better.safetensors

`trafficgpt quantizer choose-k` helps to choose K. The same packets give the same file, whatever their order.")]
pub struct Args {
    #[command(flatten)]
    packets: Packets,
    /// Number of centroids.
    #[arg(short, default_value_t = Options::default().k)]
    k: usize,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// How packets become points: log1p-us, log1p-us-fine or log10-ms.
    #[arg(long, default_value = "log1p-us")]
    scaler: Scaler,
    /// Start from the centroids of this quantizer or bundle, which must be as many, through the same scaler.
    #[arg(long, value_name = "QUANTIZER", conflicts_with = "seed")]
    start: Option<PathBuf>,
    /// Seed of the first centroids.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Candidates drawn for each of the first centroids, of which the best is taken; 0: 2 + ln K.
    #[arg(long, default_value_t = Options::default().trials)]
    trials: usize,
    /// Most iterations.
    #[arg(long, default_value_t = Options::default().max_iterations)]
    iterations: usize,
    /// Stop when an iteration gains less than this share; 0: go on until nothing moves.
    #[arg(long, default_value_t = Options::default().tolerance)]
    tolerance: f64,
    /// Say nothing but errors.
    #[arg(short, long)]
    quiet: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let mut progress = if args.quiet { Progress::hidden() } else { Progress::stderr() };
    let start = args.start.as_deref().map(open).transpose()?.map(|(quantizer, _)| quantizer);
    if let Some(start) = start.as_ref().filter(|start| start.scaler() != args.scaler) {
        let [theirs, ours] = [start.scaler(), args.scaler];
        let message = format!("the quantizer to start from has scaler {theirs}; --scaler is {ours}");
        return Err(trafficgpt::Error::mismatch(message).into());
    }
    let (histogram, sources) = args.packets.count(Part::Fitted, &mut progress)?;
    let interrupt = Interrupt::on_signals()?;
    let (points, dropped) = Columns::new(histogram, args.scaler)?;
    super::tell_dropped(dropped, &mut progress);
    let n = points.n_packets();
    progress.line(&format!("{n} packets, {} of them different; fitting {} centroids", points.len(), args.k));
    let options = Options {
        k: args.k,
        seed: args.seed,
        trials: args.trials,
        max_iterations: args.iterations,
        tolerance: args.tolerance,
    };
    progress.begin("k-means", None);
    let fit = kmeans::fit(&points, start.as_ref().map(Quantizer::codebook), &options, &mut |step| {
        match step {
            kmeans::Step::Seeds(done) => progress.note(format!("{done} of {} first centroids", args.k)),
            kmeans::Step::Iteration(inertia) => {
                progress.note(format!("inertia {inertia:.4}"));
                progress.advance(1);
            }
        }
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
    let spread = Spread::new(&points, &fit.codebook);
    let quantizer = Quantizer::new(args.scaler, fit.codebook).with_spread(spread.layers())?;
    quantizer_file::write(&args.output, &quantizer, meta)?;
    let how = if fit.converged { "converged" } else { "not converged" };
    progress.line(&format!(
        "{how} after {iterations} iterations, inertia {inertia:.4}, {:.6} a packet; wrote {}",
        inertia / n as f64,
        args.output.display()
    ));
    Ok(())
}
