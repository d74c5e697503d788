"""Tables of captions: which image each row is about, and what it says."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyjepa.core.errors import UserError, nearest, require
from anyjepa.domains.sources import SPLITS, NoSplit, split_order

__all__ = ["CAPTIONS", "TABLES", "Described", "captions_in", "chosen_column", "read_table", "split_of_file"]

TABLES = frozenset({".csv", ".tsv", ".jsonl", ".json", ".parquet"})
IMAGES = ("image", "file", "file_name", "filename", "image_path", "filepath", "path", "img", "image_id", "id")
CAPTIONS = ("caption", "captions", "text", "sentence", "sentences", "raw", "title", "description", "comment")
LABELS = ("label", "sentiment", "category", "class")
NUMBERED = re.compile(r"(caption|text|sentence)[ _-]?\d+$")


@dataclass
class Described:
    """What a table says of each image.

    captions, labels: by the image's name as the table has it. labelled: whether there is a column of labels.
    """

    captions: dict[str, list[str]] = field(default_factory=dict)
    labels: dict[str, str | None] = field(default_factory=dict)
    labelled: bool = False


def read_table(path: Path, split: str | None, label: str | None, column: str) -> Described:
    """Captions and labels from a CSV, TSV, JSON lines, Parquet or COCO file.

    Args:
        path: of the file. An image may be in several rows, and a row may hold several captions.
        split: which rows count, where there is a column ``split``; of training where None.
        label: column of labels; one with a usual name where None.
        column: of captions, or several, set apart by commas; those with a usual name where empty.

    Raises:
        UserError: it cannot be read, or a column is missing. NoSplit.
    """
    rows = _rows(path)
    names = list(dict.fromkeys(name for row in rows[:1000] for name in row))
    image = next((name for wanted in IMAGES for name in names if name.lower() == wanted), None)
    if image is None:
        raise UserError(
            f"{path} has the columns {', '.join(names) or '(none)'}: call the one of the images' "
            "file names image."
        )
    texts = _caption_columns(names, column, str(path))
    chosen = chosen_column(names, label, str(path))
    kept = _of_split(rows, names, split, str(path))
    found = Described(labelled=chosen is not None)
    for row in kept:
        name = str(row.get(image) or "").strip()
        if not name:
            continue
        said = [text for one in texts for text in captions_in(row.get(one))]
        found.captions.setdefault(name, []).extend(said)
        if chosen is not None and name not in found.labels:
            value = row.get(chosen)
            found.labels[name] = None if value is None else str(value)
    return found


def chosen_column(names: Sequence[str], asked: str | None, source: str) -> str | None:
    """The column of labels that is asked for, or one that is called so. Raises UserError where missing."""
    if asked is None:
        return next((name for wanted in LABELS for name in names if name.lower() == wanted), None)
    if asked not in names:
        raise UserError(f"{source} has no column '{asked}', only {', '.join(names)}.{nearest(asked, names)}")
    return asked


def captions_in(value: Any) -> list[str]:
    """Texts of a cell: itself, those of a list, or the ``raw`` or ``caption`` of each object in a list."""
    if value is None:
        return []
    if isinstance(value, str | int | float):
        return [str(value)]
    if isinstance(value, Mapping):
        return [text for key in CAPTIONS if key in value for text in captions_in(value[key])]
    if isinstance(value, Sequence):
        return [text for one in value for text in captions_in(one)]
    return []


def split_of_file(name: str) -> str | None:
    """train, val or test where one of their words is a part of a file's name, as in captions_val2017.json."""
    words = re.findall(r"[a-z]+", os.path.splitext(name)[0].lower())
    return next((split for split, known in SPLITS.items() if set(words) & set(known)), None)


def _caption_columns(names: list[str], asked: str, source: str) -> list[str]:
    if asked:
        wanted = [name.strip() for name in asked.split(",") if name.strip()]
        for name in wanted:
            if name not in names:
                raise UserError(
                    f"{source} has no column '{name}', only {', '.join(names)}.{nearest(name, names)}"
                )
        return wanted
    named = [name for wanted in CAPTIONS for name in names if name.lower() == wanted][:1]
    named = named or [name for name in names if NUMBERED.match(name.lower())]
    if not named:
        raise UserError(
            f"{source} has the columns {', '.join(names)}: say with --caption-column which "
            "holds the captions."
        )
    return named


def _of_split(rows: list[dict], names: list[str], split: str | None, source: str) -> list[dict]:
    column = next((name for name in names if name.lower() == "split"), None)
    own = split_of_file(os.path.basename(source))
    if column is None:
        order = split_order(split)
        if split is None or (own or "train") in order:
            return rows
        raise NoSplit(f"{source} has no split {split!r}: add a column split, or leave the split out.")
    known = {str(row.get(column) or "").strip() for row in rows}
    for word in split_order(split):
        found = [name for name in known if name.lower() == word.lower()]
        if found:
            return [row for row in rows if str(row.get(column) or "").strip() == found[0]]
    raise NoSplit(
        f"{source} has no split {split!r}, only {', '.join(sorted(known))}.{nearest(str(split), known)}"
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return require("pyarrow.parquet", "image").read_table(path).to_pylist()
        if suffix in (".csv", ".tsv"):
            with open(path, newline="", encoding="utf-8-sig", errors="replace") as lines:
                return list(csv.DictReader(lines, delimiter="\t" if suffix == ".tsv" else ","))
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        if suffix == ".jsonl":
            found: Any = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            found = json.loads(text)
    except (csv.Error, ValueError, OSError, RecursionError) as problem:
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise UserError(f"{path} cannot be read as {suffix[1:]}: {reason}") from None
    if isinstance(found, dict):
        found = _of_coco(found, path)
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise UserError(f"{path} is not a list of objects: give one with image and caption for each row.")
    return found


def _of_coco(found: dict, path: Path) -> list[dict[str, Any]]:
    """Rows of COCO's captions_*.json, or of Karpathy's dataset_*.json."""
    images, annotations = found.get("images"), found.get("annotations")
    if not isinstance(images, list) or not all(isinstance(one, dict) for one in images):
        raise UserError(f"{path} has no list of images: give COCO's captions_*.json, or a list of rows.")
    if not isinstance(annotations, list):
        return images
    names = {one.get("id"): one.get("file_name") for one in images}
    return [
        {"image": names.get(one.get("image_id")), "caption": one.get("caption")}
        for one in annotations
        if isinstance(one, dict)
    ]
