"""Views drawn in sequence: what was done between them, and the way of an eye over an image."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np

from anyjepa.core.errors import require

__all__ = ["sequence_drawn", "strip"]

SHOWN = 88  # pixels of a view on the page
WHOLE = 150  # of an image that an eye looks at
BAR = 26  # half the width that an action of 1 is drawn with
MOST = 6  # numbers of an action that are drawn, the largest


def strip(views: Sequence[np.ndarray]) -> str:
    """Views (height, width, 3) uint8 side by side, numbered."""
    return _row([_view(one, f"view {number}") for number, one in enumerate(views, 1)])


def sequence_drawn(
    views: Sequence[np.ndarray],
    actions: np.ndarray,
    names: Sequence[str],
    whole: np.ndarray | None = None,
    places: np.ndarray | None = None,
) -> str:
    """HTML of views with the action between each two as bars, the last view being what is predicted.

    Args:
        views: (height, width, 3) uint8 each.
        actions: (views - 1, numbers).
        names: of the numbers; may be empty.
        whole: the image that an eye looks at, (height, width, 3) uint8.
        places: (views, 2) row and column of each fixation, in shares of `whole`.
    """
    parts = [] if whole is None or places is None else [_path(whole, places)]
    for number, view in enumerate(views, 1):
        last = number == len(views)
        parts.append(_view(view, "predicted" if last else f"view {number}", last))
        if not last:
            parts.append(_action(actions[number - 1], names))
    return _row(parts)


def _row(parts: Sequence[str]) -> str:
    return f'<div style="display:flex;flex-wrap:wrap;align-items:center;gap:6px">{"".join(parts)}</div>'


def _png(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    require("PIL.Image", "image").fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _view(pixels: np.ndarray, words: str, marked: bool = False) -> str:
    border = "2px dashed #d55e00" if marked else "2px solid transparent"
    return (
        f'<figure style="margin:0;width:{SHOWN + 4}px"><img style="width:{SHOWN}px;border:{border};'
        f'image-rendering:pixelated" src="{_png(pixels)}" alt="{html.escape(words)}">'
        f'<figcaption style="font-size:11px">{html.escape(words)}</figcaption></figure>'
    )


def _action(action: np.ndarray, names: Sequence[str]) -> str:
    """The largest numbers of an action as bars to the left and right of nothing, in their own order."""
    shown = np.sort(np.argsort(-np.abs(action), kind="stable")[:MOST])
    height, lines = 14 * len(shown) + 14, []
    for row, number in enumerate(shown.tolist()):
        value = float(action[number])
        length = BAR * min(1.0, abs(value))
        left = 30 if value >= 0 else 30 - length
        name = str(names[number]) if number < len(names) else str(number + 1)
        top = 14 * row
        lines.append(
            f'<rect x="{left:.1f}" y="{top + 3}" width="{length:.1f}" height="8" '
            f'fill="{"#0072b2" if value >= 0 else "#d55e00"}"><title>{html.escape(name)} {value:.3f}</title>'
            f'</rect><text x="60" y="{top + 11}" style="font-size:10px">{html.escape(name)} '
            f"{value:+.2f}</text>"
        )
    middle = f'<line x1="30" x2="30" y1="0" y2="{height - 14}" stroke="currentColor" stroke-opacity="0.4"/>'
    arrow = f'<path d="M4 {height - 6}h104m-6 -4l6 4l-6 4" fill="none" stroke="currentColor"/>'
    return (
        f'<svg style="width:112px;height:{height}px;flex:none" viewBox="0 0 112 {height}" role="img" '
        f'aria-label="action">{middle}{"".join(lines)}{arrow}</svg>'
    )


def _path(whole: np.ndarray, places: np.ndarray) -> str:
    """The image with its fixations numbered and joined in order."""
    height, width = whole.shape[:2]
    tall = round(WHOLE * height / width)
    points = [(column * WHOLE, row * tall) for row, column in places.tolist()]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" fill="{"#d55e00" if number == len(points) else "#0072b2"}" '
        f'stroke="white"/><text x="{x:.1f}" y="{y + 4:.1f}" style="font-size:11px;fill:white" '
        f'text-anchor="middle">{number}</text>'
        for number, (x, y) in enumerate(points, 1)
    )
    return (
        f'<svg style="width:{WHOLE}px;height:{tall}px;flex:none" viewBox="0 0 {WHOLE} {tall}" role="img" '
        f'aria-label="{len(points)} fixations in order">'
        f'<image href="{_png(whole)}" width="{WHOLE}" height="{tall}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated"/>'
        f'<polyline points="{line}" fill="none" stroke="white" stroke-width="4" stroke-opacity="0.7"/>'
        f'<polyline points="{line}" fill="none" stroke="#0072b2" stroke-width="2"/>{dots}</svg>'
    )
