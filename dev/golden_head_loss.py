"""Makes tests/golden/head_loss.json: the classifier's loss and its gradients by PyTorch on small random values.

Run from the repository's root: python dev/golden_head_loss.py
"""

import json

import torch

torch.manual_seed(1)


def flat(tensor):
    return [round(float(x), 8) for x in tensor.detach().flatten()]


def case(n_labels, n_embd, lengths, labels, label_weights, smoothing, answers=None, teacher_share=0.0, unlabelled=1.0):
    hidden = torch.randn(sum(lengths), n_embd).mul(1e3).round().div(1e3).requires_grad_()
    weight = torch.randn(n_labels, n_embd).mul(1e3).round().div(1e3).requires_grad_()
    bias = torch.randn(n_labels).mul(1e3).round().div(1e3).requires_grad_()
    embeddings = torch.stack([row[1:].mean(0) for row in hidden.split(lengths)])
    logits, weights = embeddings @ weight.T + bias, torch.tensor(label_weights)
    answers = answers or [None] * len(labels)
    if any(answers):
        loss = taught(logits, labels, weights, smoothing, answers, teacher_share, unlabelled)
    else:
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels), weights, label_smoothing=smoothing)
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
        "answers": answers,
        "teacher_share": teacher_share,
        "unlabelled": unlabelled,
        "loss": loss.item(),
        "d_hidden": flat(hidden.grad),
        "d_weight": flat(weight.grad),
        "d_bias": flat(bias.grad),
    }


def taught(logits, labels, weights, smoothing, answers, share, unlabelled):
    """With teachers' answers, flow by flow, by PyTorch's losses for labels and for probabilities."""
    total, counts = 0.0, 0.0
    for row, label, answer in zip(logits, labels, answers):
        soft = torch.nn.functional.cross_entropy(row, torch.tensor(answer)) if answer else 0.0
        count = weights[label] if label is not None else unlabelled * (torch.tensor(answer) * weights).sum()
        a = 0.0 if not answer else 1.0 if label is None else share
        hard = 0.0
        if label is not None:
            hard = torch.nn.functional.cross_entropy(
                row, torch.tensor(label), weights, reduction="none", label_smoothing=smoothing
            )
        total, counts = total + (1 - a) * hard + a * count * soft, counts + count
    return total / counts


cases = [
    case(3, 4, [3, 2, 5], [0, 2, 1], [1.0, 1.0, 1.0], 0.0),
    case(4, 4, [2, 4, 3], [3, 3, 0], [0.5, 2.0, 1.0, 1.5], 0.1),
    case(
        *(3, 4, [3, 2, 5, 2], [1, None, None, 2], [0.5, 2.0, 1.5], 0.1),
        *([[0.25, 0.5, 0.25], [0.0, 0.125, 0.875], [0.75, 0.25, 0.0], None], 0.25, 0.5),
    ),
]
with open("tests/golden/head_loss.json", "w") as file:
    json.dump(cases, file)
    file.write("\n")
