"""Few-shot folds: what is drawn, that nothing is tested on what was trained on, and what is refused."""

import numpy as np
import pytest
import torch

from anyjepa.core.errors import UserError
from anyjepa.evaluation.few_shot import few_shot


def table(classes=12, each=40, dim=16, apart=3.0, seed=0):
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    centres = random.normal(size=(classes, dim))
    features = random.normal(size=(len(labels), dim)) + apart * centres[labels]
    return torch.from_numpy(features).float(), torch.from_numpy(labels)


def test_classes_far_apart_are_told_apart_and_chance_is_chance():
    sure = few_shot(*table(apart=20.0))
    assert (sure.mean, sure.deviation) == (1.0, 0.0)
    assert sure.accuracies.shape == (10,)
    chance = few_shot(*table(apart=0.0), folds=30)
    assert chance.mean == pytest.approx(1 / 5, abs=0.05)
    assert few_shot(*table(apart=0.0), ways=10, folds=30).mean == pytest.approx(1 / 10, abs=0.03)


def test_no_query_is_a_shot():
    """Every sample has a direction of its own: only what was trained on could be recognised."""
    count = 5 * 30
    labels = torch.from_numpy(np.random.default_rng(0).permutation(np.repeat(np.arange(5), 30)))
    found = few_shot(torch.eye(count), labels, folds=40)
    assert found.mean < 0.3


def test_folds_are_the_same_for_every_encoder():
    features, labels = table(apart=0.6)
    turned = features @ torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))[0]
    first, again = few_shot(features, labels, seed=3), few_shot(features, labels, seed=3)
    assert torch.equal(first.accuracies, again.accuracies)
    assert few_shot(turned, labels, seed=3).mean == pytest.approx(first.mean, abs=0.05)
    assert not torch.equal(first.accuracies, few_shot(features, labels, seed=4).accuracies)


def test_more_shots_help():
    features, labels = table(apart=0.6)
    one, many = (few_shot(features, labels, shots=shots, folds=20).mean for shots in (1, 20))
    assert many > one + 0.1


def test_too_few_classes_are_refused_and_unknown_labels_left_out():
    features, labels = table(classes=6)
    labels = torch.where(labels < 2, -1, labels)
    with pytest.raises(UserError, match="4 classes have 30 samples"):
        few_shot(features, labels)
    assert few_shot(features, labels, ways=4).mean > 0.5
