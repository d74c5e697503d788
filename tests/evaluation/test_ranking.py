"""Rank correlations as scipy has them, intervals that hold what they say, and the choice at a plateau."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from anyjepa.core.errors import UserError
from anyjepa.evaluation.ranking import (
    agreement,
    kendall,
    known_criterion,
    plateau_edge,
    score,
    spearman,
    standardised_sum,
)

few_values = st.lists(st.integers(0, 6), min_size=3, max_size=25)  # with ties


@given(few_values, st.integers(0, 999))
@settings(max_examples=60)
def test_correlations_of_ranks_are_those_of_scipy(first, seed):
    a = np.array(first, dtype=float)
    b = np.random.default_rng(seed).integers(0, 5, len(a)).astype(float)
    for ours, theirs in ((spearman, stats.spearmanr), (kendall, stats.kendalltau)):
        expected = math.nan if np.ptp(a) == 0 or np.ptp(b) == 0 else theirs(a, b).statistic
        assert ours(a, b) == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_a_draw_of_runs_is_weighed_as_if_each_had_been_repeated():
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=12), draw.normal(size=12)
    counts = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), 2000)
    again = [stats.spearmanr(np.repeat(a, n), np.repeat(b, n)).statistic for n in counts[:200]]
    found = agreement(a, b)
    rho, low, high = found["spearman"]
    assert rho == pytest.approx(stats.spearmanr(a, b).statistic)
    inside = np.mean([low <= one <= high for one in again])
    assert 0.9 < inside < 1.0


def test_what_is_lost_by_the_choice():
    truth = np.array([0.5, 0.9, 0.7, 0.6])
    found = agreement(np.array([1.0, 2.0, 3.0, 0.0]), truth)
    assert found["chosen"] == 2
    assert found["lost"][0] == pytest.approx(0.2)
    assert found["lost_by_chance"] == pytest.approx(0.9 - truth.mean())
    perfect = agreement(truth, truth)
    assert perfect["spearman"][0] == perfect["kendall"][0] == pytest.approx(1)
    assert perfect["lost"] == [0, 0, 0]
    unknown = agreement(np.array([-np.inf, 1.0, -np.inf, 2.0]), truth)
    assert unknown["chosen"] == 3


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say():
    draw, rho, held = np.random.default_rng(1), 0.6, 0
    truth = 6 / math.pi * math.asin(rho / 2)  # Spearman of a bivariate normal
    for _ in range(100):
        a = draw.normal(size=30)
        b = rho * a + math.sqrt(1 - rho**2) * draw.normal(size=30)
        _, low, high = agreement(a, b)["spearman"]
        held += low <= truth <= high
    assert 85 <= held <= 99


def test_what_is_better_depends_on_the_measure():
    assert score({"alpha_req": 1.1}, "alpha_req") > score({"alpha_req": 0.5}, "alpha_req")
    assert score({"loss": 0.1}, "loss") > score({"loss": 0.2}, "loss")
    assert score({}, "lidar") == -math.inf
    with pytest.raises(UserError, match="Did you mean 'rankme'"):
        known_criterion("rankm")


def test_clid_joins_its_parts_in_units_of_their_spread():
    assert standardised_sum([1.0, 3.0], [10.0, 30.0]) == [-2.0, 2.0]
    assert standardised_sum([1.0, 3.0], [5.0, 5.0]) == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("tied", "best", "chosen"),
    [
        ([False, False, True, True], 2, 2),  # the plateau goes on to the largest: its least
        ([False, False, True, True], 3, 2),
        ([True, True, False, False], 0, 1),  # to the least: its largest
        ([False, True, True, False], 1, 1),  # to neither end
        ([True, True, True, True], 2, 2),  # to both
        ([True, False, False, True], 3, 3),  # no plateau
    ],
)
def test_the_edge_of_a_plateau(tied, best, chosen):
    settings_of, order = [1.0, 2.0, 4.0, 8.0], [2, 0, 3, 1]
    shuffled = [settings_of[i] for i in order]
    found = plateau_edge(shuffled, order.index(best), [tied[i] for i in order])
    assert order[found] == chosen
