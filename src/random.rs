//! Counter-based random numbers: a draw depends on its key and counter alone, so that batches, threads and devices do
//! not matter.
//!
//! Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

/// Four independent 32-bit words for `counter` under `key`.
pub fn philox(key: u64, counter: [u32; 4]) -> [u32; 4] {
    philox_lanes(key, counter.map(|c| [c])).map(|[word]| word)
}

/// [`philox`] of `N` counters at once, in a form that the compiler vectorises: `counters[w][lane]`.
#[inline(always)]
pub fn philox_lanes<const N: usize>(key: u64, counters: [[u32; N]; 4]) -> [[u32; N]; 4] {
    const M0: u64 = 0xD251_1F53;
    const M1: u64 = 0xCD9E_8D57;
    let (mut k0, mut k1) = (key as u32, (key >> 32) as u32);
    let [mut c0, mut c1, mut c2, mut c3] = counters;
    for _ in 0..10 {
        for i in 0..N {
            let (p0, p1) = (M0 * u64::from(c0[i]), M1 * u64::from(c2[i]));
            (c0[i], c1[i]) = ((p1 >> 32) as u32 ^ c1[i] ^ k0, p1 as u32);
            (c2[i], c3[i]) = ((p0 >> 32) as u32 ^ c3[i] ^ k1, p0 as u32);
        }
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [c0, c1, c2, c3]
}

/// Uniform in [0, 1) with 53 bits, for draw (`stream`, `step`) under `key`.
pub fn uniform(key: u64, stream: u64, step: u64) -> f64 {
    let [a, b, ..] = philox(key, [stream as u32, (stream >> 32) as u32, step as u32, (step >> 32) as u32]);
    let bits = (u64::from(a) << 21) ^ (u64::from(b) >> 11);
    (bits & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
}

/// A sequence of draws under one key and stream.
#[derive(Clone, Debug)]
pub struct Stream {
    key: u64,
    stream: u64,
    step: u64,
}

impl Stream {
    /// The sequence `stream` under `key`, at its beginning.
    pub fn new(key: u64, stream: u64) -> Self {
        Self { key, stream, step: 0 }
    }

    /// The next draw, uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        self.step += 1;
        uniform(self.key, self.stream, self.step - 1)
    }

    /// The next draw, normal with mean 0 and standard deviation 1 (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// The next draw, uniform in `0..n`; 0 for `n = 0`.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.uniform() * n as f64) as usize).min(n.saturating_sub(1))
    }

    /// Brings `items` into a random order (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the Random123 distribution (`kat_vectors`, philox4x32 10).
    #[test]
    fn philox_gives_the_published_vectors() {
        assert_eq!(philox(0, [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox(u64::MAX, [u32::MAX; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox(0x299f_31d0_a409_3822, [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn uniform_is_uniform_and_depends_on_its_counter_alone() {
        let n = 100_000;
        let draws: Vec<f64> = (0..n).map(|i| uniform(7, 3, i)).collect();
        let mut bins = [0u32; 20];
        for u in &draws {
            assert!((0.0..1.0).contains(u));
            bins[(u * 20.0) as usize] += 1;
        }
        let expected = n as f64 / 20.0;
        let chi2: f64 = bins.iter().map(|&b| (f64::from(b) - expected).powi(2) / expected).sum();
        assert!(chi2 < 43.8, "chi-square of 19 degrees at p = 0.001: {chi2}");
        assert_eq!(draws[41], uniform(7, 3, 41));
    }

    #[test]
    fn normal_has_mean_0_variance_1_and_kurtosis_3() {
        let mut stream = Stream::new(5, 0);
        let draws: Vec<f64> = (0..100_000).map(|_| stream.normal()).collect();
        let moment = |k| draws.iter().map(|x| x.powi(k)).sum::<f64>() / draws.len() as f64;
        assert!(moment(1).abs() < 0.013, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.018, "variance {}", moment(2));
        assert!((moment(4) - 3.0).abs() < 0.13, "fourth moment {}", moment(4));
    }
}
