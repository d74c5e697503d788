"""Intervals: known answers, agreement with independent formulas, and coverage by simulation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anyjepa.core.errors import UserError
from anyjepa.evaluation.confidence import (
    accuracy_interval,
    mean_interval,
    paired_difference_interval,
    r2_interval,
)


def outcomes(right: int, count: int) -> torch.Tensor:
    return (torch.arange(count) < right).float()


@pytest.mark.parametrize("right", [30, 200, 500, 730, 970])
def test_accuracy_interval_is_close_to_wilsons_for_a_thousand_samples(right):
    z, n, p = 1.959964, 1000, right / 1000
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    interval = accuracy_interval(outcomes(right, n))
    assert interval.value == pytest.approx(p)
    assert interval.low == pytest.approx(centre - half, abs=0.003)
    assert interval.high == pytest.approx(centre + half, abs=0.003)


def test_accuracy_interval_matches_resampling_sample_by_sample():
    correct = outcomes(37, 60)
    drawn = np.random.default_rng(1).integers(60, size=(20_000, 60))
    low, high = np.quantile(correct.numpy()[drawn].mean(1), [0.025, 0.975])
    interval = accuracy_interval(correct)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1.01 / 60)


def test_accuracy_interval_covers_the_true_accuracy_as_often_as_it_says():
    truth, count, repeats = 0.7, 500, 1500
    drawn = torch.from_numpy(np.random.default_rng(0).random((repeats, count)) < truth)
    intervals = [accuracy_interval(row) for row in drawn]
    covered = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert 0.93 <= covered <= 0.97


def test_paired_interval_covers_the_true_difference_as_often_as_it_says():
    generator, repeats, count = np.random.default_rng(0), 1500, 500
    shared = generator.random((repeats, count))
    a, b = shared < 0.7, (shared + 0.1 * generator.random((repeats, count))) < 0.68
    truth = 0.7 - 0.63
    intervals = [
        paired_difference_interval(*pair) for pair in zip(torch.tensor(a), torch.tensor(b), strict=True)
    ]
    covered = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert 0.93 <= covered <= 0.97


def test_pairing_narrows_the_interval_of_correlated_outcomes():
    a, b = outcomes(700, 1000), outcomes(680, 1000)
    paired = paired_difference_interval(a, b)
    assert paired.value == pytest.approx(0.02)
    assert paired.low > 0, "20 of 20 discordant samples speak for a"
    shuffled = b[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    independent = paired_difference_interval(a, shuffled)
    assert independent.high - independent.low > 3 * (paired.high - paired.low)
    # the standard deviation of a mean of +1, -1, 0: sqrt((share of discordant - difference^2) / n)
    assert paired.high - paired.low == pytest.approx(2 * 1.96 * math.sqrt((0.02 - 0.02**2) / 1000), rel=0.06)


@given(st.integers(1, 200), st.data())
def test_swapping_the_two_sides_mirrors_the_interval(count, data):
    a, b = (
        torch.tensor(data.draw(st.lists(st.booleans(), min_size=count, max_size=count))) for _ in range(2)
    )
    one, other = paired_difference_interval(a, b), paired_difference_interval(b, a)
    assert -1 <= one.low <= one.value <= one.high <= 1
    assert one.value == pytest.approx(-other.value)
    # the two are drawn differently, so they agree to the noise of 10,000 resamples, a step at small counts
    assert one.low == pytest.approx(-other.high, abs=max(0.02, 1.01 / count))


@given(st.integers(1, 300), st.integers(0, 300))
def test_an_accuracy_interval_is_ordered_and_never_a_point(count, right):
    right = min(right, count)
    interval = accuracy_interval(outcomes(right, count))
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    assert interval.high > interval.low


def test_all_right_leaves_room_for_errors_not_seen():
    # Clopper and Pearson for 20 of 20: [0.8316, 1]
    assert accuracy_interval(outcomes(20, 20))[:] == pytest.approx((1.0, 0.8316, 1.0), abs=1e-4)
    assert accuracy_interval(outcomes(0, 20))[:] == pytest.approx((0.0, 0.0, 0.1684), abs=1e-4)
    same = paired_difference_interval(outcomes(7, 20), outcomes(7, 20))
    assert same[:] == pytest.approx((0.0, -0.1684, 0.1684), abs=1e-4)


def test_a_higher_level_gives_a_wider_interval_and_the_same_call_the_same_interval():
    correct = outcomes(60, 100)
    wide, narrow = accuracy_interval(correct, 0.99), accuracy_interval(correct, 0.8)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert accuracy_interval(correct) == accuracy_interval(correct.flip(0))


@pytest.mark.parametrize(
    ("count", "level", "quantile"),
    [
        (2, 0.95, 12.7062047),
        (3, 0.95, 4.3026527),
        (4, 0.95, 3.1824463),
        (5, 0.95, 2.7764451),
        (10, 0.99, 3.2498355),
        (31, 0.95, 2.0422725),
        (101, 0.90, 1.6602343),
    ],
)
def test_mean_interval_uses_the_tabled_quantiles_of_students_t(count, level, quantile):
    values = torch.arange(count).double()
    mean, low, high = mean_interval(values, level)
    assert mean == pytest.approx((count - 1) / 2)
    half = quantile * float(values.std()) / math.sqrt(count)
    assert (low, high) == pytest.approx((mean - half, mean + half), rel=1e-6)


def test_r2_interval_matches_resampling_pair_by_pair_with_a_plain_loop():
    generator = np.random.default_rng(0)
    y = generator.normal(size=150) + 5
    p = y + 0.6 * generator.normal(size=150)

    def r2(rows):
        return 1 - ((y[rows] - p[rows]) ** 2).sum() / ((y[rows] - y[rows].mean()) ** 2).sum()

    expected = np.quantile([r2(generator.integers(150, size=150)) for _ in range(4000)], [0.025, 0.975])
    interval = r2_interval(torch.tensor(y), torch.tensor(p))
    assert interval.value == pytest.approx(r2(np.arange(150)))
    assert (interval.low, interval.high) == pytest.approx(tuple(expected), abs=0.015)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: accuracy_interval(torch.zeros(0)), "no test samples"),
        (lambda: accuracy_interval(torch.tensor([0.0, 0.5])), "0 .wrong. or 1 .right."),
        (lambda: accuracy_interval(torch.ones(3), 95.0), "between 0 and 1"),
        (lambda: paired_difference_interval(torch.ones(3), torch.ones(4)), "not 3 and 4"),
        (lambda: mean_interval([0.5]), "two values or more, not 1"),
        (lambda: r2_interval(torch.ones(5), torch.ones(5)), "targets that differ"),
    ],
)
def test_what_cannot_be_measured_is_said(call, words):
    with pytest.raises(UserError, match=words):
        call()
