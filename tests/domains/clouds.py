"""Point files that the tests of this folder make up and write."""

import struct
from pathlib import Path

import numpy as np

CUBE_FACES = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]


def cloud(points=50, columns=3, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=(points, columns)).astype(dtype)


def cube():
    """Corners of the unit cube."""
    return np.array([[x, y, z] for x in (0.0, 1) for y in (0.0, 1) for z in (0.0, 1)])


def ordered(points):
    """The points in the order that a cleaned cloud has them, about their mean, as float32."""
    points = np.asarray(points, np.float64)
    points = points[np.lexsort(points.T[::-1])].copy()
    points[:, :3] -= points[:, :3].mean(axis=0)
    return points.astype(np.float32)


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def off(vertices, faces=(), header="OFF\n"):
    rows = [" ".join(map(repr, map(float, row))) for row in vertices]
    rows += [f"{len(face)} " + " ".join(map(str, face)) for face in faces]
    return f"{header}{len(vertices)} {len(faces)} 0\n" + "\n".join(rows) + "\n"


def lines(points, separator=" "):
    return "\n".join(separator.join(map(repr, map(float, row))) for row in points) + "\n"


def ply(points, names="xyz", kind="float", form="ascii", faces=None, extra=""):
    """A PLY file; `names` of the vertex's properties, all of one type."""
    header = f"ply\nformat {form} 1.0\ncomment made up\nelement vertex {len(points)}\n"
    header += "".join(f"property {kind} {name}\n" for name in names)
    if faces is not None:
        header += f"element face {len(faces)}\nproperty list uchar int vertex_indices\n"
    header += extra + "end_header\n"
    if form == "ascii":
        body = lines(points).encode()
        body += b"".join(f"{len(f)} {' '.join(map(str, f))}\n".encode() for f in faces or [])
    else:
        order = "<" if "little" in form else ">"
        body = points.astype(order + {"float": "f4", "double": "f8"}[kind]).tobytes()
        body += b"".join(struct.pack(f"{order}B{len(f)}i", len(f), *f) for f in faces or [])
    return header.encode() + body


def lzf(content: bytes) -> bytes:
    """LZF, made by a plain search for the longest repetition."""
    out, at, literal = bytearray(), 0, bytearray()

    def flush():
        for start in range(0, len(literal), 32):
            piece = literal[start : start + 32]
            out.extend([len(piece) - 1, *piece])
        literal.clear()

    while at < len(content):
        length, back = 0, 0
        for start in range(max(0, at - 200), at):
            size = 0
            while size < 264 and at + size < len(content) and content[start + size] == content[at + size]:
                size += 1
            if size > length:
                length, back = size, at - start
        if length < 3:
            literal.append(content[at])
            at += 1
            continue
        flush()
        high, low = divmod(back - 1, 256)
        coded = length - 2
        out.extend([(coded << 5) | high] if coded < 7 else [(7 << 5) | high, coded - 7])
        out.append(low)
        at += length
    flush()
    return bytes(out)


def pcd(points, fields="x y z", form="ascii", types=None):
    """A PCD file of float32 fields; `types` such as "F4 U4" where they differ."""
    names = fields.split()
    types = (types or " ".join(["F4"] * len(names))).split()
    dtype = np.dtype([(str(i), f"<{t[0].lower()}{t[1]}") for i, t in enumerate(types)])
    records = np.empty(len(points), dtype)
    for i in range(len(names)):
        records[str(i)] = points[:, i]
    header = (
        f"# .PCD v0.7\nVERSION 0.7\nFIELDS {fields}\nSIZE {' '.join(t[1] for t in types)}\n"
        f"TYPE {' '.join(t[0] for t in types)}\nCOUNT {' '.join(['1'] * len(names))}\nWIDTH {len(points)}\n"
        f"HEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(points)}\nDATA {form}\n"
    ).encode()
    if form == "ascii":
        return header + lines(points).encode()
    if form == "binary":
        return header + records.tobytes()
    planes = b"".join(records[str(i)].tobytes() for i in range(len(names)))
    packed = lzf(planes)
    return header + struct.pack("<II", len(packed), len(planes)) + packed
