//! The quantizer: encoding, brute force, a fit.

use crate::{LAUNCHES, RUNS, median, timed};

use rayon::prelude::*;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;
use trafficgpt::cuda::brute::{Brute, Precision};
use trafficgpt::cuda::device::Device;
use trafficgpt::cuda::quantizer::{self, Encoder};
use trafficgpt::packet::Packet;
use trafficgpt::quantizer::columns::Columns;
use trafficgpt::quantizer::histogram::Histogram;
use trafficgpt::quantizer::kmeans::{self, Fit, Options, Step};
use trafficgpt::quantizer::{Codebook, Quantizer, Scaler};
use trafficgpt::random::Stream;

const SCALER: Scaler = Scaler::Log1pUs;

/// Packets drawn from one stream of random numbers.
const PART: usize = 1 << 16;

/// Most packets of a launch, and of one for the kernel that compares all centroids.
const BATCH: usize = 1 << 26;
const BRUTE_BATCH: usize = 1 << 20;

/// Packets of the sample that the first codebook is fitted to, for each centroid.
const SAMPLED_EACH: usize = 256;

/// Rows of the table for `n` packets and `k` centroids.
pub fn rows(device: &Arc<Device>, n: usize, k: usize, threads: usize) -> Vec<String> {
    println!("{n} packets, K = {k}, {}, {threads} CPU threads", device.name());
    let packets = packets(n);
    let (start, start_seconds) = timed(|| first_codebook(&packets, k));
    println!("first codebook: {start_seconds:.2} s on the CPU, from a sample");
    let bandwidth = median(RUNS, || device.copy_bandwidth((12 * n.min(BATCH) / 2).max(1 << 16), LAUNCHES).unwrap());
    let mut rows = vec![format!("| copy of device memory | {:.0} GB/s read and written | |", bandwidth / 1e9)];
    let quantizer = Quantizer::new(SCALER, start.clone());
    rows.extend(encode(device, &quantizer, &packets, bandwidth));
    rows.extend(brute(device, &quantizer, &packets));
    rows.extend(fit(device, &packets, &start));
    rows
}

/// Packets as traffic has them: few sizes that most have and all others, times of none to a minute.
fn packets(n: usize) -> Vec<Packet> {
    let mut packets = vec![Packet { size: 0, ipt_us: 0.0 }; n];
    packets.par_chunks_mut(PART).enumerate().for_each(|(stream, part)| {
        let mut draws = Stream::new(11, stream as u64);
        for packet in part {
            let size = match draws.below(8) {
                0..2 => 1500,
                2..4 => 52,
                4 => 40 + draws.below(100) as i32,
                _ => 40 + draws.below(1461) as i32,
            };
            let decades = if draws.below(6) == 0 { 0.0 } else { 7.8 * draws.uniform() };
            let from_client = draws.below(2) == 0;
            *packet = Packet {
                size: if from_client { size } else { -size },
                ipt_us: (10f64.powf(decades) - 1.0).round() as f32,
            };
        }
    });
    packets
}

fn columns(packets: &[Packet]) -> Columns {
    let mut histogram = Histogram::default();
    histogram.add(packets).unwrap();
    Columns::new(histogram, SCALER).unwrap().0
}

fn options(k: usize) -> Options {
    Options { k, ..Options::default() }
}

fn first_codebook(packets: &[Packet], k: usize) -> Codebook {
    let sample = columns(&packets[..packets.len().min(SAMPLED_EACH * k)]);
    kmeans::fit(&sample, None, &options(k.min(sample.len())), &mut |_| ControlFlow::Continue(())).unwrap().codebook
}

/// Encoding packets that lie on the device, from the host's memory, and on the CPU.
fn encode(device: &Arc<Device>, quantizer: &Quantizer, packets: &[Packet], bandwidth: f64) -> Vec<String> {
    let encoder = Encoder::new(device, quantizer).unwrap();
    let resident = &packets[..packets.len().min(BATCH)];
    let mut batch = encoder.upload(resident).unwrap();
    let mut launches = |times: usize| {
        (0..times).for_each(|_| encoder.launch(&mut batch).unwrap());
        device.synchronize().unwrap();
    };
    launches(1);
    let rate = median(RUNS, || (LAUNCHES * resident.len()) as f64 / timed(|| launches(LAUNCHES)).1);

    let [mut tokens, mut expected] = [vec![0; packets.len()], vec![0; packets.len()]];
    let whole = median(3, || packets.len() as f64 / timed(|| encoder.encode(packets, &mut tokens).unwrap()).1);
    let all = median(3, || {
        let parts = packets.par_chunks(PART).zip(expected.par_chunks_mut(PART));
        packets.len() as f64 / timed(|| parts.for_each(|(p, t)| quantizer.encode(p, t).unwrap())).1
    });
    let one = median(3, || packets.len() as f64 / timed(|| quantizer.encode(packets, &mut expected).unwrap()).1);
    let differ = tokens.iter().zip(&expected).filter(|(a, b)| a != b).count();
    let share = 100.0 * rate * 12.0 / bandwidth;
    vec![
        format!("| encode, packets on the device | {:.2} G packets/s | {share:.0}% of 12 bytes a packet |", rate / 1e9),
        format!("| encode, packets and tokens on the host | {:.1} M packets/s | |", whole / 1e6),
        format!("| encode, CPU, one core | {:.1} M packets/s | |", one / 1e6),
        format!("| encode, CPU, all cores | {:.1} M packets/s | |", all / 1e6),
        format!("| tokens of the device that are not the CPU's | {differ} of {} | |", packets.len()),
    ]
}

/// The kernel that compares all centroids.
fn brute(device: &Arc<Device>, quantizer: &Quantizer, packets: &[Packet]) -> Vec<String> {
    let n = packets.len().min(BRUTE_BATCH);
    let points: Vec<_> = packets[..n].iter().map(|&packet| SCALER.point(packet)).collect();
    let measure = |precision| {
        let brute = Brute::new(device, quantizer.codebook(), precision).unwrap();
        let mut batch = brute.upload(&points).unwrap();
        let mut launch = || {
            brute.launch(&mut batch).unwrap();
            device.synchronize().unwrap();
        };
        launch();
        let rate = median(RUNS, || n as f64 / timed(&mut launch).1);
        format!("| brute force in {precision:?}, points on the device | {:.1} M packets/s | |", rate / 1e6)
    };
    [Precision::F32, Precision::F64].map(measure).into()
}

/// Fits from the same codebook to convergence, on the device and on the CPU.
fn fit(device: &Arc<Device>, packets: &[Packet], start: &Codebook) -> Vec<String> {
    let options = options(start.len());
    let mut on_device = quantizer::Packets::new(device);
    let ((), copy) = timed(|| on_device.push(packets).unwrap());
    println!("packets on the device after {copy:.2} s");
    let gpu = iterate(|step| quantizer::fit(&mut on_device, SCALER, start, &options, step).unwrap());
    let (columns, count) = timed(|| columns(packets));
    println!("packets counted on the CPU after {count:.2} s: {} different", columns.len());
    let cpu = iterate(|step| kmeans::fit(&columns, Some(start), &options, step).unwrap());
    let row = |who: &str, before: &str, seconds: f64, (fit, total, each): (Fit, f64, f64)| {
        let Fit { inertia, iterations, .. } = fit;
        format!(
            "| fit, {who} | {:.2} s: {seconds:.2} {before}, {total:.2} in {iterations} iterations of {:.1} ms; inertia {inertia:.1} | |",
            seconds + total,
            1e3 * each
        )
    };
    vec![row("GPU", "checked and copied", copy, gpu), row("CPU", "counted", count, cpu)]
}

/// A fit, its seconds, and the median of those of an iteration.
fn iterate(fit: impl FnOnce(&mut dyn FnMut(Step) -> ControlFlow<()>) -> Fit) -> (Fit, f64, f64) {
    let (mut last, mut each) = (Instant::now(), Vec::new());
    let (fit, total) = timed(|| {
        fit(&mut |_| {
            each.push(last.elapsed().as_secs_f64());
            last = Instant::now();
            ControlFlow::Continue(())
        })
    });
    each.sort_by(f64::total_cmp);
    (fit, total, each[each.len() / 2])
}
