//! Flow tables from CSV: ours, the original project's, and nfstream's with SPLT columns. The header tells which.

use super::csv_file::{CsvFile, Fields, Header, float, integer};
use super::filter::{self, Filter};
use super::row::{self, KeyParts, Row, protocol_number};
use crate::error::{Error, Result};
use crate::meter::FlowKey;
use crate::packet::Packet;
use std::fs::File;

/// Gives `sink` the rows of `file` that `filters` keep; `name` is the group of rows that have none. Returns what was
/// left out, if anything.
pub(super) fn stream(
    file: File,
    name: &str,
    filters: &[Filter],
    sink: &mut dyn FnMut(Row) -> Result<()>,
) -> Result<Option<String>> {
    let mut csv = CsvFile::open(file)?;
    let layout = Layout::of(csv.header())?;
    let filtered = filters.iter().map(|f| csv.header().filtered(f)).collect::<Result<Vec<_>>>()?;
    let mut half_pairs = HalfPairs::default();
    while csv.advance()? {
        let fields = csv.fields();
        if filter::keeps(filters, |i| fields.raw(filtered[i])) {
            sink(layout.row(&fields, name, &mut half_pairs).map_err(|e| csv.at(e))?)?;
        }
    }
    Ok((half_pairs.pairs > 0).then(|| {
        format!(
            "{name}: {} packets of {} flows had a size without a time or a time without a size and were left out",
            half_pairs.pairs, half_pairs.flows
        )
    }))
}

/// Packets without a partner in a file of the original project.
#[derive(Default)]
struct HalfPairs {
    pairs: u64,
    flows: u64,
}

/// Which kind of CSV it is.
enum Layout {
    Ours,
    /// Indices of `raw_packetN` and `raw_iatN` by N.
    Original(Vec<(usize, usize)>),
    Nfstream,
}

impl Layout {
    fn of(header: &Header) -> Result<Self> {
        if header.has("sizes") && header.has("ipt_us") {
            return Ok(Self::Ours);
        }
        let splt = ["splt_direction", "splt_ps", "splt_piat_ms"];
        if splt.iter().all(|c| header.has(c)) {
            return Ok(Self::Nfstream);
        }
        let mut pairs = Vec::new();
        while let Some(size) = header.index(&format!("raw_packet{}", pairs.len())) {
            let time = format!("raw_iat{}", pairs.len());
            let time = header.index(&time).ok_or_else(|| {
                Error::format(format!("column raw_packet{} is there, but no column {time}", pairs.len()))
            })?;
            pairs.push((size, time));
        }
        if pairs.is_empty() {
            return Err(Error::format(
                "not a flow table: the header has neither sizes and ipt_us (ours), nor raw_packet0 and raw_iat0 (the \
                 original project's), nor splt_direction, splt_ps and splt_piat_ms (nfstream's, made with \
                 splt_analysis > 0)",
            ));
        }
        Ok(Self::Original(pairs))
    }

    fn row(&self, fields: &Fields<'_>, name: &str, half_pairs: &mut HalfPairs) -> Result<Row> {
        match self {
            Self::Ours => ours(fields, name),
            Self::Original(pairs) => original(fields, name, pairs, half_pairs),
            Self::Nfstream => nfstream(fields, name),
        }
    }
}

fn common(fields: &Fields<'_>, name: &str, label: &[&str], packets: Vec<Packet>) -> Result<Row> {
    let protocol = |names: &[&str]| fields.text(names).and_then(protocol_number).map(i64::from);
    Ok(Row {
        label: fields.text(label).map(String::from),
        group: fields.text(&["group"]).unwrap_or(name).to_string(),
        split: fields.text(&["split"]).map(str::parse).transpose()?,
        n_packets: row::n_packets(fields.integer(&["packets", "bidirectional_packets"])?, packets.len())?,
        packets,
        key: KeyParts {
            client_ip: fields.text(&["client_ip", "src_ip"]),
            server_ip: fields.text(&["server_ip", "dst_ip"]),
            client_port: fields.integer(&["client_port", "src_port"])?,
            server_port: fields.integer(&["server_port", "dst_port"])?,
            protocol: protocol(&["protocol", "ip_proto"]),
        }
        .key()?,
        start_ns: row::start_ns(fields.integer(&["start_ns"])?)?,
    })
}

fn ours(fields: &Fields<'_>, name: &str) -> Result<Row> {
    let packets = row::packets(&fields.list("sizes", integer)?, &fields.list("ipt_us", float)?)?;
    common(fields, name, &["label"], packets)
}

/// Lists are padded with -1 to the length nfstream was told; direction 0 is client to server, 1 the other way.
fn nfstream(fields: &Fields<'_>, name: &str) -> Result<Row> {
    let directions = fields.list("splt_direction", integer)?;
    let sizes = fields.list("splt_ps", integer)?;
    let times = fields.list("splt_piat_ms", float)?;
    if sizes.len() != directions.len() || times.len() != directions.len() {
        let (d, s, t) = (directions.len(), sizes.len(), times.len());
        return Err(Error::format(format!("splt_direction, splt_ps and splt_piat_ms have {d}, {s} and {t} values")));
    }
    let n = directions.iter().position(|&d| d == -1).unwrap_or(directions.len());
    let signed = |(i, (&direction, &size)): (usize, (&i64, &i64))| match (direction, size) {
        (0, 0..) => Ok(size),
        (1, 0..) => Ok(-size),
        (0 | 1, _) => Err(Error::format(format!("column splt_ps: value {i} is {size}, but a size is not negative"))),
        _ => Err(Error::format(format!("column splt_direction: value {i} is {direction}, neither 0, 1 nor -1"))),
    };
    let signed = directions[..n].iter().zip(&sizes[..n]).enumerate().map(signed).collect::<Result<Vec<_>>>()?;
    let us: Vec<f64> = times[..n].iter().map(|ms| ms * 1e3).collect();
    let mut row = common(fields, name, &["label", "application_name"], row::packets(&signed, &us)?)?;
    if row.start_ns.is_none() {
        let ms = fields.integer(&["bidirectional_first_seen_ms"])?;
        row.start_ns = row::start_ns(ms.map(|ms| ms.saturating_mul(1_000_000)))?;
    }
    Ok(row)
}

/// Pairs stay pairs: one that lacks its size or its time is left out and counted, and moves no other.
fn original(fields: &Fields<'_>, name: &str, columns: &[(usize, usize)], half_pairs: &mut HalfPairs) -> Result<Row> {
    let (mut sizes, mut us, mut halves) = (Vec::new(), Vec::new(), 0);
    for &(size, time) in columns {
        match (fields.number(size)?, fields.number(time)?) {
            (Some(size), Some(ms)) => {
                // Rounded, and past i64 saturated, which the check of sizes refuses.
                sizes.push(size.round() as i64);
                us.push(ms * 1e3);
            }
            (None, None) => {}
            _ => halves += 1,
        }
    }
    half_pairs.pairs += halves;
    half_pairs.flows += u64::from(halves > 0);
    let mut row = common(fields, name, &["label", "ndpi_app"], row::packets(&sizes, &us)?)?;
    row.key = fields.text(&["flow_id"]).and_then(flow_id).or(row.key);
    Ok(row)
}

/// The key in a `flow_id` such as `UDP 192.0.2.1:5353 198.51.100.2:53`; none if it is of another form.
fn flow_id(text: &str) -> Option<FlowKey> {
    let mut words = text.split_whitespace();
    let protocol = protocol_number(words.next()?)?;
    let mut end = || {
        let (address, port) = words.next()?.rsplit_once(':')?;
        Some((address.parse().ok()?, port.parse().ok()?))
    };
    let ((client, client_port), (server, server_port)) = (end()?, end()?);
    Some(FlowKey { client, server, client_port, server_port, protocol })
}
