"""Flow in the usual colours: the hue says where to, the strength of the colour how far."""

from __future__ import annotations

import base64
import html
import io

import numpy as np

from anyjepa.core.errors import require

__all__ = ["captioned", "flow_colours", "heat", "wheel"]

# steps from each colour to the next around the wheel of Baker et al. 2011, in the order of growing hue
ARCS = (
    (15, (255, 0, 0), (255, 255, 0)),
    (6, (255, 255, 0), (0, 255, 0)),
    (4, (0, 255, 0), (0, 255, 255)),
    (11, (0, 255, 255), (0, 0, 255)),
    (13, (0, 0, 255), (255, 0, 255)),
    (6, (255, 0, 255), (255, 0, 0)),
)
DIMMED = 0.75  # what is longer than the longest that is drawn
GREY = 128  # where the flow is unknown


def flow_colours(flow: np.ndarray, longest: float | None = None) -> np.ndarray:
    """(height, width, 3) uint8 of flow (height, width, 2): white where nothing moves, grey where unknown.

    Args:
        flow: pixels, u to the right and v down; NaN where unknown.
        longest: that gets the full colour; the longest of the flow where None.
    """
    length = np.hypot(flow[..., 0], flow[..., 1])
    known = np.isfinite(length)
    if longest is None:
        longest = float(length[known].max()) if known.any() else 1.0
    u, v = (np.where(known, flow[..., axis], 0) / max(longest, 1e-9) for axis in (0, 1))
    table = np.concatenate([
        start + (np.array(end) - start) * np.linspace(0, 1, steps, endpoint=False)[:, None]
        for steps, start, end in ((steps, np.array(start), end) for steps, start, end in ARCS)
    ]) / 255  # fmt: skip
    turn = (np.arctan2(-v, -u) / np.pi + 1) / 2 * (len(table) - 1)
    low = np.floor(turn).astype(int)
    share = (turn - low)[..., None]
    hue = table[low] * (1 - share) + table[(low + 1) % len(table)] * share
    far = np.hypot(u, v)[..., None]
    colours = np.where(far <= 1, 1 - far * (1 - hue), DIMMED * hue)
    painted = np.rint(255 * colours).astype(np.uint8)
    return np.where(known[..., None], painted, np.uint8(GREY))


def wheel(side: int = 65) -> np.ndarray:
    """(side, side, 3) uint8: the colour of every flow, drawn where it leads to from the middle."""
    at = np.linspace(-1, 1, side)
    flow = np.stack(np.meshgrid(at, at), axis=2)
    colours = flow_colours(flow, 1.0)
    return np.where((np.hypot(flow[..., 0], flow[..., 1]) <= 1)[..., None], colours, np.uint8(255))


def heat(values: np.ndarray) -> np.ndarray:
    """(height, width, 3) uint8 of values in 0..1: black, red, yellow, white."""
    third = 3 * np.clip(np.nan_to_num(values), 0, 1)[..., None] - np.arange(3)
    return np.rint(255 * np.clip(third, 0, 1)).astype(np.uint8)


def captioned(pictures: list[tuple[np.ndarray, str]], width: int) -> str:
    """HTML: (h, w, 3) uint8 pictures side by side, `width` pixels wide each, their words below them."""
    image = require("PIL.Image", "image")
    parts = []
    for pixels, words in pictures:
        file = io.BytesIO()
        image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
        data, said = base64.b64encode(file.getvalue()).decode(), html.escape(words)
        parts.append(
            f'<figure style="margin:0;width:{width}px">'
            f'<img style="width:{width}px;image-rendering:pixelated" '
            f'src="data:image/png;base64,{data}" alt="{said}">'
            f'<figcaption style="font-size:11px">{said}</figcaption></figure>'
        )
    return f'<div style="display:flex;flex-wrap:wrap;gap:6px;align-items:flex-start">{"".join(parts)}</div>'
