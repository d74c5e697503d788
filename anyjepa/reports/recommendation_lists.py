"""What a catalogue's ranking is worth item by item: recall by popularity, and a few queries' lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from anyjepa.reports.charts import Series, line_chart

__all__ = ["recommended"]

KINDS = (("trained", "this run"), ("untrained", "untrained"), ("raw", "fields alone"))
LONGEST = 34


def recommended(row: Mapping[str, Any]) -> Markup:
    """Both pictures of a result of ``--probe recommendation``; empty for others."""
    parts = []
    if isinstance(row.get("deciles"), Mapping):
        parts.append(_by_popularity(row["deciles"], str(row["metric"])))
    if isinstance(row.get("lists"), list) and row["lists"]:
        parts.append(_lists(row["lists"]))
    return Markup().join(parts)


def _by_popularity(found: Mapping[str, Any], metric: str) -> Markup:
    """A line a method over the tenths of the items, the most popular first."""
    named = [(key, name) for key, name in KINDS if key in found]
    named += [(key, key) for key in found if key not in dict(KINDS)]
    lines = []
    for key, name in named:
        values = [np.nan if tenth["recall"] is None else float(tenth["recall"]) for tenth in found[key]]
        lines.append(Series(name, np.arange(1, len(values) + 1.0), np.array(values)))
    chart = line_chart(
        f"{metric} by popularity".replace("_", " "), lines, "tenth of the items, popular first"
    )
    keys = Markup().join(
        Markup('<span class="key c{}"><i></i>{}</span> ').format(number, name)
        for number, (_, name) in enumerate(named)
    )
    pairs = ", ".join(f"{tenth['pairs']:,}" for tenth in found[named[0][0]])
    said = Markup('<p class="note">Held-out interactions of each tenth: {}.</p>').format(pairs)
    return Markup("<p><strong>{}</strong><br>{}</p>{}{}").format(chart.title, keys, chart.drawing, said)


def _lists(lists: list[Mapping[str, Any]]) -> Markup:
    """A block a query: what it took, what is recommended, and where what was held out stands."""
    blocks = []
    for one in lists:
        best = Markup(" · ").join(
            Markup("<b>✓ {}</b>" if item["hit"] else "{}").format(_short(item["title"]))
            for item in one["recommended"]
        )
        said = Markup(
            '<li style="margin-bottom:.7em"><strong>{}</strong> took {}<br>recommended: {}<br>'
            "held out: {}, best at rank {:,}</li>"
        )
        took, wanted = (" · ".join(_short(title) for title in one[key]) for key in ("took", "wanted"))
        blocks.append(said.format(_short(one["query"]), took, best, wanted, int(one["rank"])))
    return Markup(
        "<p><strong>Lists of a few queries</strong>, best first; ✓ was held out</p>"
        '<ol style="font-size:.85em;'
        'padding-left:1.4em">{}</ol>'
    ).format(Markup().join(blocks))


def _short(text: str) -> str:
    text = str(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
