"""Makes tests/golden/similarity.json: samples and what SciPy and NumPy say of them.

Run from the repository's root: python dev/golden_similarity.py
"""

import json

import numpy as np
from scipy.stats import ks_2samp

rng = np.random.default_rng(1)


def case(a, b):
    a, b = [float(x) for x in a], [float(x) for x in b]
    return {"a": a, "b": b, "ks": float(ks_2samp(a, b).statistic), "median_a": float(np.median(a))}


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
