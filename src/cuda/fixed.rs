//! Sums of integers: scaled times in units of 2^-30, the same on host and device (`kernels/time.cuh` does the same steps).

use crate::packet::Packet;
use crate::quantizer::Scaler;

/// Units in one of the scaled time.
const UNITS: f64 = (1u64 << 30) as f64;

/// What the kernels add to a scaled time so that it is not negative.
const BIAS: i128 = 1 << 34;

/// How a time in microseconds becomes a scaled one: `log10(us / unit + offset)`, and 0 up to the time of bits `last_zero`.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeScale {
    pub unit: f64,
    pub offset: f64,
    pub last_zero: u32,
}

impl TimeScale {
    pub(super) fn of(scaler: Scaler) -> Self {
        let (unit, offset) = match scaler {
            Scaler::Log1pUs | Scaler::Log1pUsFine | Scaler::Log1pUsSharp => (1.0, 1.0),
            Scaler::Log10Ms => (1000.0, 0.0),
        };
        Self { unit, offset, last_zero: scaler.last_zero_time() }
    }

    /// The scaled time of `ipt_us`, which must be legal.
    pub(super) fn scaled(&self, ipt_us: f32) -> i64 {
        let us = ipt_us.abs();
        if us.to_bits() <= self.last_zero {
            return 0;
        }
        let v = f64::from(us) / self.unit + self.offset;
        (log10(v) * UNITS).round_ties_even() as i64
    }
}

/// log10 of a normal, positive number by operations that any device rounds alike: 2 artanh((m - 1) / (m + 1)) as a series.
fn log10(v: f64) -> f64 {
    let bits = v.to_bits();
    let mut e = (bits >> 52) as i32 - 1023;
    let mut m = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        e += 1;
    }
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    // 2 log10(e) / (2 i + 1), from i = 8 down to 0.
    let mut p: f64 = 0.051_093_468_459_206_1;
    for c in [
        0.057_905_930_920_433_58,
        0.066_814_535_677_423_36,
        0.078_962_633_073_318_51,
        0.096_509_884_867_389_3,
        0.124_084_137_686_643_38,
        0.173_717_792_761_300_73,
        0.289_529_654_602_167_9,
        0.868_588_963_806_503_6,
    ] {
        p = p.mul_add(z, c);
    }
    f64::from(e).mul_add(std::f64::consts::LOG10_2, s * p)
}

/// The packets of one centroid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub packets: u64,
    pub bytes: i64,
    pub time: i128,
}

impl Share {
    /// Adds what `accumulate` summed: packets, bytes, scaled times.
    pub(super) fn add_sums(&mut self, [packets, bytes, time]: [u64; 3]) {
        self.packets += packets;
        self.bytes += bytes as i64;
        self.time += i128::from(time as i64);
    }

    /// Adds one packet.
    pub(super) fn add(&mut self, scale: &TimeScale, packet: Packet) {
        self.packets += 1;
        self.bytes += i64::from(packet.size);
        self.time += i128::from(scale.scaled(packet.ipt_us));
    }

    /// The sum of the points, through `scaler`.
    pub(super) fn sum(&self, scaler: Scaler) -> [f64; 2] {
        [self.bytes as f64 / scaler.size_unit(), self.time as f64 / UNITS]
    }
}

/// The squares of all packets' sizes and scaled times, summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moments {
    bytes: u128,
    time: i128,
}

impl Moments {
    /// Adds what `moments` summed over `n` packets.
    pub(super) fn add_sums(&mut self, n: u64, sums: [u64; 5]) {
        let [bytes, v, hh, hl, ll] = sums.map(i128::from);
        self.bytes += bytes as u128;
        let squares = (hh << 36) + (hl << 19) + ll;
        self.time += squares - 2 * BIAS * v + i128::from(n) * BIAS * BIAS;
    }

    /// Adds one packet.
    #[cfg(test)]
    pub(super) fn add(&mut self, scale: &TimeScale, packet: Packet) {
        self.bytes += u128::from(packet.size.unsigned_abs()).pow(2);
        self.time += i128::from(scale.scaled(packet.ipt_us)).pow(2);
    }

    /// Sum of the squared distances of the points from 0, through `scaler`.
    pub(super) fn sum(&self, scaler: Scaler) -> f64 {
        self.bytes as f64 / scaler.size_unit().powi(2) + self.time as f64 / (UNITS * UNITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    #[test]
    fn scaled_times_are_the_scalers_to_half_a_unit() {
        let mut draws = Stream::new(4, 0);
        let any = (0..200_000).map(|_| f32::from_bits((draws.uniform() * f64::from(f32::MAX.to_bits())) as u32));
        let edges = [0.0, -0.0, f32::from_bits(1), 1e-8, 9.999e-6, 1e-5, 1.0001e-5, 1.0, 999.0, 1000.0, 6e7, f32::MAX];
        for ipt_us in any.chain(edges) {
            for scaler in Scaler::ALL {
                let y = scaler.point(Packet { size: 0, ipt_us })[1];
                let fixed = TimeScale::of(scaler).scaled(ipt_us);
                assert!(
                    (fixed as f64 - y * UNITS).abs() < 0.5 + 1e-4,
                    "{scaler:?} {ipt_us}: {fixed}, not {}",
                    y * UNITS
                );
                assert!((0..1 << 36).contains(&(i128::from(fixed) + BIAS)));
            }
        }
    }

    #[test]
    fn squares_in_two_halves_are_the_squares() {
        let scale = TimeScale::of(Scaler::Log10Ms);
        let (mut whole, mut halves) = (Moments::default(), Moments::default());
        for (size, ipt_us) in [(-65_535, 2e-5), (65_535, f32::MAX), (0, 0.0), (1, 1e3), (-1500, 123.4)] {
            let packet = Packet { size, ipt_us };
            whole.add(&scale, packet);
            let v = (i128::from(scale.scaled(ipt_us)) + BIAS) as u64;
            let (h, l) = (v >> 18, v & 0x3ffff);
            halves.add_sums(1, [(i64::from(size) * i64::from(size)) as u64, v, h * h, h * l, l * l]);
        }
        assert_eq!(halves, whole);
    }
}
