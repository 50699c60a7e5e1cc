//! The kernels on a GPU, for `benches/gpu.sh`. The last it prints is the table.
//!
//! ```text
//! gpu [N [K]]           the quantizer with N packets and K centroids (100 M, 16,384), and the network
//! gpu network           the network alone, training included
//! gpu weights FILE      writes the network that is measured to FILE, for a peer
//! ```
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

mod network;
mod quantizer;
mod training;

use std::path::Path;
use std::time::Instant;
use trafficgpt::cuda::device::Device;

/// Runs of each measurement; the median counts.
const RUNS: usize = 9;

/// Launches timed as one, so that starting and waiting weigh little.
const LAUNCHES: usize = 10;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [what, path] = &arguments[..]
        && what == "weights"
    {
        return network::write_weights(Path::new(path));
    }
    let device = match Device::open(0) {
        Ok(device) => device,
        Err(error) => {
            println!("skipped: {error}");
            return;
        }
    };
    let number = |i: usize, default| arguments.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (n, k, threads) = (number(0, 100_000_000), number(1, 16_384), rayon::current_num_threads());
    let mut rows = network::rows(&device);
    rows.extend(training::rows(&device));
    if !arguments.iter().any(|a| a == "network") {
        rows.extend(quantizer::rows(&device, n, k, threads));
    }
    println!("\n{}, {n} packets, K = {k}, {threads} CPU threads\n", device.name());
    println!("| what | figure | share of the limit |\n| --- | ---: | ---: |");
    rows.iter().for_each(|row| println!("{row}"));
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let begin = Instant::now();
    let result = work();
    (result, begin.elapsed().as_secs_f64())
}

fn median(runs: usize, mut measure: impl FnMut() -> f64) -> f64 {
    let mut values: Vec<f64> = (0..runs).map(|_| measure()).collect();
    values.sort_by(f64::total_cmp);
    values[runs / 2]
}
