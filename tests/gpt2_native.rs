//! The native engine: it agrees with the forward pass on a tape, batch and threads do not matter, bad input is refused.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::sync::Arc;
use trafficgpt::engine::native::Native;
use trafficgpt::engine::{Precision, Session};
use trafficgpt::gpt2::{Config, Tape, Weights, forward};
use trafficgpt::packet::{Ragged, Rows};
use trafficgpt::random::Stream;
use trafficgpt::tokens::Token;

const VOCAB: usize = 61;

/// A network with heads of 10, no multiple of a vector, and weights large enough that attention is not flat.
fn weights() -> Arc<Weights> {
    let config = Config { n_positions: 40, ..Config::new(VOCAB, 3, 30, 3) };
    let mut weights = Weights::init(&config, 11).unwrap();
    weights.data_mut().iter_mut().filter(|w| w.abs() < 0.5).for_each(|w| *w *= 8.0);
    Arc::new(weights)
}

/// Sequences of every length, the longest many times, so that batches are cut.
fn sequences() -> Rows<Token> {
    let mut draws = Stream::new(9, 9);
    (1..=40).chain([40; 12]).map(|n| (0..n).map(|_| draws.below(VOCAB) as Token).collect::<Vec<_>>()).collect()
}

fn session(threads: usize) -> Box<dyn Session> {
    session_of(Precision::F32, threads)
}

fn session_of(precision: Precision, threads: usize) -> Box<dyn Session> {
    Native::with_precision(weights(), threads, precision).unwrap().session().unwrap()
}

/// Those that this processor has.
fn precisions() -> impl Iterator<Item = Precision> {
    if !Precision::Bf16.is_there() {
        println!("skipped: bf16, which this processor cannot multiply");
    }
    [Precision::F32, Precision::Bf16].into_iter().filter(|p| p.is_there())
}

#[test]
fn embeddings_are_means_of_the_hidden_states_whatever_batch_and_threads() {
    let (weights, rows) = (weights(), sequences());
    let batch = rows.as_ragged();
    let d = weights.config().n_embd;
    let mut tape = Tape::new();
    let hidden = forward(&weights, batch, None, &mut tape).unwrap();

    let mut whole = vec![f32::NAN; batch.len() * d];
    session(1).embed(batch, 0, &mut whole).unwrap();
    for (i, got) in whole.chunks(d).enumerate() {
        let at = batch.offsets()[i] as usize * d..batch.offsets()[i + 1] as usize * d;
        for (c, got) in got.iter().enumerate() {
            let column: Vec<f32> = hidden[at.clone()].iter().skip(c).step_by(d).copied().collect();
            let want = column.iter().sum::<f32>() / column.len() as f32;
            assert!((got - want).abs() < 1e-5, "sequence {i}, {c}: {got} {want}");
        }
    }

    for threads in [1, 2, 5] {
        let mut session = session(threads);
        let mut again = vec![f32::NAN; batch.len() * d];
        session.embed(batch, 0, &mut again).unwrap();
        assert_eq!(again, whole, "{threads} threads");
        for (i, row) in batch.rows().enumerate() {
            let mut one = vec![f32::NAN; d];
            session.embed(Ragged::new(row, &[0, row.len() as u64]).unwrap(), 0, &mut one).unwrap();
            assert_eq!(one, whole[i * d..(i + 1) * d], "sequence {i} alone");
        }
        session.embed(Ragged::new(&[], &[0]).unwrap(), 0, &mut []).unwrap();
    }
}

#[test]
fn bf16_comes_close_and_is_the_same_in_any_batch() {
    if !Precision::Bf16.is_there() {
        println!("skipped: this processor has no products of bf16");
        return;
    }
    let (weights, rows) = (weights(), sequences());
    let batch = rows.as_ragged();
    let d = weights.config().n_embd;
    let embed = |precision| {
        let mut session = Native::with_precision(weights.clone(), 1, precision).unwrap().session().unwrap();
        let mut out = vec![f32::NAN; batch.len() * d];
        session.embed(batch, 0, &mut out).unwrap();
        (session, out)
    };
    let (exact, (mut session, near)) = (embed(Precision::F32).1, embed(Precision::Bf16));
    let largest = exact.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let error = exact.iter().zip(&near).fold(0.0f32, |most, (a, b)| most.max((a - b).abs()));
    assert!(error > 0.0 && error < 0.03 * largest, "{error} of {largest}");
    for (i, row) in batch.rows().enumerate() {
        let mut one = vec![f32::NAN; d];
        session.embed(Ragged::new(row, &[0, row.len() as u64]).unwrap(), 0, &mut one).unwrap();
        assert_eq!(one, near[i * d..(i + 1) * d], "sequence {i} alone");
    }
}

#[test]
fn the_mean_begins_where_it_is_told() {
    let (weights, tokens) = (weights(), [3, 1, 4, 1, 5]);
    let d = weights.config().n_embd;
    let batch = Ragged::new(&tokens, &[0, 5]).unwrap();
    let mut tape = Tape::new();
    let hidden = forward(&weights, batch, None, &mut tape).unwrap();
    let mut got = vec![0.0; d];
    session(1).embed(batch, 3, &mut got).unwrap();
    for c in 0..d {
        let want = (hidden[3 * d + c] + hidden[4 * d + c]) / 2.0;
        assert!((got[c] - want).abs() < 1e-5);
    }
}

#[test]
fn decoding_with_a_cache_gives_the_logits_of_the_whole_sequence() {
    let (weights, rows) = (weights(), sequences());
    let d = weights.config().n_embd;
    let wte = &weights.data()[weights.wte()];
    for (precision, threads) in precisions().flat_map(|p| [(p, 1), (p, 2)]) {
        let (mut session, mut worst) = (session_of(precision, threads), 0.0f32);
        for order in [[0, 1, 2], [2, 0, 1]] {
            // Three flows that begin one step after another, in slots of changing order.
            session.begin(3).unwrap();
            let flows: Vec<&[Token]> = [40, 41, 20].map(|i| rows.as_ragged().row(i)).to_vec();
            let mut logits: Vec<Vec<f32>> = vec![Vec::new(); 3];
            for step in 0..40 {
                let alive: Vec<usize> = order.into_iter().filter(|&s| step >= s && step - s < flows[s].len()).collect();
                let tokens: Vec<Token> = alive.iter().map(|&s| flows[s][step - s]).collect();
                let mut out = vec![f32::NAN; alive.len() * VOCAB];
                session.step(&alive, &tokens, &mut out).unwrap();
                for (&slot, row) in alive.iter().zip(out.chunks(VOCAB)) {
                    logits[slot].extend_from_slice(row);
                }
            }
            for (flow, logits) in flows.iter().zip(&logits) {
                let mut tape = Tape::new();
                let offsets = [0, flow.len() as u64];
                let hidden = forward(&weights, Ragged::new(flow, &offsets).unwrap(), None, &mut tape).unwrap();
                for (position, row) in logits.chunks(VOCAB).enumerate() {
                    for (token, got) in row.iter().enumerate() {
                        let (h, w) = (&hidden[position * d..(position + 1) * d], &wte[token * d..(token + 1) * d]);
                        let want: f32 = h.iter().zip(w).map(|(h, w)| h * w).sum();
                        assert!(got.is_finite(), "position {position}, token {token}: {got}");
                        worst = worst.max((got - want).abs());
                    }
                }
            }
        }
        let allowed = if precision == Precision::F32 { 0.0..2e-5 } else { 1e-4..0.1 };
        assert!(allowed.contains(&worst), "{precision:?}: logits are off by {worst}");
    }
}

#[test]
fn a_flow_decodes_to_the_same_bits_alone_and_in_company() {
    let rows = sequences();
    let flow = rows.as_ragged().row(19);
    for precision in precisions() {
        let mut alone = session_of(precision, 1);
        let mut company = session_of(precision, 2);
        alone.begin(1).unwrap();
        company.begin(7).unwrap();
        for &token in flow {
            let mut one = vec![0.0; VOCAB];
            alone.step(&[0], &[token], &mut one).unwrap();
            let mut many = vec![0.0; 7 * VOCAB];
            let tokens = [5, 6, 7, token, 8, 9, 10];
            company.step(&[6, 5, 4, 3, 2, 1, 0], &tokens, &mut many).unwrap();
            assert_eq!(one, many[3 * VOCAB..4 * VOCAB], "{precision:?}");
        }
    }
}

#[test]
fn what_is_known_is_read_at_once_to_the_same_bits_as_token_by_token() {
    let rows = sequences();
    let n = rows.len();
    let slots: Vec<usize> = (0..n).rev().collect();
    let flow = |i: usize| rows.as_ragged().row(i);
    // The flow's last tokens, of those after `at`, side by side with those of the others that have as many.
    let last = |session: &mut dyn Session, at: &dyn Fn(usize) -> usize| {
        let mut logits = vec![Vec::new(); n];
        for more in 0..40 {
            let alive: Vec<usize> = (0..n).filter(|&i| at(i) + more < flow(i).len()).collect();
            let tokens: Vec<Token> = alive.iter().map(|&i| flow(i)[at(i) + more]).collect();
            let mut out = vec![f32::NAN; alive.len() * VOCAB];
            session.step(&alive.iter().map(|&i| slots[i]).collect::<Vec<_>>(), &tokens, &mut out).unwrap();
            alive.iter().zip(out.chunks(VOCAB)).for_each(|(&i, row)| logits[i] = row.to_vec());
        }
        logits
    };
    for (precision, threads, part) in precisions().flat_map(|p| [(p, 1, 1), (p, 1, 3), (p, 2, 2), (p, 5, 1)]) {
        let mut stepped = session_of(precision, 1);
        stepped.begin(n).unwrap();
        let expected = last(stepped.as_mut(), &|_| 0);
        let mut session = session_of(precision, threads);
        session.begin(n).unwrap();
        // In two parts, as a cut may be anywhere; the last token is stepped.
        for round in 0..2 {
            let known = |i: usize| match (round, (flow(i).len() - 1) / part) {
                (0, middle) => 0..middle,
                (_, middle) => middle..flow(i).len() - 1,
            };
            let taken: Vec<usize> = (0..n).filter(|&i| !known(i).is_empty()).collect();
            let begun: Rows<Token> = taken.iter().map(|&i| flow(i)[known(i)].to_vec()).collect();
            let slots: Vec<usize> = taken.iter().map(|&i| slots[i]).collect();
            assert!(session.prefill(&slots, begun.as_ragged()).unwrap());
        }
        let got = last(session.as_mut(), &|i| flow(i).len() - 1);
        assert_eq!(got, expected, "{precision:?}, {threads} threads, {part} parts");
    }
}

#[test]
fn a_cleared_slot_begins_anew() {
    let mut session = session(1);
    session.begin(2).unwrap();
    let (mut first, mut second) = (vec![0.0; VOCAB], vec![0.0; VOCAB]);
    session.step(&[1], &[7], &mut first).unwrap();
    session.step(&[1], &[8], &mut second).unwrap();
    assert_ne!(first, second);
    session.clear(1);
    session.clear(99);
    session.step(&[1], &[7], &mut second).unwrap();
    assert_eq!(first, second);
    session.begin(2).unwrap();
    session.step(&[1], &[7], &mut second).unwrap();
    assert_eq!(first, second);
}

#[test]
fn bad_input_is_refused_and_named() {
    let mut session = session(1);
    let mut out = [0.0; 30];
    let mut embed = |tokens: &[Token], first: usize, n: usize| {
        let offsets = [0, tokens.len() as u64];
        session.embed(Ragged::new(tokens, &offsets).unwrap(), first, &mut out[..n]).map_err(|e| e.to_string())
    };
    assert_eq!(embed(&[1, 2], 1, 30), Ok(()));
    for (result, part) in [
        (embed(&[], 0, 30), "0 tokens"),
        (embed(&[0; 41], 0, 30), "41 tokens; it must have 1 to 40"),
        (embed(&[1, 61], 0, 30), "sequence 0, position 1: token 61"),
        (embed(&[1, 2], 2, 30), "begins at token 2"),
        (embed(&[1, 2], 0, 29), "29 values"),
    ] {
        assert!(result.clone().unwrap_err().contains(part), "{result:?} {part}");
    }

    let mut logits = vec![0.0; 2 * VOCAB];
    assert!(session.step(&[0], &[1], &mut logits[..VOCAB]).is_err(), "nothing was begun");
    session.begin(2).unwrap();
    let mut prefill = |slots: &[usize], rows: &[&[Token]]| {
        let rows: Rows<Token> = rows.iter().map(|row| row.to_vec()).collect();
        session.prefill(slots, rows.as_ragged()).map_err(|e| e.to_string())
    };
    assert_eq!((prefill(&[], &[]), prefill(&[1], &[&[1; 30]])), (Ok(true), Ok(true)));
    for (result, part) in [
        (prefill(&[0], &[]), "1 slots are to take 0 rows"),
        (prefill(&[2], &[&[1]]), "slot 2 is not one of the 2"),
        (prefill(&[0, 0], &[&[1], &[1]]), "named twice"),
        (prefill(&[0], &[&[1, 61]]), "position 1: token 61"),
        (prefill(&[0], &[&[]]), "0 tokens"),
        (prefill(&[0], &[&[1; 41]]), "41 tokens"),
        (prefill(&[0, 1], &[&[1], &[1; 11]]), "row 1: 11 tokens more for the flow in slot 1, which has 30"),
    ] {
        assert!(result.clone().unwrap_err().contains(part), "{result:?} {part}");
    }
    assert!(session.begin(usize::MAX).unwrap_err().message().contains("limit"));
    session.begin(2).unwrap();
    let mut step = |slots: &[usize], tokens: &[Token], n: usize| {
        session.step(slots, tokens, &mut logits[..n]).map_err(|e| e.to_string())
    };
    for (result, part) in [
        (step(&[2], &[1], VOCAB), "slot 2 is not one of the 2"),
        (step(&[1, 1], &[1, 1], 2 * VOCAB), "named twice"),
        (step(&[1], &[61], VOCAB), "token 61"),
        (step(&[1], &[1, 2], VOCAB), "2 tokens"),
        (step(&[1], &[1], VOCAB - 1), "60 logits"),
    ] {
        assert!(result.clone().unwrap_err().contains(part), "{result:?} {part}");
    }
    for _ in 0..40 {
        step(&[1], &[1], VOCAB).unwrap();
    }
    assert!(step(&[1], &[1], VOCAB).unwrap_err().contains("has all its 40 tokens"));
    step(&[], &[], 0).unwrap();
}
