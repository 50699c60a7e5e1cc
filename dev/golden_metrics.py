"""Makes tests/golden/metrics.json: label arrays and what scikit-learn says of them.

Run from the repository's root: python dev/golden_metrics.py
"""

import json
import warnings

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

warnings.simplefilter("ignore")
rng = np.random.default_rng(1)


def case(n_labels, truth, prediction):
    kinds = precision_recall_fscore_support(truth, prediction, labels=range(n_labels), zero_division=0)
    return {
        "n_labels": n_labels,
        "truth": [int(x) for x in truth],
        "prediction": [int(x) for x in prediction],
        "accuracy": accuracy_score(truth, prediction),
        "macro_f1": f1_score(truth, prediction, average="macro", zero_division=0),
        "weighted_f1": f1_score(truth, prediction, average="weighted", zero_division=0),
        "precision": list(kinds[0]),
        "recall": list(kinds[1]),
        "f1": list(kinds[2]),
    }


truth = rng.integers(0, 5, 60)
noisy = np.where(rng.random(60) < 0.7, truth, rng.integers(0, 5, 60))
cases = [
    case(5, truth, noisy),
    # Label 3 is never true but predicted, label 4 never predicted, label 5 neither.
    case(6, [0, 0, 1, 1, 2, 4], [0, 1, 1, 3, 2, 0]),
    case(3, [0, 1, 2], [1, 2, 0]),
    case(2, [1, 1, 1], [1, 1, 1]),
]
with open("tests/golden/metrics.json", "w") as file:
    json.dump(cases, file)
    file.write("\n")
