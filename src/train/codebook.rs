//! How well a codebook stands for packets: what it loses, and which of its tokens it uses.

use crate::error::Result;
use crate::packet::Packet;
use crate::quantizer::Quantizer;
use crate::tokens::Token;
use serde::Serialize;

/// Where the regions of the report end: sizes in bytes, by magnitude, and times in microseconds. The last has no end.
const SIZE_ENDS: [i32; 4] = [100, 400, 1000, 1400];
const TIME_ENDS: [f32; 6] = [10.0, 1e2, 1e3, 1e4, 1e5, 1e6];

/// Packets whose tokens are found at a time.
const CHUNK: usize = 1 << 16;

/// A quantizer, judged by packets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// Number of centroids.
    pub k: usize,
    /// Packets looked at.
    pub packets: u64,
    /// Mean squared distance to the nearest centroid, through the scaler: the inertia per packet.
    pub inertia_per_packet: f64,
    /// Mean of what centroids are off in size, bytes.
    pub size_error: f64,
    /// Mean of what centroids are off in time: decades of `1 + ipt_us`.
    pub time_error: f64,
    /// Tokens that any packet has.
    pub used: usize,
    /// Entropy of the tokens, bits a packet: what a model that knew nothing but their frequencies would lose.
    pub entropy: f64,
    /// Packets, and tokens in use, by size and time.
    pub regions: Vec<Region>,
}

/// A part of the plane of sizes and times.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Region {
    /// Sizes in bytes, from and to, both within.
    pub size: [i32; 2],
    /// Times in microseconds, from, within, and to, not within; null for no end.
    pub ipt_us: [Option<f32>; 2],
    /// Packets in it.
    pub packets: u64,
    /// Different tokens of those packets.
    pub tokens: usize,
}

impl Evaluation {
    /// Judges `quantizer` by packets and how often each occurs, which must be legal.
    pub fn new(quantizer: &Quantizer, counts: &[(Packet, u64)]) -> Result<Self> {
        Self::by(quantizer, counts, |packets, tokens| quantizer.encode(packets, tokens))
    }

    /// The same with tokens that `encode` finds, which must be those of `quantizer`.
    pub fn by(
        quantizer: &Quantizer,
        counts: &[(Packet, u64)],
        encode: impl Fn(&[Packet], &mut [Token]) -> Result<()>,
    ) -> Result<Self> {
        let k = quantizer.n_tokens();
        let (mut by_token, mut by_region) = (vec![0u64; k], vec![0u64; N_REGIONS]);
        let mut token_in_region = vec![false; k * N_REGIONS];
        let (mut packets, mut tokens, mut centroids) = (Vec::new(), Vec::new(), Vec::new());
        let [mut total, mut inertia, mut size_error, mut time_error] = [0.0; 4];
        for chunk in counts.chunks(CHUNK) {
            packets.clear();
            packets.extend(chunk.iter().map(|(packet, _)| *packet));
            tokens.resize(packets.len(), 0);
            centroids.resize(packets.len(), packets[0]);
            encode(&packets, &mut tokens)?;
            quantizer.decode(&tokens, &mut centroids)?;
            for (((packet, n), &token), centroid) in chunk.iter().zip(&tokens).zip(&centroids) {
                let weight = *n as f64;
                total += weight;
                inertia += weight * quantizer.codebook().distance_to(token, quantizer.scaler().point(*packet));
                size_error += weight * (f64::from(packet.size) - f64::from(centroid.size)).abs();
                time_error += weight * (decades(packet.ipt_us) - decades(centroid.ipt_us)).abs();
                by_token[token as usize] += n;
                let region = region_of(*packet);
                by_region[region] += n;
                token_in_region[region * k + token as usize] = true;
            }
        }
        let share = |n: u64| n as f64 / total;
        let entropy: f64 = by_token.iter().filter(|n| **n > 0).map(|&n| -share(n) * share(n).log2()).sum();
        let tokens_of = |region: usize| token_in_region[region * k..(region + 1) * k].iter().filter(|t| **t).count();
        Ok(Self {
            k,
            packets: total as u64,
            inertia_per_packet: inertia / total,
            size_error: size_error / total,
            time_error: time_error / total,
            used: by_token.iter().filter(|n| **n > 0).count(),
            entropy,
            regions: (0..N_REGIONS)
                .filter(|&i| by_region[i] > 0)
                .map(|i| Region { packets: by_region[i], tokens: tokens_of(i), ..bounds(i) })
                .collect(),
        })
    }

    /// Tokens that no packet has.
    pub fn dead(&self) -> usize {
        self.k - self.used
    }
}

/// The centroids as packets, by token.
pub fn centroids(quantizer: &Quantizer) -> Result<Vec<Packet>> {
    let tokens: Vec<Token> = (0..quantizer.n_tokens() as Token).collect();
    let mut packets = vec![Packet { size: 0, ipt_us: 0.0 }; tokens.len()];
    quantizer.decode(&tokens, &mut packets)?;
    Ok(packets)
}

fn decades(us: f32) -> f64 {
    (1.0 + f64::from(us)).log10()
}

/// Sizes up to each end, negative ones from the largest on, then positive ones; times likewise.
const N_SIZES: usize = 2 * (SIZE_ENDS.len() + 1);
const N_TIMES: usize = TIME_ENDS.len() + 1;
const N_REGIONS: usize = N_SIZES * N_TIMES;

fn region_of(packet: Packet) -> usize {
    let step = SIZE_ENDS.iter().take_while(|&&end| end < packet.size.saturating_abs()).count();
    let size = if packet.size < 0 { N_SIZES / 2 - 1 - step } else { N_SIZES / 2 + step };
    let time = TIME_ENDS.iter().take_while(|&&end| end <= packet.ipt_us).count();
    size * N_TIMES + time
}

fn bounds(region: usize) -> Region {
    let (size, time) = (region / N_TIMES, region % N_TIMES);
    let span = |step: usize| {
        let low = step.checked_sub(1).map_or(0, |below| SIZE_ENDS[below] + 1);
        (low, SIZE_ENDS.get(step).copied().unwrap_or(i32::MAX))
    };
    let size = if size < N_SIZES / 2 {
        let (low, high) = span(N_SIZES / 2 - 1 - size);
        [-high, -low.max(1)]
    } else {
        let (low, high) = span(size - N_SIZES / 2);
        [low, high]
    };
    let ipt_us = [time.checked_sub(1).map(|below| TIME_ENDS[below]), TIME_ENDS.get(time).copied()];
    Region { size, ipt_us, packets: 0, tokens: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantizer::{Codebook, Scaler};

    #[test]
    fn what_a_codebook_loses_is_counted_packet_by_packet() {
        let codebook = Codebook::new(vec![[0.0, 0.0], [1.0, 1.0], [-1.0, 5.0]]).unwrap();
        let quantizer = Quantizer::new(Scaler::Log1pUs, codebook);
        let at = |size, ipt_us| Packet { size, ipt_us };
        // The first centroid decodes to 1 byte at 0 µs, the second to 1500 bytes at 9 µs.
        let report = Evaluation::new(&quantizer, &[(at(31, 0.0), 3), (at(1500, 99.0), 1)]).unwrap();
        assert_eq!((report.k, report.packets, report.used, report.dead()), (3, 4, 2, 1));
        assert!((report.size_error - 90.0 / 4.0).abs() < 1e-12, "{}", report.size_error);
        assert!((report.time_error - 1.0 / 4.0).abs() < 1e-6, "{}", report.time_error);
        assert!((report.entropy - (0.75 * (4f64 / 3.0).log2() + 0.25 * 2.0)).abs() < 1e-12);
        assert!((report.inertia_per_packet - (3.0 * (31.0f64 / 1500.0).powi(2) + 1.0) / 4.0).abs() < 1e-6);
        let seen: Vec<_> = report.regions.iter().map(|r| (r.size, r.ipt_us, r.packets, r.tokens)).collect();
        let expected = [([0, 100], [None, Some(10.0)], 3, 1), ([1401, i32::MAX], [Some(10.0), Some(100.0)], 1, 1)];
        assert_eq!(seen, expected);
    }

    #[test]
    fn every_packet_lies_in_the_region_that_holds_it() {
        for size in [-65_535, -1401, -1400, -101, -100, -1, 0, 1, 100, 101, 400, 1000, 1400, 1401, i32::MAX] {
            for ipt_us in [0.0, 9.9, 10.0, 999.0, 1e6, 1e9] {
                let Region { size: [low, high], ipt_us: [from, to], .. } = bounds(region_of(Packet { size, ipt_us }));
                assert!((low..=high).contains(&size), "{size} in {low}..={high}");
                assert!(from.is_none_or(|from| from <= ipt_us) && to.is_none_or(|to| ipt_us < to), "{ipt_us}");
            }
        }
    }
}
