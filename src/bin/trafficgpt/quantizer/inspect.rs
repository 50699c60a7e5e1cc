//! `trafficgpt quantizer inspect`: what a codebook is.

use super::{check_picture, draw, open};
use crate::exit::{Outcome, Stop};
use std::io::{self, Write};
use std::path::PathBuf;
use trafficgpt::quantizer::Quantizer;
use trafficgpt::train::codebook;
use trafficgpt::train::progress::Progress;

/// Show a quantizer: its scaler, centroids, memory, and how it was fitted.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trafficgpt quantizer inspect quantizer.safetensors
  trafficgpt quantizer inspect model.tgpt --centroids
  trafficgpt quantizer inspect model.tgpt --picture codebook.svg")]
pub struct Args {
    /// A quantizer's file, or a bundle.
    quantizer: PathBuf,
    /// List every centroid: token, size in bytes, time in microseconds (tab-separated).
    #[arg(long)]
    centroids: bool,
    /// Draw the centroids (SVG); `trafficgpt quantizer eval` draws them over packets.
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    args.picture.as_deref().map(check_picture).transpose()?;
    let (quantizer, fit) = open(&args.quantizer)?;
    if let Some(picture) = &args.picture {
        draw(picture, &quantizer, &[])?;
        Progress::stderr().line(&format!("wrote {}", picture.display()));
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    let printed =
        if args.centroids { print_centroids(&mut out, &quantizer)? } else { print(&mut out, &quantizer, &fit)? };
    printed.and_then(|()| out.flush()).map_err(Stop::stdout)
}

fn print_centroids(out: &mut impl Write, quantizer: &Quantizer) -> trafficgpt::Result<io::Result<()>> {
    let centroids = codebook::centroids(quantizer)?;
    Ok((0..).zip(centroids).try_for_each(|(token, c): (u32, _)| writeln!(out, "{token}\t{}\t{}", c.size, c.ipt_us)))
}

fn print(out: &mut impl Write, quantizer: &Quantizer, fit: &serde_json::Value) -> trafficgpt::Result<io::Result<()>> {
    let centroids = codebook::centroids(quantizer)?;
    let sizes = (centroids.iter().map(|c| c.size).min(), centroids.iter().map(|c| c.size).max());
    let (Some(least), Some(most)) = sizes else { return Ok(Ok(())) };
    let longest = centroids.iter().map(|c| c.ipt_us).fold(0.0, f32::max);
    let from_client = centroids.iter().filter(|c| c.size > 0).count();
    let mut lines = vec![
        ("scaler", quantizer.scaler().to_string()),
        ("centroids", format!("{}, {from_client} of them from client to server", quantizer.n_tokens())),
        ("sizes", format!("{least} to {most} bytes")),
        ("times", format!("up to {:.3} s", longest / 1e6)),
        ("table", format!("{:.1} MiB in memory, for encoding", quantizer.table_bytes() as f64 / f64::from(1 << 20))),
        (
            "spread",
            match (quantizer.spread(), quantizer.class_spread()) {
                (None, _) => "not known: generated packets are centroids".to_string(),
                (_, None) => "known: generated packets can be drawn from those behind a centroid".to_string(),
                (_, Some(of)) => format!(
                    "known, also of each of {} classes: generated packets can be drawn from those of their class behind a \
                     centroid",
                    of.n_classes()
                ),
            },
        ),
    ];
    if !fit.is_null() {
        lines.push(("fit", fit.to_string()));
    }
    Ok(lines.iter().try_for_each(|(name, text)| writeln!(out, "{name:<11} {text}")))
}
