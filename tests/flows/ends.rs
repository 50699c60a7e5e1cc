//! How flows end: timeouts in packet time, FIN and RST.

use crate::bench::{ACK, Bench, FIN, RST, SECOND, START, SYN, all_told, options, packet, reply, tcp};
use std::time::Duration;
use trafficgpt::flows::{Count, Options, Reason};

#[test]
fn an_idle_flow_ends_at_a_poll_exactly_at_its_time() {
    let mut bench = Bench::new(&options());
    for ms in [0, 10, 500] {
        bench.push(packet(1, ms));
    }
    let over = START + 500_000_000 + 60 * SECOND;
    assert_eq!(bench.poll_at(over - 1), []);
    let verdicts = bench.poll_at(over);
    assert_eq!(all_told(&verdicts), [(1, Reason::Idle, 3, true)]);
    assert_eq!(verdicts[0].last_ns, START + 500_000_000);
    assert_eq!(bench.counts([Count::EndedIdle, Count::Tracked, Count::Due]), [1, 0, 0]);
}

#[test]
fn an_idle_flow_ends_at_its_own_next_packet_which_begins_another() {
    let mut bench = Bench::new(&Options { idle_timeout: Duration::from_millis(100), ..options() });
    for ms in [0, 99, 198, 298, 300] {
        bench.push(packet(1, ms));
    }
    let verdicts = bench.poll_at(START + 300_000_000);
    assert_eq!(all_told(&verdicts), [(1, Reason::Idle, 3, true)]);
    bench.flows.flush();
    let verdicts = bench.poll_at(START + 300_000_000);
    assert_eq!(all_told(&verdicts), [(1, Reason::Flushed, 2, true)]);
    assert_eq!(verdicts[0].start_ns, START + 298_000_000);
    assert_eq!(bench.count(Count::Flows), 2);
}

#[test]
fn a_flow_that_goes_on_ends_at_the_active_timeout() {
    let mut bench = Bench::new(&Options { active_timeout: Some(Duration::from_millis(100)), ..options() });
    for ms in [0, 50, 99, 100, 150] {
        bench.push(packet(1, ms));
    }
    assert_eq!(all_told(&bench.poll_at(START)), [(1, Reason::Active, 3, true)]);
    // The second flow, begun at 100 ms, ends at a poll.
    assert_eq!(bench.poll_at(START + 199_999_999), []);
    assert_eq!(all_told(&bench.poll_at(START + 200_000_000)), [(1, Reason::Active, 2, true)]);
    assert_eq!(bench.count(Count::EndedActive), 2);
}

#[test]
fn fins_of_both_sides_end_a_connection_and_one_does_not() {
    let mut bench = Bench::new(&options());
    let out = |ms, flags| tcp(1, ms, flags);
    let back = |ms, flags| reply(tcp(1, ms, flags));
    bench.flows.push(&[out(0, SYN), back(1, SYN | ACK), out(2, FIN | ACK)]);
    assert_eq!(bench.poll_at(START), []);
    bench.flows.push(&[out(3, FIN | ACK)]);
    assert_eq!(all_told(&bench.poll_at(START)), [(1, Reason::Count, 4, false)], "the same side again");
    bench.flows.push(&[back(4, FIN | ACK)]);
    assert_eq!(all_told(&bench.poll_at(START)), [(1, Reason::TcpEnd, 5, true)]);
    // What trails the connection is part of it.
    bench.flows.push(&[out(5, ACK), back(6, FIN | ACK), out(7, RST)]);
    assert_eq!(bench.poll_at(START + SECOND), []);
    assert_eq!(bench.counts([Count::Flows, Count::Tracked, Count::Final]), [1, 1, 1]);
    // It keeps its place for five seconds.
    bench.poll_at(START + 7_000_000 + 5 * SECOND - 1);
    assert_eq!(bench.count(Count::Tracked), 1);
    bench.poll_at(START + 7_000_000 + 5 * SECOND);
    assert_eq!(bench.counts([Count::Tracked, Count::EndedTcp]), [0, 1]);
}

#[test]
fn a_reset_ends_a_connection_and_a_syn_begins_another() {
    let mut bench = Bench::new(&options());
    bench.flows.push(&[tcp(1, 0, SYN), reply(tcp(1, 1, RST | ACK)), tcp(1, 2, SYN | ACK), reply(tcp(1, 3, SYN))]);
    let verdicts = bench.poll_at(START);
    // Read up to the RST; the SYN with ACK still trails it.
    assert_eq!(all_told(&verdicts), [(1, Reason::TcpEnd, 2, true)]);
    assert_eq!(verdicts[0].n_packets, 3);
    bench.flows.flush();
    bench.poll_at(START);
    assert_eq!(bench.counts([Count::Flows, Count::EndedTcp, Count::TooShort]), [2, 1, 1]);
    // Flags of other protocols mean nothing.
    let mut udp = tcp(2, 0, RST);
    udp.protocol = 17;
    bench.flows.push(&[udp, udp]);
    assert_eq!(bench.poll_at(START), []);
}

#[test]
fn a_connection_reset_while_it_waits_for_a_count_gets_one_verdict() {
    let mut bench = Bench::new(&options());
    for ms in 0..4 {
        bench.push(tcp(1, ms, ACK));
    }
    bench.push(tcp(1, 4, RST));
    assert_eq!(all_told(&bench.poll_at(START)), [(1, Reason::TcpEnd, 5, true)]);
    assert_eq!(bench.poll_at(START), []);
}

#[test]
fn a_flow_that_ends_while_it_waits_gets_one_verdict_on_all_its_packets() {
    let mut bench = Bench::new(&options());
    for ms in 0..5 {
        bench.push(packet(1, ms));
    }
    bench.push(packet(1, 5 + 60_000));
    let verdicts = bench.poll_at(START + 61 * SECOND);
    assert_eq!(all_told(&verdicts), [(1, Reason::Idle, 5, true)]);
    assert_eq!(bench.counts([Count::Tracked, Count::Due]), [1, 0]);
}
