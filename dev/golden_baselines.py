"""Makes tests/golden/baselines.json: small flows of sizes and what scikit-learn's methods say of them.

The shares of its k-NN for every flow, and the mean log-loss of its random forest (five seeds) and of its histogram boosting
(one booster a label, as ours), probabilities below 0.001 counting as 0.001. Run from the repository's root:
python dev/golden_baselines.py
"""

import json

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier

LABELS, PACKETS = 3, 6
draws = np.random.default_rng(5)
centres = draws.integers(-900, 900, (LABELS, 2, PACKETS))


def flows(n):
    labels = draws.integers(0, LABELS, n)
    rows = centres[labels, draws.integers(0, 2, n)] + 350 * draws.normal(size=(n, PACKETS))
    return rows.round().astype(int), labels


(train, labels), (test, truths) = flows(300), flows(150)


def log_loss(model):
    p = model.fit(train, labels).predict_proba(test)
    return float(-np.log(np.maximum(p[np.arange(len(truths)), truths], 1e-3)).mean())


golden = {
    "n_labels": LABELS,
    "train": train.tolist(),
    "labels": labels.tolist(),
    "test": test.tolist(),
    "truths": truths.tolist(),
    "neighbours": KNeighborsClassifier().fit(train, labels).predict_proba(test).ravel().round(6).tolist(),
    "forest_log_loss": float(np.mean([log_loss(RandomForestClassifier(random_state=seed)) for seed in range(5)])),
    "boosting_log_loss": log_loss(OneVsRestClassifier(HistGradientBoostingClassifier(random_state=0))),
}
with open("tests/golden/baselines.json", "w") as file:
    json.dump(golden, file)
    file.write("\n")
print(golden["forest_log_loss"], golden["boosting_log_loss"])
