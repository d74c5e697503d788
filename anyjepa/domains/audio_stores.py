"""Where sounds lie: files, shards, packs, the hub, arrays; each gives stretches of what it has."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from anyjepa.core.errors import BadSample, require
from anyjepa.domains.audio_files import Header, as_sound, read_header, read_stretch
from anyjepa.domains.packs import Pack
from anyjepa.domains.tar_shards import TarShards

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "ArraySounds", "EncodedSounds", "FileSounds", "HubSounds", "PackSounds", "ShardSounds", "Sounds",
]  # fmt: skip


@runtime_checkable
class Sounds(Protocol):
    """Where sounds lie. Can be pickled."""

    def __len__(self) -> int: ...

    def identity(self, index: int) -> str:
        """Unique in the source."""
        ...

    def size(self, index: int) -> int:
        """Bytes that it takes."""
        ...

    def header(self, index: int) -> Header:
        """Rate and length. Raises BadSample."""
        ...

    def stretch(self, index: int, start: int, stop: int) -> np.ndarray:
        """(time,) float32, one channel, at its own rate. Raises BadSample."""
        ...


class EncodedSounds(ABC):
    """Sounds that lie as files or as bytes of files; what is left to say is where these are."""

    @abstractmethod
    def place(self, index: int) -> str | bytes:
        """Path of the file, or its bytes. Raises OSError."""

    @abstractmethod
    def identity(self, index: int) -> str:
        """Unique in the source."""

    def _place(self, index: int) -> str | bytes:
        try:
            return self.place(index)
        except OSError as problem:
            raise BadSample(self.identity(index), problem.strerror or str(problem)) from None

    def header(self, index: int) -> Header:
        """Rate and length as the file says. Raises BadSample."""
        return read_header(self._place(index), self.identity(index))

    def stretch(self, index: int, start: int, stop: int) -> np.ndarray:
        """A part of the file."""
        return read_stretch(self._place(index), self.identity(index), start, stop)

    def content(self, index: int) -> bytes:
        """The whole file. Raises BadSample."""
        place = self._place(index)
        if isinstance(place, bytes):
            return place
        with open(place, "rb") as file:
            return file.read()

    def suffix(self, index: int) -> str:
        """Its ending, without the dot."""
        return os.path.splitext(self.identity(index))[1][1:].lower() or "wav"


class FileSounds(EncodedSounds):
    """Sound files below one folder, by their relative paths."""

    def __init__(self, root: str, names: Sequence[str]) -> None:
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    def place(self, index: int) -> str:
        """The path."""
        return os.path.join(self.root, self.names[index])

    def identity(self, index: int) -> str:
        """The relative path."""
        return self.names[index]

    def size(self, index: int) -> int:
        """Bytes of the file."""
        return os.stat(self.place(index)).st_size


class ShardSounds(EncodedSounds):
    """Sounds in tar shards, by their keys.

    rows: (n,) the samples of the shards that hold a sound. extensions: of each of them.
    """

    def __init__(self, shards: TarShards, rows: np.ndarray, extensions: Sequence[str]) -> None:
        self.shards, self.rows, self.extensions = shards, rows, list(extensions)

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, index: int) -> bytes:
        """The member's bytes."""
        return self.shards.read(self.extensions[index], int(self.rows[index]))

    def identity(self, index: int) -> str:
        """The key."""
        return self.shards.keys[self.rows[index]]

    def size(self, index: int) -> int:
        """Bytes of the member."""
        return int(self.shards.members[self.extensions[index]][self.rows[index], 2])

    def suffix(self, index: int) -> str:
        """Of the member."""
        return self.extensions[index].rpartition(".")[2]


class HubSounds(EncodedSounds):
    """Sounds in a column of a Hugging Face data set, left encoded until asked for; named by row numbers."""

    def __init__(self, table: Dataset, column: str) -> None:
        encoded = require("datasets", "hub").Audio(decode=False)
        self.table, self.column = table.select_columns([column]).cast_column(column, encoded), column

    def __len__(self) -> int:
        return len(self.table)

    def place(self, index: int) -> str | bytes:
        """The bytes in the row, or the file that the row names."""
        row = self.table[int(index)][self.column]
        if row is None:
            return b""
        return row["path"] if row["bytes"] is None else row["bytes"]

    def identity(self, index: int) -> str:
        """The row number, and the name of the file where there is one."""
        row = self.table[int(index)][self.column]
        name = os.path.basename(row["path"]) if row and row["path"] else ""
        return f"{index}/{name}" if name else str(index)

    def size(self, index: int) -> int:
        """Bytes of the encoded sound."""
        place = self._place(index)
        return len(place) if isinstance(place, bytes) else os.stat(place).st_size


class PackSounds(EncodedSounds):
    """Sounds of a pack: files as they were, or arrays (time,) at the rate that the pack states."""

    def __init__(self, pack: Pack) -> None:
        self.pack, self.rate = pack, float(pack.manifest["facts"].get("rate", 0.0))

    def __len__(self) -> int:
        return len(self.pack)

    def place(self, index: int) -> bytes:
        """The bytes in the shard."""
        return self.pack.content(index)

    def identity(self, index: int) -> str:
        """Of the source that was packed."""
        return self.pack.ids[index]

    def size(self, index: int) -> int:
        """Bytes in its shard."""
        return int(self.pack.sizes[index])

    def suffix(self, index: int) -> str:
        """As it was packed."""
        return self.pack.extension(index)

    def header(self, index: int) -> Header:
        """As the file says, or the index of the pack."""
        if self.suffix(index) != "npy":
            return super().header(index)
        return Header(self.rate, int(self.pack.shapes[index, 0]), 1)

    def stretch(self, index: int, start: int, stop: int) -> np.ndarray:
        """A part of it."""
        if self.suffix(index) != "npy":
            return super().stretch(index, start, stop)
        values = self.pack.array(index)
        if values.ndim != 1 or len(values) < stop or values.dtype.kind not in "iuf":
            raise BadSample(self.identity(index), f"has shape {values.shape}, not that of the index")
        return as_sound(values[start:stop], self.identity(index))


class ArraySounds:
    """Clips that are one array (n, time) or (n, channels, time), named by row numbers, or several arrays."""

    def __init__(self, values: np.ndarray | Sequence[np.ndarray], rate: float) -> None:
        self.values, self.rate = values, rate

    def __len__(self) -> int:
        return len(self.values)

    def identity(self, index: int) -> str:
        """The row number."""
        return str(index)

    def size(self, index: int) -> int:
        """Bytes of one clip."""
        return self.values[index].nbytes

    def header(self, index: int) -> Header:
        """The rate of all, and the length of this."""
        shape = self.values[index].shape
        return Header(self.rate, shape[-1], shape[0] if len(shape) == 2 else 1)

    def stretch(self, index: int, start: int, stop: int) -> np.ndarray:
        """A part of the clip."""
        return as_sound(self.values[index][..., start:stop], self.identity(index))
