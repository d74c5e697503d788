"""LeRobot's data sets as episodes: versions 2.0 and 2.1 (a table an episode) and 3.0 (many in a table)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, UserError, nearest, require
from anyjepa.domains.control_windows import Episode, Pictures, Window
from anyjepa.domains.image_files import decode
from anyjepa.domains.sources import NoSplit, split_order
from anyjepa.domains.video_files import read_frames

__all__ = ["lerobot_episodes"]

STATES = ("observation.state", "state", "states")
ACTIONS = ("action", "actions")
MOST = 10_000_000  # episodes
Found = tuple[list[Episode], str, Pictures | None, None, None, list[BadSample], float]


@dataclass(frozen=True)
class VideoPictures:
    """Pictures in videos. files: of each episode, its video, and the second in it at which it begins."""

    files: Sequence[tuple[str, float]]
    names: Sequence[str]
    rate: float
    side: int

    def picture(self, episode: int, step: int) -> np.ndarray:
        """The frame that is shown at a step."""
        path, start = self.files[episode]
        when = np.array([start + step / self.rate])
        return read_frames(path, f"{self.names[episode]}#{step}", when, self.side)[0]


@dataclass(frozen=True)
class EncodedPictures:
    """Pictures as files of their own in memory, a list an episode."""

    files: Sequence[Sequence[bytes]]
    names: Sequence[str]

    def picture(self, episode: int, step: int) -> np.ndarray:
        """The decoded file."""
        return decode(self.files[episode][step], f"{self.names[episode]}#{step}")


@dataclass(frozen=True)
class _About:
    """What ``meta/info.json`` says."""

    root: Path
    version: int
    rate: float
    total: int
    chunk: int
    data_path: str
    video_path: str
    features: dict[str, str]
    splits: dict[str, str]

    @classmethod
    def of(cls, root: Path) -> _About:
        path = root / "meta" / "info.json"
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            features = {str(name): str(kind["dtype"]) for name, kind in said["features"].items()}
            found = cls(
                root, int(str(said.get("codebase_version", "v2")).lstrip("v").split(".")[0]),
                float(said["fps"]), int(said["total_episodes"]), int(said.get("chunks_size") or 1000),
                str(said["data_path"]), str(said.get("video_path") or ""), features,
                {str(name): str(value) for name, value in (said.get("splits") or {}).items()},
            )  # fmt: skip
        except (ValueError, TypeError, KeyError, OSError, AttributeError, RecursionError) as problem:
            raise UserError(
                f"{path} does not say what LeRobot's versions 2 and 3 say of a data set "
                f"({(str(problem).splitlines() or ['?'])[0]})."
            ) from None
        if found.version not in (2, 3) or not 0 < found.rate < 1e6 or found.chunk < 1:
            raise UserError(f"{path} is of version {found.version} of LeRobot's format: 2 and 3 are read.")
        return found

    def name(self, asked: str, usual: Sequence[str], flag: str) -> str | None:
        """A feature: that which is asked for, or the first usual one that is there."""
        if asked and asked not in self.features:
            raise UserError(f"{self.root} has no '{asked}' for {flag}.{nearest(asked, self.features)}")
        return asked or next((name for name in usual if name in self.features), None)

    def file(self, template: str, **said: Any) -> str:
        """A path below the root."""
        try:
            path = template.format(**said)
        except (KeyError, IndexError, ValueError, AttributeError):
            raise UserError(f"{self.root}/meta/info.json gives paths that are none of LeRobot's.") from None
        if os.path.isabs(path) or ".." in Path(path).parts:
            raise UserError(f"{self.root}/meta/info.json points outside its folder.")
        return path

    def chosen(self, split: str | None) -> range:
        """Numbers of a split's episodes."""
        whole = range(min(self.total, MOST))
        if split is None:
            split = "train"
        for word in split_order(split):
            bounds = self.splits.get(word, "").split(":")
            if len(bounds) == 2 and all(one.strip().isdecimal() and len(one) < 12 for one in bounds):
                return whole[int(bounds[0]) : int(bounds[1])]
        if split.lower() not in split_order("train"):
            raise NoSplit(f"{self.root} has no split {split!r}: leave the split out.")
        return whole


def lerobot_episodes(root: Path, split: str | None, asked: Window) -> Found:
    """Episodes of a folder that LeRobot wrote: their kind in words, pictures, problems and rate.

    States and actions are read whole; pictures, where there is a camera, when they are wanted. Raises
    UserError where ``meta/info.json`` is none of LeRobot's, NoSplit where it names no such split.
    """
    about = _About.of(root)
    state = about.name(asked.state, STATES, "--state-name")
    if state is None:
        known = ", ".join(about.features)
        raise UserError(f"{root} has {known or 'nothing'}: name the states with --state-name.")
    action = about.name(asked.action, ACTIONS, "--action-name")
    cameras = [name for name, kind in about.features.items() if kind in ("video", "image")]
    camera = None if asked.camera == "none" else about.name(asked.camera, cameras, "--camera-name")
    reader = _Reader(about, state, action, camera, asked.side)
    (reader.second if about.version == 2 else reader.third)(about.chosen(split))
    return reader.episodes, "LeRobot episodes", reader.pictures(), None, None, reader.problems, about.rate


class _Reader:
    """Collects episodes, and where their pictures are."""

    def __init__(self, about: _About, state: str, action: str | None, camera: str | None, side: int) -> None:
        self.about, self.state, self.action, self.camera, self.side = about, state, action, camera, side
        self.filmed = camera is not None and about.features[camera] == "video"
        self.episodes: list[Episode] = []
        self.problems: list[BadSample] = []
        self.videos: list[tuple[str, float]] = []
        self.encoded: list[list[bytes]] = []

    def pictures(self) -> Pictures | None:
        """Where the camera's pictures are."""
        names = [one.name for one in self.episodes]
        if self.camera is None:
            return None
        if self.filmed:
            return VideoPictures(self.videos, names, self.about.rate, self.side)
        return EncodedPictures(self.encoded, names)

    def second(self, chosen: range) -> None:
        """Of versions 2.0 and 2.1. An episode of which nothing is here was not fetched."""
        about = self.about
        for number in chosen:
            said = {"episode_chunk": number // about.chunk, "episode_index": number, "video_key": self.camera}
            table = about.file(about.data_path, **said)
            video = about.file(about.video_path, **said) if self.filmed else ""
            name, here = f"episode_{number:06d}", (about.root / table).is_file()
            if self.filmed and (about.root / video).is_file() != here:
                self.problems.append(BadSample(name, f"lacks {video if here else table}"))
            elif here:
                self._guarded(name, table, None, (str(about.root / video), 0.0))

    def third(self, chosen: range) -> None:
        """Of version 3.0: ``meta/episodes`` says where in which table and video an episode is."""
        about, tables = self.about, dict[str, Any]()
        for path in sorted((about.root / "meta" / "episodes").glob("*/*.parquet")):
            for row in self._rows(path):
                try:
                    number, long = int(row["episode_index"]), int(row["length"])
                    where = {"chunk_index": int(row["data/chunk_index"]),
                             "file_index": int(row["data/file_index"])}  # fmt: skip
                    video = ("", 0.0)
                    if self.filmed:
                        key = f"videos/{self.camera}/"
                        place = {name: int(row[key + name]) for name in ("chunk_index", "file_index")}
                        file = about.file(about.video_path, video_key=self.camera, **place)
                        video = str(about.root / file), float(row[key + "from_timestamp"])
                except (KeyError, TypeError, ValueError, OverflowError) as problem:
                    raise UserError(f"{path} does not say where episodes are ({problem}).") from None
                if number not in chosen:
                    continue
                name, table = f"episode_{number:06d}", about.file(about.data_path, **where)
                lacks = [
                    one for one in (about.root / table, Path(video[0])) if video[0] and not one.is_file()
                ]
                if not (about.root / table).is_file():
                    continue
                if lacks:
                    self.problems.append(BadSample(name, f"lacks {lacks[0].name}"))
                    continue
                if table not in tables:
                    tables.clear()  # episodes follow one another, and tables are large
                    tables[table] = self._table(table)
                self._guarded(name, tables[table], number, video, long)

    def _rows(self, path: Path) -> list[dict[str, Any]]:
        parquet, arrow = require("pyarrow.parquet", "image"), require("pyarrow", "image")
        try:
            names = [
                name for name in parquet.read_schema(path).names
                if name in ("episode_index", "length") or name.startswith(("data/", "videos/"))
            ]  # fmt: skip
            return parquet.read_table(path, columns=names).to_pylist()
        except (arrow.ArrowException, OSError, ValueError, MemoryError) as problem:
            raise UserError(f"{path} is damaged: {(str(problem).splitlines() or ['?'])[0]}.") from None

    def _table(self, table: str) -> Any:
        """A table, or why it cannot be read."""
        parquet, arrow = require("pyarrow.parquet", "image"), require("pyarrow", "image")
        columns = [self.state] + ([self.action] if self.action else [])
        if self.camera is not None and not self.filmed:
            columns.append(self.camera)
        try:
            path = self.about.root / table
            further = [
                one for one in ("task_index", "episode_index") if one in parquet.read_schema(path).names
            ]
            return parquet.read_table(path, columns=columns + further)
        except (arrow.ArrowException, OSError, ValueError, KeyError, MemoryError) as problem:
            return BadSample(table, (str(problem).splitlines() or ["is damaged"])[0])

    def _guarded(
        self, name: str, table: Any, number: int | None, video: tuple[str, float], long: int = -1
    ) -> None:
        try:
            self._add(name, self._table(table) if isinstance(table, str) else table, number, video, long)
        except BadSample as problem:
            self.problems.append(problem)

    def _add(self, name: str, table: Any, number: int | None, video: tuple[str, float], long: int) -> None:
        arrow, compute = require("pyarrow", "image"), require("pyarrow.compute", "image")
        if isinstance(table, BadSample):
            raise BadSample(name, table.reason)
        try:
            if number is not None:
                table = table.filter(compute.equal(table.column("episode_index"), number))
            wanted = [self.state] + ([self.action] if self.action else [])
            parts = [_numbers(table.column(one)) for one in wanted]
            tasks = np.zeros(table.num_rows, np.int64)
            if "task_index" in table.column_names:
                tasks = table.column("task_index").to_numpy().astype(np.int64)
            files = None
            if self.camera is not None and not self.filmed:
                files = [one["bytes"] for one in table.column(self.camera).to_pylist()]
                if not all(isinstance(one, bytes) for one in files):
                    raise ValueError("its pictures are not in its table")
        except (arrow.ArrowException, ValueError, TypeError, KeyError, MemoryError, OverflowError) as problem:
            raise BadSample(name, (str(problem).splitlines() or ["is damaged"])[0]) from None
        if not table.num_rows or long not in (-1, table.num_rows):
            raise BadSample(name, f"has {table.num_rows} rows where {long} are said to be")
        if tasks.min() < 0 or tasks.max() > MOST:
            raise BadSample(name, "has a task_index that is no number of a task")
        self.episodes.append(Episode(name, parts[0], parts[1] if self.action else None, tasks))
        self.videos.append(video)
        self.encoded.append(files or [])


def _numbers(column: Any) -> np.ndarray:
    """(rows, numbers) float32 of a column of lists, or of numbers. Raises ValueError."""
    found = np.stack(column.to_numpy()).astype(np.float32)
    found = found[:, None] if found.ndim == 1 else found
    if found.ndim != 2:
        raise ValueError(f"has rows of shape {found.shape[1:]}, which are no list of numbers")
    return found
