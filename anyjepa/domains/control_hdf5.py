"""Episodes in HDF5: robomimic's, many in a file, and files of one episode each as ALOHA writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, UserError, nearest
from anyjepa.domains.control_windows import Episode, Pictures, Window
from anyjepa.domains.hdf5_files import checked, numbers_of, open_hdf5
from anyjepa.domains.sources import NoSplit, split_order

__all__ = ["HDF5", "hdf5_episodes"]

HDF5 = frozenset({".hdf5", ".h5"})
OBSERVED = ("obs", "observations")
ACTED = ("actions", "action")
Found = tuple[list[Episode], str, Pictures | None, None, None, list[BadSample], float]


@dataclass(frozen=True)
class StoredPictures:
    """Pictures in HDF5. places: of each episode, its file and the name of the array."""

    places: Sequence[tuple[str, str]]
    names: Sequence[str]

    def picture(self, episode: int, step: int) -> np.ndarray:
        """A frame, read alone."""
        path, name = self.places[episode]
        try:
            with open_hdf5(path) as file:
                return np.asarray(checked(file, name)[step])
        except (ValueError, OSError) as problem:
            reason = (str(problem).splitlines() or ["is damaged"])[0]
            raise BadSample(f"{self.names[episode]}#{step}", reason) from None


def hdf5_episodes(root: Path, names: Sequence[str], split: str | None, asked: Window) -> Found:
    """Episodes of files, by relative paths below ``root``; returns as of `lerobot_episodes`.

    A file of robomimic has the groups ``data/NAME`` with ``actions`` and ``obs/KEY``, and lists splits in
    ``mask``; a file of one episode has ``action`` and ``observations/KEY``, with cameras in
    ``observations/images``. States are the array that is asked for (several with commas between), else
    ``qpos``, else all rows of numbers that are observed, in the order of their names.

    Raises UserError where a file is none of these, NoSplit where the split is missing.
    """
    episodes: list[Episode] = []
    places: list[tuple[str, str]] = []
    problems: list[BadSample] = []
    for name in names:
        try:
            with open_hdf5(root / name) as file:
                for group in _groups(file, split, str(root / name)):
                    shown = f"{name}/{group}" if len(names) > 1 and group else group or name
                    try:
                        episode, camera = _episode(file, f"data/{group}" if group else "", shown, asked)
                    except (ValueError, KeyError, TypeError, AttributeError) as problem:
                        problems.append(BadSample(shown, str(problem).strip("'\"").splitlines()[0]))
                        continue
                    episodes.append(episode)
                    places.append((str(root / name), camera))
        except (ValueError, OSError) as problem:
            reason = (str(problem).splitlines() or ["is damaged"])[0]
            if len(names) == 1:
                raise UserError(f"{root / name} is not a HDF5 file that is whole: {reason}.") from None
            problems.append(BadSample(name, reason))
    filmed = [bool(camera) for _, camera in places]
    if any(filmed) and not all(filmed):
        raise UserError(f"only some episodes of {root} have pictures: --camera-name none leaves them out.")
    pictures = StoredPictures(places, [one.name for one in episodes]) if any(filmed) else None
    return episodes, "episodes in HDF5", pictures, None, None, problems, 0.0


def _groups(file: Any, split: str | None, path: str) -> list[str]:
    """Names of a file's episodes; an empty one where the file itself is one."""
    if "data" not in file or not hasattr(file["data"], "keys"):
        if split is not None and split_order(split)[0].lower() not in split_order("train"):
            raise NoSplit(f"{path} has no split {split!r}: leave the split out.")
        return [""]
    everything = sorted(file["data"].keys(), key=lambda name: (len(name), name))
    lists = list(file["mask"].keys()) if "mask" in file and hasattr(file["mask"], "keys") else []
    chosen = next((word for word in split_order(split or "train") if word in lists), None)
    if chosen is None:
        if split is not None and split_order(split)[0].lower() not in split_order("train"):
            raise NoSplit(f"{path} has no split {split!r}: leave the split out.")
        return everything
    listed = {
        one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one)
        for one in numbers_of(file, f"mask/{chosen}").ravel().tolist()
    }
    return [name for name in everything if name in listed]


def _episode(file: Any, group: str, name: str, asked: Window) -> tuple[Episode, str]:
    """An episode, and the name of the array of its pictures; empty where there are none."""
    inside = file[group] if group else file
    seen = next((one for one in OBSERVED if one in inside and hasattr(inside[one], "keys")), None)
    if seen is None:
        raise ValueError("has no group of observations (obs, observations)")
    front = f"{group}/" if group else ""
    arrays = _arrays(inside[seen], f"{front}{seen}/")
    wanted = [one.strip() for one in asked.state.split(",")] if asked.state else []
    rows = [one for one, shape in arrays.items() if len(shape) == 2]
    usual = ["qpos"] if "qpos" in arrays else sorted(rows)
    for one in wanted:
        if one not in arrays:
            raise ValueError(f"has no '{one}'.{nearest(one, arrays)}")
    chosen = wanted or usual
    if not chosen:
        raise ValueError("observes no rows of numbers")
    parts = [numbers_of(file, f"{front}{seen}/{one}") for one in chosen]
    parts = [part[:, None] if part.ndim == 1 else part for part in parts]
    if len({len(part) for part in parts}) > 1 or any(part.dtype.kind not in "biuf" for part in parts):
        raise ValueError("observes arrays that are not one row of numbers a step")
    states = np.concatenate(parts, axis=1).astype(np.float32)
    acted = next((one for one in ([asked.action] if asked.action else ACTED) if one in inside), None)
    actions = None if acted is None else numbers_of(file, front + acted).astype(np.float32)
    cameras = [one for one, shape in arrays.items() if len(shape) == 4]
    if asked.camera == "none" or (not asked.camera and not cameras):
        return Episode(name, states, actions), ""
    if asked.camera and asked.camera not in cameras:
        raise ValueError(f"has no camera '{asked.camera}'.{nearest(asked.camera, cameras)}")
    camera = asked.camera or cameras[0]
    if arrays[camera][0] < len(states):
        raise ValueError(f"has fewer pictures of {camera} than states")
    return Episode(name, states, actions), f"{front}{seen}/{camera}"


def _arrays(group: Any, path: str) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays of a group and of its ``images``, by their names within it."""
    found = {name: tuple(one.shape) for name, one in group.items() if hasattr(one, "shape")}
    if "images" in group and hasattr(group["images"], "keys"):
        inner = {f"images/{name}": tuple(one.shape) for name, one in group["images"].items()}
        found |= {name: shape for name, shape in inner.items() if len(shape) == 4}
    return found
