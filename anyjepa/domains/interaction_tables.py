"""Logs of who took what, with what is known of both: folders, files and arrays as Arrow tables."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
from pyarrow import csv as arrow_csv

from anyjepa.core.errors import BadSample, UserError, nearest
from anyjepa.domains.hub import open_hub
from anyjepa.domains.interaction_simulation import SYNTHETIC, synthetic_shop
from anyjepa.domains.sources import existing, list_files, named_split
from anyjepa.domains.table_formats import SUFFIXES, from_array, read_sheet

__all__ = ["ENDINGS", "Tables", "column_of", "read_tables"]

ATOMIC = {".inter": "log", ".item": "items", ".user": "queries"}  # RecBole's
ENDINGS = SUFFIXES | frozenset(ATOMIC) | {".dat", ".item", ".user", ".base"}
ROLES = {
    "log": ("inter", "interactions", "interaction", "ratings", "rating", "events", "log", "logs", "reviews",
            "clicks", "purchases", "data"),
    "items": ("item", "items", "movies", "products", "catalogue", "catalog", "apps", "articles", "books",
              "meta"),
    "queries": ("user", "users", "queries", "customers", "people"),
}  # fmt: skip
MOVIELENS = {  # files without a heading, by their name: delimiter and columns
    "u.data": ("\t", ("user_id", "item_id", "rating", "timestamp")),
    "u.item": ("|", ("item_id", "title", "released", "video_released", "url", "unknown", "Action",
                     "Adventure", "Animation", "Children", "Comedy", "Crime", "Documentary", "Drama",
                     "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller",
                     "War", "Western")),
    "u.user": ("|", ("user_id", "age", "gender", "occupation", "zip")),
    "ratings.dat": ("::", ("user_id", "item_id", "rating", "timestamp")),
    "movies.dat": ("::", ("item_id", "title", "genres")),
    "users.dat": ("::", ("user_id", "gender", "age", "occupation", "zip")),
}  # fmt: skip
NAMES = {
    "query": ("user_id", "userid", "user", "customer_id", "query_id", "query", "reviewerid", "visitorid",
              "session_id", "uid"),
    "item": ("item_id", "itemid", "item", "movieid", "product_id", "parent_asin", "asin", "app_id",
             "business_id", "article_id", "book_id", "iid"),
    "time": ("timestamp", "time", "date", "datetime", "unixreviewtime", "ts"),
    "value": ("rating", "value", "stars", "overall", "score"),
}  # fmt: skip
SEPARATOR = "\x1f"


@dataclass
class Tables:
    """What a source holds.

    Args:
        log: a row an interaction.
        items, queries: a row each, with their features; None where nothing more is known.
        held_out: interactions that the source itself keeps for tests.
        kinds: kinds of columns that the format states, by column.
        problems: rows that could not be read.
        words: what it is.
    """

    log: arrow.Table
    items: arrow.Table | None = None
    queries: arrow.Table | None = None
    held_out: arrow.Table | None = None
    kinds: dict[str, str] = field(default_factory=dict)
    problems: list[BadSample] = field(default_factory=list)
    words: str = "a log"


def column_of(table: arrow.Table, role: str, asked: str = "") -> str | None:
    """The column of a log that names queries, items, times or values: the one asked for, or by its name.

    Raises:
        UserError: it is asked for and not there, or there is none of queries or items.
    """
    if asked:
        if asked not in table.column_names:
            raise UserError(f"the log has no column '{asked}'.{nearest(asked, table.column_names)}")
        return asked
    lower = {name.lower(): name for name in reversed(table.column_names)}
    found = next((lower[name] for name in NAMES[role] if name in lower), None)
    if found is None and role in ("query", "item"):
        held = ", ".join(table.column_names[:8])
        raise UserError(f"which column of the log is the {role}? It has {held}: say --{role}-column NAME.")
    return found


def read_tables(source: Any) -> Tables:
    """The tables of a source.

    A folder: RecBole's ``.inter``, ``.item``, ``.user``; MovieLens as it is published; or CSV, TSV, Parquet
    and Feather files whose names say log (interactions, ratings, events), items or users; a log of which one
    file is named train and one test is split so. One file is a log, and columns of it that say the same of
    an item each time describe the item. An array (n, 2 or more) is query, item and, where there are more,
    value and time. ``hf:NAME``, and ``synthetic-shop``.

    Raises:
        UserError: it cannot be read, or holds no log.
    """
    if isinstance(source, np.ndarray):
        return Tables(_of_array(source), words="an array")
    if not isinstance(source, str | os.PathLike):
        raise UserError(f"{type(source).__name__} is no log: give a folder, a file, an array or {SYNTHETIC}.")
    name = os.fspath(source)
    if name == SYNTHETIC:
        log, items, queries = synthetic_shop()
        return Tables(log, items, queries, words="a simulated shop")
    if name.startswith("hf:"):
        return Tables(open_hub(name[3:], None).with_format("arrow")[:], words="a Hugging Face data set")
    if not name:
        raise UserError(f"the source is empty: give a folder, a file or {SYNTHETIC}.")
    path = existing(name)
    return _folder(path) if path.is_dir() else _parts(path.parent, {"log": [path.name]})


def _of_array(values: np.ndarray) -> arrow.Table:
    names = ("user_id", "item_id", "rating", "timestamp")
    if values.dtype.names:
        return from_array(values).table
    if values.ndim != 2 or not 2 <= values.shape[1] <= 4:
        raise UserError(
            "a log as an array is (n, 2): query and item; a third column is a value, then a time."
        )
    return from_array(values, names[: values.shape[1]]).table


def _folder(path: Path) -> Tables:
    found: dict[str, list[str]] = {}
    for name in list_files(path, ENDINGS):
        role = _role(name)
        if role:
            found.setdefault(role, []).append(name)
    if "log" not in found:
        raise UserError(
            f"{path} holds no log: give it a file such as interactions.csv, ratings.csv or NAME.inter."
        )
    return _parts(path, found)


def _role(name: str) -> str | None:
    file = os.path.basename(name).lower()
    if file.startswith(("readme", "licen", ".")):
        return None
    if Path(file).suffix in ATOMIC and not file.startswith("u."):
        return ATOMIC[Path(file).suffix]
    if file in MOVIELENS:
        columns = MOVIELENS[file][1]
        return "log" if "rating" in columns else "items" if columns[0] == "item_id" else "queries"
    words = [word for word in re.split(r"[^a-z]+", Path(file).stem) if word]
    for role, known in ROLES.items():
        if any(word in known for word in words):
            return role
    return None


def _parts(folder: Path, found: dict[str, list[str]]) -> Tables:
    """The tables in files of known roles."""
    kinds: dict[str, str] = {}
    problems: list[BadSample] = []
    by_role: dict[str, arrow.Table] = {}
    for role, names in found.items():
        for name in names:
            part = role
            if role == "log" and _split(name) == "test":
                part = "held_out"
            elif role == "log" and _split(name) == "val":
                continue
            elif role != "log" and part in by_role:
                continue  # u.item beside a table of our own, for instance
            table = _read(folder / name, kinds, problems)
            by_role[part] = _joined(by_role[part], table, name) if part in by_role else table
    if "log" not in by_role:
        raise UserError(f"{folder} has a log to test on and none to learn from: name one of them train.")
    log = by_role["log"]
    words = " and ".join(sorted(name for names in found.values() for name in names)[:4])
    if not log.num_rows:
        raise UserError(f"the log in {folder} has no row that can be read: give one with some.")
    return Tables(
        log, by_role.get("items"), by_role.get("queries"), by_role.get("held_out"), kinds, problems, words
    )


def _split(name: str) -> str | None:
    words = re.split(r"[^a-z]+", name.lower())
    return next((part for word in words if word and (part := named_split(word))), None)


def _joined(first: arrow.Table, second: arrow.Table, name: str) -> arrow.Table:
    if first.column_names != second.column_names:
        raise UserError(f"{name} has other columns than the rest of the log: keep other logs elsewhere.")
    return arrow.concat_tables([first, second], promote_options="permissive")


def _read(path: Path, kinds: dict[str, str], problems: list[BadSample]) -> arrow.Table:
    file = path.name.lower()
    try:
        if file in MOVIELENS:
            delimiter, names = MOVIELENS[file]
            return _delimited(path, delimiter, names, problems)
        if path.suffix.lower() in ATOMIC:
            return _atomic(path, kinds, problems)
        if path.suffix.lower() in (".dat", ".base"):
            raise UserError(f"{path} has no heading: name it as MovieLens does, or give a CSV with one.")
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a log: {str(error).splitlines()[0]}") from None
    sheet = read_sheet(path)
    problems += sheet.problems
    return sheet.table


def _atomic(path: Path, kinds: dict[str, str], problems: list[BadSample]) -> arrow.Table:
    """A file of RecBole: tabs, and a heading of ``name:type``."""
    with open(path, encoding="utf-8-sig", errors="replace") as lines:
        heading = lines.readline().rstrip("\r\n").split("\t")
    names = []
    for head in heading:
        name, _, kind = head.partition(":")
        names.append(name)
        kind = {"token": "category", "token_seq": "list", "float": "number"}.get(kind)
        if kind is None:
            raise UserError(f"{path} names no type in '{head}': a heading is NAME:token, token_seq or float.")
        kinds[name] = kind
    return _delimited(path, "\t", names, problems, skipped=1)


def _delimited(
    path: Path, delimiter: str, names: Sequence[str], problems: list[BadSample], skipped: int = 0
) -> arrow.Table:
    """Columns of text; rows of another number of cells are named and left out."""
    if len(set(names)) != len(names):
        raise UserError(f"{path} has two columns of one name: rename one.")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")  # MovieLens
    if len(delimiter) > 1:
        text, delimiter = text.replace(delimiter, SEPARATOR), SEPARATOR

    def damaged(row: Any) -> str:
        line = f"line {row.number}" if row.number is not None else "a line"
        reason = f"{row.actual_columns} cells, not {row.expected_columns}"
        problems.append(BadSample(f"{path.name}:{line}", reason))
        return "skip"

    return arrow_csv.read_csv(
        arrow.BufferReader(text.encode()),
        read_options=arrow_csv.ReadOptions(column_names=list(names), skip_rows=skipped, use_threads=False),
        parse_options=arrow_csv.ParseOptions(
            delimiter=delimiter, quote_char=False, invalid_row_handler=damaged
        ),
        convert_options=arrow_csv.ConvertOptions(
            column_types={name: arrow.string() for name in names}, strings_can_be_null=False
        ),
    )
