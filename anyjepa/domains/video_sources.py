"""From what a person types to videos: tells folders, lists, single files, arrays and simulation apart."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, UserError, nearest
from anyjepa.domains.hdf5_files import numbers_of, open_hdf5
from anyjepa.domains.image_arrays import IMAGE_KEYS, LABEL_KEYS, array_labels
from anyjepa.domains.label_files import groups_from_file, labels_from_file
from anyjepa.domains.number_files import open_archive, read_array
from anyjepa.domains.sources import (
    as_labels,
    existing,
    index_classes,
    list_files,
    list_folders,
    named_arrays,
    natural_split,
    only_train,
)
from anyjepa.domains.video_files import IMAGES, VIDEOS
from anyjepa.domains.video_samples import (
    ArrayVideos,
    FileVideos,
    Reading,
    SequenceVideos,
    Videos,
    VideoSamples,
)
from anyjepa.domains.video_simulation import CLASSES, drifting_patterns
from anyjepa.domains.video_stores import Hdf5Videos, hub_videos, shard_videos

__all__ = ["open_videos"]

RESIDENT_BYTES = 512 * 2**20
SIMULATED_RATE = 8.0
HDF5 = (".h5", ".hdf5", ".hdf")
LISTS = (".csv", ".tsv", ".txt")
VIDEO_KEYS = ("x", "videos", "video", "clips", *IMAGE_KEYS[1:])


def open_videos(
    source: str | os.PathLike[str] | np.ndarray,
    labels: str | None = None,
    split: str | None = None,
    reading: Mapping[str, Any] | None = None,
) -> VideoSamples:
    """Open videos.

    source: a folder of video files (MP4, MOV, MKV, WebM, AVI, GIF ...; the first folder level is the class),
    or of image sequences (each folder of numbered images is one video); ``images:FOLDER``, where each image
    is a video of one frame; a video file; a list of files (.csv, .tsv or .txt with a path and, where known, a
    label a line, paths as from the list's own folder); a .npy file (n, frames, h, w[, c]) or of images
    (n, h, w, 3); a .npz file with x and y (or x_train, y_train ...) and ``rate`` where known; a HDF5 file
    with such arrays; ``wds:PATTERN`` of tar shards with such files; ``hf:NAME[:SPLIT]``; ``synthetic-video``;
    or an array of clips in memory.

    labels: a CSV, TSV or Parquet file with columns id and label, and group where known. split: train, val or
    test where the source is split. reading: see `Reading.of`.

    Videos are sampled by time: a clip is so many frames at so many a second, whatever the file's own rate. A
    long video counts as several samples; all of a video are one group.
    Raises UserError where nothing can be read, NoSplit where the split is missing. Damaged and short videos
    are ``problems``.
    """
    asked = Reading.of(reading or {})
    if isinstance(source, np.ndarray):
        return _from_array("an array", source, "clips in an array", None, None, asked, labels)
    source = os.fspath(source)
    if source == "synthetic-video":
        rate = asked.rate or SIMULATED_RATE
        clips, given = drifting_patterns(split, asked.frames, rate)
        return _from_array(
            source,
            clips,
            "clips of drifting patterns",
            given,
            list(CLASSES),
            asked,
            labels,
            rate,
        )
    if source.startswith("wds:"):
        shards, given, classes, problems = shard_videos(source, split, asked)
        return _assembled(source, shards, "videos in shards", labels, given, classes, asked, problems)
    if source.startswith("hf:"):
        table, given, classes, named = hub_videos(source, labels, split, asked)
        column = None if named else labels
        return _assembled(source, table, "videos of a hub data set", column, given, classes, asked)
    still = source.startswith("images:")
    if not source or (
        not still and re.match(r"[A-Za-z][A-Za-z0-9+-]+:", source) and not os.path.exists(source)
    ):
        raise UserError(
            f"'{source}' is not a source of videos: give a path, wds:PATTERN, hf:NAME, or synthetic-video."
        )
    if source.startswith("synthetic") and not os.path.exists(source):
        raise UserError(f"there is no '{source}'.{nearest(source, ['synthetic-video'])}")
    path = existing(source.removeprefix("images:"))
    if path.is_dir():
        return _from_folder(source, path, labels, split, asked, still)
    return _from_file(source, path, labels, split, asked)


def _from_file(
    source: str, path: Path, labels: str | None, split: str | None, reading: Reading
) -> VideoSamples:
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return _from_numpy(source, path, labels, split, reading)
    if suffix in HDF5:
        return _from_hdf5(source, path, labels, split, reading)
    only_train(split, source)
    if suffix in LISTS:
        return _from_list(source, path, labels, reading)
    if suffix not in VIDEOS | IMAGES:
        raise UserError(
            f"{source} is no video, list or array: give a folder, a video file, a .csv list, .npy or .npz."
        )
    store = FileVideos(str(path.parent), [path.name], reading)
    return _assembled(source, store, "video file", labels, None, None, reading)


def _from_list(source: str, path: Path, labels: str | None, reading: Reading) -> VideoSamples:
    """A path a line, and its label behind the last comma, tab or space; a header line is passed over."""
    names, given, problems = [], [], []
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [line.strip() for line in file.read().splitlines() if line.strip()]
    for number, line in enumerate(rows):
        name, label = _listed(line)
        if number == 0 and Path(name).suffix.lower() not in VIDEOS | IMAGES and len(rows) > 1:
            continue
        if not os.path.isfile(path.parent / name):
            problems.append(BadSample(name, "is listed but does not exist"))
            continue
        names.append(name)
        given.append(label)
    if not names:
        reason = f" ({problems[0]})" if problems else ""
        raise UserError(f"{source} lists no video that exists{reason}: give a path a line, and a label.")
    found, classes = as_labels(given) if any(label is not None for label in given) else (None, None)
    store = FileVideos(str(path.parent), names, reading)
    return _assembled(source, store, "listed videos", labels, found, classes, reading, problems)


def _listed(line: str) -> tuple[str, str | None]:
    if Path(line).suffix.lower() in VIDEOS | IMAGES:
        return line, None
    for mark in ("\t", ","):
        if mark in line:
            row = next(csv.reader([line], delimiter=mark))
            return row[0].strip(), row[1].strip() if len(row) > 1 else None
    # a path may hold spaces, a label does not
    name, _, label = line.rpartition(" ")
    return (name.strip(), label) if name else (line, None)


def _from_folder(
    source: str, root: Path, labels: str | None, split: str | None, reading: Reading, still: bool
) -> VideoSamples:
    chosen = natural_split(list_folders(root), split)
    root = root / chosen if chosen else root
    names = [] if still else list_files(root, VIDEOS)
    if names:
        store: Videos = FileVideos(str(root), names, reading)
        found, classes = _folder_labels(names)
        return _assembled(source, store, "video files", labels, found, classes, reading)
    images = list_files(root, IMAGES)
    if not images:
        raise UserError(
            f"{root} holds no video: give a folder with .mp4, .mkv, .webm, .avi, .mov or .gif files, or with "
            "folders of images."
        )
    if still:
        store, kind = SequenceVideos(str(root), {name: [name] for name in images}, reading), "still images"
        found, classes = _folder_labels(images)
    else:
        folders: dict[str, list[str]] = {}
        for name in sorted(images, key=_natural):
            folders.setdefault(os.path.dirname(name) or ".", []).append(name)
        store, kind = SequenceVideos(str(root), folders, reading), "image sequences"
        found, classes = _folder_labels(list(folders))
    return _assembled(source, store, kind, labels, found, classes, reading)


def _folder_labels(names: Sequence[str]) -> tuple[np.ndarray | None, list[str] | None]:
    """Labels from the first level of folders, where there are two or more of them."""
    found, classes = index_classes([name.split("/")[0] if "/" in name else None for name in names])
    return (found, classes) if len(classes) > 1 else (None, None)


def _natural(name: str) -> list[tuple[int, str]]:
    """So that frame 10 comes after frame 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _from_numpy(
    source: str, path: Path, labels: str | None, split: str | None, reading: Reading
) -> VideoSamples:
    rate, given, classes = 0.0, None, None
    try:
        if path.suffix.lower() == ".npy":
            only_train(split, source)
            large = path.stat().st_size > RESIDENT_BYTES
            # mapping first: a header that claims more than the file holds fails here, before memory is taken
            values = read_array(path, mapped=True)
            values, kind = (values, "clips in a mapped .npy file") if large else (
                np.array(values), "clips in a .npy file")  # fmt: skip
        else:
            with open_archive(path) as file:
                clips, label = named_arrays(list(file.files), VIDEO_KEYS, LABEL_KEYS, split, source, "clips")
                values, kind = file[clips], "clips in a .npz file"
                if label is not None:
                    given, classes = array_labels(file[label], f"{label} in {path}")
                if "rate" in file.files:
                    rate = float(file["rate"])
    except (ValueError, EOFError, OSError) as problem:
        line = (str(problem).splitlines() or ["damaged"])[0].rstrip(".")
        raise UserError(f"{path} is not a file of numbers: {line}.") from None
    if given is not None and len(given) != len(values):
        raise UserError(f"{path} holds {len(values)} clips but {len(given)} labels: make them one to one.")
    return _from_array(source, values, kind, given, classes, reading, labels, rate)


def _from_hdf5(
    source: str, path: Path, labels: str | None, split: str | None, reading: Reading
) -> VideoSamples:
    """Clips that stay where they lie until they are read."""
    given, classes, rate = None, None, 0.0
    try:
        with open_hdf5(path) as file:
            names = [name for name, found in file.items() if hasattr(found, "shape")]
            clips, label = named_arrays(names, VIDEO_KEYS, LABEL_KEYS, split, source, "clips")
            if label is not None:
                given, classes = array_labels(numbers_of(file, label), f"{label} in {path}")
            if "rate" in names:
                rate = float(numbers_of(file, "rate"))
        store = Hdf5Videos(str(path), clips, reading, rate if 0 <= rate < 1e6 else 0.0)
    except (ValueError, TypeError, OSError) as problem:
        line = (str(problem).splitlines() or ["damaged"])[0].rstrip(".")
        raise UserError(f"{path} is not a HDF5 file of clips: {line}.") from None
    if given is not None and len(given) != len(store):
        raise UserError(f"{path} holds {len(store)} clips but {len(given)} labels: make them one to one.")
    return _assembled(source, store, "clips in a HDF5 file", labels, given, classes, reading)


def _from_array(
    source: str,
    values: np.ndarray,
    kind: str,
    given: np.ndarray | None,
    classes: list[str] | None,
    reading: Reading,
    labels: str | None,
    rate: float = 0.0,
) -> VideoSamples:
    store = ArrayVideos(_arranged(values, source), reading, rate)
    return _assembled(source, store, kind, labels, given, classes, reading)


def _arranged(values: np.ndarray, source: str) -> np.ndarray:
    """Any of the shapes that `open_videos` takes as (n, frames, height, width, channels)."""
    if values.dtype.kind not in "biuf":
        raise UserError(f"{source} holds values of type {values.dtype}: give numbers.")
    if values.ndim == 4:
        # images in colour, or clips in grey
        return values[:, None] if values.shape[3] in (1, 3) else values[..., None]
    if values.ndim == 5 and values.shape[4] not in (1, 3) and 1 in (
        values.shape[2] in (1, 3), values.shape[1] in (1, 3)
    ):  # fmt: skip
        return np.moveaxis(values, 2 if values.shape[2] in (1, 3) else 1, 4)
    if values.ndim != 5 or not values.size:
        raise UserError(
            f"{source} has shape {values.shape}: give clips as (n, frames, height, width[, channels])."
        )
    return values


def _assembled(
    source: str,
    store: Videos,
    kind: str,
    label_file: str | None,
    labels: np.ndarray | None,
    classes: list[str] | None,
    reading: Reading,
    problems: Sequence[BadSample] = (),
) -> VideoSamples:
    groups = None
    if label_file is not None:
        names = [store.identity(index) for index in range(len(store))]
        labels, classes = labels_from_file(label_file, names)
        groups = groups_from_file(label_file, names)
    return VideoSamples(source, store, kind, reading, labels, classes, groups, problems)
