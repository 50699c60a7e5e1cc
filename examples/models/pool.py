#!/usr/bin/env python3
"""Takes out of a pool of unlabelled flows whatever could tell a model about flows it will be judged by.

    python3 pool.py POOL.parquet LABELLED.parquet OUT.parquet [--exclude-corpus NAME]... [--strict] [--sample N]

Dropped are: the flows of the named corpora; flows equal in sizes and times to any labelled flow (those of the training
split come with their labels anyway); and every flow of a capture that holds a flow of the splits `val` or `test`,
whether its name says so or such an equal flow does. With --strict a flow is held to be equal if the sizes of its first
20 packets are: for flows that a teacher is to label. --sample keeps N of the flows, drawn at random but always the same
ones. Needs pandas and pyarrow.
"""
import argparse

import pandas as pd


def capture(group):
    """The capture a group stands for: tables prefix it with one letter and a colon."""
    return group[2:] if group[1:2] == ":" else group


def sizes(table):
    return [tuple(packets[:20]) for packets in table.sizes]


def content(table):
    return [packets.tobytes() + times.tobytes() for packets, times in zip(table.sizes, table.ipt_us)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool")
    parser.add_argument("labelled")
    parser.add_argument("out")
    parser.add_argument("--exclude-corpus", action="append", default=[])
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--sample", type=int)
    args = parser.parse_args()
    pool, labelled = pd.read_parquet(args.pool), pd.read_parquet(args.labelled)
    n = len(pool)
    pool = pool[~pool.corpus.isin(args.exclude_corpus)].reset_index(drop=True)
    held_out = labelled[labelled.split.isin(["val", "test"])]
    known, held = set(content(labelled)), set(content(held_out))
    keys, captures = content(pool), pool.group.map(capture)
    touched = set(held_out.group.map(capture)) | {c for c, key in zip(captures, keys) if key in held}
    if args.strict:
        alike = set(sizes(held_out))
        touched |= {c for c, key in zip(captures, sizes(pool)) if key in alike}
    keep = [key not in known and c not in touched for c, key in zip(captures, keys)]
    out = pool[keep].copy()
    out["label"], out["split"], out["group"] = None, "train", captures[keep]
    if args.sample:
        out = out.sample(min(args.sample, len(out)), random_state=0)
    out.to_parquet(args.out, compression="zstd")
    print(f"{args.out}: {len(out)} of {n} flows kept")


if __name__ == "__main__":
    main()
