//! `trafficgpt evaluate` and its refusals: a classifier beside baselines, early, with a reject threshold, and on flows of labels
//! that it does not know.

#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
#[path = "common/place.rs"]
mod place;

use place::Place;
use serde_json::Value;
use trafficgpt::packet::Packet;
use trafficgpt::random::Stream;
use trafficgpt::train::table::{Row, Split, Table};

/// A flow of `kind`; kinds 0 and 1 differ from their third packet on.
fn packets(kind: usize, draws: &mut Stream) -> Vec<Packet> {
    let sizes: [&[i32]; 3] =
        [&[60, -60, 500, -1500, -1500], &[60, -60, 80, -90, 85, -95], &[300, -400, -1200, -1200, 40, 700, -20]];
    let mut packet = |size: i32| Packet { size: size + draws.below(9) as i32, ipt_us: 1e3 * draws.uniform() as f32 };
    sizes[kind].iter().map(|&size| packet(size)).collect()
}

fn row(i: usize, label: &str, kind: usize, split: Option<Split>, draws: &mut Stream) -> Row {
    let (packets, label) = (packets(kind, draws), Some(label.to_string()));
    Row { label, group: format!("g{i}"), split, n_packets: packets.len() as u64, packets, key: None, start_ns: None }
}

/// 300 flows of three kinds, half of them to train on and half to validate.
fn rows() -> Vec<Row> {
    let mut draws = Stream::new(4, 0);
    let split = |i| Some(if i % 2 == 0 { Split::Train } else { Split::Val });
    (0..300).map(|i| row(i, ["fetch", "shell", "call"][i / 2 % 3], i / 2 % 3, split(i), &mut draws)).collect()
}

fn write(place: &Place, name: &str, rows: Vec<Row>) {
    Table::from(rows).write(&place.path(name)).unwrap();
}

fn json(place: &Place, name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(place.path(name)).unwrap()).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// `model.tgpt`, which knows fetch and shell and has never seen a call, and `flows.parquet`.
fn place_with_model() -> Place {
    let place = Place::new();
    write(&place, "flows.parquet", rows());
    place.succeed("quantizer fit flows.parquet -k 32 -o q.safetensors");
    let tiny = "--layers 1 --width 32 --heads 2 --lr 1e-2 --threads 1 --quiet --hold-out-class call";
    place.succeed(&format!("pretrain flows.parquet --quantizer q.safetensors -o lm --epochs 3 {tiny}"));
    let tune = "--epochs 8 --lr 3e-3 --warmup 5 --batch-tokens 256 --crop 0.5 --threads 1 --quiet";
    place.succeed(&format!("finetune flows.parquet --from lm -o run --hold-out-class call {tune}"));
    place.succeed("bundle run -o model.tgpt");
    place
}

#[test]
fn a_model_is_judged_beside_baselines_and_on_strangers() {
    let place = place_with_model();
    let line = "evaluate model.tgpt flows.parquet --split val --engine native";
    let text = place.succeed(&format!("{line} --json report.json --html report.html"));
    assert!(text.starts_with("flows 100 of split val"), "{text}");
    let report = json(&place, "report.json");
    let names: Vec<&str> =
        report["baselines"].as_array().unwrap().iter().map(|b| b["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["majority", "forest", "forest-times", "boosting", "boosting-times", "neighbours"]);
    assert_eq!(report["labels"].as_array().unwrap().len(), 2);
    assert!(number(&report["macro_f1"]) > 0.97, "{text}");
    for (baseline, least) in report["baselines"].as_array().unwrap().iter().zip([0.3, 0.99, 0.97, 0.99, 0.97, 0.99]) {
        assert!(number(&baseline["macro_f1"]) >= least, "{text}");
        assert_eq!(baseline["flows"], 100);
        assert!(text.contains(baseline["name"].as_str().unwrap()));
    }
    assert_eq!(number(&report["baselines"][0]["accuracy"]), 0.5, "the majority of equals");

    // Two packets are the same for both labels; the third tells them.
    let early = &report["early"];
    assert_eq!(early["packets"], serde_json::json!([1, 2, 4, 8, 16, 32, null]));
    for method in early["methods"].as_array().unwrap() {
        let accuracy: Vec<f64> = method["accuracy"].as_array().unwrap().iter().map(number).collect();
        assert!(accuracy[1] < 0.75 && accuracy[3] > 0.97, "{method}");
    }
    assert_eq!(early["methods"][0]["macro_f1"][6], report["macro_f1"]);
    assert_eq!(early["methods"][1]["name"], "forest");

    let rejection = report["rejection"].as_array().unwrap();
    assert_eq!((number(&rejection[0]["coverage"]), &rejection[0]["accuracy"]), (1.0, &report["accuracy"]));
    assert!(rejection.windows(2).all(|pair| number(&pair[0]["coverage"]) >= number(&pair[1]["coverage"])));

    let open = &report["open_set"];
    assert_eq!((&open["labels"], &open["strange"]), (&serde_json::json!([["call", 50]]), &serde_json::json!(50)));
    let detectors = open["detectors"].as_array().unwrap();
    let names: Vec<&str> = detectors.iter().map(|d| d["name"].as_str().unwrap()).collect();
    assert_eq!((names.len(), names[0], names[6]), (7, "model: best probability", "model: log-likelihood of a packet"));
    // Packets that it has never seen are unlikely.
    assert!(number(&detectors[6]["auroc"]) > 0.95 && number(&detectors[6]["fpr_at_95"]) < 0.2, "{open}");
    assert!(text.contains("open set: 50 flows") && text.contains("call (50)"), "{text}");

    let page = std::fs::read_to_string(place.path("report.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"));
    assert_eq!((page.matches("<svg").count(), page.matches("</svg>").count()), (3, 3));
    assert!(!page.contains("NaN") && !page.contains("<script") && !page.contains(" src="), "self-contained");

    // What the report says of a threshold is what `classify` does with it.
    place.succeed("classify model.tgpt flows.parquet --json --reject-below 0.99 --engine native -o verdicts.jsonl");
    let verdicts = std::fs::read_to_string(place.path("verdicts.jsonl")).unwrap();
    let lines = verdicts.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let (mut answered, mut asked) = (0, 0);
    for (line, row) in lines.zip(rows()) {
        assert_eq!(line["label"].is_null(), number(&line["probability"]) < 0.99, "{line}");
        if row.split == Some(Split::Val) && row.label.as_deref() != Some("call") {
            asked += 1;
            answered += usize::from(!line["label"].is_null());
        }
    }
    assert_eq!(asked, 100);
    let last = &rejection[rejection.len() - 1];
    assert!((number(&last["threshold"]) - 0.99).abs() < 1e-6);
    assert!((number(&last["coverage"]) - f64::from(answered as u32) / 100.0).abs() < 1e-9, "{last} {answered}");
    assert!(place.misused("classify model.tgpt flows.parquet --reject-below 2").contains("--help"));
    place.refused("finetune flows.parquet --from lm -o out --hold-out-class cal");
    assert!(!place.path("out").exists());
}

#[test]
fn what_flatters_or_cannot_be_judged_is_told() {
    let (place, bundle) = (Place::new(), common::random_bundle());
    let bundle = bundle.path().display().to_string();
    let line = |rest: &str| format!("evaluate {bundle} {rest} --engine native");
    let mut draws = Stream::new(9, 0);
    let split = |i| Some(if i % 2 == 0 { Split::Train } else { Split::Val });
    let mut rows: Vec<Row> =
        (0..60).map(|i| row(i, ["dns", "web"][i / 2 % 2], i / 2 % 2, split(i), &mut draws)).collect();
    let with = |change: &dyn Fn(&mut Row)| -> Vec<Row> {
        rows.iter()
            .cloned()
            .map(|mut row| {
                change(&mut row);
                row
            })
            .collect()
    };
    write(&place, "bare.csv", with(&|row| row.label = None));
    write(&place, "strange.csv", with(&|row| row.label = Some("ftp".into())));
    write(&place, "unsplit.csv", with(&|row| row.split = None));
    write(&place, "one.csv", with(&|row| row.label = Some("web".into())));
    write(&place, "val.csv", with(&|row| row.split = Some(Split::Val)));
    write(&place, "half.csv", with(&|row| row.label = row.label.take().filter(|_| row.split == Some(Split::Train))));
    rows[7].group = rows[8].group.clone();
    write(&place, "shared.csv", rows);

    assert!(place.refused(&line("bare.csv")).contains("no flow has a label"));
    let said = place.refused(&line("strange.csv"));
    assert!(said.contains("the flows have ftp, the model dns, tls, web"), "{said}");
    let said = place.refused(&line("unsplit.csv --split test"));
    assert!(said.contains("no flows of split test; the table has 60 of no split"), "{said}");
    assert!(place.refused(&line("half.csv")).contains("30 have none"));
    let said = place.refused(&line("shared.csv"));
    assert!(said.contains("more than one split, such as g8"), "{said}");
    assert!(place.refused(&line("val.csv --baselines forrest")).contains("forest-times"));
    assert!(place.refused(&line("val.csv --html no/such.html")).contains("no/such.html"));

    let said = |rest: &str| place.succeed(&line(rest));
    let text = said("shared.csv --allow-shared-groups --baselines forest,majority");
    assert!(text.contains("1 groups have flows in more than one split") && text.contains("\nmajority"), "{text}");
    let text = said("val.csv");
    assert!(text.contains("no flow of split train") && !text.contains("\nforest"), "{text}");
    assert!(said("unsplit.csv --split all").contains("no flow is left to fit baselines to"));
    let text = said("one.csv");
    assert!(
        text.contains("all flows judged have the label web") && text.contains("all flows of split train"),
        "{text}"
    );
    let text = said("shared.csv --allow-shared-groups --baselines none");
    assert!(!text.contains("baselines") && !text.contains("\nforest"), "{text}");
    let report: Value = serde_json::from_str(&said("val.csv --baselines none --json")).unwrap();
    assert_eq!((&report["flows"], report.get("open_set")), (&serde_json::json!(60), None));
}
