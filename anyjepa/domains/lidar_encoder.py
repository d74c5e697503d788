"""Encoders of LiDAR frames: from points to a map seen from above, by pillars or by sparse voxels."""

from __future__ import annotations

import itertools
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core.errors import UserError
from anyjepa.core.method import Batch
from anyjepa.core.sparse import Cells, SparseConvolution, mean_of_cells
from anyjepa.domains.lidar_grid import Grid, cells_with

__all__ = ["MapEncoder", "PillarEncoder", "VoxelEncoder"]

Map = Float[Tensor, "n width rows columns"]


class MapEncoder(nn.Module):
    """From points to a map of vectors, one a cell; zeros where no point was seen.

    Args:
        grid: of voxels and cells.
        width: of the vectors.
        scale: what intensities are divided by.
    """

    def __init__(self, grid: Grid, width: int, scale: float) -> None:
        super().__init__()
        self.grid, self.width, self.scale = grid, width, scale

    def occupied(self, batch: Batch) -> Bool[Tensor, "n cells"]:
        """Which cells hold a point."""
        return cells_with(self.grid.place(batch["points"], batch["present"]), self.grid.cells)

    def forward(self, batch: Batch, seen: Bool[Tensor, "n cells"] | None = None) -> Map:
        """The map; points of cells that are not `seen` are left out before anything is computed."""
        raise NotImplementedError

    def _visible(self, batch: Batch, seen: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Points in units of their own, voxels, cells, and which count."""
        points = batch["points"]
        placed = self.grid.place(points, batch["present"])
        inside = placed.inside
        if seen is not None:
            shown = functional.pad(seen, (0, 1), value=False).gather(1, placed.cell)
            inside = inside & shown
        scale = points.new_tensor([1.0, 1.0, 1.0, self.scale])
        return points / scale, placed.voxel, placed.cell, inside


class CellNorm(nn.Module):
    """Layer normalisation over the channels of each cell by itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Map) -> Map:
        """The same map with mean 0 and variance 1 in each cell, then scaled and shifted."""
        apart = x - x.mean(dim=1, keepdim=True)
        x = apart * torch.rsqrt(apart.square().mean(dim=1, keepdim=True) + 1e-5)
        return x * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


class PillarEncoder(MapEncoder):
    """Points become pillars, pillars a small network's picture, of which each halving has its own width.

    What is said of a point: its height, what came back, where it lies from its pillar's mean and middle, and
    how many points the pillar has. Nothing says where in the range it is. The largest of each number over a
    pillar's points is the pillar (PointPillars, Lang et al. 2019). After every convolution cells without a
    point are put back to zero, so that what is empty stays empty.

    Args:
        grid: voxels reach over the whole height.
        widths: of pillars, then after each halving.
        depth: convolutions after each halving, the halving one included.
        rectified: end in ReLU.
        scale: what intensities are divided by.
    """

    told = 8

    def __init__(
        self, grid: Grid, widths: tuple[int, ...], depth: int, rectified: bool, scale: float = 1.0
    ) -> None:
        super().__init__(grid, widths[-1], scale)
        self.point = nn.Linear(self.told, widths[0])
        layers = []
        for before, after in itertools.pairwise(widths):
            for number in range(depth):
                layers.append(
                    nn.Conv2d(after if number else before, after, 3, 1 if number else 2, 1, bias=False)
                )
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(CellNorm(layer.out_channels) for layer in layers)
        self.depth, self.rectified = depth, rectified

    def forward(self, batch: Batch, seen: Bool[Tensor, "n cells"] | None = None) -> Map:
        """The map; points of cells that are not `seen` are left out before anything is computed."""
        points, voxel, _, inside = self._visible(batch, seen)
        columns, rows, _ = self.grid.voxels
        pillars = rows * columns
        number = torch.where(inside, voxel[..., 1] * columns + voxel[..., 0], pillars)
        x = self.point(self._said(points, voxel, number, inside, pillars).to(self.point.weight.dtype)).relu()
        x = torch.where(inside.unsqueeze(2), x, torch.zeros_like(x))
        # nothing is below zero, so that zeros stand for pillars without a point
        whole = x.new_zeros(x.shape[0], pillars + 1, x.shape[2])
        whole = whole.scatter_reduce(1, number.unsqueeze(2).expand_as(x), x, "amax")
        there = torch.zeros_like(number, dtype=x.dtype).new_zeros(x.shape[0], pillars + 1)
        there = there.scatter(1, number, 1.0)[:, :pillars].view(-1, 1, rows, columns)
        x = whole[:, :pillars].transpose(1, 2).unflatten(2, (rows, columns))
        for place, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            if place % self.depth == 0:
                there = functional.max_pool2d(there, 2)
            x = norm(layer(x))
            if place < len(self.layers) - 1 or self.rectified:
                x = x.relu()
            x = x * there
        return x

    def _said(
        self, points: Tensor, voxel: Tensor, number: Tensor, inside: Tensor, pillars: int
    ) -> Float[Tensor, "n points told"]:
        """What is said of each point; of what does not count as well, which is cleared afterwards."""
        low, high, side = (
            points.new_tensor(part) for part in (self.grid.low, self.grid.high, self.grid.voxel)
        )
        known = torch.cat([points[..., :3], torch.ones_like(points[..., :1])], dim=2)
        known = known * inside.unsqueeze(2)
        total = known.new_zeros(known.shape[0], pillars + 1, 4)
        total = total.scatter_add(1, number.unsqueeze(2).expand_as(known), known)
        own = total.gather(1, number.unsqueeze(2).expand_as(known))
        count = own[..., 3:].clamp(min=1)
        from_mean = (points[..., :3] - own[..., :3] / count) / side
        middle = low[:2] + (voxel[..., :2] + 0.5) * side[:2]
        from_middle = (points[..., :2] - middle) / side[:2]
        height = (points[..., 2:3] - low[2]) / (high[2] - low[2]) * 2 - 1
        return torch.cat([height, points[..., 3:], from_mean, from_middle, count.log()], dim=2)


class RowNorm(nn.BatchNorm1d):
    """Batch normalisation over occupied cells; of fewer than two by what was counted before."""

    def forward(self, input: Float[Tensor, "cells width"]) -> Float[Tensor, "cells width"]:
        """The same rows, normalised."""
        if self.training and len(input) < 2:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)


class VoxelEncoder(MapEncoder):
    """Twelve sparse convolutions over voxels, as of SECOND's and AD-L-JEPA's encoder (711,872 parameters).

    A voxel is the mean of its points' numbers. Three strided convolutions halve all axes and a fourth the
    height, after which what is left of the height lies side by side in each cell's vector.

    Args:
        grid: with a stride of 8.
        widths: of the five stages.
        rectified: end in ReLU.
        scale: what intensities are divided by.
        backend: ``spconv`` computes by that library; ``auto`` does on a GPU where it is installed.
    """

    def __init__(
        self,
        grid: Grid,
        widths: tuple[int, ...],
        rectified: bool,
        scale: float = 1.0,
        backend: str = "auto",
    ) -> None:
        first, second, third, fourth, last = widths
        plan = [(4, first, False), (first, first, False)]
        for before, after in ((first, second), (second, third), (third, fourth)):
            plan += [(before, after, True), (after, after, False), (after, after, False)]
        high = grid.voxels[2] + 1  # one more than there are, as published
        depth = high
        layers = []
        for number, (before, after, strided) in enumerate(plan):
            # the third halving has no padding along the height
            padding = (0 if number == 8 else 1, 1, 1)
            layers.append(
                SparseConvolution(before, after, stride=(2, 2, 2), padding=padding)
                if strided
                else SparseConvolution(before, after)
            )
            depth = (depth + 2 * padding[0] - 3) // 2 + 1 if strided else depth
        layers.append(SparseConvolution(fourth, last, (3, 1, 1), (2, 1, 1)))
        depth = (depth - 3) // 2 + 1
        super().__init__(grid, max(depth, 0) * last, scale)
        self.depth, self.rectified, self.backend = high, rectified, backend
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(
            RowNorm(layer.weight.shape[0], eps=1e-3, momentum=0.01) for layer in layers
        )

    def forward(self, batch: Batch, seen: Bool[Tensor, "n cells"] | None = None) -> Map:
        """The map; points of cells that are not `seen` are left out before anything is computed."""
        points, voxel, _, inside = self._visible(batch, seen)
        columns, rows, _ = self.grid.voxels
        shape = (self.depth, rows, columns)
        sample = torch.arange(len(points), device=points.device).unsqueeze(1)
        keys = ((sample * self.depth + voxel[..., 2]) * rows + voxel[..., 1]) * columns + voxel[..., 0]
        values = points[inside].to(self.layers[0].weight.dtype)  # type: ignore[union-attr]
        cells, x = mean_of_cells(keys[inside], values, shape, len(points))
        if not len(x):
            # nothing to see, yet gradients must know of every weight
            nothing = sum(parameter.sum() for parameter in self.parameters()) * 0.0
            return nothing + x.new_zeros(len(points), self.width, *self.grid.shape)
        if self.backend == "spconv" or (self.backend == "auto" and points.is_cuda and _has_spconv()):
            found = self._by_spconv(cells, x)
        else:
            for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
                cells, x = layer(cells, x)
                x = self._ended(norm(x), number)
            found = cells.dense(x)
        return found.flatten(1, 2)

    def _ended(self, x: Tensor, number: int) -> Tensor:
        return x.relu() if number < len(self.layers) - 1 or self.rectified else x

    def _by_spconv(self, cells: Cells, values: Tensor) -> Float[Tensor, "n width depth rows columns"]:
        """The same by spconv, whose weights are laid out as ours."""
        library = _spconv()
        x = library.SparseConvTensor(values, cells.places().int(), list(cells.shape), cells.batch)
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            assert isinstance(layer, SparseConvolution)
            outputs, *kernel, inputs = layer.weight.shape
            if layer.stride is None:
                # layers on the same cells share what was found out about neighbours
                same = library.SubMConv3d(
                    inputs, outputs, kernel, bias=False, indice_key=f"{x.spatial_shape}"
                )
            else:
                same = library.SparseConv3d(
                    inputs, outputs, kernel, list(layer.stride), list(layer.padding), bias=False
                )
            del same.weight
            same.weight = layer.weight
            same.train(self.training)
            x = same(x)
            x = x.replace_feature(self._ended(norm(x.features), number))
        return x.dense()


def _has_spconv() -> bool:
    return find_spec("spconv") is not None


def _spconv() -> ModuleType:
    """No extra installs it: its wheels are named after versions of CUDA."""
    try:
        return import_module("spconv.pytorch")
    except (ImportError, OSError, RuntimeError) as problem:
        raise UserError(
            "--backend spconv needs that library: pip install spconv-cu126, or as your CUDA is called "
            f"({type(problem).__name__}: {problem})."
        ) from problem
