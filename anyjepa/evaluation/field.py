"""What a field's own classifiers score on the same split: no encoder is trained, and none is untrained."""

from __future__ import annotations

import numpy as np

from anyjepa.core.errors import BadSample
from anyjepa.core.method import Batch
from anyjepa.domains import Domain
from anyjepa.domains.sources import choose
from anyjepa.engine.run import Run
from anyjepa.evaluation.sides import Side

MOST = 4096  # samples of a side that they are shown: their cost grows faster than that of a probe


def field_baselines(run: Run, train: Side, test: Side, seed: int = 0) -> dict[str, float]:
    """Accuracy of each of `Domain.baselines` on the test side, by its name; none unless labels are classes.

    Args:
        run: how samples are read and presented.
        train, test: both sides, of which at most 4,096 samples each are used, drawn with `seed`.
    """
    if type(run.domain).baselines is Domain.baselines:
        return {}
    if train.labels.ndim != 1 or train.labels.is_floating_point():
        return {}
    sides = []
    for side in (train, test):
        sides.append(_presented(run, side, choose(len(side), MOST, seed)))
    (first, kept), (second, asked) = sides
    found = run.domain.baselines(first, train.labels[kept], second, run.facts)
    wanted = test.labels[asked].numpy()
    return {name: float((said == wanted).mean()) for name, said in found.items()}


def _presented(run: Run, side: Side, chosen: np.ndarray) -> tuple[Batch, np.ndarray]:
    """All of them as one batch, and which of them could be read."""
    raw, kept = [], []
    for place in chosen:
        try:
            raw.append(side.samples.read(int(side.rows[place])))
            kept.append(place)
        except BadSample as problem:
            run.problems.append(problem)
    return run.recipe.present(raw), np.array(kept)
