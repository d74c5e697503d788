"""Columns of a table: what type each has, and how its cells become numbers.

A cell is encoded as one float: a number less its column's offset, the rank of an ordinal level, the code of
a category, days of a date. NaN is a missing cell, which is information and never filled in here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as arrow
from pyarrow import compute as arrow_compute

from anyjepa.core.errors import UserError

__all__ = ["KINDS", "Column", "categorical", "encode", "inferred", "stated", "typed"]

compute: Any = arrow_compute  # its functions are made as it is imported: no checker knows them

KINDS = ("numeric", "ordinal", "categorical", "boolean", "datetime")
MISSING = ["", "?", "na", "n/a", "#n/a", "nan", "null", "none"]
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^[+-]?inf(inity)?$"
CODE = r"^0\d+$"  # 01234 is a postcode, not a number
DATE = r"^\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.\d+)?)?)?(Z|[+-]\d{2}:?\d{2})?$"
ZONE = r"(Z|[+-]\d{2}:?\d{2})$"
TRUE, FALSE = ("true", "yes", "t", "y"), ("false", "no", "f", "n")
EPOCH = np.datetime64("2000-01-01", "us")
DAY = 86_400e6  # microseconds
ENOUGH_ROWS = 20  # with fewer, distinct values say nothing about what a column is
ORDINAL_LEVELS = 10
MOST_CATEGORIES = 256  # rarer ones share the bucket of those never seen
TEXT_CATEGORIES = 100
LARGEST = 1e30  # what lies beyond is as good as infinite in float32


@dataclass(frozen=True)
class Column:
    """One column that is a feature.

    Args:
        name: in the header.
        kind: one of `KINDS`.
        categories: texts of the categories, whose codes are 1, 2, ... (0 is any other), or of the levels of
            an ordinal column in their order, whose codes are 0, 1, ...
        offset: taken from numbers and days before they are rounded to float32.
    """

    name: str
    kind: str
    categories: tuple[str, ...] = ()
    offset: float = 0.0

    @property
    def coded(self) -> bool:
        """Its cells are codes of categories."""
        return self.kind in ("categorical", "boolean")

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Column:
        """The column that `Domain.measure` described."""
        return cls(facts["name"], facts["kind"], tuple(facts["categories"]), facts["offset"])

    def text(self, code: float) -> str:
        """An encoded cell as a person writes it; empty where it is missing."""
        if not np.isfinite(code):
            return ""
        if self.coded:
            return self.categories[int(code) - 1] if code >= 1 else "(other)"
        if self.kind == "ordinal":
            return self.categories[int(np.clip(round(code), 0, len(self.categories) - 1))]
        if self.kind == "datetime":
            moment = EPOCH + np.timedelta64(round((code + self.offset) * DAY), "us")
            text = str(moment.astype("datetime64[s]")).replace("T", " ")
            return text.removesuffix(" 00:00:00")
        value = code + self.offset
        return f"{value:.0f}" if value == round(value) and abs(value) < 1e15 else f"{value:.4g}"


def typed(values: Any) -> arrow.Array:
    """One array of the simplest type that holds every value: bool, int64, double, timestamp[us] or string.

    Text is trimmed; the words of `MISSING` and NaN become null. A type that is no cell (lists, bytes ...)
    comes back as it is.
    """
    if isinstance(values, arrow.ChunkedArray):
        values = values.combine_chunks()
    kind = values.type
    if arrow.types.is_dictionary(kind):
        return typed(values.dictionary_decode())
    if arrow.types.is_floating(kind) or arrow.types.is_decimal(kind):
        values = compute.cast(values, arrow.float64())
        return compute.if_else(compute.is_nan(values), None, values)
    if arrow.types.is_integer(kind):
        return compute.cast(values, arrow.int64() if kind != arrow.uint64() else arrow.float64(), safe=False)
    if arrow.types.is_date(kind) or arrow.types.is_timestamp(kind):
        zone = getattr(kind, "tz", None)
        moments = compute.cast(values, arrow.timestamp("us", zone), safe=False)
        return compute.cast(moments, arrow.timestamp("us"))
    if arrow.types.is_duration(kind) or arrow.types.is_time(kind):
        return compute.cast(compute.cast(values, arrow.int64()), arrow.float64())
    if arrow.types.is_string(kind) or arrow.types.is_large_string(kind) or arrow.types.is_string_view(kind):
        return _of_text(values)
    return values


def trimmed(values: Any) -> arrow.Array:
    """Text without blanks at its ends; the words of `MISSING` become null."""
    values = values.combine_chunks() if isinstance(values, arrow.ChunkedArray) else values
    if arrow.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    values = compute.utf8_trim_whitespace(compute.cast(values, arrow.string()))
    absent = compute.is_in(compute.utf8_lower(values), value_set=arrow.array(MISSING))
    return compute.if_else(absent, None, values)


def _of_text(values: arrow.Array) -> arrow.Array:
    values = trimmed(values)
    lowered = compute.utf8_lower(values)
    if _all_match(lowered, NUMBER) and not _any_match(values, CODE):
        return _whole(_numbers(values))
    if _all_in(lowered, {*TRUE, *FALSE}):
        return compute.if_else(lowered.is_valid(), compute.is_in(lowered, value_set=arrow.array(TRUE)), None)
    if _all_match(values, DATE):
        return _moments(values)
    return values


def _all_match(values: arrow.Array, pattern: str) -> bool:
    return values.null_count < len(values) and bool(
        compute.all(compute.match_substring_regex(values, pattern), skip_nulls=True).as_py()
    )


def _any_match(values: arrow.Array, pattern: str) -> bool:
    return bool(compute.any(compute.match_substring_regex(values, pattern), skip_nulls=True).as_py())


def _all_in(values: arrow.Array, words: set[str]) -> bool:
    found = set(compute.unique(values.drop_null()).to_pylist())
    return bool(found) and found <= words


def _numbers(values: arrow.Array) -> arrow.Array:
    """Text as double; null where it is no number."""
    fits = compute.match_substring_regex(compute.utf8_lower(values), NUMBER)
    plain = compute.utf8_ltrim(compute.if_else(fits, values, None), "+")
    return compute.cast(plain, arrow.float64())


def _whole(values: arrow.Array) -> arrow.Array:
    """int64 where no number has a fraction."""
    numbers = values.to_numpy(zero_copy_only=False)
    known = numbers[~np.isnan(numbers)]
    whole = np.isfinite(known).all() and (known == np.rint(known)).all() and (np.abs(known) < 2**53).all()
    return compute.cast(values, arrow.int64()) if whole else values


def _moments(values: arrow.Array) -> arrow.Array:
    """ISO 8601 text as timestamps (UTC where a zone is given); null where it is none."""
    fits = compute.match_substring_regex(values, DATE)
    zoned = compute.match_substring_regex(compute.utf8_slice_codeunits(values, 10), ZONE)
    if bool(compute.any(zoned, skip_nulls=True).as_py()):
        values = compute.if_else(compute.and_(fits, zoned), values, None)
        return compute.cast(compute.cast(values, arrow.timestamp("us", "UTC")), arrow.timestamp("us"))
    return compute.cast(compute.if_else(fits, values, None), arrow.timestamp("us"))


def inferred(name: str, values: arrow.Array, levels: Sequence[str] = ()) -> Column | str:
    """The column that `values` (of `typed`) are, or why it is left out.

    Args:
        name: of the column.
        values: its cells.
        levels: of an ordered categorical, in their order.
    """
    kind = values.type
    if arrow.types.is_null(kind) or values.null_count == len(values):
        return "is empty"
    if not _is_cell(kind):
        return f"holds {kind}, not single values"
    distinct = compute.unique(values.drop_null())
    if len(distinct) == 1:
        return categorical(name, values) if values.null_count else "is constant"
    if levels:
        return Column(name, "ordinal", tuple(levels))
    if arrow.types.is_string(kind):
        return _words(name, values, len(distinct))
    if arrow.types.is_timestamp(kind):
        return Column(name, "datetime", offset=_offset(_days(values)))
    numbers = np.sort(distinct.cast(arrow.float64(), safe=False).to_numpy(zero_copy_only=False))
    if len(numbers) <= 3 and set(numbers) <= {0.0, 1.0}:  # 0, -0 and 1
        return categorical(name, values, "boolean")
    whole = bool(np.isfinite(numbers).all() and (numbers == np.rint(numbers)).all())
    if arrow.types.is_integer(kind) and len(distinct) == len(values) >= ENOUGH_ROWS:
        counts_up = numbers[-1] - numbers[0] == len(numbers) - 1
        if counts_up or re.search(r"(^|[_\W])(id|index|key|uuid)$|^unnamed|^$", name.lower()):
            return "differs in every row, as an id does"
    if whole and len(numbers) <= min(ORDINAL_LEVELS, len(values) // 2):
        return Column(name, "ordinal", tuple(f"{number:.0f}" for number in numbers))
    return Column(name, "numeric", offset=_offset(values))


def _words(name: str, values: arrow.Array, distinct: int) -> Column | str:
    if distinct == len(values) - values.null_count and distinct >= ENOUGH_ROWS:
        return "differs in every row, as an id does"
    if distinct > TEXT_CATEGORIES and distinct > (len(values) - values.null_count) / 2:
        return f"is free text ({distinct:,} different values)"
    return categorical(name, values)


def _is_cell(kind: Any) -> bool:
    return (
        arrow.types.is_string(kind)
        or arrow.types.is_boolean(kind)
        or arrow.types.is_integer(kind)
        or arrow.types.is_floating(kind)
        or arrow.types.is_timestamp(kind)
    )


def categorical(name: str, values: arrow.Array, kind: str = "categorical") -> Column:
    """A column of codes: its most frequent 256 categories, in their order."""
    counts = compute.value_counts(values.drop_null())
    pairs = sorted(zip(counts.field(0), counts.field(1).to_pylist(), strict=True), key=lambda pair: -pair[1])
    kept = [value.as_py() for value, _ in pairs[:MOST_CATEGORIES]]
    return Column(name, kind, tuple(_text(value) for value in sorted(kept)))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.0f}" if isinstance(value, float) and value == round(value) else str(value)


def _texts(values: arrow.Array) -> arrow.Array:
    """Cells as the texts that `Column.categories` holds."""
    if arrow.types.is_boolean(values.type):
        return compute.if_else(values, "true", "false")
    if arrow.types.is_floating(values.type):
        values = _whole(values)
    return compute.cast(values, arrow.string())


def stated(name: str, kind: str, values: arrow.Array) -> Column:
    """The column of a type that a person stated: a kind, or ``ordinal:low/middle/high``.

    Raises:
        UserError: there is no such type, or the values are not of it.
    """
    kind, _, levels = kind.partition(":")
    if values.null_count == len(values):
        raise UserError(f"column '{name}' is empty, so it cannot be {kind}: leave it out.")
    if kind in ("categorical", "boolean"):
        return categorical(name, values, kind)
    if kind == "ordinal":
        return Column(name, kind, tuple(levels.split("/")) if levels else _ordered(name, values))
    column = Column(name, kind)
    _, wrong = _numeric(column, values)
    if wrong:
        row, text = next(iter(wrong.items()))
        raise UserError(f"column '{name}' is not {kind}: row {row} has '{text}'; state another type.")
    codes, _ = _numeric(column, values)
    return dataclasses.replace(column, offset=float(np.nanmedian(codes)))


def _ordered(name: str, values: arrow.Array) -> tuple[str, ...]:
    if arrow.types.is_string(values.type):
        raise UserError(f"say the order of column '{name}': {name}=ordinal:LOW/MIDDLE/HIGH.")
    return tuple(map(_text, sorted(compute.unique(values.drop_null()).to_pylist())))


def encode(column: Column, values: arrow.Array) -> tuple[np.ndarray, dict[int, str]]:
    """Cells (n,) float64 of a column, NaN where missing, and what is not of its type, by row.

    A category that was never seen gets code 0; a number between two ordinal levels lies between their ranks.
    """
    if column.coded:
        texts = _texts(values)
        if not arrow.types.is_string(texts.type):
            return np.full(len(values), np.nan), {}
        if column.kind == "boolean":
            texts = _boolean_texts(texts, column.categories)
        codes = compute.index_in(texts, value_set=arrow.array(column.categories, arrow.string()))
        codes = compute.fill_null(codes, -1).to_numpy(zero_copy_only=False) + 1.0
        return np.where(values.is_null().to_numpy(zero_copy_only=False), np.nan, codes), {}
    if column.kind == "ordinal":
        return _ranks(column, values)
    codes, wrong = _numeric(column, values)
    return codes - column.offset, wrong


def _boolean_texts(texts: arrow.Array, categories: tuple[str, ...]) -> arrow.Array:
    """0 and 1 for false and true, and the other way, as the column was first written."""
    other = {"true": "1", "false": "0"} if "true" not in categories else {"1": "true", "0": "false"}
    for mine, known in other.items():
        if known in categories:
            texts = compute.if_else(compute.equal(texts, mine), known, texts)
    return texts


def _ranks(column: Column, values: arrow.Array) -> tuple[np.ndarray, dict[int, str]]:
    texts = _texts(values)
    ranks = compute.index_in(texts, value_set=arrow.array(column.categories, arrow.string()))
    found = compute.fill_null(compute.cast(ranks, arrow.float64()), np.nan).to_numpy(zero_copy_only=False)
    unknown = np.flatnonzero(np.isnan(found) & values.is_valid().to_numpy(zero_copy_only=False))
    try:
        levels = np.array([float(level) for level in column.categories])
        numbers = _numbers(texts).to_numpy(zero_copy_only=False)
    except ValueError:
        return found, {int(row): str(texts[int(row)]) for row in unknown}
    found = found.copy()
    found[unknown] = np.interp(numbers[unknown], levels, np.arange(len(levels)))
    wrong = unknown[np.isnan(numbers[unknown])]
    return found, {int(row): str(texts[int(row)]) for row in wrong}


def _numeric(column: Column, values: arrow.Array) -> tuple[np.ndarray, dict[int, str]]:
    """Numbers or days (n,) float64, and the cells that are neither a finite number nor missing."""
    if column.kind == "datetime":
        moments = _moments(values) if arrow.types.is_string(values.type) else values
        codes = _days(moments) if arrow.types.is_timestamp(moments.type) else np.full(len(values), np.nan)
    else:
        numbers = _numbers(values) if arrow.types.is_string(values.type) else values
        if arrow.types.is_timestamp(numbers.type):
            codes = np.full(len(values), np.nan)
        else:
            filled = compute.fill_null(compute.cast(numbers, arrow.float64(), safe=False), np.nan)
            codes = filled.to_numpy(zero_copy_only=False)
    given = values.is_valid().to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(given & ~(np.abs(codes) < LARGEST))
    return codes, {int(row): str(values[int(row)]) for row in wrong}


def _days(values: arrow.Array) -> np.ndarray:
    """Days since the start of 2000, NaN where null."""
    moments = values.to_numpy(zero_copy_only=False).astype("datetime64[us]")
    days = (moments - EPOCH).astype(np.float64) / DAY
    return np.where(np.isnat(moments), np.nan, days)


def _offset(values: Any) -> float:
    numbers = values if isinstance(values, np.ndarray) else compute.cast(
        values, arrow.float64(), safe=False
    ).to_numpy(zero_copy_only=False)  # fmt: skip
    known = numbers[np.isfinite(numbers) & (np.abs(numbers) < LARGEST)]
    return float(np.median(known)) if len(known) else 0.0
