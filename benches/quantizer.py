"""scikit-learn, SciPy and FAISS beside our quantizer: QUANTIZER FLOWS N WORK, as benches/quantizer.sh gives.

Leaves centroids and points in WORK, as pairs of f64, for peers that are not Python."""

import pathlib
import sys
import time

import faiss
import numpy as np
import pyarrow.parquet as pq
from safetensors import safe_open
from scipy.spatial import cKDTree
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

quantizer, flows, n, work = sys.argv[1], sys.argv[2], int(sys.argv[3]), pathlib.Path(sys.argv[4])
with safe_open(quantizer, "np") as file:
    centroids = file.get_tensor("centroids").astype(np.float64)
    if '"log1p-us"' not in str(file.metadata()):
        sys.exit("the comparison is made for the scaler log1p-us")
table = pq.read_table(flows, columns=["sizes", "ipt_us"])
sizes, times = (np.concatenate([np.asarray(row[:126]) for row in table[c].to_pylist()]) for c in ("sizes", "ipt_us"))
points = np.stack([sizes / 1500.0, np.log10(1.0 + times)], axis=1)
points = np.ascontiguousarray(points[np.arange(n) % len(points)])
centroids.tofile(work / "centroids")
points[: min(n, 1_000_000)].tofile(work / "points")


def rate(encode, m):
    begin = time.perf_counter()
    encode(points[:m])
    return m / (time.perf_counter() - begin) / 1e6


model = KMeans(len(centroids), init=centroids, n_init=1, max_iter=1)
with threadpool_limits(1):
    model._n_threads, model.cluster_centers_ = 1, centroids
    print(f"scikit-learn predict {rate(model.predict, min(n, 200_000)):.3f} M packets/s")
    tree = cKDTree(centroids)
    print(f"SciPy cKDTree        {rate(lambda p: tree.query(p, workers=1), min(n, 1_000_000)):.3f} M packets/s")
faiss.omp_set_num_threads(1)
flat = faiss.IndexFlatL2(2)
flat.add(centroids.astype(np.float32))
print(f"FAISS flat (f32)     {rate(lambda p: flat.search(p.astype(np.float32), 1), min(n, 200_000)):.3f} M packets/s")
# One Lloyd iteration from the same centroids, both cores; K-means of scikit-learn does two passes over the points for it.
m = min(n, 1_000_000)
model = KMeans(len(centroids), init=centroids, n_init=1, max_iter=1, tol=0.0, algorithm="lloyd")
begin = time.perf_counter()
model.fit(points[:m])
seconds = (time.perf_counter() - begin) / 2
faiss.omp_set_num_threads(2)
seconds_of = []
for niter in (1, 3):
    trainer = faiss.Kmeans(2, len(centroids), niter=niter, max_points_per_centroid=m, min_points_per_centroid=1)
    begin_faiss = time.perf_counter()
    trainer.train(points[:m].astype(np.float32), init_centroids=centroids.astype(np.float32))
    seconds_of.append(time.perf_counter() - begin_faiss)
of_faiss = (seconds_of[1] - seconds_of[0]) / 2
print(f"FAISS k-means        {of_faiss * n / m:.2f} s an iteration of {n} packets (measured on {m}), points given scaled")
print(f"scikit-learn Lloyd   {seconds * n / m:.2f} s an iteration of {n} packets (measured on {m}), points given scaled")
