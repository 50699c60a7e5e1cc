//! Captures pushed frame by frame, beside the same captures metered and classified offline.

use crate::bench::{classifier, options};
use crate::common::random_bundle;
use std::collections::HashMap;
use std::path::Path;
use trafficgpt::flows::{Count, Flows, FrameInfo, Options, Verdict};
use trafficgpt::meter::capture::Capture;
use trafficgpt::meter::frame::Link;
use trafficgpt::meter::{self, Flow, Tunnel};
use trafficgpt::packet::{Packet, Rows};
use trafficgpt::worker::Worker;

type Key = ([u8; 16], [u8; 16], u16, u16, u8, u64);

fn key_of(flow: &Flow) -> Key {
    let mapped = |address| match address {
        std::net::IpAddr::V4(v4) => std::net::Ipv4Addr::to_ipv6_mapped(&v4).octets(),
        std::net::IpAddr::V6(v6) => v6.octets(),
    };
    let key = &flow.key;
    (mapped(key.client), mapped(key.server), key.client_port, key.server_port, key.protocol, flow.start_ns)
}

/// Pushes a capture in bursts of `burst` frames with a poll after each; every verdict by flow and packets read.
fn stream(flows: &mut Flows, path: &Path, burst: usize) -> Vec<Verdict> {
    let mut capture = Capture::open(path).unwrap();
    let (mut held, mut verdicts) = (Vec::new(), Vec::new());
    let mut link = None;
    let mut poll = |flows: &mut Flows| {
        let mut out = [Verdict::default(); 64];
        loop {
            let n = flows.poll(None, &mut out).unwrap();
            verdicts.extend_from_slice(&out[..n]);
            if n < out.len() {
                break;
            }
        }
    };
    let push = |flows: &mut Flows, held: &mut Vec<(FrameInfo, Vec<u8>)>, link: Option<Link>| {
        if let Some(link) = link {
            flows.push_frames(link, held.iter().map(|(info, bytes)| (*info, &**bytes)));
        }
        held.clear();
    };
    while let Some(record) = capture.next_record().unwrap() {
        link = record.link.and_then(Link::from_linktype);
        let info = FrameInfo { ts_ns: record.ts_ns, captured: record.bytes.len() as u32, wire_len: record.wire_len };
        held.push((info, record.bytes.to_vec()));
        if held.len() == burst {
            push(flows, &mut held, link);
            poll(flows);
        }
    }
    push(flows, &mut held, link);
    flows.flush();
    poll(flows);
    verdicts
}

#[test]
fn every_verdict_is_what_the_classifier_says_of_the_metered_flow() {
    let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/captures");
    let classifier = classifier(&random_bundle());
    let options = Options { max_flows: 5000, min_packets: 1, ..options() };
    let (mut compared, mut continued) = (0, 0);
    for (name, burst) in [("mixed", 1), ("TLS", 7), ("DNS", 64), ("ICMPV6", 100), ("QUIC", 1000)] {
        let path = captures.join(format!("{name}.pcap.gz"));
        let mut offline: HashMap<Key, Flow> = HashMap::new();
        let mut keep = |flow: Flow| {
            offline.insert(key_of(&flow), flow);
            Ok(())
        };
        let summary = meter::meter_file(&path, &meter::Options::default(), &mut keep).unwrap();
        let mut flows = Flows::new(&classifier, &options, Tunnel::Inner).unwrap();
        let verdicts = stream(&mut flows, &path, burst);

        let (mut told, mut rows): (Vec<&Verdict>, Rows<Packet>) = (Vec::new(), Rows::new());
        let mut finals = 0;
        for verdict in &verdicts {
            let v = verdict;
            let key = (v.client, v.server, v.client_port, v.server_port, v.protocol, v.start_ns);
            finals += usize::from(v.is_final);
            match offline.get(&key) {
                Some(flow) => {
                    rows.push(flow.packets[..v.n_read.into()].iter().copied());
                    told.push(verdict);
                }
                // A SYN on the 5-tuple of a connection that is over goes on with it offline.
                None => continued += 1,
            }
        }
        let control = flows.control();
        let report = control.stats();
        assert_eq!(control.count(Count::Skipped), summary.skipped.total(), "{name}: {report}");
        assert_eq!(control.count(Count::Packets), summary.packets, "{name}: {report}");
        assert_eq!(control.count(Count::Flows) as usize, finals, "{name}: {report}");
        assert!(control.count(Count::Flows) as usize >= offline.len(), "{name}: {report}");

        let n = classifier.labels().len();
        let (mut labels, mut scores) = (vec![0; told.len()], vec![0.0; told.len() * n]);
        classifier.classify(&mut Worker::new(), rows.as_ragged(), &mut labels, Some(&mut scores)).unwrap();
        for ((verdict, &label), scores) in told.iter().zip(&labels).zip(scores.chunks(n)) {
            let score = scores.iter().copied().fold(0.0, f32::max);
            assert!((verdict.score - score).abs() < 1e-5, "{name}: {verdict:?}: {score}");
            assert!(verdict.label == label || (0.5 - score).abs() < 1e-4, "{name}: {verdict:?}: {label}");
        }
        compared += told.len();
    }
    assert!(compared > 500 && continued * 50 < compared, "{compared} verdicts, {continued} of flows unknown offline");
}
