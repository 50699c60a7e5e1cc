//! `trafficgpt score`: which flows are least like the traffic a model has seen.

use crate::captures::MeterArgs;
use crate::engine::EngineArgs;
use crate::exit::Outcome;
use crate::generate;
use crate::input::{self, rounded};
use crate::output::Output;
use serde_json::json;
use std::cmp::Ordering;
use std::io::{self, Write};
use std::path::PathBuf;
use trafficgpt::generator::Generator;
use trafficgpt::packet::{Packet, Rows};
use trafficgpt::train::interrupt::Interrupt;
use trafficgpt::train::progress::Progress;
use trafficgpt::train::table::Row;
use trafficgpt::worker::Worker;
use trafficgpt::{Error, Result};

/// Flows scored at a time.
const CHUNK: usize = 512;

/// Rank flows by how unlike the traffic they are that the model has seen.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trafficgpt score model.tgpt capture.pcap
  trafficgpt score model.tgpt flows.parquet --top 0 --json -o scores.jsonl
  trafficgpt score model.tgpt dns.pcap --class DNS

A flow's score is the negative log-likelihood of one of its packets in nats, on average over the packets that the model \
reads: how surprised the model is. Flows like those it was trained on score low. The line at the end gives the scores' \
quantiles; score ordinary traffic first to learn which are usual.")]
pub struct Args {
    /// The bundle's directory.
    bundle: PathBuf,
    /// A capture (pcap or pcapng, plain or gzip), or a flow table (.parquet or .csv).
    #[arg(value_name = "CAPTURE|TABLE")]
    input: PathBuf,
    /// Score the flows as flows of this traffic class; `any`: of whatever kind.
    #[arg(long, value_name = "NAME", default_value = "any")]
    class: String,
    /// Print this many flows, the strangest first; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: usize,
    /// Print one JSON object per flow.
    #[arg(long)]
    json: bool,
    /// Write here instead of to standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    meter: MeterArgs,
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let interrupt = Interrupt::on_signals()?;
    let generator = Generator::open(&args.engine.context()?, &args.bundle)?;
    let class = generate::class(&generator, &args.class)?;
    // Before any work, so that a file that cannot be written is told at once.
    let mut out = Output::create(args.output.as_deref())?;
    let mut ranking = Ranking::new(&generator, class, args.top);
    ranking.progress.begin("score", None);
    input::each_flow(&args.input, &args.meter, &mut |row| {
        interrupt.check()?;
        ranking.push(row)
    })?;
    let (flows, quantiles) = ranking.finish()?;
    let printed = print(&flows, &quantiles, args.json, &mut out);
    out.written(printed)?;
    out.finish()
}

/// A flow that has its score.
struct Scored {
    number: usize,
    nll: f32,
    row: Row,
}

/// Scores of all flows, and the strangest of them.
struct Ranking<'a> {
    generator: &'a Generator,
    class: Option<u32>,
    top: usize,
    worker: Worker,
    waiting: Vec<Row>,
    scores: Vec<f32>,
    kept: Vec<Scored>,
    progress: Progress,
}

impl<'a> Ranking<'a> {
    fn new(generator: &'a Generator, class: Option<u32>, top: usize) -> Self {
        Self {
            generator,
            class,
            top: if top == 0 { usize::MAX } else { top },
            worker: Worker::new(),
            waiting: Vec::new(),
            scores: Vec::new(),
            kept: Vec::new(),
            progress: Progress::stderr(),
        }
    }

    fn push(&mut self, row: Row) -> Result<()> {
        self.waiting.push(row);
        if self.waiting.len() < CHUNK { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.waiting);
        let flows: Rows<Packet> = rows.iter().map(|row| row.packets.iter().copied()).collect();
        let begin = self.scores.len();
        self.scores.resize(begin + rows.len(), 0.0);
        let scores = &mut self.scores[begin..];
        let numbered = |e: Error| e.at(format_args!("flows from number {} on", begin + 1));
        self.generator.score(&mut self.worker, self.class, flows.as_ragged(), scores).map_err(numbered)?;
        self.progress.advance(rows.len() as u64);
        for (i, (mut row, nll)) in rows.into_iter().zip(&*scores).enumerate() {
            row.packets = Vec::new();
            self.kept.push(Scored { number: begin + i + 1, nll: *nll, row });
        }
        if self.kept.len() / 2 > self.top {
            self.kept.sort_unstable_by(strangest_first);
            self.kept.truncate(self.top);
        }
        Ok(())
    }

    /// The strangest flows in order, and the quantiles of all scores.
    fn finish(mut self) -> Result<(Vec<Scored>, Quantiles)> {
        self.flush()?;
        self.progress.end();
        self.kept.sort_unstable_by(strangest_first);
        self.kept.truncate(self.top);
        Ok((self.kept, Quantiles::new(self.scores)))
    }
}

fn strangest_first(a: &Scored, b: &Scored) -> Ordering {
    b.nll.total_cmp(&a.nll).then(a.number.cmp(&b.number))
}

/// How the scores of all flows spread.
struct Quantiles {
    n: usize,
    /// Share and value.
    at: Vec<(f64, f32)>,
}

impl Quantiles {
    fn new(mut scores: Vec<f32>) -> Self {
        scores.sort_unstable_by(f32::total_cmp);
        let last = scores.len().saturating_sub(1) as f64;
        let at = |share: f64| Some((share, *scores.get((share * last).round() as usize)?));
        Self { n: scores.len(), at: [0.05, 0.5, 0.95, 0.99].into_iter().filter_map(at).collect() }
    }
}

fn print(flows: &[Scored], quantiles: &Quantiles, as_json: bool, out: &mut dyn Write) -> io::Result<()> {
    if !as_json {
        writeln!(out, "{:<48} {:>12} {:>8}", "flow", "nats/packet", "packets")?;
    }
    for flow in flows {
        if as_json {
            let mut line = json!({ "flow": flow.number, "nll": rounded(flow.nll) });
            input::describe(&flow.row, &mut line);
            writeln!(out, "{line}")?;
        } else {
            let name = input::name(&flow.row, flow.number);
            writeln!(out, "{name:<48} {:>12.3} {:>8}", flow.nll, flow.row.n_packets)?;
        }
    }
    if as_json {
        let at: serde_json::Map<_, _> = quantiles.at.iter().map(|(q, v)| (q.to_string(), json!(rounded(*v)))).collect();
        return writeln!(out, "{}", json!({ "summary": { "flows": quantiles.n, "quantiles": at } }));
    }
    let at: Vec<String> = quantiles.at.iter().map(|(q, v)| format!("{:.0}% below {v:.3}", 100.0 * q)).collect();
    writeln!(out, "{} of {} flows; {}", flows.len(), quantiles.n, at.join(", "))
}
