"""A centre-based detector over a map seen from above (CenterPoint, Yin et al. 2021, arXiv:2006.11275).

Every cell says how likely it holds the middle of an object of each class, and where about its own middle that
is, how high, how large and how turned. Shapes: B frames, K classes, rows and columns of cells, O objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core.method import Batch
from anyjepa.domains.lidar_encoder import MapEncoder
from anyjepa.domains.lidar_grid import Grid, cells_with

__all__ = ["CentreDetector", "Goals", "RawMap", "Said", "centre_goals", "detected", "detection_loss"]

NUMBERS = 8  # offsets along x and y, height of the middle, three sizes, sine and cosine
RARE = -2.2  # what cells say before training: one in ten
MOST = 60  # objects of a frame


class Said(NamedTuple):
    """What a detector says.

    Args:
        heat: (B, K, rows, columns) logits of a middle in the cell.
        numbers: (B, 8, rows, columns) of the box whose middle it is.
    """

    heat: Float[Tensor, "frames classes rows columns"]
    numbers: Float[Tensor, "frames numbers rows columns"]


class Goals(NamedTuple):
    """What a detector should say.

    Args:
        heat: (B, K, rows, columns) 1 at middles, falling off around them.
        cells: (B, O) cell of each object.
        numbers: (B, O, 8) of each.
        real: (B, O) whether it is one.
    """

    heat: Float[Tensor, "frames classes rows columns"]
    cells: Int[Tensor, "frames objects"]
    numbers: Float[Tensor, "frames objects numbers"]
    real: Bool[Tensor, "frames objects"]


class RawMap(nn.Module):
    """What a frame says of its cells without learning: how many points, heights, what came back.

    Args:
        grid: of cells.
        scale: what intensities are divided by.
    """

    width = 6

    def __init__(self, grid: Grid, scale: float = 1.0) -> None:
        super().__init__()
        self.grid, self.scale = grid, scale

    def forward(self, batch: Batch) -> Float[Tensor, "frames width rows columns"]:
        """Occupied or not, logarithm of the count, mean, highest and lowest height, mean intensity."""
        points, cells = batch["points"].float(), self.grid.cells
        placed = self.grid.place(points, batch["present"])
        weight = placed.inside.float()
        height = (points[..., 2] - self.grid.low[2]) / (self.grid.high[2] - self.grid.low[2])
        told = torch.stack([weight, height * weight, points[..., 3] / self.scale * weight], dim=2)
        total = told.new_zeros(len(told), cells + 1, 3)
        total = total.scatter_add(1, placed.cell.unsqueeze(2).expand_as(told), told)[:, :cells]
        count = total[..., :1].clamp(min=1)
        ends = [
            sign * weight.new_full((len(told), cells + 1), -1.0).scatter_reduce(
                1, placed.cell, torch.where(placed.inside, sign * height, -1.0), "amax"
            )[:, :cells]
            for sign in (1, -1)
        ]  # fmt: skip
        there = cells_with(placed, cells).float().unsqueeze(2)
        found = torch.cat(
            [there, total[..., :1].log1p(), total[..., 1:] / count, torch.stack(ends, 2) * there], 2
        )
        return found.transpose(1, 2).unflatten(2, self.grid.shape)


class CentreDetector(nn.Module):
    """A convolution over a map, then one for the middles and one for the boxes.

    Args:
        encoder: gives the map; its ``grid`` says where cells lie, its ``width`` how many numbers each has.
        classes: K.
        hidden: width of the convolution.
    """

    sizes: Tensor
    heights: Tensor

    def __init__(self, encoder: MapEncoder | RawMap, classes: int, hidden: int = 64) -> None:
        super().__init__()
        self.encoder, self.grid = encoder, encoder.grid
        self.shared = nn.Sequential(
            nn.Conv2d(encoder.width, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(),
        )  # fmt: skip
        self.heat = nn.Conv2d(hidden, classes, 1)
        self.numbers = nn.Conv2d(hidden, NUMBERS, 1)
        nn.init.constant_(self.heat.bias, RARE)  # type: ignore[arg-type]
        self.register_buffer("sizes", torch.zeros(classes, 3))
        self.register_buffer("heights", torch.zeros(classes))

    def begin(self, boxes: Sequence[np.ndarray], classes: Sequence[np.ndarray]) -> None:
        """Take each class's usual size and height from marked objects: what is learned is the difference."""
        every, number = np.concatenate(boxes), np.concatenate(classes)
        for kind in range(len(self.sizes)):
            own = every[number == kind]
            if len(own):
                self.sizes[kind] = torch.from_numpy(np.log(own[:, 3:6]).mean(axis=0)).to(self.sizes)
                self.heights[kind] = float(own[:, 2].mean())

    def forward(self, batch: Batch) -> Said:
        """What every cell says."""
        found = self.shared(self.encoder(batch))
        return Said(self.heat(found).float(), self.numbers(found).float())


def centre_goals(
    boxes: Sequence[Float[np.ndarray, "_ 7"]],
    classes: Sequence[Int[np.ndarray, " _"]],
    detector: CentreDetector,
) -> Goals:
    """What a detector should say of marked frames; objects out of range or of class -1 are left out."""
    grid, kinds = detector.grid, len(detector.sizes)
    rows, columns = grid.shape
    heat = np.zeros((len(boxes), kinds, rows, columns), np.float32)
    cells, real = np.zeros((len(boxes), MOST), np.int64), np.zeros((len(boxes), MOST), bool)
    numbers = np.zeros((len(boxes), MOST, NUMBERS), np.float32)
    sizes, heights = detector.sizes.cpu().numpy(), detector.heights.cpu().numpy()
    down, across = np.mgrid[:rows, :columns]
    for frame, (marked, kind) in enumerate(zip(boxes, classes, strict=True)):
        inside = ((marked[:, :2] >= grid.low[:2]) & (marked[:, :2] < grid.high[:2])).all(axis=1)
        for place, at in enumerate(np.flatnonzero(inside & (kind >= 0))[:MOST]):
            box, own = marked[at], kind[at]
            x, y = ((box[axis] - grid.low[axis]) / grid.cell[axis] for axis in (0, 1))
            column, row = min(int(x), columns - 1), min(int(y), rows - 1)
            spread = max(0.5, np.sqrt(box[3] * box[4]) / np.sqrt(grid.cell[0] * grid.cell[1]) / 4)
            bump = np.exp(-((down - row) ** 2 + (across - column) ** 2) / (2 * spread**2))
            np.maximum(heat[frame, own], bump, out=heat[frame, own])
            cells[frame, place], real[frame, place] = row * columns + column, True
            numbers[frame, place] = [
                x - column - 0.5, y - row - 0.5, box[2] - heights[own], *(np.log(box[3:6]) - sizes[own]),
                np.sin(box[6]), np.cos(box[6]),
            ]  # fmt: skip
    return Goals(*(torch.from_numpy(part) for part in (heat, cells, numbers, real)))


def detection_loss(said: Said, goals: Goals, weight: float = 2.0) -> Float[Tensor, ""]:
    """The focal loss of the middles, and `weight` times the mean absolute error of the boxes' numbers.

    Cells near a middle are punished less for saying that they are one (CornerNet's focal loss, powers 2, 4).
    """
    chance = said.heat.sigmoid().clamp(1e-4, 1 - 1e-4)
    middle = goals.heat == 1
    hit = torch.where(middle, (1 - chance).square() * chance.log(), torch.zeros_like(chance))
    wrong = (1 - goals.heat).pow(4) * chance.square() * (1 - chance).log()
    missed = torch.where(middle, torch.zeros_like(chance), wrong)
    count = goals.real.sum().clamp(min=1)
    index = goals.cells.unsqueeze(2).expand(-1, -1, NUMBERS)
    numbers = said.numbers.flatten(2).transpose(1, 2).gather(1, index)
    error = ((numbers - goals.numbers).abs().mean(dim=2) * goals.real).sum()
    return (weight * error - hit.sum() - missed.sum()) / count


class Detection(NamedTuple):
    """Boxes (n, 7) float64, scores (n,) from 0 to 1, highest first, and classes (n,)."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


@torch.no_grad()
def detected(said: Said, detector: CentreDetector, most: int = 50, least: float = 0.03) -> list[Detection]:
    """Boxes of each frame, where a cell's score is the highest of the nine around it.

    Args:
        said: by `detector`.
        detector: knows cells and usual sizes.
        most: boxes a frame.
        least: score of a box.
    """
    grid, (rows, columns) = detector.grid, detector.grid.shape
    chance = said.heat.sigmoid()
    peak = functional.max_pool2d(chance, 3, 1, 1) == chance
    scores, order = (chance * peak).flatten(1).topk(min(most, chance[0].numel()), dim=1)
    kind, cell = order // (rows * columns), order % (rows * columns)
    numbers = said.numbers.flatten(2).transpose(1, 2)
    numbers = numbers.gather(1, cell.unsqueeze(2).expand(-1, -1, NUMBERS)).double()
    x = grid.low[0] + (cell % columns + 0.5 + numbers[..., 0]) * grid.cell[0]
    y = grid.low[1] + (cell // columns + 0.5 + numbers[..., 1]) * grid.cell[1]
    z = detector.heights.double()[kind] + numbers[..., 2]
    size = (detector.sizes.double()[kind] + numbers[..., 3:6]).clamp(-4, 4).exp()
    angle = torch.atan2(numbers[..., 6], numbers[..., 7])
    boxes = torch.cat([torch.stack([x, y, z], 2), size, angle.unsqueeze(2)], dim=2)
    found = []
    for box, score, own in zip(boxes.cpu(), scores.cpu(), kind.cpu(), strict=True):
        kept = score >= least
        found.append(Detection(box[kept].numpy(), score[kept].double().numpy(), own[kept].numpy()))
    return found
