//! Packets ↔ tokens: the exact nearest centroid of a K-means codebook, seen through a scaler.

pub mod codebook;
pub mod columns;
mod envelope;
pub mod histogram;
pub mod kmeans;
pub mod scaler;
mod seeds;
pub(crate) mod table;

pub use codebook::Codebook;
pub use scaler::Scaler;

use crate::error::{Error, Result};
use crate::packet::Packet;
use crate::tokens::Token;
use std::sync::Arc;
use table::Table;

/// A scaler and a codebook: turns packets into tokens and back. Immutable; shared between threads without locks.
#[derive(Clone, Debug)]
pub struct Quantizer {
    scaler: Scaler,
    codebook: Codebook,
    /// Shared: it is many times the size of the codebook.
    table: Arc<Table>,
}

impl Quantizer {
    /// Joins the two and builds the table that encodes.
    pub fn new(scaler: Scaler, codebook: Codebook) -> Self {
        let table = Arc::new(Table::new(scaler, &codebook));
        Self { scaler, codebook, table }
    }

    /// The scaler.
    pub fn scaler(&self) -> Scaler {
        self.scaler
    }

    /// The codebook.
    pub fn codebook(&self) -> &Codebook {
        &self.codebook
    }

    /// The table that does the encoding.
    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// Number of packet tokens K.
    pub fn n_tokens(&self) -> usize {
        self.codebook.len()
    }

    /// Bytes of memory that the table takes, which does the encoding.
    pub fn table_bytes(&self) -> usize {
        self.table.bytes()
    }

    /// The token of each packet, to `tokens` of the same length. Nothing is written if a packet is refused.
    pub fn encode(&self, packets: &[Packet], tokens: &mut [Token]) -> Result<()> {
        if packets.len() != tokens.len() {
            return Err(Error::invalid(format!("{} packets, room for {} tokens", packets.len(), tokens.len())));
        }
        // All at once, without leaving early, so that it takes vector instructions.
        if !packets.iter().fold(true, |legal, packet| legal & packet.is_legal()) {
            for (i, packet) in packets.iter().enumerate() {
                packet.check().map_err(|e| e.at(format_args!("packet {i}")))?;
            }
        }
        for (&packet, token) in packets.iter().zip(tokens) {
            *token = match self.table.token(packet) {
                Some(token) => token,
                None => self.codebook.nearest(self.scaler.point(packet)),
            };
        }
        Ok(())
    }

    /// The packet at each token's centroid, to `packets` of the same length. Nothing is written if a token is refused.
    pub fn decode(&self, tokens: &[Token], packets: &mut [Packet]) -> Result<()> {
        if packets.len() != tokens.len() {
            return Err(Error::invalid(format!("{} tokens, room for {} packets", tokens.len(), packets.len())));
        }
        let k = self.n_tokens();
        if let Some((i, token)) = tokens.iter().enumerate().find(|(_, t)| **t as usize >= k) {
            return Err(Error::invalid(format!("token {i} is {token}; packet tokens are 0..{k}")));
        }
        for (token, packet) in tokens.iter().zip(packets) {
            *packet = self.scaler.packet(self.codebook.centroid(*token));
        }
        Ok(())
    }
}
