"""Boxes turned about the vertical: corners, points inside, overlaps against known answers and sampling."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyjepa.core.boxes import corners, inside, intersections, overlaps


def box(x=0.0, y=0.0, z=0.0, length=4.0, width=2.0, height=1.5, angle=0.0):
    return np.array([[x, y, z, length, width, height, angle]])


places = st.floats(-3, 3)
sides = st.floats(0.3, 6)
turns = st.floats(-7, 7)
boxes = st.builds(box, places, places, places, sides, sides, sides, turns)


def test_corners_run_counter_clockwise_from_ahead_on_the_left():
    found = corners(box(1, 2, angle=np.pi / 2))[0]
    assert np.allclose(found, [[0, 4], [0, 0], [2, 0], [2, 4]])
    after = np.roll(found, -1, axis=0)
    assert (found[:, 0] * after[:, 1] - after[:, 0] * found[:, 1]).sum() / 2 == pytest.approx(8)


def test_points_inside():
    points = np.array([[0, 1.9, 0.7, 9], [0, 2.1, 0, 9], [0.9, 0, 0, 9], [1.1, 0, 0, 9], [0, 0, 0.8, 9]])
    assert inside(points, box(angle=np.pi / 2)).tolist() == [[True, False, True, False, False]]


@pytest.mark.parametrize(
    ("other", "area"),
    [
        (box(), 8.0),
        (box(x=1), 6.0),
        (box(x=1, y=1), 3.0),
        (box(angle=np.pi / 2), 4.0),
        (box(angle=np.pi), 8.0),
        (box(x=4), 0.0),
        (box(x=40), 0.0),
        (box(length=1, width=1, angle=0.3), 1.0),
        # a square turned by an eighth, of which both ends reach beyond the sides: an octagon less two corners
        (box(length=2 * 2**0.5, width=2 * 2**0.5, angle=np.pi / 4), 6.0),
    ],
)
def test_shared_areas_that_are_known(other, area):
    assert intersections(box(), other)[0, 0] == pytest.approx(area, abs=1e-9)


def test_two_squares_turned_by_an_eighth_share_a_regular_octagon():
    squares = box(length=2, width=2), box(length=2, width=2, angle=np.pi / 4)
    assert intersections(*squares)[0, 0] == pytest.approx(8 * (2**0.5 - 1))


def test_overlaps_in_space_count_heights():
    assert overlaps(box(), box(z=0.75))[0, 0] == pytest.approx(1 / 3)
    assert overlaps(box(), box(z=0.75), solid=False)[0, 0] == pytest.approx(1)
    assert overlaps(box(), box(z=2))[0, 0] == 0
    assert overlaps(box()[:0], box()).shape == (0, 1)


@settings(max_examples=40)
@given(boxes, boxes, places, places, turns)
def test_overlap_is_symmetric_bounded_and_does_not_depend_on_where_and_how_one_looks(a, b, x, y, turn):
    value = overlaps(a, b)[0, 0]
    assert -1e-9 <= value <= 1 + 1e-9
    assert overlaps(b, a)[0, 0] == pytest.approx(value, abs=1e-7)
    assert overlaps(a, a)[0, 0] == pytest.approx(1, abs=1e-7)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    moved = []
    for one in (a, b):
        other = one.copy()
        other[:, :2] = other[:, :2] @ matrix.T + [x, y]
        other[:, 6] += turn
        moved.append(other)
    assert overlaps(*moved)[0, 0] == pytest.approx(value, abs=1e-6)


@settings(max_examples=40)
@given(boxes, boxes)
def test_shared_area_is_what_counting_points_says(a, b):
    ticks = np.linspace(-8, 8, 161)
    x, y = (part.ravel() for part in np.meshgrid(ticks, ticks))
    flat = np.stack([x, y, 0 * x], axis=1)
    held = [
        inside(flat, np.concatenate([one[:, :2], 0 * one[:, :1], one[:, 3:]], axis=1))[0] for one in (a, b)
    ]
    counted = (held[0] & held[1]).sum() * 0.01
    edge = 2 * (a[0, 3] + a[0, 4] + b[0, 3] + b[0, 4]) * 0.1 * 0.75
    assert intersections(a, b)[0, 0] == pytest.approx(counted, abs=edge)
