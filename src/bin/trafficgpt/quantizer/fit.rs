//! `trafficgpt quantizer fit`: a codebook for the packets at hand.

use super::{DeviceName, Packets, open};
use crate::exit::Outcome;
use serde_json::json;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use trafficgpt::Result;
use trafficgpt::cuda;
use trafficgpt::cuda::device::Device;
use trafficgpt::quantizer::columns::Columns;
use trafficgpt::quantizer::histogram::Histogram;
use trafficgpt::quantizer::kmeans::{self, Fit, Options};
use trafficgpt::quantizer::spread::Spread;
use trafficgpt::quantizer::{Codebook, Quantizer, Scaler};
use trafficgpt::train::dataset::Source;
use trafficgpt::train::interrupt::Interrupt;
use trafficgpt::train::packets::Part;
use trafficgpt::train::progress::Progress;
use trafficgpt::train::quantizer_file;
use trafficgpt::train::sample::Sample;

/// Packets of the sample that a fit on a GPU begins with: so many for each centroid, and this many at least.
const SAMPLED_EACH: usize = 256;
const SAMPLED: usize = 1 << 20;

/// Fit the centroids of a quantizer to the packets of the training flows (splits val and test are left out).
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trafficgpt quantizer fit flows.parquet -k 1024 -o quantizer.safetensors
  trafficgpt quantizer fit a.parquet b.parquet -k 4096 --exclude corpus=lab -o quantizer.safetensors
  trafficgpt quantizer fit more.parquet -k 1024 --start quantizer.safetensors -o better.safetensors

`trafficgpt quantizer choose-k` helps to choose K. The same packets give the same file, whatever their order.

With --device cuda the processor fits a sample of the flows (256 packets a centroid, a million at least) unless there is a \
--start, and the GPU goes on from there with all packets, which lie in its memory, 8 bytes each. No count of different \
packets is made and no bit of a time is lost, so --memory does not matter. Its codebook is not the processor's, but as \
good.")]
pub struct Args {
    #[command(flatten)]
    packets: Packets,
    /// Number of centroids.
    #[arg(short, default_value_t = Options::default().k)]
    k: usize,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// How packets become points: log1p-us, log1p-us-fine, log1p-us-sharp or log10-ms.
    #[arg(long, default_value = "log1p-us")]
    scaler: Scaler,
    /// Start from the centroids of this quantizer or bundle, which must be as many, through the same scaler.
    #[arg(long, value_name = "QUANTIZER", conflicts_with = "seed")]
    start: Option<PathBuf>,
    /// Who iterates.
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceName,
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

impl Args {
    fn options(&self) -> Options {
        Options {
            k: self.k,
            seed: self.seed,
            trials: self.trials,
            max_iterations: self.iterations,
            tolerance: self.tolerance,
        }
    }
}

/// A fit and what it was made of.
struct Fitted {
    fit: Fit,
    spread: Spread,
    n_packets: u64,
    sources: Vec<Source>,
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let mut progress = if args.quiet { Progress::hidden() } else { Progress::stderr() };
    let device = args.device.open()?;
    let start = args.start.as_deref().map(open).transpose()?.map(|(quantizer, _)| quantizer);
    if let Some(start) = start.as_ref().filter(|start| start.scaler() != args.scaler) {
        let [theirs, ours] = [start.scaler(), args.scaler];
        let message = format!("the quantizer to start from has scaler {theirs}; --scaler is {ours}");
        return Err(trafficgpt::Error::mismatch(message).into());
    }
    let start = start.as_ref().map(Quantizer::codebook);
    let Fitted { fit, spread, n_packets, mut sources } = match &device {
        None => on_cpu(&args, start, &mut progress)?,
        Some(device) => on_gpu(&args, device, start, &mut progress)?,
    };
    // The same files give the same bytes, in whatever order they were named.
    sources.sort_by(|a, b| (&a.file, &a.sha256).cmp(&(&b.file, &b.sha256)));
    let (inertia, iterations) = (fit.inertia, fit.iterations);
    let meta = json!({
        "seed": args.seed,
        "inertia": inertia,
        "iterations": iterations,
        "converged": fit.converged,
        "packets": n_packets,
        "data": sources,
    });
    let quantizer = Quantizer::new(args.scaler, fit.codebook).with_spread(spread.layers())?;
    quantizer_file::write(&args.output, &quantizer, meta)?;
    let how = if fit.converged { "converged" } else { "not converged" };
    progress.line(&format!(
        "{how} after {iterations} iterations, inertia {inertia:.4}, {:.6} a packet; wrote {}",
        inertia / n_packets as f64,
        args.output.display()
    ));
    Ok(())
}

fn on_cpu(args: &Args, start: Option<&Codebook>, progress: &mut Progress) -> Result<Fitted> {
    let (histogram, sources) = args.packets.count(Part::Fitted, progress)?;
    let (points, dropped) = Columns::new(histogram, args.scaler)?;
    super::tell_dropped(dropped, progress);
    let n = points.n_packets();
    progress.line(&format!("{n} packets, {} of them different; fitting {} centroids", points.len(), args.k));
    let fit = iterate(args, progress, |step| kmeans::fit(&points, start, &args.options(), step))?;
    Ok(Fitted { spread: Spread::new(&points, &fit.codebook), fit, n_packets: n, sources })
}

/// The sample also tells the packets behind each centroid.
fn on_gpu(args: &Args, device: &Arc<Device>, start: Option<&Codebook>, progress: &mut Progress) -> Result<Fitted> {
    let mut packets = cuda::quantizer::Packets::new(device);
    let mut sample = Sample::new(SAMPLED.max(args.k.saturating_mul(SAMPLED_EACH)));
    let sources = args.packets.read(Part::Fitted, progress, &mut |flow| {
        sample.add(flow);
        packets.push(flow)
    })?;
    let mut histogram = Histogram::default();
    sample.flows().try_for_each(|flow| histogram.add(flow))?;
    let (points, _) = Columns::new(histogram, args.scaler)?;
    let drawn;
    let start = match start {
        Some(start) => start,
        None => {
            progress.line(&format!("fitting {} centroids to a sample of {} packets", args.k, sample.n_packets()));
            drawn = iterate(args, progress, |step| kmeans::fit(&points, None, &args.options(), step))?.codebook;
            &drawn
        }
    };
    let n = packets.len();
    progress.line(&format!("{n} packets; fitting {} centroids on {}", args.k, device.name()));
    let fit =
        iterate(args, progress, |step| cuda::quantizer::fit(&mut packets, args.scaler, start, &args.options(), step))?;
    Ok(Fitted { spread: Spread::new(&points, &fit.codebook), fit, n_packets: n as u64, sources })
}

/// Runs `fit`, showing how far it is; a signal stops it.
fn iterate(
    args: &Args,
    progress: &mut Progress,
    fit: impl FnOnce(&mut dyn FnMut(kmeans::Step) -> ControlFlow<()>) -> Result<Fit>,
) -> Result<Fit> {
    let interrupt = Interrupt::on_signals()?;
    progress.begin("k-means", None);
    let fit = fit(&mut |step| {
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
    Ok(fit)
}
