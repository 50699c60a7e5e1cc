//! Frames and capture files, built byte by byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;

pub const CLIENT: [u8; 4] = [10, 0, 0, 1];
pub const SERVER: [u8; 4] = [10, 0, 0, 2];

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

pub fn client() -> IpAddr {
    Ipv4Addr::from(CLIENT).into()
}

pub fn server() -> IpAddr {
    Ipv4Addr::from(SERVER).into()
}

pub fn client6() -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)
}

pub fn server6() -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)
}

/// The parts one after another.
pub fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

pub fn eth(kind: u16, payload: &[u8]) -> Vec<u8> {
    join(&[&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], &kind.to_be_bytes(), payload])
}

/// What follows a VLAN EtherType.
pub fn tag(id: u16, kind: u16, payload: &[u8]) -> Vec<u8> {
    join(&[&id.to_be_bytes(), &kind.to_be_bytes(), payload])
}

pub fn mpls(labels: &[u32], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (i, label) in labels.iter().enumerate() {
        let bottom = u32::from(i + 1 == labels.len());
        out.extend(((label << 12) | (bottom << 8) | 64).to_be_bytes());
    }
    join(&[&out, payload])
}

/// What follows the EtherType of a PPPoE session.
pub fn pppoe(ppp: &[u8]) -> Vec<u8> {
    join(&[&[0x11, 0, 0, 7], &(ppp.len() as u16).to_be_bytes(), ppp])
}

pub fn tcp(src: u16, dst: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let rest = [0, 0, 0, 1, 0, 0, 0, 2, 5 << 4, flags, 1, 0, 0, 0, 0, 0];
    join(&[&src.to_be_bytes(), &dst.to_be_bytes(), &rest, payload])
}

pub fn udp(src: u16, dst: u16, payload: &[u8]) -> Vec<u8> {
    let len = 8 + payload.len() as u16;
    join(&[&src.to_be_bytes(), &dst.to_be_bytes(), &len.to_be_bytes(), &[0, 0], payload])
}

/// An IPv4 packet whose header can be bent.
#[derive(Clone)]
pub struct V4 {
    pub src: [u8; 4],
    pub dst: [u8; 4],
    pub protocol: u8,
    pub id: u16,
    /// In bytes.
    pub offset: u16,
    pub more: bool,
    pub options: Vec<u8>,
    /// Where it is not the truth.
    pub total: Option<u16>,
}

impl V4 {
    pub fn new(protocol: u8) -> Self {
        let (src, dst) = (CLIENT, SERVER);
        Self { src, dst, protocol, id: 1, offset: 0, more: false, options: Vec::new(), total: None }
    }

    pub fn back(protocol: u8) -> Self {
        Self { src: SERVER, dst: CLIENT, ..Self::new(protocol) }
    }

    pub fn fragment(self, id: u16, offset: u16, more: bool) -> Self {
        Self { id, offset, more, ..self }
    }

    pub fn build(&self, payload: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let total = self.total.unwrap_or((header + payload.len()) as u16);
        let flags = (self.offset / 8) | if self.more { 0x2000 } else { 0 };
        let mut out = vec![0x40 | (header / 4) as u8, 0];
        out.extend(total.to_be_bytes());
        out.extend(self.id.to_be_bytes());
        out.extend(flags.to_be_bytes());
        out.extend([64, self.protocol, 0, 0]);
        out.extend(self.src);
        out.extend(self.dst);
        join(&[&out, &self.options, payload])
    }
}

pub fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    V4::new(protocol).build(payload)
}

/// An IPv6 packet; `payload` begins with the header that `next` names.
pub fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u16).to_be_bytes();
    join(&[&[0x60, 0, 0, 0], &len, &[next, 64], &client6().octets(), &server6().octets(), payload])
}

/// An IPv6 extension header of 8 bytes.
pub fn extension(next: u8) -> [u8; 8] {
    [next, 0, 1, 4, 0, 0, 0, 0]
}

pub fn fragment6(next: u8, id: u32, offset: u16, more: bool) -> Vec<u8> {
    join(&[&[next, 0], &(offset | u16::from(more)).to_be_bytes(), &id.to_be_bytes()])
}

pub fn vxlan(frame: &[u8]) -> Vec<u8> {
    udp(50000, 4789, &join(&[&[8, 0, 0, 0, 0, 0, 7, 0], frame]))
}

/// A GTP-U message with `flags` and what they bring.
pub fn gtp_u(flags: u8, message: u8, optional: &[u8], payload: &[u8]) -> Vec<u8> {
    let len = (optional.len() + payload.len()) as u16;
    udp(2152, 2152, &join(&[&[0x30 | flags, message], &len.to_be_bytes(), &[0, 0, 0, 9], optional, payload]))
}

/// The packet that most tests look for: 45 bytes from port 1000 to port 80.
pub fn packet() -> Vec<u8> {
    ipv4(TCP, &tcp(1000, 80, 0x18, b"hello"))
}

pub struct Pcap {
    pub bytes: Vec<u8>,
    big: bool,
    nanos: bool,
}

impl Pcap {
    pub fn new(link: u32) -> Self {
        Self::of(link, false, false)
    }

    pub fn of(link: u32, big: bool, nanos: bool) -> Self {
        let mut pcap = Self { bytes: Vec::new(), big, nanos };
        pcap.u32(if nanos { 0xa1b2_3c4d } else { 0xa1b2_c3d4 });
        let version = if big { [0, 2, 0, 4] } else { [2, 0, 4, 0] };
        pcap.bytes.extend(version);
        for field in [0, 0, 262_144, link] {
            pcap.u32(field);
        }
        pcap
    }

    fn u32(&mut self, value: u32) {
        self.bytes.extend(if self.big { value.to_be_bytes() } else { value.to_le_bytes() });
    }

    pub fn record(self, ns: u64, frame: &[u8]) -> Self {
        let len = frame.len() as u32;
        self.raw(ns, len, len, frame)
    }

    pub fn raw(mut self, ns: u64, captured: u32, wire: u32, bytes: &[u8]) -> Self {
        let fraction = (ns % 1_000_000_000) / if self.nanos { 1 } else { 1000 };
        for field in [(ns / 1_000_000_000) as u32, fraction as u32, captured, wire] {
            self.u32(field);
        }
        self.bytes.extend(bytes);
        self
    }
}

pub struct PcapNg {
    pub bytes: Vec<u8>,
    big: bool,
}

impl PcapNg {
    pub fn new(big: bool) -> Self {
        Self { bytes: Vec::new(), big }.section(big)
    }

    pub fn section(mut self, big: bool) -> Self {
        self.big = big;
        let body = join(&[&self.u32(0x1a2b_3c4d), &self.u16(1), &self.u16(0), &[0xff; 8]]);
        self.block(0x0a0d_0d0a, &body)
    }

    pub fn u16(&self, value: u16) -> [u8; 2] {
        if self.big { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    pub fn u32(&self, value: u32) -> [u8; 4] {
        if self.big { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    pub fn block(mut self, kind: u32, body: &[u8]) -> Self {
        let len = self.u32(12 + body.len().next_multiple_of(4) as u32);
        let (kind, padding) = (self.u32(kind), &[0; 3][..body.len().next_multiple_of(4) - body.len()]);
        self.bytes.extend(join(&[&kind, &len, body, padding, &len]));
        self
    }

    /// `options` are (code, value).
    pub fn interface(self, link: u16, snap_len: u32, options: &[(u16, &[u8])]) -> Self {
        let mut body = join(&[&self.u16(link), &[0, 0], &self.u32(snap_len)]);
        for (code, value) in options {
            body.extend(join(&[&self.u16(*code), &self.u16(value.len() as u16), value]));
            body.resize(body.len().next_multiple_of(4), 0);
        }
        self.block(1, &body)
    }

    pub fn enhanced(self, interface: u32, units: u64, frame: &[u8]) -> Self {
        let len = self.u32(frame.len() as u32);
        let (high, low) = (self.u32((units >> 32) as u32), self.u32(units as u32));
        let body = join(&[&self.u32(interface), &high, &low, &len, &len, frame]);
        self.block(6, &body)
    }

    pub fn obsolete(self, interface: u16, units: u64, frame: &[u8]) -> Self {
        let len = self.u32(frame.len() as u32);
        let (high, low) = (self.u32((units >> 32) as u32), self.u32(units as u32));
        let body = join(&[&self.u16(interface), &[0, 0], &high, &low, &len, &len, frame]);
        self.block(2, &body)
    }

    pub fn simple(self, wire: u32, captured: &[u8]) -> Self {
        let body = join(&[&self.u32(wire), captured]);
        self.block(3, &body)
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
