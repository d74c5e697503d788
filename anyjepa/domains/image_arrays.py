"""Images that lie as one array: in memory, .npy, .npz, IDX (MNIST's format) and scikit-learn's digits."""

from __future__ import annotations

import gzip
import math
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anyjepa.core.errors import UserError, require
from anyjepa.domains.image_files import check_finite, layout, plain
from anyjepa.domains.number_files import DEFLATED, open_archive, read_array
from anyjepa.domains.sources import NoSplit, as_labels, named_arrays, only_train, split_order

__all__ = [
    "ArrayStore",
    "ImageArray",
    "MappedStore",
    "is_idx",
    "read_digits",
    "read_idx",
    "read_npy",
    "read_npz",
]

IMAGE_KEYS = ("x", "images", "image", "data", "samples")
LABEL_KEYS = ("y", "labels", "label", "target", "targets")
IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


class ArrayStore:
    """Images that are one array (n, height, width, channels) in memory, named by row numbers.

    rows: (n,) the numbers, where they are not 0 to n - 1.
    """

    def __init__(self, values: np.ndarray, rows: np.ndarray | None = None) -> None:
        self.values, self.rows = values, rows

    def __len__(self) -> int:
        return len(self.values)

    def decode(self, index: int) -> np.ndarray:
        """(height, width, channels) uint8, uint16 or float32; raises BadSample for NaN and infinity."""
        return check_finite(plain(self.values[index]), self.identity(index))

    def identity(self, index: int) -> str:
        """The row number."""
        return str(index if self.rows is None else self.rows[index])

    def size(self, index: int) -> int:
        """Bytes of one image."""
        return self.values[index].nbytes


class MappedStore(ArrayStore):
    """Images of a .npy file too large for memory: mapped, and mapped anew by a pickled copy."""

    def __init__(self, path: str) -> None:
        super().__init__(arranged(read_array(path, mapped=True), path))
        self.path = path

    def __reduce__(self) -> tuple[type[MappedStore], tuple[str]]:
        return MappedStore, (self.path,)


@dataclass(frozen=True)
class ImageArray:
    """What one of the readers below found.

    store: the images. labels: (n,) int64 or float32 or None. classes: their names or None. kind: the format
    in words.
    """

    store: ArrayStore
    labels: np.ndarray | None
    classes: list[str] | None
    kind: str


def arranged(values: np.ndarray, source: str) -> np.ndarray:
    """(n, h, w), (n, h, w, c) or (n, c, h, w) as (n, h, w, c). Raises UserError for any other array."""
    if values.dtype.kind not in "biufc":
        raise UserError(f"{source} holds values of type {values.dtype}: give numbers")
    if values.ndim == 3:
        return values[..., None]
    if values.ndim != 4:
        raise UserError(f"{source} has shape {values.shape}: give images as (n, height, width[, channels])")
    try:
        return np.moveaxis(values, 1, -1) if layout(values.shape[1:]) == "first" else values
    except ValueError:
        raise UserError(f"{source} has shape {values.shape}, in which no axis can be the channels") from None


def read_npy(path: Path, split: str | None, resident_bytes: int) -> ImageArray:
    """A .npy file; mapped rather than read where it is larger than ``resident_bytes``."""
    only_train(split, str(path))
    try:
        if path.stat().st_size > resident_bytes:
            return ImageArray(MappedStore(str(path)), None, None, "images in a mapped .npy file")
        values = read_array(path)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path} is not a .npy file of numbers: {_sentence(error)}") from None
    return ImageArray(ArrayStore(arranged(values, str(path))), None, None, "images in a .npy file")


def read_npz(path: Path, split: str | None) -> ImageArray:
    """A .npz file: images under x, images or data, labels under y, labels or target; or x_train, y_train."""
    try:
        with open_archive(path) as file:
            image_key, label_key = named_arrays(
                list(file.files), IMAGE_KEYS, LABEL_KEYS, split, str(path), "images"
            )
            values = file[image_key]
            targets = None if label_key is None else file[label_key]
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not a .npz file of numbers: {_sentence(error)}") from None
    values = arranged(values, f"{image_key} in {path}")
    if targets is not None and len(targets) != len(values):
        raise UserError(f"{path} holds {len(values)} images but {len(targets)} labels: make them one to one")
    labels, classes = (None, None) if targets is None else array_labels(targets, f"{label_key} in {path}")
    return ImageArray(ArrayStore(values), labels, classes, "images in a .npz file")


def array_labels(targets: np.ndarray, source: str) -> tuple[np.ndarray, list[str] | None]:
    """Labels and classes of an array (n,), (n, 1) or one-hot (n, classes). Raises UserError for any other."""
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.ndim == 2 and np.isin(targets, (0, 1)).all() and (targets.sum(axis=1) == 1).all():
        return targets.argmax(axis=1).astype(np.int64), [str(index) for index in range(targets.shape[1])]
    if targets.ndim != 1:
        raise UserError(f"{source} has shape {targets.shape}: give one label a sample")
    if targets.dtype.kind == "S":
        targets = targets.astype(str)
    return as_labels([str(value) for value in targets.tolist()])


def is_idx(name: str) -> bool:
    """Whether a file bears a name that IDX files bear, for instance train-images-idx3-ubyte.gz."""
    return re.search(r"idx[1-4](-ubyte|$)|[-.]idx$", name.lower().removesuffix(".gz")) is not None


def read_idx(path: Path, split: str | None) -> ImageArray:
    """An IDX file, or the folder of them that MNIST comes as; labels are found beside the images."""
    if path.is_dir():
        path = _idx_images(path, split)
    values = arranged(_idx_values(path), str(path))
    beside = path.with_name(_label_name(path.name))
    others = [beside.with_name(beside.name + ".gz"), beside.with_name(beside.name.removesuffix(".gz"))]
    beside = next((other for other in (beside, *others) if other.exists() and other != path), None)
    if beside is None:
        return ImageArray(ArrayStore(values), None, None, "images in an IDX file")
    targets = _idx_values(beside)
    if targets.shape != values.shape[:1]:
        raise UserError(
            f"{path} holds {len(values)} images but {beside.name} {len(targets)} labels: mend either"
        )
    return ImageArray(ArrayStore(values), *array_labels(targets, str(beside)), "images in an IDX file")


def _label_name(name: str) -> str:
    return re.sub(r"idx[2-4]", "idx1", name).replace("images", "labels")


def _idx_images(folder: Path, split: str | None) -> Path:
    names = sorted(name for name in os.listdir(folder) if is_idx(name) and "idx1" not in name)
    for word in split_order(split):
        words = ("t10k", word) if word == "test" else (word,)
        found = [name for name in names if any(name.startswith(w) or f"-{w}-" in name for w in words)]
        by_stem = {name.removesuffix(".gz"): name for name in reversed(found)}
        if len(by_stem) > 1:
            raise UserError(f"{folder} holds {' and '.join(sorted(found))}: name the one file that you mean")
        if by_stem:
            return folder / next(iter(by_stem.values()))
    if len(names) == 1:
        only_train(split, str(folder))
        return folder / names[0]
    raise NoSplit(f"{folder} holds no images of the split {split!r}, only {', '.join(names) or 'labels'}")


def _idx_values(path: Path) -> np.ndarray:
    zipped = path.name.lower().endswith(".gz")
    room = path.stat().st_size * (DEFLATED if zipped else 1)
    try:
        with gzip.open(path) if zipped else open(path, "rb") as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in IDX_TYPES or not magic[3]:
                raise UserError(
                    f"{path} is not an IDX file: its first bytes are {magic.hex(' ') or 'missing'}"
                )
            dtype = np.dtype(IDX_TYPES[magic[2]])
            shape = tuple(np.frombuffer(file.read(4 * magic[3]), ">u4").tolist())
            claimed = math.prod(shape) * dtype.itemsize
            held = max(claimed, *shape, 0) <= room and len(shape) == magic[3]
            content = file.read(claimed) if held else b""
    except (EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise UserError(f"{path} is damaged ({_sentence(error)}): fetch it again") from None
    if len(content) < claimed or not held:
        raise UserError(f"{path} claims {shape} values but holds fewer: it is cut off, fetch it again")
    return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def read_digits(split: str | None) -> ImageArray:
    """scikit-learn's 1,797 handwritten digits, (8, 8, 1) uint8 from 0 to 16.

    ``train`` and None give 80 % of each class, ``test`` (and ``val``) the other 20 %, always the same rows;
    ``all`` gives everything. Row numbers are those of scikit-learn. Raises NoSplit for another name.
    """
    digits = require("sklearn.datasets", "image").load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    held = np.zeros(len(order), bool)
    for digit in range(10):
        members = order[digits.target[order] == digit]
        held[members[: round(len(members) / 5)]] = True
    words = [word.lower() for word in split_order(split)]
    if words == ["all"]:
        rows = np.arange(len(order))
    elif "train" in words:
        rows = np.flatnonzero(~held)
    elif "test" in words:
        rows = np.flatnonzero(held)
    else:
        raise NoSplit(f"digits has no split {split!r}, only train, test and all")
    images = digits.images[rows, :, :, None].astype(np.uint8)
    classes = [str(name) for name in digits.target_names]
    return ImageArray(ArrayStore(images, rows), digits.target[rows].astype(np.int64), classes, "8 x 8 digits")


def _sentence(error: BaseException) -> str:
    lines: Sequence[str] = str(error).splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
