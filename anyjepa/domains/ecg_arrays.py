"""ECGs that lie as one array: in memory, .npy, .npz, and the beats of the UCR time series archive."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anyjepa.core.errors import UserError
from anyjepa.domains.ecg_leads import lead_name
from anyjepa.domains.ecg_records import ArrayRecords
from anyjepa.domains.number_files import open_archive, read_array
from anyjepa.domains.sources import NoSplit, as_labels, only_train, split_order

__all__ = ["EcgArray", "from_values", "is_ucr", "read_npy", "read_npz", "read_ucr", "ucr_files"]

SIGNALS = ("x", "ecg", "ecgs", "signals", "tracings", "data", "samples")
LABELS = ("y", "labels", "label", "target", "targets")
GROUPS = ("groups", "group", "patients", "patient")
RATES = ("rate", "fs", "sampling_rate")
MOST_LEADS = 32


@dataclass(frozen=True)
class EcgArray:
    """What one of the readers below found; labels, classes and groups as in Samples."""

    records: ArrayRecords
    kind: str
    labels: np.ndarray | None = None
    classes: list[str] | None = None
    groups: np.ndarray | None = None


def from_values(
    values: np.ndarray,
    source: str,
    names: Sequence[str] | None = None,
    rate: float | None = None,
    path: str | None = None,
) -> ArrayRecords:
    """Records of an array (n, time) of one lead, (n, leads, time) or (n, time, leads), in millivolts.

    The shorter of the last two axes is the leads. Raises UserError for any other array.
    """
    if values.dtype.kind not in "biuf":
        raise UserError(f"{source} holds values of type {values.dtype}: give numbers.")
    if values.ndim == 2:
        values = values[:, None]
    turned = values.ndim == 3 and values.shape[1] > values.shape[2]
    if turned:
        values = values.swapaxes(1, 2)
    if values.ndim != 3 or 0 in values.shape or values.shape[1] > MOST_LEADS:
        raise UserError(
            f"{source} has shape {values.shape}: give (n, leads, time), (n, time, leads) or (n, time)."
        )
    if names is not None and len(names) != values.shape[1]:
        raise UserError(f"{source} has {values.shape[1]} leads but names {len(names)}: name each lead.")
    return ArrayRecords(values, None if names is None else [lead_name(n) for n in names], rate, path, turned)


def read_npy(path: Path, split: str | None, names: Sequence[str] | None, resident_bytes: int) -> EcgArray:
    """A .npy file; mapped rather than read where it is larger than ``resident_bytes``."""
    only_train(split, str(path))
    try:
        values = read_array(path, mapped=True)
        mapped = path.stat().st_size > resident_bytes
        values = values if mapped else np.array(values)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path} is not a .npy file of numbers: {_sentence(error)}.") from None
    names = names if names and values.ndim == 3 and len(names) == min(values.shape[1:]) else None
    records = from_values(values, str(path), names, path=str(path) if mapped else None)
    return EcgArray(records, "ECGs in a .npy file")


def read_npz(path: Path, split: str | None) -> EcgArray:
    """A .npz file with x, y (classes, numbers, or 0 and 1 for each of several), leads, rate and patient.

    x_train, y_train, x_test ... are splits. All but x may be left out.
    """
    try:
        with open_archive(path) as file:
            found = {key.lower(): key for key in file.files}
            word = _npz_split(list(found), split, str(path))
            values, targets, groups, names, rate = (
                _npz_member(file, found, stems, word)
                for stems in (SIGNALS, LABELS, GROUPS, ("leads",), RATES)
            )
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not a .npz file of numbers: {_sentence(error)}.") from None
    if values is None:
        raise UserError(f"{path} holds {', '.join(found) or 'nothing'}: call the ECGs x and the labels y.")
    rate = None if rate is None else float(np.ravel(rate)[0])
    if rate is not None and not 0 < rate < 1e6:
        raise UserError(f"{path} claims {rate:g} samples a second: give its true rate.")
    records = from_values(
        values, str(path), None if names is None else [str(n) for n in np.ravel(names)], rate
    )
    for name, column in (("labels", targets), ("patients", groups)):
        if column is not None and len(column) != len(records.headers):
            raise UserError(
                f"{path} holds {len(records.headers)} ECGs but {len(column)} {name}: make them one to one."
            )
    labels, classes = _array_labels(targets, str(path))
    return EcgArray(
        records, "ECGs in a .npz file", labels, classes, None if groups is None else groups.astype(str)
    )


def _npz_split(keys: list[str], split: str | None, source: str) -> str | None:
    """The word that tells a split's arrays apart; None where the file is not split."""
    for word in split_order(split):
        if any(f"{stem}_{word.lower()}" in keys for stem in SIGNALS):
            return word.lower()
    only_train(split, source)
    return None


def _npz_member(file, found: dict[str, str], stems: Sequence[str], word: str | None) -> np.ndarray | None:
    ends = [f"_{word}", ""] if word and stems in (("leads",), RATES) else [f"_{word}" if word else ""]
    return next((file[found[stem + end]] for end in ends for stem in stems if stem + end in found), None)


def _array_labels(targets: np.ndarray | None, source: str) -> tuple[np.ndarray | None, list[str] | None]:
    if targets is None:
        return None, None
    if targets.ndim == 2 and targets.shape[1] > 1 and np.isin(targets, (-1, 0, 1)).all():
        return targets.astype(np.int8), [str(index) for index in range(targets.shape[1])]
    if targets.size != len(targets):
        raise UserError(
            f"{source} has labels of shape {targets.shape}: give one a sample, or 0 and 1 a class."
        )
    targets = targets.reshape(-1)
    return as_labels(
        [str(value) for value in (targets.astype(str) if targets.dtype.kind == "S" else targets)]
    )


def is_ucr(name: str) -> bool:
    """Whether a file bears a name of the UCR archive, such as ECG200_TRAIN.tsv."""
    return re.search(r"_(TRAIN|TEST)\.(tsv|txt|csv)$", name) is not None


def ucr_files(folder: Path, split: str | None) -> Path:
    """The file of a split in a folder of the UCR archive. Raises NoSplit."""
    names = sorted(name for name in os.listdir(folder) if is_ucr(name))
    for word in split_order(split):
        for name in names:
            if f"_{word.upper()}." in name:
                return folder / name
    raise NoSplit(f"{folder} has no split {split!r}, only {', '.join(names)}.")


def read_ucr(path: Path) -> EcgArray:
    """A table of one beat a row: the class, then the samples of one lead."""
    try:
        rows = np.genfromtxt(path, delimiter="," if path.suffix == ".csv" else None, dtype=np.float64)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not a table of numbers: {_sentence(error)}.") from None
    if rows.ndim != 2 or rows.shape[1] < 3:
        raise UserError(f"{path} is not a table of a class and samples in each row.")
    labels, classes = as_labels([f"{value:g}" for value in rows[:, 0]])
    return EcgArray(from_values(rows[:, 1:], str(path)), "beats of the UCR archive", labels, classes)


def _sentence(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
