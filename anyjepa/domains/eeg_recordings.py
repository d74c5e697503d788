"""Stored EEG recordings: files that MNE reads and arrays, each read piece by piece in volts."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from anyjepa.core.errors import BadSample, UserError, require
from anyjepa.domains.eeg_montage import electrode_name, is_brain
from anyjepa.domains.number_files import read_array

__all__ = [
    "ENDINGS",
    "FACTORS",
    "ArrayRecordings",
    "FileRecordings",
    "Header",
    "Mark",
    "Recordings",
    "is_recording",
]

READERS = {
    ".edf": "read_raw_edf", ".bdf": "read_raw_bdf", ".gdf": "read_raw_gdf", ".vhdr": "read_raw_brainvision",
    ".set": "read_raw_eeglab", ".fif": "read_raw_fif", ".fif.gz": "read_raw_fif",
}  # fmt: skip
ENDINGS = frozenset(READERS)
FACTORS = {"V": 1.0, "mV": 1e-3, "uV": 1e-6, "nV": 1e-9}
DAMAGE = (  # what the readers raise on bytes that are not what they say
    OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError,
    AssertionError, EOFError, MemoryError, NotImplementedError, struct.error, zlib.error,
)  # fmt: skip
DENSEST = 64  # values in a byte of a file, above which a header is not taken at its word
LONG = 10_000_000  # values, below which it is


@dataclass(frozen=True)
class Mark:
    """Something that happened during a recording: seconds from its first sample, how long, and what."""

    onset: float
    seconds: float
    what: str


@dataclass(frozen=True)
class Header:
    """What is known of a recording without reading its signals.

    Args:
        rate: samples a second; None where it is not said.
        points: samples a channel.
        names: of the channels that record a brain.
        picks: their places among all channels.
        given: (channels, 3) metres as the file says, NaN where it does not.
        marks: annotations or events.
    """

    rate: float | None
    points: int
    names: Sequence[str]
    picks: Sequence[int]
    given: np.ndarray
    marks: Sequence[Mark] = ()


@runtime_checkable
class Recordings(Protocol):
    """Where recordings lie. Can be pickled."""

    headers: Sequence[Header]

    def identity(self, index: int) -> str:
        """Unique in the store."""
        ...

    def read(self, index: int, start: int, stop: int) -> np.ndarray:
        """(channels, samples) float64 volts from `start` up to `stop`; raises BadSample."""
        ...

    def size(self, index: int) -> int:
        """Bytes that the recording takes where it lies."""
        ...


class ArrayRecordings:
    """Recordings of one length that are one array (n, channels, time), in memory or mapped from a .npy file.

    Args:
        values: (n, channels, time) numbers.
        names: of the channels.
        rate: samples a second; None where unknown.
        factor: from the numbers to volts.
        given: (channels, 3) metres of electrodes, NaN where unknown.
        path: of the .npy file that `values` are mapped from, which pickled copies map anew.
    """

    def __init__(
        self,
        values: np.ndarray,
        names: Sequence[str],
        rate: float | None = None,
        factor: float = 1.0,
        given: np.ndarray | None = None,
        path: str | None = None,
    ) -> None:
        self.values, self.path, self.factor = values, path, factor
        picks = [number for number, name in enumerate(names) if is_brain(name)]
        places = np.full((len(names), 3), np.nan) if given is None else np.asarray(given, np.float64)
        chosen = [electrode_name(names[pick]) for pick in picks]
        header = Header(rate, values.shape[2], chosen, picks, places[picks])
        self.headers: Sequence[Header] = [header] * len(values)

    def identity(self, index: int) -> str:
        """The row number."""
        return str(index)

    def read(self, index: int, start: int, stop: int) -> np.ndarray:
        """A part of one row."""
        values = np.asarray(self.values[index, :, start:stop], dtype=np.float64)
        return values[list(self.headers[index].picks)] * self.factor

    def size(self, index: int) -> int:
        """Bytes of the row."""
        return self.values[index].nbytes

    def __getstate__(self) -> dict:
        return {**self.__dict__, "values": None if self.path else self.values}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        if self.path:
            self.values = read_array(self.path, mapped=True)


class FileRecordings:
    """EDF, BDF, GDF, BrainVision, EEGLAB and FIF files below one folder, by relative paths (with /).

    Args:
        root: the folder.
        names: of the files.
        factor: from what the files call volts to volts; 1 where they are right.

    Attributes: names: of the recordings that open. headers: of these. problems: the others.
    """

    def __init__(self, root: str, names: Sequence[str], factor: float = 1.0) -> None:
        self.root, self.factor = root, factor
        self.names: list[str] = []
        self.headers: Sequence[Header] = []
        self.problems: list[BadSample] = []
        self._open: tuple[int, Any] | None = None
        self._identities: list[str] = []
        headers = []
        for name in names:
            try:
                headers.append(self._header(name))
            except BadSample as problem:
                self.problems.append(problem)
                continue
            self.names.append(name)
            # the same recording in two formats has two names
            self._identities.append(name if stem(name) in self._identities else stem(name))
        self.headers = headers

    def _header(self, name: str) -> Header:
        path, identity = os.path.join(self.root, name), stem(name)
        with _damage_named(identity):
            raw = opened(path)
            rate, points = float(raw.info["sfreq"]), int(raw.n_times)
            kinds = raw.get_channel_types()
            picks = [
                number for number, (channel, kind) in enumerate(zip(raw.ch_names, kinds, strict=True))
                if kind == "eeg" and is_brain(channel) and channel not in raw.info["bads"]
            ]  # fmt: skip
            # the first three of twelve numbers; the next three are the reference's place
            given = np.array([channel["loc"][:3] for channel in raw.info["chs"]], np.float64)[picks]
            marks = _marks(raw, path)
        if not 0 < rate < 1e6:
            raise BadSample(identity, f"claims {rate:g} samples a second")
        if points < 1:
            raise BadSample(identity, "is empty")
        if not picks:
            raise BadSample(identity, "holds no EEG channel")
        if points * len(kinds) > max(LONG, DENSEST * _stored(path)):
            raise BadSample(identity, f"claims {points} samples, more than its files hold")
        names = [electrode_name(raw.ch_names[pick]) for pick in picks]
        return Header(rate, points, names, picks, given.reshape(-1, 3), marks)

    def identity(self, index: int) -> str:
        """The relative path without the ending, with it where another file is called so."""
        return self._identities[index]

    def read(self, index: int, start: int, stop: int) -> np.ndarray:
        """A part of one recording."""
        with _damage_named(self.identity(index)):
            # the last one stays open: windows are often read in their order
            if self._open is None or self._open[0] != index:
                self._open = (index, opened(os.path.join(self.root, self.names[index])))
            raw = self._open[1]
            picks = list(self.headers[index].picks)
            values = np.asarray(raw.get_data(picks=picks, start=start, stop=stop, verbose="error"))
        if values.shape != (len(picks), stop - start):
            raise BadSample(self.identity(index), "is shorter than its header says")
        return values.astype(np.float64) * self.factor

    def size(self, index: int) -> int:
        """Bytes of the file that is named."""
        return os.stat(os.path.join(self.root, self.names[index])).st_size

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_open": None}


def ending(name: str) -> str:
    """``.fif.gz``, or the last ending in small letters."""
    lower = name.lower()
    return ".fif.gz" if lower.endswith(".fif.gz") else os.path.splitext(lower)[1]


def stem(name: str) -> str:
    """A relative path without its ending, and without what MNE's naming adds to it."""
    bare = name[: len(name) - len(ending(name))]
    for added in ("_raw", "-raw"):
        bare = bare.removesuffix(added)
    return bare


def is_recording(name: str) -> bool:
    """Whether a file is a recording by its name, and not a table of events or epochs of MNE's."""
    bare = name[: len(name) - len(ending(name))].lower()
    aside = ("eve", "epo", "cov", "fwd", "inv", "ave", "trans", "ica", "proj", "src")
    return ending(name) in ENDINGS and not bare.endswith(
        tuple(f"{mark}{word}" for mark in "-_" for word in aside)
    )


def opened(path: str) -> Any:
    """MNE's view of a file, its signals not read."""
    mne = require("mne", "eeg")
    kind = ending(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no file {os.path.basename(path)}")
    options: dict[str, Any] = {"allow_maxshield": False} if kind.startswith(".fif") else {}
    # scipy's own error is no ValueError
    unread = require("scipy.io.matlab", "eeg").MatReadError
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return getattr(mne.io, READERS[kind])(path, preload=False, verbose="error", **options)
        except unread as problem:
            raise ValueError(str(problem)) from problem


def _marks(raw: Any, path: str) -> list[Mark]:
    """Annotations; else events in a file beside a FIF, or on its trigger channel."""
    mne = require("mne", "eeg")
    # onsets count from the time of day where it is known, and then from the first sample kept
    early = raw.first_time if raw.annotations.orig_time is not None else 0.0
    found = [
        Mark(float(one["onset"]) - early, float(one["duration"]), str(one["description"]))
        for one in raw.annotations
    ]
    if found or not ending(path).startswith(".fif"):
        return found
    bare = stem(path)
    beside = next(
        (Path(bare + added) for added in ("-eve.fif", "_eve.fif") if os.path.isfile(bare + added)), None
    )
    if beside is not None:
        events = mne.read_events(beside, verbose="error")
    elif "stim" in raw.get_channel_types():
        events = mne.find_events(raw, verbose="error", shortest_event=1)
    else:
        return []
    rate = raw.info["sfreq"]
    return [Mark(float(at - raw.first_samp) / rate, 0.0, str(code)) for at, _, code in events]


def _stored(path: str) -> int:
    """Bytes of a recording's files, which bear its name."""
    folder, name = os.path.split(path)
    bare = name.split(".")[0]
    with os.scandir(folder or ".") as entries:
        return sum(entry.stat().st_size for entry in entries if entry.name.startswith(bare))


@contextmanager
def _damage_named(identity: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (BadSample, UserError):
        raise
    except DAMAGE as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise BadSample(identity, f"{lines[0].rstrip('.')} ({type(error).__name__})") from None
