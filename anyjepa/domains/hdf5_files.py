"""HDF5 files, whose arrays are believed as far as the file can hold them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from anyjepa.core.errors import UserError, require
from anyjepa.domains.number_files import DEFLATED

__all__ = ["checked", "joined", "numbers_of", "open_hdf5"]


@contextmanager
def open_hdf5(path: str | os.PathLike[str]) -> Iterator[Any]:
    """A file of h5py, open within; every way in which a damaged one shows itself becomes a ValueError."""
    library = require("h5py", "points")
    try:
        with library.File(path, "r") as file:
            yield file
    except FileNotFoundError:
        raise
    except (OSError, KeyError, RuntimeError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise ValueError(lines[0].strip("'\"")) from None


def checked(file: Any, name: str) -> Any:
    """The array called `name`, not read yet.

    Raises:
        ValueError: it is no array of numbers or text, or claims more than is stored of it.
    """
    found = file[name]
    dtype = getattr(found, "dtype", None)
    if dtype is None or not hasattr(found, "shape"):
        raise ValueError(f"{name} is no array")
    stored = min(found.id.get_storage_size(), os.path.getsize(file.filename))
    if dtype.itemsize * int(np.prod(found.shape, dtype=object)) > stored * DEFLATED:
        raise ValueError(f"{name} claims shape {found.shape}, more than the file holds")
    return found


def numbers_of(file: Any, name: str) -> np.ndarray:
    """The whole array called `name`. Raises ValueError as `checked` does."""
    return np.asarray(checked(file, name)[()])


def joined(paths: Sequence[str], name: str) -> np.ndarray:
    """The arrays called `name` of several files, one after the other. Raises UserError."""
    parts = []
    for path in paths:
        try:
            with open_hdf5(path) as file:
                parts.append(numbers_of(file, name))
        except ValueError as error:
            raise UserError(f"{path} is not a HDF5 file that is whole: {error}.") from None
    if len({part.shape[1:] for part in parts}) > 1:
        raise UserError(f"{paths[0]} and the files beside it hold arrays of other sizes: keep them apart.")
    return np.concatenate(parts)
