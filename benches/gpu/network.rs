//! The network `base` with random weights: classifying (up to the embedding; the head is the host's) and generating.

use crate::{LAUNCHES, RUNS, median, timed};
use std::path::Path;
use std::sync::Arc;
use trafficgpt::cuda::device::Device;
use trafficgpt::cuda::gpt2::Options;
use trafficgpt::engine::cuda::Cuda;
use trafficgpt::engine::draw::{Draw, Drawing};
use trafficgpt::engine::{Engine, Precision, Session};
use trafficgpt::gpt2::{Config, Weights};
use trafficgpt::packet::Rows;
use trafficgpt::random::Stream;
use trafficgpt::sampling::Sampling;
use trafficgpt::tokens::{Token, Vocabulary};

/// The papers' codebook.
const PACKETS: u32 = 9902;

/// Tokens of a flow that is classified.
const TOKENS: usize = 22;

/// Packets of a flow that is generated; no flow ends before.
const DRAWN: usize = 126;

/// Fewest runs, and seconds, of a measurement.
const LEAST_RUNS: usize = 20;
const SECONDS: f64 = 2.0;

/// What is said of launches that are not replayed.
const PLAIN: &str = ", launched one by one";

fn vocabulary() -> Vocabulary {
    Vocabulary::new(PACKETS, ["class".to_string()])
}

pub fn base() -> Weights {
    Weights::init(&Config::new(vocabulary().len(), 6, 512, 8), 1).unwrap()
}

/// Under Hugging Face's names.
pub fn write_weights(path: &Path) {
    let weights = base();
    let tensors: Vec<_> = weights
        .tensors()
        .into_iter()
        .map(|t| {
            let bytes = weights.data()[t.range].iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
            (t.name, t.shape, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap();
        (name.clone(), view)
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// Rows of the table.
pub fn rows(device: &Device) -> Vec<String> {
    let weights = Arc::new(base());
    let bandwidth = median(RUNS, || device.copy_bandwidth(1 << 29, LAUNCHES).unwrap());
    let mut rows = Vec::new();
    for precision in [Precision::F32, Precision::Bf16] {
        let open = |plain_launches| {
            let options = Options { plain_launches, ..Options::default() };
            timed(|| Cuda::open(weights.clone(), precision, &options).unwrap())
        };
        let (engine, seconds) = open(false);
        rows.push(format!("| network in {precision:?}: loaded and checked | {seconds:.2} s | |"));
        let peak = peak(device.name(), precision);
        rows.extend([1, 64, 4096].map(|flows| classify(&engine, precision, peak, flows, "")));
        rows.extend([64, 1024, 8192].map(|flows| generate(&engine, precision, bandwidth, flows, "")));
        // The same where it counts that launches are replayed, without that.
        drop(engine);
        let (engine, _) = open(true);
        rows.extend([1, 64].map(|flows| classify(&engine, precision, peak, flows, PLAIN)));
        rows.extend([64, 1024].map(|flows| generate(&engine, precision, bandwidth, flows, PLAIN)));
    }
    rows
}

/// FLOP/s of the unit that multiplies, by NVIDIA's data sheet, where it is known.
pub fn peak(name: &str, precision: Precision) -> Option<f64> {
    let hopper = name.contains("H100") || name.contains("H200");
    hopper.then_some(match precision {
        Precision::F32 => 67e12,
        Precision::Bf16 => 990e12,
    })
}

/// Seconds of each of many runs, rising; the first run is not counted.
pub fn runs(mut run: impl FnMut()) -> Vec<f64> {
    run();
    let mut seconds = Vec::new();
    while seconds.len() < LEAST_RUNS || seconds.iter().sum::<f64>() < SECONDS {
        seconds.push(timed(&mut run).1);
    }
    seconds.sort_by(f64::total_cmp);
    seconds
}

/// `percent` of `values` are not above this.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    values[(values.len() * percent / 100).min(values.len() - 1)]
}

fn row(what: String, flows: usize, seconds: &[f64], share: Option<f64>) -> String {
    let [half, most] = [50, 99].map(|percent| percentile(seconds, percent));
    let share = share.map_or(String::new(), |share| format!("{:.1}%", 100.0 * share));
    format!(
        "| {what} | {:.0} flows/s; p50 {:.3} ms, p99 {:.3} ms | {share} |",
        flows as f64 / half,
        1e3 * half,
        1e3 * most
    )
}

fn classify(engine: &Arc<Cuda>, precision: Precision, peak: Option<f64>, flows: usize, how: &str) -> String {
    let config = engine.config().clone();
    let mut draws = Stream::new(1, 2);
    let rows: Rows<Token> =
        (0..flows).map(|_| (0..TOKENS).map(|_| draws.below(PACKETS as usize) as Token).collect::<Vec<_>>()).collect();
    let mut out = vec![0.0; flows * config.n_embd];
    let mut session = engine.clone().session().unwrap();
    let seconds = runs(|| session.embed(rows.as_ragged(), 1, &mut out).unwrap());
    // Products, and the attention to all tokens so far.
    let d = config.n_embd as f64;
    let each = TOKENS as f64 * config.n_layer as f64 * (24.0 * d * d + 2.0 * d * (TOKENS as f64 + 1.0));
    let share = peak.map(|peak| flows as f64 * each / peak / percentile(&seconds, 50));
    row(format!("classify, {precision:?}, batch of {flows}, {TOKENS} tokens{how}"), flows, &seconds, share)
}

fn generate(engine: &Arc<Cuda>, precision: Precision, bandwidth: f64, flows: usize, how: &str) -> String {
    let config = engine.config().clone();
    let vocabulary = vocabulary();
    let sampling = Sampling::default();
    let mut session = engine.clone().session().unwrap();
    if session.best_slots() < flows {
        return format!("| generate, {precision:?}, {flows} flows at once{how} | no memory for so many caches | |");
    }
    let slots: Vec<usize> = (0..flows).collect();
    let seconds = runs(|| run(session.as_mut(), &vocabulary, &sampling, &slots));
    // What must move: all weights at each step, and of the caches what is there.
    let width = if precision == Precision::F32 { 4.0 } else { 2.0 };
    let weights = width * config.n_parameters() as f64;
    let position = 2.0 * width * (config.n_layer * config.n_embd) as f64;
    let bytes = DRAWN as f64 * (weights + flows as f64 * position * (DRAWN as f64 + 1.0) / 2.0);
    let share = bytes / bandwidth / percentile(&seconds, 50);
    let what = format!("generate, {precision:?}, {flows} flows of {DRAWN} packets at once{how}");
    row(what, flows, &seconds, Some(share))
}

fn run(session: &mut dyn Session, vocabulary: &Vocabulary, sampling: &Sampling, slots: &[usize]) {
    let mut drawing = Drawing::new(vocabulary, sampling).unwrap();
    let mut tokens = vec![vocabulary.bof; slots.len()];
    session.begin(slots.len()).unwrap();
    for step in 0..DRAWN as u32 {
        let draw = |&slot: &usize| Some(Draw { flow: slot as u64, step, may_end: false });
        let draws: Vec<Option<Draw>> = slots.iter().map(draw).collect();
        session.draw(slots, &mut tokens, &draws, &mut drawing).unwrap();
    }
}
