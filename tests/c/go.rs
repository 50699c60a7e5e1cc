//! Runs Go on what is here, against the libraries of this build.

use crate::harness::{self, Bench, root, text, texts};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The oldest Go that compiles the binding, as its go.mod says.
const OLDEST: [u32; 2] = [1, 24];

/// Go, and where it finds the library and a model.
pub struct Go {
    library: PathBuf,
    bundle: String,
    capture: String,
}

/// Major and minor version of the Go that is installed.
fn version() -> Vec<u32> {
    let (stdout, _) = texts(&Command::new("go").arg("version").output().unwrap());
    let version = stdout.split_whitespace().find_map(|word| word.strip_prefix("go1.").map(|rest| format!("1.{rest}")));
    version.unwrap_or_default().split('.').take(2).filter_map(|number| number.parse().ok()).collect()
}

/// The shared library, beside it the static one.
fn installed_library() -> PathBuf {
    let library = harness::installed_library();
    let archive = library.join("libtrafficgpt.a");
    let _ = std::fs::remove_file(&archive);
    std::os::unix::fs::symlink(harness::library().with_file_name("libtrafficgpt.a"), archive).unwrap();
    library
}

impl Go {
    /// None, and a line that says why, where `what` cannot be tested.
    pub fn find(bench: &Bench, what: &str) -> Option<Self> {
        for (program, version) in [("go", "version"), ("pkg-config", "--version")] {
            if !harness::installed(program, version) {
                harness::skip(&format!("{program} is not installed: {what}"));
                return None;
            }
        }
        if version() < OLDEST.to_vec() {
            harness::skip(&format!("the go that is installed is older than 1.24: {what}"));
            return None;
        }
        // Once, or one test would take it away from under another.
        static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
        let library = LIBRARY.get_or_init(installed_library).clone();
        Some(Self { library, bundle: bench.bundle(), capture: bench.capture() })
    }

    /// A command in `directory` of the repository that finds everything. No other version of Go is fetched.
    pub fn command(&self, directory: &str, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(root().join(directory))
            .envs([("GOFLAGS", "-mod=readonly"), ("GOTOOLCHAIN", "local"), ("CGO_ENABLED", "1")])
            .env("GOCACHE", root().join("target/go"))
            .env("PKG_CONFIG_PATH", &self.library)
            .env("LD_LIBRARY_PATH", &self.library)
            // Go takes what pkg-config says from its cache, also when the library has moved; this it does not.
            .env("CGO_LDFLAGS", format!("-L{}", text(&self.library)))
            .env("TRAFFICGPT_TEST_BUNDLE", &self.bundle)
            .env("TRAFFICGPT_TEST_CAPTURE", &self.capture);
        command
    }

    /// Runs it, and returns its stdout. It must succeed.
    pub fn run(&self, directory: &str, program: &str, arguments: &[&str]) -> String {
        let output = self.command(directory, program, arguments).output().unwrap();
        let (stdout, stderr) = texts(&output);
        assert!(output.status.success(), "{directory}: {program} {arguments:?}\n{stdout}{stderr}");
        stdout
    }

    /// Whether the modules that one in `directory` is built with are here, or could be fetched, as its go.sum names them;
    /// else a line that says why not.
    pub fn has_modules(&self, directory: &str) -> bool {
        let output = self.command(directory, "go", &["mod", "download"]).output().unwrap();
        if !output.status.success() {
            let (_, why) = texts(&output);
            harness::skip(&format!(
                "Go modules could not be fetched: {directory}: {}",
                why.lines().next().unwrap_or("")
            ));
        }
        output.status.success()
    }
}
