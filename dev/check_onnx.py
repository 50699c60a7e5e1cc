#!/usr/bin/env python3
"""Checks a bundle with tools that are not ours: `onnx`, `onnxruntime` and `transformers`.

    check_onnx.py BUNDLE                  check it; exit status 1 if anything is off
    check_onnx.py BUNDLE --golden FILE    also write what transformers computes, for the Rust tests

Needs: torch, transformers, safetensors, onnx, onnxruntime, numpy.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors.numpy import load_file
from transformers import GPT2LMHeadModel

TOLERANCE = 1e-4
FAILURES = []


def check(what, condition):
    print(f"{'ok    ' if condition else 'FAILED'}  {what}")
    if not condition:
        FAILURES.append(what)


def check_close(what, ours, theirs):
    """The error is absolute where values are small and relative where they are large."""
    error = float(np.max(np.abs(ours - theirs) / np.maximum(1, np.abs(theirs))))
    check(f"{what}: largest error {error:.1e} of values up to {np.max(np.abs(theirs)):.1f}", error <= TOLERANCE)


def session(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def check_file(path, weights):
    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path, load_external_data=False)
    external = {t.name: {e.key: e.value for e in t.external_data} for t in model.graph.initializer if t.external_data}
    here = all(e["location"] == "model.safetensors" for e in external.values())
    check(f"{path.name}: onnx.checker passes; {path.stat().st_size} bytes", True)
    check(f"{path.name}: all {len(weights)} tensors lie in model.safetensors", here and set(external) == set(weights))
    check(f"{path.name}: operators of the standard only", all(node.domain == "" for node in model.graph.node))


def padded(sequences):
    tokens = np.zeros((len(sequences), max(map(len, sequences))), np.int64)
    mask = np.zeros(tokens.shape, np.float32)
    for i, sequence in enumerate(sequences):
        tokens[i, : len(sequence)] = sequence
        mask[i, 1 : len(sequence)] = 1
    return tokens, mask


def reference(model, sequences):
    """Embedding of each sequence, and the logits after each of its tokens."""
    embeddings, logits = [], []
    with torch.no_grad():
        for sequence in sequences:
            out = model(torch.tensor([sequence]), output_hidden_states=True)
            embeddings.append(out.hidden_states[-1][0, 1:].mean(0).numpy())
            logits.append(out.logits[0].numpy())
    return np.array(embeddings), logits


def check_classifier(bundle, sequences, embeddings):
    graph = session(bundle / "classifier.onnx")
    tokens, mask = padded(sequences)
    names = [output.name for output in graph.get_outputs()]
    out = dict(zip(names, graph.run(None, {"tokens": tokens, "mask": mask})))
    check_close("classifier.onnx: embeddings of a padded batch", out["embedding"], embeddings)
    head_file = bundle / "head.safetensors"
    if not head_file.exists():
        check("classifier.onnx: no head, no scores", names == ["embedding"])
        return
    head = load_file(head_file)
    logits = embeddings @ head["weight"].T + head["bias"]
    tempered = torch.tensor(logits / head["temperature"])
    check_close("classifier.onnx: logits", out["logits"], logits)
    check_close("classifier.onnx: scores", out["scores"], torch.softmax(tempered, -1).numpy())


def check_generator(bundle, config, sequences, logits):
    """All sequences side by side, each beginning and ending at a step of its own, in a cache that grows."""
    graph = session(bundle / "generator.onnx")
    heads, width = config.n_head, config.n_embd // config.n_head
    n = len(sequences)
    names = [output.name for output in graph.get_outputs()]
    begins = [3 * i for i in range(n)]
    steps = max(begin + len(sequence) for begin, sequence in zip(begins, sequences))
    cache = {f"past_{kind}.{layer}": np.zeros((n, heads, 0, width), np.float32)
             for layer in range(config.n_layer) for kind in ("key", "value")}
    mask = np.zeros((n, 1, 1, 0), np.float32)
    worst = 0.0
    for step in range(steps):
        age = [step - begin for begin in begins]
        live = [0 <= a < len(sequence) for a, sequence in zip(age, sequences)]
        token = np.array([[s[a] if on else 0] for s, a, on in zip(sequences, age, live)], np.int64)
        position = np.array([[a if on else 0] for a, on in zip(age, live)], np.int64)
        out = dict(zip(names, graph.run(None, {"token": token, "position": position, "mask": mask, **cache})))
        for i in range(n):
            if live[i]:
                theirs = logits[i][age[i]]
                worst = max(worst, float(np.max(np.abs(out["logits"][i] - theirs) / np.maximum(1, np.abs(theirs)))))
        for name in cache:
            cache[name] = np.concatenate([cache[name], out[name.removeprefix("past_")]], axis=2)
        mask = np.concatenate([mask, np.array(live, np.float32).reshape(n, 1, 1, 1)], axis=3)
    check(f"generator.onnx: logits along {steps} steps of {n} flows: largest error {worst:.1e}", worst <= TOLERANCE)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--golden", type=Path)
    args = parser.parse_args()

    weights = load_file(args.bundle / "model.safetensors")
    model, info = GPT2LMHeadModel.from_pretrained(args.bundle, output_loading_info=True)
    model.eval()
    clean = not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    check("transformers loads the bundle, with no key missing, unexpected or mismatched", clean)
    same = all(np.array_equal(model.state_dict()[name].numpy(), value) for name, value in weights.items())
    check("transformers has the same values under the same names", same)
    check("transformers ties the output head", model.lm_head.weight is model.transformer.wte.weight)

    config = model.config
    random = np.random.default_rng(5)
    longest = config.n_positions
    lengths = [longest, 2, longest // 2, 5, longest - 1, 3, longest // 3]
    sequences = [random.integers(0, config.vocab_size, n).tolist() for n in lengths]
    embeddings, logits = reference(model, sequences)
    for name in ("classifier.onnx", "generator.onnx"):
        check_file(args.bundle / name, weights)
    check_classifier(args.bundle, sequences, embeddings)
    check_generator(args.bundle, config, sequences, logits)

    if args.golden:
        rows = [{"tokens": sequence, "embedding": embedding.tolist(), "logits": last[-1].tolist()}
                for sequence, embedding, last in zip(sequences, embeddings, logits)]
        args.golden.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
    sys.exit(1 if FAILURES else 0)


if __name__ == "__main__":
    main()
