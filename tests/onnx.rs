//! The ONNX engine: transformers' numbers, the native engine's numbers, many threads at once, and clear errors.
//!
//! Without ONNX Runtime's library (`make runtime`, or `ORT_DYLIB_PATH`) these tests say so and pass.
#![cfg(feature = "train")]
#![allow(missing_docs, clippy::print_stderr, clippy::unwrap_used, clippy::panic)]

mod bundles;

use bundles::make;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use trafficgpt::bundle::Bundle;
use trafficgpt::config::Settings;
use trafficgpt::engine::{self, Engine, EngineChoice, EngineKind};
use trafficgpt::packet::Rows;
use trafficgpt::random::Stream;
use trafficgpt::tokens::Token;
use trafficgpt::{Error, Kind};

const TOLERANCE: f32 = 1e-4;

/// Settings under which ONNX Runtime is found, if it can be.
fn onnx_settings() -> Option<Settings> {
    let mut settings = Settings { engine: EngineChoice::Named(EngineKind::Onnx), ..Settings::default() };
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join(".runtime/libonnxruntime.so.1");
    if std::env::var_os("ORT_DYLIB_PATH").is_none() {
        if !fetched.exists() {
            eprintln!("skipped: no ONNX Runtime; `make runtime` fetches it, or set ORT_DYLIB_PATH");
            return None;
        }
        settings.onnx_library = Some(fetched);
    }
    Some(settings)
}

fn golden() -> Bundle {
    Bundle::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/onnx/tiny.tgpt")).unwrap()
}

/// What transformers computed, by dev/check_onnx.py.
#[derive(serde::Deserialize)]
struct Expected {
    tokens: Vec<Token>,
    embedding: Vec<f32>,
    logits: Vec<f32>,
}

fn expected() -> Vec<Expected> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/onnx/expected.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Absolute where values are small, relative where they are large.
#[track_caller]
fn assert_close(ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len());
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= TOLERANCE * b.abs().max(1.0), "value {i} is {a}, expected {b}");
    }
}

fn embed(engine: &Arc<dyn Engine>, sequences: &Rows<Token>, first: usize) -> Result<Vec<f32>, Error> {
    let mut out = vec![f32::NAN; sequences.len() * engine.config().n_embd];
    engine.clone().session()?.embed(sequences.as_ragged(), first, &mut out)?;
    Ok(out)
}

#[test]
fn embeddings_are_those_of_transformers() {
    let Some(settings) = onnx_settings() else { return };
    let engine = engine::open(&golden(), &settings).unwrap();
    assert_eq!(engine.kind(), EngineKind::Onnx);
    let expected = expected();
    let sequences: Rows<Token> = expected.iter().map(|e| e.tokens.clone()).collect();
    let all: Vec<f32> = expected.iter().flat_map(|e| e.embedding.clone()).collect();
    assert_close(&embed(&engine, &sequences, 1).unwrap(), &all);
}

#[test]
fn slots_taken_again_give_the_logits_of_transformers() {
    let Some(settings) = onnx_settings() else { return };
    let bundle = golden();
    let vocab = bundle.manifest.model.vocab_size;
    let mut session = engine::open(&bundle, &settings).unwrap().session().unwrap();
    let expected = expected();
    session.begin(3).unwrap();
    // Which sequence a slot works on, and how far it is.
    let mut work: Vec<Option<(usize, usize)>> = vec![None; 3];
    let (mut next, mut done) = (0, 0);
    while done < expected.len() {
        for (slot, item) in work.iter_mut().enumerate().filter(|(_, item)| item.is_none()) {
            if next < expected.len() {
                *item = Some((next, 0));
                session.clear(slot);
                next += 1;
            }
        }
        // The slots in falling order, for once.
        let busy: Vec<usize> = (0..3).rev().filter(|&s| work[s].is_some()).collect();
        let tokens: Vec<Token> = busy.iter().filter_map(|&s| work[s]).map(|(i, at)| expected[i].tokens[at]).collect();
        let mut logits = vec![0.0; busy.len() * vocab];
        session.step(&busy, &tokens, &mut logits).unwrap();
        for (&slot, logits) in busy.iter().zip(logits.chunks_exact(vocab)) {
            let Some((i, at)) = &mut work[slot] else { continue };
            *at += 1;
            if *at == expected[*i].tokens.len() {
                assert_close(logits, &expected[*i].logits);
                work[slot] = None;
                done += 1;
            }
        }
    }
}

fn random_sequences(n: usize, lengths: std::ops::Range<usize>, vocab: usize) -> Rows<Token> {
    let mut draws = Stream::new(3, n as u64);
    (0..n)
        .map(|_| {
            let len = lengths.start + draws.below(lengths.len());
            (0..len).map(|_| draws.below(vocab) as Token).collect::<Vec<_>>()
        })
        .collect()
}

/// A random bundle on the native engine and on this one.
fn both_engines(made: &bundles::Made) -> Option<[Arc<dyn Engine>; 2]> {
    let settings = onnx_settings()?;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("m");
    made.write(&path);
    let bundle = Bundle::open(&path).unwrap();
    let native = Settings { engine: EngineChoice::Named(EngineKind::Native), ..Settings::default() };
    Some([engine::open(&bundle, &native).unwrap(), engine::open(&bundle, &settings).unwrap()])
}

#[test]
fn the_engines_agree_on_ragged_batches() {
    let made = make(300, 3, 48, 4, 128);
    let Some([native, onnx]) = both_engines(&made) else { return };
    for (n, lengths, first) in [(1, 2..3, 1), (1, 128..129, 1), (200, 2..129, 1), (33, 1..20, 0), (70, 120..129, 1)] {
        let sequences = random_sequences(n, lengths, made.vocabulary.len());
        assert_close(&embed(&onnx, &sequences, first).unwrap(), &embed(&native, &sequences, first).unwrap());
    }
}

#[test]
fn the_engines_agree_along_a_decode_of_slots_that_come_and_go() {
    let made = make(300, 3, 48, 4, 128);
    let Some(engines) = both_engines(&made) else { return };
    let (slots, vocab) = (9, made.vocabulary.len());
    let mut sessions = engines.map(|engine| engine.session().unwrap());
    sessions.iter_mut().for_each(|session| session.begin(slots).unwrap());
    let mut draws = Stream::new(8, 0);
    let mut lengths = vec![0; slots];
    let (mut longest, mut cleared) = (0, 0);
    for step in 0..300 {
        // A slot sleeps now and then; a full one begins again, and others do so from time to time.
        let mut busy: Vec<usize> = (0..slots).filter(|&i| draws.below(8) != 0 && step >= 4 * i).collect();
        draws.shuffle(&mut busy);
        for &slot in &busy {
            if lengths[slot] == 128 || (slot > 2 && draws.below(40) == 0) {
                lengths[slot] = 0;
                cleared += 1;
                sessions.iter_mut().for_each(|session| session.clear(slot));
            }
            lengths[slot] += 1;
            longest = longest.max(lengths[slot]);
        }
        let tokens: Vec<Token> = busy.iter().map(|_| draws.below(vocab) as Token).collect();
        let [native, onnx] = sessions.each_mut().map(|session| {
            let mut logits = vec![f32::NAN; busy.len() * vocab];
            session.step(&busy, &tokens, &mut logits).unwrap();
            logits
        });
        assert_close(&onnx, &native);
    }
    assert!(longest == 128 && cleared > 20, "{longest} {cleared}");
}

#[test]
fn threads_share_an_engine_and_get_the_same_bits() {
    let Some(settings) = onnx_settings() else { return };
    let bundle = golden();
    let engine = engine::open(&bundle, &settings).unwrap();
    let vocab = bundle.manifest.model.vocab_size;
    let sequences = random_sequences(40, 2..33, vocab);
    let alone = embed(&engine, &sequences, 1).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    assert_eq!(embed(&engine, &sequences, 1).unwrap(), alone);
                    let mut session = engine.clone().session().unwrap();
                    session.begin(2).unwrap();
                    session.step(&[0, 1], &[1, 2], &mut vec![0.0; 2 * vocab]).unwrap();
                }
            });
        }
    });
}

#[test]
fn bad_batches_are_refused_and_the_session_lives_on() {
    let Some(settings) = onnx_settings() else { return };
    let engine = engine::open(&golden(), &settings).unwrap();
    let mut session = engine.clone().session().unwrap();
    let mut out = vec![0.0; 16];
    let rows = |row: Vec<Token>| -> Rows<Token> { [row].into_iter().collect() };
    for (row, first, part) in [
        (vec![], 0, "sequence 0 has 0 tokens"),
        (vec![1], 1, "sequence 0 has 1 tokens"),
        (vec![1; 33], 1, "sequence 0 has 33 tokens"),
        (vec![1, 27], 1, "token 27"),
        (vec![1, 2], usize::MAX, "sequence 0 has 2 tokens"),
    ] {
        let error = session.embed(rows(row).as_ragged(), first, &mut out).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.message().contains(part), "{error}");
    }
    assert!(session.embed(rows(vec![1, 2]).as_ragged(), 1, &mut out[1..]).is_err());
    session.embed(Rows::new().as_ragged(), 1, &mut []).unwrap();
    session.embed(rows(vec![1, 2]).as_ragged(), 1, &mut out).unwrap();

    let mut logits = vec![0.0; 27 * 2];
    assert!(session.step(&[0], &[1], &mut logits[..27]).is_err(), "before begin");
    session.clear(3);
    session.begin(2).unwrap();
    for (slots, tokens, room, part) in [
        (&[0, 0][..], &[1, 1][..], 54, "twice"),
        (&[2], &[1], 27, "2 slots"),
        (&[0], &[27], 27, "token 27"),
        (&[0], &[1], 26, "room for 26"),
        (&[0, 1], &[1], 54, "1 tokens"),
    ] {
        let error = session.step(slots, tokens, &mut logits[..room]).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.message().contains(part), "{error}");
    }
    session.clear(99);
    for _ in 0..32 {
        session.step(&[1], &[1], &mut logits[..27]).unwrap();
    }
    let error = session.step(&[0, 1], &[1, 1], &mut logits).unwrap_err();
    assert!(error.message().contains("slot 1 is full"), "{error}");
    session.clear(1);
    session.step(&[0, 1], &[1, 1], &mut logits).unwrap();
    assert_eq!(logits[..27], logits[27..]);
    session.begin(0).unwrap();
    session.step(&[], &[], &mut []).unwrap();
}

#[test]
fn a_graph_of_another_network_is_an_error_not_a_wrong_answer() {
    let Some(settings) = onnx_settings() else { return };
    let directory = tempfile::tempdir().unwrap();
    let [ours, other] = ["ours", "other"].map(|n| directory.path().join(n));
    make(20, 2, 16, 2, 32).write(&ours);
    make(20, 2, 32, 2, 32).write(&other);
    for bad in [std::fs::read(other.join("classifier.onnx")).unwrap(), b"not a graph".to_vec()] {
        replace(&ours, "classifier.onnx", &bad);
        let engine = engine::open(&Bundle::open(&ours).unwrap(), &settings).unwrap();
        let error = embed(&engine, &random_sequences(1, 2..3, 20), 1).unwrap_err();
        assert_eq!(error.kind(), Kind::Runtime);
        assert!(error.message().contains("classifier.onnx"), "{error}");
    }
}

#[test]
fn a_bundle_without_graphs_names_what_is_missing() {
    let Some(settings) = onnx_settings() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("m");
    make(20, 1, 16, 2, 32).write(&path);
    let manifest = path.join("manifest.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    json["files"].as_object_mut().unwrap().remove("generator.onnx");
    std::fs::write(&manifest, json.to_string()).unwrap();
    let Err(error) = engine::open(&Bundle::open(&path).unwrap(), &settings) else { panic!("opened") };
    assert_eq!(error.kind(), Kind::Mismatch);
    assert!(error.message().contains("generator.onnx"), "{error}");
}

#[test]
fn a_library_that_is_named_must_be_there_and_be_one() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("libonnxruntime.so.1");
    std::fs::write(&text, "no library").unwrap();
    for library in [PathBuf::from("/nonexistent/libonnxruntime.so"), text] {
        for engine in [EngineChoice::Named(EngineKind::Onnx), EngineChoice::Auto] {
            let settings = Settings { engine, onnx_library: Some(library.clone()), ..Settings::default() };
            // Where another test has loaded a runtime already, that is what the second one hears.
            let Err(error) = engine::open(&golden(), &settings) else { panic!("opened {}", library.display()) };
            assert!(matches!(error.kind(), Kind::NoRuntime | Kind::Runtime), "{error}");
            assert!(error.message().contains(&*library.display().to_string()), "{error}");
        }
    }
}

fn replace(bundle: &Path, name: &str, bytes: &[u8]) {
    use sha2::{Digest, Sha256};
    std::fs::write(bundle.join(name), bytes).unwrap();
    let manifest = bundle.join("manifest.json");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    let sha256: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    json["files"][name] = serde_json::json!({ "size": bytes.len(), "sha256": sha256 });
    std::fs::write(&manifest, json.to_string()).unwrap();
}
