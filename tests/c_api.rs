//! The library as a C program sees it: programs of tests/c, compiled against the header, run against the shared library
//! of this build.
#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod common;
#[path = "c/harness.rs"]
mod harness;

use harness::{Bench, root_file, run};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use trafficgpt::classifier::Classifier;
use trafficgpt::config::Settings;
use trafficgpt::context::Context;
use trafficgpt::generator::Generator;
use trafficgpt::meter;
use trafficgpt::packet::{Packet, Rows};
use trafficgpt::sampling::Sampling;
use trafficgpt::worker::Worker;

/// The flows of `fill` in tests/c/check.h.
fn flows() -> Rows<Packet> {
    let packet = |flow: i32, i: i32| {
        let bytes = 40 + (flow * 31 + i * 17) % 1460;
        let ipt_us = if i == 0 { 0.0 } else { 0.25 * (((flow * 13 + i * 1013) % 1000) << ((flow + i) % 12)) as f32 };
        Packet { size: if i * (i + flow) % 5 > 1 { -bytes } else { bytes }, ipt_us }
    };
    (0..70).map(|flow| (0..1 + flow * 7 % 21).map(move |i| packet(flow, i))).collect()
}

fn print_flow(out: &mut String, packets: &[Packet]) {
    for packet in packets {
        write!(out, " {}:{:08x}", packet.size, packet.ipt_us.to_bits()).unwrap();
    }
    out.push('\n');
}

/// What tests/c/happy.c must print, from the Rust API.
fn expected(bench: &Bench) -> String {
    let mut settings = Settings::default();
    settings.set("engine", "native").unwrap();
    let (context, path) = (Context::new(settings.clone()), bench.bundle());
    let path = Path::new(&path);
    let (mut worker, flows) = (Worker::new(), flows());
    let (flows, mut out) = (flows.as_ragged(), String::new());

    let quantizer = trafficgpt::bundle::Bundle::open(path).unwrap().quantizer;
    let mut tokens = vec![0; flows.total()];
    let mut back = vec![Packet { size: 0, ipt_us: 0.0 }; flows.total()];
    quantizer.encode(flows.values(), &mut tokens).unwrap();
    quantizer.decode(&tokens, &mut back).unwrap();
    writeln!(out, "quantizer {}", quantizer.n_tokens()).unwrap();
    tokens.iter().for_each(|token| write!(out, " {token}").unwrap());
    out.push('\n');
    print_flow(&mut out, &back);
    quantizer.decode_sampled(&tokens, None, 5, 6, &mut back).unwrap();
    print_flow(&mut out, &back);

    let classifier = Classifier::open(&context, path).unwrap();
    let (n, dim) = (classifier.labels().len(), classifier.embedding_dim());
    writeln!(out, "classifier {} {dim}\n {}", classifier.engine(), classifier.labels().join(" ")).unwrap();
    let (mut labels, mut scores, mut embeddings) =
        (vec![0; flows.len()], vec![0.0; flows.len() * n], vec![0.0; flows.len() * dim]);
    classifier.classify(&mut worker, flows, &mut labels, Some(&mut scores)).unwrap();
    classifier.embed(&mut worker, flows, &mut embeddings).unwrap();
    for (i, label) in labels.iter().enumerate() {
        write!(out, " {label}").unwrap();
        for value in scores[i * n..][..n].iter().chain(&embeddings[i * dim..][..dim]) {
            write!(out, " {:08x}", value.to_bits()).unwrap();
        }
        out.push('\n');
    }
    // A classifier that says one thing of everything would hide rows that are mixed up.
    let mut rows: Vec<Vec<u32>> = scores.chunks(n).map(|row| row.iter().map(|s| s.to_bits()).collect()).collect();
    rows.sort_unstable();
    rows.dedup();
    assert!(rows.len() > flows.len() / 2, "only {} of {} flows differ in their scores", rows.len(), flows.len());

    let generator = Generator::open(&context, path).unwrap();
    writeln!(out, "generator {} {}", generator.engine(), generator.max_packets()).unwrap();
    writeln!(out, " {}", generator.classes().join(" ")).unwrap();
    let sampling = Sampling { seed: 7, class: Some(1), max_packets: 12, ..Sampling::default() };
    let mut generated = Rows::new();
    generator.generate(&mut worker, &sampling, 9, &mut generated).unwrap();
    generated.as_ragged().rows().for_each(|row| print_flow(&mut out, row));
    let halves: Rows<Packet> = generated.as_ragged().rows().map(|row| row[..row.len() / 2].to_vec()).collect();
    for sampling in [sampling.clone(), Sampling { min_packets: 8, banned: vec![3, 5], ..sampling }] {
        let mut whole = Rows::new();
        generator.continue_flows(&mut worker, &sampling, halves.as_ragged(), &mut whole).unwrap();
        whole.as_ragged().rows().for_each(|row| print_flow(&mut out, row));
    }
    let mut nll = [0.0; 18];
    let (of_class, of_any) = nll.split_at_mut(9);
    generator.score(&mut worker, Some(1), generated.as_ragged(), of_class).unwrap();
    generator.score(&mut worker, None, generated.as_ragged(), of_any).unwrap();
    assert!(of_class.iter().zip(of_any).all(|(a, b)| a != b), "the class changes every score");
    nll.iter().for_each(|value| write!(out, " {:08x}", value.to_bits()).unwrap());
    out.push('\n');

    let mut metered = Vec::new();
    let mut keep = |flow| {
        metered.push(flow);
        Ok(())
    };
    let summary = meter::meter_file(Path::new(&bench.capture()), &settings.meter, &mut keep).unwrap();
    writeln!(out, "capture {} {}", metered.len(), summary.warning.as_deref().unwrap_or("whole")).unwrap();
    assert!(summary.warning.is_some() && metered.len() == 2, "the test capture has two flows and is cut");
    for flow in &metered {
        let key = &flow.key;
        let version = if key.client.is_ipv4() { 4 } else { 6 };
        let times = format!("{} {} {}", flow.start_ns, flow.end_ns, flow.n_packets);
        write!(out, " {times} {} {} {} {version} ", key.client_port, key.server_port, key.protocol).unwrap();
        for address in [key.client, key.server] {
            let octets = match address {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            octets.iter().for_each(|octet| write!(out, "{octet:02x}").unwrap());
            if address == key.client {
                out.push(' ');
            }
        }
        print_flow(&mut out, &flow.packets);
    }
    out
}

#[test]
fn every_call_gives_what_the_rust_api_gives() {
    let bench = Bench::new();
    let expected = expected(&bench);
    for language in ["c", "c++"] {
        let got = run(&bench.compile("tests/c/happy.c", language), &[&bench.bundle(), &bench.capture()]);
        assert!(got == expected, "as {language}:\n{got}\nexpected:\n{expected}");
    }
}

#[test]
fn every_bad_argument_is_refused() {
    let bench = Bench::new();
    let arguments = [&*bench.bundle(), &bench.capture(), &root_file("Cargo.toml")];
    assert_eq!(run(&bench.compile("tests/c/arg_checks.c", "c"), &arguments), "");
}

#[test]
fn handles_may_be_freed_in_any_order() {
    let bench = Bench::new();
    assert_eq!(run(&bench.compile("tests/c/lifecycle.c", "c"), &[&bench.bundle()]), "");
}

#[test]
fn threads_share_a_model_and_not_a_worker() {
    let bench = Bench::new();
    assert_eq!(run(&bench.compile("tests/c/threads.c", "c"), &[&bench.bundle()]), "");
}

#[test]
fn a_process_may_fork_before_a_model_is_open_and_after() {
    let bench = Bench::new();
    assert_eq!(run(&bench.compile("tests/c/fork.c", "c"), &[&bench.bundle()]), "");
}

#[test]
fn two_contexts_know_nothing_of_each_other() {
    let bench = Bench::new();
    assert_eq!(run(&bench.compile("tests/c/contexts.c", "c"), &[&bench.bundle()]), "");
}

#[test]
fn a_named_engine_without_its_runtime_is_refused() {
    let bench = Bench::new();
    let missing = harness::text(&bench.path().join("no-such-libonnxruntime.so"));
    assert_eq!(run(&bench.compile("tests/c/no_runtime.c", "c"), &[&bench.bundle(), &missing]), "");
}

#[test]
fn the_library_can_be_unloaded_while_its_threads_live() {
    let bench = Bench::new();
    let library = harness::text(&harness::library());
    assert_eq!(run(&bench.compile("tests/c/unload.c", "c"), &[&bench.bundle(), &library]), "");
}

/// What `program` prints and its exit code.
fn outcome(program: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let (stdout, stderr) = harness::texts(&output);
    (output.status.code().unwrap(), stdout, stderr)
}

#[test]
fn the_classify_example_prints_every_flow() {
    let bench = Bench::new();
    let (bundle, capture) = (bench.bundle(), bench.capture());
    let program = bench.compile("examples/c/classify.c", "c");
    let (code, stdout, stderr) = outcome(&program, &["--engine", "native", &bundle, &capture]);
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!((code, lines.len()), (0, 4), "{stdout}{stderr}");
    assert!(lines[0].starts_with("flow (client -> server)") && lines[3].starts_with("2 flows"), "{stdout}");
    let found = |start: &str, packets: &str| lines.iter().any(|l| l.starts_with(start) && l.ends_with(packets));
    assert!(found("10.0.0.1:4000 -> 10.0.0.2:53/udp ", " 2"), "{stdout}");
    assert!(found("[2001:db8::1]:50000 -> [2001:db8::2]:443/tcp ", " 4"), "{stdout}");
    // The capture is cut, which the user should know.
    assert!(stderr.starts_with("classify: ") && stderr.contains("two-flows.pcap"), "{stderr}");

    let (code, stdout, _) = outcome(&program, &["--help"]);
    assert!(code == 0 && stdout.starts_with("usage: classify"), "{stdout}");
    let none = root_file("Cargo.toml");
    for (arguments, says) in [
        (&[][..], "needed"),
        (&["--limit"], "--limit"),
        (&["--limit", "x", &bundle, &capture], "--limit"),
        (&["--no-such", "x"], "--no-such"),
        (&[&bundle, &capture, "more"], "more"),
        (&["--engine", "gpu", &bundle, &capture], "engine"),
        (&["no/such", &capture], "no/such"),
        (&["--engine", "native", &bundle, &none], "Cargo.toml"),
    ] {
        let (code, stdout, stderr) = outcome(&program, arguments);
        assert!(code == 2 && stdout.is_empty() && stderr.contains(says), "{arguments:?}: {code}\n{stdout}{stderr}");
    }
}

/// ONNX Runtime would print to stderr of its own, and must not inside a host.
#[test]
fn the_onnx_engine_says_the_same_and_prints_nothing() {
    let library = match trafficgpt::engine::onnx::find_library(None) {
        Ok(path) => harness::text(&path),
        Err(error) => return harness::skip(error.message()),
    };
    let bench = Bench::new();
    let (bundle, capture) = (bench.bundle(), bench.capture());
    let program = bench.compile("examples/c/classify.c", "c");
    let on = |engine| outcome(&program, &["--engine", engine, "--onnx-library", &library, &bundle, &capture]);
    let (native, onnx) = (on("native"), on("onnx"));
    assert_eq!((onnx.0, onnx.1.replace("engine onnx", "engine native"), onnx.2), native);
}

#[test]
fn the_generate_example_writes_the_flows_of_its_seed() {
    let bench = Bench::new();
    let (bundle, out) = (bench.bundle(), harness::text(&bench.path().join("flows.csv")));
    let program = bench.compile("examples/c/generate.c", "c");
    let generate = |seed: &str| {
        let arguments = ["--engine", "native", "--class", "dns", "-n", "20", "--seed", seed, &bundle, &out];
        let said = run(&program, &arguments);
        assert!(said.contains("20 flows") && said.contains("dns from seed"), "{said}");
        std::fs::read_to_string(&out).unwrap()
    };
    let (first, other, again) = (generate("1"), generate("2"), generate("1"));
    assert!(first == again && first != other);
    let rows: Vec<&str> = first.lines().collect();
    assert_eq!(rows[0], "flow,packet,size,ipt_us");
    assert!(rows[1].starts_with("0,0,") && rows[1].ends_with(",0"), "{}", rows[1]);
    assert!(rows.last().unwrap().starts_with("19,"), "{:?}", rows.last());

    let (code, stdout, _) = outcome(&program, &["--help"]);
    assert!(code == 0 && stdout.starts_with("usage: generate"), "{stdout}");
    let nowhere = harness::text(&bench.path().join("no/such/flows.csv"));
    for (arguments, says) in [
        (&[&*bundle][..], "needed"),
        (&["-n", "-3", &bundle, &out], "-n"),
        (&["--seed", "1x", &bundle, &out], "--seed"),
        (&["--class", "no-such", &bundle, &out], "dns"),
        (&["-n", "99999999", &bundle, &out], "99999999"),
        (&["no/such", &out], "no/such"),
        (&["--engine", "native", &bundle, &nowhere], "No such file"),
    ] {
        let (code, stdout, stderr) = outcome(&program, arguments);
        assert!(code == 2 && stdout.is_empty() && stderr.contains(says), "{arguments:?}: {code}\n{stdout}{stderr}");
    }
    let left: Vec<_> = std::fs::read_dir(bench.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".part")), "{left:?}");
}

/// Invalid reads and writes, use of memory that was never set, and leaks, in the library as in the programs.
#[test]
fn valgrind_finds_nothing() {
    if !harness::installed("valgrind", "--version") {
        return harness::skip("valgrind is not installed");
    }
    let bench = Bench::new();
    let (bundle, capture, no_bundle) = (bench.bundle(), bench.capture(), root_file("Cargo.toml"));
    let programs: [(&str, &[&str]); 3] = [
        ("tests/c/happy.c", &[&bundle, &capture]),
        ("tests/c/arg_checks.c", &[&bundle, &capture, &no_bundle]),
        ("tests/c/lifecycle.c", &[&bundle]),
    ];
    // Side by side, as each takes its time.
    let running = programs.map(|(source, arguments)| {
        let mut valgrind = Command::new("valgrind");
        valgrind
            .args(["--quiet", "--error-exitcode=9", "--leak-check=full", "--errors-for-leak-kinds=definite"])
            .arg("--show-leak-kinds=definite")
            .arg(bench.compile(source, "c"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        (source, valgrind.spawn().unwrap())
    });
    for (source, child) in running {
        let output = child.wait_with_output().unwrap();
        let (stdout, stderr) = harness::texts(&output);
        assert!(output.status.success() && stderr.is_empty(), "{source}: {}\n{stdout}{stderr}", output.status);
    }
}
