"""Makes tests/golden/head_loss.json: the classifier's loss and its gradients by PyTorch on small random values.

Run from the repository's root: python dev/golden_head_loss.py
"""

import json

import torch

torch.manual_seed(1)


def flat(tensor):
    return [round(float(x), 8) for x in tensor.detach().flatten()]


def case(n_labels, n_embd, lengths, labels, label_weights, smoothing):
    hidden = torch.randn(sum(lengths), n_embd).mul(1e3).round().div(1e3).requires_grad_()
    weight = torch.randn(n_labels, n_embd).mul(1e3).round().div(1e3).requires_grad_()
    bias = torch.randn(n_labels).mul(1e3).round().div(1e3).requires_grad_()
    embeddings = torch.stack([row[1:].mean(0) for row in hidden.split(lengths)])
    loss = torch.nn.functional.cross_entropy(
        embeddings @ weight.T + bias, torch.tensor(labels), torch.tensor(label_weights), label_smoothing=smoothing
    )
    loss.backward()
    return {
        "n_labels": n_labels,
        "n_embd": n_embd,
        "lengths": lengths,
        "hidden": flat(hidden),
        "weight": flat(weight),
        "bias": flat(bias),
        "labels": labels,
        "label_weights": label_weights,
        "smoothing": smoothing,
        "loss": loss.item(),
        "d_hidden": flat(hidden.grad),
        "d_weight": flat(weight.grad),
        "d_bias": flat(bias.grad),
    }


cases = [
    case(3, 4, [3, 2, 5], [0, 2, 1], [1.0, 1.0, 1.0], 0.0),
    case(4, 4, [2, 4, 3], [3, 3, 0], [0.5, 2.0, 1.0, 1.5], 0.1),
]
with open("tests/golden/head_loss.json", "w") as file:
    json.dump(cases, file)
    file.write("\n")
