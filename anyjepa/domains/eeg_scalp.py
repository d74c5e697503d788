"""EEG drawn: the head from above with its electrodes, and the traces, tokens shaded in both."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["Cells", "Shading", "drawn", "film_strip", "flattened", "painted"]

MOST_ROWS = 20
HEAD, TRACES, LEFT, ROW, TOP = 230.0, 620.0, 46.0, 21.0, 16.0
POINTS = 300  # of a trace that are drawn
INK, FAINT, PAPER = "#1b1d22", "#8b93a1", "#fbfbf9"
FRAMES = 4  # of a strip
Shading = Sequence[tuple[int, float, float, np.ndarray]]
"""Channel's number, start and end in seconds, and colour (3,) in 0..1 of each token that is painted."""
Cells = list[tuple[int, int, float, float, np.ndarray]]
"""Frame and row, start and end in seconds from the frame's, and colour of each part that is painted."""


def flattened(places: np.ndarray) -> np.ndarray:
    """(n, 2) of electrodes (n, 3) seen from above, nose up: 1 is as far from the vertex as the ears are.

    Distances from the vertex are kept along the scalp, about the centre that makes the electrodes lie most
    nearly on a sphere, among those that heads have.
    """
    best, centre = np.inf, np.zeros(3)
    for front in np.linspace(-0.01, 0.03, 5):
        for up in np.linspace(0.0, 0.05, 11):
            away = np.linalg.norm(places - (0, front, up), axis=1)
            # of a few electrodes on one spot any centre will do: the middle of these heads then
            unlike = away.std() + 0.02 * np.hypot(front - 0.01, up - 0.02)
            if unlike < best:
                best, centre = unlike, np.array([0, front, up])
    moved = places - centre
    flat = np.linalg.norm(moved[:, :2], axis=1)
    angle = np.arctan2(flat, moved[:, 2]) / (np.pi / 2)
    return moved[:, :2] / np.maximum(flat, 1e-9)[:, None] * angle[:, None]


def drawn(
    signals: np.ndarray, places: np.ndarray, names: Sequence[str], rate: float, shading: Shading | None = None
) -> str:
    """SVG: electrodes (channels, 3) on the head from above, beside it the traces (channels, time) in volts.

    shading: tokens to paint, on the traces where and when they are, on the head by how much of an electrode
    is painted.
    """
    order = np.argsort(-places[:, 1], kind="stable")
    rows = order[np.unique(np.linspace(0, len(order) - 1, min(MOST_ROWS, len(order))).round().astype(int))]
    height = max(HEAD + 10, TOP + ROW * len(rows) + 24)
    width = HEAD + LEFT + TRACES + 12
    seconds = signals.shape[1] / rate
    parts = [
        _head(places, names, shading, seconds, height),
        _traces(signals, names, rows, rate, shading),
    ]
    said = f"{len(places)} electrodes on the head from above, and {seconds:g} seconds of {len(rows)} of them"
    return _sheet(parts, width, height, said)


def _sheet(parts: Sequence[str], width: float, height: float, said: str) -> str:
    return (
        f'<svg class="wide" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{said}" '
        'style="width:100%;max-width:1000px;display:block" xmlns="http://www.w3.org/2000/svg">'
        f"<style>.eeg text{{font:9px system-ui,sans-serif;fill:{INK}}}.eeg .unit{{fill:{FAINT}}}"
        f".eeg path{{fill:none;stroke:{INK};stroke-width:.7;stroke-linejoin:round}}"
        f".eeg .skin{{stroke:{FAINT};stroke-width:1.4}}</style>"
        f'<g class="eeg"><rect width="{width:g}" height="{height:g}" rx="6" fill="{PAPER}"/>'
        f"{''.join(parts)}</g></svg>"
    )


def _head(
    places: np.ndarray, names: Sequence[str], shading: Shading | None, seconds: float, height: float
) -> str:
    radius = HEAD / 2 - 30
    middle, centre = HEAD / 2, height / 2 + 4
    parts = [
        f'<circle class="skin" cx="{middle}" cy="{centre}" r="{radius}" fill="#fff" stroke="{FAINT}"/>',
        f'<path class="skin" d="M{middle - 10} {centre - radius + 1}l10 -13l10 13"/>',
    ]
    shares, colours = _shares(len(places), shading, seconds)
    size = 6.5 if len(places) > 40 else 9.0
    for (x, y), name, share, colour in zip(flattened(places), names, shares, colours, strict=True):
        left, top = middle + x * radius, centre - y * radius
        fill = f'fill="{_hex(colour)}" fill-opacity="{0.25 + 0.75 * share:.2f}"' if share else 'fill="#fff"'
        parts.append(
            f'<circle cx="{left:.1f}" cy="{top:.1f}" r="{size}" {fill} stroke="{INK}" stroke-width=".7"/>'
        )
        if len(places) <= 40:
            parts.append(
                f'<text x="{left:.1f}" y="{top + 2.4:.1f}" text-anchor="middle" style="font-size:6.5px">'
                f"{escape(name[:5])}</text>"
            )
    return "".join(parts)


def _shares(count: int, shading: Shading | None, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """How much of each electrode's time is painted, and the colour of it."""
    shares, colours = np.zeros(count), np.zeros((count, 3))
    for channel, start, stop, colour in shading or ():
        shares[channel] += (stop - start) / seconds
        colours[channel] += colour * (stop - start) / seconds
    return np.minimum(shares, 1), colours / np.maximum(shares, 1e-9)[:, None]


def _traces(
    signals: np.ndarray, names: Sequence[str], rows: np.ndarray, rate: float, shading: Shading | None
) -> str:
    left, seconds = HEAD + LEFT, signals.shape[1] / rate
    scale = float(np.median(signals[rows].std(axis=1))) or 1e-9
    parts, lines = [], {int(channel): number for number, channel in enumerate(rows)}
    for channel, start, stop, colour in shading or ():
        if channel in lines:
            at = left + start / seconds * TRACES
            parts.append(
                f'<rect x="{at:.1f}" y="{TOP + ROW * lines[channel]:.1f}" height="{ROW - 1:g}" '
                f'width="{(stop - start) / seconds * TRACES:.1f}" fill="{_hex(colour)}" fill-opacity=".5"/>'
            )
    every = max(1, signals.shape[1] // POINTS)
    for number, channel in enumerate(rows):
        level = TOP + ROW * (number + 0.5)
        values = signals[channel] - np.median(signals[channel])
        values = np.clip(values / scale, -4.5, 4.5)[::every] * ROW / 6
        x = np.rint(10 * (left + np.arange(len(values)) * every / signals.shape[1] * TRACES)).astype(int)
        y = np.rint(10 * (level - values)).astype(int)
        steps = " ".join(f"{a} {b}" for a, b in zip(np.diff(x), np.diff(y), strict=True))
        parts.append(
            f'<text x="{left - 5:g}" y="{level + 3:.1f}" text-anchor="end">'
            f"{escape(names[int(channel)][:8])}</text>"
        )
        parts.append(f'<path transform="scale(.1)" style="stroke-width:7" d="M{x[0]} {y[0]}l{steps}"/>')
    low = TOP + ROW * len(rows) + 12
    for mark in np.linspace(0, seconds, 5):
        at = left + mark / seconds * TRACES
        parts.append(
            f'<text class="unit" x="{at:.1f}" y="{low:.1f}" text-anchor="middle">{mark:.3g} s</text>'
        )
    bar = scale * 3
    parts.append(
        f'<path d="M{left - 38:g} {TOP}v{ROW / 2:g}" style="stroke-width:2"/>'
        f'<text class="unit" x="{left - 42:g}" y="{TOP - 4:g}">{_volts(bar)}</text>'
    )
    return "".join(parts)


def _volts(value: float) -> str:
    for factor, unit in ((1.0, "V"), (1e-3, "mV"), (1e-6, "µV")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value * 1e9:.3g} nV"


def _hex(colour: np.ndarray) -> str:
    red, green, blue = np.rint(np.clip(colour, 0, 1) * 255).astype(int)
    return f"#{red:02x}{green:02x}{blue:02x}"


def film_strip(video: np.ndarray, names: Sequence[str], rate: float, hop: int, cells: Cells) -> str:
    """SVG: up to four frames (frames, rows, samples) side by side, each with its time in the recording."""
    shown = np.unique(np.linspace(0, len(video) - 1, min(FRAMES, len(video))).round().astype(int)).tolist()
    rows, columns = video.shape[1:]
    wide = (TRACES + HEAD - 10 * len(shown)) / len(shown)
    tall = min(ROW, 420 / rows)
    low = TOP + tall * rows
    parts, seconds = [], columns / rate
    every = max(1, int(columns // (2 * wide)))
    for place, frame in enumerate(shown):
        left = LEFT + place * (wide + 10)
        parts.append(
            f'<rect x="{left:.1f}" y="{TOP}" width="{wide:.1f}" height="{tall * rows:.1f}" fill="#fff" '
            f'stroke="{FAINT}" stroke-width=".6"/>'
        )
        for at, row, start, stop, colour in cells:
            if at == frame:
                parts.append(
                    f'<rect x="{left + start / seconds * wide:.1f}" y="{TOP + row * tall:.1f}" '
                    f'width="{(stop - start) / seconds * wide:.1f}" height="{tall:.1f}" '
                    f'fill="{_hex(colour)}" fill-opacity=".55"/>'
                )
        for row in range(rows):
            values = np.clip(video[frame, row, ::every] / 6, -0.5, 0.5) * tall
            x = np.rint(10 * (left + np.arange(len(values)) * every / columns * wide)).astype(int)
            y = np.rint(10 * (TOP + tall * (row + 0.5) - values)).astype(int)
            steps = " ".join(f"{a} {b}" for a, b in zip(np.diff(x), np.diff(y), strict=True))
            parts.append(f'<path transform="scale(.1)" style="stroke-width:6" d="M{x[0]} {y[0]}l{steps}"/>')
        begin = frame * hop / rate
        parts.append(
            f'<text class="unit" x="{left:.1f}" y="{low + 12:.1f}">frame {frame + 1}: {begin:g} to '
            f"{begin + seconds:g} s</text>"
        )
    for row, name in enumerate(names):
        level = TOP + tall * (row + 0.5) + 3
        parts.append(f'<text x="{LEFT - 4:g}" y="{level:.1f}" text-anchor="end">{escape(name[:8])}</text>')
    width, height = LEFT + TRACES + HEAD + 4, low + 20
    return _sheet(parts, width, height, f"{len(shown)} of {len(video)} frames of {rows} electrodes")


def painted(signals: np.ndarray, rate: float, shading: Shading | None = None) -> np.ndarray:
    """(96, 128, 3) uint8: at most eight traces, one below the other, the whole time across."""
    height, width, scale = 96, 128, 2
    image = Image.new("RGB", (width * scale, height * scale), PAPER)
    draw = ImageDraw.Draw(image)
    rows = np.unique(np.linspace(0, len(signals) - 1, min(8, len(signals))).round().astype(int))
    tall, seconds = height * scale / len(rows), signals.shape[1] / rate
    lines = {int(channel): number for number, channel in enumerate(rows)}
    for channel, start, stop, colour in shading or ():
        if channel in lines:
            box = [start / seconds * width * scale, tall * lines[channel],
                   stop / seconds * width * scale, tall * (lines[channel] + 1)]  # fmt: skip
            draw.rectangle(box, fill=_hex(colour))
    for number, channel in enumerate(rows):
        values = signals[channel] - np.median(signals[channel])
        values = np.clip(values / max(float(values.std()) * 3, 1e-30), -1, 1)
        across = np.linspace(0, width * scale - 1, len(values))
        points = np.stack([across, tall * (number + 0.5) - values * tall * 0.45], axis=1)
        draw.line([tuple(point) for point in points.tolist()], fill=INK, width=1)
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
