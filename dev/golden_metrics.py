"""Makes tests/golden/metrics.json: arrays of labels, probabilities and scores, and what scikit-learn says of them.

Run from the repository's root: python dev/golden_metrics.py
"""

import json
import warnings

import numpy as np
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support, roc_auc_score, roc_curve

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
BINS = 15


def calibration(confidence, right):
    accuracy, mean = calibration_curve(right, confidence, n_bins=BINS, strategy="uniform")
    # calibration_curve says nothing of how full its bins are.
    flows = np.bincount(np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence), minlength=BINS)
    flows = flows[flows > 0]
    return {
        "confidence": confidence.tolist(),
        "right": [bool(x) for x in right],
        "error": float((flows * np.abs(accuracy - mean)).sum() / flows.sum()),
        "bin_confidence": mean.tolist(),
        "bin_accuracy": accuracy.tolist(),
    }


def scored(positives, negatives):
    truth = np.r_[np.ones(len(positives)), np.zeros(len(negatives))]
    score = np.r_[positives, negatives]
    # With intermediate points: where a rate is first reached must not depend on which are dropped.
    fpr, tpr, _ = roc_curve(truth, score, drop_intermediate=False)
    return {
        "positives": list(positives),
        "negatives": list(negatives),
        "auc": roc_auc_score(truth, score),
        "fpr_at_95": fpr[np.argmax(tpr >= 0.95)],
        "fpr_at_50": fpr[np.argmax(tpr >= 0.5)],
    }


sure = rng.beta(4, 2, 120)
calibrations = [
    calibration(sure, rng.random(120) < sure**2),
    calibration(np.full(7, 1.0), [1, 1, 0, 1, 1, 1, 0]),
    calibration(rng.uniform(0.3, 0.5, 40), rng.random(40) < 0.9),
]
scores = [
    scored(rng.normal(1, 1, 60), rng.normal(0, 1, 45)),
    scored(rng.integers(3, 9, 40) / 10, rng.integers(1, 7, 33) / 10),
    scored([1.0], [1.0, 1.0]),
    scored([0.2, 0.4, 0.9], [0.1, 0.3, 0.5, 0.95]),
    scored(np.linspace(0.5, 1, 20), np.linspace(0.3, 0.9, 20)),
]
with open("tests/golden/metrics.json", "w") as file:
    json.dump({"labels": cases, "calibration": calibrations, "scores": scores}, file)
    file.write("\n")
