"""From what a person types to clouds: tells folders, HDF5, arrays, voxels and shipped names apart."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyjepa.core.errors import UserError, nearest
from anyjepa.domains import point_samples
from anyjepa.domains.dense_labels import column_of, part_arrays
from anyjepa.domains.hdf5_files import checked, joined, numbers_of, open_hdf5
from anyjepa.domains.image_arrays import array_labels
from anyjepa.domains.label_files import labels_from_file
from anyjepa.domains.names import Names
from anyjepa.domains.number_files import open_archive, read_array
from anyjepa.domains.packs import required_pack
from anyjepa.domains.point_files import SUFFIXES, TEXT_SUFFIXES
from anyjepa.domains.point_samples import (
    ArrayClouds,
    FileClouds,
    Hdf5Clouds,
    PackClouds,
    PointSamples,
    Store,
    VoxelClouds,
)
from anyjepa.domains.point_shapes import CLASSES, PARTS, synthetic_shapes
from anyjepa.domains.sources import (
    NoSplit,
    existing,
    index_classes,
    is_split,
    list_files,
    list_folders,
    list_names,
    natural_split,
    only_train,
    split_order,
)

__all__ = ["open_points", "point_set"]

CLOUD_KEYS = ("data", "points", "pos", "xyz", "x", "clouds")
LABEL_KEYS = ("label", "labels", "y", "target", "targets")
HDF5 = frozenset({".h5", ".hdf5"})
SURFACE_POINTS = 8192


@dataclass(frozen=True)
class _Found:
    """What a source turned out to hold: clouds, what they are in words, and their labels."""

    store: Store
    kind: str
    labels: np.ndarray | None = None
    classes: list[str] | None = None
    tables: Sequence[str] = ()  # HDF5 files, or the one .npz, that hold it
    parts: Sequence[np.ndarray] | np.ndarray | int | None = None


def open_points(
    source: str | os.PathLike[str] | np.ndarray,
    labels: str | None = None,
    split: str | None = None,
    channels: int = 0,
    on_surface: int = SURFACE_POINTS,
    drawing: Mapping[str, Any] | None = None,
    dense: str | None = None,
) -> PointSamples:
    """Open clouds of points.

    source: a folder of OFF, OBJ, STL, PLY, PCD, LAS, LAZ, XYZ, CSV, TXT, ``.npy`` or KITTI ``.bin`` files, a
    cloud each (the first folder level is the class; ``train`` and ``test`` folders may lie above the classes
    or, as in ModelNet, within each; text files count only where there are no others); a folder of HDF5 files
    (``data``, ``label``; ``train`` or ``test`` in their names; class names in ``shape_names.txt``); one such
    file; a list of any of them, a path a line, in a ``.txt``; ``.npy`` (n, points, 3 or more); ``.npz`` with
    such an array under data, points or x and labels under label or y; ``.npz`` with ``voxels`` (n, depth,
    height, width), or ``voxels_packed``, cubes of eight cells a byte (n, bytes) or (n, poses, bytes), where
    the first pose is taken: occupied cells become points (``class_names`` and ``is_test`` (n,) are used);
    ``synthetic-shapes``; or an array (n, points, 3 or more) in memory.

    labels: a CSV, TSV or Parquet file with columns id and label. channels: numbers of a point beyond x, y, z
    to keep. on_surface: points drawn from a mesh. drawing: kept in ``PointSamples.drawing``. dense: column of
    labels of points (``last``, or a number from 1), as in ShapeNetPart's text files, or the name of an array
    (n, points) beside the clouds of HDF5 or ``.npz`` (``pid``).

    Raises UserError where nothing can be read, NoSplit where the split is missing. Single damaged clouds are
    listed in ``problems`` or raise BadSample when they are read.
    """
    if isinstance(source, np.ndarray):
        typed, found = "an array", _Found(ArrayClouds(point_set(source, "the array")), "clouds in an array")
    else:
        typed = os.fspath(source)
        found = _found(typed, split, on_surface)
    numbers, classes = found.labels, found.classes
    if labels is not None:
        names = [found.store.identity(index) for index in range(len(found.store))]
        numbers, classes = labels_from_file(labels, names)
    return PointSamples(
        typed,
        found.store,
        found.kind,
        channels,
        numbers,
        classes,
        resident_bytes=point_samples.RESIDENT_BYTES,
        drawing=drawing,
        parts=_parts(found, dense, typed),
        dense_classes=PARTS if typed == "synthetic-shapes" and dense is None else None,
    )


def _parts(found: _Found, dense: str | None, source: str) -> Sequence[np.ndarray] | np.ndarray | int | None:
    """Labels of points: those the source has by itself, a column, or an array beside the clouds."""
    if dense is None:
        return found.parts
    column = column_of(dense)
    if column is not None:
        return column
    if not found.tables:
        raise UserError(f"--dense {dense} names no column of {source}: give last, or its number from 1.")
    arrays = part_arrays(found.tables, dense)
    rows = found.store.rows if isinstance(found.store, ArrayClouds) else None
    return arrays if rows is None else arrays[rows]


def _found(source: str, split: str | None, on_surface: int) -> _Found:
    if source == "synthetic-shapes":
        clouds, numbers, parts = synthetic_shapes(split)
        return _Found(ArrayClouds(clouds), "simulated clouds", numbers, CLASSES, parts=parts)
    if not source:
        raise UserError("the source is empty: give a path or synthetic-shapes")
    if source.startswith("wds:"):
        pack = required_pack(source, split, "points")
        return _Found(PackClouds(pack), pack.manifest["kind"], pack.labels, pack.classes)
    if source.startswith("synthetic-"):
        raise UserError(f"there is no '{source}'.{nearest(source, ['synthetic-shapes'])}")
    path = existing(source)
    if path.is_dir():
        return _folder(path, split, on_surface)
    suffix = path.suffix.lower()
    if suffix in HDF5:
        return _hdf5([path], split)
    if suffix in (".npy", ".npz"):
        return _npz(path, split) if suffix == ".npz" else _npy(path, split)
    if suffix in TEXT_SUFFIXES and (listed := _listed(path)):
        return _list(path, listed, on_surface)
    if suffix not in SUFFIXES:
        raise UserError(
            f"{source} is not a file of points: give OFF, OBJ, STL, PLY, PCD, LAS, XYZ, HDF5, .npy or .npz"
        )
    only_train(split, source)
    return _Found(FileClouds(str(path.parent), [path.name], on_surface), f"{suffix[1:].upper()} cloud")


def _folder(root: Path, split: str | None, on_surface: int) -> _Found:
    tables = [name for name in list_names(root) if os.path.splitext(name)[1].lower() in HDF5]
    if tables:
        return _hdf5([root / name for name in _of_split(tables, split, str(root))], None)
    chosen = natural_split(list_folders(root), split) if not _split_within(root) else None
    root = root / chosen if chosen else root
    names = list_files(root, SUFFIXES)
    # README.txt, calibration and lists lie beside scans; only where there is nothing else are they the scans
    names = [name for name in names if Path(name).suffix.lower() not in TEXT_SUFFIXES] or names
    if not names:
        sets = [name for name in os.listdir(root) if name.lower().endswith(".npz")]
        if len(sets) == 1:
            return _npz(root / sets[0], split if chosen is None else None)
        raise UserError(f"{root} holds no points: give a folder of OFF, PLY, PCD, LAS, XYZ or .bin files")
    if _split_within(root):
        names = _within(names, split, str(root))
    numbers, classes = index_classes([name.split("/", 1)[0] if "/" in name else None for name in names])
    store, kind = FileClouds(str(root), Names(names), on_surface), f"{_format(names)} clouds"
    if len(classes) < 2:
        return _Found(store, kind)
    return _Found(store, f"{kind} in {len(classes):,} class folders", numbers, classes)


def _split_within(root: Path) -> bool:
    """Whether every folder here is a class with folders that are splits, as in ModelNet."""
    folders = [root / name for name in list_folders(root)]
    inside = [list_folders(folder) for folder in folders]
    return bool(inside) and all(names and all(map(is_split, names)) for names in inside)


def _within(names: Sequence[str], split: str | None, source: str) -> list[str]:
    """The files whose second folder is that of the split."""
    held = {parts[1] for name in names if len(parts := name.split("/")) > 2}
    for word in split_order(split):
        if found := next((name for name in held if name.lower() == word.lower()), None):
            return [name for name in names if name.split("/")[1] == found]
    raise NoSplit(f"{source} has no split {split!r}, only {', '.join(sorted(held))}")


def _of_split(names: Sequence[str], split: str | None, source: str) -> list[str]:
    """The files whose name has a word of the split; all where no name says one and none is asked for."""
    words = {name: set(re.split(r"[^a-z]+", Path(name).stem.lower())) for name in names}
    words = {
        name: {re.sub(r"(data|set)$", "", word) or word for word in found} for name, found in words.items()
    }
    for word in split_order(split):
        if found := [name for name in names if word.lower() in words[name]]:
            return found
    if split is None or split_order(split)[0].lower() in split_order("train"):
        return list(names)
    raise NoSplit(f"{source} has no file of the split {split!r}, only {', '.join(names)}")


def _format(names: Sequence[str]) -> str:
    suffixes = Counter(Path(name).suffix[1:].upper() for name in names)
    return next(iter(suffixes)) if len(suffixes) == 1 else "assorted"


def _listed(path: Path) -> list[str]:
    """The files that a text file names, one a line, relative to it; none where it is a cloud itself."""
    with open(path, encoding="utf-8", errors="replace") as file:
        first = file.readline().strip()
        if Path(first).suffix.lower() not in SUFFIXES | HDF5:
            return []
        return [first, *(line.strip() for line in file if line.strip())]


def _list(path: Path, listed: list[str], on_surface: int) -> _Found:
    found = [
        next((p for p in (path.parent / n, path.parent / Path(n).name) if p.exists()), None) for n in listed
    ]
    for name, place in zip(listed, found, strict=True):
        if place is None:
            raise UserError(f"{path} names {name}, which is not beside it: put it there, or mend the list.")
    places = [place for place in found if place is not None]
    if places[0].suffix.lower() in HDF5:
        return _hdf5(places, None)
    names = [os.path.relpath(place, path.parent).replace(os.sep, "/") for place in places]
    return _Found(FileClouds(str(path.parent), names, on_surface), f"{_format(names)} clouds of a list")


def _hdf5(paths: Sequence[Path], split: str | None) -> _Found:
    if split is not None and len(paths) == 1:
        _of_split([paths[0].name, "?"], split, str(paths[0]))
    tables = [str(path) for path in paths]
    counts, numbers, size_each, key = [], [], 0, "data"
    for path in tables:
        try:
            with open_hdf5(path) as file:
                key = next((name for name in CLOUD_KEYS if name in file), "")
                if not key or len(file[key].shape) != 3:
                    raise UserError(
                        f"{path} holds {', '.join(file) or 'nothing'}: call the clouds (n, points, 3) data"
                    )
                clouds = checked(file, key)
                counts.append(len(clouds))
                size_each = int(np.prod(clouds.shape[1:])) * clouds.dtype.itemsize
                label_key = next((name for name in LABEL_KEYS if name in file), None)
                numbers.append(None if label_key is None else numbers_of(file, label_key).reshape(-1))
        except (ValueError, OSError) as error:
            raise UserError(f"{path} is not a HDF5 file that is whole: {error}.") from None
    store = Hdf5Clouds(tables, counts, key, size_each)
    held: Store = store
    if size_each * sum(counts) <= point_samples.RESIDENT_BYTES:
        held = ArrayClouds(joined(tables, key))
    kind = f"clouds in {len(paths)} HDF5 file{'s' * (len(paths) > 1)}"
    if any(part is None for part in numbers):
        return _Found(held, kind, tables=tables)
    found, classes = array_labels(np.concatenate(numbers), f"label in {paths[0]}")
    if len(found) != sum(counts):
        raise UserError(f"{paths[0]} holds {sum(counts)} clouds but {len(found)} labels: make them match")
    return _Found(held, kind, found, _named(classes, paths[0].parent), tables)


def _named(classes: list[str] | None, folder: Path) -> list[str] | None:
    """Class numbers by the names in ``shape_names.txt``, where it is there and long enough."""
    file = folder / "shape_names.txt"
    if classes is None or not file.is_file():
        return classes
    names = file.read_text(encoding="utf-8", errors="replace").split()
    if not all(name.isdecimal() and int(name) < len(names) for name in classes):
        return classes
    return [names[int(name)] for name in classes]


def point_set(values: np.ndarray, source: str, things: str = "clouds") -> np.ndarray:
    """(n, points, 3 or more), or (n,) of clouds. Raises UserError for any other array."""
    if values.dtype == object and values.ndim == 1:
        return values
    if values.dtype.kind not in "biuf":
        raise UserError(f"{source} holds values of type {values.dtype}: give numbers")
    if values.ndim == 2 and values.shape[1] >= 3:
        return values[None]
    if values.ndim != 3 or values.shape[2] < 3:
        raise UserError(f"{source} has shape {values.shape}: give {things} as (n, points, 3 or more)")
    return values


def _npy(path: Path, split: str | None) -> _Found:
    only_train(split, str(path))
    try:
        values = read_array(path, mapped=True)
        if values.nbytes <= point_samples.RESIDENT_BYTES:
            values = np.array(values)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path} is not a .npy file of numbers: {str(error).splitlines()[0]}") from None
    return _Found(ArrayClouds(point_set(values, str(path))), "clouds in a .npy file")


def _npz(path: Path, split: str | None) -> _Found:
    try:
        with open_archive(path) as file:
            table = {name: file[name] for name in file.files}
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not a .npz file of numbers: {str(error).splitlines()[0]}") from None
    table = {name: values for name, values in table.items() if values.ndim}
    stem = next((name for name in ("voxels", "voxels_packed", *CLOUD_KEYS) if name in table), None)
    label_key = next((name for name in LABEL_KEYS if name in table), None)
    rows = np.arange(0 if stem is None else len(table[stem]))
    if stem is None:
        stem, label_key = _npz_split(table, split, str(path))
        rows = np.arange(len(table[stem]))
    elif "is_test" in table:
        rows = np.flatnonzero(_held_out(table["is_test"], split, str(path)))
    else:
        only_train(split, str(path))
    values = table[stem]
    store, kind = _voxels(values, rows, stem, path) if stem.startswith("voxels") else (None, "")
    if store is None:
        store, kind = ArrayClouds(point_set(values, f"{stem} in {path}")[rows], rows), "clouds in a .npz file"
    if label_key is None:
        return _Found(store, kind, tables=[str(path)])
    if len(table[label_key]) != len(values):
        raise UserError(
            f"{path} holds {len(values)} clouds but {len(table[label_key])} labels: make them match"
        )
    numbers, classes = array_labels(table[label_key], f"{label_key} in {path}")
    names = table.get("class_names")
    if (
        names is not None
        and classes is not None
        and all(c.isdecimal() and int(c) < len(names) for c in classes)
    ):
        classes = [str(names[int(name)]) for name in classes]
    return _Found(store, kind, numbers[rows], classes, [str(path)])


def _npz_split(table: dict[str, np.ndarray], split: str | None, source: str) -> tuple[str, str | None]:
    """Keys such as x_train and y_train, or data_test and label_test."""
    lower = {key.lower(): key for key in table}
    for word in split_order(split):
        patterns: list[Callable[[str], str]] = [lambda k, w=word: f"{k}_{w}", lambda k, w=word: f"{w}_{k}"]
        for pattern in patterns:
            stem = next((lower[key] for name in CLOUD_KEYS if (key := pattern(name).lower()) in lower), None)
            if stem:
                labels = (lower[key] for name in LABEL_KEYS if (key := pattern(name).lower()) in lower)
                return stem, next(labels, None)
    if len(table) == 1:
        only_train(split, source)
        return next(iter(table)), None
    raise UserError(
        f"{source} holds {', '.join(table) or 'nothing'}: call the clouds data and the labels label"
    )


def _held_out(is_test: np.ndarray, split: str | None, source: str) -> np.ndarray:
    words = [word.lower() for word in split_order(split)]
    if "train" in words:
        return ~is_test.astype(bool)
    if "test" in words:
        return is_test.astype(bool)
    raise NoSplit(f"{source} has no split {split!r}, only train and test")


def _voxels(values: np.ndarray, rows: np.ndarray, key: str, path: Path) -> tuple[Store, str]:
    if key == "voxels":
        if values.ndim != 4 or 0 in values.shape:
            raise UserError(f"voxels in {path} have shape {values.shape}: give (n, depth, height, width)")
        depth, height, width = values.shape[1:]
        packed = np.packbits(values[rows].reshape(len(rows), -1) != 0, axis=1)
        return VoxelClouds(
            packed, (depth, height, width), rows
        ), f"voxel grids of {depth} x {height} x {width}"
    packed = values[:, 0] if values.ndim == 3 else values
    side = round((8 * packed.shape[-1]) ** (1 / 3))
    if packed.ndim != 2 or packed.dtype != np.uint8 or math.ceil(side**3 / 8) != packed.shape[1]:
        raise UserError(
            f"voxels_packed in {path} have shape {values.shape}: give cubes of eight cells a byte"
        )
    return VoxelClouds(packed[rows], (side, side, side), rows), f"voxel grids of {side} x {side} x {side}"
