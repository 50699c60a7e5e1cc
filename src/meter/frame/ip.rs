//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers, with options, extension headers and fragments.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::bytes::Bytes;
use super::{Fragment, FragmentKey, Skip};

/// What an IP header, with the headers that extend it, says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ip {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// Of what follows the last extension header.
    pub protocol: u8,
    /// Of the whole packet, in bytes.
    pub len: u32,
    pub fragment: Fragment,
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const NO_NEXT_HEADER: u8 = 59;
const DESTINATION: u8 = 60;

/// Reads the headers at `at` and leaves it at the transport header, limited to this packet.
pub(super) fn read(at: &mut Bytes<'_>) -> Result<Ip, Skip> {
    match at.peek(0) {
        Some(first) if first >> 4 == 4 => v4(at),
        Some(first) if first >> 4 == 6 => v6(at),
        Some(_) => Err(Skip::Malformed),
        None => Err(if at.wire() == 0 { Skip::Malformed } else { Skip::Truncated }),
    }
}

fn v4(at: &mut Bytes<'_>) -> Result<Ip, Skip> {
    let wire = at.wire();
    let header: [u8; 20] = at.take()?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let total = match u16::from_be_bytes([header[2], header[3]]) {
        // A sender that leaves segmentation to its card hands down packets longer than the field can say.
        0 => wire,
        total => usize::from(total),
    };
    if header_len < 20 || total < header_len {
        return Err(Skip::Malformed);
    }
    at.skip(header_len - 20)?;
    at.limit(total - header_len);

    let src = IpAddr::V4(Ipv4Addr::new(header[12], header[13], header[14], header[15]));
    let dst = IpAddr::V4(Ipv4Addr::new(header[16], header[17], header[18], header[19]));
    let (mut protocol, id) = (header[9], u16::from_be_bytes([header[4], header[5]]));
    let flags_and_offset = u16::from_be_bytes([header[6], header[7]]);
    let key = FragmentKey { src, dst, id: u32::from(id), protocol };
    let fragment = fragment(flags_and_offset & 0x1fff != 0, flags_and_offset & 0x2000 != 0, key);
    if protocol == AUTHENTICATION && !matches!(fragment, Fragment::Later(_)) {
        protocol = authentication(at)?;
    }
    Ok(Ip { src, dst, protocol, len: len(total)?, fragment })
}

fn v6(at: &mut Bytes<'_>) -> Result<Ip, Skip> {
    let wire = at.wire();
    let header: [u8; 40] = at.take()?;
    let mut protocol = header[6];
    let payload = match u16::from_be_bytes([header[4], header[5]]) {
        0 if protocol == NO_NEXT_HEADER => 0,
        // A jumbogram (RFC 2675), or segmentation left to the card.
        0 => wire - 40,
        payload => usize::from(payload),
    };
    at.limit(payload);
    let (src, dst) = (v6_address(&header, 8), v6_address(&header, 24));
    let mut found = Fragment::Whole;
    // Each header takes at least 8 bytes of the packet, so the walk ends.
    loop {
        protocol = match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let [next, units] = at.take()?;
                at.skip(usize::from(units) * 8 + 6)?;
                next
            }
            AUTHENTICATION => authentication(at)?,
            FRAGMENT => {
                let [next, _, high, low, id @ ..]: [u8; 8] = at.take()?;
                let offset_and_more = u16::from_be_bytes([high, low]);
                // The protocol is no part of the key: fragments may differ in it, the first one's counts.
                let key = FragmentKey { src, dst, id: u32::from_be_bytes(id), protocol: 0 };
                found = fragment(offset_and_more & 0xfff8 != 0, offset_and_more & 1 != 0, key);
                if let Fragment::Later(_) = found {
                    protocol = next;
                    break;
                }
                next
            }
            _ => break,
        };
    }
    Ok(Ip { src, dst, protocol, len: len(40 + payload)?, fragment: found })
}

fn v6_address(header: &[u8; 40], at: usize) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&header[at..at + 16]);
    IpAddr::V6(Ipv6Addr::from(octets))
}

/// The authentication header (RFC 4302) hides nothing: passes over it, to the protocol it names.
fn authentication(at: &mut Bytes<'_>) -> Result<u8, Skip> {
    let [next, words] = at.take()?;
    at.skip(usize::from(words) * 4 + 6)?;
    Ok(next)
}

fn fragment(has_offset: bool, more_follow: bool, key: FragmentKey) -> Fragment {
    match (has_offset, more_follow) {
        (false, false) => Fragment::Whole,
        (false, true) => Fragment::First(key),
        (true, _) => Fragment::Later(key),
    }
}

/// A packet's size is an `i32` everywhere; only a hostile wire length can pass it.
fn len(bytes: usize) -> Result<u32, Skip> {
    i32::try_from(bytes).map(i32::unsigned_abs).map_err(|_| Skip::Malformed)
}
