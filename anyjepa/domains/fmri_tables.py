"""Series of regions that lie in tables: AFNI's .1D, CSV and TSV, .npy and MATLAB's .mat."""

from __future__ import annotations

import csv
import gzip
import os
import re
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, require
from anyjepa.domains.number_files import read_array

__all__ = ["DAMAGE", "TABLES", "Table", "ending", "read_table", "table_shape"]

TEXT = frozenset({".1d", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt"})
TABLES = TEXT | {".npy", ".mat"}
SERIES = re.compile(r"tc|ts|bold|series|signal|roi|data|^x$", re.IGNORECASE)  # names of series in .mat files
DAMAGE = (  # what the readers raise on bytes that are not what they say
    OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError,
    AssertionError, EOFError, MemoryError, NotImplementedError, SyntaxError, struct.error, zlib.error,
    csv.Error,
)  # fmt: skip
LARGEST = 2**31  # bytes that a table of text may become
INFLATED = 1100  # times that a compressed file of MATLAB can grow


@dataclass(frozen=True)
class Table:
    """Numbers of a file.

    Args:
        values: (rows, columns) float64.
        names: of the regions, where the file says them.
        regions_first: whether a row is a region; None where the file does not say.
    """

    values: np.ndarray
    names: list[str] | None = None
    regions_first: bool | None = None


def ending(name: str) -> str:
    """Of a file's name, in small letters, with what comes before ``.gz``."""
    name = name.lower()
    zipped = ".gz" if name.endswith(".gz") else ""
    return os.path.splitext(name.removesuffix(".gz"))[1] + zipped


def table_shape(path: str, identity: str) -> tuple[int, int] | None:
    """Rows and columns where the file says them without being read whole, else None. Raises BadSample."""
    kind = ending(path)
    try:
        if kind == ".npy":
            shape = read_array(path, mapped=True).shape
            return (shape[0], shape[1]) if len(shape) == 2 else None
        if kind == ".mat":
            _, shape = _variable(path)
            return shape
    except DAMAGE as error:
        raise BadSample(identity, _sentence(error)) from None
    return None


def read_table(path: str, identity: str) -> Table:
    """The table of a file. Raises BadSample where it is damaged or holds none."""
    kind = ending(path)
    try:
        if kind == ".npy":
            return _plain(read_array(path), identity)
        if kind == ".mat":
            name, _ = _variable(path)
            loaded = _matlab("loadmat", path, variable_names=[name], chars_as_strings=False)
            return _plain(loaded[name], identity)
        return _text(path, kind, identity)
    except DAMAGE as error:
        raise BadSample(identity, _sentence(error)) from None


def _sentence(error: BaseException) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return f"is damaged ({line})" if line else "is damaged"


def _plain(values: np.ndarray, identity: str) -> Table:
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "biuf":
        shape = getattr(values, "shape", ())
        raise BadSample(identity, f"holds no table of numbers (shape {shape})")
    return Table(np.asarray(values, np.float64))


def _matlab(function: str, path: str, **options: Any) -> Any:
    """What a function of scipy makes of a .mat file; its own kind of error, which is none of these, too."""
    try:
        return getattr(require("scipy.io", "fmri"), function)(path, **options)
    except require("scipy.io.matlab", "fmri").MatReadError as error:
        raise ValueError(str(error)) from None


def _variable(path: str) -> tuple[str, tuple[int, int]]:
    """The variable of a .mat file that is a table: named like series, or the largest. Raises ValueError."""
    with open(path, "rb") as file:
        begin, size = file.read(128), os.fstat(file.fileno()).st_size
    if b"MATLAB 7.3" in begin[:20] or begin[:8] == b"\x89HDF\r\n\x1a\n":
        raise ValueError("a MATLAB 7.3 file: save it with -v7")
    found = _matlab("whosmat", path)
    tables = {
        name: (int(shape[0]), int(shape[1]))
        for name, shape, kind in found
        if len(shape) == 2 and min(shape) > 1 and kind in ("double", "single", *_WHOLE)
    }
    if not tables:
        raise ValueError("it holds no table of numbers")
    named = {name: shape for name, shape in tables.items() if SERIES.search(name)} or tables
    name = max(named, key=lambda name: (named[name][0] * named[name][1], name))
    if named[name][0] * named[name][1] > INFLATED * size:
        raise ValueError(f"{name} claims shape {named[name]}, more than the file can hold")
    return name, named[name]


_WHOLE = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))


def _text(path: str, kind: str, identity: str) -> Table:
    opened = gzip.open if kind.endswith(".gz") else open
    # what is asked for is set aside at once: no more than the file can hold
    most = min(LARGEST, os.path.getsize(path) * (INFLATED if kind.endswith(".gz") else 1))
    with opened(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > LARGEST:
        raise BadSample(identity, "is larger than 2 GB of text: store it as .npy")
    lines = content.decode("utf-8-sig").splitlines()
    comment = next((line for line in lines if line.startswith("#")), None)
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    if len(lines) < 2:
        raise BadSample(identity, "is empty")
    mark = "," if kind.startswith(".csv") else "\t" if "\t" in lines[0] else None
    rows = [_cells(line, mark) for line in (lines[0], lines[1])]
    heading = None if all(map(_number, rows[0])) else rows[0]
    first = 1 if heading else 0
    labelled = not _number(rows[1][0]) if len(rows[1]) > 1 else False
    width = len(rows[1])
    if heading is not None and labelled and not _counted(rows[0][1:]) and all(map(_number, rows[0][1:])):
        heading, first = None, 0  # the first region's own row
    names = [_cells(line, mark)[0].strip() for line in lines[first:]] if labelled else None
    used = range(1 if labelled else 0, width)
    values = np.loadtxt(
        lines[first:], delimiter=mark, usecols=used, ndmin=2, comments=None, converters=_value, encoding=None
    )
    if labelled:
        return Table(values, names, True)
    if heading is not None and len(heading) == width:
        return Table(values, [name.strip() for name in heading], False)
    if comment is not None and kind == ".1d":
        words = comment.lstrip("# ").split("\t") if "\t" in comment else comment.lstrip("# ").split()
        return Table(values, [word.lstrip("#") for word in words] if len(words) == width else None, False)
    return Table(values, None, False if kind == ".1d" else None)


def _cells(line: str, mark: str | None) -> list[str]:
    return line.split() if mark is None else next(csv.reader([line], delimiter=mark))


def _value(text: str) -> float:
    text = text.strip().strip('"')
    return float(text) if text else np.nan


def _counted(cells: list[str]) -> bool:
    """Whether these are the numbers of the points in time."""
    return cells in ([str(place + first) for place in range(len(cells))] for first in (0, 1))


def _number(text: str) -> bool:
    try:
        _value(text)
    except ValueError:
        return False
    return True
