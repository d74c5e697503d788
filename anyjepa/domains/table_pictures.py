"""Drawing one row of a table: cells as a small HTML table, and as coloured squares where space is scarce."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from anyjepa.domains.table_columns import Column

__all__ = ["row_figure", "row_picture"]

SIDE = 96
MISSING = (90, 90, 90)
LOW, MIDDLE, HIGH = (44, 110, 190), (245, 245, 240), (200, 90, 30)
SHOWN = 60  # columns drawn as rows of the figure


def row_picture(
    row: np.ndarray, columns: Sequence[dict[str, Any]], paint: np.ndarray | None = None
) -> np.ndarray:
    """(96, 96, 3) uint8: one square a column in reading order.

    Numbers run from blue (low) over white (the median) to orange (high), categories have colours of their
    own, a missing cell is grey. `paint` (columns, 3) in 0..1 covers squares, NaN leaves them.
    """
    across = math.ceil(math.sqrt(len(columns)))
    down = math.ceil(len(columns) / across)
    colours = np.array([_colour(float(code), facts) for code, facts in zip(row, columns, strict=True)])
    if paint is not None:
        covered = ~np.isnan(paint).any(axis=1)
        colours[covered] = np.rint(np.clip(paint[covered], 0, 1) * 255)
    cells = np.full((down * across, 3), 255)
    cells[: len(colours)] = colours
    place = np.arange(SIDE)
    grid = cells.reshape(down, across, 3)[place * down // SIDE][:, place * across // SIDE]
    return grid.astype(np.uint8)


def _colour(code: float, facts: dict[str, Any]) -> tuple[int, ...]:
    if not math.isfinite(code):
        return MISSING
    if facts["kind"] in ("categorical", "boolean"):
        hue = (int(code) * 0.381966) % 1  # the golden angle keeps neighbours apart
        waves = (0.5 + 0.5 * math.cos(2 * math.pi * (hue + shift / 3)) for shift in range(3))
        return tuple(round(70 + 160 * wave) for wave in waves)
    height = float(np.interp(code, facts["knots"], facts["heights"]))
    share = NormalDist().cdf(height)
    return tuple(
        round(float(np.interp(share, [0, 0.5, 1], stops))) for stops in zip(LOW, MIDDLE, HIGH, strict=True)
    )


def row_figure(row: np.ndarray, columns: Sequence[dict[str, Any]], paint: np.ndarray | None = None) -> str:
    """HTML table: name, type and value of each column, tinted by `paint` (tokens, 3), NaN where untouched.

    There may be more tokens than columns: the first ones then are [REG]. Grey is a column that is not seen.
    """
    registers = 0 if paint is None else len(paint) - len(columns)
    lines = [_line("[REG]", "learned", "", paint[number]) for number in range(registers)]  # pyright: ignore[reportOptionalSubscript]
    for number, facts in enumerate(columns[:SHOWN]):
        tint = None if paint is None else paint[registers + number]
        value = Column.of(facts).text(float(row[number]))
        lines.append(_line(facts["name"], facts["kind"], value, tint))
    if len(columns) > SHOWN:
        lines.append(f"<tr><td colspan=3>and {len(columns) - SHOWN} more columns</td></tr>")
    head = "<tr>" + "".join(f"<th {CELL}>{word}</th>" for word in ("column", "type", "value")) + "</tr>"
    style = "border-collapse:collapse;font-size:12px;text-align:left"
    return f'<table style="{style}">{head}{"".join(lines)}</table>'


CELL = 'style="padding:1px 8px 1px 4px;font-weight:normal;opacity:.7"'


def _line(name: str, kind: str, value: str, tint: np.ndarray | None) -> str:
    style = ""
    if tint is not None and not np.isnan(tint).any():
        red, green, blue = np.rint(np.clip(tint, 0, 1) * 255).astype(int)
        style = f' style="background:rgba({red},{green},{blue},.55)"'
    shown = html.escape(_short(value)) if value else '<span style="opacity:.5">missing</span>'
    if kind == "learned":
        shown = ""
    pad = 'style="padding:1px 8px 1px 4px"'
    return (
        f"<tr{style}><td {pad}><b>{html.escape(_short(name))}</b></td>"
        f'<td {pad}><span style="opacity:.7">{html.escape(kind)}</span></td><td {pad}>{shown}</td></tr>'
    )


def _short(text: str, most: int = 28) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
