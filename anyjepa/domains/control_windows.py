"""Windows of episodes: what is seen and done at one step, and in the steps after it within the episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains.fingerprints import digest_of
from anyjepa.domains.image_files import check_finite
from anyjepa.domains.sources import choose

__all__ = ["Episode", "Pictures", "Window", "WindowSamples", "measured_windows", "noisy_windows", "window_of"]

RESIDENT = 2**27  # bytes of windows that are kept in memory at the most
SEEN = 100  # pictures that statistics are taken of


@dataclass(frozen=True)
class Window:
    """How windows are read.

    chunk: steps of a window. side: shorter side that pictures are scaled down to as they are decoded, 0 for
    as they are. state, action, camera: names in the data, empty for the usual ones; the camera ``none`` for
    no pictures.
    """

    chunk: int = 30
    side: int = 0
    state: str = ""
    action: str = ""
    camera: str = ""

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Window:
        """From what a recipe asks, where facts of other names may lie among it."""
        names = {"chunk": "chunk", "decode_side": "side", "state_name": "state", "action_name": "action",
                 "camera_name": "camera"}  # fmt: skip
        return cls(**{ours: asked[name] for name, ours in names.items() if asked.get(name) is not None})


@dataclass(frozen=True)
class Episode:
    """One demonstration. states: (steps, numbers). actions: (steps, numbers), None where unknown.

    task: its number, of each step (steps,) or of all.
    """

    name: str
    states: np.ndarray
    actions: np.ndarray | None = None
    task: int | np.ndarray = 0


@runtime_checkable
class Pictures(Protocol):
    """Where the pictures of episodes lie. Can be pickled."""

    def picture(self, episode: int, step: int) -> np.ndarray:
        """What was seen at a step, (height, width, channels). Raises BadSample."""
        ...


def window_of(
    states: np.ndarray,
    actions: np.ndarray | None,
    chunk: int,
    step: int = 0,
    task: int = 0,
    numbers: int = 1,
    image: np.ndarray | None = None,
) -> np.ndarray:
    """One array () of the fields states (chunk, numbers), actions (chunk, numbers), both float32, padded
    (chunk,) bool, acted () bool, task () int64, and image (height, width, channels) where one is given.

    The window begins at ``step`` of states (steps, numbers) and actions (steps, numbers); behind their end
    the last ones stand, and are marked as padded. Unknown actions are ``numbers`` zeros, and not ``acted``.
    """
    places = np.arange(step, step + chunk)
    inside = np.minimum(places, len(states) - 1)
    done = np.zeros((chunk, numbers), np.float32) if actions is None else actions[inside]
    kind: list[tuple] = [
        ("states", np.float32, (chunk, states.shape[1])),
        ("actions", np.float32, done.shape),
        ("padded", np.bool_, (chunk,)),
        ("acted", np.bool_),
        ("task", np.int64),
    ]
    if image is not None:
        kind.append(("image", image.dtype, image.shape))
    found = np.empty((), kind)
    found["states"], found["actions"], found["padded"] = states[inside], done, places >= len(states)
    found["acted"], found["task"] = actions is not None, task
    if image is not None:
        found["image"] = image
    return found


class WindowSamples:
    """A window from every step of every episode; satisfies the Samples protocol.

    kind: what the episodes are in the description. labels: (n,) one for each episode, or for each step of all
    of them, one after the other. groups: of each episode; its name where None. Episodes with numbers that are
    none, or of other sizes than the first whole one, are ``problems``. Raises UserError where none is left.

    Attributes: ``array`` is (n,) of the fields of `window_of` where there are no pictures and the windows
    are small together, else None.
    """

    def __init__(
        self,
        source: str,
        episodes: Sequence[Episode],
        kind: str,
        window: Window,
        pictures: Pictures | None = None,
        labels: np.ndarray | None = None,
        classes: list[str] | None = None,
        groups: np.ndarray | None = None,
        problems: Sequence[BadSample] = (),
        rate: float = 0.0,
    ) -> None:
        self.source, self.window, self.pictures, self.classes = source, window, pictures, classes
        self.rate, self.problems = rate, list(problems)
        self.places = self._whole(episodes)
        self.episodes = [episodes[place] for place in self.places]
        if not self.episodes:
            first = f", for instance {self.problems[0]}" if self.problems else ""
            raise UserError(f"{source} holds no episode that can be read{first}.")
        lengths = np.array([len(one.states) for one in self.episodes])
        self.ends = np.cumsum(lengths)
        known = [one.actions.shape[1] for one in self.episodes if one.actions is not None]
        self.numbers = known[0] if known else 1
        each = np.repeat(np.arange(len(self.episodes)), lengths)
        names = np.array([one.name for one in self.episodes])
        if groups is not None:
            own = groups[self.places]
            names = np.where(own == "", names, own)
        self.groups: np.ndarray | None = names[each]
        self.labels: np.ndarray | None = None
        if labels is not None and len(labels) == len(episodes):
            self.labels = labels[self.places][each]
        elif labels is not None:
            starts = np.cumsum([0] + [len(one.states) for one in episodes])
            self.labels = np.concatenate([labels[starts[n] : starts[n + 1]] for n in self.places])
        unknown = sum(one.actions is None for one in self.episodes)
        without = f", {unknown:,} of them without actions" if unknown else ""
        self.array: np.ndarray | None = None
        self.description = f"{len(self):,} steps of {len(self.episodes):,} {kind}{without}"
        self.array = self._resident()

    def __len__(self) -> int:
        return int(self.ends[-1])

    def place(self, index: int) -> tuple[int, int]:
        """Which episode a sample is of, and its step in that."""
        episode = int(np.searchsorted(self.ends, index, side="right"))
        return episode, int(index - (self.ends[episode - 1] if episode else 0))

    def read(self, index: int | np.integer) -> np.ndarray:
        """The window that begins at a step, as of `window_of`. Raises BadSample for a damaged picture."""
        if self.array is not None:
            return self.array[int(index), ...]
        episode, step = self.place(int(index))
        one, image = self.episodes[episode], None
        if self.pictures is not None:
            image = check_finite(self.pictures.picture(self.places[episode], step), self.identity(index))
        task = one.task if isinstance(one.task, int) else int(one.task[step])
        return window_of(one.states, one.actions, self.window.chunk, step, task, self.numbers, image)

    def identity(self, index: int | np.integer) -> str:
        """The episode's name and the step."""
        episode, step = self.place(int(index))
        return f"{self.episodes[episode].name}#{step}"

    def fingerprint(self) -> str:
        """Digest of names, of lengths, and of the states of episodes spread over the source."""
        names = (one.name for one in self.episodes)
        states = [one.states for one in self.episodes]
        return digest_of("windows", names, len(states), lambda place: len(states[place]), states)

    def _whole(self, episodes: Sequence[Episode]) -> list[int]:
        kept, shapes = [], None
        for place, one in enumerate(episodes):
            parts = [one.states] if one.actions is None else [one.states, one.actions]
            if any(part.ndim != 2 or not part.size or part.dtype.kind not in "biuf" for part in parts):
                self.problems.append(BadSample(one.name, "has states or actions that are no rows of numbers"))
            elif len({len(part) for part in parts}) > 1:
                self.problems.append(BadSample(one.name, "has not as many actions as states"))
            elif not all(np.isfinite(part).all() for part in parts):
                self.problems.append(BadSample(one.name, "holds NaN or infinite values"))
            else:
                wide = tuple(part.shape[1] for part in parts)
                shapes = shapes or wide
                if wide[0] != shapes[0] or (len(wide) > 1 and len(shapes) > 1 and wide[1] != shapes[1]):
                    self.problems.append(BadSample(one.name, "has other numbers than the episodes before"))
                    continue
                shapes = wide if len(wide) > len(shapes) else shapes
                kept.append(place)
        return kept

    def _resident(self) -> np.ndarray | None:
        if self.pictures is not None:
            return None
        first = self.read(0)
        if first.nbytes * len(self) > RESIDENT:
            return None
        found = np.empty(len(self), first.dtype)
        for index in range(len(self)):
            found[index] = self.read(index)
        return found


def measured_windows(samples: WindowSamples, seed: int) -> dict[str, Any]:
    """Mean, deviation and range of each number of a state and an action over all steps, tasks, and of
    pictures over 100 at the most, drawn with ``seed``, in the data's own units.
    """
    parts = {
        "state": [one.states for one in samples.episodes],
        "action": [one.actions for one in samples.episodes if one.actions is not None],
    }
    facts: dict[str, Any] = {"chunk": samples.window.chunk, "rate": samples.rate}
    for name, rows in parts.items():
        values = np.concatenate(rows).astype(np.float64) if rows else np.zeros((1, samples.numbers))
        for said, found in (("mean", values.mean(0)), ("std", values.std(0)),
                            ("low", values.min(0)), ("high", values.max(0))):  # fmt: skip
            facts[f"{name}_{said}"] = found.tolist()
    facts["tasks"] = 1 + max(int(np.max(one.task)) for one in samples.episodes)
    return facts | ({} if samples.pictures is None else _pictures(samples, seed))


def _pictures(samples: WindowSamples, seed: int) -> dict[str, Any]:
    chosen = choose(len(samples), SEEN, seed)
    sums, shapes, reason, dtype = [], [], "", ""
    for index in chosen:
        try:
            image = samples.read(int(index))["image"]
        except BadSample as problem:
            reason = f" ({problem})"
            continue
        if shapes and image.shape[2] != shapes[0][2]:
            continue
        rows = image.reshape(-1, image.shape[2]).astype(np.float64)
        sums.append((rows.mean(0), (rows**2).mean(0)))
        shapes.append(image.shape)
        dtype = dtype or str(image.dtype)
    if not sums:
        raise UserError(f"{samples.source} holds no picture that can be read{reason}: --camera-name none.")
    mean, square = np.mean(sums, axis=0)
    return {
        "channels": shapes[0][2],
        "dtype": dtype,
        "mean": mean.tolist(),
        "std": np.sqrt(np.maximum(square - mean**2, 0)).tolist(),
        "height": int(np.median([shape[0] for shape in shapes])),
        "width": int(np.median([shape[1] for shape in shapes])),
    }


def noisy_windows(facts: Mapping[str, Any], count: int) -> list[np.ndarray]:
    """Windows of independent normal numbers, and pixels, with the statistics of the data."""
    random, found = np.random.default_rng(0), []
    for _ in range(count):
        states, actions = (
            random.normal(
                facts[f"{name}_mean"], facts[f"{name}_std"], (facts["chunk"], len(facts[f"{name}_mean"]))
            ).astype(np.float32)
            for name in ("state", "action")
        )
        image = None
        if "channels" in facts:
            size = (facts["height"], facts["width"], facts["channels"])
            image = random.normal(facts["mean"], facts["std"], size).astype(np.float32)
        found.append(window_of(states, actions, facts["chunk"], image=image))
    return found
