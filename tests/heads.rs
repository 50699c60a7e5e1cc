//! Heads of kind knn and svm: in bundles, on every engine, through the C ABI, and how they come to be on the command line.
#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod common;
#[path = "c/harness.rs"]
mod harness;
#[path = "common/place.rs"]
mod place;

use common::{flows, random_bundle};
use harness::{Bench, run};
use place::Place;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use trafficgpt::Kind;
use trafficgpt::bundle::{self, Bundle, ClassifierSpec, Parts};
use trafficgpt::classifier::Classifier;
use trafficgpt::config::Settings;
use trafficgpt::context::Context;
use trafficgpt::flows::{Flows, Observation, Options as TableOptions, Verdict};
use trafficgpt::head::Head;
use trafficgpt::meter::Tunnel;
use trafficgpt::packet::{Packet, Ragged, Rows};
use trafficgpt::random::Stream;
use trafficgpt::train::heads::{self, HeadKind, Options, Sample};
use trafficgpt::train::table::{Row, Split, Writer, pcap};
use trafficgpt::worker::Worker;

fn context(engine: &str) -> Context {
    let mut settings = Settings::default();
    settings.set("engine", engine).unwrap();
    Context::new(settings)
}

/// The engines that run here.
fn engines() -> Vec<&'static str> {
    match trafficgpt::engine::onnx::find_library(None) {
        Ok(_) => vec!["native", "onnx"],
        Err(error) => {
            harness::skip(&format!("the engine onnx: {error}"));
            vec!["native"]
        }
    }
}

/// A head of each kind, fitted to what a network with random weights makes of flows whose labels depend on their sizes.
fn fitted(path: &Path) -> Vec<(&'static str, Head)> {
    let classifier = Classifier::open(&context("native"), path).unwrap();
    let (flows, n_embd) = (flows(300), classifier.embedding_dim());
    let mut embeddings = vec![0.0; flows.len() * n_embd];
    classifier.embed(&mut Worker::new(), flows.as_ragged(), &mut embeddings).unwrap();
    let label = |packets: &[Packet]| (packets[0].size.unsigned_abs() / 500).min(2);
    let labels: Vec<u32> = flows.as_ragged().rows().map(label).collect();
    let sample = Sample { embeddings: &embeddings, n_embd, labels: &labels, n_labels: 3 };
    let knn = Options { head: HeadKind::Knn, ..Options::default() };
    let cells = Options { knn_cells: 12, knn_probes: 3, ..knn.clone() };
    let svm = Options { head: HeadKind::Svm, ..knn.clone() };
    let named = [("knn", knn), ("cells", cells), ("svm", svm)];
    let fit = |options: Options| {
        let mut head = heads::fit(&options, sample, 1).unwrap().unwrap();
        head.set_temperature(0.75);
        head
    };
    named.into_iter().map(|(name, options)| (name, fit(options))).collect()
}

/// The bundle at `from` with another head.
fn write(from: &Path, head: &Head, to: &Path) -> trafficgpt::Result<()> {
    let bundle = Bundle::open(from)?;
    let spec = ClassifierSpec { head: head.kind().to_string(), ..bundle.manifest.classifier.clone().unwrap() };
    let parts = Parts {
        quantizer: &bundle.quantizer,
        vocabulary: &bundle.manifest.vocabulary,
        weights: &bundle.weights,
        classifier: Some((spec, head)),
        forest: None,
        training: Value::Null,
    };
    bundle::write(to, &parts)
}

fn scores(classifier: &Classifier, flows: Ragged<'_, Packet>) -> Vec<f32> {
    let (mut labels, mut scores) = (vec![0; flows.len()], vec![0.0; 3 * flows.len()]);
    classifier.classify(&mut Worker::new(), flows, &mut labels, Some(&mut scores)).unwrap();
    for (label, row) in labels.iter().zip(scores.chunks(3)) {
        let best = row.iter().copied().fold(0.0, f32::max);
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5 && row[*label as usize] == best, "{label} {row:?}");
    }
    scores
}

#[test]
fn every_head_comes_back_and_says_the_same_on_every_engine_and_in_every_batch() {
    let (plain, directory) = (random_bundle(), tempfile::tempdir().unwrap());
    let flows = flows(150);
    for (name, head) in fitted(plain.path()) {
        let path = directory.path().join(name);
        write(plain.path(), &head, &path).unwrap();
        assert_eq!(Bundle::open(&path).unwrap().head.as_deref(), Some(&head));
        let graph = fs::read(path.join("classifier.onnx")).unwrap();
        let has = |word: &str| graph.windows(word.len()).any(|window| window == word.as_bytes());
        assert!(has("embedding") && !has("scores"), "{name}: the graph ends at the embedding");
        let said = engines().into_iter().map(|engine| {
            let classifier = Classifier::open(&context(engine), &path).unwrap();
            let all = scores(&classifier, flows.as_ragged());
            for i in 0..20 {
                let one: Rows<Packet> = [flows.row(i).to_vec()].into_iter().collect();
                for (alone, together) in scores(&classifier, one.as_ragged()).iter().zip(&all[3 * i..]) {
                    assert!((alone - together).abs() < 2e-4, "{name} on {engine}, flow {i}: {alone} {together}");
                }
            }
            all
        });
        let said: Vec<Vec<f32>> = said.collect();
        let native = &said[0];
        for other in &said {
            let worst = native.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 5e-4, "{name}: engines differ by {worst}");
        }
        let firsts: Vec<f32> = native.chunks(3).map(|row| row[0]).collect();
        assert!(firsts.iter().any(|p| *p > 0.6) && firsts.iter().any(|p| *p < 0.2), "{name}: all alike");
    }
}

#[test]
fn the_table_of_an_appliance_gives_the_heads_verdicts() {
    let (plain, directory) = (random_bundle(), tempfile::tempdir().unwrap());
    for (name, head) in fitted(plain.path()) {
        let path = directory.path().join(name);
        write(plain.path(), &head, &path).unwrap();
        let classifier = Classifier::open(&context("native"), &path).unwrap();
        let mut table = Flows::new(&classifier, &TableOptions::default(), Tunnel::Inner).unwrap();
        let packets: Vec<Packet> =
            (0..4).map(|i| Packet { size: 60 + 300 * i, ipt_us: if i > 0 { 1e3 } else { 0.0 } }).collect();
        let observed = packets.iter().zip(1u64..).map(|(packet, i)| Observation {
            ts_ns: i * 1_000_000,
            src: [1; 16],
            dst: [2; 16],
            protocol: 17,
            size: packet.size as u32,
            ..Observation::default()
        });
        table.push(&observed.collect::<Vec<_>>());
        table.flush();
        let mut verdicts = [Verdict::default(); 2];
        assert_eq!(table.poll(None, &mut verdicts).unwrap(), 1, "{name}");
        let offsets = [0, 4];
        let row = scores(&classifier, Ragged::new(&packets, &offsets).unwrap());
        assert_eq!(row[verdicts[0].label as usize], verdicts[0].score, "{name}");
    }
}

/// Shape and values of each tensor of a file.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// A bundle whose head's file is damaged by `edit`; how it is refused.
fn refused(good: &Path, edit: &dyn Fn(&mut Tensors)) -> trafficgpt::Error {
    let directory = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(good).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
    }
    let file = directory.path().join("head.safetensors");
    let bytes = fs::read(&file).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let values = |data: &[u8]| data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<f32>>();
    let mut tensors: Tensors =
        read.iter().map(|(name, t)| (name.to_string(), (t.shape().to_vec(), values(t.data())))).collect();
    edit(&mut tensors);
    let raw: BTreeMap<_, (Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, (shape, values))| (name, (shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())))
        .collect();
    let views = raw.iter().map(|(name, (s, d))| (name, TensorView::new(Dtype::F32, s.clone(), d).unwrap()));
    let bytes = safetensors::serialize(views, None).unwrap();
    fs::write(&file, &bytes).unwrap();
    let sha256: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    edit_manifest(directory.path(), |m| {
        m["files"]["head.safetensors"] = serde_json::json!({ "size": bytes.len(), "sha256": sha256 });
    });
    Bundle::open(directory.path()).unwrap_err()
}

fn edit_manifest(bundle: &Path, edit: impl FnOnce(&mut Value)) {
    let path = bundle.join("manifest.json");
    let mut manifest = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut manifest);
    fs::write(path, serde_json::to_vec(&manifest).unwrap()).unwrap();
}

#[test]
fn damaged_heads_are_refused_with_what_is_wrong() {
    type Edit = fn(&mut Tensors);
    let (plain, directory) = (random_bundle(), tempfile::tempdir().unwrap());
    let knn: &[(&str, Edit)] = &[
        ("not finite", |t| t.get_mut("references").unwrap().1[5] = f32::NAN),
        ("not finite", |t| t.get_mut("mean").unwrap().1[0] = f32::INFINITY),
        ("reference 0 has length", |t| t.get_mut("references").unwrap().1[..32].fill(2.0)),
        ("label 3", |t| t.get_mut("labels").unwrap().1[7] = 3.0),
        ("tensor labels", |t| t.get_mut("labels").unwrap().1[7] = 0.5),
        ("tensor labels", |t| t.get_mut("labels").unwrap().1[7] = -1.0),
        ("references of", |t| t.get_mut("labels").unwrap().1.push(0.0)),
        ("tensor references has shape", |t| t.get_mut("references").unwrap().0 = vec![600, 16]),
        ("k is 0", |t| t.get_mut("k").unwrap().1[0] = 0.0),
        ("k is 2000", |t| t.get_mut("k").unwrap().1[0] = 2000.0),
        ("temperature", |t| t.get_mut("temperature").unwrap().1[0] = 0.0),
        ("tensor scale is missing", |t| drop(t.remove("scale"))),
        ("0 references", |t| {
            t.insert("references".into(), (vec![0, 32], vec![]));
            t.insert("labels".into(), (vec![0], vec![]));
        }),
    ];
    let cells: &[(&str, Edit)] = &[
        ("do not part", |t| t.get_mut("cells.ends").unwrap().1[2] = 299.0),
        ("do not part", |t| *t.get_mut("cells.ends").unwrap().1.last_mut().unwrap() = 301.0),
        ("cells are looked at", |t| t.get_mut("cells.probes").unwrap().1[0] = 13.0),
        ("cells are looked at", |t| t.get_mut("cells.probes").unwrap().1[0] = 0.0),
        ("cells.centroids is missing", |t| drop(t.remove("cells.centroids"))),
        ("centroid 1 has length", |t| t.get_mut("cells.centroids").unwrap().1[32..64].fill(1.0)),
        ("cells with", |t| {
            t.insert("cells.ends".into(), (vec![0], vec![]));
        }),
    ];
    let svm: &[(&str, Edit)] = &[
        ("not the support vectors", |t| t.get_mut("counts").unwrap().1[0] += 1.0),
        ("not the support vectors", |t| t.get_mut("counts").unwrap().1.push(0.0)),
        ("not finite", |t| t.get_mut("vectors").unwrap().1[0] = f32::NAN),
        ("coefficients", |t| t.get_mut("coefficients").unwrap().0.reverse()),
        ("intercepts", |t| t.get_mut("intercepts").unwrap().1.push(0.0)),
        ("gamma", |t| t.get_mut("gamma").unwrap().1[0] = -1.0),
        ("temperature", |t| t.get_mut("temperature").unwrap().1[0] = -1.0),
        ("tensor intercepts", |t| drop(t.remove("intercepts"))),
    ];
    for ((name, head), edits) in fitted(plain.path()).into_iter().zip([knn, cells, svm]) {
        let path = directory.path().join(name);
        write(plain.path(), &head, &path).unwrap();
        for (word, edit) in edits {
            let error = refused(&path, &|tensors| {
                edit(tensors);
                // Vectors that grew or shrank have another shape.
                tensors.values_mut().filter(|(shape, _)| shape.len() == 1).for_each(|(s, v)| s[0] = v.len());
            });
            assert!(error.message().contains(word), "{name}: \"{word}\" is not in: {error}");
            assert!(error.message().contains("head.safetensors"), "{error}");
            assert!(matches!(error.kind(), Kind::Format | Kind::Mismatch), "{error:?}");
        }
        // A kind that the file is not of, and one that nobody knows.
        edit_manifest(&path, |m| m["classifier"]["head"] = "linear".into());
        assert!(Bundle::open(&path).is_err(), "{name}");
        edit_manifest(&path, |m| m["classifier"]["head"] = "oracle".into());
        let error = Bundle::open(&path).unwrap_err();
        assert!(error.kind() == Kind::Version && error.message().contains("\"oracle\""), "{error}");
    }
}

const NAMES: [&str; 4] = ["query", "fetch", "shell", "clock"];

fn packets(kind: usize, draws: &mut Stream) -> Vec<Packet> {
    let sizes: [&[i32]; 4] = [
        &[70, -140],
        &[60, -60, 500, -1500, -1500, -900],
        &[60, -60, 80, -90, 85, -95],
        &[300, -300, 310, -310, 320, -320, 330],
    ];
    let mut packet = |i: usize, size: i32| Packet {
        size: size + size.signum() * draws.below(5) as i32,
        ipt_us: if i == 0 { 0.0 } else { (1.0 + 1e3 * draws.uniform()).round() as f32 },
    };
    sizes[kind].iter().enumerate().map(|(i, &size)| packet(i, size)).collect()
}

fn row(i: usize, kind: usize, split: Option<Split>, draws: &mut Stream) -> Row {
    let (packets, label) = (packets(kind, draws), Some(NAMES[kind].to_string()));
    Row { label, group: format!("g{i}"), split, n_packets: packets.len() as u64, packets, key: None, start_ns: None }
}

fn table(path: &Path, rows: &[Row]) {
    let mut writer = Writer::create(path).unwrap();
    rows.iter().for_each(|row| writer.push(row).unwrap());
    writer.finish().unwrap();
}

/// `three.parquet`, flows of three kinds; `clock.pcap`, `clock.parquet` and `bare.parquet`, of the fourth; `lm`, which has
/// seen the first three.
fn place() -> Place {
    let (place, mut draws) = (Place::new(), Stream::new(3, 0));
    let split = |i: usize| Some([Split::Train, Split::Train, Split::Val][i / 3 % 3]);
    let three: Vec<Row> = (0..270).map(|i| row(i, i % 3, split(i), &mut draws)).collect();
    table(&place.path("three.parquet"), &three);
    let mut clock: Vec<Row> = (0..30).map(|i| row(500 + i, 3, None, &mut draws)).collect();
    table(&place.path("clock.parquet"), &clock);
    pcap::write(&place.path("clock.pcap"), &clock, pcap::Protocols::UDP).unwrap();
    clock.iter_mut().for_each(|row| row.label = None);
    table(&place.path("bare.parquet"), &clock);
    clock.iter_mut().for_each(|row| (row.label, row.split) = (Some("clock".into()), Some(Split::Test)));
    table(&place.path("held.parquet"), &clock);
    place.succeed("quantizer fit three.parquet clock.parquet -k 24 -o q.safetensors");
    place.succeed(
        "pretrain three.parquet --quantizer q.safetensors -o lm --epochs 3 --layers 1 --width 32 --heads 2 --lr 1e-2 \
         --threads 1 --quiet",
    );
    place
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn files(bundle: PathBuf) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(bundle).unwrap().map(|e| e.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect()
}

#[test]
fn heads_are_fitted_shipped_and_given_new_classes() {
    let place = place();
    for (name, kind, options, says) in [
        ("knn", "knn", "--knn-k 5", "the nearest 5 of 180 references, all looked at"),
        ("cells", "knn", "--knn-cells 9 --knn-probes 4", "the nearest 10 of 180 references, 4 of 9 cells"),
        ("svm", "svm", "--svm-flows 40", "3 machines of"),
        ("flat", "svm", "--svm-kernel linear --svm-nu 0.3", "kernel linear"),
        ("near", "knn+forest", "--forest-trees 9 --forest-weight 0.3", "9 trees have 0.3 of"),
        ("edge", "svm+forest", "--boost-rounds 9", "27 boosted trees have 0.5 of"),
    ] {
        let options = format!("--head {} {options}", &kind[..3]);
        place.succeed(&format!("finetune three.parquet --from lm --freeze {options} -o {name} --threads 1 --quiet"));
        place.succeed(&format!("bundle {name} -o {name}.tgpt"));
        let info = place.succeed(&format!("info {name}.tgpt"));
        assert!(info.contains(says), "\"{says}\" is not in: {info}");
        let report = json(&place.succeed(&format!("evaluate {name}.tgpt three.parquet --split val --json")));
        assert!(report["accuracy"].as_f64().unwrap() > 0.95, "{name}: {report}");
        // What the run said of itself is what the library finds.
        let metrics = json(fs::read_to_string(place.path(&format!("{name}/metrics.jsonl"))).unwrap().trim());
        assert_eq!(metrics["accuracy"], report["accuracy"], "{name}");
        let (said, found) = (metrics["val_loss"].as_f64().unwrap(), report["nll"].as_f64().unwrap());
        assert!((said - found).abs() < 1e-3, "{name}: {said} {found}");
        assert_eq!(metrics.get("recall").is_some(), name == "cells");
        let manifest = json(&place.succeed(&format!("info {name}.tgpt --json")));
        assert_eq!(manifest["classifier"]["head"], kind);
        assert_eq!(manifest["training"]["stages"][1]["settings"]["freeze"], true);
    }

    for name in ["knn", "cells"] {
        let before = files(place.path(&format!("{name}.tgpt")));
        place.succeed(&format!("head add {name}.tgpt clock.pcap --class clock -o grown.tgpt"));
        assert!(before == files(place.path(&format!("{name}.tgpt"))), "the original is as it was");
        let info = place.succeed("info grown.tgpt");
        assert!(info.contains("4 classes: fetch, query, shell, clock") && info.contains("of 210 references"), "{info}");
        assert!(info.contains("head add") && info.contains("clock.pcap"), "{info}");
        let old = json(&place.succeed("evaluate grown.tgpt three.parquet --split val --json"));
        assert!(old["accuracy"].as_f64().unwrap() > 0.95, "{old}");
        let new = json(&place.succeed("evaluate grown.tgpt clock.parquet --split all --json"));
        assert!(new["accuracy"].as_f64().unwrap() > 0.95, "{new}");
        // In place, and more of a class that is known by then.
        place.succeed("head add grown.tgpt clock.parquet three.parquet -o grown.tgpt");
        let info = place.succeed("info grown.tgpt");
        assert!(info.contains("4 classes") && info.contains("of 420 references"), "{info}");
    }

    // A C program sees the class that was added.
    let bench = Bench::new();
    let program = bench.compile("examples/c/classify.c", "c");
    let (bundle, capture) = (place.path("grown.tgpt"), place.path("clock.pcap"));
    for engine in engines() {
        let lines = run(&program, &["--engine", engine, bundle.to_str().unwrap(), capture.to_str().unwrap()]);
        assert!(lines.matches(" clock ").count() >= 29, "{engine}: {lines}");
    }
}

#[test]
fn mistakes_are_named() {
    let place = place();
    let names = place.names();
    let tune = |options: &str| place.refused(&format!("finetune three.parquet --from lm -o out {options} --quiet"));
    for (options, word) in [
        ("--head knn", "--freeze"),
        ("--head svm --freeze --svm-nu 1.5", "svm_nu"),
        ("--head knn --freeze --knn-k 0", "knn_k"),
        ("--head knn --freeze --knn-cells 8 --knn-probes 9", "knn_probes is 9"),
        ("--head knn --freeze --knn-cells 1000", "only 180 training flows"),
        ("--head knn --freeze --forest-trees 5 --boost-rounds 5", "forest_trees"),
        ("--head knn --freeze --teacher a.tgpt", "--teacher"),
    ] {
        assert!(tune(options).contains(word), "{options}: {}", tune(options));
    }
    assert!(place.misused("finetune three.parquet --from lm -o out --head tree").contains("--help"));
    assert_eq!(names, place.names(), "nothing is left behind");

    let help = place.succeed("head add --help");
    assert!(help.contains("Examples:") && help.contains("trafficgpt head add model.tgpt"), "{help}");
    place.succeed("finetune three.parquet --from lm -o line --epochs 1 --freeze --threads 1 --quiet");
    place.succeed("bundle line -o line.tgpt");
    place.succeed("bundle lm -o lm.tgpt");
    place.succeed("finetune three.parquet --from lm -o near --freeze --head knn --threads 1 --quiet");
    place.succeed("bundle near -o near.tgpt");
    assert!(place.refused("finetune --resume -o near").contains("nothing to go on with"));
    place.succeed("finetune three.parquet --from lm -o wood --freeze --head knn --forest-trees 3 --threads 1 --quiet");
    place.succeed("bundle wood -o wood.tgpt");
    let names = place.names();
    for (line, word) in [
        ("line.tgpt clock.parquet", "of kind linear"),
        ("lm.tgpt clock.parquet", "no classifier"),
        ("none.tgpt clock.parquet", "none.tgpt"),
        ("wood.tgpt clock.parquet", "without trees"),
        ("near.tgpt bare.parquet", "--class"),
        ("near.tgpt held.parquet", "all 30 flows are of split val or test"),
        ("near.tgpt none.pcap", "none.pcap"),
        ("near.tgpt q.safetensors --class x", "q.safetensors"),
    ] {
        let said = place.refused(&format!("head add {line} -o new.tgpt"));
        assert!(said.contains(word), "{line}: \"{word}\" is not in: {said}");
    }
    assert!(place.refused("head add near.tgpt clock.parquet -o lm").contains("not a bundle"));
    assert_eq!(names, place.names(), "nothing is left behind");
}
