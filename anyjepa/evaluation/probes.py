"""Probes: how well a small, standard classifier or regressor does on frozen features.

Labels of an integer dtype are classes and the metric is accuracy; labels of a floating dtype are targets
and the metric is R squared. Every choice (strength of the penalty, components, neighbours ...) is made on
a part of the training samples, never on the test samples. Same inputs and seed, same result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.functional import normalize

from anyjepa.core.errors import UserError
from anyjepa.evaluation.confidence import accuracy_interval, r2_interval
from anyjepa.evaluation.linear import ELEMENTS_AT_ONCE, blocks, fit_linear, predict, principal_components

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
NEIGHBOURS = (1, 5, 10, 20, 50)
WIDTHS = (64, 128, 256, 512)


@dataclass(frozen=True)
class ProbeResult:
    """What a probe scored on the test samples.

    probe: "linear" or "knn". metric: "accuracy" or "r2". predictions (n_test,): a label or a target a test
    sample, on the CPU. outcomes (n_test,) float32: 1 right and 0 wrong, or the squared error. value, low,
    high: the metric and its 95 % bootstrap interval. chosen: what was chosen on the validation part
    (JSON-able), with "validation", the metric there, absent when there was nothing to choose.
    """

    probe: str
    metric: str
    predictions: Shaped[Tensor, " samples"]
    outcomes: Float[Tensor, " samples"]
    value: float
    low: float
    high: float
    chosen: dict[str, Any]


def linear_probe(
    train_features: Float[Tensor, "train dim"],
    train_labels: Shaped[Tensor, " train_labels"],
    test_features: Float[Tensor, "test test_dim"],
    test_labels: Shaped[Tensor, " test_labels"],
    *,
    strengths: Sequence[float] = STRENGTHS,
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> ProbeResult:
    """Multinomial logistic regression (or ridge regression, for floating labels) on standardised features.

    Minimises mean cross-entropy + strength / 2 * ||W||^2 (ridge: mean squared error / 2 + the same), the
    bias not penalised. The strength is chosen on a stratified part of the training samples, and the model
    fitted again on all of them. Features wider than 512 are replaced by their 512 leading principal
    components at most, and how many of those to keep (64, 128, 256, 512) is chosen together with the
    strength. Means, scales and principal axes come from all training features; they see no label.

    Runs on the device and in the dtype of `train_features`. Raises UserError for labels and features that
    do not belong together, features that are not finite, a single class, and test classes never trained on.
    """
    if not strengths or min(strengths) <= 0:
        raise UserError(f"strengths of the penalty must be above 0, not {tuple(strengths)}.")
    data = _Labelled.checked(train_features, train_labels, test_features, test_labels)
    train, test = principal_components(data.train, data.test, WIDTHS[-1])
    wide = data.train.shape[1] > WIDTHS[-1]
    widths = sorted({min(width, train.shape[1]) for width in WIDTHS}) if wide else [train.shape[1]]
    chosen: dict[str, Any] = {"strength": float(strengths[0]), "components": widths[0]}
    start = None
    if len(strengths) * len(widths) > 1:
        parts = data.split(validation_fraction, seed)
        chosen, start = _choose_linear(data, train, parts, sorted(strengths, reverse=True), widths)
    train, test = train[:, : chosen["components"]], test[:, : chosen["components"]]
    weights = fit_linear(train, data.train_labels, [chosen["strength"]], data.class_count, start)
    return data.result("linear", predict(test, weights)[:, 0], chosen)


def knn_probe(
    train_features: Float[Tensor, "train dim"],
    train_labels: Shaped[Tensor, " train_labels"],
    test_features: Float[Tensor, "test test_dim"],
    test_labels: Shaped[Tensor, " test_labels"],
    *,
    neighbours: Sequence[int] = NEIGHBOURS,
    votes: Sequence[str] = ("weighted", "plain"),
    centred: Sequence[bool] = (False, True),
    temperature: float = 0.07,
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> ProbeResult:
    """Vote of the training samples that are nearest in cosine similarity.

    A "weighted" vote counts exp(similarity / temperature) (Wu et al. 2018, section 3.4), a "plain" one
    counts 1; classes that tie are settled by the nearest neighbour among them. Floating labels are
    predicted by the mean under the same weights. The number of neighbours, the vote, and whether the mean
    of the training features is taken off first are chosen on a stratified part of the training samples.
    Memory stays bounded: similarities are computed a block of queries at a time. Raises UserError as
    `linear_probe` does.
    """
    if not neighbours or min(neighbours) < 1 or not centred:
        raise UserError(f"give one number of neighbours or more, each 1 or more, not {tuple(neighbours)}.")
    if not votes or not set(votes) <= {"weighted", "plain"}:
        raise UserError(f"votes are 'weighted' or 'plain', not {tuple(votes)}.")
    data = _Labelled.checked(train_features, train_labels, test_features, test_labels)
    counts = sorted({min(count, len(data.train)) for count in neighbours})
    rules = [(count, vote) for count in counts for vote in votes]
    chosen: dict[str, Any] = {"centred": bool(centred[0]), "neighbours": counts[0], "vote": votes[0]}
    if len(rules) * len(centred) > 1:
        parts = data.split(validation_fraction, seed)
        chosen = max(
            (_choose_rule(data, parts, rules, centre, temperature) for centre in centred),
            key=lambda choice: choice["validation"],
        )
    reference, queries = _directions(data.train, data.test, chosen["centred"])
    rule = (chosen["neighbours"], chosen["vote"])
    predictions = _vote(reference, data.train_labels, queries, [rule], temperature)[:, 0]
    return data.result("knn", predictions, chosen)


# What both probes share: checked data, the split, the score


@dataclass(frozen=True)
class _Labelled:
    """Features and labels on one device; classes renumbered from 0, class_count 0 for regression."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: Tensor | None

    @property
    def class_count(self) -> int:
        return 0 if self.classes is None else len(self.classes)

    @classmethod
    def checked(cls, train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> "_Labelled":
        for name, features, labels in (("training", train, train_labels), ("test", test, test_labels)):
            _check_pair(name, features, labels)
        if train.shape[1] != test.shape[1]:
            raise UserError(
                f"training features have {train.shape[1]} columns and test features {test.shape[1]}: "
                "embed both with the same encoder."
            )
        if train_labels.is_floating_point() != test_labels.is_floating_point():
            raise UserError("training and test labels must both be classes (integers) or both be targets.")
        device = train.device
        train = train if train.dtype == torch.float64 else train.float()
        train_labels, test_labels = train_labels.to(device), test_labels.to(device)
        test = test.to(train)
        if train_labels.is_floating_point():
            if bool((train_labels == train_labels[0]).all()):
                raise UserError("every training target is the same: a regression needs targets that differ.")
            return cls(train, train_labels.double(), test, test_labels.double(), None)
        train_labels, test_labels = train_labels.long(), test_labels.long()
        classes = train_labels.unique()
        if len(classes) < 2:
            raise UserError(f"all training labels are {int(classes[0])}: a probe needs two classes or more.")
        unseen = test_labels[~torch.isin(test_labels, classes)].unique().tolist()
        if unseen:
            raise UserError(
                f"test labels {_listed(unseen)} never occur among the training labels: "
                "add training samples of those classes, or leave the test samples out."
            )
        train_labels, test_labels = (torch.searchsorted(classes, y) for y in (train_labels, test_labels))
        return cls(train, train_labels, test, test_labels, classes)

    def split(self, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
        """Indices of the training samples to fit on and of those held out, the same share of every class."""
        if not 0 < fraction < 1:
            raise UserError(f"validation_fraction lies between 0 and 1, such as 0.2, not {fraction}.")
        strata = self.train_labels if self.class_count else torch.zeros_like(self.train_labels)
        strata = strata.long().cpu()
        counts = strata.bincount()
        if int(counts.min()) < 2:
            small = (counts < 2).nonzero()[:, 0]
            named = small if self.classes is None else self.classes.cpu()[small]
            raise UserError(
                f"classes {_listed(named.tolist())} have fewer than 2 training samples, too few to hold one "
                "out: add samples, leave those classes out, or give one setting instead of a choice."
            )
        shuffled = torch.randperm(len(strata), generator=torch.Generator().manual_seed(seed))
        by_class = shuffled[strata[shuffled].argsort(stable=True)]
        rank = torch.arange(len(strata)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        quota = (counts * fraction).round().long().clamp(min=1).minimum(counts - 1)
        held_out = rank < quota.repeat_interleave(counts)
        parts = by_class[~held_out].sort().values, by_class[held_out].sort().values
        return parts[0].to(self.train.device), parts[1].to(self.train.device)

    def result(self, probe: str, predictions: Tensor, chosen: dict[str, Any]) -> ProbeResult:
        if self.classes is None:
            outcomes = (predictions - self.test_labels).square()
            metric, interval = "r2", r2_interval(self.test_labels, predictions)
        else:
            outcomes = predictions == self.test_labels
            metric, interval = "accuracy", accuracy_interval(outcomes)
            predictions = self.classes[predictions]
        return ProbeResult(probe, metric, predictions.cpu(), outcomes.float().cpu(), *interval, chosen)


def _check_pair(name: str, features: Tensor, labels: Tensor) -> None:
    if len(features) == 0 or len(features) != len(labels):
        raise UserError(
            f"there are {len(features)} {name} features and {len(labels)} {name} labels: "
            "a probe needs one label a sample, and one sample or more."
        )
    bad = (~features.isfinite().all(1)).nonzero()[:, 0]
    if len(bad):
        raise UserError(
            f"row {int(bad[0])} of the {name} features is not finite ({len(bad)} of {len(features)} rows are "
            "not): leave those samples out, or look for a run that diverged."
        )
    if labels.is_floating_point() and not bool(labels.isfinite().all()):
        raise UserError(
            f"{name} target {int((~labels.isfinite()).nonzero()[0, 0])} is not finite: leave it out."
        )
    if not labels.is_floating_point() and int(labels.min()) < 0:
        raise UserError(f"some {name} labels are negative (unknown): leave those samples out.")


def _listed(labels: list[int]) -> str:
    return ", ".join(map(str, labels[:5])) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")


def _score(predictions: Tensor, truth: Tensor) -> Tensor:
    """Accuracy, or R squared for floating truth, of each column of `predictions` (samples, columns)."""
    if not truth.is_floating_point():
        return (predictions == truth[:, None]).double().mean(0)
    spread = (truth - truth.mean()).square().mean().clamp(min=1e-300)
    return 1 - (predictions - truth[:, None]).square().mean(0) / spread


def _choose_linear(
    data: _Labelled, train: Tensor, parts: tuple[Tensor, Tensor], strengths: list[float], widths: list[int]
) -> tuple[dict[str, Any], Tensor]:
    """The best strength and width on the held-out part, and the weights (1, width + 1, outputs) found there.

    Widths rise and strengths fall, so that of equally good settings the simplest is kept.
    """
    features, held_out = (train[part] for part in parts)
    labels, truth = (data.train_labels[part] for part in parts)
    choices: list[tuple[dict[str, Any], Tensor]] = []
    weights = None
    for width in widths:
        weights = fit_linear(features[:, :width], labels, strengths, data.class_count, weights)
        scores = _score(predict(held_out[:, :width], weights), truth)
        at = int(scores.argmax())
        chosen = {"strength": float(strengths[at]), "components": width, "validation": float(scores[at])}
        choices.append((chosen, weights[at : at + 1]))
    return max(choices, key=lambda choice: choice[0]["validation"])


def _choose_rule(
    data: _Labelled,
    parts: tuple[Tensor, Tensor],
    rules: list[tuple[int, str]],
    centred: bool,
    temperature: float,
) -> dict[str, Any]:
    """The rule (neighbours, vote) that predicts the held-out part best; of equally good ones the first."""
    labels, truth = (data.train_labels[part] for part in parts)
    reference, queries = _directions(data.train[parts[0]], data.train[parts[1]], centred)
    scores = _score(_vote(reference, labels, queries, rules, temperature), truth)
    at = int(scores.argmax())
    count, vote = rules[at]
    return {"centred": bool(centred), "neighbours": count, "vote": vote, "validation": float(scores[at])}


def _directions(reference: Tensor, queries: Tensor, centred: bool) -> tuple[Tensor, Tensor]:
    if centred:
        mean = reference.mean(0)
        reference, queries = reference - mean, queries - mean
    return normalize(reference, dim=1), normalize(queries, dim=1)


def _vote(
    reference: Tensor, labels: Tensor, queries: Tensor, rules: Sequence[tuple[int, str]], temperature: float
) -> Tensor:
    """(queries, rules): what the nearest rows of `reference` say under each rule (neighbours, vote)."""
    most = min(max(k for k, _ in rules), len(reference))
    answers = []
    for rows in blocks(len(queries), max(len(reference), most * most), 16 * ELEMENTS_AT_ONCE):
        similarity, nearest = (queries[rows] @ reference.T).topk(most, dim=1)
        said = labels[nearest]
        # relative to the nearest, which changes no vote and cannot overflow
        weighted = ((similarity - similarity[:, :1]) / temperature).exp()
        weights = {"weighted": weighted, "plain": torch.ones_like(weighted)}
        answers.append(torch.stack([_verdict(said[:, :k], weights[vote][:, :k]) for k, vote in rules], 1))
    return torch.cat(answers)


def _verdict(said: Tensor, weights: Tensor) -> Tensor:
    """(queries,): the label of largest total weight (the nearer of two that tie), or the weighted mean."""
    if said.is_floating_point():
        return (said * weights).sum(1) / weights.sum(1)
    agrees = said[:, :, None] == said[:, None, :]
    winner = (agrees * weights[:, None, :]).sum(2).argmax(1, keepdim=True)
    return said.gather(1, winner)[:, 0]
