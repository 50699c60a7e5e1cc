"""Makes tests/golden/generation.json: what hmmlearn makes of a hidden Markov model, and scikit-learn of a forest.

Run from the repository's root: python dev/golden_generation.py    (needs numpy, scikit-learn and hmmlearn)
"""

import json

import numpy as np
from hmmlearn.hmm import CategoricalHMM
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

rng = np.random.default_rng(5)
END = 7


def flow():
    """Tokens of a random walk with a habit, the end last unless the flow is cut."""
    token, out = rng.integers(END), []
    while len(out) < 12:
        out.append(int(token))
        if rng.random() < 0.15:
            return out + [END]
        token = (token + rng.choice([0, 1, 3], p=[0.6, 0.3, 0.1])) % END
    return out


def hmm():
    flows = [flow() for _ in range(40)]
    flows[0] = list(range(END))
    start = rng.dirichlet(np.ones(3))
    step = rng.dirichlet(np.ones(3), 3)
    emission = rng.dirichlet(np.ones(END + 1), 3)
    model = CategoricalHMM(3, n_iter=6, tol=-1e300, init_params="", n_features=END + 1)
    model.startprob_, model.transmat_, model.emissionprob_ = start, step, emission
    model.fit(np.concatenate(flows)[:, None], [len(f) for f in flows])
    return {
        "flows": flows,
        "start": start.tolist(),
        "step": step.tolist(),
        "emission": emission.tolist(),
        "likelihoods": list(model.monitor_.history),
        "fitted_start": model.startprob_.tolist(),
        "fitted_step": model.transmat_.tolist(),
        "fitted_emission": model.emissionprob_.tolist(),
    }


def forest():
    """Three classes that overlap, in columns of which half say nothing; the mean of five forests."""
    x = rng.normal(size=(360, 8))
    labels = rng.integers(3, size=360)
    x[:, 0] += labels == 1
    x[:, 1] *= 1 + labels
    x[:, 2] = np.round(x[:, 2] * 2 + (labels == 2) * x[:, 0])
    x = x.round(3)
    accuracy, auc = [], []
    for seed in range(5):
        scores = RandomForestClassifier(random_state=seed).fit(x[:240], labels[:240]).predict_proba(x[240:])
        accuracy.append(np.mean(scores.argmax(1) == labels[240:]))
        auc.append([roc_auc_score(labels[240:] == c, scores[:, c]) for c in range(3)])
    return {
        "x": x.tolist(),
        "labels": labels.tolist(),
        "n_train": 240,
        "accuracy": float(np.mean(accuracy)),
        "auc": np.mean(auc, 0).tolist(),
    }


with open("tests/golden/generation.json", "w") as file:
    json.dump({"hmm": hmm(), "forest": forest()}, file)
    file.write("\n")
