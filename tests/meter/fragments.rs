//! Fragments and the flow of the packet they are pieces of.

use trafficgpt::meter::frame::Skip;

use super::build::*;
use super::{SECOND, key, meter, only, sizes, times};

/// The pieces of one datagram of 8 + 32 bytes: the first with the ports, two without.
fn pieces(id: u16) -> [Vec<u8>; 3] {
    let datagram = udp(1000, 80, &[7; 32]);
    let piece =
        |from: usize, to: usize| V4::new(UDP).fragment(id, from as u16, to < datagram.len()).build(&datagram[from..to]);
    [piece(0, 16), piece(16, 32), piece(32, 40)]
}

fn capture<'a>(packets: impl IntoIterator<Item = (u64, &'a Vec<u8>)>) -> Vec<u8> {
    packets.into_iter().fold(Pcap::new(101), |capture, (ns, packet)| capture.record(ns, packet)).bytes
}

#[test]
fn later_fragments_join_the_flow_of_the_first() {
    let [a, b, c] = pieces(1);
    let flow = only(&capture([(0, &a), (1000, &b), (2000, &c)]));
    assert_eq!((flow.key.client_port, flow.key.server_port), (1000, 80));
    assert_eq!((sizes(&flow), times(&flow)), (vec![36, 36, 28], vec![0.0, 1.0, 1.0]));
}

#[test]
fn fragments_that_overtook_the_first_wait_for_it() {
    let [a, b, c] = pieces(1);
    let flow = only(&capture([(0, &c), (1000, &b), (2000, &a)]));
    assert_eq!((sizes(&flow), times(&flow)), (vec![28, 36, 36], vec![0.0, 1.0, 1.0]));
    assert_eq!(flow.key.client, client());
}

#[test]
fn fragments_of_ipv6_join_too() {
    let datagram = udp(1000, 80, &[7; 32]);
    let first = ipv6(44, &join(&[&fragment6(UDP, 9, 0, true), &datagram[..16]]));
    let second = ipv6(44, &join(&[&fragment6(60, 9, 16, false), &datagram[16..]]));
    let flow = only(&capture([(0, &first), (0, &second)]));
    assert_eq!((flow.key.client_port, sizes(&flow)), (1000, vec![64, 72]));
}

#[test]
fn fragments_of_other_packets_are_told_apart() {
    let [a, b, _] = pieces(1);
    let [_, other_id, _] = pieces(2);
    let other_protocol = V4::new(TCP).fragment(1, 16, true).build(&[0; 8]);
    let other_sender = V4::back(UDP).fragment(1, 16, true).build(&[0; 8]);
    let (flows, summary) =
        meter(&capture([(0, &a), (0, &other_id), (0, &other_protocol), (0, &other_sender), (0, &b)]));
    assert_eq!((flows.len(), flows[0].n_packets, summary.skipped.count(Skip::LoneFragment)), (1, 2, 3));
}

#[test]
fn an_identification_used_again_is_the_newer_packets() {
    let [a, b, _] = pieces(1);
    let again = V4::new(UDP).fragment(1, 0, true).build(&udp(2000, 80, &[0; 8]));
    let (flows, _) = meter(&capture([(0, &a), (0, &b), (1000, &again), (2000, &b)]));
    assert_eq!(flows.iter().map(|f| (f.key.client_port, f.n_packets)).collect::<Vec<_>>(), [(1000, 2), (2000, 2)]);
}

#[test]
fn a_first_fragment_is_remembered_for_half_a_minute() {
    let [a, b, c] = pieces(1);
    let (flows, summary) = meter(&capture([(0, &a), (30 * SECOND, &b), (31 * SECOND, &c)]));
    assert_eq!((flows[0].n_packets, summary.skipped.count(Skip::LoneFragment)), (2, 1));
    let (flows, summary) = meter(&capture([(0, &c), (31 * SECOND, &b), (32 * SECOND, &a)]));
    assert_eq!((sizes(&flows[0]), summary.skipped.count(Skip::LoneFragment)), (vec![36, 36], 1));
}

#[test]
fn a_flood_of_fragments_holds_bounded_memory_and_is_counted() {
    let flood = (0..40_000u32).map(|i| V4::new(UDP).fragment(i as u16, 16, i % 2 == 0).build(&[0; 8]));
    let bytes = flood.fold(Pcap::new(101), |capture, packet| capture.record(0, &packet)).bytes;
    let (flows, summary) = meter(&bytes);
    assert_eq!((flows.len(), summary.skipped.count(Skip::LoneFragment)), (0, 40_000));
    let firsts = (0..40_000u32).map(|i| V4::new(UDP).fragment(i as u16, 0, true).build(&udp(1, 2, &[])));
    assert_eq!(
        only(&firsts.fold(Pcap::new(101), |capture, packet| capture.record(0, &packet)).bytes).n_packets,
        40_000
    );
}

#[test]
fn a_fragmented_tunnel_packet_counts_once_with_its_inner_size() {
    let inner = ipv4(TCP, &tcp(1000, 80, 0x18, &[7; 200]));
    let datagram = vxlan(&eth(0x0800, &inner));
    let first = V4::new(UDP).fragment(5, 0, true).build(&datagram[..96]);
    let rest = V4::new(UDP).fragment(5, 96, false).build(&datagram[96..]);
    for packets in [[(0, &first), (0, &rest)], [(0, &rest), (0, &first)]] {
        let (flows, summary) = meter(&capture(packets));
        assert_eq!((flows.len(), flows[0].key, sizes(&flows[0])), (1, key(), vec![240]));
        assert_eq!(summary.skipped.count(Skip::CarrierFragment), 1);
    }
}

#[test]
fn fragments_inside_a_tunnel_join_there() {
    let [a, b, c] = pieces(1);
    let flow = only(&capture([(0, &ipv4(4, &a)), (0, &ipv4(4, &b)), (0, &ipv4(4, &c))]));
    assert_eq!((flow.key.protocol, sizes(&flow)), (UDP, vec![36, 36, 28]));
}
