"""Values between tokens: scipy's neighbours and the formula by hand."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from anyjepa.core import upsampling
from anyjepa.core.upsampling import interpolated


def cloud(count, columns=3, seed=0):
    return torch.randn(2, count, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_inverse_distances_of_three_neighbours_as_scipy_finds_them():
    places, asked, values = cloud(20), cloud(50, seed=1), cloud(20, 5, seed=2)
    found = interpolated(values, places, asked)
    for b in range(2):
        near, index = cKDTree(places[b].numpy()).query(asked[b].numpy(), k=3)
        weights = (1 / near) / (1 / near).sum(1, keepdims=True)
        expected = np.einsum("nk,nkd->nd", weights, values[b].numpy()[index])
        assert np.allclose(found[b].numpy(), expected)


def test_a_known_answer():
    places = torch.tensor([[[0.0], [1.0], [100.0]]])
    values = torch.tensor([[[0.0], [8.0], [50.0]]])
    found = interpolated(values, places, torch.tensor([[[0.25], [1.0]]]), neighbours=2)
    assert torch.allclose(found[0, :, 0], torch.tensor([2.0, 8.0]), atol=1e-5)


@given(st.integers(1, 6), st.integers(1, 9))
@settings(max_examples=20)
def test_it_lies_within_the_values_and_needs_no_whole_table_at_once(neighbours, tokens):
    places, asked, values = cloud(tokens), cloud(30, seed=1), cloud(tokens, 2, seed=2)
    whole = interpolated(values, places, asked, neighbours)
    assert (whole <= values.amax(1, keepdim=True) + 1e-9).all()
    assert (whole >= values.amin(1, keepdim=True) - 1e-9).all()
    before, upsampling.ROWS_AT_ONCE = upsampling.ROWS_AT_ONCE, 7
    try:
        assert torch.allclose(interpolated(values, places, asked, neighbours), whole)
    finally:
        upsampling.ROWS_AT_ONCE = before
