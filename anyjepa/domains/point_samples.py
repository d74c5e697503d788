"""The clouds of one source: cleaned, centred, and in memory where they fit."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains.fingerprints import digest_of
from anyjepa.domains.hdf5_files import checked, open_hdf5
from anyjepa.domains.packs import Pack, kept_blocks
from anyjepa.domains.point_files import read_file

__all__ = [
    "ArrayClouds",
    "FileClouds",
    "Hdf5Clouds",
    "PackClouds",
    "PointSamples",
    "Store",
    "VoxelClouds",
    "cleaned",
]

RESIDENT_BYTES = 512 * 2**20
LOOKED_AT = 32


@runtime_checkable
class Store(Protocol):
    """Where clouds lie. Can be pickled."""

    def __len__(self) -> int: ...

    def decode(self, index: int) -> np.ndarray:
        """(n, 3 or more) numbers as stored; raises BadSample."""
        ...

    def identity(self, index: int) -> str:
        """Unique in the store."""
        ...

    def size(self, index: int) -> int:
        """Bytes that the cloud takes where it lies."""
        ...


class ArrayClouds:
    """Clouds in memory: an array (n, points, columns) or a list of arrays, named by row numbers."""

    def __init__(self, clouds: np.ndarray | Sequence[np.ndarray], rows: np.ndarray | None = None) -> None:
        self.clouds, self.rows = clouds, rows

    def __len__(self) -> int:
        return len(self.clouds)

    def decode(self, index: int) -> np.ndarray:
        """The cloud; BadSample where it is no table."""
        cloud = np.asarray(self.clouds[index])
        if cloud.ndim != 2 or cloud.dtype.kind not in "biuf":
            raise BadSample(self.identity(index), f"has shape {cloud.shape}, not (points, 3 or more)")
        return cloud

    def identity(self, index: int) -> str:
        """The row number."""
        return str(index if self.rows is None else self.rows[index])

    def size(self, index: int) -> int:
        """Bytes of the cloud."""
        return self.clouds[index].nbytes


class VoxelClouds:
    """Occupied cells of grids as points: their indices, each moved by chance within its cell.

    The move keeps patches from seeing the lattice; it depends on the row number only.

    Args:
        packed: (n, bytes) uint8, eight cells a byte, of grids of `shape`.
        shape: of a grid, three numbers.
        rows: (n,) row numbers in the source.
    """

    def __init__(self, packed: np.ndarray, shape: tuple[int, int, int], rows: np.ndarray) -> None:
        self.packed, self.shape, self.rows = packed, shape, rows

    def __len__(self) -> int:
        return len(self.packed)

    def decode(self, index: int) -> np.ndarray:
        """(occupied cells, 3) float64, in cells."""
        cells = np.unpackbits(self.packed[index], count=math.prod(self.shape)).reshape(self.shape)
        places = np.argwhere(cells).astype(np.float64)
        return places + np.random.default_rng(int(self.rows[index])).uniform(-0.5, 0.5, places.shape)

    def identity(self, index: int) -> str:
        """The row number."""
        return str(self.rows[index])

    def size(self, index: int) -> int:
        """Bytes of the packed grid."""
        return self.packed[index].nbytes


class FileClouds:
    """Files below one folder, one cloud each, by their relative paths (which use / everywhere)."""

    def __init__(self, root: str, names: Sequence[str], on_surface: int) -> None:
        self.root, self.names, self.on_surface = root, names, on_surface

    def __len__(self) -> int:
        return len(self.names)

    def decode(self, index: int) -> np.ndarray:
        """The file's points."""
        return read_file(self.root, self.names[index], self.on_surface)

    def identity(self, index: int) -> str:
        """The relative path."""
        return self.names[index]

    def size(self, index: int) -> int:
        """Bytes of the file."""
        return os.stat(os.path.join(self.root, self.names[index])).st_size


class PackClouds:
    """Clouds of a pack, as they lay in what was packed."""

    def __init__(self, pack: Pack) -> None:
        self.pack = pack

    def __len__(self) -> int:
        return len(self.pack)

    def decode(self, index: int) -> np.ndarray:
        """The cloud; BadSample where it is no table."""
        cloud = self.pack.array(index)
        if cloud.ndim != 2 or cloud.dtype.kind not in "biuf":
            raise BadSample(self.identity(index), f"has shape {cloud.shape}, not (points, 3 or more)")
        return cloud

    def identity(self, index: int) -> str:
        """Of the source that was packed."""
        return self.pack.ids[index]

    def size(self, index: int) -> int:
        """Bytes of the cloud in its shard."""
        return int(self.pack.sizes[index])


class Hdf5Clouds:
    """Rows of the array called `key` in HDF5 files, too many for memory, read as they are asked for.

    Args:
        paths: of the files.
        counts: rows of each.
        key: of the array (rows, points, columns).
        size_each: bytes of a row.
    """

    def __init__(self, paths: Sequence[str], counts: Sequence[int], key: str, size_each: int) -> None:
        self.paths, self.key, self.size_each = list(paths), key, size_each
        self.ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _place(self, index: int) -> tuple[str, int]:
        file = int(np.searchsorted(self.ends, index, side="right"))
        return self.paths[file], index - int(self.ends[file - 1] if file else 0)

    def decode(self, index: int) -> np.ndarray:
        """The row."""
        path, row = self._place(index)
        try:
            with open_hdf5(path) as file:
                return checked(file, self.key)[row]
        except (OSError, ValueError) as error:
            raise BadSample(self.identity(index), str(error)) from None

    def identity(self, index: int) -> str:
        """The row number over all files."""
        return str(index)

    def size(self, index: int) -> int:
        """Bytes of a row."""
        return self.size_each


@dataclass(frozen=True)
class Cleaned:
    """A cloud ready for use, and what was left out of it.

    points: (n, 3 + channels) float32, its mean place taken off. not_finite, duplicates: how many were
    dropped. parts: (n,) int64 labels of the points, where there are any.
    """

    points: np.ndarray
    not_finite: int
    duplicates: int
    parts: np.ndarray | None = None


def cleaned(
    values: np.ndarray, channels: int, identity: str, parts: np.ndarray | int | None = None
) -> Cleaned:
    """Points that are finite and differ in place, in the order of x, y, z, about their mean.

    The mean is taken off in float64, so that coordinates of millions of metres keep their millimetres. That
    points are put in order makes everything after this independent of the order they were stored in.

    ``parts`` are labels of the points as they lie, or the column of `values` that holds them and then is no
    channel.

    Raises BadSample for a cloud without columns or points enough.
    """
    if isinstance(parts, int):
        if not -values.shape[1] <= parts < values.shape[1]:
            raise BadSample(
                identity, f"has {values.shape[1]} columns, and --dense asks for column {parts + 1}"
            )
        values, parts = np.delete(values, parts, axis=1), values[:, parts]
    if parts is not None and len(parts) != len(values):
        raise BadSample(identity, f"has {len(values)} points and {len(parts)} labels of them")
    if values.shape[1] < 3 + channels:
        raise BadSample(
            identity,
            f"has {values.shape[1]} numbers a point: x, y, z and --channels {channels} are asked for",
        )
    wanted = np.asarray(values[:, : 3 + channels], dtype=np.float64)
    finite = np.isfinite(wanted).all(axis=1)
    whole = wanted[finite]
    if not len(whole):
        raise BadSample(identity, "has no finite point" if len(wanted) else "has no points")
    order = np.lexsort(whole.T[::-1])
    ordered = whole[order]
    new = np.ones(len(ordered), bool)
    new[1:] = (ordered[1:, :3] != ordered[:-1, :3]).any(axis=1)
    points = ordered[new]
    points[:, :3] -= points[:, :3].mean(axis=0)
    kept = None if parts is None else parts[finite][order][new].astype(np.int64)
    return Cleaned(points.astype(np.float32), int((~finite).sum()), int((~new).sum()), kept)


class PointSamples:
    """Clouds of any number of points that agree on their channels; satisfies the Samples protocol.

    Attributes: ``array`` is (n,) of clouds where all are in memory, else None. ``channels``: numbers of a
    point beyond x, y, z. ``dropped``: how many points were not finite or duplicates, of the clouds that were
    read when the source was opened; ``looked_at``: how many those were. ``drawing``: how a recipe wants them
    drawn, which is not data but is kept with its facts. ``parts``: labels of the points of each cloud of the
    store, or the column that holds them; ``dense_classes`` their names, where they have any.
    """

    def __init__(
        self,
        source: str,
        store: Store,
        kind: str,
        channels: int = 0,
        labels: np.ndarray | None = None,
        classes: list[str] | None = None,
        problems: Sequence[BadSample] = (),
        resident_bytes: int = RESIDENT_BYTES,
        drawing: Mapping[str, Any] | None = None,
        parts: Sequence[np.ndarray] | np.ndarray | int | None = None,
        dense_classes: list[str] | None = None,
    ) -> None:
        self.drawing, self.parts, self.dense_classes = dict(drawing or {}), parts, dense_classes
        self.source, self.store, self.classes, self.channels = source, store, classes, channels
        self.groups: np.ndarray | None = None
        self.problems = list(problems)
        self.dropped = {"not_finite": 0, "duplicates": 0}
        self.array: np.ndarray | None = None
        self.rows: np.ndarray | None = None
        if not len(store):
            raise UserError(
                f"{source} holds no cloud of points: give a folder, file or array that holds some"
            )
        first = np.linspace(0, len(store) - 1, min(len(store), LOOKED_AT)).astype(int)
        found, bad = self._read_all(np.unique(first))
        if not found:
            example = next(iter(bad.values()))
            raise UserError(f"{source} holds no usable cloud, for instance {example}: give clouds that open")
        bytes_each = np.mean([cloud.nbytes for cloud in found.values()])
        self.looked_at = len(found)
        if bytes_each * len(store) <= resident_bytes:
            found, bad = self._hold(found, bad)
        self._leave_out(bad)
        self.labels = labels if labels is None or self.rows is None else labels[self.rows]
        pack = store.pack if isinstance(store, PackClouds) else None
        self.blocks = kept_blocks(pack.blocks if pack else None, self.rows)
        self.description = (
            f"{len(self):,} {kind} of {_between([len(cloud) for cloud in found.values()])} points"
        )

    def _hold(
        self, found: dict[int, np.ndarray], bad: dict[int, BadSample]
    ) -> tuple[dict[int, np.ndarray], dict[int, BadSample]]:
        rest = [index for index in range(len(self.store)) if index not in found and index not in bad]
        more, worse = self._read_all(rest)
        found = {**found, **more}
        self.looked_at = len(found)
        # an array of arrays, for they differ in length
        self.array = np.empty(len(found), dtype=object)
        for place, index in enumerate(sorted(found)):
            self.array[place] = found[index]
        return found, {**bad, **worse}

    def _read_all(
        self, indices: Sequence[int] | np.ndarray
    ) -> tuple[dict[int, np.ndarray], dict[int, BadSample]]:
        found, bad = {}, {}
        for index in map(int, indices):
            try:
                cloud = self._cleaned(index)
            except BadSample as problem:
                bad[index] = problem
                continue
            found[index] = cloud.points
            self.dropped["not_finite"] += cloud.not_finite
            self.dropped["duplicates"] += cloud.duplicates
        return found, bad

    def _cleaned(self, index: int) -> Cleaned:
        parts = self.parts if self.parts is None or isinstance(self.parts, int) else self.parts[index]
        return cleaned(self.store.decode(index), self.channels, self.store.identity(index), parts)

    def _leave_out(self, bad: dict[int, BadSample]) -> None:
        self.problems += [bad[index] for index in sorted(bad)]
        if bad:
            self.rows = np.setdiff1d(np.arange(len(self.store)), list(bad))

    def __len__(self) -> int:
        return len(self.store) if self.rows is None else len(self.rows)

    def read(self, index: int | np.integer) -> np.ndarray:
        """(n, 3 + channels) float32 about its mean place. Raises BadSample where it is damaged."""
        return self._cleaned(self._row(index)).points if self.array is None else self.array[index]

    def packed(self, index: int) -> tuple[str, bytes]:
        """The cloud as it lies, all columns, as a ``.npy`` file. Raises BadSample."""
        self.read(index)
        file = io.BytesIO()
        np.save(file, self.store.decode(self._row(index)), allow_pickle=False)
        return "npy", file.getvalue()

    def dense(self, index: int | np.integer) -> np.ndarray:
        """(n,) int64 label of each point of `read`, below 0 where unknown. Raises BadSample as `read` does.

        Raises UserError where the points of this source have none.
        """
        found = self._cleaned(self._row(index)).parts
        if found is None:
            raise UserError(
                f"the points of {self.source} have no labels: name their column or array with --dense."
            )
        return found

    def identity(self, index: int | np.integer) -> str:
        """Relative path or row number."""
        return self.store.identity(self._row(index))

    def fingerprint(self) -> str:
        """Digest of all names, and of the sizes of at most 4,096 clouds spread evenly over the source."""
        names = (self.store.identity(index) for index in range(len(self.store)))
        return digest_of(
            f"{len(self)} {self.channels}", names, len(self.store), self.store.size, self.array, LOOKED_AT
        )

    def _row(self, index: int | np.integer) -> int:
        return int(index) if self.rows is None else int(self.rows[index])


def _between(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
