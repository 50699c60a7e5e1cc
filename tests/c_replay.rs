//! The example that replays generated flows, between two ends of a cable that are not there.
#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs, dead_code)]

mod common;
#[path = "c/harness.rs"]
mod harness;

use harness::Bench;
use std::path::Path;
use std::process::Command;
use trafficgpt::config::Settings;
use trafficgpt::context::Context;
use trafficgpt::generator::Generator;
use trafficgpt::meter::{Options, meter_file};
use trafficgpt::packet::Rows;
use trafficgpt::sampling::{Decode, Sampling};
use trafficgpt::worker::Worker;

/// Makes the cable in a network of its own, listens at one end and runs the rest of its arguments at the other.
const WIRED: &str = r#"
capture=$1; shift
ip link add tg0 type veth peer name tg1 && ip link set tg0 up && ip link set tg1 up || exit 99
dumpcap -q -i tg1 -f udp -w "$capture" 2>"$capture.log" &
listener=$!
for i in $(seq 200); do [ -s "$capture" ] && break; sleep 0.1; done
[ -s "$capture" ] || { cat "$capture.log" >&2; kill $listener; exit 98; }
"$@"; code=$?
sleep 1; kill -INT $listener; wait $listener
exit $code
"#;

/// The flows that the example sends, as the library gives them to anyone.
fn generated(bundle: &str, n: usize) -> Rows<trafficgpt::packet::Packet> {
    let generator = Generator::open(&Context::new(Settings::default()), Path::new(bundle)).unwrap();
    let sampling = Sampling { seed: 5, class: Some(2), decode: Decode::Sample, ..Sampling::default() };
    let mut flows = Rows::new();
    generator.generate(&mut Worker::new(), &sampling, n, &mut flows).unwrap();
    flows
}

#[test]
fn replayed_flows_arrive_as_they_were_generated() {
    for (program, option) in [("unshare", "--version"), ("ip", "-V"), ("dumpcap", "--version")] {
        if !harness::installed(program, option) {
            return harness::skip(&format!("{program} is not installed: replaying over a veth pair"));
        }
    }
    let bench = Bench::new();
    let program = bench.compile("examples/c/replay.c", "c");
    let (bundle, capture) = (bench.bundle(), bench.path().join("heard.pcapng"));
    let output = Command::new("unshare")
        .args(["--net", "sh", "-c", WIRED, "sh"])
        .args([&capture, &program])
        .args(["-i", "tg0", "--engine", "native", "--class", "web", "-n", "40", "--rate", "40", "--seed", "5"])
        .args(["--seconds", "3", &bundle])
        .output()
        .unwrap();
    let (stdout, stderr) = harness::texts(&output);
    let status = output.status.code();
    if status != Some(0) && (stderr.contains("Operation not permitted") || matches!(status, Some(98 | 99))) {
        return harness::skip(&format!("a veth pair cannot be made or heard here: {}", stderr.trim()));
    }
    assert_eq!(status, Some(0), "{stdout}{stderr}");

    // What is due within the three seconds, flow by flow, as an interface of 1500 bytes carries it.
    let flows = generated(&bundle, 40);
    let mut expected: Vec<Vec<u32>> = Vec::new();
    for (flow, i) in flows.as_ragged().rows().zip(0..) {
        let mut at = f64::from(i) / 40.0;
        let mut sizes = Vec::new();
        for (packet, j) in flow.iter().zip(0..) {
            at += if j == 0 { 0.0 } else { f64::from(packet.ipt_us) * 1e-6 + 1e-9 };
            if at > 3.0 {
                break;
            }
            sizes.push(packet.size.unsigned_abs().clamp(28, 1500));
        }
        expected.push(sizes);
    }
    let mut heard = Vec::new();
    let options = Options { idle_timeout: std::time::Duration::from_secs(3600), ..Options::default() };
    meter_file(&capture, &options, &mut |flow| {
        heard.push(flow.packets.iter().map(|p| p.size.unsigned_abs()).collect::<Vec<_>>());
        Ok(())
    })
    .unwrap();
    let n: usize = expected.iter().map(Vec::len).sum();
    assert!(stdout.contains(&format!("{n} of {n} packets sent")), "{stdout}");
    // On a loaded machine two packets of different flows may change places, two of one flow never do.
    heard.sort();
    expected.sort();
    assert_eq!(heard, expected);

    let line = stdout.lines().last().unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert!(line.starts_with("timing error: median "), "{line}");
    let figures: Vec<f64> = words.iter().filter_map(|word| word.parse().ok()).collect();
    assert!(figures.len() == 3 && figures.is_sorted() && figures[0] >= 0.0, "{line}");
    println!("{line}");
}

#[test]
fn the_replay_example_says_what_is_wrong() {
    let bench = Bench::new();
    let program = bench.compile("examples/c/replay.c", "c");
    let bundle = bench.bundle();
    let outcome = |arguments: &[&str]| {
        let output = Command::new(&program).args(arguments).output().unwrap();
        let (stdout, stderr) = harness::texts(&output);
        (output.status.code().unwrap(), stdout, stderr)
    };
    let (code, stdout, _) = outcome(&["--help"]);
    assert!(code == 0 && stdout.starts_with("usage: replay"), "{stdout}");
    for (arguments, says) in [
        (&[&*bundle][..], "-i INTERFACE"),
        (&["-i", "lo"], "a bundle"),
        (&["-i", "lo", "-n", "0", &bundle], "-n"),
        (&["-i", "lo", "--rate", "nan", &bundle], "--rate"),
        (&["-i", "lo", &bundle, "more"], "more"),
        (&["--no-such", "x", &bundle], "--no-such"),
        (&["-i", "no-such0", &bundle], "replay: "),
        (&["-i", "a-name-too-long-for-one", &bundle], "a-name-too-long-for-one"),
    ] {
        let (code, stdout, stderr) = outcome(arguments);
        assert!(code == 2 && stdout.is_empty() && stderr.contains(says), "{arguments:?}: {code}\n{stdout}{stderr}");
    }
}
