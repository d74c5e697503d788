"""Farthest point sampling, patches and sequences: known answers, scipy, and what no order may change."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from anyjepa.core.points import (
    farthest_points,
    gather_points,
    greedy_order,
    morton_order,
    nearest_points,
    normalised,
    outermost,
    random_start,
)

CENTRES = torch.tensor([[[0.0, 0, 0], [3, 0, 0], [1, 0, 0], [0, 2.5, 0], [6, 0, 0]]])

clouds = st.builds(
    lambda seed, batch, points: torch.from_numpy(np.random.default_rng(seed).normal(size=(batch, points, 3))),
    st.integers(0, 2**31),
    st.integers(1, 3),
    st.integers(4, 40),
)


def test_the_greedy_order_is_the_known_one():
    """Exact check 4: the last hop of the first order is 6.5 long."""
    assert greedy_order(CENTRES).tolist() == [[0, 2, 1, 4, 3]]
    assert greedy_order(CENTRES, torch.tensor([1])).tolist() == [[1, 2, 0, 3, 4]]
    last = CENTRES[0, [4, 3]]
    assert (last[0] - last[1]).norm() == pytest.approx(6.5)


def test_of_equally_near_centres_the_lowest_index_comes_first():
    """Exact check 5: the start and each step."""
    square = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]])
    assert greedy_order(square).tolist() == [[0, 1, 2, 3]]
    two_starts = torch.tensor([[[5.0, 5, 5], [1, 0, 0], [0, 1, 0]]])
    assert greedy_order(two_starts)[0, 0] == 1


@given(clouds)
def test_orders_are_permutations_and_each_hop_goes_to_the_nearest_left(cloud):
    for order in (greedy_order(cloud), morton_order(cloud)):
        assert torch.equal(order.sort(dim=1).values, torch.arange(cloud.shape[1]).expand(len(cloud), -1))
    row, order = cloud[0], greedy_order(cloud)[0]
    assert order[0] == row.sum(dim=1).argmin()
    for place in range(len(order) - 1):
        hops = (row[order[place + 1 :]] - row[order[place]]).norm(dim=1)
        assert hops[0] <= hops.min() + 1e-12


def test_the_z_curve_goes_through_one_half_after_the_other():
    corners = torch.tensor([[[x, y, z] for x in (0.0, 1) for y in (0.0, 1) for z in (0.0, 1)]])
    order = morton_order(corners)[0]
    # the last axis has the highest bit: all of its lower half comes first, x alternates
    assert corners[0, order, 2].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert corners[0, order, 0].tolist() == [0, 1] * 4


@given(clouds)
def test_farthest_points_are_distinct_and_ever_nearer(cloud):
    """Exact check 2."""
    count = cloud.shape[1]
    chosen = farthest_points(cloud, count, outermost(cloud))
    assert torch.equal(chosen.sort(dim=1).values, torch.arange(count).expand(len(cloud), -1))
    picked = gather_points(cloud, chosen)[0]
    apart = torch.cdist(picked, picked, compute_mode="donot_use_mm_for_euclid_dist")
    gaps = torch.stack([apart[place, :place].min() for place in range(1, count)])
    assert (gaps.diff() <= 1e-12).all()
    assert torch.equal(farthest_points(cloud, count, outermost(cloud)), chosen)


def test_farthest_points_of_a_line_are_its_ends_then_its_middle():
    line = torch.arange(9.0)[None, :, None] * torch.tensor([1.0, 0, 0])
    assert farthest_points(line, 5, torch.tensor([0])).tolist() == [[0, 8, 4, 2, 6]]


def test_repeated_points_are_chosen_only_when_places_run_out():
    cloud = torch.tensor([[[0.0, 0, 0]] * 3 + [[1, 0, 0]] * 2 + [[0, 1, 0]]])
    chosen = gather_points(cloud, farthest_points(cloud, 3, torch.tensor([0])))[0]
    assert len(chosen.unique(dim=0)) == 3


@given(clouds, st.randoms(use_true_random=False))
def test_no_order_of_the_points_changes_which_places_are_chosen(cloud, random):
    """Exact check 3, first half."""
    shuffled = list(range(cloud.shape[1]))
    random.shuffle(shuffled)
    other = cloud[:, shuffled]
    found = [
        gather_points(points, farthest_points(points, 4, outermost(points))) for points in (cloud, other)
    ]
    assert torch.equal(*found)


@given(clouds)
def test_the_first_of_many_farthest_points_are_those_of_few(cloud):
    """Why centres found among all points are those found among the points that are kept."""
    many = farthest_points(cloud, 4, outermost(cloud))
    assert torch.equal(farthest_points(cloud, 2, outermost(cloud)), many[:, :2])
    kept = gather_points(cloud, many)
    assert farthest_points(kept, 4, torch.zeros(len(cloud), dtype=torch.long)).tolist() == [
        [0, 1, 2, 3]
    ] * len(cloud)


@given(clouds)
def test_nearest_points_are_those_of_a_tree(cloud):
    centres = cloud[:, :3]
    found = nearest_points(cloud, centres, 4)
    for row, middle, mine in zip(cloud.numpy(), centres.numpy(), found, strict=True):
        assert mine.tolist() == cKDTree(row).query(middle, 4)[1].tolist()
    assert torch.equal(found[..., 0], torch.arange(3).expand(len(cloud), -1))


def test_a_ball_keeps_what_lies_within_and_repeats_the_nearest():
    line = torch.arange(6.0)[None, :, None] * torch.tensor([1.0, 0, 0])
    found = nearest_points(line, line[:, :1], 4, radius=1.5)
    assert found.tolist() == [[[0, 1, 0, 0]]]


@given(clouds, st.floats(0.1, 50), st.floats(-100, 100))
def test_normalised_clouds_fill_the_unit_ball_wherever_they_were(cloud, scale, shift):
    ball = normalised(cloud * scale + shift)
    assert torch.allclose(ball.norm(dim=2).amax(dim=1), torch.ones(len(cloud), dtype=ball.dtype))
    assert ball.mean(dim=1).abs().max() < 1e-9
    assert torch.allclose(ball, normalised(cloud), atol=1e-9)


def test_a_cloud_of_one_place_becomes_zeros():
    assert normalised(torch.full((1, 5, 3), 7.0)).tolist() == [[[0.0] * 3] * 5]


def test_random_starts_come_from_the_generator_only():
    cloud = torch.zeros(64, 10, 3)
    first, again = (random_start(cloud, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert set(first.tolist()) == set(range(10))
