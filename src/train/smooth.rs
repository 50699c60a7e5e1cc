//! First embeddings of packet tokens that are alike where packets are.
//!
//! Initialised independently, two neighbouring centroids have nothing in common until both were seen often. Here an
//! embedding begins as a smooth random function of size, direction and time: random Fourier features (Rahimi and Recht,
//! "Random features for large-scale kernel machines", 2007) at many widths.

use crate::error::Result;
use crate::gpt2::Weights;
use crate::packet::Packet;
use crate::quantizer::Quantizer;
use crate::random::Stream;
use std::f64::consts::{SQRT_2, TAU};

/// Spread of GPT-2's first embeddings.
const STD: f64 = 0.02;

/// Shortest and longest wave over sizes, in bytes.
const SIZE_WAVES: [f64; 2] = [16.0, 3000.0];

/// Shortest and longest wave over times, in decades.
const TIME_WAVES: [f64; 2] = [3.0, 16.0];

/// One dimension of the embeddings as a function of the packet.
struct Wave {
    /// Radians per byte.
    size: f64,
    /// Radians per decade of time.
    time: f64,
    /// Phase of the client's and of the server's packets.
    phase: [f64; 2],
}

impl Wave {
    fn draw(draws: &mut Stream) -> Self {
        let mut rate = |[short, long]: [f64; 2]| TAU / (short * (long / short).powf(draws.uniform()));
        Self { size: rate(SIZE_WAVES), time: rate(TIME_WAVES), phase: [TAU * draws.uniform(), TAU * draws.uniform()] }
    }

    fn at(&self, packet: Packet) -> f64 {
        let decades = f64::from(packet.ipt_us).ln_1p() / std::f64::consts::LN_10;
        let angle = self.size * f64::from(packet.size).abs() + self.time * decades;
        SQRT_2 * STD * (angle + self.phase[usize::from(packet.size < 0)]).cos()
    }
}

/// Makes `share` of the variance of the embeddings of `quantizer`'s tokens, the first rows of `weights`, a smooth
/// function of the packets at their centroids.
pub fn embeddings(weights: &mut Weights, quantizer: &Quantizer, share: f64, seed: u64) -> Result<()> {
    if share == 0.0 {
        return Ok(());
    }
    let tokens: Vec<u32> = (0..quantizer.n_tokens() as u32).collect();
    let mut packets = vec![Packet { size: 0, ipt_us: 0.0 }; tokens.len()];
    quantizer.decode(&tokens, &mut packets)?;
    let d = weights.config().n_embd;
    // A stream that neither a tensor nor the head draws from.
    let mut draws = Stream::new(seed, u64::MAX - 1);
    let waves: Vec<Wave> = (0..d).map(|_| Wave::draw(&mut draws)).collect();
    for (row, packet) in weights.data_mut().chunks_exact_mut(d).zip(packets) {
        for (value, wave) in row.iter_mut().zip(&waves) {
            *value = ((1.0 - share).sqrt() * f64::from(*value) + share.sqrt() * wave.at(packet)) as f32;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpt2::Config;
    use crate::quantizer::{Codebook, Scaler};

    fn cosine(a: &[f32], b: &[f32]) -> f64 {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(x * y)).sum::<f64>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    }

    #[test]
    fn near_packets_begin_alike_and_far_ones_do_not() {
        let sizes = [400.0, 404.0, 900.0, -400.0];
        let codebook = Codebook::new(sizes.iter().map(|s| [(s / 1500.0) as f32, 2.0]).collect()).unwrap();
        let quantizer = Quantizer::new(Scaler::Log1pUs, codebook);
        let config = Config::new(8, 1, 256, 4);
        let first = Weights::init(&config, 5).unwrap();
        let mut weights = first.clone();
        embeddings(&mut weights, &quantizer, 0.0, 5).unwrap();
        assert_eq!(weights.data(), first.data());
        embeddings(&mut weights, &quantizer, 1.0, 5).unwrap();
        let row = |i: usize| &weights.data()[i * 256..(i + 1) * 256];
        assert!(cosine(row(0), row(1)) > 0.7, "{}", cosine(row(0), row(1)));
        assert!(cosine(row(0), row(2)).abs() < 0.4 && cosine(row(0), row(3)).abs() < 0.4);
        let variance = row(2).iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / 256.0;
        assert!((variance.sqrt() - STD).abs() < 0.004, "{variance}");
        assert_eq!(weights.data()[4 * 256..], first.data()[4 * 256..], "only packet tokens change");
    }
}
