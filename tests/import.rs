//! `trafficgpt import` on checkpoints that transformers and PyTorch wrote (`dev/check_import.py --golden`), and on what
//! becomes of them when they are damaged or do not belong together.

#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "common/place.rs"]
mod place;

use place::Place;
use serde::Deserialize;
use std::fs;
use std::path::Path;
use trafficgpt::bundle::Bundle;
use trafficgpt::config::Settings;
use trafficgpt::context::Context;
use trafficgpt::engine::native;
use trafficgpt::generator::Generator;
use trafficgpt::quantizer::Scaler;
use trafficgpt::tokens::Token;

/// A sequence, and the logits that transformers computes after each of its tokens.
#[derive(Deserialize)]
struct Expected {
    tokens: Vec<Token>,
    logits: Vec<Vec<f32>>,
}

/// A place that holds a copy of the golden checkpoint `name` as `checkpoint`.
fn copied(name: &str) -> Place {
    let place = Place::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/huggingface").join(name);
    fs::create_dir(place.path("checkpoint")).unwrap();
    for entry in fs::read_dir(golden).unwrap() {
        let file = entry.unwrap();
        fs::copy(file.path(), place.path("checkpoint").join(file.file_name())).unwrap();
    }
    place
}

/// Largest difference between our logits, a token at a time, and those expected.
fn largest_error(bundle: &Path, expected: &[Expected]) -> f32 {
    let bundle = Bundle::open(bundle).unwrap();
    let vocabulary = bundle.manifest.vocabulary.len();
    let mut session = native::Native::new(bundle.weights.clone(), 1).session().unwrap();
    let (mut worst, mut logits) = (0.0f32, vec![0.0; vocabulary]);
    for row in expected {
        session.begin(1).unwrap();
        for (token, wanted) in row.tokens.iter().zip(&row.logits) {
            session.step(&[0], &[*token], &mut logits).unwrap();
            let errors = logits.iter().zip(wanted).map(|(a, b)| (a - b).abs());
            worst = errors.fold(worst, |worst, error| if error.is_finite() { worst.max(error) } else { f32::INFINITY });
        }
    }
    worst
}

#[test]
fn logits_equal_those_of_transformers_and_ids_those_of_the_file() {
    for name in ["safetensors", "pickle", "masks", "halves"] {
        let place = copied(name);
        place.succeed("import checkpoint -o model.tgpt");
        let expected: Vec<Expected> =
            serde_json::from_slice(&fs::read(place.path("checkpoint/expected.json")).unwrap()).unwrap();
        assert!(expected.iter().any(|row| row.tokens.len() == 16));
        let error = largest_error(&place.path("model.tgpt"), &expected);
        assert!(error <= 1e-4, "{name}: {error}");

        let manifest = Bundle::open(&place.path("model.tgpt")).unwrap().manifest;
        assert_eq!((manifest.scaler, manifest.classifier), (Scaler::Log10Ms, None));
        let v = manifest.vocabulary;
        assert_eq!((v.n_packet_tokens, v.eof, v.pad, v.unk, v.bof), (12, 12, 13, 14, 15));
        let classes = [("Zoom".to_string(), 16), ("DNS".to_string(), 17), ("Netflix".to_string(), 18)];
        assert_eq!(v.classes, classes, "in the order of the file");
        let record = manifest.training.to_string();
        assert!(record.contains("clusters.json") && !record.contains(place.path("").to_str().unwrap()), "{record}");
    }
}

#[test]
fn an_imported_bundle_generates_and_is_what_others_start_from() {
    let place = copied("pickle");
    place.succeed("import checkpoint -o model.tgpt");
    let generator = Generator::open(&Context::new(Settings::default()), &place.path("model.tgpt")).unwrap();
    assert_eq!(generator.classes(), ["Zoom", "DNS", "Netflix"]);
    place.succeed("generate model.tgpt --class Netflix -n 30 --engine native -o flows.jsonl");
    assert!(place.succeed("score model.tgpt flows.jsonl --engine native").contains("30 flows"));
    assert!(place.refused("classify model.tgpt flows.jsonl").contains("finetune"));
    // What transformers saves of a bundle's directory comes back with the bundle's tokens.
    place.succeed("import model.tgpt --like model.tgpt -o again.tgpt");
    let file = |bundle: &str, name: &str| fs::read(place.path(bundle).join(name)).unwrap();
    for name in ["model.safetensors", "quantizer.safetensors", "generator.onnx"] {
        assert!(file("model.tgpt", name) == file("again.tgpt", name), "{name}");
    }
}

#[test]
fn tokens_that_do_not_belong_to_the_network_are_refused() {
    let place = copied("safetensors");
    let file = |name: &str| place.path("checkpoint").join(name);
    let names = fs::read_to_string(file("ids_to_tokens.json")).unwrap();
    fs::write(file("ids_to_tokens.json"), names.replace(", \"18\": \"Netflix\"", "")).unwrap();
    let said = place.refused("import checkpoint -o model.tgpt");
    assert!(said.contains("vocab_size 19") && said.contains("18 ids") && said.contains("12 finite rows"), "{said}");
    fs::write(file("ids_to_tokens.json"), names.replace("DNS", "Zoom")).unwrap();
    assert!(place.refused("import checkpoint -o model.tgpt").contains("\"Zoom\" is there twice"));
    fs::write(file("ids_to_tokens.json"), names.replace("\"12\"", "\"11\"")).unwrap();
    assert!(place.refused("import checkpoint -o model.tgpt").contains("ids_to_tokens.json"));
    fs::write(file("ids_to_tokens.json"), names).unwrap();
    let clusters = fs::read_to_string(file("clusters.json")).unwrap();
    fs::write(file("clusters.json"), clusters.replace("NaN", "0.5")).unwrap();
    assert!(place.refused("import checkpoint -o model.tgpt").contains("ids_to_tokens.json"));
    fs::remove_file(file("clusters.json")).unwrap();
    assert!(place.refused("import checkpoint -o model.tgpt").contains("clusters.json"));
    assert_eq!(place.names(), ["checkpoint"]);
}

/// What is done to a file, and a word of what is then said.
type Change<'a> = (&'a dyn Fn(Vec<u8>) -> Vec<u8>, &'a str);

/// Imports after each change of one file, from a fresh copy every time.
fn refused_after(name: &str, file: &str, changes: &[Change<'_>]) {
    let place = copied(name);
    let path = place.path("checkpoint").join(file);
    let good = fs::read(&path).unwrap();
    for (change, word) in changes {
        fs::write(&path, change(good.clone())).unwrap();
        let said = place.refused("import checkpoint -o model.tgpt");
        assert!(said.contains(word) && said.contains("checkpoint"), "{file}: \"{word}\" is not in: {said}");
    }
    assert_eq!(place.names(), ["checkpoint"]);
}

/// The first place of `from` in `bytes` overwritten with `to` of the same length.
fn patched(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

#[test]
fn damaged_and_hostile_files_are_refused_by_name() {
    let text = |from: &'static str, to: &'static str| {
        move |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replacen(from, to, 1).into_bytes()
    };
    refused_after(
        "safetensors",
        "config.json",
        &[
            (&text("\"n_positions\": 16", "\"n_positions\": 16, \"n_ctx\": 64"), "n_ctx is 64"),
            (&text("\"n_positions\": 16", "\"n_positions\": 32"), "wpe.weight has shape [16, 8]"),
            (&text("\"n_layer\": 2", "\"n_layer\": 3"), "h.2.ln_1.weight is missing"),
            (&text("\"n_layer\": 2", "\"n_layer\": 1"), "1 layers"),
            (&text("\"n_embd\": 8", "\"n_embd\": 1024"), "wte.weight has shape [19, 8]"),
            (&text("\"vocab_size\": 19", "\"vocab_size\": 1048576"), "wte.weight has shape [19, 8]"),
            (&text("\"n_layer\": 2", "\"n_layer\": 18446744073709551615"), "n_layer"),
            (&text("gelu_new", "relu"), "relu"),
            (&text("\"gpt2\"", "\"opt\""), "opt"),
            (&|_| Vec::new(), "config.json"),
        ],
    );
    refused_after(
        "safetensors",
        "model.safetensors",
        &[
            (&|bytes| bytes[..bytes.len() - 1].to_vec(), "damaged"),
            (&|bytes| bytes[..5].to_vec(), "damaged"),
            (&|_| Vec::new(), "damaged"),
            (&|bytes| patched(bytes, b"\"F32\"", b"\"I32\""), "I32"),
            (&|bytes| patched(bytes, b"transformer.wte.weight", b"transformer.wta.weight"), "wte.weight"),
            (&|bytes| patched(bytes, b"transformer.ln_f.bias", b"transformer.ln_g.bias"), "ln_f.bias is missing"),
            (&|bytes| patched(bytes, b"[8,24]", b"[24,8]"), "shape [24, 8]"),
            (&|bytes| patched(bytes, b"[8,24]", b"[9,99]"), "damaged"),
            (
                &|mut bytes| {
                    let n = bytes.len();
                    bytes[n - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
                    bytes
                },
                "not finite",
            ),
        ],
    );
    refused_after(
        "pickle",
        "pytorch_model.bin",
        &[
            (&|bytes| bytes[..bytes.len() - 30].to_vec(), "cut off"),
            (&|bytes| bytes[..bytes.len() / 2].to_vec(), "cut off"),
            (&|_| b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec(), "before 1.6"),
            (&|_| b"not an archive".to_vec(), "torch.save"),
            // The checksum of the pickle sees any change of it.
            (&|bytes| patched(bytes, b"FloatStorage", b"DuobleStorag"), "damaged"),
            // In the archive's list of contents, which is its end.
            (
                &|mut bytes| {
                    let at = bytes.windows(6).rposition(|window| window == b"data/0").unwrap();
                    bytes[at + 5] = b'x';
                    bytes
                },
                "no data/0",
            ),
        ],
    );
    refused_after(
        "halves",
        "model.safetensors.index.json",
        &[
            (&text("part-0", "../part-0"), "not the name of a file"),
            (&text("part-0.safetensors", "part-7.safetensors"), "part-7.safetensors"),
            (&text("part-0.safetensors", "part-1.safetensors"), "no tensor wte.weight"),
            (&|_| b"{\"weight_map\": {}}".to_vec(), "names 0 files"),
        ],
    );
}

#[test]
fn a_directory_without_a_checkpoint_is_refused() {
    let place = copied("pickle");
    assert!(place.refused("import nowhere -o model.tgpt").contains("nowhere"));
    fs::remove_file(place.path("checkpoint/pytorch_model.bin")).unwrap();
    let said = place.refused("import checkpoint -o model.tgpt");
    assert!(said.contains("model.safetensors") && said.contains("pytorch_model.bin"), "{said}");
    place.misused("import checkpoint --like a.tgpt --names b.json -o model.tgpt");
    assert_eq!(place.names(), ["checkpoint"]);
}
