//! The command line, end to end: what it writes, what it says, and the exit codes it leaves.
#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "common/place.rs"]
mod place;

use common::assert_same_flows;
use place::Place;
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use trafficgpt::classifier::Classifier;
use trafficgpt::config::Settings;
use trafficgpt::context::Context;
use trafficgpt::generator::Generator;
use trafficgpt::packet::{Packet, Rows};
use trafficgpt::random::Stream;
use trafficgpt::train::table::{Row, Split, Table, pcap};
use trafficgpt::worker::Worker;

/// Writes a capture of these flows.
fn capture(place: &Place, name: &str, flows: &[Row]) {
    fs::create_dir_all(place.path(name).parent().unwrap()).unwrap();
    pcap::write(&place.path(name), flows, pcap::Protocols::UDP).unwrap();
}

fn row(packets: Vec<Packet>) -> Row {
    let n_packets = packets.len() as u64;
    Row { label: None, group: "g".into(), split: None, n_packets, packets, key: None, start_ns: None }
}

/// Flows as UDP could carry them, the client first.
fn udp_flows(n: usize) -> Vec<Row> {
    let mut draws = Stream::new(3, 3);
    let mut flow = || {
        let n = 1 + draws.below(20);
        let packet = |i| {
            let size = 28 + draws.below(1472) as i32;
            let sign = if i > 0 && draws.uniform() < 0.5 { -1 } else { 1 };
            let ipt_us = if i == 0 { 0.0 } else { (10f64.powf(6.0 * draws.uniform()) * 1e3).round() / 1e3 };
            Packet { size: sign * size, ipt_us: ipt_us as f32 }
        };
        row((0..n).map(packet).collect())
    };
    (0..n).map(|_| flow()).collect()
}

#[test]
fn help_teaches_and_bad_arguments_are_exit_code_2() {
    let place = Place::new();
    for command in ["meter", "classify", "generate", "info"] {
        let help = place.succeed(&format!("{command} --help"));
        assert!(help.contains("Examples:") && help.contains(&format!("trafficgpt {command} ")), "{help}");
        assert_eq!(place.run(&format!("{command} --no-such-option")).status.code(), Some(2));
        assert_eq!(place.run(command).status.code(), Some(2));
    }
    assert_eq!(place.run("").status.code(), Some(2));
    assert!(place.succeed("classify --help").contains("onnx.library"), "the settings are listed");
}

#[test]
fn a_missing_bundle_is_named() {
    let place = Place::new();
    capture(&place, "a.pcap", &udp_flows(1));
    for line in ["info no.tgpt", "classify no.tgpt a.pcap", "generate no.tgpt -n 1 -o out.csv"] {
        assert!(place.refused(line).contains("no.tgpt"), "{line}");
    }
    assert_eq!(place.names(), ["a.pcap"]);
}

#[test]
fn info_tells_what_the_bundle_holds() {
    let (place, bundle) = (Place::new(), common::random_bundle());
    let bundle = bundle.path().display();
    let text = place.succeed(&format!("info {bundle}"));
    for part in ["60 packet tokens, scaler log1p-us", "2 layers x 32 wide", "3 classes: dns, tls, web", "linear"] {
        assert!(text.contains(part), "no {part} in: {text}");
    }
    let manifest: Value = serde_json::from_str(&place.succeed(&format!("info {bundle} --json"))).unwrap();
    assert_eq!(manifest["classifier"]["labels"], serde_json::json!(["dns", "tls", "web"]));
}

#[test]
fn metering_gives_the_flows_of_a_capture() {
    let place = Place::new();
    let flows = udp_flows(50);
    capture(&place, "a.pcap", &flows);
    for output in ["flows.parquet", "flows.csv"] {
        let said = place.run(&format!("meter a.pcap -o {output} --label dns --split val"));
        let said = String::from_utf8(said.stderr).unwrap();
        assert!(said.contains("50 flows"), "{said}");
        let rows = Table::read(&place.path(output)).unwrap().rows;
        assert_same_flows(&flows, &rows);
        for row in &rows {
            assert_eq!((row.label.as_deref(), row.group.as_str()), (Some("dns"), "a.pcap"));
            assert_eq!((row.split, row.n_packets), (Some(Split::Val), row.packets.len() as u64));
            assert!(row.key.is_some() && row.start_ns.is_some());
        }
    }
}

#[test]
fn labels_come_from_names_and_directories_are_searched() {
    let place = Place::new();
    let flows = udp_flows(3);
    capture(&place, "lab/dns/1.pcap", &flows);
    capture(&place, "lab/web/1.pcap", &flows);
    let meter = |rest: &str| {
        place.succeed(&format!("meter lab -o flows.csv {rest}"));
        Table::read(&place.path("flows.csv")).unwrap()
    };
    let table = meter("--label-from dirname");
    assert_eq!((table.rows.len(), table.labels()), (6, vec!["dns".to_string(), "web".to_string()]));
    assert_eq!((table.rows[0].group.as_str(), table.rows[5].group.as_str()), ("dns/1.pcap", "web/1.pcap"));
    assert_eq!(meter("--label-from filename --group day1").rows[0].label.as_deref(), Some("1"));
    assert_eq!(meter("--group day1").rows[5].group, "day1");
    let long = flows.iter().filter(|f| f.packets.len() >= 5).count();
    assert_eq!(meter("--min-packets 5").rows.len(), 2 * long);
    assert!(place.run("meter lab -o flows.csv --label a --label-from dirname").status.code() == Some(2));
}

#[test]
fn labels_come_from_a_file_by_5_tuple() {
    let place = Place::new();
    capture(&place, "a.pcap", &udp_flows(3));
    place.succeed("meter a.pcap -o plain.parquet");
    let rows = Table::read(&place.path("plain.parquet")).unwrap().rows;
    let key = rows[1].key.unwrap();
    let truth = format!(
        "label,client_ip,client_port,server_ip,server_port,protocol\nvoip,{},{},{},{},udp\n",
        key.server, key.server_port, key.client, key.client_port
    );
    fs::write(place.path("truth.csv"), truth).unwrap();
    let said = String::from_utf8(place.run("meter a.pcap -o out.parquet --labels truth.csv").stderr).unwrap();
    assert!(said.contains("flows without a label: 2"), "{said}");
    let labelled = Table::read(&place.path("out.parquet")).unwrap().rows;
    assert_eq!(labelled.iter().filter(|r| r.label.is_some()).map(|r| r.key).collect::<Vec<_>>(), [Some(key)]);
    fs::write(place.path("truth.csv"), "label,client_ip\n").unwrap();
    assert!(place.refused("meter a.pcap -o out2.parquet --labels truth.csv").contains("truth.csv: no column"));
    assert!(!place.path("out2.parquet").exists());
}

#[test]
fn a_refused_capture_leaves_nothing_unless_told_to_keep_going() {
    let place = Place::new();
    capture(&place, "good.pcap", &udp_flows(4));
    fs::write(place.path("bad.pcap"), b"this is no capture at all, but some text").unwrap();
    let before = place.names();
    for output in ["flows.parquet", "flows.csv"] {
        assert!(place.refused(&format!("meter good.pcap bad.pcap -o {output}")).contains("bad.pcap"));
        assert_eq!(place.names(), before);
    }
    let output = place.run("meter bad.pcap good.pcap -o flows.csv --keep-going");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("bad.pcap") && said.contains("1 of 2 captures"), "{said}");
    assert_eq!(Table::read(&place.path("flows.csv")).unwrap().rows.len(), 4);
}

#[test]
fn bad_input_of_the_meter_is_named() {
    let place = Place::new();
    capture(&place, "a.pcap", &udp_flows(1));
    assert!(place.refused("meter missing.pcap -o out.csv").contains("missing.pcap"));
    assert!(place.refused("meter a.pcap -o out.xlsx").contains("out.xlsx"));
    assert!(place.refused("meter a.pcap -o no/such/out.csv").contains("no/such/out.csv"));
    fs::create_dir(place.path("empty")).unwrap();
    assert!(place.refused("meter empty -o out.csv").contains("empty: no capture"));
    for bad in ["--idle-timeout 0", "--idle-timeout soon", "--split tset", "--tunnel both"] {
        assert_eq!(place.run(&format!("meter a.pcap -o out.csv {bad}")).status.code(), Some(2), "{bad}");
    }
    assert_eq!(place.names(), ["a.pcap", "empty"]);
}

#[test]
fn a_seed_gives_the_same_flows_in_every_format() {
    let (place, bundle) = (Place::new(), common::random_bundle());
    let bundle = bundle.path().display();
    for output in ["a.parquet", "b.parquet", "c.csv", "c.jsonl", "d.pcap"] {
        place.succeed(&format!("generate {bundle} --class tls -n 300 --seed 7 -o {output}"));
    }
    let read = |name: &str| Table::read(&place.path(name)).unwrap().rows;
    let rows = read("a.parquet");
    assert_eq!((rows.len(), rows[0].label.as_deref()), (300, Some("tls")));
    assert_eq!(rows, read("b.parquet"));
    assert_eq!(rows, read("c.csv"));
    assert_eq!(rows, read("c.jsonl"));
    // Only what UDP and a meter can carry comes back from a capture unchanged.
    let carried: Vec<Row> = rows
        .into_iter()
        .filter(|r| r.packets[0].size > 0)
        .map(|mut r| {
            r.packets.iter_mut().for_each(|p| p.size = p.size.signum() * p.size.abs().max(28));
            r
        })
        .collect();
    assert!(carried.len() > 50, "{}", carried.len());
    capture(&place, "carried.pcap", &carried);
    place.succeed("meter carried.pcap -o metered.parquet --idle-timeout 1e8");
    assert_same_flows(&carried, &read("metered.parquet"));
    place.succeed("meter d.pcap -o metered.parquet --idle-timeout 1e8");
    assert_eq!(read("metered.parquet").len(), 300);
    place.succeed(&format!("generate {bundle} --class tls -n 300 --seed 8 -o e.parquet"));
    assert_ne!(read("e.parquet"), read("b.parquet"));
}

#[test]
fn generation_obeys_its_options_and_refuses_bad_ones() {
    let (place, bundle) = (Place::new(), common::random_bundle());
    let generate = format!("generate {} --class any -o out.csv", bundle.path().display());
    place.succeed(&format!("{generate} -n 20 --max-packets 3"));
    let table = Table::read(&place.path("out.csv")).unwrap();
    assert!(table.rows.iter().all(|r| r.packets.len() <= 3 && r.label.is_none()));
    fs::remove_file(place.path("out.csv")).unwrap();
    place.succeed(&format!("{generate} -n 20 --min-packets 30"));
    assert!(Table::read(&place.path("out.csv")).unwrap().rows.iter().all(|r| r.packets.len() >= 30));
    fs::remove_file(place.path("out.csv")).unwrap();
    let said = place.refused(&format!("{} -n 1", generate.replace("any", "ftp")));
    assert!(said.contains("\"ftp\"") && said.contains("dns, tls, web"), "{said}");
    assert!(place.refused(&format!("{generate} -n 1 --top-p 0")).contains("top_p"));
    assert!(place.refused(&format!("{generate} -n 1 --temperature nan")).contains("temperature"));
    assert!(place.refused(&format!("{generate} -n 1 --engine gpu")).contains("gpu"));
    assert!(place.refused(&format!("{generate} -n 1 --set no.such=1")).contains("no.such"));
    assert_eq!(place.run(&format!("{generate} -n 0")).status.code(), Some(2));
    assert!(place.refused(&format!("generate {} -n 1 -o out.json", bundle.path().display())).contains(".pcap"));
    assert_eq!(place.names(), Vec::<String>::new());
}

/// What the library says of these flows.
fn verdicts(bundle: &Path, rows: &[Row]) -> Vec<(String, f32)> {
    let classifier = Classifier::open(&Context::new(Settings::default()), bundle).unwrap();
    let flows: Rows<Packet> = rows.iter().map(|r| r.packets.iter().copied()).collect();
    let n = classifier.labels().len();
    let (mut labels, mut scores) = (vec![0; rows.len()], vec![0.0; rows.len() * n]);
    classifier.classify(&mut Worker::new(), flows.as_ragged(), &mut labels, Some(&mut scores)).unwrap();
    let verdict = |(&label, scores): (&u32, &[f32])| {
        (classifier.labels()[label as usize].clone(), scores.iter().copied().fold(0.0, f32::max))
    };
    labels.iter().zip(scores.chunks(n)).map(verdict).collect()
}

#[test]
fn classifying_a_table_gives_the_librarys_verdicts_and_the_accuracy() {
    let (place, bundle) = (Place::new(), common::random_bundle());
    let mut rows = udp_flows(700);
    for (i, row) in rows.iter_mut().enumerate() {
        row.label = ["dns", "tls", "smtp"].get(i % 4).map(|l| l.to_string());
    }
    let table = Table::from(rows);
    table.write(&place.path("flows.parquet")).unwrap();
    let line = format!("classify {} flows.parquet", bundle.path().display());
    let expected = verdicts(bundle.path(), &table.rows);
    let labelled = table.rows.iter().filter(|r| r.label.is_some()).count();
    let hits = table.rows.iter().zip(&expected).filter(|(r, v)| r.label.as_ref() == Some(&v.0)).count();

    let json: Vec<Value> =
        place.succeed(&format!("{line} --json")).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(json.len(), 701);
    for (i, (value, (label, probability))) in json.iter().zip(&expected).enumerate() {
        assert_eq!((&value["flow"], &value["label"]), (&Value::from(i + 1), &Value::from(label.as_str())));
        assert!((value["probability"].as_f64().unwrap() - f64::from(*probability)).abs() < 1e-5);
        assert_eq!(value["packets"].as_u64(), Some(table.rows[i].n_packets));
        assert_eq!(value["truth"].as_str(), table.rows[i].label.as_deref());
    }
    let summary = &json[700]["summary"];
    assert_eq!((summary["flows"].as_u64(), summary["labelled"].as_u64()), (Some(700), Some(labelled as u64)));
    assert!((summary["accuracy"].as_f64().unwrap() - hits as f64 / labelled as f64).abs() < 1e-9);

    let text = place.succeed(&line);
    assert_eq!(text.lines().count(), 702);
    assert!(text.lines().nth(1).unwrap().starts_with("row 1 "), "{text}");
    assert!(text.lines().last().unwrap().starts_with("accuracy 0."), "{text}");
    place.succeed(&format!("{line} -o verdicts.txt"));
    assert_eq!(fs::read_to_string(place.path("verdicts.txt")).unwrap(), text);
}

#[test]
fn classifying_a_capture_names_its_flows() {
    let (place, bundle) = (Place::new(), common::random_bundle());
    capture(&place, "a.pcap", &udp_flows(5));
    let text = place.succeed(&format!("classify {} a.pcap --engine native", bundle.path().display()));
    assert_eq!(text.lines().count(), 6, "no labels, so no accuracy: {text}");
    assert!(text.contains("192.0.2.1:49152 > 198.51.100.1:9 udp"), "{text}");
    fs::write(place.path("bad.pcap"), "not a capture").unwrap();
    fs::write(place.path("bad.csv"), "a,b\n1,2\n").unwrap();
    for bad in ["bad.pcap", "bad.csv", "missing.pcap", "missing.csv"] {
        let said = place.refused(&format!("classify {} {bad} -o out.txt", bundle.path().display()));
        assert!(said.contains(bad), "{said}");
    }
    assert_eq!(place.names(), ["a.pcap", "bad.csv", "bad.pcap"]);
}

#[test]
fn scoring_ranks_the_strangest_flows_first() {
    let (place, bundle) = (Place::new(), common::random_bundle());
    let table = Table::from(udp_flows(1200));
    table.write(&place.path("flows.parquet")).unwrap();
    let flows: Rows<Packet> = table.rows.iter().map(|r| r.packets.iter().copied()).collect();
    let generator = Generator::open(&Context::new(Settings::default()), bundle.path()).unwrap();
    let mut expected = vec![0.0f32; flows.len()];
    generator.score(&mut Worker::new(), Some(1), flows.as_ragged(), &mut expected).unwrap();
    let mut order: Vec<usize> = (0..expected.len()).collect();
    order.sort_by(|&a, &b| expected[b].total_cmp(&expected[a]).then(a.cmp(&b)));

    let line = format!("score {} flows.parquet --class tls", bundle.path().display());
    for (top, lines) in [(3, 3), (0, 1200)] {
        let json: Vec<Value> = place
            .succeed(&format!("{line} --json --top {top}"))
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(json.len(), lines + 1);
        for (value, &i) in json[..lines].iter().zip(&order) {
            assert_eq!(value["flow"], Value::from(i + 1));
            assert!((value["nll"].as_f64().unwrap() - f64::from(expected[i])).abs() < 1e-5);
        }
        let summary = &json[lines]["summary"];
        let median = f64::from(expected[order[order.len() - 1 - 600]]);
        assert!((summary["quantiles"]["0.5"].as_f64().unwrap() - median).abs() < 1e-5, "{summary}");
    }
    let text = place.succeed(&line);
    assert_eq!(text.lines().count(), 22);
    assert!(text.lines().last().unwrap().starts_with("20 of 1200 flows; 5% below "), "{text}");
    let said = place.refused(&format!("score {} flows.parquet --class smtp -o out.txt", bundle.path().display()));
    assert!(said.contains("smtp") && said.contains("dns, tls, web"), "{said}");
    assert_eq!(place.names(), ["flows.parquet"]);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let (place, bundle) = (Place::new(), common::random_bundle());
    capture(&place, "a.pcap", &udp_flows(3000));
    let mut command = place.command(&format!("classify {} a.pcap", bundle.path().display()));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    let mut said = String::new();
    child.stderr.unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_the_flows_that_are_ready_and_exit_code_130() {
    let bundle = common::random_bundle();
    for output in ["out.parquet", "out.jsonl", "out.pcap"] {
        let place = Place::new();
        let line = format!("generate {} --class any -n 4000000 -o {output}", bundle.path().display());
        let mut child = place.command(&line).stderr(Stdio::piped()).spawn().unwrap();
        let begun = Instant::now();
        // The output is opened before the model; a while later flows are being made.
        while place.names().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(30), "generation does not begin");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(1500));
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        let status = child.wait().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(status.code(), Some(130), "{said}");
        let last = said.lines().last().unwrap();
        if last.contains("nothing is written") {
            assert_eq!(place.names(), Vec::<String>::new());
            continue;
        }
        let told: usize = last.split_whitespace().find_map(|word| word.parse().ok()).unwrap();
        assert!(last.starts_with("error: interrupted: ") && told >= 256, "{said}");
        assert_eq!(place.names(), [output], "{said}");
        if output == "out.pcap" {
            place.succeed("meter out.pcap -o metered.parquet --idle-timeout 1e9");
        } else {
            fs::rename(place.path(output), place.path("metered.parquet")).unwrap();
        }
        assert_eq!(Table::read(&place.path("metered.parquet")).unwrap().rows.len(), told, "{said}");
    }
}
