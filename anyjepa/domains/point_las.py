"""LAS and LAZ scans, whose headers are checked before a library believes them.

Offsets are those of the LAS specification 1.4 R15 (ASPRS, 2019), section 2.4, and of its laszip record.
"""

from __future__ import annotations

import io
import struct

import numpy as np

from anyjepa.core.errors import BadSample, require
from anyjepa.domains.number_files import believable

__all__ = ["decode_las"]

EXTRA = ("intensity", "red", "green", "blue")
RECORD, EXTENDED = 54, 60  # bytes of the header of a variable length record, and of an extended one
LENGTH = 20  # byte of either at which the length of what follows is said
DAMAGE = (
    ValueError, OSError, EOFError, RuntimeError, LookupError, ArithmeticError, TypeError, AttributeError,
    MemoryError, struct.error,
)  # fmt: skip


def decode_las(content: bytes, identity: str) -> np.ndarray:
    """Scaled coordinates (n, 3 or more) float64 (they are large numbers, as of UTM), intensity and colours.

    Raises BadSample; UserError where laspy is missing.
    """
    laspy = require("laspy", "points")
    try:
        compressed = _check(content)
        # chunks side by side would be read by a table that is believed, and loader processes are many already
        backend = laspy.LazBackend.Lazrs if compressed else None
        table = laspy.read(io.BytesIO(content), laz_backend=backend)
        names = set(table.point_format.dimension_names)
        others = [np.asarray(table[name], np.float64) for name in EXTRA if name in names]
        return np.stack([np.asarray(table[axis], np.float64) for axis in "xyz"] + others, axis=1)
    except (*DAMAGE, laspy.errors.LaspyException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    except BaseException as error:
        # a panic of the decompressor, which is written in Rust, is no Exception
        if type(error).__name__ != "PanicException":
            raise
        reason = "the decompressor gave up"
    raise BadSample(identity, f"is damaged LAS: {reason}") from None


def _check(content: bytes) -> bool:
    """Whether the points are compressed. Raises ValueError for a header that claims more than there is."""
    size = len(content)
    if content[:4] != b"LASF" or size < 227:
        raise ValueError("it does not begin with a whole header")
    minor = content[25]
    header, points, records = struct.unpack_from("<HII", content, 94)
    length, count = struct.unpack_from("<HI", content, 105)
    if not 227 <= header <= points <= size or length == 0:
        raise ValueError(f"its points begin at byte {points} of {size}")
    end = _walk(content, header, records, points, RECORD, "<H")
    if end > points:
        raise ValueError("its records run into its points")
    if minor >= 4 and header >= 375:
        first, extended, many = struct.unpack_from("<QIQ", content, 235)
        count = many or count
        if extended:
            _walk(content, first, extended, size, EXTENDED, "<Q")
    compressed = bool(content[104] & 0xC0)
    if compressed:
        believable(count * length, size, "the scan")
        _check_chunks(content, points, count)
    elif points + count * length > size:
        raise ValueError(f"it claims {count} points, more than it holds")
    return compressed


def _walk(content: bytes, at: int, count: int, end: int, header: int, kind: str) -> int:
    """Where the last of `count` records ends. Raises ValueError where that is beyond `end`."""
    if at + count * header > end:
        raise ValueError(f"it claims {count} records, more than it holds")
    for _ in range(count):
        if at + header > end:
            raise ValueError("its records run beyond its end")
        at += header + struct.unpack_from(kind, content, at + LENGTH)[0]
    if at > end:
        raise ValueError("its records run beyond its end")
    return at


def _check_chunks(content: bytes, points: int, count: int) -> None:
    """Raises ValueError where the table of chunks is not in the file or has more chunks than points."""
    size = len(content)
    if points + 8 > size:
        raise ValueError("it is cut off before its points")
    table = struct.unpack_from("<q", content, points)[0]
    if table == -1:  # written by a program that could not go back
        table = struct.unpack_from("<q", content, size - 8)[0]
    if not points + 8 <= table <= size - 8:
        raise ValueError(f"its table of chunks is said to be at byte {table} of {size}")
    if struct.unpack_from("<I", content, table + 4)[0] > max(count, 1):
        raise ValueError("its table claims more chunks than points")
