"""Embeddings of flows by the same weights in PyTorch, ONNX Runtime and here, in turn, on one thread each.

    benches/inference.sh [NETWORK...]      (builds the Rust side and calls this with its path)

Flows are as long as real ones (quartiles 8, 12 and 24 packets, at most 126) and come 1, 32 or 256 at a time, in no order.
PyTorch is `transformers`' GPT2Model, ONNX Runtime runs the bundle's own graph. Both take rectangles, so they pad; a
batch may first be sorted by length and cut into groups that are padded on their own. Each uses the way that was fastest
for it just before: attention eager or SDPA, with or without a mask (flows are padded at the end, where a causal network
needs none), and the size of the groups. "bf16" is the native engine with that `precision`, on processors with AVX512-BF16.
A round times each side once; ratios are taken within a round. Seconds are those of the processor, which other work on the
machine lengthens less than those of the clock.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnxruntime
import torch
import transformers

BATCHES = [1, 32, 256]
GROUPS = [4, 8, 16, 32, 64, 256]
ROUNDS, SECONDS, TOLERANCE = 7, 0.3, 1e-4


def padded(flows):
    """Tokens and the mask of the positions whose mean is taken."""
    tokens = np.zeros((len(flows), max(map(len, flows))), np.int64)
    mask = np.zeros(tokens.shape, np.float32)
    for i, flow in enumerate(flows):
        tokens[i, : len(flow)] = flow
        mask[i, 1 : len(flow)] = 1
    return tokens, mask


def groups(batch, size):
    """A batch as it is, or sorted and cut."""
    if size >= len(batch):
        return [batch]
    batch = sorted(batch, key=len)
    return [batch[i : i + size] for i in range(0, len(batch), size)]


class Torch:
    name = f"PyTorch {torch.__version__}"

    def __init__(self, bundle):
        load = transformers.GPT2Model.from_pretrained
        self.models = {a: load(bundle, attn_implementation=a).eval() for a in ("eager", "sdpa")}

    def ways(self, batch):
        sizes = [n for n in GROUPS if n <= batch] or [batch]
        # Size first, then the rest.
        return [sizes, ["sdpa", "eager"], [False, True] if batch > 1 else [False]]

    @torch.inference_mode()
    def embed(self, flows, size, attention="sdpa", masked=False):
        out = None
        for group in groups(flows, size):
            tokens, mask = map(torch.from_numpy, padded(group))
            whole = mask.clone()
            whole[:, 0] = 1
            hidden = self.models[attention](
                tokens, attention_mask=whole if masked else None, use_cache=False
            ).last_hidden_state
            embedding = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
            out = embedding if out is None else out
        return out.numpy()


class Onnx:
    name = f"ONNX Runtime {onnxruntime.__version__}"

    def __init__(self, bundle):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        path = os.path.join(bundle, "classifier.onnx")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def ways(self, batch):
        return [[n for n in GROUPS if n <= batch] or [batch]]

    def embed(self, flows, size):
        out = None
        for group in groups(flows, size):
            tokens, mask = padded(group)
            embedding = self.session.run(["embedding"], {"tokens": tokens, "mask": mask})[0]
            out = embedding if out is None else out
        return out


class Ours:
    name = "trafficgpt"

    def __init__(self, binary, bundle, flows, batch, precision):
        command = [binary, "--serve", bundle, flows, str(batch), precision]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n"

    def ask(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def timed(self, n):
        before = self.seconds()
        self.ask(n)
        return self.seconds() - before

    def seconds(self):
        """Processor time of the process so far; it has one thread."""
        with open(f"/proc/{self.process.pid}/schedstat") as file:
            return int(file.read().split()[0]) / 1e9

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def passes(peer, flows, batch, way):
    """Seconds of n passes over all flows, as a function of n."""

    def timed(n):
        start = time.thread_time()
        for _ in range(n):
            for i in range(0, len(flows), batch):
                peer.embed(flows[i : i + batch], *way)
        return time.thread_time() - start

    return timed


def fastest(peer, flows, batch):
    """The best way for a peer: each of its choices in turn, the others held."""
    choices = peer.ways(batch)
    way = [options[0] for options in choices]
    for i, options in enumerate(choices):
        times = {}
        for option in options:
            way[i] = option
            timed = passes(peer, flows, batch, way)
            times[option] = min(timed(1), timed(1)) if len(options) > 1 else 0
        way[i] = min(times, key=times.get)
    return way


def spread(values, form):
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{form(middle)} [{form(low)}, {form(high)}]"


def rate(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def compare(binary, name, directory):
    bundle = os.path.join(directory, name)
    text = subprocess.run([binary, "--write", name, bundle], check=True, capture_output=True, text=True).stdout
    file = os.path.join(directory, f"{name}.txt")
    with open(file, "w") as out:
        out.write(text)
    flows = [[int(t) for t in line.split()] for line in text.splitlines()]
    peers = [Torch(bundle), Onnx(bundle)]
    for batch in BATCHES:
        ours, rounded = [Ours(binary, bundle, file, batch, p) for p in ("f32", "bf16")]
        mine = np.array(ours.ask("embeddings"))
        error = np.abs(np.array(rounded.ask("embeddings")) - mine).max() / np.abs(mine).max()
        sides, ways = [], []
        for peer in peers:
            way = fastest(peer, flows, batch)
            theirs = peer.embed(flows[:1], *way)[0]
            assert np.allclose(mine, theirs, rtol=TOLERANCE, atol=TOLERANCE), f"{name}: {peer.name} answers otherwise"
            ways.append(f"{peer.name}: " + ", ".join(map(str, way)))
            sides.append(passes(peer, flows, batch, way))
        sides += [ours.timed, rounded.timed]
        counts = [max(1, round(SECONDS / max(side(1), 1e-4))) for side in sides]
        rounds = [[n * len(flows) / side(n) for side, n in zip(sides, counts)] for _ in range(ROUNDS)]
        columns = [spread([r[i] for r in rounds], rate) for i in range(4)]
        ratios = [spread([r[k] / r[i] for r in rounds], "{:.2f}".format) for k in (2, 3) for i in range(2)]
        print("| " + " | ".join([name, str(batch), *columns, *ratios]) + " |", flush=True)
        print(f"    {'; '.join(ways)}; bf16 is {error:.1e} of the largest value off", file=sys.stderr, flush=True)
        ours.close()
        rounded.close()


def main(binary, names):
    torch.set_num_threads(1)
    print(f"{Torch.name} (transformers {transformers.__version__}), {Onnx.name}; one thread each; flows/s")
    print("| network | batch | PyTorch | ONNX Runtime | here | bf16 | over PyTorch | over ONNX Runtime | bf16: | |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as directory:
        for name in names or ["2x64", "4x128", "6x512"]:
            compare(binary, name, directory)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
