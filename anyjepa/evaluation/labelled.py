"""Labels of any kind, checked and split: what every probe works on, and how its predictions are scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from anyjepa.core.errors import UserError
from anyjepa.evaluation.confidence import accuracy_interval, auc_interval, macro_auc, r2_interval


@dataclass(frozen=True)
class ProbeResult:
    """What a probe scored on the test samples.

    probe: "linear" or "knn". metric: "accuracy", "r2", or "macro_auc" for several labels a sample.
    predictions: a label or a target a test sample (n_test,), or a score a class (n_test, classes), on the
    CPU. outcomes: 1 right and 0 wrong, or the squared error (n_test,) float32; the labels themselves
    (n_test, classes) for "macro_auc". value, low, high: the metric and its 95 % bootstrap interval. chosen:
    what was chosen on the validation part (JSON-able), with "validation", the metric there, absent when there
    was nothing to choose.
    """

    probe: str
    metric: str
    predictions: Shaped[Tensor, "samples ..."]
    outcomes: Float[Tensor, "samples ..."]
    value: float
    low: float
    high: float
    chosen: dict[str, Any]


@dataclass(frozen=True)
class Labelled:
    """Features and labels on one device.

    kind: "classes" (labels renumbered from 0), "targets" (float64), or "several" (int8, samples x classes, -1
    where unknown). groups number what a sample belongs to (patient, recording), None where unknown.
    """

    kind: str
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: Tensor | None = None
    train_groups: Tensor | None = None
    test_groups: Tensor | None = None

    @property
    def class_count(self) -> int:
        """Number of classes; 0 for a regression."""
        if self.kind == "several":
            return self.train_labels.shape[1]
        return 0 if self.classes is None else len(self.classes)

    @classmethod
    def checked(
        cls,
        train: Float[Tensor, "train dim"],
        train_labels: Shaped[Tensor, "train_labels ..."],
        test: Float[Tensor, "test test_dim"],
        test_labels: Shaped[Tensor, "test_labels ..."],
        train_groups: Int[Tensor, " train_groups"] | None = None,
        test_groups: Int[Tensor, " test_groups"] | None = None,
    ) -> Labelled:
        """The same, with what cannot be probed told in a UserError."""
        for name, features, labels in (("training", train, train_labels), ("test", test, test_labels)):
            _check_pair(name, features, labels)
        if train.shape[1] != test.shape[1]:
            raise UserError(
                f"training features have {train.shape[1]} columns and test features {test.shape[1]}: "
                "embed both with the same encoder."
            )
        if train_labels.is_floating_point() != test_labels.is_floating_point():
            raise UserError("training and test labels must both be classes (integers) or both be targets.")
        if train_labels.shape[1:] != test_labels.shape[1:]:
            raise UserError("training and test labels must name the same number of classes.")
        device = train.device
        train = train if train.dtype == torch.float64 else train.float()
        train_labels, test_labels = train_labels.to(device), test_labels.to(device)
        test = test.to(train)
        groups = {"train_groups": train_groups, "test_groups": test_groups}
        if train_labels.ndim == 2:
            return cls("several", train, _both_occur(train_labels), test, test_labels, None, **groups)
        if train_labels.is_floating_point():
            if bool((train_labels == train_labels[0]).all()):
                raise UserError("every training target is the same: a regression needs targets that differ.")
            return cls("targets", train, train_labels.double(), test, test_labels.double(), None, **groups)
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
        return cls("classes", train, train_labels, test, test_labels, classes, **groups)

    def split(self, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
        """Indices of the training samples to fit on and of those held out.

        The same share of every class is held out; where groups are known, whole groups are, so that no
        choice is made on a patient that was fitted.
        """
        if not 0 < fraction < 1:
            raise UserError(f"validation_fraction lies between 0 and 1, such as 0.2, not {fraction}.")
        if self.train_groups is not None:
            held_out = torch.from_numpy(
                held_out_groups(
                    self.train_groups.cpu().numpy(), self.train_labels.cpu().numpy(), fraction, seed
                )
            )
            parts = (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]
            return parts[0].to(self.train.device), parts[1].to(self.train.device)
        strata = self.train_labels if self.kind == "classes" else torch.zeros(len(self.train_labels))
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

    def score(self, predictions: Tensor, truth: Tensor) -> Tensor:
        """The metric of each setting: `predictions` is (samples, settings), (..., classes) for several."""
        if self.kind == "several":
            return macro_auc(predictions.transpose(0, 1), truth)
        if self.kind == "classes":
            return (predictions == truth[:, None]).double().mean(0)
        spread = (truth - truth.mean()).square().mean().clamp(min=1e-300)
        return 1 - (predictions - truth[:, None]).square().mean(0) / spread

    def result(self, probe: str, predictions: Tensor, chosen: dict[str, Any]) -> ProbeResult:
        """The score of `predictions` of the test samples with its interval."""
        groups = self.test_groups
        if self.kind == "several":
            metric, outcomes = "macro_auc", self.test_labels
            interval = auc_interval(predictions, self.test_labels, groups=groups)
        elif self.classes is None:
            metric, outcomes = "r2", (predictions - self.test_labels).square()
            interval = r2_interval(self.test_labels, predictions, groups=groups)
        else:
            metric, outcomes = "accuracy", predictions == self.test_labels
            interval = accuracy_interval(outcomes, groups=groups)
            predictions = self.classes[predictions]
        return ProbeResult(probe, metric, predictions.cpu(), outcomes.float().cpu(), *interval, chosen)


def held_out_groups(groups: np.ndarray, labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """(n,) bool: the samples of the groups held out, about `fraction` of all, by chance of the seed.

    Groups are taken in order of their commonest label, so that each class gives about the same share; with
    several labels a sample that is the rarest one the group has, with float targets none.

    Raises:
        UserError: there are fewer than two groups.
    """
    names, number = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise UserError(
            f"all samples belong to one group ('{names[0]}'), so none can be held out: give more groups."
        )
    random = np.random.default_rng(seed)
    order = random.permutation(len(names))
    order = order[np.argsort(_label_of_groups(number, labels, len(names))[order], kind="stable")]
    every = max(2, round(1 / fraction))
    chosen = order[(np.arange(len(order)) + random.integers(every)) % every == 0]
    chosen = chosen if len(chosen) else order[:1]
    return np.isin(number, chosen)


def _label_of_groups(number: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    if labels.dtype.kind == "f":
        return np.zeros(count)
    if labels.ndim == 1:
        _, labels = np.unique(labels, return_inverse=True)
        votes = np.zeros((count, labels.max() + 1), dtype=np.int64)
        np.add.at(votes, (number, labels), 1)
        return votes.argmax(1)
    has = np.zeros((count, labels.shape[1]), dtype=bool)
    np.logical_or.at(has, number, labels == 1)
    rarest_first = np.argsort(has.sum(0), kind="stable")
    return np.where(has.any(1), has[:, rarest_first].argmax(1), labels.shape[1])


def _both_occur(labels: Tensor) -> Tensor:
    if not bool((((labels == 1).any(0)) & ((labels == 0).any(0))).any()):
        raise UserError(
            "no class both occurs and is absent among the training labels: nothing can be learned."
        )
    return labels


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
    if labels.ndim == 1 and not labels.is_floating_point() and int(labels.min()) < 0:
        raise UserError(f"some {name} labels are negative (unknown): leave those samples out.")


def _listed(labels: list[int]) -> str:
    return ", ".join(map(str, labels[:5])) + (f" and {len(labels) - 5} more" if len(labels) > 5 else "")
