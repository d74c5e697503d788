"""The windows of one source: filtered, at one rate, in volts, each electrode with its place on the head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, UserError, require
from anyjepa.domains.eeg_montage import placed
from anyjepa.domains.eeg_recordings import ArrayRecordings, Header, Recordings
from anyjepa.domains.fingerprints import digest_of

__all__ = ["PLACE", "EegSamples", "Reading", "Window", "prepared"]

PLACE = 3  # columns of a sample in front of the signal: x, y and z of the electrode in metres
RESIDENT_BYTES = 512 * 2**20
MARGIN = 4.0  # seconds read on either side of a window, for what the filter needs to settle
LEAST_SWING = 1e-12  # volts between the lowest and highest value of a channel that is not flat
ORDER = 4  # of the Butterworth filter, which runs forwards and backwards

Window = tuple[int, int, int]
"""A recording's number, and the first and the last sample but one of a part of it, at its own rate."""


@dataclass(frozen=True)
class Reading:
    """How recordings are read.

    rate: samples a second. band: Hz that are let through, 0 for no limit at that end. seconds: of a window.
    stride: seconds from one window to the next, 0 for a window's length. delay: seconds from an event to its
    window. channels: names to use, None for all. montage: of MNE, for electrodes whose place the file does
    not know. reference: "as-recorded", or "average" of all channels. unit: that files' volts really are in;
    group: "subject" or "recording", what must not be on both sides of a split. patch, step: samples of a
    token and from one to the next, and film: how a recipe cuts windows into frames and tubelets, for
    drawing.
    """

    rate: float = 128.0
    band: tuple[float, float] = (0.5, 40.0)
    seconds: float = 4.0
    stride: float = 0.0
    delay: float = 0.0
    channels: Sequence[str] | None = None
    montage: str = "standard_1005"
    reference: str = "as-recorded"
    unit: str = "V"
    group: str = "subject"
    patch: int = 0
    step: int = 0
    film: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Reading:
        """From what a recipe asks, where facts of other names may lie among it."""
        known = {name: asked[name] for name in cls.__dataclass_fields__ if asked.get(name) is not None}
        if "band" in known:
            known["band"] = tuple(known["band"])
        return cls(**known)

    @property
    def points(self) -> int:
        """Samples of a window."""
        return round(self.seconds * self.rate)


def prepared(signals: np.ndarray, stored: float, reading: Reading) -> np.ndarray:
    """(channels, time) float32 volts: filtered without delay, resampled without aliasing, re-referenced.

    What is missing (NaN) at single samples is interpolated; a channel that lacks more than a tenth is NaN.
    """
    values = signals.copy()
    lost = ~np.isfinite(values)
    for row in np.flatnonzero(lost.any(axis=1)):
        missing, places = lost[row], np.arange(values.shape[1])
        if missing.mean() > 0.1:
            values[row] = 0.0
        else:
            values[row, missing] = np.interp(places[missing], places[~missing], values[row, ~missing])
    broken = lost.mean(axis=1) > 0.1
    if reading.reference == "average" and (~broken).any():
        values -= values[~broken].mean(axis=0)
    values = _resampled(_filtered(values, stored, reading.band), stored, reading.rate)
    values[broken] = np.nan
    return values.astype(np.float32)


def _filtered(values: np.ndarray, rate: float, band: tuple[float, float]) -> np.ndarray:
    low, high = band
    edges = [edge for edge in (low, high) if 0 < edge < 0.49 * rate]
    # shorter than a few of the filter's own lengths, there is nothing to be filtered
    if not edges or values.shape[1] < 8 * ORDER:
        return values - values.mean(axis=1, keepdims=True) * (low > 0)
    signal = require("scipy.signal", "eeg")
    kind = "band" if len(edges) == 2 else "high" if edges == [low] else "low"
    sections = signal.butter(ORDER, edges if len(edges) == 2 else edges[0], kind, fs=rate, output="sos")
    # an offset of volts would ring long after the edge
    level = values - values[:, :1] if kind == "low" else values - values.mean(axis=1, keepdims=True)
    offset = values[:, :1] if kind == "low" else 0.0
    pad = min(values.shape[1] - 1, round(MARGIN * rate))
    return signal.sosfiltfilt(sections, level, axis=1, padlen=pad) + offset


def _ratio(stored: float, wanted: float) -> Fraction:
    return Fraction(wanted / stored).limit_denominator(2000)


def _resampled(values: np.ndarray, stored: float, wanted: float) -> np.ndarray:
    ratio = _ratio(stored, wanted)
    if ratio == 1:
        return values
    resample = require("scipy.signal", "eeg").resample_poly
    return resample(values, ratio.numerator, ratio.denominator, axis=1, padtype="line")


class EegSamples:
    """Windows of recordings at one rate; satisfies the Samples protocol.

    A sample is (channels, 3 + time) float32: of each electrode its x, y, z in metres (right, front, up), then
    its volts. Samples may have different channels. A channel that is flat or lacks values in a window is not
    among its rows.

    Args:
        source: what the person typed.
        recordings: where they lie.
        windows: the samples as parts of recordings.
        kind: what they are in the description, for instance ``EDF recordings``.
        reading: how they are read.
        labels: of the windows, as in Samples. classes: their names. groups: of the windows.
        problems: of recordings that did not open.
        resident_bytes: most of the signals that is kept in memory.

    Attributes:
        names: of the electrodes used, over all recordings. places: (electrodes, 3) metres.
        left_out: names of channels without a known place.
        array: (n, channels, 3 + time) where all are in memory and alike, else None.
    """

    array: np.ndarray | None

    def __init__(
        self,
        source: str,
        recordings: Recordings,
        windows: Sequence[Window],
        kind: str,
        reading: Reading,
        labels: np.ndarray | None = None,
        classes: list[str] | None = None,
        groups: np.ndarray | None = None,
        problems: Sequence[BadSample] = (),
        resident_bytes: int | None = None,
    ) -> None:
        self.source, self.recordings, self.windows = source, recordings, list(windows)
        self.reading, self.labels, self.classes, self.groups = reading, labels, classes, groups
        self.problems, self.array = list(problems), None
        self._room = RESIDENT_BYTES if resident_bytes is None else resident_bytes
        self._parts = Counter(recording for recording, _, _ in self.windows)
        self._place()
        self._signals: dict[int, np.ndarray] = {}
        self._hold()
        self.description = self._described(kind)

    def _place(self) -> None:
        """Which channels of each recording have a place; recordings without any become problems."""
        self.chosen: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        found: dict[str, np.ndarray] = {}
        lost: Counter[str] = Counter()
        known: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for recording in dict.fromkeys(number for number, _, _ in self.windows):
            header = self.recordings.headers[recording]
            if id(header) not in known:
                known[id(header)] = self._electrodes(header, lost)
            rows, places = self.chosen[recording] = known[id(header)]
            for row, place in zip(rows, places, strict=True):
                found.setdefault(header.names[int(row)], place)
            if not len(rows):
                names = ", ".join(header.names[:4])
                reason = (
                    f"has no channel whose place is known ({names} ...): name them by --channels or --montage"
                )
                self.problems.append(BadSample(self.recordings.identity(recording), reason))
        self.names, self.places = list(found), np.array(list(found.values())).reshape(-1, 3)
        self.left_out = [name for name, _ in lost.most_common()]
        self._keep(
            [
                number
                for number, (recording, _, _) in enumerate(self.windows)
                if len(self.chosen[recording][0])
            ]
        )
        if not self.windows:
            reason = self.problems[-1] if self.problems else "it is empty"
            raise UserError(f"{self.source} holds no usable EEG: {reason}")

    def _electrodes(self, header: Header, lost: Counter[str]) -> tuple[np.ndarray, np.ndarray]:
        places = placed(header.names, self.reading.montage, header.given)
        wanted = None if self.reading.channels is None else {name.lower() for name in self.reading.channels}
        known = np.asarray(np.isfinite(places).all(axis=1))
        lost.update(name for name, there in zip(header.names, known, strict=True) if not there)
        if wanted is not None:
            known &= np.array([name.lower() in wanted for name in header.names])
        rows = np.flatnonzero(known)
        return rows, places[rows].astype(np.float32)

    def _keep(self, rows: Sequence[int]) -> None:
        if len(rows) < len(self.windows):
            self.windows = [self.windows[row] for row in rows]
            self.labels = None if self.labels is None else self.labels[rows]
            self.groups = None if self.groups is None else self.groups[rows]

    def _hold(self) -> None:
        """Keep what fits in memory: whole windows where they are alike, else whole recordings."""
        reading, cut = self.reading, [self.chosen[recording][0] for recording, _, _ in self.windows]
        size = sum(len(rows) for rows in cut) * (reading.points + PLACE) * 4
        if (
            isinstance(self.recordings, ArrayRecordings)
            and self.recordings.path is None
            and size <= self._room
        ):
            values, kept = [], []
            for index in range(len(self)):
                try:
                    values.append(self._read(index))
                    kept.append(index)
                except BadSample as problem:
                    self.problems.append(problem)
            self._keep(kept)
            if not kept:
                raise UserError(f"{self.source} holds no usable EEG: {self.problems[-1]}")
            if len({row.shape for row in values}) == 1:
                self.array = np.stack(values)
            return
        room = self._room
        for recording, (rows, _) in self.chosen.items():
            header = self.recordings.headers[recording]
            seconds = header.points / (header.rate or reading.rate)
            room -= round(seconds * reading.rate * len(rows) * 4)
            if room < 0:
                self._signals.clear()
                return
            try:
                whole = self.recordings.read(recording, 0, header.points)[rows]
            except BadSample as problem:
                self.problems.append(problem)
                continue
            self._signals[recording] = prepared(whole, header.rate or reading.rate, reading)
        self._keep([row for row, (recording, _, _) in enumerate(self.windows) if recording in self._signals])
        if not self.windows:
            raise UserError(f"{self.source} holds no usable EEG: {self.problems[-1]}")

    def _described(self, kind: str) -> str:
        counts = {len(rows) for rows, _ in (self.chosen[recording] for recording, _, _ in self.windows)}
        channels = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
        used = len({recording for recording, _, _ in self.windows})
        several = f"{len(self):,} windows of {used:,} " if len(self) != used else f"{used:,} "
        lost = f"; without a known place: {', '.join(self.left_out[:4])}" if self.left_out else ""
        more = " ..." if len(self.left_out) > 4 else ""
        return f"{several}{kind}, {channels} channels at {self.reading.rate:g} Hz{lost}{more}"

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def stated(self) -> dict[str, Any]:
        """What is true of all samples and must be known to read them from a pack."""
        return {
            "rate": self.reading.rate, "seconds": self.reading.seconds, "patch": self.reading.patch,
            "step": self.reading.step, "film": self.reading.film, "names": self.names,
            "places": np.round(self.places, 6).tolist(),
        }  # fmt: skip

    def read(self, index: int | np.integer) -> np.ndarray:
        """(channels, 3 + time) float32: places in metres, then volts. Raises BadSample."""
        return self.array[index] if self.array is not None else self._read(int(index))

    def _read(self, index: int) -> np.ndarray:
        recording, start, stop = self.windows[index]
        header, reading = self.recordings.headers[recording], self.reading
        rows, places = self.chosen[recording]
        rate, points = header.rate or reading.rate, reading.points
        held = self._signals.get(recording)
        if held is not None:
            first = round(start / rate * reading.rate)
            values = held[:, first : first + points]
        else:
            before = max(0, start - round(MARGIN * rate))
            after = min(header.points, stop + round(MARGIN * rate))
            whole = prepared(self.recordings.read(recording, before, after)[rows], rate, reading)
            first = round((start - before) / rate * reading.rate)
            values = whole[:, first : first + points]
        # rounding may take a sample off the last window
        short = points - values.shape[1]
        if 0 < short <= 2:
            values = np.pad(values, ((0, 0), (0, short)), mode="edge")
        if values.shape[1] != points:
            raise BadSample(self.identity(index), "reaches beyond the end of the recording")
        fine = np.asarray(np.isfinite(values).all(axis=1))
        fine[fine] = np.ptp(values[fine], axis=1) > LEAST_SWING
        if not fine.any():
            raise BadSample(self.identity(index), "every channel is flat or missing")
        return np.concatenate([places[fine], values[fine]], axis=1)

    def identity(self, index: int | np.integer) -> str:
        """Relative path without ending, or row number; of a window also where in the recording it begins."""
        recording, start, _ = self.windows[index]
        name = self.recordings.identity(recording)
        rate = self.recordings.headers[recording].rate or self.reading.rate
        whole = self._parts[recording] == 1 and start == 0
        return name if whole else f"{name}@{start / rate:.6g}s"

    def fingerprint(self) -> str:
        """Digest of all names, and of the sizes of at most 4,096 recordings; of 64 rows of an array."""
        used = sorted({recording for recording, _, _ in self.windows})
        names = (self.identity(index) for index in range(len(self)))
        values = getattr(self.recordings, "values", None)
        return digest_of(
            f"{len(self)} {self.reading} {self.names}", names, len(used),
            lambda place: self.recordings.size(used[place]), values,
        )  # fmt: skip
