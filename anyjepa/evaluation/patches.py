"""Segmentation by a linear probe of dense features: the label of each patch of an image, or of each point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyjepa.core.errors import BadSample, UserError
from anyjepa.core.method import Method
from anyjepa.domains import DenseSamples
from anyjepa.engine.cache import KINDS
from anyjepa.engine.run import Run
from anyjepa.evaluation.confidence import Interval
from anyjepa.evaluation.probes import linear_probe
from anyjepa.evaluation.sides import Side

MOST_ELEMENTS = 10_000  # of a side; of more, as many of each sample are drawn by chance
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
DRAWS = 1_000
TOGETHER = 32  # samples that are encoded at once


@dataclass(frozen=True)
class Elements:
    """Patches or points of one side.

    features: (n, width) float32 by kind. labels: (n,). samples: (n,) the sample each is of. groups: (n,) what
    is drawn for an interval, samples or the groups they belong to.
    """

    features: dict[str, Tensor]
    labels: Tensor
    samples: Tensor
    groups: Tensor

    def take(self, kept: Tensor) -> Elements:
        """Those where `kept`."""
        features = {kind: values[kept] for kind, values in self.features.items()}
        return Elements(features, self.labels[kept], self.samples[kept], self.groups[kept])


def patch_probe(run: Run, train: Side, test: Side, seed: int = 0) -> dict[str, Any]:
    """Logistic regression from dense features to the labels of parts, for each of `KINDS`.

    The strength of the penalty is chosen on whole training samples (or groups) held out. The metric is the
    intersection over union of each class on the test side, averaged; its interval comes from drawing whole
    samples, or groups, and that of a gain from drawing the same ones for both. The head is linear: what a
    fine-tuned network reaches is another matter.

    Raises:
        UserError: the data has no labels of parts, or the method no dense features.
    """
    if type(run.method).tokens is Method.tokens:
        raise UserError(f"{run.recipe.name} gives one vector a sample and no tokens: use --probe linear.")
    classes = _classes(train)
    known, asked = (elements(run, side, classes, seed) for side in (train, test))
    # a class that no training element has cannot be said
    asked = asked.take(torch.isin(asked.labels, known.labels.unique()))
    tables, accuracies, chosen = {}, {}, {}
    for kind in KINDS:
        found = linear_probe(
            known.features[kind], known.labels, asked.features[kind], asked.labels,
            strengths=STRENGTHS, seed=seed,
            train_groups=known.groups, test_groups=asked.groups,
        )  # fmt: skip
        tables[kind] = confusions(found.predictions, asked.labels, asked.groups, classes)
        accuracies[kind], chosen[kind] = found.value, found.chosen
    names = train.samples.dense_classes if isinstance(train.samples, DenseSamples) else None
    return {
        **_compared(tables),
        "metrics": {"accuracy": accuracies},
        **_by_class(tables["trained"].sum(0), names),
        "elements": {"train": len(known.labels), "test": len(asked.labels)},
        "train": len(train), "test": len(test), "classes": int((tables["trained"].sum((0, 2)) > 0).sum()),
        "chosen": chosen["trained"],
    }  # fmt: skip


def elements(run: Run, side: Side, classes: int, seed: int) -> Elements:
    """Dense features of a side, by kind, and their labels; unknown ones left out."""
    untrained = run.untrained().method
    each = max(1, MOST_ELEMENTS // len(side))
    random = torch.Generator().manual_seed(seed)
    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, len(side), TOGETHER):
        places, dense = _labelled(run, side, range(start, min(start + TOGETHER, len(side))))
        if not len(places):
            continue
        with torch.inference_mode():
            _, batch = next(run.batches(side.samples, side.rows[places], batch_size=len(places)))
            tokens = [method.deep_tokens(batch) for method in (run.method, untrained)]
            (trained, fresh), raw, labels = run.domain.elements(
                batch, tokens, dense, classes, run.recipe.present
            )
        labels = labels.cpu()
        chosen = torch.rand(labels.shape, generator=random).masked_fill(labels < 0, -1.0)
        chosen = chosen.topk(min(each, labels.shape[1]), dim=1).indices
        rows = torch.arange(len(labels)).unsqueeze(1).expand_as(chosen)
        real = labels[rows, chosen] >= 0
        picked = rows[real], chosen[real]
        values = (x.cpu()[picked].float().clone() for x in (trained, fresh, raw))
        parts.append((*values, labels[picked], torch.from_numpy(places)[picked[0]]))
    if not parts:
        raise UserError(f"no sample of {side.samples.source} has labels of its parts that can be read.")
    trained, fresh, raw, labels, samples = (torch.cat(column) for column in zip(*parts, strict=True))
    groups = samples if side.groups is None else side.groups[samples]
    return Elements({"trained": trained, "untrained": fresh, "raw": raw}, labels, samples, groups)


def _labelled(run: Run, side: Side, places: range) -> tuple[np.ndarray, list[np.ndarray]]:
    """Places of the side whose samples and labels can be read, and the labels."""
    kept, dense = [], []
    assert isinstance(side.samples, DenseSamples)
    for place in places:
        try:
            side.samples.read(int(side.rows[place]))
            dense.append(side.samples.dense(int(side.rows[place])))
            kept.append(place)
        except BadSample as problem:
            run.problems.append(problem)
    return np.array(kept, dtype=np.int64), dense


def _classes(side: Side) -> int:
    """One more than the largest label of parts of the side."""
    if not isinstance(side.samples, DenseSamples):
        raise UserError(
            f"{side.samples.source} has no labels of parts: --probe patch is for images and points."
        )
    if side.samples.dense_classes is not None:
        return len(side.samples.dense_classes)
    largest, problem = -1, None
    for row in side.rows:
        try:
            largest = max(largest, int(side.samples.dense(int(row)).max()))
        except BadSample as damage:
            problem = damage
    if largest < 1:
        found = f" ({problem})" if problem else ""
        raise UserError(f"the labels of parts in {side.samples.source} name fewer than two classes{found}.")
    return largest + 1


def confusions(said: Tensor, truth: Tensor, groups: Tensor, classes: int) -> Tensor:
    """(groups, classes, classes) float64 counts of truth (rows) and what was said (columns)."""
    names, number = groups.unique(return_inverse=True)
    flat = torch.zeros(len(names) * classes * classes, dtype=torch.float64)
    at = (number * classes + truth) * classes + said
    return flat.index_add_(0, at, torch.ones(len(at), dtype=torch.float64)).view(-1, classes, classes)


def mean_iou(tables: Tensor) -> Tensor:
    """(...) mean over the classes that occur, in truth or in what was said, of tables (..., C, C)."""
    hit = tables.diagonal(dim1=-2, dim2=-1)
    union = tables.sum(-1) + tables.sum(-2) - hit
    return torch.where(union > 0, hit / union, torch.nan).nanmean(-1)


def _compared(tables: dict[str, Tensor]) -> dict[str, Any]:
    count, classes = tables["trained"].shape[:2]
    drawn = np.random.default_rng(0).multinomial(count, [1 / count] * count, DRAWS)
    draws = torch.from_numpy(drawn.astype(float))
    weights = torch.cat([torch.ones(1, count, dtype=torch.float64), draws])
    values = {
        kind: mean_iou((weights @ table.flatten(1)).view(-1, classes, classes))
        for kind, table in tables.items()
    }
    found: dict[str, Any] = {"probe": "patch", "metric": "miou"}
    for kind, low, high in (("trained", "low", "high"), ("untrained", "untrained_low", "untrained_high"),
                            ("raw", "raw_low", "raw_high")):  # fmt: skip
        interval = _interval(values[kind])
        found["value" if kind == "trained" else kind], found[low], found[high] = interval
    for kind in ("untrained", "raw"):
        found[f"gain_over_{kind}"] = list(_interval(values["trained"] - values[kind]))
    return found


def _interval(values: Tensor) -> Interval:
    low, high = values[1:].quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return Interval(float(values[0]), low, high)


def _by_class(table: Tensor, names: list[str] | None) -> dict[str, Any]:
    occurs = (table.sum(1) > 0).nonzero()[:, 0]
    hit = table.diagonal()
    iou = hit / (table.sum(0) + table.sum(1) - hit).clamp(min=1)
    return {
        "class_iou": iou[occurs].tolist(),
        "confusion": table[occurs][:, occurs].long().tolist(),
        "class_names": [str(int(c)) if names is None else names[int(c)] for c in occurs],
    }
