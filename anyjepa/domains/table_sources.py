"""From what a person gives to one table: files, folders, arrays, data frames, shipped tables."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow

from anyjepa.core.errors import UserError, nearest, require
from anyjepa.domains.hub import open_hub
from anyjepa.domains.sources import (
    SPLITS,
    NoSplit,
    existing,
    list_files,
    list_folders,
    named_split,
    natural_split,
    split_order,
)
from anyjepa.domains.table_formats import SUFFIXES, Sheet, from_array, read_sheet
from anyjepa.domains.table_synthetic import SYNTHETIC, synthetic_table

__all__ = ["read_table"]

SHIPPED = ("breast_cancer", "diabetes", "digits", "iris", "wine")
TEST_FRACTION = 0.2


def read_table(source: Any, split: str | None = None) -> tuple[Sheet, str]:
    """The table that `source` is, and what it is in words.

    source: a CSV, TSV, ARFF, Parquet, Feather, .npy or .npz file; a folder of them, where files or folders
    called train and test are its parts; ``sklearn:NAME`` for a table that ships with scikit-learn;
    ``hf:NAME[:SPLIT]``; ``synthetic-table``; an array (n, columns); or a pandas, polars or Arrow table.
    split: as of `anyjepa.domains.Domain.open`. Shipped and simulated tables are split 80 : 20 into train
    (also None) and test, always alike; ``all`` is all of them.

    Raises:
        UserError: it cannot be read. NoSplit: it has no such part.
    """
    if isinstance(source, np.ndarray):
        return from_array(source), "an array"
    if not isinstance(source, str | os.PathLike):
        return _from_frame(source)
    source = os.fspath(source)
    scheme, _, rest = source.partition(":")
    if source == SYNTHETIC:
        return _part(synthetic_table(), split), "simulated customers"
    if scheme == "sklearn":
        return _part(_shipped(rest), split), f"the table {rest} of scikit-learn"
    if scheme == "hf":
        table = open_hub(rest, split)
        return Sheet(table.with_format("arrow")[:]), "a Hugging Face data set"
    if re.match(r"[A-Za-z][A-Za-z0-9+-]+:", source) and not os.path.exists(source):
        known = ["sklearn", "hf"]
        raise UserError(
            f"{scheme}: is not a kind of table: give a file, a folder, sklearn:NAME, hf:NAME or {SYNTHETIC}."
            + nearest(scheme, known)
        )
    if not source:
        raise UserError(f"the source is empty: give a file, a folder, sklearn:NAME or {SYNTHETIC}.")
    return _from_path(existing(source), split)


def _from_path(path: Path, split: str | None) -> tuple[Sheet, str]:
    if path.is_file():
        if split is not None and split.lower() not in SPLITS["train"] and path.suffix.lower() != ".npz":
            raise NoSplit(f"{path} is one file, which has no split '{split}'.")
        return read_sheet(path, split), f"a {path.suffix[1:].upper()} file"
    chosen = natural_split(list_folders(path), split) if list_folders(path) else None
    root = path / chosen if chosen else path
    files = [name for name in list_files(root, SUFFIXES) if not name.lower().startswith(("readme", "licen"))]
    if not files:
        known = ", ".join(sorted(SUFFIXES))
        raise UserError(f"{root} holds no table: give a folder with files that end in one of {known}.")
    parts = files if chosen else _parts(files, split, path)
    sheets = [read_sheet(root / name, split) for name in parts]
    words = f"{len(parts)} files" if len(parts) > 1 else parts[0]
    return _joined(sheets, parts), words


def _parts(files: list[str], split: str | None, folder: Path) -> list[str]:
    """Of the files of a folder those of `split`; files whose names tell of no split belong together."""
    named: dict[str, list[str]] = {}
    for name in files:
        words = re.split(r"[^a-z]+", Path(name).stem.lower())
        found = next((part for word in words if (part := named_split(word))), None)
        named.setdefault(found or "", []).append(name)
    if "" in named or len(named) < 2:
        if split is None or split.lower() in SPLITS["train"]:
            return files
        raise NoSplit(f"the files of {folder} tell of no split '{split}': name them train and test.")
    for word in split_order(split):
        if word in named:
            return named[word]
    raise NoSplit(f"there is no split '{split}' in {folder}, only {', '.join(named)}.")


def _joined(sheets: list[Sheet], names: list[str]) -> Sheet:
    first = sheets[0]
    for sheet, name in zip(sheets[1:], names[1:], strict=True):
        if sheet.table.column_names != first.table.column_names:
            raise UserError(
                f"{names[0]} and {name} have other columns: keep tables that differ in other folders."
            )
    if len(sheets) > 1:
        first.table = arrow.concat_tables([sheet.table for sheet in sheets], promote_options="permissive")
        first.problems = [problem for sheet in sheets for problem in sheet.problems]
    return first


def _shipped(name: str) -> Sheet:
    if name not in SHIPPED:
        raise UserError(
            f"scikit-learn ships no table '{name}' (it ships {', '.join(SHIPPED)}).{nearest(name, SHIPPED)}"
        )
    from sklearn import datasets  # slow to import

    bunch = getattr(datasets, f"load_{name}")()
    sheet = from_array(bunch.data, [str(feature) for feature in bunch.feature_names])
    target = bunch.target
    if hasattr(bunch, "target_names"):
        target = np.asarray(bunch.target_names).astype(str)[target]
    sheet.table = sheet.table.append_column("target", arrow.array(target))
    sheet.label = "target"
    return sheet


def _part(sheet: Sheet, split: str | None) -> Sheet:
    """A fixed fifth of the rows is the test part."""
    rows = np.random.default_rng(0).permutation(sheet.table.num_rows)
    held_out = round(TEST_FRACTION * len(rows))
    if split == "all":
        return sheet
    train = split is None or split.lower() in SPLITS["train"]
    sheet.table = sheet.table.take(np.sort(rows[held_out:] if train else rows[:held_out]))
    return sheet


def _from_frame(frame: Any) -> tuple[Sheet, str]:
    if isinstance(frame, arrow.Table):
        return Sheet(frame), "an Arrow table"
    # a frame can only be of a library that was imported already
    pandas, polars = sys.modules.get("pandas"), sys.modules.get("polars")
    if polars is not None and isinstance(frame, polars.DataFrame):
        return Sheet(frame.to_arrow()), "a polars frame"
    if pandas is not None and isinstance(frame, pandas.DataFrame):
        return _from_pandas(frame), "a pandas frame"
    if hasattr(frame, "data") and hasattr(frame, "feature_names"):
        return _from_bunch(frame), "a scikit-learn bunch"
    raise UserError(
        f"{type(frame).__name__} is no table: give a path, an array, or a pandas, polars or Arrow table."
    )


def _from_pandas(frame: Any) -> Sheet:
    pandas = require("pandas", "table")
    columns, levels = [], {}
    for number, name in enumerate(map(str, frame.columns)):
        series = frame.iloc[:, number]
        if isinstance(series.dtype, pandas.CategoricalDtype):
            if series.cat.ordered:
                levels[name] = [str(level) for level in series.cat.categories]
            series = series.astype(object)
            if name in levels:
                series = series.map(str, na_action="ignore")
        columns.append(_series(series))
    return Sheet(arrow.table(columns, [str(name) for name in frame.columns]), levels=levels)


def _series(series: Any) -> Any:
    try:
        return arrow.Array.from_pandas(series)
    except (arrow.ArrowInvalid, arrow.ArrowTypeError):
        missing = series.isna().tolist()
        texts = [None if gone else str(v) for v, gone in zip(series.tolist(), missing, strict=True)]
        return arrow.array(texts, arrow.string())


def _from_bunch(bunch: Any) -> Sheet:
    if isinstance(bunch.data, np.ndarray):
        sheet = from_array(bunch.data, [str(name) for name in bunch.feature_names])
    else:
        sheet, _ = _from_frame(bunch.data)
    if getattr(bunch, "target", None) is None:
        return sheet
    target = np.asarray(bunch.target)
    names = getattr(bunch, "target_names", None)
    if names is not None and target.dtype.kind in "iu" and len(names) > target.max():
        target = np.asarray(names).astype(str)[target]
    sheet.table = sheet.table.append_column("target", arrow.array(target.tolist()))
    sheet.label = "target"
    return sheet
