//! pcap (IETF draft-ietf-opsawg-pcap): a file header, then records.

use super::input::Input;
use super::{Head, MAX_RECORD, Next, Stop, read_frame};

/// What a file's first four bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Variant {
    big_endian: bool,
    /// Nanoseconds in one unit of the second time field.
    unit_ns: u32,
}

impl Variant {
    pub(super) fn of(magic: [u8; 4]) -> Option<Self> {
        let (big_endian, unit_ns) = match magic {
            [0xa1, 0xb2, 0xc3, 0xd4] => (true, 1000),
            [0xd4, 0xc3, 0xb2, 0xa1] => (false, 1000),
            [0xa1, 0xb2, 0x3c, 0x4d] => (true, 1),
            [0x4d, 0x3c, 0xb2, 0xa1] => (false, 1),
            _ => return None,
        };
        Some(Self { big_endian, unit_ns })
    }

    fn u32(self, bytes: &[u8; 16], field: usize) -> u32 {
        let at = field * 4;
        let bytes = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }
}

/// A pcap file after its header.
pub(super) struct Pcap {
    variant: Variant,
    link: u32,
}

impl Pcap {
    /// Reads what follows the magic number in the file header.
    pub(super) fn open(variant: Variant, input: &mut Input) -> Next<Self> {
        // Version, time zone and accuracy say nothing that is needed.
        let mut fields = [0; 16];
        if !input.skip(4)? || input.read(&mut fields)? < fields.len() {
            return Ok(Err(Stop::Cut));
        }
        // Above the low 16 bits: the length of frame check sequences.
        Ok(Ok(Self { variant, link: variant.u32(&fields, 3) & 0xffff }))
    }

    pub(super) fn next(&mut self, input: &mut Input, buffer: &mut Vec<u8>) -> Next<Head> {
        let mut header = [0; 16];
        match input.read(&mut header)? {
            0 => return Ok(Err(Stop::End)),
            16 => {}
            _ => return Ok(Err(Stop::Cut)),
        }
        let field = |i| self.variant.u32(&header, i);
        let (seconds, fraction, captured, wire_len) = (field(0), field(1), field(2), field(3));
        if captured > MAX_RECORD {
            return Ok(Err(Stop::Damaged(format!("a length of {captured} bytes"))));
        }
        if !read_frame(input, buffer, captured)? {
            return Ok(Err(Stop::Cut));
        }
        let ts_ns = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * u64::from(self.variant.unit_ns);
        Ok(Ok(Head { link: Some(self.link), ts_ns, wire_len }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_numbers_tell_byte_order_and_unit() {
        assert_eq!(Variant::of([0xd4, 0xc3, 0xb2, 0xa1]), Some(Variant { big_endian: false, unit_ns: 1000 }));
        assert_eq!(Variant::of([0xa1, 0xb2, 0x3c, 0x4d]), Some(Variant { big_endian: true, unit_ns: 1 }));
        assert_eq!(Variant::of(*b"text"), None);
    }
}
