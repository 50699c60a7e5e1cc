//! Speed of generation: flows per second of a bundle, and what the matrix products alone would cost.
//!
//! `cargo bench --features train --bench generation` prints the cases. `benches/generation.sh` runs them beside
//! `transformers` and ONNX Runtime, alternately, through
//! - `--prepare DIRECTORY`: writes bundles with random weights there;
//! - `--serve BUNDLE PRECISION THREADS full|natural`: after "ready", each line `N` read from standard input draws N flows and
//!   answers with the seconds that took and the packets they have;
//! - `--products BUNDLE PRECISION`: the same, of the matrix products that N full flows take and nothing else.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::io::BufRead;
use std::path::Path;
use std::time::Instant;
use trafficgpt::backend::packed::{End, Packed, Precision};
use trafficgpt::bundle::{self, Bundle, Parts};
use trafficgpt::config::Settings;
use trafficgpt::context::Context;
use trafficgpt::engine::native::Native;
use trafficgpt::generator::Generator;
use trafficgpt::gpt2::{Config, Weights};
use trafficgpt::packet::{Packet, Rows};
use trafficgpt::quantizer::{Codebook, Quantizer, Scaler};
use trafficgpt::random::Stream;
use trafficgpt::sampling::Sampling;
use trafficgpt::tokens::Vocabulary;
use trafficgpt::worker::Worker;

/// Bundles with random weights: name, ids, layers, width, heads.
const RANDOM: [(&str, usize, usize, usize, usize); 2] = [("4x128", 1100, 4, 128, 4), ("6x512", 9907, 6, 512, 8)];

/// Flows of a call are a multiple of this, which is one of the flows side by side.
const BATCH: usize = 60;

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/models/protocols.tgpt");

/// Writes the bundles of [`RANDOM`].
fn prepare(directory: &Path) {
    for (name, ids, layers, width, heads) in RANDOM {
        let k = ids as u32 - 4;
        let mut draws = Stream::new(1, 1);
        let centroids = (0..k).map(|_| [2.0 * draws.uniform() as f32 - 1.0, 7.0 * draws.uniform() as f32]).collect();
        let quantizer = Quantizer::new(Scaler::Log1pUs, Codebook::new(centroids).unwrap());
        let vocabulary = Vocabulary::new(k, []);
        let weights = Weights::init(&Config::new(ids, layers, width, heads), 1).unwrap();
        let parts = Parts {
            quantizer: &quantizer,
            vocabulary: &vocabulary,
            weights: &weights,
            classifier: None,
            forest: None,
            training: serde_json::Value::Null,
        };
        bundle::write(&directory.join(format!("{name}.tgpt")), &parts).unwrap();
    }
}

/// Draws flows of a bundle.
struct Flows {
    generator: Generator,
    worker: Worker,
    sampling: Sampling,
    /// Packets of each flow that are given, and flows to take them from.
    known: usize,
    from: Rows<Packet>,
    out: Rows<Packet>,
}

impl Flows {
    fn new(bundle: &Path, precision: &str, threads: &str, full: bool) -> Self {
        let mut settings = Settings::default();
        settings.set("engine", "native").unwrap();
        settings.set("precision", precision).unwrap();
        settings.set("threads", threads).unwrap();
        let generator = Generator::open(&Context::new(settings), bundle).unwrap();
        let min_packets = if full { generator.max_packets() as u32 } else { 0 };
        let sampling = Sampling { seed: 1, min_packets, ..Sampling::default() };
        Self { generator, worker: Worker::new(), sampling, known: 0, from: Rows::new(), out: Rows::new() }
    }

    /// From now on, the first packets of each flow are given: as many of those of `n` flows of the model itself.
    fn give(&mut self, known: usize, n: usize) {
        self.generator.generate(&mut self.worker, &self.sampling, n, &mut self.from).unwrap();
        self.known = known;
    }

    /// Seconds and packets of `n` flows more.
    fn draw(&mut self, n: usize) -> (f64, usize) {
        let start = Instant::now();
        let Self { generator, worker, sampling, known, from, out } = self;
        if *known == 0 {
            generator.generate(worker, sampling, n, out).unwrap();
        } else {
            let from = from.as_ragged();
            let begun: Rows<Packet> = (0..n).map(|i| from.row(i % from.len())[..*known].to_vec()).collect();
            generator.continue_flows(worker, sampling, begun.as_ragged(), out).unwrap();
        }
        self.sampling.first_flow += n as u64;
        (start.elapsed().as_secs_f64(), self.out.as_ragged().total())
    }
}

/// The matrix products of a decode's step, for as many flows as go side by side.
struct Products {
    /// Flows side by side.
    slots: usize,
    /// Values of each product's left factor's row and of its result's.
    shapes: Vec<(usize, usize)>,
    factors: Vec<Packed>,
    left: Vec<f32>,
    out: Vec<f32>,
    scratch: Vec<f32>,
    steps: usize,
}

impl Products {
    fn new(bundle: &Path, precision: Precision) -> Self {
        let weights = Bundle::open(bundle).unwrap().weights;
        let config = weights.config().clone();
        let slots = Native::new(weights, 1).session().unwrap().best_slots();
        let d = config.n_embd;
        let mut shapes = Vec::new();
        for _ in 0..config.n_layer {
            shapes.extend([(d, 3 * d), (d, d), (d, 4 * d), (4 * d, d)]);
        }
        shapes.push((d, config.vocab_size));
        let matrix = |k, n| Packed::new(precision, k, n, &[], |l, j| ((l + 3 * j) % 11) as f32 - 5.0);
        let widest = shapes.iter().map(|s| s.1).max().unwrap();
        Self {
            slots,
            factors: shapes.iter().map(|(k, n)| matrix(*k, *n)).collect(),
            left: (0..slots * 4 * d).map(|i| (i % 7) as f32 - 3.0).collect(),
            out: vec![0.0; slots * widest],
            scratch: Vec::new(),
            shapes,
            steps: config.n_positions - 2,
        }
    }

    /// Seconds that the products of `n` full flows take, and their packets. `n` is a multiple of the slots.
    fn run(&mut self, n: usize) -> (f64, usize) {
        let start = Instant::now();
        let slots = self.slots;
        for _ in 0..n / slots * self.steps {
            for ((k, n), factor) in self.shapes.iter().zip(&self.factors) {
                let (left, out) = (&self.left[..slots * k], &mut self.out[..slots * n]);
                factor.multiply(slots, (left, *k), (out, *n), End::Store, &mut self.scratch);
            }
        }
        (start.elapsed().as_secs_f64(), n * self.steps)
    }
}

fn serve(mut draw: impl FnMut(usize) -> (f64, usize)) {
    draw(BATCH);
    println!("ready: {BATCH} flows");
    for line in std::io::stdin().lock().lines() {
        let (seconds, packets) = draw(line.unwrap().trim().parse().unwrap());
        println!("{seconds} {packets}");
    }
}

/// Median of nine, in flows per second.
fn rate(mut draw: impl FnMut(usize) -> (f64, usize), n: usize) -> f64 {
    draw(BATCH);
    let mut rates: Vec<f64> = (0..9).map(|_| n as f64 / draw(n).0).collect();
    rates.sort_by(f64::total_cmp);
    rates[4]
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let of = |option: &str| arguments.iter().position(|a| a == option).map(|at| &arguments[at + 1..]);
    if let Some(rest) = of("--prepare") {
        return prepare(rest[0].as_ref());
    }
    if let Some(rest) = of("--serve") {
        let mut flows = Flows::new(rest[0].as_ref(), &rest[1], &rest[2], rest[3] == "full");
        return serve(|n| flows.draw(n));
    }
    if let Some(rest) = of("--products") {
        let precision = if rest[1] == "bf16" { Precision::Bf16 } else { Precision::F32 };
        let mut products = Products::new(rest[0].as_ref(), precision);
        return serve(|n| products.run(n));
    }
    let directory = tempfile::tempdir().unwrap();
    prepare(directory.path());
    let mut bundles = vec![("shipped", SHIPPED.into(), 4)];
    bundles.extend(RANDOM.map(|(name, _, layers, ..)| {
        (name, directory.path().join(format!("{name}.tgpt")), if layers == 4 { 4 } else { 1 })
    }));
    for (name, bundle, batches) in bundles {
        let mut flows = Flows::new(&bundle, "f32", "1", true);
        let mut products = Products::new(&bundle, Precision::F32);
        let (ours, alone) = (rate(|n| flows.draw(n), batches * BATCH), rate(|n| products.run(n), batches * BATCH));
        println!(
            "{name}: {ours:.1} flows/s of all packets on one thread; its matrix products alone {alone:.1}/s, {:.2} times",
            alone / ours
        );
        if Precision::Bf16.is_there() {
            let mut flows = Flows::new(&bundle, "bf16", "1", true);
            let rounded = rate(|n| flows.draw(n), batches * BATCH);
            println!("{name}: {rounded:.1} flows/s of bf16, {:.2} times", rounded / ours);
        }
        for known in [20, 100] {
            flows.give(known, BATCH);
            let rate = rate(|n| flows.draw(n), batches * BATCH);
            println!("{name}: {rate:.1} flows/s of which {known} packets are given, {:.2} times", rate / ours);
        }
    }
}
