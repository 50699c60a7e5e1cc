//! What ranks do together, over a ring of TCP connections: sum, gather, tell.
//!
//! A sum is a reduce-scatter and an all-gather (Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
//! workstations", 2009): each rank sends and receives `2 (n - 1) / n` of the values, whatever the number n of ranks. Every value
//! is added up in the order of the ring, from a rank on that depends on its place alone, and one rank's result is copied to all:
//! the sums are the same bits on every rank, and the same in every run.

use super::Transport;
use super::link::{Incoming, Outgoing};
use crate::error::{Error, Result};
use std::ops::Range;

/// Values that are summed at a time: so large that latency does not count, so small that memory does not.
const BUCKET: usize = 1 << 22;

/// Bytes of a value.
const BYTES: usize = size_of::<f32>();

/// Bytes of a message of [`Ring::tell`], so that ranks pass on what they still receive.
const PIECE: usize = 1 << 22;

/// This rank's place in the ring.
#[derive(Debug)]
pub(super) struct Ring {
    rank: usize,
    size: usize,
    next: Outgoing,
    previous: Incoming,
    inbox: Vec<u8>,
    /// Why the ring broke, as the next rank is to be told.
    broken: Option<String>,
}

impl Ring {
    pub fn new(rank: usize, size: usize, next: Outgoing, previous: Incoming) -> Self {
        Self { rank, size, next, previous, inbox: Vec::new(), broken: None }
    }

    /// Why the ring broke, if it did.
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Tells the next rank, and so all, why the run ends.
    pub fn fail(&self, reason: &str) {
        self.next.fail(reason);
    }

    /// Receives at most `most` bytes into the inbox.
    fn receive(&mut self, most: usize) -> Result<()> {
        let received = self.previous.receive(most, &mut self.inbox);
        received.inspect_err(|error| self.broken = Some(error.message().to_string()))
    }

    /// What every rank gives, by rank; at most `most` bytes each.
    pub fn gather(&mut self, mine: &[u8], most: usize) -> Result<Vec<Vec<u8>>> {
        let mut all = vec![Vec::new(); self.size];
        all[self.rank] = mine.to_vec();
        let mut at = self.rank;
        for _ in 1..self.size {
            let mut message = self.next.buffer();
            message.extend_from_slice(&all[at]);
            self.next.send(message);
            self.receive(most)?;
            at = self.before(at);
            all[at].extend_from_slice(&self.inbox);
        }
        Ok(all)
    }

    /// Makes `bytes` of every rank those of rank 0; at most `most` of them.
    pub fn tell(&mut self, bytes: &mut Vec<u8>, most: usize) -> Result<()> {
        let is_last = self.rank + 1 == self.size;
        let mut length = [0; 8];
        if self.rank == 0 {
            length = (bytes.len() as u64).to_le_bytes();
        } else {
            self.receive(length.len())?;
            length = self.inbox.as_slice().try_into().map_err(|_| too_long(self.inbox.len(), most))?;
            bytes.clear();
        }
        if !is_last {
            self.pass(&length);
        }
        let total = u64::from_le_bytes(length);
        let total = usize::try_from(total).ok().filter(|&n| n <= most).ok_or_else(|| too_long(total, most))?;
        for begin in (0..total).step_by(PIECE) {
            let piece = begin..total.min(begin + PIECE);
            if self.rank > 0 {
                self.receive(piece.len())?;
                bytes.extend_from_slice(&self.inbox);
            }
            if !is_last {
                self.pass(bytes.get(piece).unwrap_or_default());
            }
        }
        match bytes.len() == total {
            true => Ok(()),
            false => Err(too_long(bytes.len(), total)),
        }
    }

    fn pass(&self, bytes: &[u8]) {
        let mut message = self.next.buffer();
        message.extend_from_slice(bytes);
        self.next.send(message);
    }

    /// The rank, or the part, before `i`.
    fn before(&self, i: usize) -> usize {
        (i + self.size - 1) % self.size
    }

    /// Sends part `part` of `values` and receives the one before it, which `take` is given with its bytes.
    fn turn(&mut self, values: &mut [f32], part: usize, take: impl Fn(&mut [f32], &[[u8; BYTES]])) -> Result<()> {
        let mut message = self.next.buffer();
        let sent = &values[self.part(part, values.len())];
        message.resize(sent.len() * BYTES, 0);
        message.as_chunks_mut().0.iter_mut().zip(sent).for_each(|(out, value)| *out = value.to_le_bytes());
        self.next.send(message);
        let received = self.part(self.before(part), values.len());
        self.receive(received.len() * BYTES)?;
        let (bytes, _) = self.inbox.as_chunks();
        if bytes.len() != received.len() {
            return Err(Error::mismatch(format!(
                "the rank before this one sent {} values where {} were due: it sums others",
                bytes.len(),
                received.len()
            )));
        }
        take(&mut values[received], bytes);
        Ok(())
    }

    /// Part `i` of as many as there are ranks.
    fn part(&self, i: usize, n: usize) -> Range<usize> {
        n * i / self.size..n * (i + 1) / self.size
    }
}

impl Transport<[f32]> for Ring {
    fn sum(&mut self, values: &mut [f32]) -> Result<()> {
        for bucket in values.chunks_mut(BUCKET) {
            let mut part = self.rank;
            for _ in 1..self.size {
                self.turn(bucket, part, |values, bytes| {
                    values.iter_mut().zip(bytes).for_each(|(value, bytes)| *value += f32::from_le_bytes(*bytes));
                })?;
                part = self.before(part);
            }
            // Now this part is whole here, and nowhere else.
            for _ in 1..self.size {
                self.turn(bucket, part, |values, bytes| {
                    values.iter_mut().zip(bytes).for_each(|(value, bytes)| *value = f32::from_le_bytes(*bytes));
                })?;
                part = self.before(part);
            }
        }
        Ok(())
    }
}

fn too_long(bytes: impl std::fmt::Display, most: usize) -> Error {
    Error::mismatch(format!("rank 0 tells {bytes} bytes where {most} were due: it runs another program"))
}
