"""The clips of one source: where videos lie, how they are cut into samples, and which frames are read."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains.fingerprints import digest_of
from anyjepa.domains.image_files import check_finite, plain
from anyjepa.domains.video_files import Header, read_frames, read_header, read_sequence

__all__ = ["ArrayVideos", "FileVideos", "Reading", "SequenceVideos", "VideoSamples", "Videos"]

GREY = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


@dataclass(frozen=True)
class Reading:
    """How clips are read.

    frames: of a clip. rate: of its frames, in Hz; 0 takes frames as they come. side: shorter side that
    frames are scaled down to as they are decoded, 0 for as they are. seconds: a longer video counts as
    several samples of at least this length. shortest: share of a clip that a video must last. frame_rate:
    frames a second of image sequences and arrays, which do not say; 0 for ``rate``. channels: that every
    clip is brought to, None as they come. tubelet: frames of a token, for drawing. clips: of
    a sample, evenly spaced, one after the other, where it is read for use.
    """

    frames: int = 16
    rate: float = 0.0
    side: int = 0
    seconds: float = 10.0
    shortest: float = 0.5
    frame_rate: float = 0.0
    channels: int | None = None
    tubelet: int = 2
    clips: int = 1

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Reading:
        """From what a recipe asks, where facts of other names may lie among it."""
        names = {"frames": "frames", "fps": "rate", "decode_side": "side", "video_seconds": "seconds",
                 "shortest": "shortest", "frame_rate": "frame_rate", "channels": "channels",
                 "tubelet": "tubelet", "clips": "clips"}  # fmt: skip
        return cls(**{ours: asked[name] for name, ours in names.items() if asked.get(name) is not None})

    @property
    def span(self) -> float:
        """Seconds of a clip; frames of it where there is no rate."""
        return self.frames / (self.rate or 1.0)

    def times(self, start: float) -> np.ndarray:
        """Of a clip's frames."""
        return start + np.arange(self.frames) / (self.rate or 1.0)


@runtime_checkable
class Videos(Protocol):
    """Where videos lie. Can be pickled."""

    def __len__(self) -> int: ...

    def identity(self, index: int) -> str:
        """Unique in the source."""
        ...

    def size(self, index: int) -> int:
        """Bytes that it takes."""
        ...

    def length(self, index: int) -> float:
        """Seconds; 0 for a still picture. Raises BadSample."""
        ...

    def frames(self, index: int, times: np.ndarray) -> np.ndarray:
        """(times, height, width, channels) at times in seconds. Raises BadSample."""
        ...


class FileVideos:
    """Video files below a folder, by relative paths; among them may be single images, which are still."""

    def __init__(self, root: str, names: Sequence[str], reading: Reading) -> None:
        self.root, self.names, self.side, self.rate = root, list(names), reading.side, reading.rate

    def __len__(self) -> int:
        return len(self.names)

    def _path(self, index: int) -> str:
        return os.path.join(self.root, self.names[index])

    def identity(self, index: int) -> str:
        """The relative path."""
        return self.names[index]

    def size(self, index: int) -> int:
        """Bytes of the file."""
        return os.stat(self._path(index)).st_size

    def header(self, index: int) -> Header:
        """Length and rate as the file says. Raises BadSample."""
        return read_header(self._path(index), self.names[index])

    def length(self, index: int) -> float:
        """Seconds; in frames where clips take frames as they come."""
        header = self.header(index)
        return header.seconds if self.rate else header.seconds * (header.rate or 1.0)

    def frames(self, index: int, times: np.ndarray) -> np.ndarray:
        """RGB frames at these times."""
        if not self.rate:
            times = times / (self.header(index).rate or 1.0)
        return read_frames(self._path(index), self.names[index], times, self.side)


class SequenceVideos:
    """Folders of images, each folder one video, or each image a still."""

    def __init__(self, root: str, folders: Mapping[str, Sequence[str]], reading: Reading) -> None:
        self.root, self.folders = root, {name: list(files) for name, files in folders.items()}
        self.names = list(self.folders)
        self.rate = (reading.frame_rate or reading.rate or 1.0) if reading.rate else 1.0

    def __len__(self) -> int:
        return len(self.names)

    def identity(self, index: int) -> str:
        """The folder's relative path, or that of the image."""
        return self.names[index]

    def size(self, index: int) -> int:
        """Number of frames: their bytes would need a look at every file."""
        return len(self.folders[self.names[index]])

    def length(self, index: int) -> float:
        """Seconds."""
        count = len(self.folders[self.names[index]])
        return count / self.rate if count > 1 else 0.0

    def frames(self, index: int, times: np.ndarray) -> np.ndarray:
        """Images at these times."""
        name = self.names[index]
        files = self.folders[name]
        if len(files) == 1:
            times = np.zeros(1)
        return read_sequence(self.root, files, name, times * self.rate)


class ArrayVideos:
    """Clips that are one array (n, frames, height, width, channels), named by row numbers."""

    def __init__(self, values: np.ndarray, reading: Reading, rate: float = 0.0) -> None:
        self.values = values
        self.rate = (rate or reading.frame_rate or reading.rate or 1.0) if reading.rate else 1.0

    def __len__(self) -> int:
        return len(self.values)

    def identity(self, index: int) -> str:
        """The row number."""
        return str(index)

    def size(self, index: int) -> int:
        """Bytes of one clip."""
        return self.values[index].nbytes

    def length(self, index: int) -> float:
        """Seconds."""
        return self.values.shape[1] / self.rate if self.values.shape[1] > 1 else 0.0

    def frames(self, index: int, times: np.ndarray) -> np.ndarray:
        """Frames at these times; raises BadSample for NaN and infinity."""
        count = self.values.shape[1]
        # a frame is shown until the next one is due
        chosen = np.clip(np.floor(times * self.rate + 1e-4).astype(int), 0, count - 1)
        return check_finite(
            plain(self.values[index][chosen if count > 1 else slice(1)]), self.identity(index)
        )


class VideoSamples:
    """Stretches of videos, one sample each; satisfies the Samples protocol.

    labels, groups: one for each video of the store. kind: what the videos are in the description.
    Raises UserError where none can be read.

    Attributes: ``array`` is (n, frames, height, width, channels) where all clips are in memory, whole and at
    the rate that is wanted, else None. ``pieces`` are (video, start, end in seconds) of each sample.
    """

    def __init__(
        self,
        source: str,
        store: Videos,
        kind: str,
        reading: Reading,
        labels: np.ndarray | None = None,
        classes: list[str] | None = None,
        groups: np.ndarray | None = None,
        problems: Sequence[BadSample] = (),
    ) -> None:
        self.source, self.store, self.reading, self.classes = source, store, reading, classes
        self.problems = list(problems)
        self.pieces = self._cut()
        videos = np.array([video for video, _, _ in self.pieces])
        self.labels = None if labels is None else labels[videos]
        # pieces of one video belong together, whoever is in it
        own = np.array([store.identity(index) for index in range(len(store))])
        self.groups: np.ndarray | None = (own if groups is None else np.where(groups == "", own, groups))[
            videos
        ]
        self.array = self._resident()
        if isinstance(store, ArrayVideos) and groups is None:
            self.groups = None
        several = f", cut into {len(self.pieces):,} samples" if len(self.pieces) > len(set(videos)) else ""
        self.description = f"{len(set(videos)):,} {kind}{several}"

    def __len__(self) -> int:
        return len(self.pieces)

    def read(self, index: int | np.integer) -> np.ndarray:
        """The middle clip (frames, height, width, channels) of a sample; one frame of a still.

        Where several clips are asked for, these one after the other. Raises BadSample where it is damaged.
        """
        count = self.reading.clips
        if count == 1:
            return self._clip(int(index), 0.5)
        return np.concatenate([self._clip(int(index), (number + 0.5) / count) for number in range(count)])

    @property
    def stated(self) -> dict[str, Any]:
        """How clips were read, for who packs them."""
        return {"read_with": dataclasses.asdict(self.reading)}

    def read_part(self, index: int | np.integer, uniforms: np.ndarray) -> np.ndarray:
        """A clip at a random time, by the sixth of the sample's uniforms; else as `read`."""
        return self._clip(int(index), float(uniforms[5]))

    def _clip(self, index: int, chance: float) -> np.ndarray:
        video, start, end = self.pieces[index]
        room = max(0.0, end - start - self.reading.span)
        frames = self.store.frames(video, self.reading.times(start + chance * room))
        return self._conform(frames, self.identity(index))

    def _conform(self, frames: np.ndarray, identity: str) -> np.ndarray:
        wanted, found = self.reading.channels, frames.shape[3]
        if wanted is None or wanted == found:
            return frames
        if wanted == 3 and found == 1:
            return np.repeat(frames, 3, axis=3)
        if wanted == 1 and found == 3:
            grey = frames.astype(np.float32) @ np.array(GREY, np.float32)[:, None]
            return np.rint(grey).astype(frames.dtype) if frames.dtype.kind in "iu" else grey
        raise BadSample(identity, f"has {found} channels instead of {wanted}")

    def identity(self, index: int | np.integer) -> str:
        """Relative path or row number, and the stretch where a video counts as several."""
        video, start, end = self.pieces[int(index)]
        name = self.store.identity(video)
        return name if start == 0 and self._single(video, end) else f"{name}#t={start:.2f},{end:.2f}"

    def _single(self, video: int, end: float) -> bool:
        return video not in self._several

    def fingerprint(self) -> str:
        """Digest of all names and of the sizes of at most 4,096 videos; of an array, of 64 of its rows."""
        names = (self.store.identity(index) for index in range(len(self.store)))
        values = self.store.values if isinstance(self.store, ArrayVideos) else None
        return digest_of(str(len(self.store)), names, len(self.store), self.store.size, values)

    def _cut(self) -> list[tuple[int, float, float]]:
        """Every video, or equal parts of it where it is long; short and damaged ones become problems."""

        def length(index: int) -> float | BadSample:
            try:
                return self.store.length(index)
            except BadSample as problem:
                return problem

        with ThreadPoolExecutor(max_workers=8) as pool:
            lengths = list(pool.map(length, range(len(self.store))))
        pieces, span, self._several = [], self.reading.span, set()
        unit = "s" if self.reading.rate else "frames"
        for index, found in enumerate(lengths):
            if isinstance(found, BadSample):
                self.problems.append(found)
            elif 0 < found < self.reading.shortest * span - 1e-6:
                self.problems.append(
                    BadSample(
                        self.store.identity(index),
                        f"lasts {found:.3g} {unit}, less than {self.reading.shortest:.0%} of a clip of "
                        f"{span:.3g} {unit} (--frames, --fps, --shortest)",
                    )
                )
            else:
                least = max(self.reading.seconds if self.reading.rate else 0.0, span)
                parts = max(1, int(found // least)) if self.reading.rate else 1
                edges = np.linspace(0, found, parts + 1).tolist()
                pieces += [(index, edges[part], edges[part + 1]) for part in range(parts)]
                if parts > 1:
                    self._several.add(index)
        if not pieces:
            first = f", for instance {self.problems[0]}" if self.problems else ""
            raise UserError(f"{self.source} holds no usable video{first}: give videos that open.")
        return pieces

    def _resident(self) -> np.ndarray | None:
        store, reading = self.store, self.reading
        if not isinstance(store, ArrayVideos) or isinstance(store.values, np.memmap):
            return None
        values = store.values
        whole = len(self.pieces) == len(values) and values.shape[1] == reading.frames
        fits = reading.channels in (None, values.shape[4]) and store.rate == (reading.rate or 1.0)
        return values if whole and fits and values.dtype == np.uint8 else None
