"""Memory of a fit to more packets than fit in it: TRAFFICGPT WORK [MILLIONS], the command and a directory to work in.

Writes MILLIONS (60) million packets, nearly all of them different, to two Parquet files in WORK, fits 1,024 centroids to them
in 64, 256 and 768 MiB, and prints the peak of resident memory, the seconds, and the inertia. Fits the files in the other order
as well: the result must be the same bytes. Needs numpy and pyarrow.
"""

import filecmp
import os
import pathlib
import re
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

command, work = sys.argv[1], pathlib.Path(sys.argv[2])
millions = int(sys.argv[3]) if len(sys.argv) > 3 else 60
PACKETS = 100  # of a flow
random = np.random.default_rng(1)
files = [str(work / f"part{i}.parquet") for i in range(2)]
for path in files:
    writer = None
    for _ in range(millions // 2):
        flows = 1_000_000 // PACKETS
        sizes = random.integers(40, 1501, 1_000_000, dtype=np.int32) * random.choice([-1, 1], 1_000_000).astype(np.int32)
        times = (10 ** random.uniform(0, 7, 1_000_000)).astype(np.float32)
        offsets = np.arange(flows + 1, dtype=np.int32) * PACKETS
        columns = {
            "sizes": pa.ListArray.from_arrays(offsets, sizes),
            "ipt_us": pa.ListArray.from_arrays(offsets, times),
            "packets": pa.array(np.full(flows, PACKETS)),
            "label": pa.array(["any"] * flows),
            "group": pa.array(["any"] * flows),
            "split": pa.array(["train"] * flows),
        }
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    writer.close()
print(f"{millions} M packets, {sum(map(os.path.getsize, files)) / 2**20:.0f} MiB of Parquet", flush=True)


def fit(memory, order, out):
    begin = time.perf_counter()
    arguments = [command, "quantizer", "fit", *order, "-k", "1024", "--memory", str(memory), "-o", str(out)]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(said)
    inertia = re.search(r"inertia ([0-9.e+-]+)", said)
    print(
        f"--memory {memory:4}: peak {usage.ru_maxrss / 1024:.0f} MiB resident, {time.perf_counter() - begin:.0f} s, "
        f"inertia {inertia.group(1) if inertia else '?'}",
        flush=True,
    )


for memory in (64, 256, 768):
    fit(memory, files, work / f"q{memory}.safetensors")
fit(256, files[::-1], work / "reversed.safetensors")
same = filecmp.cmp(work / "q256.safetensors", work / "reversed.safetensors", shallow=False)
print("the other order gives", "the same bytes" if same else "ANOTHER FILE")
sys.exit(not same)
