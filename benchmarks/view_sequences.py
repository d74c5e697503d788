"""seq-JEPA: what vectors of views and aggregates tell, over numbers of views, with and without actions.

    python benchmarks/view_sequences.py --seeds 0 1 2
    python benchmarks/view_sequences.py --told both none --data ../shared/data/mnist --transformation affine

Each run is trained and then asked, with fresh views of held-out things (a fifth of them where the data is not
split): accuracy of a linear probe of a single view's vector, of the mean of several and of the aggregate, for
1 to 8 views; R squared of the action between two views from their vectors and from the aggregate, by the
paper's network (two hidden layers); of the way from the first view to the last from the aggregate and the
last action; and what `Method.health` says. The untrained encoder stands beside. One JSON object a run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anyjepa.core.equivariance import r_squared, told_by_network
from anyjepa.core.method import Context
from anyjepa.domains import Samples
from anyjepa.domains.sources import NoSplit
from anyjepa.engine.randomness import step_generator
from anyjepa.engine.run import Run, build_method, load
from anyjepa.engine.train import Settings, train
from anyjepa.evaluation.probes import linear_probe
from anyjepa.recipes import recipe
from anyjepa.recipes.fields import parse_words
from anyjepa.recipes.seq_jepa_method import NextView

MOST = 2000  # samples of either side


def seeing(run: Run, count: int, trained: bool) -> Run:
    """The run with as many views in use."""
    kind = dataclasses.replace(run.recipe, seen=count)
    method = build_method(kind, run.facts, run.config["seed"])
    if trained:
        method.load_state_dict(run.method.state_dict())
    return dataclasses.replace(run, recipe=kind, method=method.eval().to(run.device))


def sides(run: Run) -> list[tuple[Samples, np.ndarray]]:
    """Training and test samples and which of them: parts of the source, or four fifths and the rest."""
    train_side = run.open()
    order = np.random.default_rng(0).permutation(len(train_side))
    try:
        test_side = run.open(split="test")
        held = np.random.default_rng(0).permutation(len(test_side))[:MOST]
        return [(train_side, order[:MOST]), (test_side, held)]
    except NoSplit:
        cut = len(order) // 5
        return [(train_side, order[cut:][:MOST]), (train_side, order[:cut][:MOST])]


@torch.inference_mode()
def read(run: Run, samples: Samples, rows: np.ndarray) -> dict[str, Tensor]:
    """Vectors, aggregates, actions and parameters of fresh sequences of the samples."""
    method, parts = run.method, []
    assert isinstance(method, NextView)
    context = Context(1, 1, step_generator(1, 1, run.device))
    for indices, batch in run.batches(samples, rows):
        sequence = method.sequence(batch, context, run.recipe.seen)  # pyright: ignore[reportAttributeAccessIssue]
        z, aggregate = method.read(sequence)
        assert samples.labels is not None
        labels = torch.from_numpy(samples.labels[indices])
        parts.append((z.cpu(), aggregate.cpu(), sequence.parameters.cpu(), labels))
    names = ("z", "aggregate", "parameters", "labels")
    return {name: torch.cat(values) for name, values in zip(names, zip(*parts, strict=True), strict=True)}


def asked(run: Run, trained: bool, most: int, epochs: int) -> dict[str, Any]:
    """All figures of one encoder."""
    found: dict[str, Any] = {"accuracy": {}}
    for count in range(1, most + 1):
        one = seeing(run, count, trained)
        fit, test = (read(one, *side) for side in sides(one))
        scores = {}
        for name, take in (("aggregate", lambda r: r["aggregate"]), ("mean", lambda r: r["z"].mean(1))):
            probed = linear_probe(take(fit), fit["labels"], take(test), test["labels"])
            scores[name] = round(probed.value, 4)
        found["accuracy"][count] = scores
    one = seeing(run, max(3, run.recipe.seen), trained)  # pyright: ignore[reportAttributeAccessIssue]
    fit, test = (read(one, *side) for side in sides(one))
    assert isinstance(one.method, NextView)
    relation = one.method.maker.relation

    def score(features: Any, action: Any) -> float:
        told = told_by_network(features(fit), action(fit), features(test), epochs=epochs)
        return round(r_squared(told, action(test)), 3)

    def pairs(r: dict[str, Tensor]) -> Tensor:
        return torch.cat([r["z"][:, :-1], r["z"][:, 1:]], dim=2).flatten(0, 1).clone()

    def steps(r: dict[str, Tensor]) -> Tensor:
        return relation(r["parameters"][:, :-1], r["parameters"][:, 1:]).flatten(0, 1).clone()

    def first(r: dict[str, Tensor]) -> Tensor:
        return relation(r["parameters"][:, 0], r["parameters"][:, 1]).clone()

    def whole(r: dict[str, Tensor]) -> Tensor:
        return relation(r["parameters"][:, 0], r["parameters"][:, -1]).clone()

    found["action_r2_of_views"] = score(pairs, steps)
    found["action_r2_of_aggregate"] = score(lambda r: r["aggregate"].clone(), first)
    found["path_r2_of_aggregate"] = score(lambda r: r["aggregate"].clone(), whole)
    found["path_r2_of_actions"] = score(
        lambda r: relation(r["parameters"][:, :-1], r["parameters"][:, 1:]).flatten(1).clone(), whole
    )
    samples, rows = sides(one)[1]
    with torch.inference_mode():
        batches = (batch for _, batch in one.batches(samples, rows[:512]))
        context = Context(1, 1, step_generator(0, 1, one.device))
        found["health"] = {name: round(v, 3) for name, v in one.method.health(batches, context).items()}
    return found


def main() -> None:
    """Train and ask every combination, one line each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="a labelled source; else the simulated turntable")
    parser.add_argument("--told", nargs="+", default=["both"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--most-views", type=int, default=8)
    parser.add_argument("--epochs-of-regression", type=int, default=30)
    parser.add_argument("--out", default="runs/view-sequences")
    options, rest = parser.parse_known_args()
    kind = recipe("seq-jepa")
    fields = parse_words(kind, rest)
    for seed in options.seeds:
        for number, told in enumerate(options.told):
            out = Path(options.out) / f"{told}-{seed}"
            shutil.rmtree(out, ignore_errors=True)
            settings = Settings(seed=seed, steps=options.steps, quiet=True)
            data = options.data or kind.example_data
            train("seq-jepa", data, out, preset="tiny", settings=settings, told=told, **fields)
            run = load(out)
            for trained in (True, False) if number == 0 else (True,):
                figures = asked(run, trained, options.most_views, options.epochs_of_regression)
                print(json.dumps({"told": told, "seed": seed, "trained": trained, **figures}), flush=True)


if __name__ == "__main__":
    main()
