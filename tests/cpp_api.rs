//! include/trafficgpt.hpp as a C++ program sees it: programs of tests/cpp, by every compiler and standard that is here,
//! run against the shared library of this build.
#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs, dead_code)]

mod common;
#[path = "c/harness.rs"]
mod harness;

use harness::{Bench, installed, run};
use std::process::Command;

/// The C++ compilers of this machine; c++ must be there.
fn compilers() -> Vec<&'static str> {
    let others = ["clang++", "clang++-14"].into_iter().find(|name| installed(name, "--version"));
    std::iter::once("c++").chain(others).collect()
}

/// What C++ has no use for: versions, and words for a status that has no message.
const C_ONLY: [&str; 2] = ["tgpt_version", "tgpt_status_str"];

#[test]
fn every_call_of_c_has_its_place() {
    let symbols = std::fs::read_to_string(harness::root().join("tests/abi/symbols.txt")).unwrap();
    let header = std::fs::read_to_string(harness::root().join("include/trafficgpt.hpp")).unwrap();
    let used = |name: &str| header.contains(&format!("{name}(")) || header.contains(&format!(" {name}>"));
    let missing: Vec<&str> = symbols.lines().filter(|name| !C_ONLY.contains(name) && !used(name)).collect();
    assert!(missing.is_empty(), "include/trafficgpt.hpp does not use {missing:?}");
}

#[test]
fn every_call_gives_what_the_c_api_gives() {
    let bench = Bench::new();
    let arguments = [&*bench.bundle(), &bench.capture()];
    let expected = run(&bench.compile("tests/c/happy.c", "c"), &arguments);
    assert!(expected.lines().count() > 50, "{expected}");
    for flags in [["-std=c++17", "-O1"], ["-std=c++20", "-O2"]] {
        let got = run(&bench.compile_cpp("tests/cpp/happy.cpp", "c++", &flags, &[]), &arguments);
        assert!(got == expected, "{flags:?}:\n{got}\nexpected:\n{expected}");
    }
}

#[test]
fn the_table_gives_what_the_c_api_gives() {
    let bench = Bench::new();
    let arguments = [&*bench.bundle()];
    let expected = run(&bench.compile("tests/c/flows.c", "c"), &arguments);
    let got = run(&bench.compile_cpp("tests/cpp/flows.cpp", "c++", &["-std=c++17", "-O2"], &[]), &arguments);
    assert!(got == expected, "{got}\nexpected:\n{expected}");
}

/// Also with every compiler, and where there are no exceptions.
#[test]
fn handles_own_and_errors_say_what() {
    let bench = Bench::new();
    let all: [&[&str]; 3] =
        [&["-std=c++17"], &["-std=c++20", "-D_GLIBCXX_ASSERTIONS"], &["-std=c++17", "-fno-exceptions"]];
    for compiler in compilers() {
        for flags in all {
            let program = bench.compile_cpp("tests/cpp/handles.cpp", compiler, flags, &[]);
            assert_eq!(run(&program, &[&bench.bundle()]), "", "{compiler} {flags:?}");
        }
    }
}

#[test]
fn threads_share_a_model_and_a_table_is_read_while_it_is_pushed() {
    let bench = Bench::new();
    let program = bench.compile_cpp("tests/cpp/threads.cpp", "c++", &["-std=c++17", "-O1"], &[]);
    assert_eq!(run(&program, &[&bench.bundle()]), "");
}

#[test]
fn errors_are_values_where_there_are_no_exceptions() {
    let bench = Bench::new();
    let flags = ["-std=c++17", "-O2", "-fno-exceptions", "-fno-rtti"];
    let program = bench.compile_cpp("tests/cpp/no_exceptions.cpp", "c++", &flags, &[]);
    let labels = run(&program, &[&bench.bundle()]);
    let happy = run(&bench.compile("tests/c/happy.c", "c"), &[&bench.bundle(), &bench.capture()]);
    let (_, rest) = happy.split_once("\nclassifier ").unwrap();
    let expected: Vec<&str> = rest.lines().skip(2).take(70).map(|line| &line[1..2]).collect();
    assert_eq!(labels.lines().collect::<Vec<_>>(), expected);
}

/// A result that nobody looks at is a mistake that the compiler finds, and so is a handle that is copied.
#[test]
fn misuse_does_not_compile() {
    let bench = Bench::new();
    let source = bench.path().join("misuse.cpp");
    for (body, says) in [
        ("trafficgpt::config c; c.set(\"a\", \"b\");", "nodiscard"),
        ("trafficgpt::config c; trafficgpt::config d = c;", "deleted"),
        ("const trafficgpt::flows f; f.flush().value();", "const"),
        ("auto sink = [](std::int32_t, std::string_view) {}; trafficgpt::log_to(sink);", "sink must be noexcept"),
        ("trafficgpt::config c; c.set(\"a\", \"b\").value();", ""),
    ] {
        std::fs::write(&source, format!("#include <trafficgpt.hpp>\nint main() {{ {body} }}\n")).unwrap();
        let mut compiler = Command::new("c++");
        compiler
            .args(["-std=c++17", "-Werror", "-fsyntax-only", "-I"])
            .arg(harness::root().join("include"))
            .arg(&source);
        let output = compiler.output().unwrap();
        let (_, stderr) = harness::texts(&output);
        assert!(output.status.success() == says.is_empty() && stderr.contains(says), "{body}: {stderr}");
    }
}

/// A library of another ABI is refused before anything of it is used.
#[test]
fn another_abi_is_refused() {
    let bench = Bench::new();
    let (source, other) = (bench.path().join("other.c"), bench.path().join("other.so"));
    std::fs::write(&source, "unsigned tgpt_abi(void);\nunsigned tgpt_abi(void) { return 99; }\n").unwrap();
    assert!(Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&other).arg(&source).status().unwrap().success());
    let program = bench.compile_cpp("tests/cpp/no_exceptions.cpp", "c++", &["-std=c++17", "-fno-exceptions"], &[]);
    let output = Command::new(&program).arg(bench.bundle()).env("LD_PRELOAD", &other).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(harness::texts(&output).0, "the library has ABI 99, this program was compiled for 1\n");
    run(&program, &[&bench.bundle()]);
}

/// Use after free, double frees and leaks, also of what the library allocates; and what C++ leaves undefined.
#[test]
fn sanitizers_find_nothing() {
    let bench = Bench::new();
    let flags = ["-std=c++17", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    for (source, printed) in [("tests/cpp/handles.cpp", false), ("tests/cpp/flows.cpp", true)] {
        let program = bench.compile_cpp(source, "c++", &flags, &[]);
        let output = Command::new(program).arg(bench.bundle()).output().unwrap();
        let (stdout, stderr) = harness::texts(&output);
        if stderr.contains("LeakSanitizer has encountered a fatal error") {
            return harness::skip("a process may not look at itself here: leaks of the C++ programs");
        }
        assert!(output.status.success() && stderr.is_empty(), "{source}: {}\n{stdout}{stderr}", output.status);
        assert_eq!(!stdout.is_empty(), printed, "{source}: {stdout}");
    }
}
