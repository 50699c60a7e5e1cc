//! The bytes of a capture file, unpacked where they are gzip, read forwards in bounded memory.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use crate::error::{Error, Kind, Result};

const BUFFER: usize = 256 * 1024;

/// A file that may end or be damaged anywhere: reads tell how far they came.
pub(super) struct Input {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    /// Unpacked bytes read so far.
    place: u64,
    unpack_error: Option<String>,
}

impl Input {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, &e))?;
        let mut reader = BufReader::with_capacity(BUFFER, file);
        let is_gzip = reader.fill_buf().map_err(|e| Error::io(path, &e))?.starts_with(&[0x1f, 0x8b]);
        let reader: Box<dyn BufRead + Send> = if is_gzip {
            Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(reader)))
        } else {
            Box::new(reader)
        };
        Ok(Self { path: path.to_owned(), reader, place: 0, unpack_error: None })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How many (unpacked) bytes have been read.
    pub(super) fn place(&self) -> u64 {
        self.place
    }

    /// Why a read came short, if not because the file ends: its gzip stream is damaged.
    pub(super) fn unpack_error(&self) -> Option<&str> {
        self.unpack_error.as_deref()
    }

    /// Reads into all of `out`; fewer bytes came only where the file ends or cannot be unpacked.
    pub(super) fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        let mut got = 0;
        while got < out.len() {
            let chunk = self.chunk()?;
            let step = chunk.len().min(out.len() - got);
            if step == 0 {
                break;
            }
            out[got..got + step].copy_from_slice(&chunk[..step]);
            self.consume(step);
            got += step;
        }
        Ok(got)
    }

    /// Passes over `n` bytes; whether they were all there.
    pub(super) fn skip(&mut self, n: u64) -> Result<bool> {
        let mut left = n;
        while left > 0 {
            let step = self.chunk()?.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if step == 0 {
                return Ok(false);
            }
            self.consume(step);
            left -= step as u64;
        }
        Ok(true)
    }

    fn consume(&mut self, n: usize) {
        self.reader.consume(n);
        self.place += n as u64;
    }

    /// The bytes at hand: none where the file ends or cannot be unpacked.
    fn chunk(&mut self) -> Result<&[u8]> {
        loop {
            match self.reader.fill_buf() {
                Ok(_) => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // What flate2 says of a packed stream that is damaged, or cut.
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::InvalidInput | ErrorKind::InvalidData | ErrorKind::UnexpectedEof
                    ) =>
                {
                    self.unpack_error = Some(e.to_string());
                    return Ok(&[]);
                }
                Err(e) => {
                    let place = format!("{}: byte {}", self.path.display(), self.place);
                    return Err(Error::new(Kind::Io, e.to_string()).at(place));
                }
            }
        }
        // The buffer was filled above: this reads nothing and cannot fail, but says so in its type.
        self.reader.fill_buf().map_err(|e| Error::io(&self.path, &e))
    }
}
