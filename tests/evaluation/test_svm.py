"""The support vector machine: its figures, what it chooses, and what it refuses."""

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from anyjepa.core.errors import UserError
from anyjepa.evaluation.svm import svm_probe


def blobs(count=120, dim=6, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    features = random.normal(size=(count, dim)) + np.eye(dim)[labels] * 2.5
    return torch.from_numpy(features).float(), torch.from_numpy(labels)


def test_at_the_published_c_it_is_scikit_learns():
    train, test = blobs(seed=0), blobs(seed=1)
    result = svm_probe(*train, *test, margins=(0.012,))
    theirs = SVC(C=0.012, kernel="linear").fit(train[0].double().numpy(), train[1].numpy())
    expected = theirs.predict(test[0].double().numpy())
    assert np.array_equal(result.predictions.numpy(), expected)
    assert result.value == pytest.approx((expected == test[1].numpy()).mean())
    assert result.chosen == {"C": 0.012, "standardised": False, "published": pytest.approx(result.value)}
    assert (result.probe, result.metric) == ("svm", "accuracy")
    assert result.low <= result.value <= result.high


def test_what_is_chosen_makes_up_for_features_of_another_scale():
    (features, labels), (others, truth) = blobs(seed=0), blobs(seed=1)
    small = torch.tensor([1e-3])
    result = svm_probe(features * small, labels, others * small, truth)
    assert result.chosen["standardised"] and result.chosen["validation"] > 0.7
    assert result.value > result.chosen["published"] + 0.2


def test_class_numbers_are_kept_and_nothing_depends_on_the_test_labels():
    (features, labels), (others, truth) = blobs(seed=0), blobs(seed=1)
    result = svm_probe(features, labels * 7, others, truth * 7)
    assert set(result.predictions.tolist()) <= {0, 7, 14}
    again = svm_probe(features, labels * 7, others, truth.flip(0) * 7)
    assert torch.equal(result.predictions, again.predictions)


def test_numbers_are_no_classes():
    features, labels = blobs()
    with pytest.raises(UserError, match="tells classes apart"):
        svm_probe(features, labels.float(), features, labels.float())
    with pytest.raises(UserError, match="must be above 0"):
        svm_probe(features, labels, features, labels, margins=())
