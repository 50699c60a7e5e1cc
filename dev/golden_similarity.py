"""Makes tests/golden/similarity.json: samples and what SciPy, NumPy and scikit-learn say of them.

Run from the repository's root: python dev/golden_similarity.py
"""

import json

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp, pearsonr, wasserstein_distance
from sklearn.metrics import roc_auc_score

BINS = 12
rng = np.random.default_rng(1)


def shares(values, reference):
    """Of the bins over the reference, with one bin below and one above."""
    low, high = min(reference), max(reference)
    if low == high:
        low, high = low - 0.5, high + 0.5
    inner = np.histogram(values, np.linspace(low, high, BINS + 1))[0]
    outer = [np.sum(np.array(values) < low), np.sum(np.array(values) > high)]
    return np.concatenate([outer[:1], inner, outer[1:]]) / len(values)


def pearson(a):
    """Of a value and the one after the next."""
    if len(a) < 4 or np.ptp(a[:-2]) == 0 or np.ptp(a[2:]) == 0:
        return None
    return float(pearsonr(a[:-2], a[2:]).statistic)


def case(a, b):
    a, b = [float(x) for x in a], [float(x) for x in b]
    return {
        "a": a,
        "b": b,
        "ks": float(ks_2samp(a, b).statistic),
        "median_a": float(np.median(a)),
        "wasserstein": float(wasserstein_distance(a, b)),
        "bins": BINS,
        "jensen_shannon": float(jensenshannon(shares(a, a), shares(b, a), base=2)),
        "lag_2": pearson(a),
        "auc": float(roc_auc_score([1] * len(a) + [0] * len(b), a + b)),
    }


sizes = [40, -40, 52, -52, 60, 1500, -1500, 0]
cases = [
    case(rng.normal(size=37).round(6), rng.normal(0.5, 2, size=23).round(6)),
    case(rng.choice(sizes, 50), rng.choice(sizes[2:], 41)),  # ties within and between
    case([1], [1]),
    case([1, 1, 1, 2], [2, 2]),
    case([1, 2, 3], [10, 20]),
    case([-0.0, 0.0], [0.0, 5.0, -0.0]),
    case(np.exp(rng.normal(5, 4, 30)).round(3), [0.0] * 9),
]
with open("tests/golden/similarity.json", "w") as file:
    json.dump(cases, file)
    file.write("\n")
