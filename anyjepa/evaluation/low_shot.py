"""Few labels: a share of them, or so many a class, drawn several times."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from anyjepa.core.errors import UserError
from anyjepa.evaluation.sides import Side

DRAWS = 5
# where a class has a single sample none can be held out, so that nothing can be chosen
FIXED: dict[str, dict[str, Any]] = {
    "linear": {"strengths": (0.1,)},
    "knn": {"neighbours": (1,), "votes": ("plain",), "centred": (True,)},
    "svm": {"margins": (1.0,)},
}


def drawn(side: Side, fraction: float | None, shots: int | None, seed: int) -> np.ndarray:
    """Places of the side's samples whose labels are used, by chance of `seed`, in rising order.

    Args:
        side: the training side.
        fraction: share of all; of each class alike, one at least.
        shots: so many of each class (of several labels: that are of it; of targets: in all).
        seed: of the draw.

    Raises:
        UserError: a share outside 0 and 1, or a class with fewer samples than `shots`.
    """
    labels = side.labels.numpy()
    random = np.random.default_rng([17, seed])
    order = random.permutation(len(labels))
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise UserError(f"--labels-fraction lies between 0 and 1, such as 0.01, not {fraction:g}.")
        if labels.ndim == 2 or labels.dtype.kind == "f":
            return np.sort(order[: max(2, round(fraction * len(labels)))])
        return np.sort(np.concatenate([
            members[: max(1, round(fraction * len(members)))]
            for members in (order[labels[order] == c] for c in np.unique(labels))
        ]))  # fmt: skip
    assert shots is not None
    if shots < 1:
        raise UserError(f"--shots is 1 or more labelled samples a class, not {shots}.")
    if labels.dtype.kind == "f":
        return np.sort(order[:shots])
    chosen: set[int] = set()
    columns = labels.T == 1 if labels.ndim == 2 else [labels == c for c in np.unique(labels)]
    for member in columns:
        members = order[member[order]]
        if not len(members):
            continue
        if len(members) < shots:
            raise UserError(
                f"a class has {len(members)} training samples, fewer than --shots {shots}: ask for fewer."
            )
        chosen |= set(members[:shots].tolist())
    return np.array(sorted(chosen))


def choosable(side: Side) -> bool:
    """Whether some training samples can be held out to choose a probe's settings on."""
    if side.labels.ndim == 1 and not side.labels.is_floating_point():
        if int(side.labels.unique(return_counts=True)[1].min()) < 2:
            return False
    elif len(side) < 10:
        return False
    return side.groups is None or len(side.groups.unique()) > 1


def over_draws(results: list[dict[str, Any]]) -> dict[str, Any]:
    """One result from those of several draws: means, with Student's intervals over the draws.

    ``low`` and ``high`` (and those beside ``untrained``, ``raw`` and the gains) then say how far the mean
    over draws is sure, on these test samples. ``draws`` holds each draw's value.
    """
    from anyjepa.evaluation.confidence import mean_interval

    first = results[0]
    if len(results) == 1:
        return first
    found = {**first, "draws": [row["value"] for row in results], "interval": "over draws"}
    for name, low, high in (("value", "low", "high"), ("untrained", "untrained_low", "untrained_high"),
                            ("raw", "raw_low", "raw_high")):  # fmt: skip
        found[name], found[low], found[high] = mean_interval([row[name] for row in results])
    for kind in ("untrained", "raw"):
        differences = [row["value"] - row[kind] for row in results]
        found[f"gain_over_{kind}"] = list(mean_interval(differences))
    found["metrics"] = {
        name: {
            side: math.fsum(row["metrics"][name][side] for row in results) / len(results) for side in sides
        }
        for name, sides in first.get("metrics", {}).items()
    }
    found["train"] = round(sum(row["train"] for row in results) / len(results))
    for name in ("confusion", "class_auc", "class_names", "chosen"):
        found.pop(name, None)
    return found
