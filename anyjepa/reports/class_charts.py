"""A score class by class: which are taken for which, and how well each is told from the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from anyjepa.reports.charts import score_text

SIDE, NAMES = 300.0, 108.0  # user units: of the table of confusions, and of the names left of it
LONGEST_NAME = 16
MOST_NUMBERS = 12  # classes up to which each cell says its count
ROW = 17.0


def by_class(row: Mapping[str, Any]) -> Markup:
    """The picture that a result allows: a table of confusions, or bars of AUC or IoU; empty where none."""
    names = [str(name) for name in row.get("class_names") or []]
    for key, metric in (("class_auc", "AUC"), ("class_iou", "IoU")):
        values = row.get(key)
        if names and isinstance(values, list) and len(values) == len(names):
            return class_bars(metric, names, values)
    table = np.array(row.get("confusion") or [], dtype=np.float64)
    return confusion(names, table) if names and table.shape == (len(names), len(names)) else Markup()


def confusion(names: Sequence[str], table: np.ndarray) -> Markup:
    """Shares of each true class (a row) that were said to be each class, darker for more.

    Args:
        names: of the classes.
        table: (classes, classes) counts; a row without any stays empty.
    """
    count, cell = len(names), SIDE / len(names)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    box = Markup('<rect class="c0" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" opacity="{:.3f}">'
                 "<title>{}</title></rect>")  # fmt: skip
    text = Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>')
    parts = [
        Markup('<rect class="frame" x="{:g}" y="0" width="{:g}" height="{:g}"/>').format(NAMES, SIDE, SIDE)
    ]
    for i, name in enumerate(names):
        middle = (i + 0.5) * cell + 4
        if cell > 9:
            parts.append(text.format("tick end", NAMES - 6, middle, _shortened(name)))
        for j, other in enumerate(names):
            if not table[i, j]:
                continue
            said = f"{name} said to be {other}: {table[i, j]:.0f} of {table[i].sum():.0f}"
            x = NAMES + j * cell
            parts.append(box.format(x, i * cell, cell, cell, 0.06 + 0.5 * shares[i, j], said))
            if count <= MOST_NUMBERS:
                parts.append(text.format("tick middle", x + cell / 2, middle, f"{table[i, j]:.0f}"))
    caption = "rows: what it is; columns: what it was taken for"
    parts.append(text.format("name middle", NAMES + SIDE / 2, SIDE + 16, caption))
    right = float(np.trace(table) / max(1.0, table.sum()))
    return _drawn(parts, f"Confusions of {count} classes, {score_text(right)} on the diagonal", SIDE + 24)


def class_bars(metric: str, names: Sequence[str], values: Sequence[float]) -> Markup:
    """A bar a class from zero to one, its value beside it, the best first."""
    parts = []
    best_first = sorted(range(len(values)), key=lambda index: -values[index])
    for place, index in enumerate(best_first):
        top, width = place * ROW, max(0.0, min(1.0, values[index])) * (SIDE - 60)
        label = Markup('<text class="tick end" x="{:g}" y="{:.1f}">{}</text>')
        bar = Markup('<rect class="c0" x="{:g}" y="{:.1f}" width="{:.1f}" height="12" rx="2"/>')
        value = Markup('<text class="tick" x="{:.1f}" y="{:.1f}">{}</text>')
        parts += [
            label.format(NAMES - 6, top + 11, _shortened(names[index])),
            bar.format(NAMES, top + 1, max(width, 1.0)),
            value.format(NAMES + width + 6, top + 11, score_text(values[index])),
        ]
    said = ", ".join(f"{name} {score_text(value)}" for name, value in zip(names, values, strict=True))
    return _drawn(parts, f"{metric} of each class: {said}", ROW * len(names) + 4)


def _drawn(parts: Sequence[Markup], said: str, height: float) -> Markup:
    opening = Markup('<svg viewBox="0 0 420 {:g}" role="img" aria-label="{}">{}</svg>')
    return opening.format(height, said, Markup().join(parts))


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
