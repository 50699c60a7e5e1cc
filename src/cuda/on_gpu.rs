//! Every kernel on a GPU, against the CPU. Without one these tests say so and pass.
#![allow(clippy::print_stdout, reason = "says why a test was skipped")]

use super::brute::{self, Brute};
use super::checks::{self, Run};
use super::device::Device;
use super::fixed::TimeScale;
use super::gpt2::checks::{self as network, RunKernel, Value};
use super::gpt2::{Arg, Buffer, launch};

use super::module::Kernel;
use super::quantizer::encoder::{EncodeKernel, Report};
use super::quantizer::lookup::Lookup;
use super::quantizer::{Encoder, Packets, fit};
use super::sums::{Accumulate, SumSquares};
use crate::backend::packed::Precision;
use crate::error::Kind;
use crate::packet::Packet;
use crate::quantizer::columns::Columns;
use crate::quantizer::histogram::Histogram;
use crate::quantizer::kmeans::{self, Options};
use crate::quantizer::scaler::Point;
use crate::quantizer::{Codebook, Quantizer, Scaler};
use crate::random::Stream;
use crate::tokens::Token;
use cudarc::driver::CudaSlice;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Odd lengths, the last of which fills many blocks; a few where each takes long: on the driver that runs on the CPU
/// (`on_cpu`), and under a sanitizer, whose user sets TRAFFICGPT_SMALL.
fn lengths(device: &Device) -> [usize; 6] {
    let small = device.name() == "CPU" || std::env::var_os("TRAFFICGPT_SMALL").is_some();
    let most = if small { 5_007 } else { 1_000_007 };
    [1, 31, 33, 1025, 16_385, most]
}

pub(super) fn gpu() -> Option<Arc<Device>> {
    match Device::open(0) {
        Err(error) if error.kind() == Kind::NoRuntime => {
            println!("skipped: {error}");
            None
        }
        // A GPU that is there must work.
        device => Some(device.unwrap()),
    }
}

pub(super) struct OnGpu(pub(super) Arc<Device>);

impl OnGpu {
    fn upload(&self, packets: &[Packet]) -> CudaSlice<u32> {
        self.0.run("test", |stream| stream.clone_htod::<u32, _>(bytemuck::cast_slice(packets))).unwrap()
    }
}

impl Run for OnGpu {
    fn encode(&self, packets: &[Packet], lookup: &Lookup) -> (Vec<Token>, [u32; 2]) {
        let (device, n) = (&self.0, packets.len());
        let lookup = lookup.upload(device).unwrap();
        let packets = self.upload(packets);
        let mut tokens = device.run("test", |stream| stream.clone_htod(&vec![77u32; n])).unwrap();
        let mut report = device.run("test", |stream| stream.alloc_zeros(2)).unwrap();
        EncodeKernel::load(device).unwrap().launch(device, &packets, n, &lookup, &mut tokens, &mut report).unwrap();
        let Report { first_illegal, undecided } = Report::read(device, &report).unwrap();
        let tokens = device.run("test", |stream| stream.clone_dtoh(&tokens)).unwrap();
        device.synchronize().unwrap();
        (tokens, [first_illegal.map_or(u32::MAX, |i| i as u32), undecided as u32])
    }

    fn accumulate(&self, packets: &[Packet], tokens: &[Token], k: usize, scale: &TimeScale) -> Vec<[u64; 3]> {
        let device = &self.0;
        let tokens = device.run("test", |stream| stream.clone_htod(tokens)).unwrap();
        let n = packets.len();
        Accumulate::load(device).unwrap().run(device, &self.upload(packets), &tokens, n, k, scale).unwrap()
    }

    fn moments(&self, packets: &[Packet], scale: &TimeScale) -> [u64; 5] {
        SumSquares::load(&self.0).unwrap().run(&self.0, &self.upload(packets), packets.len(), scale).unwrap()
    }

    fn nearest(&self, points: &[Point], codebook: &Codebook, precision: brute::Precision) -> Vec<Token> {
        let brute = Brute::new(&self.0, codebook, precision).unwrap();
        let mut batch = brute.upload(points).unwrap();
        brute.launch(&mut batch).unwrap();
        brute.tokens(&batch).unwrap()
    }
}

impl RunKernel for OnGpu {
    fn run(&self, kernel: Kernel, blocks: usize, values: &mut [Value<'_>]) {
        let device = &self.0;
        let mut buffers = Vec::new();
        let mut arguments = Vec::new();
        for value in values.iter() {
            let bytes: Option<&[u8]> = match value {
                Value::In(bytes) => Some(bytes),
                Value::Out(bytes) => Some(bytes),
                _ => None,
            };
            let buffer = bytes.map(|bytes| Buffer::of(device, bytes, "test").unwrap());
            arguments.push(match (value, &buffer) {
                (_, Some(buffer)) => Arg::Address(buffer.begin()),
                (Value::F32(v), _) => Arg::F32(*v),
                (Value::U32(v), _) => Arg::U32(*v as u32),
                _ => unreachable!(),
            });
            buffers.push(buffer);
        }
        launch(device, "test", &kernel.load(device).unwrap(), blocks, &arguments).unwrap();
        for (value, buffer) in values.iter_mut().zip(&buffers) {
            if let (Value::Out(bytes), Some(buffer)) = (value, buffer) {
                buffer.read(device, bytes.as_mut_slice(), "test").unwrap();
            }
        }
    }
}

#[test]
fn the_networks_kernels() {
    let Some(run) = gpu().map(OnGpu) else { return };
    let small = lengths(&run.0)[5] < 10_000;
    network::rows_are_embedded_and_normalised(&run);
    network::sequences_are_pooled(&run);
    network::sequences_attend(&run, if small { &[1, 9] } else { &[1, 2, 5, 33, 128, 40, 127] });
    network::flows_attend_to_their_caches(&run);
    for (packets, rows) in if small { [(33, 4), (70, 3)] } else { [(31, 500), (9902, 300)] } {
        network::tokens_are_drawn_by_the_rule(&run, packets, rows);
    }
    let most = if small { 2 } else { 5 };
    let of_f32 = [[1, 1, 1], [65, 70, 33], [64, 64, 16], [130, 67, 40], [1000, 1539, 513]];
    network::matrices_are_multiplied(&run, Precision::F32, &of_f32[..most]);
    let of_bf16 = [[1, 8, 8], [5, 3, 16], [129, 136, 72], [70, 201, 168], [1000, 1544, 520]];
    network::matrices_are_multiplied(&run, Precision::Bf16, &of_bf16[..most]);
}

#[test]
fn encode() {
    let Some(run) = gpu().map(OnGpu) else { return };
    checks::encode_gives_the_tokens_of_the_table(&run, &lengths(&run.0));
    checks::encode_finds_the_first_illegal_time(&run);
}

#[test]
fn accumulate_and_moments() {
    let Some(run) = gpu().map(OnGpu) else { return };
    checks::accumulate_sums_as_the_host(&run, &lengths(&run.0));
    checks::scaled_times_are_the_hosts(&run, lengths(&run.0)[5]);
    checks::extreme_packets_do_not_overflow(&run, 3 << 14);
    checks::moments_sum_as_the_host(&run, &lengths(&run.0));
}

#[test]
fn the_bandwidth_of_copies_is_measured() {
    let Some(device) = gpu() else { return };
    let measured = device.copy_bandwidth(1 << 20, 3).unwrap();
    assert!(measured.is_finite() && measured > 1e6, "{measured} bytes/s");
    assert_eq!(device.copy_bandwidth(0, 1).unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn nearest_brute() {
    let Some(run) = gpu().map(OnGpu) else { return };
    checks::brute_force_finds_the_nearest(&run, &[1, 31, 33, 1025, 3001, 16_385]);
}

#[test]
fn the_encoder_gives_the_tokens_of_the_quantizer_whole_and_in_batches() {
    let Some(device) = gpu() else { return };
    for scaler in [Scaler::Log1pUs, Scaler::Log10Ms] {
        let quantizer = Quantizer::new(scaler, checks::codebook(3000));
        for n in [0].into_iter().chain(lengths(&device)) {
            let mut packets = checks::packets(n);
            // No column has these sizes, so the host decides.
            packets.iter_mut().step_by(97).for_each(|packet| packet.size *= 3);
            let mut expected = vec![0; n];
            quantizer.encode(&packets, &mut expected).unwrap();
            for budget in [0, 1 << 20, usize::MAX] {
                let mut tokens = vec![77; n];
                let encoder = Encoder::new(&device, &quantizer).unwrap().with_budget(budget);
                encoder.encode(&packets, &mut tokens).unwrap();
                assert!(tokens == expected, "{scaler:?}, {n} packets, {budget} bytes");
            }
        }
    }
}

#[test]
fn the_encoder_refuses_illegal_times_and_writes_nothing() {
    let Some(device) = gpu() else { return };
    let quantizer = Quantizer::new(Scaler::Log1pUs, checks::codebook(30));
    let mut packets = checks::packets(5000);
    packets[4321].ipt_us = f32::NAN;
    packets[4999].ipt_us = -1.0;
    for budget in [0, usize::MAX] {
        let mut tokens = vec![77; 5000];
        let encoder = Encoder::new(&device, &quantizer).unwrap().with_budget(budget);
        let error = encoder.encode(&packets, &mut tokens).unwrap_err();
        assert!(error.kind() == Kind::Invalid && error.message().contains("packet 4321"), "{error}");
        assert!(tokens.iter().all(|&token| token == 77));
        assert_eq!(encoder.encode(&packets, &mut tokens[1..]).unwrap_err().kind(), Kind::Invalid);
    }
}

#[test]
fn threads_share_an_encoder() {
    let Some(device) = gpu() else { return };
    let quantizer = Quantizer::new(Scaler::Log1pUs, checks::codebook(500));
    let encoder = Encoder::new(&device, &quantizer).unwrap();
    let most = lengths(&device)[5];
    std::thread::scope(|scope| {
        for n in 1..9 {
            let (encoder, quantizer) = (&encoder, &quantizer);
            scope.spawn(move || {
                let packets = checks::packets(n * most / 8);
                let [mut tokens, mut expected] = [vec![0; packets.len()], vec![0; packets.len()]];
                quantizer.encode(&packets, &mut expected).unwrap();
                for _ in 0..5 {
                    encoder.encode(&packets, &mut tokens).unwrap();
                    assert!(tokens == expected);
                }
            });
        }
    });
}

#[test]
fn a_fit_goes_where_the_cpus_goes() {
    let Some(device) = gpu() else { return };
    let go_on = &mut |_| ControlFlow::Continue(());
    for scaler in [Scaler::Log1pUs, Scaler::Log10Ms] {
        let mut draws = Stream::new(5, 0);
        let n = lengths(&device)[5];
        let packets: Vec<Packet> = (0..n)
            .map(|_| {
                let size = [52, -1500, 1500, -52, 600][draws.below(5)] + draws.below(30) as i32;
                Packet { size, ipt_us: 10f64.powf(1.0 + 6.0 * draws.uniform()).round() as f32 }
            })
            .collect();
        let start: Vec<[f32; 2]> =
            packets.iter().step_by(n / 100).map(|&p| scaler.point(p).map(|v| v as f32)).collect();
        let start = Codebook::new(start).unwrap();
        let options = Options { k: start.len(), tolerance: 1e-3, ..Options::default() };
        let mut histogram = Histogram::default();
        histogram.add(&packets).unwrap();
        let (columns, _) = Columns::new(histogram, scaler).unwrap();
        let cpu = kmeans::fit(&columns, Some(&start), &options, go_on).unwrap();
        let mut on_device = Packets::new(&device);
        packets.chunks(999).for_each(|piece| on_device.push(piece).unwrap());
        let gpu = fit(&mut on_device, scaler, &start, &options, go_on).unwrap();
        assert!(gpu.converged && gpu.codebook.len() == start.len());
        assert!((gpu.inertia / cpu.inertia - 1.0).abs() < 1e-3, "{} {}", gpu.inertia, cpu.inertia);
        // Again, in another order: the same bits.
        let mut again = Packets::new(&device);
        packets.rchunks(701).for_each(|piece| again.push(piece).unwrap());
        let second = fit(&mut again, scaler, &start, &options, go_on).unwrap();
        assert_eq!(second.codebook.centroids(), gpu.codebook.centroids());
        assert_eq!(second.inertia, gpu.inertia);
    }
}
