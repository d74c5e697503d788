"""Runs as pictures: the carpet of regions and time that the field looks at, and the map of the gradients."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np

from anyjepa.core.errors import require

__all__ = ["carpet", "drawn"]

STRONGEST = 2.5  # standard deviations that are black or white
SHADE = 0.72  # of the paint over a carpet
WIDTH, HEIGHT = 420.0, 250.0  # of a carpet as drawn
LEFT, LOW, TOP, STRIP = 34.0, 34.0, 8.0, 10.0
MAP = 250.0  # side of the map of gradients
THUMBNAIL = 96
OUTLYING = 0.03  # of the regions at either end of a gradient, which are drawn at the edge of the map
ENDS = np.array([[49, 54, 149], [116, 173, 209], [245, 245, 240], [244, 165, 90], [165, 0, 38]], np.float64)
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)


def carpet(series: np.ndarray, table: np.ndarray, colours: np.ndarray | None = None) -> np.ndarray:
    """(h, w, 3) uint8: regions (rows, sorted along the first gradient) by time, each as its own z-score.

    Args:
        series: (regions, time).
        table: (regions, components) gradients.
        colours: (tokens, 3) in 0..1 paint stretches, region by region; NaN leaves them as they are.
    """
    pixels = _shaded(series, table, colours, 1.0)
    larger = [max(1, THUMBNAIL // side) for side in pixels.shape[:2]]
    return pixels.repeat(larger[0], axis=0).repeat(larger[1], axis=1)


def drawn(
    series: np.ndarray,
    table: np.ndarray,
    step: float,
    regions: Sequence[str],
    colours: np.ndarray | None = None,
) -> str:
    """SVG of a carpet with seconds below and the first gradient at the left; without colours with a map.

    Args:
        series: (regions, time).
        table: (regions, components) gradients.
        step: seconds from one point to the next.
        regions: names, shown where the pointer rests on a region of the map.
        colours: as of `carpet`.
    """
    pixels = _shaded(series, table, colours, SHADE)
    order = _order(table)
    strip = _hue(_ranks(table[:, 0]))[order][:, None]
    whole = colours is None and table.shape[1] > 1
    left = LEFT + STRIP + 3
    width, height = left + WIDTH + 8 + (MAP + 46 if whole else 0), TOP + HEIGHT + LOW
    parts = [
        f'<rect width="{width:g}" height="{height:g}" rx="6" fill="#fbfaf7"/>',
        _image(strip, LEFT, TOP, STRIP, HEIGHT),
        _image(pixels, left, TOP, WIDTH, HEIGHT),
        f'<text transform="translate(12 {TOP + HEIGHT / 2:g}) rotate(-90)" text-anchor="middle">'
        f"{len(series)} regions along gradient 1</text>",
        f'<text x="{LEFT - 3:g}" y="{TOP + 9:g}" text-anchor="end">+</text>',
        f'<text x="{LEFT - 3:g}" y="{TOP + HEIGHT:g}" text-anchor="end">&#8722;</text>',
        _seconds(series.shape[1] * step, left),
    ]
    if whole:
        parts.append(_map(table, regions, left + WIDTH + 40))
    return (
        f'<svg class="wide" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{len(series)} regions '
        f'over {series.shape[1] * step:.0f} seconds" style="max-width:{2 * width:.0f}px;width:100%;'
        'display:block" xmlns="http://www.w3.org/2000/svg">'
        "<style>.fmri text{font:11px system-ui,sans-serif;fill:#333}.fmri circle{stroke:#444;stroke-width:.5}"
        ".fmri path{stroke:#777;stroke-width:.8;fill:none}</style>"
        f'<g class="fmri">{"".join(parts)}</g></svg>'
    )


def _order(table: np.ndarray) -> np.ndarray:
    """Rows from the top: the highest value of the first gradient first."""
    return np.argsort(-table[:, 0], kind="stable")


def _shaded(series: np.ndarray, table: np.ndarray, colours: np.ndarray | None, strength: float) -> np.ndarray:
    values = np.nan_to_num(series.astype(np.float64))
    values = values - values.mean(axis=1, keepdims=True)
    deviation = values.std(axis=1, keepdims=True)
    scaled = values / np.where(deviation > 0, deviation, np.inf)
    grey = 127.5 * (1 + np.clip(scaled / STRONGEST, -1, 1))
    pixels = np.repeat(grey[..., None], 3, axis=2)
    if colours is not None:
        if len(colours) % len(series):
            raise ValueError(f"{len(colours)} colours do not fill {len(series)} regions")
        cells = colours.reshape(len(series), -1, 3)
        when = np.arange(series.shape[1]) * cells.shape[1] // series.shape[1]
        paint = cells[:, when]
        covered = ~np.isnan(paint).any(axis=2, keepdims=True)
        mixed = pixels * (1 - strength) + np.nan_to_num(np.clip(paint, 0, 1)) * 255 * strength
        pixels = np.where(covered, mixed, pixels)
    return np.rint(pixels[_order(table)]).astype(np.uint8)


def _ranks(values: np.ndarray) -> np.ndarray:
    """0 to 1 from the lowest to the highest: gradients crowd where there are many regions."""
    return np.argsort(np.argsort(values, kind="stable"), kind="stable") / max(1, len(values) - 1)


def _hue(shares: np.ndarray) -> np.ndarray:
    """(n, 3) uint8 from blue through white to red."""
    stops = np.linspace(0, 1, len(ENDS))
    return (
        np.stack([np.interp(shares, stops, ENDS[:, part]) for part in range(3)], axis=1)
        .round()
        .astype(np.uint8)
    )


def _seconds(seconds: float, left: float) -> str:
    """Ticks below a carpet, about six of them."""
    step = next((step for step in STEPS if seconds / step <= 7), STEPS[-1])
    low, parts = TOP + HEIGHT, []
    for number in range(int(seconds // step) + 1):
        x = left + WIDTH * number * step / seconds
        anchor = "start" if number == 0 else "middle"
        parts.append(f'<path d="M{x:.1f} {low:g}v4"/>')
        parts.append(f'<text x="{x:.1f}" y="{low + 15:g}" text-anchor="{anchor}">{number * step}</text>')
    return "".join(parts) + f'<text x="{left + WIDTH:g}" y="{low + 29:g}" text-anchor="end">seconds</text>'


def _map(table: np.ndarray, regions: Sequence[str], left: float) -> str:
    """The first two gradients of each region as a dot."""
    places = []
    for column in table[:, :2].T:
        # a region that is unlike all others must not crowd them into a corner: it is drawn at the edge
        low, high = np.quantile(column, [OUTLYING, 1 - OUTLYING])
        spread = (column - low) / (high - low) if high > low else np.full(len(column), 0.5)
        places.append(np.clip(spread, 0, 1))
    hues, radius = _hue(_ranks(table[:, 0])), 4.5 if len(table) < 150 else 2.8
    side = MAP - 20
    dots = [
        f'<circle cx="{left + 10 + side * x:.1f}" cy="{TOP + 10 + side * (1 - y):.1f}" r="{radius}" '
        f'fill="rgb({hue[0]},{hue[1]},{hue[2]})"><title>{escape(str(name))}</title></circle>'
        for x, y, hue, name in zip(*places, hues, regions, strict=True)
    ]
    low = TOP + HEIGHT
    return (
        f'<path d="M{left:g} {TOP:g}v{HEIGHT:g}h{MAP:g}"/>{"".join(dots)}'
        f'<text x="{left + MAP:g}" y="{low + 15:g}" text-anchor="end">gradient 1</text>'
        f'<text transform="translate({left - 6:g} {TOP + 4:g}) rotate(-90)" text-anchor="end">'
        "gradient 2</text>"
    )


def _image(pixels: np.ndarray, x: float, y: float, width: float, height: float) -> str:
    image = require("PIL.Image", "image").fromarray(np.ascontiguousarray(pixels))
    file = io.BytesIO()
    # shaded carpets have few hues, and greys; 128 colours show them all
    image.quantize(128, dither=0).save(file, "PNG", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
    return (
        f'<image x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" preserveAspectRatio="none" '
        f'href="{source}" style="image-rendering:pixelated"/>'
    )
