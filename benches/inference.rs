//! Speed of the native engine: embedding ragged batches of flows, and decoding with a cache.
//!
//! `cargo bench --bench inference` prints each case. `benches/inference.sh` runs it beside PyTorch and ONNX Runtime:
//! `--write NETWORK DIRECTORY` writes a bundle with random weights, and `--serve BUNDLE FLOWS BATCH PRECISION` (flows: a
//! line of tokens each) prints "ready", then answers each line `N` of standard input with the seconds that N passes over all
//! flows took, and `embeddings` with those of the first flow.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use trafficgpt::bundle::Bundle;
use trafficgpt::engine::native::Native;
use trafficgpt::engine::{Precision, Session};
use trafficgpt::gpt2::{Config, Weights};
use trafficgpt::packet::Rows;
use trafficgpt::random::Stream;
use trafficgpt::tokens::Token;

/// Networks by name: vocabulary, layers, width, heads.
const NETWORKS: [(&str, [usize; 4]); 3] =
    [("2x64", [1100, 2, 64, 2]), ("4x128", [1100, 4, 128, 4]), ("6x512", [9907, 6, 512, 8])];
/// Flows of one pass, flows given to the engine at once, tokens of a flow that is decoded.
const FLOWS: usize = 256;
const BATCHES: [usize; 3] = [1, 32, 256];
const DECODED: usize = 64;

fn weights([vocab, layers, width, heads]: [usize; 4]) -> Weights {
    Weights::init(&Config::new(vocab, layers, width, heads), 1).unwrap()
}

/// Flows as long as real ones: quartiles 8, 12 and 24 packets, straight lines between the logarithms, 2 to 126.
fn flows(vocab: usize) -> Rows<Token> {
    const QUARTILES: [f64; 5] = [2.0, 8.0, 12.0, 24.0, 126.0];
    let mut draws = Stream::new(1, 2);
    (0..FLOWS)
        .map(|_| {
            let at = 4.0 * draws.uniform();
            let (low, part) = (at as usize, at.fract());
            let packets = QUARTILES[low].powf(1.0 - part) * QUARTILES[low + 1].powf(part);
            (0..=packets.round() as usize).map(|_| draws.below(vocab) as Token).collect::<Vec<_>>()
        })
        .collect()
}

/// One network and flows for it.
struct Embedding {
    session: Box<dyn Session>,
    batches: Vec<Rows<Token>>,
    out: Vec<f32>,
}

impl Embedding {
    fn new(weights: Arc<Weights>, flows: &Rows<Token>, batch: usize, precision: Precision) -> Self {
        let width = weights.config().n_embd;
        let all: Vec<usize> = (0..flows.len()).collect();
        let batches = all.chunks(batch).map(|part| part.iter().map(|&i| flows.row(i).to_vec()).collect()).collect();
        let session = Native::with_precision(weights, 1, precision).unwrap().session().unwrap();
        Self { session, batches, out: vec![0.0; batch * width] }
    }

    /// Embeds all flows, batch by batch.
    fn run(&mut self) {
        let width = self.out.len() / self.batches[0].len();
        for batch in &self.batches {
            self.session.embed(batch.as_ragged(), 1, &mut self.out[..batch.len() * width]).unwrap();
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        #[cfg(feature = "train")]
        ["--write", name, directory] => write(name, Path::new(directory)),
        ["--serve", bundle, flows, batch, precision] => {
            serve(Path::new(bundle), Path::new(flows), batch.parse().unwrap(), precision);
        }
        _ => print_all(&words),
    }
}

/// A bundle of a network with random weights, its ONNX graphs included.
#[cfg(feature = "train")]
fn write(name: &str, directory: &Path) {
    use trafficgpt::bundle::{self, Parts};
    use trafficgpt::quantizer::{Codebook, Quantizer, Scaler};
    use trafficgpt::tokens::Vocabulary;

    let weights = weights(network(name));
    let k = weights.config().vocab_size as u32 - 4;
    let centroids = (0..k).map(|i| [i as f32 / k as f32 - 0.5, (i % 7) as f32]).collect();
    let parts = Parts {
        quantizer: &Quantizer::new(Scaler::Log1pUs, Codebook::new(centroids).unwrap()),
        vocabulary: &Vocabulary::new(k, []),
        weights: &weights,
        classifier: None,
        forest: None,
        training: serde_json::Value::Null,
    };
    bundle::write(directory, &parts).unwrap();
    for row in flows(weights.config().vocab_size).as_ragged().rows() {
        let row: Vec<String> = row.iter().map(Token::to_string).collect();
        println!("{}", row.join(" "));
    }
}

fn serve(bundle: &Path, flows: &Path, batch: usize, precision: &str) {
    let text = std::fs::read_to_string(flows).unwrap();
    let flows: Rows<Token> =
        text.lines().map(|line| line.split(' ').map(|t| t.parse().unwrap()).collect::<Vec<Token>>()).collect();
    let weights = Bundle::open(bundle).unwrap().weights;
    let width = weights.config().n_embd;
    let precision = if precision == "bf16" { Precision::Bf16 } else { Precision::F32 };
    let mut embedding = Embedding::new(weights, &flows, batch, precision);
    embedding.run();
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        match line.unwrap().trim() {
            "embeddings" => {
                let first = embedding.batches[0].as_ragged();
                embedding.session.embed(first, 1, &mut embedding.out).unwrap();
                println!("{:?}", &embedding.out[..width]);
            }
            n => {
                let n: usize = n.parse().unwrap();
                let start = Instant::now();
                (0..n).for_each(|_| embedding.run());
                println!("{}", start.elapsed().as_secs_f64());
            }
        }
    }
}

#[cfg(feature = "train")]
fn network(name: &str) -> [usize; 4] {
    NETWORKS.iter().find(|n| n.0 == name).unwrap().1
}

/// Every network, or those whose names are given.
fn print_all(names: &[&str]) {
    for (name, shape) in NETWORKS.iter().filter(|n| names.is_empty() || names.contains(&n.0)) {
        let weights = Arc::new(weights(*shape));
        let flows = flows(shape[0]);
        for batch in BATCHES {
            let mut embedding = Embedding::new(weights.clone(), &flows, batch, Precision::F32);
            let [median, low, high] = rate(FLOWS, || embedding.run());
            let us = 1e6 / median;
            println!("embed {name} batch {batch}: {median:.0} flows/s ({low:.0} to {high:.0}), {us:.1} us per flow");
        }
        for slots in BATCHES {
            let mut session = Native::new(weights.clone(), 1).session().unwrap();
            let (all, mut logits): (Vec<usize>, _) = ((0..slots).collect(), vec![0.0; slots * shape[0]]);
            let mut decode = || {
                session.begin(slots).unwrap();
                for position in 0..DECODED {
                    let tokens: Vec<Token> =
                        all.iter().map(|i| ((i * 31 + position * 17) % shape[0]) as Token).collect();
                    session.step(&all, &tokens, &mut logits).unwrap();
                }
            };
            let [median, low, high] = rate(slots * DECODED, &mut decode);
            println!("decode {name} {slots} flows: {median:.0} tokens/s ({low:.0} to {high:.0})");
        }
    }
}

/// How many of `count` a run are done in a second: median, least and most of nine turns of a fifth of a second at least.
fn rate(count: usize, mut run: impl FnMut()) -> [f64; 3] {
    run();
    let mut rates: Vec<f64> = (0..9)
        .map(|_| {
            let (start, mut n) = (Instant::now(), 0);
            while start.elapsed().as_secs_f64() < 0.2 {
                run();
                n += count;
            }
            n as f64 / start.elapsed().as_secs_f64()
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    [rates[4], rates[0], rates[8]]
}
