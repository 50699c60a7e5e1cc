//! `trafficgpt quantizer eval`: what a codebook loses, and which of its tokens are used.

use super::{DeviceName, Packets, check_picture, draw, open, part};
use crate::exit::Outcome;
use crate::output;
use std::io::{self, Write};
use std::path::PathBuf;
use trafficgpt::cuda::quantizer::Encoder;
use trafficgpt::train::codebook::{Evaluation, Region};
use trafficgpt::train::progress::Progress;

/// Judge a quantizer by packets: errors in bytes and in time, tokens used, where its centroids lie.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trafficgpt quantizer eval quantizer.safetensors flows.parquet --split val
  trafficgpt quantizer eval model.tgpt flows.parquet --picture codebook.svg

The time error is in decades of 1 + microseconds: 0.05 means that times are off by 12% on average.")]
pub struct Args {
    /// A quantizer's file, or a bundle.
    quantizer: PathBuf,
    #[command(flatten)]
    packets: Packets,
    /// Flows to look at: all, train, val or test.
    #[arg(long, default_value = "all")]
    split: String,
    /// Who finds the tokens. They are the same.
    #[arg(long, value_enum, default_value = "cpu")]
    device: DeviceName,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Draw the codebook over the density of the packets (SVG).
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    args.picture.as_deref().map(check_picture).transpose()?;
    let part = part(&args.split)?;
    let (quantizer, _) = open(&args.quantizer)?;
    let encoder = args.device.open()?.map(|device| Encoder::new(&device, &quantizer)).transpose()?;
    let mut progress = Progress::stderr();
    let (histogram, _) = args.packets.count(part, &mut progress)?;
    let (counts, dropped) = histogram.finish()?;
    super::tell_dropped(dropped, &mut progress);
    let report = match &encoder {
        None => Evaluation::new(&quantizer, &counts)?,
        Some(encoder) => Evaluation::by(&quantizer, &counts, |packets, tokens| encoder.encode(packets, tokens))?,
    };
    if let Some(picture) = &args.picture {
        draw(picture, &quantizer, &counts)?;
        progress.line(&format!("wrote {}", picture.display()));
    }
    output::show(&report, args.json, print)
}

fn print(out: &mut impl Write, report: &Evaluation) -> io::Result<()> {
    writeln!(out, "packets      {}", report.packets)?;
    writeln!(out, "inertia      {:.6} a packet", report.inertia_per_packet)?;
    writeln!(out, "size error   {:.2} bytes on average", report.size_error)?;
    writeln!(out, "time error   {:.4} decades on average", report.time_error)?;
    writeln!(out, "tokens       {} used of {}, {} dead", report.used, report.k, report.dead())?;
    writeln!(out, "entropy      {:.3} bits a packet", report.entropy)?;
    writeln!(out, "{:>15} {:>16} {:>12} {:>7}", "size in bytes", "time", "packets", "tokens")?;
    for region in &report.regions {
        let (size, time) = spans(region);
        writeln!(out, "{size:>15} {time:>16} {:>12} {:>7}", region.packets, region.tokens)?;
    }
    Ok(())
}

/// Size and time of a region, for people.
fn spans(region: &Region) -> (String, String) {
    let size = match region.size {
        [low, i32::MAX] => format!("over {}", low - 1),
        [low, high] if low == -i32::MAX => format!("under {}", high + 1),
        [low, high] => format!("{low}..{high}"),
    };
    let time = match region.ipt_us {
        [None, Some(to)] => format!("under {}", duration(to)),
        [Some(from), None] => format!("from {}", duration(from)),
        [Some(from), Some(to)] => format!("{}..{}", duration(from), duration(to)),
        [None, None] => "any".to_string(),
    };
    (size, time)
}

fn duration(us: f32) -> String {
    if us < 1e3 {
        format!("{us} µs")
    } else if us < 1e6 {
        format!("{} ms", us / 1e3)
    } else {
        format!("{} s", us / 1e6)
    }
}
