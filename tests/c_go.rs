//! The Go binding: formatted, vetted, and its tests passed against the shared library of this build.
#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs, dead_code)]

mod common;
#[path = "c/harness.rs"]
mod harness;

use harness::{Bench, root, texts};
use std::process::Command;

/// Major and minor version of the Go that is installed.
fn go_version() -> Vec<u32> {
    let (stdout, _) = texts(&Command::new("go").arg("version").output().unwrap());
    let version = stdout.split_whitespace().find_map(|word| word.strip_prefix("go1.").map(|rest| format!("1.{rest}")));
    version.unwrap_or_default().split('.').take(2).filter_map(|number| number.parse().ok()).collect()
}

#[test]
fn the_go_binding_passes_its_tests() {
    for (program, version) in [("go", "version"), ("pkg-config", "--version")] {
        if !harness::installed(program, version) {
            return harness::skip(&format!("{program} is not installed: the Go binding"));
        }
    }
    if go_version() < vec![1, 24] {
        return harness::skip("the go that is installed is older than 1.24: the Go binding");
    }
    let (bench, library) = (Bench::new(), harness::installed_library());
    let go = |directory: &str, program: &str, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(root().join(directory))
            // What is here is all there is: no other module, no other version of Go is fetched.
            .envs([("GOFLAGS", "-mod=mod"), ("GOPROXY", "off"), ("GOTOOLCHAIN", "local"), ("CGO_ENABLED", "1")])
            .env("GOCACHE", root().join("target/go"))
            .env("PKG_CONFIG_PATH", &library)
            .env("LD_LIBRARY_PATH", &library)
            // Go takes what pkg-config says from its cache, also when the library has moved; this it does not.
            .env("CGO_LDFLAGS", format!("-L{}", harness::text(&library)))
            .env("TRAFFICGPT_TEST_BUNDLE", bench.bundle())
            .env("TRAFFICGPT_TEST_CAPTURE", bench.capture())
            .output()
            .unwrap();
        let (stdout, stderr) = texts(&output);
        assert!(output.status.success(), "{directory}: {program} {arguments:?}\n{stdout}{stderr}");
        stdout
    };
    assert_eq!(go(".", "gofmt", &["-l", "bindings/go", "examples/go"]), "", "gofmt -w these");
    for directory in ["bindings/go", "examples/go"] {
        go(directory, "go", &["vet", "./..."]);
    }
    let said = go("bindings/go", "go", &["test", "-count=1", "-v", "./..."]);
    assert!(!said.contains("--- SKIP"), "{said}");
    go("examples/go", "go", &["build", "-o", harness::text(bench.path()).as_str(), "./..."]);
}
