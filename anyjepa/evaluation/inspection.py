"""Label-free health of a run: measures, the same of the untrained encoder, and a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anyjepa.core.accumulation import Accumulator, Estimate
from anyjepa.core.errors import UserError
from anyjepa.core.health import Shape
from anyjepa.core.method import Batch, Context
from anyjepa.domains import Samples
from anyjepa.domains.sources import choose
from anyjepa.engine.randomness import step_generator
from anyjepa.engine.run import Run, load
from anyjepa.evaluation.verdict import dominating, judge

SAMPLES = 2000
VIEWS = 10
VIEWED = 1000  # samples that views are made of, as in the LiDAR paper
OWN = 512  # samples that a method measures by itself

MEANINGS = {
    "rankme": "directions used, by the singular values",
    "rankme_centred": "the same, the mean taken off",
    "eigen_rank": "the same, by the covariance",
    "numerical_rank": "eigenvalues above a millionth of the largest",
    "lidar": "directions that tell samples from views",
    "lidar_corrected": "the same, less noise of the views",
    "views_told_apart": "1 is noise",
    "alignment": "of two views; 0 is best, and collapse",
    "uniformity": "0 is collapse, -4 the whole sphere",
    "alpha_req": "decay of the spectrum; 1 is good",
    "alpha_req_fit": "R² of it; below 0.9 it says little",
    "stable_rank": "sum of squares over the strongest",
    "nesum": "the same, the mean taken off",
    "participation_ratio": "directions used, by squares",
    "condition_number": "strongest over weakest direction",
    "first_share": "share of the variance in one direction",
    "mean_cosine": "1: all point the same way",
    "spread": "over the length of the mean; 0: one point",
    "self_cluster": "0 for random directions, 1 for one point",
    "clid_learnability": "clusters that a neighbour learns",
    "clid_dimension": "of the surface they lie on",
    "coherence": "high: single samples hold a direction",
}


def inspect(
    run: Run | str | Path,
    data: str | np.ndarray | None = None,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Is the encoder healthy? No labels are used.

    Memory does not grow with the number of samples: measures are had from sums, and those that need rows
    from a random 2,048 of them.

    Args:
        run: a run or its folder.
        data: source; the data it was trained on where not given.
        samples: how many to embed, drawn with `seed`; 0 for all.
        seed: of the draw and of the masks that LiDAR's views are made with.

    Returns:
        every measure of `MEANINGS` that can be had, what the method measures by itself (`Method.health`),
        ``errors``: standard errors of the measures over the samples, by the jackknife; ``collapsed``,
        ``verdict``, ``advice`` and ``remarks`` in words, ``dim``, ``samples``, and ``untrained``: the same
        measures for the weights training began from.

    Raises:
        UserError: fewer than two samples, or embeddings that are not finite.
    """
    run = run if isinstance(run, Run) else load(run)
    opened = run.open(data)
    chosen = choose(len(opened), samples, seed)
    return assess(run, opened, chosen, accumulate((run, run.untrained()), opened, chosen, seed), seed)


def assess(
    run: Run, opened: Samples, chosen: np.ndarray, sums: Sequence[Accumulator], seed: int = 0
) -> dict[str, Any]:
    """What `inspect` returns, of `sums` of the samples at `chosen`: by the run, and by it untrained."""
    trained, fresh = sums
    if trained.seen < 2:
        raise UserError("health needs two samples or more: give more data.")
    if trained.refused or fresh.refused:
        first = opened.identity((trained if trained.refused else fresh).first_refused)
        raise UserError(
            f"the embedding of '{first}' is not finite ({max(trained.refused, fresh.refused)} are): the "
            "health of such an encoder is unknown; look for a run that diverged."
        )
    estimates = trained.estimates()
    figures = _finite(estimates) | _own(run, opened, chosen[:OWN], seed)
    shape = Shape.of(fresh.gram())
    few = dominating(trained, opened, shape)
    said = judge(trained, shape, figures, run.recipe, few)
    return {
        **figures,
        "collapsed": said.collapsed,
        "verdict": said.words,
        "advice": said.advice,
        "remarks": list(said.remarks),
        "tone": said.tone,
        "dim": trained.gram().dim,
        "samples": trained.seen,
        "errors": {name: one.error for name, one in estimates.items() if math.isfinite(one.error)},
        "untrained": _finite(fresh.estimates()),
    }


@torch.inference_mode()
def accumulate(
    runs: Sequence[Run], opened: Samples, chosen: np.ndarray, seed: int = 0, views: bool = True
) -> list[Accumulator]:
    """Embeddings of the samples at `chosen` by runs of one recipe and kind of data, each batch read once.

    Args:
        runs: the first one reads the samples.
        opened: the source.
        chosen: indices.
        seed: of masks and sketches; all runs see the same masks.
        views: make views of the first 1,000 samples too, where the method has any, for LiDAR.
    """
    contexts = [Context(1, 1, step_generator(seed, 1, run.device)) for run in runs]
    found: list[Accumulator] = []
    for places, batch in runs[0].batches(opened, chosen):
        embedded = [run.method.embed(batch).float().cpu() for run in runs]
        found = found or [Accumulator(z.shape[1], seed=seed) for z in embedded]
        if views and found[0].seen < VIEWED:
            few = {name: value[: VIEWED - found[0].seen] for name, value in batch.items()}
            made = [add_views(*one, few) for one in zip(runs, contexts, found, strict=True)]
            views = all(made)
        for sums, z in zip(found, embedded, strict=True):
            sums.add(z, torch.from_numpy(places))
    if not found:
        raise UserError(
            f"none of the samples of {opened.source} can be read, so there is nothing to measure."
        )
    return found


@torch.inference_mode()
def add_views(run: Run, context: Context, sums: Accumulator, batch: Batch) -> bool:
    """Make views of the samples of a batch and take their embeddings in; False for a method without views."""
    try:
        made = run.method.views(batch, context, VIEWS)
    except NotImplementedError:
        return False
    if made.isfinite().all():
        sums.add_views(made.float())
    return True


@torch.inference_mode()
def _own(run: Run, samples: Samples, chosen: np.ndarray, seed: int) -> dict[str, float]:
    """What the method itself measures."""
    context = Context(1, 1, step_generator(seed, 1, run.device))
    return run.method.health((batch for _, batch in run.batches(samples, chosen)), context)


def _finite(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """The measures alone, in the order of `MEANINGS`."""
    return {name: estimates[name].value for name in MEANINGS if name in estimates}
