"""Few labels: what is drawn, that nothing leaks, and means over draws as scipy has them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from anyjepa.core.errors import UserError
from anyjepa.domains.images import Images
from anyjepa.evaluation.episodes import episodes
from anyjepa.evaluation.few_shot import few_shot
from anyjepa.evaluation.low_shot import choosable, drawn, over_draws
from anyjepa.evaluation.sides import Side


def side(labels, features=None, groups=None):
    labels = torch.as_tensor(labels)
    samples = Images().open(np.zeros((len(labels), 2, 2), np.uint8))
    kinds = {} if features is None else {kind: features for kind in ("trained", "untrained", "raw")}
    return Side(samples, np.arange(len(labels)), labels, groups, kinds)


@given(st.integers(1, 5), st.integers(0, 99), st.integers(2, 6))
@settings(max_examples=30, deadline=None)
def test_so_many_of_each_class_and_other_ones_each_draw(shots, seed, classes):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(classes), 9))
    found = drawn(side(labels), None, shots, seed)
    assert np.bincount(labels[found]).tolist() == [shots] * classes
    assert len(set(found.tolist())) == len(found)
    assert np.array_equal(found, drawn(side(labels), None, shots, seed))
    if shots < 5:
        assert not np.array_equal(found, drawn(side(labels), None, shots, seed + 1))


def test_a_share_of_each_class_one_at_least():
    labels = np.repeat([0, 1, 2], [400, 100, 3])
    assert np.bincount(labels[drawn(side(labels), 0.05, None, 0)]).tolist() == [20, 5, 1]
    assert len(drawn(side(np.linspace(0, 1, 200)), 0.1, None, 0)) == 20
    many = torch.zeros(100, 4, dtype=torch.int8)
    many[:50, 0], many[40:60, 1], many[90:, 2] = 1, 1, 1
    found = drawn(side(many), None, 3, 0)
    assert (many[torch.from_numpy(found)] == 1).sum(0)[:3].min() >= 3
    for wrong in (
        {"fraction": 1.5, "shots": None},
        {"fraction": None, "shots": 0},
        {"fraction": None, "shots": 4},
    ):
        with pytest.raises(UserError):
            drawn(side(labels), wrong["fraction"], wrong["shots"], 0)


def test_nothing_can_be_chosen_on_one_sample_a_class_or_one_group():
    assert not choosable(side([0, 1, 2]))
    assert choosable(side([0, 0, 1, 1]))
    assert not choosable(side([0, 0, 1, 1], groups=torch.zeros(4, dtype=torch.long)))
    assert not choosable(side([0.5, 0.1, 0.2]))


def test_the_mean_over_draws_has_students_interval_and_pairs_its_gains():
    random = np.random.default_rng(0)
    values, other = random.random(6), random.random(6)
    rows = [
        {"value": v, "low": 0, "high": 1, "untrained": u, "untrained_low": 0, "untrained_high": 1,
         "raw": 0.5 * u, "raw_low": 0, "raw_high": 1, "train": 10, "test": 5, "chosen": {},
         "metrics": {"f": {"trained": v, "untrained": u, "raw": 0.0}}}
        for v, u in zip(values.tolist(), other.tolist(), strict=True)
    ]  # fmt: skip
    found = over_draws(rows)
    low, high = stats.t.interval(0.95, 5, loc=values.mean(), scale=stats.sem(values))
    assert (found["value"], found["low"], found["high"]) == pytest.approx((values.mean(), low, high))
    difference = values - other
    expected = stats.t.interval(0.95, 5, loc=difference.mean(), scale=stats.sem(difference))
    assert found["gain_over_untrained"][1:] == pytest.approx(list(expected))
    assert found["metrics"]["f"]["untrained"] == pytest.approx(other.mean())
    assert found["draws"] == values.tolist()
    assert over_draws(rows[:1]) == rows[0]


def blobs(classes=6, each=30, apart=8.0, seed=0):
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    centres = np.random.default_rng(99).normal(size=(classes, 8))
    return torch.from_numpy(random.normal(size=(len(labels), 8)) + apart * centres[labels]).float(), labels


def test_shots_come_from_one_side_and_queries_from_the_other():
    """Sides of separate directions: what a shot shows of a class says nothing about the other side's."""
    features, labels = blobs()
    found = few_shot(features, torch.from_numpy(labels), shots=5, query_features=features + 0.01,
                     query_labels=torch.from_numpy(labels))  # fmt: skip
    assert found.mean == 1.0
    wrong = few_shot(features, torch.from_numpy(labels), shots=5, query_features=features,
                     query_labels=torch.from_numpy((labels + 1) % 6))  # fmt: skip
    assert wrong.mean < 0.4
    result = episodes(side(labels, features), side(labels, features), 5, 3, 10, 8, 0)
    assert result["value"] == result["untrained"] == result["raw"] == 1.0
    assert (len(result["draws"]), result["train"], result["test"]) == (8, 15, 50)
    assert result["gain_over_raw"] == [0.0, 0.0, 0.0]
    with pytest.raises(UserError, match="few-shot episodes are of classes"):
        episodes(side(np.linspace(0, 1, 9)), side(np.linspace(0, 1, 9)), 5, 3, 10, 8, 0)
    with pytest.raises(UserError, match="classes have"):
        episodes(side(labels, features), side(labels, features), 5, 3, 40, 8, 0)
