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
from anyjepa.evaluation.confidence import Interval, auc_interval, paired_difference_interval
from anyjepa.evaluation.labelled import ProbeResult, held_out_groups
from anyjepa.evaluation.probes import knn_probe, linear_probe
from anyjepa.evaluation.svm import svm_probe

PROBES = {"linear": linear_probe, "knn": knn_probe, "svm": svm_probe}
TEST_FRACTION = 0.2
KINDS = ("trained", "untrained", "raw")


@dataclass(frozen=True)
class Side:
    """One side of the comparison: what trained, untrained and raw features say of the same samples."""

    features: dict[str, Float[Tensor, "samples dim"]]
    labels: Tensor
    groups: Tensor | None


def evaluate(
    run: Run | str | Path,
    data: str | np.ndarray | None = None,
    *,
    labels: str | None = None,
    probe: str | Sequence[str] = "linear",
    test: str | None = None,
    seed: int = 0,
    allow_leak: bool = False,
) -> dict[str, Any]:
    """Probe a run's frozen embeddings.

    Args:
        run: a run or its folder.
        data: a labelled source; the data it was trained on where not given. A source that is split gives its
            own train and test part, another one is split at random, 80 to 20, stratified by class, and by
            whole groups (patients, recordings) where they are known.
        labels: file or column of labels, where the source does not carry them.
        probe: ``linear``, ``knn``, ``svm`` (classes only), or several.
        test: source of the test samples, where it is another one.
        allow_leak: let the same group (patient, recording) be on both sides of a split that the data makes.
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
    train, held_out = _both_sides(run, data, labels, test, seed, allow_leak)
    source = data if isinstance(data, str) else run.config["data"]["source"] if data is None else "array"
    results = [_score(name, train, held_out, seed) | {"data": source} for name in names]
    for result in results:
        append_line(run.path / "evaluations.jsonl", result)
    return results[0] if len(results) == 1 else {**results[0], "results": results}


def _score(name: str, train: Side, held_out: Side, seed: int) -> dict[str, Any]:
    found: dict[str, ProbeResult] = {
        kind: PROBES[name](
            train.features[kind],
            train.labels,
            held_out.features[kind],
            held_out.labels,
            seed=seed,
            train_groups=train.groups,
            test_groups=held_out.groups,
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
        gain = _gain(best, found[kind], held_out.groups)
        if gain is not None:
            result[f"gain_over_{kind}"] = [gain.value, gain.low, gain.high]
    sizes = {"train": len(train.labels), "test": len(held_out.labels)}
    if held_out.groups is not None:
        sizes["test_groups"] = len(held_out.groups.unique())
    classes = None
    if not train.labels.is_floating_point():
        classes = train.labels.shape[1] if train.labels.ndim == 2 else len(train.labels.unique())
    return {**result, **sizes, "classes": classes, "chosen": best.chosen}


def _gain(best: ProbeResult, other: ProbeResult, groups: Tensor | None) -> Interval | None:
    """The paired difference of two scores of the same test samples."""
    if best.metric == "accuracy":
        return paired_difference_interval(best.outcomes, other.outcomes, groups=groups)
    if best.metric == "macro_auc":
        labels = best.outcomes.to(torch.int8)
        return auc_interval(best.predictions, labels, groups=groups, against=other.predictions)
    return None


def _both_sides(
    run: Run, data: str | np.ndarray | None, labels: str | None, test: str | None, seed: int, allow_leak: bool
) -> tuple[Side, Side]:
    train = run.open(data, labels)
    try:
        held_out = run.open(test, labels) if test is not None else run.open(data, labels, split="test")
    except NoSplit:
        first, second = _parted(_known(train), train, seed)
        groups = None if train.groups is None else _numbered(train.groups)
        return _described(run, train, groups, first), _described(run, train, groups, second)
    held_out = _same_classes(held_out, train)
    groups, held_out_groups = _groups_of_both(train.groups, held_out.groups, allow_leak)
    return _described(run, train, groups), _described(run, held_out, held_out_groups)


def _groups_of_both(
    train: np.ndarray | None, held_out: np.ndarray | None, allow_leak: bool
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Groups of both sides, numbered alike; None where they are not known of both.

    Raises:
        UserError: a group is on both sides, and `allow_leak` is not set.
    """
    if train is None or held_out is None:
        return None, None
    both = np.intersect1d(train, held_out)
    if len(both) and not allow_leak:
        raise UserError(
            f"{len(both)} group{'s' * (len(both) > 1)} (such as '{both[0]}') are on both sides of the split, "
            "so the score would flatter: split by group, or insist with --allow-leak."
        )
    numbers = _numbered(np.concatenate([train, held_out]))
    return numbers[: len(train)], numbers[len(train) :]


def _numbered(groups: np.ndarray) -> np.ndarray:
    return np.unique(groups, return_inverse=True)[1]


def _known(samples: Samples) -> np.ndarray:
    if samples.labels is None:
        raise UserError(
            f"{samples.source} has no labels: use class folders, or name a file or column with --labels."
        )
    if samples.labels.ndim == 2:
        known = (samples.labels >= 0).any(1)
    else:
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
    if samples.labels.ndim == 2:
        wide = np.zeros((len(samples.labels), len(train.classes)), dtype=np.int8)
        wide[:, order] = samples.labels
        samples.labels = wide
        return samples
    samples.labels = np.where(samples.labels < 0, -1, order[samples.labels])
    return samples


def _parted(indices: np.ndarray, samples: Samples, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Train and test indices by chance of the seed, of every class the same share, and of whole groups."""
    labels = samples.labels
    assert labels is not None
    if samples.groups is not None:
        held_out = held_out_groups(samples.groups[indices], labels[indices], TEST_FRACTION, seed)
        return indices[~held_out], indices[held_out]
    random = np.random.default_rng(seed)
    shuffled = random.permutation(indices)
    strata = labels[shuffled] if labels.ndim == 1 and labels.dtype.kind != "f" else np.zeros(len(shuffled))
    by_class = shuffled[np.argsort(strata, kind="stable")]
    # every fifth of the samples in order of class, starting anywhere, is a fifth of each class
    held_out = (np.arange(len(by_class)) + random.integers(5)) % round(1 / TEST_FRACTION) == 0
    return np.sort(by_class[~held_out]), np.sort(by_class[held_out])


def _described(
    run: Run, samples: Samples, groups: np.ndarray | None, indices: np.ndarray | None = None
) -> Side:
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
    rows = np.concatenate(kept)
    return Side(
        {kind: torch.cat(part).clone() for kind, part in parts.items()},
        torch.as_tensor(np.asarray(samples.labels)[rows]),
        None if groups is None else torch.as_tensor(groups[rows]),
    )
