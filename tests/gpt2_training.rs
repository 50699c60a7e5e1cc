//! The training step beyond PyTorch's vectors: gradients with dropout, reproducibility, refusals.

#![allow(clippy::unwrap_used, missing_docs)]

use trafficgpt::gpt2::{Config, Dropout, NO_TARGET, Tape, Weights, backward, forward, lm_loss, lm_nll};
use trafficgpt::packet::{Ragged, Rows};
use trafficgpt::random::Stream;
use trafficgpt::tokens::Token;

const VOCAB: usize = 23;

fn weights() -> Weights {
    let config = Config { n_positions: 33, ..Config::new(VOCAB, 2, 24, 3) };
    let mut weights = Weights::init(&config, 3).unwrap();
    weights.data_mut().iter_mut().filter(|w| w.abs() < 0.5).for_each(|w| *w *= 6.0);
    weights
}

/// Sequences and their targets: the next token, and none at the end.
fn batch(lengths: &[usize]) -> (Rows<Token>, Vec<Token>) {
    let mut draws = Stream::new(1, 2);
    let rows: Rows<Token> =
        lengths.iter().map(|&n| (0..n).map(|_| draws.below(VOCAB) as Token).collect::<Vec<_>>()).collect();
    let targets = rows.as_ragged().rows().flat_map(|r| r[1..].iter().copied().chain([NO_TARGET])).collect();
    (rows, targets)
}

/// Loss and gradients of one step.
fn step(weights: &Weights, lengths: &[usize], dropout: Option<Dropout>) -> (f64, Weights) {
    let (rows, targets) = batch(lengths);
    let mut tape = Tape::new();
    let mut grads = Weights::zeros(weights.config()).unwrap();
    forward(weights, rows.as_ragged(), dropout, &mut tape).unwrap();
    let loss = lm_loss(weights, &mut tape, &targets, 1.0, &mut grads).unwrap();
    backward(weights, &mut tape, &mut grads).unwrap();
    (loss, grads)
}

const DROPOUT: Option<Dropout> = Some(Dropout { p: 0.2, seed: 8, step: 5, first_row: 0 });

#[test]
fn gradients_with_dropout_are_the_slopes_of_the_loss() {
    let lengths = [7, 1, 33, 18];
    let base = weights();
    let (_, grads) = step(&base, &lengths, DROPOUT);
    let mut draws = Stream::new(4, 4);
    for tensor in base.tensors() {
        // Along a random direction within the tensor, so that the difference stands out of the rounding of f32.
        let direction: Vec<f32> = tensor.range.clone().map(|_| draws.uniform() as f32 - 0.5).collect();
        let length = direction.iter().map(|x| x * x).sum::<f32>().sqrt();
        let slope: f64 = grads.data()[tensor.range.clone()]
            .iter()
            .zip(&direction)
            .map(|(g, x)| f64::from(*g) * f64::from(*x / length))
            .sum();
        let loss = |h: f32| {
            let mut moved = base.clone();
            for (w, x) in moved.data_mut()[tensor.range.clone()].iter_mut().zip(&direction) {
                *w += h * x / length;
            }
            step(&moved, &lengths, DROPOUT).0
        };
        let h = 4e-3;
        let difference = (loss(h) - loss(-h)) / (2.0 * f64::from(h));
        let most = 0.01 * slope.abs().max(1.0);
        assert!((difference - slope).abs() < most, "{}: {difference} {slope}", tensor.name);
    }
}

#[test]
fn dropout_changes_the_step_reproducibly_and_keeps_the_mean() {
    let weights = weights();
    let loss = |dropout| step(&weights, &[33, 20], dropout).0;
    assert_eq!(loss(None), loss(Some(Dropout { p: 0.0, seed: 1, step: 1, first_row: 0 })));
    assert_eq!(loss(DROPOUT), loss(DROPOUT));
    assert_ne!(loss(DROPOUT), loss(None));
    assert_ne!(loss(DROPOUT), loss(Some(Dropout { p: 0.2, seed: 8, step: 6, first_row: 0 })));

    // A network of one linear path: only the embedding is dropped before a norm that is undone, so the mean over many
    // steps of the embedded row is the row without dropout.
    let config = Config { n_positions: 4, ..Config::new(5, 1, 64, 2) };
    let mut linear = Weights::zeros(&config).unwrap();
    let (wte, (ln_f, _)) = (linear.wte(), linear.ln_f());
    let mut draws = Stream::new(6, 6);
    linear.data_mut()[wte].iter_mut().for_each(|w| *w = draws.uniform() as f32 + 0.5);
    linear.data_mut()[ln_f].fill(1.0);
    let rows: Rows<Token> = [vec![2 as Token]].into_iter().collect();
    let mut tape = Tape::new();
    let (n, mut kept) = (2000, vec![0u32; 64]);
    for step in 0..n {
        let hidden =
            forward(&linear, rows.as_ragged(), Some(Dropout { p: 0.3, seed: 1, step, first_row: 0 }), &mut tape)
                .unwrap();
        // Dropped values are the row's lowest, all equal; those kept are above them.
        let lowest = hidden.iter().copied().fold(f32::INFINITY, f32::min);
        kept.iter_mut().zip(hidden).for_each(|(k, h)| *k += u32::from(*h > lowest + 0.1));
    }
    let sigma = (n as f64 * 0.3 * 0.7).sqrt();
    for (c, k) in kept.iter().enumerate() {
        assert!((f64::from(*k) - 0.7 * n as f64).abs() < 5.0 * sigma, "column {c}: {k} of {n} kept");
    }
}

#[test]
fn a_step_is_the_same_bit_by_bit_for_any_number_of_threads() {
    let weights = weights();
    let lengths: Vec<usize> = (0..80).map(|i| 1 + i * 7 % 33).collect();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (loss, grads) = pool.install(|| step(&weights, &lengths, DROPOUT));
        (loss, grads.data().to_vec())
    };
    let one = run(1);
    for threads in [1, 2, 3, 8] {
        assert!(run(threads) == one, "{threads} threads");
    }
}

#[test]
fn a_batch_has_the_sum_of_its_sequences_gradients() {
    let weights = weights();
    let lengths: Vec<usize> = (0..40).map(|i| 1 + i * 11 % 33).collect();
    let (loss, grads) = step(&weights, &lengths, None);
    let (rows, _) = batch(&lengths);
    let (mut sum, mut alone) = (0.0, Weights::zeros(weights.config()).unwrap());
    let mut tape = Tape::new();
    for row in rows.as_ragged().rows() {
        let targets: Vec<Token> = row[1..].iter().copied().chain([NO_TARGET]).collect();
        forward(&weights, Ragged::new(row, &[0, row.len() as u64]).unwrap(), None, &mut tape).unwrap();
        sum += lm_loss(&weights, &mut tape, &targets, 1.0, &mut alone).unwrap();
        backward(&weights, &mut tape, &mut alone).unwrap();
    }
    assert!((loss - sum).abs() < 1e-5 * sum);
    for t in weights.tensors() {
        let (a, b) = (&grads.data()[t.range.clone()], &alone.data()[t.range]);
        let error = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let size = b.iter().map(|b| b.abs()).fold(0.0, f32::max);
        assert!(error < 2e-5 * size, "{}: {error} of {size}", t.name);
    }
}

#[test]
fn what_cannot_be_run_is_refused_and_named() {
    let weights = weights();
    let other = Weights::zeros(&Config::new(5, 1, 8, 2)).unwrap();
    let mut tape = Tape::new();
    let mut grads = Weights::zeros(weights.config()).unwrap();
    assert!(backward(&weights, &mut tape, &mut grads).unwrap_err().message().contains("forward first"));
    assert!(lm_loss(&weights, &mut tape, &[], 1.0, &mut grads).is_err());

    let mut run = |tokens: &[Token], offsets: &[u64]| {
        forward(&weights, Ragged::new(tokens, offsets).unwrap(), None, &mut tape).map(|h| h.len())
    };
    assert_eq!(run(&[], &[0]).unwrap(), 0);
    assert!(run(&[1, 2], &[0, 1, 1, 2]).unwrap_err().message().contains("sequence 1 has 0 tokens"));
    assert!(run(&[1; 34], &[0, 34]).unwrap_err().message().contains("34 tokens; it must have 1 to 33"));
    assert!(run(&[1, 23], &[0, 2]).unwrap_err().message().contains("position 1: token 23"));
    assert_eq!(run(&[1, 2], &[0, 2]).unwrap(), 48);

    assert!(backward(&other, &mut tape, &mut grads).unwrap_err().message().contains("another shape"));
    let mut small = other.clone();
    assert!(backward(&weights, &mut tape, &mut small).unwrap_err().message().contains("another shape"));
    assert!(lm_loss(&weights, &mut tape, &[1], 1.0, &mut grads).unwrap_err().message().contains("1 targets"));
    let error = lm_loss(&weights, &mut tape, &[1, 23], 1.0, &mut grads).unwrap_err();
    assert!(error.message().contains("row 1 is 23"), "{error}");
    assert!(lm_nll(&weights, &mut tape, &[1, 2], &mut [0.0]).is_err());
    assert_eq!(lm_loss(&weights, &mut tape, &[NO_TARGET; 2], 1.0, &mut grads).unwrap(), 0.0);
    let bad = Some(Dropout { p: 1.0, seed: 0, step: 0, first_row: 0 });
    assert!(forward(&weights, Ragged::new(&[1], &[0, 1]).unwrap(), bad, &mut tape).is_err());
}
