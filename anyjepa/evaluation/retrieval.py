"""Retrieval: how far up the list of nearest samples those of the same label stand."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import normalize

from anyjepa.core.errors import UserError
from anyjepa.evaluation.confidence import sample_mean_interval
from anyjepa.evaluation.labelled import Labelled, ProbeResult
from anyjepa.evaluation.linear import ELEMENTS_AT_ONCE, blocks

RANKS = (1, 5, 10)


def retrieval_probe(
    train_features: Float[Tensor, "train dim"],
    train_labels: Shaped[Tensor, "train_labels ..."],
    test_features: Float[Tensor, "test test_dim"],
    test_labels: Shaped[Tensor, "test_labels ..."],
    *,
    seed: int = 0,
    train_groups: Int[Tensor, " train_groups"] | None = None,
    test_groups: Int[Tensor, " test_groups"] | None = None,
) -> ProbeResult:
    """Mean average precision of ranking the training samples by cosine to each test sample.

    A training sample is relevant where its label is the query's, or, of several labels, where they share one.
    The mean of the training features is taken off both sides first. A query of which no training sample
    is relevant is left out of the mean. ``chosen`` holds ``recall_at_1``, ``_5`` and ``_10``: the share of
    queries with a relevant sample among so many. Nothing is fitted, so `seed` and `train_groups` say nothing.
    Raises UserError as `linear_probe` does, and for targets that are no classes.
    """
    data = Labelled.checked(train_features, train_labels, test_features, test_labels, None, test_groups)
    if data.kind == "targets":
        raise UserError("retrieval needs classes, for no two targets are alike: use --probe linear or knn.")
    mean = data.train.mean(0)
    gallery, queries = normalize(data.train - mean, dim=1), normalize(data.test - mean, dim=1)
    precisions, firsts = [], []
    for rows in blocks(len(queries), len(gallery), 16 * ELEMENTS_AT_ONCE):
        order = (queries[rows] @ gallery.T).argsort(dim=1, descending=True, stable=True)
        relevant = _relevant(data, rows).gather(1, order)
        precisions.append(average_precision(relevant))
        firsts.append(torch.where(relevant.any(1), relevant.float().argmax(1), len(gallery)))
    found, first = torch.cat(precisions), torch.cat(firsts)
    asked = found.isfinite()
    if not bool(asked.any()):
        raise UserError("no training sample shares a label with a test sample: nothing can be retrieved.")
    chosen: dict[str, Any] = {
        f"recall_at_{rank}": float((first[asked] < rank).double().mean()) for rank in RANKS
    }
    groups = None if test_groups is None else test_groups[asked.cpu()]
    interval = sample_mean_interval(found[asked], groups=groups)
    return ProbeResult("retrieval", "map", first.cpu(), found.float().cpu(), *interval, chosen)


def average_precision(relevant: Bool[Tensor, "queries ranked"]) -> Float[Tensor, " queries"]:
    """Mean over the relevant of the share of relevant ones down to each; NaN where there is none."""
    hits = relevant.cumsum(1)
    ranks = torch.arange(1, relevant.shape[1] + 1, device=relevant.device)
    total = (hits / ranks * relevant).double().sum(1)
    return torch.where(hits[:, -1] > 0, total / hits[:, -1], torch.nan)


def _relevant(data: Labelled, rows: slice) -> Bool[Tensor, "queries gallery"]:
    if data.kind == "classes":
        return data.test_labels[rows, None] == data.train_labels[None]
    shared = (data.test_labels[rows] == 1).float() @ (data.train_labels == 1).float().T
    return shared > 0
