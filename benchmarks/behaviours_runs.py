"""What the checks of `behaviours.py` share: runs trained once, scores, claims, errors of prediction."""

from __future__ import annotations

import hashlib
import json
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from once import trained_once
from torch import Tensor

from anyjepa.core.method import Context
from anyjepa.core.tokens import take
from anyjepa.engine.randomness import step_generator
from anyjepa.engine.run import Run
from anyjepa.engine.train import Settings
from anyjepa.evaluation.confidence import mean_interval
from anyjepa.evaluation.probes import knn_probe, linear_probe
from anyjepa.evaluation.sides import both_sides


@dataclass(frozen=True)
class Claim:
    """What a paper's note expects of one seed.

    Args:
        said: in words.
        first, second: figures of which the first should be `above` (or else below) the second.
    """

    said: str
    first: float
    second: float
    above: bool = True

    @property
    def margin(self) -> float:
        """Above 0 where it is as expected."""
        return self.first - self.second if self.above else self.second - self.first


@dataclass(frozen=True)
class Bench:
    """Where and how a check trains.

    Args:
        seed: of the training. out: folder of the runs; a run that is there and finished is not trained again.
        options: of the command line; its ``steps``, where given, are those of every training.
    """

    seed: int
    out: Path
    options: Namespace

    def trained(self, name: str, data: str | None = None, steps: int | None = None, **fields: Any) -> Run:
        """A run of the preset `tiny` with these fields; all its checkpoints stay where `steps` say so."""
        steps = self.options.steps or steps
        told = json.dumps([name, data, steps, sorted(fields.items())])
        out = self.out / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:10]}-{self.seed}"
        every = max(1, (steps or 300) // 10)
        settings = Settings(
            seed=self.seed, steps=steps, quiet=True, workers=0, device="cpu", log_every=10,
            checkpoint_every=every, keep_checkpoints=0,
        )  # fmt: skip
        return trained_once(out, name, data, preset="tiny", settings=settings, **fields)

    def score(self, run: Run, data: str | None = None, labels: str | None = None, **how: Any) -> float:
        """Accuracy of a linear probe of the embedding on test samples."""
        return self.scores(run, data, labels, **how)[0]

    def scores(
        self, run: Run, data: str | None = None, labels: str | None = None, **how: Any
    ) -> tuple[float, float]:
        """Of a linear probe, and of nearest neighbours."""
        sides = both_sides(run, data, labels, **how)
        fit, test = (run.embed(side.samples, indices=side.rows) for side in sides)
        groups = {"train_groups": sides[0].groups, "test_groups": sides[1].groups}
        linear, near = (
            probe(fit, sides[0].labels, test, sides[1].labels, **groups).value
            for probe in (linear_probe, knn_probe)
        )
        return linear, near

    def context(self, step: int = 1) -> Context:
        """Chance of a step that no training has had, the same for all seeds."""
        return Context(step, 1000, step_generator(1000, step))


@dataclass
class Errors:
    """Squared errors of predicted tokens, beside copying the nearest seen one and saying the mean.

    All in shares of the error of the mean token.
    """

    predicted: float = 0.0
    copied: float = 0.0
    mean: float = 0.0

    def add(self, goal: Tensor, wanted: Tensor, context: Tensor, predicted: Tensor, apart: Tensor) -> None:
        """Take in a batch.

        Args:
            goal: (batch, tokens, width), what is to be predicted everywhere.
            wanted: (batch, T) targets. context: (batch, K) what is seen. predicted: (batch, T, width).
            apart: (batch, T, K) how far each seen token is; infinite for one that must not be copied.
                Targets without any that may be copied count for nothing.
        """
        gap, nearest = apart.min(-1)
        there = gap.isfinite()
        truth = take(goal, wanted)[there]
        copy = take(goal, context.gather(1, nearest))[there]
        self.predicted += float((predicted[there] - truth).square().sum())
        self.copied += float((copy - truth).square().sum())
        self.mean += float((goal.mean((0, 1)) - truth).square().sum())

    def shares(self) -> tuple[float, float]:
        """Error of the prediction, and of the copy, over that of the mean token."""
        return self.predicted / self.mean, self.copied / self.mean


def summary(claims: list[Claim]) -> dict[str, Any]:
    """Of one expectation over seeds: figures, the mean margin with its 95 % interval, and a verdict."""
    margins = [claim.margin for claim in claims]
    found: dict[str, Any] = {
        "expected": claims[0].said,
        "first": [round(claim.first, 4) for claim in claims],
        "second": [round(claim.second, 4) for claim in claims],
        "margin": round(float(torch.tensor(margins).mean()), 4),
        "in_favour": f"{sum(margin > 0 for margin in margins)} of {len(margins)}",
    }
    if len(margins) > 1:
        _, low, high = mean_interval(margins)
        found |= {"low": round(low, 4), "high": round(high, 4)}
        found["verdict"] = "shows" if low > 0 else "the opposite shows" if high < 0 else "does not show"
    else:
        found["verdict"] = "one seed, of this sign" if margins[0] > 0 else "one seed, not of this sign"
    return found
