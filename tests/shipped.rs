//! What the repository ships works together: the model in `examples/models` on the captures in `examples/captures`.
#![cfg(feature = "train")]
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use trafficgpt::classifier::Classifier;
use trafficgpt::config::Settings;
use trafficgpt::context::Context;
use trafficgpt::generator::Generator;
use trafficgpt::meter::{self, meter_file};
use trafficgpt::packet::{Packet, Rows};
use trafficgpt::sampling::Sampling;
use trafficgpt::train::table::Labels;
use trafficgpt::worker::Worker;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

fn native() -> Context {
    let mut settings = Settings::default();
    settings.set("engine", "native").unwrap();
    Context::new(settings)
}

/// Another run of the laboratory than those the model saw, with other hosts; `NTP` is a class it does not know.
#[test]
fn the_model_names_most_flows_of_the_mixed_capture() {
    let labels = Labels::read(&example("captures/labels.csv")).unwrap();
    let (mut flows, mut truth) = (Rows::new(), Vec::new());
    meter_file(&example("captures/mixed.pcap.gz"), &meter::Options::default(), &mut |flow| {
        if let Some(label) = labels.find(&flow.key, flow.start_ns, flow.end_ns) {
            flows.push(flow.packets);
            truth.push(label.to_string());
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(truth.len(), 584);
    let classifier = Classifier::open(&native(), &example("models/protocols.tgpt")).unwrap();
    let mut verdicts = vec![0; flows.len()];
    classifier.classify(&mut Worker::new(), flows.as_ragged(), &mut verdicts, None).unwrap();
    let name = |verdict: &u32| classifier.labels().get(*verdict as usize).map(String::as_str);
    let right = verdicts.iter().zip(&truth).filter(|(verdict, truth)| name(verdict) == Some(truth.as_str())).count();
    assert!(right * 100 >= 80 * truth.len(), "{right} of {} flows", truth.len());
}

#[test]
fn the_model_generates_flows_of_every_class() {
    let generator = Generator::open(&native(), &example("models/protocols.tgpt")).unwrap();
    let mut worker = Worker::new();
    let mut out = Rows::<Packet>::new();
    assert_eq!(generator.classes().len(), 19);
    for class in 0..generator.classes().len() as u32 {
        let sampling = Sampling { class: Some(class), seed: 1, max_packets: 20, ..Sampling::default() };
        generator.generate(&mut worker, &sampling, 5, &mut out).unwrap();
        assert_eq!(out.len(), 5);
        for flow in out.as_ragged().rows() {
            assert!((1..=20).contains(&flow.len()), "{} packets", flow.len());
            flow.iter().for_each(|packet| packet.check().unwrap());
        }
    }
}
