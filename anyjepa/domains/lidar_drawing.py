"""LiDAR frames from above, forward up and left to the left: points by their height, boxes, shaded cells."""

from __future__ import annotations

import base64
import html
import io

import numpy as np
from torch import Tensor

from anyjepa.core.boxes import corners
from anyjepa.core.errors import require

__all__ = ["drawn_frame", "figure_of_frame", "framed"]

SIDE = 240  # pixels of the longer side
BACKGROUND = (20, 23, 28)
BOX = (255, 255, 255)
# dark blue on the ground to yellow above, evenly lighter
HEIGHT = np.array([[84, 104, 190], [62, 158, 178], [104, 212, 132], [253, 231, 37]], np.float64)
SHADE = 0.45  # of a cell's colour over what is there
FLOOR, CEILING = 0.02, 0.98  # quantiles of the heights that the colours reach over


def framed(batch: dict[str, Tensor], index: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 4) and boxes (m, 7) of one frame of a batch."""
    points = batch["points"][index].detach().cpu().float().numpy()
    points = points[batch["present"][index].cpu().numpy()]
    boxes = batch["boxes"][index].cpu().numpy() if "boxes" in batch else np.zeros((0, 7), np.float32)
    return points, boxes[np.isfinite(boxes).all(axis=1)]


def drawn_frame(
    points: np.ndarray, boxes: np.ndarray, facts: dict, colours: Tensor | None = None
) -> np.ndarray:
    """(h, w, 3) uint8 picture of a frame; see `Lidar.picture`.

    Args:
        points: (n, 4).
        boxes: (m, 7).
        facts: ``range`` is least x and y, largest x and y in metres, ``cells`` rows and columns of the map;
            without a range what `Lidar.measure` found.
        colours: (cells, 3) in 0..1 shade cells row by row; NaN leaves them.
    """
    low, high = _range(facts)
    scale = (SIDE - 1) / max(high[0] - low[0], high[1] - low[1])
    tall, wide = (max(1, round((high[axis] - low[axis]) * scale)) for axis in (0, 1))
    picture = np.empty((tall, wide, 3), np.float64)
    picture[:] = BACKGROUND
    if colours is not None:
        _shade(picture, colours.detach().cpu().float().numpy(), facts)
    order = np.argsort(points[:, 2], kind="stable")
    points = points[order]
    down, across = _pixels(points[:, :2], high, scale)
    seen = (down >= 0) & (down < tall) & (across >= 0) & (across < wide)
    if seen.any():
        bottom, top = np.quantile(points[seen, 2], [FLOOR, CEILING])
        level = np.clip((points[:, 2] - bottom) / max(top - bottom, 1e-6), 0, 1) * (len(HEIGHT) - 1)
        paint = np.stack([np.interp(level, range(len(HEIGHT)), HEIGHT[:, axis]) for axis in range(3)], axis=1)
        # of points on one pixel the last, which is the highest, stays
        for lower, further in ((0, 0), (0, 1), (1, 0), (1, 1)):
            rows, columns = (
                np.minimum(down[seen] + lower, tall - 1),
                np.minimum(across[seen] + further, wide - 1),
            )
            picture[rows, columns] = paint[seen]
    for ring in corners(boxes.astype(np.float64)):
        _line(picture, ring, high, scale)
    return np.rint(picture).clip(0, 255).astype(np.uint8)


def _range(facts: dict) -> tuple[np.ndarray, np.ndarray]:
    if "range" in facts:
        return np.array(facts["range"][:2], np.float64), np.array(facts["range"][2:], np.float64)
    low, high = np.array(facts["least"][:2]), np.array(facts["most"][:2])
    return low, np.maximum(high, low + 1.0)


def _pixels(places: np.ndarray, high: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns: x grows upwards, y to the left."""
    return (
        np.floor((high[0] - places[..., 0]) * scale).astype(int),
        np.floor((high[1] - places[..., 1]) * scale).astype(int),
    )


def _shade(picture: np.ndarray, colours: np.ndarray, facts: dict) -> None:
    rows, columns = facts["cells"]
    tall, wide = picture.shape[:2]
    # cells run row by row along y and column by column along x, from the near right corner
    down = columns - 1 - np.minimum(np.arange(tall) * columns // tall, columns - 1)
    across = rows - 1 - np.minimum(np.arange(wide) * rows // wide, rows - 1)
    cells = colours.reshape(rows, columns, 3)[across[None, :], down[:, None]] * 255
    there = np.isfinite(cells).all(axis=2)
    picture[there] = picture[there] * (1 - SHADE) + cells[there] * SHADE


def _line(picture: np.ndarray, ring: np.ndarray, high: np.ndarray, scale: float) -> None:
    for start, end in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        steps = max(2, int(np.ceil(np.abs(end - start).max() * scale * 2)))
        down, across = _pixels(start + np.linspace(0, 1, steps)[:, None] * (end - start), high, scale)
        seen = (down >= 0) & (down < len(picture)) & (across >= 0) & (across < picture.shape[1])
        picture[down[seen], across[seen]] = BOX


def figure_of_frame(points: np.ndarray, boxes: np.ndarray, facts: dict, colours: Tensor | None = None) -> str:
    """The same as SVG: boxes as outlines with their forward end marked, and how many metres the sides are."""
    pixels = drawn_frame(points, boxes[:0], facts, colours)
    file = io.BytesIO()
    require("PIL.Image", "image").fromarray(pixels).save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    low, high = _range(facts)
    scale = (SIDE - 1) / max(high[0] - low[0], high[1] - low[1])
    tall, wide = pixels.shape[:2]
    shapes = []
    for box, ring in zip(boxes, corners(boxes.astype(np.float64)), strict=True):
        ahead = (ring[0] + ring[3]) / 2
        path = [ring[0], ring[1], ring[2], ring[3], ring[0], box[:2].astype(np.float64), ring[3], ahead]
        ends = " ".join(f"{(high[1] - y) * scale:.1f},{(high[0] - x) * scale:.1f}" for x, y in path)
        shapes.append(f'<polyline points="{ends}"/>')
    step = next(size for size in (5, 10, 20, 50, 100, 1000) if size * scale > 35 or size == 1000)
    ticks = []
    for metres in np.arange(np.ceil(low[0] / step) * step, high[0] + 1e-6, step):
        row = (high[0] - metres) * scale
        if 8 < row < tall - 4:
            ticks.append(f'<text x="2" y="{row + 3:.1f}">{metres:.0f} m</text>')
    words = html.escape(
        f"{high[1] - low[1]:.0f} m across, {high[0] - low[0]:.0f} m ahead, {len(boxes)} boxes"
    )
    return (
        f'<svg viewBox="0 0 {wide} {tall}" style="width:100%;overflow:hidden;border-radius:6px" '
        f'role="img" aria-label="{words}"><title>{words}</title>'
        f'<image href="data:image/png;base64,{data}" width="{wide}" height="{tall}" '
        'style="image-rendering:pixelated"/>'
        f'<g fill="none" stroke="#ffffff" stroke-width="1.2">{"".join(shapes)}</g>'
        f'<g fill="#c8ccd4" font-size="8" font-family="sans-serif">{"".join(ticks)}</g></svg>'
    )
