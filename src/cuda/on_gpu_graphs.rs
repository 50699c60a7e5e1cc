//! Launches that are replayed, against the same launches one by one: results are equal, bit by bit. Without a GPU these tests say
//! so and pass. With TRAFFICGPT_GRAPHS the driver of `on_cpu` fails to record or replay, and results are the same still.

use super::gpt2::{Draw, Lane, Network, Options, Rule};
use super::on_gpu::gpu;
use super::on_gpu_network::{CASES, MEMORY, sequences, vocabulary, weights};
use crate::engine::Precision;
use crate::engine::draw::Drawing;
use crate::packet::Ragged;
use crate::random::Stream;
use crate::sampling::Sampling;
use crate::tokens::Token;

/// A lane that replays its launches, and one that does not.
fn lanes(n_embd: usize, precision: Precision, memory: usize) -> [Lane; 2] {
    let weights = weights(n_embd);
    [false, true].map(|plain_launches| {
        let options = Options { memory: Some(memory), plain_launches, ..Options::default() };
        Network::open(weights.clone(), precision, &options).unwrap().lane().unwrap()
    })
}

fn assert_replayed([replaying, plain]: &[Lane; 2], at_least: usize) {
    let works = std::env::var_os("TRAFFICGPT_GRAPHS").is_none();
    let replays = replaying.replays();
    assert!(if works { replays >= at_least } else { replays == 0 }, "{replays} replays");
    assert_eq!(plain.replays(), 0);
}

/// What a decode gives whose flows begin and end at different times: `rows` of all steps, of `slots` slots.
fn decode(lane: &mut Lane, slots: usize, steps: usize, sampling: &Sampling) -> (Vec<Token>, Vec<f32>) {
    let (vocabulary, v) = (vocabulary(), vocabulary().len());
    let drawing = &mut Drawing::new(&vocabulary, sampling).unwrap();
    let rule: Rule<'_> = drawing.rule();
    let mut stream = Stream::new(3, slots as u64);
    let (mut all_tokens, mut all_logits) = (Vec::new(), Vec::new());
    let mut flows: Vec<(u64, u32, Token)> = (0..slots).map(|slot| (slot as u64, 0, vocabulary.bof)).collect();
    lane.begin(slots).unwrap();
    for turn in 0..steps {
        // Some flows wait, and some end and leave their slots to others.
        let mut taking: Vec<usize> = (0..slots).filter(|_| turn < 3 || stream.below(5) > 0).collect();
        if turn % 4 == 1 {
            taking.reverse();
        }
        for &slot in &taking {
            if flows[slot].1 == 18 || stream.below(9) == 0 {
                lane.clear(slot);
                flows[slot] = (flows[slot].0 + slots as u64, 0, vocabulary.bof);
            }
        }
        let mut tokens: Vec<Token> = taking.iter().map(|&slot| flows[slot].2).collect();
        if turn % 5 == 4 {
            let mut logits = vec![f32::NAN; taking.len() * v];
            lane.step(&taking, &tokens, &mut logits).unwrap();
            all_logits.extend(logits);
        } else {
            let draw = |&slot: &usize| {
                let (flow, step, _) = flows[slot];
                (slot != 1).then_some(Draw { flow, step, may_end: step > 2 })
            };
            let draws: Vec<Option<Draw>> = taking.iter().map(draw).collect();
            lane.draw(&taking, &mut tokens, &draws, &rule).unwrap();
            all_tokens.extend_from_slice(&tokens);
        }
        for (&slot, token) in taking.iter().zip(tokens) {
            flows[slot] = (flows[slot].0, flows[slot].1 + 1, token);
        }
    }
    (all_tokens, all_logits)
}

#[test]
fn decoding_gives_the_same_replayed_whatever_changes_meanwhile() {
    if gpu().is_none() {
        return;
    }
    for (n_embd, precision) in CASES.into_iter().skip(1) {
        let mut lanes = lanes(n_embd, precision, MEMORY[1]);
        let rows = sequences(40);
        let plain = Sampling { seed: 77, ..Sampling::default() };
        let choosy = Sampling {
            seed: 1 << 40,
            temperature: 0.8,
            top_k: 12,
            top_p: 0.9,
            banned: vec![3, 7, 50],
            ..plain.clone()
        };
        let mut seen = Vec::new();
        // Another rule; a cache made anew, smaller and larger; then the workspace, for sequences; and all of it again.
        let turns =
            [(5, 12, &plain), (5, 9, &choosy), (3, 7, &choosy), (66, 3, &plain), (5, 12, &plain), (5, 9, &choosy)];
        for (turn, (slots, steps, sampling)) in turns.into_iter().enumerate() {
            let [got, expected] = lanes.each_mut().map(|lane| decode(lane, slots, steps, sampling));
            assert!(got == expected, "{n_embd} {precision:?}: {slots} slots, {sampling:?}");
            assert!(got.1.iter().all(|logit| logit.is_finite()));
            if turn % 2 == 1 {
                let n = 4 * turn;
                let offsets = &rows.as_ragged().offsets()[..=n];
                let batch = Ragged::new(&rows.as_ragged().values()[..offsets[n] as usize], offsets).unwrap();
                let [got, expected] = lanes.each_mut().map(|lane| {
                    let mut out = vec![f32::NAN; n * n_embd];
                    lane.embed(batch, 0, &mut out).unwrap();
                    out
                });
                assert!(got == expected, "{n_embd} {precision:?}: {n} sequences");
            }
            seen.push(got.0);
        }
        assert!(seen[0] == seen[4] && seen[1] == seen[5] && seen[0] != seen[1]);
        assert_replayed(&lanes, 15);
    }
}

#[test]
fn sequences_give_the_same_replayed() {
    if gpu().is_none() {
        return;
    }
    for (n_embd, precision) in CASES.into_iter().skip(1) {
        for memory in MEMORY {
            let mut lanes = lanes(n_embd, precision, memory);
            let rows = sequences(20);
            let batch = rows.as_ragged();
            let mut check = |batch: Ragged<'_, Token>, first: usize| {
                let [got, expected] = lanes.each_mut().map(|lane| {
                    let mut out = vec![f32::NAN; batch.len() * n_embd];
                    lane.embed(batch, first, &mut out).unwrap();
                    out
                });
                assert!(got == expected, "{n_embd} {precision:?}: {} sequences", batch.len());
            };
            // One by one, of lengths that are rounded to few numbers of rows, and all at once, which may be in parts.
            for turn in 0..3 {
                for i in 0..6 {
                    let row = batch.row(i);
                    let first = usize::from(row.len() > 1 && turn == 2);
                    check(Ragged::new(row, &[0, row.len() as u64]).unwrap(), first);
                }
                check(batch, 0);
            }
            assert_replayed(&lanes, 7);
        }
    }
}
