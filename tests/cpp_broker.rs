//! The broker of examples/cpp, with DPDK's software devices: captures in, captures out.
#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs, dead_code)]

mod common;
#[path = "c/harness.rs"]
mod harness;

use harness::{Bench, root_file, skip, texts};
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use trafficgpt::classifier::Classifier;
use trafficgpt::config::Settings;
use trafficgpt::context::Context;
use trafficgpt::flows::{Flows, FrameInfo, Verdict};
use trafficgpt::meter::Tunnel;
use trafficgpt::meter::frame::{Fragment, Link, parse};

/// With one count a verdict does not depend on when the table is polled, and without an end by time each connection is
/// one flow.
const SETTINGS: [(&str, &str); 4] =
    [("engine", "native"), ("flows.counts", "8"), ("flows.idle_timeout", "1000"), ("flows.active_timeout", "0")];

/// Labels, and the ports that their flows leave by; port 0 is the default.
const LABELS: [(&str, u16); 6] = [("TLS", 1), ("SSH", 1), ("QUIC", 1), ("DNS", 2), ("STUN", 2), ("HTTP", 2)];

#[derive(Clone)]
struct Frame {
    ts_ns: u64,
    wire_len: u32,
    bytes: Vec<u8>,
}

/// The frames of a pcap in this machine's byte order; times of one in microseconds.
fn frames(file: &[u8]) -> Vec<Frame> {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    assert!([0xA1B2_C3D4, 0xA1B2_3C4D].contains(&word(0)), "{:x}", word(0));
    let (mut out, mut at) = (Vec::new(), 24);
    while at < file.len() {
        let (ts_ns, captured) =
            (u64::from(word(at)) * 1_000_000_000 + u64::from(word(at + 4)) * 1000, word(at + 8) as usize);
        out.push(Frame { ts_ns, wire_len: word(at + 12), bytes: file[at + 16..][..captured].to_vec() });
        at += 16 + captured;
    }
    out
}

/// The mixed capture of the examples.
fn mixed() -> Vec<u8> {
    let mut file = Vec::new();
    let packed = std::fs::File::open(root_file("examples/captures/mixed.pcap.gz")).unwrap();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut file).unwrap();
    file
}

/// Both ends of a frame's flow, the lower first, with the protocol, as the broker prints them. None for fragments and what
/// is no IP.
fn flow_of(frame: &Frame) -> Option<(String, String, String)> {
    let parsed = parse(Link::Ethernet, &frame.bytes, frame.wire_len, Tunnel::Outer).ok()?;
    let end = |address: std::net::IpAddr, port| std::net::SocketAddr::new(address, port).to_string();
    let (a, b) = (end(parsed.src, parsed.src_port), end(parsed.dst, parsed.dst_port));
    let protocol = match parsed.protocol {
        6 => "tcp".into(),
        17 => "udp".into(),
        other => format!("ip-{other}"),
    };
    let whole = parsed.fragment == Fragment::Whole;
    whole.then(|| (a.clone().min(b.clone()), a.max(b), protocol))
}

/// What the broker printed of one flow.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    key: (String, String, String),
    label: String,
    score: String,
    n_packets: usize,
    port: u16,
}

fn told(stdout: &str) -> Vec<Told> {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let &[client, "->", both, label, score, n_packets, "port", port] = &words[..] else { return None };
        let (server, protocol) = both.rsplit_once('/').unwrap();
        let key = (client.min(server).to_owned(), client.max(server).to_owned(), protocol.to_owned());
        let (n_packets, port) = (n_packets.parse().unwrap(), port.parse().unwrap());
        Some(Told { key, label: label.into(), score: score.into(), n_packets, port })
    };
    stdout.lines().filter_map(line).collect()
}

/// The verdicts of the same frames from the Rust API: flow, label and probability, sorted.
fn expected(frames: &[Frame]) -> Vec<String> {
    let mut settings = Settings::default();
    for (key, value) in SETTINGS {
        settings.set(key, value).unwrap();
    }
    let bundle = root_file("examples/models/protocols.tgpt");
    let classifier = Classifier::open(&Context::new(settings.clone()), Path::new(&bundle)).unwrap();
    let mut flows = Flows::new(&classifier, &settings.flows, Tunnel::Outer).unwrap();
    let info = |f: &Frame| FrameInfo { ts_ns: f.ts_ns, captured: f.bytes.len() as u32, wire_len: f.wire_len };
    flows.push_frames(Link::Ethernet, frames.iter().map(|f| (info(f), &*f.bytes)));
    flows.flush();
    let mut out = vec![Verdict::default(); 10_000];
    let n = flows.poll(None, &mut out).unwrap();
    let end = |address: [u8; 16], port| {
        let address = std::net::Ipv6Addr::from(address);
        let address = address.to_ipv4_mapped().map_or(address.into(), std::net::IpAddr::from);
        std::net::SocketAddr::new(address, port).to_string()
    };
    let describe = |v: &Verdict| {
        let (a, b) = (end(v.client, v.client_port), end(v.server, v.server_port));
        let label = classifier.labels().get(v.label as usize).map_or("unknown", |label| &**label);
        format!("{} {} {label} {:.3}", a.clone().min(b.clone()), a.max(b), v.score)
    };
    let mut lines: Vec<String> = out[..n].iter().map(describe).collect();
    lines.sort_unstable();
    lines
}

/// The broker, compiled; or a line that says why not.
fn broker(bench: &Bench) -> Option<PathBuf> {
    let pkg_config = |what: &str| {
        let output = Command::new("pkg-config").args([what, "libdpdk"]).output().ok()?;
        output.status.success().then(|| texts(&output).0)
    };
    let Some((cflags, libs)) = pkg_config("--cflags").zip(pkg_config("--libs")) else {
        skip("pkg-config finds no libdpdk (Debian: libdpdk-dev): the broker example");
        return None;
    };
    // DPDK's own headers do not compile without a warning.
    let cflags = cflags.replace("-I", "-isystem ");
    let flags: Vec<&str> = ["-std=c++17", "-O1"].into_iter().chain(cflags.split_whitespace()).collect();
    Some(bench.compile_cpp("examples/cpp/broker.cpp", "c++", &flags, &libs.split_whitespace().collect::<Vec<_>>()))
}

/// A run of the broker in `directory`, with files there as devices.
fn command(program: &Path, directory: &Path, lcores: &str, devices: &[String], arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    let prefix = format!("trafficgpt-{}", directory.file_name().unwrap().to_str().unwrap().trim_start_matches('.'));
    command.current_dir(directory).args(["--lcores", lcores, "--no-huge", "-m", "256", "--no-pci", "--no-telemetry"]);
    command.args(["--no-shconf", "--file-prefix", &prefix, "--log-level", "error"]);
    command.args(devices.iter().flat_map(|device| ["--vdev", device])).arg("--").args(arguments);
    // Where it may write, DPDK keeps a directory for its runtime.
    command.env("XDG_RUNTIME_DIR", directory);
    command
}

struct Outcome {
    stdout: String,
    /// The frames that left by each port, queue after queue.
    left: Vec<Vec<Frame>>,
}

/// Sends captures through the broker, one per queue, and reads what left by its three ports.
fn steer(bench: &Bench, program: &Path, queues: &[Vec<u8>]) -> Outcome {
    let directory = tempfile::tempdir_in(bench.path()).unwrap();
    let out = |port: usize, queue: usize| format!("out{port}-{queue}.pcap");
    let mut devices: Vec<String> = (0..3).map(|port| format!("net_pcap{port}")).collect();
    for (queue, file) in queues.iter().enumerate() {
        std::fs::write(directory.path().join(format!("in{queue}.pcap")), file).unwrap();
        devices[0] += &format!(",rx_pcap=in{queue}.pcap");
        for (port, device) in devices.iter_mut().enumerate() {
            *device += &format!(",tx_pcap={}", out(port, queue));
        }
    }
    let settings = SETTINGS.map(|(key, value)| format!("{key}={value}"));
    let labels = LABELS.map(|(label, port)| format!("{label}={port}"));
    let bundle = root_file("examples/models/protocols.tgpt");
    let mut arguments = vec!["--timestamps", "1000000", "--until-quiet", "1", "--batch", "1", "--verdicts"];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    arguments.push(&bundle);
    arguments.extend(labels.iter().map(String::as_str));
    // Threads that may float over what cores there are.
    let lcores = ["0", "(0-1)@0"][queues.len() - 1];
    let output = command(program, directory.path(), lcores, &devices, &arguments).output().unwrap();
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success(), "{}\n{stdout}{stderr}", output.status);
    let read = |port, queue| frames(&std::fs::read(directory.path().join(out(port, queue))).unwrap());
    let left = (0..3).map(|port| (0..queues.len()).flat_map(|queue| read(port, queue)).collect()).collect();
    Outcome { stdout, left }
}

/// Every frame once; and of each flow the frames up to its verdict by the default port, those after by its label's.
fn check(sent: &[Frame], outcome: &Outcome) {
    let sorted = |frames: &mut dyn Iterator<Item = &Frame>| {
        let mut bytes: Vec<Vec<u8>> = frames.map(|frame| frame.bytes.clone()).collect();
        bytes.sort_unstable();
        bytes
    };
    let came_out = sorted(&mut outcome.left.iter().flatten());
    assert!(sorted(&mut sent.iter()) == came_out, "{} frames went in, {} came out", sent.len(), came_out.len());

    let mut verdicts: HashMap<_, Vec<Told>> = HashMap::new();
    for told in told(&outcome.stdout) {
        verdicts.entry(told.key.clone()).or_default().push(told);
    }
    let by_flow = |frames: &[Frame]| {
        let mut flows: BTreeMap<_, Vec<Vec<u8>>> = BTreeMap::new();
        for frame in frames {
            flows.entry(flow_of(frame)).or_default().push(frame.bytes.clone());
        }
        // Those of no flow come by any queue, in any order.
        flows.entry(None).or_default().sort_unstable();
        flows
    };
    let left: Vec<_> = outcome.left.iter().map(|frames| by_flow(frames)).collect();
    let (mut steered, mut checked) = ([0; 3], 0);
    for (flow, frames) in by_flow(sent) {
        let told = flow.as_ref().and_then(|key| verdicts.get(key)).map_or(&[][..], |told| told);
        // Whoever met twice, as two connections with the same ports, was steered by two verdicts.
        let (before, port) = match told {
            [] => (frames.len(), 0),
            [one] => (if one.port == 0 { frames.len() } else { one.n_packets.min(frames.len()) }, one.port),
            _ => continue,
        };
        let mut expected = [const { Vec::new() }; 3];
        expected[0] = frames[..before].to_vec();
        expected[usize::from(port)].extend_from_slice(&frames[before..]);
        for (port, expected) in expected.iter().enumerate() {
            let got = left[port].get(&flow).map_or(&[][..], |frames| frames);
            assert!(got == expected, "port {port}, {flow:?}: {} frames, not {}", got.len(), expected.len());
            steered[port] += expected.len();
        }
        checked += 1;
    }
    assert!(checked > 550 && steered.iter().all(|&n| n > 50), "{checked} flows, {steered:?} frames");
}

fn verdicts_of(outcome: &Outcome) -> Vec<String> {
    let line = |t: Told| format!("{} {} {} {}", t.key.0, t.key.1, t.label, t.score);
    let mut lines: Vec<String> = told(&outcome.stdout).into_iter().map(line).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn the_broker_steers_flows_by_their_labels() {
    let bench = Bench::new();
    let Some(program) = broker(&bench) else { return };
    let file = mixed();
    let sent = frames(&file);
    let outcome = steer(&bench, &program, std::slice::from_ref(&file));
    check(&sent, &outcome);
    assert_eq!(verdicts_of(&outcome), expected(&sent));
    for (label, port) in LABELS {
        assert!(told(&outcome.stdout).iter().any(|told| told.label == label && told.port == port), "{label}");
    }
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    let counted = lines.iter().find(|line| line.starts_with("    0")).unwrap();
    assert_eq!(counted.split_whitespace().nth(2), Some("8590"), "{counted}");
    assert!(lines.last().unwrap().contains("\"packets\":8590"), "{:?}", lines.last());
}

/// As a NIC would spread them: by a hash of the addresses that does not tell the directions apart.
#[test]
fn two_queues_share_the_load_and_change_no_verdict() {
    let bench = Bench::new();
    let Some(program) = broker(&bench) else { return };
    let file = mixed();
    let sent = frames(&file);
    let mut queues = [file[..24].to_vec(), file[..24].to_vec()];
    let mut at = 24;
    for frame in &sent {
        let end = at + 16 + frame.bytes.len();
        let parsed = parse(Link::Ethernet, &frame.bytes, frame.wire_len, Tunnel::Outer).ok();
        let octets = |address| match address {
            std::net::IpAddr::V4(v4) => u32::from(v4),
            std::net::IpAddr::V6(v6) => v6.segments().iter().map(|&s| u32::from(s)).sum(),
        };
        let queue = parsed.map_or(0, |p| (octets(p.src) ^ octets(p.dst)) as usize % 2);
        queues[queue].extend_from_slice(&file[at..end]);
        at = end;
    }
    let outcome = steer(&bench, &program, &queues);
    check(&sent, &outcome);
    assert_eq!(verdicts_of(&outcome), expected(&sent));
    for queue in ["    0", "    1"] {
        let counted = outcome.stdout.lines().find(|line| line.starts_with(queue)).unwrap();
        let n: usize = counted.split_whitespace().nth(2).unwrap().parse().unwrap();
        assert!(n > 2000, "{}", outcome.stdout);
    }
}

#[test]
fn the_broker_says_what_is_wrong_and_stops_when_it_is_told() {
    let bench = Bench::new();
    let Some(program) = broker(&bench) else { return };
    let (bundle, capture) = (bench.bundle(), bench.capture());
    let device = format!("net_pcap0,rx_pcap={capture},tx_pcap=out.pcap");
    let outcome = |lcores: &str, arguments: &[&str]| -> (i32, String, String) {
        let output: Output =
            command(&program, bench.path(), lcores, std::slice::from_ref(&device), arguments).output().unwrap();
        let (stdout, stderr) = texts(&output);
        (output.status.code().unwrap_or(-1), stdout, stderr)
    };
    for (lcores, arguments, says) in [
        ("0", &[][..], "bundle is needed"),
        ("0", &["--in"], "--in needs a value"),
        ("0", &["--in", "7", &bundle], "there is no port 7"),
        ("0", &["--default", "x", &bundle], "--default"),
        ("0", &["--until-quiet", "0", &bundle], "--until-quiet"),
        ("0", &["--batch", "-1", &bundle], "--batch"),
        ("0", &["--no-such", &bundle], "--no-such is no option"),
        ("0", &["--set", "engine", &bundle], "--set"),
        ("0", &["--set", "engine=gpu", &bundle], "engine"),
        ("0", &["--set", "engine=native", "no/such"], "no/such"),
        ("0", &["--set", "engine=native", &bundle, "tls"], "LABEL=PORT"),
        ("0", &["--set", "engine=native", &bundle, "nonsense=0"], "dns, tls, web"),
        ("0", &["--set", "engine=native", &bundle, "tls=1"], "there is no port 1"),
        ("(0-1)@0", &["--set", "engine=native", &bundle], "fewer lcores"),
    ] {
        let (code, stdout, stderr) = outcome(lcores, arguments);
        assert!(code == 2 && stdout.is_empty() && stderr.contains(says), "{arguments:?}: {code}\n{stdout}{stderr}");
    }
    let (code, stdout, _) = outcome("0", &["--help"]);
    assert!(code == 0 && stdout.starts_with("usage: broker"), "{stdout}");

    // Ctrl-C ends the flows and prints what was counted.
    let arguments = ["--verdicts", "--set", "engine=native", "--set", "flows.counts=2", &*bundle];
    let mut running = command(&program, bench.path(), "0", std::slice::from_ref(&device), &arguments);
    let mut child = running.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let verdicts: Vec<String> = lines.by_ref().take(2).collect();
    assert!(verdicts.len() == 2 && verdicts.iter().all(|line| line.ends_with("port 0")), "{verdicts:?}");
    assert!(child.try_wait().unwrap().is_none(), "it stopped by itself");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest:?}");
    let last = rest.last().unwrap();
    assert!(last.contains("\"packets\":6") && last.contains("\"verdicts_final\":2"), "{last}");
    assert!(bench.path().join("out.pcap").exists());
}
