//! The training commands end to end, on flows of three classes that differ in plain ways.

#![cfg(feature = "train")]
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[cfg(target_os = "linux")]
#[path = "common/gpus.rs"]
mod gpus;
#[path = "common/place.rs"]
mod place;

use place::Place;
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use trafficgpt::packet::Packet;
use trafficgpt::random::Stream;
use trafficgpt::train::table::{Row, Split, Writer};

fn flow(label: &str, draws: &mut Stream) -> Vec<Packet> {
    let mut packet = |size: i32, ipt_us: f64| {
        let jitter = 1.0 + draws.uniform() * 0.2;
        Packet { size: size + draws.below(5) as i32, ipt_us: (ipt_us * jitter) as f32 }
    };
    let pairs: &[(i32, f64)] = match label {
        "query" => &[(70, 0.0), (-140, 20_000.0)],
        "fetch" => {
            &[(60, 0.0), (-60, 9_000.0), (52, 50.0), (500, 300.0), (-1500, 8_000.0), (-1500, 10.0), (-900, 10.0)]
        }
        _ => &[(60, 0.0), (-60, 9_000.0), (52, 50.0), (80, 2e6), (-90, 9_000.0), (85, 3e6), (-95, 9_000.0)],
    };
    pairs.iter().map(|&(size, ipt)| packet(size, ipt)).collect()
}

fn row(i: usize, label: &str, split: Option<Split>, draws: &mut Stream) -> Row {
    let packets = flow(label, draws);
    let (n_packets, group) = (packets.len() as u64, format!("g{i}"));
    Row { label: Some(label.to_string()), group, split, n_packets, packets, key: None, start_ns: None }
}

/// A directory with `flows.parquet`, 300 flows: 200 to train on, 50 to validate, and 50 of split test that say the
/// opposite of the truth, so that reading them would show; and a quantizer of theirs.
fn flows() -> Place {
    let place = Place::new();
    let names = ["query", "fetch", "shell"];
    let mut draws = Stream::new(11, 0);
    let rows = (0..300).map(|i| {
        let split = [Split::Train, Split::Train, Split::Val, Split::Train, Split::Train, Split::Test][i % 6];
        let mut row = row(i, names[i / 6 % 3], Some(split), &mut draws);
        if split == Split::Test {
            row.label = Some("lie".to_string());
        }
        row
    });
    write(&place, "flows.parquet", rows);
    place.succeed("quantizer fit flows.parquet -k 24 -o q.safetensors");
    place
}

/// A table of `rows`.
fn write(place: &Place, name: &str, rows: impl IntoIterator<Item = Row>) {
    let mut writer = Writer::create(&place.path(name)).unwrap();
    rows.into_iter().for_each(|row| writer.push(&row).unwrap());
    writer.finish().unwrap();
}

fn start(place: &Place, line: &str) -> Child {
    place.command(line).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

/// Waits until the run has a checkpoint of at least `step`.
fn await_step(place: &Place, run: &str, step: u64) {
    let began = Instant::now();
    while last_step(&place.path(run)).is_none_or(|s| s < step) {
        assert!(began.elapsed() < Duration::from_secs(120), "no checkpoint of step {step} in {run}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn last_step(run: &Path) -> Option<u64> {
    let entries = std::fs::read_dir(run.join("checkpoints")).ok()?;
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    entries.filter_map(|e| name(e).strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok()).max()
}

fn last_checkpoint(run: &Path) -> Vec<u8> {
    let step = last_step(run).unwrap();
    std::fs::read(run.join(format!("checkpoints/step-{step:08}.safetensors"))).unwrap()
}

fn metrics(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Everything that changes training flows anew in every epoch.
const CHANGES: &str = "--time-jitter 0.3 --size-jitter 0.1 --header-shift 0.3 --packet-loss 0.1 --late-start 0.2";

const TINY: &str = "--layers 1 --width 32 --heads 2 --batch-tokens 256 --threads 1 --quiet";

#[test]
fn from_flows_to_a_bundle_that_classifies() {
    let place = flows();
    place.succeed(&format!(
        "pretrain flows.parquet --quantizer q.safetensors -o pre --with-classes --epochs 8 --lr 1e-2 --warmup 5 {TINY}"
    ));
    let perplexities: Vec<f64> = metrics(&place.path("pre")).iter().filter_map(|v| v["perplexity"].as_f64()).collect();
    assert!(perplexities.len() == 8 && perplexities[7] < 0.5 * perplexities[0], "{perplexities:?}");

    place.succeed(
        "finetune flows.parquet --from pre -o tuned --epochs 8 --lr 3e-3 --warmup 5 --batch-tokens 256 --threads 1 --crop 0.2",
    );
    place.succeed("bundle tuned -o model.tgpt");
    place.succeed("evaluate model.tgpt flows.parquet --split val --engine native --json -o report.json");
    let report: Value = serde_json::from_slice(&std::fs::read(place.path("report.json")).unwrap()).unwrap();
    assert!(report["accuracy"].as_f64().unwrap() > 0.95, "{report}");
    assert_eq!((report["flows"].as_u64(), report["labels"].as_array().unwrap().len()), (Some(50), 3));
    // What the trainer said of its best checkpoint is what the library's classifier does.
    let said = metrics(&place.path("tuned"));
    let best = said.iter().rfind(|v| v["best"] == true).unwrap();
    assert_eq!(best["accuracy"], report["accuracy"]);
    assert_eq!(best["macro_f1"], report["macro_f1"]);

    for picture in ["loss.svg", "scores.svg"] {
        let svg = std::fs::read_to_string(place.path("tuned").join(picture)).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("validation") | svg.contains("macro-F1"), "{picture}");
    }

    let all = place.succeed("evaluate model.tgpt flows.parquet --split all --engine native");
    assert!(all.contains("lie") && all.contains("macro-F1"), "{all}");

    let manifest = std::fs::read_to_string(place.path("model.tgpt/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let stages = manifest["training"]["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 2);
    assert_eq!(stages[0]["data"][0]["file"], "flows.parquet");
    assert_eq!(stages[1]["flows"]["train"], 200);
    let record = manifest["training"].to_string();
    assert!(!record.contains(place.path("").to_str().unwrap()) && !record.contains("target/"), "{record}");

    // The head alone on the same network, from the bundle.
    place.succeed(
        "finetune flows.parquet --from model.tgpt -o frozen --freeze --epochs 30 --lr 0.05 --threads 1 --quiet",
    );
    place.succeed("bundle frozen -o frozen.tgpt");
    let network = |bundle: &str| std::fs::read(place.path(bundle).join("model.safetensors")).unwrap();
    assert_eq!(network("frozen.tgpt"), network("model.tgpt"));
    let frozen: Value =
        serde_json::from_str(&place.succeed("evaluate frozen.tgpt flows.parquet --split val --engine native --json"))
            .unwrap();
    assert!(frozen["accuracy"].as_f64().unwrap() > 0.95, "{frozen}");
}

#[test]
fn a_run_gives_its_last_evaluation_if_asked() {
    let place = flows();
    place.succeed(&format!(
        "pretrain flows.parquet --quantizer q.safetensors -o pre --epochs 1 --smooth-embeddings 0.9 {TINY}"
    ));
    for (choose, all) in [("best", false), ("last", true)] {
        place.succeed(&format!(
            "finetune flows.parquet --from pre -o {choose} --epochs 12 --lr 1e-2 --schedule constant --choose {choose} --quiet"
        ));
        let evaluations: Vec<Value> =
            metrics(&place.path(choose)).into_iter().filter(|v| v.get("val_loss").is_some()).collect();
        let f1 = |v: &Value| v["macro_f1"].as_f64();
        assert!(evaluations.windows(2).any(|pair| f1(&pair[1]) <= f1(&pair[0])), "none was without a gain");
        assert_eq!(evaluations.len(), 12);
        assert_eq!(evaluations.iter().all(|v| v["best"] == true), all, "{evaluations:?}");
    }
}

#[test]
fn a_network_of_few_packets_reads_the_beginning_of_longer_flows() {
    let place = flows();
    place.succeed(&format!("pretrain flows.parquet --quantizer q.safetensors -o pre --epochs 1 --n-packets 3 {TINY}"));
    place.succeed("finetune flows.parquet --from pre -o tuned --epochs 2 --lr 1e-2 --threads 1 --quiet");
    place.succeed("bundle tuned -o model.tgpt");
    let manifest = std::fs::read_to_string(place.path("model.tgpt/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["model"]["n_positions"], 5, "{manifest}");
    let report = place.succeed("evaluate model.tgpt flows.parquet --split val --engine native --json");
    let report: Value = serde_json::from_str(&report).unwrap();
    // The same figures as the trainer's, so both cut the same packets off.
    let said = metrics(&place.path("tuned"));
    assert_eq!(said.iter().rfind(|v| v["best"] == true).unwrap()["macro_f1"], report["macro_f1"]);
}

#[test]
fn a_killed_run_goes_on_bit_for_bit() {
    let place = flows();
    let run = |output: &str| {
        format!(
            "pretrain flows.parquet --quantizer q.safetensors -o {output} --epochs 30 --save-every 10 {CHANGES} {TINY}"
        )
    };
    place.succeed(&run("whole"));
    let mut child = start(&place, &run("killed"));
    await_step(&place, "killed", 40);
    child.kill().unwrap();
    assert!(child.wait().unwrap().code().is_none(), "the run ended before it was killed");
    let stopped = last_step(&place.path("killed")).unwrap();
    place.succeed("pretrain --resume -o killed --threads 2 --quiet");
    assert!(last_step(&place.path("killed")).unwrap() > stopped);
    assert!(last_checkpoint(&place.path("killed")) == last_checkpoint(&place.path("whole")));
    let losses = |run: &str| -> Vec<(Value, Value)> {
        let lines = metrics(&place.path(run)).into_iter().filter(|v| v.get("val_loss").is_some());
        lines.map(|v| (v["step"].clone(), v["val_loss"].clone())).collect()
    };
    assert_eq!(losses("killed"), losses("whole"));
    assert_eq!(losses("killed").len(), 30);
}

#[test]
fn an_interrupted_classifier_goes_on_bit_for_bit() {
    let place = flows();
    place.succeed(&format!("pretrain flows.parquet --quantizer q.safetensors -o pre --epochs 1 {TINY}"));
    let run = |output: &str| {
        format!(
            "finetune flows.parquet --from pre -o {output} --epochs 30 --batch-tokens 256 --save-every 10 --crop 0.3 \
             {CHANGES} --patience 0 --threads 1 --quiet"
        )
    };
    place.succeed(&run("whole"));
    let mut child = start(&place, &run("stopped"));
    await_step(&place, "stopped", 30);
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    place.succeed("finetune --resume -o stopped --quiet");
    assert!(last_checkpoint(&place.path("stopped")) == last_checkpoint(&place.path("whole")));
    let best = |run: &str| std::fs::read(place.path(run).join("checkpoints/best.safetensors")).unwrap();
    assert!(best("stopped") == best("whole"));
    // It has come to its end: nothing is left to do, and that is no mistake.
    place.succeed("finetune --resume -o stopped --quiet");
    assert!(best("stopped") == best("whole"));
}

#[test]
fn mistakes_are_named_and_leave_nothing_behind() {
    let place = flows();
    let mut draws = Stream::new(5, 5);
    let mut rows: Vec<Row> = (0..40).map(|i| row(i, "query", None, &mut draws)).collect();
    write(&place, "one.parquet", rows.clone());
    rows.iter_mut().for_each(|r| r.label = None);
    write(&place, "bare.parquet", rows.clone());
    rows.iter_mut().for_each(|r| r.split = Some(Split::Test));
    write(&place, "test.parquet", rows.clone());
    for (i, r) in rows.iter_mut().enumerate() {
        (r.split, r.group) = (Some(if i % 2 == 0 { Split::Train } else { Split::Val }), "same".to_string());
    }
    write(&place, "shared.parquet", rows);

    let pretrain =
        |flows: &str, more: &str| format!("pretrain {flows} --quantizer q.safetensors -o out --epochs 1 {TINY}{more}");
    place.refuses(&pretrain("none.parquet", ""), "none.parquet", "out");
    place.refuses(&pretrain("q.safetensors", ""), "q.safetensors", "out");
    place.refuses(&pretrain("test.parquet", ""), "split train", "out");
    place.refuses(&pretrain("shared.parquet", ""), "--allow-shared-groups", "out");
    place.refuses(&pretrain("bare.parquet", " --with-classes"), "no flow has a label", "out");
    place.refuses(&pretrain("flows.parquet", " --lr=-1"), "lr", "out");
    place.refuses(&pretrain("flows.parquet", " --exclude group"), "group", "out");
    place.refuses("pretrain flows.parquet --quantizer flows.parquet -o out", "flows.parquet", "out");
    place.refuses("pretrain flows.parquet --quantizer q.safetensors -o out --heads 3", "n_head", "out");
    place.refuses("pretrain --resume -o out", "out", "out");
    place.refuses("quantizer fit flows.parquet -k 100000 -o big.safetensors", "lower k", "big.safetensors");

    place.succeed(&pretrain("flows.parquet", ""));
    place.refuses(&pretrain("flows.parquet", ""), "exists already", "");
    place.refuses("pretrain --resume -o out --lr 0.5", "keeps its lr", "");
    place.refuses("pretrain bare.parquet --resume -o out", "not those that the run began with", "");
    place.refuses("finetune --resume -o out", "is a run of pretrain", "");
    place.refuses("finetune bare.parquet --from out -o tuned", "no flow has a label", "tuned");
    place.refuses("finetune one.parquet --from out -o tuned", "label query", "tuned");
    place.refuses("finetune flows.parquet --from q.safetensors -o tuned", "neither a run nor a bundle", "tuned");
    place.succeed("bundle out -o lm.tgpt");
    place.refuses("evaluate lm.tgpt flows.parquet", "no classifier", "");

    let quantizer = place.path("out/quantizer.safetensors");
    let mut bytes = std::fs::read(&quantizer).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&quantizer, bytes).unwrap();
    place.refuses("pretrain --resume -o out --epochs 2", "tokens would mean other packets", "");
    place.refuses("bundle out -o again.tgpt", "tokens would mean other packets", "again.tgpt");
}

/// Losses of the steps and of the evaluations of a run.
fn losses(run: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .flat_map(|line| ["loss", "grad_norm", "val_loss", "lm_loss"].map(|key| line[key].as_f64()))
        .flatten()
        .collect()
}

/// The whole trainer on the kernels, with dropout: the CPU's losses, and each goes on with what the other has begun.
#[test]
#[cfg(target_os = "linux")]
fn cuda_learns_what_the_cpu_learns_and_they_go_on_with_each_others_checkpoints() {
    let Some(libraries) = gpus::libraries() else { return };
    let place = flows();
    let run = |arguments: &str| {
        let output = place.command(arguments).env("LD_LIBRARY_PATH", &libraries.driver).output().unwrap();
        assert!(output.status.success(), "{arguments}: {}", text(&output));
    };
    let close_to = |cpu: &str, name: &str, most: f64| {
        let [cpu, other] = [cpu, name].map(|name| losses(&place.path(name)));
        assert!(!cpu.is_empty() && cpu.len() == other.len(), "{cpu:?} {other:?}");
        for (a, b) in cpu.iter().zip(&other) {
            assert!((a / b - 1.0).abs() < most, "{name}: {a} on the CPU, {b}");
        }
    };
    let close = |name: &str, most: f64| close_to("cpu", name, most);
    let flags = "--layers 2 --width 8 --heads 2 --batch-tokens 128 --accumulate 2 --log-every 1 --eval-every 3";
    let begin = format!("pretrain flows.parquet --quantizer q.safetensors {flags} --quiet");
    for (name, device) in [("cpu", "cpu"), ("f32", "cuda-f32"), ("bf16", "cuda")] {
        run(&format!("{begin} --steps 3 --device {device} -o {name}"));
    }
    close("f32", 1e-4);
    close("bf16", 2e-2);
    // Each of the two goes on with what the CPU began, and the CPU with what the GPU began.
    let copied = Command::new("cp").args(["-r", "cpu", "crossed"]).current_dir(place.path("")).status().unwrap();
    assert!(copied.success());
    run("pretrain --resume --steps 5 --quiet -o cpu");
    run("pretrain --resume --steps 5 --device cuda-f32 --quiet -o crossed");
    close("crossed", 1e-4);
    run("pretrain --resume --steps 5 --device cpu --quiet -o f32");
    close("f32", 1e-4);

    std::fs::rename(place.path("cpu"), place.path("pretrained")).unwrap();
    let begin = "finetune flows.parquet --from pretrained --batch-tokens 128 --log-every 1 --steps 2 --quiet";
    run(&format!("{begin} --device cpu -o cpu"));
    run(&format!("{begin} --device cuda-f32 -o f32-classifier"));
    close("f32-classifier", 1e-4);
    // A network that stays as it is runs there too, for the CPU to learn or to fit a head.
    let begin = begin.replace("--steps 2", "--freeze");
    for (name, device) in [("cpu", "cpu"), ("f32", "cuda-f32")] {
        let output = format!("{name}-frozen");
        run(&format!("{begin} --steps 3 --device {device} -o {output}"));
    }
    close_to("cpu-frozen", "f32-frozen", 1e-4);
    run("finetune flows.parquet --from pretrained --freeze --head knn --device cuda --quiet -o neighbours");
}

/// Without a GPU the message says what to do, and nothing is left behind; with one the run works.
#[test]
fn a_device_that_is_not_there_is_told_before_anything_is_read() {
    let place = flows();
    let begin =
        "pretrain flows.parquet --quantizer q.safetensors --layers 1 --width 8 --heads 2 --steps 1 --quiet -o run";
    let output = place.run(&format!("{begin} --device cuda"));
    let said = text(&output);
    assert!(output.status.success() || (said.contains("nvidia-smi") && !place.path("run").exists()), "{said}");
    place.refuses(&format!("{begin} --device tpu"), "cpu, cuda or cuda-f32", "");
}
