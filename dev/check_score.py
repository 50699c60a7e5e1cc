#!/usr/bin/env python3
"""Compares `trafficgpt score` with what transformers says of the same flows.

    check_score.py BUNDLE FLOWS.parquet SCORES.jsonl [--class NAME]

SCORES.jsonl is written by `trafficgpt score BUNDLE FLOWS.parquet --top 0 --json [--class NAME] -o SCORES.jsonl`. Tokens are
found here by brute force in f64, logits by transformers, likelihoods by torch. Exit status 1 if a score is off by more
than 1e-4 of itself. Needs: numpy, pandas, pyarrow, safetensors, torch, transformers.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load_file
from transformers import GPT2LMHeadModel

# Scalers by name: bytes of one unit, and the time axis.
SCALERS = {
    "log1p-us": (1500.0, lambda us: np.log10(1 + us)),
    "log1p-us-fine": (150.0, lambda us: np.log10(1 + us)),
    "log1p-us-sharp": (15.0, lambda us: np.log10(1 + us)),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("flows")
    parser.add_argument("scores")
    parser.add_argument("--class", dest="label", default="any")
    args = parser.parse_args()

    manifest = json.loads((args.bundle / "manifest.json").read_text())
    vocabulary = manifest["vocabulary"]
    if manifest["scaler"] not in SCALERS:
        sys.exit(f"this script does not know the scaler {manifest['scaler']}")
    unit, time = SCALERS[manifest["scaler"]]
    centroids = load_file(args.bundle / "quantizer.safetensors")["centroids"].astype(np.float64)
    model = GPT2LMHeadModel.from_pretrained(args.bundle).eval()
    first = vocabulary["bof"] if args.label == "any" else dict(vocabulary["classes"])[args.label]
    k, eof = vocabulary["n_packet_tokens"], vocabulary["eof"]
    most = min(manifest["model"]["n_positions"] - 2, 126)
    table = pd.read_parquet(args.flows)
    worst, n = 0.0, 0
    for line in open(args.scores):
        score = json.loads(line)
        if "nll" not in score:
            continue
        row = table.iloc[score["flow"] - 1]
        points = np.stack([row.sizes[:most] / unit, time(row.ipt_us[:most].astype(np.float64))], 1)
        tokens = ((points[:, None] - centroids[None]) ** 2).sum(-1).argmin(1)
        with torch.no_grad():
            logits = model(torch.tensor([[first, *tokens[:-1]]])).logits[0].double()
        legal = torch.cat([logits[:, :k], logits[:, eof : eof + 1]], 1)
        legal[0, k] = -torch.inf  # a flow has a packet at least
        nll = -torch.log_softmax(legal, 1)[torch.arange(len(tokens)), torch.tensor(tokens)].mean().item()
        worst, n = max(worst, abs(nll - score["nll"]) / max(1.0, abs(nll))), n + 1
    print(f"{n} flows, largest difference {worst:.1e}")
    sys.exit(worst > 1e-4 or n == 0)


main()
