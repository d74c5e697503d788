"""Where the runs of one source lie: files of a folder, one array, or a pack."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains.fmri_tables import TABLES, Table, ending, read_table, table_shape
from anyjepa.domains.fmri_volumes import IMAGES, Atlas, image_header, is_atlas, read_atlas, read_image
from anyjepa.domains.packs import Pack

__all__ = ["ArrayRuns", "FileRuns", "Header", "PackRuns", "Runs"]

LAYOUTS = ("auto", "regions-first", "time-first")


@dataclass(frozen=True)
class Header:
    """What is known of a run without its values.

    Args:
        regions: how many.
        volumes: points in time.
        step: seconds from one to the next; None where it is not said.
        names: of the regions, where they have any.
    """

    regions: int
    volumes: int
    step: float | None
    names: tuple[str, ...] | None = None


@runtime_checkable
class Runs(Protocol):
    """Where runs lie. Can be pickled."""

    headers: Sequence[Header]

    def identity(self, index: int) -> str:
        """Unique in the store."""
        ...

    def read(self, index: int) -> np.ndarray:
        """(regions, volumes) float64 of one run, NaN where nothing was recorded; raises BadSample."""
        ...

    def size(self, index: int) -> int:
        """Bytes that the run takes where it lies."""
        ...


class ArrayRuns:
    """Runs that are one array (n, regions, volumes), named by row numbers."""

    def __init__(self, values: np.ndarray, step: float | None, names: Sequence[str] | None = None) -> None:
        self.values = values
        header = Header(values.shape[1], values.shape[2], step, None if names is None else tuple(names))
        self.headers: Sequence[Header] = [header] * len(values)

    def identity(self, index: int) -> str:
        """The row number."""
        return str(index)

    def read(self, index: int) -> np.ndarray:
        """One row."""
        return np.asarray(self.values[index], np.float64)

    def size(self, index: int) -> int:
        """Bytes of one row."""
        return self.values[index].nbytes


class PackRuns:
    """Runs of a pack: (regions, time) float32, NaN for a region that was not recorded."""

    def __init__(self, pack: Pack) -> None:
        self.pack = pack
        names, step = tuple(pack.manifest["facts"]["regions"]), float(pack.manifest["facts"]["step"])
        lengths, which = np.unique(pack.shapes[:, 1], return_inverse=True)
        kinds = [Header(len(names), int(length), step or None, names) for length in lengths]
        self.headers: Sequence[Header] = [kinds[number] for number in which.tolist()]

    def identity(self, index: int) -> str:
        """Of the source that was packed."""
        return self.pack.ids[index]

    def read(self, index: int) -> np.ndarray:
        """One run."""
        values, header = self.pack.array(index), self.headers[index]
        if values.shape != (header.regions, header.volumes) or values.dtype.kind != "f":
            raise BadSample(self.identity(index), f"has shape {values.shape}, not that of the index")
        return values.astype(np.float64)

    def size(self, index: int) -> int:
        """Bytes of the run in its shard."""
        return int(self.pack.sizes[index])


class FileRuns:
    """Files below a folder, by relative paths: tables of series, NIfTI and CIFTI images.

    Matrices of connectivity, atlases and images without time that lie among them are passed over.

    Args:
        root: the folder.
        names: relative paths.
        asked: ``atlas`` and ``layout`` of what a recipe asks.

    Attributes: names: of the runs that open. headers: of these. problems: the others. aside: how many files
        are no runs. kinds: of files, in words.

    Raises:
        UserError: there are images of brains but no atlas, or several.
    """

    def __init__(self, root: str, names: Sequence[str], asked: Mapping[str, Any]) -> None:
        self.root = root
        self.names: list[str] = []
        self.problems: list[BadSample] = []
        self.aside = 0
        self.kinds: set[str] = set()
        images = {name: self._image(name) for name in names if ending(name) in IMAGES}
        atlases = [
            name
            for name, header in images.items()
            if is_atlas(name) and getattr(header, "kind", "") == "other"
        ]
        runs = {name: h for name, h in images.items() if h is not None and h.kind != "other"}
        self.aside += sum(h is not None and h.kind == "other" for h in images.values())
        needed = {kind for kind in (h.kind for h in runs.values()) if kind != "parcels"}
        self.atlas = self._atlas(asked.get("atlas") or "", needed, atlases)
        found: dict[str, Header] = {}
        for name, header in runs.items():
            names_of = header.names or (list(self.atlas.names) if self.atlas else [])
            found[name] = Header(len(names_of), header.volumes, header.step, tuple(names_of))
            self.kinds.add("NIfTI" if header.kind == "volumes" else "CIFTI")
        found |= self._tables(
            [name for name in names if ending(name) in TABLES], asked.get("layout") or "auto"
        )
        self.names = sorted(found)
        self.headers: Sequence[Header] = [found[name] for name in self.names]

    def _path(self, name: str) -> str:
        return os.path.join(self.root, name)

    def _image(self, name: str) -> Any:
        try:
            return image_header(self._path(name), name)
        except BadSample as problem:
            self.problems.append(problem)
            return None

    def _atlas(self, given: str, needed: set[str], beside: list[str]) -> Atlas | None:
        """The atlas that was named, or the only one that lies there."""
        if not needed:
            return None
        if not given:
            fits = [name for name in beside if name.lower().endswith(".dlabel.nii") == (needed == {"dense"})]
            if len(fits) != 1 or len(needed) > 1:
                there = f" (there are {', '.join(fits[:3])})" if fits else ""
                wanted = ".dlabel.nii file" if needed == {"dense"} else "label image"
                raise UserError(
                    f"{self.root} holds images of brains, which need an atlas: name a {wanted} with --atlas"
                    f"{there}."
                )
            given = self._path(fits[0])
        return read_atlas(given)

    def _tables(self, names: Sequence[str], layout: str) -> dict[str, Header]:
        shapes: dict[str, tuple[int, int]] = {}
        tables: dict[str, Table] = {}
        for name in names:
            try:
                shape = table_shape(self._path(name), name)
                if shape is None or shape[0] == shape[1]:
                    table = read_table(self._path(name), name)
                    shape = (table.values.shape[0], table.values.shape[1])
                    if _is_connectivity(table.values) or min(shape) < 2:
                        self.aside += 1
                        continue
                    # of what says them the names are kept, not the numbers
                    tables[name] = Table(table.values[:1], table.names, table.regions_first)
                shapes[name] = shape
            except BadSample as problem:
                self.problems.append(problem)
        self.regions_first = self._layout(shapes, tables, layout)
        found = {}
        for name, shape in shapes.items():
            table = tables.get(name)
            regions, volumes = shape if self._first(table) else shape[::-1]
            known = None if table is None or table.names is None else tuple(table.names)
            found[name] = Header(regions, volumes, None, known)
            self.kinds.add({".1d": ".1D", ".mat": "MATLAB"}.get(ending(name), ending(name).split(".")[1]))
        return found

    def _first(self, table: Table | None) -> bool:
        known = None if table is None else table.regions_first
        return self.regions_first if known is None else known

    def _layout(self, shapes: Mapping[str, tuple[int, int]], tables: Mapping[str, Table], asked: str) -> bool:
        """Whether rows are regions in the files that do not say it."""
        if asked != "auto":
            return asked == "regions-first"
        silent = [
            shape
            for name, shape in shapes.items()
            if name not in tables or tables[name].regions_first is None
        ]
        return regions_first(silent)

    def identity(self, index: int) -> str:
        """The relative path."""
        return self.names[index]

    def read(self, index: int) -> np.ndarray:
        """One run, parcellated where it is an image."""
        name = self.names[index]
        if ending(name) in IMAGES:
            return read_image(self._path(name), name, self.atlas)
        table = read_table(self._path(name), name)
        return table.values if self._first(table) else table.values.T

    def size(self, index: int) -> int:
        """Bytes of the file."""
        return os.path.getsize(self._path(self.names[index]))


def regions_first(shapes: Sequence[tuple[int, int]]) -> bool:
    """Whether rows are regions: where all files have as many rows while columns vary, or else the fewer."""
    if not shapes:
        return True
    rows, columns = (Counter(shape[axis] for shape in shapes).most_common(1)[0][1] for axis in (0, 1))
    if max(rows, columns) == len(shapes) >= 2 * min(rows, columns):
        return rows == len(shapes)
    return sum(shape[0] for shape in shapes) <= sum(shape[1] for shape in shapes)


def _is_connectivity(values: np.ndarray) -> bool:
    """Whether a table has a row and a column for each region, and says the same of a region and itself."""
    if values.shape[0] != values.shape[1]:
        return False
    constant = bool(np.ptp(np.diagonal(values)) == 0)
    return constant or np.allclose(values, values.T, rtol=1e-3, equal_nan=True)
