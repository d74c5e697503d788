"""Digests of what a source holds, cheap for a million files: by them a resumed run knows its data again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

__all__ = ["digest_of"]

SIZES = 4096  # that count at the most
ROWS = 64  # of an array


def digest_of(
    head: str,
    names: Iterable[str],
    count: int,
    size: Callable[[int], int],
    values: np.ndarray | Sequence[np.ndarray] | None = None,
    rows: int = ROWS,
) -> str:
    """Hexadecimal SHA-256 of the names, of sizes spread evenly over the source, and of rows of an array.

    Args:
        head: whatever else decides what samples are.
        names: of all samples; none where rows have no names.
        count: how many files or rows there are.
        size: bytes of one of them; of 4,096 at the most.
        values: an array in memory, of which rows count; None for files.
        rows: how many of them, spread evenly.
    """
    digest = hashlib.sha256(f"{head}\n".encode())
    for name in names:
        digest.update(f"{name}\n".encode("utf-8", "surrogateescape"))
    for place in _spread(count, SIZES):
        digest.update(f"{size(place)}\n".encode())
    if values is not None:
        for row in _spread(len(values), rows):
            digest.update(np.ascontiguousarray(values[row]).tobytes())
    return digest.hexdigest()


def _spread(count: int, most: int) -> list[int]:
    return np.linspace(0, count - 1, min(count, most)).astype(int).tolist()
