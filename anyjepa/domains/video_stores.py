"""Videos that lie in something else than files of their own: tar shards, hub data sets and HDF5 files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from anyjepa.core.errors import BadSample, UserError, require
from anyjepa.domains import hub
from anyjepa.domains.hdf5_files import checked, open_hdf5
from anyjepa.domains.image_files import check_finite
from anyjepa.domains.sources import as_labels
from anyjepa.domains.tar_shards import TarShards, find_shards
from anyjepa.domains.video_files import VIDEOS, Header, read_frames, read_header
from anyjepa.domains.video_samples import Reading

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["EncodedVideos", "Hdf5Videos", "HubVideos", "ShardVideos", "hub_videos", "shard_videos"]

LABEL_MEMBERS = ("cls", "txt", "label")
COLUMNS = ("video", "videos", "clip", "mp4", "bytes")


class EncodedVideos(ABC):
    """Videos as encoded bytes; what is left to say is where the bytes are."""

    side: int
    rate: float

    @abstractmethod
    def content(self, index: int) -> bytes | str:
        """The whole video, or the path of its file. Raises BadSample."""

    @abstractmethod
    def identity(self, index: int) -> str:
        """Unique in the source."""

    def _header(self, index: int) -> Header:
        return read_header(self.content(index), self.identity(index))

    def length(self, index: int) -> float:
        """Seconds; in frames where clips take frames as they come."""
        header = self._header(index)
        return header.seconds if self.rate else header.seconds * (header.rate or 1.0)

    def frames(self, index: int, times: np.ndarray) -> np.ndarray:
        """RGB frames at these times."""
        if not self.rate:
            times = times / (self._header(index).rate or 1.0)
        return read_frames(self.content(index), self.identity(index), times, self.side)


class ShardVideos(EncodedVideos):
    """Videos in tar shards, by their keys. rows, extensions: of the samples that hold one."""

    def __init__(self, shards: TarShards, rows: np.ndarray, extensions: list[str], reading: Reading) -> None:
        self.shards, self.rows, self.extensions = shards, rows, extensions
        self.side, self.rate = reading.side, reading.rate

    def __len__(self) -> int:
        return len(self.rows)

    def content(self, index: int) -> bytes:
        """The member's bytes."""
        try:
            return self.shards.read(self.extensions[index], int(self.rows[index]))
        except OSError as problem:
            raise BadSample(self.identity(index), problem.strerror or str(problem)) from None

    def identity(self, index: int) -> str:
        """The key."""
        return self.shards.keys[self.rows[index]]

    def size(self, index: int) -> int:
        """Bytes of the member."""
        return int(self.shards.members[self.extensions[index]][self.rows[index], 2])


def shard_videos(
    source: str, split: str | None, reading: Reading
) -> tuple[ShardVideos, np.ndarray | None, list[str] | None, list[BadSample]]:
    """The videos of ``wds:PATTERN``, their labels and classes (members .cls or .txt), and what is damaged.

    Raises UserError where there is none, NoSplit.
    """
    shards = TarShards(find_shards(source.removeprefix("wds:"), split))
    kinds = [name for name in shards.members if f".{name.rpartition('.')[2]}" in VIDEOS]
    chosen: dict[int, str] = {}
    for name in reversed(kinds):
        chosen |= dict.fromkeys(np.flatnonzero(shards.members[name][:, 0] >= 0).tolist(), name)
    problems = shards.problems + [
        BadSample(shards.keys[row], "has no video among its members")
        for row in range(len(shards.keys))
        if row not in chosen
    ]
    if not chosen:
        reason = f", for instance {problems[0]}" if problems else ""
        raise UserError(f"{source} holds no video{reason}: give shards with mp4, webm, mkv or gif members.")
    rows = sorted(chosen)
    label = next((name for name in LABEL_MEMBERS if name in shards.members), None)
    found, classes = None, None
    if label is not None:
        found, classes = as_labels([_text(shards, label, row) for row in rows])
    store = ShardVideos(shards, np.array(rows), [chosen[row] for row in rows], reading)
    return store, found, classes, problems


def _text(shards: TarShards, member: str, row: int) -> str | None:
    if shards.members[member][row, 0] < 0:
        return None
    try:
        return shards.read(member, row).decode("utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


class HubVideos(EncodedVideos):
    """Videos in a column of a hub data set: of its kind Video, of bytes, or of paths."""

    def __init__(self, table: Dataset, column: str, reading: Reading) -> None:
        self.table, self.column = table, column
        self.side, self.rate = reading.side, reading.rate

    def __len__(self) -> int:
        return len(self.table)

    def content(self, index: int) -> bytes | str:
        """The bytes, or the path of the file that a row names."""
        value = self.table[index][self.column]
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if not isinstance(value, bytes | str) or not value:
            raise BadSample(self.identity(index), "has no video")
        return value

    def identity(self, index: int) -> str:
        """The row number."""
        return str(index)

    def size(self, index: int) -> int:
        """Nothing: bytes would need a look at every row."""
        return 0


def hub_videos(
    source: str, labels: str | None, split: str | None, reading: Reading
) -> tuple[HubVideos, np.ndarray | None, list[str] | None, bool]:
    """The videos of ``hf:NAME``, their labels and classes, and whether ``labels`` was a column of it."""
    datasets = require("datasets", "hub")
    table = hub.open_hub(source.removeprefix("hf:"), split)
    kind = getattr(datasets, "Video", None)
    columns = [name for name, of in table.features.items() if kind is not None and isinstance(of, kind)]
    plain = [name for name in COLUMNS if name in table.column_names]
    if not columns + plain:
        raise UserError(f"{source} has no column of videos, only {', '.join(table.column_names)}.")
    column = (columns or plain)[0]
    if columns and kind is not None:
        table = table.cast_column(column, kind(decode=False))
    named = labels if labels in table.column_names else None
    found, classes = hub.hub_labels(table, named)
    return HubVideos(table, column, reading), found, classes, named is not None


class Hdf5Videos:
    """Clips in an array (n, frames, height, width[, channels]) of an HDF5 file, read row by row.

    rate: of the file's clips in Hz, 0 where unknown.
    """

    def __init__(self, path: str, name: str, reading: Reading, rate: float = 0.0) -> None:
        self.path, self.name = path, name
        self.rate = (rate or reading.frame_rate or reading.rate or 1.0) if reading.rate else 1.0
        with open_hdf5(path) as file:
            found = checked(file, name)
            self.shape, kind = tuple(found.shape), found.dtype.kind
        if len(self.shape) == 4:
            self.shape = (*self.shape, 1)
        if len(self.shape) != 5 or 0 in self.shape or kind not in "biuf":
            raise ValueError(
                f"{name} of shape {self.shape} is no array of clips (n, frames, height, width[, channels])"
            )

    def __len__(self) -> int:
        return self.shape[0]

    def identity(self, index: int) -> str:
        """The row number."""
        return str(index)

    def size(self, index: int) -> int:
        """Values of one clip."""
        return int(np.prod(self.shape[1:], dtype=object))

    def length(self, index: int) -> float:
        """Seconds."""
        return self.shape[1] / self.rate if self.shape[1] > 1 else 0.0

    def frames(self, index: int, times: np.ndarray) -> np.ndarray:
        """Frames at these times; raises BadSample where they cannot be read, or are no numbers."""
        chosen = np.clip(np.floor(times * self.rate + 1e-4).astype(int), 0, self.shape[1] - 1)
        try:
            with open_hdf5(self.path) as file:
                low, high = int(chosen.min()), int(chosen.max()) + 1
                found = np.asarray(checked(file, self.name)[index, low:high])
        except (ValueError, OSError) as problem:
            raise BadSample(str(index), (str(problem).splitlines() or ["is damaged"])[0]) from None
        found = found.reshape(high - low, *self.shape[2:])
        return check_finite(found[chosen - low if self.shape[1] > 1 else slice(1)], str(index))
