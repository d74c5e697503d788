"""Charts as inline SVG: numbers in, geometry out. Colours are classes of the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

Number = float | int
Bar = tuple[str, Number, Number | None, Number | None]  # name, value, low, high

WIDTH, HEIGHT = 420.0, 210.0  # user units; the page scales them to its columns
LEFT, RIGHT, TOP, BOTTOM = 48.0, 410.0, 10.0, 178.0  # the plotting area's edges
MAP_WIDTH, MAP_HEIGHT = 720.0, 460.0
MOST_POINTS = 400  # a line has no more, however long the run was
COLOURS = 7  # that a colour-blind reader tells apart; marks of other shapes go on from there
SHAPES = 3


def short(value: Number) -> str:
    """A number as a person would write it on an axis: 0.25, 12k, 3.5M, 2e-5."""
    if not math.isfinite(value):
        return "not finite"
    size = abs(value)
    for bound, divisor, suffix in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if size >= bound:
            return f"{value / divisor:.3g}{suffix}"
    if 0 < size < 1e-3:
        digits, power = f"{value:.1e}".split("e")
        return f"{digits.removesuffix('.0')}e{int(power)}"
    return f"{value:.4g}"


def score_text(value: Number) -> str:
    """A score with the digits that its interval can bear: 0.917."""
    return f"{value:.3f}" if abs(value) < 10 else short(value)


@dataclass(frozen=True)
class Axis:
    """A range of values laid along a range of user units.

    Args:
        low: value at `start`.
        high: value at `end`; larger than `low`.
        start: user unit of the lowest value.
        end: user unit of the highest; smaller than `start` on an axis that runs upwards.
        log: equal ratios, rather than equal differences, are equally long.
    """

    low: Number
    high: Number
    start: Number
    end: Number
    log: bool = False

    @classmethod
    def fit(
        cls, values: np.ndarray, start: Number, end: Number, log: bool = False, rounded: bool = False
    ) -> Axis | None:
        """The axis that just holds the finite values (the positive ones where `log`), None if there are none.

        A single value is put in the middle. `rounded` widens a linear axis to whole ticks.
        """
        values = np.asarray(values, dtype=np.float64)
        values = values[np.isfinite(values) & (values > 0 if log else True)]
        if not values.size:
            return None
        low, high = float(values.min()), float(values.max())
        if high - low <= max(1e-9 * abs(high), 1e-30):
            either = abs(high) / 10 if abs(high) > 1e-29 else 1.0
            low, high = (low / 2, high * 2) if log else (low - either, high + either)
        reached = (math.nan, math.nan)
        while rounded and not log and reached != (low, high):  # a wider axis may have wider ticks
            reached, step = (low, high), _step(low, high)
            below, above = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
            low, high = _clean(below * step), _clean(above * step)
        return cls(low, high, start, end, log)

    def place(self, values: Any) -> np.ndarray:
        """User units of values; NaN for what is not finite (or not positive on a log axis)."""
        values = np.asarray(values, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled, low, high = (
                (np.log10(values), *np.log10([self.low, self.high]))
                if self.log
                else (values, self.low, self.high)
            )
            share = (scaled - low) / (high - low)
        return np.where(np.isfinite(share), self.start + share * (self.end - self.start), np.nan)

    def ticks(self) -> list[float]:
        """Round values inside the axis: multiples of 1, 2 or 5 times a power of ten, or powers of ten."""
        if not self.log:
            step = _step(self.low, self.high)
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            return [_clean(number * step) for number in range(first, last + 1)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        whole = [10.0**power for power in decades if self.low <= 10.0**power <= self.high]
        if len(whole) > 5:
            return whole[:: math.ceil(len(whole) / 5)]
        finer = [digit * 10.0**power for power in decades for digit in (1, 2, 5)]
        return whole if len(whole) > 1 else [value for value in finer if self.low <= value <= self.high]


def _clean(value: float) -> float:
    """Without the rounding error of a product: 0.6000000000000001 is 0.6."""
    return float(f"{value:.12g}")


def _step(low: Number, high: Number) -> float:
    """The distance of some three to six round ticks."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


@dataclass(frozen=True)
class Series:
    """One line: `y` over `x`, both (points,); NaN breaks the line."""

    name: str
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Chart:
    """A drawing and what goes with it.

    Args:
        title: of the chart.
        drawing: the SVG element; empty where there is nothing to draw.
        legend: (name, last finite value) of each line, in the order of the colours.
        hover: what the page's script shows under the pointer: `points`, a list of
            [x in user units, text of x, [[y in user units, text of y] or null for each line]].
        note: a sentence about what the drawing leaves out; empty where it leaves out nothing.
    """

    title: str
    drawing: Markup
    legend: list[tuple[str, str]]
    hover: dict[str, Any]
    note: str = ""


def thin(x: np.ndarray, y: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` (four or more) points of a line, lowest and highest of equal runs: no spike is lost.

    A run without a finite value keeps its first point, so that gaps stay gaps.
    """
    if len(x) <= most:
        return x, y
    kept: set[int] = {0, len(x) - 1}
    for part in np.array_split(np.arange(len(x)), most // 2 - 1):
        finite = part[np.isfinite(y[part])]
        extremes = (finite[y[finite].argmin()], finite[y[finite].argmax()]) if finite.size else part[:1]
        kept |= {int(index) for index in extremes}
    order = sorted(kept)
    return x[order], y[order]


def line_chart(
    title: str, series: Sequence[Series], x_name: str = "step", y_name: str = "", log_y: bool = False
) -> Chart:
    """Lines over a common x, with a legend and what a pointer shows.

    Args:
        title: of the chart.
        series: the lines; those without a finite value are left out.
        x_name: what x counts, for the axis and the pointer.
        y_name: the unit of y, said to a screen reader; may be empty.
        log_y: logarithmic y; values that are not positive are gaps.
    """
    gaps = sum(int((~np.isfinite(one.y)).sum()) for one in series)
    series = [Series(one.name, *thin(one.x, one.y)) for one in series if np.isfinite(one.y).any()]
    y_axis = Axis.fit(np.concatenate([one.y for one in series] or [[]]), BOTTOM, TOP, log_y, rounded=True)
    if y_axis is None:
        return Chart(title, Markup(), [], {"points": []}, "Not measured in this run.")
    x_axis = Axis.fit(np.concatenate([one.x for one in series]), LEFT, RIGHT)
    assert x_axis is not None
    lines = [_line(number, one, x_axis, y_axis) for number, one in enumerate(series)]
    said = f"{title}{' in ' + y_name if y_name else ''} over {x_name}: {_summary(series)}"
    frame = {"top": TOP, "bottom": BOTTOM, "width": WIDTH, "height": HEIGHT}
    return Chart(
        title,
        _svg(_grid(x_axis, y_axis, x_name) + Markup().join(lines), said, WIDTH, HEIGHT),
        [(one.name, short(float(one.y[np.isfinite(one.y)][-1]))) for one in series],
        {"points": _hover(series, x_axis, y_axis, x_name), **frame},
        f"{gaps:,} value{'s are' if gaps > 1 else ' is'} not finite and left out." if gaps else "",
    )


def _svg(body: Markup, description: str, width: float, height: float) -> Markup:
    return Markup('<svg viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>').format(
        width, height, description, body
    )


def _grid(x_axis: Axis, y_axis: Axis, x_name: str) -> Markup:
    rule = Markup('<path class="rule" d="M{:g} {:.1f}H{:g}"/>')
    text = Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>')
    parts = [Markup('<path class="axis" d="M{:g} {:g}H{:g}"/>').format(LEFT, BOTTOM, RIGHT)]
    for value in y_axis.ticks():
        y = float(y_axis.place(value))
        parts += [rule.format(LEFT, y, RIGHT), text.format("tick end", LEFT - 7, y + 4, short(value))]
    for value in x_axis.ticks():
        parts.append(text.format("tick middle", float(x_axis.place(value)), BOTTOM + 17, short(value)))
    return Markup().join([*parts, text.format("name end", RIGHT, BOTTOM + 31, x_name)])


def _line(number: int, series: Series, x_axis: Axis, y_axis: Axis) -> Markup:
    """Unbroken stretches as one path; a point between two gaps as a dot, for it would be invisible."""
    xs, ys = x_axis.place(series.x), y_axis.place(series.y)
    drawn = np.flatnonzero(np.isfinite(xs) & np.isfinite(ys))
    stretches = np.split(drawn, np.flatnonzero(np.diff(drawn) > 1) + 1)
    drawn_together = [stretch for stretch in stretches if len(stretch) > 1]
    path = " ".join("M" + "L".join(f"{xs[i]:.1f} {ys[i]:.1f}" for i in stretch) for stretch in drawn_together)
    dots = Markup().join(
        Markup('<circle class="dot c{}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(number, xs[i], ys[i])
        for stretch in stretches
        if len(stretch) == 1
        for i in stretch
    )
    return (Markup('<path class="line c{}" d="{}"/>').format(number, path) if path else Markup()) + dots


def _summary(series: Sequence[Series]) -> str:
    def one(line: Series) -> str:
        finite = line.y[np.isfinite(line.y)]
        return (
            f"{line.name} from {short(float(finite[0]))} to {short(float(finite[-1]))}, "
            f"lowest {short(float(finite.min()))}, highest {short(float(finite.max()))}"
        )

    return "; ".join(one(line) for line in series)


def _hover(series: Sequence[Series], x_axis: Axis, y_axis: Axis, x_name: str) -> list[list[Any]]:
    values = [dict(zip(one.x.tolist(), one.y.tolist(), strict=True)) for one in series]
    points = []
    for x in sorted(set().union(*values)):
        row = [line.get(x, math.nan) for line in values]
        heights = y_axis.place(row)
        marks = [
            [round(float(height), 1), short(value)] if math.isfinite(height) else None
            for value, height in zip(row, heights, strict=True)
        ]
        points.append([round(float(x_axis.place(x)), 1), f"{x_name} {x:,.10g}", marks])
    return points


def bar_chart(title: str, rows: Sequence[Bar]) -> Markup:
    """Horizontal bars from zero, the value written beside each, a whisker where an interval is known.

    The axis ends at 1 where no value exceeds it, for most scores are shares.

    Args:
        title: said to a screen reader.
        rows: (name, value, low, high of the interval or None); a value that is not finite has no bar.
    """
    known = [edge for _, *numbers in rows for edge in numbers if edge is not None and math.isfinite(edge)]
    low, high = min([0.0, *known]), max(known, default=1.0)
    axis = Axis(low, 1.0 if 0 < high <= 1 else max(high, low + 1e-9, 0.0), 96.0, 360.0)
    body = Markup().join(_bar(number, row, axis) for number, row in enumerate(rows))
    said = ", ".join(f"{name} {score_text(value)}" for name, value, *_ in rows)
    return _svg(body, f"{title}: {said}", WIDTH, 26.0 * len(rows) + 4)


def _bar(number: int, row: Bar, axis: Axis) -> Markup:
    name, value, low, high = row
    top, middle = 26.0 * number + 5, 26.0 * number + 14
    parts = [Markup('<text class="label end" x="88" y="{:g}">{}</text>').format(middle + 4, name)]
    reach = axis.place([0.0, value])
    if np.isfinite(reach).all():
        parts.append(
            Markup('<rect class="bar c{}" x="{:.1f}" y="{:g}" width="{:.1f}" height="18" rx="3"/>').format(
                number, reach.min(), top, max(float(np.ptp(reach)), 1.0)
            )
        )
    edges = axis.place([math.nan if edge is None else edge for edge in (low, high)])
    if np.isfinite(edges).all():
        whisker = Markup('<path class="whisker" d="M{0:.1f} {2:g}H{1:.1f}M{0:.1f} {3:g}v8M{1:.1f} {3:g}v8"/>')
        parts.append(whisker.format(*edges, middle, middle - 4))
    text = Markup('<text class="value" x="{:.1f}" y="{:g}">{}</text>')
    end = float(np.nanmax([axis.place(0.0), *reach, *edges]))
    return Markup().join([*parts, text.format(end + 7, middle + 4, score_text(value))])


def mark(shape: int, x: Number, y: Number, size: Number = 4.0) -> str:
    """The path of a disc (0), a square (1) or a triangle (2), all of about one area, about (x, y)."""
    if shape == 0:
        half = f"a{size:g} {size:g} 0 1 0"
        return f"M{x - size:.1f} {y:.1f}{half} {2 * size:g} 0{half} {-2 * size:g} 0"
    if shape == 1:
        side = 1.8 * size
        return f"M{x - side / 2:.1f} {y - side / 2:.1f}h{side:g}v{side:g}h{-side:g}z"
    return f"M{x:.1f} {y - 1.4 * size:.1f}l{1.3 * size:g} {2.3 * size:g}h{-2.6 * size:g}z"


def scatter(
    points: np.ndarray, marks: Sequence[int | str], captions: Sequence[str], description: str
) -> Markup:
    """A map of points, one unit of x as long as one of y.

    Args:
        points: (n, 2) places; y runs upwards.
        marks: of each point, the number of its colour and shape (-1: grey), or a CSS colour.
        captions: of each point; a browser shows it where there is no script.
        description: said to a screen reader.
    """
    width, height, edge = MAP_WIDTH, MAP_HEIGHT, 14.0
    low, high = points.min(axis=0), points.max(axis=0)
    scale = min((width - 2 * edge) / (high[0] - low[0] or 1), (height - 2 * edge) / (high[1] - low[1] or 1))
    centred = (points - (low + high) / 2) * scale * [1, -1] + [width / 2, height / 2]
    body = Markup().join(
        _point(number, x, y, style, caption)
        for number, ((x, y), style, caption) in enumerate(zip(centred.tolist(), marks, captions, strict=True))
    )
    return _svg(body, description, width, height)


def _point(number: int, x: float, y: float, style: int | str, caption: str) -> Markup:
    if isinstance(style, str):
        look, shape = Markup('class="point" style="fill:{}"').format(style), 0
    else:
        look, shape = Markup('class="point {}"').format(mark_class(style)), mark_shape(style)
    return Markup('<path {} data-point="{}" data-mark="{}" d="{}"><title>{}</title></path>').format(
        look, number, style, mark(shape, x, y), caption
    )


def mark_class(number: int) -> str:
    """The style class of a mark: one of the colours in turn, grey below zero."""
    return f"c{number % COLOURS}" if number >= 0 else "grey"


def mark_shape(number: int) -> int:
    """The shape of a mark: each shape takes all colours before the next begins."""
    return number // COLOURS % SHAPES if number >= 0 else 0
