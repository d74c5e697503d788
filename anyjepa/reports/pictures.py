"""Pictures as PNG data URIs: small, so that the whole page stays a file one can send."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

PLAIN_PIXELS = 4096  # below this, a picture keeps all its colours: a palette would save nothing


@dataclass(frozen=True)
class Picture:
    """A picture in the page.

    Args:
        source: PNG data URI.
        width: pixels.
        height: pixels.
        alt: what it shows, for who cannot see it.
        caption: text below it; may be empty.
        tone: "right", "wrong", or empty.
        drawing: HTML or SVG (Markup) that takes the place of the image; may be empty.
    """

    source: str
    width: int
    height: int
    alt: str
    caption: str = ""
    tone: str = ""
    drawing: str = ""


def fit(pixels: np.ndarray, most: int) -> np.ndarray:
    """(h, w, 3) uint8 shrunk, if it must be, to at most `most` pixels a side."""
    scale = most / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def data_uri(pixels: np.ndarray) -> str:
    """(h, w, 3) uint8 as a PNG data URI; a large picture is reduced to its best 256 colours."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if image.width * image.height > PLAIN_PIXELS:
        image = image.quantize(256, dither=Image.Dither.NONE)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def picture(pixels: np.ndarray, alt: str, caption: str = "", tone: str = "", most: int = 160) -> Picture:
    """A picture of at most `most` pixels a side from (h, w, 3) uint8."""
    pixels = fit(pixels, most)
    return Picture(data_uri(pixels), pixels.shape[1], pixels.shape[0], alt, caption, tone)


def sprite_sheet(pictures: Sequence[np.ndarray], cell: int) -> tuple[np.ndarray, int]:
    """All pictures in one, row by row in square cells of `cell` pixels, and the number of columns.

    Each picture is shrunk or enlarged to its cell, its proportions kept, centred on mid grey.
    """
    columns = max(1, math.ceil(math.sqrt(len(pictures))))
    rows = max(1, math.ceil(len(pictures) / columns))
    sheet = np.full((rows * cell, columns * cell, 3), 128, dtype=np.uint8)
    for number, pixels in enumerate(pictures):
        pixels = fit(pixels, cell)
        larger = cell // max(pixels.shape[:2])
        pixels = pixels.repeat(larger, axis=0).repeat(larger, axis=1)
        top = number // columns * cell + (cell - pixels.shape[0]) // 2
        left = number % columns * cell + (cell - pixels.shape[1]) // 2
        sheet[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return sheet, columns
