//! Flow tables: what other programs wrote, what we write ourselves, and what must be refused.
#![cfg(feature = "train")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use trafficgpt::Kind;
use trafficgpt::meter::FlowKey;
use trafficgpt::packet::Packet;
use trafficgpt::random::Stream;
use trafficgpt::train::table::{Filter, Row, Split, Table, Writer};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/table").join(name)
}

fn packets(pairs: &[(i32, f32)]) -> Vec<Packet> {
    pairs.iter().map(|&(size, ipt_us)| Packet { size, ipt_us }).collect()
}

fn pairs(row: &Row) -> Vec<(i32, f32)> {
    row.packets.iter().map(|p| (p.size, p.ipt_us)).collect()
}

fn key(client: &str, client_port: u16, server: &str, server_port: u16, protocol: u8) -> Option<FlowKey> {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    Some(FlowKey { client: ip(client), server: ip(server), client_port, server_port, protocol })
}

/// A table with every kind of value a column can hold.
fn example() -> Vec<Row> {
    let row = |label: Option<&str>, split, n_packets, pairs: &[(i32, f32)], key, start_ns| Row {
        label: label.map(String::from),
        group: "lab, \"first\" day\nkäse".into(),
        split,
        n_packets,
        packets: packets(pairs),
        key,
        start_ns,
    };
    let v4 = key("192.0.2.1", 40_000, "198.51.100.7", 53, 17);
    let v6 = key("2001:db8::1", 0, "2001:db8::2", 0, 58);
    vec![
        row(Some("dns"), Some(Split::Train), 2, &[(60, 0.0), (-1500, 0.1)], v4, Some(1_700_000_000_123_456_789)),
        row(None, None, 1, &[(41, 0.0)], None, None),
        row(Some("web"), Some(Split::Test), u64::from(u32::MAX) + 7, &[(40, 0.0), (-1, f32::MAX)], v6, Some(0)),
        row(Some("web"), Some(Split::Val), 3, &[(1, 0.0), (2, f32::MIN_POSITIVE), (3, 1e-3)], None, None),
    ]
}

fn write(rows: &[Row], path: &Path) {
    let mut writer = Writer::create(path).unwrap();
    rows.iter().for_each(|row| writer.push(row).unwrap());
    writer.finish().unwrap();
}

/// The error of reading a file of this content.
fn refused(name: &str, content: &[u8]) -> trafficgpt::Error {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, content).unwrap();
    let error = Table::read(&path).unwrap_err();
    assert!(error.message().contains(name), "no file name in: {error}");
    error
}

#[test]
fn tables_come_back_as_written() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["flows.parquet", "flows.csv"] {
        let path = directory.path().join(name);
        write(&example(), &path);
        assert_eq!(Table::read(&path).unwrap().rows, example(), "{name}");
        let again = directory.path().join(format!("again-{name}"));
        Table::read(&path).unwrap().write(&again).unwrap();
        assert_eq!(Table::read(&again).unwrap().rows, example(), "{name} a second time");
    }
}

#[test]
fn long_tables_come_back_as_written() {
    let mut draws = Stream::new(5, 0);
    let rows: Vec<Row> = (0..10_000)
        .map(|i| {
            let n = 1 + draws.below(130);
            let packet = |j| Packet { size: draws.below(3000) as i32 - 1500, ipt_us: if j == 0 { 0.0 } else { 7.5 } };
            let packets: Vec<Packet> = (0..n).map(packet).collect();
            let (label, group) = (Some(format!("class {}", i % 7)), format!("capture {}", i % 100));
            Row { label, group, split: None, n_packets: n as u64, packets, key: None, start_ns: Some(i) }
        })
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("flows.parquet");
    write(&rows, &path);
    let table = Table::read(&path).unwrap();
    assert!(table.rows == rows);
    assert_eq!(table.labels().len(), 7);
    assert!(table.packets(3).as_ragged().rows().zip(&rows).all(|(a, b)| *a == b.packets[..b.packets.len().min(3)]));
}

#[test]
fn an_empty_table_is_a_table() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["flows.parquet", "flows.csv"] {
        let path = directory.path().join(name);
        Table::default().write(&path).unwrap();
        assert_eq!(Table::read(&path).unwrap(), Table::default(), "{name}");
    }
}

#[test]
fn a_directory_is_its_tables_in_order_of_name() {
    let directory = tempfile::tempdir().unwrap();
    write(&example()[2..], &directory.path().join("b.csv"));
    write(&example()[..2], &directory.path().join("a.parquet"));
    fs::write(directory.path().join("notes.txt"), "not a table").unwrap();
    assert_eq!(Table::read(directory.path()).unwrap().rows, example());
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(Table::read(empty.path()).unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn every_arrow_type_of_other_programs_is_read() {
    let rows = Table::read(&golden("pyarrow.parquet")).unwrap().rows;
    let labels: Vec<_> = rows.iter().map(|r| r.label.as_deref()).collect();
    assert_eq!(labels, [Some("dns"), None, Some("web")]);
    assert_eq!(rows.iter().map(|r| r.group.as_str()).collect::<Vec<_>>(), ["g1", "g1", "g2"]);
    assert_eq!(
        rows.iter().map(|r| r.split).collect::<Vec<_>>(),
        [Some(Split::Train), Some(Split::Val), Some(Split::Test)]
    );
    assert_eq!(rows.iter().map(|r| r.n_packets).collect::<Vec<_>>(), [2, 1, 900]);
    assert_eq!(pairs(&rows[0]), [(60, 0.0), (-1500, 0.5)]);
    assert_eq!(pairs(&rows[2]), [(40, 0.0), (-40, 1e6), (1, 3.25)]);
    assert_eq!(rows[0].key, key("192.0.2.1", 5353, "198.51.100.1", 53, 17));
    assert_eq!(rows[1].key, None);
    assert_eq!(rows[2].key, key("2001:db8::1", 65_535, "2001:db8::2", 443, 6));
}

#[test]
fn filters_choose_rows_by_any_text_column() {
    let n = |filter: &str| {
        let filter: Filter = filter.parse().unwrap();
        Table::read_filtered(&golden("pyarrow.parquet"), &[filter]).map(|t| t.rows.len())
    };
    assert_eq!(n("corpus!=a").unwrap(), 1);
    assert_eq!(n("corpus=a").unwrap(), 2);
    assert_eq!(n("label=dns").unwrap(), 1);
    assert!(n("country=nl").unwrap_err().message().contains("no column country"));
    assert!(n("packets=2").unwrap_err().message().contains("column packets"));
    let splt = ["src_port=40001".parse().unwrap()];
    assert_eq!(Table::read_filtered(&golden("nfstream.csv"), &splt).unwrap().rows.len(), 1);
}

#[test]
fn nfstream_csv_is_read() {
    let rows = Table::read(&golden("nfstream.csv")).unwrap().rows;
    assert_eq!(rows.len(), 3);
    assert_eq!(pairs(&rows[0]), [(60, 0.0), (-200, 12_000.0)]);
    assert_eq!(pairs(&rows[1]), [(28, 0.0)]);
    assert_eq!(pairs(&rows[2]), [(100, 0.0), (101, 5e3), (-1400, 3e4), (-1400, 0.0), (64, 2.5e5)]);
    assert_eq!(rows[2].n_packets, 5);
    assert_eq!(rows[0].key, key("192.0.2.1", 40_001, "198.51.100.1", 9, 17));
    assert_eq!(rows[0].start_ns, Some(1_700_000_000_000_000_000));
    assert_eq!((rows[0].label.as_deref(), rows[0].group.as_str()), (Some("Unknown"), "nfstream.csv"));
}

#[test]
fn the_originals_csv_is_read_and_half_pairs_shift_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("raw.csv");
    let text = "flow_id,ndpi_app,raw_packet0,raw_iat0,raw_packet1,raw_iat1,raw_packet2,raw_iat2\n\
                UDP 192.0.2.1:5353 198.51.100.2:53,DNS,60,0,-120.0,1.5,,\n\
                IPv6-ICMP 2001:db8::1:0 ff02::2:0,,48,0,,,nan,NaN\n\
                free text,TLS,40,0,,7,-1500,2\n\
                free text,TLS,40,0,50,,-1500,2\n";
    fs::write(&path, text).unwrap();
    let table = Table::read(&path).unwrap();
    assert_eq!(pairs(&table.rows[0]), [(60, 0.0), (-120, 1500.0)]);
    assert_eq!(table.rows[0].key, key("192.0.2.1", 5353, "198.51.100.2", 53, 17));
    assert_eq!(pairs(&table.rows[1]), [(48, 0.0)]);
    assert_eq!(table.rows[1].key, key("2001:db8::1", 0, "ff02::2", 0, 58));
    assert_eq!((table.rows[1].label.as_deref(), table.rows[2].label.as_deref()), (None, Some("TLS")));
    for row in &table.rows[2..] {
        assert_eq!(pairs(row), [(40, 0.0), (-1500, 2000.0)]);
        assert_eq!(row.key, None);
    }
    assert_eq!(table.warnings.len(), 1);
    assert!(table.warnings[0].contains("2 packets of 2 flows"), "{}", table.warnings[0]);
}

#[test]
fn bad_csv_is_refused_by_row_column_and_reason() {
    let header = "label,split,packets,sizes,ipt_us,client_ip,server_ip,client_port,server_port,protocol\n";
    let good = "a,train,2,40 -40,0 1,,,,,\n";
    let row = |bad: &str| {
        let error = refused("flows.csv", format!("{header}{good}{bad}\n").as_bytes());
        assert_eq!(error.kind(), if bad.contains("trian") { Kind::Invalid } else { Kind::Format }, "{error}");
        assert!(error.message().contains("row 2"), "{error}");
        error.message().to_string()
    };
    assert!(row("a,trian,2,40 -40,0 1,,,,,").contains("split is \"trian\""));
    assert!(row("a,train,1,40 -40,0 1,,,,,").contains("column packets: 1, but 2"));
    assert!(row("a,train,x,40 -40,0 1,,,,,").contains("column packets: \"x\" is not an integer"));
    assert!(row("a,train,2,40 4O,0 1,,,,,").contains("column sizes: value 1, \"4O\""));
    assert!(row("a,train,2,40 1.5,0 1,,,,,").contains("column sizes"));
    assert!(row("a,train,2,40 -40,0 one,,,,,").contains("column ipt_us: value 1"));
    assert!(row("a,train,2,40 -40,0 inf,,,,,").contains("packet 1: ipt_us is inf"));
    assert!(row("a,train,2,40 -40,0 -1,,,,,").contains("packet 1: ipt_us is -1"));
    assert!(row("a,train,2,40 -40,0,,,,,").contains("2 sizes but 1 times"));
    assert!(row("a,train,0,,,,,,,").contains("0 packets"));
    assert!(row("a,train,2,40 -2147483648,0 1,,,,,").contains("size -2147483648"));
    assert!(row("a,train,2,40 -40,0 1,300.1.1.1,192.0.2.1,1,2,6").contains("column client_ip"));
    assert!(row("a,train,2,40 -40,0 1,192.0.2.1,192.0.2.1,70000,2,6").contains("column client_port: 70000"));
    assert!(row("a,train,2,40").contains("found record with 4 fields"));
    let long = format!("a,train,2,{},0,,,,,", "40 ".repeat(70_000));
    assert!(row(&long).contains("65537 sizes"));
}

#[test]
fn files_that_are_no_tables_are_refused() {
    assert!(refused("flows.csv", b"").message().contains("empty"));
    assert!(refused("flows.csv", b"a,b\n1,2\n").message().contains("not a flow table"));
    assert!(refused("flows.csv", b"raw_packet0,b\n1,2\n").message().contains("no column raw_iat0"));
    assert!(refused("flows.csv", b"sizes,ipt_us\n40,\xff\n").message().contains("row 1"));
    assert!(refused("flows.csv", &[b'\x00'; 100]).message().contains("not a flow table"));
    assert!(refused("flows.csv", &vec![b'x'; 20 << 20]).message().contains("longer than"));
    let mut endless = b"sizes,ipt_us\n40,0\n\"".to_vec();
    endless.resize(20 << 20, b'\n');
    assert!(refused("flows.csv", &endless).message().contains("row 2"));
    assert!(refused("flows.parquet", b"PAR1").message().contains("damaged Parquet"));
    assert!(refused("flows.parquet", b"PAR1garbagePAR1").message().contains("damaged Parquet"));
    let missing = Table::read(Path::new("missing/flows.csv")).unwrap_err();
    assert!(missing.kind() == Kind::Io && missing.message().contains("missing/flows.csv"), "{missing}");
}

#[test]
fn bad_nfstream_csv_is_refused() {
    let row = |values: &str| {
        let text = format!("splt_direction,splt_ps,splt_piat_ms\n{values}\n");
        refused("nf.csv", text.as_bytes()).message().to_string()
    };
    assert!(row("\"[0, 2]\",\"[40, 40]\",\"[0, 1]\"").contains("splt_direction: value 1 is 2"));
    assert!(row("\"[0, 1]\",\"[40, -1]\",\"[0, 1]\"").contains("splt_ps: value 1 is -1"));
    assert!(row("\"[0, 1]\",\"[40, 40]\",\"[0, -1]\"").contains("packet 1: ipt_us"));
    assert!(row("\"[0, 1]\",\"[40]\",\"[0, -1]\"").contains("2, 1 and 2 values"));
    assert!(row("\"[-1, -1]\",\"[-1, -1]\",\"[-1, -1]\"").contains("0 packets"));
}

/// Damage anywhere in a Parquet file is an error or still a table, but no panic.
#[test]
fn damaged_parquet_never_panics() {
    let directory = tempfile::tempdir().unwrap();
    let ours = directory.path().join("ours.parquet");
    write(&example(), &ours);
    let target = directory.path().join("damaged.parquet");
    let mut draws = Stream::new(11, 0);
    let mut refused = 0;
    for source in [ours, golden("pyarrow.parquet")] {
        let good = fs::read(&source).unwrap();
        for _ in 0..600 {
            let mut bytes = good.clone();
            for _ in 0..1 + draws.below(3) {
                let at = draws.below(bytes.len());
                bytes[at] = draws.below(256) as u8;
            }
            if draws.below(10) == 0 {
                bytes.truncate(4 + draws.below(bytes.len() - 4));
            }
            fs::write(&target, &bytes).unwrap();
            refused += usize::from(Table::read(&target).is_err());
        }
    }
    assert!(refused > 300, "only {refused} of 1200 damaged files were refused");
}

#[test]
fn a_table_of_another_extension_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["flows.json", "flows", "parquet"] {
        assert_eq!(Table::default().write(&directory.path().join(name)).unwrap_err().kind(), Kind::Invalid);
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn an_abandoned_writer_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["flows.parquet", "flows.csv"] {
        let mut writer = Writer::create(&directory.path().join(name)).unwrap();
        writer.push(&example()[0]).unwrap();
        drop(writer);
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
