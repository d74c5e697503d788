"""One encoded image to an array, and an array to the channels and depth of the set it is in."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from anyjepa.core.errors import BadSample, require
from anyjepa.domains.number_files import believable, read_array
from anyjepa.domains.sar_files import PHOENIX, decode_phoenix

__all__ = ["SUFFIXES", "conform", "decode", "decode_mask", "layout", "plain", "suffix_of"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".npy"})
FEW_CHANNELS = 4
MOST_CHANNELS = 64
DAMAGE = (  # what decoders raise on bytes that are not what they say
    OSError,
    ValueError,
    SyntaxError,
    RuntimeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
    zlib.error,
)
MAGIC = {
    b"\x93NUMPY": "npy", b"\x89PNG": "png", b"\xff\xd8": "jpg", b"GIF8": "gif",
    b"[Pho": "mstar", b"II*\0": "tif", b"MM\0*": "tif", b"II+\0": "tif", b"MM\0+": "tif",
}  # fmt: skip
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def decode(content: bytes, identity: str) -> np.ndarray:
    """Encoded bytes to (height, width, channels): uint8, uint16 or float32. Raises BadSample if damaged.

    The format is told from the first bytes, not from the name. Reads PNG, TIFF, .npy and raw MSTAR chips at
    their full depth; everything else that Pillow reads at 8 bits. EXIF orientation is applied; of an
    animation the first frame counts.
    """
    if not content:
        raise BadSample(identity, "the file is empty")
    if content[:6] == b"\x93NUMPY":
        image = _guarded(_decode_npy, content, identity)
    elif content.startswith(PHOENIX):
        image = _guarded(lambda chip: decode_phoenix(chip)[:, :, None], content, identity)
    elif content[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        image = _guarded(_decode_tiff, content, identity)
    elif content[:8] == b"\x89PNG\r\n\x1a\n" and len(content) > 25 and content[24] == 16 and content[25] != 0:
        image = _guarded(_decode_deep_png, content, identity)
    else:
        image = _guarded(_decode_pillow, content, identity)
    if 0 in image.shape:
        raise BadSample(identity, f"the image has no pixels (shape {image.shape})")
    return check_finite(image, identity)


def decode_mask(content: bytes, identity: str) -> np.ndarray:
    """Encoded labels of pixels as they are stored, an index into a palette where they have one.

    Raises BadSample where they are damaged.
    """
    if content[:6] == b"\x93NUMPY":
        return _guarded(read_array, content, identity)
    return _guarded(lambda found: _pillow(found, lambda image: np.array(image))[0], content, identity)


def suffix_of(content: bytes) -> str:
    """The extension, without the dot, of the format that the first bytes tell."""
    for start, suffix in MAGIC.items():
        if content.startswith(start):
            return suffix
    return "webp" if content[8:12] == b"WEBP" else "bmp" if content[:2] == b"BM" else "jpg"


def check_finite(image: np.ndarray, identity: str) -> np.ndarray:
    """The image itself; BadSample where a float image holds NaN or infinity."""
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise BadSample(identity, "holds NaN or infinite values")
    return image


def plain(values: np.ndarray) -> np.ndarray:
    """Values as uint8, uint16 or float32: booleans become 0 and 255, complex values their magnitude."""
    if values.dtype.kind == "c":
        values = np.abs(values)
    if values.dtype.kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"values of type {values.dtype} are not an image")
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def layout(shape: tuple[int, ...]) -> str:
    """``"last"`` or ``"first"``: where the channels of a 3-axis image are. Raises ValueError if nowhere.

    A last axis of at most 4 is channels; else a first axis of at most 4; else, up to 64, the axis beside
    which the two others are equal; else the shorter one.
    """
    first, middle, last = shape
    if last <= FEW_CHANNELS:
        return "last"
    if first <= FEW_CHANNELS:
        return "first"
    if min(first, last) > MOST_CHANNELS:
        raise ValueError(f"no axis of {shape} can be the channels")
    if (first == middle) != (middle == last):
        return "last" if first == middle else "first"
    return "first" if first < last else "last"


def conform(image: np.ndarray, channels: int, dtype: np.dtype, identity: str) -> np.ndarray:
    """The image (height, width, any) with the channels and the depth that its set has.

    Grey is repeated to colour, colour becomes luma, alpha is dropped. 8 and 16 bit differ by the factor 257,
    and float stands for them as 0..1. Raises BadSample where the image cannot be brought to that.
    """
    return _to_depth(_to_channels(image, channels, identity), np.dtype(dtype), identity)


def _to_channels(image: np.ndarray, channels: int, identity: str) -> np.ndarray:
    has = image.shape[2]
    if has == channels:
        return image
    if channels in (1, 3) and has in (2, 4):
        image = image[:, :, :-1]
        has -= 1
    if has == channels:
        return image
    if has == 1 and channels == 3:
        return np.repeat(image, 3, axis=2)
    if has == 3 and channels == 1:
        grey = (image @ LUMA)[:, :, None]
        return (grey if image.dtype.kind == "f" else np.rint(grey)).astype(image.dtype)
    raise BadSample(identity, f"has {image.shape[2]} channels where most of the set has {channels}")


def _to_depth(image: np.ndarray, dtype: np.dtype, identity: str) -> np.ndarray:
    if image.dtype == dtype:
        return image
    if dtype.kind == "f":
        return image.astype(np.float32) / np.iinfo(image.dtype).max
    if image.dtype.kind == "f":
        if image.min() < 0 or image.max() > 1:
            raise BadSample(identity, f"is float outside 0..1 where most of the set is {dtype}")
        return np.rint(image * np.iinfo(dtype).max).astype(dtype)
    if dtype == np.uint16:
        return image.astype(np.uint16) * np.uint16(257)
    return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _guarded(decoder: Callable[[bytes], np.ndarray], content: bytes, identity: str) -> np.ndarray:
    """What the decoder gives; every way in which a damaged file shows itself becomes a BadSample."""
    try:
        return decoder(content)
    except DAMAGE as error:
        reason = str(error) or type(error).__name__
    except (TypeError, MemoryError) as error:  # Pillow's parsers on a damaged header; a header that lies
        reason = f"{type(error).__name__} {error}".strip()
    raise BadSample(identity, reason.replace("<_io.BytesIO object at ", "<").splitlines()[0])


def _decode_pillow(content: bytes) -> np.ndarray:
    values, orientation = _pillow(content, _pillow_values)
    return _orient(values, orientation)


def _pillow(content: bytes, values_of: Callable[[Any], np.ndarray]) -> tuple[np.ndarray, int]:
    """What `values_of` makes of a picture, and its EXIF orientation. Raises what Pillow does on damage."""
    image_module = require("PIL.Image", "image")
    try:
        with image_module.open(io.BytesIO(content)) as image:
            believable(image.width * image.height * len(image.getbands()), len(content))
            image.load()
            return values_of(image), image.getexif().get(274, 1)
    except image_module.UnidentifiedImageError:
        raise ValueError("is not an image in a format that is known") from None
    except image_module.DecompressionBombError as error:
        raise ValueError(f"is refused as a decompression bomb: {error}") from None


def _pillow_values(image) -> np.ndarray:
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
    elif image.mode not in ("L", "LA", "RGB", "RGBA", "F", "I") and not image.mode.startswith("I;16"):
        image = image.convert("RGB")
    values = np.asarray(image)
    if image.mode == "I" and values.min() >= 0 and values.max() <= 65535:
        values = values.astype(np.uint16)
    values = plain(values)
    return values[:, :, None] if values.ndim == 2 else values


def _decode_deep_png(content: bytes) -> np.ndarray:
    # Pillow reads 16-bit colour as 8-bit without a word.
    _check_png_chunks(content)
    width, height = struct.unpack(">II", content[16:24])
    believable(width * height * 8, len(content))
    values = require("imagecodecs", "image").png_decode(content)
    values = plain(values[:, :, None] if values.ndim == 2 else values)
    with require("PIL.Image", "image").open(io.BytesIO(content)) as image:
        orientation = image.getexif().get(274, 1)
    return _orient(values, orientation)


def _check_png_chunks(content: bytes) -> None:
    """Raises ValueError for a PNG whose end is missing, which some decoders fill with zeros."""
    position = 8
    while position + 8 <= len(content):
        length, kind = (
            int.from_bytes(content[position : position + 4], "big"),
            content[position + 4 : position + 8],
        )
        position += 12 + length
        if kind == b"IEND" and position <= len(content):
            return
    raise ValueError("image file is truncated")


def _check_tiff_pages(content: bytes) -> None:
    """Raises ValueError where the chain of pages takes more room than the file has: it runs in a circle.

    The library follows such a chain for minutes.
    """
    order: Any = {b"II": "little", b"MM": "big"}.get(content[:2])
    if order is None:
        raise ValueError("not a TIFF")
    large = int.from_bytes(content[2:4], order) == 43
    count_bytes, entry_bytes, offset_bytes = (8, 20, 8) if large else (2, 12, 4)
    start = 8 if large else 4
    place, taken = int.from_bytes(content[start : start + offset_bytes], order), 0
    while place and place + count_bytes <= len(content):
        entries = int.from_bytes(content[place : place + count_bytes], order)
        after = place + count_bytes + entries * entry_bytes
        taken += after + offset_bytes - place
        if taken > len(content):
            raise ValueError("its chain of pages is damaged")
        place = int.from_bytes(content[after : after + offset_bytes], order)


def _decode_tiff(content: bytes) -> np.ndarray:
    tifffile = require("tifffile", "image")
    _check_tiff_pages(content)
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        if not file.series:
            raise ValueError("the TIFF holds no image")
        series, page = file.series[0], file.pages[0]
        believable(math.prod(series.shape) * series.dtype.itemsize, len(content))
        values, axes = series.asarray(), series.axes
        orientation = page.tags["Orientation"].value if "Orientation" in page.tags else 1
        if (
            page.photometric == tifffile.PHOTOMETRIC.PALETTE
            and values.ndim == 2
            and page.colormap is not None
        ):
            values, axes = (np.moveaxis(page.colormap[:, values], 0, -1) // 257).astype(np.uint8), "YXS"
        elif page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and values.dtype.kind in "ub":
            values = ~values if values.dtype.kind == "b" else np.iinfo(values.dtype).max - values
        elif (
            page.photometric == tifffile.PHOTOMETRIC.SEPARATED and values.dtype == np.uint8 and axes == "YXS"
        ):
            inks = 255 - values.astype(np.uint16)
            values = ((inks[..., :3] * inks[..., 3:4] + 127) // 255).astype(np.uint8)
    return _orient(_tiff_image(values, axes), orientation)


def _tiff_image(values: np.ndarray, axes: str) -> np.ndarray:
    """(height, width, channels) of a TIFF series: the first frame and slice, channels wherever they are."""
    for axis in "TZRAEPVM":
        while axis in axes:
            position = axes.index(axis)
            values, axes = values.take(0, axis=position), axes[:position] + axes[position + 1 :]
    while values.ndim > 3 and 1 in values.shape:
        position = values.shape.index(1)
        values, axes = values.squeeze(position), axes[:position] + axes[position + 1 :]
    if values.ndim == 3 and axes[-2:] == "YX" and axes[0] in "CS":
        values = np.moveaxis(values, 0, -1)
    elif values.ndim == 3 and axes[:2] == "YX":
        return plain(values)
    elif values.ndim == 3:
        return _channels_last(plain(values))
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3:
        raise ValueError(f"a TIFF with axes {axes} and shape {values.shape} is not one image")
    return plain(np.ascontiguousarray(values))


def _decode_npy(content: bytes) -> np.ndarray:
    values = plain(read_array(content))
    if values.ndim == 2:
        return values[:, :, None]
    if values.ndim != 3:
        raise ValueError(f"an array of shape {values.shape} is not one image")
    return _channels_last(values)


def _channels_last(values: np.ndarray) -> np.ndarray:
    if layout(values.shape) == "first":
        return np.ascontiguousarray(np.moveaxis(values, 0, -1))
    return values


def _orient(values: np.ndarray, orientation: int) -> np.ndarray:
    """Rows and columns as the EXIF orientation (1 to 8) says the image is to be seen."""
    if orientation not in range(2, 9):
        return values
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return np.ascontiguousarray(values)
