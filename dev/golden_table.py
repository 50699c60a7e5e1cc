"""Writes tests/golden/table: small flow tables made by programs of other people.

    python dev/golden_table.py tests/golden/table

pyarrow.parquet  the types that pandas, polars and Spark users end up with: dictionaries, large strings and lists,
                 unsigned and 64-bit numbers, nulls, a column nobody asked for. Needs pyarrow.
nfstream.csv     nfstream's own CSV, SPLT analysis on, of a capture of three UDP flows written here. Needs nfstream.
"""

import pathlib
import struct
import sys
import tempfile


def pyarrow_table(path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "corpus": pa.array(["a", "b", "a"], pa.large_string()),
            "label": pa.array(["dns", None, "web"], pa.dictionary(pa.int8(), pa.large_string())),
            "group": pa.array(["g1", "g1", "g2"], pa.large_string()),
            "split": pa.array(["train", "val", "test"], pa.string_view()),
            "packets": pa.array([2, 1, 900], pa.uint64()),
            "sizes": pa.array([[60, -1500], [41], [40, -40, 1]], pa.large_list(pa.int16())),
            "ipt_us": pa.array([[0, 0.5], [0], [0, 1e6, 3.25]], pa.list_(pa.float64())),
            "src_ip": pa.array(["192.0.2.1", None, "2001:db8::1"]),
            "dst_ip": pa.array(["198.51.100.1", None, "2001:db8::2"]),
            "src_port": pa.array([5353, None, 65535], pa.uint16()),
            "dst_port": pa.array([53, None, 443], pa.int64()),
            "ip_proto": pa.array([17, None, 6], pa.uint8()),
        }
    )
    pq.write_table(table, path, compression="snappy", row_group_size=2)


def capture(path):
    """Three UDP flows: (client port, [(direction, bytes of the IP packet, milliseconds since the packet before)])."""
    flows = [
        (40001, [(0, 60, 0), (1, 200, 12)]),
        (40002, [(0, 28, 0)]),
        (40003, [(0, 100, 0), (0, 101, 5), (1, 1400, 30), (1, 1400, 0), (0, 64, 250)]),
    ]
    records = []
    for i, (port, packets) in enumerate(flows):
        ms = 1_700_000_000_000 + 7 * i
        for direction, size, gap in packets:
            ms += gap
            ends = [(bytes([192, 0, 2, 1]), port), (bytes([198, 51, 100, 1]), 9)]
            (src, sport), (dst, dport) = ends[::-1] if direction else ends
            ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, size, 0, 0, 64, 17, 0, src, dst)
            udp = struct.pack(">HHHH", sport, dport, size - 20, 0) + bytes(size - 28)
            records.append((ms, b"\x02" * 6 + b"\x02" * 6 + b"\x08\x00" + ip + udp))
    with open(path, "wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for ms, frame in sorted(records):
            out.write(struct.pack("<IIII", ms // 1000, ms % 1000 * 1000, len(frame), len(frame)) + frame)


def nfstream_csv(path):
    from nfstream import NFStreamer

    with tempfile.TemporaryDirectory() as directory:
        pcap = pathlib.Path(directory, "flows.pcap")
        capture(pcap)
        frame = NFStreamer(source=str(pcap), splt_analysis=6, accounting_mode=1, n_meters=1).to_pandas()
    frame.drop(columns=["src_mac", "dst_mac", "src_oui", "dst_oui"]).to_csv(path, index=False)


if __name__ == "__main__":
    out = pathlib.Path(sys.argv[1])
    for name, make in [("pyarrow.parquet", pyarrow_table), ("nfstream.csv", nfstream_csv)]:
        try:
            make(out / name)
        except ImportError as error:
            print(f"{name} skipped: {error}")
