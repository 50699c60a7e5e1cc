//! `trafficgpt compare`: generated flows beside real ones, as figures and as a picture.

use crate::exit::{Outcome, Stop};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use trafficgpt::Error;
use trafficgpt::packet::N_PACKETS;
use trafficgpt::train::plot;
use trafficgpt::train::similarity::{Distances, Marginals};
use trafficgpt::train::table::Table;

/// Compare generated flows with real ones: medians, distances of the distributions, and a picture.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trafficgpt compare flows.parquet generated.parquet -o picture.svg
  trafficgpt compare flows.parquet dns.csv --label DNS -o dns.svg

The Kolmogorov-Smirnov distance of two distributions is the largest gap between their cumulative shares:
0 if they are the same, 1 if they have nothing in common. Only the first 126 packets of a flow count, as
many as a model generates.")]
pub struct Args {
    /// Flow table of real traffic.
    real: PathBuf,
    /// Flow table of generated traffic.
    generated: PathBuf,
    /// Where to write the picture (SVG).
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Compare flows of this class only; generated flows without a label are taken to be of it.
    #[arg(long, value_name = "NAME")]
    label: Option<String>,
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    if args.output.extension().is_none_or(|e| e != "svg") {
        let output = args.output.display();
        return Err(Error::invalid(format!("{output}: the picture is SVG; its name must end in .svg")).into());
    }
    let label = args.label.as_deref();
    let mut real = Table::read(&args.real)?;
    let labels = real.labels();
    if let Some(label) = label {
        real.rows.retain(|row| row.label.as_deref() == Some(label));
        if real.rows.is_empty() {
            let known = if labels.is_empty() { "none".to_string() } else { labels.join(", ") };
            return Err(Error::invalid(format!(
                "{}: no flow has label \"{label}\"; there are: {known}",
                args.real.display()
            ))
            .into());
        }
    }
    let mut generated = Table::read(&args.generated)?;
    generated.rows.retain(|row| label.is_none() || row.label.is_none() || row.label.as_deref() == label);
    for (table, path) in [(&real, &args.real), (&generated, &args.generated)] {
        if table.rows.is_empty() {
            return Err(Error::invalid(format!("{}: no flow to compare", path.display())).into());
        }
    }
    let (real, generated) = (real.packets(N_PACKETS), generated.packets(N_PACKETS));
    let title = label.map_or("Real and generated flows".to_string(), |l| format!("{l}: real and generated flows"));
    plot::compare(&args.output, &title, real.as_ragged(), generated.as_ragged())?;
    let text = figures(&Marginals::of(real.as_ragged()), &Marginals::of(generated.as_ragged()));
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}\npicture: {}", args.output.display()).map_err(Stop::stdout)
}

/// The figures as a table of text.
fn figures(real: &Marginals, generated: &Marginals) -> String {
    let distances = Distances::between(real, generated);
    let (a, b) = (real.summary(), generated.summary());
    let number = |value: Option<f64>| value.map_or("-".to_string(), |v| format!("{v:.0}"));
    let time = |us: Option<f64>| us.map_or("-".to_string(), duration);
    let distance = |value: Option<f64>| value.map_or("-".to_string(), |v| format!("{v:.3}"));
    let rows = [
        ["", "real", "generated", "KS distance"].map(String::from),
        ["flows".into(), a.flows.to_string(), b.flows.to_string(), String::new()],
        ["packets".into(), a.packets.to_string(), b.packets.to_string(), String::new()],
        ["packets per flow, median".into(), number(a.length), number(b.length), distance(distances.length)],
        ["size client to server, median".into(), number(a.client_size), number(b.client_size), String::new()],
        ["size server to client, median".into(), number(a.server_size), number(b.server_size), String::new()],
        ["signed size".into(), String::new(), String::new(), distance(distances.size)],
        ["time between packets, median".into(), time(a.time_us), time(b.time_us), distance(distances.time)],
    ];
    let mut text = String::new();
    for [name, real, generated, distance] in &rows {
        let line = format!("{name:<30}{real:>12}{generated:>12}{distance:>14}");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// A time in the unit that suits it.
fn duration(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.0} µs"),
        us if us < 1e6 => format!("{:.1} ms", us / 1e3),
        us => format!("{:.1} s", us / 1e6),
    }
}
