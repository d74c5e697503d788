"""The images of one source: in memory where they fit, decoded as they are asked for where they do not."""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from anyjepa.core.errors import BadSample, UserError, require
from anyjepa.domains.dense_labels import MaskFolder
from anyjepa.domains.fingerprints import digest_of
from anyjepa.domains.image_arrays import ArrayStore, MappedStore
from anyjepa.domains.image_files import conform, decode, plain, suffix_of
from anyjepa.domains.packs import Pack, kept_blocks
from anyjepa.domains.tar_shards import TarShards

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["EncodedStore", "FileStore", "HubStore", "ImageSamples", "PackStore", "ShardStore", "Store"]

RESIDENT_BYTES = 512 * 2**20
LOOKED_AT = 256


@runtime_checkable
class Store(Protocol):
    """Where images lie. Can be pickled."""

    def __len__(self) -> int: ...

    def decode(self, index: int) -> np.ndarray:
        """(height, width, channels) as stored; raises BadSample."""
        ...

    def identity(self, index: int) -> str:
        """Unique in the store."""
        ...

    def size(self, index: int) -> int:
        """Bytes that the image takes where it lies."""
        ...


class EncodedStore(ABC):
    """Images that lie as encoded bytes; what is left to say is where the bytes are."""

    @abstractmethod
    def content(self, index: int) -> bytes:
        """The encoded image; raises OSError."""

    @abstractmethod
    def identity(self, index: int) -> str:
        """Unique in the store."""

    def decode(self, index: int) -> np.ndarray:
        """(height, width, channels) uint8, uint16 or float32; raises BadSample."""
        try:
            content = self.content(index)
        except OSError as error:
            raise BadSample(self.identity(index), error.strerror or str(error)) from None
        return decode(content, self.identity(index))


class FileStore(EncodedStore):
    """Files below one folder, by their relative paths (which use / everywhere)."""

    def __init__(self, root: str, names: Sequence[str]) -> None:
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    def content(self, index: int) -> bytes:
        """The whole file."""
        with open(os.path.join(self.root, self.names[index]), "rb") as file:
            return file.read()

    def identity(self, index: int) -> str:
        """The relative path."""
        return self.names[index]

    def size(self, index: int) -> int:
        """Bytes of the file."""
        return os.stat(os.path.join(self.root, self.names[index])).st_size


class ShardStore(EncodedStore):
    """Images in tar shards, by their keys.

    rows: (n,) the samples of the shards that hold an image. extensions: that images have. chosen: (n,) which
    of them each has.
    """

    def __init__(
        self, shards: TarShards, rows: np.ndarray, extensions: list[str], chosen: np.ndarray
    ) -> None:
        self.shards, self.rows, self.extensions = shards, rows, extensions
        self.chosen = chosen.astype(np.int16)

    def __len__(self) -> int:
        return len(self.rows)

    def content(self, index: int) -> bytes:
        """The image member's bytes."""
        return self.shards.read(self.suffix(index), int(self.rows[index]))

    def identity(self, index: int) -> str:
        """The key."""
        return self.shards.keys[self.rows[index]]

    def size(self, index: int) -> int:
        """Bytes of the member."""
        return int(self.shards.members[self.suffix(index)][self.rows[index], 2])

    def suffix(self, index: int) -> str:
        """The extension, without the dot."""
        return self.extensions[self.chosen[index]]


class PackStore(EncodedStore):
    """Images of a pack, by the identities they had in what was packed."""

    def __init__(self, pack: Pack) -> None:
        self.pack, self.blocks = pack, pack.blocks

    def __len__(self) -> int:
        return len(self.pack)

    def content(self, index: int) -> bytes:
        """The image's bytes."""
        return self.pack.content(int(index))

    def identity(self, index: int) -> str:
        """Of the source that was packed."""
        return self.pack.ids[int(index)]

    def size(self, index: int) -> int:
        """Bytes of the image in its shard."""
        return int(self.pack.sizes[index])


class HubStore(EncodedStore):
    """Images in a column of a Hugging Face data set, left encoded until asked for; named by row numbers."""

    def __init__(self, table: Dataset, column: str) -> None:
        encoded = require("datasets", "hub").Image(decode=False)
        self.table, self.column = table.select_columns([column]).cast_column(column, encoded), column

    def __len__(self) -> int:
        return len(self.table)

    def content(self, index: int) -> bytes:
        """The bytes in the row, or in the file that the row names."""
        row = self.table[int(index)][self.column]
        if row is None:
            return b""
        if row["bytes"] is not None:
            return row["bytes"]
        with open(row["path"], "rb") as file:
            return file.read()

    def identity(self, index: int) -> str:
        """The row number."""
        return str(index)

    def size(self, index: int) -> int:
        """Bytes of the encoded image."""
        return len(self.content(index))


class ImageSamples:
    """Images that agree on channels and depth; satisfies the Samples protocol.

    labels: one for each image of the store, left out where the image is. kind: what the images are in the
    description, for instance ``JPEG images in 10 class folders``. Raises UserError where none can be read.

    Attributes: ``array`` is (n, height, width, channels) where all images are in memory and of one shape,
    else None. ``channels`` and ``dtype`` (uint8, uint16 or float32) hold for every image read.
    """

    array: np.ndarray | None

    def __init__(
        self,
        source: str,
        store: Store,
        kind: str,
        labels: np.ndarray | None = None,
        classes: list[str] | None = None,
        problems: Sequence[BadSample] = (),
        resident_bytes: int = RESIDENT_BYTES,
        groups: np.ndarray | None = None,
    ) -> None:
        self.source, self.store, self.classes = source, store, classes
        self.masks: MaskFolder | None = None
        self.dense_classes: list[str] | None = None
        self.problems = list(problems)
        self.array, self.images = None, None
        self.rows: np.ndarray | None = None
        look = _Look(store, source)
        self.channels, self.dtype = look.channels, look.dtype
        if isinstance(store, ArrayStore) and not isinstance(store, MappedStore):
            kept = self._hold_array(store)
        elif look.bytes_each * len(store) <= resident_bytes:
            kept = self._hold_decoded(look)
        else:
            kept = self.rows = self._leave_out(look.bad)
        self.labels = labels if labels is None or kept is None else labels[kept]
        self.groups = groups if groups is None or kept is None else groups[kept]
        self.blocks = kept_blocks(getattr(store, "blocks", None), self.rows)
        self.description = f"{len(self):,} {kind}"

    def __len__(self) -> int:
        return len(self.store) if self.rows is None else len(self.rows)

    def read(self, index: int | np.integer) -> np.ndarray:
        """(height, width, channels) of the set's dtype and channels. Raises BadSample where it is damaged."""
        if self.array is not None:
            return self.array[index]
        if self.images is not None:
            return self.images[index]
        row = self._row(index)
        return conform(self.store.decode(row), self.channels, self.dtype, self.store.identity(row))

    def packed(self, index: int) -> tuple[str, bytes]:
        """Extension and bytes of one image, as it lies where it is a file. Raises BadSample."""
        row = self._row(index)
        if isinstance(self.store, EncodedStore):
            self.store.decode(row)
            content = self.store.content(row)
            return suffix_of(content), content
        file = io.BytesIO()
        np.save(file, self.read(index), allow_pickle=False)
        return "npy", file.getvalue()

    def dense(self, index: int | np.integer) -> np.ndarray:
        """(height, width) int64 label of each pixel, -1 where unknown. Raises BadSample, UserError."""
        if self.masks is None:
            raise UserError(
                f"the pixels of {self.source} have no labels: name a folder of masks with --dense."
            )
        height, width, _ = self.read(index).shape
        return self.masks.read(self.identity(index), (height, width))

    def identity(self, index: int | np.integer) -> str:
        """Relative path, shard key or row number."""
        return self.store.identity(self._row(index))

    def fingerprint(self) -> str:
        """Digest of all names, and of the sizes of at most 4,096 images spread evenly over the source.

        Of an array, whose rows have no names, 64 rows count instead.
        """
        store = self.store
        if isinstance(store, ArrayStore):
            return digest_of(str(len(store)), (), len(store), store.size, store.values)
        names = (store.identity(index) for index in range(len(store)))
        return digest_of(str(len(store)), names, len(store), store.size)

    def _row(self, index: int | np.integer) -> int:
        return int(index) if self.rows is None else int(self.rows[index])

    def _leave_out(self, bad: dict[int, BadSample]) -> np.ndarray | None:
        """Rows of the store that stay, None for all; the others become problems."""
        self.problems += [bad[index] for index in sorted(bad)]
        if len(bad) == len(self.store):
            raise UserError(f"{self.source} holds no usable image: {self.problems[-1]}")
        return np.setdiff1d(np.arange(len(self.store)), list(bad)) if bad else None

    def _hold_array(self, store: ArrayStore) -> np.ndarray | None:
        values, kept = plain(store.values), None
        if values.dtype.kind == "f":
            finite = [bool(np.isfinite(image).all()) for image in values]
            reason = "holds NaN or infinite values"
            kept = self._leave_out(
                {row: BadSample(store.identity(row), reason) for row, fine in enumerate(finite) if not fine}
            )
        if kept is not None:
            values, rows = values[kept], kept if store.rows is None else store.rows[kept]
            self.store = ArrayStore(values, rows)
        else:
            self.store = ArrayStore(values, store.rows)
        self.array = values
        return kept

    def _hold_decoded(self, look: _Look) -> np.ndarray | None:
        images, bad = look.images, look.bad
        if len(images) + len(bad) < len(self.store):
            images, bad = _decode_all(self.store, range(len(self.store)))
        self.channels, self.dtype = _majority(images.values())
        for index, image in images.items():
            try:
                images[index] = conform(image, self.channels, self.dtype, self.store.identity(index))
            except BadSample as problem:
                bad[index] = problem
        kept = self.rows = self._leave_out(bad)
        self.images = [images[index] for index in sorted(images) if index not in bad]
        if len({image.shape for image in self.images}) == 1:
            self.array, self.images = np.stack(self.images), None
        return kept


class _Look:
    """What a seeded sample of a store says about all of it."""

    def __init__(self, store: Store, source: str) -> None:
        count = len(store)
        if count == 0:
            raise UserError(f"{source} holds no image: give a folder, file or array that holds some")
        looked_at = getattr(store, "looked_at", None)  # what is far away says itself which rows are near
        if count > LOOKED_AT:
            random = np.random.default_rng(0)
            chosen = looked_at(LOOKED_AT, random) if looked_at else random.permutation(count)[:LOOKED_AT]
        else:
            chosen = np.arange(count)
        self.images, self.bad = _decode_all(store, sorted(int(index) for index in chosen))
        if not self.images:
            first = next(iter(self.bad.values()))
            raise UserError(f"{source} holds no readable image, for instance {first}: give images that open")
        self.channels, self.dtype = _majority(self.images.values())
        self.bytes_each = float(np.mean([image.nbytes for image in self.images.values()]))


def _majority(images: Iterable[np.ndarray]) -> tuple[int, np.dtype]:
    """Channels and dtype of most images; where images with and without alpha meet, alpha does not count."""
    images = list(images)
    channels = Counter(image.shape[2] for image in images)
    if len(channels.keys() & {1, 2, 3, 4}) > 1:
        channels = Counter(image.shape[2] - (image.shape[2] in (2, 4)) for image in images)
    dtypes = Counter(image.dtype for image in images)
    return max(channels, key=lambda c: (channels[c], c)), max(dtypes, key=lambda d: (dtypes[d], d.itemsize))


def _decode_all(store: Store, indices: Sequence[int]) -> tuple[dict[int, np.ndarray], dict[int, BadSample]]:
    """Every image that decodes and every problem, by index. Decoders release the interpreter's lock."""

    def attempt(index: int) -> np.ndarray | BadSample:
        try:
            return store.decode(index)
        except BadSample as problem:
            return problem

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(max_workers=cores) as pool:
        results = list(zip(indices, pool.map(attempt, indices), strict=True))
    images = {index: result for index, result in results if isinstance(result, np.ndarray)}
    return images, {index: result for index, result in results if isinstance(result, BadSample)}
