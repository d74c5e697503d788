"""MSTAR's raw chips: a header of text (Phoenix), then the magnitudes and the phases as big-endian floats."""

from __future__ import annotations

import numpy as np

__all__ = ["ENDINGS", "PHOENIX", "decode_phoenix"]

PHOENIX = b"[PhoenixHeaderVer"
LONGEST_HEADER = 2**16  # bytes that a header may take
# the public release names a chip's file by its serial: HB19377.000 to .026, and clutter differently
ENDINGS = frozenset({".mstar", *(f".{serial:03d}" for serial in range(100))})


def decode_phoenix(content: bytes) -> np.ndarray:
    """(rows, columns) float32 magnitudes, linear, of one chip.

    Raises:
        ValueError: the header is damaged, or the file holds less than it claims.
    """
    words = {}
    for line in content[:LONGEST_HEADER].split(b"\n"):
        name, found, value = line.partition(b"=")
        if found:
            words[name.strip().decode("ascii", "replace")] = value.strip()
        if line.startswith(b"[EndofPhoenixHeader]"):
            break
    rows, columns, start = (
        _number(words, name) for name in ("NumberOfRows", "NumberOfColumns", "PhoenixHeaderLength")
    )
    start += _number(words, "native_header_length", 0)
    size = 4 * rows * columns
    if not rows or not columns or start + size > len(content):
        raise ValueError(f"claims {rows} x {columns} values and holds {max(0, len(content) - start)} bytes")
    return np.frombuffer(content, ">f4", rows * columns, start).astype(np.float32).reshape(rows, columns)


def _number(words: dict[str, bytes], name: str, missing: int | None = None) -> int:
    if name not in words and missing is not None:
        return missing
    value = words.get(name, b"")
    if not value.isdigit():
        raise ValueError(f"its header has no {name}")
    return int(value)
