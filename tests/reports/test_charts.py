"""Charts: where a value lands, what is drawn of gaps, and what text becomes."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyjepa.reports.charts import (
    BOTTOM,
    COLOURS,
    LEFT,
    MAP_HEIGHT,
    MAP_WIDTH,
    RIGHT,
    TOP,
    Axis,
    Series,
    bar_chart,
    line_chart,
    mark_class,
    mark_shape,
    scatter,
    score_text,
    short,
    thin,
)


def line(*values: float, log: bool = False):
    return line_chart("c", [Series("s", np.arange(len(values), dtype=float), np.array(values))], log_y=log)


def path_of(chart) -> str:
    found = re.search(r'class="line c0" d="([^"]*)"', chart.drawing)
    return found.group(1) if found else ""


def test_a_linear_axis_places_by_difference_and_a_log_axis_by_ratio():
    assert Axis(0, 10, 100, 200).place([0, 5, 10]).tolist() == [100, 150, 200]
    assert Axis(1, 100, 0, 60, log=True).place([1, 10, 100]) == pytest.approx([0, 30, 60])
    assert Axis(0, 10, 200, 100).place(2.5) == 175  # upwards
    assert np.isnan(Axis(1, 100, 0, 60, log=True).place([0, -1, math.nan, math.inf])).all()


@pytest.mark.parametrize(
    ("low", "high", "log", "ticks"),
    [
        (0, 10, False, [0, 2, 4, 6, 8, 10]),
        (0, 1, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-3, 7, False, [-2, 0, 2, 4, 6]),
        (1, 1000, True, [1, 10, 100, 1000]),
        (2, 30, True, [2, 5, 10, 20]),
        (1e-7, 1, True, [1e-7, 1e-5, 1e-3, 1e-1]),
    ],
)
def test_ticks_are_round_and_inside(low, high, log, ticks):
    assert Axis(low, high, 0, 1, log).ticks() == pytest.approx(ticks)


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=20))
def test_a_rounded_axis_holds_its_values_between_ticks(values):
    axis = Axis.fit(np.array(values), 0, 1, rounded=True)
    assert axis is not None
    rounding = 1e-8 * (axis.high - axis.low)
    assert axis.low - rounding <= min(values)
    assert max(values) <= axis.high + rounding
    assert 2 <= len(axis.ticks()) <= 9


def test_a_single_value_lies_in_the_middle_and_none_has_no_axis():
    for value, log in ((3.0, False), (0.0, False), (3.0, True)):
        axis = Axis.fit(np.array([value]), 0, 100, log)
        assert axis is not None
        assert float(axis.place(value)) == pytest.approx(50)
    assert Axis.fit(np.array([]), 0, 1) is None
    assert Axis.fit(np.array([math.nan, math.inf]), 0, 1) is None
    assert Axis.fit(np.array([0.0, -1.0]), 0, 1, log=True) is None


def test_a_line_runs_from_corner_to_corner():
    assert path_of(line(0, 10)) == f"M{LEFT:.1f} {BOTTOM:.1f}L{RIGHT:.1f} {TOP:.1f}"
    logarithmic = path_of(line(1, 10, 100, log=True))
    middle = f"{(LEFT + RIGHT) / 2:.1f} {(BOTTOM + TOP) / 2:.1f}"
    assert logarithmic == f"M{LEFT:.1f} {BOTTOM:.1f}L{middle}L{RIGHT:.1f} {TOP:.1f}"


def test_nan_breaks_a_line_and_a_point_alone_is_a_dot():
    chart = line(0, 1, math.nan, 5, math.inf, 9, 10)
    assert path_of(chart).count("M") == 2
    assert chart.drawing.count("<circle") == 1
    assert "nan" not in chart.drawing.lower().replace("not finite", "")
    assert chart.note == "2 values are not finite and left out."
    assert line(4).drawing.count("<circle") == 1


@pytest.mark.parametrize("values", [(), (math.nan, math.nan)])
def test_nothing_to_draw_is_said(values):
    chart = line(*values)
    assert (chart.drawing, chart.note) == ("", "Not measured in this run.")
    assert chart.hover == {"points": []}


def test_hover_knows_each_line_at_each_step():
    first = Series("a", np.array([0.0, 10.0]), np.array([0.0, 10.0]))
    second = Series("b", np.array([10.0]), np.array([5.0]))
    points = line_chart("c", [first, second]).hover["points"]
    assert points[0] == [LEFT, "step 0", [[BOTTOM, "0"], None]]
    assert points[1] == [RIGHT, "step 10", [[TOP, "10"], [(BOTTOM + TOP) / 2, "5"]]]


def test_thinning_keeps_the_ends_the_spikes_and_the_gaps():
    x, y = np.arange(10_000.0), np.sin(np.arange(10_000.0))
    y[1234], y[4321], y[6000:7000] = 50.0, -50.0, np.nan
    kept_x, kept_y = thin(x, y)
    assert len(kept_x) <= 400
    assert {0.0, 1234.0, 4321.0, 9999.0} <= set(kept_x.tolist())
    assert np.isnan(kept_y).any()
    assert np.array_equal(kept_y, y[kept_x.astype(int)], equal_nan=True)


def test_bars_are_as_long_as_their_values():
    drawing = bar_chart(
        "t", [("run", 0.5, 0.25, 0.75), ("raw", 0.25, None, None), ("none", math.nan, None, None)]
    )
    widths = [float(width) for width in re.findall(r'<rect[^>]* width="([\d.]+)"', drawing)]
    assert widths == [132.0, 66.0]  # of 264 units from 0 to 1
    assert re.findall(r'class="whisker" d="M162.0 14H294.0', drawing)
    below = re.search(
        r'<rect[^>]* x="([\d.]+)"[^>]* width="([\d.]+)"', bar_chart("t", [("r2", -1.0, None, None)])
    )
    assert below is not None
    assert float(below.group(1)) == 96.0


def test_a_map_keeps_proportions_and_points_up():
    drawing = scatter(np.array([[0.0, 0.0], [1.0, 1.0]]), [1, 1], ["a", "b"], "d")
    (x0, y0), (x1, y1) = [(float(x), float(y)) for x, y in re.findall(r' d="M([\d.]+) ([\d.]+)a', drawing)]
    reach = MAP_HEIGHT - 28
    assert x1 - x0 == pytest.approx(reach, abs=0.2)
    assert y0 - y1 == pytest.approx(reach, abs=0.2)
    assert (x0 + x1) / 2 + 4 == pytest.approx(MAP_WIDTH / 2, abs=0.2)
    scatter(np.zeros((3, 2)), [0, 0, 0], ["", "", ""], "all at one place")


def test_marks_differ_in_colour_then_shape():
    looks = {(mark_class(number), mark_shape(number)) for number in range(3 * COLOURS)}
    assert len(looks) == 3 * COLOURS
    assert mark_class(-1) == "grey"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.25, "0.25"), (12_345, "12.3k"), (3.5e6, "3.5M"), (2e-5, "2e-5"), (-1.5e-4, "-1.5e-4"),
     (1234, "1234"), (math.nan, "not finite")],
)  # fmt: skip
def test_numbers_read_as_a_person_writes_them(value, text):
    assert short(value) == text


def test_scores_keep_the_digits_of_an_interval():
    assert (score_text(0.9), score_text(1234.5)) == ("0.900", "1234")


def test_text_in_a_drawing_stays_text():
    evil = '"><script>alert(1)</script>'
    drawings = [
        line_chart(evil, [Series(evil, np.arange(2.0), np.arange(2.0))], x_name=evil, y_name=evil).drawing,
        bar_chart(evil, [(evil, 1.0, None, None)]),
        scatter(np.eye(2), [0, evil], [evil, evil], evil),
    ]
    for drawing in drawings:
        assert "<script" not in drawing
        assert "&lt;script&gt;" in drawing
        assert "&#34;&gt;&lt;" in drawing  # the quote too, or it would end an attribute
