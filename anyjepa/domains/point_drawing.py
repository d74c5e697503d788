"""Clouds on a page: a shaded picture, and a canvas that can be turned."""

from __future__ import annotations

import base64
import colorsys

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from anyjepa.core.points import distances, farthest_points, gather_points, normalised, outermost

__all__ = ["drawn_cloud", "patch_of_points", "turnable_cloud"]

Cloud = Float[Tensor, "points channels"]
Colours = Float[Tensor, "patches 3"]

SIDE = 120  # pixels of the picture
DRAWN = 1200  # points of a canvas at most: a page holds thirty
PLAIN = (0.93, 0.90, 0.82)  # of what no colour is given to, where others have one
BACKGROUND = (20, 23, 28)
# dark blue to yellow, evenly lighter, as viewers of scans show height
HEIGHT = np.array([[0.25, 0.33, 0.75], [0.16, 0.60, 0.73], [0.35, 0.80, 0.50], [0.97, 0.90, 0.35]])
SEEN_FROM = (0.65, 0.4)  # turn about the vertical and tilt, radians
AXES = {"x": (1, 0, 2), "y": (0, 1, 2), "z": (0, 2, 1)}  # to the right, up, towards the viewer


def patch_of_points(points: Cloud, patches: int) -> tuple[Tensor, Tensor]:
    """(points,) the patch whose centre is nearest to each point, and (patches,) the centres' indices.

    Centres are those that Point-JEPA's encoder finds in use: farthest point sampling from the outermost.
    """
    places = points[None, :, :3]
    centres = farthest_points(places, patches, outermost(places))
    return distances(places, gather_points(places, centres)).argmin(dim=2)[0], centres[0]


def drawn_cloud(points: Cloud, colours: Colours | None = None, up: str = "y") -> np.ndarray:
    """(120, 120, 3) uint8 picture of a cloud; see `Points.picture`."""
    places, paint = _upright(points, up), _painted(points, colours, up)[0]
    right, high, near = _turned(places, *SEEN_FROM)
    shade = 0.55 + 0.45 * (near - near.min()) / max(float(np.ptp(near)), 1e-9)
    picture = np.empty((SIDE, SIDE, 3), np.uint8)
    picture[:] = BACKGROUND
    order = np.argsort(near)
    across = np.rint((right[order] * 0.95 + 1) / 2 * (SIDE - 4) + 1).astype(int).clip(1, SIDE - 3)
    down = np.rint((1 - high[order] * 0.95) / 2 * (SIDE - 4) + 1).astype(int).clip(1, SIDE - 3)
    colour = np.rint(255 * (paint * shade[:, None])[order]).astype(np.uint8)
    for row in (0, 1):
        for column in (0, 1):
            # of points on one pixel the last, which is the nearest, stays
            picture[down + row, across + column] = colour
    return picture


def turnable_cloud(
    points: Cloud, colours: Colours | None = None, up: str = "y", patches: int | None = None
) -> str:
    """A canvas with its script; see `Points.figure`. Without colours each of `patches` has one of its own."""
    if colours is None and patches is not None and patches <= len(points):
        colours = torch.tensor([_hue(number) for number in range(patches)])
    paint, size = _painted(points, colours, up)
    kept = np.unique(np.linspace(0, len(points) - 1, min(len(points), DRAWN)).astype(int))
    places = np.rint((_upright(points, up)[kept] + 1) / 2 * 65535).clip(0, 65535).astype("<u2")
    bytes_each = np.concatenate(
        [places.view(np.uint8), np.rint(255 * paint[kept]).astype(np.uint8), size[kept, None]], axis=1
    )
    content = base64.b64encode(bytes_each.tobytes()).decode("ascii")
    return (
        f'<canvas data-cloud="{content}" tabindex="0" title="drag to turn" style="display:block;width:100%;'
        'aspect-ratio:1;border-radius:6px;background:#14171c;cursor:grab;touch-action:none"></canvas>'
        f"<script>{SCRIPT}</script>"
    )


def _hue(number: int) -> tuple[float, float, float]:
    """Colours that differ from those before them: hues a golden angle apart."""
    return colorsys.hsv_to_rgb(
        number * 0.618034 % 1, 0.45 + 0.4 * (number % 2), 1.0 - 0.2 * (number % 3 == 2)
    )


def _upright(points: Cloud, up: str) -> np.ndarray:
    """(points, 3): to the right, up and towards the viewer, nearly all within the unit ball."""
    places = normalised(points[None, :, :3].float())[0].numpy()[:, AXES[up]]
    # a few far points would leave the rest too small to see: they are drawn at the edge
    places = np.clip(places / max(float(np.quantile(np.linalg.norm(places, axis=1), 0.98)), 1e-9), -1, 1)
    # two axes changed places: one is turned round, or the cloud would be its mirror image
    return places * (np.array([1.0, 1.0, -1.0]) if up != "y" else 1.0)


def _turned(places: np.ndarray, turn: float, tilt: float) -> np.ndarray:
    """(3, points): right, high and near, after turning about the vertical and tilting to the viewer."""
    right, high, near = places.T
    right, near = np.cos(turn) * right + np.sin(turn) * near, np.cos(turn) * near - np.sin(turn) * right
    return np.stack(
        [right, np.cos(tilt) * high - np.sin(tilt) * near, np.sin(tilt) * high + np.cos(tilt) * near]
    )


def _painted(points: Cloud, colours: Tensor | None, up: str) -> tuple[np.ndarray, np.ndarray]:
    """(points, 3) in 0..1, and (points,) uint8 sizes in tenths of a pixel: grey is faint and small."""
    if colours is None:
        height = _upright(points, up)[:, 1]
        low, high = np.quantile(height, [0.02, 0.98])
        level = np.clip((height - low) / max(high - low, 1e-9), 0, 1) * (len(HEIGHT) - 1)
        paint = np.stack([np.interp(level, range(len(HEIGHT)), HEIGHT[:, axis]) for axis in range(3)], axis=1)
        return paint, np.full(len(points), 16, np.uint8)
    given = colours.detach().cpu().float()
    paint = given[patch_of_points(points, len(given))[0]].numpy()
    bare: np.ndarray = np.isnan(paint).any(axis=1)
    faint = np.logical_not(bare) & (paint.max(axis=1) - paint.min(axis=1) < 1e-3)
    paint = np.where(bare[:, None], PLAIN, np.clip(np.where(faint[:, None], 0.6 * paint, paint), 0, 1))
    return paint, np.where(faint, 9, 16).astype(np.uint8)


SCRIPT = """
(function (canvas) {
  const raw = Uint8Array.from(atob(canvas.dataset.cloud), c => c.charCodeAt(0)), count = raw.length / 10;
  const view = new DataView(raw.buffer), at = (i, k) => view.getUint16(10 * i + 2 * k, true) / 32767.5 - 1;
  const points = Array.from({length: count}, (_, i) => [at(i, 0), at(i, 1), at(i, 2),
    raw[10 * i + 6], raw[10 * i + 7], raw[10 * i + 8], raw[10 * i + 9] / 10]);
  let turn = 0.65, tilt = 0.4;
  const paint = () => {
    const side = canvas.clientWidth || 160, dense = window.devicePixelRatio || 1;
    canvas.width = canvas.height = side * dense;
    const pen = canvas.getContext("2d"), unit = side * dense / 2, dot = dense * Math.max(1, side / 95);
    const ct = Math.cos(turn), st = Math.sin(turn), cl = Math.cos(tilt), sl = Math.sin(tilt);
    const shown = points.map(p => {
      const x = ct * p[0] + st * p[2], z = ct * p[2] - st * p[0];
      return [x, cl * p[1] - sl * z, sl * p[1] + cl * z, p];
    }).sort((a, b) => a[2] - b[2]);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    for (const [x, y, z, p] of shown) {
      const light = 0.72 + 0.28 * z, far = 3.4 / (4.4 - z), size = p[6] * dot * far;
      pen.fillStyle = `rgb(${p[3] * light},${p[4] * light},${p[5] * light})`;
      const half = size / 2, zoom = 0.93 * far;
      pen.fillRect(unit * (1 + zoom * x) - half, unit * (1 - zoom * y) - half, size, size);
    }
  };
  canvas.turnTo = (newTurn, newTilt) => {
    turn = newTurn; tilt = Math.max(-1.5, Math.min(1.5, newTilt)); paint();
  };
  const all = (dx, dy) => {
    const together = canvas.closest(".triple, .pair") || canvas.parentNode, to = [turn + dx, tilt + dy];
    together.querySelectorAll("canvas[data-cloud]").forEach(other => other.turnTo && other.turnTo(...to));
  };
  let from = null;
  canvas.addEventListener("pointerdown", e => {
    from = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); canvas.style.cursor = "grabbing";
  });
  canvas.addEventListener("pointermove", e => {
    if (!from) return;
    all((e.clientX - from[0]) * 0.012, (e.clientY - from[1]) * 0.012); from = [e.clientX, e.clientY];
  });
  for (const end of ["pointerup", "pointercancel"])
    canvas.addEventListener(end, () => { from = null; canvas.style.cursor = "grab"; });
  canvas.addEventListener("keydown", e => {
    const keys = {ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15]};
    const step = keys[e.key];
    if (step) { all(...step); e.preventDefault(); }
  });
  new ResizeObserver(paint).observe(canvas); paint();
})(document.currentScript.previousElementSibling);
""".strip()
