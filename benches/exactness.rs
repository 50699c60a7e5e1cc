//! Tokens beside brute force in f64, for `benches/quantizer.sh`: `QUANTIZER FLOWS N` compares N packets, a quarter of them
//! real, a quarter of any size and time, a quarter at the very times where tokens change, and a quarter at the ends of what
//! a packet can be and between centroids. Exit status 1 if one differs.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use rayon::prelude::*;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;
use trafficgpt::packet::Packet;
use trafficgpt::quantizer::Quantizer;
use trafficgpt::random::Stream;
use trafficgpt::train::packets::{self, Part};
use trafficgpt::train::quantizer_file;

/// Packets that one task makes and compares.
const TASK: usize = 4096;

/// Packets whose distances are taken together, so that a centroid is read once for all of them.
const TOGETHER: usize = 8;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [quantizer, flows, n] = args.as_slice() else {
        println!("exactness: skipped: needs QUANTIZER FLOWS N, as benches/quantizer.sh gives");
        return ExitCode::SUCCESS;
    };
    let quantizer = quantizer_file::read(Path::new(quantizer)).unwrap();
    let mut real: Vec<Packet> = Vec::new();
    packets::stream(&[flows.into()], &[], Part::All, &mut |flow| {
        real.extend(flow);
        Ok(())
    })
    .unwrap();
    for ipt_us in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::MIN_POSITIVE] {
        assert!(quantizer.encode(&[Packet { size: 40, ipt_us }], &mut [0]).is_err(), "{ipt_us} is no time");
    }

    let begin = Instant::now();
    let n: usize = n.parse().unwrap();
    let differing: usize = (0..n.div_ceil(TASK))
        .into_par_iter()
        .map(|task| {
            let packets = some_packets(&quantizer, &real, task as u64);
            let mut tokens = vec![0; TASK];
            quantizer.encode(&packets, &mut tokens).unwrap();
            let expected = packets.chunks(TOGETHER).flat_map(|some| nearest(&quantizer, some));
            expected.zip(&tokens).filter(|(expected, token)| expected != *token).count()
        })
        .sum();
    let compared = n.div_ceil(TASK) * TASK;
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "differ    {differing} of {compared} from brute force in f64 ({seconds:.0} s), K = {}",
        quantizer.n_tokens()
    );
    if differing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn some_packets(quantizer: &Quantizer, real: &[Packet], task: u64) -> Vec<Packet> {
    let mut draws = Stream::new(11, task);
    let mut packets = Vec::with_capacity(TASK + 5);
    while packets.len() < TASK {
        packets.push(real[draws.below(real.len())]);
        let any = Packet { size: draws.below(131_071) as i32 - 65_535, ipt_us: any_time(&mut draws) };
        packets.push(any);
        packets.push(extreme(quantizer, &mut draws));
        let of = if draws.below(2) == 0 { any } else { real[draws.below(real.len())] };
        let step = step(quantizer, of.size, any_time(&mut draws), any_time(&mut draws));
        let off = draws.below(5) as u32;
        let bits = (step.to_bits() + off).saturating_sub(2).min(f32::MAX.to_bits());
        packets.push(Packet { size: of.size, ipt_us: f32::from_bits(bits) });
    }
    packets.truncate(TASK);
    packets
}

/// Half of these go by the bits, which is every order of magnitude alike; half are times that traffic has.
fn any_time(draws: &mut Stream) -> f32 {
    match draws.below(2) {
        0 => f32::from_bits(draws.below(f32::MAX.to_bits() as usize) as u32),
        _ => 10f64.powf(9.0 * draws.uniform() - 1.0) as f32,
    }
}

/// A packet at an end of what there is, on a centroid, or half way between two.
fn extreme(quantizer: &Quantizer, draws: &mut Stream) -> Packet {
    let sizes = [-65_535, -1500, -1, 0, 1, 40, 1500, 65_535];
    let times = [0.0, -0.0, f32::from_bits(1), f32::MIN_POSITIVE, 1e-5, 1.0, 6e7, 1e30, f32::MAX];
    if draws.below(2) == 0 {
        return Packet { size: sizes[draws.below(sizes.len())], ipt_us: times[draws.below(times.len())] };
    }
    let k = quantizer.n_tokens();
    let a = draws.below(k);
    // Centroids are in order of size and time, so the next one is often a neighbour.
    let b = if draws.below(3) == 0 { a } else { (a + 1).min(k - 1) };
    let mut pair = [Packet { size: 0, ipt_us: 0.0 }; 2];
    quantizer.decode(&[a as u32, b as u32], &mut pair).unwrap();
    let [a, b] = pair;
    Packet { size: (a.size + b.size) / 2, ipt_us: (a.ipt_us * b.ipt_us).sqrt() }
}

/// A time between `a` and `b` at which the token of packets of this size changes; `a` if both have the same.
fn step(quantizer: &Quantizer, size: i32, a: f32, b: f32) -> f32 {
    let token = |bits: u32| {
        let mut token = [0];
        quantizer.encode(&[Packet { size, ipt_us: f32::from_bits(bits) }], &mut token).unwrap();
        token[0]
    };
    let (mut low, mut high) = (a.min(b).to_bits(), a.max(b).to_bits());
    let of_low = token(low);
    if of_low == token(high) {
        return a;
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if token(middle) == of_low {
            low = middle;
        } else {
            high = middle;
        }
    }
    f32::from_bits(high)
}

/// The nearest centroids of at most [`TOGETHER`] packets by all distances in f64, the first of equally near ones.
fn nearest(quantizer: &Quantizer, packets: &[Packet]) -> Vec<u32> {
    let mut points = [[0.0; 2]; TOGETHER];
    points.iter_mut().zip(packets).for_each(|(point, packet)| *point = quantizer.scaler().point(*packet));
    let centroids = quantizer.codebook().centroids();
    let best = pulp::Arch::new().dispatch(
        #[inline(always)]
        || {
            let mut best = [(f64::INFINITY, 0u64); TOGETHER];
            for (i, &[x, y]) in centroids.iter().enumerate() {
                let (x, y) = (f64::from(x), f64::from(y));
                for (best, point) in best.iter_mut().zip(&points) {
                    let (dx, dy) = (point[0] - x, point[1] - y);
                    let distance = dx * dx + dy * dy;
                    *best = if distance < best.0 { (distance, i as u64) } else { *best };
                }
            }
            best
        },
    );
    best.iter().take(packets.len()).map(|best| best.1 as u32).collect()
}
