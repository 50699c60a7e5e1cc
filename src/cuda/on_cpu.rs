//! The very source of the kernels on the CPU (`tests/kernels/on_cpu.cpp`), with the sanitizers of the C++ compiler looking
//! for reads and writes out of bounds, undefined arithmetic and races; and the launchers on a driver that runs them there.

#[path = "../../tests/common/cpp.rs"]
mod cpp;

use super::brute::Precision;
use super::checks::{self, Run};
use super::fixed::TimeScale;
use super::geometry::{self, FOUR_EACH, TILE};
use super::gpt2::checks::{self as network, RunKernel, Value};
use super::module::Kernel;
use super::quantizer::lookup::Lookup;
#[cfg(feature = "train")]
use super::train::checks as training;
use crate::backend::packed::Precision as OfNetwork;
use crate::packet::Packet;
use crate::quantizer::Codebook;
use crate::quantizer::scaler::Point;
use crate::tokens::Token;
use bytemuck::Pod;
use std::process::Command;
use tempfile::TempDir;

const PLAIN: &[&str] = &["-O2"];
const ADDRESSES: &[&str] = &["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
const RACES: &[&str] = &["-O1", "-g", "-fsanitize=thread", "-DON_THREADS"];

/// A program that runs the kernels, and a directory for its buffers.
struct OnCpu(TempDir);

impl OnCpu {
    fn new(flags: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        cpp::compile("on_cpu.cpp", flags, &directory.path().join("on_cpu")).then_some(Self(directory))
    }

    fn give<T: Pod>(&self, name: &str, values: &[T]) {
        std::fs::write(self.0.path().join(name), bytemuck::cast_slice(values)).unwrap();
    }

    fn take<T: Pod>(&self, name: &str) -> Vec<T> {
        let bytes = std::fs::read(self.0.path().join(name)).unwrap();
        bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
    }

    /// Runs `blocks` blocks of `kernel` with these arguments: names of buffers and numbers.
    fn run(&self, kernel: &str, blocks: usize, arguments: &[String]) {
        let output = Command::new(self.0.path().join("on_cpu"))
            .arg(kernel)
            .arg(self.0.path())
            .arg(blocks.to_string())
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{kernel}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Blocks for `n` items.
fn blocks(n: usize, per_block: u32) -> usize {
    geometry::launch(n, per_block).unwrap().grid_dim.0 as usize
}

macro_rules! arguments {
    ($($argument:expr),*) => { &[$($argument.to_string()),*] };
}

impl Run for OnCpu {
    fn encode(&self, packets: &[Packet], lookup: &Lookup) -> (Vec<Token>, [u32; 2]) {
        let n = packets.len();
        self.give("packets", packets);
        self.give("ranges", &lookup.ranges);
        self.give("steps", &lookup.steps);
        self.give("tokens", &vec![77; n]);
        self.give("report", &[u32::MAX, 0]);
        let arguments = arguments!["packets", n, "ranges", "steps", "tokens", "report"];
        self.run("encode", blocks(n, FOUR_EACH), arguments);
        let report = self.take("report");
        (self.take("tokens"), [report[0], report[1]])
    }

    fn accumulate(&self, packets: &[Packet], tokens: &[Token], k: usize, scale: &TimeScale) -> Vec<[u64; 3]> {
        let n = packets.len();
        self.give("packets", packets);
        self.give("tokens", tokens);
        self.give("sums", &vec![[0u64; 3]; k]);
        let arguments = arguments!["packets", "tokens", n, k, scale.unit, scale.offset, scale.last_zero, "sums"];
        self.run("accumulate", blocks(n, TILE), arguments);
        self.take("sums")
    }

    fn moments(&self, packets: &[Packet], scale: &TimeScale) -> [u64; 5] {
        let n = packets.len();
        self.give("packets", packets);
        self.give("sums", &[0u64; 5]);
        let arguments = arguments!["packets", n, scale.unit, scale.offset, scale.last_zero, "sums"];
        self.run("moments", blocks(n, TILE), arguments);
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
        let n = points.len();
        self.give("tokens", &vec![77u32; n]);
        let arguments = arguments!["points", n, "centroids", codebook.len(), "tokens"];
        self.run(kernel, blocks(n, FOUR_EACH), arguments);
        self.take("tokens")
    }
}

impl RunKernel for OnCpu {
    fn run(&self, kernel: Kernel, blocks: usize, values: &mut [Value<'_>]) {
        let mut arguments = Vec::new();
        for (i, value) in values.iter().enumerate() {
            let name = format!("buffer{i}");
            arguments.push(match value {
                Value::In(bytes) => {
                    self.give(&name, bytes);
                    name
                }
                Value::Out(bytes) => {
                    self.give(&name, bytes);
                    name
                }
                Value::U32(n) => n.to_string(),
                Value::F32(v) => v.to_string(),
            });
        }
        OnCpu::run(self, kernel.name(), blocks, &arguments);
        for (value, name) in values.iter_mut().zip(&arguments) {
            if let Value::Out(bytes) = value {
                **bytes = self.take(name);
            }
        }
    }
}

/// Shapes of products: smaller than a tile, a tile, and parts of several.
const SHAPES: [[usize; 3]; 5] = [[1, 1, 1], [3, 7, 5], [64, 64, 16], [65, 70, 33], [130, 67, 40]];
const SHAPES_BF16: [[usize; 3]; 5] = [[1, 8, 8], [5, 3, 16], [64, 64, 32], [129, 136, 72], [70, 201, 168]];

fn network_kernels(run: &dyn RunKernel) {
    network::rows_are_embedded_and_normalised(run);
    network::sequences_are_pooled(run);
    network::sequences_attend(run, &[1, 2, 5, 33, 40]);
    network::flows_attend_to_their_caches(run);
}

/// Of training, those kernels whose threads wait for each other.
#[cfg(feature = "train")]
fn training_kernels(run: &dyn RunKernel, shapes: &[[usize; 4]]) {
    training::gradients_are_multiplied(run, shapes);
    training::losses_are_those_of_the_softmax(run);
    training::gradients_are_clipped(run);
}

#[cfg(not(feature = "train"))]
fn training_kernels(_: &dyn RunKernel, _: &[[usize; 4]]) {}

#[test]
fn kernels_give_the_hosts_results() {
    let Some(run) = OnCpu::new(PLAIN) else { return };
    training_kernels(&run, &[[5, 8, 1, 1], [70, 136, 77, 1], [129, 24, 200, 3], [16, 72, 40, 4]]);
    checks::encode_gives_the_tokens_of_the_table(&run, &[1, 31, 33, 30_007]);
    checks::encode_finds_the_first_illegal_time(&run);
    checks::accumulate_sums_as_the_host(&run, &[1, 33, 50_007]);
    checks::scaled_times_are_the_hosts(&run, 100_007);
    checks::extreme_packets_do_not_overflow(&run, 3 << 14);
    checks::moments_sum_as_the_host(&run, &[1, 31, 50_007]);
    checks::brute_force_finds_the_nearest(&run, &[1, 31, 1023, 1025, 4096, 3001]);
    network_kernels(&run);
    network::matrices_are_multiplied(&run, OfNetwork::F32, &SHAPES);
    network::matrices_are_multiplied(&run, OfNetwork::Bf16, &SHAPES_BF16);
    for (packets, rows) in [(1, 5), (31, 40), (300, 100), (2049, 40)] {
        network::tokens_are_drawn_by_the_rule(&run, packets, rows);
    }
}

#[test]
fn kernels_stay_within_their_buffers() {
    let Some(run) = OnCpu::new(ADDRESSES) else { return };
    training_kernels(&run, &[[5, 8, 1, 1], [70, 72, 100, 3]]);
    checks::encode_gives_the_tokens_of_the_table(&run, &[1, 33, 1025]);
    checks::accumulate_sums_as_the_host(&run, &[1, 16_385]);
    checks::moments_sum_as_the_host(&run, &[33]);
    checks::brute_force_finds_the_nearest(&run, &[1, 31, 1025]);
    network_kernels(&run);
    network::matrices_are_multiplied(&run, OfNetwork::F32, &SHAPES[..4]);
    network::matrices_are_multiplied(&run, OfNetwork::Bf16, &SHAPES_BF16[..2]);
    network::tokens_are_drawn_by_the_rule(&run, 33, 6);
}

#[test]
fn kernels_have_no_races() {
    let Some(run) = OnCpu::new(RACES) else { return };
    training_kernels(&run, &[[5, 8, 170, 1]]);
    checks::encode_gives_the_tokens_of_the_table(&run, &[1025]);
    checks::accumulate_sums_as_the_host(&run, &[16_385]);
    checks::moments_sum_as_the_host(&run, &[16_385]);
    checks::brute_force_finds_the_nearest(&run, &[1, 1025, 1023]);
    network::sequences_are_pooled(&run);
    network::flows_attend_to_their_caches(&run);
    network::matrices_are_multiplied(&run, OfNetwork::F32, &[[65, 3, 33]]);
    // So deep that every buffer of the pipeline is filled twice.
    network::matrices_are_multiplied(&run, OfNetwork::Bf16, &[[5, 8, 168]]);
    network::tokens_are_drawn_by_the_rule(&run, 33, 2);
}

/// Those that sum over GPUs, with an NCCL whose GPUs are the processor's.
#[test]
#[cfg(all(target_os = "linux", feature = "train"))]
fn gpus_sum_through_nccl() {
    let Some(libraries) = cpp::Libraries::compile(&[cpp::DRIVER, "nccl_on_cpu.cpp libnccl.so.2"]) else { return };
    let ranks = ("TRAFFICGPT_NCCL_RANKS", "3");
    // Any file that is there.
    let hangs = ("TRAFFICGPT_GPU_HANGS", env!("CARGO_MANIFEST_DIR"));
    for (filter, variables) in [
        ("parallel::device::tests::gpus_sum", &[ranks][..]),
        ("parallel::device::tests::a_gpu_that_does_not_come", &[ranks]),
        // The sum itself never ends, and NCCL tells of no error.
        ("parallel::device::tests::a_gpu_that_does_not_come", &[ranks, hangs]),
        ("parallel::device::tests::ranks_that_do_not_come", &[ranks]),
    ] {
        let text = libraries.run(filter, variables);
        assert!(text.contains("1 passed"), "{text}");
    }
}

/// Those that need a GPU with little memory.
#[test]
#[cfg(all(target_os = "linux", feature = "train"))]
fn too_large_batches_are_split() {
    let memory = ("TRAFFICGPT_GPU_MEMORY", "50000000");
    let Some(driver) = cpp::Libraries::compile(&[cpp::DRIVER]) else { return };
    let text = driver.run("train::accelerator", &[memory]);
    assert!(text.contains("1 passed"), "{text}");
}

/// The tests of `on_gpu`, all of them, in a process that finds a driver which runs on the CPU.
#[test]
#[cfg(target_os = "linux")]
fn launchers_give_the_hosts_results() {
    let Some(driver) = cpp::Libraries::compile(&[cpp::DRIVER]) else { return };
    let text = driver.run("cuda::on_gpu", &[]);
    let of_training = if cfg!(feature = "train") { "gradients_are_the_cpus" } else { "flows_are_the_cpus" };
    let replayed = "decoding_gives_the_same_replayed_whatever_changes_meanwhile";
    for test in ["a_fit_goes_where_the_cpus_goes", "flows_are_the_cpus", replayed, of_training] {
        assert!(text.contains(&format!("{test} ... ok")), "{text}");
    }
}

/// The tests of `on_gpu_graphs` with a driver that fails where launches are recorded or replayed.
#[test]
#[cfg(target_os = "linux")]
fn where_nothing_is_replayed_all_is_launched() {
    let Some(driver) = cpp::Libraries::compile(&[cpp::DRIVER]) else { return };
    for failing in ["begin", "end", "make", "launch"] {
        let text = driver.run("sequences_give_the_same_replayed", &[("TRAFFICGPT_GRAPHS", failing)]);
        assert!(text.contains("1 passed"), "{failing}: {text}");
    }
}
