"""T-JEPA on small tables: the behavioural checks 9, 10 and 14 of the paper note, three seeds."""

import numpy as np
import pytest
import torch

import anyjepa
from anyjepa.core.method import Context
from anyjepa.domains import domains
from anyjepa.engine.loading import Steps
from anyjepa.engine.optimiser import apply, build_optimiser, schedule
from anyjepa.engine.randomness import step_generator
from anyjepa.engine.run import build_method
from anyjepa.recipes import recipe

SEEDS = (0, 1, 2)
# as measured for the note: width 16, two and two layers, standardised numbers, published initialisation
FIELDS = {
    "width": 16, "predictor_width": 16, "feedforward": 32, "predictor_feedforward": 32,
    "scaling": "standard", "momentum": (0.99, 1.0), "initial_token": 0.0, "batch_size": 64,
}  # fmt: skip


def trained(seed, steps, **fields):
    """The method before and after training, the ratio of each step, and the samples."""
    table = domains()["table"]
    kind = recipe("t-jepa").preset("tiny", **{**FIELDS, **fields})
    samples = table.open("sklearn:breast_cancer", reading=kind.reading())
    facts = table.measure(samples)
    fresh, method = (build_method(kind, facts, seed) for _ in range(2))
    optimiser, loader = build_optimiser(method), Steps(samples, kind, kind.batch_size, seed, steps)
    method.train()
    ratios = []
    for step in range(1, steps + 1):
        context = Context(step, steps, step_generator(seed, step))
        apply(optimiser, schedule(kind, step, steps))
        losses = method(loader[step - 1][0], context)
        losses["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        method.after_step(context)
        ratios.append(float(losses["position_only_ratio"]))
    return fresh.eval(), method.eval(), ratios, samples


@torch.inference_mode()
def features(method, samples):
    return method.embed({"row": torch.from_numpy(samples.array)}).clone()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_without_stop_gradient_rows_become_alike():
    """Check 9: the spread over rows falls by far where nothing keeps the targets from following."""
    kept, lost = [], []
    for seed in SEEDS:
        for teacher, spreads in (("ema", kept), ("collapse", lost)):
            fresh, method, _, samples = trained(seed, 300, teacher=teacher, embedding="mean")
            before, after = (float(features(part, samples).std(0).mean()) for part in (fresh, method))
            spreads.append(after / before)
    assert np.mean(kept) > 2 * np.mean(lost), (kept, lost)
    assert max(lost) < min(kept), (kept, lost)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_learns_more_than_where_a_column_is():
    """Check 14: the loss falls below that of always predicting each column's mean target."""
    ratios = [np.mean(trained(seed, 600, embedding="reg")[2][-20:]) for seed in SEEDS]
    assert min(ratios) > 0.05, ratios


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_neighbours_by_the_reg_token_share_their_label_more_often_than_before_training(tmp_path):
    """Check 10, on simulated customers.

    On the 569 rows of the breast-cancer table, where the note saw it with one seed, it does not show over
    three: docs/experiments.md has the figures.
    """
    gains = []
    for seed in SEEDS:
        settings = anyjepa.Settings(seed=seed, quiet=True)
        anyjepa.train("t-jepa", out=tmp_path / f"{seed}", settings=settings, embedding="reg")
        score = anyjepa.evaluate(tmp_path / f"{seed}", probe="knn")
        gains.append(score["value"] - score["untrained"])
    assert min(gains) > 0, gains
    assert np.mean(gains) > 0.03, gains
