//! The very source of the kernels on the CPU (`tests/kernels/on_cpu.cpp`), with the sanitizers of the C++ compiler looking
//! for reads and writes out of bounds, undefined arithmetic and races; and the launchers on a driver that runs them there.
#![allow(clippy::print_stdout, reason = "says why a test was skipped")]

use super::brute::Precision;
use super::checks::{self, Run};
use super::fixed::TimeScale;
use super::geometry::{self, FOUR_EACH, TILE};
use super::quantizer::lookup::Lookup;
use crate::packet::Packet;
use crate::quantizer::Codebook;
use crate::quantizer::scaler::Point;
use crate::tokens::Token;
use bytemuck::Pod;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const PLAIN: &[&str] = &["-O2"];
const ADDRESSES: &[&str] = &["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
const RACES: &[&str] = &["-O1", "-g", "-fsanitize=thread", "-DON_THREADS"];

/// A program that runs the kernels, and a directory for its buffers.
struct OnCpu(TempDir);

/// Compiles `tests/kernels/SOURCE.cpp` to `output`; where that cannot be, false, with a reason printed.
fn compile(source: &str, flags: &[&str], output: &Path) -> bool {
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

impl OnCpu {
    fn new(flags: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        compile("on_cpu.cpp", flags, &directory.path().join("on_cpu")).then_some(Self(directory))
    }

    fn give<T: Pod>(&self, name: &str, values: &[T]) {
        std::fs::write(self.0.path().join(name), bytemuck::cast_slice(values)).unwrap();
    }

    fn take<T: Pod>(&self, name: &str) -> Vec<T> {
        let bytes = std::fs::read(self.0.path().join(name)).unwrap();
        bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
    }

    /// Runs `kernel` over `n` items, with `numbers` as its other arguments.
    fn run(&self, kernel: &str, per_block: u32, n: usize, numbers: &[f64]) {
        let grid = geometry::launch(n, per_block).unwrap().grid_dim.0;
        let output = Command::new(self.0.path().join("on_cpu"))
            .arg(kernel)
            .arg(self.0.path())
            .args([grid.to_string(), n.to_string()])
            .args(numbers.iter().map(f64::to_string))
            .output()
            .unwrap();
        assert!(output.status.success(), "{kernel}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Run for OnCpu {
    fn encode(&self, packets: &[Packet], lookup: &Lookup) -> (Vec<Token>, [u32; 2]) {
        self.give("packets", packets);
        self.give("ranges", &lookup.ranges);
        self.give("steps", &lookup.steps);
        self.give("tokens", &vec![77; packets.len()]);
        self.give("report", &[u32::MAX, 0]);
        self.run("encode", FOUR_EACH, packets.len(), &[]);
        let report = self.take("report");
        (self.take("tokens"), [report[0], report[1]])
    }

    fn accumulate(&self, packets: &[Packet], tokens: &[Token], k: usize, scale: &TimeScale) -> Vec<[u64; 3]> {
        self.give("packets", packets);
        self.give("tokens", tokens);
        self.give("sums", &vec![[0u64; 3]; k]);
        let numbers = [k as f64, scale.unit, scale.offset, f64::from(scale.last_zero)];
        self.run("accumulate", TILE, packets.len(), &numbers);
        self.take("sums")
    }

    fn moments(&self, packets: &[Packet], scale: &TimeScale) -> [u64; 5] {
        self.give("packets", packets);
        self.give("sums", &[0u64; 5]);
        self.run("moments", TILE, packets.len(), &[scale.unit, scale.offset, f64::from(scale.last_zero)]);
        self.take("sums").try_into().unwrap()
    }

    fn nearest(&self, points: &[Point], codebook: &Codebook, precision: Precision) -> Vec<Token> {
        let centroids: Vec<Point> = codebook.centroids().iter().map(|c| c.map(f64::from)).collect();
        let kernel = match precision {
            Precision::F64 => {
                self.give("points", points);
                self.give("centroids", &centroids);
                "nearest_brute_f64"
            }
            Precision::F32 => {
                self.give("points", &points.iter().map(|p| p.map(|v| v as f32)).collect::<Vec<_>>());
                self.give("centroids", codebook.centroids());
                "nearest_brute_f32"
            }
        };
        self.give("tokens", &vec![77u32; points.len()]);
        self.run(kernel, FOUR_EACH, points.len(), &[codebook.len() as f64]);
        self.take("tokens")
    }
}

#[test]
fn kernels_give_the_hosts_results() {
    let Some(run) = OnCpu::new(PLAIN) else { return };
    checks::encode_gives_the_tokens_of_the_table(&run, &[1, 31, 33, 30_007]);
    checks::encode_finds_the_first_illegal_time(&run);
    checks::accumulate_sums_as_the_host(&run, &[1, 33, 50_007]);
    checks::scaled_times_are_the_hosts(&run, 100_007);
    checks::extreme_packets_do_not_overflow(&run, 3 << 14);
    checks::moments_sum_as_the_host(&run, &[1, 31, 50_007]);
    checks::brute_force_finds_the_nearest(&run, &[1, 31, 1023, 1025, 4096, 3001]);
}

#[test]
fn kernels_stay_within_their_buffers() {
    let Some(run) = OnCpu::new(ADDRESSES) else { return };
    checks::encode_gives_the_tokens_of_the_table(&run, &[1, 33, 1025]);
    checks::accumulate_sums_as_the_host(&run, &[1, 16_385]);
    checks::moments_sum_as_the_host(&run, &[33]);
    checks::brute_force_finds_the_nearest(&run, &[1, 31, 1025]);
}

#[test]
fn kernels_have_no_races() {
    let Some(run) = OnCpu::new(RACES) else { return };
    checks::encode_gives_the_tokens_of_the_table(&run, &[1025]);
    checks::accumulate_sums_as_the_host(&run, &[16_385]);
    checks::moments_sum_as_the_host(&run, &[16_385]);
    checks::brute_force_finds_the_nearest(&run, &[1, 1025, 1023]);
}

/// The tests of `on_gpu`, all of them, in a process that finds a driver which runs on the CPU.
#[test]
#[cfg(target_os = "linux")]
fn launchers_give_the_hosts_results() {
    let directory = tempfile::tempdir().unwrap();
    if !compile("driver_on_cpu.cpp", &["-O2", "-shared", "-fPIC"], &directory.path().join("libcuda.so")) {
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["cuda::on_gpu::", "--show-output"])
        .env("LD_LIBRARY_PATH", directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !text.contains("skipped:"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("a_fit_goes_where_the_cpus_goes ... ok"), "{text}");
}
