"""What a network that is trained on labels puts out: its loss, and the predictions it stands for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional

from anyjepa.evaluation.labelled import Labelled


@dataclass(frozen=True)
class Answers:
    """The outputs that labels of one kind need.

    Args:
        kind: "classes", "targets" or "several", as of `Labelled`.
        width: number of outputs of a sample.
        mean, deviation: of the training targets, which outputs are in units of; 0 and 1 for the others.
    """

    kind: str
    width: int
    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, data: Labelled) -> Answers:
        """For the labels of `data`."""
        if data.kind != "targets":
            return cls(data.kind, data.class_count)
        targets = data.train_labels
        return cls(data.kind, 1, float(targets.mean()), float(targets.std(correction=0).clamp(min=1e-30)))

    def loss(
        self,
        outputs: Float[Tensor, "*networks samples width"],
        labels: Shaped[Tensor, "samples ..."],
        smoothing: float = 0.0,
    ) -> Float[Tensor, "*networks"]:
        """Mean over samples: cross-entropy; a logistic loss a class; half the squared error of targets.

        `smoothing` is the share of a class label's weight that goes to all classes alike.
        """
        if self.kind == "targets":
            goal = ((labels - self.mean) / self.deviation).to(outputs.dtype)
            return (outputs[..., 0] - goal).square().mean(-1) / 2
        if self.kind == "several":
            known = (labels >= 0).to(outputs.dtype)
            each = functional.softplus(outputs) - (labels == 1).to(outputs.dtype) * outputs
            return (each * known).sum((-2, -1)) / known.sum().clamp(min=1)
        logs = outputs.log_softmax(-1)
        right = logs.gather(-1, labels.expand(logs.shape[:-1]).unsqueeze(-1)).squeeze(-1)
        return -((1 - smoothing) * right + smoothing * logs.mean(-1)).mean(-1)

    def said(
        self, outputs: Float[Tensor, "*networks samples width"]
    ) -> Shaped[Tensor, "*networks samples ..."]:
        """The class, the target in its own unit, or a score a class, as `Labelled.result` takes them."""
        if self.kind == "classes":
            return outputs.argmax(-1)
        if self.kind == "several":
            return outputs
        return outputs[..., 0].double() * self.deviation + self.mean


def score(data: Labelled, answers: Answers, outputs: Tensor, truth: Tensor) -> Float[Tensor, " networks"]:
    """The metric of each of several networks' outputs (networks, samples, width); NaN counts as the worst."""
    found = data.score(answers.said(outputs).transpose(0, 1), truth)
    return torch.where(found.isfinite(), found, -torch.inf)
