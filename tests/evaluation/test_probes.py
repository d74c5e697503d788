"""Probes: parity with scikit-learn, known best settings, invariances, errors, and real pixels."""

import io
import tarfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from anyjepa.core.errors import UserError
from anyjepa.evaluation.labelled import Labelled
from anyjepa.evaluation.linear import fit_linear, minimise, principal_components
from anyjepa.evaluation.probes import knn_probe, linear_probe


def labelled(count, dim, classes, seed=0, noise=1.0, dtype=torch.float32):
    """Correlated Gaussian features on several scales, with labels that are linear in them but for noise."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    features = normal(count, dim) @ normal(dim, dim) * normal(dim).exp() + 3 * normal(dim)
    directions = normal(dim, classes) / features.std(0)[:, None]
    scores = features @ directions
    scores = (scores - scores.mean(0)) / scores.std(0) + noise * normal(count, classes)
    return features.to(dtype), scores.argmax(1)


def objective(features, labels, weights, bias, strength):
    logits = torch.as_tensor(features).double() @ torch.as_tensor(weights).double() + torch.as_tensor(bias)
    loss = torch.nn.functional.cross_entropy(logits, labels)
    return float(loss + strength / 2 * torch.as_tensor(weights).double().square().sum())


# Parity


@pytest.mark.parametrize(("count", "dim", "classes"), [(400, 12, 4), (60, 40, 3), (40, 90, 2)])
@pytest.mark.parametrize("strength", [1e-4, 1e-2, 1.0])
def test_logistic_regression_equals_scikit_learns(count, dim, classes, strength):
    features, labels = labelled(count, dim, classes)
    features = torch.tensor(StandardScaler().fit_transform(features), dtype=torch.float32)
    theirs = LogisticRegression(C=1 / (count * strength), tol=1e-10, max_iter=20_000)
    theirs.fit(features.double().numpy(), labels.numpy())
    coefficients, bias = theirs.coef_.T, theirs.intercept_
    if classes == 2:  # a binary problem there has one column, w; with ||W||^2 the optimum here is (-w, w) / 2
        theirs = LogisticRegression(C=2 / (count * strength), tol=1e-10, max_iter=20_000)
        theirs.fit(features.double().numpy(), labels.numpy())
        coefficients = np.concatenate([-theirs.coef_.T, theirs.coef_.T], 1) / 2
        bias = np.concatenate([-theirs.intercept_, theirs.intercept_]) / 2
    ours = fit_linear(features, labels, [strength], classes)[0]
    expected = objective(features, labels, coefficients, bias, strength)
    assert objective(features, labels, ours[:-1], ours[-1], strength) == pytest.approx(expected, abs=1e-6)
    probabilities = (features @ ours[:-1] + ours[-1]).softmax(1)
    theirs_probabilities = torch.tensor(features.double().numpy() @ coefficients + bias).softmax(1)
    assert (probabilities - theirs_probabilities).abs().max() < 2e-3


def test_all_strengths_at_once_equal_one_at_a_time_on_separable_data():
    features, labels = labelled(50, 80, 3, noise=0.0)
    features = (features - features.mean(0)) / features.std(0)
    strengths = [1e-5, 1e-3, 1e-1, 10.0]
    together = fit_linear(features, labels, strengths, 3)
    for strength, weights in zip(strengths, together, strict=True):
        alone = fit_linear(features, labels, [strength], 3)[0]
        losses = [objective(features, labels, w[:-1], w[-1], strength) for w in (weights, alone)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_the_probe_predicts_what_scikit_learn_predicts_on_standardised_features():
    features, labels = labelled(900, 30, 5, dtype=torch.float64)
    train, test = slice(0, 600), slice(600, None)
    ours = linear_probe(features[train], labels[train], features[test], labels[test], strengths=[0.01])
    scaler = StandardScaler().fit(features[train])
    theirs = LogisticRegression(C=1 / (600 * 0.01), tol=1e-10, max_iter=10_000)
    theirs.fit(scaler.transform(features[train]), labels[train])
    assert ours.predictions.tolist() == theirs.predict(scaler.transform(features[test])).tolist()
    assert ours.value == pytest.approx(theirs.score(scaler.transform(features[test]), labels[test]))
    assert ours.outcomes.mean() == pytest.approx(ours.value)
    assert ours.low < ours.value < ours.high
    assert ours.metric == "accuracy"
    assert ours.probe == "linear"


@pytest.mark.parametrize("dim", [20, 150, 700])
def test_ridge_equals_scikit_learns(dim):
    features, _ = labelled(300, dim, 2, dtype=torch.float64)
    targets = features @ torch.linspace(-1, 1, dim, dtype=torch.float64) / dim + 7
    train, test = slice(0, 200), slice(200, None)
    ours = linear_probe(features[train], targets[train], features[test], targets[test], strengths=[0.03])
    scaler = StandardScaler().fit(features[train])
    theirs = Ridge(alpha=200 * 0.03).fit(scaler.transform(features[train]), targets[train])
    expected = theirs.predict(scaler.transform(features[test]))
    if ours.chosen["components"] >= min(dim, 199):
        assert ours.predictions.numpy() == pytest.approx(expected, rel=1e-6)
        assert ours.value == pytest.approx(theirs.score(scaler.transform(features[test]), targets[test]))
    assert ours.metric == "r2"
    assert ours.outcomes.numpy() == pytest.approx(((ours.predictions - targets[test]) ** 2).numpy(), rel=1e-5)


@pytest.mark.parametrize("count", [1, 5, 21])
@pytest.mark.parametrize("vote", ["plain", "weighted"])
def test_nearest_neighbours_equal_scikit_learns(count, vote):
    features, labels = labelled(700, 8, 2, dtype=torch.float64)
    train, test = slice(0, 500), slice(500, None)
    weights = {"plain": "uniform", "weighted": lambda distance: np.exp((1 - distance) / 0.07)}[vote]
    theirs = KNeighborsClassifier(count, metric="cosine", weights=weights)
    theirs.fit(features[train].numpy(), labels[train].numpy())
    settings = {"neighbours": [count], "votes": [vote], "centred": [False]}
    ours = knn_probe(features[train], labels[train], features[test], labels[test], **settings)
    assert ours.predictions.tolist() == theirs.predict(features[test].numpy()).tolist()
    targets = features[:, 0]
    theirs = KNeighborsRegressor(count, metric="cosine", weights=weights)
    theirs.fit(features[train].numpy(), targets[train].numpy())
    ours = knn_probe(features[train], targets[train], features[test], targets[test], **settings)
    assert ours.predictions.numpy() == pytest.approx(theirs.predict(features[test].numpy()))


# The solver


def test_the_solver_finds_the_minima_of_badly_scaled_quadratics_each_on_its_own():
    generator = torch.Generator().manual_seed(0)
    roots = torch.randn(4, 30, 60, generator=generator, dtype=torch.float64)
    scales = 10 ** (2 * torch.randn(4, 30, generator=generator, dtype=torch.float64))
    hessians = scales[:, :, None] * (roots @ roots.mT / 60) * scales[:, None, :]
    minima = torch.randn(4, 30, generator=generator, dtype=torch.float64)
    seen = []

    def quadratic(points, problems):
        seen.append(problems.tolist())
        offsets = points - minima[problems]
        gradients = torch.einsum("pij,pj->pi", hessians[problems], offsets)
        return (offsets * gradients).sum(1) / 2, gradients

    start = torch.zeros(4, 30, dtype=torch.float64)
    found = minimise(quadratic, start, hessians.diagonal(dim1=1, dim2=2).clone(), tolerance=1e-18)
    assert ((found - minima) * scales).abs().max() < 1e-6
    assert len(seen[-1]) < len(seen[0]) == 4, "problems that are done cost nothing more"


def test_principal_components_are_a_rotation_that_standardises_and_orders():
    features, _ = labelled(300, 20, 2, dtype=torch.float64)
    features[:, 4] = 0.1
    train, test = principal_components(features[:200], features[200:], 512)
    scaler = StandardScaler().fit(np.delete(features[:200].numpy(), 4, 1))
    expected = torch.tensor(scaler.transform(np.delete(features[200:].numpy(), 4, 1)))
    assert torch.allclose(test @ test.T, expected @ expected.T, atol=1e-8)
    covariance = train.T @ train / 200
    assert torch.allclose(covariance, covariance.diagonal().diag(), atol=1e-8)
    assert bool((covariance.diagonal().diff() <= 1e-8).all())


def test_more_columns_than_samples_lose_nothing_in_the_small_basis():
    features, _ = labelled(120, 600, 2, dtype=torch.float64)
    train, _ = principal_components(features[:100], features[100:], 512)
    expected = torch.tensor(StandardScaler().fit_transform(features[:100]))
    assert train.shape == (100, 99)
    assert torch.allclose(train @ train.T, expected @ expected.T, atol=1e-6)


# Known best settings


@pytest.mark.parametrize(("noise", "best"), [(0.1, 0.004), (1.0, 0.4), (3.0, 3.75)])
def test_ridge_chooses_the_strength_that_theory_calls_best(noise, best):
    # weights from N(0, 0.1^2): the posterior mean is ridge with strength noise^2 / (samples * 0.1^2)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3500, 200, generator=generator)
    targets = features @ (0.1 * torch.randn(200, generator=generator))
    targets += noise * torch.randn(3500, generator=generator)
    train, test = slice(0, 300), slice(300, None)
    strengths = [best * factor for factor in (1e-4, 1e-2, 1, 100, 1e4)]
    result = linear_probe(features[train], targets[train], features[test], targets[test], strengths=strengths)
    assert result.chosen["strength"] == best


def test_columns_of_noise_call_for_a_stronger_penalty():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2400) % 3
    informative = torch.nn.functional.one_hot(labels).float() @ torch.randn(3, 10, generator=generator)
    informative += 2 * torch.randn(2400, 10, generator=generator)
    features = torch.cat([informative, torch.randn(2400, 390, generator=generator)], 1)
    train, test = slice(0, 1200), slice(1200, None)
    tuned = linear_probe(features[train], labels[train], features[test], labels[test])
    weak = linear_probe(features[train], labels[train], features[test], labels[test], strengths=[1e-4])
    assert tuned.chosen["strength"] >= 0.1
    assert tuned.value > weak.value + 0.03


def test_wide_features_with_few_informative_directions_keep_few_components():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1200) % 4
    strong = torch.nn.functional.one_hot(labels).float() @ (2 * torch.randn(4, 600, generator=generator))
    strong += torch.randn(1200, 20, generator=generator) @ torch.randn(20, 600, generator=generator) * 3
    features = strong + 0.5 * torch.randn(1200, 600, generator=generator)
    train, test = slice(0, 900), slice(900, None)
    result = linear_probe(features[train], labels[train], features[test], labels[test])
    assert result.chosen["components"] == 64
    assert result.value > 0.9


def test_knn_chooses_one_neighbour_for_clean_clusters_and_many_for_noisy_labels():
    generator = torch.Generator().manual_seed(0)
    # forty tight clusters of 6 samples: the sixth neighbour is already of another class
    centres = torch.randn(40, 10, generator=generator)
    clusters = torch.arange(240) % 40
    features = centres[clusters] + 0.01 * torch.randn(240, 10, generator=generator)
    clean = knn_probe(features, clusters % 2, features + 0.001, clusters % 2, votes=["plain"])
    assert clean.chosen["neighbours"] == 1
    assert clean.value > 0.99
    directions = torch.randn(2000, 2, generator=generator)
    labels = (directions[:, 0] > 0).long()
    flipped = torch.where(torch.rand(2000, generator=generator) < 0.3, 1 - labels, labels)
    noisy = knn_probe(directions[:1500], flipped[:1500], directions[1500:], labels[1500:])
    assert noisy.chosen["neighbours"] >= 20
    assert noisy.value > 0.95


def test_knn_takes_the_mean_off_where_it_hides_what_lies_along_it():
    noise = torch.randn(800, 2, generator=torch.Generator().manual_seed(0))
    features, labels = noise + 50, (noise.sum(1) > 0).long()
    result = knn_probe(features[:600], labels[:600], features[600:], labels[600:])
    assert result.chosen["centred"] is True
    assert result.value > 0.9
    hidden = knn_probe(features[:600], labels[:600], features[600:], labels[600:], centred=[False])
    assert hidden.value < 0.6, "from far away only the direction across the mean is left"


# Invariances


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from([1e-3, 0.1]))
def test_the_order_of_the_samples_changes_nothing(seed, strength):
    features, labels = labelled(120, 6, 3, seed, dtype=torch.float64)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(seed))
    targets = features.sum(1)
    for probe, options in (
        (linear_probe, {"strengths": [strength]}),
        (knn_probe, {"neighbours": [7], "votes": ["weighted"], "centred": [True]}),
    ):
        for y in (labels, targets):
            one = probe(features[:80], y[:80], features[80:], y[80:], **options)
            other = probe(features[:80][order], y[:80][order], features[80:], y[80:], **options)
            assert one.predictions.numpy() == pytest.approx(other.predictions.numpy())


@settings(max_examples=15)
@given(st.integers(0, 10_000))
def test_a_rotation_of_the_features_leaves_knn_unchanged(seed):
    features, labels = labelled(150, 7, 3, seed, dtype=torch.float64)
    rotation = torch.linalg.qr(
        torch.randn(7, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ).Q
    turned = features @ rotation
    one = knn_probe(features[:100], labels[:100], features[100:], labels[100:])
    other = knn_probe(turned[:100], labels[:100], turned[100:], labels[100:])
    assert one.chosen == other.chosen
    assert one.predictions.tolist() == other.predictions.tolist()


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.floats(-1e3, 1e3, width=32))
def test_a_constant_column_changes_nothing(seed, constant):
    features, labels = labelled(150, 7, 3, seed, dtype=torch.float64)
    wider = torch.cat([features[:, :3], torch.full((150, 1), constant).double(), features[:, 3:]], 1)
    for probe, options in ((linear_probe, {}), (knn_probe, {"centred": [True]})):
        one = probe(features[:100], labels[:100], features[100:], labels[100:], **options)
        other = probe(wider[:100], labels[:100], wider[100:], labels[100:], **options)
        assert one.predictions.tolist() == other.predictions.tolist()


@settings(max_examples=25)
@given(st.lists(st.integers(2, 30), min_size=2, max_size=6), st.floats(0.05, 0.95), st.integers(0, 1000))
def test_the_split_parts_every_class_in_the_same_share(counts, fraction, seed):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    data = Labelled.checked(torch.zeros(len(labels), 1), labels, torch.zeros(len(labels), 1), labels)
    fit, held_out = data.split(fraction, seed)
    assert torch.cat([fit, held_out]).sort().values.tolist() == list(range(len(labels)))
    for label, count in enumerate(counts):
        held = int((labels[held_out] == label).sum())
        assert 1 <= held <= count - 1
        assert abs(held - fraction * count) <= 1
    again = data.split(fraction, seed)
    assert torch.equal(fit, again[0])
    assert torch.equal(held_out, again[1])


@pytest.mark.parametrize("probe", [linear_probe, knn_probe])
def test_test_labels_decide_the_score_and_nothing_else(probe):
    features, labels = labelled(600, 4, 3, noise=0.1)
    train, test = slice(0, 400), slice(400, None)
    one = probe(features[train], labels[train], features[test], labels[test])
    other = probe(features[train], labels[train], features[test], (labels[test] + 1) % 3)
    assert torch.equal(one.predictions, other.predictions)
    assert one.chosen == other.chosen
    assert one.value > 0.5 > other.value


@pytest.mark.parametrize("probe", [linear_probe, knn_probe])
def test_labels_keep_their_own_values(probe):
    features, labels = labelled(300, 10, 3)
    names = torch.tensor([4, 17, 1000])[labels]
    plain = probe(features[:200], labels[:200], features[200:], labels[200:])
    named = probe(features[:200], names[:200], features[200:], names[200:])
    assert torch.equal(named.predictions, torch.tensor([4, 17, 1000])[plain.predictions])


def test_a_collapsed_encoder_scores_the_commonest_class():
    features = torch.full((60, 16), 0.3)
    labels = (torch.arange(60) % 3 == 0).long()
    result = linear_probe(features[:40], labels[:40], features[40:], labels[40:])
    assert result.predictions.unique().tolist() == [0]
    assert result.value == pytest.approx(float((labels[40:] == 0).float().mean()))


def test_the_size_of_a_block_changes_nothing(monkeypatch):
    features, labels = labelled(300, 10, 3)
    calls = [
        lambda: linear_probe(features[:200], labels[:200], features[200:], labels[200:]),
        lambda: knn_probe(features[:200], labels[:200], features[200:], labels[200:]),
    ]
    whole = [call() for call in calls]
    for module in ("linear", "probes"):
        small = lambda rows, width, *_: (slice(at, at + 7) for at in range(0, rows, 7))  # noqa: E731
        monkeypatch.setattr(f"anyjepa.evaluation.{module}.blocks", small)
    for one, other in zip(whole, [call() for call in calls], strict=True):
        assert one.predictions.tolist() == other.predictions.tolist()


# Errors


def _arguments(**changes):
    features, labels = labelled(60, 5, 3)
    arguments = {
        "train_features": features[:40],
        "train_labels": labels[:40],
        "test_features": features[40:],
        "test_labels": labels[40:],
    }
    return arguments | changes


def _with_row(features, row, value):
    features = features.clone()
    features[row, 2] = value
    return features


@pytest.mark.parametrize("probe", [linear_probe, knn_probe])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_labels": torch.zeros(40, dtype=torch.long)}, "all training labels are 0"),
        ({"train_labels": torch.arange(30) % 3}, "40 training features and 30 training labels"),
        ({"test_features": torch.zeros(20, 4)}, "5 columns and test features 4"),
        ({"train_features": _with_row(torch.zeros(40, 5), 17, torch.nan)}, "row 17 of the training features"),
        ({"test_features": _with_row(torch.zeros(20, 5), 3, torch.inf)}, "row 3 of the test features"),
        ({"test_labels": torch.tensor([7, 9] * 10)}, "test labels 7, 9 never occur"),
        ({"train_labels": torch.tensor([5] + [0, 1, 2] * 13)}, "classes 5 have fewer than 2"),
        ({"train_labels": torch.tensor([-1, 0, 1, 2] * 10)}, "negative"),
        ({"test_labels": torch.zeros(20)}, "both be classes"),
        (
            {"train_labels": torch.ones(40), "test_labels": torch.ones(20)},
            "every training target is the same",
        ),
        ({"validation_fraction": 1.5}, "between 0 and 1"),
    ],
)
def test_what_cannot_be_probed_is_said_in_words(probe, changes, words):
    with pytest.raises(UserError, match=words):
        probe(**_arguments(**changes))


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(UserError, match="above 0"):
        linear_probe(**_arguments(strengths=[0.0]))
    with pytest.raises(UserError, match="1 or more"):
        knn_probe(**_arguments(neighbours=[0]))
    with pytest.raises(UserError, match="'weighted' or 'plain'"):
        knn_probe(**_arguments(votes=["loud"]))


# Real data


def _pixels(path):
    with tarfile.open(path) as archive:
        members = sorted((member for member in archive if member.isfile()), key=lambda member: member.name)
        images = [
            np.asarray(Image.open(io.BytesIO(archive.extractfile(member).read()))) for member in members
        ]
    classes = sorted({member.name.split("/")[-2] for member in members})
    labels = torch.tensor([classes.index(member.name.split("/")[-2]) for member in members])
    return torch.tensor(np.stack(images)).flatten(1).float(), labels


@pytest.mark.slow
def test_the_raw_pixel_baseline_on_photographs_is_as_good_as_a_tuned_one(data_folder):
    folder = data_folder("cifar10_jpeg")
    train, test = _pixels(folder / "train.tar"), _pixels(folder / "test.tar")
    linear = linear_probe(*train, *test)
    assert linear.high >= 0.395, "PCA-200 with scikit-learn's logistic regression gives 39.5 %"
    assert 0.38 < linear.value < 0.45
    assert linear.high - linear.low < 0.035
    neighbours = knn_probe(*train, *test, neighbours=[20], votes=["weighted"], centred=[True])
    assert neighbours.value > 0.304, "PCA-200 with five nearest neighbours gives 30.4 %"
