"""Files that grow while they are read: each line is read once, a half-written last line waits for its end."""

from __future__ import annotations

import json
import math
import os
import stat
from array import array
from pathlib import Path
from typing import Any

import numpy as np


def row_of(line: bytes) -> dict[str, Any] | None:
    """The object of one line of JSON; None for anything else, which a reader passes over."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # a bad code point is a ValueError too
        return None
    return row if isinstance(row, dict) else None


def number(value: Any) -> float | None:
    """A finite number as float, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def own_file(path: Path) -> os.stat_result | None:
    """What the system says of a regular file; None where there is none, or a link: it may lead anywhere."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


class Growing:
    """A file of lines that others append to, or replace.

    Args:
        path: of the file, which need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._forget()

    def _forget(self) -> None:
        self.inode, self.offset, self.changed = 0, 0, (0, 0)

    def new(self) -> tuple[bool, list[bytes]]:
        """Whether the file is another than before (all earlier lines are void), and its new whole lines."""
        found = own_file(self.path)
        if found is None:
            gone = self.offset > 0
            self._forget()
            return gone, []
        state = (found.st_size, found.st_mtime_ns)
        other = found.st_ino != self.inode or found.st_size < self.offset
        if not other and state == self.changed:
            return False, []
        began = other and self.inode != 0
        if other:
            self._forget()
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self.inode, self.changed = found.st_ino, state
        self.offset += len(whole)
        return began, whole.splitlines()


class Glance:
    """First and last row of a growing metrics.jsonl, and its warnings; the rows between are not parsed."""

    def __init__(self, path: Path) -> None:
        self.lines = Growing(path)
        self._forget()

    def _forget(self) -> None:
        self.count = 0
        self.first: dict[str, Any] = {}
        self.last: dict[str, Any] = {}
        self.warnings: list[tuple[Any, str]] = []

    def update(self) -> None:
        """Read what is new."""
        restarted, lines = self.lines.new()
        if restarted:
            self._forget()
        self.count += len(lines)
        for line in lines:
            if self.first:
                break
            self.first = row_of(line) or {}
        for line in reversed(lines):
            if row := row_of(line):
                self.last = row
                break
        for line in lines:
            if b'"warning"' in line and (row := row_of(line)) and isinstance(row.get("warning"), str):
                self.warnings.append((row.get("step"), row["warning"]))


class History:
    """Every figure of a growing metrics.jsonl over its rows.

    `steps`, `epochs` and `seconds` (of training, summed up) are of all rows; `columns` holds of each figure
    the rows that have it and its values, NaN where it is no finite number.
    """

    def __init__(self, path: Path) -> None:
        self.lines = Growing(path)
        self._forget()

    def _forget(self) -> None:
        self.steps, self.epochs, self.seconds = array("d"), array("d"), array("d")
        self.columns: dict[str, tuple[array[int], array[float]]] = {}

    def update(self) -> None:
        """Read what is new."""
        restarted, lines = self.lines.new()
        if restarted:
            self._forget()
        for line in lines:
            row = row_of(line)
            step = None if row is None else number(row.get("step"))
            if row is not None and step is not None:
                self._add(step, row)

    def _add(self, step: float, row: dict[str, Any]) -> None:
        before, spent = (self.steps[-1], self.seconds[-1]) if self.steps else (0.0, 0.0)
        index = len(self.steps)
        self.steps.append(step)
        epoch = number(row.get("epoch"))
        self.epochs.append(math.nan if epoch is None else epoch)
        self.seconds.append(spent + (number(row.get("seconds_per_step")) or 0.0) * max(0.0, step - before))
        for name, value in row.items():
            if name in ("step", "epoch") or isinstance(value, bool | str | list | dict):
                continue
            rows, values = self.columns.setdefault(name, (array("q"), array("d")))
            finite = number(value)
            rows.append(index)
            values.append(math.nan if finite is None else finite)

    def series(self, name: str, along: str, batch_size: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """(x, y) of a figure, both (rows,) float64; empty where it was never measured.

        Args:
            name: of the figure.
            along: ``step``, ``epoch``, ``time`` (seconds) or ``samples``.
            batch_size: samples a step.
        """
        rows, values = self.columns.get(name, (array("q"), array("d")))
        over = {"epoch": self.epochs, "time": self.seconds}.get(along, self.steps)
        # copies: an array that numpy looks into cannot grow
        x = np.array(over, dtype=np.float64)[np.array(rows, dtype=np.int64)]
        return (x * batch_size if along == "samples" else x), np.array(values, dtype=np.float64)


def smoothed(y: np.ndarray, rows: int) -> np.ndarray:
    """Mean of the last `rows` finite values up to each place of `y` (n,); NaN where there is none."""
    known = np.isfinite(y)
    sums, counts = np.cumsum(np.where(known, y, 0.0)), np.cumsum(known)
    total, count = sums.copy(), counts.copy()
    total[rows:] -= sums[:-rows]
    count[rows:] -= counts[:-rows]
    return np.divide(total, count, out=np.full(len(y), np.nan), where=count > 0)
