"""From what a person types to trajectories: simulation, arrays, folders of episodes and LeRobot data sets."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, UserError, nearest, require
from anyjepa.domains.control_samples import ArrayTrajectories, ControlSamples, Motion, Trajectories
from anyjepa.domains.control_world import CLASSES, RATE, reaching
from anyjepa.domains.image_arrays import LABEL_KEYS, array_labels
from anyjepa.domains.label_files import groups_from_file, labels_from_file
from anyjepa.domains.number_files import open_archive
from anyjepa.domains.sources import NoSplit, existing, list_files, list_folders, natural_split, split_order
from anyjepa.domains.video_files import read_frames

__all__ = ["open_trajectories"]

VIDEO_KEYS = ("video", "videos", "frames", "images", "x")
STATE_KEYS = ("states", "state", "poses", "observation.state")
ACTION_KEYS = ("actions", "action")
EPISODE = frozenset([".npz"])


def open_trajectories(
    source: str | os.PathLike[str] | np.ndarray,
    labels: str | None = None,
    split: str | None = None,
    reading: Mapping[str, Any] | None = None,
) -> ControlSamples:
    """Open trajectories.

    source: ``synthetic-reach``; a .npz file with video (n, frames, h, w, channels), states (n, frames,
    numbers) and, where known, actions (n, frames or one less, numbers), rate and labels (video_train,
    states_train ... of splits); a folder of .npz files, each one episode with the same names and one axis
    less; a folder that LeRobot wrote (versions 2.0 and 2.1) with a camera; or an array of clips in memory.

    labels: a CSV, TSV or Parquet file with columns id and label, and group where known. split: train or test
    where the source is split. reading: see `Motion.of`.

    A long trajectory counts as several samples; all of it are one group. Raises UserError where nothing can
    be read, NoSplit where the split is missing. Damaged and short trajectories are ``problems``.
    """
    asked = Motion.of(reading or {})
    if isinstance(source, np.ndarray):
        return _from_clips(source, asked)
    source = os.fspath(source)
    if source == "synthetic-reach":
        video, states, actions, given = reaching(split, asked.frames)
        store = ArrayTrajectories(video, states, actions, asked.rate or RATE)
        kind = "episodes of a simulated arm over a table"
        return _assembled(source, store, kind, labels, given, list(CLASSES), asked)
    if source.startswith("synthetic") and not os.path.exists(source):
        raise UserError(f"there is no '{source}'.{nearest(source, ['synthetic-reach'])}")
    path = existing(source)
    if path.is_file():
        if path.suffix.lower() != ".npz":
            raise UserError(f"{source} is no trajectory: give a .npz file or a folder, or synthetic-reach.")
        return _from_archive(source, path, labels, split, asked)
    chosen = natural_split(list_folders(path), split)
    if chosen is None and split is not None and split_order(split)[0].lower() not in split_order("train"):
        raise NoSplit(f"{source} has no split {split!r}: leave the split out.")
    path = path / chosen if chosen else path
    if (path / "meta" / "info.json").is_file():
        store = RobotTrajectories(path, asked)
        return _assembled(source, store, "LeRobot episodes", labels, None, None, asked, store.problems)
    names = list_files(path, EPISODE)
    if not names:
        raise UserError(
            f"{path} holds no trajectories: give a folder that LeRobot wrote, or one of .npz files with "
            "video, states and actions."
        )
    return _assembled(source, FileTrajectories(str(path), names), "episodes", labels, None, None, asked)


class FileTrajectories:
    """Episodes in .npz files below a folder, by relative paths."""

    def __init__(self, root: str, names: Sequence[str]) -> None:
        self.root, self.names = root, list(names)

    def __len__(self) -> int:
        return len(self.names)

    def identity(self, index: int) -> str:
        """The relative path."""
        return self.names[index]

    def size(self, index: int) -> int:
        """Bytes of the file."""
        return os.stat(os.path.join(self.root, self.names[index])).st_size

    def extent(self, index: int) -> tuple[int, float]:
        """Frames and rate as the file says. Raises BadSample."""
        _, states, _, rate = self._arrays(index, pictures=False)
        return len(states), rate

    def read(self, index: int, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Rows of the file's arrays."""
        video, states, actions, _ = self._arrays(index)
        if len(video) != len(states):
            raise BadSample(self.names[index], f"has {len(video)} pictures but {len(states)} states")
        if actions is not None:
            actions = actions[np.minimum(chosen, len(actions) - 1)]
        return video[chosen], states[chosen], actions

    def _arrays(
        self, index: int, pictures: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, float]:
        name = self.names[index]
        try:
            with open_archive(os.path.join(self.root, name)) as file:
                keys = _keys(file.files, "")
                video = file[keys["video"]] if pictures else np.zeros((0, 1, 1, 1), np.uint8)
                actions = file[keys["actions"]] if "actions" in keys else None
                rate = float(file["rate"]) if "rate" in file.files else 0.0
                states = file[keys["states"]]
        except KeyError as problem:
            raise BadSample(name, f"lacks {problem.args[0]}") from None
        except (ValueError, TypeError, OSError) as problem:
            raise BadSample(name, (str(problem).splitlines() or ["is damaged"])[0]) from None
        if video.ndim == 3:
            video = video[..., None]
        rows = [part for part in (states, actions) if part is not None]
        if video.ndim != 4 or any(part.ndim != 2 or not len(part) for part in rows):
            raise BadSample(name, "is no episode: video is (frames, height, width, channels), states and "
                            "actions are (frames, numbers)")  # fmt: skip
        if any(part.dtype.kind not in "biuf" for part in (video, *rows)) or not 0 <= rate < 1e6:
            raise BadSample(name, "holds other things than numbers")
        return video, states, actions, rate


class RobotTrajectories:
    """Episodes of a LeRobot data set: a table each, and a video of one camera.

    Attributes: ``problems`` are episodes without a table or without that video.
    """

    def __init__(self, root: Path, asked: Motion) -> None:
        try:
            about = json.loads((root / "meta" / "info.json").read_text(encoding="utf-8"))
            features, paths = about["features"], (about["data_path"], about["video_path"])
            self.rate, chunk = float(about["fps"]), int(about["chunks_size"])
            total = int(about["total_episodes"])
            cameras = [name for name, kind in features.items() if kind["dtype"] == "video"]
        except (ValueError, TypeError, KeyError, OSError, RecursionError) as problem:
            raise UserError(
                f"{root}/meta/info.json does not say what LeRobot's versions 2.0 and 2.1 say of a data set "
                f"({(str(problem).splitlines() or ['?'])[0]})."
            ) from None
        self.root, self.side = str(root), asked.side
        self.state = _feature(features, asked.state, STATE_KEYS, "--state-name", root)
        wanted = asked.action if asked.action or asked.motion == "given" else None
        self.action = None if wanted is None else _feature(
            features, wanted, ACTION_KEYS, "--action-name", root)  # fmt: skip
        self.camera = _feature(features, asked.camera, cameras[:1], "--camera-name", root)
        self.problems: list[BadSample] = []
        self.files: list[tuple[str, str, str]] = []
        for number in range(min(total, 10_000_000) if chunk > 0 else 0):
            try:
                said = {"episode_chunk": number // chunk, "episode_index": number, "video_key": self.camera}
                table, video = (path.format(**said) for path in paths)
            except (KeyError, IndexError, ValueError, AttributeError):
                raise UserError(
                    f"{root}/meta/info.json gives paths that are none of LeRobot's 2.x."
                ) from None
            lacks = [name for name in (table, video) if not os.path.isfile(root / name)]
            if os.path.isabs(table) or os.path.isabs(video) or ".." in Path(table).parts + Path(video).parts:
                raise UserError(f"{root}/meta/info.json points outside its folder.")
            if not lacks:
                self.files.append((f"episode_{number:06d}", table, video))
            elif len(lacks) == 1:  # an episode of which nothing is here was not fetched
                self.problems.append(BadSample(f"episode_{number:06d}", f"lacks {lacks[0]}"))

    def __len__(self) -> int:
        return len(self.files)

    def identity(self, index: int) -> str:
        """``episode_000029``."""
        return self.files[index][0]

    def size(self, index: int) -> int:
        """Bytes of the table and the video."""
        return sum(os.stat(os.path.join(self.root, name)).st_size for name in self.files[index][1:])

    def extent(self, index: int) -> tuple[int, float]:
        """Rows of the table, and the data set's rate. Raises BadSample."""
        return len(self._columns(index)[0]), self.rate

    def read(self, index: int, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Pictures at the times of these rows, and the rows."""
        name, _, video = self.files[index]
        states, actions = self._columns(index)
        frames = read_frames(os.path.join(self.root, video), name, chosen / self.rate, self.side)
        return frames, states[chosen], None if actions is None else actions[chosen]

    def _columns(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        parquet = require("pyarrow.parquet", "image")
        arrow = require("pyarrow", "image")
        name, table, _ = self.files[index]
        wanted = [self.state] + ([self.action] if self.action else [])
        try:
            read = parquet.read_table(os.path.join(self.root, table), columns=wanted)
            found = [np.stack(read.column(column).to_numpy()).astype(np.float32) for column in wanted]
        except (arrow.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError) as problem:
            raise BadSample(name, (str(problem).splitlines() or ["is damaged"])[0]) from None
        if any(part.ndim != 2 or not len(part) for part in found):
            raise BadSample(name, "has states or actions that are no rows of numbers")
        return found[0], found[1] if self.action else None


def _feature(features: Any, asked: str, usual: Sequence[str], flag: str, root: Path) -> str:
    """The name of a feature: that which is asked for, or the usual one that is there."""
    names = list(features)
    if asked and asked not in names:
        raise UserError(f"{root} has no '{asked}'.{nearest(asked, names)}")
    found = asked or next((name for name in usual if name in names), None)
    if found is None:
        raise UserError(f"{root} has {', '.join(names) or 'nothing'}: name the right one with {flag}.")
    return found


def _keys(names: Sequence[str], ending: str) -> dict[str, str]:
    """Which array of a .npz file is the video, the states and the actions of a split. Raises KeyError."""
    lower, found = {name.lower(): name for name in names}, {}
    for what, stems in (("video", VIDEO_KEYS), ("states", STATE_KEYS), ("actions", ACTION_KEYS)):
        name = next((lower[stem + ending] for stem in stems if stem + ending in lower), None)
        if name is not None:
            found[what] = name
        elif what != "actions":
            raise KeyError(what)
    return found


def _from_archive(
    source: str, path: Path, labels: str | None, split: str | None, asked: Motion
) -> ControlSamples:
    try:
        with open_archive(path) as file:
            lower = {name.lower(): name for name in file.files}
            ending = next(
                (
                    f"_{word}"
                    for word in split_order(split)
                    if any(name.endswith(f"_{word}") for name in lower)
                ),
                "",
            )
            if split is not None and not ending and split_order(split)[0].lower() not in split_order("train"):
                raise NoSplit(f"{source} has no split {split!r}: leave the split out.")
            keys = _keys(file.files, ending)
            video, states = file[keys["video"]], file[keys["states"]]
            actions = file[keys["actions"]] if "actions" in keys else None
            rate = float(file["rate"]) if "rate" in file.files else 0.0
            label = next((lower[key + ending] for key in LABEL_KEYS if key + ending in lower), None)
            given, classes = array_labels(file[label], f"{label} in {path}") if label else (None, None)
    except KeyError as problem:
        raise UserError(
            f"{source} lacks {problem.args[0]}: call the arrays video, states and actions."
        ) from None
    except (ValueError, TypeError, EOFError, OSError) as problem:
        line = (str(problem).splitlines() or ["damaged"])[0].rstrip(".")
        raise UserError(f"{path} is not a file of numbers: {line}.") from None
    store = ArrayTrajectories(*_checked(source, video, states, actions), rate if 0 <= rate < 1e6 else 0.0)
    if given is not None and len(given) != len(store):
        raise UserError(f"{path} holds {len(store)} trajectories but {len(given)} labels: make them equal.")
    return _assembled(source, store, "trajectories in a .npz file", labels, given, classes, asked)


def _checked(
    source: str, video: np.ndarray, states: np.ndarray, actions: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The arrays, where their shapes and types go together. Raises UserError."""
    if video.ndim == 4:
        video = video[..., None]
    parts = [part for part in (video, states, actions) if part is not None]
    if any(part.dtype.kind not in "biuf" for part in parts):
        raise UserError(f"{source} holds other things than numbers.")
    count, frames = video.shape[:2] if video.ndim == 5 else (0, 0)
    fits = video.ndim == 5 and states.ndim == 3 and states.shape[:2] == (count, frames) and video.size
    if actions is not None:
        fits = fits and actions.ndim == 3 and len(actions) == count and frames - actions.shape[1] in (0, 1)
        fits = fits and actions.shape[1] > 0
    if not fits:
        shapes = ", ".join(str(part.shape) for part in parts)
        raise UserError(
            f"{source} holds arrays of shapes {shapes}: give video (n, frames, height, width, channels), "
            "states (n, frames, numbers) and actions (n, frames or one less, numbers)."
        )
    return video, states, actions


def _from_clips(clips: np.ndarray, asked: Motion) -> ControlSamples:
    if clips.dtype.names is None or not {"video", "states", "actions"} <= set(clips.dtype.names):
        raise UserError("an array of trajectories has the fields video, states and actions.")
    parts = _checked("the array", clips["video"], clips["states"], clips["actions"])
    return _assembled(
        "an array", ArrayTrajectories(*parts, asked.rate), "trajectories", None, None, None, asked
    )


def _assembled(
    source: str,
    store: Trajectories,
    kind: str,
    label_file: str | None,
    labels: np.ndarray | None,
    classes: list[str] | None,
    asked: Motion,
    problems: Sequence[BadSample] = (),
) -> ControlSamples:
    groups = None
    if label_file is not None:
        names = [store.identity(index) for index in range(len(store))]
        labels, classes = labels_from_file(label_file, names)
        groups = groups_from_file(label_file, names)
    return ControlSamples(source, store, kind, asked, labels, classes, groups, problems)
