"""Few-shot episodes of a run: a few classes, a few labels of each, drawn many times."""

from __future__ import annotations

from typing import Any

from anyjepa.core.errors import UserError
from anyjepa.evaluation.confidence import mean_interval
from anyjepa.evaluation.few_shot import few_shot
from anyjepa.evaluation.sides import Side


def episodes(
    train: Side, test: Side, ways: int, shots: int, queries: int, folds: int, seed: int
) -> dict[str, Any]:
    """`few_shot` for trained, untrained and raw features on the same episodes.

    Shots come from the training side and queries from the test side, so that what keeps the two apart (their
    own split, whole groups) keeps them apart here. Intervals are Student's over the episodes.

    Raises:
        UserError: labels that are no classes, fewer than two episodes, or too few samples or classes.
    """
    if train.labels.ndim != 1 or train.labels.is_floating_point():
        raise UserError(
            "few-shot episodes are of classes, one a sample: use --probe linear --shots for others."
        )
    if folds < 2:
        raise UserError(f"few-shot episodes need --draws 2 or more for an interval, not {folds}.")
    found = {
        kind: few_shot(
            train.features[kind], train.labels, ways=ways, shots=shots, queries=queries, folds=folds,
            seed=seed, query_features=test.features[kind], query_labels=test.labels,
        )
        for kind in train.features
    }  # fmt: skip
    result: dict[str, Any] = {"probe": "few-shot", "metric": "accuracy"}
    for kind, one in found.items():
        name = "value" if kind == "trained" else kind
        low, high = ("low", "high") if kind == "trained" else (f"{kind}_low", f"{kind}_high")
        result[name], result[low], result[high] = mean_interval(one.accuracies)
    for kind in ("untrained", "raw"):
        gain = mean_interval(found["trained"].accuracies - found[kind].accuracies)
        result[f"gain_over_{kind}"] = list(gain)
    return {
        **result, "interval": "over draws", "draws": found["trained"].accuracies.tolist(),
        "deviation": found["trained"].deviation, "ways": ways, "episode_shots": shots, "queries": queries,
        "train": ways * shots, "test": ways * queries, "classes": ways, "chosen": {"C": 1.0},
    }  # fmt: skip
