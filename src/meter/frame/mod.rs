//! One frame → the flow it belongs to and its size, without allocating.
//!
//! Everything is read by hand, every read is bounds-checked, and the walk from the link layer inwards takes at most
//! [`MAX_LAYERS`] steps. Truncated captures are the normal case: what is needed are headers, never payload.
//!
//! # Which packet counts
//! With [`Tunnel::Inner`] the innermost IP packet that can be read is the one metered. What a tunnel carries that is
//! not IP, is cut off or is damaged leaves the packet to the tunnel's own flow: no packet is lost that a meter without
//! tunnels would count. VLAN tags, MPLS labels and PPPoE are link layers, passed over in either mode.
//!
//! # Ports
//! TCP, UDP, DCCP, SCTP and UDP-Lite have ports; of all other protocols, ICMP among them, both ports are 0.

mod bytes;
mod ip;
mod link;
mod tunnel;

use std::fmt;
use std::net::IpAddr;

use super::Tunnel;
use bytes::Bytes;
pub use link::Link;

/// Headers that a frame may stack, tags and labels included, before it is taken for an attack.
pub const MAX_LAYERS: usize = 32;

/// What metering needs to know about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Sender.
    pub src: IpAddr,
    /// Receiver.
    pub dst: IpAddr,
    /// The sender's port; 0 where the protocol has none and in fragments after the first.
    pub src_port: u16,
    /// The receiver's port; 0 where the protocol has none and in fragments after the first.
    pub dst_port: u16,
    /// IP protocol, of IPv6 the one after the extension headers.
    pub protocol: u8,
    /// Length of the IP packet in bytes, at most `i32::MAX`.
    pub len: u32,
    /// TCP's flags (CWR first, FIN last); 0 of other protocols or where they were not captured.
    pub tcp_flags: u8,
    /// Whether it is a piece of a packet.
    pub fragment: Fragment,
    /// The fragmented tunnel packet whose first piece this came in. Its other pieces hold no header of ours, and their
    /// bytes are counted in `len` already.
    pub carrier: Option<FragmentKey>,
}

/// Which piece of an IP packet a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// The piece that begins with the transport header.
    First(FragmentKey),
    /// A piece that has no transport header.
    Later(FragmentKey),
}

/// What the pieces of one IP packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Sender.
    pub src: IpAddr,
    /// Receiver.
    pub dst: IpAddr,
    /// Identification: 16 bits of IPv4, 32 of IPv6.
    pub id: u32,
    /// Protocol of IPv4, 0 of IPv6.
    pub protocol: u8,
}

/// Why a captured packet is in no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Skip {
    /// The link type of its interface is not one that is read here.
    LinkType,
    /// It names an interface that the capture did not describe.
    NoInterface,
    /// It holds no IP packet: ARP, spanning tree, PPPoE discovery, ….
    NotIp,
    /// The recorder kept too few bytes to tell its flow.
    Truncated,
    /// Its headers contradict each other or its length.
    Malformed,
    /// It stacks more than [`MAX_LAYERS`] headers.
    TooDeep,
    /// A fragment whose first one never came, came too late, or was pushed out by too many others.
    LoneFragment,
    /// A later fragment of a tunnel packet; its bytes are counted with the packet inside.
    CarrierFragment,
}

impl Skip {
    /// Every reason, in the order in which reports list them.
    pub const ALL: [Self; 8] = [
        Self::LinkType,
        Self::NoInterface,
        Self::NotIp,
        Self::Truncated,
        Self::Malformed,
        Self::TooDeep,
        Self::LoneFragment,
        Self::CarrierFragment,
    ];
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LinkType => "link type not supported",
            Self::NoInterface => "interface not described",
            Self::NotIp => "not IP",
            Self::Truncated => "cut before its ports",
            Self::Malformed => "malformed header",
            Self::TooDeep => "too many headers",
            Self::LoneFragment => "fragment without its first",
            Self::CarrierFragment => "rest of a fragmented tunnel packet",
        })
    }
}

/// What comes next in a frame.
#[derive(Clone, Copy, Debug)]
enum Layer {
    Ethernet,
    EtherType(u16),
    Mpls,
    Ppp,
    Ip,
}

/// Finds the packet that counts in a frame of `link` of which `bytes` were captured and `wire_len` bytes sent.
pub fn parse(link: Link, bytes: &[u8], wire_len: u32, tunnel: Tunnel) -> Result<Parsed, Skip> {
    let mut at = Bytes::new(bytes, wire_len as usize);
    let mut layer = link.enter(&mut at)?;
    let mut outer: Option<Parsed> = None;
    for _ in 0..MAX_LAYERS {
        let next = match layer {
            Layer::Ethernet => link::ethernet(&mut at),
            Layer::EtherType(kind) => link::ethertype(kind, &mut at),
            Layer::Mpls => link::mpls(&mut at),
            Layer::Ppp => link::ppp(&mut at),
            Layer::Ip => match packet(&mut at, outer.as_ref(), tunnel) {
                Ok((found, Some(inner))) => {
                    outer = Some(found);
                    Ok(inner)
                }
                Ok((found, None)) => return Ok(found),
                Err(skip) => Err(skip),
            },
        };
        layer = match next {
            Ok(layer) => layer,
            Err(skip) => return outer.ok_or(skip),
        };
    }
    outer.ok_or(Skip::TooDeep)
}

/// Reads the IP packet at `at`, and what it carries if that is to be looked into.
fn packet(at: &mut Bytes<'_>, outer: Option<&Parsed>, tunnel: Tunnel) -> Result<(Parsed, Option<Layer>), Skip> {
    let ip = ip::read(at)?;
    let carrier = outer.and_then(|outer| match outer.fragment {
        Fragment::First(key) => outer.carrier.or(Some(key)),
        _ => outer.carrier,
    });
    let (mut src_port, mut dst_port, mut tcp_flags) = (0, 0, 0);
    let mut inner = None;
    if !matches!(ip.fragment, Fragment::Later(_)) {
        if has_ports(ip.protocol) {
            let [a, b, c, d] = { *at }.take()?;
            (src_port, dst_port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        }
        if ip.protocol == TCP {
            tcp_flags = at.peek(13).unwrap_or(0);
        }
        if tunnel == Tunnel::Inner {
            inner = tunnel::enter(&ip, at);
        }
    }
    let ip::Ip { src, dst, protocol, len, fragment } = ip;
    Ok((Parsed { src, dst, src_port, dst_port, protocol, len, tcp_flags, fragment, carrier }, inner))
}

const TCP: u8 = 6;

fn has_ports(protocol: u8) -> bool {
    // UDP, DCCP, SCTP, UDP-Lite.
    matches!(protocol, TCP | 17 | 33 | 132 | 136)
}
