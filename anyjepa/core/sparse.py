"""Convolutions over the occupied cells of a space that is mostly empty, in plain PyTorch, on any device.

A cell's key is its number in raster order over samples, z, y and x; keys are kept sorted, so that whether a
neighbour is occupied is a binary search. For each place of a kernel, the rows that have a neighbour there are
gathered, multiplied, and added up: as many products as there are pairs of neighbours, and no dense grid.

The number of occupied cells is the data's, so that shapes change from step to step, and the device is waited
for where cells are counted.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["Cells", "SparseConvolution", "mean_of_cells"]

Three = tuple[int, int, int]


@dataclass(frozen=True)
class Pairs:
    """Which rows a kernel joins: for each of its places, rows of the input and of the output."""

    sources: list[Tensor]
    goals: list[Tensor]


@dataclass(frozen=True)
class Cells:
    """Occupied cells of a batch of grids.

    Args:
        keys: (cells,) int64 sorted, unique.
        shape: cells along z, y and x.
        batch: samples.
        pairs: what was found out about neighbours, kept for the next layer on the same cells.
    """

    keys: Int[Tensor, " cells"]
    shape: Three
    batch: int
    pairs: dict[Three, Pairs] = field(default_factory=dict)

    def places(self) -> Int[Tensor, "cells 4"]:
        """Sample, z, y and x of each cell."""
        depth, height, width = self.shape
        rest = torch.div(self.keys, width, rounding_mode="floor")
        z = torch.div(rest, height, rounding_mode="floor")
        sample = torch.div(z, depth, rounding_mode="floor")
        return torch.stack([sample, z % depth, rest % height, self.keys % width], dim=1)

    def dense(self, values: Float[Tensor, "cells width"]) -> Float[Tensor, "batch width depth height across"]:
        """The grids with `values` in their cells and zeros elsewhere."""
        depth, height, across = self.shape
        whole = values.new_zeros(self.batch * depth * height * across, values.shape[1])
        whole = whole.index_copy(0, self.keys, values)
        return whole.view(self.batch, depth, height, across, -1).permute(0, 4, 1, 2, 3)

    def neighbours(self, kernel: Three) -> Pairs:
        """Rows that a kernel of odd size centred on each cell joins: only occupied ones stay occupied."""
        if kernel not in self.pairs:
            places = self.places()
            found = Pairs([], [])
            for offset in itertools.product(*(range(-(side // 2), side // 2 + 1) for side in kernel)):
                moved = places[:, 1:] + places.new_tensor(offset)
                inside = ((moved >= 0) & (moved < places.new_tensor(self.shape))).all(dim=1)
                wanted = _key(places[:, 0], moved, self.shape)
                row = torch.searchsorted(self.keys, wanted).clamp(max=max(0, len(self.keys) - 1))
                goals = (inside & (self.keys[row] == wanted)).nonzero()[:, 0]
                found.sources.append(row[goals])
                found.goals.append(goals)
            self.pairs[kernel] = found
        return self.pairs[kernel]

    def strided(self, kernel: Three, stride: Three, padding: Three) -> tuple[Cells, Pairs]:
        """The cells that a strided convolution reaches from occupied ones, and the rows that it joins."""
        places = self.places()
        sizes = [
            (length + 2 * pad - side) // step + 1
            for length, pad, side, step in zip(self.shape, padding, kernel, stride, strict=True)
        ]
        shape = (sizes[0], sizes[1], sizes[2])
        step, bound = places.new_tensor(stride), places.new_tensor(shape)
        keys, sources = [], []
        for offset in itertools.product(*map(range, kernel)):
            moved = places[:, 1:] + places.new_tensor(padding) - places.new_tensor(offset)
            goal = torch.div(moved, step, rounding_mode="floor")
            reached = ((moved % step == 0) & (goal >= 0) & (goal < bound)).all(dim=1).nonzero()[:, 0]
            sources.append(reached)
            keys.append(_key(places[reached, 0], goal[reached], shape))
        new = Cells(torch.unique(torch.cat(keys)), shape, self.batch)
        return new, Pairs(sources, [torch.searchsorted(new.keys, part) for part in keys])


def _key(sample: Tensor, place: Tensor, shape: Three) -> Tensor:
    return ((sample * shape[0] + place[:, 0]) * shape[1] + place[:, 1]) * shape[2] + place[:, 2]


def mean_of_cells(
    keys: Int[Tensor, " points"], values: Float[Tensor, "points width"], shape: Three, batch: int
) -> tuple[Cells, Float[Tensor, "cells width"]]:
    """The occupied cells of points, and the mean of the points in each.

    Args:
        keys: the cell of each point.
        values: of the points.
        shape, batch: as of `Cells`.
    """
    found, which, count = torch.unique(keys, return_inverse=True, return_counts=True)
    total = values.new_zeros(len(found), values.shape[1]).index_add(0, which, values)
    return Cells(found, shape, batch), total / count.unsqueeze(1).to(values.dtype)


class SparseConvolution(nn.Module):
    """A three-dimensional convolution over occupied cells, without a bias.

    Where a stride or padding is given it is a strided one, whose output is occupied wherever its kernel meets
    an occupied cell; else a submanifold one (Graham and van der Maaten 2018), whose output is occupied where
    its input is. At occupied cells both give what a dense convolution of the grid with zeros would.

    Args:
        inputs, outputs: widths.
        kernel: sides along z, y and x.
        stride: steps of a strided one; None for a submanifold one.
        padding: of a strided one.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Three = (3, 3, 3),
        stride: Three | None = None,
        padding: Three = (0, 0, 0),
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding
        # laid out as spconv 2 lays it out, so that weights are exchanged as they are
        self.weight = nn.Parameter(torch.empty(outputs, *kernel, inputs))
        fan = inputs * kernel[0] * kernel[1] * kernel[2]
        nn.init.normal_(self.weight, std=(2 / fan) ** 0.5)

    def forward(
        self, cells: Cells, values: Float[Tensor, "cells inputs"]
    ) -> tuple[Cells, Float[Tensor, "new outputs"]]:
        """The cells that are occupied then, and their values."""
        if self.stride is None:
            found, pairs = cells, cells.neighbours(self.kernel)
        else:
            found, pairs = cells.strided(self.kernel, self.stride, self.padding)
        weights = self.weight.flatten(1, 3).permute(1, 2, 0).to(values.dtype)
        result = values.new_zeros(len(found.keys), weights.shape[2])
        for weight, source, goal in zip(weights, pairs.sources, pairs.goals, strict=True):
            result.index_add_(0, goal, (values[source] @ weight).to(result.dtype))
        return found, result
