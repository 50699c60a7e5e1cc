"""Fits of the peers to the same packets as ours: QUANTIZER N FLOWS..., the quantizer being our fit of FLOWS.

The packets of FLOWS (splits val and test left out) are taken over and over until they are N; equal ones are one point with a
weight, for the peers too, which spares them most of their work. Prints seconds, iterations and inertia per packet of
scikit-learn and FAISS, each run from its own start to the end, and the inertia of our file; the inertia of all three is
computed here, in f64. Hours, if N and K are large.
"""

import sys
import time

import faiss
import numpy as np
import pyarrow.parquet as pq
from safetensors import safe_open
from scipy.spatial import cKDTree
from sklearn.cluster import KMeans

quantizer, n, flows = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
with safe_open(quantizer, "np") as file:
    ours = file.get_tensor("centroids").astype(np.float64)
    if '"log1p-us"' not in str(file.metadata()):
        sys.exit("the comparison is made for the scaler log1p-us")
k = len(ours)
packets = []
for path in flows:
    table = pq.read_table(path)
    kept = np.ones(len(table), bool)
    if "split" in table.column_names:
        kept = ~np.isin(np.array(table["split"].to_pylist(), dtype=object).astype(str), ["val", "test"])
    for sizes, times in zip(table["sizes"].filter(kept).to_pylist(), table["ipt_us"].filter(kept).to_pylist()):
        packets.append(np.stack([np.asarray(sizes[:126], np.float64), np.asarray(times[:126], np.float32)], 1))
packets = np.concatenate(packets)
different, place = np.unique(packets, axis=0, return_inverse=True)
weights = np.bincount(place.ravel()[np.arange(n) % len(packets)], minlength=len(different)).astype(np.float64)
points = np.stack([different[:, 0] / 1500.0, np.log10(1.0 + different[:, 1])], axis=1)
print(f"{len(packets)} packets, {len(different)} different, K = {k}", flush=True)


def inertia(centroids):
    distances, _ = cKDTree(centroids).query(points, workers=1)
    return float((weights * distances**2).sum() / weights.sum())


best = np.inf
own = inertia(ours)
print(f"ours          inertia {own:.6e}", flush=True)

begin = time.perf_counter()
trainer = faiss.Kmeans(2, k, niter=50, seed=1, max_points_per_centroid=len(points), min_points_per_centroid=1)
trainer.train(points.astype(np.float32), weights=weights.astype(np.float32))
seconds = time.perf_counter() - begin
of_faiss = inertia(trainer.centroids.astype(np.float64))
print(f"FAISS         inertia {of_faiss:.6e}, {seconds:.0f} s, 50 iterations; ours is {own / of_faiss:.4f} of it", flush=True)

begin = time.perf_counter()
model = KMeans(k, init="k-means++", n_init=1, max_iter=300, random_state=1, algorithm="lloyd").fit(points, None, weights)
seconds = time.perf_counter() - begin
of_sklearn = inertia(model.cluster_centers_)
print(
    f"scikit-learn  inertia {of_sklearn:.6e}, {seconds:.0f} s, {model.n_iter_} iterations; ours is {own / of_sklearn:.4f} of it"
)
