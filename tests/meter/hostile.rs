//! Any bytes: no panic, nothing without bound, the counts add up.

use proptest::prelude::*;
use trafficgpt::Kind;
use trafficgpt::meter::Options;
use trafficgpt::meter::Tunnel;
use trafficgpt::meter::frame::{Link, parse};

use super::build::*;
use super::try_meter;

/// Valid captures that together go through every reader and header.
fn captures() -> Vec<Vec<u8>> {
    let inner = packet();
    let fragments = [V4::new(UDP).fragment(1, 0, true), V4::new(UDP).fragment(1, 16, false)];
    let packets = [
        eth(0x0800, &inner),
        eth(0x8100, &tag(5, 0x88a8, &tag(6, 0x8847, &mpls(&[16, 17], &inner)))),
        eth(0x8864, &pppoe(&join(&[&[0x00, 0x21], &inner]))),
        eth(0x0800, &ipv4(UDP, &vxlan(&eth(0x0800, &inner)))),
        eth(0x0800, &ipv4(UDP, &gtp_u(4, 0xff, &[0, 0, 0, 0x85, 1, 0x10, 9, 0], &inner))),
        eth(0x0800, &ipv4(47, &join(&[&[0xb0, 0, 8, 0], &[0; 12], &ipv4(4, &inner)]))),
        eth(0x86dd, &ipv6(0, &join(&[&extension(44), &fragment6(41, 9, 0, true), &ipv6(TCP, &tcp(1, 2, 2, &[]))]))),
        eth(0x0800, &fragments[0].build(&udp(1, 2, &[0; 8]))),
        eth(0x0800, &fragments[1].build(&[0; 8])),
    ];
    let pcap = packets.iter().enumerate().fold(Pcap::new(1), |c, (i, frame)| c.record(i as u64 * 1_000_000_000, frame));
    let ng = PcapNg::new(false).interface(1, 0, &[(9, &[9]), (14, &[0; 8])]).interface(101, 64, &[]);
    let ng = packets.iter().fold(ng, |c, frame| c.enhanced(0, 5, frame));
    let ng =
        ng.obsolete(1, 6, &inner).simple(45, &inner).section(true).interface(113, 0, &[]).enhanced(0, 7, &packets[0]);
    let gz = gzip(&pcap.bytes);
    vec![pcap.bytes, ng.bytes, gz]
}

/// Meters, which checks the sums, and checks each flow.
fn survives(bytes: &[u8], options: &Options) -> Result<(), TestCaseError> {
    match try_meter(bytes, options) {
        Ok((flows, summary)) => {
            // A record takes 16 bytes, and gzip packs 1032 to one at best.
            prop_assert!(summary.records <= bytes.len() as u64 * 1032 / 16);
            for flow in flows {
                prop_assert_eq!(flow.packets.len() as u64, flow.n_packets.min(options.n_packets as u64));
                prop_assert!(flow.start_ns <= flow.end_ns);
                prop_assert!(flow.packets.iter().all(|packet| packet.check().is_ok() && packet.size != i32::MIN));
                prop_assert_eq!(flow.packets[0].ipt_us, 0.0);
                prop_assert!(flow.packets[0].size > 0);
            }
        }
        Err(error) => prop_assert_eq!(error.kind(), Kind::Format),
    }
    Ok(())
}

fn options() -> impl Strategy<Value = Options> {
    (1..4usize, 1..4usize, any::<bool>()).prop_map(|(n_packets, max_flows, outer)| Options {
        n_packets,
        max_flows,
        tunnel: if outer { Tunnel::Outer } else { Tunnel::Inner },
        ..Options::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(800))]

    #[test]
    fn captures_with_bytes_changed_and_cut_off(
        which in 0..3usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
        options in options(),
    ) {
        let mut bytes = captures().swap_remove(which);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        survives(&bytes, &options)?;
    }

    #[test]
    fn noise_after_a_good_header(noise in prop::collection::vec(any::<u8>(), 0..400), which in 0..3usize) {
        let head = [Pcap::new(1).bytes, PcapNg::new(true).interface(1, 0, &[]).bytes, Pcap::of(276, true, true).bytes];
        survives(&join(&[&head[which], &noise]), &Options::default())?;
    }

    #[test]
    fn any_frame_of_any_link(
        number in 0..280u32,
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        wire in any::<u32>(),
        start in prop::sample::select(vec![0u8, 0x45, 0x60, 0x21, 0xff, 2]),
    ) {
        if let Some(link) = Link::from_linktype(number) {
            for tunnel in [Tunnel::Inner, Tunnel::Outer] {
                if let Ok(parsed) = parse(link, &join(&[&[start], &bytes]), wire, tunnel) {
                    prop_assert!(parsed.len <= i32::MAX as u32 && parsed.len >= 20);
                }
            }
        }
    }
}
