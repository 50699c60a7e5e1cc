"""Embeddings of flows by the same network in PyTorch and here, alternately, on one thread each (as a worker runs).

    benches/inference.sh [CASE...]

PyTorch's side is the network of train_step.py in inference mode; decoding has no plain peer there and is only printed
by `cargo bench --bench inference`.
"""

import sys

import torch
from train_step import Gpt2, Ours, alternate, repeat

CASES = {
    "embed-2x64": (1100, 2, 64, 2, 256, 22),
    "embed-4x128": (1100, 4, 128, 4, 256, 22),
    "embed-4x128-one": (1100, 4, 128, 4, 1, 22),
    "embed-6x512": (9907, 6, 512, 8, 64, 22),
}

torch.set_num_threads(1)
for name in sys.argv[2:] or CASES:
    vocab, layers, d, heads, flows, tokens = CASES[name]
    model = Gpt2(vocab, layers, d, heads).eval()
    ids = torch.randint(vocab, (flows, tokens))

    @torch.inference_mode()
    def embed():
        return model.hidden(ids)[:, 1:].mean(1)

    ours = Ours(sys.argv[1], name, "1", threads=1)
    print(f"{name}: torch {torch.__version__}, {flows} flows of {tokens} tokens, 1 thread")
    alternate(repeat(embed), ours, flows, "flows", 11, 0.5)
    ours.close()
