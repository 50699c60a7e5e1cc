//! From the file to the records.

use std::path::Path;

use trafficgpt::meter::capture::{Capture, MAX_CAPTURED};
use trafficgpt::meter::frame::Skip;
use trafficgpt::meter::{Options, Summary, meter_file};
use trafficgpt::{Error, Kind};

use super::build::*;
use super::{SECOND, key, meter, only, sizes, times, try_meter};

const T: u64 = 1_700_000_000 * SECOND;

fn error(bytes: &[u8]) -> Error {
    try_meter(bytes, &Options::default()).unwrap_err()
}

fn warning(summary: &Summary) -> &str {
    summary.warning.as_deref().unwrap()
}

#[test]
fn pcap_of_either_byte_order_and_unit() {
    for (big, nanos) in [(false, false), (true, false), (false, true), (true, true)] {
        let capture = Pcap::of(1, big, nanos);
        let frame = eth(0x0800, &packet());
        let flow = only(&capture.record(T, &frame).record(T + 1_234_567, &frame).bytes);
        let gap = if nanos { 1_234_567 } else { 1_234_000 };
        assert_eq!((flow.start_ns, flow.end_ns), (T, T + gap), "big {big} nanos {nanos}");
        assert_eq!(times(&flow), [0.0, gap as f32 / 1000.0]);
    }
}

#[test]
fn the_frame_check_length_is_no_part_of_the_link_type() {
    assert_eq!(only(&Pcap::new(0x5400_0001).record(T, &eth(0x0800, &packet())).bytes).key, key());
}

#[test]
fn pcapng_of_either_byte_order_with_every_packet_block() {
    for big in [false, true] {
        let frame = eth(0x0800, &packet());
        let capture = PcapNg::new(big)
            .interface(1, 0, &[(2, b"eth0")])
            .block(5, &[0; 16])
            .enhanced(0, T / 1000, &frame)
            .block(0x0bad, &[1; 5])
            .obsolete(0, T / 1000 + 7, &frame)
            .simple(frame.len() as u32, &frame);
        let flow = only(&capture.bytes);
        assert_eq!((flow.key, flow.start_ns), (key(), T), "big {big}");
        assert_eq!(times(&flow), [0.0, 7.0, 0.0], "a simple packet has no time: the one before's");
    }
}

#[test]
fn pcapng_interfaces_have_links_and_clocks_of_their_own() {
    let raw = packet();
    let capture = PcapNg::new(false)
        .interface(1, 0, &[(9, &[9])])
        .interface(101, 0, &[(9, &[0x80 | 10]), (14, &1_700_000_000i64.to_le_bytes())])
        .interface(0, 0, &[(0, &[]), (9, &[0])])
        .enhanced(0, T, &eth(0x0800, &raw))
        .enhanced(1, 512, &raw)
        .enhanced(2, T / 1000 + 600_000, &join(&[&2u32.to_be_bytes(), &raw]));
    let flow = only(&capture.bytes);
    assert_eq!(times(&flow), [0.0, 500_000.0, 100_000.0]);
}

#[test]
fn pcapng_sections_begin_anew_and_may_turn_the_byte_order() {
    let frame = eth(0x0800, &packet());
    let capture = PcapNg::new(true).interface(1, 0, &[]).enhanced(0, T / 1000, &frame).section(false);
    let (flows, summary) =
        meter(&capture.enhanced(0, T / 1000, &frame).interface(1, 0, &[]).enhanced(0, T / 1000, &frame).bytes);
    assert_eq!(flows[0].n_packets, 2);
    assert_eq!(summary.skipped.count(Skip::NoInterface), 1, "the second section had none yet");
}

#[test]
fn a_simple_packet_is_cut_at_the_snap_length() {
    let capture = PcapNg::new(false).interface(101, 24, &[]).simple(45, &packet()[..24]);
    assert_eq!(sizes(&only(&capture.bytes)), [45]);
}

#[test]
fn gzip_of_one_and_of_many_members() {
    let bytes = Pcap::new(101).record(T, &packet()).record(T, &packet()).bytes;
    assert_eq!(only(&gzip(&bytes)).n_packets, 2);
    let members = join(&[&gzip(&bytes[..30]), &gzip(&bytes[30..31]), &gzip(&bytes[31..])]);
    assert_eq!(only(&members).n_packets, 2);
    assert_eq!(only(&gzip(&PcapNg::new(true).interface(101, 0, &[]).enhanced(0, 0, &packet()).bytes)).n_packets, 1);
}

#[test]
fn a_damaged_gzip_stream_keeps_what_is_before() {
    let bytes = Pcap::new(101).record(T, &packet()).bytes;
    let packed = gzip(&bytes);
    let (flows, summary) = meter(&packed[..packed.len() - 4]);
    assert_eq!(flows.len(), 1);
    assert!(warning(&summary).contains("gzip"), "{}", warning(&summary));
    let (flows, summary) = meter(&join(&[&packed, b"no second member"]));
    assert_eq!(flows.len(), 1);
    assert!(warning(&summary).contains("gzip"), "{}", warning(&summary));
}

#[test]
fn a_cut_anywhere_keeps_the_records_before_it() {
    let frame = eth(0x0800, &packet());
    let pcap = |n: u64| (0..n).fold(Pcap::new(1), |capture, i| capture.record(T + i, &frame)).bytes;
    let ng = |n: u64| {
        (0..n).fold(PcapNg::new(false).interface(1, 0, &[]), |capture, i| capture.enhanced(0, T + i, &frame)).bytes
    };
    for (whole, one_less) in [(pcap(3), pcap(2)), (ng(3), ng(2))] {
        for len in one_less.len() + 1..whole.len() {
            let (flows, summary) = meter(&whole[..len]);
            assert_eq!(flows[0].n_packets, 2, "{len} bytes");
            assert!(warning(&summary).contains("cut inside record 3"), "{}", warning(&summary));
            assert!(warning(&summary).contains(&format!("bytes {} to {len}", one_less.len())), "{}", warning(&summary));
        }
        assert_eq!(meter(&one_less).1.warning, None);
        for len in 0..24 {
            assert_eq!(error(&whole[..len]).kind(), Kind::Format, "{len} bytes");
        }
    }
}

#[test]
fn a_header_only_has_no_flow() {
    for bytes in [Pcap::new(1).bytes, PcapNg::new(false).bytes, PcapNg::new(true).interface(1, 0, &[]).bytes] {
        let (flows, summary) = meter(&bytes);
        assert_eq!((flows.len(), summary), (0, Summary::default()));
    }
}

#[test]
fn what_is_no_capture_is_refused_by_name() {
    for (bytes, found) in [
        (&b""[..], "an empty file"),
        (b"<html>", "text that begins with \"<htm\""),
        (b"\x7fELF\x02", "bytes [7f, 45, 4c, 46]"),
        (&[0x28, 0xb5, 0x2f, 0xfd, 0], "zstd"),
        (&Pcap::new(1).bytes[..9], "cut inside its file header, after 9 bytes"),
        (&[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 9, 9, 9, 9], "a section of byte order [09, 09, 09, 09]"),
    ] {
        let error = error(bytes);
        assert_eq!(error.kind(), Kind::Format);
        assert!(error.message().contains(found), "{error}");
    }
    let missing = Path::new("there/is/no.pcap");
    let error = meter_file(missing, &Options::default(), &mut |_| Ok(())).unwrap_err();
    assert_eq!(error.kind(), Kind::Io);
    assert!(error.message().contains("no.pcap"), "{error}");
    assert_eq!(meter_file(&std::env::temp_dir(), &Options::default(), &mut |_| Ok(())).unwrap_err().kind(), Kind::Io);
}

#[test]
fn lengths_that_cannot_be_stop_the_reading_there() {
    let good = Pcap::new(101).record(T, &packet());
    for (bytes, why) in [
        (
            good.raw(T, u32::MAX, 45, &packet()).record(T, &packet()).bytes,
            "a length of 4294967295 bytes inside record 2",
        ),
        (join(&[&PcapNg::new(false).bytes, &[6, 0, 0, 0, 13, 0, 0, 0]]), "a block of 13 bytes"),
        (join(&[&PcapNg::new(false).bytes, &[6, 0, 0, 0, 8, 0, 0, 0]]), "a block of 8 bytes"),
        (join(&[&PcapNg::new(false).bytes, &[9, 0, 0, 0, 0xfc, 0xff, 0xff, 0xff]]), "a block of 4294967292 bytes"),
        (PcapNg::new(false).block(6, &[0; 16]).bytes, "a block of type 6 and only 28 bytes"),
        (
            PcapNg::new(false).block(6, &join(&[&[0; 12], &[99, 0, 0, 0], &[0; 8]])).bytes,
            "a packet of 99 bytes in a block of 36",
        ),
        (
            join(&[&PcapNg::new(false).bytes, &[9, 0, 0, 0, 12, 0, 0, 0, 16, 0, 0, 0]]),
            "a block of 12 bytes closed as 16",
        ),
    ] {
        let (_, summary) = meter(&bytes);
        assert!(warning(&summary).contains(why), "{} is not {why}", warning(&summary));
    }
}

#[test]
fn only_the_headers_of_a_long_record_are_held() {
    let long = V4 { total: Some(0), ..V4::new(TCP) }.build(&tcp(1000, 80, 0, &vec![7; 3 * MAX_CAPTURED]));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), Pcap::new(101).record(T, &long).record(T, &packet()).bytes).unwrap();
    let mut capture = Capture::open(file.path()).unwrap();
    let record = capture.next_record().unwrap().unwrap();
    assert_eq!((record.bytes.len(), record.wire_len as usize), (MAX_CAPTURED, long.len()));
    let record = capture.next_record().unwrap().unwrap();
    assert_eq!((record.number, record.bytes), (2, &packet()[..]));
    assert_eq!(capture.next_record().unwrap(), None);
    assert_eq!(capture.next_record().unwrap(), None);
    assert_eq!(capture.warning(), None);
}

#[test]
fn a_link_type_that_is_not_supported_is_said() {
    let capture = PcapNg::new(false).interface(147, 0, &[]).interface(101, 0, &[]);
    let (flows, summary) = meter(&capture.enhanced(0, 0, &packet()).enhanced(1, 0, &packet()).bytes);
    assert_eq!((flows.len(), summary.unsupported_link), (1, Some(147)));
    assert!(warning(&summary).contains("link type 147 is not supported: 1 packets skipped"), "{}", warning(&summary));
}

#[test]
fn interface_options_that_make_no_sense_are_left() {
    let capture = PcapNg::new(false).interface(101, 0, &[(9, &[6, 6]), (14, &[1])]);
    let flow = only(&capture.enhanced(0, 5, &packet()).bytes);
    assert_eq!(flow.start_ns, 5000);
    let body = join(&[&101u16.to_le_bytes(), &[0; 6], &9u16.to_le_bytes(), &200u16.to_le_bytes(), &[1, 0, 0, 0]]);
    let flow = only(&PcapNg::new(false).block(1, &body).enhanced(0, 5, &packet()).bytes);
    assert_eq!(flow.start_ns, 5000);
}
