"""Every statistic against scipy or a closed form; and which of them see what."""

import itertools
import math

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies
from scipy import stats
from scipy.integrate import quad

from anyjepa.core import normality
from anyjepa.core.epps_pulley import epps_pulley_exact
from anyjepa.core.normality import STATISTICS


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=[(20, 0), (61, 1), (200, 2)])
def x(request):
    """Three slices: normal, shifted and wide, heavy tails."""
    count, seed = request.param
    z = drawn(count, 3, seed=seed)
    return torch.stack([z[:, 0], 0.5 + 1.7 * z[:, 1], z[:, 2] ** 3 / 2], dim=1)


def each(x, function):
    return torch.tensor([float(function(column)) for column in x.T.numpy()], dtype=torch.float64)


def test_cramer_von_mises_is_scipys(x):
    wanted = each(x, lambda column: stats.cramervonmises(column, "norm").statistic)
    assert torch.allclose(normality.cramer_von_mises(x), wanted, rtol=1e-10)


def test_watson_is_the_integral(x):
    def integral(column):
        steps = np.concatenate([[0], np.sort(stats.norm.cdf(column)), [1]])
        part = np.arange(len(steps) - 1) / len(column)
        # F_N is constant between samples, so the moments of F_N - u are sums of powers
        first = sum(f * (b - a) - (b**2 - a**2) / 2 for f, a, b in zip(part, steps, steps[1:], strict=False))
        second = sum(
            ((b - f) ** 3 - (a - f) ** 3) / 3 for f, a, b in zip(part, steps, steps[1:], strict=False)
        )
        return len(column) * (second - first**2)

    assert torch.allclose(normality.watson(x), each(x, integral), rtol=1e-8)


def test_anderson_darling_is_the_integral():
    column = np.array([-1.3, -0.2, 0.4, 2.1])

    def integrand(t):
        known = np.mean(column <= t)
        return (known - stats.norm.cdf(t)) ** 2 / stats.norm.cdf(t) / stats.norm.sf(t) * stats.norm.pdf(t)

    ends = [-9.0, *column, 9.0]
    wanted = 4 * sum(quad(integrand, a, b)[0] for a, b in itertools.pairwise(ends))
    assert float(normality.anderson_darling(torch.tensor(column)[:, None])) == pytest.approx(wanted, rel=1e-6)


def test_anderson_darling_has_a_value_and_a_gradient_in_the_tails():
    x = torch.tensor([[-40.0], [0.0], [40.0]], dtype=torch.float64, requires_grad=True)
    value = normality.anderson_darling(x).sum()
    (slope,) = torch.autograd.grad(value, x)
    assert torch.isfinite(value) and torch.isfinite(slope).all()
    assert slope[0] < -1 and slope[2] > 1


def test_jarque_bera_is_scipys(x):
    wanted = each(x, lambda column: stats.jarque_bera(column).statistic)
    assert torch.allclose(normality.jarque_bera(x), wanted, rtol=1e-10)


def test_mean_and_variance_are_those_of_the_formula(x):
    def formula(column):
        count, variance = len(column), np.var(column, ddof=1)
        return count * np.mean(column) ** 2 / variance + (count - 1) * (variance - 1) ** 2 / 2

    assert torch.allclose(normality.mean_variance(x), each(x, formula), rtol=1e-10)


def test_the_extended_jarque_bera_is_chi_square_of_four_degrees():
    values = normality.extended_jarque_bera(drawn(2000, 2000))
    assert float((values > 9.488).double().mean()) == pytest.approx(0.05, abs=0.02)


def test_moments_are_those_of_the_formula():
    x = torch.tensor([[-1.0], [1.0], [2.0]], dtype=torch.float64)
    wanted = 2 / 3 + math.exp(-2) * abs(2 - 1) + math.exp(-3) * 8 / 3 + math.exp(-4) * abs(6 - 3)
    assert float(normality.moments(x)) == pytest.approx(wanted)
    six = wanted + math.exp(-5) * 32 / 3 + math.exp(-6) * abs(66 / 3 - 15)
    assert float(normality.moments(x, 6)) == pytest.approx(six)


@pytest.mark.parametrize("window", [1, 3])
def test_vasicek_is_the_entropy_of_scipy(x, window):
    def wanted(column):
        entropy = stats.differential_entropy(column, window_length=window, method="vasicek")
        return math.exp(stats.norm(scale=column.std()).entropy() - entropy)

    assert torch.allclose(normality.vasicek(x, window), each(x, wanted), rtol=1e-10)


@hypothesis.given(strategies.integers(3, 60), strategies.integers(0, 99), strategies.floats(0.1, 10))
def test_vasicek_is_never_below_one(count, seed, scale):
    assert float(normality.vasicek(scale * drawn(count, 1, seed=seed) ** 3)) >= 1


def test_shapiro_wilk_is_scipys(x):
    wanted = 1 - each(x, lambda column: stats.shapiro(column).statistic)
    assert torch.allclose(normality.shapiro_wilk(x), wanted, atol=2e-6)
    with pytest.raises(ValueError, match="six"):
        normality.shapiro_wilk(drawn(5, 1))


@pytest.mark.parametrize("positions", ["blom", "elfving", "rahman"])
def test_shapiro_francia_is_a_squared_correlation(x, positions):
    index = np.arange(1, len(x) + 1)
    shift = {"blom": 0.375, "elfving": np.pi / 8, "rahman": 0}[positions]
    scores = stats.norm.ppf((index - shift) / (len(x) + 1 - 2 * shift))
    wanted = 1 - each(x, lambda column: np.corrcoef(np.sort(column), scores)[0, 1] ** 2)
    assert torch.allclose(normality.shapiro_francia(x, positions), wanted, rtol=1e-7)


def test_the_likelihood_of_order_statistics_is_that_of_the_beta_distribution(x):
    def wanted(column):
        column, rank = np.sort(column), np.arange(1, len(column) + 1)
        uniform = stats.beta(rank, len(column) + 1 - rank).logpdf(stats.norm.cdf(column))
        return -np.mean(uniform + stats.norm.logpdf(column))

    assert torch.allclose(normality.order_likelihood(x), each(x, wanted), rtol=1e-8)


def test_bhep_is_the_integral_over_directions_and_times():
    x = drawn(6, 2)
    beta = 0.7
    t = torch.linspace(-6, 6, 161, dtype=torch.float64)
    plane = torch.cartesian_prod(t, t)
    density = torch.exp(-(plane**2).sum(1) / 2) / (2 * math.pi) * (t[1] - t[0]) ** 2
    phi = torch.exp(1j * beta * (plane @ x.T)).mean(1)
    error = (phi - torch.exp(-(beta**2) * (plane**2).sum(1) / 2)).abs() ** 2
    assert float(normality.bhep(x, beta)) == pytest.approx(float((error * density).sum()), rel=1e-7)


def test_epps_pulley_is_bhep_of_one_dimension():
    x = drawn(9, 1)
    wanted = 9 * math.sqrt(2 * math.pi) * normality.bhep(x, 1.0)
    assert float(epps_pulley_exact(x)) == pytest.approx(float(wanted), rel=1e-10)


def test_henze_zirkler_has_the_width_of_its_paper():
    x = drawn(30, 4)
    beta = (9 * 30 / 4) ** (1 / 8) / math.sqrt(2)
    assert float(normality.henze_zirkler(x)) == pytest.approx(float(normality.bhep(x, beta)))
    assert normality.henze_zirkler(drawn(2, 3, 30, 4)).shape == (2, 3)


@pytest.mark.parametrize("name", STATISTICS)
def test_samples_are_on_the_last_axis_but_one_and_their_order_does_not_matter(name):
    statistic, x = STATISTICS[name], drawn(3, 2, 12, 4)
    values = statistic(x)
    assert values.shape == (3, 2, 4)
    for place in ((0, 0, 1), (2, 1, 3)):
        one = x[place[0], place[1], :, place[2]].unsqueeze(-1)
        assert float(statistic(one)) == pytest.approx(float(values[place]), rel=1e-9)
    assert torch.allclose(statistic(x.flip(-2)), values, rtol=1e-9)


@pytest.mark.parametrize("name", STATISTICS)
def test_a_uniform_sample_stands_out_and_the_gradient_makes_it_more_normal(name):
    statistic = STATISTICS[name]
    flat = 2 * torch.rand(400, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) ** 3
    flat.requires_grad_()
    before = statistic(flat).mean()
    assert before > statistic(drawn(400, 16)).mean()
    (slope,) = torch.autograd.grad(before, flat)
    after = statistic(flat - 1e-3 * slope / slope.norm()).mean()
    assert after < before


def test_only_some_see_a_sample_whose_moments_are_normal():
    # -sqrt 3, 0 four times, sqrt 3: moments 1 to 5 of a standard normal
    x = torch.tensor([-math.sqrt(3), 0, 0, 0, 0, math.sqrt(3)], dtype=torch.float64).repeat(20)[:, None]
    assert float(normality.jarque_bera(x)) == pytest.approx(0, abs=1e-9)
    assert float(normality.moments(x)) == pytest.approx(0, abs=1e-9)
    assert float(normality.mean_variance(x)) < 0.02
    assert float(STATISTICS["epps-pulley"](x)) == pytest.approx(120 * 0.022350, abs=1e-3)
