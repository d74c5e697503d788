"""The images of one source: in memory where they fit, decoded as they are asked for where they do not."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains.image_files import check_finite, conform, decode, plain

__all__ = ["ArrayStore", "EncodedStore", "FileStore", "ImageSamples", "Store"]

RESIDENT_BYTES = 512 * 2**20
LOOKED_AT = 256
SIZES_HASHED = 4096


class Store(Protocol):
    """Where images lie. Can be pickled."""

    def __len__(self) -> int: ...

    def decode(self, index: int) -> np.ndarray:
        """(height, width, channels) as stored; raises BadSample."""
        ...

    def identity(self, index: int) -> str: ...

    def size(self, index: int) -> int:
        """Bytes that the image takes where it lies."""
        ...


class EncodedStore:
    """Images that lie as encoded bytes; what is left to say is where the bytes are."""

    def content(self, index: int) -> bytes:
        raise NotImplementedError

    def identity(self, index: int) -> str:
        raise NotImplementedError

    def decode(self, index: int) -> np.ndarray:
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
        with open(os.path.join(self.root, self.names[index]), "rb") as file:
            return file.read()

    def identity(self, index: int) -> str:
        return self.names[index]

    def size(self, index: int) -> int:
        return os.stat(os.path.join(self.root, self.names[index])).st_size


class ArrayStore:
    """Images that are one array (n, height, width, channels); its rows are named by their numbers.

    path: the .npy file that the array is mapped from, so that a pickled copy maps it again instead of
    carrying it. arrange: the axes of the file's array in the order n, height, width, channels.
    """

    def __init__(self, values: np.ndarray, path: str | None = None, rows: np.ndarray | None = None) -> None:
        self.values, self.path, self.rows = values, path, rows

    def __len__(self) -> int:
        return len(self.values)

    def decode(self, index: int) -> np.ndarray:
        return check_finite(plain(self.values[index]), self.identity(index))

    def identity(self, index: int) -> str:
        return str(index if self.rows is None else self.rows[index])

    def size(self, index: int) -> int:
        return self.values[index].nbytes


class ImageSamples:
    """Images that agree on channels and depth; satisfies the Samples protocol.

    labels: one for each image of the store, left out where the image is. kind: what the images are in the
    description, for instance ``JPEG images in 10 class folders``. Raises UserError where no image can be read.

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
    ) -> None:
        self.source, self.store, self.classes = source, store, classes
        self.problems = list(problems)
        self.array, self.images = None, None
        self.rows: np.ndarray | None = None
        look = _Look(store, source)
        self.channels, self.dtype = look.channels, look.dtype
        if isinstance(store, ArrayStore) and store.path is None:
            self._hold_array(store)
        elif look.bytes_each * len(store) <= resident_bytes:
            self._hold_decoded(store)
        else:
            self._leave_out(look.bad, store)
        self.labels = labels if labels is None or self.rows is None else labels[self.rows]
        self.description = f"{len(self):,} {kind}"

    def __len__(self) -> int:
        return len(self.store) if self.rows is None else len(self.rows)

    def read(self, index: int) -> np.ndarray:
        """(height, width, channels) of the set's dtype and channels. Raises BadSample where it is damaged."""
        if self.array is not None:
            return self.array[index]
        if self.images is not None:
            return self.images[index]
        row = self._row(index)
        return conform(self.store.decode(row), self.channels, self.dtype, self.store.identity(row))

    def identity(self, index: int) -> str:
        """Relative path, shard key or row number."""
        return self.store.identity(self._row(index))

    def fingerprint(self) -> str:
        """Digest of all names, and of the sizes of at most 4,096 images spread evenly over the source."""
        digest = hashlib.sha256(f"{len(self.store)}\n".encode())
        if not isinstance(self.store, ArrayStore):
            for index in range(len(self.store)):
                digest.update(self.store.identity(index).encode("utf-8", "surrogateescape") + b"\n")
        for index in np.linspace(0, len(self.store) - 1, min(len(self.store), SIZES_HASHED)).astype(int):
            digest.update(f"{self.store.size(int(index))}\n".encode())
        if self.array is not None and isinstance(self.store, ArrayStore):
            digest.update(np.ascontiguousarray(self.array[:: max(1, len(self.array) // 64)]).tobytes())
        return digest.hexdigest()

    def _row(self, index: int) -> int:
        return int(index) if self.rows is None else int(self.rows[index])

    def _leave_out(self, bad: dict[int, BadSample], store: Store) -> None:
        if bad:
            self.rows = np.setdiff1d(np.arange(len(store)), list(bad))
            self.problems += [bad[index] for index in sorted(bad)]

    def _hold_array(self, store: ArrayStore) -> None:
        self.array = plain(store.values)
        if self.array.dtype.kind == "f":
            finite = np.array([np.isfinite(image).all() for image in self.array])
            bad = {
                int(i): BadSample(store.identity(int(i)), "holds NaN or infinite values")
                for i in np.flatnonzero(~finite)
            }
            self._leave_out(bad, store)
            self.array = self.array if self.rows is None else self.array[self.rows]

    def _hold_decoded(self, store: Store) -> None:
        images, bad = _decode_all(store, range(len(store)))
        self.channels, self.dtype = _majority(images.values())
        for index, image in images.items():
            try:
                images[index] = conform(image, self.channels, self.dtype, store.identity(index))
            except BadSample as problem:
                bad[index] = problem
        self._leave_out(bad, store)
        self.images = [images[index] for index in sorted(images) if index not in bad]
        if len({image.shape for image in self.images}) == 1:
            self.array, self.images = np.stack(self.images), None


class _Look:
    """What a seeded sample of a store says about all of it."""

    def __init__(self, store: Store, source: str) -> None:
        count = len(store)
        if count == 0:
            raise UserError(f"{source} holds no image: give a folder, file or array that holds some")
        chosen = (
            np.random.default_rng(0).permutation(count)[:LOOKED_AT] if count > LOOKED_AT else np.arange(count)
        )
        images, self.bad = _decode_all(store, sorted(int(index) for index in chosen))
        if not images:
            first = next(iter(self.bad.values()))
            raise UserError(f"{source} holds no readable image, for instance {first}: give images that open")
        self.channels, self.dtype = _majority(images.values())
        self.bytes_each = float(np.mean([image.nbytes for image in images.values()]))


def _majority(images) -> tuple[int, np.dtype]:
    """Channels and dtype of most images; where images with and without alpha meet, alpha does not count."""
    images = list(images)
    channels = Counter(image.shape[2] for image in images)
    if len(channels) > 1 and set(channels) & {1, 3}:
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

    with ThreadPoolExecutor(
        max_workers=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    ) as pool:
        results = list(zip(indices, pool.map(attempt, indices), strict=True))
    images = {index: result for index, result in results if isinstance(result, np.ndarray)}
    return images, {index: result for index, result in results if isinstance(result, BadSample)}
