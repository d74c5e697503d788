"""The rows of one table, encoded: types inferred or stated once, and the same for all data after."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as arrow

from anyjepa.core.errors import BadSample, UserError, nearest
from anyjepa.domains.label_files import labels_from_file
from anyjepa.domains.sources import index_classes
from anyjepa.domains.table_columns import KINDS, Column, compute, encode, inferred, stated, trimmed, typed
from anyjepa.domains.table_formats import Sheet
from anyjepa.domains.table_sources import read_table

__all__ = ["Layout", "TableSamples", "open_table", "stated_types"]

LABEL_NAMES = ("class", "target", "label")
LEFT_OUT = "left-out"
ROWS_A_CLASS = 10
MOST_CLASSES = 1000


@dataclass(frozen=True)
class Layout:
    """What the columns of a table are.

    Args:
        columns: features, in the table's order.
        left_out: reason by name of each column that is no feature.
        identity: the column whose values name the rows, if there is one.
        label: the column kept out as the label, if there is one.
        classes: of the label; None for a number to be predicted.
    """

    columns: tuple[Column, ...]
    left_out: dict[str, str]
    identity: str | None = None
    label: str | None = None
    classes: tuple[str, ...] | None = None

    def facts(self) -> dict[str, Any]:
        """Plain values that `of` reads back."""
        label = self.label and {"name": self.label, "classes": self.classes and list(self.classes)}
        return {"left_out": dict(self.left_out), "identity": self.identity, "label": label or None}

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Layout:
        """The layout that was measured."""
        label: dict[str, Any] = facts["label"] or {"name": None, "classes": None}
        classes = None if label["classes"] is None else tuple(label["classes"])
        columns = tuple(Column.of(column) for column in facts["columns"])
        return cls(columns, dict(facts["left_out"]), facts["identity"], label["name"], classes)


class TableSamples:
    """Rows of a table in memory: `array` (n, columns) float32, encoded as `table_columns` says.

    A sample is one row of it. The rest is as of `anyjepa.domains.Samples`.
    """

    def __init__(
        self,
        source: str,
        words: str,
        layout: Layout,
        array: np.ndarray,
        identities: list[str],
        labels: np.ndarray | None,
        classes: list[str] | None,
        problems: list[BadSample],
    ) -> None:
        self.source, self.layout, self.array, self.identities = source, layout, array, identities
        self.labels, self.classes, self.problems = labels, classes, problems
        self.groups: np.ndarray | None = None
        self.description = f"{len(array):,} rows of {len(layout.columns)} columns in {words}"
        named = [f"'{name}' {why}" for name, why in layout.left_out.items()]
        if layout.label:
            named.append(f"'{layout.label}' is the label")
        if named:
            self.description += f" (left out: {', '.join(named)})"

    def __len__(self) -> int:
        return len(self.array)

    def read(self, index: int) -> np.ndarray:
        """One encoded row (columns,) float32."""
        return self.array[index]

    def identity(self, index: int) -> str:
        """The row's id where a column holds one, else its number."""
        return self.identities[index]

    def fingerprint(self) -> str:
        """Digest of the columns and every cell."""
        digest = hashlib.blake2b(repr([c.name for c in self.layout.columns]).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self.array).tobytes())
        return digest.hexdigest()


def stated_types(words: str) -> dict[str, str]:
    """Types by column from ``age=numeric,size=ordinal:S/M/L,note=left-out``.

    Raises:
        UserError: it is written otherwise, or there is no such type.
    """
    found = {}
    for part in filter(None, (part.strip() for part in words.split(","))):
        name, equals, kind = part.rpartition("=")
        known = (*KINDS, LEFT_OUT)
        if not equals or not name:
            raise UserError(f"'{part}' states no type: write NAME=TYPE with a type of {', '.join(known)}.")
        if kind.partition(":")[0] not in known:
            raise UserError(
                f"there is no column type '{kind}' (there are {', '.join(known)}).{nearest(kind, known)}"
            )
        found[name] = kind
    return found


def open_table(
    source: Any,
    labels: str | None = None,
    split: str | None = None,
    reading: Mapping[str, Any] | None = None,
) -> TableSamples:
    """Open a table.

    Args:
        source: see `read_table`.
        labels: the column of labels, or a file with the columns id and label.
        split: see `read_table`.
        reading: ``stated`` and ``target`` as of the recipe; with the facts of trained data over it, rows are
            encoded with those columns, types and categories.

    Raises:
        UserError: it cannot be read, lacks a column, or the label is among the features.
    """
    reading = reading or {}
    sheet, words = read_table(source, split)
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else words
    cells = {column: typed(sheet.table[column]) for column in sheet.table.column_names}
    label = labels if labels in cells else None
    if labels is not None and label is None and not os.path.exists(labels):
        raise UserError(f"{name} has no column '{labels}'.{nearest(labels, cells)}")
    trained = Layout.of(reading) if "columns" in reading else None
    target = label or (trained.label if trained else _target(sheet, cells, reading.get("target", "")))
    if target in cells and _yes_or_no(sheet.table[target], cells[target]):
        cells[target] = trimmed(sheet.table[target])
    if trained:
        layout = trained
        _check_columns(layout, cells, label, name)
    else:
        layout = _layout(sheet, cells, target, reading)
    array, wrong = _encoded(layout, cells)
    identities = _identities(layout, cells, sheet.table.num_rows)
    problems = sheet.problems + [BadSample(identities[row], reason) for row, reason in sorted(wrong.items())]
    whole = np.setdiff1d(np.arange(len(array)), list(wrong))
    values, classes = _labels(layout, cells, label)
    samples = TableSamples(
        name, words, layout, array[whole], [identities[row] for row in whole],
        None if values is None else values[whole], classes, problems,
    )  # fmt: skip
    if labels is not None and label is None:
        samples.labels, samples.classes = labels_from_file(labels, samples.identities)
    return samples


def _yes_or_no(written: Any, read: arrow.Array) -> bool:
    """Whether a column of words was read as boolean: classes keep the words they were written in."""
    return arrow.types.is_boolean(read.type) and not arrow.types.is_boolean(written.type)


def _check_columns(layout: Layout, cells: dict[str, Any], label: str | None, source: str) -> None:
    missing = [column.name for column in layout.columns if column.name not in cells]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UserError(
            f"{source} lacks the columns {', '.join(missing[:5])}{more} that the encoder was trained on."
            + nearest(missing[0], cells)
        )
    if label in [column.name for column in layout.columns]:
        raise UserError(
            f"'{label}' is among the columns the encoder was trained on, so a score on it would say nothing: "
            f"train again with --target {label}."
        )


def _layout(sheet: Sheet, cells: dict[str, Any], target: str | None, reading: Mapping[str, Any]) -> Layout:
    types = {**sheet.kinds, **stated_types(reading.get("stated", ""))}
    for name in stated_types(reading.get("stated", "")):
        if name not in cells:
            raise UserError(f"there is no column '{name}' to state the type of.{nearest(name, cells)}")
    columns, left_out, identity = [], {}, None
    for name, values in cells.items():
        if name == target:
            continue
        found = _column(name, values, types.get(name, ""), sheet.levels.get(name, []))
        if isinstance(found, Column):
            columns.append(found)
            continue
        left_out[name] = found
        if identity is None and found.startswith("differs") and values.null_count == 0:
            identity = name
    if not columns:
        why = ", ".join(f"'{name}' {reason}" for name, reason in left_out.items()) or "there is none"
        raise UserError(f"no column can be a feature ({why}): state types with --columns NAME=TYPE.")
    classes = None if target is None else _classes(cells[target], types.get(target, ""))
    return Layout(tuple(columns), left_out, identity, target, classes)


def _column(name: str, values: Any, kind: str, levels: list[str]) -> Column | str:
    if kind == LEFT_OUT:
        return "was left out"
    if not kind:
        return inferred(name, values, levels)
    if values.null_count == len(values) or len(compute.unique(values)) == 1:
        return inferred(name, values)
    return stated(name, kind, values)


def _target(sheet: Sheet, cells: dict[str, Any], asked: str) -> str | None:
    """The label: the one asked for, or the one that the format or its name gives away."""
    if asked == "none":
        return None
    if asked:
        if asked not in cells:
            raise UserError(f"there is no column '{asked}' to be the --target.{nearest(asked, cells)}")
        return asked
    return sheet.label or next((name for name in cells if name.lower() in LABEL_NAMES), None)


def _classes(values: arrow.Array, kind: str) -> tuple[str, ...] | None:
    """Names of the classes; None where the label is a number to be predicted."""
    if kind.partition(":")[0] in ("numeric", "datetime"):
        return None
    texts = _label_texts(values)
    distinct = compute.unique(texts.drop_null()).to_pylist()
    if kind or arrow.types.is_string(values.type) or arrow.types.is_boolean(values.type):
        return tuple(index_classes(distinct)[1])
    numbers = values.drop_null().to_numpy(zero_copy_only=False)
    if numbers.dtype.kind not in "iuf":
        return None
    whole = bool((numbers == np.rint(numbers)).all())
    few = len(distinct) <= min(MOST_CLASSES, max(2, len(numbers) // ROWS_A_CLASS))
    return tuple(index_classes(distinct)[1]) if whole and few else None


def _label_texts(values: arrow.Array) -> arrow.Array:
    if arrow.types.is_boolean(values.type):
        return compute.if_else(values, "True", "False")
    if arrow.types.is_floating(values.type):
        numbers = values.to_numpy(zero_copy_only=False)
        texts = [None if np.isnan(v) else f"{v:.0f}" if v == np.rint(v) else repr(float(v)) for v in numbers]
        return arrow.array(texts, arrow.string())
    return compute.cast(values, arrow.string())


def _labels(
    layout: Layout, cells: dict[str, Any], asked: str | None
) -> tuple[np.ndarray | None, list[str] | None]:
    name = asked or layout.label
    if name is None or name not in cells:
        return None, None
    values = cells[name]
    classes = list(layout.classes or ()) if name == layout.label else list(_classes(values, "") or ())
    if not classes:
        if arrow.types.is_string(values.type):
            raise UserError(f"the labels in column '{name}' are words, where numbers were trained on.")
        return compute.fill_null(compute.cast(values, arrow.float64()), np.nan).to_numpy(
            zero_copy_only=False
        ).astype(np.float32), None
    texts = _label_texts(values)
    strange = sorted(set(compute.unique(texts.drop_null()).to_pylist()) - set(classes))
    classes += strange
    found = compute.fill_null(compute.index_in(texts, value_set=arrow.array(classes)), -1)
    return found.to_numpy(zero_copy_only=False).astype(np.int64), classes


def _encoded(layout: Layout, cells: dict[str, Any]) -> tuple[np.ndarray, dict[int, str]]:
    """(n, columns) float32 and what is wrong with each row that cannot be used."""
    wrong: dict[int, str] = {}
    encoded = []
    for column in layout.columns:
        codes, strange = encode(column, cells[column.name])
        encoded.append(codes.astype(np.float32))
        kind = "finite number" if column.kind == "numeric" else column.kind
        for row, text in strange.items():
            wrong.setdefault(row, f"{column.name} is '{text}', not a {kind}")
    return np.stack(encoded, axis=1), wrong


def _identities(layout: Layout, cells: dict[str, Any], rows: int) -> list[str]:
    name = layout.identity
    if name is not None and name in cells and cells[name].null_count == 0:
        texts = [str(value) for value in cells[name].to_pylist()]
        if len(set(texts)) == rows:
            return texts
    return [str(row) for row in range(rows)]
