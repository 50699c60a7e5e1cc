#!/usr/bin/env python3
"""Makes tests/golden/quantizer.json: tokens that scikit-learn's KMeans.predict gives for packets on the borders that
matter, through both scalers. Needs numpy and scikit-learn.

    python3 dev/golden_quantizer.py > tests/golden/quantizer.json
"""
import json
import sys

import numpy as np
from sklearn.cluster import KMeans


def log1p_us(size, us):
    return np.stack([size / 1500, np.log10(1 + us)], axis=1)


def log10_ms(size, us):
    ms = us / 1e3
    zero = np.isclose(ms, 0)
    return np.stack([size / 1500, np.where(zero, 0, np.log10(np.where(zero, 1, ms)))], axis=1)


def tokens(centroids, points):
    model = KMeans(n_clusters=len(centroids), n_init=1, max_iter=1).fit(centroids)
    model.cluster_centers_ = centroids
    return model.predict(points).tolist()


def main():
    draws = np.random.default_rng(11)
    n = 600
    size = draws.integers(-1500, 1501, n)
    size[:8] = [0, 1, -1, 40, -40, 65535, -65535, 9000]
    us = (10 ** draws.uniform(-1, 8, n)).astype(np.float32)
    us[:40] = 0
    us[40:80] = 1000
    us[80] = np.float32(1e-42)
    us[81] = np.float32(3e12)
    cases = []
    for name, scale, low in [("log1p-us", log1p_us, 0), ("log10-ms", log10_ms, -4)]:
        centroids = np.stack([draws.uniform(-1, 1, 97), draws.uniform(low, 8 + low, 97)], axis=1).astype(np.float32)
        points = scale(size.astype(np.float64), us.astype(np.float64))
        cases.append(
            {
                "scaler": name,
                "centroids": centroids.tolist(),
                "tokens": tokens(centroids.astype(np.float64), points),
            }
        )
    json.dump({"sizes": size.tolist(), "ipt_us": [float(v) for v in us], "cases": cases}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
