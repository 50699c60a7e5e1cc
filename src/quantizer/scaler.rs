//! Packet ↔ point: what makes sizes and times comparable.

use crate::error::{Error, Result};
use crate::packet::Packet;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A point of the plane the codebook divides: scaled size, scaled time.
pub type Point = [f64; 2];

/// Sizes are divided by Ethernet's payload, so that most fall within -1..1.
const SIZE_UNIT: f64 = 1500.0;

/// The unit that gives sizes ten times the weight.
const FINE_SIZE_UNIT: f64 = 150.0;

/// The unit that gives sizes a hundred times the weight.
const SHARP_SIZE_UNIT: f64 = 15.0;

/// `numpy.isclose(ms, 0)`, which the original calls, means `|ms| <= 1e-8`.
const NEAR_ZERO_MS: f64 = 1e-8;

/// Largest IP packet length a decoded packet may have.
const MAX_SIZE: f64 = 65_535.0;

/// The map from a packet to a point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Scaler {
    /// `(size / 1500, log10(1 + ipt_us))`
    #[default]
    #[serde(rename = "log1p-us")]
    Log1pUs,
    /// `(size / 150, log10(1 + ipt_us))`: sizes count ten times as much against times. Times span eight decades and sizes
    /// two units, so that under `log1p-us` most centroids go to telling times apart.
    #[serde(rename = "log1p-us-fine")]
    Log1pUsFine,
    /// `(size / 15, log10(1 + ipt_us))`: sizes count a hundred times as much. 15 bytes weigh as a decade of time, so that
    /// the common sizes get centroids of their own: what a generator wants, whose sizes are looked at byte by byte.
    #[serde(rename = "log1p-us-sharp")]
    Log1pUsSharp,
    /// `(size / 1500, log10(ipt_ms))`, and 0 for times near 0 ms: the original project's, for its checkpoints. It maps
    /// 0 ms and 1 ms to one point.
    #[serde(rename = "log10-ms")]
    Log10Ms,
}

impl Scaler {
    /// Every scaler.
    pub const ALL: [Self; 4] = [Self::Log1pUs, Self::Log1pUsFine, Self::Log1pUsSharp, Self::Log10Ms];

    /// The packet's point.
    pub fn point(self, packet: Packet) -> Point {
        [self.scaled_size(packet.size), self.scaled_time(f64::from(packet.ipt_us))]
    }

    /// The first coordinate: of a size.
    pub(super) fn scaled_size(self, bytes: i32) -> f64 {
        f64::from(bytes) / self.size_unit()
    }

    /// The second coordinate: of a time in microseconds.
    pub(super) fn scaled_time(self, us: f64) -> f64 {
        match self {
            Self::Log1pUs | Self::Log1pUsFine | Self::Log1pUsSharp => us.ln_1p() * std::f64::consts::LOG10_E,
            Self::Log10Ms if us / 1e3 <= NEAR_ZERO_MS => 0.0,
            Self::Log10Ms => (us / 1e3).log10(),
        }
    }

    /// The time in microseconds of a second coordinate.
    pub(super) fn time_us(self, y: f64) -> f64 {
        match self {
            Self::Log1pUs | Self::Log1pUsFine | Self::Log1pUsSharp => (y / std::f64::consts::LOG10_E).exp_m1(),
            Self::Log10Ms => 1e3 * 10f64.powf(y),
        }
    }

    /// Bits of the last f32 time that has the second coordinate 0 because the scaler says so. From the next one on, or
    /// from 0 if this is 0, the coordinate rises with the time.
    pub(crate) fn last_zero_time(self) -> u32 {
        match self {
            Self::Log1pUs | Self::Log1pUsFine | Self::Log1pUsSharp => 0,
            Self::Log10Ms => {
                let near = (1e3 * NEAR_ZERO_MS) as f32;
                (near.to_bits() - 2..near.to_bits() + 2)
                    .take_while(|&bits| self.scaled_time(f64::from(f32::from_bits(bits))) == 0.0)
                    .last()
                    .unwrap_or(0)
            }
        }
    }

    /// The packet at a point: whole bytes of at least 1, direction kept, time not negative.
    pub fn packet(self, [size, time]: Point) -> Packet {
        let bytes = (size * self.size_unit()).round().clamp(-MAX_SIZE, MAX_SIZE);
        let size = if bytes == 0.0 { 1.0f64.copysign(size) } else { bytes } as i32;
        let us = self.time_us(time);
        Packet { size, ipt_us: us.clamp(0.0, f64::from(f32::MAX)) as f32 }
    }
}

impl Scaler {
    /// Bytes in one unit of the first coordinate.
    pub(crate) fn size_unit(self) -> f64 {
        match self {
            Self::Log1pUs | Self::Log10Ms => SIZE_UNIT,
            Self::Log1pUsFine => FINE_SIZE_UNIT,
            Self::Log1pUsSharp => SHARP_SIZE_UNIT,
        }
    }
}

impl fmt::Display for Scaler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Log1pUs => "log1p-us",
            Self::Log1pUsFine => "log1p-us-fine",
            Self::Log1pUsSharp => "log1p-us-sharp",
            Self::Log10Ms => "log10-ms",
        })
    }
}

impl FromStr for Scaler {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "log1p-us" => Ok(Self::Log1pUs),
            "log1p-us-fine" => Ok(Self::Log1pUsFine),
            "log1p-us-sharp" => Ok(Self::Log1pUsSharp),
            "log10-ms" => Ok(Self::Log10Ms),
            _ => Err(Error::invalid(format!(
                "scaler is \"{text}\"; it must be log1p-us, log1p-us-fine, log1p-us-sharp or log10-ms"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log1p_us_goes_there_and_back() {
        for (size, ipt_us) in [(40, 0.0), (-1500, 1.0), (1, 0.25), (-65_535, 6e7), (9000, 3.6e9)] {
            let packet = Packet { size, ipt_us };
            for scaler in [Scaler::Log1pUs, Scaler::Log1pUsFine, Scaler::Log1pUsSharp] {
                let back = scaler.packet(scaler.point(packet));
                assert_eq!(back.size, size);
                assert!((back.ipt_us - ipt_us).abs() <= 1e-6 * ipt_us, "{ipt_us} came back as {}", back.ipt_us);
            }
        }
    }

    #[test]
    fn log10_ms_merges_zero_and_one_millisecond_as_the_original_did() {
        let at = |ipt_us| Scaler::Log10Ms.point(Packet { size: 60, ipt_us })[1];
        assert_eq!(at(0.0), 0.0);
        assert_eq!(at(1000.0), 0.0);
        assert_eq!(at(100_000.0), 2.0);
        assert_eq!(at(1.0), -3.0);
    }

    #[test]
    fn decoded_packets_are_legal_wherever_the_point_lies() {
        for scaler in Scaler::ALL {
            for point in [[0.0, -5.0], [-1e-9, 400.0], [1e9, 0.0], [-1e9, -400.0]] {
                let packet = scaler.packet(point);
                packet.check().unwrap();
                assert!((1..=65_535).contains(&packet.size.abs()), "{packet:?}");
            }
        }
    }
}
