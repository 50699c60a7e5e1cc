//! Steps of the network `base`: forward, loss, backward, clipping, AdamW, with dropout.

use crate::network::{base, peak, percentile, runs};
use std::sync::Arc;
use trafficgpt::cuda::device::Device;
use trafficgpt::cuda::train::{Adam, Training};
use trafficgpt::engine::Precision;
use trafficgpt::gpt2::Dropout;
use trafficgpt::packet::Rows;
use trafficgpt::random::Stream;
use trafficgpt::tokens::Token;

/// Sequences of a step, each as long as the network reads.
const SEQUENCES: [usize; 2] = [32, 256];
const TOKENS: usize = 128;

/// Rows of the table.
pub fn rows(device: &Arc<Device>) -> Vec<String> {
    let mut rows = Vec::new();
    for precision in [Precision::F32, Precision::Bf16] {
        rows.extend(SEQUENCES.map(|sequences| match step(device, precision, sequences) {
            Ok(row) => row,
            Err(error) => format!("| train, {precision:?}, {sequences} sequences of {TOKENS} | {error} | |"),
        }));
    }
    rows
}

fn step(device: &Arc<Device>, precision: Precision, sequences: usize) -> trafficgpt::Result<String> {
    let weights = base();
    let config = weights.config().clone();
    let adam = Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1, clip: 1.0 };
    let mut draws = Stream::new(1, 3);
    let mut token = |_| draws.below(config.vocab_size) as Token;
    let rows: Rows<Token> = (0..sequences).map(|_| (0..TOKENS).map(&mut token).collect::<Vec<_>>()).collect();
    let targets: Vec<Token> = (0..sequences * TOKENS).map(token).collect();
    let mut training = Training::new(device, precision, weights, None, adam)?;
    let (scale, mut done) = (1.0 / targets.len() as f32, 0);
    let seconds = runs(|| {
        training.forward(rows.as_ragged(), Some(Dropout { p: 0.1, seed: 1, step: done, first_row: 0 })).unwrap();
        training.lm_loss(&targets, Some(scale)).unwrap();
        training.backward().unwrap();
        training.step(1e-4).unwrap();
        done += 1;
    });
    // Thrice the products of a forward pass, the output layer's among them.
    let (d, layers) = (config.n_embd as f64, config.n_layer as f64);
    let attention = 2.0 * d * (TOKENS as f64 + 1.0);
    let each = 3.0 * (layers * (24.0 * d * d + attention) + 2.0 * d * config.vocab_size as f64);
    let [half, most] = [50, 99].map(|percent| percentile(&seconds, percent));
    let rate = targets.len() as f64 / half;
    let share =
        peak(device.name(), precision).map_or(String::new(), |peak| format!("{:.1}%", 100.0 * rate * each / peak));
    Ok(format!(
        "| train, {precision:?}, {sequences} sequences of {TOKENS} | {rate:.0} tokens/s; p50 {:.3} ms, p99 {:.3} ms | {share} |",
        1e3 * half,
        1e3 * most
    ))
}
