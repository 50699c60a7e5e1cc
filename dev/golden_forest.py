"""Makes tests/golden/forest.json: the first split of scikit-learn's decision tree on small random flows.

Run from the repository's root: python dev/golden_forest.py
"""

import json

import numpy as np
from sklearn.tree import DecisionTreeClassifier

draws = np.random.default_rng(2)


def case(n, width, label_weights):
    values = draws.normal(size=(n, width)).round(3).astype(np.float32)
    labels = (values[:, draws.integers(width)] + draws.normal(size=n) > 0).astype(int)
    labels += draws.integers(0, len(label_weights) - 1, size=n)
    tree = DecisionTreeClassifier(max_depth=1, random_state=0)
    tree.fit(values, labels, sample_weight=np.array(label_weights)[labels])
    return {
        "values": [round(float(v), 3) for v in values.flatten()],
        "labels": labels.tolist(),
        "label_weights": label_weights,
        "feature": int(tree.tree_.feature[0]),
        "threshold": float(tree.tree_.threshold[0]),
    }


cases = [case(30 + 4 * i, 1 + i % 6, [1.0, 1.0 + i, 0.5]) for i in range(6)]
with open("tests/golden/forest.json", "w") as file:
    json.dump(cases, file)
    file.write("\n")
