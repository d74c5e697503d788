"""The volumes of one source, brought to one orientation, one spacing and one range of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains.fingerprints import digest_of
from anyjepa.domains.volume_geometry import PLANES, Scan, canonical, length_at, resampled
from anyjepa.domains.volume_stores import ArrayVolumes, Volumes
from anyjepa.domains.volume_structures import check_word, counted, structure_labels

__all__ = ["Reading", "VolumeSamples", "scaled"]

RESIDENT_BYTES = 512 * 2**20
QUANTILES = (0.005, 0.995)  # of a volume's values, which become 0 and 1
LOOKED_AT = 100_000  # values of a volume that quantiles are taken of


@dataclass(frozen=True)
class Reading:
    """How volumes are read.

    Args:
        plane: that slices are parallel to: axial, coronal or sagittal.
        spacing: millimetres between slices, rows and columns that volumes are resampled to; zeros for the
            median of the source.
        window: values that become 0 and 1, the same for all volumes (HU of CT); equal ones for 0.5 % and
            99.5 % of each volume's own values that are not its background.
    """

    plane: str = "axial"
    spacing: tuple[float, float, float] = (0.0, 0.0, 0.0)
    window: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Reading:
        """From what a recipe asks, among which facts of other names may lie. Raises UserError."""
        first, second, third = (float(side) for side in asked.get("spacing") or (0, 0, 0))
        low, high = (float(end) for end in asked.get("window") or (0, 0))
        reading = cls(asked.get("plane") or "axial", (first, second, third), (low, high))
        if reading.plane not in PLANES:
            raise UserError(f"--plane is one of {', '.join(PLANES)}, not '{reading.plane}'.")
        if any(side < 0 for side in reading.spacing) or len({side > 0 for side in reading.spacing}) > 1:
            raise UserError("--spacing takes three distances above 0 mm, or 0 0 0 for those of the data.")
        return reading


def scaled(values: np.ndarray, window: Sequence[float], identity: str) -> np.ndarray:
    """Values (slices, rows, columns, channels) as float32 of 0 to 1.

    Without a window, 0.5 % and 99.5 % of each channel's values that are not its commonest lowest one (the
    background) become 0 and 1. Raises BadSample for a volume that is not finite, or is all one value.
    """
    values = np.asarray(values, np.float32)
    if not np.isfinite(values).all():
        raise BadSample(identity, "holds NaN or infinite values")
    if window[1] > window[0]:
        return np.clip((values - window[0]) / (window[1] - window[0]), 0, 1)
    found = np.empty_like(values)
    for channel in range(values.shape[3]):
        one = values[..., channel]
        step = max(1, one.size // LOOKED_AT)
        some = one.reshape(-1)[::step]
        inside = some[some > some.min()]
        if not len(inside):
            raise BadSample(identity, "holds one value everywhere")
        low, high = np.quantile(inside, QUANTILES)
        span = max(float(high - low), 1e-6 * max(abs(float(high)), 1e-30))
        found[..., channel] = np.clip((one - float(low)) / span, 0, 1)
    return found


class VolumeSamples:
    """Volumes that agree on spacing and channels; satisfies the Samples protocol.

    Args:
        source: what the person typed.
        store: where the volumes lie.
        kind: what they are in the description.
        reading: how they are read; its spacing is replaced by what holds here.
        labels, classes, groups: one for each volume of the store; left out where it is.
        problems: what was damaged already.
        structures: names of the structures that masks number, from 1.

    Raises:
        UserError: none can be read.
    """

    def __init__(
        self,
        source: str,
        store: Volumes,
        kind: str,
        reading: Reading,
        labels: np.ndarray | None = None,
        classes: list[str] | None = None,
        groups: np.ndarray | None = None,
        problems: Sequence[BadSample] = (),
        structures: Mapping[int, str] | None = None,
    ) -> None:
        self.source, self.store, self.problems = source, store, list(problems)
        self.structures = dict(structures or {})
        self.rows, self.shapes, self.channels, spacings = self._surveyed(reading.plane)
        if not any(reading.spacing):
            middle = np.median(np.array(spacings), axis=0)
            spacing = float(middle[0]), float(middle[1]), float(middle[2])
            reading = Reading(reading.plane, spacing, reading.window)
        self.reading = reading
        self.own_spacings = np.array(spacings)
        self.plane = reading.plane
        self._labels = None if labels is None else labels[self.rows]
        self._classes, self._wanted = classes, ""
        self.groups = None if groups is None else groups[self.rows]
        self.description = f"{len(self.rows):,} {kind}"
        self._kept: dict[int, np.ndarray] = {}
        self._bytes = 0

    def _surveyed(self, plane: str) -> tuple[np.ndarray, list[tuple[int, ...]], int, list[tuple[float, ...]]]:
        found: list[tuple[int, tuple[int, ...], tuple[float, ...]]] = []
        for index in range(len(self.store)):
            try:
                shape, axes = self.store.header(index)
            except BadSample as problem:
                self.problems.append(problem)
                continue
            empty = Scan(np.broadcast_to(np.zeros(1, np.int8), shape), axes)
            turned, spacing = canonical(empty, plane)
            found.append((index, turned.shape, spacing))
        if not found:
            first = f", for instance {self.problems[0]}" if self.problems else ""
            raise UserError(f"{self.source} holds no readable volume{first}: give volumes that open.")
        counts = [shape[3] for _, shape, _ in found]
        channels = max(set(counts), key=counts.count)
        kept = []
        for row in found:
            if row[1][3] == channels:
                kept.append(row)
            else:
                reason = f"has {row[1][3]} channels, not {channels}"
                self.problems.append(BadSample(self.store.identity(row[0]), reason))
        return (
            np.array([index for index, _, _ in kept]), [shape for _, shape, _ in kept], channels,
            [spacing for _, _, spacing in kept],
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.rows)

    def label_by_structures(self, wanted: str) -> None:
        """Label by masks, as of `structure_labels`, once labels are asked for. Raises UserError."""
        check_word(wanted, False)
        self._wanted = wanted

    @property
    def labels(self) -> np.ndarray | None:
        """As of Samples; those that masks give are counted when they are first asked for."""
        self._count()
        return self._labels

    @labels.setter
    def labels(self, labels: np.ndarray | None) -> None:
        """Give the volumes other labels than their own."""
        self._count()
        self._labels = labels

    @property
    def classes(self) -> list[str] | None:
        """As of Samples."""
        self._count()
        return self._classes

    @classes.setter
    def classes(self, classes: list[str] | None) -> None:
        """Name the classes otherwise."""
        self._count()
        self._classes = classes

    def _count(self) -> None:
        wanted, self._wanted = self._wanted, ""
        if not wanted:
            return
        counts: list[np.ndarray | None] = []
        for index in range(len(self)):
            try:
                parts = self.parts(index)
                counts.append(None if parts is None else counted(parts, self.identity(index)))
            except BadSample as problem:
                self.problems.append(problem)
                counts.append(None)
        unit = float(np.prod(self.spacing)) / 1000
        self._labels, self._classes = structure_labels(counts, self.structures, unit, wanted, self.source)

    @property
    def labelled(self) -> bool:
        """Whether there are labels that no mask gave."""
        return self._labels is not None

    @property
    def has_masks(self) -> bool:
        """Whether masks of structures lie beside the volumes."""
        return self.store.masks is not None or getattr(self.store, "structures", None) is not None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between the slices, rows and columns of what is read."""
        return self.reading.spacing

    def shape(self, index: int) -> tuple[int, int, int]:
        """Slices, rows and columns of what is read, without reading it."""
        own, spacing = self.shapes[index][:3], self.own_spacings[index]
        first, second, third = (
            length_at(count, step, asked)
            for count, step, asked in zip(own, spacing, self.spacing, strict=True)
        )
        return first, second, third

    def read(self, index: int) -> np.ndarray:
        """(slices, rows, columns, channels) float32 of 0 to 1. Raises BadSample where it is damaged."""
        index = int(index)
        if index in self._kept:
            return self._kept[index]
        row = int(self.rows[index])
        values = scaled(self._placed(self.store.scan(row)), self.reading.window, self.identity(index))
        if self._bytes + values.nbytes <= RESIDENT_BYTES:
            self._kept[index] = values
            self._bytes += values.nbytes
        return values

    def _placed(self, scan: Scan, labels: bool = False) -> np.ndarray:
        values, own = canonical(scan, self.plane)
        return resampled(values, own, self.spacing, labels)

    @property
    def stated(self) -> dict[str, Any]:
        """What a pack says of the volumes in it."""
        return {"spacing": list(self.spacing), "plane": self.plane, "channels": self.channels}

    @property
    def dense_classes(self) -> list[str] | None:
        """Names of what slices show, from none; None where structures have no names."""
        highest = max(self.structures, default=0)
        return (
            ["none", *(self.structures.get(k, f"structure {k}") for k in range(1, highest + 1))]
            if highest
            else None
        )

    def dense(self, index: int) -> np.ndarray:
        """(slices,) int64: the structure that most of each slice is of, 0 for none.

        Raises BadSample where the mask is damaged, UserError where there are no masks.
        """
        if not self.has_masks:
            raise UserError(f"{self.source} has no masks of structures, so slices have no labels.")
        parts = self.parts(int(index))
        if parts is None:
            return np.full(self.shape(int(index))[0], -1)
        counts = [counted(one, self.identity(index))[1:] for one in parts]
        return np.array([int(row.argmax()) + 1 if row.any() else 0 for row in counts], np.int64)

    def parts(self, index: int) -> np.ndarray | None:
        """(slices, rows, columns) int64 number of the structure that each place is of, 0 for none.

        None where the source has no mask of it. Raises BadSample where the mask is damaged or does not fit.
        """
        mask = getattr(self.store, "mask", None)
        scan = None if mask is None else mask(int(self.rows[index]))
        if scan is None:
            return None
        if scan.values.shape[3] != 1 or not np.isfinite(scan.values).all():
            raise BadSample(self.identity(index), "has a mask that is not of one whole number a place")
        found = self._placed(scan, labels=True)[..., 0].astype(np.int64)
        if found.shape != self.shape(index):
            reason = f"has a mask of shape {found.shape}, not {self.shape(index)}"
            raise BadSample(self.identity(index), reason)
        return found

    def identity(self, index: int) -> str:
        """Relative path, folder of a series, or row number."""
        return self.store.identity(int(self.rows[index]))

    def fingerprint(self) -> str:
        """Digest of the names and sizes, and of how they are read."""
        store = self.store
        names = (store.identity(index) for index in range(len(store)))
        if isinstance(store, ArrayVolumes):
            return digest_of(str(self.reading), (), len(store), store.size, store.values)
        return digest_of(str(self.reading), names, len(store), store.size)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": {}, "_bytes": 0}
