#!/usr/bin/env python3
"""Checks `trafficgpt import` against transformers, and the way back.

    check_import.py TRAFFICGPT                  import checkpoints in every form; exit status 1 if anything is off
    check_import.py TRAFFICGPT --original DIR   also with clusters.json and ids_to_tokens.json of DIR, a network of their size
    check_import.py --golden DIR                write the small files of the Rust tests

TRAFFICGPT is the program. Networks have random weights, made here by transformers; logits are compared by ONNX Runtime on
the bundle's graph, token by token, and by the native engine through `trafficgpt score`. Back: transformers loads the
bundle's directory, saves it, and `import --like` makes the same bundle of it.

Needs: torch, transformers, safetensors, onnxruntime, numpy.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

TOLERANCE = 1e-4
FAILURES = []
CLASSES = ["Zoom", "DNS", "Netflix"]


def check(what, condition):
    print(f"{'ok    ' if condition else 'FAILED'}  {what}")
    if not condition:
        FAILURES.append(what)


def network(seed, vocab, positions=16, layers=2, width=8, heads=2, inner=None):
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocab, n_positions=positions, n_embd=width, n_layer=layers, n_head=heads, n_inner=inner,
        bos_token_id=0, eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).eval()
    # Biases and norms that are not the trivial ones, so that a part that is left out shows; matrices that neither blow
    # values up nor let them fade, at any width, for else f32 itself is off by more than the tolerance.
    spread = 0.85 / width**0.5
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(torch.randn_like(p) * (spread if p.dim() == 2 else 0.1))
    return model


def meaning(directory, k):
    """The original project's files for k centroids, with an empty cluster among them."""
    points = np.stack([np.linspace(-1, 1, k), np.arange(k) % 5 - 1.0], 1).tolist()
    points.insert(k // 2, [float("nan"), float("nan")])
    (directory / "clusters.json").write_text(json.dumps(points))
    names = ["[EOF]", "[PAD]", "[UNK]", "[BOF]", *CLASSES]
    (directory / "ids_to_tokens.json").write_text(json.dumps({str(k + i): name for i, name in enumerate(names)}))


def bare(weights):
    return {name.removeprefix("transformer."): value for name, value in weights.items() if name != "lm_head.weight"}


def tied(model):
    """The state dict as transformers saves it in safetensors: the head is the embedding, once."""
    return {n: v.contiguous() for n, v in model.state_dict().items() if n != "lm_head.weight"}


def saved(directory, model, form):
    """Writes `model` in one of the forms there are."""
    directory.mkdir(parents=True)
    model.config.save_pretrained(directory)
    weights = model.state_dict()
    if form == "safetensors":
        model.save_pretrained(directory)
    elif form == "pickle":
        torch.save(weights, directory / "pytorch_model.bin")
    elif form == "pickle of GPT2Model, with masks":
        n = model.config.n_positions
        masks = {f"h.{i}.attn.bias": torch.ones(n, n).tril().bool()[None, None] for i in range(model.config.n_layer)}
        masks |= {f"h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in range(model.config.n_layer)}
        torch.save(bare(weights) | masks, directory / "pytorch_model.bin")
    elif form == "pickle of parameters":
        torch.save({name: torch.nn.Parameter(value) for name, value in weights.items()}, directory / "pytorch_model.bin")
    elif form == "safetensors, f16":
        save_file({n: v.half() for n, v in bare(weights).items()}, directory / "model.safetensors")
    elif form == "pickle, bf16":
        torch.save({n: v.bfloat16() for n, v in weights.items()}, directory / "pytorch_model.bin")
    elif form == "shards":
        model.save_pretrained(directory, max_shard_size="3KB")
        assert (directory / "model.safetensors.index.json").exists()
    elif form == "shards of both halves":
        parts = [{}, {}]
        for i, (name, value) in enumerate(tied(model).items()):
            parts[i % 2][name] = value.half() if i % 2 else value.bfloat16()
        where = {name: f"part-{i}.safetensors" for i, part in enumerate(parts) for name in part}
        for i, part in enumerate(parts):
            save_file(part, directory / f"part-{i}.safetensors")
        (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    else:
        raise ValueError(form)


def theirs(directory):
    """The network as transformers loads it, in f32."""
    model = GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32).eval()
    return model


def sequences(config, seed=5):
    random = np.random.default_rng(seed)
    longest = config.n_positions
    return [random.integers(0, config.vocab_size, n).tolist() for n in (longest, 3, longest // 2)]


def logits_of_graph(bundle, config, sequence):
    graph = onnxruntime.InferenceSession(bundle / "generator.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in graph.get_outputs()]
    width = config.n_embd // config.n_head
    cache = {f"past_{kind}.{layer}": np.zeros((1, config.n_head, 0, width), np.float32)
             for layer in range(config.n_layer) for kind in ("key", "value")}
    rows = []
    for i, token in enumerate(sequence):
        feed = {"token": np.array([[token]], np.int64), "position": np.array([[i]], np.int64),
                "mask": np.zeros((1, 1, 1, i), np.float32) + 1, **cache}
        out = dict(zip(names, graph.run(None, feed)))
        rows.append(out["logits"][0])
        cache = {name: np.concatenate([value, out[name.removeprefix("past_")]], 2) for name, value in cache.items()}
    return np.array(rows)


def logits_of(model, sequence):
    with torch.no_grad():
        return model(torch.tensor([sequence])).logits[0].numpy()


def difference(ours, reference):
    return float(np.max(np.abs(ours - reference)))


def run(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))}: {done.stderr}")
    return done.stderr


def score_difference(program, place, bundle, model, k):
    """The native engine's likelihoods of flows against those of transformers' logits."""
    centroids = load_file(bundle / "quantizer.safetensors")["centroids"].double().numpy()
    random = np.random.default_rng(3)
    most = model.config.n_positions - 2
    flows = [random.integers(0, k, random.integers(1, most + 1)).tolist() for _ in range(20)]
    lines = []
    for flow in flows:
        points = centroids[flow]
        sizes = np.rint(points[:, 0] * 1500).astype(int)
        lines.append({"sizes": sizes.tolist(), "ipt_us": (1e3 * 10 ** points[:, 1]).tolist()})
    table = place / "flows.jsonl"
    table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run(program, "score", bundle, table, "--top", 0, "--json", "--engine", "native", "-o", place / "scores.jsonl")
    worst = 0.0
    for line in (place / "scores.jsonl").read_text().splitlines():
        score = json.loads(line)
        if "nll" not in score:
            continue
        given = lines[score["flow"] - 1]
        # 0 ms and 1 ms are one point of the original's scaler.
        times = np.log10(np.array(given["ipt_us"], np.float32).astype(float) / 1e3)
        points = np.stack([np.array(given["sizes"]) / 1500, times], 1)
        tokens = ((points[:, None] - centroids[None]) ** 2).sum(-1).argmin(1)
        logits = torch.tensor(logits_of(model, [k + 3, *tokens[:-1]])).double()
        legal = torch.cat([logits[:, :k], logits[:, k : k + 1]], 1)
        legal[0, k] = -torch.inf
        nll = -torch.log_softmax(legal, 1)[torch.arange(len(tokens)), torch.tensor(tokens)].mean().item()
        worst = max(worst, abs(nll - score["nll"]))
    return worst


def check_form(program, place, form, model, k, meaning_of=None):
    source, bundle = place / "checkpoint", place / "model.tgpt"
    saved(source, model, form)
    if meaning_of:
        for name in ("clusters.json", "ids_to_tokens.json"):
            shutil.copy(meaning_of / name, source)
    else:
        meaning(source, k)
    run(program, "import", source, "-o", bundle)
    reference = theirs(source)
    manifest = json.loads((bundle / "manifest.json").read_text())
    kept = sequences(reference.config)
    error = max(difference(logits_of_graph(bundle, reference.config, s), logits_of(reference, s)) for s in kept)
    largest = max(float(np.max(np.abs(logits_of(reference, s)))) for s in kept)
    check(f"{form}: logits of ONNX Runtime differ by {error:.1e} (they are up to {largest:.1f})", error <= TOLERANCE)
    error = score_difference(program, place, bundle, reference, k)
    check(f"{form}: scores of the native engine differ by {error:.1e}", error <= TOLERANCE)
    check(f"{form}: ids are those of the files", manifest["vocabulary"]["eof"] == k)
    back = GPT2LMHeadModel.from_pretrained(bundle).eval()
    error = max(difference(logits_of(back, s), logits_of(reference, s)) for s in kept)
    check(f"{form}: the bundle in transformers: logits differ by {error:.1e}", error <= TOLERANCE)
    back.save_pretrained(place / "saved")
    run(program, "import", place / "saved", "--like", bundle, "-o", place / "again.tgpt")
    same = (bundle / "model.safetensors").read_bytes() == (place / "again.tgpt/model.safetensors").read_bytes()
    check(f"{form}: saved by transformers and imported again, the weights are the same bytes", same)
    return reference, kept


FORMS = [
    "safetensors", "pickle", "pickle of GPT2Model, with masks", "pickle of parameters", "safetensors, f16",
    "pickle, bf16", "shards", "shards of both halves",
]

# What the Rust tests read, by directory: form, and width of the feed-forward layer.
GOLDEN = {
    "safetensors": ("safetensors", 13), "pickle": ("pickle", None),
    "masks": ("pickle of GPT2Model, with masks", 7), "halves": ("shards of both halves", None),
}


def write_golden(directory, vocab, k):
    for name, (form, inner) in GOLDEN.items():
        place = directory / name
        shutil.rmtree(place, ignore_errors=True)
        saved(place, network(len(name), vocab, inner=inner), form)
        meaning(place, k)
        (place / "generation_config.json").unlink(missing_ok=True)
        model = theirs(place)
        rows = [{"tokens": s, "logits": np.float32(logits_of(model, s)).tolist()} for s in sequences(model.config)]
        (place / "expected.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?")
    parser.add_argument("--original", type=Path)
    parser.add_argument("--golden", type=Path)
    args = parser.parse_args()
    k = 12
    vocab = k + 4 + len(CLASSES)
    if args.golden:
        write_golden(args.golden, vocab, k)
    if not args.program:
        return
    program = str(Path(args.program).resolve())
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        for i, form in enumerate(FORMS):
            for inner in (None, 13):
                (scratch / f"{i}-{inner}").mkdir()
                print(f"n_inner {inner or '4 x n_embd'}")
                check_form(program, scratch / f"{i}-{inner}", form, network(i, vocab, inner=inner), k)
        if args.original:
            rows = json.loads((args.original / "clusters.json").read_text())
            finite = [row for row in rows if np.isfinite(row).all()]
            names = json.loads((args.original / "ids_to_tokens.json").read_text())
            print(f"the original's tokens, {len(finite)} centroids and {len(names)} names, 6 layers of 512")
            model = network(1, len(finite) + len(names), 128, 6, 512, 8)
            (scratch / "original").mkdir()
            check_form(program, scratch / "original", "pickle", model, len(finite), args.original)
    sys.exit(1 if FAILURES else 0)


if __name__ == "__main__":
    main()
