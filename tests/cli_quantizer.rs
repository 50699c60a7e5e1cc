//! `trafficgpt quantizer` from end to end.
#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;
use trafficgpt::packet::Packet;
use trafficgpt::random::Stream;
use trafficgpt::train::table::{Row, Split, Table};

struct Place(TempDir);

impl Place {
    /// A directory with `flows.parquet` and the same flows in another order in `shuffled.parquet`.
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let mut rows = rows();
        Table::from(rows.clone()).write(&place.path("flows.parquet")).unwrap();
        rows.reverse();
        Table::from(rows).write(&place.path("shuffled.parquet")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Standard output of a command line that must succeed, or the error of one that must be refused.
    fn run(&self, line: &str) -> Result<String, String> {
        self.run_with(line, "CUDA_VISIBLE_DEVICES", "".as_ref())
    }

    /// The same with a variable of the environment.
    fn run_with(&self, line: &str, name: &str, value: &Path) -> Result<String, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trafficgpt"));
        command.env(name, value);
        let output =
            command.current_dir(self.0.path()).arg("quantizer").args(line.split_whitespace()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        match output.status.code() {
            Some(0) => Ok(String::from_utf8(output.stdout).unwrap()),
            Some(1 | 2) => Err(said),
            code => panic!("{line}: {code:?}: {said}"),
        }
    }
}

fn rows() -> Vec<Row> {
    let mut draws = Stream::new(8, 0);
    (0..300)
        .map(|i| Row {
            label: None,
            group: format!("g{}", i % 10),
            split: Some(if i % 10 == 0 { Split::Val } else { Split::Train }),
            n_packets: 12,
            packets: (0..12)
                .map(|_| Packet {
                    size: [52, -52, 1500, -1500, 300][draws.below(5)] + draws.below(9) as i32,
                    ipt_us: 10f32.powf(draws.uniform() as f32 * 6.0),
                })
                .collect(),
            key: None,
            start_ns: None,
        })
        .collect()
}

#[test]
fn a_fit_does_not_depend_on_the_order_of_flows_and_goes_on_from_another() {
    let place = Place::new();
    place.run("fit flows.parquet -k 32 --exclude group=g3 -q -o a.safetensors").unwrap();
    place.run("fit shuffled.parquet -k 32 --exclude group=g3 -q -o b.safetensors").unwrap();
    let centroids = |file: &str| place.run(&format!("inspect {file} --centroids")).unwrap();
    assert_eq!(centroids("a.safetensors"), centroids("b.safetensors"));
    assert_eq!(centroids("a.safetensors").lines().count(), 32);
    place.run("fit flows.parquet shuffled.parquet -k 32 -q -o one.safetensors").unwrap();
    place.run("fit shuffled.parquet flows.parquet -k 32 -q -o two.safetensors").unwrap();
    assert!(fs::read(place.path("one.safetensors")).unwrap() == fs::read(place.path("two.safetensors")).unwrap());
    place.run("fit flows.parquet -k 32 --start a.safetensors -q -o c.safetensors").unwrap();
    assert!(place.run("inspect c.safetensors").unwrap().contains("32"));
    let other_k = place.run("fit flows.parquet -k 33 --start a.safetensors -o d.safetensors").unwrap_err();
    assert!(other_k.contains("33") && other_k.contains("32"), "{other_k}");
    let other_scaler = place.run("fit flows.parquet -k 32 --scaler log10-ms --start a.safetensors -o d.safetensors");
    assert!(other_scaler.unwrap_err().contains("log10-ms"));
    assert!(!place.path("d.safetensors").exists());
}

#[test]
fn eval_and_choose_k_tell_what_a_codebook_loses() {
    let place = Place::new();
    place.run("fit flows.parquet -k 64 -q -o q.safetensors").unwrap();
    let json = place.run("eval q.safetensors flows.parquet --split val --json --picture q.svg").unwrap();
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((report["k"].as_u64(), report["packets"].as_u64()), (Some(64), Some(30 * 12)));
    let error = report["size_error"].as_f64().unwrap();
    assert!(error > 0.0 && error < 100.0, "{error}");
    assert!(fs::read_to_string(place.path("q.svg")).unwrap().contains("<svg"));
    let text = place.run("eval q.safetensors flows.parquet").unwrap();
    assert!(text.contains("of 64") && text.contains("3600"), "{text}");

    let json = place.run("choose-k flows.parquet -k 8,64 --json --picture k.svg").unwrap();
    let choices: Value = serde_json::from_str(&json).unwrap();
    let inertia = |i: usize| choices[i]["inertia_per_packet"].as_f64().unwrap();
    assert!(inertia(1) < inertia(0), "{json}");
    assert!(place.path("k.svg").exists());
    let too_many = place.run("choose-k flows.parquet -k 100000").unwrap_err();
    assert!(too_many.contains("100000"), "{too_many}");
    assert!(place.run("eval q.safetensors flows.parquet --split dev").unwrap_err().contains("dev"));
    assert!(place.run("eval q.safetensors flows.parquet --picture q.png").unwrap_err().contains("q.png"));
}

#[test]
fn the_original_projects_codebook_is_imported_with_its_ids() {
    let place = Place::new();
    fs::write(place.path("clusters.json"), "[[NaN, NaN], [0.5, -1.0], [-0.25, 2.0], [NaN, NaN]]").unwrap();
    let names = r#"{"2": "[EOF]", "3": "[PAD]", "4": "[UNK]", "5": "[BOF]", "6": "Zoom"}"#;
    fs::write(place.path("names.json"), names).unwrap();
    place.run("import clusters.json --names names.json -o q.safetensors").unwrap();
    // 750 bytes at 0.1 ms, -375 bytes at 100 ms.
    let listed = place.run("inspect q.safetensors --centroids").unwrap();
    assert_eq!(listed, "0\t750\t100\n1\t-375\t100000\n");
    assert!(place.run("inspect q.safetensors").unwrap().contains("log10-ms"));
    fs::write(place.path("names.json"), names.replace("\"2\"", "\"1\"")).unwrap();
    let refused = place.run("import clusters.json --names names.json -o other.safetensors").unwrap_err();
    assert!(refused.contains("names.json") && !place.path("other.safetensors").exists(), "{refused}");
    assert!(place.run("import names.json -o other.safetensors").unwrap_err().contains("names.json"));
}

#[test]
fn a_gpu_that_is_not_there_is_refused_before_anything_is_read() {
    let place = Place::new();
    place.run("fit flows.parquet -k 8 -q -o q.safetensors").unwrap();
    for line in
        ["fit none.parquet -k 8 --device cuda -o r.safetensors", "eval q.safetensors none.parquet --device cuda"]
    {
        let error = place.run(line).unwrap_err();
        assert!(error.contains("CUDA") && error.contains("nvidia-smi"), "{error}");
    }
    assert!(!place.path("r.safetensors").exists());
}

/// Where the driver is one that runs the kernels on the processor.
#[test]
#[cfg(target_os = "linux")]
#[allow(clippy::print_stdout, reason = "says why a test was skipped")]
fn a_gpu_gives_the_tokens_of_the_processor_and_as_good_a_codebook() {
    let place = Place::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let mut compile = Command::new(&compiler);
    compile.args(["-std=c++20", "-O2", "-shared", "-fPIC", "-pthread", "-ffp-contract=off", "-w", "-I"]);
    compile.arg(root.join("kernels")).arg(root.join("tests/kernels/driver_on_cpu.cpp"));
    if !compile.arg("-o").arg(place.path("libcuda.so")).output().is_ok_and(|output| output.status.success()) {
        println!("skipped: {compiler} cannot compile a driver that runs on the processor");
        return;
    }
    let on_gpu = |line: &str| place.run_with(line, "LD_LIBRARY_PATH", place.0.path()).unwrap();
    place.run("fit flows.parquet -k 32 -q -o cpu.safetensors").unwrap();
    on_gpu("fit flows.parquet -k 32 --device cuda -q -o gpu.safetensors");
    on_gpu("fit shuffled.parquet -k 32 --device cuda -q -o again.safetensors");
    let centroids = |file: &str| place.run(&format!("inspect {file} --centroids")).unwrap();
    assert_eq!(centroids("gpu.safetensors"), centroids("again.safetensors"));
    let report =
        |file: &str, device: &str| on_gpu(&format!("eval {file} flows.parquet --split train --json --device {device}"));
    assert_eq!(report("gpu.safetensors", "cuda"), report("gpu.safetensors", "cpu"));
    let inertia = |file: &str| {
        let report: Value = serde_json::from_str(&report(file, "cpu")).unwrap();
        report["inertia_per_packet"].as_f64().unwrap()
    };
    let (cpu, gpu) = (inertia("cpu.safetensors"), inertia("gpu.safetensors"));
    assert!(gpu <= cpu * (1.0 + 1e-3), "{gpu}, on the processor {cpu}");
    assert!(place.run("inspect gpu.safetensors").unwrap().contains("spread      known"));
}
