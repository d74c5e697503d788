"""Brain-JEPA: what the paper's numbers give, gradients where they belong, runs as sets of regions."""

import dataclasses

import numpy as np
import pytest
import torch

from anyjepa.core.errors import UserError
from anyjepa.core.masking import RandomPatches
from anyjepa.core.method import Context
from anyjepa.domains.fmri import Fmri, table_of
from anyjepa.domains.fmri_sources import open_fmri
from anyjepa.engine.run import build_method
from anyjepa.recipes import recipe

SMALL = {
    "points": 24, "patch_size": 4, "width": 16, "depth": 1, "heads": 2, "initial_std": 0.3,
    "predictor_width": 16, "predictor_depth": 1, "predictor_heads": 2, "components": 4,
}  # fmt: skip
REGIONS = 9


def facts(regions=REGIONS, components=4, **more):
    table = np.random.default_rng(0).standard_normal((regions, components))
    return {
        "regions": [f"r{n}" for n in range(regions)], "step": 2.0, "points": 24, "every": 1, "patch_size": 4,
        "median": [9000.0] * regions, "spread": [500.0] * regions, "temporal_share": 0.02,
        "gradients": [" ".join(f"{value:.8g}" for value in row) for row in table],
    } | more  # fmt: skip


def small(given=None, **fields):
    return build_method(recipe("brain-jepa").preset("tiny", **SMALL | fields), given or facts(), 0)


def runs(count=4, regions=REGIONS, time=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    bold = torch.randn(count, regions, time, generator=generator) * 50 + 9000
    return {"bold": bold, "recorded": torch.ones(count, regions, dtype=torch.bool)}


def context(seed=0, step=1, steps=10):
    return Context(step, steps, torch.Generator().manual_seed(seed))


def test_the_paper_is_4500_tokens_and_86_million_weights():
    kind = recipe("brain-jepa").preset("paper")
    assert kind.points // kind.patch_size * 450 == 4500
    assert kind.step * kind.every * kind.points == pytest.approx(352.8)
    with torch.device("meta"):
        torch.manual_seed(0)
        encoder = kind.method(facts(450, 30, points=160, patch_size=16, every=3)).encoder
    # ViT-B as counted in the note, and the map of the gradients
    count = sum(part.numel() for part in encoder.parameters())
    assert count == pytest.approx(85.08e6, rel=0.001)


def test_gradients_reach_the_maps_of_both_and_no_table_or_teacher():
    method = small()
    method(runs(), context())["loss"].backward()
    for part in (method.encoder, method.predictor):
        assert part.positions.space.weight.grad.any()
        assert part.positions.gradients.grad is None
    assert method.encoder.positions.space is not method.predictor.positions.space
    assert all(parameter.grad is None for parameter in method.target.parameters())
    names = dict(method.target.named_parameters())
    assert "encoder.positions.space.weight" in names, "the teacher has a map of its own, which follows"


def test_regions_are_a_set():
    given = facts()
    order = np.random.default_rng(1).permutation(REGIONS)
    moved = {
        **given,
        **{k: [given[k][n] for n in order] for k in ("regions", "median", "spread", "gradients")},
    }
    one, two = small(given).eval(), small(moved).eval()
    two.load_state_dict({**two.state_dict(), **{
        name: value for name, value in one.state_dict().items() if not name.endswith("gradients")
    }})  # fmt: skip
    batch = runs()
    other = {"bold": batch["bold"][:, order.copy()], "recorded": batch["recorded"]}
    with torch.inference_mode():
        torch.testing.assert_close(one.embed(batch), two.embed(other), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(one.embed(batch), one.embed(other), atol=1e-3)


def test_a_region_that_was_not_recorded_counts_nowhere():
    method = small()
    batch = runs()
    batch["recorded"][:, 3] = False
    other = {**batch, "bold": batch["bold"].clone()}
    other["bold"][:, 3] = torch.randn(4, 24) * 1e4
    for name, value in method(batch, context()).items():
        torch.testing.assert_close(method(other, context())[name], value)
    tokens = method.eval().tokens(batch).values.unflatten(1, (REGIONS, 6))
    kept = [n for n in range(REGIONS) if n != 3]
    torch.testing.assert_close(method.embed(batch), tokens[:, kept].mean((1, 2)))


@pytest.mark.parametrize("objective", ["smooth-l1", "l1", "l2", "cosine"])
def test_the_loss_is_the_mean_over_targets_of_recorded_regions(objective):
    from anyjepa.recipes.brain_jepa import OBJECTIVES, _distance

    generator = torch.Generator().manual_seed(0)
    predicted, goal = (torch.randn(3, 7, 5, generator=generator) for _ in range(2))
    there = torch.rand(3, 7, generator=generator) < 0.6
    expected = OBJECTIVES[objective](predicted[there], goal[there])
    torch.testing.assert_close(_distance(OBJECTIVES[objective], predicted, goal, there), expected)


def test_an_average_over_regions_weighs_the_three_sets_alike():
    by_target, by_set = small(), small(average="regions")
    for seed in range(20):
        drawn = by_set._drawn(runs(), context(seed))
        if all(drawn.widths) and len(set(drawn.widths)) > 1:
            break
    one, two = (method(runs(), context(seed))["loss"] for method in (by_target, by_set))
    assert not torch.isclose(one, two)


def test_masks_to_be_shown_are_the_sets():
    method = small()
    for seed in range(12):
        drawn, shown = method._drawn(runs(), context(seed)), method.masks(runs(), context(seed))
        assert torch.equal(drawn.context, shown.context)
        sets = [part for part in drawn.sets() if part.shape[1]]
        assert shown.targets.shape[1] == len(sets)
        for block, part in zip(shown.targets.unbind(1), sets, strict=True):
            assert set(block[0].tolist()) == set(part[0].tolist())


def test_a_long_run_is_embedded_by_windows_and_padding_does_not_leak():
    method = small(facts(every=2), every=2).eval()
    assert method.span == 47
    long = runs(2, time=47 + 23 + 5)
    length = torch.tensor([75, 60])
    batch = {**long, "length": length}
    windows = [long["bold"][..., start : start + 47 : 2] for start in (0, 23)]
    with torch.inference_mode():
        found = method.embed(batch)
        each = [method.embed({"bold": w[..., None].repeat(1, 1, 1, 2).flatten(2)[..., :47],
                              "recorded": long["recorded"]}) for w in windows]  # fmt: skip
        torch.testing.assert_close(found[0], (each[0][0] + each[1][0]) / 2, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found[1], each[0][1], atol=1e-5, rtol=1e-5)
        padded = {**batch, "bold": torch.nn.functional.pad(long["bold"], (0, 40), value=1e5)}
        torch.testing.assert_close(method.embed(padded), found, atol=1e-5, rtol=1e-5)


def test_a_constant_offset_changes_nothing_unless_scaling_keeps_it_and_then_it_is_said():
    batch = runs()
    moved = {**batch, "bold": batch["bold"] + 3000 * torch.arange(4)[:, None, None]}
    with torch.inference_mode():
        plain, robust = small().eval(), small(normalise="robust").eval()
        torch.testing.assert_close(plain.embed(batch), plain.embed(moved), atol=1e-2, rtol=1e-2)
        assert not torch.allclose(robust.embed(batch), robust.embed(moved), atol=1e-1)
    assert not plain.cautions(100)
    assert "2.0%" in robust.cautions(100)[0]


def test_the_last_momentum_is_the_one_that_was_asked_for():
    method = small(momentum=(0.9, 1.0))
    assert method.scheduled(context(step=1))["momentum"] == 0.9
    assert method.target.momentum(1.0) == 1.0


def test_controls():
    assert isinstance(small(mask="random").sampler, RandomPatches)
    shuffled, learned = small(positions="shuffled"), small(positions="learned")
    table = table_of(facts())
    rows = {tuple(row) for row in shuffled.encoder.positions.gradients.tolist()}
    assert rows == {tuple(row) for row in table.tolist()}
    assert not np.array_equal(shuffled.encoder.positions.gradients, table)
    assert torch.equal(shuffled.encoder.positions.gradients, shuffled.predictor.positions.gradients)
    assert learned.encoder.positions.gradients.shape == (REGIONS, REGIONS)
    for kind in ("none", "collapse"):
        assert not hasattr(small(teacher=kind).target, "encoder")


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ("fewer than three tokens", {"points": 8}),
        ("--width 18 must be a multiple", {"width": 18, "heads": 2}),
        ("does not divide", {"heads": 3}), ("is in seconds", {"step": 735.0}),
        ("--sparsity must lie", {"sparsity": 2.0}),
        ("above 0", {"every": 0}),
    ],
)  # fmt: skip
def test_values_that_cannot_work_are_one_sentence(words, fields):
    with pytest.raises(UserError, match=words):
        recipe("brain-jepa").preset("tiny", **SMALL | fields)


def test_masks_that_cannot_be_drawn_are_one_sentence():
    with pytest.raises(UserError, match=r"cannot be drawn: .*--patch-size"):
        small(hidden_regions=(0.01, 0.02))
    with pytest.raises(UserError, match="three are the least"):
        small(facts(points=8))


def test_advice_keeps_the_repetition_time_and_cuts_short_runs():
    kind = recipe("brain-jepa")
    values = np.random.default_rng(0).standard_normal((8, 12, 40)).cumsum(2)
    samples = open_fmri(values, reading=kind.preset("tiny").reading())
    found = kind.advice(samples, Fmri().measure(samples))
    assert found == {"patch_size": 3}
    method = dataclasses.replace(kind.preset("tiny"), **found).method(Fmri().measure(samples))
    assert method.stretches == 13
    told = open_fmri("synthetic-fmri", reading={**kind.preset("tiny").reading(), "step": 1.0})
    assert kind.advice(told, Fmri().measure(told))["step"] == 2.0
