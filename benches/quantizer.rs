//! Encoding and fitting, for `benches/quantizer.sh`: `QUANTIZER FLOWS N` gives packets a second on one core and the seconds
//! of an iteration of K-means.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;
use trafficgpt::packet::Packet;
use trafficgpt::quantizer::Quantizer;
use trafficgpt::quantizer::columns::Columns;
use trafficgpt::quantizer::histogram::Histogram;
use trafficgpt::quantizer::kmeans::{self, Options, Step};
use trafficgpt::train::packets::{self, Part};
use trafficgpt::train::quantizer_file;

/// Runs of the encoder; the median counts.
const RUNS: usize = 9;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [quantizer, flows, n] = args.as_slice() else {
        println!("quantizer: skipped: needs QUANTIZER FLOWS N, as benches/quantizer.sh gives");
        return;
    };
    let quantizer = quantizer_file::read(Path::new(quantizer)).unwrap();
    let mut packets: Vec<Packet> = Vec::new();
    packets::stream(&[flows.into()], &[], Part::All, &mut |flow| {
        packets.extend(flow);
        Ok(())
    })
    .unwrap();
    let n: usize = n.parse().unwrap();
    let real = packets.len();
    packets = (0..n).map(|i| packets[i % real]).collect();

    let begin = Instant::now();
    let again = Quantizer::new(quantizer.scaler(), quantizer.codebook().clone());
    let mib = again.table_bytes() as f64 / f64::from(1 << 20);
    println!("table     {:.3} s to build, {mib:.1} MiB, K = {}", begin.elapsed().as_secs_f64(), again.n_tokens());

    let mut tokens = vec![0; n];
    let mut rates: Vec<f64> = (0..RUNS)
        .map(|_| {
            let begin = Instant::now();
            quantizer.encode(&packets, &mut tokens).unwrap();
            n as f64 / begin.elapsed().as_secs_f64() / 1e6
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    println!("encode    {:.1} M packets/s [{:.1}, {:.1}]", rates[RUNS / 2], rates[0], rates[RUNS - 1]);

    let mut histogram = Histogram::default();
    histogram.add(&packets).unwrap();
    let begin = Instant::now();
    let (columns, _) = Columns::new(histogram, quantizer.scaler()).unwrap();
    println!("columns   {:.2} s for {n} packets, {} of them different", begin.elapsed().as_secs_f64(), columns.len());
    let options = Options { k: quantizer.n_tokens(), max_iterations: 20, tolerance: 0.0, ..Options::default() };
    let (mut last, mut times, mut inertia) = (Instant::now(), Vec::new(), 0.0);
    kmeans::fit(&columns, Some(quantizer.codebook()), &options, &mut |step| {
        if let Step::Iteration(now) = step {
            times.push(last.elapsed().as_secs_f64());
            (last, inertia) = (Instant::now(), now);
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    times.sort_by(f64::total_cmp);
    println!("iteration {:.4} s, inertia {inertia:.4}", times[times.len() / 2]);
}
