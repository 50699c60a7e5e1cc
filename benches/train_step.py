"""Training steps of the same network in PyTorch and here, alternately, in one run.

    benches/train_step.sh [CASE...]      (builds the Rust side and calls this with its path)

Each round times one side, then the other; the ratio is taken within a round, and medians and quartiles are over rounds,
so that other load on the machine falls on both. PyTorch's side is a plain good GPT-2: scaled_dot_product_attention,
F.cross_entropy, fused AdamW, gradients clipped, dropout 0.1. Ragged batches are right-padded for it; tokens per second
count real tokens only.
"""

import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

THREADS, ROUNDS, SECONDS, DROPOUT = 2, 11, 2.0, 0.1
CASES = {
    "6x512": (9907, 6, 512, 8, 16, 128, 128),
    "4x128": (1100, 4, 128, 4, 64, 32, 32),
    "4x128-ragged": (1100, 4, 128, 4, 64, 4, 32),
}


class Block(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.fc, self.proj = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        p = DROPOUT if self.training else 0.0
        a = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        x = x + F.dropout(self.out(a.transpose(1, 2).reshape(b, t, d)), p)
        return x + F.dropout(self.proj(F.gelu(self.fc(self.ln2(x)), approximate="tanh")), p)


class Gpt2(nn.Module):
    def __init__(self, vocab, layers, d, heads, positions=128):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, d), nn.Embedding(positions, d)
        self.blocks = nn.ModuleList(Block(d, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(d)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)

    def hidden(self, ids):
        x = F.dropout(self.wte(ids) + self.wpe.weight[: ids.shape[1]], DROPOUT, self.training)
        for block in self.blocks:
            x = block(x)
        return self.ln_f(x)

    def forward(self, ids, targets):
        logits = F.linear(self.hidden(ids), self.wte.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


def torch_step(case):
    vocab, layers, d, heads, sequences, shortest, longest = case
    torch.manual_seed(1)
    model = Gpt2(vocab, layers, d, heads)
    ids = torch.randint(vocab, (sequences, longest))
    targets = torch.randint(vocab, (sequences, longest))
    lengths = [shortest + (longest - shortest) * i // (sequences - 1) for i in range(sequences)]
    for i, n in enumerate(lengths):
        targets[i, n:] = -100
    groups = [
        {"params": [p for p in model.parameters() if p.dim() == 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() != 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=3e-4, fused=True)

    def step():
        loss = model(ids, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    return step, sum(lengths)


def spread(values):
    low, _, high = statistics.quantiles(values, n=4)
    return f"{statistics.median(values):.3g} (quartiles {low:.3g} to {high:.3g})"


def alternate(theirs, ours, count, unit, rounds, seconds):
    """Times `theirs(n)` and `ours(n)`, each returning the seconds of n runs of `count` units, in turn; prints both."""
    n = max(1, round(seconds / max(theirs(2) / 2, ours(2) / 2)))
    rates = []
    for _ in range(rounds):
        pair = []
        for side in (theirs, ours):
            time.sleep(0.3)  # the other side's threads may still spin
            pair.append(n * count / side(n))
        rates.append(pair)
    print(f"  PyTorch    {spread([a for a, _ in rates])} {unit}/s, {rounds} rounds of {n} runs")
    print(f"  trafficgpt {spread([b for _, b in rates])} {unit}/s")
    print(f"  ratio      {spread([b / a for a, b in rates])}", flush=True)


def repeat(step):
    """Seconds that n runs of `step` take, as a function of n."""

    def timed(n):
        start = time.perf_counter()
        for _ in range(n):
            step()
        return time.perf_counter() - start

    return timed


class Ours:
    """The Rust side, serving one case."""

    def __init__(self, binary, *arguments, threads):
        self.process = subprocess.Popen(
            [binary, "--serve", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={"RAYON_NUM_THREADS": str(threads)},
        )
        self.ready = self.process.stdout.readline().strip()

    def __call__(self, n):
        self.process.stdin.write(f"{n}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def main(binary, names):
    torch.set_num_threads(THREADS)
    for name in names or CASES:
        step, tokens = torch_step(CASES[name])
        ours = Ours(binary, name, threads=THREADS)
        print(f"{name}: torch {torch.__version__} loss {step().item():.3f}; here {ours.ready}; {THREADS} threads")
        assert f" {tokens} tokens" in ours.ready
        alternate(repeat(step), ours, tokens, "tokens", ROUNDS, SECONDS)
        ours.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
