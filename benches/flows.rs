//! Speed of the streaming table: packets pushed per second on one core, microseconds per verdict, bytes per flow.
//!
//! `cargo bench --bench flows [DIRECTORY]` replays the captures of a directory (`examples/captures`, if none is given)
//! in copies that are told apart by their zone, as many as make the number of flows wanted, mixed so that neighbouring
//! packets are of different copies, in an order that changes, and each copy is at another place. Only pushes are timed, in
//! bursts of 64 from a buffer that lies ready; the packets are made between them.
//!
//! - **every token**: flows from their first packet on, the first 32 packets of each made into tokens;
//! - **later packets**: flows that had their verdict: found, timed and counted;
//! - **flood**: a full table, and every packet a new flow that another must give way to.
//!
//! With `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` the tables lie in huge pages, where the system has them on request.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use trafficgpt::classifier::Classifier;
use trafficgpt::config::Settings;
use trafficgpt::context::Context;
use trafficgpt::flows::{Count, Flows, FrameInfo, Observation, Options, Verdict, memory};
use trafficgpt::meter::Tunnel;
use trafficgpt::meter::capture::Capture;
use trafficgpt::meter::frame::{self, Link};

/// Packets that lie ready at once: 8 MiB, more than a core's own caches.
const READY: usize = 1 << 17;

/// Bursts as a network card hands them over.
const BURST: usize = 64;

/// Packets pushed in one measurement, at least.
const AT_LEAST: usize = 20_000_000;

struct Replay {
    packets: Vec<Observation>,
    frames: Vec<(Link, FrameInfo, Vec<u8>)>,
    n_flows: usize,
    lasts_ns: u64,
}

fn load(directory: &Path) -> Replay {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| ["gz", "pcap", "pcapng"].iter().any(|known| end == *known)));
    paths.sort();
    let (mut packets, mut frames) = (Vec::new(), Vec::new());
    for (zone, path) in paths.iter().enumerate() {
        let Ok(mut capture) = Capture::open(path) else { continue };
        let mut start = None;
        while let Some(record) = capture.next_record().unwrap() {
            let Some(link) = record.link.and_then(Link::from_linktype) else { continue };
            let ts_ns = record.ts_ns - *start.get_or_insert(record.ts_ns);
            let captured = record.bytes.len() as u32;
            if let Ok(packet) = frame::parse(link, record.bytes, record.wire_len, Tunnel::Inner) {
                packets.push(Observation { zone: (zone as u32) << 24, ..Observation::of(&packet, ts_ns) });
                let info = FrameInfo { ts_ns, captured, wire_len: record.wire_len };
                frames.push((link, info, record.bytes.to_vec()));
            }
        }
    }
    // All captures at once.
    packets.sort_by_key(|o| o.ts_ns);
    let ends = |o: &Observation| {
        let (a, b) = ((o.src, o.src_port), (o.dst, o.dst_port));
        (a.min(b), a.max(b), o.protocol, o.zone)
    };
    let n_flows = packets.iter().map(ends).collect::<HashSet<_>>().len();
    let lasts_ns = packets.last().map_or(0, |o| o.ts_ns);
    Replay { packets, frames, n_flows, lasts_ns }
}

/// Pushes `total` packets of `1 << copies` copies, round after round; the seconds that the pushes took.
fn push(flows: &mut Flows, replay: &Replay, copies: u32, rounds_before: u64, total: usize) -> f64 {
    let mut ready = vec![Observation::default(); READY];
    let mask = (1u64 << copies) - 1;
    let mut spent = Duration::ZERO;
    let n = replay.packets.len() as u64;
    let mut next = 0u64;
    while (next as usize) < total {
        for o in &mut ready {
            let (step, copy) = (next >> copies, next & mask);
            let copy = shuffled(copy, step, copies);
            // Each copy is somewhere else in the captures, so that neighbours have nothing in common.
            let step = step + (copy.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52);
            *o = replay.packets[(step % n) as usize];
            o.ts_ns += (rounds_before + step / n) * (replay.lasts_ns + 1_000_000) + 1_000_000_000;
            o.zone += copy as u32;
            next += 1;
        }
        let start = Instant::now();
        for burst in ready.chunks(BURST) {
            flows.push(burst);
        }
        spent += start.elapsed();
    }
    spent.as_secs_f64() / next as f64
}

/// Copy `copy` of `1 << bits` in an order of its own for every step: a bijection that leaves no stride to guess.
fn shuffled(copy: u64, step: u64, bits: u32) -> u64 {
    let mask = (1u64 << bits) - 1;
    let odd = (step + 1).wrapping_mul(0x2545_f491_4f6c_dd1d) >> 20 | 1;
    let mut x = copy;
    for _ in 0..2 {
        x ^= x >> bits.div_ceil(2);
        x = x.wrapping_mul(odd).wrapping_add(step) & mask;
    }
    x ^ x >> bits.div_ceil(2)
}

fn report(what: &str, seconds: f64) {
    println!("  {what}: {:.1} M packets/s, {:.1} ns each", 1e-6 / seconds, 1e9 * seconds);
}

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let directory = directory.map_or_else(|| root.join("examples/captures"), PathBuf::from);
    let replay = load(&directory);
    let mut settings = Settings::default();
    settings.set("engine", "native").unwrap();
    let classifier = Classifier::open(&Context::new(settings), &root.join("examples/models/protocols.tgpt")).unwrap();
    println!("{} packets of {} flows in {}", replay.packets.len(), replay.n_flows, directory.display());

    // No verdict while packets are pushed, and no timeout.
    let never = Duration::from_secs(1_000_000);
    let options = Options { min_packets: u32::MAX, idle_timeout: never, active_timeout: None, ..Options::default() };
    for wanted in [1_000, 100_000, 10_000_000] {
        let copies = (wanted as f64 / replay.n_flows.max(1) as f64).max(1.0).log2().round() as u32;
        let max_flows = (replay.n_flows << copies) + (replay.n_flows << copies) / 4;
        println!("{} flows, table for {max_flows}, {:.0} bytes a flow", replay.n_flows << copies, {
            memory(max_flows, 32) as f64 / max_flows as f64
        });
        let once = replay.packets.len() << copies;
        {
            let options = Options { max_flows, ..options.clone() };
            // Small tables are filled again and again.
            let (mut seconds, mut times) = (0.0, 0);
            while times == 0 || once * times < AT_LEAST {
                let mut flows = Flows::new(&classifier, &options, Tunnel::Inner).unwrap();
                seconds += push(&mut flows, &replay, copies, 0, once);
                times += 1;
                let control = flows.control();
                assert_eq!(control.count(Count::Evicted) + control.count(Count::Refused), 0);
            }
            report("every token  ", seconds / times as f64);
        }
        {
            let options = Options { max_flows, counts: vec![1], ..options.clone() };
            let mut flows = Flows::new(&classifier, &options, Tunnel::Inner).unwrap();
            push(&mut flows, &replay, copies, 0, once);
            report("later packets", push(&mut flows, &replay, copies, 1, once.max(AT_LEAST)));
        }
    }

    let mut flows = Flows::new(&classifier, &Options { max_flows: 1 << 20, ..options.clone() }, Tunnel::Inner).unwrap();
    println!("flood of new flows into a full table of {}", 1 << 20);
    for fills in [true, false] {
        let mut spent = Duration::ZERO;
        for chunk in 0..64u64 {
            let new = |i: u64| {
                let (at, id) = (u64::from(!fills) << 32 | chunk << 17 | i, 0x9e37_79b9_7f4a_7c15u64);
                let mut src = [0; 16];
                src[..8].copy_from_slice(&at.wrapping_mul(id).to_le_bytes());
                Observation { ts_ns: at, src, size: 60, protocol: 6, tcp_flags: 2, ..Observation::default() }
            };
            let ready: Vec<Observation> = (0..READY as u64).map(new).collect();
            let start = Instant::now();
            ready.chunks(BURST).for_each(|burst| flows.push(burst));
            spent += start.elapsed();
        }
        if !fills {
            report("single packets", spent.as_secs_f64() / (64 * READY) as f64);
        }
    }
    drop(flows);

    let mut flows = Flows::new(&classifier, &options, Tunnel::Inner).unwrap();
    let (mut n, start) = (0, Instant::now());
    while start.elapsed().as_secs_f64() < 2.0 {
        for burst in replay.frames.chunks(BURST) {
            flows.push_frames(burst[0].0, burst.iter().map(|(_, info, bytes)| (*info, &**bytes)));
            n += burst.len();
        }
    }
    println!("frames of one copy, parsed and pushed: {:.1} M frames/s", n as f64 / start.elapsed().as_secs_f64() / 1e6);

    println!("verdicts of the shipped model, native engine, one thread:");
    for (name, cap) in [("one at a time", 1), ("256 at a time", 256)] {
        let options = Options { confidence: 1.0, ..Options::default() };
        let mut flows = Flows::new(&classifier, &options, Tunnel::Inner).unwrap();
        flows.push(&replay.packets);
        flows.flush();
        let mut out = vec![Verdict::default(); cap];
        flows.poll(None, &mut out).unwrap();
        let (mut n, mut read, start) = (0, 0, Instant::now());
        loop {
            let got = flows.poll(None, &mut out).unwrap();
            n += got;
            read += out[..got].iter().map(|v| usize::from(v.n_read)).sum::<usize>();
            if got < cap {
                break;
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let packets = read as f64 / n as f64;
        println!("  {name}: {:.0} us a verdict on {packets:.1} packets ({n} verdicts)", 1e6 * seconds / n as f64);
    }
}
