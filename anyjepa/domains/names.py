"""Names of millions of samples in two arrays: no object a name, so that processes share their pages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import SupportsIndex, overload

import numpy as np

__all__ = ["Names"]


class Names(Sequence[str]):
    """A sequence of texts that cannot be changed, kept as their bytes and where each ends.

    A list of a million `str` takes 100 MB, and every process that looks at one of them writes to its
    reference count and so gets a copy of the page it lies on: over an epoch each loader process would come to
    hold them all. Two arrays take 30 MB and are never written to.

    Args:
        names: the texts; taken one after the other, so that they need not be in memory at once.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        content, ends = bytearray(), []
        for name in names:
            content += name.encode("utf-8", "surrogateescape")
            ends.append(len(content))
        self._content = np.frombuffer(bytes(content), np.uint8)
        self._ends = np.array(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: SupportsIndex) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        start = int(self._ends[number - 1]) if number else 0
        return self._content[start : int(self._ends[number])].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[number] for number in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            return np.array_equal(self._ends, other._ends) and np.array_equal(self._content, other._content)
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  (equal to lists, which have none)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self._content.nbytes + self._ends.nbytes
