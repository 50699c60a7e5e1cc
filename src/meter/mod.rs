//! Captures → flows.
//!
//! ```text
//! capture/  file → records      frame/  record → 5-tuple, size      fragments  pieces → their 5-tuple
//! table     5-tuples → flows    here    the four put together
//! ```
//!
//! A **flow** is a bidirectional 5-tuple of IP addresses, ports and protocol until it ends; VLANs and tunnels are no
//! part of it. The client sent its first packet, also where an earlier flow of the same 5-tuple was cut by a timeout;
//! where both ends are the same, all packets go one way. ICMP flows have ports 0.
//!
//! A packet's **size** is the length in its IP header; where that is 0, because segmentation was left to the network
//! card, the bytes on the wire from the IP header on. Fragments are packets of the flow that their first one names.
//!
//! # When a flow ends
//! Time is packet time: the clock is the time of the packet at hand.
//! - **Idle**: `idle_timeout` after its last packet, by any packet's clock or by its own next packet, which then begins
//!   a new flow.
//! - **Active**: at the first of its packets that comes `active_timeout` or more after its first; that packet begins a
//!   new flow.
//! - **Room**: where a packet needs a flow and `max_flows` are tracked, the one idle the longest ends.
//! - **End** of the capture.
//!
//! A timeout is reached when the time passed equals it. FIN and RST end nothing: retransmissions come after them, and a
//! SYN on the same 5-tuple within the idle timeout continues the flow, as it does in nfstream.
//!
//! A clock that runs backwards passes no time: a packet older than the latest of its flow is taken to have come with
//! that one, its `ipt_us` is 0, and the next packet counts from there, so that a flow's times always add up to its
//! duration. While the clock is behind the latest packet of some flow, that flow is not idle, nor are those looked at
//! after it (which had a packet later in the capture); each still ends at its own next packet.
//!
//! # Bounds
//! Memory is bounded by [`Options::max_flows`], about 1.3 KB each at 126 packets, whatever the length of the capture.
//! What is no IP, damaged or cut is counted by reason in the [`Summary`], never an error.

pub mod capture;
mod fragments;
pub mod frame;
mod summary;
mod table;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::packet::{N_PACKETS, Packet};
use capture::{Capture, Record};
pub(crate) use fragments::Fragments;
use frame::{Link, Parsed, Skip};
pub use summary::{Skipped, Summary};
use table::{Sink, Table};

/// Which packet of a tunnelled one is metered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tunnel {
    /// The one inside: of IP in IP, GRE, VXLAN and GTP-U, nested too.
    #[default]
    Inner,
    /// The outermost.
    Outer,
}

/// How captures become flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A flow ends when no packet came for this long in packet time; more than 0.
    pub idle_timeout: Duration,
    /// A flow ends this long after its first packet; more than 0, or `None` for never.
    pub active_timeout: Option<Duration>,
    /// Packets of a flow that are kept, at least 1; the count goes on.
    pub n_packets: usize,
    /// Which packet of a tunnelled one counts.
    pub tunnel: Tunnel,
    /// Flows tracked at once, at least 1: where one more begins, the one idle the longest ends.
    pub max_flows: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(60),
            active_timeout: None,
            n_packets: N_PACKETS,
            tunnel: Tunnel::Inner,
            max_flows: 1 << 20,
        }
    }
}

impl Options {
    /// Why flows cannot be made this way, if they cannot.
    pub fn check(&self) -> Result<()> {
        let wrong = if self.idle_timeout.is_zero() {
            "idle_timeout is 0; it must be more"
        } else if self.active_timeout.is_some_and(|timeout| timeout.is_zero()) {
            "active_timeout is 0; it must be more, or absent"
        } else if self.n_packets == 0 {
            "n_packets is 0; it must be at least 1"
        } else if self.max_flows == 0 {
            "max_flows is 0; it must be at least 1"
        } else {
            return Ok(());
        };
        Err(Error::invalid(wrong))
    }
}

/// The 5-tuple of a flow. The client sent its first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// Address of the client.
    pub client: IpAddr,
    /// Address of the server.
    pub server: IpAddr,
    /// Port of the client; 0 if the protocol has none.
    pub client_port: u16,
    /// Port of the server; 0 if the protocol has none.
    pub server_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

/// A flow that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    /// Who with whom.
    pub key: FlowKey,
    /// Unix time of the first packet in nanoseconds.
    pub start_ns: u64,
    /// The latest Unix time of its packets in nanoseconds.
    pub end_ns: u64,
    /// Packets of the whole flow.
    pub n_packets: u64,
    /// The first [`Options::n_packets`] of them.
    pub packets: Vec<Packet>,
}

/// Meters a capture: hands every flow to `sink`, in the order in which they ended (equal ends by start), and tells what
/// there was.
///
/// Errors: options out of range, a file that cannot be read or is no capture, and whatever `sink` returns, which stops
/// the metering. A capture that is cut or damaged on its way is none: what is before that place is metered and
/// [`Summary::warning`] says where it is.
pub fn meter_file(path: &Path, options: &Options, sink: &mut dyn FnMut(Flow) -> Result<()>) -> Result<Summary> {
    options.check()?;
    let mut capture = Capture::open(path)?;
    let mut meter = Meter::new(options);
    let mut n_flows = 0;
    let mut sink = |flow| {
        n_flows += 1;
        sink(flow)
    };
    while let Some(record) = capture.next_record()? {
        meter.record(&record, &mut sink)?;
    }
    let mut summary = meter.finish(&mut sink)?;
    summary.flows = n_flows;
    summary.warning = warning(path, capture.warning(), &summary);
    Ok(summary)
}

/// What a user should know although metering went on.
fn warning(path: &Path, damage: Option<&str>, summary: &Summary) -> Option<String> {
    let unsupported = summary.skipped.count(Skip::LinkType);
    let link = summary
        .unsupported_link
        .map(|link| format!("{}: link type {link} is not supported: {unsupported} packets skipped", path.display()));
    match (damage, link) {
        (Some(damage), Some(link)) => Some(format!("{damage}; {link}")),
        (damage, link) => damage.map(str::to_owned).or(link),
    }
}

/// Records in, flows out.
struct Meter {
    tunnel: Tunnel,
    table: Table,
    fragments: Fragments,
    summary: Summary,
}

impl Meter {
    fn new(options: &Options) -> Self {
        Self {
            tunnel: options.tunnel,
            table: Table::new(options),
            fragments: Fragments::default(),
            summary: Summary::default(),
        }
    }

    fn record(&mut self, record: &Record<'_>, sink: Sink<'_>) -> Result<()> {
        self.summary.records += 1;
        let Some(number) = record.link else {
            self.summary.skipped.add(Skip::NoInterface, 1);
            return Ok(());
        };
        let Some(link) = Link::from_linktype(number) else {
            self.summary.unsupported_link.get_or_insert(number);
            self.summary.skipped.add(Skip::LinkType, 1);
            return Ok(());
        };
        match frame::parse(link, record.bytes, record.wire_len, self.tunnel) {
            Ok(packet) => self.packet(record.ts_ns, packet, sink),
            Err(skip) => {
                self.summary.skipped.add(skip, 1);
                Ok(())
            }
        }
    }

    fn packet(&mut self, ts_ns: u64, packet: Parsed, sink: Sink<'_>) -> Result<()> {
        let Self { table, fragments, summary, .. } = self;
        let Summary { skipped, packets, bytes, .. } = summary;
        fragments.packet(ts_ns, packet, &mut |reason, n| skipped.add(reason, n), &mut |ts_ns, packet| {
            *packets += 1;
            *bytes += u64::from(packet.len);
            table.push(ts_ns, packet, sink)
        })
    }

    /// Ends every flow.
    fn finish(mut self, sink: Sink<'_>) -> Result<Summary> {
        self.table.finish(sink)?;
        self.summary.skipped.add(Skip::LoneFragment, self.fragments.n_waiting());
        self.summary.evicted = self.table.evicted();
        Ok(self.summary)
    }
}
