"""Clips of trajectories: what was seen, in which state, and what was done, at a rate that is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains.image_files import check_finite

__all__ = [
    "MOTIONS",
    "ArrayTrajectories",
    "ControlSamples",
    "Motion",
    "Trajectories",
    "actions_of",
    "clip_of",
]

MOTIONS = ("pose", "sum", "given")
HASHED = 64


@dataclass(frozen=True)
class Motion:
    """How clips of trajectories are read.

    frames: of a clip. rate: of its frames, in Hz; 0 takes frames as they come. side: shorter side that frames
    are scaled down to as they are decoded, 0 for as they are. motion: what an action is, one of `MOTIONS`:
    the difference of two poses, of any two states, or what the data gives. state, action, camera: names in
    the data, empty for the usual ones.
    """

    frames: int = 8
    rate: float = 0.0
    side: int = 0
    motion: str = "given"
    state: str = ""
    action: str = ""
    camera: str = ""

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Motion:
        """From what a recipe asks, where facts of other names may lie among it."""
        names = {"frames": "frames", "fps": "rate", "decode_side": "side", "motion": "motion",
                 "state_name": "state", "action_name": "action", "camera_name": "camera"}  # fmt: skip
        return cls(**{ours: asked[name] for name, ours in names.items() if asked.get(name) is not None})


@runtime_checkable
class Trajectories(Protocol):
    """Where trajectories lie. Can be pickled."""

    def __len__(self) -> int: ...

    def identity(self, index: int) -> str:
        """Unique in the source."""
        ...

    def size(self, index: int) -> int:
        """Bytes that it takes."""
        ...

    def extent(self, index: int) -> tuple[int, float]:
        """Number of frames, and frames a second (0 where unknown). Raises BadSample."""
        ...

    def read(self, index: int, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Of the frames at these numbers: pictures (n, height, width, channels), states (n, numbers), and
        the actions that follow each of them (n, numbers), None where there are none. Raises BadSample.
        """
        ...


class ArrayTrajectories:
    """Trajectories of one length in arrays, named by row numbers.

    video: (n, frames, height, width, channels). states: (n, frames, numbers). actions: (n, frames or one
    less, numbers), or None. rate: frames a second, 0 where unknown.
    """

    def __init__(
        self, video: np.ndarray, states: np.ndarray, actions: np.ndarray | None, rate: float = 0.0
    ) -> None:
        self.video, self.states, self.actions, self.rate = video, states, actions, rate

    def __len__(self) -> int:
        return len(self.video)

    def identity(self, index: int) -> str:
        """The row number."""
        return str(index)

    def size(self, index: int) -> int:
        """Bytes of the pictures."""
        return self.video[index].nbytes

    def extent(self, index: int) -> tuple[int, float]:
        """Frames and rate."""
        return self.video.shape[1], self.rate

    def read(self, index: int, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Rows of the arrays."""
        actions = self.actions
        if actions is not None:
            actions = actions[index][np.minimum(chosen, actions.shape[1] - 1)]
        return self.video[index][chosen], self.states[index][chosen], actions


def actions_of(states: np.ndarray, motion: str) -> np.ndarray:
    """Actions (n - 1, numbers) float32 between states (n, numbers) that follow each other.

    Raises ValueError for poses that are not of 7 numbers.
    """
    if motion == "sum":
        return np.diff(states.astype(np.float64), axis=0).astype(np.float32)
    import torch

    from anyjepa.core.poses import POSE, differences

    if states.shape[1] != POSE:
        raise ValueError(f"a state of {states.shape[1]} numbers is no pose, which has {POSE}")
    return differences(torch.from_numpy(states.astype(np.float64))).float().numpy()


def clip_of(video: np.ndarray, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """One array () of the fields video (frames, height, width, channels), states (frames, numbers) and
    actions (frames - 1, numbers), the last two float32; or such (n,) where all have one axis more.
    """
    parts = {
        "video": video,
        "states": states.astype(np.float32, copy=False),
        "actions": actions.astype(np.float32, copy=False),
    }
    many = video.ndim == 5
    kind = [(name, part.dtype, part.shape[int(many) :]) for name, part in parts.items()]
    clip = np.empty(len(video) if many else (), kind)
    for name, part in parts.items():
        clip[name] = part
    return clip


class ControlSamples:
    """Clips of trajectories, as long as one clip each; satisfies the Samples protocol.

    labels, groups: one for each trajectory of the store. kind: what they are in the description. Raises
    UserError where none can be read.

    Attributes: ``array`` is (n,) of the fields of `clip_of` where all clips are in memory and as they are
    wanted, else None. ``pieces`` are (trajectory, first frame, frame behind the last) of each sample.
    """

    def __init__(
        self,
        source: str,
        store: Trajectories,
        kind: str,
        reading: Motion,
        labels: np.ndarray | None = None,
        classes: list[str] | None = None,
        groups: np.ndarray | None = None,
        problems: Sequence[BadSample] = (),
    ) -> None:
        self.source, self.store, self.reading, self.classes = source, store, reading, classes
        self.problems = list(problems)
        self.stride: dict[int, float] = {}
        self.pieces = self._cut()
        whole = np.array([trajectory for trajectory, _, _ in self.pieces])
        self.labels = None if labels is None else labels[whole]
        own = np.array([store.identity(index) for index in range(len(store))])
        self.groups: np.ndarray | None = (own if groups is None else np.where(groups == "", own, groups))[
            whole
        ]
        self.array = self._resident()
        if len(self.pieces) == len(set(whole.tolist())) and groups is None:
            self.groups = None
        several = "" if self.groups is None else f", cut into {len(self.pieces):,} clips"
        self.description = f"{len(set(whole.tolist())):,} {kind}{several}"

    def __len__(self) -> int:
        return len(self.pieces)

    def read(self, index: int | np.integer) -> np.ndarray:
        """The middle clip of a sample, as of `clip_of`. Raises BadSample where it is damaged."""
        return self._clip(int(index), 0.5)

    def read_part(self, index: int | np.integer, uniforms: np.ndarray) -> np.ndarray:
        """A clip at a random time, by the sixth of the sample's uniforms; else as `read`."""
        return self._clip(int(index), float(uniforms[5]))

    def _clip(self, index: int, chance: float) -> np.ndarray:
        trajectory, start, end = self.pieces[index]
        name, reading = self.identity(index), self.reading
        stride = self.stride[trajectory]
        room = end - start - 1 - (reading.frames - 1) * stride
        first = start + int(chance * (max(0.0, room) + 1))
        first = min(first, end - 1 - int(np.ceil((reading.frames - 1) * stride)))
        chosen = np.rint(max(first, start) + np.arange(reading.frames) * stride).astype(int)
        video, states, actions = self.store.read(trajectory, np.minimum(chosen, end - 1))
        check_finite(video, name)
        check_finite(states, name)
        if reading.motion == "given":
            if actions is None:
                raise BadSample(name, "says of no actions (--motion sum takes the differences of states)")
            actions = check_finite(actions[:-1], name)
        else:
            try:
                actions = actions_of(states, reading.motion)
            except ValueError as problem:
                raise BadSample(name, f"{problem} (--motion sum)") from None
        return clip_of(video, states, actions)

    def identity(self, index: int | np.integer) -> str:
        """The trajectory's name, and the frames where it counts as several."""
        trajectory, start, end = self.pieces[int(index)]
        name = self.store.identity(trajectory)
        return name if self.groups is None else f"{name}#{start}-{end}"

    def fingerprint(self) -> str:
        """Digest of all names and of the sizes of the trajectories; of arrays, of 64 of their rows."""
        digest, count = hashlib.sha256(f"{len(self.store)}\n".encode()), len(self.store)
        for index in range(count):
            digest.update(self.store.identity(index).encode("utf-8", "surrogateescape") + b"\n")
            digest.update(f"{self.store.size(index)}\n".encode())
        if isinstance(self.store, ArrayTrajectories):
            for index in np.linspace(0, count - 1, min(count, HASHED)).astype(int):
                for part in (self.store.video, self.store.states, self.store.actions):
                    if part is not None:
                        digest.update(np.ascontiguousarray(part[index]).tobytes())
        return digest.hexdigest()

    def _cut(self) -> list[tuple[int, int, int]]:
        """Every trajectory, or equal parts of it where it is long; short and damaged ones become problems."""

        def extent(index: int) -> tuple[int, float] | BadSample:
            try:
                return self.store.extent(index)
            except BadSample as problem:
                return problem

        with ThreadPoolExecutor(max_workers=8) as pool:
            extents = list(pool.map(extent, range(len(self.store))))
        pieces, asked = [], self.reading
        for index, found in enumerate(extents):
            if isinstance(found, BadSample):
                self.problems.append(found)
                continue
            frames, rate = found
            stride = rate / asked.rate if rate and asked.rate else 1.0
            if asked.motion == "given" and abs(stride - 1) > 1e-3:
                raise UserError(
                    f"{self.source} gives {rate:g} actions a second, and --fps {asked.rate:g} would pass "
                    "over some: leave frames as they come with --fps 0, or take the differences of "
                    "states with --motion sum."
                )
            needed = int(np.ceil((asked.frames - 1) * stride)) + 1
            if frames < needed:
                short = f"has {frames} frames, and a clip is {needed} of them (--frames, --fps)"
                self.problems.append(BadSample(self.store.identity(index), short))
                continue
            self.stride[index] = stride
            edges = np.linspace(0, frames, frames // needed + 1).astype(int).tolist()
            pieces += [(index, edges[part], edges[part + 1]) for part in range(len(edges) - 1)]
        if not pieces:
            first = f", for instance {self.problems[0]}" if self.problems else ""
            raise UserError(f"{self.source} holds no usable trajectory{first}.")
        return pieces

    def _resident(self) -> np.ndarray | None:
        store, reading = self.store, self.reading
        if not isinstance(store, ArrayTrajectories) or len(self.pieces) != len(store):
            return None
        # what must be looked at for numbers that are none is read one by one
        if store.video.shape[1] != reading.frames or store.video.dtype != np.uint8:
            return None
        if reading.motion != "given" or store.actions is None:
            return None
        if not (np.isfinite(store.states).all() and np.isfinite(store.actions).all()):
            return None
        return clip_of(store.video, store.states, store.actions[:, : reading.frames - 1])
