//! Flow tables as JSON lines: an object per flow, with the columns of a table as its members.

use super::filter::{self, Filter};
use super::row::{self, KeyParts, MAX_PACKETS_OF_ROW, Row};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};

/// Longest line in bytes: room for the most packets a row may list, and for other members.
const MAX_LINE: u64 = 16 << 20;

/// A row as it is written; what there is not is left out. Other members are of no account.
#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    split: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    packets: Option<i64>,
    sizes: Vec<i64>,
    ipt_us: Vec<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_ip: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server_ip: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_port: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server_port: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start_ns: Option<i64>,
}

/// The line of a row, with its end.
pub(super) fn line(row: &Row) -> Result<String> {
    let too_large = |_| Error::invalid("a count or a time is too large for a table");
    let key = row.key.as_ref();
    let line = Line {
        label: row.label.clone(),
        group: Some(row.group.clone()),
        split: row.split.map(|s| s.name().to_string()),
        packets: Some(i64::try_from(row.n_packets).map_err(too_large)?),
        sizes: row.packets.iter().map(|p| p.size.into()).collect(),
        ipt_us: row.packets.iter().map(|p| p.ipt_us).collect(),
        client_ip: key.map(|k| k.client.to_string()),
        server_ip: key.map(|k| k.server.to_string()),
        client_port: key.map(|k| k.client_port.into()),
        server_port: key.map(|k| k.server_port.into()),
        protocol: key.map(|k| k.protocol.into()),
        start_ns: row.start_ns.map(i64::try_from).transpose().map_err(too_large)?,
    };
    let text = serde_json::to_string(&line).map_err(|e| Error::invalid(format!("a row as JSON: {e}")))?;
    Ok(text + "\n")
}

/// Gives `sink` the rows of `file` that `filters` keep; `name` is the group of rows that have none.
pub(super) fn stream(
    file: File,
    name: &str,
    filters: &[Filter],
    sink: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<()> {
    let (mut reader, mut line, mut number) = (BufReader::new(file), Vec::new(), 0);
    loop {
        number += 1;
        line.clear();
        let at = |error: Error| error.at(format_args!("line {number}"));
        let n = (&mut reader)
            .take(MAX_LINE + 1)
            .read_until(b'\n', &mut line)
            .map_err(|e| at(Error::format(e.to_string())))?;
        if n == 0 {
            return Ok(());
        }
        if n as u64 > MAX_LINE {
            return Err(at(Error::format(format!("longer than {MAX_LINE} bytes"))));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        if let Some(row) = parse(&line, name, filters).map_err(at)? {
            sink(row)?;
        }
    }
}

/// The row of a line, if the filters keep it.
fn parse(line: &[u8], name: &str, filters: &[Filter]) -> Result<Option<Row>> {
    let damaged = |e: serde_json::Error| Error::format(format!("not a flow as JSON: {e}"));
    let value: Value = serde_json::from_slice(line).map_err(damaged)?;
    let text = |filter: &Filter| match value.get(&filter.column) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(number @ Value::Number(_)) => Some(number.to_string()),
        _ => None,
    };
    let texts: Vec<Option<String>> = filters.iter().map(text).collect();
    if !filter::keeps(filters, |i| texts[i].as_deref()) {
        return Ok(None);
    }
    let line = Line::deserialize(value).map_err(damaged)?;
    if line.ipt_us.len() > MAX_PACKETS_OF_ROW {
        return Err(Error::format(format!("{} packets; a flow has 1..={MAX_PACKETS_OF_ROW}", line.ipt_us.len())));
    }
    let times: Vec<f64> = line.ipt_us.iter().map(|&us| us.into()).collect();
    let packets = row::packets(&line.sizes, &times)?;
    Ok(Some(Row {
        n_packets: row::n_packets(line.packets, packets.len())?,
        label: line.label,
        group: line.group.unwrap_or_else(|| name.to_string()),
        split: line.split.as_deref().map(str::parse).transpose()?,
        packets,
        key: KeyParts {
            client_ip: line.client_ip.as_deref(),
            server_ip: line.server_ip.as_deref(),
            client_port: line.client_port,
            server_port: line.server_port,
            protocol: line.protocol,
        }
        .key()?,
        start_ns: row::start_ns(line.start_ns)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Packet;
    use crate::train::table::{Split, Table};
    use std::fs;

    #[test]
    fn rows_come_back_and_bad_lines_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flows.jsonl");
        let packets = [(60, 0.0), (-1500, 0.1), (40, 1e9)].map(|(size, ipt_us)| Packet { size, ipt_us }).to_vec();
        let key = KeyParts {
            client_ip: Some("2001:db8::1"),
            server_ip: Some("192.0.2.1"),
            client_port: Some(1),
            server_port: Some(53),
            protocol: Some(17),
        };
        let full = Row {
            label: Some("a \"b\"\n".into()),
            group: "g".into(),
            split: Some(Split::Val),
            n_packets: 9,
            packets,
            key: key.key().unwrap(),
            start_ns: Some(1),
        };
        let bare = Row { label: None, split: None, key: None, start_ns: None, n_packets: 3, ..full.clone() };
        let table = Table::from(vec![full, bare]);
        table.write(&path).unwrap();
        assert_eq!(Table::read(&path).unwrap(), table);
        assert_eq!(Table::read(directory.path()).unwrap().rows.len(), 2);
        let only = Table::read_filtered(&path, &["split=val".parse().unwrap()]).unwrap();
        assert_eq!(only.rows, table.rows[..1]);

        for (line, says) in [
            ("{\"sizes\":[40],\"ipt_us\":[0", "line 2: not a flow as JSON"),
            ("{\"sizes\":[40]}", "ipt_us"),
            ("{\"sizes\":[40],\"ipt_us\":[0,1]}", "1 sizes but 2 times"),
            ("{\"sizes\":[40],\"ipt_us\":[-1]}", "packet 0"),
            ("{\"sizes\":[40],\"ipt_us\":[0],\"packets\":0}", "packets"),
            ("{\"sizes\":[40],\"ipt_us\":[0],\"split\":\"dev\"}", "dev"),
            ("[1]", "line 2"),
        ] {
            fs::write(&path, format!("{{\"sizes\":[40],\"ipt_us\":[0]}}\n{line}\n")).unwrap();
            let error = Table::read(&path).unwrap_err();
            assert!(error.message().contains("flows.jsonl") && error.message().contains(says), "{line}: {error}");
        }
    }
}
