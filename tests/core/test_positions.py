"""Positions: known tables, and what holds for any coordinates."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyjepa.core.positions import Learned, Mlp, Rotary, SinCos, grid, rotate


def test_grid_is_in_raster_order():
    assert grid(2, 3)[0].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


def test_sines_come_first_then_cosines_at_falling_frequencies():
    vector = SinCos(8, 2)(torch.tensor([[[3.0, 5.0]]]))[0, 0]
    expected = []
    for place in (3.0, 5.0):
        angles = [place, place / 100.0]
        expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    assert torch.allclose(vector, torch.tensor(expected), atol=1e-6)


def test_published_order_gives_the_first_half_to_the_column():
    table = SinCos(16, 2, order=(1, 0))(grid(4, 4))[0].unflatten(0, (4, 4))
    assert torch.equal(table[0, 2, :8], table[3, 2, :8])
    assert torch.equal(table[2, 0, 8:], table[2, 3, 8:])
    assert not torch.allclose(table[0, 0, :8], table[0, 1, :8])


def test_width_that_does_not_divide_is_zero_at_the_end():
    vector = SinCos(10, 2)(torch.rand(1, 3, 2))
    assert vector.shape == (1, 3, 10)
    assert (vector[..., 8:] == 0).all()


@pytest.mark.parametrize(("width", "axes"), [(2, 2), (5, 3)])
def test_a_width_too_small_for_its_axes_is_refused(width, axes):
    with pytest.raises(ValueError, match="cannot hold"):
        SinCos(width, axes)


@given(axes=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_sincos_dot_products_depend_on_differences_only(axes, seed):
    torch.manual_seed(seed)
    here, there, shift = torch.rand(3, 1, 1, axes) * 10
    table = SinCos(24 * axes, axes)
    near = (table(here) * table(there)).sum()
    moved = (table(here + shift) * table(there + shift)).sum()
    assert torch.allclose(near, moved, atol=1e-3)


def test_learned_positions_look_up_the_raster_index():
    table = Learned((3, 4), 5)
    vectors = table(torch.tensor([[[2.0, 1.0], [0.0, 3.0]]]))
    assert torch.equal(vectors[0, 0], table.table[9])
    assert torch.equal(vectors[0, 1], table.table[3])
    with pytest.raises(IndexError):
        table(torch.tensor([[[3.0, 0.0]]]))


def test_mlp_is_two_linear_layers_with_gelu_between():
    mlp, places = Mlp(3, 8, 16), torch.rand(2, 5, 3)
    first, _, second = mlp.layers
    expected = torch.nn.functional.gelu(places @ first.weight.T + first.bias) @ second.weight.T + second.bias
    assert torch.allclose(mlp(places), expected, atol=1e-6)


@given(axes=st.integers(1, 3), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_rotary_scores_depend_on_differences_only(axes, seed):
    torch.manual_seed(seed)
    rotary = Rotary(12, axes)
    query, key = torch.randn(2, 1, 2, 1, 12)
    here, there, shift = torch.rand(3, 1, 1, axes) * 8

    def score(a, b):
        return (rotate(query, rotary(a)) * rotate(key, rotary(b))).sum(-1)

    assert torch.allclose(score(here, there), score(here + shift, there + shift), atol=1e-4)


def test_rotary_keeps_lengths_and_turns_by_the_coordinate():
    rotary, vector = Rotary(4, 1), torch.tensor([1.0, 0.0, 0.0, 0.0]).view(1, 1, 1, 4)
    turned = rotate(vector, rotary(torch.tensor([[[0.5]]])))
    assert torch.allclose(turned.flatten(), torch.tensor([math.cos(0.5), 0, math.sin(0.5), 0]), atol=1e-6)
    assert torch.allclose(turned.norm(), vector.norm())


def test_a_head_too_narrow_to_turn_is_refused():
    with pytest.raises(ValueError, match="cannot be turned"):
        Rotary(4, 3)
