//! From the packets to the flows.

use std::time::Duration;

use trafficgpt::meter::{Flow, Options};
use trafficgpt::{Error, Kind};

use super::build::*;
use super::{SECOND, key, meter, only, sizes, times, try_meter};

/// Packets of one flow: (time in ms, size; negative from the server).
fn exchange(packets: &[(u64, i32)]) -> Vec<u8> {
    packets.iter().fold(Pcap::new(101), |capture, &(ms, size)| capture.record(ms * 1_000_000, &segment(size))).bytes
}

fn segment(size: i32) -> Vec<u8> {
    let payload = vec![0; size.unsigned_abs() as usize - 40];
    if size > 0 {
        V4::new(TCP).build(&tcp(1000, 80, 0x10, &payload))
    } else {
        V4::back(TCP).build(&tcp(80, 1000, 0x10, &payload))
    }
}

/// One packet of the flow from `port`.
fn from(port: u16) -> Vec<u8> {
    ipv4(UDP, &udp(port, 53, &[]))
}

fn ports(flows: &[Flow]) -> Vec<u16> {
    flows.iter().map(|flow| flow.key.client_port).collect()
}

#[test]
fn the_first_sender_is_the_client() {
    let flow = only(&exchange(&[(0, 60), (10, -52), (11, 40), (11, -1500)]));
    assert_eq!((flow.key, sizes(&flow)), (key(), vec![60, -52, 40, -1500]));
    assert_eq!(times(&flow), [0.0, 10_000.0, 1000.0, 0.0]);
    let flow = only(&exchange(&[(0, -60), (10, 52)]));
    assert_eq!((flow.key.client, flow.key.client_port), (server(), 80));
    assert_eq!(sizes(&flow), [60, -52]);
}

#[test]
fn same_addresses_are_told_by_ports_and_same_ends_go_one_way() {
    let local = |src, dst| V4 { dst: CLIENT, ..V4::new(UDP) }.build(&udp(src, dst, &[]));
    let flow = only(&Pcap::new(101).record(0, &local(9, 7)).record(0, &local(7, 9)).bytes);
    assert_eq!((flow.key.client_port, sizes(&flow)), (9, vec![28, -28]));
    let flow = only(&Pcap::new(101).record(0, &local(7, 7)).record(0, &local(7, 7)).bytes);
    assert_eq!(sizes(&flow), [28, 28]);
}

#[test]
fn packets_past_the_limit_are_only_counted() {
    let capture = exchange(&(0..200).map(|i| (i, 40)).collect::<Vec<_>>());
    let flow = only(&capture);
    assert_eq!((flow.packets.len(), flow.n_packets, flow.end_ns), (126, 200, 199_000_000));
    let (flows, _) = try_meter(&capture, &Options { n_packets: 3, ..Options::default() }).unwrap();
    assert_eq!((flows[0].packets.len(), flows[0].n_packets), (3, 200));
}

#[test]
fn an_idle_flow_ends_when_the_timeout_is_reached() {
    let gap = |ms| meter(&exchange(&[(0, 40), (ms, 40)])).0.len();
    assert_eq!((gap(59_999), gap(60_000)), (1, 2));
    let (flows, _) = meter(&exchange(&[(0, 40), (1, -50), (61_000, -60), (61_001, 70)]));
    assert_eq!(flows[1].key.client, server(), "the new flow has the client that begins it");
    assert_eq!(sizes(&flows[1]), [60, -70]);
    assert_eq!(times(&flows[1]), [0.0, 1000.0]);
}

#[test]
fn another_flows_packet_is_a_clock_too() {
    let capture = Pcap::new(101)
        .record(0, &from(1))
        .record(60 * SECOND, &from(2))
        // Behind the clock: the first flow has ended all the same.
        .record(10 * SECOND, &from(1));
    let (flows, _) = meter(&capture.bytes);
    assert_eq!(ports(&flows), [1, 1, 2]);
}

#[test]
fn an_active_flow_ends_when_its_timeout_is_reached() {
    let options = Options { active_timeout: Some(Duration::from_secs(10)), ..Options::default() };
    let (flows, _) = try_meter(&exchange(&[(0, 40), (9_999, 50), (10_000, -60), (15_000, 70)]), &options).unwrap();
    assert_eq!(flows.iter().map(sizes).collect::<Vec<_>>(), [vec![40, 50], vec![60, -70]]);
    assert_eq!(times(&flows[1]), [0.0, 5_000_000.0]);
}

#[test]
fn fin_and_rst_end_nothing() {
    let with = |flags| ipv4(TCP, &tcp(1000, 80, flags, &[]));
    let capture = [0x02, 0x11, 0x04, 0x02].iter().fold(Pcap::new(101), |c, &flags| c.record(0, &with(flags)));
    assert_eq!(only(&capture.bytes).n_packets, 4);
}

#[test]
fn a_clock_that_runs_backwards_passes_no_time() {
    let flow = only(&exchange(&[(100_000, 40), (1, 41), (100_010, 42), (100_009, 43), (100_012, 44)]));
    assert_eq!(times(&flow), [0.0, 0.0, 10_000.0, 0.0, 2000.0]);
    assert_eq!((flow.start_ns, flow.end_ns), (100 * SECOND, 100 * SECOND + 12_000_000));
    assert_eq!(times(&flow).iter().sum::<f32>(), 12_000.0, "times add up to the duration");
}

#[test]
fn flows_leave_in_the_order_of_their_ends() {
    let capture = Pcap::new(101)
        .record(SECOND, &from(3))
        .record(2 * SECOND, &from(2))
        .record(3 * SECOND, &from(1))
        .record(4 * SECOND, &from(4))
        .record(5 * SECOND, &from(3))
        .record(5 * SECOND, &from(1))
        .record(5 * SECOND, &from(2));
    let (flows, _) = meter(&capture.bytes);
    assert_eq!(ports(&flows), [4, 3, 2, 1], "equal ends by start");
    assert_eq!(
        meter(&capture.record(100 * SECOND, &from(9)).bytes).0[..4],
        flows[..],
        "also when they end by the clock"
    );
}

#[test]
fn where_there_is_no_room_the_longest_idle_leaves() {
    let options = Options { max_flows: 2, ..Options::default() };
    let capture = Pcap::new(101)
        .record(1000, &from(1))
        .record(2000, &from(2))
        .record(3000, &from(1))
        .record(4000, &from(3))
        .record(5000, &from(2))
        .record(6000, &from(1));
    let (flows, summary) = try_meter(&capture.bytes, &options).unwrap();
    assert_eq!(ports(&flows), [2, 1, 3, 2, 1][..], "2 made room for 3, 1 for 2, 3 for 1");
    assert_eq!(summary.evicted, 3);
    let (flows, summary) = try_meter(&capture.bytes, &Options { max_flows: 1, ..Options::default() }).unwrap();
    assert_eq!((flows.len(), summary.evicted), (6, 5));
}

#[test]
fn many_flows_come_and_go() {
    // Each of 5000 flows sends at i and i + 30 s; ends shuffle through the table.
    let mut packets: Vec<(u64, u16)> =
        (0..5000u64).flat_map(|i| [(i * 100_000_000, i as u16), (i * 100_000_000 + 30 * SECOND, i as u16)]).collect();
    packets.sort_unstable();
    let capture = packets.iter().fold(Pcap::of(101, false, true), |c, &(ns, port)| c.record(ns, &from(port)));
    let (flows, summary) = meter(&capture.bytes);
    assert_eq!((flows.len(), summary.evicted), (5000, 0));
    assert!(flows.iter().all(|flow| flow.n_packets == 2 && times(flow) == [0.0, 30_000_000.0]));
    assert!(flows.windows(2).all(|pair| pair[0].end_ns < pair[1].end_ns));
}

#[test]
fn options_out_of_range_are_refused() {
    let good = Options::default();
    for (options, name) in [
        (Options { idle_timeout: Duration::ZERO, ..good.clone() }, "idle_timeout"),
        (Options { active_timeout: Some(Duration::ZERO), ..good.clone() }, "active_timeout"),
        (Options { n_packets: 0, ..good.clone() }, "n_packets"),
        (Options { max_flows: 0, ..good.clone() }, "max_flows"),
    ] {
        let error = try_meter(&Pcap::new(1).bytes, &options).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.message().contains(name), "{error}");
    }
    let huge =
        Options { idle_timeout: Duration::MAX, active_timeout: Some(Duration::MAX), max_flows: usize::MAX, ..good };
    assert_eq!(try_meter(&exchange(&[(0, 40), (99_000_000, 40)]), &huge).unwrap().0.len(), 1);
}

#[test]
fn an_error_of_the_sink_stops_the_metering() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), Pcap::new(101).record(0, &from(1)).record(0, &from(2)).bytes).unwrap();
    let mut calls = 0;
    let error = trafficgpt::meter::meter_file(file.path(), &Options::default(), &mut |_| {
        calls += 1;
        Err(Error::new(Kind::NoSpace, "full"))
    });
    assert_eq!((error.unwrap_err().kind(), calls), (Kind::NoSpace, 1));
}
