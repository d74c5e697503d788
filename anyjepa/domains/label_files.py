"""Labels that lie in a table beside the samples."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from anyjepa.core.errors import UserError, require
from anyjepa.domains.sources import as_labels, as_many_labels, existing

__all__ = ["groups_from_file", "labels_from_file", "read_label_file", "table_columns"]

GROUP_COLUMNS = ("group", "patient", "subject", "speaker", "recording")
BETWEEN_LABELS = re.compile(r"[;|]")


def read_label_file(path: str, column: str = "label") -> dict[str, str | None]:
    """Label by id from a CSV, TSV or Parquet file with the columns ``id`` and ``label``. Raises UserError.

    column: another one to read in the label's place.
    """
    columns, names = table_columns(path, ("id", column))
    if len(columns) < 2:
        raise UserError(f"{path} has the columns {', '.join(names) or '(none)'}: it needs id and {column}")
    return {
        str(key): None if label is None else str(label)
        for key, label in zip(columns["id"], columns[column], strict=True)
    }


def table_columns(path: str, wanted: Sequence[str]) -> tuple[dict[str, list], list[str]]:
    """The `wanted` columns of a CSV, TSV or Parquet file, and the names of all it has. Raises UserError."""
    file = existing(path)
    suffix = file.suffix.lower()
    try:
        if suffix == ".parquet":
            table = require("pyarrow.parquet", "image").read_table(file)
            columns = {name: table.column(name).to_pylist() for name in table.column_names if name in wanted}
            names = table.column_names
        elif suffix in (".csv", ".tsv"):
            with open(file, newline="", encoding="utf-8-sig") as lines:
                reader = csv.DictReader(lines, delimiter="\t" if suffix == ".tsv" else ",")
                rows = list(reader)
                names = list(reader.fieldnames or [])
            columns = {name: [row[name] for row in rows] for name in names if name in wanted}
        else:
            raise UserError(
                f"{path} is not a label file: give a .csv, .tsv or .parquet with columns id and label"
            )
    except (csv.Error, ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as {suffix[1:]}: {str(error).splitlines()[0]}") from None
    return columns, names


def labels_from_file(path: str, identities: Sequence[str]) -> tuple[np.ndarray, list[str] | None]:
    """Labels and classes of samples by their identity, or else by its base name, with or without extension.

    Where a label is several, set apart by ``;`` or ``|``, all are: (n, classes) int8. Samples that the file
    does not name are unknown (-1, NaN). Raises UserError where it names none.
    """
    table = read_label_file(path)
    found = [_look_up(table, identity) for identity in identities]
    if not any(known for known, _ in found):
        example = next(iter(table), "nothing")
        raise UserError(
            f"no id in {path} (such as {example}) is that of a sample (such as {identities[0]}): use those"
        )
    labels = [label for _, label in found]
    if any(label and BETWEEN_LABELS.search(label) for label in labels):
        parts = [[part.strip() for part in BETWEEN_LABELS.split(label or "")] for label in labels]
        return as_many_labels([[part for part in names if part] or None for names in parts])
    return as_labels(labels)


def groups_from_file(path: str, identities: Sequence[str]) -> np.ndarray | None:
    """The column ``group`` of a label file for each sample, "" where it says none; see `GROUP_COLUMNS`.

    None where the file has no such column.
    """
    _, names = table_columns(path, ())
    column = next((name for name in GROUP_COLUMNS if name in names), None)
    if column is None:
        return None
    table = read_label_file(path, column)
    return np.array([_look_up(table, identity)[1] or "" for identity in identities])


def _look_up(table: dict[str, str | None], identity: str) -> tuple[bool, str | None]:
    path = PurePosixPath(identity)
    for name in (identity, str(path.with_suffix("")) if path.name else identity, path.name, path.stem):
        if name in table:
            return True, table[name]
    return False, None
