"""The network that benches/gpu measures, with the same weights, in PyTorch on a GPU: rows for the same table.

    benches/gpu_torch.py WEIGHTS.safetensors

Classifying: the hidden states of a batch and their mean, eager, by torch.compile, and as CUDA graphs (torch.compile's mode
reduce-overhead). Generating: transformers' generate(), and a loop with a cache of fixed size whose step is compiled to a CUDA
graph. Training: whole steps, eager and compiled. Prints `skipped: <why>` where there is no GPU or no torch.
"""

import json
import statistics
import struct
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError as error:
    sys.exit(print(f"skipped: PyTorch beside it: {error}"))
if not torch.cuda.is_available():
    sys.exit(print("skipped: PyTorch beside it: it finds no GPU"))

TOKENS, DRAWN, SECONDS, RUNS, LAYERS, HEADS, CONTEXT = 22, 126, 2.0, 20, 6, 8, 128


def load(path):
    """The tensors of a safetensors file."""
    data = open(path, "rb").read()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    body = memoryview(data)[8 + size :]
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            values = torch.frombuffer(bytearray(body[begin:end]), dtype=torch.float32)
            tensors[name.removeprefix("transformer.")] = values.reshape(entry["shape"]).cuda()
    return tensors


def norm(x, w, name):
    return F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"])


def linear(x, w, name):
    return torch.addmm(w[name + ".bias"], x.flatten(0, -2), w[name + ".weight"]).unflatten(0, x.shape[:-1])


def blocks(x, w, attend, dropped=lambda x: x):
    for i in range(LAYERS):
        p = f"h.{i}."
        a = attend(i, linear(norm(x, w, p + "ln_1"), w, p + "attn.c_attn"))
        x = x + dropped(linear(a, w, p + "attn.c_proj"))
        inner = F.gelu(linear(norm(x, w, p + "ln_2"), w, p + "mlp.c_fc"), approximate="tanh")
        x = x + dropped(linear(inner, w, p + "mlp.c_proj"))
    return norm(x, w, "ln_f")


def heads(x):
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def embed(ids, w):
    def attend(_, qkv):
        q, k, v = (heads(part) for part in qkv.chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)

    return blocks(w["wte.weight"][ids] + w["wpe.weight"][: ids.shape[1]], w, attend)[:, 1:].mean(1)


def step(ids, position, keys, values, mask, w):
    """One token of each flow: the next, drawn from the softmax over packets' tokens."""

    def attend(i, qkv):
        q, k, v = (heads(part) for part in qkv.chunk(3, -1))
        keys[i].index_copy_(2, position, k)
        values[i].index_copy_(2, position, v)
        a = F.scaled_dot_product_attention(q, keys[i], values[i], attn_mask=mask[position])
        return a.transpose(1, 2).flatten(2)

    hidden = blocks(w["wte.weight"][ids][:, None] + w["wpe.weight"][position], w, attend)[:, 0]
    logits = (hidden @ w["wte.weight"].T)[:, :-5].float()
    return torch.multinomial(logits.softmax(-1), 1)[:, 0]


def measure(what, items, run, unit):
    run(), run()
    torch.cuda.synchronize()
    seconds = []
    while len(seconds) < RUNS or sum(seconds) < SECONDS:
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    half, most = statistics.median(seconds), sorted(seconds)[len(seconds) * 99 // 100]
    print(f"| {what} | {items / half:.0f} {unit}/s; p50 {1e3 * half:.3f} ms, p99 {1e3 * most:.3f} ms | |", flush=True)


def attempt(what, items, make, unit="flows"):
    """Measures what `make` gives; a peer that fails is a row that says so."""
    try:
        measure(what, items, make(), unit)
    except Exception as error:  # whatever goes wrong in there
        print(f"| {what} | failed: {str(error).splitlines()[0][:100]} | |", flush=True)
    torch.cuda.empty_cache()


def classify(w, name, flows):
    ids = torch.randint(9902, (flows, TOKENS), device="cuda")
    for how, options in (("eager", None), ("compiled", {}), ("CUDA graphs", {"mode": "reduce-overhead"})):

        def make():
            torch.compiler.reset()
            function = embed if options is None else torch.compile(embed, **options)
            return lambda: function(ids, w)

        attempt(f"PyTorch {how}: classify, {name}, batch of {flows}, {TOKENS} tokens", flows, make)


def generate(w, name, flows):
    d, dtype = w["ln_f.weight"].shape[0], w["ln_f.weight"].dtype
    what = f"generate, {name}, {flows} flows of {DRAWN} packets at once"

    def graphs():
        torch.compiler.reset()
        shape = (LAYERS, flows, HEADS, 128, d // HEADS)
        keys, values = (torch.zeros(shape, device="cuda", dtype=dtype) for _ in range(2))
        mask = torch.ones(128, 128, device="cuda", dtype=torch.bool).tril()
        function = torch.compile(step, mode="reduce-overhead")
        positions = torch.arange(DRAWN, device="cuda")

        def run():
            ids = torch.full((flows,), 9905, device="cuda")
            for i in range(DRAWN):
                ids = function(ids, positions[i : i + 1], keys, values, mask, w).clone()

        return run

    attempt(f"PyTorch CUDA graphs: {what}", flows, graphs)

    def hugging_face():
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            vocab_size=w["wte.weight"].shape[0], n_positions=128, n_embd=d, n_layer=LAYERS, n_head=HEADS,
            bos_token_id=9905, eos_token_id=None, pad_token_id=9903,
        )
        model = GPT2LMHeadModel(config).to("cuda", dtype).eval()
        model.load_state_dict({"transformer." + key: value for key, value in w.items()}, strict=False)
        first = torch.full((flows, 1), 9905, device="cuda")
        options = {"do_sample": True, "top_k": 0, "min_new_tokens": DRAWN, "max_new_tokens": DRAWN}
        return lambda: model.generate(first, attention_mask=torch.ones_like(first), **options)

    attempt(f"transformers.generate: {what}", flows, hugging_face)


def train(weights, name, dtype, sequences):
    """Steps with dropout, clipping and fused AdamW; in bf16 under autocast, with f32 master weights."""
    what = f"train, {name}, {sequences} sequences of {CONTEXT}"
    ids, targets = torch.randint(9902, (2, sequences, CONTEXT), device="cuda")

    def dropped(x):
        return F.dropout(x, 0.1)

    def attend(_, qkv):
        q, k, v = (heads(part) for part in qkv.chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.1).transpose(1, 2).flatten(2)

    def loss(w):
        x = dropped(w["wte.weight"][ids] + w["wpe.weight"][:CONTEXT])
        hidden = blocks(x, w, attend, dropped)
        return F.cross_entropy((hidden @ w["wte.weight"].T).flatten(0, 1).float(), targets.flatten())

    for how, options in (("eager", None), ("compiled", {})):

        def make():
            torch.compiler.reset()
            w = {key: value.detach().clone().requires_grad_() for key, value in weights.items()}
            optimizer = torch.optim.AdamW(w.values(), lr=1e-4, weight_decay=0.1, fused=True)
            function = loss if options is None else torch.compile(loss, **options)

            def step():
                with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
                    value = function(w)
                value.backward()
                torch.nn.utils.clip_grad_norm_(w.values(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

            return step

        attempt(f"PyTorch {how}: {what}", sequences * CONTEXT, make, "tokens")


def main(path):
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}\n\n| what | figure | |\n| --- | ---: | ---: |")
    weights = load(path)
    for name, dtype in (("F32", torch.float32), ("Bf16", torch.bfloat16)):
        for sequences in (32, 256):
            train(weights, name, dtype, sequences)
    infer(weights)


@torch.inference_mode()
def infer(weights):
    for name, dtype in (("F32", torch.float32), ("Bf16", torch.bfloat16)):
        w = {key: value.to(dtype) for key, value in weights.items()}
        for flows in (1, 64, 4096):
            classify(w, name, flows)
        for flows in (64, 1024, 8192):
            generate(w, name, flows)


main(sys.argv[1])
