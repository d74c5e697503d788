"""What a probe is fitted and tested on: opened, split by whole groups, and checked for leaks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from anyjepa.core.errors import UserError
from anyjepa.domains import Samples
from anyjepa.domains.label_files import groups_from_file
from anyjepa.domains.sources import NoSplit
from anyjepa.engine.cache import KINDS, embedded
from anyjepa.engine.crew import crew
from anyjepa.engine.run import Run
from anyjepa.evaluation.labelled import held_out_groups

TEST_FRACTION = 0.2


@dataclass(frozen=True)
class Side:
    """Labelled samples of one source, on one side of the split.

    Args:
        samples: the source.
        rows: (n,) places in it.
        labels: (n,) or (n, classes), as `Samples.labels`; all known.
        groups: (n,) numbers, alike on both sides; None where unknown.
        features: (n, dim) float32 by kind ("trained", "untrained", "raw"); empty until `described`.
    """

    samples: Samples
    rows: np.ndarray
    labels: Shaped[Tensor, "samples ..."]
    groups: Tensor | None
    features: dict[str, Float[Tensor, "samples dim"]]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: np.ndarray) -> Side:
        """The samples at these places of the side."""
        index = torch.from_numpy(chosen)
        return dataclasses.replace(
            self,
            rows=self.rows[chosen],
            labels=self.labels[index],
            groups=None if self.groups is None else self.groups[index],
            features={kind: values[index] for kind, values in self.features.items()},
        )

    def described(self, run: Run, kinds: Sequence[str] = KINDS, keep: bool = True) -> tuple[Side, int]:
        """The side with its features and without what is damaged; and how many vectors were computed.

        Raises:
            UserError: none of the samples can be read.
        """
        found = embedded(run, self.samples, self.rows, kinds, keep=keep)
        if not crew().first:
            return self, found.computed
        if not len(found.rows):
            raise UserError(
                f"none of the samples of {self.samples.source} can be read, so there is nothing to evaluate."
            )
        whole = self.take(np.flatnonzero(np.isin(self.rows, found.rows)))
        return dataclasses.replace(whole, features=found.features), found.computed


def both_sides(
    run: Run,
    data: str | np.ndarray | None,
    labels: str | None = None,
    test: str | None = None,
    *,
    groups: str | None = None,
    dense: str | None = None,
    parts: bool = False,
    seed: int = 0,
    allow_leak: bool = False,
) -> tuple[Side, Side]:
    """Training and test side.

    A source that is split gives its own parts, `test` another source the test side; else one fifth is held
    out by chance of `seed`: of every class the same share, and whole groups where they are known.

    Args:
        run: which reads the data.
        data: a source; that of the training where None.
        labels: file or column of labels.
        test: source of the test samples, where it is another one.
        groups: file with the columns id and group, where neither the source nor `labels` says them.
        dense: labels of parts, as of `Run.open`.
        parts: parts carry the labels, so that every sample counts, labelled or not.
        seed: of the random split.
        allow_leak: let a group, or the same samples, be on both sides of a split that the data makes.

    Raises:
        UserError: no labels, or a leak.
    """
    train = run.open(data, labels, dense=dense)
    try:
        held_out = (
            run.open(data, labels, split="test", dense=dense)
            if test is None
            else run.open(test, labels, dense=dense)
        )
    except NoSplit:
        names = _groups(train, labels, groups)
        values = None if names is None else np.unique(names, return_inverse=True)[1]
        first, second = _parted(_known(train, parts), train, values, seed)
        return _side(train, first, values), _side(train, second, values)
    if not allow_leak and held_out.fingerprint() == train.fingerprint():
        raise UserError(
            f"{held_out.source} is on both sides of the split, so the score would flatter: name other "
            "samples with --test, leave it out for a random split, or insist with --allow-leak."
        )
    held_out = _same_classes(held_out, train)
    numbers = _numbered_alike(_groups(train, labels, groups), _groups(held_out, labels, groups), allow_leak)
    sides = [(train, numbers[0]), (held_out, numbers[1])]
    first, second = (_side(samples, _known(samples, parts), values) for samples, values in sides)
    return first, second


def _side(samples: Samples, rows: np.ndarray, groups: np.ndarray | None) -> Side:
    labels = np.zeros(len(samples), dtype=np.int64) if samples.labels is None else np.asarray(samples.labels)
    return Side(
        samples,
        rows,
        torch.as_tensor(labels[rows]),
        None if groups is None else torch.as_tensor(groups[rows]),
        {},
    )


def _groups(samples: Samples, labels: str | None, groups: str | None) -> np.ndarray | None:
    """Names of what the samples belong to: of `groups`, else of the source, else of the label file."""
    file = groups if groups is not None else labels if samples.groups is None else None
    if groups is not None and not os.path.isfile(groups):
        raise UserError(f"--groups {groups} is not a file: give a .csv, .tsv or .parquet with id and group.")
    if file is None or not os.path.isfile(file):
        return samples.groups
    identities = [samples.identity(index) for index in range(len(samples))]
    found = groups_from_file(file, identities)
    if found is None:
        if groups is not None:
            raise UserError(f"{groups} has no column group (or patient, subject, speaker, recording).")
        return samples.groups
    # a sample that the file does not place is a group of its own
    return np.array([name or identity for name, identity in zip(found, identities, strict=True)])


def _numbered_alike(
    train: np.ndarray | None, held_out: np.ndarray | None, allow_leak: bool
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Groups of both sides, one number a name; what is known of one side only is numbered by itself.

    Raises:
        UserError: a group is on both sides, and `allow_leak` is not set.
    """
    if train is None or held_out is None:
        first, second = (
            None if n is None else np.unique(n, return_inverse=True)[1] for n in (train, held_out)
        )
        return first, second
    both = np.intersect1d(train, held_out)
    if len(both) and not allow_leak:
        raise UserError(
            f"{len(both)} group{'s' * (len(both) > 1)} (such as '{both[0]}') are on both sides of the split, "
            "so the score would flatter: split by group, or insist with --allow-leak."
        )
    numbers = np.unique(np.concatenate([train, held_out]), return_inverse=True)[1]
    return numbers[: len(train)], numbers[len(train) :]


def _known(samples: Samples, parts: bool = False) -> np.ndarray:
    """Places of the samples whose label is known; of all where parts carry the labels."""
    if parts:
        return np.arange(len(samples))
    if samples.labels is None:
        raise UserError(
            f"{samples.source} has no labels: use class folders, or name a file or column with --labels."
        )
    if samples.labels.ndim == 2:
        known = (samples.labels >= 0).any(1)
    else:
        known = ~np.isnan(samples.labels) if samples.labels.dtype.kind == "f" else samples.labels >= 0
    if not known.any():
        raise UserError(
            f"no sample of {samples.source} has a label: check that ids in --labels match the samples."
        )
    return np.flatnonzero(known)


def _same_classes(samples: Samples, train: Samples) -> Samples:
    """The same samples with labels counted in the training classes' order."""
    if not samples.classes or not train.classes or samples.classes == train.classes or samples.labels is None:
        return samples
    strange = [name for name in samples.classes if name not in train.classes]
    if strange:
        raise UserError(
            f"the test data has a class '{strange[0]}' that the training data lacks: check the folders."
        )
    order = np.array([train.classes.index(name) for name in samples.classes])
    if samples.labels.ndim == 2:
        wide = np.zeros((len(samples.labels), len(train.classes)), dtype=np.int8)
        wide[:, order] = samples.labels
        samples.labels, samples.classes = wide, train.classes
        return samples
    samples.labels = np.where(samples.labels < 0, -1, order[samples.labels])
    samples.classes = train.classes
    return samples


def _parted(
    indices: np.ndarray, samples: Samples, groups: np.ndarray | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Train and test indices by chance of the seed, of every class the same share, and of whole groups."""
    labels = np.zeros(len(samples)) if samples.labels is None else samples.labels
    if groups is not None:
        held_out = held_out_groups(groups[indices], labels[indices], TEST_FRACTION, seed)
        return indices[~held_out], indices[held_out]
    random = np.random.default_rng(seed)
    shuffled = random.permutation(indices)
    strata = labels[shuffled] if labels.ndim == 1 and labels.dtype.kind != "f" else np.zeros(len(shuffled))
    by_class = shuffled[np.argsort(strata, kind="stable")]
    # every fifth of the samples in order of class, starting anywhere, is a fifth of each class
    held_out = (np.arange(len(by_class)) + random.integers(5)) % round(1 / TEST_FRACTION) == 0
    return np.sort(by_class[~held_out]), np.sort(by_class[held_out])
