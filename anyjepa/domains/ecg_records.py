"""Stored ECG records: WFDB and EDF files, and arrays, each read piece by piece in millivolts."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol, runtime_checkable

import numpy as np

from anyjepa.core.errors import BadSample, require
from anyjepa.domains.ecg_leads import lead_name, millivolts, unnamed
from anyjepa.domains.number_files import read_array
from anyjepa.domains.packs import Pack

__all__ = ["ArrayRecords", "FileRecords", "Header", "PackRecords", "Recording", "Records", "read_header"]

DAMAGE = (  # what the readers raise on bytes that are not what they say
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    AssertionError,
    EOFError,
    MemoryError,
    struct.error,
)
EDF = frozenset({".edf", ".bdf"})
LONG = 10_000_000  # samples of a lead, above which a header is not taken at its word
DENSEST = 64  # samples of a lead in a byte of a file


@dataclass(frozen=True)
class Header:
    """What is known of a record without reading its signals.

    Args:
        rate: samples a second; None where it is not said.
        points: samples a lead.
        names: of the leads, in standard spelling, in the order of the record.
        diagnoses: codes of the ``Dx:`` comment; None where there is no such comment.
    """

    rate: float | None
    points: int
    names: Sequence[str]
    diagnoses: Sequence[str] | None = None


@dataclass(frozen=True)
class Recording:
    """Signals (channels, time) float64 in millivolts, NaN where missing, and the channels' names."""

    signals: np.ndarray
    names: Sequence[str]


@runtime_checkable
class Records(Protocol):
    """Where records lie. Can be pickled."""

    headers: Sequence[Header]

    def identity(self, index: int) -> str:
        """Unique in the store."""
        ...

    def read(self, index: int, start: int, stop: int) -> Recording:
        """The samples from `start` up to `stop` of one record; raises BadSample."""
        ...

    def size(self, index: int) -> int:
        """Bytes that the record takes where it lies."""
        ...


class ArrayRecords:
    """Records of one length that are one array (n, leads, time), in memory or mapped from a .npy file.

    Args:
        values: (n, leads, time) numbers.
        names: of the leads.
        rate: samples a second; None where unknown.
        path: of the .npy file that `values` are mapped from, which pickled copies map anew.
        turned: the file's own axes are (n, time, leads).
    """

    def __init__(
        self,
        values: np.ndarray,
        names: Sequence[str] | None = None,
        rate: float | None = None,
        path: str | None = None,
        turned: bool = False,
    ) -> None:
        self.values, self.path, self.turned = values, path, turned
        count, leads, points = values.shape
        header = Header(rate, points, list(names or unnamed(leads)))
        self.headers: Sequence[Header] = [header] * count

    def identity(self, index: int) -> str:
        """The row number."""
        return str(index)

    def read(self, index: int, start: int, stop: int) -> Recording:
        """A part of one row."""
        signals = np.asarray(self.values[index, :, start:stop], dtype=np.float64)
        return Recording(signals, self.headers[index].names)

    def size(self, index: int) -> int:
        """Bytes of the row."""
        return self.values[index].nbytes

    def __getstate__(self) -> dict:
        return {**self.__dict__, "values": None if self.path else self.values}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        if self.path:
            values = read_array(self.path, mapped=True)
            values = values[:, None] if values.ndim == 2 else values
            self.values = values.swapaxes(1, 2) if self.turned else values


class PackRecords:
    """Records of a pack: (leads, time) float32 in millivolts, NaN for a lead that was not recorded."""

    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        rate, names = float(pack.manifest["facts"]["rate"]), list(pack.manifest["facts"]["leads"])
        lengths, which = np.unique(pack.shapes[:, 1], return_inverse=True)
        kinds = [Header(rate, int(points), names) for points in lengths]
        self.headers: Sequence[Header] = [kinds[number] for number in which.tolist()]

    def identity(self, index: int) -> str:
        """Of the source that was packed."""
        return self.pack.ids[index]

    def read(self, index: int, start: int, stop: int) -> Recording:
        """A part of one record."""
        values = self.pack.array(index)
        header = self.headers[index]
        if values.shape != (len(header.names), header.points) or values.dtype.kind != "f":
            raise BadSample(self.identity(index), f"has shape {values.shape}, not that of the index")
        return Recording(values[:, start:stop].astype(np.float64), header.names)

    def size(self, index: int) -> int:
        """Bytes of the record in its shard."""
        return int(self.pack.sizes[index])


class FileRecords:
    """WFDB headers and EDF files below one folder, by their relative paths (which use / everywhere).

    Attributes: names: of the records that open. headers: of these. problems: the others.
    """

    def __init__(self, root: str, names: Sequence[str]) -> None:
        self.root = root
        self.names: list[str] = []
        self.headers: Sequence[Header] = []
        self.problems: list[BadSample] = []
        headers, segments = {}, set()
        for name in names:
            try:
                headers[name], parts = self._open(name)
                segments |= {str(PurePosixPath(name).with_name(f"{part}.hea")) for part in parts}
            except BadSample as problem:
                self.problems.append(problem)
        # the segments of a record are files like records, but are read as parts of it
        self.names = [name for name in headers if name not in segments]
        self.headers = [headers[name] for name in self.names]
        self.problems = [problem for problem in self.problems if f"{problem.identity}.hea" not in segments]

    def _open(self, name: str) -> tuple[Header, Sequence[str]]:
        path, identity = os.path.join(self.root, name), _identity(name)
        try:
            header, parts = (_edf_header(path), []) if _is_edf(name) else read_header(path)
        except DAMAGE as error:
            raise BadSample(identity, _sentence(error)) from None
        if not header.names:
            raise BadSample(identity, "holds no channel that is a voltage")
        if header.rate is None or not 0 < header.rate < 1e6:
            raise BadSample(identity, f"claims {header.rate} samples a second")
        if header.points < 1:
            raise BadSample(identity, "is empty")
        if header.points > LONG and header.points > DENSEST * _stored(path):
            raise BadSample(identity, f"claims {header.points} samples, more than its files hold")
        return header, parts

    def identity(self, index: int) -> str:
        """The relative path without the extension."""
        return _identity(self.names[index])

    def read(self, index: int, start: int, stop: int) -> Recording:
        """A part of one record; only that part of the file is read."""
        name = self.names[index]
        path = os.path.join(self.root, name)
        try:
            return (_read_edf if _is_edf(name) else _read_wfdb)(path, start, stop)
        except DAMAGE as error:
            raise BadSample(_identity(name), _sentence(error)) from None

    def size(self, index: int) -> int:
        """Bytes of the header or the EDF file."""
        return os.stat(os.path.join(self.root, self.names[index])).st_size


def _stored(path: str) -> int:
    """Bytes of a record's files, which bear its name."""
    folder, name = os.path.split(path)
    stem = os.path.splitext(name)[0]
    with os.scandir(folder or ".") as entries:
        return sum(entry.stat().st_size for entry in entries if entry.name.startswith(stem))


def _identity(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _is_edf(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in EDF


def _sentence(error: BaseException) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return f"{lines[0].rstrip('.')} ({type(error).__name__})"


def read_header(path: str) -> tuple[Header, Sequence[str]]:
    """A WFDB header, and the names of its segments where it has some.

    Written for speed: a set may have a million records, and wfdb's own parser takes some 20 ms for each.
    Raises ValueError and the like for one that is damaged.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file]
    content = [line for line in lines if line and not line.startswith("#")]
    if not content:
        raise ValueError("the header is empty")
    fields = content[0].split()
    count = int(fields[1])
    rate = float(re.split(r"[/(]", fields[2])[0]) if len(fields) > 2 else 250.0  # the format's default
    diagnoses = _diagnoses(lines)
    if "/" in fields[0]:
        segments = [line.split() for line in content[1 : 1 + int(fields[0].split("/")[1])]]
        parts = [name for name, *_ in segments if name != "~"]
        names = read_header(os.path.join(os.path.dirname(path), f"{parts[0]}.hea"))[0].names
        points = int(fields[3]) if len(fields) > 3 else sum(int(length) for _, length, *_ in segments)
        return Header(rate, points, names, diagnoses), parts
    channels = [_channel(line, number) for number, line in enumerate(content[1 : 1 + count])]
    if len(channels) < count:
        raise ValueError(f"the header describes {len(channels)} of {count} channels")
    names = [name for name, unit in channels if millivolts(unit) is not None]
    points = int(fields[3]) if len(fields) > 3 else _wfdb_points(path)
    return Header(rate, points, names, diagnoses), []


def _channel(line: str, number: int) -> tuple[str, str]:
    """Name and unit of a signal line: file, format, gain(baseline)/unit, five numbers, name."""
    fields = line.split(maxsplit=8)
    gain = fields[2] if len(fields) > 2 else ""
    unit = gain.partition("/")[2] or "mV"
    return lead_name(fields[8]) if len(fields) > 8 else f"lead {number + 1}", unit


def _wfdb_points(path: str) -> int:
    return int(require("wfdb", "ecg").rdrecord(os.path.splitext(path)[0]).sig_len)


def _diagnoses(lines: Sequence[str]) -> list[str] | None:
    """Codes of a comment such as ``#Dx: 426783006,164889003`` (PhysioNet / CinC Challenges 2020 and 2021)."""
    for line in lines:
        found = re.fullmatch(r"#\s*Dx\s*:\s*(.*)", line, re.IGNORECASE)
        if found:
            codes = [code.strip() for code in found[1].split(",")]
            return [code for code in codes if code and code.lower() != "unknown"]
    return None


def _read_wfdb(path: str, start: int, stop: int) -> Recording:
    record = require("wfdb", "ecg").rdrecord(os.path.splitext(path)[0], sampfrom=start, sampto=stop)
    signals, names = [], []
    for number, row in enumerate(record.p_signal.T):
        factor = millivolts(record.units[number] if record.units else None)
        if factor is not None:
            signals.append(row * factor)
            given = record.sig_name[number] if record.sig_name else None
            names.append(lead_name(given) if given else f"lead {number + 1}")
    return Recording(np.stack(signals), names)


def _edf(path: str):
    mne = require("mne", "ecg")
    open_as = mne.io.read_raw_bdf if path.lower().endswith(".bdf") else mne.io.read_raw_edf
    raw = open_as(path, preload=False, verbose="error")
    # mne gives volts where the file names a unit that it knows, and else the file's own numbers
    units = {name: raw._orig_units.get(name, "n/a") for name in raw.ch_names}
    factors = {
        name: 1e3 if (unit or "").lower().endswith("v") else millivolts(unit) for name, unit in units.items()
    }
    return raw, {name: factor for name, factor in factors.items() if factor is not None}


def _edf_header(path: str) -> Header:
    raw, factors = _edf(path)
    return Header(float(raw.info["sfreq"]), int(raw.n_times), [lead_name(name) for name in factors])


def _read_edf(path: str, start: int, stop: int) -> Recording:
    raw, factors = _edf(path)
    signals = raw.get_data(picks=list(factors), start=start, stop=stop, verbose="error")
    return Recording(
        signals * np.array(list(factors.values()))[:, None], [lead_name(name) for name in factors]
    )
