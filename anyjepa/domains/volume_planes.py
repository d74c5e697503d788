"""Volumes as pictures: three planes through the middle, and the slices side by side."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np

from anyjepa.core.errors import require

__all__ = ["middle_slice", "planes"]

SIDE = 120  # pixels of a thumbnail, at least, on its longer side
PLANE = 92.0  # height of a plane as drawn
STRIP = 12  # slices that are drawn side by side
SHADE = 0.55  # of the paint over a slice
OTHERS = {
    "axial": ("axial", "coronal", "sagittal"),
    "coronal": ("coronal", "axial", "sagittal"),
    "sagittal": ("sagittal", "axial", "coronal"),
}
# which end of a plane's picture is which, left and top: R right, L left, A front, P back, H head, F feet
LETTERS = {"axial": ("R", "A"), "coronal": ("R", "H"), "sagittal": ("A", "H")}


def middle_slice(
    volume: np.ndarray, present: np.ndarray, spacing: Sequence[float], colours: np.ndarray | None = None
) -> np.ndarray:
    """(h, w, 3) uint8: the middle one of the slices, with square pixels.

    Args:
        volume: (slices, rows, columns) of 0 to 1.
        present: (slices,) False where a slice pads.
        spacing: millimetres between slices, rows and columns.
        colours: (slices, 3) in 0..1; the picture then has a bar of them at its left, NaN left out.
    """
    real = np.flatnonzero(present)
    pixels = _square(_grey(volume[real[len(real) // 2]]), spacing[1], spacing[2])
    scale = max(1, -(-SIDE // max(pixels.shape[:2])))
    pixels = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    if colours is None:
        return pixels
    rows = np.arange(len(pixels)) * len(colours) // len(pixels)
    paint = np.nan_to_num(np.clip(colours[rows], 0, 1) * 255, nan=24.0)
    bar = np.rint(paint).astype(np.uint8)[:, None].repeat(max(6, pixels.shape[1] // 8), axis=1)
    painted = pixels.copy()
    painted[:, : bar.shape[1]] = bar
    return painted


def planes(
    volume: np.ndarray,
    present: np.ndarray,
    spacing: Sequence[float],
    plane: str,
    colours: np.ndarray | None = None,
) -> str:
    """HTML: three planes through the middle with their true proportions, and up to 12 slices in their order.

    Args:
        volume: (slices, rows, columns) of 0 to 1.
        present: (slices,) False where a slice pads.
        spacing: millimetres between slices, rows and columns.
        plane: that slices are parallel to.
        colours: (slices, 3) in 0..1 paint slices, and the lines in which other planes cut them; NaN leaves
            them.
    """
    real = np.flatnonzero(present)
    body = volume[real]
    tints = None if colours is None else colours[real]
    count, rows, columns = body.shape
    middle = count // 2
    parts = []
    if count == 1:
        shown = _tinted(_grey(body[0]), None if tints is None else tints[[0]][None])
        return (
            f'<div class="volume">{_drawn(shown, rows * spacing[1], columns * spacing[2], "the slice")}</div>'
        )
    cut = [
        (_grey(body[middle]), rows * spacing[1], columns * spacing[2],
         None if tints is None else tints[[middle]][None]),
        (_grey(body[:, rows // 2]), count * spacing[0], columns * spacing[2],
         None if tints is None else tints[:, None]),
        (_grey(body[:, :, columns // 2]), count * spacing[0], rows * spacing[1],
         None if tints is None else tints[:, None]),
    ]  # fmt: skip
    for name, (pixels, tall, wide, tint) in zip(OTHERS[plane], _hung(cut, plane), strict=True):
        words = f"{name}, {LETTERS[name][0]} on the left, {LETTERS[name][1]} above"
        parts.append(_drawn(_tinted(pixels, tint), tall, wide, words))
    chosen = np.unique(np.linspace(0, count - 1, min(STRIP, count)).round().astype(int))
    strip = []
    for number in chosen.tolist():
        tint = None if tints is None else tints[[number]][None]
        pixels = _tinted(_grey(body[number]), tint)
        strip.append(_drawn(pixels, rows * spacing[1], columns * spacing[2], str(number + 1), 36.0))
    row = '<div style="display:flex;flex-wrap:wrap;gap:4px;align-items:flex-end">'
    return (
        f'<div class="volume">{row}{"".join(parts)}</div>'
        f'<div style="font-size:11px;margin-top:6px">{plane} slices, {spacing[0]:.3g} mm apart</div>'
        f"{row}{''.join(strip)}</div></div>"
    )


def _hung(cut: list, plane: str) -> list:
    """The planes across the slices as `OTHERS` names them, and as radiologists hang them."""
    slice_plane, across_rows, across_columns = cut

    def flipped(one: tuple) -> tuple:
        pixels, tall, wide, tint = one
        return pixels[::-1], tall, wide, None if tint is None else tint[::-1]

    def turned(one: tuple) -> tuple:
        pixels, tall, wide, tint = one
        return pixels.swapaxes(0, 1), wide, tall, None if tint is None else tint.swapaxes(0, 1)

    if plane == "axial":  # slices run upwards: the head belongs on top
        return [slice_plane, flipped(across_rows), flipped(across_columns)]
    if plane == "coronal":  # slices run backwards, rows downwards
        return [slice_plane, across_rows, turned(across_columns)]
    # sagittal slices run to the left, rows downwards, columns backwards
    return [slice_plane, turned(across_rows), turned(across_columns)]


def _grey(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)[..., None].repeat(3, axis=2)


def _tinted(pixels: np.ndarray, tint: np.ndarray | None) -> np.ndarray:
    """`SHADE` of the paint over each line or all of a picture; NaN leaves it as it is."""
    if tint is None:
        return pixels
    paint = np.broadcast_to(tint, pixels.shape)
    covered = ~np.isnan(paint).any(axis=2, keepdims=True)
    mixed = pixels * (1 - SHADE) + np.nan_to_num(np.clip(paint, 0, 1)) * 255 * SHADE
    return np.where(covered, np.rint(mixed), pixels).astype(np.uint8)


def _square(pixels: np.ndarray, tall: float, wide: float) -> np.ndarray:
    """Lines repeated until pixels are about square."""
    if tall > wide:
        at = np.arange(round(len(pixels) * tall / wide)) * wide / tall
        return pixels[np.minimum(at.astype(int), len(pixels) - 1)]
    at = np.arange(round(pixels.shape[1] * wide / tall)) * tall / wide
    return pixels[:, np.minimum(at.astype(int), pixels.shape[1] - 1)]


def _drawn(pixels: np.ndarray, tall: float, wide: float, words: str, height: float = PLANE) -> str:
    file = io.BytesIO()
    step = max(1, max(pixels.shape[:2]) // 400)
    picture = np.ascontiguousarray(pixels[::step, ::step])
    require("PIL.Image", "image").fromarray(picture).save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    across = min(2.2 * height, height * wide / max(tall, 1e-6))
    down = across * tall / max(wide, 1e-6)
    return (
        f'<figure style="margin:0"><img style="width:{across:.0f}px;height:{down:.0f}px;'
        f'image-rendering:pixelated" src="data:image/png;base64,{data}" alt="{html.escape(words)}">'
        f'<figcaption style="font-size:10px">{html.escape(words)}</figcaption></figure>'
    )
