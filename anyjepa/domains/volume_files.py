"""Files of volumes: NIfTI, NRRD, MetaImage and .npy, each to values and the directions of their axes."""

from __future__ import annotations

import io
import math
import os
import re
import zlib
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, require
from anyjepa.domains.number_files import DAMAGE, read_array
from anyjepa.domains.volume_geometry import Scan

__all__ = ["VOLUMES", "ending", "read_scan", "scan_header", "scan_of_bytes"]

VOLUMES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".npy")
INFLATED = 1100  # times that gzip can grow
LPS = np.array([-1.0, -1.0, 1.0])  # from right, front, head to left, back, head
HEADER = 2**16  # bytes that a header of text may take
NRRD_TYPES = {
    "i1": "signed char|int8|int8_t", "u1": "uchar|unsigned char|uint8|uint8_t",
    "i2": "short|short int|signed short|signed short int|int16|int16_t",
    "u2": "ushort|unsigned short|unsigned short int|uint16|uint16_t",
    "i4": "int|signed int|int32|int32_t", "u4": "uint|unsigned int|uint32|uint32_t",
    "i8": "longlong|long long|long long int|signed long long|int64|int64_t",
    "u8": "ulonglong|unsigned long long|uint64|uint64_t", "f4": "float", "f8": "double",
}  # fmt: skip
META_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip


def ending(name: str) -> str:
    """The ending in small letters, ``.nii.gz`` as a whole; "" for none that volumes have."""
    lower = name.lower()
    return next((one for one in VOLUMES if lower.endswith(one)), "")


def read_scan(path: str, identity: str) -> Scan:
    """The volume of a file. Raises BadSample where it is damaged or holds no single volume."""
    return _read(path, identity, True)


def scan_header(path: str, identity: str) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape (a, b, c, channels) and axes as of `Scan`, without the values. Raises BadSample."""
    scan = _read(path, identity, False)
    return scan.values.shape, scan.axes


def _read(path: str, identity: str, whole: bool) -> Scan:
    kind = ending(path)
    try:
        if kind in (".nii", ".nii.gz"):
            scan = _nifti(path, whole)
        elif kind == ".npy":
            # an array lies as it is shown: slices upwards, rows to the back, columns to the left
            scan = Scan(_with_channels(read_array(path, mapped=not whole)), np.eye(3)[::-1])
        else:
            with open(path, "rb") as file:
                content = file.read()
            scan = scan_of_bytes(content, kind, os.path.dirname(path), whole)
    except (*DAMAGE, zlib.error) as error:
        raise BadSample(identity, _reason(error)) from None
    return _checked(scan, identity)


def _reason(error: BaseException) -> str:
    line = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return f"is damaged ({line})"


def _checked(scan: Scan, identity: str) -> Scan:
    lengths = np.linalg.norm(scan.axes, axis=1)
    if not np.isfinite(scan.axes).all() or (lengths <= 0).any() or (lengths > 1000).any():
        raise BadSample(identity, "has a spacing that is not above 0 and below 1,000 mm")
    if min(scan.values.shape) < 1:
        raise BadSample(identity, f"has shape {scan.values.shape[:3]}")
    if abs(np.linalg.det(scan.axes / lengths[:, None])) < 0.05:
        raise BadSample(identity, "has axes that lie in one plane")
    return scan


def _with_channels(values: np.ndarray) -> np.ndarray:
    """(a, b, c, channels) of (a, b, c) and of (a, b, c, channels)."""
    if values.dtype.kind not in "biuf":
        raise ValueError(f"it holds values of type {values.dtype}")
    if values.ndim < 3 or values.ndim > 5:
        raise ValueError(f"it has {values.ndim} axes, and a volume has three")
    if values.ndim == 5:  # NIfTI keeps vectors there, behind an axis of time
        values = values.reshape(*values.shape[:3], -1)
    return values[..., None] if values.ndim == 3 else values


def _nifti(path: str, whole: bool) -> Scan:
    library = require("nibabel", "volume")
    own = (
        library.filebasedimages.ImageFileError, library.spatialimages.HeaderDataError,
        library.spatialimages.HeaderTypeError, library.wrapstruct.WrapStructError,
    )  # fmt: skip
    try:
        image: Any = library.load(path)
        affine = np.asarray(image.affine, np.float64)
        shape, dtype = tuple(map(int, image.shape)), image.get_data_dtype()
    except own as error:
        raise ValueError((str(error).splitlines() or ["damaged"])[0]) from None
    held = os.path.getsize(path) * (INFLATED if path.lower().endswith(".gz") else 1)
    if min(shape, default=0) < 1 or math.prod(shape) * dtype.itemsize > held:
        raise ValueError(f"it claims shape {shape}, more than the file can hold")
    if dtype.fields is not None:
        raise ValueError("it holds colours or vectors")
    axes = affine[:3, :3].T * LPS
    if not whole:
        return Scan(_with_channels(np.broadcast_to(np.zeros(1, np.float32), shape)), axes)
    if dtype.kind in "iu" and not _rescaled(image):
        return Scan(_with_channels(np.asarray(image.dataobj)), axes)
    return Scan(_with_channels(image.get_fdata(dtype=np.float32, caching="unchanged")), axes)


def _rescaled(image: Any) -> bool:
    slope, offset = getattr(image.dataobj, "slope", 1.0), getattr(image.dataobj, "inter", 0.0)
    return not (slope == 1 and offset == 0)


def scan_of_bytes(content: bytes, kind: str, folder: str = "", whole: bool = True) -> Scan:
    """NRRD (``.nrrd``, ``.nhdr``) or MetaImage (``.mha``, ``.mhd``), whose values may lie in `folder`.

    Raises:
        ValueError: it is damaged, or of a sort that is not read. OSError: its values cannot be opened.
    """
    return (_nrrd if kind in (".nrrd", ".nhdr") else _meta)(content, folder, whole)


def _nrrd(content: bytes, folder: str, whole: bool) -> Scan:
    if not content.startswith(b"NRRD000"):
        raise ValueError("it does not begin as NRRD does")
    found = re.search(rb"\r?\n\r?\n", content[:HEADER])
    text = content[: found.start() if found else HEADER].decode("utf-8", "replace")
    words = {}
    for line in text.splitlines()[1:]:
        name, mark, value = line.partition(":")
        if mark and not line.startswith("#") and not value.startswith("="):
            words[name.strip().lower().replace(" ", "")] = value.strip()
    code = next((c for c, names in NRRD_TYPES.items() if words.get("type") in names.split("|")), None)
    if code is None:
        raise ValueError(f"its type is {words.get('type')!r}")
    sizes = _whole(words.get("sizes", ""))
    if len(sizes) not in (3, 4) or str(len(sizes)) != words.get("dimension"):
        raise ValueError(f"it has sizes {words.get('sizes')!r}, and a volume has three")
    vectors = _vectors(words, len(sizes))
    data = _values_of(
        content[found.end() :] if found else b"", words.get("datafile") or words.get("data file"), folder
    )
    if words.get("lineskip", "0") != "0" or words.get("byteskip", "0") not in ("0", "-1"):
        raise ValueError("it skips lines or bytes, which is not read")
    values = _unpacked(data, code, sizes, words.get("encoding", "raw"), words.get("endian") == "big", whole)
    # the first axis runs fastest
    values = values.transpose(range(len(sizes))[::-1])
    inner = [number for number, vector in enumerate(vectors) if vector is not None]
    if len(inner) != 3:
        raise ValueError(f"{len(inner)} of its axes have directions, and a volume has three")
    other = [number for number in range(len(sizes)) if number not in inner]
    axes = np.array([vectors[number] for number in inner]) * _towards(words.get("space", ""))
    return Scan(_with_channels(values.transpose(*inner, *other)), axes)


def _vectors(words: dict[str, str], dimension: int) -> list[list[float] | None]:
    """Direction of each axis in the file's own space; None for one that is not in space."""
    if "spacedirections" in words:
        parts = re.findall(r"none|\(([^)]*)\)", words["spacedirections"])
        vectors = [[float(x) for x in part.split(",")] if part else None for part in parts]
        if len(vectors) != dimension or any(v is not None and len(v) != 3 for v in vectors):
            raise ValueError("its space directions are not those of its axes")
        return vectors
    spacings = words.get(
        "spacings", " ".join(["1"] * 3 if dimension == 3 else ["nan", "1", "1", "1"])
    ).split()
    if len(spacings) != dimension:
        raise ValueError("its spacings are not those of its axes")
    spaced = [float(value) for value in spacings]
    inner = [number for number, value in enumerate(spaced) if math.isfinite(value)]
    found: list[list[float] | None] = [None] * dimension
    for place, number in enumerate(inner[:3]):
        found[number] = [spaced[number] if place == axis else 0.0 for axis in range(3)]
    return found


def _towards(space: str) -> np.ndarray:
    """Signs from the file's space to left, back, head; that of DICOM where it says none."""
    first = space.lower().replace("_", "-").split("-")
    if len(first) == 1 and len(space) >= 3:
        first = [{"r": "right", "a": "anterior"}.get(letter, letter) for letter in space.lower()]
    return np.array([-1.0 if "right" in first else 1.0, -1.0 if "anterior" in first else 1.0, 1.0])


def _meta(content: bytes, folder: str, whole: bool) -> Scan:
    words, end = {}, 0
    for match in re.finditer(rb"([A-Za-z]+)[ \t]*=[ \t]*([^\r\n]*)\r?\n?", content[:HEADER]):
        words[match[1].decode("ascii")] = match[2].decode("utf-8", "replace").strip()
        end = match.end()
        if match[1] == b"ElementDataFile":
            break
    sizes = _whole(words.get("DimSize", ""))
    code = META_TYPES.get(words.get("ElementType", ""))
    if code is None or len(sizes) != 3 or words.get("NDims") != "3":
        raise ValueError(f"it has sizes {words.get('DimSize')!r} of {words.get('ElementType')!r}")
    channels = int(words.get("ElementNumberOfChannels", "1"))
    if not 1 <= channels <= 64:
        raise ValueError(f"it claims {channels} channels")
    name = words.get("ElementDataFile", "")
    data = _values_of(content[end:], None if name == "LOCAL" else name, folder)
    packed = "gzip" if words.get("CompressedData", "False").lower() == "true" else "raw"
    big = words.get("BinaryDataByteOrderMSB", words.get("ElementByteOrderMSB", "False")).lower() == "true"
    values = _unpacked(data, code, [channels, *sizes], packed, big, whole)
    turned = [float(x) for x in words.get("TransformMatrix", "1 0 0 0 1 0 0 0 1").split()]
    spacing = [float(x) for x in words.get("ElementSpacing", "1 1 1").split()]
    if len(turned) != 9 or len(spacing) != 3:
        raise ValueError("its spacing or its directions are not those of three axes")
    axes = np.array(turned).reshape(3, 3) * np.array(spacing)[:, None]
    return Scan(values.transpose(2, 1, 0, 3), axes)


def _whole(text: str) -> list[int]:
    return [int(word) if word.isdecimal() and len(word) < 10 else 0 for word in text.split()]


def _values_of(rest: bytes, name: str | None, folder: str) -> bytes:
    """What follows the header, or the content of the one file beside it that it names."""
    if name is None:
        return rest
    if name.upper().startswith("LIST") or os.path.basename(name) != name:
        raise ValueError(f"its values lie in {name!r}, and only a file beside it is read")
    with open(os.path.join(folder, name), "rb") as file:
        return file.read()


def _unpacked(data: bytes, code: str, sizes: list[int], encoding: str, big: bool, whole: bool) -> np.ndarray:
    """Values with the axes in reverse order of `sizes`, or nothing where only their shape is asked."""
    count, size = math.prod(sizes), int(code[1])
    if min(sizes) < 1 or count * size > max(1, len(data)) * (1 if encoding == "raw" else INFLATED):
        raise ValueError(f"it claims sizes {sizes}, more than the file can hold")
    if not whole:
        return np.broadcast_to(np.zeros(1, code), sizes[::-1])
    if encoding in ("gzip", "gz"):
        # MetaImage's are zlib's, NRRD's are gzip's: 32 takes both
        data = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(data, count * size)
    elif encoding in ("text", "txt", "ascii"):
        return np.loadtxt(io.BytesIO(data)).astype(code).reshape(sizes[::-1])
    elif encoding != "raw":
        raise ValueError(f"its encoding is {encoding!r}")
    if len(data) < count * size:
        raise ValueError(f"it claims sizes {sizes} and holds {len(data)} bytes")
    return np.frombuffer(data, (">" if big else "<") + code, count).reshape(sizes[::-1])
