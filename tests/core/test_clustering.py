"""Clusters of embeddings: known partitions, balance, and prototypes that wait."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from anyjepa.core.clustering import Prototypes, balanced, perplexity, spherical_kmeans


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def spread(clusters=4, each=25, width=8, seed=0):
    """Points near `clusters` directions square to one another, and which each is near."""
    labels = torch.arange(clusters).repeat_interleave(each)
    noise = 0.1 * torch.randn(len(labels), width, generator=seeded(seed))
    return functional.normalize(torch.eye(width)[labels] + noise, dim=1), labels


@pytest.mark.parametrize("seed", range(3))
def test_clusters_that_lie_apart_are_found_up_to_their_names(seed):
    """Exact check 6. Started in one cluster twice k-means may stay there, so the best of a few counts."""
    points, labels = spread(seed=seed)
    for attempt in range(20):
        centres = spherical_kmeans(points, 4, 10, seeded(attempt))
        told = (points @ centres.T).argmax(1)
        pairs = set(zip(labels.tolist(), told.tolist(), strict=True))
        if len(pairs) == 4:
            break
    else:
        pytest.fail("never found")
    assert torch.allclose(centres.norm(dim=1), torch.ones(4), atol=1e-6)
    again = spherical_kmeans(points, 4, 10, seeded(attempt))
    assert torch.equal(centres, again)


def test_a_step_of_k_means_is_that_of_a_loop():
    points, _ = spread(3, 5)
    start = spherical_kmeans(points, 3, 0, seeded())
    expected = start.clone()
    for cluster in range(3):
        own = [p for p in points if int((start @ p).argmax()) == cluster]
        if own:
            expected[cluster] = functional.normalize(torch.stack(own).mean(0), dim=0)
    assert torch.allclose(spherical_kmeans(points, 3, 1, seeded()), expected, atol=1e-6)


def test_one_cluster_tells_nothing_and_more_than_points_are_refused():
    """Exact check 6: K = 1 has one label and no loss."""
    points, _ = spread()
    with pytest.raises(ValueError, match="cannot make"):
        spherical_kmeans(points, 101, 10, seeded())
    one = Prototypes(8, 1, 3, "k-means")
    loss, used = one.loss(torch.stack([points, points]), 1)
    assert loss.item() == 0 and used.item() == pytest.approx(1)


@given(st.integers(2, 20), st.integers(1, 6), st.integers(0, 99))
def test_shares_are_those_of_points_and_about_as_much_for_every_cluster(points, clusters, seed):
    scores = torch.rand(points, clusters, generator=seeded(seed), dtype=torch.float64)
    shares = balanced(scores, 0.5, 50)
    assert torch.allclose(shares.sum(1), torch.ones(points, dtype=torch.float64))
    assert torch.allclose(
        shares.sum(0), torch.full((clusters,), points / clusters, dtype=torch.float64), rtol=1e-3
    )
    assert 1 - 1e-9 <= perplexity(shares).item() <= clusters + 1e-9


def test_sharp_scores_do_not_overflow():
    shares = balanced(torch.tensor([[1.0, -1.0], [1.0, -1.0]]), 0.001, 3)
    assert torch.isfinite(shares).all()


def test_equal_scores_lose_the_logarithm_of_the_clusters():
    """Exact check 8: ln 4 = 1.3863."""
    module = Prototypes(8, 4, 3, "k-means")
    z = torch.zeros(2, 6, 8)
    loss, _ = module.loss(z, 1)
    assert loss.item() == pytest.approx(math.log(4))


def test_clusters_of_independent_views_cannot_be_told():
    """Exact check 8: chance agreement is a plateau near ln K, far above what alike views reach."""
    torch.manual_seed(0)
    module = Prototypes(16, 4, 2, "sinkhorn")
    z = functional.normalize(torch.randn(2, 4000, 16), dim=2)
    alike = torch.stack([z[0], z[0]])
    assert module.loss(z, 1)[0] > math.log(4) > module.loss(alike, 1)[0]


def test_prototypes_wait_and_are_then_made_of_what_was_kept():
    """Exact check 9."""
    torch.manual_seed(0)
    module = Prototypes(8, 4, 2, "k-means", kept=100, every=3, frozen=2)
    points, labels = spread()
    z = torch.stack([points, points])
    began = module.weights.detach().clone()
    for step in (1, 2):
        loss, _ = module.loss(z.requires_grad_(), step)
        (slope,) = torch.autograd.grad(loss, [module.moved], allow_unused=True)
        assert slope is None
    loss, _ = module.loss(z, 3)
    (slope,) = torch.autograd.grad(loss, [module.moved])
    assert slope.any()
    for step in (1, 2, 3):
        before = module.centres.clone()
        module.remember(z.detach()[:, 25 * step - 25 : 25 * step + 25], step)
        with torch.no_grad():
            module.moved.add_(0.01)
        # fifty rows a step fill the bank at the second
        assert module.regroup(step, seeded()) is (step >= 2)
        assert torch.equal(before, module.centres) is (step == 1)
        assert module.moved.any().item() is (step == 1)
    assert not torch.equal(began, module.weights)
    told = module.assign(z.detach())
    assert told.shape == (2, 2, 100, 4)
    assert torch.equal(told.argmax(3)[:, 0], module.clusters(points))
    assert labels.shape == (100,)


def test_the_oldest_are_forgotten():
    module = Prototypes(2, 2, 1, "k-means", kept=5)
    for step in range(1, 5):
        module.remember(torch.full((2, 2, 2), float(step)), step)
    assert sorted(module.bank[0, :, 0].tolist()) == [2, 3, 3, 4, 4]


def test_each_view_is_told_what_the_other_is():
    torch.manual_seed(0)
    module = Prototypes(8, 4, 1, "sinkhorn")
    points, _ = spread()
    z = torch.stack([points, points.flip(0)])
    told = module.assign(z)
    shares = balanced(points @ module.weights[0].T, module.sharpness, module.iterations)
    assert torch.allclose(told[0, 1], shares, atol=1e-5)
    assert torch.allclose(told[0, 0], shares.flip(0), atol=1e-5)
    assert not told.requires_grad
