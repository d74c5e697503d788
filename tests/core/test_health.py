"""Label-free measures: the known answers of the RankMe note, and invariances."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, spatial, stats
from sklearn.preprocessing import normalize

from anyjepa.core import health
from anyjepa.core.errors import UserError
from anyjepa.core.health import (
    Gram,
    Shape,
    alignment,
    alpha_req,
    collapse,
    effective_rank,
    lidar,
    participation_ratio,
    rankme,
    stable_rank,
    uniformity,
)


def with_spectrum(values, rows=None):
    """A matrix with these singular values and random singular vectors."""
    torch.manual_seed(0)
    values = torch.as_tensor(values, dtype=torch.float64)
    rows = rows or 2 * len(values)
    left = torch.linalg.qr(torch.randn(rows, len(values), dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64)).Q
    return left * values @ right.T


@pytest.mark.parametrize(("count", "expected"), [(64, 64.0013), (512, 512.1373), (2048, 2050.780)])
def test_equal_singular_values(count, expected):
    assert effective_rank(torch.ones(count)) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(("count", "expected"), [(64, 1.000101), (512, 1.000824), (2048, 1.003305)])
def test_one_singular_value(count, expected):
    spectrum = torch.zeros(count)
    spectrum[0] = 5.0
    assert effective_rank(spectrum) == pytest.approx(expected, abs=1e-5)


def test_two_values_and_geometric_spectra():
    assert effective_rank(torch.tensor([3.0, 1.0]), eps=0.0) == pytest.approx(1.754765, abs=1e-6)
    powers = torch.arange(1, 60, dtype=torch.float64)
    assert effective_rank(2.0**-powers, eps=1e-300) == pytest.approx(4.0, abs=1e-6)
    assert effective_rank(4.0**-powers, eps=1e-300) == pytest.approx(2.116535, abs=1e-6)


@pytest.mark.parametrize(
    ("alpha", "rank", "eigen", "ratio", "stable"),
    [
        (0.5, 491.86, 409.67, 281.65, 43.82),
        (1, 409.67, 117.27, 28.28, 6.817),
        (2, 117.27, 5.059, 2.494, 1.643),
    ],
)
def test_power_laws(alpha, rank, eigen, ratio, stable):
    values = torch.arange(1, 513, dtype=torch.float64) ** -alpha
    assert effective_rank(values.sqrt()) == pytest.approx(rank, rel=1e-4)
    assert effective_rank(values) == pytest.approx(eigen, rel=1e-4)
    z = with_spectrum(values.sqrt(), 1024)
    assert stable_rank(z) == pytest.approx(stable, rel=1e-3)
    assert (values.sum() ** 2 / (values**2).sum()).item() == pytest.approx(ratio, rel=1e-3)
    # centring 1,024 rows takes a little off a spectrum that was not centred
    assert participation_ratio(z) == pytest.approx(ratio, rel=0.02)
    assert participation_ratio(z) <= rankme(z) + 1e-9


def test_isotropic_gaussian_reads_low_by_the_stated_amount():
    torch.manual_seed(0)
    d = 128
    for factor, share in ((50, 0.9975), (12, 0.989), (5, 0.9724), (1, 0.807)):
        assert rankme(torch.randn(factor * d, d)) / d == pytest.approx(share, abs=6e-3)


def test_a_mean_offset_lowers_the_raw_figure_only():
    torch.manual_seed(0)
    offset = torch.full((64,), 64 / math.sqrt(64))
    z = torch.randn(20_000, 64) + offset
    assert rankme(z) == pytest.approx(15.4, abs=0.5)
    assert rankme(z, centred=True) == pytest.approx(63.8, abs=0.4)


@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3))
@settings(max_examples=20)
def test_rotation_order_and_scale_do_not_matter(seed, scale):
    torch.manual_seed(seed)
    z = torch.randn(60, 8, dtype=torch.float64) * torch.rand(8, dtype=torch.float64)
    turned = z[torch.randperm(60)] @ torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q * scale
    assert rankme(turned) == pytest.approx(rankme(z), rel=1e-6)
    assert stable_rank(turned) == pytest.approx(stable_rank(z), rel=1e-6)
    assert uniformity(turned) == pytest.approx(uniformity(z), rel=1e-6)


def test_streaming_equals_the_singular_value_decomposition():
    torch.manual_seed(0)
    z = torch.randn(300, 20) * torch.logspace(0, -3, 20)
    gram = Gram(20)
    for part in z.split(37):
        gram.add(part)
    expected = torch.linalg.svdvals(z.double())
    assert torch.allclose(gram.singular_values(), expected, rtol=1e-6)
    centred = torch.linalg.svdvals(z.double() - z.double().mean(0))
    assert torch.allclose(gram.singular_values(centred=True), centred, rtol=1e-5)
    assert rankme(gram) == pytest.approx(rankme(z), rel=1e-9)


def test_constant_and_zero_matrices_are_one_point():
    assert rankme(torch.ones(50, 8)) == pytest.approx(1.0, abs=1e-4)
    assert rankme(torch.zeros(50, 8)) == 1.0
    assert stable_rank(torch.zeros(50, 8)) == 1.0
    assert participation_ratio(torch.ones(50, 8)) == 1.0


def test_a_row_that_is_not_finite_is_named():
    z = torch.randn(10, 3)
    z[4, 1] = math.nan
    with pytest.raises(UserError, match="embedding 4 is not finite"):
        rankme(z)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.5])
def test_alpha_of_an_exact_power_law(alpha):
    z = with_spectrum(torch.arange(1, 201, dtype=torch.float64) ** (-alpha / 2), 400)
    z = torch.cat([z, -z])  # so that the mean is nought and centring takes nothing away
    found, fit = alpha_req(z)
    assert found == pytest.approx(alpha, abs=1e-6)
    assert fit == pytest.approx(1.0, abs=1e-9)


def test_uniformity_of_known_distributions():
    torch.manual_seed(0)
    assert uniformity(torch.randn(2000, 64)) == pytest.approx(-3.875, abs=0.01)
    assert uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(-8.0)
    assert uniformity(torch.ones(10, 4)) == pytest.approx(0.0, abs=1e-9)


def test_alignment_of_identical_and_independent_views():
    torch.manual_seed(0)
    z = torch.randn(4000, 64)
    assert alignment(z, z) == 0.0
    assert alignment(z, torch.randn(4000, 64)) == pytest.approx(2.0, abs=0.02)


def views(noise, signal=True):
    torch.manual_seed(0)
    centre = torch.zeros(1000, 1, 64)
    if signal:
        centre[..., :8] = 3 * torch.randn(1000, 1, 8)
    return centre + noise * torch.randn(1000, 10, 64)


def test_lidar_sees_directions_that_are_stable_across_views():
    assert lidar(views(0.01)) == pytest.approx(7.97, abs=0.05)
    noisy = views(1.0)
    assert lidar(noisy) == pytest.approx(11.76, abs=0.5)
    assert rankme(noisy[:, 0]) == pytest.approx(56.8, abs=1.0)
    assert lidar(views(1.0, signal=False)) == pytest.approx(61.8, abs=0.5)


def test_lidar_of_equal_views_is_the_effective_rank_between_samples():
    same = views(0.0)
    between = torch.linalg.svdvals(same[:, 0].double() - same[:, 0].double().mean(0)) ** 2
    assert lidar(same) == pytest.approx(effective_rank(between, 1e-8), rel=1e-6)


def cloud(spread=1.0, directions=32, rows=500):
    torch.manual_seed(0)
    noise = torch.zeros(rows, 32)
    noise[:, :directions] = torch.randn(rows, directions)
    return Gram(32).add(torch.ones(rows, 32) + spread * noise)


def test_collapse_is_told_apart_in_words():
    before = Shape.of(cloud())
    assert before.spread == pytest.approx(1.0, rel=0.05)
    assert before.directions == pytest.approx(32, rel=0.05)
    assert collapse(cloud()) is None
    assert collapse(cloud(), before) is None
    assert "one point" in collapse(cloud(1e-4))
    assert "one direction" in collapse(cloud(directions=1))
    assert "partly collapsed: the embeddings use 6.0 of 32" in collapse(cloud(directions=6), before)
    assert collapse(cloud(1e-4, rows=20)) is None  # too few samples to say
    assert "finite" in collapse(Gram(32).add(torch.full((50, 32), math.inf)))


def test_embeddings_that_always_lay_close_together_have_not_collapsed():
    assert collapse(cloud(0.02), Shape.of(cloud(0.03))) is None
    assert "one point: embeddings differ by 0.02 of their length, 1 before" in collapse(
        cloud(0.02), Shape.of(cloud())
    )


@pytest.mark.parametrize(("alpha", "expected"), [(0.5, 4.757), (1.0, 22.63), (2.0, 512.0)])
def test_the_condition_number_of_power_laws(alpha, expected):
    values = torch.arange(1, 513, dtype=torch.float64) ** -alpha
    z = torch.diag(values.sqrt())
    assert health.condition_number(z) == pytest.approx(expected, rel=1e-3)
    assert health.condition_number(z, rank=1) == pytest.approx(1)
    assert health.condition_number(torch.ones(5, 3)) == float("inf")
    assert health.condition_number(torch.zeros(5, 3)) == float("inf")


def test_nesum_is_the_stable_rank_of_centred_embeddings():
    z = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)).double()
    assert health.nesum(z + 100) == pytest.approx(health.stable_rank(z - z.mean(0)))
    assert health.nesum(torch.ones(5, 3)) == 1


def test_the_mean_cosine_tells_one_direction_from_all():
    z = torch.randn(5000, 6, generator=torch.Generator().manual_seed(0))
    assert health.mean_cosine(health.Gram(6).add(z)) == pytest.approx(0, abs=0.01)
    assert health.mean_cosine(health.Gram(6).add(torch.ones(9, 6))) == pytest.approx(1)


def test_noise_in_views_reads_full_rank_and_yet_tells_no_samples_apart():
    noise = torch.randn(1000, 10, 64, generator=torch.Generator().manual_seed(0)).double()
    assert health.lidar(noise) > 60
    assert health.views_told_apart(noise) == pytest.approx(1, abs=0.05)
    assert health.views_told_apart(noise + 3 * noise[:, :1].roll(1, 0)) > 10


def coloured(rows=400, dim=40, seed=0):
    """Embeddings with a mean and a falling spectrum, as numpy."""
    draw = np.random.default_rng(seed)
    return draw.normal(size=(rows, dim)) @ draw.normal(size=(dim, dim)) / np.arange(1, dim + 1) + 0.3


def test_measures_of_one_matrix_equal_formulas_of_numpy_scipy_and_scikit_learn():
    z = coloured()
    ours = torch.from_numpy(z)
    singular = linalg.svdvals(z)
    assert rankme(ours, eps=0.0) == pytest.approx(math.exp(stats.entropy(singular)), rel=1e-9)
    eigen = np.sort(np.linalg.eigvalsh(np.cov(z.T)))[::-1]
    assert health.eigen_rank(ours, eps=0.0) == pytest.approx(math.exp(stats.entropy(eigen)), rel=1e-9)
    assert participation_ratio(ours) == pytest.approx(np.trace(np.cov(z.T)) ** 2 / (np.cov(z.T) ** 2).sum())
    assert health.nesum(ours) == pytest.approx(eigen.sum() / eigen[0])
    assert health.first_share(ours) == pytest.approx(eigen[0] / eigen.sum())
    assert stable_rank(ours) == pytest.approx((linalg.norm(z) / linalg.norm(z, 2)) ** 2)
    assert health.condition_number(ours) == pytest.approx(np.linalg.cond(z), rel=1e-6)
    pairs = np.exp(-2 * spatial.distance.pdist(normalize(z)) ** 2)
    assert uniformity(ours) == pytest.approx(math.log(pairs.mean()))
    other = coloured(seed=1)
    assert alignment(ours, torch.from_numpy(other)) == pytest.approx(
        (2 - 2 * (normalize(z) * normalize(other)).sum(1)).mean()
    )
    lengths = (z**2).sum(1).mean()
    assert health.mean_cosine(Gram(40).add(ours)) == pytest.approx((z @ z.T).mean() / lengths)


def test_alpha_is_the_slope_that_numpy_fits():
    z = coloured(600, 60)
    eigen = np.sort(np.linalg.eigvalsh(np.cov(z.T)))[::-1][10:100]
    rank = np.arange(11, 11 + len(eigen))
    slope, start = np.polyfit(np.log(rank), np.log(eigen), 1, w=np.sqrt(1 / rank))
    alpha, fit = alpha_req(torch.from_numpy(z))
    assert alpha == pytest.approx(-slope, rel=1e-6)
    left = np.log(eigen) - slope * np.log(rank) - start
    about = np.log(eigen) - np.average(np.log(eigen), weights=1 / rank)
    assert fit == pytest.approx(1 - (left**2 / rank).sum() / (about**2 / rank).sum())


def test_lidar_is_the_entropy_of_a_generalised_eigenvalue_problem():
    views = np.random.default_rng(0).normal(size=(200, 5, 12)) + 2 * coloured(200, 12)[:, None]
    centre = views.mean(1)
    between = np.cov(centre.T)
    within = sum(np.cov(one.T) for one in views) / len(views) + 1e-4 * np.eye(12)
    values = linalg.eigh(between, within, eigvals_only=True)
    assert lidar(torch.from_numpy(views), eps=0.0) == pytest.approx(math.exp(stats.entropy(values)), rel=1e-9)
    assert health.views_told_apart(torch.from_numpy(views)) == pytest.approx(values.sum() / 12 * 5)


def test_lidar_less_the_noise_of_views():
    assert lidar(views(1.0), corrected=True) == pytest.approx(8.37, abs=0.1)
    # of pure noise, what is left are the positive eigenvalues of a difference of two equal matrices
    assert lidar(views(1.0, signal=False), corrected=True) == pytest.approx(22, abs=3)


def test_added_noise_dimensions_raise_rankme_and_not_lidar():
    """Known answer 17 of the note: the report must not call such an encoder better."""
    signal = views(0.1)
    noise = torch.randn(1000, 10, 64, generator=torch.Generator().manual_seed(1))
    padded = torch.cat([signal, 0.5 * noise], 2)
    assert rankme(padded[:, 0]) > rankme(signal[:, 0]) + 20
    assert lidar(padded, corrected=True) == pytest.approx(lidar(signal, corrected=True), rel=0.1)


def test_the_order_of_the_measures_of_rank():
    """Known answer 14: participation ratio <= eigen rank <= RankMe <= number of directions."""
    for seed in range(5):
        z = torch.from_numpy(coloured(seed=seed))
        figures = [
            health.nesum(z), participation_ratio(z), health.eigen_rank(z, 0.0), rankme(z, True, 0.0), 40
        ]  # fmt: skip
        assert figures == sorted(figures)


def test_numerical_rank_counts_directions():
    z = with_spectrum([1.0, 0.5, 0.1, 1e-5, 0.0])
    assert health.numerical_rank(z - z.mean(0)) == 3
    assert health.numerical_rank(torch.ones(9, 4)) == 0
    assert health.first_share(torch.ones(9, 4)) == 1


@given(split=st.integers(1, 199))
@settings(max_examples=15)
def test_sums_merge_in_any_parts(split):
    z = torch.from_numpy(coloured(200, 6))
    merged = Gram(6).add(z[:split]).merge(Gram(6).add(z[split:]))
    assert merged.count == 200
    assert torch.allclose(merged.singular_values(True), Gram(6).add(z).singular_values(True))
    seen = z.view(20, 10, 6)
    part = min(split, 19)
    both = health.Scatters(6).add(seen[:part]).merge(health.Scatters(6).add(seen[part:]))
    assert lidar(both) == pytest.approx(lidar(seen), rel=1e-6)
    assert both.alignment() == pytest.approx(alignment(seen[:, 0], seen[:, 1]))


def test_a_spectrum_is_not_that_of_before_more_was_added():
    gram = Gram(2).add(torch.tensor([[1.0, 0.0]]))
    first = rankme(gram)
    assert rankme(gram.add(torch.tensor([[0.0, 1.0]]))) > first + 0.9
