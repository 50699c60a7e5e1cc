//! The Go binding: formatted, vetted, and its tests passed against the libraries of this build, shared and static.
#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs, dead_code)]

mod common;
#[path = "c/go.rs"]
mod go;
#[path = "c/harness.rs"]
mod harness;

use go::Go;
use harness::{Bench, root, text, texts};
use std::fmt::Write as _;
use std::process::Command;

const BINDING: &str = "bindings/go";
const EXAMPLES: &str = "examples/go";

#[test]
fn the_go_binding_passes_its_tests() {
    let bench = Bench::new();
    let Some(go) = Go::find(&bench, "the Go binding") else { return };
    assert_eq!(go.run(".", "gofmt", &["-l", BINDING, EXAMPLES]), "", "gofmt -w these");
    go.run(BINDING, "go", &["vet", "./..."]);
    let said = go.run(BINDING, "go", &["test", "-count=1", "-v", "./..."]);
    assert!(!said.contains("--- SKIP"), "{said}");
}

#[test]
fn the_race_detector_finds_nothing() {
    let bench = Bench::new();
    let Some(go) = Go::find(&bench, "the Go binding under the race detector") else { return };
    // What counts memory counts the detector's too.
    go.run(BINDING, "go", &["test", "-count=1", "-race", "-skip", "Freed|Nothing", "./..."]);
}

#[test]
fn the_static_library_becomes_part_of_the_program() {
    let bench = Bench::new();
    let Some(go) = Go::find(&bench, "the Go binding with the static library") else { return };
    let program = text(&bench.path().join("binding.test"));
    go.run(BINDING, "go", &["test", "-c", "-tags", "trafficgpt_static", "-o", &program, "."]);
    let (needs, _) = texts(&Command::new("readelf").args(["-d", &program]).output().unwrap());
    assert!(needs.contains("libc.so") && !needs.contains("trafficgpt"), "{needs}");
    let said = go.run(BINDING, &program, &["-test.v", "-test.run", "Flows|Classify|Generate|Capture|Example"]);
    assert!(said.contains("--- PASS: TestFlowsSayWhatClassifySays"), "{said}");
}

/// A library of another ABI: every name is there, and the program still says what is wrong before it calls any other.
#[test]
fn a_library_of_another_abi_is_refused() {
    let bench = Bench::new();
    let Some(go) = Go::find(&bench, "the Go binding with a library of another ABI") else { return };
    if !go.has_modules(EXAMPLES) {
        return;
    }
    let program = text(&bench.path().join("classify"));
    go.run(EXAMPLES, "go", &["build", "-o", &program, "./classify"]);
    let symbols = std::fs::read_to_string(root().join("tests/abi/symbols.txt")).unwrap();
    let mut source = String::from("#include <stdlib.h>\nconst char *tgpt_version(void) { return \"7.0.0\"; }\n");
    for symbol in symbols.split_whitespace().filter(|&symbol| symbol != "tgpt_version") {
        let body = if symbol == "tgpt_abi" { "return 77;" } else { "abort();" };
        writeln!(source, "int {symbol}(void) {{ {body} }}").unwrap();
    }
    let (directory, file) = (bench.path().join("other"), bench.path().join("other.c"));
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(&file, source).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-Wl,-soname,libtrafficgpt.so.1", "-o"]);
    compiler.arg(directory.join("libtrafficgpt.so.1")).arg(file);
    assert!(compiler.status().unwrap().success());
    let mut classify = Command::new(program);
    let output = classify.args([bench.bundle(), bench.capture()]).env("LD_LIBRARY_PATH", directory).output().unwrap();
    let (stdout, stderr) = texts(&output);
    assert_eq!(output.status.code(), Some(2), "{stdout}{stderr}");
    assert!(stderr.contains("ABI 77 (version 7.0.0)") && stderr.contains("built for ABI 1"), "{stderr}");
}

/// The programs, with NATS servers, collectors and killed workers of their own.
#[test]
fn the_examples_pass_their_tests() {
    let bench = Bench::new();
    let Some(go) = Go::find(&bench, "the Go examples") else { return };
    if !go.has_modules(EXAMPLES) {
        return;
    }
    go.run(EXAMPLES, "go", &["vet", "./..."]);
    let said = go.run(EXAMPLES, "go", &["test", "-count=1", "-v", "./..."]);
    assert!(said.contains("--- PASS: TestTheProbeSaysWhatFlowsAre"), "{said}");
    for line in said.lines().filter_map(|line| line.split_once("skipped: ")) {
        harness::skip(line.1);
    }
}
