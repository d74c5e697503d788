"""Warping, correlation and losses of optical flow, by known answers and against slow, plain computations."""

import math

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from anyjepa.core.flow import (
    correlation,
    end_point_error,
    inside,
    outliers,
    sources,
    upsampled,
    visible,
    warp,
)
from anyjepa.core.flow_losses import census, dissimilarity, mean_where, smoothness

few = hypothesis.settings(max_examples=12)
sizes = st.tuples(st.integers(3, 14), st.integers(3, 14))


def noise(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def constant(u, v, height=8, width=10, batch=1):
    return torch.tensor([u, v], dtype=torch.float64).view(1, 2, 1, 1).expand(batch, 2, height, width).clone()


@few
@hypothesis.given(size=sizes, u=st.integers(-3, 3), v=st.integers(-3, 3))
def test_a_whole_step_is_a_shift_and_what_leaves_the_image_is_known(size, u, v):
    image, flow = noise(2, 3, *size), constant(float(u), float(v), *size, batch=2)
    moved, seen = warp(image, flow), inside(flow)
    for row in range(size[0]):
        for column in range(size[1]):
            within = 0 <= row + v < size[0] and 0 <= column + u < size[1]
            assert bool(seen[0, 0, row, column]) == within
            if within:
                torch.testing.assert_close(moved[..., row, column], image[..., row + v, column + u])


def test_no_flow_changes_nothing():
    image = noise(1, 2, 7, 9)
    torch.testing.assert_close(warp(image, constant(0.0, 0.0, 7, 9)), image, atol=1e-14, rtol=0)


def test_half_a_pixel_of_a_ramp_is_exact():
    ramp = (torch.arange(10.0, dtype=torch.float64) + 3 * torch.arange(8.0, dtype=torch.float64)[:, None])[
        None, None
    ]
    moved = warp(ramp, constant(0.5, 0.5))
    torch.testing.assert_close(moved[..., :-1, :-1], ramp[..., :-1, :-1] + 0.5 + 1.5)


@few
@hypothesis.given(size=sizes, scale=st.integers(2, 4), u=st.floats(-5, 5), v=st.floats(-5, 5))
def test_flow_grows_with_its_grid(size, scale, u, v):
    larger = upsampled(constant(u, v, *size), (scale * size[0], scale * size[1]))
    torch.testing.assert_close(larger, constant(scale * u, scale * v, *larger.shape[2:]))


def test_upsampled_flow_leads_to_the_same_place():
    """A flow that shrinks to the middle, on two grids: pixel centres scale about the corner of the image."""
    at = torch.arange(8, dtype=torch.float64)
    ramp = -0.1 * (at - 3.5)
    flow = torch.stack([ramp.expand(8, 8), ramp[:, None].expand(8, 8)])[None]
    fine = upsampled(flow, (16, 16))[0, :, 4:-4, 4:-4]
    ahead = torch.arange(16, dtype=torch.float64)[4:-4]
    torch.testing.assert_close(fine[0, 0], -0.1 * (ahead - 7.5))
    assert torch.equal(upsampled(flow, (8, 8)), flow)


@few
@hypothesis.given(size=sizes, radius=st.integers(1, 4), channels=st.integers(1, 5))
def test_correlation_is_that_of_a_loop_over_displacements(size, radius, channels):
    first, second = (noise(2, channels, *size, seed=seed).requires_grad_() for seed in (1, 2))
    around = torch.nn.functional.pad(second, (radius,) * 4)
    side = range(2 * radius + 1)
    plain = torch.stack(
        [(first * around[:, :, y : y + size[0], x : x + size[1]]).sum(1) for y in side for x in side], dim=1
    )
    found = correlation(first, second, radius)
    torch.testing.assert_close(found, plain)
    weights = noise(*found.shape, seed=3)
    ours, theirs = (torch.autograd.grad((one * weights).sum(), (first, second)) for one in (found, plain))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("size", [(12, 14), (40, 20)])
@pytest.mark.parametrize("step", [(0, 0), (3, -2), (-4, 4)])
def test_the_most_alike_place_is_where_the_features_went(size, step):
    first = torch.nn.functional.normalize(noise(1, 16, *size) - 0.5)
    second = first.roll((step[1], step[0]), (2, 3))
    found = correlation(first, second, 4)
    assert found.shape == (1, 81, *size)
    best = found[0, :, 4:-4, 4:-4].argmax(0)
    assert (best == (step[1] + 4) * 9 + step[0] + 4).all()
    torch.testing.assert_close(found[0, :, 4:-4, 4:-4].amax(0), torch.ones_like(best, dtype=torch.float64))


def test_what_does_not_lead_home_is_occluded():
    there, back = constant(2.0, 0.0), constant(-2.0, 0.0)
    assert visible(there, back).all()
    lost = back.clone()
    lost[..., 4] = 5.0
    seen = visible(there, lost)
    assert not seen[..., 2].any(), "column 2 leads to column 4, which leads elsewhere"
    assert seen[..., [0, 1, 3, 4]].all()


def test_the_error_of_3_4_5():
    truth = constant(1.0, 2.0)
    off = truth + constant(3.0, 4.0)
    assert torch.equal(end_point_error(off, truth), torch.full((1, 8, 10), 5.0, dtype=torch.float64))
    assert (outliers(off, truth) == 1).all()
    far = constant(101.0, 0.0)
    assert (outliers(far + constant(3.0, 4.0), far) == 0).all(), "5 pixels are less than 5 % of 101"
    assert (outliers(constant(4.0, 2.0), truth) == 0).all(), "3 pixels are not more than 3"
    truth[..., 0, 0] = torch.nan
    assert end_point_error(off, truth).isnan().sum() == 1
    assert outliers(off, truth).isnan().sum() == 1


def test_structural_dissimilarity_by_a_plain_computation():
    first, second = noise(1, 1, 6, 7, seed=1), noise(1, 1, 6, 7, seed=2)
    found = dissimilarity(first, second)
    a, b = (one[0, 0, 1:4, 2:5].numpy() for one in (first, second))
    covariance = ((a - a.mean()) * (b - b.mean())).mean()
    ssim = (2 * a.mean() * b.mean() + 1e-4) * (2 * covariance + 9e-4)
    ssim /= (a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (a.var() + b.var() + 9e-4)
    assert float(found[0, 0, 2, 3]) == pytest.approx(min(1, max(0, (1 - ssim) / 2)))
    assert (found >= 0).all() and (found <= 1).all()
    torch.testing.assert_close(dissimilarity(first, first), torch.zeros_like(first), atol=1e-12, rtol=0)


def test_census_sees_structure_and_not_light():
    image = noise(1, 3, 12, 12)
    assert not census(image, image).any()
    torch.testing.assert_close(
        census(image, 0.7 * image).mean(), census(image, image).mean(), atol=3.0, rtol=0
    )
    turned = census(image, 1 - image)
    assert turned.mean() > 10 * census(image, 0.7 * image).mean()
    assert (turned <= 49).all()
    # one neighbour of the middle is brighter in the second image: one sign of 49 differs, at its full size
    flat = torch.full((1, 1, 9, 9), 0.5, dtype=torch.float64)
    spot = flat.clone()
    spot[..., 4, 5] = 1.0
    sign = 127.5 / math.sqrt(0.81 + 127.5**2)
    assert float(census(flat, spot)[0, 0, 4, 4]) == pytest.approx(sign**2 / (0.1 + sign**2))


@pytest.mark.parametrize("second", [True, False])
def test_smoothness_of_flows_that_are_known(second):
    image = noise(1, 3, 8, 10)
    assert float(smoothness(constant(3.0, -1.0), image, second_order=second)) == 0
    even = sources(constant(0.0, 0.0)) * 0.3
    cost = float(smoothness(even, torch.zeros_like(image), second_order=second))
    assert (cost < 1e-12) if second else cost == pytest.approx(0.15)


@pytest.mark.parametrize("second", [True, False])
def test_an_edge_of_the_image_allows_one_of_the_flow(second):
    flow = constant(0.0, 0.0)
    flow[..., 5:] = 2.0
    flat, edge = torch.zeros(1, 3, 8, 10, dtype=torch.float64), torch.zeros(1, 3, 8, 10, dtype=torch.float64)
    edge[..., 5:] = 0.2
    costs = [float(smoothness(flow, image, 10.0, second)) for image in (flat, edge)]
    assert costs[0] > 0
    assert costs[1] == pytest.approx(costs[0] * math.exp(-10 * 0.2))


def test_a_mean_where_something_counts():
    values, weights = noise(2, 3, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    assert float(mean_where(values, weights)) == 0
    weights[1, 0, 2] = 1
    assert float(mean_where(values, weights)) == pytest.approx(float(values[1, :, 2].mean()))


def test_flow_that_is_wrong_by_noise_has_the_error_of_noise():
    """The mean length of a normal vector in the plane is sqrt(pi / 2)."""
    truth = constant(1.0, 1.0, 200, 200)
    off = truth + torch.from_numpy(np.random.default_rng(0).standard_normal((1, 2, 200, 200)))
    assert float(end_point_error(off, truth).mean()) == pytest.approx(math.sqrt(math.pi / 2), rel=0.01)
