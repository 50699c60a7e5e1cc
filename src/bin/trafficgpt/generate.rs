//! `trafficgpt generate`: flows drawn from a model.

use crate::engine::EngineArgs;
use crate::exit::Outcome;
use std::path::{Path, PathBuf};
use trafficgpt::generator::Generator;
use trafficgpt::packet::Rows;
use trafficgpt::sampling::{Decode, Sampling};
use trafficgpt::train::interrupt::Interrupt;
use trafficgpt::train::progress::Progress;
use trafficgpt::train::table::{Row, Writer, pcap};
use trafficgpt::worker::Worker;
use trafficgpt::{Error, Result};

/// Flows drawn between two looks at the clock.
const CHUNK: usize = 256;

/// Most flows of a capture, which is put in order of time in memory.
const MAX_PCAP_FLOWS: u64 = 1 << 22;

/// Generate flows of a traffic class: the same seed gives the same flows.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trafficgpt generate model.tgpt --class dns -n 500 -o dns.parquet
  trafficgpt generate model.tgpt --class dns -n 500 --seed 7 -o dns.pcap
  trafficgpt generate model.tgpt -n 1000 --temperature 0.8 --top-p 0.95 -o any.csv

A .pcap holds UDP packets over IPv4 and Ethernet with nanosecond times, from addresses reserved for documentation, each \
flow with a 5-tuple of its own. Such a packet has 28 to 65535 bytes; sizes beyond are brought to the nearer bound, and \
their number is told. `trafficgpt meter` turns the capture back into the same flows, but for those that begin with a \
packet of the server (the meter takes whoever sends first for the client) or pause for longer than its idle timeout.")]
pub struct Args {
    /// The bundle's directory.
    bundle: PathBuf,
    /// Traffic class; `any` for flows of whatever kind the model thinks likely.
    #[arg(long, value_name = "NAME", default_value = "any")]
    class: String,
    /// Number of flows.
    #[arg(short, long = "number", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    n: u64,
    /// Where to write: a name that ends in .parquet, .csv or .pcap.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

/// How freely the model may choose.
#[derive(clap::Args)]
#[command(next_help_heading = "Sampling")]
struct SamplingArgs {
    /// Below 1 likely packets get likelier, above 1 less so; 0 always takes the likeliest.
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    temperature: f32,
    /// Choose among the K likeliest packets only; 0 for all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: u32,
    /// Choose among the likeliest packets that together reach this probability only.
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f32,
    /// What a token becomes: `sample`, one of the packets it stands for, or `centroid`, always the same. Default: sample
    /// where the bundle knows those packets.
    #[arg(long, value_name = "HOW", value_parser = ["sample", "centroid"])]
    decode: Option<String>,
    /// Most packets of a flow; 0 for as many as the model can hold.
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_packets: u32,
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let interrupt = Interrupt::on_signals()?;
    let mut sink = Sink::create(&args.output, args.n)?;
    let generator = Generator::open(&args.engine.context()?, &args.bundle)?;
    let mut sampling = Sampling {
        seed: args.seed,
        class: class(&generator, &args.class)?,
        max_packets: args.sampling.max_packets,
        top_k: args.sampling.top_k,
        top_p: args.sampling.top_p,
        temperature: args.sampling.temperature,
        decode: match args.sampling.decode.as_deref() {
            Some("centroid") => Decode::Centroid,
            None if !generator.can_sample_packets() => Decode::Centroid,
            _ => Decode::Sample,
        },
        ..Sampling::default()
    };
    sampling.check()?;
    let mut progress = Progress::stderr();
    let (mut worker, mut flows) = (Worker::new(), Rows::new());
    let (mut n_packets, group) = (0, format!("generated with seed {}", args.seed));
    progress.begin("generate", Some(args.n));
    while sampling.first_flow < args.n {
        interrupt.check()?;
        let n = (args.n - sampling.first_flow).min(CHUNK as u64);
        generator.generate(&mut worker, &sampling, n as usize, &mut flows)?;
        for packets in flows.as_ragged().rows() {
            n_packets += packets.len();
            sink.push(Row {
                label: sampling.class.map(|_| args.class.clone()),
                group: group.clone(),
                split: None,
                n_packets: packets.len() as u64,
                packets: packets.to_vec(),
                key: None,
                start_ns: None,
            })?;
        }
        sampling.first_flow += n;
        progress.advance(n);
    }
    progress.end();
    let changes = sink.finish()?;
    progress.line(&format!(
        "{}: {} flows, {n_packets} packets, each {}, engine {}",
        args.output.display(),
        args.n,
        if sampling.decode == Decode::Sample { "drawn from those its token stands for" } else { "a centroid" },
        generator.engine()
    ));
    if changes.clamped > 0 {
        let (least, most) = (pcap::MIN_SIZE, pcap::MAX_SIZE);
        progress.line(&format!("{} packets were brought into {least}..={most} bytes", changes.clamped));
    }
    if changes.server_first > 0 {
        progress.line(&format!("{} flows begin with a packet of the server", changes.server_first));
    }
    Ok(())
}

/// The class called `name`; none for `any`, unless a class is called so.
pub fn class(generator: &Generator, name: &str) -> Result<Option<u32>> {
    let classes = generator.classes();
    match classes.iter().position(|c| c == name) {
        Some(i) => Ok(Some(i as u32)),
        None if name == "any" => Ok(None),
        None if classes.is_empty() => Err(Error::invalid(format!(
            "class \"{name}\": this model was trained without classes; leave --class out, or train with --with-classes"
        ))),
        None => Err(Error::invalid(format!(
            "class \"{name}\": the model does not know it; it knows {}, and any",
            classes.join(", ")
        ))),
    }
}

/// Where generated flows go.
enum Sink {
    Table(Writer),
    /// A capture is in order of time, so it is written at the end.
    Pcap(PathBuf, Vec<Row>),
}

impl Sink {
    fn create(path: &Path, n: u64) -> Result<Self> {
        match path.extension().and_then(|e| e.to_str()) {
            Some("pcap") => {}
            Some("parquet" | "csv") => return Writer::create(path).map(Self::Table),
            _ => {
                let path = path.display();
                return Err(Error::invalid(format!(
                    "{path}: the name of the output must end in .parquet, .csv or .pcap"
                )));
            }
        }
        if n > MAX_PCAP_FLOWS {
            return Err(Error::invalid(format!(
                "-n {n}: a capture holds at most {MAX_PCAP_FLOWS} flows; make several"
            )));
        }
        Ok(Self::Pcap(path.to_path_buf(), Vec::new()))
    }

    fn push(&mut self, row: Row) -> Result<()> {
        match self {
            Self::Table(writer) => writer.push(&row),
            Self::Pcap(_, rows) => {
                rows.push(row);
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<pcap::Changes> {
        match self {
            Self::Table(writer) => writer.finish().map(|()| pcap::Changes::default()),
            Self::Pcap(path, rows) => pcap::write(&path, &rows),
        }
    }
}
