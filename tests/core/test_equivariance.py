"""R squared by hand, by scikit-learn, and where the answer is known."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from anyjepa.core.equivariance import Pairs, r_squared, told_by_network, told_linearly


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_mean_is_worth_nothing_and_worse_is_below():
    """Check 10 of the note."""
    target = normal(50, 3)
    assert r_squared(target.mean(0).expand(50, 3), target) == pytest.approx(0, abs=1e-12)
    assert r_squared(target, target) == 1
    assert r_squared(-target, target) < 0
    guess = target + 0.5 * normal(50, 3, seed=1)
    assert r_squared(guess, target) == pytest.approx(r2_score(target, guess))


def test_numbers_that_never_change_do_not_count():
    target = torch.cat([normal(20, 1), torch.ones(20, 1)], dim=1)
    assert r_squared(target + 0.0, target) == 1
    assert math.isnan(r_squared(torch.ones(20, 1), torch.ones(20, 1)))


def test_products_tell_a_turn_that_no_linear_layer_can():
    angles = 2 * math.pi * torch.rand(2, 600, generator=torch.Generator().manual_seed(0))
    hidden = normal(2, 10)
    first, second = (torch.stack([a.cos(), a.sin()], dim=1).double() @ hidden for a in angles)
    turn = (angles[1] - angles[0]).double()
    action = torch.stack([turn.cos(), turn.sin()], dim=1)
    pairs = Pairs(torch.cat([first[:300], second[:300]]))
    features = pairs(first, second)
    assert features.shape == (600, 2 * 2 + 4)
    assert r_squared(told_linearly(features[:300], action[:300], features[300:]), action[300:]) > 0.99
    both = torch.cat([first, second], dim=1)
    assert r_squared(told_linearly(both[:300], action[:300], both[300:]), action[300:]) < 0.05
    x = both.float()
    told = told_by_network(x[:300], action[:300].float(), x[300:], hidden=64, epochs=40)
    assert r_squared(told, action[300:].float()) > 0.9


def test_a_sum_of_saccades_is_the_whole_way():
    """Check 7 of the note: a linear regressor on the sum of actions gets R squared 1."""
    places = np.random.default_rng(0).uniform(size=(80, 5, 2))
    path = torch.from_numpy(places[:, -1] - places[:, 0])
    summed = torch.from_numpy(np.diff(places, axis=1).sum(1))
    told = told_linearly(summed[:40], path[:40], summed[40:])
    assert r_squared(told, path[40:]) > 1 - 1e-6
