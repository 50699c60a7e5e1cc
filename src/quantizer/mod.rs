//! Packets ↔ tokens: the exact nearest centroid of a K-means codebook, seen through a scaler.

pub mod codebook;
pub mod kmeans;
pub mod scaler;

pub use codebook::Codebook;
pub use scaler::Scaler;

use crate::error::{Error, Result};
use crate::packet::Packet;
use crate::tokens::Token;

/// A scaler and a codebook: turns packets into tokens and back. Immutable; shared between threads without locks.
#[derive(Clone, Debug)]
pub struct Quantizer {
    scaler: Scaler,
    codebook: Codebook,
}

impl Quantizer {
    /// Joins the two.
    pub fn new(scaler: Scaler, codebook: Codebook) -> Self {
        Self { scaler, codebook }
    }

    /// The scaler.
    pub fn scaler(&self) -> Scaler {
        self.scaler
    }

    /// The codebook.
    pub fn codebook(&self) -> &Codebook {
        &self.codebook
    }

    /// Number of packet tokens K.
    pub fn n_tokens(&self) -> usize {
        self.codebook.len()
    }

    /// The token of each packet, to `tokens` of the same length. Nothing is written if a packet is refused.
    pub fn encode(&self, packets: &[Packet], tokens: &mut [Token]) -> Result<()> {
        if packets.len() != tokens.len() {
            return Err(Error::invalid(format!("{} packets, room for {} tokens", packets.len(), tokens.len())));
        }
        for (i, packet) in packets.iter().enumerate() {
            packet.check().map_err(|e| e.at(format_args!("packet {i}")))?;
        }
        for (packet, token) in packets.iter().zip(tokens) {
            *token = self.codebook.nearest(self.scaler.point(*packet));
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
