//! C++ of `tests/kernels`, compiled where there is a compiler: the kernels for the processor, and libraries that take a GPU's
//! place. Of integration tests, and of `src/cuda/on_cpu.rs`.
#![allow(clippy::print_stdout, reason = "says why a test was skipped")]

use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// The CUDA driver that runs kernels on the processor: a source, and the name by which it is found.
pub const DRIVER: &str = "driver_on_cpu.cpp libcuda.so";

/// Compiles `tests/kernels/SOURCE.cpp` to `output`; where that cannot be, false, with a reason printed.
pub fn compile(source: &str, flags: &[&str], output: &Path) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let run = Command::new(&compiler)
        .args(["-std=c++20", "-pthread", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"])
        .args(flags)
        .arg("-I")
        .arg(root.join("kernels"))
        .arg(root.join("tests/kernels").join(source))
        .arg("-o")
        .arg(output)
        .output();
    let message = match run {
        Ok(run) if run.status.success() => return true,
        Ok(run) => String::from_utf8_lossy(&run.stderr).into_owned(),
        Err(error) => {
            println!("skipped: {compiler} does not run: {error}");
            return false;
        }
    };
    // Without the sanitizer's library, or with a C++ that lacks barriers, there is nothing to run.
    let lacking = ["cannot find", "fatal error: barrier", "unrecognized command"];
    assert!(lacking.iter().any(|part| message.contains(part)), "{message}");
    println!("skipped: {compiler} cannot compile {source} with {flags:?}");
    false
}

/// A directory of compiled libraries.
pub struct Libraries(TempDir);

impl Libraries {
    /// Compiles these, each `SOURCE NAME`; none, with a reason printed, where that cannot be.
    pub fn compile(libraries: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let each = |library: &&str| {
            let (source, name) = library.split_once(' ').unwrap();
            compile(source, &["-O2", "-shared", "-fPIC"], &directory.path().join(name))
        };
        libraries.iter().all(each).then_some(Self(directory))
    }

    /// What this test program says when it runs the tests `filter` and finds the libraries. None of the tests may be skipped.
    pub fn run(&self, filter: &str, variables: &[(&str, &str)]) -> String {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([filter, "--show-output"])
            .env("LD_LIBRARY_PATH", self.0.path())
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !text.contains("skipped:"), "{text}{errors}");
        text.into_owned()
    }
}
