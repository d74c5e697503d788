"""What a catalogue's ranking is worth item by item: recall by popularity, and a few queries' lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

__all__ = ["recommended"]

KINDS = (("trained", "this run"), ("untrained", "untrained"), ("raw", "fields alone"))
COLUMNS = {
    "recall_at_10": "recall at 10", "ndcg_at_10": "NDCG at 10", "recall_at_50": "recall at 50",
    "ndcg_at_50": "NDCG at 50", "head_recall_at_50": "head, recall at 50",
    "tail_recall_at_50": "tail, recall at 50",
}  # fmt: skip
LONGEST = 34
DARKEST = 0.6  # opacity behind a recall of 1, under which text is read


def recommended(row: Mapping[str, Any]) -> Markup:
    """Methods side by side, recall by popularity, lists of ``--probe recommendation``; else empty."""
    parts = []
    if isinstance(row.get("metrics"), Mapping) and isinstance(row.get("baseline_metrics"), Mapping):
        parts.append(_methods(row["metrics"], row["baseline_metrics"]))
    if isinstance(row.get("deciles"), Mapping):
        parts.append(_by_popularity(row["deciles"], str(row["metric"])))
    if not parts:
        return Markup()
    if isinstance(row.get("lists"), list) and row["lists"]:
        parts.append(_lists(row["lists"]))
    return Markup('<div class="whole">{}</div>').format(Markup().join(parts))


def _methods(metrics: Mapping[str, Any], baselines: Mapping[str, Any]) -> Markup:
    """A row a method, the best of each column in bold."""
    table = {name: {metric: found[key] for metric, found in metrics.items()} for key, name in KINDS}
    table |= {str(name): dict(found) for name, found in baselines.items()}
    columns = [name for name in COLUMNS if name in metrics]
    best = {name: max(float(row.get(name, 0)) for row in table.values()) for name in columns}
    head = Markup().join(Markup('<th scope="col">{}</th>').format(COLUMNS[name]) for name in columns)
    rows = []
    for method, row in table.items():
        cells = Markup().join(
            Markup("<td><b>{:.3f}</b></td>" if row[name] == best[name] else "<td>{:.3f}</td>").format(
                float(row[name])
            )
            if name in row
            else Markup("<td>–</td>")
            for name in columns
        )
        rows.append(Markup("<tr><td>{}</td>{}</tr>").format(method, cells))
    return Markup(
        "<p><strong>Beside what a field tries first</strong>; the most popular tenth of the items is the head"
        '</p><table class="numbers"><thead><tr><th scope="col">method</th>{}</tr></thead>'
        "<tbody>{}</tbody></table>"
    ).format(head, Markup().join(rows))


def _by_popularity(found: Mapping[str, Any], metric: str) -> Markup:
    """A row a method and a column a tenth of the items, the more of it found the darker."""
    named = [(key, name) for key, name in KINDS if key in found]
    named += [(key, str(key)) for key in found if key not in dict(KINDS)]
    tenths = found[named[0][0]]
    pairs = Markup().join(Markup("<td>{:,}</td>").format(int(tenth["pairs"])) for tenth in tenths)
    rows = [Markup('<tr style="opacity:.7"><td>held out</td>{}</tr>').format(pairs)]
    for key, name in named:
        cells = Markup().join(_cell(tenth["recall"]) for tenth in found[key])
        rows.append(Markup("<tr><td>{}</td>{}</tr>").format(name, cells))
    head = Markup().join(
        Markup('<th scope="col">{}</th>').format(words)
        for words in ("most taken", *range(2, len(tenths)), "least")[: len(tenths)]
    )
    return Markup(
        '<p><strong>{} by popularity</strong>, a column a tenth of the items</p><table class="numbers">'
        '<thead><tr><th scope="col">method</th>{}</tr></thead><tbody>{}</tbody></table>'
    ).format(metric.replace("_", " "), head, Markup().join(rows))


def _cell(value: float | None) -> Markup:
    if value is None:
        return Markup("<td>–</td>")
    return Markup('<td style="background:rgba(0,114,178,{:.2f})">{:.3f}</td>').format(
        min(1.0, float(value)) * DARKEST, float(value)
    )


def _lists(lists: list[Mapping[str, Any]]) -> Markup:
    """A row a query: what it took, what is recommended, and where what was held out stands."""
    rows = []
    for one in lists:
        best = Markup().join(
            Markup("<li><b>✓ {}</b></li>" if item["hit"] else "<li>{}</li>").format(_short(item["title"]))
            for item in one["recommended"]
        )
        took, wanted = (
            Markup("<br>").join(_short(title) for title in one[key]) for key in ("took", "wanted")
        )
        rows.append(
            Markup(
                '<tr style="vertical-align:top"><td>{}</td><td>{}</td><td>'
                '<ol style="margin:0;padding-left:1.6em">{}</ol></td><td>{}</td><td>{:,}</td></tr>'
            ).format(_short(one["query"]), took, best, wanted, int(one["rank"]))
        )
    head = Markup().join(
        Markup('<th scope="col">{}</th>').format(name)
        for name in ("query", "took last", "recommended, best first", "held out", "best rank")
    )
    return Markup(
        "<p><strong>Lists of a few queries</strong>; ✓ was held out</p>"
        '<table class="numbers lists"><thead><tr>{}</tr></thead><tbody>{}</tbody></table>'
    ).format(head, Markup().join(rows))


def _short(text: str) -> str:
    text = str(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
