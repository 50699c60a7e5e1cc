//! Speed of one training step: forward, loss, backward, clipping, AdamW, with dropout 0.1.
//!
//! `cargo bench --features train --bench train_step` prints tokens per second of each case. `benches/train_step.sh` runs
//! it beside PyTorch, alternately, through `--serve CASE`: after "ready", each line `N` read from standard input runs N
//! steps and answers with the seconds they took.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::io::BufRead;
use std::time::Instant;
use trafficgpt::gpt2::{Config, Dropout, Tape, Weights, backward, forward, lm_loss};
use trafficgpt::packet::Rows;
use trafficgpt::random::Stream;
use trafficgpt::tokens::Token;
use trafficgpt::train::optimizer::{AdamW, Options, clip_factor, global_norm};

/// What is trained, by name: vocabulary, layers, width, heads, sequences, and their shortest and longest length.
const CASES: [(&str, [usize; 7]); 3] = [
    ("6x512", [9907, 6, 512, 8, 16, 128, 128]),
    ("4x128", [1100, 4, 128, 4, 64, 32, 32]),
    ("4x128-ragged", [1100, 4, 128, 4, 64, 4, 32]),
];

struct Step {
    weights: Weights,
    grads: Weights,
    adam: AdamW,
    tape: Tape,
    rows: Rows<Token>,
    targets: Vec<Token>,
    done: u64,
}

impl Step {
    fn new([vocab, layers, width, heads, sequences, shortest, longest]: [usize; 7]) -> Self {
        let config = Config::new(vocab, layers, width, heads);
        let weights = Weights::init(&config, 1).unwrap();
        let mut draws = Stream::new(1, 2);
        // Lengths evenly spread, so that both sides have the same: see train_step.py.
        let rows: Rows<Token> = (0..sequences)
            .map(|i| {
                let n = shortest + (longest - shortest) * i / (sequences - 1);
                (0..n).map(|_| draws.below(vocab) as Token).collect::<Vec<_>>()
            })
            .collect();
        let targets = rows.as_ragged().values().iter().map(|_| draws.below(vocab) as Token).collect();
        let grads = Weights::zeros(&config).unwrap();
        let options = Options { weight_decay: 0.1, ..Options::default() };
        let adam = AdamW::for_weights(&weights, options).unwrap();
        Self { weights, grads, adam, tape: Tape::new(), rows, targets, done: 0 }
    }

    fn run(&mut self) -> f64 {
        self.done += 1;
        let dropout = Some(Dropout { p: 0.1, seed: 1, step: self.done, first_row: 0 });
        forward(&self.weights, self.rows.as_ragged(), dropout, &mut self.tape).unwrap();
        let n = self.targets.len() as f32;
        let loss = lm_loss(&self.weights, &mut self.tape, &self.targets, 1.0 / n, &mut self.grads).unwrap();
        backward(&self.weights, &mut self.tape, &mut self.grads).unwrap();
        let clip = clip_factor(global_norm(&[self.grads.data()]), Some(1.0)).unwrap();
        self.adam.step(self.weights.data_mut(), self.grads.data_mut(), clip, 3e-4).unwrap();
        loss / f64::from(n)
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|a| a == "--serve") {
        let (_, case) = CASES.iter().find(|(name, _)| *name == arguments[at + 1]).unwrap();
        let mut step = Step::new(*case);
        println!("ready: {} tokens, loss {:.3}", step.targets.len(), step.run());
        for line in std::io::stdin().lock().lines() {
            let n: usize = line.unwrap().trim().parse().unwrap();
            let start = Instant::now();
            for _ in 0..n {
                step.run();
            }
            println!("{}", start.elapsed().as_secs_f64());
        }
        return;
    }
    for (name, case) in CASES {
        let mut step = Step::new(case);
        step.run();
        let mut rates: Vec<f64> = (0..9)
            .map(|_| {
                let start = Instant::now();
                step.run();
                step.targets.len() as f64 / start.elapsed().as_secs_f64()
            })
            .collect();
        rates.sort_by(f64::total_cmp);
        println!("{name}: {:.0} tokens/s, median of 9 steps ({:.0} to {:.0})", rates[4], rates[0], rates[8]);
    }
}
