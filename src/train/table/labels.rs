//! Labels of flows from a CSV file, found by 5-tuple and time.
//!
//! Columns: `label`, `client_ip`, `server_ip`, `client_port`, `server_port`, `protocol` (a number, or a name such as
//! `tcp`), and optionally `start` and `end` in seconds since 1970. nfstream's names of the addresses and ports
//! (`src_ip`, `dst_ip`, `src_port`, `dst_port`) do as well. Which side is the client does not matter.

use super::csv_file::{CsvFile, Fields};
use super::row::{KeyParts, protocol_number};
use crate::error::{Error, Kind, Result};
use crate::meter::FlowKey;
use std::collections::HashMap;
use std::fs::File;
use std::net::IpAddr;
use std::path::Path;

/// Most entries that are read.
const MAX_ENTRIES: usize = 1 << 24;

/// What a label file says.
#[derive(Debug)]
pub struct Labels {
    entries: HashMap<Ends, Vec<Entry>>,
    names: Vec<String>,
}

/// Both ends of a flow, the smaller first, and the protocol.
type Ends = ((IpAddr, u16), (IpAddr, u16), u8);

#[derive(Clone, Copy, Debug)]
struct Entry {
    from_ns: u64,
    to_ns: u64,
    name: u32,
}

impl Labels {
    /// Reads a label file. An error names file, row, column and reason.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, &e))?;
        Self::parse(file).map_err(|e| e.at(path.display()))
    }

    fn parse(file: File) -> Result<Self> {
        let mut csv = CsvFile::open(file)?;
        for (name, other) in [
            ("label", "label"),
            ("client_ip", "src_ip"),
            ("server_ip", "dst_ip"),
            ("client_port", "src_port"),
            ("server_port", "dst_port"),
            ("protocol", "protocol"),
        ] {
            if !csv.header().has(name) && !csv.header().has(other) {
                let names = csv.header().all_names();
                return Err(Error::format(format!("no column {name}; a label file needs it, there are {names}")));
            }
        }
        let mut labels = Self { entries: HashMap::new(), names: Vec::new() };
        let mut known = HashMap::new();
        let mut n_entries = 0;
        while csv.advance()? {
            n_entries += 1;
            if n_entries > MAX_ENTRIES {
                return Err(Error::new(Kind::NoMemory, format!("more than {MAX_ENTRIES} rows; split the file")));
            }
            let (ends, from_ns, to_ns, label) = entry(csv.fields()).map_err(|e| csv.at(e))?;
            let name = *known.entry(label.to_string()).or_insert_with(|| {
                labels.names.push(label.to_string());
                labels.names.len() as u32 - 1
            });
            labels.entries.entry(ends).or_default().push(Entry { from_ns, to_ns, name });
        }
        Ok(labels)
    }

    /// The label of the flow: of the first row with its 5-tuple, in either direction, whose time overlaps the flow's.
    pub fn find(&self, key: &FlowKey, start_ns: u64, end_ns: u64) -> Option<&str> {
        let entries = self.entries.get(&ends(key))?;
        let entry = entries.iter().find(|e| e.from_ns <= end_ns && start_ns <= e.to_ns)?;
        Some(&self.names[entry.name as usize])
    }
}

fn ends(key: &FlowKey) -> Ends {
    let (a, b) = ((key.client, key.client_port), (key.server, key.server_port));
    (a.min(b), a.max(b), key.protocol)
}

fn entry<'a>(fields: Fields<'a>) -> Result<(Ends, u64, u64, &'a str)> {
    let label = fields.text(&["label"]).ok_or_else(|| Error::format("column label: empty"))?;
    let protocol = fields.text(&["protocol"]).unwrap_or_default();
    let wrong = || Error::format(format!("column protocol: \"{protocol}\" is neither a number nor a name known"));
    let key = KeyParts {
        client_ip: fields.text(&["client_ip", "src_ip"]),
        server_ip: fields.text(&["server_ip", "dst_ip"]),
        client_port: fields.integer(&["client_port", "src_port"])?,
        server_port: fields.integer(&["server_port", "dst_port"])?,
        protocol: Some(protocol_number(protocol).ok_or_else(wrong)?.into()),
    }
    .key()?
    .ok_or_else(|| Error::format("an address is missing"))?;
    let from_ns = time(fields, "start")?.unwrap_or(0);
    let to_ns = time(fields, "end")?.unwrap_or(u64::MAX);
    if to_ns < from_ns {
        return Err(Error::format("column end: before column start"));
    }
    Ok((ends(&key), from_ns, to_ns, label))
}

/// Seconds since 1970, with a fraction or not, as nanoseconds: read digit by digit, for a float would lose some.
fn time(fields: Fields<'_>, name: &str) -> Result<Option<u64>> {
    let Some(text) = fields.text(&[name]) else { return Ok(None) };
    let parse = || {
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = fraction.get(..fraction.len().min(9))?;
        let fraction: u64 = if digits.is_empty() { 0 } else { format!("{digits:0<9}").parse().ok()? };
        seconds.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(fraction)
    };
    let wrong = || Error::format(format!("column {name}: \"{text}\" is not a time in seconds since 1970"));
    parse().map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read(text: &str) -> Result<Labels> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Labels::read(file.path())
    }

    fn key(client_port: u16, server_port: u16) -> FlowKey {
        let (client, server) = ("192.0.2.1".parse().unwrap(), "198.51.100.2".parse().unwrap());
        FlowKey { client, server, client_port, server_port, protocol: 6 }
    }

    #[test]
    fn labels_are_found_by_either_direction_and_by_time() {
        let labels = read(
            "src_ip,src_port,dst_ip,dst_port,protocol,label,start,end\n\
             192.0.2.1,1000,198.51.100.2,80,tcp,web,,\n\
             198.51.100.2,443,192.0.2.1,1000,6,early,,100.5\n\
             198.51.100.2,443,192.0.2.1,1000,6,late,100.500000001,\n",
        )
        .unwrap();
        assert_eq!(labels.find(&key(1000, 80), 0, 0), Some("web"));
        assert_eq!(labels.find(&key(1000, 443), 0, 100_500_000_000), Some("early"));
        assert_eq!(labels.find(&key(1000, 443), 100_500_000_001, u64::MAX), Some("late"));
        assert_eq!(labels.find(&key(1001, 80), 0, 0), None);
        let swapped = FlowKey { client: key(0, 0).server, server: key(0, 0).client, ..key(80, 1000) };
        assert_eq!(labels.find(&swapped, 5, 6), Some("web"));
        assert_eq!(labels.find(&FlowKey { protocol: 17, ..key(1000, 80) }, 0, 0), None);
    }

    #[test]
    fn bad_label_files_are_refused_by_row_and_column() {
        let header = "client_ip,client_port,server_ip,server_port,protocol,label,start,end\n";
        let refused = |row: &str| read(&format!("{header}{row}\n")).unwrap_err().message().to_string();
        assert!(refused("192.0.2.1,1,192.0.2.2,2,tcp,,,").contains("row 1: column label"));
        assert!(refused("192.0.2.1,1,192.0.2.2,2,quic,a,,").contains("row 1: column protocol: \"quic\""));
        assert!(refused("192.0.2,1,192.0.2.2,2,tcp,a,,").contains("row 1: column client_ip"));
        assert!(refused(",1,192.0.2.2,2,tcp,a,,").contains("row 1: an address"));
        assert!(refused("192.0.2.1,-1,192.0.2.2,2,tcp,a,,").contains("row 1: column client_port"));
        assert!(refused("192.0.2.1,1,192.0.2.2,2,tcp,a,yesterday,").contains("row 1: column start"));
        assert!(refused("192.0.2.1,1,192.0.2.2,2,tcp,a,2,1").contains("row 1: column end"));
        assert!(refused("192.0.2.1,1,192.0.2.2,2,tcp,a,1.5é,").contains("row 1: column start"));
        assert!(read("label,client_ip\n").unwrap_err().message().contains("no column server_ip"));
    }
}
