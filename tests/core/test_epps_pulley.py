"""The note's exact checks of the Epps-Pulley statistic, and our recurrences against the sum written out."""

import math

import hypothesis
import pytest
import torch
from hypothesis import strategies
from scipy.integrate import quad

from anyjepa.core import epps_pulley as module
from anyjepa.core.epps_pulley import (
    LARGEST_DERIVATIVE,
    QUADRATURES,
    Quadrature,
    epps_pulley,
    epps_pulley_exact,
    expected_epps_pulley,
)

GRIDS = [*QUADRATURES.values(), Quadrature(3.0, 2), Quadrature(2.0, 3), Quadrature(4.0, 6)]
ROOT3 = math.sqrt(3)
KNOWN = [
    ([0.0], 0.408923, 0.402048, 0.408921),
    ([1.0], 1.193054, 1.186006, 1.193052),
    ([-1.0, 1.0], 0.109357, 0.102830, 0.109357),
    ([-2.0, 2.0], 1.396838, 1.391301, 1.396837),
    ([-ROOT3, 0.0, 0.0, 0.0, 0.0, ROOT3], 0.028004, 0.022350, 0.028004),
]


def column(values):
    return torch.tensor(values, dtype=torch.float64).unsqueeze(-1)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def written_out(x, limit, points, debiased=False):
    """Trapezoid over [-limit, limit] of complex numbers, as the definition says."""
    t = torch.linspace(-limit, limit, 2 * points - 1, dtype=x.dtype)
    weight = torch.full_like(t, limit / (points - 1))
    weight[[0, -1]] /= 2
    phi, count = torch.exp(1j * x.unsqueeze(-1) * t).mean(-3), x.shape[-2]
    square = phi.abs() ** 2
    if debiased:
        square = (count * square - 1) / (count - 1)
    normal = torch.exp(-(t**2) / 2)
    return count * ((square - 2 * normal * phi.real + normal**2) * normal * weight).sum(-1)


@pytest.mark.parametrize(("points", "exact", "code", "paper"), KNOWN)
def test_known_values_for_each_sample(points, exact, code, paper):
    x, count = column(points), len(points)
    assert float(epps_pulley_exact(x)) / count == pytest.approx(exact, abs=1e-6)
    assert float(epps_pulley(x)) / count == pytest.approx(code, abs=1e-6)
    assert float(epps_pulley(x, QUADRATURES["paper"])) / count == pytest.approx(paper, abs=1e-6)


@pytest.mark.parametrize("quadrature", GRIDS)
@pytest.mark.parametrize("debiased", [False, True])
def test_value_and_gradient_are_those_of_the_sum_written_out(quadrature, debiased):
    x = (2 * normal(3, 40, 5)).requires_grad_()
    ours, theirs = epps_pulley(x, quadrature, debiased), written_out(x, *quadrature, debiased)
    assert torch.allclose(ours, theirs, rtol=1e-11)
    given = normal(3, 5, seed=1)
    assert torch.allclose(
        torch.autograd.grad(ours, x, given)[0], torch.autograd.grad(theirs, x, given)[0], atol=1e-12
    )


@hypothesis.given(strategies.integers(1, 30), strategies.integers(0, 99), strategies.floats(0.1, 3.0))
def test_the_paper_grid_is_the_integral_for_samples_within_two(count, seed, limit):
    x = limit / 3 * 2 * torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)).double()
    x = x - limit / 3
    assert torch.allclose(epps_pulley(x, QUADRATURES["paper"]), epps_pulley_exact(x), rtol=5e-5, atol=1e-5)
    assert torch.all(epps_pulley_exact(x) - epps_pulley(x) <= 0.0075 * count)


def test_the_closed_form_is_the_integral():
    x = normal(7, 1)[:, 0]

    def error(t):
        phi = torch.exp(1j * t * x).mean()
        return float((phi - math.exp(-t * t / 2)).abs() ** 2) * math.exp(-t * t / 2)

    assert float(epps_pulley_exact(x[:, None])) == pytest.approx(7 * quad(error, -12, 12)[0], rel=1e-8)


@pytest.mark.parametrize(("scale", "value"), [(0.5, 0.151685), (2.0, 0.236092)])
def test_population_of_another_scale(scale, value):
    root = math.sqrt(2 * math.pi)
    closed = root * (1 / math.sqrt(2 * scale**2 + 1) - 2 / math.sqrt(scale**2 + 2) + 1 / math.sqrt(3))
    assert closed == pytest.approx(value, abs=1e-6)
    assert _per_sample(scale, 0.0) == pytest.approx(value, abs=2e-3)


def test_population_of_another_mean():
    assert 2 * math.sqrt(2 * math.pi / 3) * (1 - math.exp(-1 / 6)) == pytest.approx(0.444344, abs=1e-6)
    assert _per_sample(1.0, 1.0) == pytest.approx(0.444344, abs=2e-3)


def _per_sample(scale, mean, count=2000):
    """Over quantiles, the most regular sample there is."""
    quantiles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return float(epps_pulley_exact((mean + scale * torch.special.ndtri(quantiles))[:, None])) / count


def test_expectation_does_not_depend_on_the_number_of_samples():
    exact = math.sqrt(2 * math.pi) - math.sqrt(2 * math.pi / 3)
    assert exact == pytest.approx(1.059426, abs=1e-6)
    assert expected_epps_pulley() == pytest.approx(1.052464, abs=1e-6)
    assert expected_epps_pulley(QUADRATURES["paper"]) == pytest.approx(1.059423, abs=1e-6)
    for count in (8, 512):
        values = epps_pulley(normal(count, 4000, seed=count))
        error = float(values.std()) / math.sqrt(4000)
        assert abs(float(values.mean()) - expected_epps_pulley()) < 4 * error
    # of the last, at N = 512
    assert float(values.std()) == pytest.approx(0.97, abs=0.1)
    assert float(values.quantile(0.95)) == pytest.approx(3.0, abs=0.25)


def test_bias_is_what_the_theorem_says():
    # E[EP_N] / N = population + (1/N) integral w (1 - |phi|^2), here for samples of -1 and 1 by chance
    count, draws = 6, 20_000
    generator = torch.Generator().manual_seed(0)
    signs = 2.0 * torch.randint(0, 2, (count, draws), generator=generator).double() - 1
    times = torch.linspace(-3, 3, 33, dtype=torch.float64)
    weight = torch.exp(-(times**2) / 2) * 3 / 16
    weight[[0, -1]] /= 2
    population = float((weight * (times.cos() - torch.exp(-(times**2) / 2)) ** 2).sum())
    bias = float((weight * (1 - times.cos() ** 2)).sum())
    values = epps_pulley(signs) / count
    error = float(values.std()) / math.sqrt(draws)
    assert abs(float(values.mean()) - population - bias / count) < 4 * error
    debiased = epps_pulley(signs, debiased=True) / count
    assert abs(float(debiased.mean()) - population) < 4 * float(debiased.std()) / math.sqrt(draws)


@hypothesis.given(strategies.integers(2, 40), strategies.integers(0, 99), strategies.floats(0.01, 1e3))
def test_the_gradient_is_bounded_however_far_the_outliers(count, seed, scale):
    x = (scale * normal(count, 4, seed=seed)).requires_grad_()
    (slope,) = torch.autograd.grad(epps_pulley(x).sum(), x)
    assert float(slope.abs().max()) <= 7.911 < LARGEST_DERIVATIVE


@hypothesis.given(strategies.integers(2, 20), strategies.integers(0, 99))
def test_order_and_sign_of_all_samples_do_not_matter(count, seed):
    x = normal(count, 3, seed=seed)
    for other in (x.flip(0), -x):
        assert torch.allclose(epps_pulley(x), epps_pulley(other), rtol=1e-10)


@pytest.mark.parametrize("count", [4, 100])
def test_collapse_is_an_unstable_point_without_a_gradient(count):
    x = torch.zeros(count, 1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(epps_pulley(x).sum(), x)
    assert torch.equal(slope, torch.zeros_like(slope))
    moved = torch.zeros(count, 1, dtype=torch.float64)
    moved[0] = 1e-4
    second = 2 * float(epps_pulley(moved) - epps_pulley(torch.zeros_like(moved))) / 1e-8
    assert second == pytest.approx(-3.24 + 5.01 / count, abs=0.15)


def test_half_precision_and_autocast_are_computed_in_single():
    x = normal(64, 8).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        values = epps_pulley(x)
    assert values.dtype == torch.float32
    assert torch.allclose(values.double(), epps_pulley(x.double()), atol=1e-4)


def test_single_precision_is_close_enough():
    x = normal(4096, 32)
    assert float((epps_pulley(x) - epps_pulley(x.float())).abs().max()) < 2e-3
    exact, single = x.clone().requires_grad_(), x.float().requires_grad_()
    slopes = [torch.autograd.grad(epps_pulley(y).mean(), y)[0].double() for y in (exact, single)]
    assert float((slopes[0] - slopes[1]).norm() / slopes[0].norm()) < 1e-4


def test_how_many_rows_are_worked_on_at_once_changes_nothing(monkeypatch):
    x = normal(2, 30, 11).requires_grad_()
    whole = epps_pulley(x).sum()
    (slope,) = torch.autograd.grad(whole, x)
    monkeypatch.setattr(module, "ON_CPU", 70)
    parts = epps_pulley(x).sum()
    assert torch.allclose(parts, whole, rtol=1e-13)
    assert torch.allclose(torch.autograd.grad(parts, x)[0], slope, rtol=1e-10)


def test_what_cannot_be_computed_is_refused():
    with pytest.raises(ValueError, match="two points"):
        epps_pulley(normal(4, 1), Quadrature(3.0, 1))


def one_process(rank, file, parts, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    for number, part in enumerate(parts):
        part = part[rank].requires_grad_()
        loss = epps_pulley(part).mean()
        loss.backward()
        torch.save({"loss": loss.detach(), "gradient": part.grad}, f"{out}/{number}-{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_loss_and_the_averaged_gradient_of_one(tmp_path):
    x = normal(32, 5)
    single = x.clone().requires_grad_()
    loss = epps_pulley(single).mean()
    loss.backward()
    shares = [x.split([share, 32 - share]) for share in (16, 10)]
    torch.multiprocessing.spawn(one_process, (tmp_path / "store", shares, tmp_path), nprocs=2)
    for number in range(len(shares)):
        found = [torch.load(tmp_path / f"{number}-{rank}.pt", weights_only=True) for rank in range(2)]
        assert all(torch.allclose(part["loss"], loss.detach(), rtol=1e-12) for part in found)
        # averaging over two processes halves the gradient of what reaches one process's samples only
        averaged = torch.cat([part["gradient"] for part in found]) / 2
        assert torch.allclose(averaged, single.grad, rtol=1e-10, atol=1e-15)
