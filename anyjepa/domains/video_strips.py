"""Clips as pictures: a contact sheet of four frames, and a film strip with its tubelets shaded."""

from __future__ import annotations

import base64
import io

import numpy as np

from anyjepa.core.errors import require
from anyjepa.domains.images import _likely_grid, _visible

__all__ = ["contact_sheet", "film_strip", "painted"]

SHEET = 4  # frames of a contact sheet
STRIP = 8  # frames of a film strip
SIDE = 96  # pixels that a frame of a strip is enlarged to at least
GAP = 3
SHADE = 0.66  # of the paint over a frame


def painted(
    clip: np.ndarray, colours: np.ndarray | None, tubelet: int = 2, strength: float = 1.0
) -> np.ndarray:
    """A clip (channels, frames, height, width) as (frames, h, w, 3) uint8, its tubelets in their colours.

    colours: (tokens, 3) in 0..1, time-major, NaN where the frame is to show. strength: share of the paint.
    Raises ValueError for colours that fill no grid.
    """
    pictures = np.stack([_visible(clip[:, frame]) for frame in range(clip.shape[1])])
    if colours is None:
        return pictures
    frames, height, width = pictures.shape[:3]
    slices = max(1, frames // tubelet)
    if len(colours) % slices:
        raise ValueError(f"{len(colours)} colours do not fill {slices} slices of time")
    rows, columns = _likely_grid(len(colours) // slices, height / width)
    cells = colours.reshape(slices, rows, columns, 3)
    when = np.minimum(np.arange(frames) // tubelet, slices - 1)
    paint = cells[when][:, np.arange(height) * rows // height][:, :, np.arange(width) * columns // width]
    covered = ~np.isnan(paint).any(axis=3, keepdims=True)
    mixed = pictures * (1 - strength) + np.nan_to_num(np.clip(paint, 0, 1)) * 255 * strength
    return np.where(covered, np.rint(mixed), pictures).astype(np.uint8)


def contact_sheet(pictures: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8: four frames of (frames, h, w, 3), evenly spaced, in reading order; one of a still."""
    if len(pictures) < SHEET:
        return _enlarged(pictures[:1])[0]
    chosen = _enlarged(pictures[np.linspace(0, len(pictures) - 1, SHEET).round().astype(int)], SIDE // 2)
    return np.concatenate([np.concatenate(list(pair), axis=1) for pair in (chosen[:2], chosen[2:])])


def film_strip(clip: np.ndarray, rate: float, colours: np.ndarray | None, tubelet: int = 2) -> str:
    """SVG: up to eight frames of a clip side by side, the time of each below it, tubelets shaded."""
    pictures = painted(clip, colours, tubelet, SHADE)
    count = min(STRIP, len(pictures))
    chosen = np.linspace(0, len(pictures) - 1, count).round().astype(int)
    frames = _enlarged(pictures[chosen])
    height, width = frames.shape[1:3]
    strip = np.full((height, count * (width + GAP) - GAP, 3), 24, np.uint8)
    for place, frame in enumerate(frames):
        strip[:, place * (width + GAP) : place * (width + GAP) + width] = frame
    edge, text = round(0.06 * height), round(0.13 * height)
    style = f'text-anchor="middle" style="fill:#ddd;font-size:{text}px"'
    low, marks = height + edge + 1.15 * text, []
    for place, number in enumerate(chosen.tolist()):
        middle = edge + place * (width + GAP) + width / 2
        said = f"{number / rate:.2f} s" if rate else str(number + 1)
        marks.append(f'<text x="{middle:.0f}" y="{low:.0f}" {style}>{said}</text>')
    across, down = strip.shape[1] + 2 * edge, height + 2 * edge + round(1.3 * text)
    return (
        f'<svg class="wide" viewBox="0 0 {across} {down}" role="img" '
        f'aria-label="{count} frames of a clip, the first on the left">'
        f'<rect width="{across}" height="{down}" rx="{edge}" fill="#181818"/>'
        f'<image x="{edge}" y="{edge}" width="{strip.shape[1]}" height="{height}" href="{_data_uri(strip)}" '
        f'style="image-rendering:pixelated"/>{"".join(marks)}</svg>'
    )


def _enlarged(pictures: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Whole multiples of pixels, to at least ``side`` on the longer one; larger ones are thinned out."""
    longest = max(pictures.shape[1:3])
    if longest > 2 * side:
        step = longest // (2 * side) + 1
        return pictures[:, ::step, ::step]
    scale = max(1, -(-side // longest))
    return pictures.repeat(scale, axis=1).repeat(scale, axis=2)


def _data_uri(pixels: np.ndarray) -> str:
    image = require("PIL.Image", "video").fromarray(np.ascontiguousarray(pixels))
    file = io.BytesIO()
    image.quantize(256, dither=0).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
