//! What every kernel must do, whoever runs it: the CPU (`on_cpu`) or a GPU (`on_gpu`).

use super::brute::Precision;
use super::fixed::{Moments, Share, TimeScale};
use super::quantizer::lookup::Lookup;
use crate::packet::Packet;
use crate::quantizer::scaler::Point;
use crate::quantizer::table::{SEARCH, Table};
use crate::quantizer::{Codebook, Scaler};
use crate::random::Stream;
use crate::tokens::Token;

/// Who runs the kernels. No call gets an empty batch.
pub(super) trait Run {
    /// Tokens and report of `kernels/encode.cu`.
    fn encode(&self, packets: &[Packet], lookup: &Lookup) -> (Vec<Token>, [u32; 2]);
    /// Sums of `kernels/accumulate.cu`.
    fn accumulate(&self, packets: &[Packet], tokens: &[Token], k: usize, scale: &TimeScale) -> Vec<[u64; 3]>;
    /// Sums of `kernels/moments.cu`.
    fn moments(&self, packets: &[Packet], scale: &TimeScale) -> [u64; 5];
    /// Tokens of `kernels/nearest_brute.cu`.
    fn nearest(&self, points: &[Point], codebook: &Codebook, precision: Precision) -> Vec<Token>;
}

pub(super) fn codebook(k: usize) -> Codebook {
    let mut draws = Stream::new(6, k as u64);
    let centroids = (0..k).map(|_| [draws.uniform() as f32 * 2.0 - 1.0, draws.uniform() as f32 * 9.0 - 1.0]);
    Codebook::new(centroids.collect()).unwrap()
}

/// Packets of all sizes and times, most of few sizes, as in traffic.
pub(super) fn packets(n: usize) -> Vec<Packet> {
    let mut draws = Stream::new(7, n as u64);
    let mut size = || match draws.below(8) {
        0 => draws.below(2 * 65_535 + 1) as i32 - 65_535,
        1 => draws.below(2 * 1500 + 1) as i32 - 1500,
        i => [52, -1500, -52, 1500, 40, 0][i - 2],
    };
    let sizes: Vec<i32> = (0..n).map(|_| size()).collect();
    let time = |i: usize| match i % 4 {
        0 => 0.0,
        1 => 10f64.powf(8.0 * draws.uniform()) as f32,
        2 => draws.below(2000) as f32,
        _ => f32::from_bits((draws.uniform() * f64::from(f32::MAX.to_bits())) as u32),
    };
    (0..n).map(time).zip(sizes).map(|(ipt_us, size)| Packet { size, ipt_us }).collect()
}

/// Packets that look for trouble: both sides of `lookup`'s thresholds at some sizes, ends of the times, sizes that are
/// not in the table.
fn adversarial(lookup: &Lookup) -> Vec<Packet> {
    let mut times = vec![0.0, -0.0, f32::from_bits(1), f32::MIN_POSITIVE, 1e-5, 1000.0, 6e7, f32::MAX];
    let finite = lookup.steps.iter().filter(|[bits, _]| *bits < f32::INFINITY.to_bits());
    let near = finite.step_by(lookup.steps.len() / 500 + 1).flat_map(|[bits, _]| [bits - 1, *bits, bits + 1]);
    times.extend(near.filter(|bits| *bits <= f32::MAX.to_bits()).map(f32::from_bits));
    let sizes = [i32::MIN, -65_536, -65_535, -1500, -1, 0, 1, 40, 52, 1500, 65_535, 65_536, i32::MAX];
    sizes.iter().flat_map(|&size| times.iter().map(move |&ipt_us| Packet { size, ipt_us })).collect()
}

/// Tokens are those of the table, and what the table does not tell is counted, for batches of `lengths` and others.
pub(super) fn encode_gives_the_tokens_of_the_table(run: &dyn Run, lengths: &[usize]) {
    for (scaler, k) in [(Scaler::Log1pUs, 700), (Scaler::Log1pUsFine, 1), (Scaler::Log10Ms, 300)] {
        let table = Table::new(scaler, &codebook(k));
        let lookup = Lookup::of(&table);
        for packets in lengths.iter().map(|&n| packets(n)).chain([adversarial(&lookup)]) {
            let expected: Vec<Token> = packets.iter().map(|&p| table.token(p).unwrap_or(SEARCH)).collect();
            let undecided = expected.iter().filter(|&&token| token == SEARCH).count() as u32;
            let (tokens, report) = run.encode(&packets, &lookup);
            let differs = (0..packets.len()).find(|&i| tokens[i] != expected[i]);
            assert!(differs.is_none(), "{scaler:?}: {:?}", differs.map(|i| (i, packets[i], tokens[i], expected[i])));
            assert_eq!(report, [u32::MAX, undecided]);
        }
    }
    // A table that knows no size decides nothing.
    let lookup = Lookup::of_sizes(Scaler::Log1pUs, &codebook(2), &[]);
    assert_eq!(run.encode(&packets(100), &lookup), (vec![SEARCH; 100], [u32::MAX, 100]));
}

/// The first packet with an illegal time is named, whichever others there are.
pub(super) fn encode_finds_the_first_illegal_time(run: &dyn Run) {
    let table = Table::new(Scaler::Log1pUs, &codebook(50));
    let lookup = Lookup::of(&table);
    for ipt_us in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0, -f32::from_bits(1), f32::MIN] {
        for first in [0, 31, 32, 1024, 2999] {
            let mut packets = packets(3000);
            (first..3000).step_by(701).for_each(|i| packets[i].ipt_us = ipt_us);
            let undecided = packets.iter().filter(|&&p| !p.is_legal() || table.token(p).is_none()).count() as u32;
            let (_, report) = run.encode(&packets, &lookup);
            assert_eq!(report, [first as u32, undecided], "{ipt_us}");
        }
    }
}

/// Sums are those of the host, bit for bit: where one centroid takes all, where some are empty, where many share a slot of
/// the kernel's cache, and where tokens are no centroid's.
pub(super) fn accumulate_sums_as_the_host(run: &dyn Run, lengths: &[usize]) {
    for (i, &n) in lengths.iter().enumerate() {
        let packets = packets(n);
        let scaler = Scaler::ALL[i % 4];
        let scale = TimeScale::of(scaler);
        for k in [1, 5, 1024, 16_384, 1 << 18] {
            let mut draws = Stream::new(8, k as u64);
            let tokens: Vec<Token> = (0..n)
                .map(|i| match i % 8 {
                    0 => SEARCH,
                    1 => k as Token,
                    2..5 => 0,
                    // Every third is empty, and with many centroids some meet in one slot.
                    _ => (draws.below(k) / 3 * 3) as Token,
                })
                .collect();
            let mut expected = vec![Share::default(); k];
            packets.iter().zip(&tokens).filter(|(_, token)| (**token as usize) < k).for_each(|(&packet, &token)| {
                expected[token as usize].add(&scale, packet);
            });
            let mut shares = vec![Share::default(); k];
            let sums = run.accumulate(&packets, &tokens, k, &scale);
            shares.iter_mut().zip(sums).for_each(|(share, sums)| share.add_sums(sums));
            assert!(shares == expected, "{scaler:?}, {n} packets, {k} centroids");
        }
    }
}

/// Each packet alone in its centroid: its scaled time is the host's, bit for bit.
pub(super) fn scaled_times_are_the_hosts(run: &dyn Run, n: usize) {
    let packets = packets(n);
    let tokens: Vec<Token> = (0..n as Token).collect();
    for scaler in Scaler::ALL {
        let scale = TimeScale::of(scaler);
        for (packet, [count, bytes, time]) in packets.iter().zip(run.accumulate(&packets, &tokens, n, &scale)) {
            let expected = (1, i64::from(packet.size), scale.scaled(packet.ipt_us));
            assert_eq!((count, bytes as i64, time as i64), expected, "{packet:?}");
        }
    }
}

/// The most that a block's sums may hold, at both ends.
pub(super) fn extreme_packets_do_not_overflow(run: &dyn Run, n: usize) {
    for (size, ipt_us, scaler) in [
        (65_535, f32::MAX, Scaler::Log1pUs),
        (-65_535, f32::MAX, Scaler::Log10Ms),
        (-65_535, 1.000_000_1e-5, Scaler::Log10Ms),
    ] {
        let (packet, scale) = (Packet { size, ipt_us }, TimeScale::of(scaler));
        let (n64, n128) = (n as i64, n as i128);
        let [sums] = run.accumulate(&vec![packet; n], &vec![0; n], 1, &scale)[..] else { panic!("one centroid") };
        let time = scale.scaled(ipt_us);
        assert_eq!((sums[0], sums[1] as i64, sums[2] as i64), (n as u64, n64 * i64::from(size), n64 * time));
        let mut moments = Moments::default();
        moments.add_sums(n as u64, run.moments(&vec![packet; n], &scale));
        let square = (n128 * i128::from(size).pow(2)) as f64 / scaler.size_unit().powi(2)
            + (n128 * i128::from(time).pow(2)) as f64 / 2f64.powi(60);
        assert_eq!(moments.sum(scaler), square);
    }
}

/// Sums of squares are those of the host, bit for bit.
pub(super) fn moments_sum_as_the_host(run: &dyn Run, lengths: &[usize]) {
    for &n in lengths {
        let packets = packets(n);
        for scaler in Scaler::ALL {
            let scale = TimeScale::of(scaler);
            let (mut moments, mut expected) = (Moments::default(), Moments::default());
            moments.add_sums(n as u64, run.moments(&packets, &scale));
            packets.iter().for_each(|&packet| expected.add(&scale, packet));
            assert_eq!(moments, expected, "{scaler:?}, {n} packets");
        }
    }
}

/// In f64 the tokens of the codebook, ties and equal centroids included; in f32 a centroid about as near.
pub(super) fn brute_force_finds_the_nearest(run: &dyn Run, lengths: &[usize]) {
    for (&n, k) in lengths.iter().zip([1, 5, 255, 256, 257, 1000].into_iter().cycle()) {
        let mut centroids = codebook(k).centroids().to_vec();
        centroids.push(centroids[k / 2]);
        let codebook = Codebook::new(centroids).unwrap();
        let points: Vec<Point> = packets(n).into_iter().map(|packet| Scaler::Log1pUs.point(packet)).collect();
        let expected: Vec<(Token, f64)> = points.iter().map(|&point| codebook.nearest_with_distance(point)).collect();
        let tokens = run.nearest(&points, &codebook, Precision::F64);
        assert!(tokens.iter().eq(expected.iter().map(|(token, _)| token)), "{n} points, {k} centroids");
        for (i, &token) in run.nearest(&points, &codebook, Precision::F32).iter().enumerate() {
            let ([x, y], [cx, cy]) = (points[i], codebook.centroid(token));
            let distance = (x - cx).powi(2) + (y - cy).powi(2);
            assert!(distance.sqrt() <= expected[i].1.sqrt() * (1.0 + 1e-5) + 1e-5, "{:?}", points[i]);
        }
    }
}
