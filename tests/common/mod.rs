//! What several test programs need: a small bundle with random weights, and flows to feed it.
#![allow(dead_code)]

pub mod cpp;

use tempfile::TempDir;
use trafficgpt::bundle::{self, ClassifierSpec, Parts, Pool};
use trafficgpt::gpt2::{Config, Weights};
use trafficgpt::head::{Head, Linear};
use trafficgpt::packet::{Packet, Rows};
use trafficgpt::quantizer::class_spread::ClassPackets;
use trafficgpt::quantizer::columns::Columns;
use trafficgpt::quantizer::histogram::Histogram;
use trafficgpt::quantizer::spread::Spread;
use trafficgpt::quantizer::{Codebook, Quantizer, Scaler};
use trafficgpt::random::Stream;
use trafficgpt::tokens::Vocabulary;
#[cfg(feature = "train")]
use trafficgpt::train::table::Row;

/// A bundle directory that is removed when dropped.
pub struct TestBundle {
    _directory: TempDir,
    path: std::path::PathBuf,
}

impl TestBundle {
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
}

/// Centroids on a grid over sizes and times, so that no two packets of a kind fall together.
pub fn grid_quantizer() -> Quantizer {
    grid(60)
}

fn grid(k: u32) -> Quantizer {
    let centroids = (0..k).map(|i| [(i % 12) as f32 / 6.0 - 0.9, (i / 12) as f32 * 1.5]).collect();
    let codebook = Codebook::new(centroids).unwrap();
    let packets: Vec<Packet> = (0..4000i32)
        .map(|i| Packet { size: (i % 290) * 10 - 1440, ipt_us: 10f32.powf((i % 61) as f32 / 10.0) })
        .collect();
    let mut histogram = Histogram::default();
    histogram.add(&packets).unwrap();
    let spread = Spread::new(&Columns::new(histogram, Scaler::Log1pUs).unwrap().0, &codebook);
    Quantizer::new(Scaler::Log1pUs, codebook).with_spread(spread.layers()).unwrap()
}

/// Two layers of 32, random and large enough weights that labels and flows differ.
pub fn random_bundle() -> TestBundle {
    bundle_of(60, 128)
}

/// The same with `k` centroids.
pub fn other_bundle(k: u32) -> TestBundle {
    bundle_of(k, 128)
}

/// The same for flows of at most 30 packets.
pub fn short_bundle() -> TestBundle {
    bundle_of(60, 32)
}

/// The first, with packets of each of its three classes behind each centroid.
pub fn classes_bundle() -> TestBundle {
    let (quantizer, flows) = (grid(60), flows(60));
    let mut packets = ClassPackets::new(3);
    for (i, flow) in flows.as_ragged().rows().enumerate() {
        let mut tokens = vec![0; flow.len()];
        quantizer.encode(flow, &mut tokens).unwrap();
        packets.add(i as u32 % 3, &tokens, flow);
    }
    bundle_with(&packets.spread(quantizer).unwrap(), 128)
}

fn bundle_of(k: u32, n_positions: usize) -> TestBundle {
    bundle_with(&grid(k), n_positions)
}

fn bundle_with(quantizer: &Quantizer, n_positions: usize) -> TestBundle {
    let k = quantizer.n_tokens() as u32;
    let vocabulary = Vocabulary::new(k, ["dns", "tls", "web"].map(String::from));
    let config = Config { n_positions, ..Config::new(vocabulary.len(), 2, 32, 4) };
    let mut weights = Weights::init(&config, 4).unwrap();
    weights.data_mut().iter_mut().for_each(|w| *w *= if w.abs() < 0.5 { 8.0 } else { 1.0 });
    let mut draws = Stream::new(1, 1);
    let mut normal = |n: usize| (0..n).map(|_| draws.uniform() as f32 - 0.5).collect::<Vec<_>>();
    let head = Head::Linear(Linear { weight: normal(3 * 32), bias: normal(3), temperature: 1.0 });
    let spec = ClassifierSpec {
        labels: ["dns", "tls", "web"].map(String::from).to_vec(),
        head: "linear".into(),
        pool: Pool::Packets,
        reject_below: 0.0,
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("random.tgpt");
    let parts = Parts {
        quantizer,
        vocabulary: &vocabulary,
        weights: &weights,
        classifier: Some((spec, &head)),
        forest: None,
        training: serde_json::Value::Null,
    };
    bundle::write(&path, &parts).unwrap();
    TestBundle { _directory: directory, path }
}

/// `n` flows of 1 to 130 packets of all sizes and times.
pub fn flows(n: usize) -> Rows<Packet> {
    let mut draws = Stream::new(2, 2);
    (0..n)
        .map(|_| {
            let len = 1 + draws.below(130);
            let packets: Vec<Packet> = (0..len)
                .map(|_| {
                    let sign = if draws.uniform() < 0.5 { 1 } else { -1 };
                    let ipt_us = 10f64.powf(7.0 * draws.uniform()) as f32;
                    Packet { size: sign * (40 + draws.below(1460) as i32), ipt_us }
                })
                .collect();
            packets
        })
        .collect()
}

/// The same flows: sizes exactly, times within the nanosecond of a capture's clock and the rounding of f32.
#[cfg(feature = "train")]
pub fn assert_same_flows(a: &[Row], b: &[Row]) {
    let sorted = |rows: &[Row]| {
        let mut packets: Vec<Vec<Packet>> = rows.iter().map(|r| r.packets.clone()).collect();
        let times = |p: &[Packet]| p.iter().map(|p| p.ipt_us.to_bits()).collect::<Vec<_>>();
        packets.sort_by_key(|p| (p.iter().map(|p| p.size).collect::<Vec<_>>(), times(p)));
        packets
    };
    assert_eq!(a.len(), b.len());
    for (a, b) in sorted(a).iter().zip(&sorted(b)) {
        assert_eq!(a.len(), b.len());
        for (a, b) in a.iter().zip(b) {
            assert_eq!(a.size, b.size);
            let bound = 1.1e-3 + 2e-7 * a.ipt_us;
            assert!((a.ipt_us - b.ipt_us).abs() <= bound, "{} came back as {}", a.ipt_us, b.ipt_us);
        }
    }
}
