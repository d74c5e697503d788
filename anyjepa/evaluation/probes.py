"""Probes: how well a small, standard classifier or regressor does on frozen features.

Labels of an integer dtype are classes and the metric is accuracy; labels of a floating dtype are targets
and the metric is R squared; labels (samples, classes) of 1, 0 and -1 for unknown are several a sample, and
the metric is the area under the ROC curve, averaged over classes. Where `train_groups` and `test_groups`
number the patient or recording that a sample belongs to, choices are made on whole groups held out and
intervals come from drawing groups. Every choice (strength of the penalty, components, neighbours ...) is
made on a part of the training samples, never on the test samples. Same inputs and seed, same result.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.functional import normalize

from anyjepa.core.errors import UserError
from anyjepa.evaluation.labelled import Labelled, ProbeResult
from anyjepa.evaluation.linear import (
    ELEMENTS_AT_ONCE,
    blocks,
    fit_linear,
    outputs,
    predict,
    principal_components,
)

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
NEIGHBOURS = (1, 5, 10, 20, 50)
WIDTHS = (64, 128, 256, 512)


def linear_probe(
    train_features: Float[Tensor, "train dim"],
    train_labels: Shaped[Tensor, "train_labels ..."],
    test_features: Float[Tensor, "test test_dim"],
    test_labels: Shaped[Tensor, "test_labels ..."],
    *,
    strengths: Sequence[float] = STRENGTHS,
    validation_fraction: float = 0.2,
    seed: int = 0,
    train_groups: Int[Tensor, " train_groups"] | None = None,
    test_groups: Int[Tensor, " test_groups"] | None = None,
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
    data = Labelled.checked(
        train_features, train_labels, test_features, test_labels, train_groups, test_groups
    )
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
    return data.result("linear", _said(data, test, weights)[:, 0], chosen)


def knn_probe(
    train_features: Float[Tensor, "train dim"],
    train_labels: Shaped[Tensor, "train_labels ..."],
    test_features: Float[Tensor, "test test_dim"],
    test_labels: Shaped[Tensor, "test_labels ..."],
    *,
    neighbours: Sequence[int] = NEIGHBOURS,
    votes: Sequence[str] = ("weighted", "plain"),
    centred: Sequence[bool] = (False, True),
    temperature: float = 0.07,
    validation_fraction: float = 0.2,
    seed: int = 0,
    train_groups: Int[Tensor, " train_groups"] | None = None,
    test_groups: Int[Tensor, " test_groups"] | None = None,
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
    data = Labelled.checked(
        train_features, train_labels, test_features, test_labels, train_groups, test_groups
    )
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


def _said(data: Labelled, features: Tensor, weights: Tensor) -> Tensor:
    """(samples, strengths) predictions, or (samples, strengths, classes) scores of several labels."""
    return outputs(features, weights) if data.kind == "several" else predict(features, weights)


def _choose_linear(
    data: Labelled, train: Tensor, parts: tuple[Tensor, Tensor], strengths: list[float], widths: list[int]
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
        scores = data.score(_said(data, held_out[:, :width], weights), truth)
        at = int(scores.argmax())
        chosen = {"strength": float(strengths[at]), "components": width, "validation": float(scores[at])}
        choices.append((chosen, weights[at : at + 1]))
    return max(choices, key=lambda choice: choice[0]["validation"])


def _choose_rule(
    data: Labelled,
    parts: tuple[Tensor, Tensor],
    rules: list[tuple[int, str]],
    centred: bool,
    temperature: float,
) -> dict[str, Any]:
    """The rule (neighbours, vote) that predicts the held-out part best; of equally good ones the first."""
    labels, truth = (data.train_labels[part] for part in parts)
    reference, queries = _directions(data.train[parts[0]], data.train[parts[1]], centred)
    scores = data.score(_vote(reference, labels, queries, rules, temperature), truth)
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
    """(queries, rules[, classes]): what the nearest of `reference` say under each rule (neighbours, vote)."""
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
    """(queries,): the label of largest total weight (the nearer of two that tie), or the weighted mean.

    Of several labels the weighted mean of each over the neighbours where it is known.
    """
    if said.ndim == 3:
        known = weights[:, :, None] * (said >= 0)
        return (said.clamp(min=0) * known).sum(1) / known.sum(1).clamp(min=1e-30)
    if said.is_floating_point():
        return (said * weights).sum(1) / weights.sum(1)
    agrees = said[:, :, None] == said[:, None, :]
    winner = (agrees * weights[:, None, :]).sum(2).argmax(1, keepdim=True)
    return said.gather(1, winner)[:, 0]
