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
        a = F.scaled_dot_product_attention(q, k, v, dropout_p=DROPOUT, is_causal=True)
        x = x + F.dropout(self.out(a.transpose(1, 2).reshape(b, t, d)), DROPOUT)
        return x + F.dropout(self.proj(F.gelu(self.fc(self.ln2(x)), approximate="tanh")), DROPOUT)


class Gpt2(nn.Module):
    def __init__(self, vocab, layers, d, heads, positions=128):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, d), nn.Embedding(positions, d)
        self.blocks = nn.ModuleList(Block(d, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(d)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, ids, targets):
        x = F.dropout(self.wte(ids) + self.wpe.weight[: ids.shape[1]], DROPOUT)
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
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


def main(binary, names):
    torch.set_num_threads(THREADS)
    for name in names or CASES:
        step, tokens = torch_step(CASES[name])
        environment = {"RAYON_NUM_THREADS": str(THREADS)}
        ours = subprocess.Popen(
            [binary, "--serve", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        ready = ours.stdout.readline().strip()
        print(f"{name}: torch {torch.__version__} loss {step().item():.3f}; here {ready}", flush=True)
        assert f" {tokens} tokens" in ready

        def time_torch(n):
            start = time.perf_counter()
            for _ in range(n):
                step()
            return time.perf_counter() - start

        def time_ours(n):
            ours.stdin.write(f"{n}\n")
            ours.stdin.flush()
            return float(ours.stdout.readline())

        n = max(1, round(SECONDS / max(time_torch(2) / 2, time_ours(2) / 2)))
        rates = []
        for _ in range(ROUNDS):
            pair = []
            for side in (time_torch, time_ours):
                time.sleep(0.3)  # the other side's threads may still spin
                pair.append(n * tokens / side(n))
            rates.append(pair)
        theirs, our = zip(*rates)
        print(f"  PyTorch   {spread(theirs)} tokens/s, {THREADS} threads, {ROUNDS} rounds of {n} steps")
        print(f"  trafficgpt {spread(our)} tokens/s")
        print(f"  ratio     {spread([b / a for a, b in rates])}", flush=True)
        ours.stdin.close()
        ours.wait()


main(sys.argv[1], sys.argv[2:])
