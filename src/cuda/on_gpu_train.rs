//! Training on a GPU, against the CPU's. Without a GPU these tests say so and pass.

use super::device::Device;
use super::on_gpu::{OnGpu, gpu};
use super::train::{Adam, Training, checks};
use crate::backend::packed::Precision;
use crate::error::Kind;
use crate::gpt2::{self, Config, Dropout, NO_TARGET, Tape, Weights};
use crate::head::Linear;
use crate::packet::Rows;
use crate::random::Stream;
use crate::tokens::Token;
use crate::train::head_loss::{self, Objective, Truth};
use crate::train::optimizer::{AdamW, Options, clip_factor, global_norm};
use std::sync::Arc;

const ADAM: Adam = Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, clip: 0.5 };

/// Weights large enough that attention is not flat and no norm is trivial, and such as bf16 holds, so that of its error only
/// that of the activations is left.
fn weights(config: &Config) -> Weights {
    let mut weights = Weights::init(config, 4).unwrap();
    let mut draws = Stream::new(4, 77);
    let bf16 = |w: f32| f32::from_bits(u32::from(super::gpt2::bf16(w)) << 16);
    weights.data_mut().iter_mut().for_each(|w| *w = bf16(*w * 4.0 + 0.05 * (draws.uniform() as f32 - 0.5)));
    weights
}

/// Sequences of these lengths, the token after each, and here and there none.
fn lesson(config: &Config, lengths: &[usize], seed: u64) -> (Rows<Token>, Vec<Token>) {
    let mut draws = Stream::new(seed, 5);
    let mut token = |_| draws.below(config.vocab_size) as Token;
    let rows: Rows<Token> = lengths.iter().map(|&n| (0..n).map(&mut token).collect::<Vec<_>>()).collect();
    let mut targets: Vec<Token> = (0..rows.as_ragged().total()).map(token).collect();
    targets.iter_mut().step_by(7).for_each(|target| *target = NO_TARGET);
    (rows, targets)
}

fn start(device: &Arc<Device>, precision: Precision, weights: &Weights) -> Training {
    Training::new(device, precision, weights.clone(), None, ADAM).unwrap()
}

/// Share by which `got` is off `expected`, in the Euclidean norm, of each tensor on its own.
fn errors(weights: &Weights, got: &[f32], expected: &[f32]) -> Vec<(String, f64)> {
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let whole = norm(&mut expected.iter().copied()) / (expected.len() as f64).sqrt();
    let tensors = weights.tensors().into_iter();
    let error = |t: gpt2::weights::Tensor| {
        let (got, expected) = (&got[t.range.clone()], &expected[t.range.clone()]);
        let size = norm(&mut expected.iter().copied()).max(1e-3 * whole * (expected.len() as f64).sqrt());
        (t.name, norm(&mut got.iter().zip(expected).map(|(a, b)| a - b)) / size)
    };
    tensors.map(error).collect()
}

/// Loss and gradients of a step on the CPU.
fn on_cpu(weights: &Weights, rows: &Rows<Token>, targets: &[Token], dropout: Option<Dropout>) -> (f64, Weights) {
    let (mut tape, mut grads) = (Tape::new(), Weights::zeros(weights.config()).unwrap());
    gpt2::forward(weights, rows.as_ragged(), dropout, &mut tape).unwrap();
    let loss = gpt2::lm_loss(weights, &mut tape, targets, 0.25, &mut grads).unwrap();
    gpt2::backward(weights, &mut tape, &mut grads).unwrap();
    (loss, grads)
}

fn on_device(training: &mut Training, rows: &Rows<Token>, targets: &[Token], dropout: Option<Dropout>) -> f64 {
    training.forward(rows.as_ragged(), dropout).unwrap();
    let nll = training.lm_loss(targets, Some(0.25)).unwrap();
    training.backward().unwrap();
    nll.iter().map(|&x| f64::from(x)).sum()
}

/// Odd widths and vocabularies, heads of several widths, one layer and more, sequences of one token and of many.
fn shapes() -> Vec<(Config, Vec<usize>)> {
    let config = |vocabulary, layers, d, heads| Config { n_positions: 40, ..Config::new(vocabulary, layers, d, heads) };
    vec![
        (config(13, 1, 1, 1), vec![1, 3]),
        (config(37, 2, 15, 3), vec![1, 2, 17, 1]),
        (config(50, 3, 24, 3), vec![40, 1, 5, 9, 33]),
        (config(301, 2, 40, 4), vec![7; 45]),
        (config(64, 1, 136, 2), vec![3, 21]),
    ]
}

/// How far gradients are off, tensor by tensor, when every weight is off by at most what bf16 rounds off: the worst of a few
/// draws. Where little is left of sums that cancel, or a mask leaves few rows, that is much.
fn rounding(
    weights: &Weights,
    rows: &Rows<Token>,
    targets: &[Token],
    dropout: Option<Dropout>,
    expected: &[f32],
) -> Vec<f64> {
    let mut worst = vec![0.0; weights.tensors().len()];
    for seed in 0..4 {
        let (mut off, mut draws) = (weights.clone(), Stream::new(seed, 6));
        off.data_mut().iter_mut().for_each(|w| *w *= 1.0 + (2.0 * draws.uniform() as f32 - 1.0) / 256.0);
        let (_, grads) = on_cpu(&off, rows, targets, dropout);
        for (worst, (_, error)) in worst.iter_mut().zip(errors(weights, grads.data(), expected)) {
            *worst = f64::max(*worst, error);
        }
    }
    worst
}

#[test]
fn kernels_whose_threads_wait_for_each_other() {
    let Some(run) = gpu().map(OnGpu) else { return };
    checks::gradients_are_multiplied(&run, &[[5, 8, 1, 1], [70, 136, 77, 1], [16, 72, 40, 4]]);
    checks::losses_are_those_of_the_softmax(&run);
    checks::gradients_are_clipped(&run);
}

#[test]
fn gradients_are_the_cpus() {
    let Some(device) = gpu() else { return };
    for (config, lengths) in shapes() {
        let (weights, (rows, targets)) = (weights(&config), lesson(&config, &lengths, 1));
        // Of dropout, as of rows that are a part of a larger batch.
        for (p, first_row) in [(0.0, 0), (0.3, 0), (0.3, 12)] {
            let dropout = Some(Dropout { p, seed: 9, step: 3, first_row });
            let (loss, expected) = on_cpu(&weights, &rows, &targets, dropout);
            for precision in [Precision::F32, Precision::Bf16] {
                if precision == Precision::Bf16 && config.n_embd % 8 != 0 {
                    continue;
                }
                let mut training = start(&device, precision, &weights);
                let found = on_device(&mut training, &rows, &targets, dropout);
                let most = if precision == Precision::F32 { 1e-5 } else { 2e-2 };
                assert!((found / loss - 1.0).abs() < most, "{config:?} {precision:?} {p}: loss {found}, not {loss}");
                let mut grads = vec![0.0; training.len()];
                training.read_gradients(&mut grads).unwrap();
                let rounding = match precision {
                    Precision::F32 => vec![0.0; weights.tensors().len()],
                    Precision::Bf16 => rounding(&weights, &rows, &targets, dropout, expected.data()),
                };
                for ((name, error), own) in errors(&weights, &grads, expected.data()).into_iter().zip(rounding) {
                    let most = 1e-4 + 1.5 * own;
                    assert!(error < most, "{config:?} {dropout:?}: gradient of {name} is off by {error}, not {most}");
                }
            }
        }
    }
}

#[test]
fn gradients_add_up_and_repeat_bit_by_bit() {
    let Some(device) = gpu() else { return };
    let (config, lengths) = shapes().swap_remove(2);
    let weights = weights(&config);
    let (first, second) = (lesson(&config, &lengths, 1), lesson(&config, &lengths[1..], 2));
    let run = |lessons: &[&(Rows<Token>, Vec<Token>)]| {
        let mut training = start(&device, Precision::Bf16, &weights);
        for (rows, targets) in lessons {
            on_device(&mut training, rows, targets, None);
        }
        let mut grads = vec![0.0; training.len()];
        training.read_gradients(&mut grads).unwrap();
        grads
    };
    let both = run(&[&first, &second]);
    assert!(both == run(&[&first, &second]), "a step does not repeat");
    let sum: Vec<f32> = run(&[&first]).iter().zip(run(&[&second])).map(|(a, b)| a + b).collect();
    for (name, error) in errors(&weights, &both, &sum) {
        assert!(error < 1e-5, "{name}: {error}");
    }
}

#[test]
fn steps_go_where_the_cpus_go_and_are_gone_on_with() {
    let Some(device) = gpu() else { return };
    let (config, lengths) = shapes().swap_remove(2);
    let begun = weights(&config);
    let options = Options { weight_decay: ADAM.weight_decay, ..Options::default() };
    let mut weights = begun.clone();
    let mut optimizer = AdamW::for_weights(&weights, options).unwrap();
    let mut trainings = [Precision::F32, Precision::Bf16].map(|precision| start(&device, precision, &begun));
    for step in 0..6 {
        let (rows, targets) = lesson(&config, &lengths, 10 + step);
        let dropout = Some(Dropout { p: 0.1, seed: 9, step, first_row: 0 });
        let (loss, mut grads) = on_cpu(&weights, &rows, &targets, dropout);
        let norm = global_norm(&[grads.data()]);
        let factor = clip_factor(norm, Some(ADAM.clip)).unwrap();
        optimizer.step(weights.data_mut(), grads.data_mut(), factor, 1e-2).unwrap();
        for (training, most) in trainings.iter_mut().zip([1e-3, 5e-2]) {
            let found = on_device(training, &rows, &targets, dropout);
            assert!((found / loss - 1.0).abs() < most, "step {step}: loss {found}, not {loss}");
            let found = training.step(1e-2).unwrap();
            assert!((found / norm - 1.0).abs() < 2.0 * most, "step {step}: norm {found}, not {norm}");
        }
        // What one has learnt the other goes on with, and back.
        if step == 2 {
            let [training, _] = &mut trainings;
            let (steps, m, v) = optimizer.state();
            let mut other = start(&device, Precision::F32, &begun);
            other.write(weights.data()).unwrap();
            other.write_moments(steps, m, v).unwrap();
            let n = training.len();
            let [mut own, mut m, mut v] = [vec![0.0; n], vec![0.0; n], vec![0.0; n]];
            training.read(&mut own).unwrap();
            training.read_moments(&mut m, &mut v).unwrap();
            weights.data_mut().copy_from_slice(&own);
            optimizer.restore(3, &m, &v).unwrap();
            *training = other;
        }
    }
}

/// Labels, teachers' answers, both; some of the batch's sequences are not classified but learnt by the language model alone.
#[test]
fn the_classifiers_loss_and_gradients_are_the_cpus() {
    let Some(device) = gpu() else { return };
    let (config, lengths) = shapes().swap_remove(2);
    let lengths: Vec<usize> = lengths.iter().map(|n| n.max(&2)).copied().collect();
    let (weights, (rows, targets)) = (weights(&config), lesson(&config, &lengths, 3));
    let (n, d, labels) = (3, config.n_embd, 5);
    let mut draws = Stream::new(8, 8);
    let weight: Vec<f32> = (0..labels * d).map(|_| draws.normal() as f32).collect();
    let head = Linear { weight, bias: vec![0.5, -0.25, 0.0, 1.0, 0.125], temperature: 1.0 };
    let answers = [vec![0.1, 0.2, 0.3, 0.4, 0.0], vec![0.2; 5]];
    let truths = [
        Truth { label: Some(4), answer: None },
        Truth { label: Some(0), answer: Some(&answers[0]) },
        Truth { label: None, answer: Some(&answers[1]) },
    ];
    let objective = Objective {
        label_weights: vec![0.5, 1.0, 2.0, 1.5, 0.75],
        smoothing: 0.1,
        teacher_share: 0.4,
        unlabelled: 2.0,
    };
    let total = objective.total(truths.into_iter());

    let (mut tape, mut grads) = (Tape::new(), Weights::zeros(&config).unwrap());
    gpt2::forward(&weights, rows.as_ragged(), None, &mut tape).unwrap();
    let span = |i: usize| {
        let offsets = rows.as_ragged().offsets();
        offsets[i] as usize + 1..offsets[i + 1] as usize
    };
    let mut embeddings = vec![0.0; n * d];
    embeddings.chunks_mut(d).enumerate().for_each(|(i, out)| head_loss::pool(tape.hidden(), span(i), out));
    let mut logits = Vec::new();
    head_loss::logits(&head, &embeddings, &mut logits);
    let before = logits.clone();
    let loss = objective.apply(&mut logits, truths.into_iter(), total);
    let mut head_grads = Linear { weight: vec![0.0; labels * d], bias: vec![0.0; labels], temperature: 1.0 };
    let mut d_embeddings = Vec::new();
    head_loss::logits_backward(&head, &embeddings, &logits, &mut head_grads, &mut d_embeddings);
    let d_rows = d_embeddings.chunks(d).enumerate();
    d_rows.for_each(|(i, g)| head_loss::pool_backward(g, span(i), tape.d_hidden_mut()));
    gpt2::lm_loss(&weights, &mut tape, &targets, 0.125, &mut grads).unwrap();
    gpt2::backward(&weights, &mut tape, &mut grads).unwrap();

    for (precision, most) in [(Precision::F32, 1e-4), (Precision::Bf16, 6e-2)] {
        let parts = Some([&head.weight[..], &head.bias[..]]);
        let mut training = Training::new(&device, precision, weights.clone(), parts, ADAM).unwrap();
        training.forward(rows.as_ragged(), None).unwrap();
        for (a, b) in training.logits(n).unwrap().iter().zip(&before) {
            assert!((a - b).abs() < most as f32 * 20.0, "{precision:?}: logit {a}, not {b}");
        }
        let found = training.head_loss(n, &objective.targets(truths.into_iter()), total as f32).unwrap();
        assert!((found / loss - 1.0).abs() < most, "{precision:?}: loss {found}, not {loss}");
        training.lm_loss(&targets, Some(0.125)).unwrap();
        training.backward().unwrap();
        let mut got = vec![0.0; training.len()];
        training.read_gradients(&mut got).unwrap();
        let (of_network, of_head) = got.split_at(weights.data().len());
        for (name, error) in errors(&weights, of_network, grads.data()) {
            assert!(error < 2.0 * most, "{precision:?}: gradient of {name} is off by {error}");
        }
        let expected = [&head_grads.weight[..], &head_grads.bias[..]].concat();
        for (a, b) in of_head.iter().zip(&expected) {
            assert!((a - b).abs() < most as f32, "{precision:?}: the head's gradient {a}, not {b}");
        }
        assert!(training.logits(9).is_err() && training.head_loss(1, &[0.0], 1.0).is_err());
    }
}

#[test]
fn a_step_that_would_spoil_the_weights_is_not_taken() {
    let Some(device) = gpu() else { return };
    let (config, _) = shapes().swap_remove(1);
    let weights = weights(&config);
    let mut training = start(&device, Precision::F32, &weights);
    let mut grads = vec![0.5; training.len()];
    grads[7] = f32::NAN;
    training.write_gradients(&grads).unwrap();
    assert!(!training.step(0.1).unwrap().is_finite());
    let mut after = vec![0.0; training.len()];
    training.read(&mut after).unwrap();
    assert!(after == weights.data());
    let error = training.backward().unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert!(training.write(&grads[1..]).is_err() && training.logits(1).is_err());
    assert!(training.lm_loss(&[1], None).is_err());
}
