"""Few-shot classification: a handful of labelled samples a class, drawn anew many times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from anyjepa.core.errors import UserError


@dataclass(frozen=True)
class FewShot:
    """Accuracies of all folds, (folds,) in 0..1, and how they were measured."""

    ways: int
    shots: int
    accuracies: Float[Tensor, " folds"]

    @property
    def mean(self) -> float:
        """Over the folds."""
        return float(self.accuracies.mean())

    @property
    def deviation(self) -> float:
        """Standard deviation over the folds, as papers give it."""
        return float(self.accuracies.std(correction=0))


def few_shot(
    features: Float[Tensor, "samples dim"],
    labels: Int[Tensor, " samples"],
    *,
    ways: int = 5,
    shots: int = 10,
    queries: int = 20,
    folds: int = 10,
    margin: float = 1.0,
    seed: int = 0,
    query_features: Float[Tensor, "others dim"] | None = None,
    query_labels: Int[Tensor, " others"] | None = None,
) -> FewShot:
    """Train a linear support vector machine on few samples of few classes, and test it on others of them.

    Each fold draws `ways` classes, and of each `shots` samples to train on and `queries` to test on
    (Sharma and Kaul 2020, the protocol of Point-JEPA's table 4: 5 or 10 ways, 10 or 20 shots, 10 folds, 20
    queries; the paper fine-tunes the encoder where this leaves it frozen). Folds depend on the labels and
    `seed` only, so two encoders are compared on the same ones. Features are standardised by the shots.

    Args:
        features: embeddings of any encoder.
        labels: class of each, negative where unknown.
        ways, shots, queries, folds: as said.
        margin: C of the support vector machine.
        seed: of the draws.
        query_features, query_labels: where queries are drawn from, if not from the samples that are no shots.

    Raises:
        UserError: there are not enough classes that have enough samples.
    """
    from sklearn.pipeline import make_pipeline  # slow to import
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    table, classes = features.double().cpu().numpy(), labels.cpu().numpy()
    apart = query_features is not None and query_labels is not None
    others, truth = table, classes
    if query_features is not None and query_labels is not None:
        others, truth = query_features.double().cpu().numpy(), query_labels.cpu().numpy()
    shown, asked = _members(classes), _members(truth)
    needed = (shots, queries) if apart else (shots + queries, 0)
    able = [c for c, rows in shown.items() if len(rows) >= needed[0] and len(asked.get(c, ())) >= needed[1]]
    if ways < 2 or len(able) < ways:
        have = f"{shots} training and {queries} test samples" if apart else f"{shots + queries} samples"
        raise UserError(
            f"{len(able)} classes have {have} for {shots} shots and {queries} queries, "
            f"and {ways} ways are asked for: ask for fewer ways (2 at least), shots or queries."
        )
    random, accuracies = np.random.default_rng(seed), []
    for _ in range(folds):
        chosen = [int(c) for c in random.choice(able, ways, replace=False)]
        if apart:
            train = np.concatenate([random.choice(shown[c], shots, replace=False) for c in chosen])
            test = np.concatenate([random.choice(asked[c], queries, replace=False) for c in chosen])
        else:
            drawn = np.stack([random.choice(shown[c], shots + queries, replace=False) for c in chosen])
            train, test = drawn[:, :shots].ravel(), drawn[:, shots:].ravel()
        machine = make_pipeline(StandardScaler(), SVC(C=margin, kernel="linear"))
        machine.fit(table[train], classes[train])
        accuracies.append((machine.predict(others[test]) == truth[test]).mean())
    return FewShot(ways, shots, torch.tensor(accuracies))


def _members(classes: np.ndarray) -> dict[int, np.ndarray]:
    """Rows of each class that is known."""
    return {int(c): np.flatnonzero(classes == c) for c in np.unique(classes[classes >= 0])}
