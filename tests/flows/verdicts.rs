//! When a verdict comes, and on which packets it rests.

use crate::bench::{Bench, START, UDP, all_told, options, packet, reply};
use trafficgpt::flows::{Count, Observation, Options, Reason, Verdict};
use trafficgpt::packet::{Packet, Ragged};
use trafficgpt::worker::Worker;

/// Packets of all sizes, one direction after the other, at times that grow, and what they are offline.
fn conversation(id: u32, n: usize) -> (Vec<Observation>, Vec<Packet>) {
    let (mut observations, mut packets) = (Vec::new(), Vec::new());
    let mut ts_ns = START;
    for i in 0..n as u64 {
        let since = if i == 0 { 0 } else { 1 << (i * 5 % 31) };
        ts_ns += since;
        let size = 40 + (i as u32 * 397 + id * 31) % 1460;
        let from_client = i % 3 != 1;
        let o = Observation { ts_ns, size, ..packet(id, 0) };
        observations.push(if from_client { o } else { reply(o) });
        let size = if from_client { size as i32 } else { -(size as i32) };
        packets.push(Packet { size, ipt_us: (since as f64 / 1000.0) as f32 });
    }
    (observations, packets)
}

fn offline(bench: &Bench, packets: &[Packet]) -> (u32, f32) {
    let (mut label, mut scores) = ([0], vec![0.0; bench.classifier.labels().len()]);
    let offsets = [0, packets.len() as u64];
    let flows = Ragged::new(packets, &offsets).unwrap();
    bench.classifier.classify(&mut Worker::new(), flows, &mut label, Some(&mut scores)).unwrap();
    (label[0], scores.into_iter().fold(0.0, f32::max))
}

#[test]
fn a_verdict_comes_at_every_count_and_equals_the_classifiers() {
    let mut bench = Bench::new(&options());
    let (observations, packets) = conversation(7, 40);
    let mut labels = Vec::new();
    for (i, o) in observations.iter().enumerate() {
        bench.push(*o);
        let verdicts = bench.poll_at(o.ts_ns);
        let n = i + 1;
        if ![4, 8, 16, 32].contains(&n) {
            assert_eq!(verdicts, [], "{n}");
            continue;
        }
        let [verdict] = verdicts[..] else { panic!("{n}: {verdicts:?}") };
        assert_eq!(all_told(&[verdict]), [(7, Reason::Count, n as u8, n == 32)]);
        assert_eq!((verdict.label, verdict.score), offline(&bench, &packets[..n]));
        assert_eq!((verdict.start_ns, verdict.last_ns, verdict.n_packets), (START, o.ts_ns, n as u32));
        assert_eq!((verdict.client, verdict.server), (observations[0].src, observations[0].dst));
        assert_eq!(
            (verdict.client_port, verdict.server_port, verdict.protocol, verdict.ip_version),
            (5000, 443, UDP, 4)
        );
        labels.push((verdict.label, verdict.score.to_bits()));
    }
    // A model that says the same of any packets would show nothing.
    labels.dedup();
    assert_eq!(labels.len(), 4);
    bench.flows.flush();
    assert_eq!(bench.poll_at(START), [], "its final verdict was given");
    assert_eq!(bench.counts([Count::Verdicts, Count::Final, Count::Tracked, Count::Tokens]), [4, 1, 0, 32]);
}

#[test]
fn a_late_poll_looks_at_the_last_count_reached() {
    let mut bench = Bench::new(&options());
    let (observations, packets) = conversation(1, 30);
    bench.flows.push(&observations);
    let verdicts = bench.poll_at(START);
    assert_eq!(all_told(&verdicts), [(1, Reason::Count, 16, false)]);
    assert_eq!((verdicts[0].label, verdicts[0].score), offline(&bench, &packets[..16]));
    assert_eq!(verdicts[0].n_packets, 30);
    bench.flows.flush();
    let verdicts = bench.poll_at(START);
    assert_eq!(all_told(&verdicts), [(1, Reason::Flushed, 30, true)]);
    assert_eq!((verdicts[0].label, verdicts[0].score), offline(&bench, &packets));
}

#[test]
fn many_flows_in_one_burst_keep_their_packets_apart() {
    let mut bench = Bench::new(&options());
    let talks: Vec<_> = (0..90).map(|id| conversation(id, 8)).collect();
    let mixed: Vec<Observation> = (0..8).flat_map(|i| talks.iter().map(move |(o, _)| o[i])).collect();
    bench.flows.push(&mixed);
    let verdicts = bench.poll_at(START);
    assert_eq!(all_told(&verdicts), (0..90).map(|id| (id, Reason::Count, 8, false)).collect::<Vec<_>>());
    for (verdict, (_, packets)) in verdicts.iter().zip(&talks) {
        let (label, score) = offline(&bench, packets);
        assert_eq!(verdict.label, label);
        assert!((verdict.score - score).abs() < 1e-5, "{} {score}", verdict.score);
    }
}

#[test]
fn a_confident_verdict_is_the_last() {
    // Of three labels, the best has at least a third.
    let mut bench = Bench::new(&Options { confidence: 0.3, ..options() });
    for ms in 0..20 {
        bench.push(packet(1, ms));
    }
    assert_eq!(all_told(&bench.poll_at(START)), [(1, Reason::Confident, 16, true)]);
    for ms in 20..50 {
        bench.push(packet(1, ms));
    }
    assert_eq!(bench.poll_at(START), []);
    bench.flows.flush();
    assert_eq!(bench.poll_at(START), []);
    assert_eq!(bench.counts([Count::Flushed, Count::Final, Count::Tokens]), [1, 1, 20]);
}

#[test]
fn flows_with_too_few_packets_get_none() {
    let mut bench = Bench::new(&Options { min_packets: 5, ..options() });
    for ms in 0..4 {
        bench.push(packet(1, ms));
        bench.push(packet(2, ms));
    }
    bench.push(packet(2, 4));
    assert_eq!(bench.poll_at(START), [], "four packets are a count, and too few");
    bench.flows.flush();
    assert_eq!(all_told(&bench.poll_at(START)), [(2, Reason::Flushed, 5, true)]);
    assert_eq!(bench.count(Count::TooShort), 1);
}

#[test]
fn verdicts_wait_for_room_in_the_order_in_which_flows_became_due() {
    let mut bench = Bench::new(&options());
    for id in [5, 3, 9, 1] {
        for ms in 0..4 {
            bench.push(packet(id, ms));
        }
    }
    let mut out = [Verdict::default(); 3];
    assert_eq!((bench.flows.poll(None, &mut []).unwrap(), bench.count(Count::Due)), (0, 4));
    assert_eq!(bench.flows.poll(None, &mut out).unwrap(), 3);
    assert_eq!(all_told(&out).iter().map(|v| v.0).collect::<Vec<_>>(), [5, 3, 9]);
    assert_eq!(bench.count(Count::Due), 1);
    assert_eq!(bench.flows.poll(None, &mut out).unwrap(), 1);
    assert_eq!(all_told(&out)[0].0, 1);
}

#[test]
fn flows_by_keys_of_the_callers_own() {
    let mut bench = Bench::new(&Options { counts: vec![4], ..options() });
    let by_key = |key: u8, side: u16, ms: u64, size: u32| Observation {
        src: [key; 16],
        dst: [key; 16],
        src_port: side,
        dst_port: 1 - side,
        size,
        ..packet(0, ms)
    };
    for (ms, side) in [(0, 1), (1, 0), (2, 0), (3, 1)] {
        bench.push(by_key(1, side, ms, 100 + ms as u32));
        bench.push(by_key(2, 1 - side, ms, 100 + ms as u32));
    }
    let verdicts = bench.poll_at(START);
    // Whoever sends first is the client: both flows are the same, and their sides are not.
    let packets = [(100, 0.0), (-101, 1000.0), (-102, 1000.0), (103, 1000.0)];
    let (label, score) = offline(&bench, &packets.map(|(size, ipt_us)| Packet { size, ipt_us }));
    assert_eq!(verdicts.iter().map(|v| (v.client[0], v.client_port)).collect::<Vec<_>>(), [(1, 1), (2, 0)]);
    for verdict in verdicts {
        assert_eq!(verdict.label, label);
        assert!((verdict.score - score).abs() < 1e-5);
    }
}
