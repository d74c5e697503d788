"""Gradients of a brain: known answers of the diffusion map, and what a position says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyjepa.core.errors import UserError
from anyjepa.core.positions import grid
from anyjepa.domains.fmri_gradients import affinity, connectivity, diffusion_map, gradients
from anyjepa.domains.fmri_patches import BoldPatches, GradientPositions
from anyjepa.domains.fmri_supplied import supplied


def ring(size):
    steps = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    return np.exp(-np.minimum(steps, size - steps) / 2.0)


@settings(max_examples=20)
@given(st.integers(5, 60), st.sampled_from((0.0, 0.5, 1.0)))
def test_a_ring_is_a_circle(size, alpha):
    coordinates, values = diffusion_map(ring(size), 2, alpha)
    assert values[0] == pytest.approx(values[1])
    radius = np.linalg.norm(coordinates, axis=1)
    np.testing.assert_allclose(radius, radius[0], rtol=1e-8)
    angle = np.unwrap(np.arctan2(coordinates[:, 1], coordinates[:, 0]))
    np.testing.assert_allclose(np.abs(np.diff(angle)), 2 * np.pi / size, rtol=1e-8)


def test_two_cliques_are_told_apart_by_the_first_component():
    weights = np.kron(np.eye(2), np.ones((4, 4)))
    order = np.random.default_rng(0).permutation(8)
    coordinates, values = diffusion_map(weights[np.ix_(order, order)], 3)
    assert values[0] == pytest.approx(1)
    np.testing.assert_allclose(values[1:], 0, atol=1e-12)
    sides = coordinates[:, 0] > 0
    assert np.array_equal(sides, order < 4) or np.array_equal(sides, order >= 4)
    assert np.isfinite(coordinates).all()


def test_a_constant_affinity_has_no_gradients():
    coordinates, values = diffusion_map(np.ones((7, 7)), 6)
    np.testing.assert_allclose(values, 0, atol=1e-12)
    np.testing.assert_allclose(coordinates, 0, atol=1e-12)


def test_eigenvectors_are_those_of_the_random_walk():
    """An independent way: the eigenvectors of the chances themselves, divided by the first."""
    weights = affinity(connectivity(np.random.default_rng(1).standard_normal((20, 50)).cumsum(1)), 0.5)
    coordinates, values = diffusion_map(weights, 4, 0.5)
    sums = weights.sum(1)
    scaled = weights / np.sqrt(np.outer(sums, sums))
    chances = scaled / scaled.sum(1, keepdims=True)
    found, vectors = np.linalg.eig(chances)
    order = np.argsort(-found.real)
    np.testing.assert_allclose(found.real[order][1:5], values, atol=1e-10)
    expected = (vectors / vectors[:, order[:1]]).real[:, order[1:5]]
    for mine, theirs in zip(coordinates.T, expected.T, strict=True):
        assert abs(np.corrcoef(mine, theirs)[0, 1]) == pytest.approx(1)
        # divided by the trivial one, every component has a mean of 0 under the walk's own weights
        assert abs((mine * scaled.sum(1)).sum()) < 1e-9
    lengths = np.linalg.norm(coordinates, axis=0)
    np.testing.assert_allclose(lengths, values / (1 - values))
    assert (coordinates[np.abs(coordinates).argmax(0), range(4)] > 0).all()


def test_connectivity_and_affinity():
    random = np.random.default_rng(0)
    series = random.standard_normal((30, 80)) + 1e4 * random.standard_normal((30, 1))
    series[3] = series[3, 0]
    found = connectivity(series)
    kept = np.delete(np.arange(30), 3)
    np.testing.assert_allclose(found[np.ix_(kept, kept)], np.corrcoef(series[kept]), atol=1e-9)
    assert found[3, 3] == 1
    assert (found[3, kept] == 0).all()
    near = affinity(found, 0.5)
    strongest = np.where(found >= np.sort(found, axis=1)[:, [15]], found, 0)
    unit = strongest / np.linalg.norm(strongest, axis=1, keepdims=True)
    np.testing.assert_allclose(near, np.clip(unit @ unit.T, 0, None), atol=1e-12)
    assert gradients(found, 40).shape == (30, 29), "no more than there are"


def test_a_table_or_a_matrix_of_connectivity_may_be_supplied(tmp_path):
    table = np.random.default_rng(0).standard_normal((6, 4))
    np.savetxt(tmp_path / "g.csv", table, delimiter=",")
    np.testing.assert_allclose(supplied(str(tmp_path / "g.csv"), 6, components=3), table[:, :3])
    matrix = connectivity(np.random.default_rng(1).standard_normal((6, 50)))
    np.save(tmp_path / "c.npy", matrix)
    np.testing.assert_allclose(supplied(str(tmp_path / "c.npy"), 6, 3), gradients(matrix, 3))
    assert supplied("", 6) is None
    for name, words in [
        ("g.csv", "has 6 rows for 5 regions"),
        ("none.csv", "does not exist"),
        ("a.pt", "no table"),
    ]:
        (tmp_path / "a.pt").write_bytes(b"")
        with pytest.raises(UserError, match=words):
            supplied(str(tmp_path / name), 5)


def test_gradients_of_a_real_cortex_run_from_the_senses_to_the_default_network(data_folder):
    folder = data_folder("brain_maps")
    matrix = np.loadtxt(folder / "fc_schaefer400_main_group.csv", delimiter=",")
    second = np.loadtxt(folder / "fc_schaefer400_second_group.csv", delimiter=",")
    own, other = gradients(matrix, 10), gradients(second, 10)
    # vertices to parcels, the medial wall left out
    values = np.genfromtxt(folder / "conte69_32k_fc_gradient0.csv")
    parcels = np.loadtxt(folder / "parcellation_schaefer400_conte69.csv").astype(int)
    published = np.array([np.nanmean(values[parcels == number]) for number in range(1, 401)])
    alike = abs(np.corrcoef(own[:, 0], published)[0, 1])
    assert alike > 0.9, "the published first gradient of another group of subjects"
    assert abs(np.corrcoef(own[:, 0], other[:, 0])[0, 1]) > 0.95


TABLE = np.random.default_rng(0).standard_normal((12, 5))


@pytest.mark.parametrize("kind", ["gradient", "shuffled", "learned"])
def test_a_position_is_half_time_and_half_region(kind):
    torch.manual_seed(0)
    positions = GradientPositions(32, TABLE, kind)
    table = positions(grid(12, 10)).unflatten(1, (12, 10))[0]
    time, space = table.split(16, dim=2)
    assert torch.equal(time, time[:1].expand_as(time)), "the same time half for all regions"
    assert torch.equal(space, space[:, :1].expand_as(space)), "the same space half at all times"
    assert space.min() == -1
    assert space.max() == 1
    waves = 10_000.0 ** (-np.arange(8) / 8) * np.arange(10)[:, None]
    np.testing.assert_allclose(time[0].detach(), np.concatenate([np.sin(waves), np.cos(waves)], 1), atol=1e-6)


def test_equal_gradients_are_equal_places_and_only_the_map_learns():
    table = TABLE.copy()
    table[4] = table[7]
    positions = GradientPositions(32, table)
    space = positions.regions()
    assert torch.equal(space[4], space[7])
    assert not torch.equal(space[4], space[5])
    space.square().sum().backward()
    assert positions.space.weight.grad.any()
    assert not positions.gradients.requires_grad
    with pytest.raises(ValueError, match="multiple of 4"):
        GradientPositions(30, TABLE)


def batch(values, recorded=None):
    bold = torch.as_tensor(values, dtype=torch.float32)
    there = torch.ones(bold.shape[:2], dtype=torch.bool) if recorded is None else recorded
    return {"bold": bold, "recorded": there}


def test_a_token_is_16_points_of_one_region():
    patches = BoldPatches(16, 8, [0.0] * 450, [1.0] * 450, "robust")
    x = torch.randn(2, 450, 160)
    tokens = patches(batch(x))
    assert tokens.values.shape == (2, 4500, 8)
    other = x.clone()
    other[:, 7, 32:48] += 1
    changed = (patches(batch(other)).values != tokens.values).any(2)
    assert changed.sum(1).tolist() == [1, 1]
    assert changed[:, 7 * 10 + 2].all()
    assert tokens.coordinates[0, 7 * 10 + 2].tolist() == [7, 2]
    keep = torch.tensor([[72, 3], [4499, 0]])
    kept = patches(batch(x), keep)
    torch.testing.assert_close(kept.values, tokens.take(keep).values)


def test_an_offset_of_a_subject_is_gone_unless_scaling_is_robust():
    random = np.random.default_rng(0)
    x = random.standard_normal((3, 6, 32)) * 40
    offset = np.array([9000.0, 12000.0, -5000.0])[:, None, None] * (1 + random.random((3, 6, 1)))
    for kind, same in (("region", True), ("robust", False), ("matrix", False)):
        patches = BoldPatches(8, 4, [9000.0] * 6, [800.0] * 6, kind)
        one, two = (patches.normalised(batch(values)) for values in (x, x + offset))
        assert torch.allclose(one, two, atol=2e-3) == same, kind
    np.testing.assert_allclose(
        BoldPatches(8, 4, [9000.0] * 6, [800.0] * 6, "robust").normalised(batch(x)),
        (x - 9000) / 800,
        rtol=1e-5,
    )
    matrix = BoldPatches(8, 4, [0.0] * 6, [1.0] * 6, "matrix").normalised(batch(x + 100))
    np.testing.assert_allclose(matrix.mean((1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(matrix.square().mean((1, 2)), 1, rtol=1e-5)


@pytest.mark.parametrize("kind", ["region", "robust", "matrix"])
def test_what_was_not_recorded_is_0_and_what_is_flat_is_no_noise(kind):
    x = np.random.default_rng(0).standard_normal((1, 4, 16)) + 1e4
    x[0, 2] = 9999.7
    recorded = torch.tensor([[True, False, True, True]])
    found = BoldPatches(8, 4, [1e4] * 4, [0.0] * 4, kind).normalised(batch(x, recorded))
    assert torch.isfinite(found).all()
    assert not found[0, 1].any()
    if kind == "region":
        assert not found[0, 2].any()
