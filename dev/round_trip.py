#!/usr/bin/env python3
"""Real flows taken to tokens and back: what a generator that never errs would lose by its tokens alone.

    round_trip.py BUNDLE FLOWS.parquet OUT [--per-class 200] [--seed 0]

Writes OUT-all.parquet, where every token becomes one of the packets it stands for, and OUT-class.parquet, where it becomes
one that its class has, both as `generate --decode sample` draws, made here from the files alone. Flows are training flows, as
many of a class. Judge them with

    trafficgpt evaluate generator BUNDLE FLOWS.parquet --given all=OUT-all.parquet --given class=OUT-class.parquet

Needs: numpy, pandas, pyarrow, safetensors, scipy.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file
from scipy.spatial import cKDTree

UNITS = {"log1p-us": 1500.0, "log1p-us-fine": 150.0, "log1p-us-sharp": 15.0}
# Below this, microseconds, a time is one of a layer's two ends.
CLOCK_US = 20.0


def packets(layers, when):
    """Sizes and times of a draw of each layer, rows of size, least and greatest time."""
    size, low, high = layers.T.astype(np.float64)
    between = 10 ** (np.log10(1 + low) + when * (np.log10(1 + high) - np.log10(1 + low))) - 1
    times = np.where(high < CLOCK_US, np.where(when < 0.5, low, high), between)
    return size.astype(np.int32), times.astype(np.float32)


def write(path, flows, sizes, times):
    ends = np.cumsum(flows.sizes.map(len).values)[:-1]
    times = np.split(times, ends)
    for row in times:
        row[0] = 0
    pd.DataFrame({"label": flows.label.values, "sizes": np.split(sizes, ends), "ipt_us": times}).to_parquet(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("flows")
    parser.add_argument("out")
    parser.add_argument("--per-class", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    manifest = json.loads((args.bundle / "manifest.json").read_text())
    tensors = load_file(args.bundle / "quantizer.safetensors")
    names = [name for name, _ in manifest["vocabulary"]["classes"]]
    most = manifest["model"]["n_positions"] - 2
    flows = pd.read_parquet(args.flows)
    flows = flows[(flows.split == "train") & flows.label.isin(names)].sample(frac=1, random_state=args.seed)
    flows = flows[flows.groupby("label").cumcount() < args.per_class]
    flows = flows.assign(sizes=flows.sizes.map(lambda x: x[:most]), ipt_us=flows.ipt_us.map(lambda x: x[:most]))

    sizes, times = (np.concatenate(flows[column].values) for column in ("sizes", "ipt_us"))
    points = np.stack([sizes / UNITS[manifest["scaler"]], np.log10(1 + times.astype(np.float64))], 1)
    tokens = cKDTree(tensors["centroids"].astype(np.float64)).query(points)[1]
    rng = np.random.default_rng(args.seed)
    which, when = rng.random(len(tokens)), rng.random(len(tokens))

    spread = tensors["spread"]
    layers = spread[tokens, (which * spread.shape[1]).astype(int)]
    # A token that stood for no packets keeps what it was; there are none among these.
    of_all = packets(layers, when)
    write(f"{args.out}-all.parquet", flows, *of_all)

    # Rows of a class and token are neighbours: their key rises.
    rows, k = tensors["class_layers"], len(tensors["centroids"])
    ends = tensors["class_ends"].astype(int)
    key = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0)) * k + rows[:, 0].astype(int)
    wanted = np.repeat(flows.label.map(names.index).values, flows.sizes.map(len).values) * k + tokens
    begin, end = np.searchsorted(key, wanted), np.searchsorted(key, wanted, side="right")
    own = end > begin
    at = np.minimum(begin + (which * (end - begin)).astype(int), len(rows) - 1)
    of_class = packets(rows[at, 1:], when)
    write(f"{args.out}-class.parquet", flows, *(np.where(own, a, b) for a, b in zip(of_class, of_all)))
    same = [np.mean(x[0] == sizes) for x in (of_all, of_class)]
    print(f"{len(tokens)} packets of {len(flows)} flows; the very size comes back for {same[0]:.1%} of them, "
          f"{same[1]:.1%} where the class counts")


if __name__ == "__main__":
    main()
