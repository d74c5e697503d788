"""What every kind of data needs to read a source: paths, listings, splits, classes and label files."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anyjepa.core.errors import UserError, nearest

__all__ = [
    "NoSplit",
    "as_labels",
    "as_many_labels",
    "choose",
    "existing",
    "index_classes",
    "is_split",
    "list_files",
    "list_folders",
    "list_names",
    "named_arrays",
    "named_split",
    "natural_split",
    "only_train",
    "split_order",
]

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


class NoSplit(UserError):
    """The source holds no split of the name that was asked for."""


def existing(path: str) -> Path:
    """The path, if there is something there. Raises UserError naming the nearest sibling if not."""
    found = Path(path).expanduser()
    try:
        if os.stat(found):
            return found
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        raise UserError(f"{path} does not exist: a part of the path is a file, not a folder") from None
    except PermissionError:
        raise UserError(f"{path} may not be read: give yourself permission to its folder (chmod)") from None
    siblings = os.listdir(found.parent) if os.path.isdir(found.parent) else []
    raise UserError(f"{path} does not exist: give a path that does.{nearest(found.name, siblings)}")


def list_files(root: str | os.PathLike[str], suffixes: frozenset[str]) -> list[str]:
    """Relative paths (with /) of all files below ``root`` that end in one of ``suffixes``, in sorted order.

    One pass that opens no file. Names that begin with a dot and ``__MACOSX`` are passed over; linked
    folders are followed once. Raises UserError for a folder without permission.
    """
    names: list[str] = []
    seen: set[str] = set()
    pending = [""]
    while pending:
        prefix = pending.pop()
        listing = _listing(os.path.join(root, prefix) if prefix else os.fspath(root))
        for name, link in listing.folders:
            if not link or _first_visit(link, seen):
                pending.append(f"{prefix}{name}/")
        names += [prefix + name for name in listing.files if os.path.splitext(name)[1].lower() in suffixes]
    _LAST.clear()
    names.sort()
    return names


def list_folders(root: str | os.PathLike[str]) -> list[str]:
    """Names of the folders right below ``root``, sorted, without hidden ones."""
    return sorted(name for name, _ in _listing(os.fspath(root)).folders)


def list_names(root: str | os.PathLike[str]) -> list[str]:
    """Names of the files right below ``root``, sorted, without hidden ones."""
    return sorted(_listing(os.fspath(root)).files)


@dataclass(frozen=True)
class _Listing:
    """What lies right below a folder: folders with their path where they are links, and files."""

    state: tuple[str, int]
    listed: float
    folders: list[tuple[str, str]]
    files: list[str]


# The folder that was listed last: which splits and which files it has are two questions, and a folder of a
# million files must not be listed for each.
_LAST: list[_Listing] = []
SETTLED = 2.0  # seconds after which a change cannot bear the same time as one that was seen


def _listing(folder: str) -> _Listing:
    try:
        state = (folder, os.stat(folder).st_mtime_ns)
        if _LAST and _LAST[0].state == state and _LAST[0].listed - state[1] / 1e9 > SETTLED:
            return _LAST[0]
        with os.scandir(folder) as entries:
            folders, files = [], []
            for entry in entries:
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                if entry.is_dir():
                    folders.append((entry.name, entry.path if entry.is_symlink() else ""))
                else:
                    files.append(entry.name)
    except PermissionError:
        raise UserError(f"{folder} may not be read: give yourself permission to it (chmod u+rx)") from None
    _LAST[:] = [_Listing(state, time.time(), folders, files)]
    return _LAST[0]


def _first_visit(path: str, seen: set[str]) -> bool:
    """Whether a linked folder leads somewhere new, so that a ring of links ends."""
    target = os.path.realpath(path)
    if target in seen or os.path.realpath(os.path.dirname(path)).startswith(target):
        return False
    seen.add(target)
    return True


def split_order(split: str | None) -> list[str]:
    """Names under which a split may be stored, best first: ``test`` falls back to ``val``, None is train."""
    if split is None:
        return [*SPLITS["train"], *SPLITS["val"], *SPLITS["test"]]
    for name, words in SPLITS.items():
        if split.lower() in words:
            other = {"train": (), "val": SPLITS["test"], "test": SPLITS["val"]}[name]
            return [split, *words, *other]
    return [split]


def is_split(name: str) -> bool:
    """Whether a name is just the name of a split."""
    return any(name.lower() in words for words in SPLITS.values())


def natural_split(folders: Sequence[str], split: str | None) -> str | None:
    """The folder that holds ``split``, or None where the folders are not splits and none was asked for.

    Folders count as splits where at least two bear the name of one, or all do: a class may be called train.
    Raises NoSplit.
    """
    named = [folder for folder in folders if is_split(folder)]
    if len(named) < 2 and (not named or len(named) != len(folders)):
        if split is None or split.lower() in SPLITS["train"]:
            return None
        raise NoSplit(f"there is no split {split!r} here: add a folder of that name, or leave the split out")
    by_name = {folder.lower(): folder for folder in folders} | {folder: folder for folder in folders}
    for word in split_order(split):
        if word in by_name:
            return by_name[word]
    raise NoSplit(f"there is no split {split!r} here, only {', '.join(named)}.{nearest(str(split), named)}")


def index_classes(values: Sequence[str | None]) -> tuple[np.ndarray, list[str]]:
    """(n,) int64 class index of each value (None: -1) and the classes, in the order of numbers if all are."""
    distinct = {value for value in values if value is not None}
    numeric = all(value.removeprefix("-").isdecimal() for value in distinct)
    classes = sorted(distinct, key=(lambda value: (int(value), value)) if numeric else None)
    index = {value: position for position, value in enumerate(classes)}
    return np.array([-1 if value is None else index[value] for value in values], np.int64), classes


def named_split(name: str) -> str | None:
    """``train``, ``val`` or ``test`` where a name begins with one of their words, as in ``test-0001.tar``."""
    for split, words in SPLITS.items():
        if re.match(rf"({'|'.join(words)})(?![a-z])", name.lower()):
            return split
    return None


def as_labels(values: Sequence[str | None]) -> tuple[np.ndarray, list[str] | None]:
    """Labels from text: whole numbers and words are classes, other numbers are float32 targets.

    Empty text, None and ``nan`` are unknown; so is -1 where there are other numbers than -1 and 1. Returns
    (n,) int64 class indices (-1 unknown) and the classes, or (n,) float32 (NaN unknown) and None.
    """
    known = [
        None if value is None or value.strip().lower() in ("", "nan") else value.strip() for value in values
    ]
    try:
        numbers = [None if value is None else float(value) for value in known]
    except ValueError:
        return index_classes(known)
    present = [number for number in numbers if number is not None]
    if not all(math.isfinite(number) and number == int(number) for number in present):
        return np.array([math.nan if number is None else number for number in numbers], np.float32), None
    signs = set(present) <= {-1.0, 1.0}
    return index_classes(
        [None if number is None or (number == -1 and not signs) else str(int(number)) for number in numbers]
    )


def as_many_labels(values: Sequence[Sequence[str] | None]) -> tuple[np.ndarray, list[str]]:
    """Several labels a sample, in words: (n, classes) int8 and the classes, ordered as by `index_classes`.

    1 for each class that a sample names, 0 for the others; a sample that is None is -1 throughout (unknown).
    """
    _, classes = index_classes([name for names in values for name in names or ()])
    index = {name: position for position, name in enumerate(classes)}
    table = np.zeros((len(values), len(classes)), np.int8)
    for row, names in enumerate(values):
        if names is None:
            table[row] = -1
        else:
            table[row, [index[name] for name in names]] = 1
    return table, classes


def only_train(split: str | None, source: str) -> None:
    """Raise NoSplit where a part other than training is asked of a source that has no parts."""
    if split is not None and split_order(split)[0].lower() not in split_order("train"):
        raise NoSplit(f"{source} has no split {split!r}: leave the split out, or give a source that has one.")


def named_arrays(
    keys: Sequence[str],
    stems: Sequence[str],
    labels: Sequence[str],
    split: str | None,
    source: str,
    what: str,
) -> tuple[str, str | None]:
    """Which array of a file holds the samples and which their labels, told by their names.

    ``x_train`` and ``train_x`` are of a split; else the first name of `stems` counts, or the only array.

    Args:
        keys: names of the file's arrays, in any case.
        stems, labels: names that samples and labels have.
        split: that is asked for.
        source: for messages.
        what: samples are called there.

    Raises:
        NoSplit: the file has no such part. UserError: no name is known.
    """
    lower = {key.lower(): key for key in keys}
    for word in split_order(split):
        for stem in stems:
            for pattern in ("{0}_{1}", "{1}_{0}"):
                found = pattern.format(stem, word.lower())
                if found in lower:
                    beside = (pattern.format(label, word.lower()) for label in labels)
                    return lower[found], next((lower[key] for key in beside if key in lower), None)
    only_train(split, source)
    chosen = next((lower[key] for key in stems if key in lower), keys[0] if len(keys) == 1 else None)
    if chosen is None:
        held = ", ".join(keys) or "nothing"
        raise UserError(f"{source} holds {held}: call the {what} x and the labels y.")
    return chosen, next((lower[key] for key in labels if key in lower), None)


def choose(count: int, samples: int, seed: int) -> np.ndarray:
    """Which of `count` samples to look at: `samples` of them drawn with the seed, in order; 0 for all."""
    if not samples or count <= samples:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, samples, replace=False))
