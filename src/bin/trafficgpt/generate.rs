//! `trafficgpt generate`: flows drawn from a model.

use crate::arrivals::ArrivalArgs;
use crate::engine::EngineArgs;
use crate::exit::Outcome;
use std::path::{Path, PathBuf};
use trafficgpt::generator::Generator;
use trafficgpt::packet::{Packet, Rows};
use trafficgpt::sampling::{Decode, Sampling};
use trafficgpt::train::interrupt::Interrupt;
use trafficgpt::train::progress::Progress;
use trafficgpt::train::table::pcap::{self, Capture, Ip, Protocols, Transport};
use trafficgpt::train::table::{Row, Table, Writer};
use trafficgpt::worker::Worker;
use trafficgpt::{Error, Kind, Result};

/// Flows drawn between two looks at the clock.
const CHUNK: usize = 256;

/// Most flows of a capture, which is put in order of time in memory.
const MAX_PCAP_FLOWS: u64 = 1 << 22;

/// Generate flows of a traffic class: the same seed gives the same flows.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trafficgpt generate model.tgpt --class dns -n 500 -o dns.parquet
  trafficgpt generate model.tgpt --class dns -n 500 --seed 7 -o dns.pcap
  trafficgpt generate model.tgpt --class tls --poisson 200 --duration 60 -o minute.pcap
  trafficgpt generate model.tgpt --class tls -n 500 --ip mixed -o both.pcap
  trafficgpt generate model.tgpt --class any -n 1000 --temperature 0.8 --top-p 0.95 -o any.jsonl
  trafficgpt generate model.tgpt --class tls --continue real.parquet --keep 5 -o continued.parquet

A .pcap holds TCP or UDP packets over IP and Ethernet with nanosecond times, from addresses reserved for \
documentation, each flow with a 5-tuple of its own. Where more than half of a class's flows begin like TCP connections, all \
are TCP, with flags, sequence numbers and a teardown that fit their sizes; others are UDP, or what --transport says. A UDP packet has at \
least 28 bytes, one of TCP 40, both at most 65535; sizes beyond are brought to the nearer bound, and their number is told. Over IPv6 \
the least are 48 and 60: with `--ip 6`, which makes every flow one of IPv6, smaller packets grow to that; `--ip mixed` leaves \
flows with such packets to IPv4, and of the others makes every second one IPv6. \
`trafficgpt meter` turns the capture back into the same flows, but for those that begin with a packet of the server (the \
meter takes whoever sends first for the client) or pause for longer than its idle timeout.

--continue takes the beginnings of flows from a table and draws what comes after: each flow is written whole, first the \
packets of the table as they are. A flow's first packets say much about it: `--keep 5` draws all but the handshake.

Ctrl-C ends a run early: the flows that are ready are written, and their number is told.")]
pub struct Args {
    /// The bundle's directory.
    bundle: PathBuf,
    /// Traffic class, which a model with classes needs; `any` for flows of whatever kind it thinks likely.
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// Begin each flow with the packets of a row of this table (Parquet, CSV or JSON lines), in turn; -n defaults to the
    /// number of rows.
    #[arg(long = "continue", id = "begun", value_name = "FILE")]
    begun: Option<PathBuf>,
    /// Keep this many packets of each row at most. Default: all, so what comes is after the table's last.
    #[arg(long, value_name = "N", requires = "begun", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
    #[command(flatten)]
    arrivals: ArrivalArgs,
    /// Where to write: a name that ends in .parquet, .csv, .jsonl or .pcap.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// What carries the packets of a .pcap: tcp, udp, or auto, which looks at how flows begin. Default: auto.
    #[arg(long, value_name = "NAME", value_parser = ["auto", "tcp", "udp"])]
    transport: Option<String>,
    /// What carries those: 4, 6, or mixed, which is IPv6 for every second flow whose packets are large enough. Default: 4.
    #[arg(long, value_name = "VERSION", value_parser = ["4", "6", "mixed"])]
    ip: Option<String>,
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
pub struct SamplingArgs {
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
    /// Fewest packets of a flow.
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_packets: u32,
    /// Most packets of a flow; 0 for as many as the model can hold.
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_packets: u32,
    /// Tokens that may not come, as `trafficgpt quantizer inspect` numbers them.
    #[arg(long, value_name = "TOKENS", value_delimiter = ',')]
    ban: Vec<u32>,
}

impl SamplingArgs {
    /// What to ask of `generator`.
    pub fn sampling(&self, generator: &Generator, seed: u64, class: Option<u32>) -> Result<Sampling> {
        let decode = match self.decode.as_deref() {
            Some("centroid") => Decode::Centroid,
            None if !generator.can_sample_packets() => Decode::Centroid,
            _ => Decode::Sample,
        };
        let sampling = Sampling {
            seed,
            class,
            min_packets: self.min_packets,
            max_packets: self.max_packets,
            banned: self.ban.clone(),
            top_k: self.top_k,
            top_p: self.top_p,
            temperature: self.temperature,
            decode,
            ..Sampling::default()
        };
        sampling.check()?;
        // Refuses what only the model can.
        generator.generate(&mut Worker::new(), &sampling, 0, &mut Rows::new())?;
        Ok(sampling)
    }
}

/// Runs the command.
pub fn run(args: Args) -> Outcome {
    let interrupt = Interrupt::on_signals()?;
    let begun = args.begun.as_deref().map(|path| Begun::read(path, args.keep)).transpose()?;
    let (mut arrivals, n_flows) = args.arrivals.plan(args.seed, begun.as_ref().map(|b| b.rows.len() as u64))?;
    let mut sink = Sink::create(&args.output, args.transport.as_deref(), args.ip.as_deref(), n_flows)?;
    let generator = Generator::open(&args.engine.context()?, &args.bundle)?;
    let class = named_class(&generator, args.class.as_deref())?;
    let mut sampling = args.sampling.sampling(&generator, args.seed, class)?;
    if let Some(begun) = &begun {
        begun.check(&generator, &sampling)?;
    }
    let mut progress = Progress::stderr();
    let (mut worker, mut flows) = (Worker::new(), Rows::new());
    let (mut n_packets, group) = (0, format!("generated with seed {}", args.seed));
    progress.begin("generate", Some(n_flows));
    while sampling.first_flow < n_flows && !interrupt.asked() {
        let numbers = sampling.first_flow..n_flows.min(sampling.first_flow + CHUNK as u64);
        let n = (numbers.end - numbers.start) as usize;
        match &begun {
            None => generator.generate(&mut worker, &sampling, n, &mut flows)?,
            Some(begun) => {
                let begun: Rows<Packet> = numbers.clone().map(|flow| begun.packets(flow).iter().copied()).collect();
                generator.continue_flows(&mut worker, &sampling, begun.as_ragged(), &mut flows)?;
            }
        }
        for (flow, packets) in numbers.zip(flows.as_ragged().rows()) {
            n_packets += packets.len();
            let of_row = begun.as_ref().and_then(|begun| begun.row(flow).label.clone());
            sink.push(Row {
                label: sampling.class.and(args.class.clone()).or(of_row),
                group: group.clone(),
                split: None,
                n_packets: packets.len() as u64,
                packets: packets.to_vec(),
                key: None,
                start_ns: arrivals.next_ns(),
            })?;
        }
        sampling.first_flow += n as u64;
        progress.advance(n as u64);
    }
    progress.end();
    let (done, output) = (sampling.first_flow, args.output.display());
    if done == 0 {
        return Err(Error::new(Kind::Interrupted, "interrupted before a flow was ready; nothing is written").into());
    }
    let changes = sink.finish()?;
    progress.line(&format!(
        "{output}: {done} flows, {n_packets} packets, each {}, engine {}",
        if sampling.decode == Decode::Sample { "drawn from those its token stands for" } else { "a centroid" },
        generator.engine()
    ));
    changes.iter().for_each(|changes| tell(changes, done, &mut progress));
    if done < n_flows {
        let told = format!("interrupted: {output} holds the {done} flows of {n_flows} that were ready");
        return Err(Error::new(Kind::Interrupted, told).into());
    }
    Ok(())
}

/// The flows of a table that are to be continued.
struct Begun {
    path: PathBuf,
    rows: Vec<Row>,
    keep: usize,
}

impl Begun {
    fn read(path: &Path, keep: Option<u32>) -> Result<Self> {
        let rows = Table::read(path)?.rows;
        if rows.is_empty() {
            return Err(Error::invalid(format!("{}: the table has no flow to continue", path.display())));
        }
        Ok(Self { path: path.to_path_buf(), rows, keep: keep.map_or(usize::MAX, |n| n as usize) })
    }

    /// Tells of a flow that cannot be continued before any is drawn.
    fn check(&self, generator: &Generator, sampling: &Sampling) -> Result<()> {
        let most = match sampling.max_packets as usize {
            0 => generator.max_packets(),
            n => n.min(generator.max_packets()),
        };
        match self.rows.iter().position(|row| row.packets.len().min(self.keep) > most) {
            None => Ok(()),
            Some(i) => Err(Error::invalid(format!(
                "{}: row {} has {} packets, a flow may have {most}; keep fewer with --keep",
                self.path.display(),
                i + 1,
                self.rows[i].packets.len().min(self.keep)
            ))),
        }
    }

    /// The row that flow number `flow` begins with.
    fn row(&self, flow: u64) -> &Row {
        &self.rows[(flow % self.rows.len() as u64) as usize]
    }

    fn packets(&self, flow: u64) -> &[Packet] {
        let packets = &self.row(flow).packets;
        &packets[..packets.len().min(self.keep)]
    }
}

/// Says what became of `n` flows in a capture.
fn tell(changes: &pcap::Changes, n: u64, progress: &mut Progress) {
    progress.line(&format!("{} flows are TCP, {} UDP", changes.tcp, n - changes.tcp));
    if changes.v6 > 0 || changes.too_small > 0 {
        progress.line(&format!("{} flows are IPv6, {} IPv4", changes.v6, n - changes.v6));
    }
    if changes.too_small > 0 {
        progress.line(&format!("{} of these have packets too small for IPv6", changes.too_small));
    }
    if changes.clamped > 0 {
        let most = pcap::MAX_SIZE;
        progress.line(&format!("{} packets were brought to the size of their headers or to {most}", changes.clamped));
    }
    if changes.server_first > 0 {
        progress.line(&format!("{} flows begin with a packet of the server", changes.server_first));
    }
}

/// The class that flows are asked for by. A model that has classes wants to be told, as flows of `any` are seldom meant.
fn named_class(generator: &Generator, name: Option<&str>) -> Result<Option<u32>> {
    match name {
        Some(name) => class(generator, name),
        None if generator.classes().is_empty() => Ok(None),
        None => Err(Error::invalid(format!(
            "--class is missing: this model was trained with classes; give one of {}, or any for flows of whatever kind",
            generator.classes().join(", ")
        ))),
    }
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
    Pcap(Capture),
}

impl Sink {
    /// Opens what will be `path`, so that a place that cannot be written is told before any work.
    fn create(path: &Path, transport: Option<&str>, ip: Option<&str>, n: u64) -> Result<Self> {
        let extension = path.extension().and_then(|e| e.to_str());
        let for_captures = [("--transport", transport), ("--ip", ip)];
        if let Some((option, _)) = for_captures.iter().find(|(_, value)| value.is_some() && extension != Some("pcap")) {
            let path = path.display();
            return Err(Error::invalid(format!("{path}: {option} is for captures, whose name ends in .pcap")));
        }
        match extension {
            Some("pcap") => {}
            Some("parquet" | "csv" | "jsonl") => return Writer::create(path).map(Self::Table),
            _ => {
                let path = path.display();
                return Err(Error::invalid(format!(
                    "{path}: the name of the output must end in .parquet, .csv, .jsonl or .pcap"
                )));
            }
        }
        if n > MAX_PCAP_FLOWS {
            return Err(Error::invalid(format!(
                "{n} flows: a capture holds at most {MAX_PCAP_FLOWS} flows; make several"
            )));
        }
        let transport = match transport {
            Some("tcp") => Transport::Tcp,
            Some("udp") => Transport::Udp,
            _ => Transport::Auto,
        };
        let ip = match ip {
            Some("6") => Ip::V6,
            Some("mixed") => Ip::Mixed,
            _ => Ip::V4,
        };
        Capture::create(path, Protocols { transport, ip }).map(Self::Pcap)
    }

    fn push(&mut self, row: Row) -> Result<()> {
        match self {
            Self::Table(writer) => writer.push(&row),
            Self::Pcap(capture) => capture.push(row),
        }
    }

    /// What a capture had to change.
    fn finish(self) -> Result<Option<pcap::Changes>> {
        match self {
            Self::Table(writer) => writer.finish().map(|()| None),
            Self::Pcap(capture) => capture.finish().map(Some),
        }
    }
}
