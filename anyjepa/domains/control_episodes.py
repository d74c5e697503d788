"""From what a person types to windows of episodes: simulation, arrays, folders, LeRobot's and robomimic's."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, UserError, nearest
from anyjepa.domains.control_hdf5 import HDF5, hdf5_episodes
from anyjepa.domains.control_lerobot import lerobot_episodes
from anyjepa.domains.control_pendulum import CLASSES, swinging
from anyjepa.domains.control_windows import Episode, Pictures, Window, WindowSamples
from anyjepa.domains.image_arrays import LABEL_KEYS, array_labels
from anyjepa.domains.label_files import groups_from_file, labels_from_file
from anyjepa.domains.number_files import Archive, open_archive
from anyjepa.domains.sources import NoSplit, existing, list_files, list_folders, natural_split, split_order

__all__ = ["PENDULUM", "FoundEpisodes", "open_windows"]

PENDULUM = "synthetic-pendulum"
KEYS = {
    "states": ("states", "state", "observations", "observation", "obs", "observation.state", "qpos"),
    "actions": ("actions", "action"),
    "video": ("video", "videos", "frames", "images"),
}
ENDS = ("episode_ends", "ends")


@dataclass
class FoundEpisodes:
    """What a source holds. labels: one for each episode, or for each step of all of them."""

    episodes: list[Episode]
    kind: str
    pictures: Pictures | None = None
    labels: np.ndarray | None = None
    classes: list[str] | None = None
    problems: list[BadSample] = field(default_factory=list)
    rate: float = 0.0


@dataclass(frozen=True)
class ArrayPictures:
    """Pictures in memory: (steps, height, width, channels) of each episode."""

    videos: Sequence[np.ndarray]

    def picture(self, episode: int, step: int) -> np.ndarray:
        """A frame."""
        return self.videos[episode][step]


def open_windows(
    source: str | os.PathLike[str] | np.ndarray,
    labels: str | None = None,
    split: str | None = None,
    reading: Mapping[str, Any] | None = None,
) -> WindowSamples:
    """Open demonstrations, of which every step begins a window.

    source: ``synthetic-pendulum``; a .npz file with states (episodes, steps, numbers) or, one episode behind
    the other, (all steps, numbers) with episode_ends; with actions alike (or one step less), where known, and
    video (.., height, width, channels), rate and labels (states_train ... of splits); a folder of .npz files
    of one episode, or (episodes, steps, numbers), each; a folder that LeRobot wrote (versions 2 and 3); HDF5
    of robomimic or of one episode a file; or an array of windows in memory, as of `window_of`.

    labels: a CSV, TSV or Parquet file with columns id (an episode) and label, and group where known. split:
    train or test where the source is split. reading: see `Window.of`.

    An episode is a group. Raises UserError where nothing can be read, NoSplit where the split is missing.
    """
    asked = Window.of(reading or {})
    if asked.chunk < 1:
        raise UserError(f"--chunk {asked.chunk} is no number of steps: take 1 or more.")
    if isinstance(source, np.ndarray):
        return _from_windows(source, asked)
    source = os.fspath(source)
    if source == PENDULUM:
        states, actions, given = swinging(split)
        kind = "episodes of a simulated pendulum that is swung up"
        side = "train" if split is None else split
        pairs = enumerate(zip(states, actions, strict=True))
        episodes = [Episode(f"{side} {n}", *one) for n, one in pairs]
        found = FoundEpisodes(episodes, kind, None, given.reshape(-1), list(CLASSES), rate=20.0)
    elif source.startswith("synthetic") and not os.path.exists(source):
        raise UserError(f"there is no '{source}'.{nearest(source, [PENDULUM, 'synthetic-reach'])}")
    else:
        found = _from_path(source, existing(source), split, asked)
    groups = None
    if labels is not None:
        names = [one.name for one in found.episodes]
        found.labels, found.classes = labels_from_file(labels, names)
        groups = groups_from_file(labels, names)
    return WindowSamples(
        source, found.episodes, found.kind, asked, found.pictures, found.labels, found.classes, groups,
        found.problems, found.rate,
    )  # fmt: skip


def _from_path(source: str, path: Path, split: str | None, asked: Window) -> FoundEpisodes:
    if path.is_file():
        if path.suffix.lower() == ".npz":
            return _from_archive(source, path, split, asked)
        if path.suffix.lower() in HDF5:
            return FoundEpisodes(*hdf5_episodes(path.parent, [path.name], split, asked))
        raise UserError(f"{source} holds no episodes: give .npz or .hdf5, or a folder of them or of LeRobot.")
    if (path / "meta" / "info.json").is_file():
        return FoundEpisodes(*lerobot_episodes(path, split, asked))
    chosen = natural_split(list_folders(path), split)
    path = path / chosen if chosen else path
    if (path / "meta" / "info.json").is_file():
        return FoundEpisodes(*lerobot_episodes(path, None, asked))
    if names := list_files(path, frozenset({".npz"})):
        if chosen is None:
            _no_split(source, split)
        return _from_archives(path, names, asked)
    if names := list_files(path, HDF5):
        return FoundEpisodes(*hdf5_episodes(path, names, None if chosen else split, asked))
    raise UserError(f"{path} holds no episodes: give a folder that LeRobot wrote, or .npz or .hdf5 files.")


def _no_split(source: str, split: str | None) -> None:
    if split is not None and split_order(split)[0].lower() not in split_order("train"):
        raise NoSplit(f"{source} has no split {split!r}: leave the split out.")


def _found_keys(file: Archive, asked: Window, ending: str = "") -> dict[str, str]:
    """Names of the arrays of a file. Raises KeyError for one that is asked for and not there."""
    lower = {name.lower(): name for name in file.files}
    found = {}
    for what, usual in KEYS.items():
        wanted = {"states": asked.state, "actions": asked.action, "video": asked.camera}[what]
        if what == "video" and wanted == "none":
            continue
        names = (wanted,) if wanted else usual
        name = next((lower[key.lower() + ending] for key in names if key.lower() + ending in lower), None)
        if name is not None:
            found[what] = name
        elif wanted or what == "states":
            raise KeyError(wanted or what)
    return found


def _rate_of(file: Archive) -> float:
    rate = float(file["rate"]) if "rate" in file.files else 0.0
    return rate if 0 <= rate < 1e6 else 0.0


def _from_archive(source: str, path: Path, split: str | None, asked: Window) -> FoundEpisodes:
    try:
        with open_archive(path) as file:
            lower = {name.lower(): name for name in file.files}
            endings = [f"_{word}" for word in split_order(split)]
            ending = next((one for one in endings if any(name.endswith(one) for name in lower)), "")
            if not ending:
                _no_split(source, split)
            keys = _found_keys(file, asked, ending)
            parts = {what: file[name] for what, name in keys.items()}
            ends = next((file[lower[key + ending]] for key in ENDS if key + ending in lower), None)
            label = next((lower[key + ending] for key in LABEL_KEYS if key + ending in lower), None)
            given, classes = array_labels(file[label], f"{label} in {path}") if label else (None, None)
            rate = _rate_of(file)
    except KeyError as problem:
        raise UserError(f"{source} lacks {problem.args[0]}: call the arrays states and actions.") from None
    except (ValueError, TypeError, EOFError, OSError) as problem:
        line = (str(problem).splitlines() or ["damaged"])[0].rstrip(".")
        raise UserError(f"{path} is not a file of numbers: {line}.") from None
    apart = {what: _apart(source, what, values, ends) for what, values in parts.items()}
    if len({len(values) for values in apart.values()}) > 1:
        raise UserError(f"{source} holds other numbers of episodes of states than of actions or pictures.")
    states, videos = apart["states"], apart.get("video")
    actions = apart.get("actions") or [None] * len(states)
    # an episode is no other of that number of another split
    front = f"{ending[1:]} " if ending else ""
    episodes = [_episode(f"{front}{n}", *one) for n, one in enumerate(zip(states, actions, strict=True))]
    if given is not None and len(given) not in (len(episodes), sum(map(len, states))):
        raise UserError(f"{source} holds {len(episodes)} episodes but {len(given)} labels: make them equal.")
    found = FoundEpisodes(episodes, "episodes in a .npz file", None, given, classes, [], rate)
    if videos is not None:
        _check_videos(source, videos, states)
        found.pictures = ArrayPictures(videos)
    return found


def _apart(source: str, what: str, values: np.ndarray, ends: np.ndarray | None) -> list[np.ndarray]:
    """An array episode by episode."""
    axes = 5 if what == "video" else 3
    if values.ndim == axes and ends is None:
        return list(values)
    if values.ndim == axes - 1 and ends is not None and ends.ndim == 1 and ends.dtype.kind in "iu":
        bounds = np.concatenate([[0], ends.astype(np.int64)])
        if len(ends) and (np.diff(bounds) > 0).all() and bounds[-1] <= len(values):
            return [values[a:b] for a, b in itertools.pairwise(bounds.tolist())]
    raise UserError(
        f"{source} holds {what} of shape {values.shape}: give (episodes, steps, ...), or (all steps, ...) "
        "with episode_ends, which rise to the number of steps."
    )


def _check_videos(source: str, videos: Sequence[np.ndarray], states: Sequence[np.ndarray]) -> None:
    pairs = zip(videos, states, strict=True)
    if any(v.ndim != 4 or v.dtype.kind not in "uf" or len(v) < len(s) for v, s in pairs):
        raise UserError(f"{source} holds pictures that are not one a step: (steps, height, width, channels).")


def _episode(name: str, states: np.ndarray, actions: np.ndarray | None) -> Episode:
    """Where the last state is followed by no action, it is left out."""
    if actions is not None and states.ndim == 2 and len(states) == len(actions) + 1:
        states = states[:-1]
    numeric = [part for part in (states, actions) if part is not None]
    if all(part.dtype.kind in "biuf" for part in numeric):
        states = states.astype(np.float32)
        actions = None if actions is None else actions.astype(np.float32)
    return Episode(name, states, actions)


def _from_archives(root: Path, names: Sequence[str], asked: Window) -> FoundEpisodes:
    found, videos = FoundEpisodes([], "episodes in .npz files"), []
    for name in names:
        try:
            with open_archive(root / name) as file:
                keys = _found_keys(file, asked)
                parts = {what: file[key] for what, key in keys.items()}
                found.rate = _rate_of(file)
        except KeyError as problem:
            found.problems.append(BadSample(name, f"lacks {problem.args[0]}"))
            continue
        except (ValueError, TypeError, OSError) as problem:
            found.problems.append(BadSample(name, (str(problem).splitlines() or ["is damaged"])[0]))
            continue
        several = parts["states"].ndim == 3
        apart = {
            what: list(values) if several and values.ndim else [values] for what, values in parts.items()
        }
        if len({len(values) for values in apart.values()}) > 1:
            found.problems.append(
                BadSample(name, "holds other numbers of episodes of states than of the rest")
            )
            continue
        states, actions = apart["states"], apart.get("actions") or [None] * len(apart["states"])
        if "video" in apart:
            try:
                _check_videos(name, apart["video"], states)
            except (UserError, TypeError):
                found.problems.append(BadSample(name, "holds pictures that are not one a step"))
                continue
            videos += apart["video"]
        names_of = [f"{name} {n}" for n in range(len(states))] if several else [name]
        found.episodes += [_episode(*one) for one in zip(names_of, states, actions, strict=True)]
    if videos and len(videos) != len(found.episodes):
        raise UserError(f"only some episodes of {root} have pictures: --camera-name none leaves them out.")
    found.pictures = ArrayPictures(videos) if videos else None
    return found


def _from_windows(windows: np.ndarray, asked: Window) -> WindowSamples:
    fields = {"states", "actions", "padded"}
    if windows.dtype.names is None or not fields <= set(windows.dtype.names):
        raise UserError("an array of windows has the fields states, actions and padded, as of window_of.")
    long = int(windows["states"].shape[1]) if windows["states"].ndim == 3 else 0
    if long != asked.chunk or windows["actions"].shape[:2] != windows["states"].shape[:2]:
        raise UserError(f"windows of {long} steps are not of --chunk {asked.chunk}.")
    episodes = [
        Episode(str(n), one["states"][~one["padded"]][:1], one["actions"][~one["padded"]][:1])
        for n, one in enumerate(windows)
    ]
    samples = WindowSamples("an array", episodes, "windows", asked)
    # every window was cut already; what is damaged in it was left out above
    samples.array = windows[samples.places]
    if "image" in windows.dtype.names:
        samples.pictures = ArrayPictures([image[None] for image in samples.array["image"]])
    return samples
