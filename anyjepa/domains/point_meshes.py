"""Meshes: OFF, OBJ and STL files, and points drawn evenly from a surface."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np

from anyjepa.core.errors import BadSample

__all__ = ["parse_obj", "parse_off", "parse_stl", "surface_points", "triangles"]

Parsed = tuple[np.ndarray, np.ndarray]
"""Vertices (n, 3 or more) float64 and triangles (m, 3) int64, which index them."""

STL_RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def parse_off(content: bytes, identity: str) -> Parsed:
    """An OFF file (Geomview's format), with colours or normals too; the header may be glued to the counts.

    Raises BadSample where it is cut off or says what it does not hold.
    """
    text = re.sub(r"#[^\n]*", "", content.decode("latin-1"))
    header = re.match(r"\s*(ST)?C?N?OFF", text)
    if header is None:
        raise BadSample(identity, "is not an OFF file: it does not begin with OFF")
    lines = [line for line in text[header.end() :].splitlines() if line.strip()]
    if not lines:
        raise BadSample(identity, "is cut off after OFF")
    try:
        counts = [int(word) for word in lines[0].split()]
        count, faces = counts[0], counts[1]
        vertices = _rows(lines[1 : 1 + count], count)
        return vertices, triangles([_face(line) for line in lines[1 + count : 1 + count + faces]], count)
    except (ValueError, IndexError, OverflowError) as error:
        raise BadSample(identity, f"is damaged OFF: {error}") from None


def _rows(lines: Sequence[str], count: int) -> np.ndarray:
    values = np.array(" ".join(lines).split(), dtype=np.float64)
    if len(lines) < count or count < 1 or len(values) % count or len(values) < 3 * count:
        raise ValueError(
            f"it announces {count} vertices and holds {len(lines)} lines of {len(values)} numbers"
        )
    return values.reshape(count, -1)


def _face(line: str) -> list[int]:
    words = line.split()
    size = int(words[0])
    if len(words) <= size:
        raise ValueError(f"a face of {size} corners lists {len(words) - 1}")
    return [int(word) for word in words[1 : 1 + size]]


def triangles(faces: Sequence[Sequence[int]], vertices: int) -> np.ndarray:
    """Polygons as fans of triangles (m, 3). Raises ValueError for a corner that is no vertex."""
    if len({len(face) for face in faces}) == 1 and len(faces[0]) == 3:
        corners = np.array(faces, dtype=np.int64)
    else:
        fans = [(face[0], face[i], face[i + 1]) for face in faces for i in range(1, len(face) - 1)]
        corners = np.array(fans, dtype=np.int64).reshape(-1, 3)
    if len(corners) and (corners.min() < 0 or corners.max() >= vertices):
        raise ValueError(f"a face has a corner outside its {vertices} vertices")
    return corners


def parse_obj(content: bytes, identity: str) -> Parsed:
    """Vertices, with colours where they have some, and faces of a Wavefront OBJ file. Raises BadSample."""
    rows: list[list[float]] = []
    faces: list[list[int]] = []
    try:
        for line in content.decode("latin-1").replace("\\\n", " ").splitlines():
            if line.startswith("v "):
                rows.append([float(word) for word in line.split()[1:]])
            elif line.startswith("f "):
                corners = [int(word.partition("/")[0]) for word in line.split()[1:]]
                # counted from 1, or backwards from the last vertex so far
                faces.append([at - 1 if at > 0 else len(rows) + at for at in corners])
        if not rows:
            raise ValueError("it holds no vertex")
        columns = min(len(row) for row in rows)
        # a fourth number alone is a weight, not a colour
        columns = columns if columns in (3, 6) else 3
        vertices = np.array([row[:columns] for row in rows], dtype=np.float64)
        return vertices, triangles(faces, len(vertices))
    except (ValueError, OverflowError) as error:
        raise BadSample(identity, f"is damaged OBJ: {error}") from None


def parse_stl(content: bytes, identity: str) -> Parsed:
    """The corners and triangles of an STL file, binary or ASCII. Raises BadSample."""
    count = int.from_bytes(content[80:84], "little")
    if len(content) >= 84 and len(content) == 84 + STL_RECORD.itemsize * count:
        corners = np.frombuffer(content, STL_RECORD, count, 84)["corners"].reshape(-1, 3).astype(np.float64)
    elif content.lstrip()[:5].lower() == b"solid" and b"facet" in content:
        words = re.findall(r"vertex\s+(\S+)\s+(\S+)\s+(\S+)", content.decode("latin-1"))
        try:
            corners = np.array(words, dtype=np.float64).reshape(-1, 3)
        except ValueError as error:
            raise BadSample(identity, f"is damaged STL: {error}") from None
    else:
        raise BadSample(identity, "is not an STL file, or is cut off")
    if len(corners) < 3 or len(corners) % 3:
        raise BadSample(identity, f"is damaged STL: it holds {len(corners)} corners")
    return corners, np.arange(len(corners)).reshape(-1, 3)


def surface_points(vertices: np.ndarray, corners: np.ndarray, count: int, identity: str) -> np.ndarray:
    """(count, columns) points drawn evenly from the triangles; other columns are interpolated.

    The draw depends on `identity` only, so the same file always gives the same points. Vertices as they are
    where there is no triangle with an area.
    """
    sides = vertices[corners[:, 1:], :3] - vertices[corners[:, :1], :3]
    areas = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1)
    areas = np.where(np.isfinite(areas), areas, 0.0)
    if not areas.sum() > 0:
        return vertices
    random = np.random.default_rng(zlib.crc32(identity.encode("utf-8", "surrogateescape")))
    chosen = corners[random.choice(len(corners), count, p=areas / areas.sum())]
    # the square root makes the draw even over the triangle (Osada et al. 2002, section 3.1)
    root, share = np.sqrt(random.random((count, 1))), random.random((count, 1))
    weights = np.concatenate([1 - root, root * (1 - share), root * share], axis=1)
    return np.einsum("nk,nkc->nc", weights, vertices[chosen])
