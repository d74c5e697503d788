"""Slices of volumes as samples of their own."""

from __future__ import annotations

import numpy as np

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains.volume_samples import VolumeSamples
from anyjepa.domains.volume_structures import check_word, counted, structure_labels

__all__ = ["SliceSamples"]


class SliceSamples:
    """Every slice of every volume as a volume of one slice; those of one patient are one group.

    A slice that is all one value is passed over. Values are scaled as those of its volume.

    Args:
        volumes: whole ones.
        wanted: labels by masks, as of `structure_labels`; None for those of the volumes.
    """

    def __init__(self, volumes: VolumeSamples, wanted: str | None = None) -> None:
        self.source, self.volumes, self.structures = volumes.source, volumes, volumes.structures
        self.reading, self.spacing = volumes.reading, volumes.spacing
        self.plane, self.channels = volumes.plane, volumes.channels
        self.problems = list(volumes.problems)
        pieces: list[tuple[int, int]] = []
        counts: list[np.ndarray | None] = []
        for index in range(len(volumes)):
            try:
                values, parts = volumes.read(index), volumes.parts(index) if wanted else None
                shown = np.flatnonzero(np.ptp(values, axis=(1, 2, 3)) > 0).tolist()
                found = [None if parts is None else counted(parts[n], volumes.identity(index)) for n in shown]
            except BadSample as problem:
                self.problems.append(problem)
                continue
            pieces += [(index, number) for number in shown]
            counts += found
        if not pieces:
            raise UserError(f"{self.source} holds no slice that shows anything.")
        self.pieces = np.array(pieces)
        owner = self.pieces[:, 0]
        identities = np.array([volumes.identity(index) for index in range(len(volumes))])
        self.groups: np.ndarray | None = (identities if volumes.groups is None else volumes.groups)[owner]
        if wanted:
            check_word(wanted, True)
            unit = float(np.prod(self.spacing[1:])) / 100
            self.labels, self.classes = structure_labels(counts, self.structures, unit, wanted, self.source)
        else:
            self.labels = None if volumes.labels is None else volumes.labels[owner]
            self.classes = volumes.classes
        self.description = f"{len(pieces):,} slices of {volumes.description}"

    def __len__(self) -> int:
        return len(self.pieces)

    def read(self, index: int) -> np.ndarray:
        """(1, rows, columns, channels) float32. Raises BadSample."""
        volume, number = self.pieces[int(index)].tolist()
        return self.volumes.read(volume)[number : number + 1]

    def identity(self, index: int) -> str:
        """The volume's, and the number of the slice from 1."""
        volume, number = self.pieces[int(index)].tolist()
        return f"{self.volumes.identity(volume)}[{number + 1}]"

    def fingerprint(self) -> str:
        """Of the volumes, cut into slices."""
        return f"slices-{self.volumes.fingerprint()}"
