"""Where the volumes of one source lie: files of a folder, series of DICOM, one array."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from anyjepa.domains.volume_dicom import Series, read_series
from anyjepa.domains.volume_files import read_scan, scan_header
from anyjepa.domains.volume_geometry import Scan

__all__ = ["ArrayVolumes", "FileVolumes", "SeriesVolumes", "Volumes"]


@runtime_checkable
class Volumes(Protocol):
    """Where volumes lie. Can be pickled."""

    masks: list[str | None] | None
    """Where the masks of structures lie, one a volume; None where there are none."""

    def __len__(self) -> int: ...

    def identity(self, index: int) -> str:
        """Unique in the source."""
        ...

    def size(self, index: int) -> int:
        """Bytes that it takes."""
        ...

    def scan(self, index: int) -> Scan:
        """As it lies. Raises BadSample."""
        ...

    def header(self, index: int) -> tuple[tuple[int, ...], np.ndarray]:
        """Shape and axes. Raises BadSample."""
        ...


class FileVolumes:
    """Files below a folder, a volume each, by their relative paths.

    Args:
        root: the folder.
        names: relative paths.
        masks: relative paths of masks, one a volume or None.
    """

    def __init__(self, root: str, names: Sequence[str], masks: list[str | None] | None = None) -> None:
        self.root, self.names, self.masks = root, list(names), masks

    def __len__(self) -> int:
        return len(self.names)

    def identity(self, index: int) -> str:
        """The relative path."""
        return self.names[index]

    def size(self, index: int) -> int:
        """Bytes of the file."""
        return os.stat(os.path.join(self.root, self.names[index])).st_size

    def scan(self, index: int) -> Scan:
        """Of the file."""
        return read_scan(os.path.join(self.root, self.names[index]), self.names[index])

    def header(self, index: int) -> tuple[tuple[int, ...], np.ndarray]:
        """What the file says of itself."""
        return scan_header(os.path.join(self.root, self.names[index]), self.names[index])

    def mask(self, index: int) -> Scan | None:
        """Structures of a volume. Raises BadSample where the mask is damaged."""
        name = None if self.masks is None else self.masks[index]
        return None if name is None else read_scan(os.path.join(self.root, name), name)


class SeriesVolumes:
    """Series of DICOM below a folder."""

    masks: list[str | None] | None = None

    def __init__(self, root: str, series: Sequence[Series]) -> None:
        self.root, self.series = root, list(series)

    def __len__(self) -> int:
        return len(self.series)

    def identity(self, index: int) -> str:
        """The folder of the series."""
        return self.series[index].identity

    def size(self, index: int) -> int:
        """How many files it has: their bytes would need a look at each."""
        return len(self.series[index].files)

    def scan(self, index: int) -> Scan:
        """Slices put together."""
        return read_series(self.root, self.series[index])

    def header(self, index: int) -> tuple[tuple[int, ...], np.ndarray]:
        """By what the files' headers say."""
        series = self.series[index]
        files, apart = series.ordered()
        first, second = series.across
        axes = np.stack([np.cross(first, second) * apart, second * series.step[0], first * series.step[1]])
        return (len(files), *series.shape, 1), axes


class ArrayVolumes:
    """Volumes that are one array (n, slices, rows, columns, channels), named by row numbers.

    Args:
        values: the array.
        spacing: millimetres between slices, rows and columns.
        structures: (n, slices, rows, columns) whole numbers, where known.
    """

    masks: list[str | None] | None = None

    def __init__(
        self,
        values: np.ndarray,
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
        structures: np.ndarray | None = None,
    ) -> None:
        self.values, self.structures = values, structures
        self.axes = np.diag(np.asarray(spacing, np.float64))[:, ::-1].copy()

    def __len__(self) -> int:
        return len(self.values)

    def identity(self, index: int) -> str:
        """The row number."""
        return str(index)

    def size(self, index: int) -> int:
        """Bytes of one volume."""
        return self.values[index].nbytes

    def scan(self, index: int) -> Scan:
        """Of a row."""
        return Scan(np.asarray(self.values[index]), self.axes)

    def header(self, index: int) -> tuple[tuple[int, ...], np.ndarray]:
        """Shape of a row."""
        return self.values.shape[1:], self.axes

    def mask(self, index: int) -> Scan | None:
        """Structures of a row."""
        return None if self.structures is None else Scan(self.structures[index][..., None], self.axes)
