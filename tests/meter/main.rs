//! Metering, on captures built here byte by byte: every link type, tunnel, file format and way to be broken.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod build;
mod files;
mod flows;
mod fragments;
mod hostile;
mod layers;

use trafficgpt::Result;
use trafficgpt::meter::{Flow, FlowKey, Options, Summary, meter_file};

const SECOND: u64 = 1_000_000_000;

/// Meters the bytes of a capture file.
fn try_meter(bytes: &[u8], options: &Options) -> Result<(Vec<Flow>, Summary)> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let mut flows = Vec::new();
    let summary = meter_file(file.path(), options, &mut |flow| {
        flows.push(flow);
        Ok(())
    })?;
    assert_eq!(summary.records, summary.packets + summary.skipped.total(), "every record is metered or skipped");
    assert_eq!(summary.flows, flows.len() as u64);
    assert_eq!(summary.packets, flows.iter().map(|flow| flow.n_packets).sum::<u64>());
    Ok((flows, summary))
}

fn meter(bytes: &[u8]) -> (Vec<Flow>, Summary) {
    try_meter(bytes, &Options::default()).unwrap()
}

/// The only flow of a capture of which nothing is skipped.
fn only(bytes: &[u8]) -> Flow {
    let (mut flows, summary) = meter(bytes);
    assert_eq!((flows.len(), summary.skipped.total(), &summary.warning), (1, 0, &None), "{flows:?} {summary:?}");
    flows.remove(0)
}

fn sizes(flow: &Flow) -> Vec<i32> {
    flow.packets.iter().map(|packet| packet.size).collect()
}

fn times(flow: &Flow) -> Vec<f32> {
    flow.packets.iter().map(|packet| packet.ipt_us).collect()
}

/// The 5-tuple of [`build::packet`].
fn key() -> FlowKey {
    let (client, server) = (build::client(), build::server());
    FlowKey { client, server, client_port: 1000, server_port: 80, protocol: build::TCP }
}
