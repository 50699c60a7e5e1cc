//! Flows as a capture: UDP or TCP over IPv4 or IPv6 over Ethernet, nanosecond pcap, to be replayed or metered again.
//!
//! Flow `i` has a 5-tuple of its own, of addresses that are reserved for documentation (RFC 5737, RFC 3849), and begins at
//! its `start_ns`, or `i` milliseconds after 2024-01-01. Payloads are zeros; lengths, checksums and times are true, and so
//! are the flags, numbers and options of TCP. A packet's size is that of IP, header included, whichever IP that is. It has
//! as many bytes as its headers at least and 65,535 at most: sizes beyond are brought to the nearer bound and counted.
//!
//! Metering gives the flows back, sizes exactly and times to the nanosecond, unless a flow begins with a packet of the
//! server (who sends first *is* the client to a meter) or pauses for longer than the meter's idle timeout.

mod tcp;

use super::row::Row;
use crate::error::{Error, Kind, Result};
use crate::packet::Packet;
use crate::train::atomic::AtomicFile;
use etherparse::PacketBuilder;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use tcp::Connection;

/// Bytes of a UDP header.
const UDP_HEADER: u32 = 8;

/// The largest total length an IPv4 header can state, and what is kept to with IPv6, too.
pub const MAX_SIZE: u32 = 65_535;

/// When flows begin that have no time of their own: 2024-01-01T00:00:00Z, in nanoseconds since 1970.
pub const EPOCH_NS: u64 = 1_704_067_200_000_000_000;

/// Between the beginnings of two flows without a time of their own.
const SPACING_NS: u64 = 1_000_000;

/// The discard service: a port that no dissector takes for a protocol.
const SERVER_PORT: u16 = 9;

/// How many routers a packet may still pass.
const HOPS: u8 = 64;

/// First client port and their number: the dynamic ports of RFC 6335.
const CLIENT_PORTS: (u16, usize) = (49_152, 16_384);

/// Networks of clients and of servers: 192.0.2.0/24 and 198.51.100.0/24, 2001:db8:0:1::/64 and 2001:db8:0:2::/64.
const V4_NETWORKS: [[u8; 3]; 2] = [[192, 0, 2], [198, 51, 100]];
const V6_NETWORKS: [u8; 2] = [1, 2];

/// Addresses of one of these that hosts have.
const HOSTS: usize = 254;

/// Most flows with 5-tuples of their own.
const MAX_FLOWS: usize = HOSTS * HOSTS * CLIENT_PORTS.1;

/// What carries the packets of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// TCP for the flows of a label of which more than half begin with the packets of a handshake, and for a flow
    /// without a label that does so itself; UDP for others.
    #[default]
    Auto,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Which IP carries the packets of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ip {
    /// IPv4.
    #[default]
    V4,
    /// IPv6. Its header has 20 bytes more, so that some packets are too small for it: see [`Changes::clamped`].
    V6,
    /// IPv6 for every second flow, but for those with a packet that is too small for it; IPv4 for others.
    Mixed,
}

/// What a capture is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protocols {
    /// Below the payload.
    pub transport: Transport,
    /// Below that.
    pub ip: Ip,
}

impl Protocols {
    /// UDP over IPv4.
    pub const UDP: Self = Self { transport: Transport::Udp, ip: Ip::V4 };
}

/// What had to be changed to make a capture of flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Packets whose size was brought into what their headers need and [`MAX_SIZE`].
    pub clamped: u64,
    /// Flows whose first packet is the server's: a meter will swap the two sides.
    pub server_first: u64,
    /// Flows that are TCP; the others are UDP.
    pub tcp: u64,
    /// Flows that are over IPv6; the others are over IPv4.
    pub v6: u64,
    /// Flows that are over IPv4 because a packet of theirs is smaller than the headers over IPv6.
    pub too_small: u64,
}

/// Of a flow: whether it is over IPv6, and its connection if it is TCP.
struct Carrier {
    v6: bool,
    connection: Option<Connection>,
}

impl Carrier {
    /// Bytes of the headers without options: of the smallest packet.
    fn headers(&self) -> u32 {
        ip_header(self.v6) + if self.connection.is_some() { tcp::HEADER } else { UDP_HEADER }
    }
}

/// Bytes of an IP header without options.
fn ip_header(v6: bool) -> u32 {
    if v6 { 40 } else { 20 }
}

/// When a packet is sent, and which it is.
type Event = (u64, u32, u32);

/// A capture that is being made. It is in order of time, so the flows are kept until the end.
pub struct Capture {
    path: PathBuf,
    file: AtomicFile,
    protocols: Protocols,
    rows: Vec<Row>,
}

impl Capture {
    /// Begins the file `path`, which appears when [`Self::finish`] succeeds, or not at all.
    pub fn create(path: &Path, protocols: Protocols) -> Result<Self> {
        Ok(Self { path: path.to_path_buf(), file: AtomicFile::create(path)?, protocols, rows: Vec::new() })
    }

    /// Adds a flow.
    pub fn push(&mut self, row: Row) -> Result<()> {
        if self.rows.len() == MAX_FLOWS {
            return Err(Error::invalid(format!("a capture has addresses for {MAX_FLOWS} flows, not for more")));
        }
        self.rows.push(row);
        Ok(())
    }

    /// Writes the packets of all flows in order of time.
    pub fn finish(self) -> Result<Changes> {
        let mut out = BufWriter::new(self.file);
        let changes = write_packets(&self.path, &self.rows, self.protocols, &mut out)?;
        out.into_inner().map_err(|e| Error::io(&self.path, &e.into_error()))?.commit()?;
        Ok(changes)
    }
}

/// Writes `rows` as a capture; whole or not at all.
pub fn write(path: &Path, rows: &[Row], protocols: Protocols) -> Result<Changes> {
    let mut capture = Capture::create(path, protocols)?;
    rows.iter().try_for_each(|row| capture.push(row.clone()))?;
    capture.finish()
}

fn write_packets(path: &Path, rows: &[Row], protocols: Protocols, out: &mut dyn Write) -> Result<Changes> {
    let Protocols { transport, ip } = protocols;
    let mut changes = Changes::default();
    let (mut events, mut carriers) = (Vec::new(), Vec::with_capacity(rows.len()));
    let is_connection = |row: &Row| tcp::is_connection(&row.packets, ip_header(ip != Ip::V4));
    let connected = connected_labels(rows, is_connection);
    for (row, flow) in rows.iter().zip(0..) {
        events_of(flow, row, &mut events).map_err(|e| e.at(format_args!("flow {flow}")))?;
        let is_tcp = match transport {
            Transport::Auto => match &row.label {
                Some(label) => connected.contains(label.as_str()),
                None => is_connection(row),
            },
            Transport::Tcp => true,
            Transport::Udp => false,
        };
        let least = ip_header(true) + if is_tcp { tcp::HEADER } else { UDP_HEADER };
        let fits = row.packets.iter().all(|packet| packet.size.unsigned_abs() >= least);
        let wanted = ip == Ip::V6 || (ip == Ip::Mixed && flow % 2 == 1);
        let v6 = wanted && (fits || ip == Ip::V6);
        changes.tcp += u64::from(is_tcp);
        changes.v6 += u64::from(v6);
        changes.too_small += u64::from(wanted && !v6);
        carriers.push(Carrier { v6, connection: is_tcp.then(|| Connection::new(flow, &row.packets, ip_header(v6))) });
    }
    // Packets of one flow at one time stay in their order.
    events.sort_unstable();
    let failed = |e: std::io::Error| Error::io(path, &e);
    out.write_all(&file_header()).map_err(failed)?;
    let mut frame = Vec::new();
    for (ns, flow, index) in events {
        let (packet, carrier) = (rows[flow as usize].packets[index as usize], &mut carriers[flow as usize]);
        let length = packet.size.unsigned_abs().clamp(carrier.headers(), MAX_SIZE);
        changes.clamped += u64::from(length != packet.size.unsigned_abs());
        changes.server_first += u64::from(index == 0 && packet.size < 0);
        let sent = Packet { size: if packet.size < 0 { -(length as i32) } else { length as i32 }, ..packet };
        frame_of(flow as usize, carrier, index as usize, &sent, ns, &mut frame)?;
        let header = record_header(ns, frame.len() as u32);
        out.write_all(&header).and_then(|()| out.write_all(&frame)).map_err(failed)?;
    }
    Ok(changes)
}

/// Labels of which more than half of the flows begin as TCP connections do.
fn connected_labels(rows: &[Row], is_connection: impl Fn(&Row) -> bool) -> BTreeSet<&str> {
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for row in rows {
        let Some(label) = &row.label else { continue };
        let (connections, all) = counts.entry(label).or_default();
        *connections += usize::from(is_connection(row));
        *all += 1;
    }
    counts.into_iter().filter(|(_, (connections, all))| 2 * connections > *all).map(|(label, _)| label).collect()
}

/// Appends when each packet of the flow is sent.
fn events_of(flow: u32, row: &Row, events: &mut Vec<Event>) -> Result<()> {
    let start = row.start_ns.unwrap_or(EPOCH_NS + u64::from(flow) * SPACING_NS);
    // pcap counts seconds in 32 bits.
    let room = (u64::from(u32::MAX) * 1_000_000_000).checked_sub(start);
    let mut since_start = 0.0;
    for (packet, index) in row.packets.iter().zip(0..) {
        packet.check().map_err(|e| e.at(format_args!("packet {index}")))?;
        since_start += if index == 0 { 0.0 } else { f64::from(packet.ipt_us) * 1e3 };
        let Some(ns) = room.filter(|&room| since_start < room as f64).map(|_| start + since_start.round() as u64)
        else {
            return Err(Error::new(
                Kind::Invalid,
                format!("packet {index} is sent after 2106, which a pcap file has no room for"),
            ));
        };
        events.push((ns, flow, index));
    }
    Ok(())
}

/// Builds the Ethernet frame of a packet, whose size is one that its headers allow.
fn frame_of(
    flow: usize,
    carrier: &mut Carrier,
    index: usize,
    packet: &Packet,
    ns: u64,
    frame: &mut Vec<u8>,
) -> Result<()> {
    static ZEROS: [u8; MAX_SIZE as usize] = [0; MAX_SIZE as usize];
    // Number of the host in its network, port, and an Ethernet address of those that are locally administered.
    let rest = flow / HOSTS;
    let host = |i: usize| 1 + (i % HOSTS) as u8;
    let client = (0, host(flow), CLIENT_PORTS.0 + (rest % CLIENT_PORTS.1) as u16, [2, 0, 0, 0, 0, 1]);
    let server = (1, host(rest / CLIENT_PORTS.1), SERVER_PORT, [2, 0, 0, 0, 0, 2]);
    let (from, to) = if packet.size < 0 { (server, client) } else { (client, server) };
    let ethernet = PacketBuilder::ethernet2(from.3, to.3);
    let builder = if carrier.v6 {
        let address = |side: usize, host| [0x20, 1, 0xd, 0xb8, 0, 0, 0, V6_NETWORKS[side], 0, 0, 0, 0, 0, 0, 0, host];
        ethernet.ipv6(address(from.0, from.1), address(to.0, to.1), HOPS)
    } else {
        let address = |side: usize, host| {
            let [a, b, c] = V4_NETWORKS[side];
            [a, b, c, host]
        };
        ethernet.ipv4(address(from.0, from.1), address(to.0, to.1), HOPS)
    };
    frame.clear();
    let (length, headers) = (packet.size.unsigned_abs(), carrier.headers());
    let written = match &mut carrier.connection {
        Some(connection) => {
            let (header, payload) = connection.send(index, packet, (ns / 1_000_000) as u32, (from.2, to.2));
            builder.tcp_header(header).write(frame, &ZEROS[..payload as usize])
        }
        None => builder.udp(from.2, to.2).write(frame, &ZEROS[..(length - headers) as usize]),
    };
    written.map_err(|e| Error::invalid(format!("a packet of {length} bytes: {e}")))
}

/// pcap 2.4, little-endian, nanoseconds, Ethernet.
fn file_header() -> [u8; 24] {
    let mut header = [0; 24];
    header[..4].copy_from_slice(&0xa1b2_3c4d_u32.to_le_bytes());
    header[4..6].copy_from_slice(&2u16.to_le_bytes());
    header[6..8].copy_from_slice(&4u16.to_le_bytes());
    header[16..20].copy_from_slice(&262_144u32.to_le_bytes());
    header[20..24].copy_from_slice(&1u32.to_le_bytes());
    header
}

fn record_header(ns: u64, length: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&((ns / 1_000_000_000) as u32).to_le_bytes());
    header[4..8].copy_from_slice(&((ns % 1_000_000_000) as u32).to_le_bytes());
    header[8..12].copy_from_slice(&length.to_le_bytes());
    header[12..16].copy_from_slice(&length.to_le_bytes());
    header
}
