//! What a data path tells of one packet.

use super::hash::Secret;
use crate::meter::frame::Parsed;
use std::net::IpAddr;

/// TCP's flags that mean something here.
pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;

/// The protocol whose flags are looked at.
pub(super) const TCP: u8 = 6;

/// One packet as the data path saw it. Frozen: 64 bytes, no padding.
///
/// A flow is all packets between the same two ends (address and port), with the same protocol and zone, whoever sends;
/// the client is who sent its first. Who has flow keys of its own writes the key into both addresses, and 0 and 1 into
/// the ports for the two sides, sender first; protocol and flags as they are, or 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Observation {
    /// When it was seen, in nanoseconds of any clock that all packets of the table share.
    pub ts_ns: u64,
    /// Address of the sender, in network order; IPv4 as ::ffff:a.b.c.d.
    pub src: [u8; 16],
    /// Address of the receiver.
    pub dst: [u8; 16],
    /// Port of the sender in host order; 0 where the protocol has none.
    pub src_port: u16,
    /// Port of the receiver.
    pub dst_port: u16,
    /// Length of the IP packet in bytes.
    pub size: u32,
    /// Part of the flow's identity: a tenant, VLAN or VRF whose addresses others may use too; 0 where there is one.
    pub zone: u32,
    /// IP protocol number: 6 is TCP, 17 is UDP.
    pub protocol: u8,
    /// TCP's flags, FIN the lowest bit; 0 of other protocols.
    pub tcp_flags: u8,
    /// 0.
    pub reserved: [u8; 10],
}

impl Observation {
    /// A packet that the meter's parser read, seen at `ts_ns`.
    pub fn of(packet: &Parsed, ts_ns: u64) -> Self {
        Self {
            ts_ns,
            src: mapped(packet.src),
            dst: mapped(packet.dst),
            src_port: packet.src_port,
            dst_port: packet.dst_port,
            size: packet.len,
            zone: 0,
            protocol: packet.protocol,
            tcp_flags: packet.tcp_flags,
            reserved: [0; 10],
        }
    }

    /// The hash of its flow, the same in both directions.
    #[inline(always)]
    pub(super) fn hash(&self, secret: Secret) -> u64 {
        hash_ends(secret, (self.src, self.src_port), (self.dst, self.dst_port), self.zone, self.protocol)
    }

    /// Whether it asks for a new connection.
    pub(super) fn opens(&self) -> bool {
        self.protocol == TCP && self.tcp_flags & (SYN | ACK | RST) == SYN
    }
}

/// IPv6, or IPv4 mapped into it.
pub(crate) fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// An address as two words, for comparing and hashing.
#[inline(always)]
fn words(address: [u8; 16]) -> (u64, u64) {
    let whole = u128::from_be_bytes(address);
    ((whole >> 64) as u64, whole as u64)
}

/// The hash of a flow by its two ends, in whichever order they come.
#[inline(always)]
pub(super) fn hash_ends(secret: Secret, a: ([u8; 16], u16), b: ([u8; 16], u16), zone: u32, protocol: u8) -> u64 {
    const IPV4: u64 = 0xffff << 32;
    let (a_words, b_words) = (words(a.0), words(b.0));
    let in_order = (a_words, a.1) <= (b_words, b.1);
    let (low, high) = if in_order { (a_words, b_words) } else { (b_words, a_words) };
    let (low_port, high_port) = if in_order { (a.1, b.1) } else { (b.1, a.1) };
    let rest = u64::from(low_port) << 48 | u64::from(high_port) << 32 | u64::from(zone);
    let is_v4 = |(top, bottom): (u64, u64)| top == 0 && bottom & !0xffff_ffff == IPV4;
    // The number of words is hashed too, so a short input never equals a long one.
    if is_v4(low) && is_v4(high) {
        secret.hash([low.1 << 32 | (high.1 & 0xffff_ffff), rest], protocol)
    } else {
        secret.hash([low.0, low.1, high.0, high.1, rest], protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observation() -> Observation {
        let (src, dst) = (mapped([10, 0, 0, 1].into()), mapped([10, 0, 0, 2].into()));
        Observation { src, dst, src_port: 4000, dst_port: 53, protocol: 17, ..Observation::default() }
    }

    fn reversed(o: Observation) -> Observation {
        Observation { src: o.dst, dst: o.src, src_port: o.dst_port, dst_port: o.src_port, ..o }
    }

    #[test]
    fn the_hash_is_that_of_the_flow() {
        let secret = Secret::random();
        let v4 = observation();
        let v6 = Observation { src: [0x20; 16], ..v4 };
        let same_address = Observation { dst: v4.src, ..v4 };
        let mut seen = Vec::new();
        for o in [v4, v6, same_address] {
            let others = [
                o,
                Observation { zone: 1, ..o },
                Observation { protocol: 6, ..o },
                Observation { src_port: 53, dst_port: 4000, ..o },
                Observation { src_port: 4001, ..o },
                Observation { dst_port: 54, ..o },
                Observation { src: mapped([10, 0, 0, 3].into()), ..o },
            ];
            for other in others {
                assert_eq!(other.hash(secret), reversed(other).hash(secret));
                seen.push(other.hash(secret));
            }
            assert_eq!(Observation { size: 9, ts_ns: 9, tcp_flags: 9, ..o }.hash(secret), o.hash(secret));
        }
        let n = seen.len();
        seen.sort_unstable();
        seen.dedup();
        // Where both addresses are the same, exchanged ports are the other direction; and one source is set twice.
        assert_eq!(n - seen.len(), 2);
    }
}
