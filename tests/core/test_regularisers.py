"""The objectives beside SIGReg, against their formulae in numpy."""

import math

import numpy as np
import pytest
import torch

from anyjepa.core import regularisers


def pair(count=20, dim=5, seed=0):
    return torch.randn(2, count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_vicreg_is_its_formula():
    first, second = pair()
    wanted = 25 * np.mean((first - second).numpy() ** 2)
    for z in (first.numpy(), second.numpy()):
        wanted += 25 / 2 * np.mean(np.maximum(0, 1 - np.sqrt(z.var(axis=0, ddof=1) + 1e-4)))
        matrix = np.cov(z.T)
        wanted += (np.sum(matrix**2) - np.sum(np.diag(matrix) ** 2)) / 5
    assert float(regularisers.vicreg(first, second)) == pytest.approx(wanted)


def test_variance_and_covariance_of_a_collapsed_layer():
    z = torch.ones(8, 3, dtype=torch.float64)
    assert float(regularisers.variance_covariance(z)) == pytest.approx(25 * (1 - 0.01))
    same = pair()[0, :, :1].repeat(1, 3)
    assert float(regularisers.covariance(same)) == pytest.approx(2 * float(same[:, 0].var()) ** 2)


def test_barlow_twins_is_its_formula():
    first, second = pair()
    matrix = np.corrcoef(first.numpy().T, second.numpy().T)[:5, 5:]
    on = np.sum((1 - np.diag(matrix)) ** 2)
    off = np.sum(matrix**2) - np.sum(np.diag(matrix) ** 2)
    assert float(regularisers.barlow_twins(first, second)) == pytest.approx(on + 5e-3 * off)
    assert float(regularisers.barlow_twins(first, first, 0.0)) == pytest.approx(0, abs=1e-12)


def test_whitened_embeddings_have_unit_covariance_and_equal_views_no_distance():
    first, second = pair(60)
    white = regularisers.whiten(first @ torch.randn(5, 5, dtype=torch.float64), eps=0.0)
    assert torch.allclose(torch.cov(white.T), torch.eye(5, dtype=torch.float64), atol=1e-10)
    assert float(regularisers.whitened_mse(first, first)) == pytest.approx(0, abs=1e-10)
    together = regularisers.whiten(torch.cat([first, second]))
    a, b = (part / part.norm(dim=1, keepdim=True) for part in together.chunk(2))
    assert float(regularisers.whitened_mse(first, second)) == pytest.approx(
        float(((a - b) ** 2).sum(1).mean())
    )


def test_the_coding_rate_counts_orthogonal_directions_and_is_made_large():
    # N orthonormal rows in D = N dimensions: I + (1 / eps) I
    assert float(regularisers.coding_rate(torch.eye(6))) == pytest.approx(
        6 / 2 * math.log(1 + 1 / 0.2), rel=1e-5
    )
    point = torch.ones(6, 6)
    assert float(regularisers.coding_rate(point)) == pytest.approx(math.log(1 + 6 / 0.2) / 2, rel=1e-5)
    spread, collapsed = torch.eye(6).repeat(2, 1, 1), point.repeat(2, 1, 1)
    # both agree over views; the sign is such that the spread one is better
    assert regularisers.emp_ssl(spread) < regularisers.emp_ssl(collapsed)
    assert float(regularisers.emp_ssl(collapsed)) == pytest.approx(-200 - math.log(31) / 2, rel=1e-5)


def test_vicreg_is_what_one_slice_of_mean_and_variance_asks_in_the_limit():
    # the paper: SIGReg with (std - 1)^2 over all directions vanishes where VICReg's two terms do
    white = regularisers.whiten(pair(200)[0], eps=0.0)
    assert float(regularisers.covariance(white)) == pytest.approx(0, abs=1e-12)
    assert float(regularisers.variance_hinge(white, eps=0.0)) == pytest.approx(0, abs=1e-9)
    directions = torch.nn.functional.normalize(torch.randn(5, 50, dtype=torch.float64), dim=0)
    assert torch.allclose((white @ directions).std(0), torch.ones(50, dtype=torch.float64))
