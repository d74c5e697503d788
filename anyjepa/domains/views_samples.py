"""Several views of each thing, with the pose of each: what a sample is, and which views a step sees."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains.fingerprints import digest_of
from anyjepa.domains.image_files import check_finite, conform, decode

__all__ = [
    "NUMBERS",
    "ArrayViews",
    "FileViews",
    "OneByOne",
    "Poses",
    "ViewSamples",
    "Views",
    "Wanted",
    "record",
]

NUMBERS = {"quaternion": 4, "turn": 1, "none": 0}


@dataclass(frozen=True)
class Poses:
    """What the numbers of a pose are.

    rotation: the first numbers are a quaternion (x, y, z, w), one angle in radians, or no rotation.
    others: names of the numbers behind it.
    """

    rotation: str
    others: tuple[str, ...] = ()

    @property
    def numbers(self) -> int:
        """How many numbers a pose has."""
        return NUMBERS[self.rotation] + len(self.others)


@dataclass(frozen=True)
class Wanted:
    """How many views of a thing a step of training sees, and how many in use."""

    drawn: int = 4
    seen: int = 5

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Wanted:
        """From what a recipe asks."""
        names = {"views_drawn": "drawn", "views_seen": "seen"}
        return cls(**{ours: int(asked[name]) for name, ours in names.items() if asked.get(name)})


@runtime_checkable
class Views(Protocol):
    """Where the views of things lie. Can be pickled."""

    poses: Poses

    def __len__(self) -> int: ...

    def count(self, thing: int) -> int:
        """How many views there are of it."""
        ...

    def identity(self, thing: int) -> str:
        """Unique in the source."""
        ...

    def size(self, thing: int) -> int:
        """Bytes of its first view where it lies."""
        ...

    def image(self, thing: int, view: int) -> np.ndarray:
        """(height, width, channels). Raises BadSample."""
        ...

    def pose(self, thing: int, view: int) -> np.ndarray:
        """(numbers,) float32. Raises BadSample."""
        ...


class ArrayViews:
    """Views in one array (n, views, height, width, channels), poses (n, views, numbers)."""

    def __init__(self, values: np.ndarray, turned: np.ndarray, poses: Poses) -> None:
        self.values, self.turned, self.poses = values, turned.astype(np.float32), poses

    def __len__(self) -> int:
        return len(self.values)

    def count(self, thing: int) -> int:
        """The same for all."""
        return self.values.shape[1]

    def identity(self, thing: int) -> str:
        """The row number."""
        return str(thing)

    def size(self, thing: int) -> int:
        """Bytes of one view."""
        return self.values[thing, 0].nbytes

    def image(self, thing: int, view: int) -> np.ndarray:
        """A view; raises BadSample for NaN and infinity."""
        return check_finite(self.values[thing, view], self.identity(thing))

    def pose(self, thing: int, view: int) -> np.ndarray:
        """Its pose; raises BadSample for NaN and infinity."""
        return check_finite(self.turned[thing, view], f"the pose of {self.identity(thing)}")


class FileViews:
    """Views in image files below a folder.

    names: of the files of each thing. turned: (views, numbers) of each, NaN where a pose is damaged.
    identities: of the things.
    """

    def __init__(
        self,
        root: str,
        names: Sequence[Sequence[str]],
        turned: Sequence[np.ndarray],
        poses: Poses,
        identities: Sequence[str],
    ) -> None:
        self.root, self.names, self.turned, self.poses = root, names, turned, poses
        self.identities = identities

    def __len__(self) -> int:
        return len(self.names)

    def count(self, thing: int) -> int:
        """How many files it has."""
        return len(self.names[thing])

    def identity(self, thing: int) -> str:
        """Its name."""
        return self.identities[thing]

    def size(self, thing: int) -> int:
        """Bytes of the first file."""
        return os.stat(os.path.join(self.root, self.names[thing][0])).st_size

    def image(self, thing: int, view: int) -> np.ndarray:
        """A file, decoded; raises BadSample."""
        name = self.names[thing][view]
        try:
            with open(os.path.join(self.root, name), "rb") as file:
                content = file.read()
        except OSError as error:
            raise BadSample(name, error.strerror or str(error)) from None
        return decode(content, name)

    def pose(self, thing: int, view: int) -> np.ndarray:
        """Of that file; raises BadSample where it was not finite."""
        return check_finite(self.turned[thing][view].astype(np.float32), f"{self.names[thing][view]} (pose)")


def record(images: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """One array () with the fields image (views, height, width, channels) and pose (views, numbers)."""
    one = np.empty((), [("image", images.dtype, images.shape), ("pose", np.float32, poses.shape)])
    one["image"], one["pose"] = images, poses
    return one


class ViewSamples:
    """Things seen from several sides; satisfies the Samples protocol.

    A thing is a sample. Where every thing is a class of its own it counts as several: each is a part of its
    views, and no two share one, but a step of training draws from all of them.

    labels: one for each thing of the store; their own numbers where None is given and `own` is set.

    Raises UserError where no thing has as many views as are wanted.
    """

    array = None

    def __init__(
        self,
        source: str,
        store: Views,
        kind: str,
        wanted: Wanted,
        labels: np.ndarray | None = None,
        classes: list[str] | None = None,
        own: bool = False,
        problems: Sequence[BadSample] = (),
    ) -> None:
        self.source, self.store, self.wanted, self.classes = source, store, wanted, classes
        self.problems, self.poses = list(problems), store.poses
        most = max(wanted.drawn, wanted.seen)
        self.parts: list[tuple[int, int, int]] = []
        for thing in range(len(store)):
            views = store.count(thing)
            if views < most:
                reason = f"has {views} views, fewer than the {most} that are asked for"
                self.problems.append(BadSample(store.identity(thing), reason))
                continue
            parts = views // wanted.seen if own else 1
            self.parts += [(thing, part, parts) for part in range(parts)]
        if not self.parts:
            raise UserError(
                f"{source} has no thing with {most} views: ask for fewer with --predicted-from and --seen, "
                "or make views of single images with --transformation."
            )
        things = np.array([thing for thing, _, _ in self.parts])
        if own and labels is None:
            labels, self.classes = np.arange(len(store)), [store.identity(n) for n in range(len(store))]
        self.labels = None if labels is None else labels[things]
        cut = len(self.parts) > len(np.unique(things))
        self.groups: np.ndarray | None = None
        if cut and not own:
            self.groups = np.array([store.identity(int(thing)) for thing in things])
        first = next(iter(self._readable()))
        self.channels, self.dtype = first.shape[2], first.dtype
        several = f", cut into {len(self.parts):,} parts" if cut else ""
        self.description = f"{len(np.unique(things)):,} {kind}{several}"

    def _readable(self) -> Sequence[np.ndarray]:
        last: BadSample | None = None
        for thing, _, _ in self.parts:
            try:
                return [self.store.image(thing, 0)]
            except BadSample as problem:
                last = problem
        raise UserError(f"{self.source} holds no readable view: {last}")

    def __len__(self) -> int:
        return len(self.parts)

    def read(self, index: int | np.integer) -> np.ndarray:
        """As many views as are seen in use, evenly among those of the sample, as `record`."""
        thing, part, parts = self.parts[int(index)]
        own = np.arange(part, self.store.count(thing), parts)
        return self._record(thing, own[np.arange(self.wanted.seen) * len(own) // self.wanted.seen])

    def read_part(self, index: int | np.integer, uniforms: np.ndarray) -> np.ndarray:
        """As many as a step sees, any of the thing's, in any order, by the sample's uniforms."""
        thing, _, _ = self.parts[int(index)]
        # as many draws as there may be views come from the two numbers that no recipe of images draws by
        seed = (uniforms[-2:] * 2**32).astype(np.uint64).tolist()
        order = np.random.default_rng(seed).permutation(self.store.count(thing))
        return self._record(thing, order[: self.wanted.drawn])

    def _record(self, thing: int, views: np.ndarray) -> np.ndarray:
        name = self.store.identity(thing)
        images = [
            conform(self.store.image(thing, view), self.channels, self.dtype, name) for view in views.tolist()
        ]
        if len({image.shape for image in images}) > 1:
            raise BadSample(name, "has views of several sizes")
        return record(np.stack(images), np.stack([self.store.pose(thing, view) for view in views.tolist()]))

    def identity(self, index: int | np.integer) -> str:
        """The thing's name, and the part where it counts as several."""
        thing, part, parts = self.parts[int(index)]
        return self.store.identity(thing) + (f"#{part}" if parts > 1 else "")

    def fingerprint(self) -> str:
        """Digest of the names of things, of how many views each has, and of sizes; of arrays, of rows."""
        store = self.store
        head = f"{len(store)} {store.poses}"
        if isinstance(store, ArrayViews):
            return digest_of(head, (), len(store), store.size, [*store.values[:, 0], *store.turned])
        names = (f"{store.identity(thing)} {store.count(thing)}" for thing in range(len(store)))
        return digest_of(head, names, len(store), store.size)


class OneByOne:
    """The views of samples as if each sample were but one of them, for what measures images."""

    def __init__(self, samples: ViewSamples) -> None:
        self.samples, self.source, self.description = samples, samples.source, samples.description
        self.labels, self.classes, self.groups = samples.labels, samples.classes, samples.groups
        self.problems = samples.problems

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> np.ndarray:
        """Another view of each next sample."""
        found = self.samples.read(index)["image"]
        return found[index % len(found)]

    def identity(self, index: int) -> str:
        """The sample's."""
        return self.samples.identity(index)

    def fingerprint(self) -> str:
        """That of the samples."""
        return self.samples.fingerprint()
