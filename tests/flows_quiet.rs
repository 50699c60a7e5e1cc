//! A push allocates nothing: an allocator that counts says so.
#![cfg(feature = "train")]
#![allow(unsafe_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::random_bundle;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;
use trafficgpt::classifier::Classifier;
use trafficgpt::config::Settings;
use trafficgpt::context::Context;
use trafficgpt::flows::{Count, Flows, FrameInfo, Observation, Options, Verdict};
use trafficgpt::meter::Tunnel;
use trafficgpt::meter::frame::Link;
use trafficgpt::random::Stream;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, with the calls of each thread counted.
struct Counting;

fn count() {
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn calls_of(body: impl FnOnce()) -> u64 {
    let before = CALLS.get();
    body();
    CALLS.get() - before
}

#[test]
fn the_count_counts() {
    assert!(calls_of(|| drop(std::hint::black_box(vec![1u8; 10]))) >= 2);
    assert_eq!(calls_of(|| ()), 0);
}

/// Flows that begin, go on, end in every way, are evicted and refused, times that jump, a swap that is taken in between.
#[test]
fn a_push_of_observations_allocates_nothing() {
    let bundle = random_bundle();
    let classifier = Classifier::open(&Context::new(Settings::default()), bundle.path()).unwrap();
    let options = Options { max_flows: 500, idle_timeout: Duration::from_secs(1), ..Options::default() };
    let mut flows = Flows::new(&classifier, &options, Tunnel::Inner).unwrap();
    let mut draws = Stream::new(5, 5);
    let mut out = vec![Verdict::default(); 100];
    for round in 0..200u64 {
        let burst: Vec<Observation> = (0..500)
            .map(|_| Observation {
                ts_ns: (round * 50 + draws.below(100) as u64) * 1_000_000,
                src: [draws.below(3) as u8; 16],
                dst: [7; 16],
                src_port: draws.below(400) as u16,
                protocol: 6,
                tcp_flags: if draws.below(10) == 0 { draws.below(256) as u8 } else { 16 },
                size: draws.below(1500) as u32,
                ..Observation::default()
            })
            .collect();
        assert_eq!(calls_of(|| flows.push(&burst)), 0, "round {round}");
        if round % 5 == 4 {
            flows.poll(None, &mut out).unwrap();
        }
        if round == 100 {
            flows.control().swap(&classifier).unwrap();
        }
    }
    let control = flows.control();
    for seen in [Count::Evicted, Count::EndedIdle, Count::EndedTcp, Count::Final, Count::Swaps, Count::Backwards] {
        assert!(control.count(seen) > 0, "{seen:?}: {}", control.stats());
    }
}

/// IPv4 over Ethernet, whole or a fragment.
fn frame(id: u16, flags_and_offset: u16, source: u8) -> Vec<u8> {
    let mut bytes = vec![2; 12];
    bytes.extend([8, 0, 0x45, 0, 0, 60]);
    bytes.extend(id.to_be_bytes());
    bytes.extend(flags_and_offset.to_be_bytes());
    bytes.extend([64, 17, 0, 0, 10, 0, 0, source, 10, 0, 1, 1]);
    bytes.extend([0x10, 0, 0, 53]);
    bytes.resize(74, 0);
    bytes
}

/// Fragments are remembered in memory that was there from the start, also when they come as a flood.
#[test]
fn a_push_of_frames_allocates_nothing() {
    let bundle = random_bundle();
    let classifier = Classifier::open(&Context::new(Settings::default()), bundle.path()).unwrap();
    let mut flows = Flows::new(&classifier, &Options::default(), Tunnel::Inner).unwrap();
    let mut draws = Stream::new(6, 6);
    for round in 0..300u64 {
        let frames: Vec<Vec<u8>> = (0..200)
            .map(|_| {
                let id = draws.below(60_000) as u16;
                let offset = [0, 0x2000, 0x2010, 0x0020][draws.below(4)];
                frame(id, offset, draws.below(200) as u8)
            })
            .collect();
        let infos = |i: usize| FrameInfo { ts_ns: round * 1_000_000 + i as u64, captured: 74, wire_len: 74 };
        let calls = calls_of(|| {
            flows.push_frames(Link::Ethernet, frames.iter().enumerate().map(|(i, bytes)| (infos(i), &**bytes)));
        });
        assert_eq!(calls, 0, "round {round}");
    }
    assert!(flows.control().count(Count::Skipped) > 1000, "{}", flows.control().stats());
}
