//! A full table: who gives way, and what is counted.

use crate::bench::{Bench, RST, START, all_told, id, options, packet, tcp};
use trafficgpt::flows::{Count, Options, Reason, WhenFull};

fn full_of_pairs(options: &Options, n: u32) -> Bench {
    let mut bench = Bench::new(options);
    for ms in 0..2 {
        for flow in 0..n {
            // Begun in one order, last heard of in another.
            let last = u64::from(if ms == 0 { flow } else { 1000 + (flow * 7) % n });
            bench.push(packet(flow, last));
        }
    }
    bench
}

/// A small table evicts in exact order.
#[test]
fn the_longest_idle_gives_way_and_gets_its_verdict() {
    let n = 10;
    let mut bench = full_of_pairs(&Options { max_flows: n as usize, ..options() }, n);
    // Twice, so that a newcomer is not the first to go.
    let new: Vec<u32> = (100..106).collect();
    for &flow in &new {
        bench.flows.push(&[packet(flow, 2000), packet(flow, 2000)]);
    }
    let verdicts = bench.poll_at(START);
    let mut by_idle: Vec<u32> = (0..n).collect();
    by_idle.sort_by_key(|flow| (flow * 7) % n);
    assert_eq!(verdicts.iter().map(id).collect::<Vec<_>>(), by_idle[..6]);
    assert!(all_told(&verdicts).iter().all(|v| (v.1, v.2, v.3) == (Reason::Evicted, 2, true)));
    let counts = [Count::Evicted, Count::Tracked, Count::VerdictsLost, Count::Refused, Count::Flows];
    assert_eq!(bench.counts(counts), [6, 10, 0, 0, 16]);
}

#[test]
fn a_packet_in_time_saves_a_flow() {
    let mut bench = full_of_pairs(&Options { max_flows: 10, ..options() }, 10);
    bench.push(packet(0, 1500));
    bench.flows.push(&[packet(100, 2000), packet(100, 2000), packet(101, 2000)]);
    // 0 would have been the first; 3 and 6 come next: 3 * 7 % 10 = 1, 6 * 7 % 10 = 2.
    assert_eq!(bench.poll_at(START).iter().map(id).collect::<Vec<_>>(), [3, 6]);
}

#[test]
fn single_packets_and_closed_connections_go_first() {
    let mut bench = full_of_pairs(&Options { max_flows: 10, ..options() }, 8);
    bench.push(tcp(50, 3000, RST));
    bench.push(packet(51, 2900));
    for flow in 100..130 {
        bench.push(packet(flow, 4000));
    }
    assert_eq!(bench.poll_at(START), [], "none of those with two packets went");
    assert_eq!(bench.counts([Count::Evicted, Count::TooShort, Count::Tracked]), [30, 30, 10]);
}

#[test]
fn a_table_that_refuses_keeps_what_it_has() {
    let mut bench = full_of_pairs(&Options { max_flows: 10, when_full: WhenFull::Refuse, ..options() }, 10);
    bench.flows.push(&[packet(100, 2000), packet(100, 2001), packet(3, 2002)]);
    assert_eq!(bench.counts([Count::Refused, Count::Evicted, Count::Flows, Count::Packets]), [2, 0, 10, 23]);
    bench.flows.flush();
    assert_eq!(bench.poll_at(START).len(), 10);
    bench.flows.push(&[packet(100, 2000), packet(100, 2001)]);
    assert_eq!(bench.counts([Count::Refused, Count::Tracked]), [2, 1]);
}

/// A table that nobody polls: flows wait for verdicts in what room there is, then give way without; those that already
/// wait keep their place, and when all do, new flows are refused. Nothing grows, every flow is accounted for.
#[test]
fn a_table_that_is_not_polled_loses_verdicts_and_counts_them() {
    let mut bench = Bench::new(&Options { max_flows: 20, ..options() });
    for flow in 0..500 {
        bench.flows.push(&[packet(flow, u64::from(flow)), packet(flow, u64::from(flow))]);
    }
    let [flows, lost, refused, tracked, due] =
        bench.counts([Count::Flows, Count::VerdictsLost, Count::Refused, Count::Tracked, Count::Due]);
    assert_eq!((flows, refused, tracked), (500, 0, 20));
    assert_eq!((due, lost), (16, 500 - 20 - 16));
    bench.flows.flush();
    let verdicts = bench.poll_at(START);
    assert_eq!(verdicts.len(), 36);
    assert_eq!(bench.counts([Count::Final, Count::Tracked, Count::Due]), [36, 0, 0]);

    // Every place is taken by flows that wait for a count's verdict.
    for flow in 0..40 {
        for ms in 0..4 {
            bench.push(packet(flow, ms));
        }
    }
    let [refused, tracked, due] = bench.counts([Count::Refused, Count::Tracked, Count::Due]);
    assert_eq!((tracked, due), (20, 20));
    assert_eq!(refused, 20 * 4);
    assert_eq!(bench.poll_at(START).len(), 20);
}
