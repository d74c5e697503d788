"""Teachers, distances and schedules: the known answers of the paper notes."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from anyjepa.core.objectives import OBJECTIVES, cosine, l1, l2, smooth_l1
from anyjepa.core.schedules import cosine as cosine_schedule
from anyjepa.core.schedules import linear, warmup_cosine
from anyjepa.core.targets import EmaTeacher


def test_teacher_after_n_updates_has_the_closed_form():
    encoder = nn.Linear(3, 2)
    teacher = EmaTeacher(encoder, 0.9, 0.9)
    first = copy.deepcopy(teacher.encoder.state_dict())
    nn.init.constant_(encoder.weight, 0.7)
    for _ in range(25):
        teacher.follow(encoder, teacher.momentum(0.5))
    expected = 0.9**25 * first["weight"] + (1 - 0.9**25) * encoder.weight
    assert torch.allclose(teacher.encoder.weight, expected, atol=1e-6)


def test_teacher_starts_as_a_copy_and_takes_no_gradient():
    encoder = nn.Linear(3, 2)
    teacher = EmaTeacher(encoder)
    assert torch.equal(teacher.encoder.weight, encoder.weight)
    assert not any(p.requires_grad for p in teacher.encoder.parameters())
    teacher.follow(encoder, 1.0)
    assert torch.equal(teacher.encoder.weight, encoder.weight)


def test_momentum_runs_from_start_to_end_exactly():
    teacher = EmaTeacher(nn.Linear(1, 1), 0.996, 1.0)
    assert teacher.momentum(0.0) == 0.996
    assert teacher.momentum(1.0) == 1.0
    assert teacher.momentum(50_000 / 187_500) == pytest.approx(0.996 + 0.004 * 50_000 / 187_500, abs=1e-15)


def test_schedules_of_the_published_training():
    """300 epochs of 625 steps with 40 of warm-up (I-JEPA note, exact check 7)."""

    def rate(step):
        return warmup_cosine(step, 300 * 625, 40 * 625, 2e-4, 1e-3, 1e-6)

    assert rate(1) == pytest.approx(2.00032e-4, rel=1e-9)
    assert rate(12_500) == pytest.approx(6e-4, rel=1e-9)
    assert rate(25_000) == pytest.approx(1e-3, rel=1e-9)
    assert rate(187_500) == pytest.approx(1e-6, rel=1e-9)
    assert cosine_schedule(0.04, 0.4, 0.5) == pytest.approx(0.22)
    assert (cosine_schedule(0.04, 0.4, 0.0), cosine_schedule(0.04, 0.4, 1.0)) == pytest.approx((0.04, 0.4))


@given(st.integers(1, 500), st.integers(0, 500))
@settings(max_examples=50)
def test_warmup_never_leaves_its_bounds(steps, warmup):
    rates = [warmup_cosine(step, steps, min(warmup, steps), 1e-4, 1e-3, 1e-6) for step in range(1, steps + 1)]
    assert all(1e-6 - 1e-15 <= rate <= 1e-3 + 1e-15 for rate in rates)
    if warmup:
        assert max(rates) == pytest.approx(1e-3)


def test_linear_reaches_its_ends():
    assert (linear(2.0, 5.0, 0.0), linear(2.0, 5.0, 1.0), linear(2.0, 5.0, 0.5)) == (2.0, 5.0, 3.5)


def test_cost_of_predicting_nothing_against_normalised_targets():
    """I-JEPA note, exact check 8: 0.4247 for smooth-L1, 1 for squares, 0.798 for absolutes."""
    torch.manual_seed(0)
    target = functional.layer_norm(torch.randn(20_000, 256), (256,))
    nothing = torch.zeros_like(target)
    assert smooth_l1(nothing, target).item() == pytest.approx(0.4247, abs=2e-3)
    assert l2(nothing, target).item() == pytest.approx(1.0, abs=1e-3)
    assert l1(nothing, target).item() == pytest.approx(math.sqrt(2 / math.pi), abs=2e-3)


def test_smooth_l1_is_square_below_beta_and_straight_above():
    target = torch.zeros(1, 2)
    assert smooth_l1(torch.tensor([[0.5, 0.5]]), target).item() == pytest.approx(0.125)
    assert smooth_l1(torch.tensor([[3.0, 3.0]]), target).item() == pytest.approx(2.5)
    assert smooth_l1(torch.tensor([[3.0, 3.0]]), target, beta=2.0).item() == pytest.approx(2.0)


def test_cosine_distance_known_values():
    a = torch.tensor([[1.0, 0.0]])
    for b, distance in (([2.0, 0.0], 0.0), ([0.0, 3.0], 1.0), ([-1.0, 0.0], 2.0)):
        assert cosine(a, torch.tensor([b])).item() == pytest.approx(distance, abs=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_mean_over_everything_is_the_mean_over_blocks_and_ignores_duplicates(name):
    torch.manual_seed(0)
    predicted, target = torch.randn(2, 5, 4, 7, 16)
    whole = OBJECTIVES[name](predicted, target)
    by_block = torch.stack([OBJECTIVES[name](predicted[:, b], target[:, b]) for b in range(4)]).mean()
    assert torch.allclose(whole, by_block, atol=1e-6)
    twice = OBJECTIVES[name](torch.cat([predicted, predicted], 1), torch.cat([target, target], 1))
    assert torch.allclose(whole, twice, atol=1e-6)
