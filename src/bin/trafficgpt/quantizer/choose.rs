//! `trafficgpt quantizer choose-k`: what each number of centroids costs and brings.

use super::{Packets, check_picture, part};
use crate::exit::Outcome;
use crate::output;
use serde::Serialize;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use trafficgpt::quantizer::columns::Columns;
use trafficgpt::quantizer::kmeans::{self, Options};
use trafficgpt::quantizer::{Quantizer, Scaler};
use trafficgpt::train::codebook::Evaluation;
use trafficgpt::train::interrupt::Interrupt;
use trafficgpt::train::packets::Part;
use trafficgpt::train::plot;
use trafficgpt::train::progress::Progress;
use trafficgpt::{Error, Result};

/// Compare numbers of centroids: what packets lose, which tokens are used, what the network pays.
#[derive(clap::Args)]
#[command(after_help = "Example:
  trafficgpt quantizer choose-k flows.parquet -k 256,512,1024,2048,4096 --split val --picture k.svg

Codebooks are fitted to the training flows and judged by those of --split. Each centroid is a token: a row of --width \
weights in the network's embedding, and a product in every prediction. Stop where the errors no longer matter to you, \
or where tokens stay unused: those are learnt from nothing.")]
pub struct Args {
    #[command(flatten)]
    packets: Packets,
    /// Numbers of centroids to compare.
    #[arg(short, value_delimiter = ',', default_values_t = [256, 512, 1024, 2048, 4096, 8192])]
    k: Vec<usize>,
    /// Flows to judge by: all, train, val or test.
    #[arg(long, default_value = "val")]
    split: String,
    /// How packets become points: log1p-us, log1p-us-fine, log1p-us-sharp or log10-ms.
    #[arg(long, default_value = "log1p-us")]
    scaler: Scaler,
    /// Width of the network that is to read the tokens.
    #[arg(long, default_value_t = 128)]
    width: usize,
    /// Seed of the first centroids.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Draw the errors over K (SVG).
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
}

/// One number of centroids.
#[derive(Serialize)]
struct Choice {
    /// Weights of the token embedding.
    weights: usize,
    #[serde(flatten)]
    report: Evaluation,
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    args.picture.as_deref().map(check_picture).transpose()?;
    let part = part(&args.split)?;
    let mut progress = Progress::stderr();
    let (fitted, _) = args.packets.count(Part::Fitted, &mut progress)?;
    let (points, dropped) = Columns::new(fitted, args.scaler)?;
    super::tell_dropped(dropped, &mut progress);
    let (judged, _) = args.packets.count(part, &mut progress)?;
    let (counts, _) = judged.finish()?;
    if let Some(k) = args.k.iter().find(|&&k| k == 0 || k > points.len()) {
        let n = points.len();
        return Err(Error::invalid(format!("k is {k}; it must be in 1..={n}, the number of distinct packets")).into());
    }
    let interrupt = Interrupt::on_signals()?;
    let choose = |&k: &usize| -> Result<Choice> {
        let options = Options { k, seed: args.seed, ..Options::default() };
        let fit = kmeans::fit(&points, None, &options, &mut |_| {
            if interrupt.asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let report = Evaluation::new(&Quantizer::new(args.scaler, fit.codebook), &counts)?;
        Ok(Choice { weights: k * args.width, report })
    };
    progress.begin("fitting", Some(args.k.len() as u64));
    let mut choices = Vec::with_capacity(args.k.len());
    for k in &args.k {
        progress.note(format!("K = {k}"));
        choices.push(choose(k)?);
        progress.advance(1);
    }
    progress.end();
    if let Some(picture) = &args.picture {
        let curve = |of: fn(&Evaluation) -> f64| -> Vec<(f64, f64)> {
            choices.iter().map(|c| ((c.report.k as f64).log2(), of(&c.report))).collect()
        };
        let curves = [
            ("size error, bytes".to_string(), curve(|r| r.size_error)),
            ("time error, hundredths of a decade".to_string(), curve(|r| 100.0 * r.time_error)),
        ];
        plot::curves(picture, "What a codebook loses", "log2 of the number of centroids", "mean error", &curves)?;
        progress.line(&format!("wrote {}", picture.display()));
    }
    output::show(&choices[..], args.json, print)
}

fn print(out: &mut impl Write, choices: &[Choice]) -> io::Result<()> {
    let heads = ["K", "inertia/packet", "size error", "time error", "used", "bits/packet", "weights"];
    let [a, b, c, d, e, f, g] = heads;
    writeln!(out, "{a:>7} {b:>15} {c:>12} {d:>12} {e:>7} {f:>12} {g:>10}")?;
    for Choice { weights, report } in choices {
        let (size, time) = (format!("{:.2} B", report.size_error), format!("{:.4} dec", report.time_error));
        writeln!(
            out,
            "{:>7} {:>15.6} {size:>12} {time:>12} {:>7} {:>12.3} {weights:>10}",
            report.k, report.inertia_per_packet, report.used, report.entropy
        )?;
    }
    Ok(())
}
