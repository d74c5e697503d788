"""Several labels a sample, and samples that come in groups: parity with scikit-learn, and no leak."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from anyjepa.core.errors import UserError
from anyjepa.evaluation.confidence import (
    accuracy_interval,
    auc_interval,
    macro_auc,
    paired_difference_interval,
    r2_interval,
)
from anyjepa.evaluation.labelled import held_out_groups
from anyjepa.evaluation.linear import fit_linear
from anyjepa.evaluation.probes import knn_probe, linear_probe
from anyjepa.evaluation.sides import _numbered_alike


def several(count, dim=6, classes=3, seed=0, noise=1.0):
    """Features, and labels (count, classes) that are each linear in them but for noise."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, dim, generator=generator)
    directions = torch.randn(dim, classes, generator=torch.Generator().manual_seed(99))
    values = features @ directions + noise * torch.randn(count, classes, generator=generator)
    return features, (values > 0.5).to(torch.int8)


@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=30)
def test_the_area_is_scikit_learns_with_ties_and_unknown_labels(seed, rounded):
    random = np.random.default_rng(seed)
    values, truth = random.normal(size=(40, 2)), random.integers(0, 2, (40, 2)).astype(np.int8)
    values = values.round() if rounded else values
    truth[:2], truth[2:4] = 0, 1
    unknown = random.random((40, 2)) < 0.2
    unknown[:4] = False
    expected = np.mean([roc_auc_score(truth[~u, c], values[~u, c]) for c, u in enumerate(unknown.T)])
    labels = torch.from_numpy(np.where(unknown, -1, truth).astype(np.int8))
    assert float(macro_auc(torch.from_numpy(values)[None], labels)[0]) == pytest.approx(expected)


def test_a_class_that_never_occurs_is_left_out_of_the_mean():
    values = torch.tensor([[0.1, 0.3], [0.9, 0.2]])
    assert float(macro_auc(values[None], torch.tensor([[0, 0], [1, 0]], dtype=torch.int8))[0]) == 1
    with pytest.raises(UserError, match="no class both occurs and is absent"):
        auc_interval(values, torch.zeros(2, 2, dtype=torch.int8))


def test_the_interval_of_an_area_is_that_of_a_plain_bootstrap():
    features, labels = several(150, noise=2.0)
    values = features[:, :3].double()
    found = auc_interval(values, labels)
    random = np.random.default_rng(5)
    drawn = []
    for _ in range(400):
        rows = random.integers(0, 150, 150)
        drawn.append(roc_auc_score(labels[rows].numpy(), values[rows].numpy(), average="macro"))
    assert found.value == pytest.approx(roc_auc_score(labels.numpy(), values.numpy(), average="macro"))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=0.012)


def test_the_paired_difference_of_areas_is_narrower_than_two_intervals():
    features, labels = several(150, noise=2.0)
    values = features[:, :3]
    near = values + 0.1 * torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
    single, paired = auc_interval(values, labels), auc_interval(values, labels, against=near)
    assert paired.value == pytest.approx(single.value - auc_interval(near, labels).value)
    assert paired.high - paired.low < (single.high - single.low) / 2


@pytest.mark.parametrize("strength", [1e-3, 1e-1])
def test_one_regression_a_class_is_scikit_learns(strength):
    features, labels = several(120)
    ours = fit_linear(features, labels, [strength], 3)[0]
    for c in range(3):
        theirs = LogisticRegression(C=1 / (120 * strength), tol=1e-10, max_iter=10_000)
        theirs.fit(features.double().numpy(), labels[:, c].numpy())
        assert torch.allclose(ours[:-1, c].double(), torch.from_numpy(theirs.coef_[0]), atol=2e-3)
        assert float(ours[-1, c]) == pytest.approx(theirs.intercept_[0], abs=2e-3)


def test_an_unknown_label_weighs_nothing_in_the_fit():
    features, labels = several(120)
    hidden = labels.clone()
    hidden[60:, 1] = -1
    ours = fit_linear(features, hidden, [1e-2], 3)[0]
    # the mean runs over all samples, so half of them known is half the weight against the penalty
    alone = fit_linear(features[:60], labels[:60, 1:2], [2e-2], 1)[0]
    assert torch.allclose(ours[:, 1], alone[:, 0], atol=2e-3)


@pytest.mark.parametrize("probe", [linear_probe, knn_probe])
def test_probes_learn_several_labels(probe):
    train, test = several(600, noise=0.3), several(300, seed=1, noise=0.3)
    found = probe(*train, *test)
    assert found.metric == "macro_auc"
    assert found.predictions.shape == (300, 3)
    assert found.value == pytest.approx(
        roc_auc_score(test[1].numpy(), found.predictions.numpy(), average="macro"), abs=1e-6
    )
    assert found.low < found.value < found.high
    assert found.value > 0.9
    shuffled = train[1][torch.randperm(600, generator=torch.Generator().manual_seed(0))]
    assert probe(train[0], shuffled, *test).chosen["validation"] == pytest.approx(0.5, abs=0.1)


def test_labels_that_never_vary_are_refused():
    features, labels = several(20)
    with pytest.raises(UserError, match="nothing can be learned"):
        linear_probe(features, torch.ones_like(labels), features, labels)


# Groups


def grouped(groups=20, each=30, seed=0):
    """Outcomes that all samples of a group share."""
    random = np.random.default_rng(seed)
    number = np.repeat(np.arange(groups), each)
    return torch.from_numpy(random.integers(0, 2, groups)[number]), torch.from_numpy(number)


def test_samples_that_agree_within_their_group_say_as_much_as_the_groups():
    correct, number = grouped()
    alone, together = accuracy_interval(correct), accuracy_interval(correct, groups=number)
    one_each = accuracy_interval(correct[::30])
    assert together.value == alone.value
    assert together.high - together.low == pytest.approx(one_each.high - one_each.low, abs=0.02)
    assert together.high - together.low > 4 * (alone.high - alone.low)


def test_groups_of_one_change_no_interval_but_by_chance():
    correct, _ = grouped(groups=300, each=1)
    other = 1 - correct.roll(1)
    single = torch.arange(300)
    for of in (accuracy_interval, lambda c, **k: paired_difference_interval(c, other, **k)):
        assert of(correct, groups=single) == pytest.approx(of(correct), abs=0.01)
    y = torch.randn(300, generator=torch.Generator().manual_seed(0))
    assert r2_interval(y, 0.5 * y, groups=single) == pytest.approx(r2_interval(y, 0.5 * y), abs=0.02)


@given(st.integers(2, 40), st.integers(1, 6), st.floats(0.1, 0.5), st.integers(0, 999))
@settings(max_examples=60)
def test_whole_groups_are_held_out_and_never_all(groups, each, fraction, seed):
    number = np.repeat(np.arange(groups), each)
    labels = np.random.default_rng(seed).integers(0, 3, len(number))
    held_out = held_out_groups(number, labels, fraction, seed)
    assert 0 < held_out.sum() < len(number)
    assert not set(number[held_out]) & set(number[~held_out])
    assert (held_out == held_out_groups(number, labels, fraction, seed)).all()


def test_every_class_gives_its_share_of_groups():
    number = np.repeat(np.arange(100), 3)
    labels = np.repeat(np.arange(100) % 4, 3)
    held_out = held_out_groups(number, labels, 0.2, 0)
    assert np.bincount(labels[held_out]).tolist() == [15, 15, 15, 15]
    rare = np.zeros((300, 2), dtype=np.int8)
    rare[:, 0], rare[:30, 1] = 1, 1
    assert rare[held_out_groups(number, rare, 0.2, 0), 1].sum() == 6


def test_one_group_cannot_be_parted():
    with pytest.raises(UserError, match="one group"):
        held_out_groups(np.zeros(5, int), np.arange(5), 0.2, 0)


def test_the_choice_is_made_on_groups_that_were_not_fitted():
    """A feature that names the group predicts the rest of it, and no other group."""
    random = np.random.default_rng(0)
    number = np.repeat(np.arange(30), 10)
    labels = torch.from_numpy(random.integers(0, 2, 30)[number])
    features = torch.from_numpy(np.eye(30, dtype=np.float32)[number])
    features = torch.cat([features, 0.1 * torch.randn(300, 2, generator=torch.Generator().manual_seed(0))], 1)
    numbers = torch.from_numpy(number)
    blind = linear_probe(features, labels, features, labels)
    fair = linear_probe(features, labels, features, labels, train_groups=numbers)
    assert blind.chosen["validation"] > 0.95
    assert fair.chosen["validation"] < 0.8


def test_a_patient_on_both_sides_is_an_error_unless_one_insists():
    train, held_out = np.array(["a", "b"]), np.array(["b", "c"])
    with pytest.raises(UserError, match=r"1 group \(such as 'b'\) are on both sides.*--allow-leak"):
        _numbered_alike(train, held_out, allow_leak=False)
    left, right = _numbered_alike(train, held_out, allow_leak=True)
    assert left.tolist() == [0, 1]
    assert right.tolist() == [1, 2]
    assert _numbered_alike(None, held_out, False)[0] is None, "what is known of one side serves there"
    assert _numbered_alike(None, held_out, False)[1] is not None
