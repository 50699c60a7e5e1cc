//! What an attacker or a broken clock can send.

use crate::bench::{Bench, SECOND, START, all_told, options, packet, reply};
use trafficgpt::flows::{Count, Observation, Options, Reason};
use trafficgpt::random::Stream;

/// Flows that talk keep their places while a thousand times as many single packets come.
#[test]
fn a_flood_of_single_packets_displaces_itself() {
    let mut bench = Bench::new(&Options { max_flows: 1000, ..options() });
    for ms in 0..2 {
        for flow in 0..200 {
            bench.push(packet(flow, ms));
        }
    }
    for i in 0..200_000 {
        bench.push(packet(1_000_000 + i, 2 + u64::from(i) / 10));
    }
    for ms in [20_003, 20_004] {
        for flow in 0..200 {
            bench.push(packet(flow, ms));
        }
    }
    let verdicts = bench.poll_at(START + 20 * SECOND);
    assert_eq!(all_told(&verdicts), (0..200).map(|flow| (flow, Reason::Count, 4, false)).collect::<Vec<_>>());
    let counts = [Count::Tracked, Count::Evicted, Count::TooShort, Count::VerdictsLost];
    assert_eq!(bench.counts(counts), [1000, 199_200, 199_200, 0]);
}

/// Times from everywhere, directions, sizes and flags at random: nothing breaks, every flow is accounted for.
#[test]
fn random_packets_leave_nothing_unaccounted() {
    let mut bench = Bench::new(&Options { max_flows: 50, counts: vec![2, 3, 126], min_packets: 2, ..options() });
    let mut draws = Stream::new(3, 3);
    let (mut verdicts, mut finals) = (0, 0);
    for _ in 0..400 {
        let burst: Vec<Observation> = (0..draws.below(200))
            .map(|_| {
                let mut o = packet(draws.below(80) as u32, draws.below(100_000) as u64);
                match draws.below(50) {
                    0 => o.ts_ns = 0,
                    1 => o.ts_ns = u64::MAX,
                    2 => o.ts_ns = draws.below(usize::MAX) as u64,
                    _ => {}
                }
                o.protocol = if draws.below(2) == 0 { 6 } else { 17 };
                o.tcp_flags = draws.below(256) as u8;
                o.size = [0, 40, 1500, 65_535, u32::MAX][draws.below(5)];
                if draws.below(2) == 0 { reply(o) } else { o }
            })
            .collect();
        bench.flows.push(&burst);
        if draws.below(3) == 0 {
            let now = [0, START, START + 50 * SECOND, u64::MAX][draws.below(4)];
            let got = bench.poll_at(now);
            verdicts += got.len() as u64;
            finals += got.iter().filter(|v| v.is_final == 1).count() as u64;
        }
    }
    bench.flows.flush();
    let got = bench.poll_at(START);
    verdicts += got.len() as u64;
    finals += got.iter().filter(|v| v.is_final == 1).count() as u64;
    assert_eq!(bench.counts([Count::Verdicts, Count::Final, Count::Tracked, Count::Due]), [verdicts, finals, 0, 0]);
    let [flows, short, lost] = bench.counts([Count::Flows, Count::TooShort, Count::VerdictsLost]);
    assert_eq!(flows, finals + short + lost);
    let ends = [Count::EndedIdle, Count::EndedActive, Count::EndedTcp, Count::Evicted, Count::Flushed];
    assert_eq!(flows, bench.counts(ends).iter().sum::<u64>());
}

#[test]
fn one_packet_from_the_far_future_ends_no_other_flow() {
    let mut bench = Bench::new(&options());
    for flow in 0..50 {
        bench.flows.push(&[packet(flow, 0), packet(flow, 1)]);
    }
    bench.flows.push(&[packet(99, 10 * 365 * 86_400_000)]);
    let mut out = [Default::default(); 99];
    assert_eq!(bench.flows.poll(None, &mut out).unwrap(), 0);
    assert_eq!(bench.count(Count::Tracked), 51);
    // And the flow that came from there is idle when others are.
    bench.flows.push(&[packet(98, 3), packet(98, 4)]);
    bench.poll_at(START + SECOND);
    bench.poll_at(START + 62 * SECOND);
    assert_eq!(bench.counts([Count::Tracked, Count::EndedIdle]), [0, 52]);
}

#[test]
fn a_clock_that_is_set_back_passes_no_time_and_goes_on() {
    let mut bench = Bench::new(&options());
    let day = 86_400_000;
    bench.flows.push(&[packet(1, day), packet(1, day + 1), packet(1, 0), packet(1, 1), packet(1, day + 3)]);
    assert_eq!(bench.count(Count::Backwards), 2);
    let verdicts = bench.poll_at(START + day * 1_000_000);
    assert_eq!(all_told(&verdicts), [(1, Reason::Count, 4, false)]);
    assert_eq!(verdicts[0].last_ns, packet(1, day + 3).ts_ns);
    // New flows under the earlier clock live and end by it, though the table has seen a later one.
    bench.flows.push(&[packet(2, 10), packet(2, 11)]);
    assert_eq!(bench.poll_at(START + 60 * SECOND), []);
    let ended = bench.poll_at(START + 71 * SECOND);
    assert!(all_told(&ended).contains(&(2, Reason::Idle, 2, true)), "{ended:?}");
}
