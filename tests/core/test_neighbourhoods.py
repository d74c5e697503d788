"""CLID and SelfCluster: known answers of the note, parity with scikit-learn, invariances."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier

from anyjepa.core.neighbourhoods import (
    clid,
    coherence,
    dominant,
    intrinsic_dimension,
    k_means,
    learnability,
    self_cluster,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def clusters(count=5, each=60, noise=0.1, dim=8):
    centres = normal(count, dim, seed=1) * 3
    labels = torch.arange(count).repeat(each)
    return centres[labels] + noise * normal(len(labels), dim, seed=2), labels


def test_self_cluster_is_nought_for_random_directions_and_one_for_one_point():
    assert self_cluster(normal(2000, 32)) == pytest.approx(0, abs=1e-3)
    assert self_cluster(torch.ones(50, 8)) == pytest.approx(1)
    assert self_cluster(torch.zeros(50, 8)) == pytest.approx(1)


def test_self_cluster_is_its_equation():
    z = normal(20, 5)
    cosines = np.corrcoef(np.c_[z, -z])  # rows of mean nought: correlations are cosines
    rows = torch.from_numpy(cosines[:, :20])[:20]
    n, d = 20, 10
    expected = (d * rows.square().sum() - n * (d + n - 1)) / ((d - 1) * (n - 1) * n)
    assert self_cluster(torch.cat([z, -z], 1)) == pytest.approx(float(expected))


@pytest.mark.parametrize(("dim", "found"), [(2, 2.17), (5, 4.85), (10, 8.55)])
def test_two_nearest_neighbours_tell_the_dimension_of_a_cube(dim, found):
    cubes = [torch.rand(2000, dim, generator=generator(s), dtype=torch.float64) for s in range(4)]
    # one draw differs from the next by a tenth; the note's figures are of one
    assert np.mean([intrinsic_dimension(cube) for cube in cubes]) == pytest.approx(found, rel=0.1)
    cube = cubes[0]
    flat = torch.cat([cube, torch.zeros(2000, 20, dtype=torch.float64)], 1) @ normal(dim + 20, 30)
    assert intrinsic_dimension(flat) == pytest.approx(intrinsic_dimension(cube), rel=0.15)


def test_samples_that_coincide_say_nothing_of_the_dimension():
    cube = torch.rand(500, 3, generator=generator(), dtype=torch.float64)
    assert intrinsic_dimension(torch.cat([cube, cube])) != intrinsic_dimension(cube)
    assert math.isnan(intrinsic_dimension(torch.ones(10, 3)))


def test_k_means_finds_separated_clusters_as_scikit_learn_does():
    z, labels = clusters()
    ours = k_means(z, 5, generator())
    theirs = KMeans(5, n_init=10, random_state=0).fit_predict(z)
    assert adjusted_rand_score(ours, theirs) == 1
    assert adjusted_rand_score(ours, labels) == 1
    assert len(k_means(torch.ones(6, 2), 4, generator())) == 6


def test_learnability_is_a_neighbour_classifier_fitted_on_what_came_before():
    z, labels = clusters(noise=3.0, each=8)
    right = [
        KNeighborsClassifier(1).fit(z[:row], labels[:row]).predict(z[row : row + 1])[0] == labels[row]
        for row in range(1, len(z))
    ]
    assert learnability(z, labels) == pytest.approx(np.mean(right))


def test_clusters_are_learned_and_noise_is_not():
    z, labels = clusters(noise=0.1)
    assert learnability(z, labels) > 0.97  # the first of each cluster has no neighbour before it
    assert learnability(normal(300, 8), labels) < 0.35
    tight, loose = clid(z, generator(), 5), clid(normal(300, 8), generator(), 5)
    assert tight.learnability > loose.learnability


@given(st.integers(0, 1000), st.floats(0.1, 10))
@settings(max_examples=15)
def test_a_rotation_and_a_scale_change_nothing(seed, scale):
    z, labels = clusters(each=12, noise=1.0)
    turned = z @ torch.linalg.qr(normal(8, 8, seed=seed)).Q * scale
    assert learnability(turned, labels) == learnability(z, labels)
    assert intrinsic_dimension(turned) == pytest.approx(intrinsic_dimension(z), rel=1e-6)
    assert self_cluster(turned) == pytest.approx(self_cluster(z), abs=1e-9)


def test_coherence_is_one_where_samples_share_all_directions_and_greatest_where_one_has_its_own():
    corners = torch.tensor([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)])
    assert coherence(corners) == pytest.approx(1)
    alone = torch.cat([torch.ones(9, 1), torch.zeros(9, 1)], 1)
    alone = torch.cat([alone, torch.tensor([[0.0, 1.0]])])
    assert coherence(alone) == pytest.approx(10 / 2)
    z = normal(30, 4)
    hat = z @ torch.linalg.inv(z.T @ z) @ z.T  # the leverages of least squares
    assert coherence(z) == pytest.approx(float(hat.diagonal().max() * 30 / 4))
    assert coherence(torch.cat([z, torch.zeros(30, 3)], 1)) == pytest.approx(coherence(z))
    assert coherence(torch.zeros(5, 2)) == 1


def test_a_group_that_holds_most_of_the_variance_is_named_and_so_are_single_samples():
    z, groups = normal(400, 8), torch.arange(400) % 10
    assert dominant(z, groups) is None
    loud = torch.where((groups == 7)[:, None], 20 * z, z)
    found = dominant(loud, groups)
    assert found is not None
    assert (found.group, found.samples) == (7, 0.1)
    assert set(found.rows.tolist()) == set((groups == 7).nonzero()[:, 0].tolist())
    square = (loud - loud.median(0).values).square().sum(1)
    assert found.variance == pytest.approx(float(square[groups == 7].sum() / square.sum()))
    z[[3, 50]] *= 100
    found = dominant(z)
    assert found is not None
    assert found.group == -1
    assert set(found.rows.tolist()) <= {3, 50}
    assert dominant(torch.ones(30, 3)) is None


@pytest.mark.parametrize("dim", [1, 2, 20])
def test_normal_embeddings_have_no_dominant_samples(dim):
    assert not [seed for seed in range(30) if dominant(normal(500, dim, seed=seed))]
