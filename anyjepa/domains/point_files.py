"""One file, one cloud: which format a file is in, and what its points are."""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath

import numpy as np

from anyjepa.core.errors import BadSample
from anyjepa.domains.number_files import read_array
from anyjepa.domains.point_las import decode_las
from anyjepa.domains.point_meshes import parse_obj, parse_off, parse_stl, surface_points
from anyjepa.domains.point_scans import parse_pcd, parse_ply

__all__ = ["SUFFIXES", "TEXT_SUFFIXES", "decode"]

MESHES = {".off": parse_off, ".obj": parse_obj, ".stl": parse_stl, ".ply": parse_ply}
TEXT_SUFFIXES = frozenset({".xyz", ".txt", ".csv", ".pts", ".asc", ".xyzn", ".xyzrgb"})
SUFFIXES = frozenset({*MESHES, *TEXT_SUFFIXES, ".pcd", ".las", ".laz", ".npy", ".bin"})
KITTI_COLUMNS, NUSCENES_COLUMNS = 4, 5


def decode(content: bytes, name: str, identity: str, on_surface: int) -> np.ndarray:
    """Points (n, 3 or more) float64 of a file's content, as they lie in the file.

    Of a mesh (OFF, OBJ, STL, or PLY with faces) `on_surface` points are drawn from its surface, always the
    same for one `identity`. Raises BadSample; UserError where a library is missing.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in MESHES:
        vertices, corners = MESHES[suffix](content, identity)
        return surface_points(vertices, corners, on_surface, identity) if len(corners) else vertices
    if suffix == ".pcd":
        return parse_pcd(content, identity)
    if suffix == ".bin":
        columns = NUSCENES_COLUMNS if name.lower().endswith(".pcd.bin") else KITTI_COLUMNS
        return _floats(content, columns, identity)
    if suffix == ".npy":
        return _array(content, identity)
    if suffix in (".las", ".laz"):
        return decode_las(content, identity)
    return _text(content, identity)


def _floats(content: bytes, columns: int, identity: str) -> np.ndarray:
    """KITTI's and nuScenes' scans: little-endian float32 rows of x, y, z, reflectance (and ring)."""
    if not content or len(content) % (4 * columns):
        raise BadSample(identity, f"has {len(content)} bytes, not a multiple of {4 * columns}: it is cut off")
    return np.frombuffer(content, "<f4").reshape(-1, columns).astype(np.float64)


def _array(content: bytes, identity: str) -> np.ndarray:
    try:
        values = read_array(content)
    except (ValueError, EOFError, OSError) as error:
        raise BadSample(identity, f"is not a .npy file of numbers: {str(error).splitlines()[0]}") from None
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise BadSample(identity, f"holds {values.dtype} of shape {values.shape}, not points (n, 3 or more)")
    return values.astype(np.float64)


def _text(content: bytes, identity: str) -> np.ndarray:
    """Rows of numbers between spaces, commas or semicolons; a heading and a count of points are skipped."""
    text = content.decode("utf-8-sig", "replace")
    lines = [re.sub(r"[,;]", " ", line) for line in re.sub(r"(#|//)[^\n]*", "", text).splitlines()]
    lines = [line for line in lines if line.strip()]
    while lines and not (_numeric(lines[0]) and len(lines[0].split()) > 1):
        lines.pop(0)
        if lines and len(lines[0].split()) < 3:
            break
    if not lines:
        raise BadSample(identity, "holds no line of numbers")
    columns = len(lines[0].split())
    words = " ".join(lines).split()
    if len(words) != columns * len(lines):
        raise BadSample(identity, f"has lines of other than {columns} numbers")
    try:
        return np.array(words, dtype=np.float64).reshape(-1, columns)
    except ValueError as error:
        raise BadSample(identity, f"is not a table of numbers: {error}") from None


def _numeric(line: str) -> bool:
    try:
        [float(word) for word in line.split()]
    except ValueError:
        return False
    return True


def read_file(root: str, name: str, on_surface: int) -> np.ndarray:
    """`decode` of a file below `root`, whose relative path is its identity."""
    try:
        with open(os.path.join(root, name), "rb") as file:
            content = file.read()
    except OSError as error:
        raise BadSample(name, error.strerror or str(error)) from None
    return decode(content, name, name, on_surface)
