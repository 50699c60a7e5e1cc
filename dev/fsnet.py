"""FS-Net on a flow table: what a recurrent network reaches where `trafficgpt evaluate` judges a bundle.

After Liu, He, Xiong, Cao and Li, "FS-Net: a flow sequence network for encrypted traffic classification", INFOCOM 2019: the
signed sizes of a flow's packets are embedded; a bidirectional GRU of two layers reads them, a second one of the same form is
to say them again from the first one's final states alone; both ones' final states, their product and their distance go
through a perceptron that names the class. The loss is the cross-entropy of the class plus that of the sizes said again.

Usage: python dev/fsnet.py TABLE.parquet [--split val] [--packets 32] [--epochs 40] [--seed 0] [--threads 1] [--json FILE]

Fits to split `train` for a fixed number of epochs, so that no flow it is judged by has a say, and prints accuracy, macro-F1,
weighted F1, calibration error over 15 bins, mean negative log-likelihood and F1 of every class. Needs torch, pandas,
pyarrow and scikit-learn.
"""
import argparse
import json
import time

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss
from torch import nn
from torch.nn.functional import cross_entropy

PAD, UNSEEN, FIRST = 0, 1, 2
WIDTH, LAYERS, BATCH, RATE, DROPOUT, BINS = 128, 2, 128, 5e-4, 0.3, 15


class Reader(nn.Module):
    """Rows of vectors to the states after each and the final states of all layers and directions."""

    def __init__(self, width):
        super().__init__()
        self.gru = nn.GRU(width, WIDTH, LAYERS, batch_first=True, bidirectional=True, dropout=DROPOUT)

    def forward(self, rows, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(rows, lengths, batch_first=True, enforce_sorted=False)
        states, final = self.gru(packed)
        states, _ = nn.utils.rnn.pad_packed_sequence(states, batch_first=True, total_length=rows.shape[1])
        return states, final.transpose(0, 1).flatten(1)


class FsNet(nn.Module):
    def __init__(self, n_sizes, n_classes):
        super().__init__()
        final = 2 * LAYERS * WIDTH
        self.embed = nn.Embedding(n_sizes, WIDTH, padding_idx=PAD)
        self.encoder, self.decoder = Reader(WIDTH), Reader(final)
        self.say = nn.Linear(2 * WIDTH, n_sizes)
        layer = lambda width: [nn.Linear(width, WIDTH), nn.SELU(), nn.Dropout(DROPOUT)]
        self.name = nn.Sequential(*layer(4 * final), *layer(WIDTH), nn.Linear(WIDTH, n_classes))

    def forward(self, sizes, lengths):
        _, read = self.encoder(self.embed(sizes), lengths)
        states, said = self.decoder(read.unsqueeze(1).expand(-1, sizes.shape[1], -1), lengths)
        return self.name(torch.cat([read, said, read * said, (read - said).abs()], 1)), self.say(states)


def calibration_error(confidence, right):
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)
    gap = lambda k: abs(confidence[bins == k].sum() - right[bins == k].sum())
    return sum(gap(k) for k in range(BINS)) / len(confidence)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("--split", default="val", choices=["val", "test"])
    parser.add_argument("--packets", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    table = pd.read_parquet(args.table, filters=[("split", "in", ["train", args.split])])
    table = table[table.label.notna()]
    fitted = (table.split == "train").to_numpy()
    if not fitted.any() or fitted.all():
        parser.error(f"the table needs labelled flows of split train and of split {args.split}")
    classes = sorted(table.label[fitted].unique())
    judged = ~fitted & table.label.isin(classes).to_numpy()
    ids = {size: FIRST + i for i, size in enumerate(sorted({s for row in table.sizes[fitted] for s in row[: args.packets]}))}
    lengths = torch.tensor([min(len(row), args.packets) for row in table.sizes])
    sizes = torch.full((len(table), args.packets), PAD)
    for row, packets in zip(sizes, table.sizes):
        row[: min(len(packets), args.packets)] = torch.tensor([ids.get(s, UNSEEN) for s in packets[: args.packets]])
    place = {label: i for i, label in enumerate(classes)}
    labels = torch.tensor([place.get(label, 0) for label in table.label])
    train, test = (torch.tensor(np.flatnonzero(which)) for which in (fitted, judged))

    model = FsNet(FIRST + len(ids), len(classes))
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    began = time.time()
    for epoch in range(args.epochs):
        model.train()
        total = 0.0
        for batch in train[torch.randperm(len(train))].split(BATCH):
            named, said = model(sizes[batch], lengths[batch])
            loss = cross_entropy(named, labels[batch])
            loss = loss + cross_entropy(said.flatten(0, 1), sizes[batch].flatten(), ignore_index=PAD)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        print(f"epoch {epoch + 1}: loss {total / len(train):.4f}, {time.time() - began:.0f} s", flush=True)
    fit_seconds, began = time.time() - began, time.time()
    model.eval()
    with torch.no_grad():
        shares = torch.cat([model(sizes[batch], lengths[batch])[0].softmax(1) for batch in test.split(BATCH)]).double().numpy()
    shares /= shares.sum(1, keepdims=True)
    truth, verdict = labels[test].numpy(), shares.argmax(1)
    report = {
        "method": "FS-Net",
        "split": args.split,
        "flows": len(truth),
        "accuracy": accuracy_score(truth, verdict),
        "macro_f1": f1_score(truth, verdict, average="macro", zero_division=0),
        "weighted_f1": f1_score(truth, verdict, average="weighted", zero_division=0),
        "calibration_error": calibration_error(shares.max(1), truth == verdict),
        "nll": log_loss(truth, shares, labels=range(len(classes))),
        "fit_seconds": fit_seconds,
        "judge_seconds": time.time() - began,
        "f1": dict(zip(classes, f1_score(truth, verdict, labels=range(len(classes)), average=None, zero_division=0))),
    }
    print("accuracy {accuracy:.4f}  macro-F1 {macro_f1:.4f}  weighted-F1 {weighted_f1:.4f}".format(**report))
    print("nll {nll:.4f}  calibration error {calibration_error:.4f}  flows {flows} of split {split}".format(**report))
    for label, f1 in report["f1"].items():
        print(f"{label:24} f1 {f1:.4f}  flows {(truth == place[label]).sum()}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(report, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
