"""Probes that are small networks: attentive pooling of frozen tokens, a perceptron on frozen vectors."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from anyjepa.core.errors import UserError
from anyjepa.core.method import Method
from anyjepa.engine.run import Run
from anyjepa.evaluation.answers import Answers
from anyjepa.evaluation.heads import (
    AttentiveHeads,
    Course,
    Inputs,
    PerceptronHeads,
    standardised,
    trained_heads,
)
from anyjepa.evaluation.labelled import Labelled, ProbeResult
from anyjepa.evaluation.sides import Side

RESIDENT_BYTES = 2**30  # of tokens that are held in memory; more are computed again in every pass


class FrozenTokens:
    """The frozen tokens of one side, standardised; held in memory where they fit.

    Args:
        run: which reads and encodes.
        side: samples that can all be read.
        resident_bytes: that may be held.

    Raises:
        UserError: the method gives one vector a sample and no tokens.
    """

    def __init__(self, run: Run, side: Side, resident_bytes: int = RESIDENT_BYTES) -> None:
        if type(run.method).tokens is Method.tokens:
            raise UserError(f"{run.recipe.name} gives one vector a sample and no tokens: use --probe linear.")
        self.run, self.side = run, side
        first, _ = self._computed(side.rows[:1])
        self.dim = first.shape[2]
        self.values: Tensor | None = None
        if first.nbytes * len(side) <= resident_bytes:
            # filled a batch at a time, so that the peak is what is kept
            self.values = torch.empty(len(side), *first.shape[1:], device=run.device)
            self.present = torch.ones(len(side), first.shape[1], dtype=torch.bool, device=run.device)
            for start in range(0, len(side), 256):
                values, present = self._computed(side.rows[start : start + 256])
                self.values[start : start + 256] = values
                if present is not None:
                    self.present[start : start + 256] = present
            self.gaps = not bool(self.present.all())

    @torch.no_grad()
    def _computed(self, rows: np.ndarray) -> Inputs:
        _, batch = next(self.run.batches(self.side.samples, rows, batch_size=len(rows)))
        tokens = self.run.method.tokens(batch)
        return standardised(tokens.values), tokens.present

    def __call__(self, places: Tensor) -> Inputs:
        """Tokens (n, N, D) at these places of the side, and which of them are real."""
        if self.values is None:
            return self._computed(self.side.rows[places.cpu().numpy()])
        return self.values[places], self.present[places] if self.gaps else None


def attentive_probe(
    run: Run, train: Side, test: Side, *, course: Course | None = None, seed: int = 0
) -> ProbeResult:
    """Attentive pooling of the run's frozen tokens (`heads.AttentiveHeads`) to the labels.

    Nine settings of learning rate and weight decay are trained at once; which one, and after how many passes,
    is chosen on a part of the training samples (whole groups where they are known), never on test samples.

    Args:
        run: whose tokens.
        train, test: both sides.
        course: how the heads are trained.
        seed: of weights, order and split.
    """
    data = labels_of(train, test, run.device)
    course = dataclasses.replace(course or Course(), seed=seed)
    tokens = FrozenTokens(run, train)
    outputs, chosen = trained_heads(
        data,
        tokens,
        FrozenTokens(run, test),
        lambda settings: AttentiveHeads(settings, tokens.dim, _width(data)),
        course,
    )
    return _result("attentive", data, outputs, chosen)


def mlp_probe(
    train_features: Float[Tensor, "train dim"],
    train_labels: Shaped[Tensor, "train_labels ..."],
    test_features: Float[Tensor, "test test_dim"],
    test_labels: Shaped[Tensor, "test_labels ..."],
    *,
    course: Course | None = None,
    seed: int = 0,
    train_groups: Int[Tensor, " train_groups"] | None = None,
    test_groups: Int[Tensor, " test_groups"] | None = None,
) -> ProbeResult:
    """A perceptron of 256 hidden units on standardised features, as papers on tables score them (T-JEPA).

    Chosen as by `attentive_probe`; errors as of `linear_probe`.
    """
    data = Labelled.checked(
        train_features, train_labels, test_features, test_labels, train_groups, test_groups
    )
    mean, scale = data.train.mean(0), data.train.std(0, correction=0)
    scale = torch.where(scale > 1e-6 * mean.abs().clamp(min=1e-30), scale, torch.inf)
    known, asked = ((x - mean).div(scale).float() for x in (data.train, data.test))
    outputs, chosen = trained_heads(
        data,
        lambda places: (known[places], None),
        lambda places: (asked[places], None),
        lambda settings: PerceptronHeads(settings, known.shape[1], _width(data)),
        dataclasses.replace(course or Course(), seed=seed),
    )
    return _result("mlp", data, outputs, chosen)


def labels_of(train: Side, test: Side, device: torch.device) -> Labelled:
    """The labels of both sides, checked; a network's inputs lie elsewhere."""
    empty = [torch.zeros(len(side), 1, device=device) for side in (train, test)]
    return Labelled.checked(empty[0], train.labels, empty[1], test.labels, train.groups, test.groups)


def _width(data: Labelled) -> int:
    return max(1, data.class_count)


def _result(probe: str, data: Labelled, outputs: Tensor, chosen: dict[str, Any]) -> ProbeResult:
    return data.result(probe, Answers.of(data).said(outputs), chosen)
