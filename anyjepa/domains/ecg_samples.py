"""The ECGs of one source: chosen leads at one rate, in memory where they fit, long records in pieces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, UserError, require
from anyjepa.domains.ecg_leads import arranged
from anyjepa.domains.ecg_records import Recording, Records
from anyjepa.domains.fingerprints import digest_of

__all__ = ["EcgSamples", "Piece", "prepared", "resampled"]

RESIDENT_BYTES = 512 * 2**20
MOST_MISSING = 0.1  # share of a lead that is interpolated; a lead that lacks more is not used
LEAST_SWING = 1e-6  # millivolts between the lowest and the highest value of a lead that is not flat

Piece = tuple[int, int, int]
"""A record's number, and the first and the last sample but one of a part of it."""


def prepared(
    recording: Recording, leads: Sequence[str], rate: tuple[float, float], identity: str
) -> tuple[np.ndarray, dict[str, str]]:
    """The chosen leads (leads, time) float32 in millivolts at another rate, and what is wrong with which.

    Up to a tenth of a lead may be missing (NaN or infinite) and is interpolated, held at the ends. A lead
    that lacks more, is flat or not there is worked out of other limb leads where these are whole, and is else
    NaN throughout, which stands for "not recorded". rate: (stored, wanted) in samples a second.

    Raises:
        BadSample: none of the leads is usable.
    """
    signals, faults = recording.signals.copy(), {}
    for row, name in zip(signals, recording.names, strict=True):
        fault = _mended(row)
        if fault:
            faults[name] = fault
            row[:] = np.nan
    chosen = arranged(signals, recording.names, leads)
    usable = ~np.isnan(chosen[:, 0])
    faults = {
        lead: faults.get(lead, "not there") for lead, fine in zip(leads, usable, strict=True) if not fine
    }
    if not usable.any():
        reasons = "; ".join(f"{lead} {fault}" for lead, fault in list(faults.items())[:3])
        raise BadSample(identity, f"has no usable lead ({reasons}{' ...' * (len(faults) > 3)})")
    values = np.full((len(leads), _points(chosen.shape[1], rate)), np.nan, np.float32)
    values[usable] = resampled(chosen[usable], *rate)
    return values, faults


def _mended(row: np.ndarray) -> str:
    """Interpolate what is missing in one lead, in place; what is wrong with it where it cannot be used."""
    missing = ~np.isfinite(row)
    if missing.all():
        return "empty"
    if missing.mean() > MOST_MISSING:
        return f"{missing.mean():.0%} missing"
    if missing.any():
        places = np.arange(len(row))
        row[missing] = np.interp(places[missing], places[~missing], row[~missing])
    return "flat" if np.ptp(row) < LEAST_SWING else ""


def _ratio(rate: tuple[float, float]) -> Fraction:
    return Fraction(rate[1] / rate[0]).limit_denominator(1000)


def _points(points: int, rate: tuple[float, float]) -> int:
    ratio = _ratio(rate)
    return -(-points * ratio.numerator // ratio.denominator)


def resampled(signals: np.ndarray, stored: float, wanted: float) -> np.ndarray:
    """Signals (leads, time) at `wanted` samples a second, by a polyphase filter that lets nothing alias.

    Unlike resampling through the Fourier transform it does not take the signal for periodic; a straight line
    through the ends is taken off first, so that an offset does not ring there.
    """
    ratio = _ratio((stored, wanted))
    if ratio == 1:
        return signals
    resample = require("scipy.signal", "ecg").resample_poly
    first, slope = signals[:, :1], (signals[:, -1:] - signals[:, :1]) / max(1, signals.shape[1] - 1)
    level = signals - first - slope * np.arange(signals.shape[1])
    made = resample(level, ratio.numerator, ratio.denominator, axis=1)
    return made + first + slope * np.arange(made.shape[1]) / float(ratio)


class EcgSamples:
    """ECGs with the same leads at the same rate; satisfies the Samples protocol.

    A sample is (leads, time) float32 in millivolts; a lead that was not recorded is NaN throughout.

    Args:
        source: what the person typed.
        records: where they lie.
        pieces: the samples as parts of records.
        kind: what they are in the description, for instance ``WFDB records``.
        leads: names of the leads, in their order.
        rate: samples a second.
        reading: what the recipe asked for.
        labels: of the pieces, as in Samples. classes: their names. groups: of the pieces.
        problems: of records that did not open.
        resident_bytes: most that is kept in memory.

    Attributes:
        array: (n, leads, time) where all are in memory and of one length, else None.
        faults: (identity, lead, what) of leads that count as not recorded, among the samples read on opening.
    """

    array: np.ndarray | None

    def __init__(
        self,
        source: str,
        records: Records,
        pieces: Sequence[Piece],
        kind: str,
        leads: Sequence[str],
        rate: float,
        reading: Mapping[str, Any],
        labels: np.ndarray | None = None,
        classes: list[str] | None = None,
        groups: np.ndarray | None = None,
        problems: Sequence[BadSample] = (),
        resident_bytes: int | None = None,
    ) -> None:
        self.source, self.records, self.pieces = source, records, list(pieces)
        self.leads, self.rate, self.reading = list(leads), float(rate), dict(reading)
        self.labels, self.classes, self.groups = labels, classes, groups
        self.problems, self.faults = list(problems), []
        self._parts = Counter(record for record, _, _ in self.pieces)
        self.array, self.signals = None, None
        size = sum(self.points(index) for index in range(len(self))) * len(self.leads) * 4
        if size <= (RESIDENT_BYTES if resident_bytes is None else resident_bytes):
            self._hold()
        self.description = f"{len(self):,} {kind}, {self._described()}"

    def __len__(self) -> int:
        return len(self.pieces)

    def _described(self) -> str:
        count = f"{len(self.leads)} lead{'s' * (len(self.leads) > 1)} at {self.rate:g} Hz"
        if not self.faults:
            return count
        leads = Counter(f"{lead} {fault.split()[-1]}" for _, lead, fault in self.faults)
        worst = ", ".join(f"{lead} ({number:,})" for lead, number in leads.most_common(3))
        lacking = len({identity for identity, _, _ in self.faults})
        return f"{count}; {lacking:,} lack a lead: {worst}{' ...' * (len(leads) > 3)}"

    def rate_of(self, index: int) -> float:
        """Samples a second that the record of a sample is stored at; the common rate where it is not said."""
        return self.records.headers[self.pieces[index][0]].rate or self.rate

    def points(self, index: int) -> int:
        """Length of a sample at the common rate."""
        _, start, stop = self.pieces[index]
        return _points(stop - start, (self.rate_of(index), self.rate))

    def read(self, index: int | np.integer) -> np.ndarray:
        """(leads, time) float32 in millivolts, NaN for a lead that was not recorded. Raises BadSample."""
        if self.array is not None:
            return self.array[index]
        if self.signals is not None:
            return self.signals[index]
        return self._prepared(int(index))[0]

    @property
    def stated(self) -> dict[str, Any]:
        """What is true of all samples and must be known to read them from a pack."""
        return {"rate": self.rate, "leads": self.leads}

    def _prepared(self, index: int) -> tuple[np.ndarray, dict[str, str]]:
        record, start, stop = self.pieces[index]
        recording = self.records.read(record, start, stop)
        return prepared(recording, self.leads, (self.rate_of(index), self.rate), self.identity(index))

    def identity(self, index: int | np.integer) -> str:
        """Relative path without extension, or row number; of a piece also where in the record it begins."""
        record, start, _ = self.pieces[index]
        name = self.records.identity(record)
        return name if self._parts[record] == 1 else f"{name}@{start / self.rate_of(int(index)):g}s"

    def fingerprint(self) -> str:
        """Digest of all names and lengths, and of the sizes of at most 4,096 records spread over the source.

        Of an array, whose rows have no names, the values of 64 rows count instead.
        """
        head = f"{len(self)} {self.leads} {self.rate}"
        names = (f"{self.identity(index)} {self.points(index)}" for index in range(len(self)))
        values = getattr(self.records, "values", None)
        return digest_of(
            head, names, len(self), lambda place: self.records.size(self.pieces[place][0]), values
        )

    def _hold(self) -> None:
        """Read everything now: what cannot be read is left out, and flawed leads are known by name."""
        signals, kept = [], []
        for index in range(len(self)):
            try:
                values, faults = self._prepared(index)
            except BadSample as problem:
                self.problems.append(problem)
                continue
            signals.append(values)
            kept.append(index)
            self.faults += [(self.identity(index), lead, fault) for lead, fault in faults.items()]
        if not kept:
            reason = self.problems[-1] if self.problems else "it is empty"
            raise UserError(f"{self.source} holds no usable ECG: {reason}")
        # names say how many parts a record has, also where one of them turned out damaged
        self.pieces = [self.pieces[index] for index in kept]
        self.labels = None if self.labels is None else self.labels[kept]
        self.groups = None if self.groups is None else self.groups[kept]
        if len({values.shape for values in signals}) == 1:
            self.array = np.stack(signals)
        else:
            self.signals = signals
