"""SIGReg: where its slices come from, what it does to points, and what it says of embeddings."""

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anyjepa.core.epps_pulley import epps_pulley
from anyjepa.core.normality import mean_variance
from anyjepa.core.sigreg import Normality, directions, per_slice, sigreg, worst_direction
from anyjepa.engine.randomness import step_generator

DESIGNS = ["gaussian", "orthogonal", "sobol"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("design", DESIGNS)
@given(st.integers(1, 20), st.integers(1, 50), st.integers(0, 99))
def test_slices_are_unit_vectors_that_depend_on_seed_and_step_only(design, dim, count, step):
    slices = directions(dim, count, step_generator(3, step), torch.float64, design)
    assert slices.shape == (dim, count)
    assert torch.allclose(slices.norm(dim=0), torch.ones(count, dtype=torch.float64), atol=1e-6)
    torch.rand(1)
    assert torch.equal(slices, directions(dim, count, step_generator(3, step), torch.float64, design))
    if dim > 1:
        assert not torch.equal(
            slices, directions(dim, count, step_generator(3, step + 1), torch.float64, design)
        )


def test_orthogonal_slices_are_orthogonal_within_a_block():
    slices = directions(6, 15, generator(), torch.float64, "orthogonal")
    for block in slices.split(6, dim=1):
        assert torch.allclose(block.T @ block, torch.eye(block.shape[1], dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("design", DESIGNS)
def test_slices_favour_no_direction(design):
    slices = torch.cat(
        [directions(4, 64, generator(seed), torch.float64, design) for seed in range(60)], dim=1
    )
    assert torch.allclose(slices.mean(1), torch.zeros(4, dtype=torch.float64), atol=0.04)
    assert torch.allclose(
        slices @ slices.T / slices.shape[1], torch.eye(4, dtype=torch.float64) / 4, atol=0.02
    )


def test_even_designs_vary_less():
    z = (
        torch.randn(128, 8, dtype=torch.float64, generator=generator(1))
        @ torch.diag(torch.arange(1.0, 9)).double()
    )

    def spread(design):
        values = [sigreg(z, directions(8, 16, generator(seed), z.dtype, design)) for seed in range(60)]
        return float(torch.stack(values).std())

    assert spread("orthogonal") < 0.8 * spread("gaussian")
    assert spread("sobol") < 0.9 * spread("gaussian")


def test_it_is_the_mean_over_slices_and_views():
    z, slices = torch.randn(3, 20, 5, dtype=torch.float64), directions(5, 7, generator(), torch.float64)
    values = torch.stack([epps_pulley(view @ slices) for view in z])
    assert torch.allclose(per_slice(z, slices), values)
    assert torch.allclose(sigreg(z, slices), values.mean())


def test_autocast_changes_nothing():
    z, slices = torch.randn(50, 8), directions(8, 16, generator())
    with torch.autocast("cpu", torch.bfloat16):
        inside = sigreg(z, slices)
    assert torch.equal(inside, sigreg(z, slices))


def test_rotating_the_embeddings_changes_it_only_as_new_slices_do():
    z = torch.randn(64, 6, dtype=torch.float64, generator=generator(1)) ** 3
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator(2))).Q
    slices = directions(6, 8, generator(), torch.float64)
    assert torch.allclose(sigreg(z @ turn, turn.T @ slices), sigreg(z, slices), rtol=1e-10)
    assert not torch.allclose(sigreg(z @ turn, slices), sigreg(z, slices))


def test_the_worst_direction_is_found_where_the_mean_hides_it():
    z = torch.randn(512, 32, generator=generator(5))
    z[:, 3] = z[:, 3].sign()  # variance and mean as they should be
    figures = Normality.of(z, generator(1))
    assert figures.low < figures.mean < figures.high
    vector, value = worst_direction(z, generator(2))
    assert float(vector[3].abs()) > 0.9
    assert float(vector.norm()) == pytest.approx(1, abs=1e-5)
    assert value > 1.5 * figures.worst_of_chance > 10 * figures.mean
    assert float(per_slice(z, vector[:, None])) == pytest.approx(value, rel=1e-5)


def test_health_in_inference_mode_tells_normal_from_collapsed():
    with torch.inference_mode():
        z = torch.randn(512, 16, generator=generator())
        good, bad = Normality.of(z, generator(1)), Normality.of(z * 0, generator(1))
    assert good.low < good.mean < good.high < good.worst
    assert bad.mean == pytest.approx(0.402048 * 512, rel=1e-4)


def cross_shape(count=100, dim=16):
    """A normal cloud but for an X in the first two dimensions, off the centre."""
    x = torch.randn(count, dim, generator=generator(0))
    x[:, 1] = x[:, 0] * torch.where(torch.rand(count, generator=generator(1)) < 0.5, -1.0, 1.0)
    x[:, :2] += 1
    return x


def optimise(x, statistic, slices, steps, rate):
    """Adam on the points themselves; `slices` gives those of a step."""
    x = x.clone().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=rate)
    for step in range(steps):
        loss = sigreg(x, slices(step), statistic)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return x.detach(), float(loss.detach())


@pytest.mark.slow
def test_epps_pulley_dissolves_an_x_that_mean_and_variance_leave():
    start = cross_shape()

    def fourth(x):
        return float(torch.corrcoef((x[:, :2] - x[:, :2].mean(0)).T ** 2)[0, 1])

    assert fourth(start) > 0.95
    slices = lambda step: directions(16, 10, step_generator(0, step))  # noqa: E731
    assert abs(fourth(optimise(start, epps_pulley, slices, 1500, 0.1)[0])) < 0.35
    assert fourth(optimise(start, mean_variance, slices, 1500, 0.1)[0]) > 0.7


@pytest.mark.slow
def test_new_slices_each_step_leave_no_gap_to_unseen_ones():
    low = torch.randn(256, 8, generator=generator(0)) @ torch.randn(8, 128, generator=generator(1)) / 8**0.5
    unseen = directions(128, 2000, generator(9))
    fixed = directions(128, 64, generator(2))
    kept, train = optimise(low, epps_pulley, lambda _: fixed, 300, 0.05)
    drawn, _ = optimise(
        low, epps_pulley, lambda step: directions(128, 16, step_generator(0, step)), 300, 0.05
    )
    assert train < 0.1
    assert float(sigreg(kept, unseen)) > 3 * float(sigreg(drawn, unseen)) > 3


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["samples", "slices", "points"])
def test_time_grows_no_faster_than_the_work(axis):
    from anyjepa.core.epps_pulley import Quadrature

    def seconds(samples=2048, slices=256, points=17):
        x = torch.randn(samples, slices, requires_grad=True)
        times = []
        for _ in range(5):
            start = time.process_time()
            torch.autograd.grad(epps_pulley(x, Quadrature(3.0, points)).mean(), x)
            times.append(time.process_time() - start)
        return min(times)

    once = {"samples": 2048, "slices": 256, "points": 17}
    ratios = [seconds(**{**once, axis: 2 * once[axis]}) / seconds() for _ in range(3)]
    assert min(ratios) < 2.3
