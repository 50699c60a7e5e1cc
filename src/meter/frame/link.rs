//! From the link layer to the first IP header: Ethernet and what stacks on it, cooked, loopback, PPP and raw frames.
//!
//! Link-type numbers are those of the tcpdump group's registry, EtherTypes and PPP protocols IANA's.

use super::bytes::Bytes;
use super::{Layer, Skip};

/// Frame formats that metering reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Ethernet, with any tags.
    Ethernet,
    /// IPv4 or IPv6 without a link header.
    Raw,
    /// BSD loopback: a 4-byte address family in the recording host's byte order, or big-endian (OpenBSD's LOOP).
    Null,
    /// Linux cooked capture.
    Sll,
    /// Linux cooked capture, version 2.
    Sll2,
    /// PPP, bare, in HDLC-like framing, or Cisco's HDLC.
    Ppp,
    /// A PPPoE session without its Ethernet header.
    Pppoe,
    /// Cisco HDLC.
    Chdlc,
    /// An MPLS label stack without a link header.
    Mpls,
}

impl Link {
    /// The format of a capture's link type, if it is one that is read here.
    pub fn from_linktype(number: u32) -> Option<Self> {
        Some(match number {
            0 | 108 => Self::Null,
            1 => Self::Ethernet,
            9 | 50 => Self::Ppp,
            12 | 14 | 101 | 228 | 229 => Self::Raw,
            51 => Self::Pppoe,
            104 => Self::Chdlc,
            113 => Self::Sll,
            219 => Self::Mpls,
            276 => Self::Sll2,
            _ => return None,
        })
    }

    /// Reads the link header; what comes next is the answer.
    pub(super) fn enter(self, at: &mut Bytes<'_>) -> Result<Layer, Skip> {
        Ok(match self {
            Self::Ethernet => Layer::Ethernet,
            Self::Raw => Layer::Ip,
            Self::Null => null(at)?,
            Self::Sll => {
                let header: [u8; 16] = at.take()?;
                Layer::EtherType(u16::from_be_bytes([header[14], header[15]]))
            }
            Self::Sll2 => {
                let header: [u8; 20] = at.take()?;
                Layer::EtherType(u16::from_be_bytes([header[0], header[1]]))
            }
            Self::Ppp if matches!(at.peek(0), Some(0x0f | 0x8f)) => chdlc(at)?,
            Self::Ppp => Layer::Ppp,
            Self::Pppoe => Layer::EtherType(PPPOE_SESSION),
            Self::Chdlc => chdlc(at)?,
            Self::Mpls => Layer::Mpls,
        })
    }
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TRANSPARENT_ETHERNET: u16 = 0x6558;
const PPP: u16 = 0x880b;
const PPPOE_SESSION: u16 = 0x8864;

/// Address family, 4 bytes. Families of IPv6: 10 Linux, 23 Windows, 24 NetBSD and OpenBSD, 28 FreeBSD, 30 Darwin.
fn null(at: &mut Bytes<'_>) -> Result<Layer, Skip> {
    let family: [u8; 4] = at.take()?;
    let is_ip = |family| matches!(family, 2u32 | 10 | 23 | 24 | 28 | 30);
    if is_ip(u32::from_be_bytes(family)) || is_ip(u32::from_le_bytes(family)) {
        Ok(Layer::Ip)
    } else {
        Err(Skip::NotIp)
    }
}

/// Address, control, EtherType.
fn chdlc(at: &mut Bytes<'_>) -> Result<Layer, Skip> {
    let [_, _, high, low] = at.take()?;
    Ok(Layer::EtherType(u16::from_be_bytes([high, low])))
}

/// Two addresses and a type.
pub(super) fn ethernet(at: &mut Bytes<'_>) -> Result<Layer, Skip> {
    let header: [u8; 14] = at.take()?;
    type_or_length(u16::from_be_bytes([header[12], header[13]]), at)
}

/// A type up to 1500 is a length (IEEE 802.3), and then only LLC with SNAP can lead to IP.
fn type_or_length(value: u16, at: &mut Bytes<'_>) -> Result<Layer, Skip> {
    if value > 1500 {
        return Ok(Layer::EtherType(value));
    }
    match at.take()? {
        // SNAP with the OUI of encapsulated Ethernet (RFC 1042) or of bridged frames (802.1H).
        [0xaa, 0xaa, 0x03, 0, 0, 0 | 0xf8, high, low] => Ok(Layer::EtherType(u16::from_be_bytes([high, low]))),
        _ => Err(Skip::NotIp),
    }
}

/// What an EtherType announces. The tag of a VLAN (802.1Q, 802.1ad, or the older 0x9100) is passed over.
pub(super) fn ethertype(kind: u16, at: &mut Bytes<'_>) -> Result<Layer, Skip> {
    match kind {
        IPV4 | IPV6 => Ok(Layer::Ip),
        0x8100 | 0x88a8 | 0x9100 => {
            let [_, _, high, low] = at.take()?;
            type_or_length(u16::from_be_bytes([high, low]), at)
        }
        0x8847 | 0x8848 => Ok(Layer::Mpls),
        PPPOE_SESSION => match at.take()? {
            // Version 1, type 1, code 0: data of a session; then its id and length.
            [0x11, 0, _, _, _, _] => Ok(Layer::Ppp),
            _ => Err(Skip::NotIp),
        },
        PPP => Ok(Layer::Ppp),
        TRANSPARENT_ETHERNET => Ok(Layer::Ethernet),
        _ => Err(Skip::NotIp),
    }
}

/// One MPLS label, or what is below the last one: IP by its version (RFC 4928), else an Ethernet pseudowire.
pub(super) fn mpls(at: &mut Bytes<'_>) -> Result<Layer, Skip> {
    let [_, _, flags, _] = at.take()?;
    let bottom = flags & 1 == 1;
    if !bottom {
        return Ok(Layer::Mpls);
    }
    match at.peek(0).ok_or(Skip::Truncated)? >> 4 {
        4 | 6 => Ok(Layer::Ip),
        // The control word (RFC 4448) is optional and nothing announces it: an EtherType in its place decides.
        0 if leads_to_ip(at.peek_u16(4 + 12)) => {
            at.skip(4)?;
            Ok(Layer::Ethernet)
        }
        _ if leads_to_ip(at.peek_u16(12)) => Ok(Layer::Ethernet),
        _ => Err(Skip::NotIp),
    }
}

/// Whether a guessed EtherType is one that [`ethertype`] follows.
fn leads_to_ip(kind: Option<u16>) -> bool {
    matches!(kind, Some(IPV4 | IPV6 | 0x8100 | 0x88a8 | 0x9100 | 0x8847 | 0x8848 | PPPOE_SESSION))
}

/// Address and control bytes where they are (RFC 1662), then a protocol of 2 bytes, or of 1 where it is compressed.
pub(super) fn ppp(at: &mut Bytes<'_>) -> Result<Layer, Skip> {
    if at.peek_u16(0) == Some(0xff03) {
        at.skip(2)?;
    }
    let [first] = at.take()?;
    // The low bit ends the field: protocol numbers are odd, and their high byte is even.
    let protocol = if first & 1 == 1 { u16::from(first) } else { u16::from_be_bytes([first, at.take::<1>()?[0]]) };
    match protocol {
        0x0021 | 0x0057 => Ok(Layer::Ip),
        0x0281 | 0x0283 => Ok(Layer::Mpls),
        _ => Err(Skip::NotIp),
    }
}
