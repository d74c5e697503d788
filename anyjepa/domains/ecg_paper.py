"""ECGs on paper: SVG on a millimetre grid as it leaves the machine, and thumbnails."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image, ImageDraw

from anyjepa.domains.ecg_leads import STANDARD

__all__ = ["drawn", "painted"]

SPEED, GAIN = 25.0, 10.0  # millimetres a second and a millivolt
SHEET = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))
ROW, MARGIN = 22.0, 5.0  # millimetres
MOST_ROWS = 12
DRAWN_RATE = 100.0  # points a second that are drawn: a quarter of a millimetre apart
STRAIGHT = 0.06  # millimetres by which a drawn line may miss the signal
TALLEST = 2.2  # millivolts: a trace that would leave its row further is cut
PAPER, FINE, BOLD, INK = "#fff6f4", "#f7d9d5", "#eeb3ac", "#1b1d22"


def drawn(
    signals: np.ndarray,
    recorded: np.ndarray,
    leads: Sequence[str],
    rate: float,
    colours: np.ndarray | None = None,
) -> str:
    """SVG of signals (leads, time) in millivolts: 25 mm/s and 10 mm/mV on a grid of 1 and 5 mm.

    Twelve standard leads of at least five seconds are laid out as on paper, each column a quarter of the time
    and lead II below throughout; others have a row each. colours: (tokens, 3) in 0..1 shade equal stretches
    of time, NaN none.
    """
    seconds = signals.shape[1] / rate
    rows = _layout(leads, seconds)
    paper_width, paper_height = seconds * SPEED, ROW * len(rows)
    width, height = paper_width + 2 * MARGIN, paper_height + 2 * MARGIN
    parts = [_grid(width, height)]
    if colours is not None:
        parts.append(_bands(colours, paper_width, height))
    for number, row in enumerate(rows):
        middle = MARGIN + ROW * (number + 0.5)
        for lead, start, stop in row:
            left = MARGIN + start * SPEED
            parts.append(f'<text x="{left + 1:.1f}" y="{middle - ROW / 2 + 3.4:.1f}">{escape(lead)}</text>')
            index = list(leads).index(lead)
            if not recorded[index]:
                parts.append(
                    f'<text class="none" x="{left + 1:.1f}" y="{middle + 1:.1f}">not recorded</text>'
                )
                continue
            values = signals[index, round(start * rate) : round(stop * rate)]
            parts.append(_trace(values, rate, left, middle))
            if start > 0:
                parts.append(
                    f'<path class="tick" d="M{left:.1f} {middle - 6:.1f}v3M{left:.1f} {middle + 3:.1f}v3"/>'
                )
    speed = f"{SPEED:g} mm/s &#160; {GAIN:g} mm/mV"
    parts.append(f'<text class="scale" x="{MARGIN}" y="{height - 1.2:.1f}">{speed}</text>')
    return (
        f'<svg class="wide" viewBox="0 0 {width:g} {height:g}" style="max-width:{max(width * 4, 160):.0f}px;'
        'width:100%;display:block" xmlns="http://www.w3.org/2000/svg">'
        f"<style>.ecg text{{font:3.2px system-ui,sans-serif;fill:{INK}}}.ecg .none{{fill:#9a6a64}}"
        ".ecg .scale{font-size:2.6px;fill:#8d5f59}"
        f".ecg path{{fill:none;stroke:{INK};stroke-width:.32;stroke-linejoin:round}}"
        f".ecg .fine{{stroke:{FINE};stroke-width:.12}}.ecg .bold{{stroke:{BOLD};stroke-width:.22}}</style>"
        f'<g class="ecg">{"".join(parts)}</g></svg>'
    )


def _layout(leads: Sequence[str], seconds: float) -> list[list[tuple[str, float, float]]]:
    """Rows of (lead, from, to) in seconds."""
    if set(STANDARD) <= set(leads) and seconds >= 5:
        column = seconds / len(SHEET[0])
        sheet = [
            [(lead, place * column, (place + 1) * column) for place, lead in enumerate(row)] for row in SHEET
        ]
        return [*sheet, [("II", 0.0, seconds)]]
    return [[(lead, 0.0, seconds)] for lead in leads[:MOST_ROWS]]


def _grid(width: float, height: float) -> str:
    def lines(step: int) -> str:
        across = "".join(f"M{x} 0v{height:g}" for x in range(0, int(width) + 1, step))
        return across + "".join(f"M0 {y}h{width:g}" for y in range(0, int(height) + 1, step))

    paper = f'<rect width="{width:g}" height="{height:g}" fill="{PAPER}"/>'
    return f'{paper}<path class="fine" d="{lines(1)}"/><path class="bold" d="{lines(5)}"/>'


def _bands(colours: np.ndarray, width: float, height: float) -> str:
    """Shaded stretches of time; neighbours of one colour are one band."""
    step, bands, start = width / len(colours), [], 0
    for place in range(1, len(colours) + 1):
        if place < len(colours) and np.array_equal(colours[place], colours[start], equal_nan=True):
            continue
        if not np.isnan(colours[start]).any():
            red, green, blue = np.rint(np.clip(colours[start], 0, 1) * 255).astype(int)
            bands.append(
                f'<rect x="{MARGIN + start * step:.2f}" width="{(place - start) * step:.2f}" '
                f'height="{height:g}" '
                f'fill="#{red:02x}{green:02x}{blue:02x}" fill-opacity=".55"/>'
            )
        start = place
    return "".join(bands)


def _trace(values: np.ndarray, rate: float, left: float, middle: float) -> str:
    """One lead as a path in hundredths of a millimetre, straight stretches as one line."""
    heights = np.clip(values - np.median(values), -TALLEST, TALLEST) * GAIN
    places, heights = _thinned(np.arange(len(heights)) / rate * SPEED, heights, rate)
    kept = _corners(places, heights)
    x = np.rint(100 * (left + places[kept])).astype(int)
    y = np.rint(100 * (middle - heights[kept])).astype(int)
    steps = "".join(
        f"{dx} {dy} " if dy >= 0 else f"{dx}{dy} " for dx, dy in zip(np.diff(x), np.diff(y), strict=True)
    )
    return f'<path transform="scale(.01)" style="stroke-width:32" d="M{x[0]} {y[0]}l{steps.strip()}"/>'


def _thinned(places: np.ndarray, heights: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Of each hundredth of a second the lowest and the highest sample, in their order: no peak is lost."""
    every = int(rate // DRAWN_RATE)
    if every < 3:
        return places, heights
    whole = len(heights) // every * every
    cells = heights[:whole].reshape(-1, every)
    pair = np.sort(np.stack([cells.argmin(1), cells.argmax(1)], axis=1), axis=1)
    kept = np.unique(np.concatenate([[0], (pair + np.arange(len(cells))[:, None] * every).ravel()]))
    return places[kept], heights[kept]


def _corners(x: np.ndarray, y: np.ndarray) -> list[int]:
    """Indices that a line must go through to stay within `STRAIGHT` of every point (a swinging door)."""
    kept, anchor, low, high = [0], 0, -np.inf, np.inf
    xs, ys = x.tolist(), y.tolist()
    for place in range(1, len(xs)):
        run = xs[place] - xs[anchor]
        slope = (ys[place] - ys[anchor]) / run
        if slope < low or slope > high:
            anchor = place - 1
            kept.append(anchor)
            run = xs[place] - xs[anchor]
            low, high = -np.inf, np.inf
        low = max(low, (ys[place] - STRAIGHT - ys[anchor]) / run)
        high = min(high, (ys[place] + STRAIGHT - ys[anchor]) / run)
    return [*kept, len(xs) - 1] if len(xs) > 1 else kept


def painted(
    signals: np.ndarray,
    recorded: np.ndarray,
    leads: Sequence[str],
    rate: float,
    colours: np.ndarray | None = None,
) -> np.ndarray:
    """(96, 128, 3) uint8: at most three leads, one below the other, the whole time across."""
    height, width, scale = 96, 128, 2
    first = [lead for lead in ("II", "V1", "V5") if lead in leads and recorded[list(leads).index(lead)]]
    others = [lead for lead, there in zip(leads, recorded, strict=True) if there and lead not in first]
    shown = [list(leads).index(lead) for lead in (first + others)[: 3 if len(leads) > 1 else 1]]
    image = Image.new("RGB", (width * scale, height * scale), PAPER)
    draw = ImageDraw.Draw(image)
    for step in np.arange(0, signals.shape[1] / rate, 0.2):  # five millimetres of paper
        place = step * rate / signals.shape[1] * width * scale
        draw.line([(place, 0), (place, height * scale)], fill=FINE)
    if colours is not None:
        edges = np.linspace(0, width * scale, len(colours) + 1)
        for colour, start, stop in zip(colours, edges, edges[1:], strict=False):
            if not np.isnan(colour).any():
                fill = tuple(np.rint(np.clip(colour, 0, 1) * 255).astype(int).tolist())
                draw.rectangle([start, 0, stop, height * scale], fill=fill)
    row = height * scale / max(1, len(shown))
    for number, index in enumerate(shown):
        values = signals[index] - np.median(signals[index])
        # a thumbnail has no scale: each lead fills its row
        values = np.clip(values / max(float(np.abs(values).max()), 1e-9), -1, 1)
        places = np.linspace(0, width * scale - 1, len(values))
        points = np.stack([places, row * (number + 0.5) - values * row * 0.45], axis=1)
        draw.line([tuple(point) for point in points.tolist()], fill=INK, width=scale)
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
