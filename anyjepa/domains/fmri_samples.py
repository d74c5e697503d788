"""The runs of one source: the same regions at one repetition time, in memory where they fit, in pieces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, UserError, require
from anyjepa.domains.fingerprints import digest_of
from anyjepa.domains.fmri_runs import ArrayRuns, Runs

__all__ = ["FmriSamples", "Piece", "prepared", "resampled"]

RESIDENT_BYTES = 512 * 2**20
MOST_MISSING = 0.1  # share of a region's points that is interpolated; one that lacks more was not recorded
MOST_ABSENT = 0.5  # share of the regions that may lack
ALIKE = 0.01  # share by which repetition times may differ that count as one

Piece = tuple[int, float, float]
"""A run's number, and where in it a sample begins and ends, in seconds."""


def resampled(series: np.ndarray, stored: float, wanted: float) -> np.ndarray:
    """Series (regions, volumes) at another repetition time in seconds, filtered so that nothing aliases."""
    ratio = Fraction(stored / wanted).limit_denominator(100)
    if abs(stored / wanted - 1) < ALIKE or ratio == 1:
        return series
    resample = require("scipy.signal", "fmri").resample_poly
    # without the straight line through its ends, which would ring there
    slope = (series[:, -1:] - series[:, :1]) / max(1, series.shape[1] - 1)
    first, level = series[:, :1], series - series[:, :1] - slope * np.arange(series.shape[1])
    made = resample(level, ratio.numerator, ratio.denominator, axis=1)
    return made + first + slope * np.arange(made.shape[1]) / float(ratio)


def prepared(series: np.ndarray, identity: str) -> tuple[np.ndarray, list[int]]:
    """Series (regions, volumes) float64 without gaps, NaN throughout in a region that was not recorded.

    Up to a tenth of a region's points may be missing and is interpolated. A region that lacks more or never
    changes counts as not recorded; the second result lists them.

    Raises:
        BadSample: more than half of the regions lack.
    """
    values = np.array(series, np.float64)
    missing = ~np.isfinite(values)
    share = missing.mean(axis=1)
    places = np.arange(values.shape[1])
    for row in np.flatnonzero((share > 0) & (share <= MOST_MISSING)):
        gaps = missing[row]
        values[row, gaps] = np.interp(places[gaps], places[~gaps], values[row, ~gaps])
    with np.errstate(invalid="ignore", over="ignore"):
        spread = np.ptp(values, axis=1)
        absent = (share > MOST_MISSING) | ~(spread > 1e-6 * np.abs(values).mean(axis=1)) | ~(spread < 1e30)
    if absent.mean() > MOST_ABSENT:
        raise BadSample(identity, f"{absent.sum()} of {len(values)} regions are empty or flat")
    values[absent] = np.nan
    return values, np.flatnonzero(absent).tolist()


class FmriSamples:
    """Runs with the same regions at the same repetition time; satisfies the Samples protocol.

    A sample is (regions, time) float32 in the source's own units; a region that was not recorded is NaN.

    Args:
        source: what the person typed.
        runs: where they lie.
        pieces: the samples as parts of runs.
        kind: what they are in the description, for instance ``runs in MATLAB files``.
        regions: names of the regions.
        step: seconds from one point to the next.
        reading: what the recipe asked for.
        labels: of the pieces, as in Samples. classes: their names. groups: of the pieces.
        problems: of runs that did not open.

    Attributes:
        array: (n, regions, time) where all are in memory and of one length, else None.
        absent: how often each region was not recorded, among the samples read on opening.
        told: whether the source says its repetition time.
    """

    array: np.ndarray | None

    def __init__(
        self,
        source: str,
        runs: Runs,
        pieces: Sequence[Piece],
        kind: str,
        regions: Sequence[str],
        step: float,
        reading: Mapping[str, Any],
        labels: np.ndarray | None = None,
        classes: list[str] | None = None,
        groups: np.ndarray | None = None,
        problems: Sequence[BadSample] = (),
    ) -> None:
        self.source, self.runs, self.pieces = source, runs, list(pieces)
        self.regions, self.step, self.reading = list(regions), float(step), dict(reading)
        self.labels, self.classes, self.groups = labels, classes, groups
        self.problems = list(problems)
        self.absent: Counter[int] = Counter()
        self.told = any(runs.headers[run].step for run, _, _ in self.pieces)
        self._parts = Counter(run for run, _, _ in self.pieces)
        self.array, self.series = None, None
        size = sum(self.points(index) for index in range(len(self))) * len(self.regions) * 4
        if size <= RESIDENT_BYTES:
            self._hold()
        lacking = f"; {len(self.absent)} regions lack in some" if self.absent else ""
        cut = f", cut from {len(self._parts):,}" if len(self) > len(self._parts) else ""
        self.description = (
            f"{len(self):,} {kind}{cut}, {len(self.regions)} regions every {self.step:g} s{lacking}"
        )

    def __len__(self) -> int:
        return len(self.pieces)

    def step_of(self, index: int) -> float:
        """Seconds from one stored volume of a sample's run to the next."""
        stated = self.reading.get("repetition_time") or 0.0
        return self.runs.headers[self.pieces[index][0]].step or stated or self.step

    def points(self, index: int) -> int:
        """Length of a sample at the common step."""
        _, start, stop = self.pieces[index]
        return max(1, int((stop - start) / self.step + 1e-6))

    def read(self, index: int | np.integer) -> np.ndarray:
        """(regions, time) float32, NaN for a region that was not recorded. Raises BadSample."""
        if self.array is not None:
            return self.array[index]
        if self.series is not None:
            return self.series[index]
        return self._prepared(int(index))[0]

    @property
    def stated(self) -> dict[str, Any]:
        """What is true of all samples and must be known to read them from a pack."""
        return {"step": self.step, "regions": self.regions}

    def _whole(self, run: int, stored: float) -> np.ndarray:
        values, _ = prepared(self.runs.read(run), self.runs.identity(run))
        return resampled(values, stored, self.step).astype(np.float32)

    def _prepared(self, index: int, whole: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """A sample, and the run it is a part of."""
        run, start, _ = self.pieces[index]
        whole = self._whole(run, self.step_of(index)) if whole is None else whole
        if whole.shape[0] != len(self.regions):
            raise BadSample(self.identity(index), f"has {len(whole)} regions, not {len(self.regions)}")
        first = min(int(start / self.step + 1e-6), max(0, whole.shape[1] - self.points(index)))
        part = whole[:, first : first + self.points(index)]
        if part.shape[1] < self.points(index):
            raise BadSample(self.identity(index), f"breaks off after {whole.shape[1]} points")
        return np.ascontiguousarray(part), whole

    def identity(self, index: int | np.integer) -> str:
        """Relative path or row number; of a piece also where in the run it begins."""
        run, start, _ = self.pieces[int(index)]
        name = self.runs.identity(run)
        return name if self._parts[run] == 1 else f"{name}@{start:g}s"

    def fingerprint(self) -> str:
        """Digest of names, lengths and the sizes of at most 4,096 runs; of an array, of 64 rows."""
        head = f"{len(self)} {len(self.regions)} {self.step}"
        names = (f"{self.identity(index)} {self.points(index)}" for index in range(len(self)))
        values = self.runs.values if isinstance(self.runs, ArrayRuns) else None
        return digest_of(head, names, len(self), lambda place: self.runs.size(self.pieces[place][0]), values)

    def _hold(self) -> None:
        """Read everything now: what cannot be read is left out, and lacking regions are known."""
        series: list[np.ndarray] = []
        kept: list[int] = []
        last, whole = -1, None
        for index in range(len(self)):
            run = self.pieces[index][0]
            try:
                values, whole = self._prepared(index, whole if run == last else None)
            except BadSample as problem:
                whole = None
                self.problems.append(problem)
                continue
            last = run
            series.append(values)
            kept.append(index)
            self.absent.update(np.flatnonzero(np.isnan(values[:, 0])).tolist())
        if not kept:
            reason = self.problems[-1] if self.problems else "it is empty"
            raise UserError(f"{self.source} holds no usable run: {reason}")
        # names say how many parts a run has, also where one of them turned out damaged
        self.pieces = [self.pieces[index] for index in kept]
        self.labels = None if self.labels is None else self.labels[kept]
        self.groups = None if self.groups is None else self.groups[kept]
        if len({values.shape for values in series}) == 1:
            self.array = np.stack(series)
        else:
            self.series = series
