//! Generated flows, end to end: judged beside real ones, and written in every form.
#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;
#[path = "common/place.rs"]
mod place;

use common::assert_same_flows;
use place::Place;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use trafficgpt::packet::Packet;
use trafficgpt::random::Stream;
use trafficgpt::train::table::pcap::{self, EPOCH_NS, Ip, Protocols, Transport};
use trafficgpt::train::table::{Row, Split, Table};

/// Flows that the bundle generates of two of its classes, said to be real ones: of seed 1 to train, of seed 2 held out.
fn real(place: &Place, bundle: &Path, n: usize) -> Table {
    let mut rows = Vec::new();
    for (seed, split) in [(1, Split::Train), (2, Split::Val)] {
        for class in ["dns", "web"] {
            let bundle = bundle.display();
            place.succeed(&format!("generate {bundle} --class {class} -n {n} --seed {seed} -o part.parquet"));
            let part = Table::read(&place.path("part.parquet")).unwrap().rows;
            rows.extend(part.into_iter().map(|row| Row { split: Some(split), ..row }));
        }
    }
    fs::remove_file(place.path("part.parquet")).unwrap();
    Table::from(rows)
}

#[test]
fn a_generator_is_told_from_better_and_worse_ones() {
    let (place, bundle) = (Place::new(), common::random_bundle());
    let table = real(&place, bundle.path(), 80);
    table.write(&place.path("flows.parquet")).unwrap();
    let mut draws = Stream::new(1, 1);
    let mut noise = |row: &Row| {
        let mut packet = |i| Packet { size: 40 + draws.below(1400) as i32, ipt_us: if i == 0 { 0.0 } else { 1e6 } };
        Row { packets: (0..row.packets.len()).map(&mut packet).collect(), split: None, ..row.clone() }
    };
    Table::from(table.rows.iter().map(&mut noise).collect::<Vec<_>>()).write(&place.path("noise.csv")).unwrap();
    let line = format!("evaluate generator {} flows.parquet", bundle.path().display());
    let options = "--seed 3 --min-flows 5 --given noise=noise.csv --json report.json --html report.html";
    let text = place.succeed(&format!("{line} {options}"));
    assert!(text.contains("2 classes, 160 flows of split val") && text.contains("KS packet size, both"), "{text}");

    let json: Value = serde_json::from_str(&fs::read_to_string(place.path("report.json")).unwrap()).unwrap();
    let sources = json["sources"].as_array().unwrap();
    let names: Vec<&str> = sources.iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["model", "Markov chain", "hidden Markov model", "resampled", "noise"]);
    assert_eq!((&json["classes"], &json["flows"]), (&serde_json::json!(["dns", "web"]), &serde_json::json!([80, 80])));
    let number = |source: usize, key: &str| sources[source][key].as_f64().unwrap();
    let (model, noise) = (0, 4);
    // The model made the "real" flows, so nothing tells its flows from them.
    assert!((number(model, "auc") - 0.5).abs() < 0.12, "{}", number(model, "auc"));
    assert!(number(noise, "auc") > 0.99);
    assert_eq!(number(3, "copies"), 1.0);
    assert_eq!(number(noise, "copies"), 0.0);
    assert!(number(model, "f1_share") > number(noise, "f1_share"), "{text}");
    let features = |source: usize| sources[source]["features"].as_array().unwrap();
    assert_eq!(features(model).len(), 18);
    for (own, chain) in features(model).iter().zip(features(1)) {
        let (ks, chain) = (own["ks"].as_f64().unwrap(), chain["ks"].as_f64().unwrap());
        assert!(ks < 0.25, "{own}");
        let ratio = own["ks_beside_chain"].as_f64();
        assert!(ratio.map_or(chain == 0.0, |ratio| (ratio - ks / chain).abs() < 1e-9), "{own}");
    }
    assert!(sources[noise]["features"][3]["ks"].as_f64() > Some(0.5), "times");
    assert_eq!(sources[model]["classes"][1]["class"], "web");

    let page = fs::read_to_string(place.path("report.html")).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"));
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert_eq!(page.matches("<svg").count(), 3 + 18 + 2);
    assert!(!page.contains("NaN") && !page.contains("<script") && !page.contains(" src="), "self-contained");
    assert_eq!(place.succeed(&format!("{line} {options}")), text, "the same seed, the same report");
}

#[test]
fn judging_refuses_what_cannot_be_judged() {
    let (place, bundle) = (Place::new(), common::random_bundle());
    let table = real(&place, bundle.path(), 12);
    table.write(&place.path("flows.csv")).unwrap();
    let line = format!("evaluate generator {} flows.csv", bundle.path().display());
    assert!(place.refused(&format!("{line} --split train")).contains("fitted to it"));
    assert!(place.refused(&format!("{line} --split test")).contains("of split test"));
    assert!(place.refused(&format!("{line} --html no/such.html")).contains("no/such.html"));
    assert!(place.refused(&format!("{line} --given flows.csv")).contains("name=file"));
    assert!(place.refused(&format!("{line} --top-p 2")).contains("top_p"));
    assert_eq!(place.names(), ["flows.csv"]);
    let text = place.succeed(&format!("{line} --min-flows 5 --states 0 --per-class 6"));
    assert!(text.contains("12 flows of split val") && !text.contains("hidden"), "{text}");
    let other = Table::from(table.rows.into_iter().map(|r| Row { label: Some("ftp".into()), ..r }).collect::<Vec<_>>());
    other.write(&place.path("other.csv")).unwrap();
    assert!(place.refused(&line.replace("flows.csv", "other.csv")).contains("does not know are left out: ftp"));
    // The command for classifiers is still there.
    assert!(place.succeed(&line.replace(" generator", "")).starts_with("flows 24 of split val"));
    assert!(place.misused("evaluate").contains("--help"), "a bundle is needed");
}

fn row(packets: Vec<Packet>, start_ns: u64) -> Row {
    let n_packets = packets.len() as u64;
    Row { label: None, group: "g".into(), split: None, n_packets, packets, key: None, start_ns: Some(start_ns) }
}

/// Connections as captures show them: handshakes of all kinds, data both ways, acknowledgements or none, then an end;
/// some seen from the middle on, some too short to be one.
fn connections(n: u64) -> Vec<Row> {
    let mut draws = Stream::new(5, 5);
    let mut flow = |i: u64| {
        let (syn, ack) = [(60, 52), (52, 40), (44, 40), (40, 40), (64, 52), (80, 52), (48, 40)][draws.below(7)];
        let mut sizes = vec![syn, -[syn, 60, 44][draws.below(3)], ack];
        for _ in 0..draws.below(60) {
            let size = [ack, 1500, 41 + draws.below(1400) as i32, 1500][draws.below(4)];
            sizes.push(if draws.uniform() < 0.6 { -size } else { size });
        }
        if draws.uniform() < 0.7 {
            sizes.extend([ack, -ack, ack]);
        }
        if draws.uniform() < 0.1 {
            sizes.drain(..3);
        }
        if sizes.is_empty() || draws.uniform() < 0.05 {
            sizes = vec![52, -52];
        }
        // Some as centroids have them: a few bytes off.
        if draws.uniform() < 0.3 {
            sizes.iter_mut().for_each(|size| *size += size.signum() * draws.below(4) as i32);
        }
        // To a meter, who sends first is the client.
        sizes[0] = sizes[0].abs();
        let packet = |(i, size)| {
            let ipt_us = if i == 0 { 0.0 } else { 10f32.powf(5.0 * draws.uniform() as f32).round() };
            Packet { size, ipt_us }
        };
        row(sizes.into_iter().enumerate().map(packet).collect(), EPOCH_NS + i * 3_000_000)
    };
    (0..n).map(&mut flow).collect()
}

/// Packets that tshark warns of, or takes a note of, as it does of lost, repeated and disordered segments; of every FIN
/// it notes that it ends a connection.
const COMPLAINTS: &str = "_ws.expert.severity >= 0x600000 || _ws.malformed \
                          || (_ws.expert.severity >= 0x400000 && !(tcp.flags.fin == 1))";

/// Runs tshark over a capture, checksums and all; none where it is not installed.
fn tshark(capture: &Path, arguments: &[&str]) -> Option<String> {
    if Command::new("tshark").arg("-v").output().is_err() {
        println!("skipped: tshark is not installed: that it reads the captures without a warning");
        return None;
    }
    let checks = ["ip", "tcp", "udp"].map(|protocol| format!("{protocol}.check_checksum:TRUE"));
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(capture).args(checks.iter().flat_map(|check| ["-o", check]));
    let output = command.args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn captures_are_read_without_a_warning_and_metered_back() {
    let place = Place::new();
    let flows = connections(300);
    // As the same connections are over IPv6, whose header is larger.
    let larger = |flow: &Row| {
        let grown = |p: &Packet| Packet { size: p.size + 20 * p.size.signum(), ..*p };
        Row { packets: flow.packets.iter().map(grown).collect(), ..flow.clone() }
    };
    let of_v6: Vec<Row> = flows.iter().map(larger).collect();
    // Every other of the flows that could be.
    let some: Vec<Row> = flows.iter().enumerate().map(|(i, f)| if i % 4 < 2 { larger(f) } else { f.clone() }).collect();
    let plain = [Transport::Auto, Transport::Tcp, Transport::Udp].map(|transport| (transport, Ip::V4, &flows));
    let others = [Transport::Auto, Transport::Tcp, Transport::Udp].map(|transport| (transport, Ip::V6, &of_v6));
    let mixed = [Transport::Auto, Transport::Udp].map(|transport| (transport, Ip::Mixed, &some));
    for (transport, ip, flows) in plain.into_iter().chain(others).chain(mixed) {
        let name = format!("{transport:?}{ip:?}");
        let path = place.path(&format!("{name}.pcap"));
        let changes = pcap::write(&path, flows, Protocols { transport, ip }).unwrap();
        let n_tcp = match transport {
            Transport::Auto => changes.tcp,
            Transport::Tcp => 300,
            Transport::Udp => 0,
        };
        assert!(changes.tcp == n_tcp && (transport != Transport::Auto || (200..290).contains(&n_tcp)), "{changes:?}");
        assert_eq!((changes.clamped, changes.server_first), (0, 0));
        match ip {
            Ip::V4 => assert_eq!((changes.v6, changes.too_small), (0, 0)),
            Ip::V6 => assert_eq!((changes.v6, changes.too_small), (300, 0)),
            Ip::Mixed => assert!(changes.v6 >= 75 && changes.too_small > 30, "{changes:?}"),
        }
        place.succeed(&format!("meter {name}.pcap -o {name}.parquet"));
        let metered = Table::read(&place.path(&format!("{name}.parquet"))).unwrap().rows;
        // The meter keeps 126 packets, none of these flows has more.
        assert_same_flows(flows, &metered);
        let v6 = metered.iter().filter(|row| row.key.is_some_and(|key| key.client.is_ipv6())).count();
        assert_eq!(v6 as u64, changes.v6);
        let protocols = metered.iter().filter(|row| row.key.is_some_and(|key| key.protocol == 6)).count();
        assert_eq!(protocols as u64, n_tcp);

        let Some(said) = tshark(&path, &["-Y", COMPLAINTS]) else { return };
        assert_eq!(said, "", "{name}");
        let shown = tshark(&path, &["-T", "fields", "-E", "separator=;", "-e", "ip.len", "-e", "ipv6.plen"]).unwrap();
        let size = |line: &str| match line.split_once(';').unwrap() {
            (length, "") => length.parse::<i32>().unwrap(),
            (_, payload) => 40 + payload.parse::<i32>().unwrap(),
        };
        let mut sizes: Vec<i32> = shown.lines().map(size).collect();
        let mut expected: Vec<i32> = flows.iter().flat_map(|f| &f.packets).map(|p| p.size.abs()).collect();
        sizes.sort_unstable();
        expected.sort_unstable();
        assert_eq!(sizes, expected);
    }
    // A label has one transport for all its flows.
    let labelled = |label: &str, n: usize| -> Vec<Row> {
        flows[..n].iter().map(|flow| Row { label: Some(label.into()), ..flow.clone() }).collect()
    };
    let mut both = labelled("web", 90);
    both.extend(labelled("dns", 30).into_iter().map(|mut row| {
        row.packets.truncate(2);
        Row { n_packets: row.packets.len() as u64, ..row }
    }));
    assert_eq!(pcap::write(&place.path("both.pcap"), &both, Protocols::default()).unwrap().tcp, 90);
    // Packets too small for IPv6 grow where all is to be IPv6.
    let changes =
        pcap::write(&place.path("forced.pcap"), &both, Protocols { ip: Ip::V6, ..Protocols::default() }).unwrap();
    let small = |row: &Row, least: u32| row.packets.iter().filter(|p| p.size.unsigned_abs() < least).count() as u64;
    let too_small = both.iter().map(|row| small(row, if row.label.as_deref() == Some("web") { 60 } else { 48 })).sum();
    assert_eq!((changes.tcp, changes.v6, changes.clamped), (90, 120, too_small));
    place.succeed("meter forced.pcap -o forced.parquet");
    let metered = Table::read(&place.path("forced.parquet")).unwrap().rows;
    assert!(metered.len() == 120 && metered.iter().flat_map(|row| &row.packets).all(|p| p.size.abs() >= 48));
    for name in ["both.pcap", "forced.pcap"] {
        if let Some(said) = tshark(&place.path(name), &["-Y", COMPLAINTS]) {
            assert_eq!(said, "", "{name}");
        }
    }
    let count = |filter: &str| tshark(&place.path("AutoV4.pcap"), &["-Y", filter]).unwrap().lines().count();
    let (opened, answered) = (count("tcp.flags.syn == 1 && tcp.flags.ack == 0"), count("tcp.flags == 0x12"));
    let streams = count("tcp.analysis.initial_rtt && tcp.flags == 0x10 && tcp.len == 0 && tcp.seq == 1");
    assert!(opened > 200 && opened == answered && streams > opened / 2, "{opened} {answered} {streams}");
    assert!(count("tcp.flags.fin == 1") > opened, "most end on both sides");
}

#[test]
fn generated_captures_hold_what_was_asked_for() {
    let (place, bundle) = (Place::new(), common::random_bundle());
    let line = format!("generate {} --class web --seed 4", bundle.path().display());
    let said = place.run(&format!("{line} -n 60 -o forced.pcap --transport tcp --rate 1000"));
    let said = String::from_utf8(said.stderr).unwrap();
    assert!(said.contains("60 flows are TCP, 0 UDP"), "{said}");
    if let Some(said) = tshark(&place.path("forced.pcap"), &["-Y", COMPLAINTS]) {
        assert_eq!(said, "");
    }
    let said = place.run(&format!("{line} -n 60 -o mixed.pcap --transport udp --ip mixed"));
    assert!(String::from_utf8(said.stderr).unwrap().contains(" flows are IPv6, "));
    if let Some(said) = tshark(&place.path("mixed.pcap"), &["-Y", COMPLAINTS]) {
        assert_eq!(said, "");
    }
    place.succeed(&format!("{line} --rate 50 --duration 2 -o steady.csv"));
    let starts = |name: &str| -> Vec<f64> {
        let rows = Table::read(&place.path(name)).unwrap().rows;
        rows.iter().map(|row| (row.start_ns.unwrap() - EPOCH_NS) as f64 / 1e9).collect()
    };
    let steady = starts("steady.csv");
    assert!(steady.len() == 100 && steady.iter().zip(0..).all(|(s, i)| (s - f64::from(i) / 50.0).abs() < 1e-8));
    place.succeed(&format!("{line} --poisson 50 --duration 2 -o poisson.jsonl"));
    let poisson = starts("poisson.jsonl");
    assert!((60..140).contains(&poisson.len()) && poisson.is_sorted() && poisson[poisson.len() - 1] < 2.0);
    place.succeed(&format!("{line} --poisson 50 --duration 2 -o poisson.pcap"));
    place.succeed("meter poisson.pcap -o metered.parquet --idle-timeout 1e8");
    let mut metered = Table::read(&place.path("metered.parquet")).unwrap().rows;
    metered.sort_by_key(|row| row.start_ns);
    let metered: Vec<f64> = metered.iter().map(|row| (row.start_ns.unwrap() - EPOCH_NS) as f64 / 1e9).collect();
    assert_eq!(metered, poisson);
}

#[test]
fn bad_requests_are_told_before_any_work() {
    let (place, bundle) = (Place::new(), common::random_bundle());
    fs::create_dir(place.path("full.pcap")).unwrap();
    let table = real(&place, bundle.path(), 3);
    table.write(&place.path("flows.parquet")).unwrap();
    Table::from(vec![row(vec![Packet { size: 60, ipt_us: 0.0 }; 200], 0)]).write(&place.path("long.csv")).unwrap();
    Table::from(Vec::new()).write(&place.path("none.parquet")).unwrap();
    fs::write(place.path("bad.csv"), "a,b\n1,2\n").unwrap();
    let there = place.names();
    let line = format!("generate {}", bundle.path().display());
    // What a class must be is the first thing that is missing.
    let said = place.refused(&format!("{line} -n 1 --seed 4 -o a.csv"));
    assert!(said.contains("--class") && said.contains("dns, tls, web, or any"), "{said}");
    assert!(place.refused(&format!("{line} --continue flows.parquet -o a.csv")).contains("--class"));
    let line = format!("{line} --class any");
    for (rest, says) in [
        ("--continue missing.parquet -o a.csv", "missing.parquet"),
        ("--continue bad.csv -o a.csv", "bad.csv"),
        ("--continue none.parquet -o a.csv", "no flow to continue"),
        ("--continue long.csv -o a.csv", "long.csv: row 1 has 200 packets, a flow may have 126"),
        ("--continue flows.parquet --keep 5 --max-packets 4 -o a.csv", "--keep"),
        ("--continue flows.parquet --keep 0 -o a.csv", ""),
        ("--keep 5 -n 1 -o a.csv", "--help"),
        ("-n 1 --min-packets 127 -o a.csv", "min_packets is 127"),
        ("-n 1 --min-packets 5 --max-packets 4 -o a.csv", "min_packets is 5"),
        ("-n 1 --ban 61 -o a.csv", "token 61 is banned"),
        ("-n 1 --ban x -o a.csv", ""),
        ("-n 1 -o no/such.pcap", "no/such.pcap"),
        ("-n 1 -o full.pcap", "is a directory"),
        ("-n 1 -o a.csv --transport tcp", "--transport is for captures"),
        ("-n 1 -o a.csv --ip 6", "--ip is for captures"),
        ("-n 1 -o a.pcap --ip 5", ""),
        ("-n 9999999 -o a.pcap", "a capture holds at most"),
        ("--duration 3 -o a.csv", "--rate or --poisson"),
        ("--duration 3 --rate -1 -o a.csv", ""),
        ("--duration 3 --rate nan -o a.csv", "--rate NaN"),
        ("-n 0 -o a.csv", ""),
        ("-o a.csv", ""),
        ("-n 1 --duration 3 --rate 1 -o a.csv", ""),
        ("-n 1 --rate 1 --poisson 1 -o a.csv", ""),
    ] {
        assert!(place.misused(&format!("{line} {rest}")).contains(says), "{rest}");
    }
    let line = line.replace("--class any", "--class ftp");
    assert!(place.refused(&format!("{line} -n 1 -o a.pcap")).contains("\"ftp\""));
    assert_eq!(place.names(), there);
}

#[test]
fn flows_of_a_table_are_continued() {
    let (place, bundle) = (Place::new(), common::random_bundle());
    let table = real(&place, bundle.path(), 40);
    table.write(&place.path("flows.parquet")).unwrap();
    let line = format!("generate {} --class web --seed 9 --continue flows.parquet", bundle.path().display());
    let read = |name: &str| Table::read(&place.path(name)).unwrap().rows;
    place.succeed(&format!("{line} --keep 3 -o a.parquet"));
    let rows = read("a.parquet");
    assert_eq!(rows.len(), 160);
    for (row, from) in rows.iter().zip(&table.rows) {
        let kept = from.packets.len().min(3);
        assert_eq!(row.packets[..kept], from.packets[..kept]);
        assert_eq!(row.label.as_deref(), Some("web"));
    }
    assert!(rows.iter().filter(|row| row.packets.len() > 3).count() > 80);
    place.succeed(&format!("{line} --keep 3 -o b.parquet"));
    assert_eq!(read("b.parquet"), rows);
    // Fewer rows, or all again from the first; whose class nobody names, keep what their rows say.
    place.succeed(&format!("{line} --keep 3 -n 7 -o c.csv"));
    assert_eq!(read("c.csv").len(), 7);
    place.succeed(&format!("{} --keep 2 -n 200 -o d.csv", line.replace("--class web", "--class any")));
    let again = read("d.csv");
    for (i, row) in again.iter().enumerate() {
        let from = &table.rows[i % 160];
        let kept = from.packets.len().min(2);
        assert_eq!((&row.packets[..kept], &row.label), (&from.packets[..kept], &from.label));
    }
    assert!((160..200).any(|i| again[i].packets != again[i - 160].packets), "other draws of the same beginnings");
    place.succeed(&format!("{line} --min-packets 10 --max-packets 126 --ban 0,1,2 -o e.pcap"));
}

#[cfg(unix)]
#[test]
fn an_interrupted_evaluation_reports_what_it_has_or_says_that_it_wrote_nothing() {
    let (place, bundle) = (Place::new(), common::random_bundle());
    real(&place, bundle.path(), 400).write(&place.path("flows.parquet")).unwrap();
    let options = "--min-flows 5 --states 256 --json report.json --html report.html";
    let line = format!("evaluate generator {} flows.parquet {options}", bundle.path().display());
    let child = place.command(&line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // By then the model and the chain are judged, and the hidden Markov model is under way; or not yet, or no more.
    std::thread::sleep(Duration::from_secs(8));
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let last = said.lines().last().unwrap_or_default();
    match output.status.code() {
        Some(0) => println!("skipped: the evaluation was over before it was interrupted"),
        Some(130) if last.contains("nothing is written") => assert_eq!(place.names(), ["flows.parquet"]),
        Some(130) => {
            assert!(last.starts_with("error: interrupted: the report is of model"), "{said}");
            let json: Value = serde_json::from_str(&fs::read_to_string(place.path("report.json")).unwrap()).unwrap();
            let sources = json["sources"].as_array().unwrap();
            assert!((1..4).contains(&sources.len()) && json["interrupted"] == true, "{json}");
            assert!(String::from_utf8(output.stdout).unwrap().contains("generators were judged"));
            assert!(fs::read_to_string(place.path("report.html")).unwrap().contains("generators were judged"));
        }
        other => panic!("{other:?}: {said}"),
    }
}
