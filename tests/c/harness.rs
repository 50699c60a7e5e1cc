//! Builds programs against the header and the shared library of this build, and what they need to run: a small model
//! with random weights, and a capture.
#![allow(dead_code)]

use crate::common::{TestBundle, other_bundle};
use etherparse::PacketBuilder;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the repository, for an argument.
pub fn root_file(name: &str) -> String {
    text(&root().join(name))
}

/// The shared library of this build, which Cargo puts beside the test's own executable.
pub fn library() -> PathBuf {
    let path = std::env::current_exe().unwrap().with_file_name("libtrafficgpt.so");
    assert!(path.exists(), "{} was not built", path.display());
    path
}

pub fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Says why a test was not run. `make test` counts these lines.
pub fn skip(reason: &str) {
    println!("skipped: {reason}");
}

/// Whether `program` can be started here.
pub fn installed(program: &str, version: &str) -> bool {
    Command::new(program).arg(version).output().is_ok_and(|output| output.status.success())
}

pub fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// What `program`, a tool, prints.
pub fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success(), "{program}: {stderr}");
    stdout
}

/// Runs `program` and returns its stdout. It must succeed, and print nothing to stderr: neither the program does, nor
/// may the library.
pub fn run(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success(), "{}: {}\n{stdout}{stderr}", program.display(), output.status);
    assert_eq!(stderr, "", "{}", program.display());
    stdout
}

/// Puts the library into `directory` under the names that the compiler and the loader look for.
fn link_library(directory: &Path) {
    for name in ["libtrafficgpt.so", "libtrafficgpt.so.1"] {
        let link = directory.join(name);
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(library(), link).unwrap();
    }
}

/// A directory with the library and its trafficgpt.pc, as `make install` makes one. It keeps its name from run to run,
/// so that Go can keep what it compiled.
pub fn installed_library() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("installed");
    std::fs::create_dir_all(&directory).unwrap();
    link_library(&directory);
    let template = std::fs::read_to_string(root().join("packaging/trafficgpt.pc.in")).unwrap();
    let filled = template
        .replace("@PREFIX@", &text(&directory))
        .replace("@LIBDIR@", &text(&directory))
        .replace("@INCLUDEDIR@", &text(&root().join("include")))
        .replace("@VERSION@", env!("CARGO_PKG_VERSION"));
    std::fs::write(directory.join("trafficgpt.pc"), filled).unwrap();
    directory
}

/// A directory for one test, gone after it.
pub struct Bench {
    directory: TempDir,
    bundle: TestBundle,
}

impl Bench {
    /// With the library in it, and a bundle.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        link_library(directory.path());
        // Few centroids: under valgrind it takes seconds to open more.
        Self { directory, bundle: other_bundle(24) }
    }

    /// Where everything lies.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A bundle with random weights.
    pub fn bundle(&self) -> String {
        text(self.bundle.path())
    }

    /// Compiles `source` (relative to the repository) as `language`, with warnings as errors, against the shared library.
    pub fn compile(&self, source: &str, language: &str) -> PathBuf {
        self.compile_with(source, language, &[])
    }

    /// The same, linked with other libraries too.
    pub fn compile_with(&self, source: &str, language: &str, libraries: &[&str]) -> PathBuf {
        let (compiler, standard) = if language == "c" { ("cc", "-std=c99") } else { ("c++", "-std=c++11") };
        self.build(source, compiler, language, &[standard, "-O1"], libraries)
    }

    /// The same for a program of C++, with flags that name the standard; nothing of the header is taken for a system's.
    pub fn compile_cpp(&self, source: &str, compiler: &str, flags: &[&str], libraries: &[&str]) -> PathBuf {
        self.build(source, compiler, "c++", flags, libraries)
    }

    fn build(&self, source: &str, compiler: &str, language: &str, flags: &[&str], libraries: &[&str]) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        (compiler, language, flags).hash(&mut hasher);
        let program = self.path().join(format!("{}-{:x}", source.replace(['/', '.'], "_"), hasher.finish()));
        let output = Command::new(compiler)
            .args(["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror", "-g", "-x", language])
            .args(flags)
            .arg("-I")
            .arg(root().join("include"))
            .arg(root().join(source))
            .args(["-x", "none", "-o"])
            .arg(&program)
            .arg("-L")
            .arg(self.path())
            .arg(format!("-Wl,-rpath,{}", self.path().display()))
            .args(["-ltrafficgpt", "-lpthread", "-ldl"])
            .args(libraries)
            .output()
            .unwrap_or_else(|error| panic!("{compiler}, a C or C++ compiler, is needed: {error}"));
        assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
        program
    }

    /// A capture of two flows, one IPv4 and UDP, one IPv6 and TCP, cut inside its last record.
    pub fn capture(&self) -> String {
        let path = self.path().join("two-flows.pcap");
        std::fs::write(&path, two_flows()).unwrap();
        text(&path)
    }
}

fn two_flows() -> Vec<u8> {
    let (client, server) = ([2u8, 0, 0, 0, 0, 1], [2u8, 0, 0, 0, 0, 2]);
    let mut file: Vec<u8> = Vec::new();
    file.extend(0xA1B2_C3D4u32.to_le_bytes());
    file.extend([2, 0, 4, 0]);
    file.extend([0; 8]);
    file.extend(65_535u32.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    let mut record = |us: u32, frame: &[u8]| {
        for field in [1_700_000_000, us, frame.len() as u32, frame.len() as u32] {
            file.extend(field.to_le_bytes());
        }
        file.extend(frame);
    };
    let udp = |to_server: bool, payload: usize| {
        let (a, b, p, q) = if to_server { (1, 2, 4000, 53) } else { (2, 1, 53, 4000) };
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(client, server)
            .ipv4([10, 0, 0, a], [10, 0, 0, b], 64)
            .udp(p, q)
            .write(&mut frame, &vec![0; payload])
            .unwrap();
        frame
    };
    let tcp = |to_server: bool, payload: usize| {
        let mut ends = [[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]; 2];
        ends[1][15] = 2;
        let (a, b, p, q) = if to_server { (0, 1, 50_000, 443) } else { (1, 0, 443, 50_000) };
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(client, server)
            .ipv6(ends[a], ends[b], 64)
            .tcp(p, q, 1, 1024)
            .write(&mut frame, &vec![0; payload])
            .unwrap();
        frame
    };
    record(0, &udp(true, 40));
    record(250, &tcp(true, 0));
    record(1_500, &udp(false, 200));
    record(2_000, &tcp(false, 0));
    record(2_125, &tcp(true, 517));
    record(9_000, &tcp(false, 1400));
    record(9_001, &udp(true, 41));
    file.truncate(file.len() - 5);
    file
}
