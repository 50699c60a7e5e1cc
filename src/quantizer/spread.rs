//! The packets behind each centroid, in a few layers: what lets a token be decoded to packets as various as those it stands
//! for, instead of to one point.
//!
//! A token's packets, ordered by size, then time, are cut into [`LAYERS`] parts of equal weight. Of each part the size of
//! its middle packet is kept, and the times between which packets of that size lie in it. A cell of nearest points is
//! convex, so any time between the two has the same token.

use super::columns::Columns;
use super::kmeans;
use super::{Codebook, Scaler};
use crate::error::{Error, Result};
use crate::packet::Packet;
use crate::tokens::Token;
use std::ops::Range;

/// Parts of each token's packets.
pub const LAYERS: usize = 8;

/// Times below this are near what clocks can tell apart: one drawn between two of them would be a time that no capture
/// has, so one of the two is taken, microseconds.
const CLOCK_US: f32 = 20.0;

/// One part of a token's packets: of one size, at times from `low_us` to `high_us`. Frozen as three f32 in files.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Layer {
    /// Signed size in bytes, whole; 0 where the token had no packets that an IP packet can be.
    pub size: f32,
    /// Least time, microseconds.
    pub low_us: f32,
    /// Greatest time, microseconds.
    pub high_us: f32,
}

/// The layers of every token.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    layers: Vec<[Layer; LAYERS]>,
}

impl Spread {
    /// The layers of `data` around the centroids of `codebook`, which must have been fitted through the same scaler.
    pub fn new(data: &Columns, codebook: &Codebook) -> Self {
        let mut stretches: Vec<Vec<(usize, Range<usize>)>> = vec![Vec::new(); codebook.len()];
        kmeans::each_stretch(data, codebook, &mut |column, token, points| {
            stretches[token as usize].push((column, points));
        });
        Self { layers: stretches.iter().map(|stretches| layers(data, stretches)).collect() }
    }

    /// Layers read from a file: those of `layers[LAYERS * token ..]` belong to `token`. Each must hold packets that
    /// `encode` gives its token.
    pub(super) fn from_layers(layers: &[Layer], encode: impl Fn(Packet) -> Token) -> Result<Self> {
        let (rows, rest) = layers.as_chunks::<LAYERS>();
        if !rest.is_empty() {
            return Err(Error::mismatch(format!("spread has {} layers; it must have {LAYERS} a token", layers.len())));
        }
        for (token, row) in (0..).zip(rows) {
            for (i, layer) in row.iter().enumerate().filter(|(_, layer)| **layer != Layer::default()) {
                if !layer.is_of(token, &encode) {
                    return Err(Error::mismatch(format!(
                        "spread: layer {i} of token {token} is {layer:?}, which is not of this token: the file is damaged, \
                         or made for another codebook"
                    )));
                }
            }
        }
        Ok(Self { layers: rows.to_vec() })
    }

    /// All layers, [`LAYERS`] a token.
    pub fn layers(&self) -> &[Layer] {
        self.layers.as_flattened()
    }

    /// One of the layers of `token` for a draw of 0..1; none where the token had no packets.
    pub(super) fn layer(&self, token: Token, which: f64) -> Option<&Layer> {
        let layer = &self.layers[token as usize][((which * LAYERS as f64) as usize).min(LAYERS - 1)];
        (layer.size != 0.0).then_some(layer)
    }
}

impl Layer {
    /// A packet of it for a draw of 0..1.
    pub(super) fn packet(&self, scaler: Scaler, when: f64) -> Packet {
        let ipt_us = if self.high_us < CLOCK_US {
            if when < 0.5 { self.low_us } else { self.high_us }
        } else {
            let [low, high] = [self.low_us, self.high_us].map(|us| scaler.scaled_time(f64::from(us)));
            (scaler.time_us(low + when * (high - low)) as f32).clamp(self.low_us, self.high_us)
        };
        Packet { size: self.size as i32, ipt_us }
    }

    /// Whether all its packets are of `token`, as `encode` gives tokens.
    pub(super) fn is_of(&self, token: Token, encode: impl Fn(Packet) -> Token) -> bool {
        let size = self.size as i32;
        let own = |ipt_us| {
            let packet = Packet { size, ipt_us };
            packet.is_legal() && encode(packet) == token
        };
        let fits = size as f32 == self.size && is_of_ip(size);
        fits && self.low_us <= self.high_us && own(self.low_us) && own(self.high_us)
    }
}

/// Whether an IP packet can have this signed size.
pub(super) fn is_of_ip(size: i32) -> bool {
    (1..=65_535).contains(&size.unsigned_abs())
}

/// The layers of the points in `stretches`, which rise by column.
fn layers(data: &Columns, stretches: &[(usize, Range<usize>)]) -> [Layer; LAYERS] {
    let weight = |column: usize, points: Range<usize>| data.sums(column, points).w;
    let total: f64 = stretches.iter().map(|(column, points)| weight(*column, points.clone())).sum();
    std::array::from_fn(|i| {
        let [from, middle, to] = [0.0, 0.5, 1.0].map(|part| total * (i as f64 + part) / LAYERS as f64);
        let mut before = 0.0;
        for (column, points) in stretches {
            let here = weight(*column, points.clone());
            if middle < before + here {
                let at = |weight: f64| data.point_at_weight(*column, points.clone(), weight - before);
                return layer(data.sizes[*column], [from, middle, to].map(|w| data.times[at(w)]));
            }
            before += here;
        }
        Layer::default()
    })
}

/// The layer of packets of `size` at the times of its first, middle and last one.
fn layer(size: i32, [first, middle, last]: [f32; 3]) -> Layer {
    // Of no IP packet; the centroid has to do.
    if !is_of_ip(size) {
        return Layer::default();
    }
    // The scaler of the original puts time 0 among others: there the middle has to do.
    let (low_us, high_us) = if first <= last { (first, last) } else { (middle, middle) };
    Layer { size: size as f32, low_us, high_us }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantizer::Quantizer;
    use crate::quantizer::histogram::Histogram;
    use crate::random::Stream;
    use std::collections::BTreeSet;

    fn packets() -> Vec<Packet> {
        let mut draws = Stream::new(4, 0);
        let sizes = [52, 64, 1500, -52, -1500, 700];
        (0..5000)
            .map(|_| {
                let ipt_us = if draws.uniform() < 0.3 { 0.0 } else { 10f32.powf(draws.uniform() as f32 * 7.0) };
                Packet { size: sizes[draws.below(sizes.len())] + draws.below(3) as i32, ipt_us }
            })
            .collect()
    }

    fn columns(packets: &[Packet], scaler: Scaler) -> Columns {
        let mut histogram = Histogram::default();
        histogram.add(packets).unwrap();
        Columns::new(histogram, scaler).unwrap().0
    }

    fn fitted(scaler: Scaler, packets: &[Packet]) -> Quantizer {
        let data = columns(packets, scaler);
        let options = kmeans::Options { k: 40, ..kmeans::Options::default() };
        let go = &mut |_| std::ops::ControlFlow::Continue(());
        let codebook = kmeans::fit(&data, None, &options, go).unwrap().codebook;
        let spread = Spread::new(&data, &codebook);
        Quantizer::new(scaler, codebook).with_spread(spread.layers()).unwrap()
    }

    #[test]
    fn sampled_packets_have_the_token_they_were_drawn_for() {
        let packets = packets();
        for scaler in Scaler::ALL {
            let quantizer = fitted(scaler, &packets);
            let mut tokens = vec![0; packets.len()];
            quantizer.encode(&packets, &mut tokens).unwrap();
            let mut sampled = packets.clone();
            quantizer.decode_sampled(&tokens, None, 3, 0, &mut sampled).unwrap();
            let mut again = vec![0; packets.len()];
            quantizer.encode(&sampled, &mut again).unwrap();
            assert_eq!(again, tokens, "{scaler:?}");
            let known: BTreeSet<i32> = packets.iter().map(|p| p.size).collect();
            assert!(sampled.iter().all(|p| known.contains(&p.size)));
            let different: BTreeSet<u32> = sampled.iter().map(|p| p.ipt_us.to_bits()).collect();
            assert!(different.len() > 1000, "{} different times", different.len());
        }
    }

    #[test]
    fn sampling_brings_the_distribution_back_that_centroids_lose() {
        let packets = packets();
        let quantizer = fitted(Scaler::Log1pUs, &packets);
        let mut tokens = vec![0; packets.len()];
        quantizer.encode(&packets, &mut tokens).unwrap();
        let (mut centroids, mut sampled) = (packets.clone(), packets.clone());
        quantizer.decode(&tokens, &mut centroids).unwrap();
        quantizer.decode_sampled(&tokens, None, 3, 0, &mut sampled).unwrap();
        let share = |packets: &[Packet], size: i32| packets.iter().filter(|p| p.size == size).count() as f64 / 5000.0;
        let gap = |of: &[Packet]| (50..70).map(|size| (share(of, size) - share(&packets, size)).abs()).sum::<f64>();
        assert!(gap(&sampled) < 0.5 * gap(&centroids), "{} against {}", gap(&sampled), gap(&centroids));
    }

    #[test]
    fn a_spread_of_another_codebook_is_refused() {
        let quantizer = fitted(Scaler::Log1pUs, &packets());
        let mut layers = quantizer.spread().unwrap().layers().to_vec();
        let plain = || Quantizer::new(Scaler::Log1pUs, quantizer.codebook().clone());
        assert!(plain().with_spread(&layers[1..]).is_err());
        layers.rotate_left(LAYERS);
        assert!(plain().with_spread(&layers).unwrap_err().message().contains("layer"));
        let mut packets = [Packet { size: 1, ipt_us: 0.0 }];
        assert!(plain().decode_sampled(&[0], None, 0, 0, &mut packets).unwrap_err().message().contains("spread"));
    }
}
