#!/usr/bin/env python3
"""Cross-validation by capture, and the random forest on the same folds.

    python3 folds.py LABELLED.parquet OUT [--packets N]

Cuts the flows of the splits `train` and `val` into five folds, no capture in two of them and labels spread as evenly as
that allows, and writes OUT/fold0.parquet .. OUT/fold4.parquet: all of those flows, with the fold as split `val` and the
rest as `train`, at most N packets of each (0: all). Prints accuracy and macro-F1 of a forest of 100 trees, on the sizes
of the first 20 packets and on sizes and log-times, pooled over the folds and for each. The test split is never read.
Needs pandas, pyarrow and scikit-learn.
"""
import argparse
import pathlib

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import StratifiedGroupKFold

FOLDS, SEED, PACKETS = 5, 7, 20


def features(table, times):
    out = np.zeros((len(table), PACKETS * (2 if times else 1)))
    for row, sizes, waits in zip(out, table.sizes, table.ipt_us):
        n = min(PACKETS, len(sizes))
        row[:n] = sizes[:n]
        if times:
            row[PACKETS:PACKETS + n] = np.log10(1 + waits[:n])
    return out


def figures(truth, verdict):
    return f"{accuracy_score(truth, verdict):.3f} / {f1_score(truth, verdict, average='macro'):.3f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labelled")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--packets", type=int, default=0)
    args = parser.parse_args()
    table = pd.read_parquet(args.labelled)
    table = table[table.split.isin(["train", "val"])].reset_index(drop=True)
    labels, fold = table.label.to_numpy(), np.zeros(len(table), int)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED)
    for k, (_, held) in enumerate(folds.split(table, labels, table.group)):
        fold[held] = k
    args.out.mkdir(parents=True, exist_ok=True)
    cut = table.copy()
    if args.packets:
        cut["sizes"], cut["ipt_us"] = [s[: args.packets] for s in cut.sizes], [t[: args.packets] for t in cut.ipt_us]
    for k in range(FOLDS):
        cut["split"] = np.where(fold == k, "val", "train")
        cut.to_parquet(args.out / f"fold{k}.parquet")
    for times in (False, True):
        x, verdict = features(table, times), np.empty(len(table), object)
        for k in range(FOLDS):
            forest = RandomForestClassifier(100, random_state=0).fit(x[fold != k], labels[fold != k])
            verdict[fold == k] = forest.predict(x[fold == k])
        each = ", ".join(figures(labels[fold == k], verdict[fold == k]) for k in range(FOLDS))
        print(f"forest, {'sizes and log-times' if times else 'sizes'}: {figures(labels, verdict)} ({each})")


if __name__ == "__main__":
    main()
