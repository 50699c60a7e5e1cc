//! `trafficgpt meter`: captures → a flow table.

use crate::captures::{self, Capture, MeterArgs};
use crate::exit::Outcome;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use trafficgpt::meter::{Flow, Options, Summary, meter_file};
use trafficgpt::train::interrupt::Interrupt;
use trafficgpt::train::progress::Progress;
use trafficgpt::train::table::{Labels, Row, Split, Writer};
use trafficgpt::{Error, Kind, Result};

/// Turn captures into a table of flows: signed packet sizes and the times between them.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trafficgpt meter capture.pcap -o flows.parquet
  trafficgpt meter lab/ -o flows.parquet --label-from dirname      lab/dns/1.pcap is labelled dns
  trafficgpt meter monday.pcapng.gz -o flows.csv --labels truth.csv --split test

A label file is CSV with the columns label, client_ip, client_port, server_ip, server_port and protocol (a number or a \
name such as tcp), and, if wanted, start and end in seconds since 1970. It does not matter which side is called the \
client.

pcap and pcapng, plain or gzip, are read. If a capture is refused nothing is written, unless --keep-going.")]
pub struct Args {
    /// Captures, or directories to search for *.pcap, *.pcapng and *.cap, also with .gz.
    #[arg(required = true, value_name = "CAPTURE")]
    captures: Vec<PathBuf>,
    /// Where to write: a name that ends in .parquet or .csv.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    label: LabelArgs,
    /// Group of the flows: splits never cut a group. The name of the capture (below the directory that
    /// was searched), if not given.
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Part of an experiment the flows are for: train, val or test.
    #[arg(long, value_name = "PART")]
    split: Option<Split>,
    /// Leave out flows of fewer packets.
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_packets: u64,
    /// Leave out captures that are refused instead of stopping.
    #[arg(long)]
    keep_going: bool,
    #[command(flatten)]
    meter: MeterArgs,
}

/// Where labels come from; nowhere, if not given.
#[derive(clap::Args)]
#[group(multiple = false)]
struct LabelArgs {
    /// One label for all flows.
    #[arg(long, value_name = "NAME")]
    label: Option<String>,
    /// Label by the name of the capture's directory, or of the capture without its extension.
    #[arg(long, value_enum)]
    label_from: Option<LabelFrom>,
    /// Label by 5-tuple from a CSV file (see below).
    #[arg(long, value_name = "FILE.csv")]
    labels: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum LabelFrom {
    Dirname,
    Filename,
}

/// Gives flows their labels.
enum Labeller {
    Nowhere,
    Same(String),
    Dirname,
    Filename,
    File(Labels),
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let interrupt = Interrupt::on_signals()?;
    let captures = captures::find(&args.captures)?;
    let labeller = Labeller::new(&args.label)?;
    let options = args.meter.options();
    let mut writer = Writer::create(&args.output)?;
    let mut progress = Progress::stderr();
    let mut totals = Totals::default();
    for (i, capture) in captures.iter().enumerate() {
        progress.begin(&format!("{} ({} of {}) flows", capture.name, i + 1, captures.len()), None);
        let label = labeller.of_capture(capture)?;
        let group = args.group.as_ref().unwrap_or(&capture.name);
        let mut tally = Tally::default();
        let mut row = |flow: Flow| -> Result<Option<Row>> {
            interrupt.check()?;
            progress.advance(1);
            if flow.n_packets < args.min_packets {
                tally.short += 1;
                return Ok(None);
            }
            let label = label.clone().or_else(|| labeller.of_flow(&flow));
            tally.flows += 1;
            tally.unlabelled += u64::from(label.is_none());
            Ok(Some(Row::of_flow(flow, label, group.clone(), args.split)))
        };
        let metered = if args.keep_going {
            meter_whole(capture, &options, &mut row, &mut writer)
        } else {
            meter_file(&capture.path, &options, &mut |flow| row(flow)?.map_or(Ok(()), |row| writer.push(&row)))
        };
        match metered {
            Ok(summary) => totals.add(&summary, &tally, &progress),
            Err(error) if args.keep_going && error.kind() == Kind::Format => {
                progress.line(&format!("warning: refused: {error}"));
                totals.refused += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    progress.end();
    writer.finish()?;
    totals.report(&args.output, captures.len(), !matches!(labeller, Labeller::Nowhere), &progress);
    Ok(())
}

/// Meters a capture and writes its flows only if all of it could be read.
fn meter_whole(
    capture: &Capture,
    options: &Options,
    row: &mut dyn FnMut(Flow) -> Result<Option<Row>>,
    writer: &mut Writer,
) -> Result<Summary> {
    let mut rows = Vec::new();
    let summary = meter_file(&capture.path, options, &mut |flow| {
        rows.extend(row(flow)?);
        Ok(())
    })?;
    for row in &rows {
        writer.push(row)?;
    }
    Ok(summary)
}

impl Labeller {
    fn new(args: &LabelArgs) -> Result<Self> {
        Ok(match (&args.label, args.label_from, &args.labels) {
            (Some(name), ..) => Self::Same(name.clone()),
            (_, Some(LabelFrom::Dirname), _) => Self::Dirname,
            (_, Some(LabelFrom::Filename), _) => Self::Filename,
            (.., Some(path)) => Self::File(Labels::read(path)?),
            _ => Self::Nowhere,
        })
    }

    /// The label of all flows of a capture.
    fn of_capture(&self, capture: &Capture) -> Result<Option<String>> {
        let path = &capture.path;
        Ok(match self {
            Self::Nowhere | Self::File(_) => None,
            Self::Same(name) => Some(name.clone()),
            Self::Filename => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                Some(captures::stem(&name).to_string())
            }
            Self::Dirname => {
                let absolute = path.canonicalize().map_err(|e| Error::io(path, &e))?;
                let name = absolute.parent().and_then(Path::file_name).ok_or_else(|| {
                    Error::invalid(format!("{}: lies in no directory that could name its label", path.display()))
                })?;
                Some(name.to_string_lossy().into_owned())
            }
        })
    }

    /// The label of one flow.
    fn of_flow(&self, flow: &Flow) -> Option<String> {
        match self {
            Self::File(labels) => labels.find(&flow.key, flow.start_ns, flow.end_ns).map(String::from),
            _ => None,
        }
    }
}

/// What became of the flows of one capture.
#[derive(Default)]
struct Tally {
    flows: u64,
    short: u64,
    unlabelled: u64,
}

/// What became of all captures.
#[derive(Default)]
struct Totals {
    tally: Tally,
    packets: u64,
    evicted: u64,
    refused: u64,
    skipped: BTreeMap<String, u64>,
}

impl Totals {
    fn add(&mut self, summary: &Summary, tally: &Tally, progress: &Progress) {
        self.tally.flows += tally.flows;
        self.tally.short += tally.short;
        self.tally.unlabelled += tally.unlabelled;
        self.packets += summary.packets;
        self.evicted += summary.evicted;
        for (reason, count) in summary.skipped.iter() {
            *self.skipped.entry(reason.to_string()).or_default() += count;
        }
        if let Some(warning) = &summary.warning {
            progress.line(&format!("warning: {warning}"));
        }
    }

    fn report(&self, output: &Path, n_captures: usize, labelled: bool, progress: &Progress) {
        let Tally { flows, short, unlabelled } = self.tally;
        let read = n_captures as u64 - self.refused;
        progress.line(&format!(
            "{}: {flows} flows, {} packets metered, {read} of {n_captures} captures",
            output.display(),
            self.packets
        ));
        if !self.skipped.is_empty() {
            let reasons: Vec<String> = self.skipped.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
            progress.line(&format!("packets skipped: {}", reasons.join(", ")));
        }
        if short > 0 {
            progress.line(&format!("flows left out: {short} of fewer packets than asked for"));
        }
        if self.evicted > 0 {
            progress.line(&format!("flows cut short because too many were open at once: {}", self.evicted));
        }
        if labelled && unlabelled > 0 {
            progress.line(&format!("flows without a label: {unlabelled}"));
        }
    }
}
