//! Nothing phones home: classifying and generating open no socket, start no program, and write nowhere but where they were
//! told to. strace watches every system call that could.
#![cfg(all(feature = "train", target_os = "linux"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs, dead_code)]

mod common;
#[path = "c/harness.rs"]
mod harness;

use harness::{Bench, root_file, text, texts};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// What is watched: the network, everything that names a file, and the ways round both.
const WATCHED: &str = "trace=%network,%file,?io_uring_setup,?memfd_create,?bpf,?ptrace,?process_vm_writev,?userfaultfd";

/// Calls that look and change nothing.
const HARMLESS: &[&str] = &[
    "access",
    "chdir",
    "faccessat",
    "faccessat2",
    "getcwd",
    "lstat",
    "newfstatat",
    "readlink",
    "readlinkat",
    "stat",
    "statfs",
    "statx",
];

/// Flags of an open that changes something.
const WRITES: &[&str] = &["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND", "O_TMPFILE"];

/// The calls in a trace that do more than read, but for the start of the program itself and for those all of whose paths
/// lie in `allowed`.
fn suspicious(trace: &str, allowed: &Path) -> Vec<String> {
    let mut started = false;
    let mut suspicious = |line: &&str| {
        let call = line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
        let Some((name, arguments)) = call.split_once('(') else { return false };
        match name {
            // The rest of a call that another thread interrupted, a signal, an exit.
            _ if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => return false,
            "execve" if !started => {
                started = true;
                return false;
            }
            "open" | "openat" if !WRITES.iter().any(|flag| arguments.contains(flag)) => return false,
            _ if HARMLESS.contains(&name) => return false,
            _ => {}
        }
        let paths: Vec<&str> = arguments.split('"').skip(1).step_by(2).collect();
        paths.is_empty() || !paths.iter().all(|path| Path::new(path).starts_with(allowed) && !path.contains(".."))
    };
    trace.lines().filter(&mut suspicious).map(str::to_owned).collect()
}

/// A home, a place for scratch files and one for results, each its own, for a program under watch.
struct Watch(TempDir);

impl Watch {
    /// None, and a line that says why, where strace is missing or may not trace.
    fn new(what: &str) -> Option<Self> {
        let place = TempDir::new().unwrap();
        for name in ["home", "scratch", "results"] {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        let watch = Self(place);
        if !harness::installed("strace", "-V") {
            harness::skip(&format!("strace is not installed: that {what} opens no socket and writes no other file"));
            return None;
        }
        if !watch.trace(Path::new("true"), &[]).contains("execve") {
            harness::skip(&format!("strace may not trace here: that {what} opens no socket and writes no other file"));
            return None;
        }
        Some(watch)
    }

    fn results(&self) -> PathBuf {
        self.0.path().join("results")
    }

    fn trace(&self, program: &Path, arguments: &[&str]) -> String {
        let trace = self.0.path().join("trace");
        let _ = fs::remove_file(&trace);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-s", "4096", "-e", "signal=none", "-e", WATCHED, "-o"]).arg(&trace).arg(program);
        strace.args(arguments).current_dir(self.0.path().join("scratch"));
        strace.env("HOME", self.0.path().join("home")).env("TMPDIR", self.0.path().join("scratch"));
        for variable in ["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "ORT_DISABLE_TELEMETRY"] {
            strace.env_remove(variable);
        }
        let output = strace.output().unwrap();
        let trace = fs::read_to_string(trace).unwrap_or_default();
        let (stdout, stderr) = texts(&output);
        assert!(output.status.success() || trace.is_empty(), "{} {arguments:?}\n{stdout}{stderr}", program.display());
        trace
    }

    /// Runs a program that may write the files `results` in the directory of results, and does.
    fn expect_quiet(&self, program: &Path, arguments: &[&str], results: &[&str]) {
        let trace = self.trace(program, arguments);
        // The model was read, or there is nothing to be said of the trace.
        assert!(trace.contains("model.safetensors"), "{arguments:?}\n{trace}");
        assert_eq!(suspicious(&trace, &self.results()), [""; 0], "{} {arguments:?}", program.display());
        for (directory, expected) in [("home", &[][..]), ("scratch", &[]), ("results", results)] {
            let entries = fs::read_dir(self.0.path().join(directory)).unwrap();
            let found: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            assert_eq!(found, expected, "in {directory} after {arguments:?}");
        }
        for result in results {
            let result = self.results().join(result);
            assert!(fs::metadata(&result).unwrap().len() > 0, "{}", result.display());
            fs::remove_file(result).unwrap();
        }
    }
}

/// The engines of this machine, as arguments.
fn engines() -> Vec<[String; 2]> {
    let named = |name: &str| ["--engine".to_owned(), name.to_owned()];
    if trafficgpt::engine::onnx::find_library(None).is_ok() {
        return vec![named("native"), named("onnx")];
    }
    harness::skip("ONNX Runtime was not found: that it opens no socket and writes no file");
    vec![named("native")]
}

fn bundle() -> String {
    root_file("examples/models/protocols.tgpt")
}

fn capture() -> String {
    root_file("examples/captures/DNS.pcap.gz")
}

/// Nothing that follows would be worth much if this passed.
#[test]
fn what_phones_home_is_seen() {
    let bench = Bench::new();
    let Some(watch) = Watch::new("the watch") else { return };
    let source = bench.path().join("loud.c");
    let code = r#"
        #include <fcntl.h>
        #include <stdio.h>
        #include <sys/socket.h>
        #include <sys/stat.h>
        #include <unistd.h>
        int main(int argc, char **argv) {
          (void)argc;
          open(argv[1], O_RDONLY);
          open(argv[1], O_WRONLY | O_CREAT, 0600);
          rename(argv[1], argv[2]);
          socket(AF_UNIX, SOCK_STREAM, 0);
          socket(AF_INET, SOCK_DGRAM, 0);
          mkdir("here", 0700);
          open("../scratch/there", O_RDWR | O_CREAT, 0600);
          open(argv[3], O_RDWR | O_CREAT, 0600);
          execl("/no/such/program", "program", (char *)0);
          return 0;
        }"#;
    fs::write(&source, code).unwrap();
    let program = bench.path().join("loud");
    assert!(Command::new("cc").arg(&source).arg("-o").arg(&program).status().unwrap().success());
    let result = |name: &str| text(&watch.results().join(name));
    let arguments = [result("a"), result("b"), result("../c")];
    let trace = watch.trace(&program, &arguments.each_ref().map(String::as_str));
    let seen = suspicious(&trace, &watch.results());
    let expected = ["AF_UNIX", "AF_INET", "\"here\"", "there", "results/../c", "/no/such/program"];
    assert_eq!(seen.len(), expected.len(), "{seen:#?}");
    for (line, part) in seen.iter().zip(expected) {
        assert!(line.contains(part), "{line}: {part}");
    }
}

#[test]
fn the_library_in_a_c_program_is_quiet() {
    let Some(watch) = Watch::new("the library") else { return };
    let bench = Bench::new();
    let classify = bench.compile("examples/c/classify.c", "c");
    let generate = bench.compile("examples/c/generate.c", "c");
    let flows = text(&watch.results().join("flows.csv"));
    for [option, engine] in &engines() {
        watch.expect_quiet(&classify, &[option, engine, &bundle(), &capture()], &[]);
        watch.expect_quiet(&generate, &[option, engine, "-n", "20", &bundle(), &flows], &["flows.csv"]);
    }
}

#[test]
fn the_command_is_quiet() {
    let Some(watch) = Watch::new("the command") else { return };
    let command = Path::new(env!("CARGO_BIN_EXE_trafficgpt"));
    for [option, engine] in &engines() {
        let out = |name: &str| text(&watch.results().join(name));
        let common = [option.as_str(), engine];
        watch.expect_quiet(command, &[&["classify", &bundle(), &capture()][..], &common].concat(), &[]);
        for (arguments, result) in [
            (&["classify", &bundle(), &capture(), "--json"][..], "verdicts.json"),
            (&["generate", &bundle(), "--class", "DNS", "-n", "10"], "flows.pcap"),
            (&["generate", &bundle(), "--class", "DNS", "-n", "10"], "flows.parquet"),
        ] {
            watch.expect_quiet(command, &[arguments, &common, &["-o", &out(result)]].concat(), &[result]);
        }
    }
}
