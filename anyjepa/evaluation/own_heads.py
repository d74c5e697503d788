"""Heads of a paper's own, trained on labels over a frozen or a tuned encoder."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anyjepa.core.method import Batch, Method
from anyjepa.engine.run import Run, build_method
from anyjepa.evaluation.answers import Answers
from anyjepa.evaluation.attentive import labels_of
from anyjepa.evaluation.finetuning import FineTuning, OverMethod, _Course, _size, outputs_of
from anyjepa.evaluation.labelled import ProbeResult
from anyjepa.evaluation.sides import Side
from anyjepa.recipes import recipes

SEEN_FIRST = 256  # samples that a head takes the scale of its features from
WARM_UP = 10  # epochs in which only new layers are trained, where all are to be


class HeadOfMethod(OverMethod):
    """A head with the method whose backbone it reads."""

    def __init__(self, method: Method, head: nn.Module) -> None:
        super().__init__()
        self.method, self.head = method, head

    def forward(self, batch: Batch) -> Float[Tensor, "batch width"]:
        """What the head puts out."""
        return self.head(batch)

    def train(self, mode: bool = True) -> HeadOfMethod:
        """Dropout acts in what is trained."""
        super().train(mode)
        self.method.eval()
        learns = any(one.requires_grad for one in self.method.backbone.parameters())
        self.method.backbone.train(mode and learns)
        return self


def own_heads() -> list[str]:
    """Names of the heads that recipes have of their own."""
    return list(dict.fromkeys(head for kind in recipes().values() for head in kind.downstream))


def head_probe(
    run: Run,
    name: str,
    train: Side,
    test: Side,
    settings: FineTuning | None = None,
    *,
    kind: str = "trained",
    seed: int = 0,
) -> ProbeResult:
    """Train the head `name` of a recipe on the training side, and score it on the test side.

    A part of the training samples, whole groups where they are known, is held out: after each pass the head
    is scored there, and the best state is what counts.

    Args:
        run: whose encoder; it is left as it is.
        name: one of the recipe's `downstream`.
        train, test: both sides.
        settings: ``regime`` says whether the encoder is trained too.
        kind: "trained" or "untrained" weights of the encoder.
        seed: of the head's weights, order and split.
    """
    settings = settings or FineTuning()
    data = labels_of(train, test, run.device)
    answers = Answers.of(data)
    parts = data.split(settings.validation_fraction, seed)
    method = build_method(run.recipe, run.facts, run.config["seed"])
    if kind == "trained":
        method.load_state_dict(run.method.state_dict())
    method = method.to(run.device).eval().requires_grad_(False)
    fit = train.take(parts[0].cpu().numpy()[:SEEN_FIRST])
    _, batch = next(run.batches(fit.samples, fit.rows, SEEN_FIRST))
    with torch.random.fork_rng(devices=[run.device] if run.device.type == "cuda" else []):
        torch.manual_seed(seed)
        network = HeadOfMethod(method, method.head(name, batch, answers.width).to(run.device))
        kept = {id(one) for one in method.parameters()}
        new = [one for one in network.head.parameters() if id(one) not in kept]
        groups = [
            {"params": new, "scale": 1.0, "block": False, "weight_decay": settings.tune_weight_decay}
        ]  # fmt: skip
        if settings.regime == "full":
            method.backbone.requires_grad_(True)
            old = [one for one in network.head.parameters() if id(one) in kept]
            groups.append({"params": old, "scale": 1.0, "block": True, "weight_decay": 0.0})
            share = min(0.9, WARM_UP / settings.epochs)
            settings = dataclasses.replace(settings, frozen=max(settings.frozen, share))
        course = _Course(run, train, data, answers, settings, seed, _size(len(parts[0]), settings))
        best = course.run(network, parts, groups)
    outputs = outputs_of(run, network, test)
    return data.result(name, answers.said(outputs), {**best, "regime": settings.regime})
