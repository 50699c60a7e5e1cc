//! The engine `cuda` on a GPU, against the native one. Without a GPU these tests say so and pass.

use super::device::Device;
use super::gpt2::{Network, Options};
use super::on_gpu::gpu;
use crate::engine::cuda::Cuda;
use crate::engine::draw::{Draw, Drawing};
use crate::engine::native::Native;
use crate::engine::{Engine, EngineKind, Precision, Session};
use crate::error::Kind;
use crate::gpt2::{Config, Weights};
use crate::packet::{Ragged, Rows};
use crate::random::Stream;
use crate::sampling::Sampling;
use crate::tokens::{Token, Vocabulary};
use std::sync::Arc;

/// Bytes that leave hardly more than a batch of one sequence, and many batches' worth.
pub(super) const MEMORY: [usize; 2] = [400 << 10, 64 << 20];

/// A vocabulary of 50 packets and 5 other tokens, heads of `n_embd / 3`, weights large enough that attention is not flat.
pub(super) fn weights(n_embd: usize) -> Arc<Weights> {
    let config = Config { n_positions: 20, ..Config::new(vocabulary().len(), 2, n_embd, 3) };
    let mut weights = Weights::init(&config, 11).unwrap();
    weights.data_mut().iter_mut().filter(|w| w.abs() < 0.5).for_each(|w| *w *= 8.0);
    Arc::new(weights)
}

pub(super) fn vocabulary() -> Vocabulary {
    Vocabulary::new(50, ["a".to_string()])
}

pub(super) fn sequences(n: usize) -> Rows<Token> {
    let mut draws = Stream::new(9, 9);
    (0..n).map(|i| (0..1 + i * 7 % 20).map(|_| draws.below(vocabulary().len()) as Token).collect::<Vec<_>>()).collect()
}

fn open(weights: &Arc<Weights>, precision: Precision, memory: usize) -> Arc<Cuda> {
    Cuda::open(weights.clone(), precision, &Options { memory: Some(memory), ..Options::default() }).unwrap()
}

fn native(weights: &Arc<Weights>) -> Box<dyn Session> {
    Native::new(weights.clone(), 1).session().unwrap()
}

/// ‖a - b‖ / ‖b‖.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

/// How far results may be off, by what rounding does in either precision.
fn allowed(precision: Precision) -> f32 {
    match precision {
        Precision::F32 => 2e-6,
        Precision::Bf16 => 3e-2,
    }
}

/// A width that is no multiple of 8 where that may be, and one that is.
pub(super) const CASES: [(usize, Precision); 3] = [(30, Precision::F32), (24, Precision::F32), (48, Precision::Bf16)];

#[test]
fn embeddings_are_the_cpus_whole_and_in_parts() {
    if gpu().is_none() {
        return;
    }
    for (n_embd, precision) in CASES {
        let weights = weights(n_embd);
        let rows = sequences(40);
        let batch = rows.as_ragged();
        let mut expected = vec![0.0; 40 * n_embd];
        native(&weights).embed(batch, 0, &mut expected).unwrap();
        let mut before: Option<Vec<f32>> = None;
        for memory in MEMORY {
            let engine = open(&weights, precision, memory);
            assert_eq!(engine.kind(), EngineKind::Cuda);
            let mut session = engine.session().unwrap();
            let mut got = vec![f32::NAN; 40 * n_embd];
            session.embed(batch, 0, &mut got).unwrap();
            let off = distance(&got, &expected);
            assert!(off < allowed(precision), "{n_embd} {precision:?}: {off}");
            assert!(before.is_none_or(|before| before == got), "{n_embd} {precision:?}: parts change the result");
            before = Some(got);
            session.embed(Ragged::new(&[], &[0]).unwrap(), 0, &mut []).unwrap();
        }
    }
}

#[test]
fn logits_are_the_cpus_whatever_slots_they_are_in() {
    if gpu().is_none() {
        return;
    }
    for (n_embd, precision) in CASES {
        let weights = weights(n_embd);
        let v = weights.config().vocab_size;
        let rows = sequences(9);
        let run = |mut session: Box<dyn Session>| {
            let mut all = Vec::new();
            session.begin(3).unwrap();
            // Flows in slots 2, 0, 1, which are taken again when a flow has ended.
            for turn in 0..3 {
                let flows: Vec<&[Token]> = (0..3).map(|i| rows.row(3 * turn + i)).collect();
                for at in 0..20 {
                    let alive: Vec<usize> = [1, 2, 0].into_iter().filter(|&i| at < flows[i].len()).collect();
                    let slots: Vec<usize> = alive.iter().map(|i| (i + 2) % 3).collect();
                    let tokens: Vec<Token> = alive.iter().map(|&i| flows[i][at]).collect();
                    let mut logits = vec![f32::NAN; alive.len() * v];
                    session.step(&slots, &tokens, &mut logits).unwrap();
                    all.extend(logits);
                }
                (0..3).for_each(|slot| session.clear(slot));
            }
            all
        };
        let expected = run(native(&weights));
        let off = distance(&run(open(&weights, precision, MEMORY[1]).session().unwrap()), &expected);
        assert!(off < allowed(precision), "{n_embd} {precision:?}: {off}");
    }
}

#[test]
fn known_sequences_are_read_as_on_the_cpu() {
    if gpu().is_none() {
        return;
    }
    let weights = weights(24);
    let rows = sequences(12);
    let value = |place: usize, logits: &[f32]| logits[place % logits.len()];
    let mut expected = vec![0.0; rows.as_ragged().total()];
    native(&weights).read(rows.as_ragged(), &value, &mut expected).unwrap();
    for memory in MEMORY {
        let mut got = vec![f32::NAN; expected.len()];
        open(&weights, Precision::F32, memory).session().unwrap().read(rows.as_ragged(), &value, &mut got).unwrap();
        assert!(distance(&got, &expected) < allowed(Precision::F32));
    }
}

/// Flows drawn as [`crate::generator`] does it: `n` of them in `slots` slots.
fn flows(session: &mut dyn Session, sampling: &Sampling, n: usize, slots: usize) -> Vec<Vec<Token>> {
    let vocabulary = vocabulary();
    let mut drawing = Drawing::new(&vocabulary, sampling).unwrap();
    let mut flows = vec![Vec::new(); n];
    // Slot and flow of those under way.
    let mut alive: Vec<[usize; 2]> = (0..slots).map(|i| [i, i]).collect();
    let mut next = slots;
    session.begin(slots).unwrap();
    while !alive.is_empty() {
        let in_slots: Vec<usize> = alive.iter().map(|a| a[0]).collect();
        let last = |a: &[usize; 2]| flows[a[1]].last().copied().unwrap_or(vocabulary.bof);
        let mut tokens: Vec<Token> = alive.iter().map(last).collect();
        let draw = |a: &[usize; 2]| {
            let step = flows[a[1]].len();
            Some(Draw { flow: sampling.first_flow + a[1] as u64, step: step as u32, may_end: step > 0 })
        };
        let draws: Vec<Option<Draw>> = alive.iter().map(draw).collect();
        session.draw(&in_slots, &mut tokens, &draws, &mut drawing).unwrap();
        let before = std::mem::take(&mut alive);
        for ([slot, flow], token) in before.into_iter().zip(tokens) {
            assert!(token < vocabulary.n_packet_tokens || token == vocabulary.eof);
            if token != vocabulary.eof {
                flows[flow].push(token);
                if flows[flow].len() < 18 {
                    alive.push([slot, flow]);
                    continue;
                }
            }
            session.clear(slot);
            if next < n {
                alive.push([slot, next]);
                next += 1;
            }
        }
    }
    flows
}

#[test]
fn flows_are_the_cpus() {
    if gpu().is_none() {
        return;
    }
    let weights = weights(24);
    let mut session = open(&weights, Precision::F32, MEMORY[1]).session().unwrap();
    for (temperature, top_k, top_p, banned) in [(1.0, 0, 1.0, vec![]), (0.8, 12, 0.9, vec![3, 7, 31, 49])] {
        let sampling = Sampling { seed: 77, first_flow: 5, temperature, top_k, top_p, banned, ..Sampling::default() };
        let expected = flows(native(&weights).as_mut(), &sampling, 24, 24);
        for slots in [7, 24] {
            assert_eq!(flows(session.as_mut(), &sampling, 24, slots), expected, "{sampling:?}, {slots} slots");
        }
    }
}

#[test]
fn workers_share_a_network() {
    if gpu().is_none() {
        return;
    }
    let weights = weights(24);
    let engine = open(&weights, Precision::F32, MEMORY[1]);
    let rows = sequences(10);
    let mut expected = vec![0.0; 240];
    engine.clone().session().unwrap().embed(rows.as_ragged(), 0, &mut expected).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let (engine, rows, expected) = (engine.clone(), &rows, &expected);
            scope.spawn(move || {
                let mut session = engine.session().unwrap();
                let mut got = vec![0.0; 240];
                session.embed(rows.as_ragged(), 0, &mut got).unwrap();
                assert!(got == *expected);
            });
        }
    });
}

#[test]
fn what_cannot_be_is_told_and_the_session_goes_on() {
    let Some(device) = gpu() else { return };
    let weights = weights(24);
    let engine = open(&weights, Precision::F32, MEMORY[0]);
    let mut session = engine.clone().session().unwrap();
    let v = engine.config().vocab_size;
    assert!((1..100).contains(&session.best_slots()));
    let mut logits = vec![0.0; 2 * v];
    assert!(session.step(&[0], &[1], &mut logits[..v]).is_err(), "nothing was begun");
    assert_eq!(session.begin(1000).unwrap_err().kind(), Kind::NoMemory);
    assert_eq!(session.begin(usize::MAX).unwrap_err().kind(), Kind::Invalid);
    session.begin(2).unwrap();
    let mut step = |slots: &[usize], tokens: &[Token], n: usize| {
        session.step(slots, tokens, &mut logits[..n]).map_err(|e| e.to_string())
    };
    for (result, part) in [
        (step(&[2], &[1], v), "slot 2 is not one of the 2"),
        (step(&[1, 1], &[1, 1], 2 * v), "named twice"),
        (step(&[1], &[55], v), "token 55"),
        (step(&[1], &[1, 2], v), "2 tokens"),
        (step(&[1], &[1], v - 1), "54 logits"),
    ] {
        assert!(result.clone().unwrap_err().contains(part), "{result:?} {part}");
    }
    for _ in 0..20 {
        step(&[1], &[1], v).unwrap();
    }
    assert!(step(&[1], &[1], v).unwrap_err().contains("has all its 20 tokens"));
    let mut out = [0.0; 24];
    for (tokens, first, part) in [
        (&[][..], 0, "0 tokens"),
        (&[0; 21], 0, "21 tokens"),
        (&[1, 55], 0, "token 55"),
        (&[1, 2], 2, "begins at token 2"),
    ] {
        let offsets = [0, tokens.len() as u64];
        let error = session.embed(Ragged::new(tokens, &offsets).unwrap(), first, &mut out).unwrap_err();
        assert!(error.message().contains(part), "{error}");
    }
    session.embed(Ragged::new(&[1, 2], &[0, 2]).unwrap(), 1, &mut out).unwrap();

    let open = |weights: &Arc<Weights>, precision, memory| {
        let options = Options { memory: Some(memory), ..Options::default() };
        Network::on(&device, weights.clone(), precision, &options).map(|_| ()).unwrap_err()
    };
    assert_eq!(open(&weights, Precision::F32, 1000).kind(), Kind::NoMemory);
    let odd = self::weights(30);
    let error = open(&odd, Precision::Bf16, MEMORY[1]);
    assert!(error.kind() == Kind::Mismatch && error.message().contains("multiple of 8"), "{error}");
    assert_eq!(Device::open(9).unwrap_err().kind(), Kind::Invalid);
}
