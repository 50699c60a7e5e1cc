//! The flows a command is given, capture or table, and how it names them.

use crate::captures::MeterArgs;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use trafficgpt::meter::{FlowKey, meter_file};
use trafficgpt::train::progress::Progress;
use trafficgpt::train::table::{Row, Table};
use trafficgpt::{Error, Result};

/// Hands every flow of the capture or table at `path` to `sink`; warnings go to standard error.
pub fn each_flow(path: &Path, meter: &MeterArgs, sink: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    let warn = |warning: &str| Progress::stderr().line(&format!("warning: {warning}"));
    if is_table(path)? {
        let table = Table::read(path)?;
        table.warnings.iter().for_each(|warning| warn(warning));
        return table.rows.into_iter().try_for_each(sink);
    }
    let summary = meter_file(path, &meter.options(), &mut |flow| sink(Row::of_flow(flow, None, String::new(), None)))?;
    if let Some(warning) = &summary.warning {
        warn(warning);
    }
    Ok(())
}

/// Whether the file is a flow table rather than a capture: by its name, or as Parquet by its first bytes.
fn is_table(path: &Path) -> Result<bool> {
    if path.is_dir() || path.extension().is_some_and(|e| e == "parquet" || e == "csv" || e == "jsonl") {
        return Ok(true);
    }
    let mut magic = Vec::new();
    let read = File::open(path).and_then(|file| file.take(4).read_to_end(&mut magic));
    read.map_err(|e| Error::io(path, &e))?;
    Ok(magic == b"PAR1")
}

/// A flow by its key, or where it has none as the row `number` of its table.
pub fn name(row: &Row, number: usize) -> String {
    row.key.as_ref().map_or_else(|| format!("row {number}"), key_text)
}

/// `192.0.2.1:4242 > 198.51.100.7:53 udp`
fn key_text(key: &FlowKey) -> String {
    let end = |address, port| std::net::SocketAddr::new(address, port).to_string();
    let protocol = match key.protocol {
        1 => "icmp".to_string(),
        6 => "tcp".to_string(),
        17 => "udp".to_string(),
        58 => "icmpv6".to_string(),
        other => format!("ip {other}"),
    };
    format!("{} > {} {protocol}", end(key.client, key.client_port), end(key.server, key.server_port))
}

/// Adds what is known of a flow, its number of packets, key, start and own label, to a JSON object.
pub fn describe(row: &Row, line: &mut Value) {
    line["packets"] = json!(row.n_packets);
    if let Some(key) = &row.key {
        line["client_ip"] = json!(key.client);
        line["server_ip"] = json!(key.server);
        line["client_port"] = json!(key.client_port);
        line["server_port"] = json!(key.server_port);
        line["protocol"] = json!(key.protocol);
    }
    if let Some(start_ns) = row.start_ns {
        line["start_ns"] = json!(start_ns);
    }
    if let Some(truth) = &row.label {
        line["truth"] = json!(truth);
    }
}

/// To six digits after the point: what single precision knows.
pub fn rounded(value: f32) -> f64 {
    (f64::from(value) * 1e6).round() / 1e6
}
