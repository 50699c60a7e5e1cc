//! A bundle through the public API: every engine, batch and worker gives the same answers.
#![cfg(feature = "train")]
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stderr)]

mod common;

use common::{cpp, flows, random_bundle};
use trafficgpt::Kind;
use trafficgpt::bundle::Bundle;
use trafficgpt::classifier::{Classifier, UNKNOWN};
use trafficgpt::config::Settings;
use trafficgpt::context::Context;
use trafficgpt::engine::EngineKind;
use trafficgpt::generator::Generator;
use trafficgpt::packet::{Packet, Ragged, Rows};
use trafficgpt::sampling::{Decode, Sampling};
use trafficgpt::worker::Worker;

/// A context on `engine`, or `None` with the reason printed where ONNX Runtime is not there.
fn context(engine: &str) -> Option<Context> {
    let mut settings = Settings::default();
    settings.set("engine", engine).unwrap();
    if engine == "onnx"
        && let Err(error) = trafficgpt::engine::onnx::find_library(None)
    {
        eprintln!("skipped: {error}");
        return None;
    }
    Some(Context::new(settings))
}

fn classify(classifier: &Classifier, worker: &mut Worker, flows: Ragged<'_, Packet>) -> (Vec<u32>, Vec<f32>) {
    let mut labels = vec![0; flows.len()];
    let mut scores = vec![0.0; flows.len() * classifier.labels().len()];
    classifier.classify(worker, flows, &mut labels, Some(&mut scores)).unwrap();
    (labels, scores)
}

fn generate(generator: &Generator, worker: &mut Worker, sampling: &Sampling, n: usize) -> Vec<Vec<Packet>> {
    let mut out = Rows::new();
    generator.generate(worker, sampling, n, &mut out).unwrap();
    out.as_ragged().rows().map(<[Packet]>::to_vec).collect()
}

#[test]
fn native_and_onnx_agree_on_labels_embeddings_and_flows() {
    let bundle = random_bundle();
    let (Some(native), Some(onnx)) = (context("native"), context("onnx")) else { return };
    let flows = flows(200);
    let mut worker = Worker::new();
    let a = Classifier::open(&native, bundle.path()).unwrap();
    let b = Classifier::open(&onnx, bundle.path()).unwrap();
    assert_eq!((a.engine(), b.engine()), (EngineKind::Native, EngineKind::Onnx));
    let (labels_a, scores_a) = classify(&a, &mut worker, flows.as_ragged());
    let (labels_b, scores_b) = classify(&b, &mut worker, flows.as_ragged());
    let worst = scores_a.iter().zip(&scores_b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-4, "scores differ by {worst}");
    assert_eq!(labels_a, labels_b);
    let firsts = || scores_a.iter().step_by(3).copied();
    let spread = firsts().fold(0.0, f32::max) - firsts().fold(1.0, f32::min);
    assert!(spread > 0.01, "scores that are all alike ({spread}) would prove nothing");

    let a = Generator::open(&native, bundle.path()).unwrap();
    let b = Generator::open(&onnx, bundle.path()).unwrap();
    let sampling = Sampling { seed: 5, class: Some(1), ..Sampling::default() };
    assert_eq!(generate(&a, &mut worker, &sampling, 100), generate(&b, &mut worker, &sampling, 100));
}

/// The best and the second best of a flow's scores.
fn two_best(scores: &[f32]) -> [f32; 2] {
    let mut sorted = scores.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    [sorted[0], sorted[1]]
}

/// Where a GPU answers, or what takes its place in [`the_driver_on_the_cpu`].
#[test]
fn cuda_gives_the_natives_labels_flows_and_scores() {
    if let Err(error) = trafficgpt::cuda::device::count() {
        eprintln!("skipped: {error}");
        return;
    }
    let bundle = random_bundle();
    let flows = flows(30);
    let flows = flows.as_ragged();
    let mut worker = Worker::new();
    let native = Classifier::open(&context("native").unwrap(), bundle.path()).unwrap();
    let (labels, scores) = classify(&native, &mut worker, flows);
    for (precision, allowed) in [("f32", 1e-5), ("bf16", 0.05)] {
        let mut settings = Settings::default();
        settings.set("engine", "cuda").unwrap();
        settings.set("precision", precision).unwrap();
        let cuda = Classifier::open(&Context::new(settings), bundle.path()).unwrap();
        assert_eq!(cuda.engine(), EngineKind::Cuda);
        let (got_labels, got_scores) = classify(&cuda, &mut worker, flows);
        let off = scores.iter().zip(&got_scores).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        assert!(off < allowed, "{precision}: scores differ by {off}");
        let n = native.labels().len();
        for (i, (got, expected)) in got_labels.iter().zip(&labels).enumerate() {
            let [best, next] = two_best(&scores[i * n..(i + 1) * n]);
            assert!(got == expected || best - next < 2.0 * allowed, "{precision}: flow {i} is {got}, not {expected}");
        }
    }

    // What names no engine takes the GPU.
    let cuda = Generator::open(&Context::new(Settings::default()), bundle.path()).unwrap();
    let native = Generator::open(&context("native").unwrap(), bundle.path()).unwrap();
    assert_eq!((cuda.engine(), native.engine()), (EngineKind::Cuda, EngineKind::Native));
    let plain = Sampling { seed: 5, class: Some(1), max_packets: 24, ..Sampling::default() };
    let choosy = Sampling { top_k: 20, top_p: 0.9, temperature: 0.8, banned: vec![3, 17], ..plain.clone() };
    for sampling in [plain.clone(), choosy, Sampling { seed: 6, class: None, ..plain.clone() }] {
        let expected = generate(&native, &mut worker, &sampling, 30);
        assert_eq!(generate(&cuda, &mut worker, &sampling, 30), expected, "{sampling:?}");
    }
    let begun: Vec<&[Packet]> = (0..20).map(|i| &flows.row(i)[..flows.row(i).len().min(i % 6)]).collect();
    assert_eq!(continued(&cuda, &plain, &begun), continued(&native, &plain, &begun));
    let [mut got, mut expected] = [vec![0.0; flows.len()], vec![0.0; flows.len()]];
    cuda.score(&mut worker, Some(2), flows, &mut got).unwrap();
    native.score(&mut worker, Some(2), flows, &mut expected).unwrap();
    for (i, (a, b)) in expected.iter().zip(&got).enumerate() {
        assert!((a - b).abs() < 1e-4 * a.abs().max(1.0), "flow {i}: {a} native, {b} cuda");
    }
}

/// The one before in a process that finds a driver which runs the kernels on the CPU.
#[test]
#[cfg(target_os = "linux")]
fn the_driver_on_the_cpu() {
    let Some(driver) = cpp::Libraries::compile(&[cpp::DRIVER]) else { return };
    let text = driver.run("cuda_gives_the_natives", &[]);
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
fn a_flow_is_classified_alike_alone_and_in_any_batch() {
    let bundle = random_bundle();
    let flows = flows(50);
    for engine in ["native", "onnx"] {
        let Some(context) = context(engine) else { continue };
        let classifier = Classifier::open(&context, bundle.path()).unwrap();
        let mut worker = Worker::new();
        let (labels, scores) = classify(&classifier, &mut worker, flows.as_ragged());
        for i in 0..flows.len() {
            let one: Rows<Packet> = [flows.row(i).to_vec()].into_iter().collect();
            let (label, score) = classify(&classifier, &mut worker, one.as_ragged());
            assert_eq!(label[0], labels[i], "{engine}, flow {i}");
            let n = classifier.labels().len();
            for (a, b) in score.iter().zip(&scores[i * n..(i + 1) * n]) {
                assert!((a - b).abs() < 1e-5, "{engine}, flow {i}: {a} alone, {b} in the batch");
            }
        }
    }
}

#[test]
fn packets_past_what_the_network_reads_change_nothing() {
    let bundle = random_bundle();
    let classifier = Classifier::open(&context("native").unwrap(), bundle.path()).unwrap();
    let mut worker = Worker::new();
    let long: Vec<Packet> = (0..400).map(|i| Packet { size: 40 + i, ipt_us: i as f32 }).collect();
    let rows: Rows<Packet> = [long.clone(), long[..126].to_vec()].into_iter().collect();
    let (_, scores) = classify(&classifier, &mut worker, rows.as_ragged());
    let n = classifier.labels().len();
    assert_eq!(scores[..n], scores[n..]);
}

#[test]
fn the_same_seed_gives_the_same_flows_however_the_run_is_cut() {
    let bundle = random_bundle();
    let context = context("native").unwrap();
    let generator = Generator::open(&context, bundle.path()).unwrap();
    let sampling = Sampling { seed: 9, class: Some(0), ..Sampling::default() };
    let whole = generate(&generator, &mut Worker::new(), &sampling, 150);
    let mut parts = generate(&generator, &mut Worker::new(), &sampling, 7);
    let rest = Sampling { first_flow: 7, ..sampling.clone() };
    parts.extend(generate(&generator, &mut Worker::new(), &rest, 143));
    assert_eq!(whole, parts);
    let other = Sampling { seed: 10, ..sampling.clone() };
    assert_ne!(whole, generate(&generator, &mut Worker::new(), &other, 150));

    assert!(whole.iter().all(|f| (1..=126).contains(&f.len()) && f[0].ipt_us == 0.0));
    let capped = Sampling { max_packets: 3, ..sampling };
    assert!(generate(&generator, &mut Worker::new(), &capped, 40).iter().all(|f| f.len() <= 3));
}

fn continued(generator: &Generator, sampling: &Sampling, begun: &[&[Packet]]) -> Vec<Vec<Packet>> {
    let begun: Rows<Packet> = begun.iter().map(|row| row.to_vec()).collect();
    let mut out = Rows::new();
    generator.continue_flows(&mut Worker::new(), sampling, begun.as_ragged(), &mut out).unwrap();
    out.as_ragged().rows().map(<[Packet]>::to_vec).collect()
}

#[test]
fn flows_go_on_from_where_they_were_cut() {
    let bundle = random_bundle();
    let real = flows(130);
    let begun =
        |n: usize| (0..real.len()).map(|i| &real.row(i)[..real.row(i).len().min(n + i % 3)]).collect::<Vec<_>>();
    let sampling = Sampling { seed: 11, class: Some(2), ..Sampling::default() };
    let mut of_engines = Vec::new();
    for engine in ["native", "onnx"] {
        let Some(context) = context(engine) else { continue };
        let generator = Generator::open(&context, bundle.path()).unwrap();
        let whole = continued(&generator, &sampling, &begun(2));
        for (flow, begun) in whole.iter().zip(begun(2)) {
            assert_eq!(&flow[..begun.len()], begun, "{engine}: the packets given come as they are");
        }
        assert!(whole.iter().zip(begun(2)).filter(|(flow, begun)| flow.len() > begun.len()).count() > 60);
        // Cut anywhere, a flow goes on as it did: its draws depend on the places of its packets alone.
        for n in [5, 9, 126] {
            let cut: Vec<&[Packet]> = whole.iter().enumerate().map(|(i, f)| &f[..f.len().min(n + i % 4)]).collect();
            assert_eq!(continued(&generator, &sampling, &cut), whole, "{engine}: cut after {n} packets");
        }
        // Alone or in other company.
        let part = continued(&generator, &Sampling { first_flow: 100, ..sampling.clone() }, &begun(2)[100..]);
        assert_eq!(part, whole[100..]);
        let other = continued(&generator, &Sampling { seed: 12, ..sampling.clone() }, &begun(2));
        assert_ne!(other, whole);
        // Nothing to go on from: a new flow.
        let none = vec![&[][..]; 70];
        assert_eq!(continued(&generator, &sampling, &none), generate(&generator, &mut Worker::new(), &sampling, 70));
        of_engines.push(whole);
    }
    assert!(of_engines.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn threads_change_no_flow() {
    let bundle = random_bundle();
    let real = flows(130);
    let begun: Vec<&[Packet]> = (0..real.len()).map(|i| &real.row(i)[..real.row(i).len().min(i % 4)]).collect();
    let sampling = Sampling { seed: 3, class: Some(1), top_p: 0.95, ..Sampling::default() };
    let of = |threads: &str| {
        let mut settings = Settings::default();
        settings.set("engine", "native").unwrap();
        settings.set("threads", threads).unwrap();
        continued(&Generator::open(&Context::new(settings), bundle.path()).unwrap(), &sampling, &begun)
    };
    let one = of("1");
    assert_eq!((of("2"), of("3")), (one.clone(), one));
}

#[test]
fn bounds_on_the_packets_and_banned_tokens_are_kept() {
    let bundle = random_bundle();
    let generator = Generator::open(&context("native").unwrap(), bundle.path()).unwrap();
    let mut worker = Worker::new();
    let plain = Sampling { seed: 2, ..Sampling::default() };
    let free = generate(&generator, &mut worker, &plain, 100);
    assert!(free.iter().any(|f| f.len() < 20) && free.iter().any(|f| f.len() > 40));
    let bounded = Sampling { min_packets: 20, max_packets: 40, ..plain.clone() };
    let bounded = generate(&generator, &mut worker, &bounded, 100);
    assert!(bounded.iter().all(|f| (20..=40).contains(&f.len())));
    let full = generate(&generator, &mut worker, &Sampling { min_packets: 126, ..plain.clone() }, 40);
    assert!(full.iter().all(|f| f.len() == 126));
    let endless = Sampling { banned: vec![generator.quantizer().n_tokens() as u32], max_packets: 50, ..plain.clone() };
    assert!(generate(&generator, &mut worker, &endless, 40).iter().all(|f| f.len() == 50));

    let banned: Vec<u32> = (0..40).collect();
    let flows = generate(&generator, &mut worker, &Sampling { banned: banned.clone(), ..plain.clone() }, 100);
    for flow in &flows {
        // The first packet's time is 0 by definition, so its token may be another.
        let mut tokens = vec![0; flow.len() - 1];
        generator.quantizer().encode(&flow[1..], &mut tokens).unwrap();
        assert!(tokens.iter().all(|token| !banned.contains(token)));
    }
}

#[test]
fn what_cannot_be_continued_is_refused_and_nothing_is_written() {
    let bundle = random_bundle();
    let generator = Generator::open(&context("native").unwrap(), bundle.path()).unwrap();
    let good = Packet { size: 100, ipt_us: 0.0 };
    let most = generator.max_packets();
    let mut out: Rows<Packet> = [vec![good]].into_iter().collect();
    let mut refused = |sampling: Sampling, begun: Vec<Vec<Packet>>| {
        let begun: Rows<Packet> = begun.into_iter().collect();
        let error = generator.continue_flows(&mut Worker::new(), &sampling, begun.as_ragged(), &mut out).unwrap_err();
        assert_eq!((error.kind(), out.row(0)), (Kind::Invalid, &[good][..]), "{error}");
        error.message().to_string()
    };
    let plain = Sampling::default;
    let said = refused(plain(), vec![vec![good], vec![good; most + 1]]);
    assert!(said.contains("flow 1 has 127 packets already") && said.contains("126"), "{said}");
    assert!(refused(Sampling { max_packets: 3, ..plain() }, vec![vec![good; 4]]).contains("flow 0 has 4"));
    for ipt_us in [f32::NAN, -1.0, f32::INFINITY] {
        let said = refused(plain(), vec![vec![good], vec![good, Packet { size: 60, ipt_us }]]);
        assert!(said.contains("flow 1") && said.contains("ipt_us"), "{said}");
    }
    assert!(refused(Sampling { min_packets: 127, ..plain() }, vec![]).contains("min_packets"));
    assert!(refused(Sampling { min_packets: 9, max_packets: 8, ..plain() }, vec![]).contains("min_packets"));
    assert!(refused(Sampling { class: Some(3), ..plain() }, vec![]).contains("class 3"));
    assert!(refused(Sampling { banned: vec![61], ..plain() }, vec![]).contains("61"));
    assert!(refused(Sampling { banned: (0..60).collect(), ..plain() }, vec![]).contains("all 60"));

    // Sizes that no packet has, and flows that have all their packets, are no reason to refuse.
    let odd = [i32::MIN, i32::MAX, 0].map(|size| Packet { size, ipt_us: f32::MAX });
    let full = vec![good; most];
    let flows = continued(&generator, &plain(), &[&odd[..], &full[..], &[]]);
    assert_eq!((&flows[0][..3], &flows[1]), (&odd[..], &full));
    assert!(!flows[2].is_empty());
    assert_eq!(continued(&generator, &plain(), &vec![&full[..]; 200]), vec![full; 200]);
    assert!(continued(&generator, &plain(), &[]).is_empty());
}

#[test]
fn sampled_packets_belong_to_the_tokens_that_centroids_show() {
    let bundle = random_bundle();
    let generator = Generator::open(&context("native").unwrap(), bundle.path()).unwrap();
    assert!(generator.can_sample_packets());
    let centroids = Sampling { seed: 9, ..Sampling::default() };
    let sampled = Sampling { decode: Decode::Sample, ..centroids.clone() };
    let mut worker = Worker::new();
    let quantizer = Bundle::open(bundle.path()).unwrap().quantizer;
    let tokens = |flow: &Vec<Packet>| {
        // The first packet's time is 0 by definition.
        let mut tokens = vec![0; flow.len() - 1];
        quantizer.encode(&flow[1..], &mut tokens).unwrap();
        tokens
    };
    let (a, b) = (generate(&generator, &mut worker, &centroids, 60), generate(&generator, &mut worker, &sampled, 60));
    assert_ne!(a, b);
    assert_eq!(a.iter().map(tokens).collect::<Vec<_>>(), b.iter().map(tokens).collect::<Vec<_>>());
    let rest = Sampling { first_flow: 50, ..sampled };
    assert_eq!(generate(&generator, &mut worker, &rest, 10), b[50..]);
}

#[test]
fn flows_score_alike_on_every_engine_alone_and_in_any_batch() {
    let bundle = random_bundle();
    let flows = flows(150);
    let native = Generator::open(&context("native").unwrap(), bundle.path()).unwrap();
    let mut worker = Worker::new();
    let mut scores = vec![0.0; flows.len()];
    native.score(&mut worker, Some(2), flows.as_ragged(), &mut scores).unwrap();
    for (i, &score) in scores.iter().enumerate() {
        let one: Rows<Packet> = [flows.row(i).to_vec()].into_iter().collect();
        let mut alone = [0.0];
        native.score(&mut worker, Some(2), one.as_ragged(), &mut alone).unwrap();
        assert_eq!(alone[0], score, "flow {i}");
    }
    let mut threads = Settings::default();
    threads.set("engine", "native").unwrap();
    threads.set("threads", "3").unwrap();
    let several = Generator::open(&Context::new(threads), bundle.path()).unwrap();
    let mut again = vec![0.0; flows.len()];
    several.score(&mut worker, Some(2), flows.as_ragged(), &mut again).unwrap();
    assert_eq!(scores, again);

    // ONNX Runtime reads the flows by decoding them, token after token: another way to the same numbers.
    let Some(onnx) = context("onnx") else { return };
    let onnx = Generator::open(&onnx, bundle.path()).unwrap();
    onnx.score(&mut worker, Some(2), flows.as_ragged(), &mut again).unwrap();
    for (i, (a, b)) in scores.iter().zip(&again).enumerate() {
        assert!((a - b).abs() < 1e-4 * a.abs().max(1.0), "flow {i}: {a} native, {b} onnx");
    }
}

#[test]
fn what_a_model_draws_scores_lower_than_what_it_does_not() {
    let bundle = random_bundle();
    let generator = Generator::open(&context("native").unwrap(), bundle.path()).unwrap();
    let mut worker = Worker::new();
    let mut mean = |sampling: &Sampling| {
        let drawn: Rows<Packet> = generate(&generator, &mut worker, sampling, 200).into_iter().collect();
        let mut scores = vec![0.0; drawn.len()];
        generator.score(&mut worker, Some(0), drawn.as_ragged(), &mut scores).unwrap();
        scores.iter().sum::<f32>() / 200.0
    };
    let own = Sampling { seed: 3, class: Some(0), ..Sampling::default() };
    let cold = mean(&Sampling { temperature: 0.3, ..own.clone() });
    let plain = mean(&own);
    let hot = mean(&Sampling { temperature: 3.0, ..own });
    assert!(cold + 0.2 < plain && plain + 0.2 < hot, "{cold}, {plain}, {hot}");
}

#[test]
fn classifier_and_generator_of_one_bundle_share_the_model() {
    let bundle = random_bundle();
    let context = context("native").unwrap();
    let classifier = Classifier::open(&context, bundle.path()).unwrap();
    let generator = Generator::open(&context, bundle.path()).unwrap();
    assert!(format!("{context:?}").matches("(Weak)").count() == 1, "{context:?}");
    drop(classifier);
    assert_eq!(generate(&generator, &mut Worker::new(), &Sampling::default(), 2).len(), 2);
}

#[test]
fn bad_requests_are_told_and_write_nothing() {
    let bundle = random_bundle();
    let context = context("native").unwrap();
    let classifier = Classifier::open(&context, bundle.path()).unwrap();
    let mut worker = Worker::new();
    let bad: Rows<Packet> =
        [vec![Packet { size: 40, ipt_us: 0.0 }], vec![Packet { size: 40, ipt_us: f32::NAN }]].into_iter().collect();
    let mut labels = [77; 2];
    let error = classifier.classify(&mut worker, bad.as_ragged(), &mut labels, None).unwrap_err();
    assert!(error.message().starts_with("flow 1: packet 0"), "{error}");
    assert_eq!(labels, [77; 2]);
    let empty: Rows<Packet> = [vec![]].into_iter().collect();
    assert_eq!(classifier.classify(&mut worker, empty.as_ragged(), &mut [0], None).unwrap_err().kind(), Kind::Invalid);
    let none = Rows::new();
    classifier.classify(&mut worker, none.as_ragged(), &mut [], Some(&mut [])).unwrap();
    assert!(classifier.classify(&mut worker, bad.as_ragged(), &mut [0], None).is_err());
    assert_ne!(UNKNOWN, 0);

    let generator = Generator::open(&context, bundle.path()).unwrap();
    let mut out = Rows::new();
    for sampling in
        [Sampling { class: Some(99), ..Sampling::default() }, Sampling { temperature: f32::NAN, ..Sampling::default() }]
    {
        assert_eq!(generator.generate(&mut worker, &sampling, 1, &mut out).unwrap_err().kind(), Kind::Invalid);
    }
    let mut scores = [7.0; 2];
    for (class, flows, named) in
        [(Some(99), &bad, "class 99"), (None, &bad, "flow 1: packet 0"), (None, &empty, "2 scores")]
    {
        let error = generator.score(&mut worker, class, flows.as_ragged(), &mut scores).unwrap_err();
        assert!(error.message().starts_with(named), "{error}");
    }
    assert_eq!(scores, [7.0; 2]);
    generator.score(&mut worker, None, none.as_ragged(), &mut []).unwrap();
    generator.generate(&mut worker, &Sampling::default(), 0, &mut out).unwrap();
    assert!(out.is_empty());
    let error = generator.generate(&mut worker, &Sampling::default(), usize::MAX, &mut out).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
}
