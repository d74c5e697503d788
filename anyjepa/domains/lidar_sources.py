"""From what a person types to LiDAR frames: KITTI's folders, other scans, arrays, packs, simulated ones."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from anyjepa.core.errors import UserError, nearest
from anyjepa.domains.lidar_frames import FileFrames, Frames, LidarSamples
from anyjepa.domains.lidar_simulation import Simulated
from anyjepa.domains.names import Names
from anyjepa.domains.number_files import read_array
from anyjepa.domains.packs import required_pack
from anyjepa.domains.point_samples import ArrayClouds, PackClouds
from anyjepa.domains.point_sources import point_set
from anyjepa.domains.sources import existing, list_files, list_folders, natural_split, only_train

__all__ = ["SUFFIXES", "open_lidar"]

SUFFIXES = frozenset({".bin", ".pcd", ".ply", ".npy"})
SCANS = ("velodyne", "velodyne_reduced", "velodyne_points", "lidar", "points")  # folders of scans
SIMULATED = "synthetic-lidar"


def open_lidar(
    source: str | os.PathLike[str] | np.ndarray,
    labels: str | None = None,
    split: str | None = None,
    reading: Mapping[str, Any] | None = None,
) -> LidarSamples:
    """Open LiDAR frames.

    source: a folder as KITTI lays it out (``training/velodyne`` with ``label_2`` and ``calib`` beside it;
    odometry sequences; a drive or sequence is a group), or any folder of ``.bin``, ``.pcd``, ``.ply`` or
    ``.npy`` frames (``train`` and ``test`` folders are splits), one such file, ``.npy`` (n, points, 3 or
    more), an array, a pack (``wds:``) or ``synthetic-lidar``. labels: as of `LidarSamples`. reading:
    ``forward``, ``camera``, ``columns`` (of a point in ``.bin`` files; 0 to tell by the name), and what is
    only drawn, ``range`` and ``cells``.

    Raises UserError where nothing can be read, NoSplit where the split is missing. Damaged frames raise
    BadSample when they are read.
    """
    asked = reading or {}
    options: dict[str, Any] = {
        "forward": asked.get("forward", "x"), "camera": asked.get("camera", True), "labels": labels,
        "drawing": {name: asked[name] for name in ("range", "cells") if name in asked},
    }  # fmt: skip
    if isinstance(source, np.ndarray):
        return LidarSamples(
            "an array", ArrayClouds(point_set(source, "the array", "frames")), "frames in an array", **options
        )
    typed = os.fspath(source)
    if typed == SIMULATED:
        return LidarSamples(typed, Simulated(split), "simulated LiDAR frames", **options)
    if not typed:
        raise UserError(f"the source is empty: give a path or {SIMULATED}")
    if typed.startswith("wds:"):
        pack = required_pack(typed, split, "lidar")
        samples = LidarSamples(typed, PackClouds(pack), pack.manifest["kind"], groups=pack.groups, **options)
        if labels is None:
            samples.labels, samples.classes = pack.labels, pack.classes
        return samples
    if typed.startswith("synthetic-"):
        raise UserError(f"there is no '{typed}'.{nearest(typed, [SIMULATED])}")
    path = existing(typed)
    store: Frames
    if path.is_dir():
        store, groups = _folder(path, split, asked.get("columns", 0))
        return LidarSamples(typed, store, f"{_format(store)} frames", groups=groups, **options)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{typed} is no file of LiDAR frames: give .bin, .pcd, .ply or .npy")
    only_train(split, typed)
    if path.suffix.lower() == ".npy":
        store = ArrayClouds(point_set(_array(path), typed, "frames"))
        return LidarSamples(typed, store, "frames in a .npy file", **options)
    store = FileFrames(str(path.parent), [path.name], asked.get("columns", 0))
    return LidarSamples(typed, store, f"{_format(store)} frames", **options)


def _folder(root: Path, split: str | None, columns: int) -> tuple[FileFrames, np.ndarray | None]:
    chosen = natural_split(list_folders(root), split)
    root = root / chosen if chosen else root
    names = list_files(root, SUFFIXES)
    # beside the scans of KITTI may lie planes, depths and other arrays
    scans = [name for name in names if any(part in SCANS for part in PurePosixPath(name).parts[:-1])] or names
    if not scans:
        raise UserError(f"{root} holds no LiDAR frame: give a folder of .bin, .pcd, .ply or .npy files")
    drives = np.array([str(PurePosixPath(name).parent) for name in scans])
    groups = drives if len(set(drives.tolist())) > 1 else None
    return FileFrames(str(root), Names(scans), columns), groups


def _format(store: FileFrames) -> str:
    kinds = {PurePosixPath(name).suffix[1:].upper() for name in store.names}
    return next(iter(kinds)) if len(kinds) == 1 else "assorted"


def _array(path: Path) -> np.ndarray:
    try:
        return read_array(path, mapped=True)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path} is not a .npy file of numbers: {str(error).splitlines()[0]}") from None
