"""A labelled score for a run, always beside the untrained encoder and the raw input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anyjepa.core.errors import UserError, nearest
from anyjepa.domains import Samples
from anyjepa.domains.sources import NoSplit
from anyjepa.engine.files import append_line
from anyjepa.engine.run import Run, load
from anyjepa.evaluation.confidence import paired_difference_interval
from anyjepa.evaluation.probes import ProbeResult, knn_probe, linear_probe

PROBES = {"linear": linear_probe, "knn": knn_probe}
TEST_FRACTION = 0.2
KINDS = ("trained", "untrained", "raw")


@dataclass(frozen=True)
class Labelled:
    """One side of the comparison: what trained, untrained and raw features say of the same samples."""

    features: dict[str, Float[Tensor, "samples dim"]]
    labels: Tensor


def evaluate(
    run: Run | str | Path,
    data: str | np.ndarray | None = None,
    *,
    labels: str | None = None,
    probe: str | Sequence[str] = "linear",
    test: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Probe a run's frozen embeddings.

    Args:
        run: a run or its folder.
        data: a labelled source; the data it was trained on where not given. A source that is split gives its
            own train and test part, another one is split at random, 80 to 20, stratified by class.
        labels: file or column of labels, where the source does not carry them.
        probe: ``linear``, ``knn``, or several.
        test: source of the test samples, where it is another one.
        seed: of the random split. The untrained encoder has the weights the run began from.

    Returns:
        ``probe``, ``metric``, ``value``, ``low``, ``high``, ``untrained``, ``raw``, ``gain_over_untrained``
        and ``gain_over_raw`` as [value, low, high] of the paired difference, ``classes``, ``train``,
        ``test``, ``data``; with several probes, ``results`` holds one such object each, the first on top.

    Raises:
        UserError: no labels, an unknown probe, or labels that do not fit.
    """
    run = run if isinstance(run, Run) else load(run)
    names = [probe] if isinstance(probe, str) else list(probe)
    for name in names:
        if name not in PROBES:
            raise UserError(
                f"there is no probe '{name}' (there are: {', '.join(PROBES)}).{nearest(name, PROBES)}"
            )
    train, held_out = _both_sides(run, data, labels, test, seed)
    source = data if isinstance(data, str) else run.config["data"]["source"] if data is None else "array"
    results = [_score(name, train, held_out, seed) | {"data": source} for name in names]
    for result in results:
        append_line(run.path / "evaluations.jsonl", result)
    return results[0] if len(results) == 1 else {**results[0], "results": results}


def _score(name: str, train: Labelled, held_out: Labelled, seed: int) -> dict[str, Any]:
    found: dict[str, ProbeResult] = {
        kind: PROBES[name](
            train.features[kind], train.labels, held_out.features[kind], held_out.labels, seed=seed
        )
        for kind in KINDS
    }
    best = found["trained"]
    result: dict[str, Any] = {
        "probe": name,
        "metric": best.metric,
        "value": best.value,
        "low": best.low,
        "high": best.high,
        "untrained": found["untrained"].value,
        "raw": found["raw"].value,
    }
    for kind in ("untrained", "raw"):
        result[f"{kind}_low"], result[f"{kind}_high"] = found[kind].low, found[kind].high
        if best.metric == "accuracy":
            gain = paired_difference_interval(best.outcomes, found[kind].outcomes)
            result[f"gain_over_{kind}"] = [gain.value, gain.low, gain.high]
    sizes = {"train": len(train.labels), "test": len(held_out.labels)}
    classes = None if train.labels.is_floating_point() else len(train.labels.unique())
    return {**result, **sizes, "classes": classes, "chosen": best.chosen}


def _both_sides(
    run: Run, data: str | np.ndarray | None, labels: str | None, test: str | None, seed: int
) -> tuple[Labelled, Labelled]:
    train = run.open(data, labels)
    if test is not None:
        return _described(run, train), _described(run, _same_classes(run.open(test, labels), train))
    try:
        held_out = run.open(data, labels, split="test")
    except NoSplit:
        known = _known(train)
        first, second = _stratified(known, train.labels, seed)
        return _described(run, train, first), _described(run, train, second)
    return _described(run, train), _described(run, _same_classes(held_out, train))


def _known(samples: Samples) -> np.ndarray:
    if samples.labels is None:
        raise UserError(
            f"{samples.source} has no labels: use class folders, or name a file or column with --labels."
        )
    known = ~np.isnan(samples.labels) if samples.labels.dtype.kind == "f" else samples.labels >= 0
    if not known.any():
        raise UserError(
            f"no sample of {samples.source} has a label: check that ids in --labels match the samples."
        )
    return np.flatnonzero(known)


def _same_classes(samples: Samples, train: Samples) -> Samples:
    """The same samples with labels counted in the training classes' order."""
    if not samples.classes or not train.classes or samples.classes == train.classes or samples.labels is None:
        return samples
    strange = [name for name in samples.classes if name not in train.classes]
    if strange:
        raise UserError(
            f"the test data has a class '{strange[0]}' that the training data lacks: check the folders."
        )
    order = np.array([train.classes.index(name) for name in samples.classes])
    samples.labels = np.where(samples.labels < 0, -1, order[samples.labels])
    return samples


def _stratified(indices: np.ndarray, labels: np.ndarray | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Train and test indices; every class gives the same share, by chance of the seed."""
    assert labels is not None
    random = np.random.default_rng(seed)
    shuffled = random.permutation(indices)
    strata = np.zeros(len(shuffled)) if labels.dtype.kind == "f" else labels[shuffled]
    by_class = shuffled[np.argsort(strata, kind="stable")]
    # every fifth of the samples in order of class, starting anywhere, is a fifth of each class
    held_out = (np.arange(len(by_class)) + random.integers(5)) % round(1 / TEST_FRACTION) == 0
    return np.sort(by_class[~held_out]), np.sort(by_class[held_out])


def _described(run: Run, samples: Samples, indices: np.ndarray | None = None) -> Labelled:
    indices = _known(samples) if indices is None else indices
    untrained = run.untrained()
    parts: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    kept = []
    with torch.inference_mode():
        for rows, batch in run.batches(samples, indices):
            kept.append(rows)
            parts["trained"].append(run.method.embed(batch).float().cpu())
            parts["untrained"].append(untrained.method.embed(batch).float().cpu())
            parts["raw"].append(run.domain.raw(batch, run.facts).float().cpu())
    if not kept:
        raise UserError(
            f"none of the samples of {samples.source} can be read, so there is nothing to evaluate."
        )
    labels = torch.as_tensor(np.asarray(samples.labels)[np.concatenate(kept)])
    return Labelled({kind: torch.cat(part).clone() for kind, part in parts.items()}, labels)
