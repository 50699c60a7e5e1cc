//! What accuracy costs: labelled flows through each bundle's classifier, native engine, one thread.
//!
//! `cargo bench --features train --bench edge -- TABLE SPLIT BUNDLE...` prints a line each: parameters, accuracy and
//! macro-F1 of the flows of that split, and microseconds a flow of one core, from packets to a verdict, when flows come
//! 1, 32 or 256 at a time. `PRECISION=bf16` rounds; it is Linux that tells the time.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::path::Path;
use trafficgpt::bundle::Bundle;
use trafficgpt::classifier::Classifier;
use trafficgpt::config::Settings;
use trafficgpt::context::Context;
use trafficgpt::packet::{Packet, Rows};
use trafficgpt::train::metrics::Confusion;
use trafficgpt::train::table::Table;
use trafficgpt::worker::Worker;

const BATCHES: [usize; 3] = [1, 32, 256];
/// Flows whose classification is timed, and how often.
const TIMED: usize = 1024;
const ROUNDS: usize = 9;
/// Shortest time of a round: the kernel may count a thread's time in steps of 4 ms.
const SECONDS: f64 = 0.4;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [table, split, bundles @ ..] = &arguments[..] else {
        println!("skipped: give a table of flows, a split of it and bundles");
        return;
    };
    let table = Table::read(Path::new(table)).unwrap();
    let chosen = table.rows.iter().filter(|row| row.split.is_some_and(|s| s.name() == split));
    let (flows, labels): (Vec<&[Packet]>, Vec<&str>) =
        chosen.filter_map(|row| Some((&row.packets[..], row.label.as_deref()?))).unzip();
    let mut settings = Settings::default();
    settings.set("engine", "native").unwrap();
    if let Ok(precision) = std::env::var("PRECISION") {
        settings.set("precision", &precision).unwrap();
    }
    let context = Context::new(settings);

    println!("{} flows of split {split}", flows.len());
    println!("| bundle | parameters | accuracy | macro-F1 | us a flow, 1 at a time | 32 | 256 |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    for bundle in bundles.iter().map(Path::new) {
        let parameters = Bundle::open(bundle).unwrap().weights.data().len();
        let classifier = Classifier::open(&context, bundle).unwrap();
        let scores = judge(&classifier, &flows, &labels).scores();
        let times = BATCHES.map(|batch| format!("{:.1}", time(&classifier, &flows, batch)));
        let name = bundle.file_name().unwrap_or_default().to_string_lossy();
        let (accuracy, f1) = (scores.accuracy, scores.macro_f1);
        println!("| {name} | {parameters} | {accuracy:.3} | {f1:.3} | {} |", times.join(" | "));
    }
}

/// Labels that the classifier does not know can only be missed.
fn judge(classifier: &Classifier, flows: &[&[Packet]], labels: &[&str]) -> Confusion {
    let mut names = classifier.labels().to_vec();
    names.extend(labels.iter().filter(|l| !classifier.labels().iter().any(|name| name == *l)).map(|l| l.to_string()));
    names[classifier.labels().len()..].sort();
    names.dedup();
    let mut verdicts = vec![0; flows.len()];
    let rows: Rows<Packet> = flows.iter().map(|flow| flow.iter().copied()).collect();
    classifier.classify(&mut Worker::new(), rows.as_ragged(), &mut verdicts, None).unwrap();
    let mut confusion = Confusion::new(names.len());
    for (verdict, label) in verdicts.into_iter().zip(labels) {
        let truth = names.iter().position(|name| name == label).unwrap();
        // "Unknown" is no label, and neither is one that the classifier does not have.
        confusion.add(truth as u32, verdict).unwrap();
    }
    confusion
}

/// Seconds that this thread has had a processor for: other work on the machine lengthens them less than the clock's.
fn seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

/// Microseconds a flow, the median of some rounds.
fn time(classifier: &Classifier, flows: &[&[Packet]], batch: usize) -> f64 {
    let flows = &flows[..flows.len().min(TIMED)];
    let batches: Vec<Rows<Packet>> =
        flows.chunks(batch).map(|part| part.iter().map(|flow| flow.iter().copied()).collect()).collect();
    let (mut worker, mut verdicts) = (Worker::new(), vec![0; batch]);
    let mut pass = || {
        for batch in &batches {
            classifier.classify(&mut worker, batch.as_ragged(), &mut verdicts[..batch.len()], None).unwrap();
        }
    };
    pass();
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let (start, mut passes) = (seconds(), 0);
            while seconds() - start < SECONDS {
                pass();
                passes += 1;
            }
            1e6 * (seconds() - start) / (passes * flows.len()) as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}
