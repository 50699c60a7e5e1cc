//! Packets ↔ tokens: the exact nearest centroid of a K-means codebook, seen through a scaler.

pub mod class_spread;
pub mod codebook;
pub mod columns;
mod envelope;
pub mod histogram;
pub mod kmeans;
pub mod scaler;
mod seeds;
pub mod spread;
pub(crate) mod table;

pub use codebook::Codebook;
pub use scaler::Scaler;

use crate::error::{Error, Result};
use crate::packet::Packet;
use crate::random::uniform;
use crate::tokens::Token;
use class_spread::{ClassLayer, ClassSpread};
use spread::{Layer, Spread};
use std::sync::Arc;
use table::Table;

/// Sets these draws apart from others of the same seed: ASCII "spread".
const SPREAD_DRAWS: u64 = 0x7370_7265_6164;

/// A scaler and a codebook: turns packets into tokens and back. Immutable; shared between threads without locks.
#[derive(Clone, Debug)]
pub struct Quantizer {
    scaler: Scaler,
    codebook: Codebook,
    /// Shared: it is many times the size of the codebook.
    table: Arc<Table>,
    spread: Option<Arc<Spread>>,
    class_spread: Option<Arc<ClassSpread>>,
}

impl Quantizer {
    /// Joins the two and builds the table that encodes.
    pub fn new(scaler: Scaler, codebook: Codebook) -> Self {
        let table = Arc::new(Table::new(scaler, &codebook));
        Self { scaler, codebook, table, spread: None, class_spread: None }
    }

    /// The same with the packets behind each centroid, [`spread::LAYERS`] layers a token, for [`Self::decode_sampled`].
    /// Refuses layers that do not belong to the codebook.
    pub fn with_spread(self, layers: &[Layer]) -> Result<Self> {
        if layers.len() != self.n_tokens() * spread::LAYERS {
            let (n, k) = (layers.len(), self.n_tokens());
            return Err(Error::mismatch(format!("spread has {n} layers; {k} tokens have {} each", spread::LAYERS)));
        }
        let spread = Spread::from_layers(layers, |packet| self.token(packet))?;
        Ok(Self { spread: Some(Arc::new(spread)), ..self })
    }

    /// The packets behind each centroid, if they are known.
    pub fn spread(&self) -> Option<&Spread> {
        self.spread.as_deref()
    }

    /// The same with the packets of each class behind each centroid, for [`Self::decode_sampled`]: `layers` by class, then
    /// by token, those of each class up to its place in `ends`. Refuses layers that do not belong to the codebook.
    pub fn with_class_spread(self, layers: Vec<ClassLayer>, ends: Vec<u32>) -> Result<Self> {
        let own = |token, layer: &Layer| layer.is_of(token, |packet| self.token(packet));
        let spread = ClassSpread::new(layers, ends, self.n_tokens(), own)?;
        Ok(Self { class_spread: Some(Arc::new(spread)), ..self })
    }

    /// The same without the packets of each class, for a model of other classes.
    #[must_use]
    pub fn without_class_spread(self) -> Self {
        Self { class_spread: None, ..self }
    }

    /// The packets of each class behind each centroid, if they are known.
    pub fn class_spread(&self) -> Option<&ClassSpread> {
        self.class_spread.as_deref()
    }

    /// Refuses packets of classes where a vocabulary has not `n_classes` of them as well.
    pub(crate) fn check_classes(&self, n_classes: usize) -> Result<()> {
        match self.class_spread().map(ClassSpread::n_classes) {
            Some(n) if n != n_classes => Err(Error::mismatch(format!(
                "the quantizer has packets of {n} classes, the vocabulary {n_classes} classes"
            ))),
            _ => Ok(()),
        }
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
        self.table.encode(packets, tokens, |packet| self.search(packet));
        Ok(())
    }

    /// The token of a packet whose time is legal.
    fn token(&self, packet: Packet) -> Token {
        self.table.token(packet).unwrap_or_else(|| self.search(packet))
    }

    /// The same without the table.
    fn search(&self, packet: Packet) -> Token {
        self.codebook.nearest(self.scaler.point(packet))
    }

    /// The packet at each token's centroid, to `packets` of the same length. Nothing is written if a token is refused.
    pub fn decode(&self, tokens: &[Token], packets: &mut [Packet]) -> Result<()> {
        self.check_tokens(tokens, packets)?;
        for (token, packet) in tokens.iter().zip(packets) {
            *packet = self.scaler.packet(self.codebook.centroid(*token));
        }
        Ok(())
    }

    /// A packet of each token, drawn from those the codebook was fitted to, as `seed` and `stream` say: token `i` always
    /// gets draw `i`. The packet has that token; its size occurred, its time lies between times that did. Where packets
    /// of `class` are known and some had the token, it is drawn from them. A token that stood for no packet gives its
    /// centroid. Fails if the packets behind the centroids are not known.
    pub fn decode_sampled(
        &self,
        tokens: &[Token],
        class: Option<u32>,
        seed: u64,
        stream: u64,
        packets: &mut [Packet],
    ) -> Result<()> {
        let Some(spread) = &self.spread else {
            return Err(Error::mismatch(
                "the quantizer has no spread to draw packets from: decode to centroids, or fit it again with \
                 `trafficgpt quantizer fit`",
            ));
        };
        self.check_tokens(tokens, packets)?;
        let of_classes = self.class_spread.as_deref();
        let of_class =
            class.map(|class| class as usize).zip(of_classes).filter(|(class, all)| *class < all.n_classes());
        for ((i, &token), packet) in (0u64..).zip(tokens).zip(packets) {
            let [which, when] = [2 * i, 2 * i + 1].map(|step| uniform(seed ^ SPREAD_DRAWS, stream, step));
            let layer = of_class.and_then(|(class, all)| all.layer(class, token, which));
            *packet = match layer.or_else(|| spread.layer(token, which)) {
                Some(layer) => layer.packet(self.scaler, when),
                None => self.scaler.packet(self.codebook.centroid(token)),
            };
        }
        Ok(())
    }

    fn check_tokens(&self, tokens: &[Token], packets: &[Packet]) -> Result<()> {
        if packets.len() != tokens.len() {
            return Err(Error::invalid(format!("{} tokens, room for {} packets", tokens.len(), packets.len())));
        }
        let k = self.n_tokens();
        if let Some((i, token)) = tokens.iter().enumerate().find(|(_, t)| **t as usize >= k) {
            return Err(Error::invalid(format!("token {i} is {token}; packet tokens are 0..{k}")));
        }
        Ok(())
    }
}
