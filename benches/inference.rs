//! Speed of the native engine: embedding batches of flows, and decoding with a cache.
//!
//! `cargo bench --bench inference` prints each case. `benches/inference.sh` runs it beside PyTorch, alternately, through
//! `--serve CASE THREADS`: after "ready", each line `N` read from standard input runs N batches and answers with the
//! seconds they took.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::io::BufRead;
use std::sync::Arc;
use std::time::Instant;
use trafficgpt::engine::Session;
use trafficgpt::engine::native::Native;
use trafficgpt::gpt2::{Config, Weights};
use trafficgpt::packet::Rows;
use trafficgpt::random::Stream;
use trafficgpt::tokens::Token;

/// What is run, by name: vocabulary, layers, width, heads, flows at once, tokens of each.
const CASES: [(&str, [usize; 6]); 6] = [
    ("embed-2x64", [1100, 2, 64, 2, 256, 22]),
    ("embed-4x128", [1100, 4, 128, 4, 256, 22]),
    ("embed-4x128-one", [1100, 4, 128, 4, 1, 22]),
    ("embed-6x512", [9907, 6, 512, 8, 64, 22]),
    ("decode-4x128", [1100, 4, 128, 4, 64, 64]),
    ("decode-6x512", [9907, 6, 512, 8, 64, 64]),
];

struct Run {
    session: Box<dyn Session>,
    rows: Rows<Token>,
    vocab: usize,
    out: Vec<f32>,
    decode: bool,
}

impl Run {
    fn new(name: &str, [vocab, layers, width, heads, flows, tokens]: [usize; 6], threads: usize) -> Self {
        let weights = Weights::init(&Config::new(vocab, layers, width, heads), 1).unwrap();
        let mut draws = Stream::new(1, 2);
        let rows: Rows<Token> =
            (0..flows).map(|_| (0..tokens).map(|_| draws.below(vocab) as Token).collect::<Vec<_>>()).collect();
        let decode = name.starts_with("decode");
        let out = vec![0.0; flows * if decode { vocab } else { width }];
        let session = Native::new(Arc::new(weights), threads).session().unwrap();
        Self { session, rows, vocab, out, decode }
    }

    /// Embeds the batch, or decodes its flows token by token.
    fn run(&mut self) {
        let flows = self.rows.len();
        if !self.decode {
            return self.session.embed(self.rows.as_ragged(), 1, &mut self.out).unwrap();
        }
        let slots: Vec<usize> = (0..flows).collect();
        self.session.begin(flows).unwrap();
        for position in 0..self.rows.row(0).len() {
            let tokens: Vec<Token> = (0..flows).map(|i| self.rows.row(i)[position]).collect();
            self.session.step(&slots, &tokens, &mut self.out[..flows * self.vocab]).unwrap();
        }
    }

    /// Flows, or tokens when decoding, of one run.
    fn count(&self) -> usize {
        if self.decode { self.rows.as_ragged().total() } else { self.rows.len() }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|a| a == "--serve") {
        let (name, case) = CASES.iter().find(|(name, _)| *name == arguments[at + 1]).unwrap();
        let mut run = Run::new(name, *case, arguments[at + 2].parse().unwrap());
        run.run();
        println!("ready: {}", run.count());
        for line in std::io::stdin().lock().lines() {
            let n: usize = line.unwrap().trim().parse().unwrap();
            let start = Instant::now();
            (0..n).for_each(|_| run.run());
            println!("{}", start.elapsed().as_secs_f64());
        }
        return;
    }
    for (name, case) in CASES {
        let mut run = Run::new(name, case, 1);
        run.run();
        let mut rates: Vec<f64> = (0..9)
            .map(|_| {
                let (start, mut n) = (Instant::now(), 0);
                while start.elapsed().as_secs_f64() < 0.2 {
                    run.run();
                    n += run.count();
                }
                n as f64 / start.elapsed().as_secs_f64()
            })
            .collect();
        rates.sort_by(f64::total_cmp);
        let unit = if run.decode { "tokens" } else { "flows" };
        println!("{name}: {:.0} {unit}/s on one thread ({:.0} to {:.0})", rates[4], rates[0], rates[8]);
    }
}
