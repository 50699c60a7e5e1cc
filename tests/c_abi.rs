//! What a program compiled against an earlier build relies on: names, numbers, layouts, the SONAME.
//!
//! A change of `tests/abi` is a change of the ABI: what is added needs no new SONAME, anything else does (see
//! CONTRIBUTING.md). `TRAFFICGPT_UPDATE=1 cargo test --test c_abi` writes the files anew.
#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs, dead_code)]

#[path = "abi/baseline.rs"]
mod baseline;
mod common;
#[path = "c/harness.rs"]
mod harness;

use harness::Bench;
use std::process::Command;

fn compare(file: &str, got: &str) {
    let path = harness::root().join("tests/abi").join(file);
    if std::env::var_os("TRAFFICGPT_UPDATE").is_some() {
        std::fs::write(&path, got).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == got, "the ABI changed; tests/abi/{file} has:\n{kept}\nthis build has:\n{got}");
}

fn output(program: &str, arguments: &[&str]) -> String {
    let library = harness::text(&harness::library());
    harness::output_of(program, &[arguments, &[&library]].concat())
}

/// Everything that a host's linker can see: nothing of the Rust library or of a dependency may clash with its names.
#[test]
fn only_the_calls_of_the_header_are_exported() {
    let symbols = output("nm", &["--dynamic", "--defined-only", "--format=just-symbols"]);
    let mut names: Vec<&str> = symbols.lines().collect();
    names.sort_unstable();
    compare("symbols.txt", &(names.join("\n") + "\n"));

    let header = std::fs::read_to_string(harness::root().join("include/trafficgpt.h")).unwrap();
    let declared = |name: &str| header.contains(&format!("{name}("));
    assert!(names.iter().all(|name| declared(name)), "{names:?}");
}

#[test]
fn structs_and_constants_are_where_they_were() {
    let bench = Bench::new();
    compare("layout.txt", &harness::run(&bench.compile("tests/abi/layout.c", "c"), &[]));
}

#[test]
fn the_soname_is_the_abi_and_the_library_stays_mapped() {
    let dynamic = output("readelf", &["--dynamic", "--wide"]);
    assert!(dynamic.contains("[libtrafficgpt.so.1]"), "{dynamic}");
    assert!(dynamic.contains("NODELETE"), "{dynamic}");
    // What must be there to load it: the C library and nothing else.
    for needed in dynamic.lines().filter(|line| line.contains("(NEEDED)")) {
        let known = ["libc.so", "libm.so", "libgcc_s.so", "libpthread.so", "libdl.so", "ld-linux"];
        assert!(known.iter().any(|name| needed.contains(name)), "{needed}");
    }
}

/// The static library needs what trafficgpt.pc lists as `Libs.private`, and no more.
#[test]
fn the_static_library_links_by_its_pkg_config_file() {
    let bench = Bench::new();
    let template = std::fs::read_to_string(harness::root().join("packaging/trafficgpt.pc.in")).unwrap();
    let private = template.lines().find_map(|line| line.strip_prefix("Libs.private: ")).unwrap();
    let program = bench.path().join("static");
    let output = Command::new("cc")
        .arg("-I")
        .arg(harness::root().join("include"))
        .arg(harness::root().join("tests/abi/layout.c"))
        .arg(harness::library().with_extension("a"))
        .args(private.split_whitespace())
        .arg("-o")
        .arg(&program)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    harness::run(&program, &[]);
}
