"""What a report says, and the HTML page that says it.

The page is one Jinja template with escaping on: whatever comes from data (class names, file names,
settings) is text wherever it appears, in the HTML, in the SVG and in the script's JSON. A content policy
in the page forbids it to load anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from anyjepa.reports import charts
from anyjepa.reports.charts import Chart
from anyjepa.reports.pictures import Picture

# control characters but for the tab and line breaks, and the characters that depict them
PICTURED = {code: 0x2400 + code for code in range(32) if code not in (9, 10, 13)} | {127: 0x2421}
Ends = tuple[float | None, float | None]  # of an interval


@dataclass(frozen=True)
class Verdict:
    """The run in words.

    Args:
        tone: "good", "care", "bad" or "unknown".
        words: a sentence or two.
    """

    tone: str
    words: str


@dataclass(frozen=True)
class Figure:
    """One of the key figures: what it is, its value as text, and what to compare it with."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Score:
    """A labelled score beside what any encoder must beat; None where it was not measured.

    Args:
        probe: how it was measured, "linear".
        metric: what was measured, "accuracy".
        value: of the run.
        low: lower end of the interval.
        high: upper end.
        untrained: the same encoder before training.
        raw: the input without an encoder.
        data: what it was measured on.
        untrained_ends, raw_ends: of their intervals.
        gain: over the untrained encoder, with its interval.
        samples: what it was learned from and tested on, in words.
        further: (name, this run, untrained, raw) of other metrics.
        picture: the score class by class; empty where there is none.
    """

    probe: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    untrained: float | None = None
    raw: float | None = None
    data: str = ""
    untrained_ends: Ends = (None, None)
    raw_ends: Ends = (None, None)
    gain: tuple[float, float, float] | None = None
    samples: str = ""
    further: Sequence[tuple[str, float, float, float]] = ()
    picture: Markup = field(default_factory=Markup)

    def bars(self) -> Markup:
        """Run, untrained and raw as bars."""
        beside = [
            ("untrained", self.untrained, *self.untrained_ends),
            ("raw input", self.raw, *self.raw_ends),
        ]
        rows = [("this run", self.value, self.low, self.high)]
        rows += [(name, value, low, high) for name, value, low, high in beside if value is not None]
        return charts.bar_chart(f"{self.probe} {self.metric}", rows)


@dataclass(frozen=True)
class MaskedSample:
    """One sample: whole, what the context encoder sees of it, and the target blocks."""

    whole: Picture
    seen: Picture
    targets: Picture


@dataclass(frozen=True)
class Masks:
    """Masks over samples: colours (#rrggbb) of the target `blocks`, and what brightens all pictures."""

    samples: Sequence[MaskedSample]
    blocks: Sequence[str]
    gain: float = 1.0


@dataclass(frozen=True)
class Ranked:
    """Samples with what stands out of them and their regions by number; drawn `gain` times as bright."""

    samples: Sequence[MaskedSample]
    gain: float = 1.0


@dataclass(frozen=True)
class SampleViews:
    """Samples, each with the views that its method asks to agree, and what brightens all pictures.

    Or, where not `agree`, with one picture each of views in sequence, of which the last is predicted.
    """

    rows: Sequence[tuple[Picture, Sequence[Picture]]]
    gain: float = 1.0
    agree: bool = True


@dataclass(frozen=True)
class Imagined:
    """Samples as they came, beside what was expected of them; pictures are drawn `gain` times as bright.

    ``words`` say what is seen; empty for clips that were foretold.
    """

    rows: Sequence[Sequence[Picture]]
    gain: float = 1.0
    words: str = ""


@dataclass(frozen=True)
class Neighbours:
    """Queries, each with its nearest samples, nearest first, out of `searched` samples.

    `right` is the share of neighbours with the query's label, `chance` that of all samples searched;
    None without labels.
    """

    rows: Sequence[tuple[Picture, Sequence[Picture]]]
    searched: int
    right: float | None = None
    chance: float | None = None


@dataclass(frozen=True)
class Clusters:
    """Clusters, fullest first, each with the share of all `parts` in it and those nearest to its prototype.

    `filled` of `clusters` have any.
    """

    rows: Sequence[tuple[str, Sequence[Picture]]]
    filled: int
    clusters: int
    parts: int


@dataclass(frozen=True)
class RankedCaption:
    """A caption, its energy as text, and whether it is the image's own."""

    words: str
    energy: str
    own: bool


@dataclass(frozen=True)
class CaptionedImage:
    """An image with its own caption, the `best` and `worst` captions of many, and the `place` of its own."""

    image: Picture
    best: Sequence[RankedCaption]
    worst: Sequence[RankedCaption]
    place: int


@dataclass(frozen=True)
class Captioned:
    """Images, each held against so many `captions`."""

    rows: Sequence[CaptionedImage]
    captions: int


@dataclass(frozen=True)
class Patches:
    """Samples beside the first three principal components of their tokens.

    `explained` is the three's share of the variance; `less_position` whether the mean token of each position
    was taken off first.
    """

    pairs: Sequence[tuple[Picture, Picture]]
    explained: float
    less_position: bool


@dataclass(frozen=True)
class EmbeddingMap:
    """A 2-D map of embeddings.

    Args:
        points: (n, 2) places.
        marks: of each point a number (-1: grey) or a CSS colour, as `charts.scatter` takes them.
        captions: of each point.
        legend: (mark, name) of what is worth naming.
        sheet: all thumbnails in one picture, in the points' order, row by row.
        columns: thumbnails in a row of the sheet.
    """

    points: np.ndarray
    marks: Sequence[int | str]
    captions: Sequence[str]
    legend: Sequence[tuple[int | str, str]]
    sheet: Picture
    columns: int

    def drawing(self) -> Markup:
        """The map as SVG."""
        named = f", coloured by {len(self.legend)} labels" if self.legend else ""
        said = f"Map of {len(self.points):,} embeddings{named}"
        return charts.scatter(self.points, self.marks, self.captions, said)


@dataclass(frozen=True)
class Table:
    """A titled table of names and values."""

    title: str
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Health:
    """Label-free measures, and the verdict that they give.

    Args:
        rows: name, value with its standard error, the same untrained, and what it says, of each measure.
        verdict: in words, with its evidence.
        tone: "good", "care", "bad" or "unknown".
        advice: what to try.
        remarks: further sentences.
        samples: that were measured.
    """

    rows: Sequence[tuple[str, str, str, str]]
    verdict: str
    tone: str
    advice: str
    remarks: Sequence[str]
    samples: int


@dataclass(frozen=True)
class Content:
    """Everything a report says. A section that cannot be shown is the sentence that says why.

    Args:
        recipe: name of the recipe.
        data: description of the data it was trained on.
        facts: short facts below the title: steps, date, status.
        verdict: the run in words.
        figures: key figures.
        scores: evaluations, or why there are none.
        commands: (what it does, command line) to type next.
        curves: charts over steps, or why there are none.
        small_curves: further charts, drawn smaller.
        spectrum: chart of singular values.
        masks: masks over samples, regions in order, or views or expectations for what hides nothing.
        neighbours: nearest neighbours.
        patches: principal components of the patch tokens.
        map: the 2-D map.
        tables: settings and versions.
        skipped: number of skipped samples.
        skipped_first: (identity, reason) of the first of them.
        made: date, and version of what made the page.
        health: label-free measures beside those of the untrained encoder.
        clusters: what clusters gather; None for methods without.
        pages: (file name, what it shows) of further pages that lie beside the report.
        captioned: captions by how well they fit; None for methods without.
    """

    recipe: str
    data: str
    facts: Sequence[str]
    verdict: Verdict
    figures: Sequence[Figure]
    scores: Sequence[Score] | str
    commands: Sequence[tuple[str, str]]
    curves: Sequence[Chart] | str
    small_curves: Sequence[Chart]
    spectrum: Chart | str
    masks: Masks | Ranked | SampleViews | Imagined | str
    neighbours: Neighbours | str
    patches: Patches | str
    map: EmbeddingMap | str
    tables: Sequence[Table]
    skipped: int = 0
    skipped_first: Sequence[tuple[str, str]] = field(default_factory=tuple)
    made: str = ""
    health: Health | str = "Not measured."
    clusters: Clusters | None = None
    pages: Sequence[tuple[str, str]] = field(default_factory=tuple)
    captioned: Captioned | None = None


def encoded(page: str) -> bytes:
    """A page's text as it is written: UTF-8, in which control characters are their pictures.

    They are no part of HTML, and the names of files that bear them move the cursor of who prints the page.
    """
    return page.translate(PICTURED).encode("utf-8", errors="backslashreplace")


def render(content: Content) -> str:
    """The page as HTML text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("anyjepa.reports", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score_text"] = charts.score_text
    environment.tests["ranked"] = lambda section: isinstance(section, Ranked)
    environment.tests["views"] = lambda section: isinstance(section, SampleViews)
    environment.tests["imagined"] = lambda section: isinstance(section, Imagined)
    environment.tests["absent"] = lambda section: isinstance(section, str)
    environment.globals.update(mark=charts.mark, mark_class=charts.mark_class, mark_shape=charts.mark_shape)
    return environment.get_template("page.html").render(content=content, script=_script(content)).lstrip()


def _script(content: Content) -> dict[str, Any]:
    """What the page's script needs to know: the points of the curves, and the map's thumbnails."""
    curves = [] if isinstance(content.curves, str) else [*content.curves, *content.small_curves]
    lines = [*curves, *([] if isinstance(content.spectrum, str) else [content.spectrum])]
    points = {chart.title: {**chart.hover, "names": [name for name, _ in chart.legend]} for chart in lines}
    known: dict[str, Any] = {"charts": points}
    if not isinstance(content.map, str):
        sheet = content.map.sheet
        known["map"] = {
            "columns": content.map.columns,
            "cell": sheet.width // content.map.columns,
            "width": sheet.width,
            "height": sheet.height,
            "captions": list(content.map.captions),
        }
    return known
