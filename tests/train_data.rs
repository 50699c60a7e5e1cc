//! Training on tables that do not fit the memory allowed, steps of several batches, and what users get wrong, at the
//! command line.

#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[path = "common/place.rs"]
mod place;

use place::Place;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use trafficgpt::packet::Packet;
use trafficgpt::random::Stream;
use trafficgpt::train::table::{Row, Split, Writer};

const TINY: &str = "--layers 1 --width 16 --heads 2 --batch-tokens 128 --lr 1e-2 --threads 1 --quiet";

fn row(i: usize, label: Option<&str>, split: Option<Split>, draws: &mut Stream) -> Row {
    let size =
        |j: usize, draws: &mut Stream| (60 + 100 * (i % 3 + j % 2) as i32 + draws.below(9) as i32) * [1, -1][j % 2];
    let packets: Vec<Packet> = (0..3 + draws.below(5))
        .map(|j| Packet { size: size(j, draws), ipt_us: if j == 0 { 0.0 } else { 1e4 * draws.uniform() as f32 } })
        .collect();
    let (label, group) = (label.map(String::from), format!("g{i}"));
    Row { label, group, split, n_packets: packets.len() as u64, packets, key: None, start_ns: None }
}

fn write(path: &Path, rows: &[Row]) {
    let mut writer = Writer::create(path).unwrap();
    rows.iter().for_each(|row| writer.push(row).unwrap());
    writer.finish().unwrap();
}

/// `tables/`: 1200 flows in directories of several kinds of files, with a quantizer `q.safetensors`.
fn tables() -> Place {
    let place = Place::new();
    let mut draws = Stream::new(4, 0);
    for (file, name) in
        ["a/1.parquet", "a/2.jsonl", "b/c/3.parquet", "b/4.csv", "b/.hidden.csv"].into_iter().enumerate()
    {
        let path = place.path("tables").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let label = |i: usize| ["x", "y", "z"][i % 3];
        let rows: Vec<Row> = (0..300)
            .map(|i| {
                row(
                    1000 * file + i,
                    Some(label(i)),
                    Some([Split::Train, Split::Val][usize::from(i.is_multiple_of(10))]),
                    &mut draws,
                )
            })
            .collect();
        if name.contains("hidden") {
            fs::write(&path, "not a table").unwrap();
        } else {
            write(&path, &rows);
        }
    }
    place.succeed("quantizer fit tables -k 24 -q -o q.safetensors");
    place
}

fn metrics(run: &Path) -> Vec<Value> {
    fs::read_to_string(run.join("metrics.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Steps of the checkpoints to go on from.
fn steps(run: &Path) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(run.join("checkpoints")) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut steps: Vec<u64> =
        names.filter_map(|name| name.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok()).collect();
    steps.sort_unstable();
    steps
}

fn last(run: &Path) -> Vec<u8> {
    fs::read(run.join(format!("checkpoints/step-{:08}.safetensors", steps(run).last().unwrap()))).unwrap()
}

/// Begins the run and kills it once there is a checkpoint of `step`.
fn killed(place: &Place, line: &str, run: &str, step: u64) {
    let mut child = place.command(line).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while steps(&place.path(run)).last().is_none_or(|last| *last < step) {
        assert!(began.elapsed() < Duration::from_secs(120), "no checkpoint of step {step}");
        std::thread::sleep(Duration::from_millis(2));
    }
    // SIGKILL: nothing of the program runs after it.
    child.kill().unwrap();
    assert!(child.wait().unwrap().code().is_none(), "the run ended before it was killed");
}

#[test]
fn a_run_over_windows_that_is_killed_goes_on_bit_for_bit() {
    let place = tables();
    let run = |output: &str| {
        format!(
            "pretrain tables --quantizer q.safetensors -o {output} --shuffle-mib 0.04 --accumulate 3 --epochs 20 \
             --save-every 7 --time-jitter 0.2 --with-classes {TINY}"
        )
    };
    place.succeed(&run("whole"));
    let evaluations: Vec<Value> = metrics(&place.path("whole")).into_iter().filter(|v| v.get("lr").is_none()).collect();
    let epochs: Vec<f64> = evaluations.iter().map(|v| v["epoch"].as_f64().unwrap()).collect();
    assert_eq!(epochs, (1..=20).map(f64::from).collect::<Vec<_>>(), "one an epoch, not one a window");
    for v in &evaluations {
        let (loss, perplexity) = (v["val_loss"].as_f64().unwrap(), v["perplexity"].as_f64().unwrap());
        assert!(
            (loss.exp() - perplexity).abs() < 1e-9 * perplexity && v["tokens_per_s"].as_f64().unwrap() > 0.0,
            "{v}"
        );
    }
    let record: Value = serde_json::from_slice(&fs::read(place.path("whole/run.json")).unwrap()).unwrap();
    assert_eq!(record["flows"], serde_json::json!([1080, 120]));
    let windows = record["notes"].to_string();
    assert!(windows.contains("windows") && !windows.contains("has 1 windows"), "{windows}");
    let files: Vec<&str> = record["data"].as_array().unwrap().iter().map(|v| v["file"].as_str().unwrap()).collect();
    assert_eq!(files, ["1.parquet", "2.jsonl", "4.csv", "3.parquet"], "in order of path, hidden ones left out");
    for picture in ["loss.svg", "perplexity.svg"] {
        assert!(fs::read_to_string(place.path("whole").join(picture)).unwrap().contains("validation"), "{picture}");
    }

    for after in [7, 60] {
        let _ = fs::remove_dir_all(place.path("killed"));
        killed(&place, &run("killed"), "killed", after);
        place.succeed("pretrain --resume -o killed --threads 2 --quiet");
        assert!(last(&place.path("killed")) == last(&place.path("whole")), "killed after step {after}");
    }
    let best = |run: &str| fs::read(place.path(run).join("checkpoints/best.safetensors")).unwrap();
    assert!(best("killed") == best("whole"));
}

#[test]
fn a_bound_that_holds_all_flows_changes_nothing() {
    let place = tables();
    let run = |output: &str, bound: &str| {
        place.succeed(&format!("pretrain tables --quantizer q.safetensors -o {output} {bound} --epochs 1 {TINY}"));
        let line = metrics(&place.path(output)).pop().unwrap();
        (line["val_loss"].clone(), last(&place.path(output)).len())
    };
    assert_eq!(run("small", "--shuffle-mib 1"), run("large", "--shuffle-mib 4000"));
    assert!(place.refused(&format!(
        "pretrain tables --quantizer q.safetensors -o none --learn-val --choose last --shuffle-mib 0.04 --epochs 1 {TINY}"
    )).contains("--shuffle-mib"));
    assert!(
        place
            .refused(&format!("pretrain tables --quantizer q.safetensors -o none --accumulate 0 {TINY}"))
            .contains("accumulate")
    );
}

/// Two classes whose sizes differ by less than the centroids lie apart.
#[test]
fn generated_flows_have_the_sizes_of_their_class() {
    let place = Place::new();
    let mut draws = Stream::new(11, 0);
    let rows: Vec<Row> = (0..400)
        .map(|i| {
            let label = ["even", "odd"][i % 2];
            let mut row = row(i, Some(label), Some([Split::Train, Split::Val][usize::from(i % 10 > 7)]), &mut draws);
            row.packets.iter_mut().for_each(|p| p.size = p.size / 2 * 2 + (i % 2) as i32 * p.size.signum());
            row
        })
        .collect();
    write(&place.path("flows.parquet"), &rows);
    place.succeed("quantizer fit flows.parquet -k 12 -q -o q.safetensors");
    for (run, memory) in [("whole", ""), ("windows", "--shuffle-mib 0.01")] {
        place.succeed(&format!(
            "pretrain flows.parquet --quantizer q.safetensors -o {run} {memory} --with-classes --epochs 1 {TINY}"
        ));
        assert!(place.succeed(&format!("quantizer inspect {run}/quantizer.safetensors")).contains("each of 2 classes"));
        // What is fine-tuned from it knows them as well.
        place.succeed(&format!("finetune flows.parquet --from {run} -o {run}-tuned --epochs 1 --threads 1 --quiet"));
        for bundle in [run.to_string(), format!("{run}-tuned")] {
            place.succeed(&format!("bundle {bundle} -o {bundle}.tgpt"));
            for (class, odd) in [("even", 0), ("odd", 1)] {
                let flows = format!("{bundle}-{class}.jsonl");
                place.succeed(&format!("generate {bundle}.tgpt --class {class} -n 40 --engine native -o {flows}"));
                let text = fs::read_to_string(place.path(&flows)).unwrap();
                let flows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
                let sizes: Vec<i64> = flows
                    .iter()
                    .flat_map(|flow| flow["sizes"].as_array().unwrap())
                    .map(|size| size.as_i64().unwrap())
                    .collect();
                let own = sizes.iter().filter(|size| size.abs() % 2 == odd).count();
                // But for a token that the class never had.
                assert!(own as f64 > 0.95 * sizes.len() as f64, "{bundle}: {own} of {} sizes", sizes.len());
            }
        }
    }
    // A model of no classes, or of others, does not take them over.
    place
        .succeed(&format!("pretrain flows.parquet --quantizer whole/quantizer.safetensors -o plain --epochs 1 {TINY}"));
    assert!(!place.succeed("quantizer inspect plain/quantizer.safetensors").contains("classes"));
    place.succeed("bundle plain -o plain.tgpt");
    place.succeed("generate plain.tgpt -n 3 --class any --engine native -o plain.jsonl");
}

#[test]
fn labels_that_cannot_be_learnt_are_named() {
    let place = tables();
    let mut draws = Stream::new(9, 0);
    place.succeed(&format!("pretrain tables --quantizer q.safetensors -o lm --epochs 1 {TINY}"));
    let split = |i: usize| Some([Split::Train, Split::Train, Split::Val][i % 3]);
    let table = |name: &str, label: &dyn Fn(usize) -> Option<&'static str>, draws: &mut Stream| {
        write(&place.path(name), &(0..60).map(|i| row(i, label(i), split(i), draws)).collect::<Vec<_>>());
    };
    table("bare.parquet", &|_| None, &mut draws);
    table("one.parquet", &|_| Some("dns"), &mut draws);
    table("few.parquet", &|i| Some(if i == 4 { "rare" } else { ["dns", "tls"][i / 3 % 2] }), &mut draws);
    table("held.parquet", &|i| Some(if i % 3 == 2 { "unseen" } else { ["dns", "tls"][i / 3 % 2] }), &mut draws);
    table("half.parquet", &|i| (i % 3 != 2).then_some(["dns", "tls"][i / 3 % 2]), &mut draws);
    let mut rows: Vec<Row> = (0..60).map(|i| row(i, Some(["dns", "tls"][i % 2]), split(i), &mut draws)).collect();
    rows.iter_mut().for_each(|row| row.group = "monday".to_string());
    write(&place.path("shared.parquet"), &rows);
    for (table, words) in [
        ("bare", "no flow has a label"),
        ("one", "all flows have the label dns"),
        ("few", "too few to learn: rare (1)"),
        ("held", "unseen (0)"),
        ("half", "validation flows have no labels"),
        ("shared", "1 groups have flows in more than one split, such as monday"),
    ] {
        let said = place.refused(&format!("finetune {table}.parquet --from lm -o tuned --epochs 1 --quiet"));
        assert!(said.contains(words), "{table}: {said}");
        assert!(!place.path("tuned").exists());
    }
    let said = place.refused(&format!("pretrain shared.parquet --quantizer q.safetensors -o out {TINY}"));
    assert!(said.contains("monday") && said.contains("--allow-shared-groups"), "{said}");
    place
        .succeed("finetune few.parquet --from lm -o tuned --epochs 1 --min-flows 0 --threads 1 --accumulate 2 --quiet");
    place.succeed("finetune few.parquet --from lm -o other --epochs 1 --exclude label=rare --threads 1 --quiet");
}

#[test]
fn a_quantizer_of_another_model_is_refused() {
    let place = tables();
    place.succeed(&format!("pretrain tables --quantizer q.safetensors -o lm --epochs 1 {TINY}"));
    place.succeed("bundle lm -o lm.tgpt");
    place.succeed("quantizer fit tables -k 24 --seed 1 -q -o seed.safetensors");
    place.succeed("quantizer fit tables -k 20 -q -o fewer.safetensors");
    place.succeed("quantizer fit tables -k 24 --scaler log10-ms -q -o scaler.safetensors");
    for other in ["seed", "fewer", "scaler"] {
        let file = format!("{other}.safetensors");
        fs::copy(place.path(&file), place.path("lm/quantizer.safetensors")).unwrap();
        fs::copy(place.path(&file), place.path("lm.tgpt/quantizer.safetensors")).unwrap();
        for line in
            ["pretrain --resume -o lm --epochs 2", "finetune tables --from lm -o tuned", "bundle lm -o again.tgpt"]
        {
            let said = place.refused(line);
            assert!(said.contains("the tokens would mean other packets"), "{other}: {line}: {said}");
        }
        for line in ["generate lm.tgpt -n 1 -o flows.csv", "finetune tables --from lm.tgpt -o tuned", "info lm.tgpt"] {
            let said = place.refused(line);
            assert!(said.contains("the quantizer is not the one that this model"), "{other}: {line}: {said}");
        }
    }
    for absent in ["tuned", "again.tgpt", "flows.csv"] {
        assert!(!place.path(absent).exists(), "{absent}");
    }
}

/// A file system of its own, taken away with the value.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(path: &'a Path, size: &str) -> Result<Self, String> {
        let said =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"]).arg(path).output();
        match said {
            Ok(output) if output.status.success() => Ok(Self(path)),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).output();
    }
}

/// A run that saves often.
fn saving(output: &str) -> String {
    format!("pretrain tables --quantizer q.safetensors -o {output} --epochs 20 --save-every 10 {TINY}")
}

#[test]
#[cfg(unix)]
fn a_checkpoint_that_cannot_be_written_leaves_the_one_before() {
    let place = tables();
    place.succeed(&saving("whole"));
    killed(&place, &saving("limited"), "limited", 20);
    let before = last(&place.path("limited"));
    // No file may grow past 16 blocks: the system refuses the next checkpoint in the middle.
    let program = env!("CARGO_BIN_EXE_trafficgpt");
    let line = format!("trap '' XFSZ; ulimit -f 16; exec {program} pretrain --resume -o limited --quiet");
    let output = Command::new("sh").args(["-c", &line]).current_dir(place.path("")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("the checkpoint before it is whole; make room"), "{said}");
    assert!(said.contains("--resume -o limited"), "{said}");
    assert!(last(&place.path("limited")) == before);
    place.succeed("pretrain --resume -o limited --quiet");
    assert!(last(&place.path("limited")) == last(&place.path("whole")));
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_leaves_the_checkpoint_before() {
    let place = tables();
    place.succeed(&saving("whole"));
    let size = last(&place.path("whole")).len() as u64;
    let disk = place.path("disk");
    fs::create_dir(&disk).unwrap();
    // Room for a few checkpoints, of which something else then takes nearly all.
    let _mounted = match SmallDisk::mount(&disk, &format!("{}k", 8 * size / 1024)) {
        Ok(mounted) => mounted,
        Err(why) => return println!("skipped: no small file system can be mounted: {why}"),
    };
    killed(&place, &saving("disk/run"), "disk/run", 20);
    let before = last(&disk.join("run"));
    // What the killed process was writing would be removed, and leave room.
    for path in fs::read_dir(disk.join("run/checkpoints")).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_some_and(|e| e == "tmp") {
            fs::remove_file(path).unwrap();
        }
    }
    let filler = disk.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    let mut filled = 0;
    while file.write_all(&[0; 4096]).is_ok() {
        filled += 4096;
    }
    file.set_len(filled - size / 2).unwrap();
    let said = place.refused("pretrain --resume -o disk/run --quiet");
    assert!(said.contains("make room") && said.contains("--resume -o disk/run"), "{said}");
    assert!(last(&disk.join("run")) == before);
    drop(file);
    fs::remove_file(&filler).unwrap();
    place.succeed("pretrain --resume -o disk/run --quiet");
    assert!(last(&disk.join("run")) == last(&place.path("whole")));
}
