//! Training with several processes, as a launcher would start them: what they learn, and how they fail.

#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[cfg(target_os = "linux")]
#[path = "common/gpus.rs"]
mod gpus;
#[path = "common/place.rs"]
mod place;

use place::Place;
use serde_json::Value;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use trafficgpt::packet::Packet;
use trafficgpt::random::Stream;
use trafficgpt::train::table::{Row, Split, Writer};

/// Longest that any of these runs may take.
const PATIENCE: Duration = Duration::from_secs(240);

const NET: &str = "--layers 2 --width 32 --heads 2 --batch-tokens 512 --threads 1";

/// Everything that changes training flows anew in every epoch, and what else draws.
const DRAWS: &str =
    "--dropout 0.1 --time-jitter 0.3 --size-jitter 0.1 --header-shift 0.3 --packet-loss 0.1 --late-start 0.2";

/// A directory with flows, where ranks can be started.
struct Ranks(Place);

impl std::ops::Deref for Ranks {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.0
    }
}

fn row(i: usize, draws: &mut Stream) -> Row {
    let kind = i % 3;
    let mut packet = |j: usize| {
        let size = [70, 400, 1200][kind] + 10 * (j % (kind + 2)) as i32 + draws.below(5) as i32;
        let ipt_us = if j == 0 { 0.0 } else { ([1e3, 3e4, 1e6][kind] * (1.0 + draws.uniform())) as f32 };
        Packet { size: if j % 2 == 1 { -size } else { size }, ipt_us }
    };
    let packets: Vec<Packet> = (0..2 + i * 7 % 23).map(&mut packet).collect();
    let split = Some(if i % 6 == 5 { Split::Val } else { Split::Train });
    let (label, group, n_packets) = (Some(format!("kind {kind}")), format!("g{i}"), packets.len() as u64);
    Row { label, group, split, n_packets, packets, key: None, start_ns: None }
}

impl Ranks {
    /// `flows.parquet`, `other.parquet` with other flows, `many`, a directory of four tables, and a quantizer.
    fn new() -> Self {
        let place = Self(Place::new());
        let mut draws = Stream::new(6, 1);
        let rows: Vec<Row> = (0..360).map(|i| row(i, &mut draws)).collect();
        place.write("flows.parquet", &rows);
        std::fs::create_dir(place.path("many")).unwrap();
        for (i, part) in rows.chunks(90).enumerate() {
            place.write(&format!("many/{i}.parquet"), part);
        }
        place.write("other.parquet", &(0..360).map(|i| row(i, &mut draws)).collect::<Vec<_>>());
        place.succeed("quantizer fit flows.parquet -k 32 -o q.safetensors");
        place
    }

    fn write(&self, name: &str, rows: &[Row]) {
        let mut writer = Writer::create(&self.path(name)).unwrap();
        rows.iter().for_each(|row| writer.push(row).unwrap());
        writer.finish().unwrap();
    }

    /// Starts a rank as torchrun does.
    fn rank(&self, rank: usize, size: usize, port: u16, arguments: &str) -> Child {
        self.rank_with(rank, size, port, arguments, &[])
    }

    /// The same, with more variables.
    fn rank_with(&self, rank: usize, size: usize, port: u16, arguments: &str, more: &[(&str, &Path)]) -> Child {
        let mut command = self.command(arguments);
        command.envs(more.iter().copied());
        let (rank, size, port) = (rank.to_string(), size.to_string(), port.to_string());
        command.envs([("RANK", &*rank), ("WORLD_SIZE", &size), ("LOCAL_RANK", &rank), ("MASTER_PORT", &port)]);
        command.env("MASTER_ADDR", "127.0.0.1").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Starts ranks, each with the arguments that `arguments` gives it.
    fn ranks(&self, size: usize, arguments: impl Fn(usize) -> String) -> Vec<Child> {
        let port = free_port();
        (0..size).map(|rank| self.rank(rank, size, port, &arguments(rank))).collect()
    }

    /// The same, which must all end well; all but the first must be silent.
    fn together(&self, size: usize, arguments: &str) {
        for (rank, child) in self.ranks(size, |_| arguments.to_string()).into_iter().enumerate() {
            let output = wait(child);
            assert!(output.status.success(), "rank {rank}, {arguments}: {}", said(&output));
            assert!(rank == 0 || (output.stdout.is_empty() && output.stderr.is_empty()), "{}", said(&output));
        }
    }

    fn last_step(&self, run: &str) -> Option<u64> {
        let entries = std::fs::read_dir(self.path(run).join("checkpoints")).ok()?;
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        entries.filter_map(|e| name(e).strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok()).max()
    }

    fn await_step(&self, run: &str, step: u64) {
        let began = Instant::now();
        while self.last_step(run).is_none_or(|s| s < step) {
            assert!(began.elapsed() < PATIENCE, "no checkpoint of step {step} in {run}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The lines of a run's metrics that have `name`: step and value.
    fn metrics(&self, run: &str, name: &str) -> Vec<(u64, f64)> {
        let text = std::fs::read_to_string(self.path(run).join("metrics.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter_map(|v| Some((v["step"].as_u64()?, v.get(name)?.as_f64()?))).collect()
    }

    /// Checks that two runs have the same course, but for rounding.
    fn alike(&self, run: &str, other: &str, names: &[&str]) {
        for name in names {
            let (a, b) = (self.metrics(run, name), self.metrics(other, name));
            assert!(a.len() == b.len() && a.len() > 3, "{name}: {a:?} {b:?}");
            for ((step, x), (step_of_other, y)) in a.iter().zip(&b) {
                assert_eq!(step, step_of_other);
                assert!((x - y).abs() <= 2e-4 * x.abs(), "{run}, {other}: {name} after step {step}: {x} and {y}");
            }
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits for a process to end, within [`PATIENCE`].
fn wait(mut child: Child) -> Output {
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("a process hangs: {}", said(&child.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap()
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Weights are compared among the ranks themselves, after every epoch, and a run with ranks that differ fails.
#[test]
fn two_and_three_ranks_learn_what_one_does() {
    let place = Ranks::new();
    let run = |output: &str| {
        format!(
            "pretrain flows.parquet --quantizer q.safetensors -o {output} --with-classes --epochs 4 --lr 3e-3 --warmup 5 \
             --accumulate 2 --log-every 1 --quiet {DRAWS} {NET}"
        )
    };
    place.succeed(&run("one"));
    for (size, output) in [(2, "two"), (3, "three")] {
        place.together(size, &run(output));
        place.alike("one", output, &["loss", "grad_norm", "val_loss", "perplexity"]);
        assert_eq!(place.metrics("one", "tokens"), place.metrics(output, "tokens"));
    }
    let tune = |output: &str, more: &str| {
        format!(
            "finetune flows.parquet --from one -o {output} --epochs 4 --warmup 5 --batch-tokens 512 --log-every 1 --threads 1 \
             --quiet {more}"
        )
    };
    for (more, name) in
        [("--lr 2e-3 --crop 0.3 --borrow-times 0.3 --accumulate 2", "whole"), ("--freeze --lr 0.05", "frozen")]
    {
        place.succeed(&tune(&format!("{name}1"), more));
        place.together(2, &tune(&format!("{name}2"), more));
        place.alike(
            &format!("{name}1"),
            &format!("{name}2"),
            &["loss", "grad_norm", "val_loss", "accuracy", "macro_f1"],
        );
    }
    place.succeed("bundle whole2 -o model.tgpt");
}

/// Tables in windows, early stopping by a schedule that looks at the validation, and more ranks or fewer than before.
#[test]
fn streamed_runs_stop_alike_and_go_on_with_any_number_of_ranks() {
    let place = Ranks::new();
    let run = |output: &str, more: &str| {
        format!(
            "pretrain many --quantizer q.safetensors -o {output} --shuffle-mib 0.02 --schedule plateau --plateau-patience 0 \
             --lr 1e-2 --warmup 2 --log-every 1 --quiet {NET} {more}"
        )
    };
    place.succeed(&run("one", "--epochs 30 --patience 2"));
    place.together(2, &run("two", "--epochs 30 --patience 2"));
    // Rounding grows over so many steps that they need not stop after the same one.
    let (one, two) = (place.metrics("one", "val_loss"), place.metrics("two", "val_loss"));
    assert!(one.len() < 30 && two.len() < 30 && two.len() > 3, "{one:?} {two:?}");
    for ((step, x), (of_two, y)) in one.iter().zip(&two).take(4) {
        assert!(step == of_two && (x - y).abs() < 2e-4 * x, "after step {step}: {x} and {y}");
    }

    place.succeed(&run("whole", "--epochs 4"));
    place.together(3, &run("parts", "--epochs 1"));
    // The others are told what they go on with: they see another directory, where there is nothing.
    std::fs::create_dir(place.path("elsewhere")).unwrap();
    let port = free_port();
    let resume = |at: &str, epochs: u32| format!("pretrain --resume -o {at} --epochs {epochs} --threads 1 --quiet");
    let zero = place.rank(0, 2, port, &resume("parts", 3));
    let one = place.rank(1, 2, port, &resume("elsewhere/parts", 3));
    for child in [zero, one] {
        let output = wait(child);
        assert!(output.status.success(), "{}", said(&output));
    }
    assert!(!place.path("elsewhere/parts").exists());
    place.succeed(&resume("parts", 4));
    let losses = |run: &str| place.metrics(run, "val_loss");
    let (whole, parts) = (losses("whole"), losses("parts"));
    assert_eq!(whole.len(), parts.len());
    for ((step, x), (of_parts, y)) in whole.iter().zip(&parts) {
        assert!(step == of_parts && (x - y).abs() < 1e-3 * x, "after step {step}: {x} and {y}");
    }
}

const LONG: &str =
    "pretrain flows.parquet --quantizer q.safetensors -o run --epochs 100000 --save-every 5 --rank-timeout 20";

#[test]
fn a_killed_rank_ends_the_others_and_one_goes_on() {
    let place = Ranks::new();
    for victim in [2, 0] {
        let mut ranks = place.ranks(3, |_| format!("{LONG} {NET} --quiet"));
        place.await_step("run", 10);
        let mut killed = ranks.remove(victim);
        killed.kill().unwrap();
        killed.wait().unwrap();
        let began = Instant::now();
        for child in ranks {
            let output = wait(child);
            let said = said(&output);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains(&format!("rank {victim} at 127.0.0.1:")) && said.contains("gone"), "{said}");
        }
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
        let stopped = place.last_step("run").unwrap();
        place.succeed(&format!("pretrain --resume -o run --steps {} --threads 1 --quiet", stopped + 3));
        assert_eq!(place.last_step("run").unwrap(), stopped + 3);
        std::fs::remove_dir_all(place.path("run")).unwrap();
    }
}

#[test]
fn a_rank_that_hangs_is_given_up_in_time() {
    let place = Ranks::new();
    let long = LONG.replace("--rank-timeout 20", "--rank-timeout 2");
    let mut ranks = place.ranks(2, |_| format!("{long} {NET} --quiet"));
    place.await_step("run", 5);
    let mut stopped = ranks.remove(1);
    signal(&stopped, "-STOP");
    let output = wait(ranks.remove(0));
    let said = said(&output);
    stopped.kill().unwrap();
    stopped.wait().unwrap();
    assert!(said.contains("rank 1 at 127.0.0.1:") && said.contains("nothing for 2 s"), "{said}");
    assert_eq!(output.status.code(), Some(1), "{said}");
}

#[test]
fn an_interrupt_of_one_saves_and_stops_all() {
    let place = Ranks::new();
    let ranks = place.ranks(2, |_| format!("{} {NET} --quiet", LONG.replace("--save-every 5", "--save-every 100000")));
    place.await_step("run", 0);
    std::thread::sleep(Duration::from_millis(500));
    // As a launcher does: more than once.
    signal(&ranks[1], "-INT");
    signal(&ranks[1], "-TERM");
    for (rank, child) in ranks.into_iter().enumerate() {
        let output = wait(child);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(130), "{said}");
        assert!(said.contains(&format!("rank {rank}: interrupted after step")), "{said}");
    }
    let step = place.last_step("run").unwrap();
    assert!(step > 0);
    place.succeed(&format!("pretrain --resume -o run --steps {} --threads 1 --quiet", step + 1));
}

#[test]
fn ranks_that_differ_are_refused_by_name() {
    let place = Ranks::new();
    let run = |more: &str| {
        let flows = if more.contains("other.parquet") { "" } else { "flows.parquet" };
        format!("pretrain {flows} --quantizer q.safetensors -o out --epochs 1 --rank-timeout 20 --quiet {NET} {more}")
    };
    place.succeed("quantizer fit flows.parquet -k 32 --seed 9 -o q2.safetensors");
    let of_other_quantizer = run("").replace("q.safetensors", "q2.safetensors");
    for (arguments, word) in [
        (run("--lr 5e-4"), "setting lr is 0.0005 there and 0.001 at rank 0"),
        (run("--with-classes"), "setting with_classes is true there and false"),
        (run("other.parquet"), "data is 1 files, 360 rows"),
        (of_other_quantizer, "quantizer is"),
        (run("").replace("flows.parquet", "--unlabelled flows.parquet"), "labels is 0"),
    ] {
        let ranks = place.ranks(2, |rank| if rank == 0 { run("") } else { arguments.clone() });
        for child in ranks {
            let output = wait(child);
            let said = said(&output);
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(said.contains("rank 1 does not do what rank 0 does") && said.contains(word), "{said}");
        }
        assert!(!place.path("out").exists());
    }
    // What only rank 0 sees is told to the others.
    std::fs::create_dir(place.path("out")).unwrap();
    for child in place.ranks(2, |_| run("")) {
        let output = wait(child);
        assert!(!output.status.success() && said(&output).contains("exists already"), "{}", said(&output));
    }
    let knn = place.ranks(2, |_| "finetune flows.parquet --from q.safetensors --freeze --head knn -o k".into());
    for child in knn {
        assert!(said(&wait(child)).contains("start one process"));
    }
}

#[test]
fn an_environment_that_contradicts_itself_is_refused_and_one_rank_is_as_none() {
    let place = Ranks::new();
    let run =
        |output: &str| format!("pretrain flows.parquet --quantizer q.safetensors -o {output} --epochs 1 --quiet {NET}");
    for (variables, word) in [
        (&[("RANK", "2"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "127.0.0.1")][..], "at most 1"),
        (&[("RANK", "0"), ("WORLD_SIZE", "2")], "MASTER_ADDR"),
        (&[("OMPI_COMM_WORLD_RANK", "1")], "OMPI_COMM_WORLD_SIZE"),
    ] {
        let output = place.command(&run("out")).envs(variables.iter().copied()).output().unwrap();
        assert!(output.status.code() == Some(2) && said(&output).contains(word), "{}", said(&output));
    }
    place.succeed(&run("plain"));
    let output = place.command(&run("single")).envs([("RANK", "0"), ("WORLD_SIZE", "1")]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let best = |run: &str| std::fs::read(place.path(run).join("checkpoints/best.safetensors")).unwrap();
    assert!(best("plain") == best("single"));
}

#[test]
fn strangers_at_the_port_do_not_end_a_run() {
    let place = Ranks::new();
    let port = free_port();
    let run = format!("pretrain flows.parquet --quantizer q.safetensors -o run --epochs 1 --quiet {NET}");
    let zero = place.rank(0, 2, port, &run);
    let began = Instant::now();
    let mut strangers = Vec::new();
    while strangers.len() < 20 {
        assert!(began.elapsed() < PATIENCE);
        let Ok(mut stranger) = TcpStream::connect(("127.0.0.1", port)) else {
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        let garbage = vec![strangers.len() as u8; 1 << (strangers.len() % 16)];
        let _ = stranger.write_all(&garbage);
        strangers.push(stranger);
    }
    let one = place.rank(1, 2, port, &run);
    for child in [zero, one] {
        let output = wait(child);
        assert!(output.status.success(), "{}", said(&output));
    }
}

/// Small enough for kernels that run on the processor.
const ON_GPU: &str = "--device cuda-f32 --layers 1 --width 8 --heads 2 --batch-tokens 128 --threads 1 --quiet";

/// Two ranks on the GPUs that `gpus` shows each of them, with the libraries of `directory`.
#[cfg(target_os = "linux")]
fn on_gpus(place: &Ranks, directory: &Path, gpus: [&str; 2], arguments: &str) -> Vec<Child> {
    let port = free_port();
    let start = |(rank, shown): (usize, &&str)| {
        let hangs = place.path(&format!("hang{rank}"));
        let variables = [
            ("LD_LIBRARY_PATH", directory),
            ("TRAFFICGPT_GPUS", Path::new("2")),
            ("CUDA_VISIBLE_DEVICES", Path::new(*shown)),
            ("TRAFFICGPT_GPU_HANGS", hangs.as_path()),
        ];
        place.rank_with(rank, 2, port, arguments, &variables)
    };
    gpus.iter().enumerate().map(start).collect()
}

/// The trainer on two GPUs, which sum through NCCL, with masks of dropout: the course of one. One goes on with what two began.
#[test]
#[cfg(target_os = "linux")]
fn two_gpus_learn_what_one_does() {
    let Some(libraries) = gpus::libraries() else { return };
    let place = Ranks::new();
    let one = |arguments: &str| {
        let output = place.command(arguments).env("LD_LIBRARY_PATH", &libraries.both).output().unwrap();
        assert!(output.status.success(), "{arguments}: {}", said(&output));
    };
    let two = |gpus: [&str; 2], arguments: &str| {
        for (rank, child) in on_gpus(&place, &libraries.both, gpus, arguments).into_iter().enumerate() {
            let output = wait(child);
            assert!(output.status.success(), "rank {rank}, {arguments}: {}", said(&output));
            assert!(rank == 0 || (output.stdout.is_empty() && output.stderr.is_empty()), "{}", said(&output));
        }
    };
    let begin = |output: &str, steps: u32| {
        format!(
            "pretrain flows.parquet --quantizer q.safetensors -o {output} --steps {steps} --accumulate 2 --log-every 1 \
             --eval-every 1 --with-classes --lr 3e-3 --schedule constant {DRAWS} {ON_GPU}"
        )
    };
    one(&begin("one", 4));
    two(["0,1", "0,1"], &begin("two", 4));
    place.alike("one", "two", &["loss", "grad_norm", "val_loss"]);
    assert_eq!(place.metrics("one", "tokens"), place.metrics("two", "tokens"));

    // Each rank is shown its own GPU alone, and both go on with what one began.
    one(&begin("parts", 2));
    two(["0", "1"], "pretrain --resume -o parts --steps 3 --quiet");
    one("pretrain --resume -o parts --steps 4 --quiet");
    place.alike("one", "parts", &["loss", "grad_norm", "val_loss"]);

    let tune = |output: &str| {
        format!(
            "finetune flows.parquet --from one -o {output} --steps 4 --eval-every 1 --log-every 1 --dropout 0.1 --lr 2e-3 \
             --device cuda-f32 --batch-tokens 128 --threads 1 --quiet"
        )
    };
    one(&tune("one-classifier"));
    two(["0,1", "0,1"], &tune("two-classifier"));
    place.alike("one-classifier", "two-classifier", &["loss", "grad_norm", "val_loss"]);
}

#[test]
#[cfg(target_os = "linux")]
fn gpus_that_are_not_as_they_must_be_are_told_before_anything_is_read() {
    let Some(libraries) = gpus::libraries() else { return };
    let place = Ranks::new();
    let run = format!("pretrain nothing.parquet --quantizer q.safetensors -o run --rank-timeout 20 {ON_GPU}");
    for (directory, gpus, word) in [
        (&libraries.both, ["1", "1"], "ranks 0 and 1 have one GPU"),
        (&libraries.both, ["0,1", "0"], "ranks 0 and 1 have one GPU"),
        (&libraries.both, ["0", ""], "finds no GPU"),
        (&libraries.driver, ["0", "1"], "libnccl.so.2"),
    ] {
        for child in on_gpus(&place, directory, gpus, &run) {
            let output = wait(child);
            let said = said(&output);
            assert!(!output.status.success() && said.contains(word), "{gpus:?}: {said}");
        }
        assert!(!place.path("run").exists());
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_gpu_that_hangs_and_a_rank_that_dies_end_all_in_time() {
    let Some(libraries) = gpus::libraries() else { return };
    let place = Ranks::new();
    let long = LONG.replace("--rank-timeout 20", "--rank-timeout 3 --eval-every 100000");
    let start = || {
        let ranks = on_gpus(&place, &libraries.both, ["0,1", "0,1"], &format!("{long} {ON_GPU}"));
        place.await_step("run", 5);
        ranks
    };
    let ranks = start();
    std::fs::write(place.path("hang1"), "").unwrap();
    for child in ranks {
        let output = wait(child);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("rank 1") && said.contains("has not answered for 3 s"), "{said}");
    }
    std::fs::remove_file(place.path("hang1")).unwrap();
    std::fs::remove_dir_all(place.path("run")).unwrap();

    let mut ranks = start();
    let mut killed = ranks.remove(1);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let output = wait(ranks.remove(0));
    let said = said(&output);
    assert!(output.status.code() == Some(1) && said.contains("rank 1 at 127.0.0.1:"), "{said}");
}
