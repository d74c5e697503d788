"""Features of items and queries: what kind each column is, and its cells as codes and numbers."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as arrow
from jaxtyping import Float, Int

from anyjepa.core.errors import UserError, nearest
from anyjepa.domains.table_columns import compute

__all__ = ["KINDS", "Encoded", "Field", "bins", "encode", "fields_of", "stated_kinds"]

KINDS = ("category", "list", "number", "left-out")
MOST_NAMED = 20_000  # values of a field that are told apart by name; of more, by a digest
MOST_ROWS = 2**20  # that digests are spread over
MOST_VALUES = 12  # of a list that count
FEW_NUMBERS = 20  # different whole numbers up to which a column of them is a category
BINS = 10
BETWEEN = re.compile(r"[|;]")
WORD = re.compile(r'[^\s,.:!?()"]+')


@dataclass(frozen=True)
class Field:
    """One feature.

    Args:
        name: of its column.
        kind: ``category``, ``list`` of values, or ``number``.
        values: that are told apart, the most frequent first; none where digests are.
        rows: of its embedding: one for what is missing or unknown, then one a value. 0 for a number.
        slots: values of an item that count: 1 of a category, 0 of a number.
        mean, std: of a number.
    """

    name: str
    kind: str
    values: tuple[str, ...] = ()
    rows: int = 0
    slots: int = 1
    mean: float = 0.0
    std: float = 1.0

    def facts(self) -> dict[str, Any]:
        """Plain values that `of` reads back."""
        plain = {"name": self.name, "kind": self.kind, "rows": self.rows, "slots": self.slots}
        if self.kind == "number":
            return {**plain, "mean": self.mean, "std": self.std}
        return {**plain, "values": list(self.values)}

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Field:
        """The field that was measured."""
        return cls(**{**facts, "values": tuple(facts.get("values", ()))})

    def text(self, codes: np.ndarray | float) -> str:
        """A cell in words: its values by name, or the number; empty where nothing is known."""
        if self.kind == "number":
            number = float(codes) * self.std + self.mean
            return "" if np.isnan(number) else f"{number:.6g}"
        known = [int(code) for code in np.atleast_1d(codes) if code > 0]
        return ", ".join(self.values[code - 1] if self.values else f"#{code}" for code in known)


@dataclass(frozen=True)
class Encoded:
    """A table of items or queries.

    Args:
        codes: (n, slots of all fields) row of each value's embedding; 0 unknown, -1 where a list is shorter.
        numbers: (n, numbers) standardised; NaN where missing.
    """

    codes: Int[np.ndarray, "n slots"]
    numbers: Float[np.ndarray, "n numbers"]


def stated_kinds(words: str) -> dict[str, str]:
    """Kinds by column from ``year=number,genres=list,note=left-out``.

    Raises:
        UserError: it is written otherwise, or there is no such kind.
    """
    found = {}
    for part in filter(None, (part.strip() for part in words.split(","))):
        name, equals, kind = part.rpartition("=")
        if not equals or kind not in KINDS:
            raise UserError(
                f"'{part}' states no kind: write NAME=KIND with one of {', '.join(KINDS)}."
                + (nearest(kind, KINDS) if equals else "")
            )
        found[name] = kind
    return found


def fields_of(
    table: arrow.Table, identity: str, kinds: Mapping[str, str], with_identity: bool = True
) -> list[Field]:
    """What the columns of a table of items or queries are, the identity first; constant columns are no field.

    A kind that is not stated is told by the cells: lists, and words set apart by | or ;, are lists, and so
    are titles of several words that hardly repeat; numbers of more than 20 values are numbers.
    """
    found = []
    for name in [identity, *(name for name in table.column_names if name != identity)]:
        if name == identity:
            if with_identity:
                found.append(_named(name, "category", _texts(table[name])))
            continue
        kind = kinds.get(name) or _kind(table[name])
        if kind == "left-out":
            continue
        if kind == "number":
            numbers = _numbers(table[name])
            known = numbers[~np.isnan(numbers)]
            if len(known) and known.std() > 0:
                found.append(Field(name, kind, slots=0, mean=float(known.mean()), std=float(known.std())))
            continue
        values = _lists(table[name])[0] if kind == "list" else _texts(table[name])
        field = _named(name, kind, values)
        if kind == "list":
            lengths = np.diff(_lists(table[name])[1])
            slots = int(min(MOST_VALUES, max(1, lengths.max(initial=1))))
            field = Field(name, kind, field.values, field.rows, slots)
        if field.rows > 2:
            found.append(field)
    return found


def encode(table: arrow.Table, fields: Sequence[Field]) -> Encoded:
    """Cells as the fields say.

    Raises:
        UserError: a column is not there.
    """
    codes, numbers = [], []
    for field in fields:
        if field.name not in table.column_names:
            raise UserError(f"there is no column '{field.name}', which was trained on."
                            + nearest(field.name, table.column_names))  # fmt: skip
        column = table[field.name]
        if field.kind == "number":
            numbers.append((_numbers(column) - field.mean) / field.std)
        elif field.kind == "category":
            codes.append(_codes(_texts(column), field)[:, None])
        else:
            codes.append(_listed(column, field))
    n = table.num_rows
    return Encoded(
        np.concatenate(codes, axis=1).astype(np.int32) if codes else np.zeros((n, 0), np.int32),
        np.stack(numbers, axis=1).astype(np.float32) if numbers else np.zeros((n, 0), np.float32),
    )


def bins(encoded: Encoded, fields: Sequence[Field]) -> Int[np.ndarray, "n fields"]:
    """One whole number a field and row, for counting: of a list its set of values, of a number its tenth."""
    columns, slot, number = [], 0, 0
    for field in fields:
        if field.kind == "number":
            values = encoded.numbers[:, number].astype(np.float64)
            edges = np.unique(np.nanquantile(values, np.linspace(0, 1, BINS + 1)[1:-1]))
            columns.append(np.where(np.isnan(values), BINS, np.searchsorted(edges, values)))
            number += 1
            continue
        part = np.sort(encoded.codes[:, slot : slot + field.slots], axis=1)
        columns.append(part[:, 0] if field.slots == 1 else np.unique(part, axis=0, return_inverse=True)[1])
        slot += field.slots
    n = len(encoded.codes)
    return (
        np.stack([c.reshape(n) for c in columns], axis=1).astype(np.int64)
        if columns
        else np.zeros((n, 0), np.int64)
    )


def _kind(column: Any) -> str:
    if arrow.types.is_list(column.type) or arrow.types.is_large_list(column.type):
        return "list"
    kind = column.type
    if arrow.types.is_nested(kind):
        return "left-out"
    if arrow.types.is_boolean(kind) or arrow.types.is_dictionary(kind):
        return "category"
    texts = _texts(column)
    known = [text for text in texts.slice(0, 5000).to_pylist() if text]
    if not known:
        return "left-out"
    if sum(bool(BETWEEN.search(text)) for text in known) > 0.1 * len(known):
        return "list"
    numbers = _numbers(column)
    if np.isnan(numbers).sum() <= len(texts) - len(known) and not np.isnan(numbers).all():
        return "number" if len(np.unique(numbers[~np.isnan(numbers)])) > FEW_NUMBERS else "category"
    several = sum(len(WORD.findall(text)) > 1 for text in known) / len(known)
    return "list" if several > 0.5 and len(set(known)) > 0.5 * len(known) else "category"


def _texts(column: Any) -> arrow.Array:
    """Cells as trimmed text, null where empty or missing."""
    flat = column.combine_chunks() if isinstance(column, arrow.ChunkedArray) else column
    if arrow.types.is_dictionary(flat.type):
        flat = flat.dictionary_decode()
    if arrow.types.is_floating(flat.type):
        values = flat.to_numpy(zero_copy_only=False)
        whole = np.where(np.isfinite(values), values, 0)
        if (whole == np.rint(whole)).all() and np.abs(whole).max(initial=0) < 2**53:
            flat = arrow.array(whole.astype(np.int64), mask=~np.isfinite(values))
    try:
        trimmed = compute.utf8_trim_whitespace(compute.cast(flat, arrow.string()))
    except arrow.ArrowException as problem:
        raise UserError(f"a column of {flat.type} is no feature: state it as left-out ({problem}).") from None
    return compute.if_else(compute.equal(trimmed, ""), arrow.scalar(None, arrow.string()), trimmed)


def _numbers(column: Any) -> np.ndarray:
    flat = column.combine_chunks() if isinstance(column, arrow.ChunkedArray) else column
    kind = flat.type
    if arrow.types.is_temporal(kind):
        flat = compute.cast(compute.cast(flat, arrow.timestamp("s")), arrow.int64())
    elif not (arrow.types.is_integer(kind) or arrow.types.is_floating(kind)):
        texts = _texts(flat)
        known = compute.match_substring_regex(texts, r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$")
        flat = compute.if_else(known, texts, arrow.scalar(None, arrow.string()))
    values = compute.cast(flat, arrow.float64()).to_numpy(zero_copy_only=False).astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _lists(column: Any) -> tuple[arrow.Array, np.ndarray]:
    """All values of a column of lists in a row as text, and where each cell's begin, (n + 1,)."""
    flat = column.combine_chunks() if isinstance(column, arrow.ChunkedArray) else column
    if not (arrow.types.is_list(flat.type) or arrow.types.is_large_list(flat.type)):
        cells = _texts(flat).to_pylist()
        barred = any(cell and BETWEEN.search(cell) for cell in cells)
        split = BETWEEN.split if barred else WORD.findall
        parts = [
            [part.strip().lower() for part in split(cell) if part.strip()] if cell else [] for cell in cells
        ]
        flat = arrow.array(parts, arrow.list_(arrow.string()))
    lengths = compute.fill_null(compute.list_value_length(flat), 0).to_numpy(zero_copy_only=False)
    return _texts(compute.list_flatten(flat)), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _named(name: str, kind: str, values: arrow.Array) -> Field:
    counted = compute.value_counts(values.drop_null())
    names, counts = counted.field("values"), counted.field("counts").to_numpy(zero_copy_only=False)
    if len(names) > MOST_NAMED:
        return Field(name, kind, (), min(MOST_ROWS, 2 * len(names)) + 1)
    texts = names.to_pylist()
    # by name where they are as frequent, so that the order of rows changes nothing
    order = sorted(range(len(texts)), key=lambda place: (-int(counts[place]), texts[place]))
    return Field(name, kind, tuple(texts[place] for place in order), len(texts) + 1)


def _codes(values: arrow.Array, field: Field) -> np.ndarray:
    """1 and more of known values, 0 of others."""
    if field.values:
        found = compute.index_in(values, value_set=arrow.array(field.values, arrow.string()))
        return compute.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
    coded = values.dictionary_encode()
    rows = [1 + zlib.crc32(text.encode()) % (field.rows - 1) for text in coded.dictionary.to_pylist()]
    table = np.array([*rows, 0], dtype=np.int64)
    return table[compute.fill_null(coded.indices, len(rows)).to_numpy(zero_copy_only=False)]


def _listed(column: Any, field: Field) -> np.ndarray:
    values, starts = _lists(column)
    codes = _codes(values, field) if len(values) else np.zeros(0, np.int64)
    lengths = np.diff(starts)
    place = starts[:-1, None] + np.arange(field.slots)
    there = np.arange(field.slots) < lengths[:, None]
    padded = np.append(codes, -1)
    return np.where(there, padded[np.where(there, place, -1)], -1)
