//! pcapng (IETF draft-ietf-opsawg-pcapng): sections of blocks, each section with its own byte order and interfaces.

use super::input::Input;
use super::{Head, MAX_CAPTURED, MAX_RECORD, Next, Stop, read_frame};

pub(super) const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// Interfaces of one section: the obsolete packet block could not name more.
const MAX_INTERFACES: usize = 1 << 16;

/// Type and length before a block's body, length again after it.
const FRAMING: u32 = 12;

/// How an interface counts time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Clock {
    /// Units per second are `10^exponent`, or `2^exponent`.
    exponent: u8,
    binary: bool,
    /// Seconds to add.
    offset: i64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { exponent: 6, binary: false, offset: 0 }
    }
}

impl Clock {
    /// Unix time in nanoseconds, as near as `u64` comes.
    fn unix_ns(self, units: u64) -> u64 {
        let scaled = u128::from(units) * 1_000_000_000;
        let since_offset = if self.binary {
            scaled.checked_shr(self.exponent.into()).unwrap_or(0)
        } else {
            10u128.checked_pow(self.exponent.into()).map_or(0, |per_second| scaled / per_second)
        };
        // Both terms stay below 2^94.
        let unix = since_offset as i128 + i128::from(self.offset) * 1_000_000_000;
        u64::try_from(unix.max(0)).unwrap_or(u64::MAX)
    }
}

#[derive(Clone, Copy)]
struct Interface {
    link: u32,
    /// Bytes kept of each frame, 0 for all.
    snap_len: u32,
    clock: Clock,
}

/// A pcapng file inside one of its sections.
pub(super) struct PcapNg {
    big_endian: bool,
    interfaces: Vec<Interface>,
    last_ns: u64,
}

impl PcapNg {
    /// Reads the rest of the first section header, of which the type has been read.
    pub(super) fn open(input: &mut Input) -> Next<Self> {
        let mut pcapng = Self { big_endian: false, interfaces: Vec::new(), last_ns: 0 };
        let mut len = [0; 4];
        if input.read(&mut len)? < 4 {
            return Ok(Err(Stop::Cut));
        }
        Ok(pcapng.section(len, input)?.map(|()| pcapng))
    }

    /// Reads blocks up to and with the next packet.
    pub(super) fn next(&mut self, input: &mut Input, buffer: &mut Vec<u8>) -> Next<Head> {
        loop {
            let mut framing = [0; 8];
            match input.read(&mut framing)? {
                0 => return Ok(Err(Stop::End)),
                8 => {}
                _ => return Ok(Err(Stop::Cut)),
            }
            let [a, b, c, d, len @ ..] = framing;
            let kind = self.u32([a, b, c, d]);
            let found = if kind == SECTION_HEADER {
                self.section(len, input)?.map(|()| None)
            } else {
                self.block(kind, self.u32(len), input, buffer)?
            };
            match found {
                Ok(Some(head)) => return Ok(Ok(head)),
                Ok(None) => {}
                Err(stop) => return Ok(Err(stop)),
            }
        }
    }

    /// A section header from its length field on: its byte order decides how that is read.
    fn section(&mut self, len: [u8; 4], input: &mut Input) -> Next<()> {
        let mut byte_order = [0; 4];
        if input.read(&mut byte_order)? < 4 {
            return Ok(Err(Stop::Cut));
        }
        self.big_endian = match byte_order {
            [0x1a, 0x2b, 0x3c, 0x4d] => true,
            [0x4d, 0x3c, 0x2b, 0x1a] => false,
            _ => return Ok(Err(Stop::Damaged(format!("a section of byte order {byte_order:02x?}")))),
        };
        self.interfaces.clear();
        let len = self.u32(len);
        match body_len(len) {
            Ok(body @ 16..) => self.finish(len, body - 4, input),
            Ok(_) => Ok(Err(Stop::Damaged(format!("a section header of {len} bytes")))),
            Err(stop) => Ok(Err(stop)),
        }
    }

    /// One block after its type and length: a packet, or nothing that is one.
    fn block(&mut self, kind: u32, len: u32, input: &mut Input, buffer: &mut Vec<u8>) -> Next<Option<Head>> {
        let body = match body_len(len) {
            Ok(body) => body,
            Err(stop) => return Ok(Err(stop)),
        };
        // Fields of fixed size before a packet's bytes, or before an interface's options.
        let fixed = match kind {
            INTERFACE => 8,
            SIMPLE_PACKET => 4,
            ENHANCED_PACKET | OBSOLETE_PACKET => 20,
            _ => return Ok(self.finish(len, body, input)?.map(|()| None)),
        };
        if body < fixed {
            return Ok(Err(Stop::Damaged(format!("a block of type {kind} and only {len} bytes"))));
        }
        let mut fields = [0; 20];
        let fields = &mut fields[..fixed as usize];
        if input.read(fields)? < fields.len() {
            return Ok(Err(Stop::Cut));
        }
        let field = |i: usize| self.u32([fields[i], fields[i + 1], fields[i + 2], fields[i + 3]]);
        let left = body - fixed;

        if kind == INTERFACE {
            let link = self.u16([fields[0], fields[1]]);
            return self.interface(link.into(), field(4), len, left, input, buffer);
        }
        let (interface, units, captured, wire_len) = match kind {
            SIMPLE_PACKET => (0, None, field(0).min(self.snap_len(0)).min(left), field(0)),
            ENHANCED_PACKET => (field(0), Some(join(field(4), field(8))), field(12), field(16)),
            _ => (self.u16([fields[0], fields[1]]).into(), Some(join(field(4), field(8))), field(12), field(16)),
        };
        if captured > left {
            return Ok(Err(Stop::Damaged(format!("a packet of {captured} bytes in a block of {len}"))));
        }
        if !read_frame(input, buffer, captured)? {
            return Ok(Err(Stop::Cut));
        }
        if let Err(stop) = self.finish(len, left - captured, input)? {
            return Ok(Err(stop));
        }
        let interface = self.interfaces.get(interface as usize);
        if let (Some(interface), Some(units)) = (interface, units) {
            self.last_ns = interface.clock.unix_ns(units);
        }
        Ok(Ok(Some(Head { link: interface.map(|i| i.link), ts_ns: self.last_ns, wire_len })))
    }

    /// An interface description after its fixed fields.
    fn interface(
        &mut self,
        link: u32,
        snap_len: u32,
        len: u32,
        left: u32,
        input: &mut Input,
        buffer: &mut Vec<u8>,
    ) -> Next<Option<Head>> {
        if self.interfaces.len() == MAX_INTERFACES {
            return Ok(Err(Stop::Damaged(format!("more than {MAX_INTERFACES} interfaces"))));
        }
        let kept = left.min(MAX_CAPTURED as u32);
        if !read_frame(input, buffer, kept)? {
            return Ok(Err(Stop::Cut));
        }
        let clock = self.clock(buffer);
        self.interfaces.push(Interface { link, snap_len, clock });
        Ok(self.finish(len, left - kept, input)?.map(|()| None))
    }

    /// What an interface's options say of its clock. Options that make no sense end the reading of them.
    fn clock(&self, mut options: &[u8]) -> Clock {
        let mut clock = Clock::default();
        while let Some(([a, b, c, d], rest)) = options.split_first_chunk::<4>() {
            let (code, len) = (self.u16([*a, *b]), usize::from(self.u16([*c, *d])));
            let Some(value) = rest.get(..len) else { break };
            match (code, value) {
                // End of options, if_tsresol, if_tsoffset.
                (0, _) => break,
                (9, [resolution]) => (clock.exponent, clock.binary) = (resolution & 0x7f, resolution & 0x80 != 0),
                (14, &[a, b, c, d, e, f, g, h]) => {
                    let bytes = [a, b, c, d, e, f, g, h];
                    clock.offset = if self.big_endian { i64::from_be_bytes(bytes) } else { i64::from_le_bytes(bytes) };
                }
                _ => {}
            }
            options = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        }
        clock
    }

    /// Passes over the rest of a block's body and checks the length that closes it.
    fn finish(&self, len: u32, left: u32, input: &mut Input) -> Next<()> {
        let mut closing = [0; 4];
        if !input.skip(left.into())? || input.read(&mut closing)? < 4 {
            return Ok(Err(Stop::Cut));
        }
        let closing = self.u32(closing);
        Ok(if closing == len {
            Ok(())
        } else {
            Err(Stop::Damaged(format!("a block of {len} bytes closed as {closing}")))
        })
    }

    fn snap_len(&self, interface: usize) -> u32 {
        self.interfaces.get(interface).map(|i| i.snap_len).filter(|&len| len > 0).unwrap_or(u32::MAX)
    }

    fn u16(&self, bytes: [u8; 2]) -> u16 {
        if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
    }

    fn u32(&self, bytes: [u8; 4]) -> u32 {
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }
}

/// Bytes between a block's framing.
fn body_len(len: u32) -> std::result::Result<u32, Stop> {
    if !len.is_multiple_of(4) || !(FRAMING..=MAX_RECORD).contains(&len) {
        return Err(Stop::Damaged(format!("a block of {len} bytes")));
    }
    Ok(len - FRAMING)
}

fn join(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_of_every_resolution_give_nanoseconds() {
        let clock = |exponent, binary, offset| Clock { exponent, binary, offset };
        assert_eq!(clock(6, false, 0).unix_ns(1_500_000), 1_500_000_000);
        assert_eq!(clock(9, false, 0).unix_ns(7), 7);
        assert_eq!(clock(0, false, 0).unix_ns(7), 7_000_000_000);
        assert_eq!(clock(12, false, 0).unix_ns(7_999), 7);
        assert_eq!(clock(10, true, 0).unix_ns(512), 500_000_000);
        assert_eq!(clock(6, false, -3).unix_ns(1_000_000), 0);
        assert_eq!(clock(6, false, 2).unix_ns(1), 2_000_001_000);
    }

    #[test]
    fn clocks_past_any_range_are_clamped() {
        let clock = |exponent, binary, offset| Clock { exponent, binary, offset };
        assert_eq!(clock(0, false, i64::MAX).unix_ns(u64::MAX), u64::MAX);
        assert_eq!(clock(127, false, i64::MIN).unix_ns(u64::MAX), 0);
        assert_eq!(clock(127, false, 0).unix_ns(u64::MAX), 0);
        assert_eq!(clock(127, true, 0).unix_ns(u64::MAX), 0);
        assert_eq!(clock(0, true, 0).unix_ns(u64::MAX), u64::MAX);
    }
}
