"""Runs nfstream over captures and writes the table that tests/meter_nfstream.rs compares our metering with.

    pip install nfstream==6.6.0 pyarrow
    python dev/compare_nfstream.py DIR        # DIR/captures/* -> DIR/captures_nfstream.parquet
    TRAFFICGPT_DATA=DIR cargo test --features train --test meter_nfstream flows_equal_nfstream -- --nocapture

nfstream counts time in milliseconds, so ipt_us are whole milliseconds here; sizes and order do not depend on it.
"""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from nfstream import NFStreamer

N_PACKETS = 128
NO_ACTIVE_TIMEOUT = 10**6
IP_LENGTH = 1

SCHEMA = pa.schema([
    ("capture", pa.string()),
    ("src_ip", pa.string()),
    ("src_port", pa.int32()),
    ("dst_ip", pa.string()),
    ("dst_port", pa.int32()),
    ("ip_proto", pa.int32()),
    ("first_seen_ms", pa.int64()),
    ("packets", pa.int64()),
    ("sizes", pa.list_(pa.int32())),
    ("ipt_us", pa.list_(pa.float32())),
])


def flows(capture: Path):
    """The rows of one capture."""
    streamer = NFStreamer(
        source=str(capture),
        decode_tunnels=True,
        idle_timeout=60,
        active_timeout=NO_ACTIVE_TIMEOUT,
        accounting_mode=IP_LENGTH,
        splt_analysis=N_PACKETS,
        n_dissections=0,
        n_meters=1,
    )
    for flow in streamer:
        # Past the flow's end nfstream fills up with direction -1.
        seen = [i for i in range(N_PACKETS) if flow.splt_direction[i] >= 0]
        yield {
            "capture": capture.name,
            "src_ip": flow.src_ip,
            "src_port": flow.src_port,
            "dst_ip": flow.dst_ip,
            "dst_port": flow.dst_port,
            "ip_proto": flow.protocol,
            "first_seen_ms": flow.bidirectional_first_seen_ms,
            "packets": flow.bidirectional_packets,
            "sizes": [flow.splt_ps[i] * (-1 if flow.splt_direction[i] else 1) for i in seen],
            "ipt_us": [1000.0 * flow.splt_piat_ms[i] for i in seen],
        }


def main():
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "captures").is_dir():
        sys.exit(__doc__)
    directory = Path(sys.argv[1])
    rows = [row for capture in sorted((directory / "captures").iterdir()) for row in flows(capture)]
    out = directory / "captures_nfstream.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), out)
    print(f"{len(rows)} flows in {out}")


if __name__ == "__main__":
    main()
