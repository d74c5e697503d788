"""Files of optical flow: Middlebury's .flo, KITTI's 16-bit PNG, .pfm and .npy; pairs of frames from names."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

import numpy as np

from anyjepa.core.errors import BadSample
from anyjepa.domains.image_files import DAMAGE, check_finite, decode
from anyjepa.domains.number_files import read_array

__all__ = ["FLOWS", "PICTURES", "PairFiles", "decode_flow", "encode_flo"]

MAGIC = struct.pack("<f", 202021.25)
FLOWS = frozenset({".flo", ".pfm", ".npy", ".png"})
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"})
UNKNOWN = 1e9  # a .flo marks pixels of unknown flow by what is larger


def decode_flow(content: bytes, identity: str) -> np.ndarray:
    """(height, width, 2) float32 in pixels, u to the right and v down, NaN where unknown.

    The format is told from the first bytes. Raises BadSample where they are damaged.
    """
    try:
        if content[:4] == MAGIC:
            flow = _flo(content)
        elif content[:2] in (b"PF", b"Pf"):
            flow = _pfm(content)
        elif content[:6] == b"\x93NUMPY":
            flow = read_array(content)
            if flow.ndim != 3 or flow.shape[2] != 2 or flow.dtype.kind not in "iuf":
                raise ValueError(f"is of shape {flow.shape}, not (height, width, 2)")
        elif content[:4] == b"\x89PNG":
            flow = _kitti(decode(content, identity))
        else:
            raise ValueError("is no flow in a format that is known")
    except DAMAGE as problem:
        raise BadSample(identity, f"has damaged flow: {str(problem) or type(problem).__name__}") from None
    with np.errstate(over="ignore", invalid="ignore"):
        flow = flow.astype(np.float32)
        return np.where((np.abs(flow) < UNKNOWN).all(axis=2, keepdims=True), flow, np.float32(np.nan))


def _flo(content: bytes) -> np.ndarray:
    width, height = struct.unpack("<ii", content[4:12])
    if width < 1 or height < 1 or len(content) < 12 + 8 * width * height:
        raise ValueError(f"claims {width} x {height} pixels and holds {len(content)} bytes")
    return np.frombuffer(content, "<f4", 2 * width * height, 12).reshape(height, width, 2)


def _pfm(content: bytes) -> np.ndarray:
    """Of three channels, as FlyingThings3D has them, the first two."""
    header = content[:200].split(b"\n", 3)
    channels, (width, height), scale = 3, map(int, header[1].split()), float(header[2])
    start = sum(len(line) + 1 for line in header[:3])
    count = channels * width * height
    if header[0].strip() != b"PF" or min(width, height) < 1 or len(content) < start + 4 * count:
        raise ValueError(f"claims {width} x {height} pixels in colour and holds {len(content)} bytes")
    values = np.frombuffer(content, "<f4" if scale < 0 else ">f4", count, start)
    return values.reshape(height, width, channels)[::-1, :, :2]


def _kitti(values: np.ndarray) -> np.ndarray:
    if values.dtype != np.uint16 or values.shape[2] != 3:
        raise ValueError(f"is a PNG of {values.dtype} in {values.shape[2]} channels, not three of 16 bits")
    flow = (values[..., :2].astype(np.float32) - 2**15) / 64
    return np.where(values[..., 2:] > 0, flow, np.float32(np.nan))


def encode_flo(flow: np.ndarray) -> bytes:
    """A .flo file of (height, width, 2) pixels; NaN is written as unknown."""
    height, width = flow.shape[:2]
    values = np.where(np.isfinite(flow), flow, 10 * UNKNOWN).astype("<f4")
    return MAGIC + struct.pack("<ii", width, height) + values.tobytes()


class PairFiles:
    """Pairs of image files below a folder, some with a file of flow; satisfies the Videos protocol.

    Args:
        root: of the paths.
        pairs: relative paths of the first and the second frame, and of the flow or None.
    """

    def __init__(self, root: str, pairs: Sequence[tuple[str, str, str | None]]) -> None:
        self.root, self.pairs = root, list(pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def identity(self, index: int) -> str:
        """The first frame's path."""
        return self.pairs[index][0]

    def size(self, index: int) -> int:
        """Bytes of the first frame's file."""
        return os.stat(os.path.join(self.root, self.pairs[index][0])).st_size

    def length(self, index: int) -> float:
        """Frames: two."""
        return 2.0

    def frames(self, index: int, times: np.ndarray) -> np.ndarray:
        """(2, height, width, channels). Raises BadSample where one does not open or is of another size."""
        identity = self.identity(index)
        found = [decode(self._content(name, identity), identity) for name in self.pairs[index][:2]]
        if found[0].shape != found[1].shape or found[0].dtype != found[1].dtype:
            raise BadSample(identity, f"has frames that differ, {found[0].shape} and {found[1].shape}")
        return check_finite(np.stack(found), identity)

    def flow(self, index: int) -> np.ndarray | None:
        """(height, width, 2) float32, NaN where unknown; None where there is no file. Raises BadSample."""
        name, identity = self.pairs[index][2], self.identity(index)
        return None if name is None else decode_flow(self._content(name, identity), identity)

    def _content(self, name: str, identity: str) -> bytes:
        try:
            with open(os.path.join(self.root, name), "rb") as file:
                return file.read()
        except OSError as problem:
            raise BadSample(identity, problem.strerror or str(problem)) from None
