"""Runs of a sequence: the geometry of the note, and that no target is ever seen."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyjepa.core.sequence_masks import Runs, host_generator


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def members(runs, batch, seed):
    masks = runs(batch, seeded(seed))
    union = torch.zeros(batch, runs.tokens, dtype=torch.bool).scatter(1, masks.targets.flatten(1), True)
    seen = torch.zeros(batch, runs.tokens, dtype=torch.bool).scatter(1, masks.context, True)
    return masks, union, seen


def test_sizes_are_those_of_the_geometry():
    """Exact check 6: k in 9..12 at .125, .3125, .3125, .25; union 9..48; context 6..41."""
    runs, widths = Runs(64), []
    host = seeded(0)
    for _ in range(20_000):
        widths.append(runs.widths(host)[0])
    shares = torch.tensor(widths).bincount(minlength=13)[9:] / len(widths)
    assert len(shares) == 4
    assert torch.allclose(shares, torch.tensor([0.125, 0.3125, 0.3125, 0.25]), atol=0.015)
    for seed in range(200):
        _, union, seen = members(runs, 16, seed)
        assert union.sum(1).min() >= 9 and union.sum(1).max() <= 48
        assert seen.sum(1).min() >= 6 and seen.sum(1).max() <= 41


def test_means_are_those_of_the_note():
    """Exact check 7: union 32.3, valid 31.7, context 17.7, fragments 2.1, over 20,000 draws."""
    runs, totals = Runs(64), torch.zeros(4, dtype=torch.float64)
    draws, batch = 4000, 5
    for seed in range(draws):
        _, union, seen = members(runs, batch, seed)
        starts = seen & ~torch.nn.functional.pad(seen, (1, 0))[:, :-1]
        figures = [union.sum(1), (~union).sum(1), seen.sum(1), starts.sum(1)]
        totals += torch.stack(figures).double().sum(1)
    means = totals / (draws * batch)
    assert means.tolist() == pytest.approx([32.3, 31.7, 17.7, 2.1], abs=0.1)


@given(
    tokens=st.integers(8, 80),
    targets=st.integers(1, 5),
    low=st.floats(0.05, 0.3),
    spread=st.floats(0, 0.1),
    shared=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60)
def test_targets_are_runs_and_the_context_is_a_run_of_the_rest(tokens, targets, low, spread, shared, seed):
    runs = Runs(tokens, targets, (low, low + spread), shared=shared)
    masks, union, seen = members(runs, 7, seed)
    assert masks.targets.shape[:2] == (7, targets)
    assert (masks.targets.diff(dim=2) == 1).all()
    assert masks.targets.min() >= 0 and masks.targets.max() < tokens
    assert torch.equal(masks.relaxed, union.all(dim=1))
    assert not (seen & union)[~masks.relaxed].any(), "a target is seen"
    for row in (~masks.relaxed).nonzero().flatten().tolist():
        context = masks.context[row][masks.present[row]]
        rank = (~union[row]).cumsum(0) - 1
        assert (rank[context].diff() == 1).all(), "not consecutive among the free positions"
        assert torch.equal(seen[row].nonzero().flatten(), context), "padding shows something else"


def test_a_shared_draw_is_the_same_for_every_sample():
    masks = Runs(64, shared=True)(5, seeded(0))
    assert (masks.targets == masks.targets[:1]).all()
    assert (masks.context == masks.context[:1]).all()
    own = Runs(64)(5, seeded(0))
    assert not (own.targets == own.targets[:1]).all()


def test_widths_come_from_the_seed_and_places_from_the_generator():
    runs = Runs(64)
    first, again = runs(4, seeded(5)), runs(4, seeded(5))
    assert torch.equal(first.context, again.context) and torch.equal(first.targets, again.targets)
    generator, host = seeded(5), host_generator(seeded(5))
    shapes = {runs(4, generator, host).context.shape for _ in range(12)}
    assert len(shapes) > 3, "further draws of one step differ in width"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"target_ratio": (0.3, 0.2)}, "target ratio range"),
        ({"context_ratio": (0.0, 0.5)}, "context ratio range"),
        ({"target_ratio": (1.0, 1.0)}, "leave nothing to see"),
        ({"targets": 0}, "leave nothing to see"),
    ],
)
def test_masks_that_cannot_be_are_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        Runs(64, **fields)


def test_where_targets_cover_everything_one_position_is_seen_and_it_is_said():
    masks = Runs(4, targets=30, target_ratio=(0.5, 0.5))(20, seeded(0))
    assert masks.relaxed.all()
    assert (masks.present.sum(dim=1) == 1).all()
