"""Sparse convolutions against dense ones at the cells that are occupied."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from anyjepa.core.sparse import Cells, SparseConvolution, mean_of_cells


def occupied(shape=(5, 7, 6), batch=2, share=0.2, width=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    there = torch.rand(batch * shape[0] * shape[1] * shape[2], generator=generator) < share
    there[0] = True
    cells = Cells(there.nonzero()[:, 0], shape, batch)
    return cells, torch.randn(len(cells.keys), width, generator=generator, dtype=torch.float64)


def dense_weight(layer):
    return layer.weight.permute(0, 4, 1, 2, 3)


@settings(max_examples=25)
@given(st.integers(0, 30), st.sampled_from([0.02, 0.3, 0.9]))
def test_a_submanifold_convolution_is_the_dense_one_at_occupied_cells(seed, share):
    cells, values = occupied(share=share, seed=seed)
    layer = SparseConvolution(3, 4).double()
    same, found = layer(cells, values)
    assert same is cells
    whole = functional.conv3d(cells.dense(values), dense_weight(layer), padding=1)
    assert torch.allclose(found, whole.permute(0, 2, 3, 4, 1).flatten(0, 3)[cells.keys])


@settings(max_examples=25)
@given(
    st.integers(0, 20),
    st.sampled_from([
        ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
        ((3, 3, 3), (2, 2, 2), (0, 1, 1)), ((3, 1, 1), (2, 1, 1), (0, 0, 0)),
    ]),
)  # fmt: skip
def test_a_strided_convolution_is_the_dense_one_and_occupied_where_its_kernel_meets_anything(seed, how):
    cells, values = occupied(seed=seed)
    kernel, stride, padding = how
    layer = SparseConvolution(3, 4, kernel, stride, padding).double()
    new, found = layer(cells, values)
    whole = functional.conv3d(cells.dense(values), dense_weight(layer), stride=stride, padding=padding)
    assert whole.shape[2:] == new.shape
    assert torch.allclose(new.dense(found), whole)
    ones = torch.ones(1, 1, *kernel, dtype=torch.float64)
    reached = functional.conv3d(cells.dense(values[:, :1] * 0 + 1), ones, stride=stride, padding=padding) > 0
    assert torch.equal(reached.flatten().nonzero()[:, 0], new.keys)


def test_gradients_are_those_of_the_dense_convolution():
    cells, values = occupied()
    layer = SparseConvolution(3, 4).double()
    values.requires_grad_()
    layer(cells, values)[1].square().sum().backward()
    mine = values.grad.clone(), layer.weight.grad.clone()
    values.grad = layer.weight.grad = None
    whole = functional.conv3d(cells.dense(values), dense_weight(layer), padding=1)
    whole.permute(0, 2, 3, 4, 1).flatten(0, 3)[cells.keys].square().sum().backward()
    assert torch.allclose(mine[0], values.grad) and torch.allclose(mine[1], layer.weight.grad)


def test_cells_are_means_of_their_points_and_know_their_places():
    keys = torch.tensor([7, 3, 7, 63])
    cells, values = mean_of_cells(keys, torch.tensor([[1.0], [5.0], [3.0], [9.0]]), (2, 4, 4), 2)
    assert cells.keys.tolist() == [3, 7, 63] and values[:, 0].tolist() == [5, 2, 9]
    assert cells.places().tolist() == [[0, 0, 0, 3], [0, 0, 1, 3], [1, 1, 3, 3]]


def test_rows_of_the_grid_do_not_wrap_around():
    """The last cell of a row and the first of the next are neighbours in number only."""
    cells = Cells(torch.tensor([5, 6]), (1, 2, 6), 1)
    layer = SparseConvolution(1, 1).double()
    _, found = layer(cells, torch.tensor([[1.0], [10.0]], dtype=torch.float64))
    middle = layer.weight[0, 1, 1, 1, 0]
    assert torch.allclose(found[:, 0], torch.stack([middle, 10 * middle]))


def test_neighbours_are_looked_for_once():
    cells, _ = occupied()
    assert cells.neighbours((3, 3, 3)) is cells.neighbours((3, 3, 3))


@pytest.mark.parametrize("count", [0, 1])
def test_next_to_nothing_is_no_error(count):
    cells = Cells(torch.arange(count), (2, 2, 2), 1)
    _, found = SparseConvolution(2, 3)(cells, torch.ones(count, 2))
    assert found.shape == (count, 3)
