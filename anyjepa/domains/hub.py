"""Data sets in the Hugging Face hub's layout, on the hub or on disk, read row by row out of Arrow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from anyjepa.core.errors import UserError, nearest, require
from anyjepa.domains.sources import NoSplit, as_labels, existing, split_order

if TYPE_CHECKING:
    from datasets import Dataset, Features

__all__ = ["chosen_split", "cleared", "hub_labels", "label_column", "labels_of", "open_hub", "own_name"]

# what its parsers raise on metadata that are not what they should be
DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, NotImplementedError)
LABEL_COLUMNS = ("label", "labels", "class", "target", "fine_label", "category")


def open_hub(name: str, split: str | None) -> Dataset:
    """The data set ``NAME`` or ``NAME:SPLIT``, a hub name or a folder in the hub's layout.

    A split in the name goes before ``split``; None takes train. Raises UserError and NoSplit.
    """
    datasets = require("datasets", "hub")
    name, own_split = own_name(name)
    with cleared(name):
        splits = datasets.get_dataset_split_names(name)
        return datasets.load_dataset(name, split=chosen_split(splits, own_split or split, name))


def own_name(name: str) -> tuple[str, str]:
    """A hub name or a path that exists, and the split that was named with it, or an empty text."""
    name, _, split = name.partition(":")
    if name.startswith((".", "/", "~")) or os.path.exists(name):
        name = str(existing(name))
    return name, split


@contextmanager
def cleared(name: str) -> Iterator[None]:
    """Turn what the library raises while it opens a data set into one sentence."""
    datasets = require("datasets", "hub")
    try:
        yield
    except (*DAMAGE, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"hf:{name} cannot be opened ({reason}): check its name and your connection"
        ) from None


def chosen_split(splits: list[str], split: str | None, name: str) -> str:
    """The stored split that answers `split`; the only one, or train, where that is None. Raises NoSplit."""
    if split is None and len(splits) == 1:
        return splits[0]
    for word in split_order(split):
        if word in splits:
            return word
    raise NoSplit(f"hf:{name} has no split {split!r}, only {', '.join(splits)}.{nearest(str(split), splits)}")


def hub_labels(table: Dataset, column: str | None) -> tuple[np.ndarray | None, list[str] | None]:
    """Labels and classes from ``column``, or else from the column that is a ClassLabel or is called so.

    Raises UserError where ``column`` is given but does not exist.
    """
    chosen = label_column(table.features, column)
    if chosen is None:
        return None, None
    return labels_of(list(table.with_format("python")[chosen][:]), table.features[chosen])


def label_column(features: Features, column: str | None) -> str | None:
    """``column``, or else the one that is a ClassLabel or is called so; None where there is none.

    Raises UserError where ``column`` is given but does not exist.
    """
    datasets = require("datasets", "hub")
    names = list(features)
    if column is not None and column not in names:
        raise UserError(f"there is no column {column!r}, only {', '.join(names)}.{nearest(column, names)}")
    if column is not None:
        return column
    classed = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    named = [name for name in LABEL_COLUMNS if isinstance(features.get(name), datasets.Value)]
    return next(iter(classed + named), None)


def labels_of(values: Sequence[Any], kind: Any) -> tuple[np.ndarray, list[str] | None]:
    """Labels and classes of a column's values, of which ``kind`` is the feature."""
    datasets = require("datasets", "hub")
    if isinstance(kind, datasets.ClassLabel):
        return np.array([-1 if value is None else value for value in values], np.int64), list(kind.names)
    return as_labels([None if value is None else str(value) for value in values])
