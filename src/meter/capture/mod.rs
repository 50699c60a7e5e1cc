//! Capture files → records: pcap and pcapng, plain or gzip, in bounded memory.
//!
//! Read by hand rather than through a parser of whole blocks: a record's length is a claim, so at most
//! [`MAX_CAPTURED`] bytes of it are held, the rest is passed over; options that nobody needs cannot spoil a packet;
//! and where a file is cut or damaged, the place is known and all before it stands.

mod input;
mod pcap;
mod pcapng;

use std::path::Path;

use crate::error::{Error, Result};
use input::Input;

/// Bytes of a frame that are kept for reading its headers.
pub const MAX_CAPTURED: usize = 64 * 1024;

/// A record or block said to be longer is taken for damage: it is far past anything a network carries.
pub const MAX_RECORD: u32 = 64 * 1024 * 1024;

/// One captured packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Place in the capture, from 1.
    pub number: u64,
    /// Link type of the interface it was seen on; `None` if the capture does not describe that interface.
    pub link: Option<u32>,
    /// Unix time in nanoseconds; the record before's where the format gives none.
    pub ts_ns: u64,
    /// Length of the frame on the wire, at least the captured one.
    pub wire_len: u32,
    /// The captured bytes, at most [`MAX_CAPTURED`] of them.
    pub bytes: &'a [u8],
}

/// A record without its bytes, which lie in the reader's buffer.
#[derive(Clone, Copy)]
struct Head {
    link: Option<u32>,
    ts_ns: u64,
    wire_len: u32,
}

/// Why no record came.
enum Stop {
    /// The capture ends where a record may end.
    End,
    /// It ends inside a record.
    Cut,
    /// What is there cannot be a record.
    Damaged(String),
}

type Next<T> = Result<std::result::Result<T, Stop>>;

enum Format {
    Pcap(pcap::Pcap),
    PcapNg(pcapng::PcapNg),
}

/// A capture file being read.
pub struct Capture {
    input: Input,
    format: Format,
    buffer: Vec<u8>,
    records: u64,
    warning: Option<String>,
    ended: bool,
}

impl Capture {
    /// Opens a capture and reads its header. What is no capture is a [`Kind::Format`](crate::Kind::Format) error that
    /// tells what was found instead.
    pub fn open(path: &Path) -> Result<Self> {
        let mut input = Input::open(path)?;
        let mut magic = [0; 4];
        let got = input.read(&mut magic)?;
        let format = if let Some(byte_order) = pcap::Variant::of(magic) {
            pcap::Pcap::open(byte_order, &mut input)?.map(Format::Pcap)
        } else if magic == pcapng::SECTION_HEADER.to_be_bytes() {
            pcapng::PcapNg::open(&mut input)?.map(Format::PcapNg)
        } else {
            return Err(not_a_capture(&input, &magic[..got]));
        };
        let format = format.map_err(|stop| {
            let path = path.display();
            Error::format(match stop {
                Stop::Damaged(why) => format!("{path}: damaged in its file header: {why}"),
                Stop::End | Stop::Cut => {
                    format!("{path}: cut inside its file header, after {} bytes", input.place())
                }
            })
        })?;
        Ok(Self { input, format, buffer: Vec::new(), records: 0, warning: None, ended: false })
    }

    /// The next record; `None` at the end, or where the capture is cut or damaged: [`Self::warning`] then says where.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>> {
        if self.ended {
            return Ok(None);
        }
        let start = self.input.place();
        let next = match &mut self.format {
            Format::Pcap(pcap) => pcap.next(&mut self.input, &mut self.buffer)?,
            Format::PcapNg(pcapng) => pcapng.next(&mut self.input, &mut self.buffer)?,
        };
        match next {
            Ok(Head { link, ts_ns, wire_len }) => {
                self.records += 1;
                let wire_len = wire_len.max(self.buffer.len() as u32);
                Ok(Some(Record { number: self.records, link, ts_ns, wire_len, bytes: &self.buffer }))
            }
            Err(stop) => {
                self.ended = true;
                self.warning = self.describe(stop, start);
                Ok(None)
            }
        }
    }

    /// Where and why reading stopped before the capture's end, if it did.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    fn describe(&self, stop: Stop, start: u64) -> Option<String> {
        let what = match (stop, self.input.unpack_error()) {
            (Stop::End, None) => return None,
            (_, Some(why)) => format!("its gzip stream is damaged ({why})"),
            (Stop::Cut, None) => "it is cut".to_owned(),
            (Stop::Damaged(why), None) => why,
        };
        let (path, record, end) = (self.input.path().display(), self.records + 1, self.input.place());
        Some(format!("{path}: {what} inside record {record} (bytes {start} to {end}); what is before it was read"))
    }
}

/// Fills `buffer` with a frame of `captured` bytes, of which [`MAX_CAPTURED`] are kept; whether all were there.
fn read_frame(input: &mut Input, buffer: &mut Vec<u8>, captured: u32) -> Result<bool> {
    let kept = (captured as usize).min(MAX_CAPTURED);
    buffer.resize(kept, 0);
    Ok(input.read(buffer)? == kept && input.skip(u64::from(captured) - kept as u64)?)
}

fn not_a_capture(input: &Input, magic: &[u8]) -> Error {
    let found = match magic {
        [] => "an empty file".to_owned(),
        [0x28, 0xb5, 0x2f, 0xfd] => "zstd-compressed data: unpack it first".to_owned(),
        _ if magic.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) => {
            format!("text that begins with {:?}", String::from_utf8_lossy(magic))
        }
        _ => format!("a file that begins with the bytes {magic:02x?}"),
    };
    Error::format(format!("{}: not a capture (pcap or pcapng, plain or gzip) but {found}", input.path().display()))
}
