"""PLY and PCD: point formats whose header says what a record holds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample
from anyjepa.domains.point_meshes import triangles

__all__ = ["lzf_decompress", "parse_pcd", "parse_ply"]

PLY_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
}  # fmt: skip
PLY_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass
class _Element:
    """A kind of record: its properties as (name, type, type of the list's length or None)."""

    name: str
    count: int
    properties: list[tuple[str, str, str | None]] = field(default_factory=list)


Table = dict[str, np.ndarray | list[np.ndarray]]


def parse_ply(content: bytes, identity: str) -> tuple[np.ndarray, np.ndarray]:
    """A PLY file, ASCII or binary: vertices (n, 3 + others) float64 and triangles (m, 3).

    x, y, z come first, then every other number of a vertex in the file's order. Raises BadSample.
    """
    try:
        order, elements, start = _ply_header(content)
        reader = _AsciiRecords(content[start:]) if order == "" else _BinaryRecords(content[start:], order)
        tables = {element.name: reader.read(element) for element in elements}
        if "vertex" not in tables:
            raise ValueError("it has no vertices")
        table = tables["vertex"]
        missing = [axis for axis in "xyz" if axis not in table]
        if missing:
            raise ValueError(f"its vertices have no {missing[0]}")
        others = [
            name for name, values in table.items() if name not in "xyz" and isinstance(values, np.ndarray)
        ]
        columns = [np.asarray(table[name], dtype=np.float64) for name in [*"xyz", *others]]
        vertices = np.stack(columns, axis=1)
        faces = tables.get("face", {})
        lists = next((faces[name] for name in ("vertex_indices", "vertex_index") if name in faces), [])
        corners = triangles([face.tolist() for face in lists], len(vertices))
        return vertices, corners
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        raise BadSample(identity, f"is damaged PLY: {error}") from None


def _ply_header(content: bytes) -> tuple[str, list[_Element], int]:
    end = content.find(b"end_header")
    if not content.startswith(b"ply") or end < 0:
        raise ValueError("it does not begin with a header")
    order, elements = None, list[_Element]()
    for line in content[:end].decode("latin-1").splitlines()[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format":
            order = PLY_ORDERS[words[1]]
        elif words[0] == "element":
            elements.append(_Element(words[1], int(words[2])))
            if elements[-1].count < 0:
                raise ValueError(f"it announces {words[2]} of {words[1]}")
        elif words[0] == "property" and words[1] == "list":
            elements[-1].properties.append((words[4], PLY_TYPES[words[3]], PLY_TYPES[words[2]]))
        elif words[0] == "property":
            elements[-1].properties.append((words[2], PLY_TYPES[words[1]], None))
    if order is None:
        raise ValueError("its header names no format")
    return order, elements, content.index(b"\n", end) + 1


class _Records:
    """Reads elements one after the other from the body of a PLY file."""

    position = 0

    def read(self, element: _Element) -> Table:
        """Columns of all records: arrays, or lists of arrays for list properties."""
        if not element.properties or not element.count:
            return {name: np.empty(0) if length is None else [] for name, _, length in element.properties}
        start = self.position
        lengths = [None if size is None else 0 for _, _, size in element.properties]
        if any(length is not None for length in lengths):
            # nearly always all lists are as long as the first record's: then one array holds everything
            first = self._record(element)
            lengths = [
                None if size is None else len(v)
                for (_, _, size), v in zip(element.properties, first, strict=True)
            ]
            self.position = start
        table = self._table(element, lengths)
        if table is None:
            self.position = start
            rows = [self._record(element) for _ in range(element.count)]
            table = {
                name: [np.atleast_1d(row[at]) for row in rows] if size else np.array([r[at] for r in rows])
                for at, (name, _, size) in enumerate(element.properties)
            }
        return table

    def _record(self, element: _Element) -> list[Any]:
        raise NotImplementedError

    def _table(self, element: _Element, lengths: list[int | None]) -> Table | None:
        raise NotImplementedError


class _BinaryRecords(_Records):
    def __init__(self, body: bytes, order: str) -> None:
        self.body, self.order = body, order

    def _take(self, kind: str, count: int = 1) -> np.ndarray:
        dtype = np.dtype(self.order + kind)
        values = np.frombuffer(self.body, dtype, count, self.position)
        self.position += dtype.itemsize * count
        return values

    def _record(self, element: _Element) -> list[Any]:
        return [
            self._take(kind)[0] if size is None else self._take(kind, int(self._take(size)[0]))
            for _, kind, size in element.properties
        ]

    def _table(self, element: _Element, lengths: list[int | None]) -> Table | None:
        fields: list = []
        for (name, kind, size), length in zip(element.properties, lengths, strict=True):
            if size is not None:
                fields.append((f"length of {name}", self.order + size))
            fields.append(
                (name, self.order + kind) if length is None else (name, self.order + kind, (length,))
            )
        dtype = np.dtype(fields)
        if len(self.body) - self.position < dtype.itemsize * element.count:
            if all(length is None for length in lengths):
                raise ValueError(f"it is cut off within {element.count} records of {element.name}")
            return None
        records = np.frombuffer(self.body, dtype, element.count, self.position)
        for (name, _, size), length in zip(element.properties, lengths, strict=True):
            if size is not None and (records[f"length of {name}"] != length).any():
                return None
        self.position += dtype.itemsize * element.count
        return {
            name: records[name] if size is None else list(records[name])
            for name, _, size in element.properties
        }


class _AsciiRecords(_Records):
    def __init__(self, body: bytes) -> None:
        self.words = body.split()

    def _take(self, count: int) -> np.ndarray:
        if self.position + count > len(self.words):
            raise ValueError("it is cut off")
        values = np.array(self.words[self.position : self.position + count], dtype=np.float64)
        self.position += count
        return values

    def _record(self, element: _Element) -> list[Any]:
        return [
            self._take(1)[0] if size is None else self._take(int(self._take(1)[0])).astype(np.int64)
            for _, _, size in element.properties
        ]

    def _table(self, element: _Element, lengths: list[int | None]) -> Table | None:
        widths = [1 if length is None else 1 + length for length in lengths]
        total = element.count * sum(widths)
        if len(self.words) - self.position < total:
            if all(length is None for length in lengths):
                raise ValueError(f"it is cut off within {element.count} records of {element.name}")
            return None
        start = self.position
        rows = self._take(total).reshape(element.count, -1)
        table, at = Table(), 0
        for (name, _, _), length, width in zip(element.properties, lengths, widths, strict=True):
            if length is None:
                table[name] = rows[:, at]
            elif (rows[:, at] != length).any():
                self.position = start
                return None
            else:
                table[name] = list(rows[:, at + 1 : at + width].astype(np.int64))
            at += width
        return table


def parse_pcd(content: bytes, identity: str) -> np.ndarray:
    """A PCD file (Point Cloud Library), ASCII, binary or binary_compressed: (n, 3 + others) float64.

    x, y, z come first, then the other fields in the file's order; a packed ``rgb`` becomes red, green and
    blue from 0 to 255. Raises BadSample.
    """
    try:
        header, start = _pcd_header(content)
        columns = dict(_pcd_columns(header, content[start:]))
        missing = [axis for axis in "xyz" if axis not in columns]
        if missing:
            raise ValueError(f"its points have no {missing[0]}")
        others = [name for name in columns if name not in "xyz"]
        return np.stack([columns[name].astype(np.float64) for name in [*"xyz", *others]], axis=1)
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, SyntaxError) as error:
        raise BadSample(identity, f"is damaged PCD: {error}") from None


def _pcd_header(content: bytes) -> tuple[dict[str, list[str]], int]:
    header, start = {}, 0
    while "DATA" not in header:
        end = content.find(b"\n", start)
        if end < 0:
            raise ValueError("its header has no end")
        words = content[start:end].decode("latin-1").split()
        if words and not words[0].startswith("#"):
            header[words[0].upper()] = words[1:]
        start = end + 1
    return header, start


def _pcd_columns(header: dict[str, list[str]], body: bytes) -> Iterator[tuple[str, np.ndarray]]:
    names = header["FIELDS"]
    counts = [int(word) for word in header.get("COUNT", ["1"] * len(names))]
    types = [f"<{kind.lower()}{size}" for kind, size in zip(header["TYPE"], header["SIZE"], strict=True)]
    points = int(header["POINTS"][0] if "POINTS" in header else header["WIDTH"][0])
    # a field may bear the name of another, as padding does
    record = np.dtype([(f"{i}", t, (c,)) for i, (t, c) in enumerate(zip(types, counts, strict=True))])
    form = header["DATA"][0].lower()
    if form == "ascii":
        rows = np.array(body.split()[: points * sum(counts)], dtype=np.float64).reshape(points, -1)
        starts = np.cumsum([0, *counts])
        found = [rows[:, a:b] for a, b in itertools.pairwise(starts)]
    elif form == "binary":
        records = np.frombuffer(body, record, points)
        found = [records[f"{i}"] for i in range(len(names))]
    elif form == "binary_compressed":
        packed, size = (int(value) for value in np.frombuffer(body, "<u4", 2))
        plain = lzf_decompress(body[8 : 8 + packed], size)
        starts = np.cumsum([0, *(record[i].itemsize * points for i in range(len(names)))])
        found = [
            np.frombuffer(plain, kind, points * count, int(at)).reshape(points, count)
            for kind, count, at in zip(types, counts, starts, strict=False)
        ]
    else:
        raise ValueError(f"it has DATA {form}")
    for name, kind, count, values in zip(names, types, counts, found, strict=True):
        if name in ("rgb", "rgba") and count == 1 and form != "ascii":
            yield from _colours(np.ascontiguousarray(values[:, 0]).view("<u4"))
        elif name in ("rgb", "rgba") and count == 1:
            whole = values[:, 0].astype("<f4").view("<u4") if kind[1] == "f" else values[:, 0].astype("<u4")
            yield from _colours(whole)
        elif name != "_":
            for part in range(count):
                yield (name if count == 1 else f"{name}{part}"), values[:, part]


def _colours(packed: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    for name, shift in (("red", 16), ("green", 8), ("blue", 0)):
        yield name, (packed >> shift) & 255


def lzf_decompress(content: bytes, size: int) -> bytes:
    """Undo LibLZF's compression: literal runs, and copies from at most 8,191 bytes back.

    Raises ValueError where the result is not `size` bytes or a copy reaches before the beginning.
    """
    out, at = bytearray(), 0
    try:
        while at < len(content):
            control = content[at]
            at += 1
            if control < 32:
                out += content[at : at + control + 1]
                at += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += content[at]
                at += 1
            back = ((control & 31) << 8) + content[at] + 1
            at += 1
            begin, length = len(out) - back, length + 2
            if begin < 0:
                raise ValueError("a copy reaches before the beginning of its compressed part")
            # a copy may reach into what it writes: then it repeats
            piece = out[begin : begin + length]
            out += (piece * (length // len(piece) + 1))[:length]
            if len(out) > size:
                break
    except IndexError:
        raise ValueError("its compressed part is cut off") from None
    if len(out) != size:
        raise ValueError(f"its compressed part gives {len(out)} bytes, not {size}")
    return bytes(out)
