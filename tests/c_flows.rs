//! The streaming table as a C program sees it.
#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs, dead_code)]

mod common;
#[path = "c/harness.rs"]
mod harness;

use harness::{Bench, run};
use std::fmt::Write as _;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use trafficgpt::classifier::Classifier;
use trafficgpt::config::Settings;
use trafficgpt::context::Context;
use trafficgpt::flows::{Flows, FrameInfo, Observation, Verdict};
use trafficgpt::meter::Tunnel;
use trafficgpt::meter::frame::Link;

const START: u64 = 1_000_000_000;

/// The packets of `observe` in tests/c/flows.c, flow by flow: size and time since the one before.
fn flows() -> Vec<Vec<Observation>> {
    let address = |last: u8| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, last];
    let packet = |flow: i32, i: i32| {
        let bytes = 40 + (flow * 31 + i * 17) % 1460;
        let ipt_us = if i == 0 { 0.0 } else { 0.25 * (((flow * 13 + i * 1013) % 1000) << ((flow + i) % 12)) as f32 };
        (bytes as u32, i * (i + flow) % 5 <= 1, (ipt_us * 1000.0) as u64)
    };
    let observe = |flow: i32| {
        let mut ts_ns = START;
        (0..1 + flow * 7 % 21)
            .map(|i| {
                let (size, from_client, since) = packet(flow, i);
                ts_ns += since;
                let o = Observation { ts_ns, size, protocol: 17, ..Observation::default() };
                let ((src, src_port), (dst, dst_port)) = ((address(flow as u8), 5000), (address(200), 443));
                if from_client {
                    Observation { src, dst, src_port, dst_port, ..o }
                } else {
                    Observation { src: dst, dst: src, src_port: dst_port, dst_port: src_port, ..o }
                }
            })
            .collect()
    };
    (0..70).map(observe).collect()
}

fn print_all(out: &mut String, flows: &mut Flows) {
    loop {
        let mut verdicts = [Verdict::default(); 13];
        let n = flows.poll(Some(1), &mut verdicts).unwrap();
        for v in &verdicts[..n] {
            v.client.iter().chain(&v.server).for_each(|byte| write!(out, "{byte:02x}").unwrap());
            write!(out, " {} {} {} {}", v.client_port, v.server_port, v.protocol, v.ip_version).unwrap();
            write!(out, " {} {} {}", v.start_ns, v.last_ns, v.n_packets).unwrap();
            let (bits, zone) = (v.score.to_bits(), v.zone);
            let Verdict { label, epoch, reason, is_final, n_read, .. } = v;
            writeln!(out, " {label} {bits:08x} {epoch} {reason} {is_final} {n_read} {zone}").unwrap();
        }
        if n < 13 {
            return;
        }
    }
}

/// What tests/c/flows.c must print, from the Rust API.
fn expected(bench: &Bench) -> String {
    let mut settings = Settings::default();
    for (key, value) in [
        ("engine", "native"),
        ("flows.max_flows", "100"),
        ("flows.counts", "3,6,12"),
        ("flows.confidence", "0.9"),
        ("flows.min_packets", "1"),
    ] {
        settings.set(key, value).unwrap();
    }
    let classifier = Classifier::open(&Context::new(settings.clone()), Path::new(&bench.bundle())).unwrap();
    let mut table = Flows::new(&classifier, &settings.flows, Tunnel::Inner).unwrap();
    let (flows, mut out) = (flows(), String::new());
    let side_by_side: Vec<Observation> =
        (0..21).flat_map(|i| flows.iter().filter_map(move |flow| flow.get(i).copied())).collect();
    let (first, second) = side_by_side.split_at(side_by_side.len() / 2);
    table.push(first);
    print_all(&mut out, &mut table);
    table.push(second);
    print_all(&mut out, &mut table);
    assert!(out.lines().count() > 50, "{out}");
    table.control().swap(&classifier).unwrap();
    table.control().swap(&classifier).unwrap();
    let mut frame = vec![1; 6];
    frame.extend([2; 6]);
    frame.extend([8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x20, 0, 0, 53]);
    frame.resize(60, 0);
    let info = |i: u64| FrameInfo { ts_ns: START + i, captured: if i == 1 { 0 } else { 60 }, wire_len: 60 };
    let frames = (0..3).map(|i| (info(i), if i == 1 { &[][..] } else { &frame }));
    table.push_frames(Link::Ethernet, frames);
    table.flush();
    print_all(&mut out, &mut table);
    writeln!(out, "{}", table.control().stats()).unwrap();
    out
}

#[test]
fn every_call_gives_what_the_rust_api_gives() {
    let bench = Bench::new();
    let expected = expected(&bench);
    for language in ["c", "c++"] {
        let got = run(&bench.compile("tests/c/flows.c", language), &[&bench.bundle()]);
        for (got, expected) in got.lines().zip(expected.lines()) {
            assert_eq!(got, expected, "as {language}");
        }
        assert_eq!(got.len(), expected.len(), "as {language}");
    }
}

#[test]
fn others_swap_and_read_while_one_pushes() {
    let bench = Bench::new();
    let other = common::other_bundle(48);
    let arguments = [&*bench.bundle(), &harness::text(other.path())];
    assert_eq!(run(&bench.compile("tests/c/flows_threads.c", "c"), &arguments), "");
}

/// Between the marks that the program sets there is no system call.
#[test]
fn a_push_makes_no_system_call() {
    if !harness::installed("strace", "-V") {
        return harness::skip("strace is not installed: that pushes make no system call");
    }
    let bench = Bench::new();
    let program = bench.compile("tests/c/flows_quiet.c", "c");
    let trace = bench.path().join("trace");
    let output =
        Command::new("strace").args(["-f", "-o"]).arg(&trace).arg(&program).arg(bench.bundle()).output().unwrap();
    let trace = std::fs::read_to_string(trace).unwrap_or_default();
    if !trace.contains("execve") {
        return harness::skip("strace may not trace here: that pushes make no system call");
    }
    let (stdout, stderr) = harness::texts(&output);
    assert!(output.status.success() && stdout.is_empty(), "{stdout}{stderr}");
    let calls: Vec<&str> = trace.lines().collect();
    let marks: Vec<usize> = (0..calls.len()).filter(|&i| calls[i].contains("getppid()")).collect();
    assert_eq!(marks.len(), 2, "{trace}");
    assert_eq!(calls[marks[0] + 1..marks[1]], [""; 0]);
}

/// Whether the C compiler finds libpcap, as pcap/pcap.h and -lpcap.
fn has_libpcap(bench: &Bench) -> bool {
    let source = bench.path().join("has.c");
    std::fs::write(&source, "#include <pcap/pcap.h>\nint main(void) { return pcap_lib_version() == 0; }\n").unwrap();
    let mut compiler = Command::new("cc");
    compiler.arg(&source).arg("-o").arg(bench.path().join("has")).arg("-lpcap");
    compiler.output().is_ok_and(|output| output.status.success())
}

/// The live example, or a line that says why not.
fn live(bench: &Bench) -> Option<PathBuf> {
    if !has_libpcap(bench) {
        harness::skip("libpcap is not installed: the live example");
        return None;
    }
    Some(bench.compile_with("examples/c/live.c", "c", &["-lpcap"]))
}

#[test]
fn the_live_example_says_of_a_capture_what_classify_says() {
    let bench = Bench::new();
    let Some(program) = live(&bench) else { return };
    let (bundle, capture) = (bench.bundle(), bench.capture());
    let outcome = |program: &Path, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        let (stdout, stderr) = harness::texts(&output);
        (output.status.code().unwrap(), stdout, stderr)
    };
    let (code, streamed, stderr) = outcome(&program, &["--set", "engine=native", &bundle, &capture]);
    assert_eq!(code, 0, "{streamed}{stderr}");
    assert!(stderr.contains("truncated"), "the capture is cut, which the user should know: {stderr}");
    let classify = bench.compile("examples/c/classify.c", "c");
    let (_, metered, _) = outcome(&classify, &["--engine", "native", &bundle, &capture]);
    let flows = |text: &str| -> Vec<Vec<String>> {
        let words = |line: &str| line.split_whitespace().take(6).map(str::to_owned).collect();
        let mut flows: Vec<Vec<String>> =
            text.lines().filter(|l| l.contains(" -> 1") || l.contains(" -> [")).map(words).collect();
        flows.sort();
        flows
    };
    assert_eq!(flows(&streamed).len(), 2, "{streamed}");
    assert_eq!(flows(&streamed), flows(&metered));
    let last = streamed.lines().last().unwrap();
    assert!(last.contains("\"packets\":6") && last.contains("\"verdicts_final\":2"), "{last}");

    let (code, stdout, _) = outcome(&program, &["--help"]);
    assert!(code == 0 && stdout.starts_with("usage: live"), "{stdout}");
    for (arguments, says) in [
        (&[][..], "bundle is needed"),
        (&[&*bundle], "interface or a capture"),
        (&["-i", "lo", &bundle, &capture], "not both"),
        (&["--packets", "x", &bundle, &capture], "--packets"),
        (&["--set", "engine", &bundle, &capture], "--set"),
        (&["--set", "flows.counts=9,1", &bundle, &capture], "flows.counts"),
        (&["--no-such", "x"], "--no-such"),
        (&[&bundle, &capture, "more"], "more"),
        (&["no/such", &capture], "no/such"),
        (&[&bundle, "no/such"], "no/such"),
        (&["-i", "no-such0", &bundle], "no-such0"),
    ] {
        let (code, stdout, stderr) = outcome(&program, arguments);
        assert!(code == 2 && stdout.is_empty() && stderr.contains(says), "{arguments:?}: {code}\n{stdout}{stderr}");
    }
}

/// Datagrams between two sockets, seen on the loopback interface.
#[test]
fn the_live_example_hears_an_interface() {
    let bench = Bench::new();
    let Some(program) = live(&bench) else { return };
    let sockets = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let [from, to] = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
    let arguments = ["-i", "lo", "--all", "--packets", "2000", "--set", "engine=native", &*bench.bundle()];
    let mut child =
        Command::new(program).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > Duration::from_secs(30) {
            child.kill().unwrap();
            panic!("no packet was heard");
        }
        for _ in 0..20 {
            sockets[0].send_to(&[0; 300], to).unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let (stdout, stderr) = harness::texts(&child.wait_with_output().unwrap());
    if status.code() == Some(2) {
        return harness::skip(&format!("the loopback interface: {}", stderr.trim()));
    }
    assert!(status.success(), "{stdout}{stderr}");
    assert!(stdout.contains(&format!("{from} -> {to}/udp")), "{stdout}");
}

#[test]
fn valgrind_finds_nothing() {
    if !harness::installed("valgrind", "--version") {
        return harness::skip("valgrind is not installed");
    }
    let bench = Bench::new();
    let output = Command::new("valgrind")
        .args(["--quiet", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite"])
        .arg("--show-leak-kinds=definite")
        .arg(bench.compile("tests/c/flows.c", "c"))
        .arg(bench.bundle())
        .output()
        .unwrap();
    let (_, stderr) = harness::texts(&output);
    assert!(output.status.success() && stderr.is_empty(), "{}\n{stderr}", output.status);
}
