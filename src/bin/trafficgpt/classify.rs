//! `trafficgpt classify`: the label of every flow of a capture or a table.

use crate::captures::MeterArgs;
use crate::engine::EngineArgs;
use crate::exit::{Outcome, Stop};
use crate::input::{self, rounded};
use crate::output::Output;
use serde_json::json;
use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use trafficgpt::classifier::{Classifier, UNKNOWN};
use trafficgpt::packet::{Packet, Rows};
use trafficgpt::train::interrupt::Interrupt;
use trafficgpt::train::metrics::{Confusion, Scores};
use trafficgpt::train::progress::Progress;
use trafficgpt::train::table::Row;
use trafficgpt::worker::Worker;
use trafficgpt::{Error, Result};

/// Flows classified, and then printed, at a time.
const CHUNK: usize = 512;

/// Most different labels among the flows for which accuracy is computed: the confusion matrix is their number squared.
const MAX_TRUTHS: usize = 4096;

/// Classify the flows of a capture or of a flow table.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trafficgpt classify model.tgpt capture.pcap
  trafficgpt classify model.tgpt flows.parquet --json | jq -r .label | sort | uniq -c
  trafficgpt classify model.tgpt test.csv --engine native --threads 1 -o verdicts.txt

Each flow gets its label, the label's probability and the flow's packets; a flow whose best label is less probable than \
the model's threshold, or --reject-below, is \"unknown\" (null in JSON). If the table has labels of its own, the last line compares: accuracy \
and macro-F1 as scikit-learn computes them, over the flows that have a label.")]
pub struct Args {
    /// The bundle's directory.
    bundle: PathBuf,
    /// A capture (pcap or pcapng, plain or gzip), or a flow table (.parquet or .csv).
    #[arg(value_name = "CAPTURE|TABLE")]
    input: PathBuf,
    /// Print one JSON object per flow.
    #[arg(long)]
    json: bool,
    /// With --json: the probability of every label as well.
    #[arg(long, requires = "json")]
    scores: bool,
    /// Say "unknown" below this probability, whatever the model's own threshold is; 0: never.
    #[arg(long, value_name = "PROBABILITY", value_parser = probability)]
    reject_below: Option<f32>,
    /// Write here instead of to standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    meter: MeterArgs,
}

fn probability(text: &str) -> std::result::Result<f32, String> {
    let value = text.parse().ok().filter(|value| (0.0..=1.0).contains(value));
    value.ok_or_else(|| "it must be a number in 0..=1".to_string())
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let interrupt = Interrupt::on_signals()?;
    let classifier = Classifier::open(&args.engine.context()?, &args.bundle)?;
    let mut out = Output::create(args.output.as_deref())?;
    classify(&args, &classifier, &interrupt, &mut out)?;
    out.finish()
}

fn classify(args: &Args, classifier: &Classifier, interrupt: &Interrupt, out: &mut Output) -> Outcome {
    let mut job = Job::new(classifier, args, out);
    job.print_header()?;
    // A failure of `out` has to pass through the meter, which knows only our own errors.
    let mut stopped = None;
    let mut sink = |row: Row| -> Result<()> {
        interrupt.check()?;
        job.push(row).map_err(|stop| {
            let error = match &stop {
                Stop::Failed(error) => error.clone(),
                Stop::BrokenPipe => Error::invalid("standard output is closed"),
            };
            stopped = Some(stop);
            error
        })
    };
    let read = input::each_flow(&args.input, &args.meter, &mut sink);
    match (read, stopped) {
        (Ok(()), _) => job.finish(),
        (Err(_), Some(stop)) => Err(stop),
        (Err(error), None) => Err(error.into()),
    }
}

/// How verdicts are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A line of text for each flow, under a header.
    Table,
    /// A JSON object for each flow, with the probabilities of all labels or of the best.
    Json { all: bool },
}

impl Form {
    fn of(args: &Args) -> Self {
        if args.json { Self::Json { all: args.scores } } else { Self::Table }
    }
}

/// Flows on their way from the input to the output.
struct Job<'a> {
    classifier: &'a Classifier,
    form: Form,
    /// Instead of the model's own.
    reject_below: Option<f32>,
    out: &'a mut Output,
    worker: Worker,
    waiting: Vec<Row>,
    n_done: usize,
    progress: Progress,
    /// Width of the label column.
    width: usize,
    truths: Truths,
}

impl<'a> Job<'a> {
    fn new(classifier: &'a Classifier, args: &Args, out: &'a mut Output) -> Self {
        let widest = classifier.labels().iter().map(|l| l.chars().count()).max().unwrap_or(0);
        // A bar would fight with the lines of a terminal.
        let mut progress = if out.is_terminal() { Progress::hidden() } else { Progress::stderr() };
        progress.begin("classify", None);
        Self {
            classifier,
            form: Form::of(args),
            reject_below: args.reject_below,
            out,
            worker: Worker::new(),
            waiting: Vec::new(),
            n_done: 0,
            progress,
            width: widest.max(7),
            truths: Truths::new(classifier.labels()),
        }
    }

    fn print_header(&mut self) -> Outcome {
        if self.form != Form::Table {
            return Ok(());
        }
        let width = self.width;
        let line = writeln!(self.out, "{:<48} {:<width$} {:>11} {:>8}", "flow", "label", "probability", "packets");
        self.out.written(line)
    }

    fn push(&mut self, row: Row) -> Outcome {
        self.waiting.push(row);
        if self.waiting.len() < CHUNK { Ok(()) } else { self.flush() }
    }

    /// Classifies and prints the flows that wait.
    fn flush(&mut self) -> Outcome {
        let rows = std::mem::take(&mut self.waiting);
        let flows: Rows<Packet> = rows.iter().map(|row| row.packets.iter().copied()).collect();
        let n_labels = self.classifier.labels().len();
        let (mut labels, mut scores) = (vec![0; rows.len()], vec![0.0; rows.len() * n_labels]);
        self.classifier.classify(&mut self.worker, flows.as_ragged(), &mut labels, Some(&mut scores))?;
        for ((row, &label), scores) in rows.iter().zip(&labels).zip(scores.chunks_exact(n_labels)) {
            self.n_done += 1;
            let label = self.reject_below.map_or(label, |threshold| verdict(scores, threshold));
            self.truths.add(row, label)?;
            let name = self.classifier.labels().get(label as usize).map(String::as_str);
            let probability = scores.iter().copied().fold(0.0, f32::max);
            let line = match self.form {
                Form::Json { all } => {
                    let mut line = json_line(self.n_done, row, name, probability);
                    if all {
                        let named = self.classifier.labels().iter().zip(scores);
                        line["scores"] = named.map(|(label, &p)| (label.clone(), rounded(p))).collect();
                    }
                    writeln!(self.out, "{line}")
                }
                Form::Table => {
                    let flow = input::name(row, self.n_done);
                    let (width, name) = (self.width, name.unwrap_or("unknown"));
                    writeln!(self.out, "{flow:<48} {name:<width$} {probability:>11.3} {:>8}", row.n_packets)
                }
            };
            self.out.written(line)?;
        }
        self.progress.advance(rows.len() as u64);
        Ok(())
    }

    /// The flows left, and how the labels compare with those the flows had.
    fn finish(mut self) -> Outcome {
        self.flush()?;
        self.progress.end();
        let Some(Scores { accuracy, macro_f1, flows, .. }) = self.truths.scores()? else { return Ok(()) };
        let n = self.n_done;
        let line = if self.form != Form::Table {
            let summary = json!({ "flows": n, "labelled": flows, "accuracy": accuracy, "macro_f1": macro_f1 });
            writeln!(self.out, "{}", json!({ "summary": summary }))
        } else {
            writeln!(self.out, "accuracy {accuracy:.4}, macro-F1 {macro_f1:.4} over {flows} labelled of {n} flows")
        };
        self.out.written(line)
    }
}

/// The label of a flow of these scores, unknown below `threshold`.
fn verdict(scores: &[f32], threshold: f32) -> u32 {
    let best = scores
        .iter()
        .zip(0u32..)
        .fold((f32::NEG_INFINITY, UNKNOWN), |best, (&score, label)| if score > best.0 { (score, label) } else { best });
    if best.0 >= threshold { best.1 } else { UNKNOWN }
}

fn json_line(number: usize, row: &Row, label: Option<&str>, probability: f32) -> serde_json::Value {
    let mut line = json!({ "flow": number, "label": label, "probability": rounded(probability) });
    input::describe(row, &mut line);
    line
}

/// What the flows are said to be, against what the model says.
struct Truths {
    index: HashMap<String, u32>,
    n_model: u32,
    pairs: Vec<(u32, u32)>,
}

impl Truths {
    fn new(labels: &[String]) -> Self {
        let index = labels.iter().cloned().zip(0..).collect();
        Self { index, n_model: labels.len() as u32, pairs: Vec::new() }
    }

    fn add(&mut self, row: &Row, label: u32) -> Result<()> {
        let Some(truth) = &row.label else { return Ok(()) };
        let next = self.index.len() as u32;
        let truth = match self.index.get(truth) {
            Some(known) => *known,
            // A label the model does not know can only be missed; it counts all the same.
            None => *self.index.entry(truth.clone()).or_insert(next),
        };
        if self.index.len() > MAX_TRUTHS.max(self.n_model as usize) {
            return Err(Error::invalid(format!("the flows have more than {MAX_TRUTHS} different labels of their own")));
        }
        self.pairs.push((truth, label));
        Ok(())
    }

    /// Accuracy and the rest; none if no flow had a label.
    fn scores(&self) -> Result<Option<Scores>> {
        if self.pairs.is_empty() {
            return Ok(None);
        }
        let mut confusion = Confusion::new(self.index.len());
        for &(truth, label) in &self.pairs {
            confusion.add(truth, label)?;
        }
        Ok(Some(confusion.scores()))
    }
}
