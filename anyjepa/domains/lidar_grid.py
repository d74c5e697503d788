"""The grid that a LiDAR frame is cut into: voxels or pillars, and the larger cells seen from above."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["Grid", "Placed", "cells_with"]

Three = tuple[float, float, float]


class Placed(NamedTuple):
    """Where points lie.

    Args:
        voxel: (n, points, 3) int64 along x, y and z.
        cell: (n, points) int64 number of the cell seen from above, row by row; `Grid.cells` where none.
        inside: (n, points) whether a point is real and within the range.
    """

    voxel: Int[Tensor, "n points 3"]
    cell: Int[Tensor, "n points"]
    inside: Bool[Tensor, "n points"]


@dataclass(frozen=True)
class Grid:
    """A range cut into voxels, and into cells of `stride` x `stride` columns of them seen from above.

    Rows of cells run along y, columns along x.

    Args:
        low, high: corners of the range in metres, x, y and z.
        voxel: sides of a voxel.
        stride: voxels along a side of a cell.

    Raises:
        ValueError: the range is no whole number of voxels, or of cells.
    """

    low: Three
    high: Three
    voxel: Three
    stride: int

    def __post_init__(self) -> None:
        for axis, number in zip("xyz", self._exact, strict=True):
            if number < 0.5 or abs(number - round(number)) > 1e-3:
                raise ValueError(f"the range along {axis} is {number:.4g} voxels, which is no whole number")
        for axis, number in zip("xy", self.voxels, strict=False):
            if number % self.stride:
                raise ValueError(f"{number} voxels along {axis} do not divide into cells of {self.stride}")

    @property
    def _exact(self) -> list[float]:
        return [
            (top - bottom) / side if side > 0 else 0.0
            for bottom, top, side in zip(self.low, self.high, self.voxel, strict=True)
        ]

    @property
    def voxels(self) -> tuple[int, int, int]:
        """Voxels along x, y and z."""
        x, y, z = (round(number) for number in self._exact)
        return x, y, z

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return self.voxels[1] // self.stride, self.voxels[0] // self.stride

    @property
    def cells(self) -> int:
        """How many there are."""
        return self.shape[0] * self.shape[1]

    @property
    def cell(self) -> tuple[float, float]:
        """Sides of a cell in metres along x and y."""
        return self.voxel[0] * self.stride, self.voxel[1] * self.stride

    def centres(self) -> Float[Tensor, "cells 2"]:
        """Rows and columns' middles, y and x in metres, row by row."""
        rows = self.low[1] + (torch.arange(self.shape[0]) + 0.5) * self.cell[1]
        columns = self.low[0] + (torch.arange(self.shape[1]) + 0.5) * self.cell[0]
        return torch.cartesian_prod(rows, columns)

    def place(self, points: Float[Tensor, "n points 4"], present: Bool[Tensor, "n points"]) -> Placed:
        """Where points lie."""
        low, side = points.new_tensor(self.low), points.new_tensor(self.voxel)
        bound = torch.tensor(self.voxels, device=points.device)
        voxel = ((points[..., :3] - low) / side).floor()
        inside = present & ((voxel >= 0) & (voxel < bound)).all(dim=2)
        voxel = torch.where(inside.unsqueeze(2), voxel, torch.zeros_like(voxel)).long()
        row, column = (torch.div(voxel[..., axis], self.stride, rounding_mode="floor") for axis in (1, 0))
        cell = torch.where(inside, row * self.shape[1] + column, self.cells)
        return Placed(voxel, cell, inside)


def cells_with(placed: Placed, cells: int) -> Bool[Tensor, "n cells"]:
    """Which cells hold a point."""
    counts = torch.zeros(placed.cell.shape[0], cells + 1, device=placed.cell.device, dtype=torch.int32)
    return counts.scatter_add(1, placed.cell, placed.inside.int())[:, :cells] > 0
