//! Students and their teachers: the training commands end to end, where labels lie and only the teachers tell the truth.

#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "common/place.rs"]
mod place;

use place::Place;
use serde_json::Value;
use trafficgpt::packet::Packet;
use trafficgpt::random::Stream;
use trafficgpt::train::table::{Row, Split, Writer};

const NAMES: [&str; 3] = ["query", "fetch", "shell"];

/// Settings of every fine-tuning here.
const TUNE: &str = "--lr 3e-3 --warmup 5 --batch-tokens 256 --schedule cosine --choose last --patience 0 --threads 1";

fn packets(kind: usize, draws: &mut Stream) -> Vec<Packet> {
    let sizes: [&[i32]; 3] = [&[70, -140], &[60, -60, 500, -1500, -1500, -900], &[60, -60, 80, -90, 85, -95]];
    let mut packet = |size: i32| Packet { size: size + draws.below(5) as i32, ipt_us: 1e3 * draws.uniform() as f32 };
    sizes[kind].iter().map(|&size| packet(size)).collect()
}

/// A table of `rows`.
fn write(place: &Place, name: &str, rows: &[Row]) {
    let mut writer = Writer::create(&place.path(name)).unwrap();
    rows.iter().for_each(|row| writer.push(row).unwrap());
    writer.finish().unwrap();
}

/// `true.parquet`: 150 flows to train on, 60 to validate. `lies.parquet`: the same, but training flows have labels by
/// chance. `bare.parquet`: 150 others without labels. `lm`, a pretrained network, and `teacher.tgpt`.
fn school() -> Place {
    let place = Place::new();
    let mut draws = Stream::new(3, 0);
    let mut rows: Vec<Row> = (0..360).map(|i| row(i, i % 3, &mut draws)).collect();
    let mut bare = rows.split_off(210);
    bare.iter_mut().for_each(|row| (row.label, row.split) = (None, Some(Split::Train)));
    write(&place, "bare.parquet", &bare);
    write(&place, "true.parquet", &rows);
    for row in rows.iter_mut().filter(|row| row.split == Some(Split::Train)) {
        row.label = Some(NAMES[draws.below(3)].to_string());
    }
    write(&place, "lies.parquet", &rows);
    place.succeed("quantizer fit true.parquet -k 24 -o q.safetensors");
    place.succeed(
        "pretrain true.parquet --quantizer q.safetensors -o lm --epochs 2 --layers 1 --width 32 --heads 2 --lr 1e-2 \
         --threads 1 --quiet",
    );
    place.succeed(&format!("finetune true.parquet --from lm -o teacher --epochs 8 {TUNE} --quiet"));
    place.succeed("bundle teacher -o teacher.tgpt");
    place
}

/// Fine-tunes `run` with `arguments`; the accuracy of its bundle on the validation flows.
fn accuracy(place: &Place, run: &str, arguments: &str) -> f64 {
    place.succeed(&format!("finetune {arguments} --from lm -o {run} {TUNE} --quiet"));
    place.succeed(&format!("bundle {run} -o {run}.tgpt"));
    let report = place.succeed(&format!("evaluate {run}.tgpt true.parquet --split val --engine native --json"));
    serde_json::from_str::<Value>(&report).unwrap()["accuracy"].as_f64().unwrap()
}

/// The last stage of a bundle's training record.
fn stage(place: &Place, bundle: &str) -> Value {
    let manifest = std::fs::read(place.path(bundle).join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    manifest["training"]["stages"].as_array().unwrap().last().unwrap().clone()
}

fn row(i: usize, kind: usize, draws: &mut Stream) -> Row {
    let (packets, label) = (packets(kind, draws), Some(NAMES[kind].to_string()));
    let split = Some(if i < 150 { Split::Train } else { Split::Val });
    Row { label, group: format!("g{i}"), split, n_packets: packets.len() as u64, packets, key: None, start_ns: None }
}

#[test]
fn a_student_learns_what_its_teachers_say() {
    let place = school();
    let alone = accuracy(&place, "alone", "lies.parquet --epochs 8");
    assert!(alone < 0.8, "labels by chance teach nothing: {alone}");
    let taught = accuracy(&place, "taught", "lies.parquet --epochs 8 --teacher teacher.tgpt --teacher-weight 1");
    assert!(taught > 0.95, "{taught}");
    // The labels outweigh half an answer only where they agree, and here flows without any say the rest.
    let flows = "lies.parquet --unlabelled bare.parquet --labelled-repeats 2 --unlabelled-weight 2";
    let more = accuracy(&place, "more", &format!("{flows} --epochs 6 --teacher teacher.tgpt --teacher teacher.tgpt"));
    assert!(more > 0.95, "{more}");
    let stage = stage(&place, "more.tgpt");
    assert_eq!((stage["flows"]["train"].as_u64(), stage["teachers"].as_array().unwrap().len()), (Some(300), 2));
    assert_eq!(stage["teachers"][0]["bundle"], "teacher.tgpt");
    assert!(stage["notes"].to_string().contains("150 flows without a label are learnt"), "{stage}");
    // A network of another size learns as well from the same teacher.
    place.succeed(
        "pretrain true.parquet --quantizer q.safetensors -o small --epochs 1 --layers 1 --width 16 --heads 1 --quiet",
    );
    place.succeed(&format!(
        "finetune lies.parquet --from small -o tiny --epochs 12 --teacher teacher.tgpt --teacher-weight 1 {TUNE} --quiet"
    ));
    place.succeed("bundle tiny -o tiny.tgpt");
    let answers = |bundle: &str| -> Vec<Value> {
        let lines = place.succeed(&format!("classify {bundle} bare.parquet --json --scores --engine native"));
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let pairs = answers("teacher.tgpt").into_iter().zip(answers("tiny.tgpt"));
    let agree = pairs.filter(|(a, b)| a["label"] == b["label"]).count();
    assert!(agree > 140, "{agree} of 150");
    for line in answers("tiny.tgpt") {
        let scores: Vec<f64> = NAMES.iter().map(|name| line["scores"][name].as_f64().unwrap()).collect();
        assert!((scores.iter().sum::<f64>() - 1.0).abs() < 1e-4, "{line}");
        assert_eq!(line["probability"].as_f64().unwrap(), scores.iter().copied().fold(0.0, f64::max));
    }
}

#[test]
fn a_forest_votes_beside_the_network() {
    let place = school();
    let flows = "true.parquet --steps 1 --forest-trees 30";
    let alone = accuracy(&place, "alone", &format!("{flows} --forest-weight 0"));
    assert!(alone < 0.8, "one step teaches a network little: {alone}");
    assert!(accuracy(&place, "voted", &format!("{flows} --forest-weight 1")) > 0.95);
    let boosted = "true.parquet --steps 1 --boost-rounds 20 --forest-weight 1";
    assert!(accuracy(&place, "boosted", boosted) > 0.95);
    let manifest = std::fs::read_to_string(place.path("voted.tgpt/manifest.json")).unwrap();
    assert!(manifest.contains("\"linear+forest\"") && manifest.contains("forest.safetensors"), "{manifest}");

    // What the run says of both together is what the library finds.
    let said = place.run(&format!("finetune lies.parquet --from lm -o both --epochs 2 --forest-trees 30 {TUNE}"));
    let said = String::from_utf8(said.stderr).unwrap();
    place.succeed("bundle both -o both.tgpt");
    let report = place.succeed("evaluate both.tgpt lies.parquet --split val --engine native --json");
    let report: Value = serde_json::from_str(&report).unwrap();
    let line = format!("with the trees: accuracy {:.4}", report["accuracy"].as_f64().unwrap());
    assert!(said.contains(&line), "\"{line}\" is not in: {said}");

    let forest = place.path("both/forest.safetensors");
    let whole = std::fs::read(&forest).unwrap();
    std::fs::write(&forest, &whole[..whole.len() - 4]).unwrap();
    place.refuses("bundle both -o again.tgpt", "forest.safetensors", "again.tgpt");
    std::fs::remove_file(&forest).unwrap();
    place.refuses("bundle both -o again.tgpt", "no forest", "again.tgpt");
    place.refuses("finetune true.parquet --from lm -o out --forest-trees 10001", "forest_trees", "out");
    place.refuses(
        "finetune true.parquet --from lm -o out --forest-trees 9 --boost-rounds 9",
        "one kind of trees",
        "out",
    );
}

#[test]
fn a_taught_run_goes_on_bit_for_bit() {
    let place = school();
    let flows = "true.parquet --unlabelled bare.parquet --forest-trees 20 --teacher-weight 0.7";
    let whole = "--epochs 4 --teacher teacher.tgpt --lr 3e-3 --schedule constant --patience 0 --threads 1 --quiet";
    place.succeed(&format!("finetune {flows} --from lm -o whole {whole}"));
    place.succeed(&format!("finetune {flows} --from lm -o halved {whole} --steps 9"));
    place.succeed("finetune --resume -o halved --steps 0 --quiet");
    for file in ["checkpoints/best.safetensors", "forest.safetensors"] {
        let bytes = |run: &str| std::fs::read(place.path(run).join(file)).unwrap();
        assert!(bytes("whole") == bytes("halved"), "{file}");
    }

    // The same name and other content.
    place.succeed("bundle whole -o other.tgpt");
    std::fs::rename(place.path("teacher.tgpt"), place.path("kept.tgpt")).unwrap();
    std::fs::rename(place.path("other.tgpt"), place.path("teacher.tgpt")).unwrap();
    place.refuses("finetune --resume -o whole --epochs 5", "teachers are not those", "");
    std::fs::remove_dir_all(place.path("teacher.tgpt")).unwrap();
    place.refuses("finetune --resume -o whole --epochs 5", "teacher.tgpt", "");
    std::fs::create_dir(place.path("moved")).unwrap();
    std::fs::rename(place.path("kept.tgpt"), place.path("moved/teacher.tgpt")).unwrap();
    place.succeed("finetune --resume -o whole --epochs 5 --teacher moved/teacher.tgpt --quiet");
}

#[test]
fn validation_flows_are_learnt_only_if_nothing_is_chosen_by_them() {
    let place = school();
    let tune = format!("finetune true.parquet --from lm -o all --learn-val --epochs 2 {TUNE}");
    place.refuses(&tune, "--temperature", "all");
    place.refuses(&format!("{} --temperature 1", tune.replace("last", "best")), "--choose last", "all");
    place.refuses(&format!("{} --temperature 1", tune.replace("cosine", "plateau")), "plateau", "all");
    place.refuses(
        "pretrain true.parquet --quantizer q.safetensors -o all --learn-val --epochs 1",
        "--choose last",
        "all",
    );
    place.succeed(&format!("{tune} --temperature 1.25 --quiet"));
    place.succeed("bundle all -o all.tgpt");
    let stage = stage(&place, "all.tgpt");
    assert_eq!((stage["flows"]["train"].as_u64(), stage["flows"]["val"].as_u64()), (Some(210), Some(60)));
    assert!(stage["notes"].to_string().contains("60 validation flows are learnt too"), "{stage}");
    assert_eq!(stage["settings"]["temperature"], 1.25);
    let bytes = std::fs::read(place.path("all.tgpt/head.safetensors")).unwrap();
    assert!(bytes.windows(4).any(|four| four == 1.25f32.to_le_bytes()), "the head has the temperature it was given");
}

#[test]
fn teachers_that_cannot_teach_are_refused() {
    let place = school();
    let mut draws = Stream::new(8, 0);
    let rows: Vec<Row> = (100..200).map(|i| row(i, i % 2, &mut draws)).collect();
    write(&place, "two.parquet", &rows);
    place.succeed("bundle lm -o lm.tgpt");
    let tune = |flows: &str, teacher: &str| format!("finetune {flows} --from lm -o out --teacher {teacher}");
    place.refuses(&tune("two.parquet", "teacher.tgpt"), "only it knows shell, only the flows have nothing", "out");
    place.refuses(&tune("true.parquet", "lm.tgpt"), "no classifier", "out");
    place.refuses(&tune("true.parquet", "nowhere.tgpt"), "nowhere.tgpt", "out");
    place.refuses(&tune("true.parquet", "q.safetensors"), "q.safetensors", "out");
    place.refuses("finetune true.parquet --from lm -o out --teacher-weight 2", "teacher_weight", "out");
    place.refuses("classify teacher.tgpt true.parquet --scores", "--json", "");
}
