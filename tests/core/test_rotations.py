"""Quaternions against matrices and scipy's; relative rotations that add up."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from anyjepa.core.poses import rotation
from anyjepa.core.rotations import between, canonical, from_angles, inverse, matrices, product
from anyjepa.domains.views_rendering import _matrices, quaternions

SEEDS = st.integers(0, 2**32 - 1)


def some(seed, *shape):
    q = np.random.default_rng(seed).normal(size=(*shape, 4))
    return torch.from_numpy(q / np.linalg.norm(q, axis=-1, keepdims=True))


@given(SEEDS)
def test_products_and_matrices_are_scipys(seed):
    first, second = some(seed, 2, 5)
    a, b = Rotation.from_quat(first.numpy()), Rotation.from_quat(second.numpy())
    np.testing.assert_allclose(matrices(product(first, second)), (a * b).as_matrix(), atol=1e-12)
    np.testing.assert_allclose(matrices(between(first, second)), (a.inv() * b).as_matrix(), atol=1e-12)
    np.testing.assert_allclose(
        matrices(product(first, inverse(first))), np.eye(3)[None].repeat(5, 0), atol=1e-12
    )


@given(SEEDS, st.integers(1, 6))
def test_relative_rotations_multiply_to_the_direct_one(seed, steps):
    """Check 6 of the note: path integration, to 1e-6."""
    views = some(seed, steps + 1)
    path = between(views[:-1], views[1:])
    together = path[0]
    for step in path[1:]:
        together = product(together, step)
    torch.testing.assert_close(canonical(together), between(views[0], views[-1]), atol=1e-6, rtol=0)


@given(SEEDS)
def test_a_rotation_and_its_negative_are_one(seed):
    q = some(seed, 7)
    assert (canonical(q)[:, 3] >= 0).all()
    torch.testing.assert_close(canonical(-q), canonical(q))
    torch.testing.assert_close(between(-q[:3], q[3:6]), between(q[:3], q[3:6]))


@given(SEEDS)
def test_angles_turn_about_fixed_axes(seed):
    angles = np.random.default_rng(seed).uniform(-3, 3, (4, 3))
    expected = Rotation.from_euler("xyz", angles).as_matrix()
    np.testing.assert_allclose(matrices(from_angles(torch.from_numpy(angles))), expected, atol=1e-12)
    np.testing.assert_allclose(rotation(torch.from_numpy(angles)), expected, atol=1e-12)
    np.testing.assert_allclose(_matrices(quaternions(angles)), expected, atol=1e-12)
    assert (quaternions(angles)[:, 3] >= 0).all()
