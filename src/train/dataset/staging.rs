//! Flows on their way from tables into a data set.

use super::splits::Splits;
use super::windows::flow_bytes;
use crate::error::{Error, Result};
use crate::packet::Packet;
use crate::quantizer::Quantizer;
use crate::tokens::Token;
use crate::train::table::{Row, Split};
use rayon::prelude::*;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A training flow is a copy of a validation flow if at least this many packets are equal in size and time, and there
/// are no others. Shorter flows are often equal by chance.
const COPY_PACKETS: usize = 4;

/// Rows that are turned into tokens at a time.
const CHUNK: usize = 4096;

/// A flow on its way into the data set.
pub(super) struct Staged {
    /// Which of all rows it was.
    pub number: u64,
    pub packets: Vec<Packet>,
    pub tokens: Vec<Token>,
    pub ended: bool,
    pub label: Option<String>,
    pub group: String,
    pub split: Option<Split>,
    /// Of the packets kept, if there are enough to tell copies by.
    pub fingerprint: Option<u64>,
}

/// What a first reading of all tables finds: the flows, as long as there is room for them.
pub(super) struct Staging<'a> {
    quantizer: &'a Quantizer,
    n_packets: usize,
    most: u64,
    bytes: u64,
    /// `None` once there was no room.
    pub flows: Option<Vec<Staged>>,
    pub splits: Splits,
    waiting: Vec<(Row, u64)>,
    pub rows: u64,
    pub n_test: usize,
}

impl<'a> Staging<'a> {
    /// Nothing read yet; flows are kept while they take at most `most` bytes.
    pub fn new(quantizer: &'a Quantizer, n_packets: usize, most: u64) -> Self {
        Self {
            quantizer,
            n_packets,
            most,
            bytes: 0,
            flows: Some(Vec::new()),
            splits: Splits::default(),
            waiting: Vec::new(),
            rows: 0,
            n_test: 0,
        }
    }

    /// Takes a row, whose label counts if it is of a table that is `labelled`.
    pub fn push(&mut self, row: Row, labelled: bool) -> Result<()> {
        self.rows += 1;
        self.splits.observe(&row.group, row.split)?;
        if row.split == Some(Split::Test) {
            self.n_test += 1;
            return Ok(());
        }
        if self.flows.is_none() {
            return Ok(());
        }
        self.bytes += flow_bytes(row.packets.len().min(self.n_packets));
        if self.bytes > self.most {
            self.flows = None;
            self.waiting = Vec::new();
            return Ok(());
        }
        self.waiting.push((row, self.rows - 1));
        if self.waiting.len() == CHUNK { self.flush(labelled) } else { Ok(()) }
    }

    /// Turns the rows that wait into flows.
    pub fn flush(&mut self, labelled: bool) -> Result<()> {
        let Some(flows) = &mut self.flows else { return Ok(()) };
        let (quantizer, n_packets) = (self.quantizer, self.n_packets);
        let staged: Result<Vec<Staged>> = self
            .waiting
            .par_drain(..)
            .map(|(row, number)| Staged::new(row, number, labelled, quantizer, n_packets))
            .collect();
        flows.extend(staged?);
        Ok(())
    }
}

impl Staged {
    /// The flow of row `number`, at most `n_packets` of it.
    pub fn new(row: Row, number: u64, labelled: bool, quantizer: &Quantizer, n_packets: usize) -> Result<Self> {
        let kept = &row.packets[..row.packets.len().min(n_packets)];
        let mut tokens = vec![0; kept.len()];
        quantizer.encode(kept, &mut tokens)?;
        if tokens.is_empty() {
            return Err(Error::format("a flow has no packets"));
        }
        Ok(Self {
            number,
            ended: row.n_packets == kept.len() as u64,
            label: row.label.filter(|_| labelled),
            group: row.group,
            split: row.split,
            fingerprint: (kept.len() >= COPY_PACKETS).then(|| fingerprint(kept)),
            packets: kept.to_vec(),
            tokens,
        })
    }
}

fn fingerprint(packets: &[Packet]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytemuck::cast_slice::<Packet, u8>(packets).hash(&mut hasher);
    hasher.finish()
}
