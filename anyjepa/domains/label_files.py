"""Labels that lie in a table beside the samples."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from anyjepa.core.errors import UserError, require
from anyjepa.domains.sources import as_labels, existing

__all__ = ["labels_from_file", "read_label_file"]


def read_label_file(path: str) -> dict[str, str | None]:
    """Label by id from a CSV, TSV or Parquet file with the columns ``id`` and ``label``. Raises UserError."""
    file = existing(path)
    suffix = file.suffix.lower()
    try:
        if suffix == ".parquet":
            table = require("pyarrow.parquet", "image").read_table(file)
            columns = {
                name: table.column(name).to_pylist() for name in table.column_names if name in ("id", "label")
            }
            names = table.column_names
        elif suffix in (".csv", ".tsv"):
            with open(file, newline="", encoding="utf-8-sig") as lines:
                reader = csv.DictReader(lines, delimiter="\t" if suffix == ".tsv" else ",")
                rows = list(reader)
                names = list(reader.fieldnames or [])
            columns = {name: [row[name] for row in rows] for name in names if name in ("id", "label")}
        else:
            raise UserError(
                f"{path} is not a label file: give a .csv, .tsv or .parquet with columns id and label"
            )
    except (csv.Error, ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as {suffix[1:]}: {str(error).splitlines()[0]}") from None
    if len(columns) < 2:
        raise UserError(f"{path} has the columns {', '.join(names) or '(none)'}: it needs id and label")
    return {
        str(key): None if label is None else str(label)
        for key, label in zip(columns["id"], columns["label"], strict=True)
    }


def labels_from_file(path: str, identities: Sequence[str]) -> tuple[np.ndarray, list[str] | None]:
    """Labels and classes of samples by their identity, or else by its base name, with or without extension.

    Samples that the file does not name are unknown (-1, NaN). Raises UserError where it names none.
    """
    table = read_label_file(path)
    found = [_look_up(table, identity) for identity in identities]
    if not any(known for known, _ in found):
        example = next(iter(table), "nothing")
        raise UserError(
            f"no id in {path} (such as {example}) is that of a sample (such as {identities[0]}): use those"
        )
    return as_labels([label for _, label in found])


def _look_up(table: dict[str, str | None], identity: str) -> tuple[bool, str | None]:
    path = PurePosixPath(identity)
    for name in (identity, str(path.with_suffix("")) if path.name else identity, path.name, path.stem):
        if name in table:
            return True, table[name]
    return False, None
