"""Makes tests/golden/heads.json: what scikit-learn's nearest neighbours and nu-SVM say of small random points.

Run from the repository's root: python dev/golden_heads.py
"""

import json

import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import NuSVC

draws = np.random.default_rng(4)
DIGITS = 4


def numbers(values):
    return np.asarray(values, dtype=float).flatten().tolist()


def points(n_labels, sizes, width):
    """Clouds that overlap, around means that are not 0 and with spreads that are not 1; labels; and two more of each."""
    centers = draws.normal(size=(n_labels, width)) * 1.5
    labels = np.repeat(np.arange(n_labels), np.add(sizes, 2))
    values = (centers[labels] + draws.normal(size=(len(labels), width))) * 3 ** draws.normal(size=width) + 2
    order = draws.permutation(len(labels))
    values, labels = values.round(DIGITS)[order], labels[order]
    n = len(labels) - 2 * n_labels
    return values[:n], labels[:n], values[n:]


def knn(n_labels, sizes, width, k):
    values, labels, queries = points(n_labels, sizes, width)
    scaler = StandardScaler().fit(values)
    model = KNeighborsClassifier(k, metric="cosine", weights="distance", algorithm="brute")
    model.fit(scaler.transform(values), labels)
    shares = model.predict_proba(scaler.transform(queries))
    return {
        "n_labels": n_labels,
        "width": width,
        "k": k,
        "points": numbers(values),
        "labels": labels.tolist(),
        "queries": numbers(queries),
        "shares": numbers(shares.round(7)),
    }


def svm(n_labels, sizes, width, nu, kernel):
    values, labels, queries = points(n_labels, sizes, width)
    scaler = StandardScaler().fit(values)
    model = NuSVC(nu=nu, kernel=kernel, decision_function_shape="ovo", tol=1e-7)
    model.fit(scaler.transform(values), labels)
    decisions = model.decision_function(scaler.transform(queries))
    if n_labels == 2:
        # scikit-learn turns the sign of the one machine of two labels; libsvm and we do not.
        decisions = -decisions
    return {
        "n_labels": n_labels,
        "width": width,
        "nu": nu,
        "kernel": kernel,
        "points": numbers(values),
        "labels": labels.tolist(),
        "queries": numbers(queries),
        "support": model.n_support_.tolist(),
        "decisions": numbers(decisions.round(6)),
    }


golden = {
    "knn": [knn(2, 12, 3, 1), knn(3, [20, 9, 4], 5, 5), knn(4, 10, 8, 11)],
    "svm": [
        svm(2, 20, 3, 0.5, "rbf"),
        svm(3, [16, 12, 9], 4, 0.3, "rbf"),
        svm(4, 9, 5, 0.2, "rbf"),
        svm(3, 15, 6, 0.6, "linear"),
    ],
}
with open("tests/golden/heads.json", "w") as file:
    json.dump(golden, file)
    file.write("\n")
