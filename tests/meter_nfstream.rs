//! Metering against nfstream 6.6 on real captures.
//!
//! Needs the measuring data: `TRAFFICGPT_DATA` names a directory with `captures/` and `captures_nfstream.parquet`, the
//! flows nfstream makes of them (idle timeout 60 s, no active timeout, first 128 packets, IP lengths). Without it the
//! test says so and passes. `cargo test --features train --test meter_nfstream -- --nocapture` prints the differences.
#![cfg(feature = "train")]
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::panic, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use trafficgpt::meter::{Flow, Options, meter_file};

/// What both sides tell of a flow.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    client: (IpAddr, u16),
    server: (IpAddr, u16),
    protocol: u8,
    start_ms: i64,
    packets: u64,
    sizes: Vec<i32>,
}

impl Seen {
    /// The 5-tuple without direction.
    fn tuple(&self) -> (u8, (IpAddr, u16), (IpAddr, u16)) {
        (self.protocol, self.client.min(self.server), self.client.max(self.server))
    }
}

fn data() -> Option<PathBuf> {
    let found = std::env::var_os("TRAFFICGPT_DATA").map(PathBuf::from);
    if found.is_none() {
        println!("skipped: TRAFFICGPT_DATA does not name the measuring data");
    }
    found
}

fn nfstream(path: &Path) -> BTreeMap<String, Vec<Seen>> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    let mut flows: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
    for batch in reader {
        let batch = batch.unwrap();
        let column = |name: &str| batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
        let text = |name: &str| {
            let of = |s: Option<&str>| s.unwrap().to_owned();
            match column(name).as_string_opt::<i64>() {
                Some(strings) => strings.iter().map(of).collect::<Vec<_>>(),
                None => column(name).as_string::<i32>().iter().map(of).collect(),
            }
        };
        let int = |name: &str| column(name).as_primitive::<Int32Type>().values().to_vec();
        let long = |name: &str| column(name).as_primitive::<Int64Type>().values().to_vec();
        let (capture, src, dst) = (text("capture"), text("src_ip"), text("dst_ip"));
        let (src_port, dst_port, protocol) = (int("src_port"), int("dst_port"), int("ip_proto"));
        let (start_ms, packets) = (long("first_seen_ms"), long("packets"));
        let sizes = column("sizes").as_list::<i32>();
        for i in 0..batch.num_rows() {
            flows.entry(capture[i].clone()).or_default().push(Seen {
                client: (src[i].parse().unwrap(), src_port[i] as u16),
                server: (dst[i].parse().unwrap(), dst_port[i] as u16),
                protocol: protocol[i] as u8,
                start_ms: start_ms[i],
                packets: packets[i] as u64,
                sizes: sizes.value(i).as_primitive::<Int32Type>().values().to_vec(),
            });
        }
    }
    flows
}

fn ours(path: &Path) -> Vec<Seen> {
    let mut flows = Vec::new();
    let options = Options { n_packets: 128, ..Options::default() };
    let mut sink = |flow: Flow| {
        flows.push(Seen {
            client: (flow.key.client, flow.key.client_port),
            server: (flow.key.server, flow.key.server_port),
            protocol: flow.key.protocol,
            start_ms: (flow.start_ns / 1_000_000) as i64,
            packets: flow.n_packets,
            sizes: flow.packets.iter().map(|p| p.size).collect(),
        });
        Ok(())
    };
    let summary = meter_file(path, &options, &mut sink).unwrap();
    println!("{:?} {} {:?}", path.file_name(), summary.skipped, summary.warning);
    flows
}

#[test]
fn flows_equal_nfstream() {
    let Some(data) = data() else { return };
    let theirs = nfstream(&data.join("captures_nfstream.parquet"));
    let (mut total, mut equal) = (0, 0);
    for entry in std::fs::read_dir(data.join("captures")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let theirs = theirs.get(&name).cloned().unwrap_or_default();
        let mut ours = ours(&path);
        total += theirs.len();
        let mut missing = Vec::new();
        for flow in theirs {
            match ours.iter().position(|o| Seen { start_ms: flow.start_ms, ..o.clone() } == flow) {
                Some(i) => {
                    ours.swap_remove(i);
                    equal += 1;
                }
                None => missing.push(flow),
            }
        }
        for m in missing {
            println!(
                "THEIRS {name} {:?} {} {} {:?}",
                m.tuple(),
                m.start_ms,
                m.packets,
                &m.sizes[..m.sizes.len().min(6)]
            );
        }
        for m in ours {
            println!(
                "OURS   {name} {:?} {} {} {:?}",
                m.tuple(),
                m.start_ms,
                m.packets,
                &m.sizes[..m.sizes.len().min(6)]
            );
        }
    }
    println!("{equal} of {total}");
}
