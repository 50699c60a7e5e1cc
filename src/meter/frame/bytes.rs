//! A bounds-checked view of what is left of a frame.

use super::Skip;

/// The captured bytes not read yet, and how many bytes were on the wire from here on (never fewer).
#[derive(Clone, Copy, Debug)]
pub(super) struct Bytes<'a> {
    captured: &'a [u8],
    wire: usize,
}

impl<'a> Bytes<'a> {
    /// A whole frame of which `captured` was kept; `wire` below that is a recorder's slip and is lifted to it.
    pub(super) fn new(captured: &'a [u8], wire: usize) -> Self {
        Self { captured, wire: wire.max(captured.len()) }
    }

    /// Bytes from here to the end of the frame as it was on the wire.
    pub(super) fn wire(&self) -> usize {
        self.wire
    }

    /// Captured byte `i` from here.
    pub(super) fn peek(&self, i: usize) -> Option<u8> {
        self.captured.get(i).copied()
    }

    /// The captured big-endian 16 bits at `i` from here.
    pub(super) fn peek_u16(&self, i: usize) -> Option<u16> {
        Some(u16::from_be_bytes([self.peek(i)?, self.peek(i.checked_add(1)?)?]))
    }

    /// Reads `N` bytes.
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], Skip> {
        match self.captured.split_first_chunk::<N>() {
            Some((head, rest)) => {
                self.captured = rest;
                self.wire -= N;
                Ok(*head)
            }
            None => Err(self.short(N)),
        }
    }

    /// Passes over `n` bytes.
    pub(super) fn skip(&mut self, n: usize) -> Result<(), Skip> {
        match self.captured.get(n..) {
            Some(rest) => {
                self.captured = rest;
                self.wire -= n;
                Ok(())
            }
            None => Err(self.short(n)),
        }
    }

    /// Says that a header promises only `n` more bytes: what follows them is padding, not content.
    pub(super) fn limit(&mut self, n: usize) {
        self.captured = &self.captured[..n.min(self.captured.len())];
        self.wire = n;
    }

    /// Why `n` bytes are not there: the recorder cut them, or the frame never had them.
    fn short(&self, n: usize) -> Skip {
        if self.wire < n { Skip::Malformed } else { Skip::Truncated }
    }
}
