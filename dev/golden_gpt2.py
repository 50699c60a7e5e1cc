"""Golden vectors of the network from PyTorch and Hugging Face transformers: tests/golden/gpt2.safetensors.

    python dev/golden_gpt2.py [OUTPUT [N_LAYER N_EMBD N_HEAD VOCAB N_POSITIONS]]

A GPT2LMHeadModel with random weights runs a batch of sequences of odd lengths, right-padded and masked, and the same
sequences one by one; both must agree before anything is written. The sizes by default keep the file small; larger ones
serve a check at the size of a real model (GPT2_GOLDEN names such a file to the tests).
"""

import json
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import GPT2Config, GPT2LMHeadModel

output = sys.argv[1] if len(sys.argv) > 1 else "tests/golden/gpt2.safetensors"
n_layer, n_embd, n_head, vocab, positions = map(int, sys.argv[2:] or (2, 12, 2, 17, 9))
torch.manual_seed(3)
torch.set_default_dtype(torch.float64)  # the oracle's own rounding stays out of the comparison

model = GPT2LMHeadModel(
    GPT2Config(
        vocab_size=vocab, n_positions=positions, n_embd=n_embd, n_layer=n_layer, n_head=n_head,
        activation_function="gelu_new", layer_norm_epsilon=1e-5, attn_implementation="eager",
    )
).eval()
assert model.lm_head.weight is model.transformer.wte.weight
with torch.no_grad():
    for name, p in model.named_parameters():
        spread = 1 / p.shape[0] ** 0.5 if p.dim() == 2 and "wte" not in name and "wpe" not in name else 0.3
        base = 1.0 if "ln_" in name and name.endswith("weight") else 0.0
        p.copy_((base + spread * torch.randn_like(p)).float())

lengths = [5, 1, positions, 3, positions - 2, 1]
tokens = [torch.randint(vocab, (n,)) for n in lengths]
tokens[0][1] = tokens[0][3] = tokens[2][0]  # one token several times: its gradients add up
targets = [torch.cat([t[1:], torch.tensor([-100])]) for t in tokens]
targets[4][2] = -100

longest = max(lengths)
ids = torch.zeros(len(lengths), longest, dtype=torch.long)
mask = torch.zeros_like(ids)
labels = torch.full_like(ids, -100)
for i, n in enumerate(lengths):
    ids[i, :n], mask[i, :n], labels[i, :n] = tokens[i], 1, targets[i]


def run():
    """Hidden states and logits of the real tokens, from the padded batch."""
    hidden = model.transformer(ids, attention_mask=mask).last_hidden_state
    logits = model.lm_head(hidden)
    rows = mask.bool()
    return hidden[rows], logits[rows]


hidden, logits = run()
alone = torch.cat([model.transformer(t[None]).last_hidden_state[0] for t in tokens])
assert torch.allclose(hidden, alone, atol=1e-10)
flat = labels[mask.bool()]
nll = F.cross_entropy(logits, flat, reduction="none", ignore_index=-100)


def gradients(loss):
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters()}


scale = 0.125
weights = {n: p.detach().clone() for n, p in model.named_parameters()}
lm = gradients(scale * nll.sum())

hidden, logits = run()
head = torch.randn(3, n_embd).float().double()
pooled = torch.stack([h.mean(0) for h in hidden.split(lengths)])
classes = torch.tensor([i % 3 for i in range(len(lengths))])
pool = gradients(F.cross_entropy(pooled @ head.T, classes))

# Three steps of AdamW, the gradients clipped to a global norm; decay on matrices only.
settings = {"lr": [1e-2, 5e-3, 2e-3], "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "clip": 2.0}
groups = [
    {"params": [p for p in model.parameters() if p.dim() == 2], "weight_decay": settings["weight_decay"]},
    {"params": [p for p in model.parameters() if p.dim() != 2], "weight_decay": 0.0},
]
optimizer = torch.optim.AdamW(groups, lr=1.0, betas=settings["betas"], eps=settings["eps"])
norms = []
for step, lr in enumerate(settings["lr"]):
    for name, p in model.named_parameters():
        p.grad = lm[name] * (1.0, -0.5, 2.0)[step] + 0.01 * step * pool[name]
    norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip"]).item())
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
stepped = {n: p.detach().clone() for n, p in model.named_parameters()}

tensors = {
    "tokens": torch.cat(tokens).int(),
    "lengths": torch.tensor(lengths).int(),
    "targets": flat.int(),
    "hidden": hidden,
    "logits": logits,
    "nll": nll,
    "head": head,
}
for prefix, named in (("weight", weights), ("lm", lm), ("pool", pool), ("stepped", stepped)):
    tensors |= {f"{prefix}.{n}": t for n, t in named.items()}
tensors = {n: (t.detach().float() if t.is_floating_point() else t).contiguous() for n, t in tensors.items()}
config = {
    "vocab_size": vocab, "n_positions": positions, "n_embd": n_embd, "n_layer": n_layer, "n_head": n_head,
    "layer_norm_epsilon": 1e-5,
}
metadata = {"config": config, "scale": scale, "adamw": settings, "norms": norms}
save_file(tensors, output, {"json": json.dumps(metadata)})
print(f"{output}: torch {torch.__version__}, {sum(t.numel() for t in tensors.values())} values, norms {norms}")
