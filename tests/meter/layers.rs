//! From the frame to the packet that counts.

use std::net::Ipv4Addr;

use etherparse::PacketBuilder;
use proptest::prelude::*;
use trafficgpt::meter::frame::{Fragment, Link, MAX_LAYERS, Parsed, Skip, parse};
use trafficgpt::meter::{FlowKey, Options, Tunnel};

use super::build::*;
use super::{key, meter, only, sizes, try_meter};

/// The flow of the inner [`packet`], through whatever `frame` wraps around it.
fn assert_inner(link: u32, frame: &[u8]) {
    let flow = only(&Pcap::new(link).record(0, frame).bytes);
    assert_eq!((flow.key, sizes(&flow)), (key(), vec![45]), "link {link}, frame {frame:02x?}");
}

fn skip(link: u32, frame: &[u8]) -> Skip {
    let (flows, summary) = meter(&Pcap::new(link).record(0, frame).bytes);
    assert!(flows.is_empty(), "{flows:?}");
    summary.skipped.iter().next().unwrap().0
}

fn key6() -> FlowKey {
    FlowKey { client: client6().into(), server: server6().into(), ..key() }
}

#[test]
fn every_link_type_leads_to_ip() {
    let packet = packet();
    for link in [12, 14, 101, 228] {
        assert_inner(link, &packet);
    }
    assert_inner(1, &eth(0x0800, &packet));
    assert_inner(0, &join(&[&2u32.to_le_bytes(), &packet]));
    assert_inner(0, &join(&[&2u32.to_be_bytes(), &packet]));
    assert_inner(108, &join(&[&2u32.to_be_bytes(), &packet]));
    assert_inner(113, &join(&[&[0; 14], &[0x08, 0x00], &packet]));
    assert_inner(113, &join(&[&[0; 14], &[0x81, 0x00], &tag(5, 0x0800, &packet)]));
    assert_inner(276, &join(&[&[0x08, 0x00], &[0; 18], &packet]));
    assert_inner(9, &join(&[&[0x00, 0x21], &packet]));
    assert_inner(9, &join(&[&[0x21], &packet]));
    assert_inner(9, &join(&[&[0xff, 0x03, 0x00, 0x21], &packet]));
    assert_inner(9, &join(&[&[0xff, 0x03, 0x02, 0x81], &mpls(&[16], &packet)]));
    assert_inner(50, &join(&[&[0xff, 0x03, 0x00, 0x21], &packet]));
    assert_inner(50, &join(&[&[0x0f, 0x00, 0x08, 0x00], &packet]));
    assert_inner(51, &pppoe(&join(&[&[0x00, 0x21], &packet])));
    assert_inner(104, &join(&[&[0x0f, 0x00, 0x08, 0x00], &packet]));
    assert_inner(219, &mpls(&[16, 17], &packet));
}

#[test]
fn ipv6_leads_through_every_link_type() {
    let packet = ipv6(TCP, &tcp(1000, 80, 0x18, b"hello"));
    for (link, frame) in [
        (1, eth(0x86dd, &packet)),
        (0, join(&[&30u32.to_le_bytes(), &packet])),
        (9, join(&[&[0x00, 0x57], &packet])),
        (101, packet.clone()),
        (229, packet.clone()),
        (1, eth(0x8847, &mpls(&[3], &packet))),
    ] {
        let flow = only(&Pcap::new(link).record(0, &frame).bytes);
        assert_eq!((flow.key, sizes(&flow)), (key6(), vec![65]), "link {link}");
    }
}

#[test]
fn tags_and_labels_are_passed_over() {
    let packet = packet();
    for kind in [0x8100, 0x88a8, 0x9100] {
        assert_inner(1, &eth(kind, &tag(5, 0x0800, &packet)));
        assert_inner(1, &eth(kind, &tag(5, 0x8100, &tag(0xe006, 0x0800, &packet))));
    }
    assert_inner(1, &eth(0x8847, &mpls(&[16, 17, 18], &packet)));
    assert_inner(1, &eth(0x8848, &mpls(&[16], &packet)));
    assert_inner(1, &eth(0x8864, &pppoe(&join(&[&[0x00, 0x21], &packet]))));
    assert_inner(1, &eth(0x8100, &tag(5, 0x8864, &pppoe(&join(&[&[0x00, 0x21], &packet])))));
    let snap = join(&[&[0xaa, 0xaa, 3, 0, 0, 0, 0x08, 0x00], &packet]);
    assert_inner(1, &eth(snap.len() as u16, &snap));
    assert_inner(1, &eth(0x8100, &tag(5, snap.len() as u16, &snap)));
}

#[test]
fn an_ethernet_pseudowire_is_followed_with_and_without_control_word() {
    let frame = eth(0x0800, &packet());
    assert_inner(1, &eth(0x8847, &mpls(&[16], &join(&[&[0, 0, 0, 1], &frame]))));
    assert_inner(1, &eth(0x8847, &mpls(&[16], &frame)));
    let mut begins_with_0 = frame;
    begins_with_0[0] = 0;
    assert_inner(1, &eth(0x8847, &mpls(&[16], &begins_with_0)));
    assert_eq!(skip(1, &eth(0x8847, &mpls(&[16], &[0x10; 40]))), Skip::NotIp);
}

#[test]
fn the_inner_packet_counts_and_the_outer_on_request() {
    let inner = packet();
    let carried = |kind: u16, flags: u8, fields: &[u8], payload: &[u8]| {
        join(&[&[flags, u8::from(kind == 0x880b)], &kind.to_be_bytes(), fields, payload])
    };
    let ppp = join(&[&[0xff, 0x03, 0x00, 0x21], &inner]);
    let tunnels = [
        ("4in4", ipv4(4, &inner)),
        ("4in6", ipv6(4, &inner)),
        ("6in4 that holds 4in6", ipv4(41, &ipv6(4, &inner))),
        ("6in6 that holds 4in6", ipv6(41, &ipv6(4, &inner))),
        ("GRE", ipv4(47, &carried(0x0800, 0, &[], &inner))),
        ("GRE in IPv6", ipv6(47, &carried(0x0800, 0, &[], &inner))),
        ("GRE, key", ipv4(47, &carried(0x0800, 0x20, &[0; 4], &inner))),
        ("GRE, checksum, key, sequence", ipv4(47, &carried(0x0800, 0xb0, &[0; 12], &inner))),
        ("GRE, bridged", ipv4(47, &carried(0x6558, 0, &[], &eth(0x0800, &inner)))),
        ("GRE, MPLS", ipv4(47, &carried(0x8847, 0, &[], &mpls(&[16], &inner)))),
        ("PPTP", ipv4(47, &carried(0x880b, 0x30, &[0; 8], &ppp))),
        ("PPTP with acknowledgement", ipv4(47, &join(&[&[0x30, 0x81, 0x88, 0x0b], &[0; 12], &ppp]))),
        ("VXLAN", ipv4(UDP, &vxlan(&eth(0x0800, &inner)))),
        ("VXLAN with VLAN", ipv4(UDP, &vxlan(&eth(0x8100, &tag(1, 0x0800, &inner))))),
        ("GTP-U", ipv4(UDP, &gtp_u(0, 0xff, &[], &inner))),
        ("GTP-U, sequence number", ipv4(UDP, &gtp_u(2, 0xff, &[0, 1, 0, 0], &inner))),
        ("GTP-U, an extension", ipv4(UDP, &gtp_u(4, 0xff, &[0, 0, 0, 0x85, 1, 0x10, 9, 0], &inner))),
        (
            "GTP-U, two extensions",
            ipv6(UDP, &gtp_u(4, 0xff, &[0, 0, 0, 0x85, 1, 0x10, 9, 0xc0, 2, 0, 0, 0, 0, 0, 0, 0], &inner)),
        ),
        (
            "VXLAN in GRE in 4in4",
            ipv4(4, &ipv4(47, &carried(0x0800, 0, &[], &ipv4(UDP, &vxlan(&eth(0x0800, &inner)))))),
        ),
    ];
    for (name, packet) in tunnels {
        let capture = Pcap::new(101).record(0, &packet).bytes;
        let flow = only(&capture);
        assert_eq!((flow.key, sizes(&flow)), (key(), vec![45]), "{name}");
        let outer = Options { tunnel: Tunnel::Outer, ..Options::default() };
        let (flows, _) = try_meter(&capture, &outer).unwrap();
        assert_eq!(sizes(&flows[0]), [packet.len() as i32], "{name}");
        assert_ne!(flows[0].key, key(), "{name}");
    }
}

#[test]
fn what_a_tunnel_holds_that_is_no_packet_is_left_to_the_tunnel() {
    let cut = &packet()[..22];
    for (name, packet, protocol, ports) in [
        ("VXLAN with ARP", ipv4(UDP, &vxlan(&eth(0x0806, &[0; 28]))), UDP, (50000, 4789)),
        ("VXLAN without network", ipv4(UDP, &udp(50000, 4789, &[0; 60])), UDP, (50000, 4789)),
        ("GTP-U echo", ipv4(UDP, &gtp_u(2, 1, &[0, 1, 0, 0], &[])), UDP, (2152, 2152)),
        (
            "GTP-U, an extension of length 0",
            ipv4(UDP, &gtp_u(4, 0xff, &[0, 0, 0, 1, 0, 0, 0, 0], &[])),
            UDP,
            (2152, 2152),
        ),
        ("GTP prime", ipv4(UDP, &udp(2152, 2152, &[0x0e, 0xff, 0, 0])), UDP, (2152, 2152)),
        ("GRE keep-alive", ipv4(47, &[0, 0, 0, 0]), 47, (0, 0)),
        ("GRE with source routes", ipv4(47, &join(&[&[0x40, 0, 8, 0], &[0; 8], &packet()])), 47, (0, 0)),
        ("PPTP acknowledgement", ipv4(47, &[0x20, 0x81, 0x88, 0x0b, 0, 0, 0, 1, 0, 0, 0, 1]), 47, (0, 0)),
        ("PPTP, encrypted", ipv4(47, &join(&[&[0x30, 1, 0x88, 0x0b], &[0; 8], &[0xfd, 1, 2]])), 47, (0, 0)),
        ("cut IP in IP", ipv4(4, cut), 4, (0, 0)),
    ] {
        let flow = only(&Pcap::new(101).record(0, &packet).bytes);
        let expected = FlowKey { protocol, client_port: ports.0, server_port: ports.1, ..key() };
        assert_eq!((flow.key, sizes(&flow)), (expected, vec![packet.len() as i32]), "{name}");
    }
}

#[test]
fn sizes_come_from_the_ip_header() {
    let packet = packet();
    let padded = eth(0x0800, &join(&[&packet, &[0; 20]]));
    let cut = Pcap::new(1).raw(
        0,
        14 + 24,
        1014,
        &eth(0x0800, &V4 { total: Some(1000), ..V4::new(TCP) }.build(&packet[20..24])),
    );
    let offloaded = V4 { total: Some(0), ..V4::new(TCP) }.build(&packet[20..]);
    let jumbo = |next| {
        let mut packet = ipv6(next, &tcp(1000, 80, 0x18, b"hello"));
        packet[4..6].fill(0);
        eth(0x86dd, &packet)
    };
    let of = |capture: Pcap| sizes(&only(&capture.bytes));
    assert_eq!(of(Pcap::new(1).record(0, &padded)), [45], "padding does not count");
    assert_eq!(of(cut), [1000], "what the recorder cut off counts");
    assert_eq!(of(Pcap::new(1).record(0, &eth(0x0800, &offloaded))), [45], "length 0 means the wire's");
    assert_eq!(of(Pcap::new(1).raw(0, 59, 70_014, &eth(0x0800, &offloaded))), [70_000], "however long");
    assert_eq!(of(Pcap::new(1).raw(0, 79, 80_014, &jumbo(TCP))), [80_000], "also of IPv6");
    assert_eq!(of(Pcap::new(1).record(0, &jumbo(59))), [40], "no next header, no payload");
    assert_eq!(of(Pcap::new(101).record(0, &V4 { options: vec![1; 8], ..V4::new(TCP) }.build(&packet[20..]))), [53]);
    assert_eq!(of(Pcap::new(1).raw(0, 59, 10, &eth(0x0800, &offloaded))), [45], "a wire length below the captured one");
}

#[test]
fn ipv6_extension_headers_lead_to_the_ports() {
    let segment = tcp(1000, 80, 0x18, b"hello");
    let auth = |next: u8| [next, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    let mut long = vec![TCP, 2];
    long.resize(24, 0);
    for (name, packet) in [
        ("hop by hop", ipv6(0, &join(&[&extension(TCP), &segment]))),
        ("routing", ipv6(43, &join(&[&extension(TCP), &segment]))),
        ("destination, 24 bytes", ipv6(60, &join(&[&long, &segment]))),
        ("authentication", ipv6(51, &join(&[&auth(TCP), &segment]))),
        ("atomic fragment", ipv6(44, &join(&[&fragment6(TCP, 9, 0, false), &segment]))),
        ("all of them", ipv6(0, &join(&[&extension(60), &extension(43), &extension(51), &auth(TCP), &segment]))),
    ] {
        let flow = only(&Pcap::new(101).record(0, &packet).bytes);
        assert_eq!((flow.key, sizes(&flow)), (key6(), vec![packet.len() as i32]), "{name}");
    }
    let flow = only(&Pcap::new(101).record(0, &ipv4(51, &join(&[&auth(TCP), &segment]))).bytes);
    assert_eq!(flow.key, key(), "authentication in IPv4");
}

#[test]
fn ports_are_those_of_protocols_that_have_them() {
    for (protocol, ports) in
        [(6, true), (17, true), (33, true), (132, true), (136, true), (1, false), (58, false), (50, false)]
    {
        let flow = only(&Pcap::new(101).record(0, &ipv4(protocol, &udp(7, 9, &[0; 20]))).bytes);
        let expected = if ports { (7, 9) } else { (0, 0) };
        assert_eq!((flow.key.client_port, flow.key.server_port), expected, "protocol {protocol}");
    }
}

#[test]
fn what_is_no_packet_is_skipped_with_its_reason() {
    let packet = packet();
    assert_eq!(skip(1, &eth(0x0806, &[0; 28])), Skip::NotIp);
    assert_eq!(skip(1, &eth(38, &[0x42; 38])), Skip::NotIp);
    assert_eq!(skip(1, &eth(0x8863, &[0x11, 9, 0, 0, 0, 0])), Skip::NotIp);
    assert_eq!(skip(1, &eth(0x8864, &pppoe(&[0xc0, 0x21, 1, 1]))), Skip::NotIp);
    assert_eq!(skip(0, &join(&[&99u32.to_le_bytes(), &packet])), Skip::NotIp);
    assert_eq!(skip(101, &[]), Skip::Malformed);
    assert_eq!(skip(101, &[0x50; 40]), Skip::Malformed);
    assert_eq!(skip(101, &packet[..19]), Skip::Malformed);
    assert_eq!(skip(101, &[&[0x44], &packet[1..]].concat()), Skip::Malformed);
    assert_eq!(skip(101, &V4 { total: Some(19), ..V4::new(TCP) }.build(&[])), Skip::Malformed);
    assert_eq!(skip(101, &ipv4(TCP, &[1, 2, 3])), Skip::Malformed);
    assert_eq!(skip(147, &packet), Skip::LinkType);
    let cut = |kept: usize| Pcap::new(101).raw(0, kept as u32, 45, &packet[..kept]).bytes;
    for kept in [0, 1, 19, 20, 23] {
        let (flows, summary) = meter(&cut(kept));
        assert_eq!((flows.len(), summary.skipped.count(Skip::Truncated)), (0, 1), "{kept} bytes");
    }
    assert_eq!(only(&cut(24)).key, key(), "the ports are enough");
}

#[test]
fn headers_without_end_are_refused() {
    let mut frame = packet();
    let mut kind = 0x0800;
    for _ in 0..MAX_LAYERS {
        frame = tag(1, kind, &frame);
        kind = 0x8100;
    }
    assert_eq!(skip(1, &eth(0x8100, &frame)), Skip::TooDeep);
    let mut nested = packet();
    for _ in 0..2 * MAX_LAYERS {
        nested = ipv4(4, &nested);
    }
    let flow = only(&Pcap::new(101).record(0, &nested).bytes);
    let left = nested.len() as i32 - 20 * (MAX_LAYERS as i32 - 1);
    assert_eq!((flow.key.protocol, sizes(&flow)), (4, vec![left]), "the innermost within the bound");
}

#[test]
fn a_parsed_packet_tells_flags_and_fragment() {
    let parsed = parse(Link::Raw, &packet(), 45, Tunnel::Inner).unwrap();
    let expected = Parsed {
        src: client(),
        dst: server(),
        src_port: 1000,
        dst_port: 80,
        protocol: TCP,
        len: 45,
        tcp_flags: 0x18,
        fragment: Fragment::Whole,
        carrier: None,
    };
    assert_eq!(parsed, expected);
    let cut = parse(Link::Raw, &packet()[..33], 45, Tunnel::Inner).unwrap();
    assert_eq!(cut.tcp_flags, 0, "not captured");
    assert_eq!(parse(Link::Raw, &packet(), u32::MAX, Tunnel::Inner), Ok(expected));
    let zero = V4 { total: Some(0), ..V4::new(TCP) }.build(&packet()[20..]);
    assert_eq!(parse(Link::Raw, &zero, u32::MAX, Tunnel::Inner), Err(Skip::Malformed), "past i32");
}

proptest! {
    /// etherparse writes the frame, we read it.
    #[test]
    fn frames_of_etherparse_are_read_back(
        src in any::<u32>(), dst in any::<u32>(), ports in any::<(u16, u16)>(), tags in 0..3usize, is_tcp in any::<bool>(),
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        // Tunnels have their own tests.
        prop_assume!(![ports.0, ports.1].iter().any(|port| [2152, 4789].contains(port)));
        let (src, dst) = (Ipv4Addr::from(src), Ipv4Addr::from(dst));
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let vlan = |id| etherparse::VlanId::try_new(id).unwrap();
        let ip = match tags {
            0 => ethernet.ipv4(src.octets(), dst.octets(), 64),
            1 => ethernet.single_vlan(vlan(5)).ipv4(src.octets(), dst.octets(), 64),
            _ => ethernet.double_vlan(vlan(5), vlan(6)).ipv4(src.octets(), dst.octets(), 64),
        };
        let mut frame = Vec::new();
        let header = if is_tcp {
            ip.tcp(ports.0, ports.1, 1, 2).psh().write(&mut frame, &payload).unwrap();
            20
        } else {
            ip.udp(ports.0, ports.1).write(&mut frame, &payload).unwrap();
            8
        };
        let parsed = parse(Link::Ethernet, &frame, frame.len() as u32, Tunnel::Inner).unwrap();
        prop_assert_eq!((parsed.src, parsed.dst), (src.into(), dst.into()));
        prop_assert_eq!((parsed.src_port, parsed.dst_port), ports);
        prop_assert_eq!(parsed.len as usize, 20 + header + payload.len());
        prop_assert_eq!(parsed.tcp_flags, if is_tcp { 0x08 } else { 0 });
    }
}
