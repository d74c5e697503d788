"""numpy's .npy and .npz files: nothing is unpickled, and a header is believed as far as the file can hold."""

from __future__ import annotations

import io
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["Archive", "believable", "open_archive", "read_array"]

DEFLATED = 1100  # deflate cannot shrink further than 1032 : 1
FLOOR = 2**27  # bytes that any picture may take, however small its file
PACKED = 4096  # how far a format of pictures may shrink them beyond that
DAMAGE = (  # what numpy and zipfile raise on bytes that are not what they say
    OSError, ValueError, SyntaxError, TypeError, LookupError, ArithmeticError, EOFError, RuntimeError,
    MemoryError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_array(file: str | os.PathLike[str] | bytes, mapped: bool = False) -> np.ndarray:
    """The array of a .npy file, or of its content; `mapped` leaves a file's values where they lie.

    Raises:
        ValueError: it is damaged, claims more than it holds, or holds objects. OSError: it cannot be opened.
    """
    if isinstance(file, bytes):
        with _damage_named():
            _check_header(io.BytesIO(file), len(file))
            return np.load(io.BytesIO(file), allow_pickle=False)
    with open(file, "rb") as opened, _damage_named():
        _check_header(opened, os.fstat(opened.fileno()).st_size)
    with _damage_named():
        values = np.load(file, mmap_mode="r", allow_pickle=False)
        return values if mapped else np.array(values)


class Archive:
    """The arrays of an open .npz file by their names, each read when it is asked for.

    Attributes: files: the names.
    """

    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._archive, self._size = archive, size
        self.files = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def __getitem__(self, name: str) -> np.ndarray:
        """One array. Raises ValueError where it is damaged, KeyError where there is none of that name."""
        if name not in self.files:
            raise KeyError(f"there is no array {name!r}")
        with _damage_named():
            member = self._archive.getinfo(f"{name}.npy")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{name} is compressed in a way that numpy does not write")
            if member.compress_size > self._size or member.file_size > DEFLATED * member.compress_size + 64:
                raise ValueError(f"{name} claims {member.file_size} bytes, more than the file can hold")
            with self._archive.open(member) as opened:
                _check_header(opened, member.file_size)
            with self._archive.open(member) as opened:
                return np.lib.format.read_array(opened, allow_pickle=False)


@contextmanager
def open_archive(path: str | os.PathLike[str]) -> Iterator[Archive]:
    """A .npz file, open within. Raises ValueError where it is damaged, OSError where it cannot be opened."""
    with open(path, "rb") as opened:
        with _damage_named():
            archive = zipfile.ZipFile(opened)
        with archive:
            yield Archive(archive, os.fstat(opened.fileno()).st_size)


def believable(claimed: int, held: int, of: str = "the image") -> None:
    """Raise ValueError where an encoded file of `held` bytes cannot be an image of so many."""
    if claimed > max(FLOOR, PACKED * held):
        raise ValueError(f"{of} claims {claimed} bytes of pixels, more than {held} bytes can hold")


def _check_header(file: Any, held: int) -> None:
    """Raises ValueError where a header claims more values than follow it, or values that are objects."""
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = reader(file)
    except (MemoryError, RecursionError):  # of Python's parser, over brackets in brackets
        raise ValueError("its header is damaged") from None
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never unpickled")
    rest = held - file.tell()
    if min(shape, default=0) < 0 or max(shape, default=0) > rest or math.prod(shape) * dtype.itemsize > rest:
        raise ValueError(f"it claims shape {shape}, more than the file holds")


@contextmanager
def _damage_named() -> Iterator[None]:
    """Every way in which a damaged file shows itself becomes a ValueError of one line."""
    try:
        yield
    except FileNotFoundError:
        raise
    except DAMAGE as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise ValueError(lines[0]) from None
