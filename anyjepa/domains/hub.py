"""Data sets in the Hugging Face hub's layout, on the hub or on disk, read row by row out of Arrow."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from anyjepa.core.errors import UserError, nearest, require
from anyjepa.domains.sources import NoSplit, as_labels, existing, split_order

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["hub_labels", "open_hub"]

LABEL_COLUMNS = ("label", "labels", "class", "target", "fine_label", "category")


def open_hub(name: str, split: str | None) -> Dataset:
    """The data set ``NAME`` or ``NAME:SPLIT``, a hub name or a folder in the hub's layout.

    A split in the name goes before ``split``; None takes train. Raises UserError and NoSplit.
    """
    datasets = require("datasets", "hub")
    name, _, own_split = name.partition(":")
    if name.startswith((".", "/", "~")) or os.path.exists(name):
        name = str(existing(name))
    try:
        splits = datasets.get_dataset_split_names(name)
        return datasets.load_dataset(name, split=_choose(splits, own_split or split, name))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"hf:{name} cannot be opened ({reason}): check its name and your connection"
        ) from None


def _choose(splits: list[str], split: str | None, name: str) -> str:
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
    datasets = require("datasets", "hub")
    names = table.column_names
    if column is not None and column not in names:
        raise UserError(f"there is no column {column!r}, only {', '.join(names)}.{nearest(column, names)}")
    if column is None:
        classed = [name for name, kind in table.features.items() if isinstance(kind, datasets.ClassLabel)]
        named = [name for name in LABEL_COLUMNS if isinstance(table.features.get(name), datasets.Value)]
        if not classed + named:
            return None, None
        column = (classed + named)[0]
    values, kind = list(table.with_format("python")[str(column)][:]), table.features[column]
    if isinstance(kind, datasets.ClassLabel):
        return np.array([-1 if value is None else value for value in values], np.int64), list(kind.names)
    return as_labels([None if value is None else str(value) for value in values])
