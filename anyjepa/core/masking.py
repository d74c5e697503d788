"""Mask samplers: which tokens the context encoder sees and which blocks the predictor must hit.

All samplers are called alike, ``sampler(batch, generator) -> Masks``: vectorised over the batch, on the
generator's device, with index tensors of fixed width, so that a training step has static shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Generator, Tensor

from anyjepa.core.chance import uniform
from anyjepa.core.processes import alone


@dataclass(frozen=True)
class Masks:
    """Token indices of one context and M target blocks a sample.

    Args:
        context: (batch, K) int64, unique within a sample.
        targets: (batch, M, T) int64, unique within a block; blocks may overlap one another.
        relaxed: (batch,) True where a sample had too few tokens outside its targets, so that its context
            overlaps them.
        present: (batch, K) False where an entry of the context only pads, repeating another; None where
            none does.
    """

    context: Int[Tensor, "batch seen"]
    targets: Int[Tensor, "batch blocks hidden"]
    relaxed: Bool[Tensor, " batch"]
    present: Bool[Tensor, "batch seen"] | None = None


@runtime_checkable
class MaskSampler(Protocol):
    """Draws masks for a batch from an explicit generator, on the generator's device."""

    def __call__(self, batch: int, generator: Generator) -> Masks:
        """Masks for `batch` samples."""
        ...


@dataclass(frozen=True)
class Blocks:
    """Rectangles of patches: top, left, height and width, each int64 of any one shape."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor

    def members(self, shape: tuple[int, int]) -> Bool[Tensor, "*any tokens"]:
        """Which of the rows x columns patches lie inside, in raster order."""
        in_row, in_column = self._sides(shape)
        return (in_row[..., :, None] & in_column[..., None, :]).flatten(-2)

    def union(self, shape: tuple[int, int]) -> Bool[Tensor, "batch tokens"]:
        """Which patches lie inside any of a sample's blocks, (batch, blocks) each, in raster order."""
        in_row, in_column = self._sides(shape)
        # how many blocks hold a patch is a small matrix product: no (batch, blocks, patches) table is made
        return (in_row.float().mT @ in_column.float() > 0).flatten(-2)

    def _sides(self, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        rows = torch.arange(shape[0], device=self.top.device)
        columns = torch.arange(shape[1], device=self.top.device)
        in_row = (rows >= self.top[..., None]) & (rows < (self.top + self.height)[..., None])
        in_column = (columns >= self.left[..., None]) & (columns < (self.left + self.width)[..., None])
        return in_row, in_column


class MultiBlock:
    """I-JEPA's masks: M rectangles to predict, and one large rectangle minus these to predict them from.

    Scale and aspect ratio are drawn independently, for each block of each sample; positions reach the last
    row and column (paper, section 3 and appendix A). Blocks of different area are made equally wide by
    keeping a random subset of their patches: targets as many as the smallest block can have, the context
    as many as 95 % of samples can fill. A sample that cannot fill its context is given patches from
    outside the context rectangle and, only when every patch outside its targets is used up, from the
    targets (`Masks.relaxed`).

    With ``published=True`` it does what the released collator does instead, to reproduce its results: one
    draw a batch decides both scale and aspect ratio of all targets, another the context's scale; blocks
    never start so that they touch the last row or column; all contexts are cut to the smallest of the
    batch, keeping the first in raster order; where 10 patches or fewer would remain, the last targets are
    no longer kept out of the context (the released code first tries 20 other positions of the context,
    which is nearly the whole grid; we do not). Widths then differ from step to step, and a step waits for
    the device to learn them.

    Args:
        shape: rows and columns of the patch grid.
        targets: number of target blocks M.
        target_scale: area of a target block as a share of the grid, (low, high).
        target_aspect: height over width of a target block, (low, high).
        context_scale: area of the context block as a share of the grid, (low, high).
        context_width: context tokens kept a sample; the 5 % quantile of what the geometry gives where None.
        published: draw as the released code does.

    Raises:
        ValueError: a scale or aspect range is empty or not positive, or the grid has fewer than four patches.
    """

    least_context = 10

    def __init__(
        self,
        shape: tuple[int, int],
        targets: int = 4,
        target_scale: tuple[float, float] = (0.15, 0.2),
        target_aspect: tuple[float, float] = (0.75, 1.5),
        context_scale: tuple[float, float] = (0.85, 1.0),
        context_width: int | None = None,
        published: bool = False,
    ) -> None:
        for name, (low, high) in [
            ("target scale", target_scale),
            ("target aspect", target_aspect),
            ("context scale", context_scale),
        ]:
            if not 0 < low <= high:
                raise ValueError(f"the {name} range ({low}, {high}) must be positive and not empty")
        if shape[0] * shape[1] < 4:
            raise ValueError(f"a grid of {shape[0]} x {shape[1]} patches is too small to hide blocks of it")
        self.shape, self.targets = shape, targets
        self.target_scale, self.target_aspect, self.context_scale = target_scale, target_aspect, context_scale
        self.published = published
        self.patches = shape[0] * shape[1]
        areas = [height * width for height, width in self.reachable_sizes()]
        self.target_width, self._largest = min(areas), max(areas)
        self.context_width = context_width or self._fillable_context()

    def reachable_sizes(self) -> set[tuple[int, int]]:
        """Every (height, width) a target block can have."""
        low, high = (int(self.patches * scale + 1e-6) for scale in self.target_scale)
        areas = torch.arange(low, high + 1, dtype=torch.float64)
        aspects = torch.linspace(*self.target_aspect, 2001, dtype=torch.float64)
        sizes = torch.stack(self._sides_of(areas[:, None], aspects[None, :])).flatten(1)
        return set(map(tuple, sizes.unique(dim=1).T.tolist()))

    def _size(self, scale: Tensor, aspect: Tensor) -> tuple[Tensor, Tensor]:
        # the margin keeps a product such as 0.15 * 100 from falling one patch short of 15
        return self._sides_of((self.patches * scale + 1e-6).floor(), aspect)

    def _sides_of(self, area: Tensor, aspect: Tensor) -> tuple[Tensor, Tensor]:
        height = (area * aspect).sqrt().round().clamp(1, self.shape[0])
        width = (area / aspect).sqrt().round().clamp(1, self.shape[1])
        return height.long(), width.long()

    def _place(self, height: Tensor, width: Tensor, generator: Generator) -> Blocks:
        draw = uniform((2, *height.shape), generator, axis=1)
        top = (draw[0] * (self.shape[0] - height + 1)).long()
        left = (draw[1] * (self.shape[1] - width + 1)).long()
        return Blocks(top, left, height, width)

    def target_blocks(self, batch: int, generator: Generator) -> Blocks:
        """Target rectangles, (batch, M) each."""
        draw = uniform((2, batch, self.targets), generator, axis=1)
        return self._place(
            *self._size(_between(self.target_scale, draw[0]), _between(self.target_aspect, draw[1])),
            generator,
        )

    def context_block(self, batch: int, generator: Generator) -> Blocks:
        """Context rectangles of unit aspect ratio, (batch,) each."""
        draw = uniform((batch,), generator)
        scale = _between(self.context_scale, draw)
        return self._place(*self._size(scale, torch.ones_like(scale)), generator)

    def _fillable_context(self) -> int:
        generator = torch.Generator().manual_seed(0)
        with alone():
            hidden = self.target_blocks(2048, generator).union(self.shape)
            free = self.context_block(2048, generator).members(self.shape) & ~hidden
        return max(1, int(free.sum(1).double().quantile(0.05)))

    def __call__(self, batch: int, generator: Generator) -> Masks:
        """Masks for `batch` samples: context (batch, context_width), targets (batch, M, target_width)."""
        if self.published:
            return self._published(batch, generator)
        blocks = self.target_blocks(batch, generator)
        targets = self._thin_targets(blocks, generator)
        hidden = blocks.union(self.shape)
        inside = self.context_block(batch, generator).members(self.shape)
        # lowest first: a random order among the free patches, then those outside the rectangle, then targets
        order = uniform((batch, self.patches), generator)
        order += (~inside).float() + 2 * hidden.float()
        context = smallest(order, self.context_width)
        relaxed = (self.patches - hidden.sum(1)) < self.context_width
        return Masks(context, targets, relaxed)

    def _thin_targets(self, blocks: Blocks, generator: Generator) -> Tensor:
        area = (blocks.height * blocks.width).unsqueeze(-1)
        cells = torch.arange(self._largest, device=generator.device)
        order = uniform((*blocks.top.shape, self._largest), generator)
        order.masked_fill_(cells >= area, 2.0)
        cell = smallest(order, self.target_width)
        return self._patch(blocks, cell)

    def _patch(self, blocks: Blocks, cell: Tensor) -> Tensor:
        """Index in the grid of the cell-th patch of each block."""
        width = blocks.width.unsqueeze(-1)
        row = blocks.top.unsqueeze(-1) + cell // width
        return row * self.shape[1] + blocks.left.unsqueeze(-1) + cell % width

    def _published(self, batch: int, generator: Generator) -> Masks:
        device = generator.device
        draw = torch.rand(2, generator=generator, device=device).double()
        height, width = self._shrink(*self._size(*(_between(r, draw[0]) for r in self._target_ranges)))
        scale = _between(self.context_scale, draw[1])
        context_height, context_width = self._shrink(*self._size(scale, torch.ones_like(scale)))
        blocks = self._place_short(
            height.expand(batch, self.targets), width.expand(batch, self.targets), generator
        )
        context = self._place_short(context_height.expand(batch), context_width.expand(batch), generator)
        free, relaxed = self._drop_constraints(context.members(self.shape), blocks.members(self.shape))
        kept = int(free.sum(1).min())
        first = free.int().argsort(dim=1, descending=True, stable=True)[:, :kept]
        cells = torch.arange(int(height * width), device=device).expand(batch, self.targets, -1)
        return Masks(first, self._patch(blocks, cells), relaxed)

    def _drop_constraints(self, context: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Context minus all targets, or minus all but the last ones where too little would remain."""
        hidden = targets.cumsum(1) > 0
        choices = torch.cat([context[:, None], context[:, None] & ~hidden], dim=1).flip(1)
        enough = choices.sum(-1) > self.least_context
        enough[:, -1] = True
        chosen = enough.int().argmax(1)
        return choices[torch.arange(len(choices), device=choices.device), chosen], chosen > 0

    @property
    def _target_ranges(self) -> tuple[tuple[float, float], tuple[float, float]]:
        return self.target_scale, self.target_aspect

    def _shrink(self, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        return height.clamp(max=self.shape[0] - 1), width.clamp(max=self.shape[1] - 1)

    def _place_short(self, height: Tensor, width: Tensor, generator: Generator) -> Blocks:
        # the released code's upper bound is exclusive where it should be inclusive
        draw = uniform((2, *height.shape), generator, axis=1)
        top, left = (draw[0] * (self.shape[0] - height)).long(), (draw[1] * (self.shape[1] - width)).long()
        return Blocks(top, left, height, width)


class RandomPatches:
    """Single patches hidden at random, no blocks (the paper's "random" control, table 6).

    Args:
        patches: tokens a sample has.
        targets: number of target sets M, disjoint.
        target_width: patches in each.
        context_width: patches the context encoder sees, disjoint from all targets.

    Raises:
        ValueError: the sets do not fit into the sample.
    """

    def __init__(self, patches: int, targets: int, target_width: int, context_width: int) -> None:
        if targets * target_width + context_width > patches:
            raise ValueError(
                f"{targets} x {target_width} targets and {context_width} context tokens do not fit into "
                f"{patches} patches"
            )
        self.patches, self.targets = patches, targets
        self.target_width, self.context_width = target_width, context_width

    def __call__(self, batch: int, generator: Generator) -> Masks:
        """Masks for `batch` samples: context (batch, context_width), targets (batch, M, target_width)."""
        hidden = self.targets * self.target_width
        order = uniform((batch, self.patches), generator)
        # in random order, for the first of them become targets
        chosen = order.topk(hidden + self.context_width, largest=False).indices
        targets = chosen[:, :hidden].unflatten(1, (self.targets, self.target_width))
        return Masks(chosen[:, hidden:], targets, torch.zeros_like(chosen[:, 0], dtype=torch.bool))


def _between(bounds: tuple[float, float], draw: Tensor) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * draw


def smallest(order: Tensor, count: int) -> Int[Tensor, "*any count"]:
    """Indices of the `count` smallest along the last axis, in no order."""
    if order.device.type != "cpu":
        return order.topk(count, largest=False, sorted=False).indices
    # numpy's partition takes a third of the time of torch's topk on a CPU
    return torch.from_numpy(np.argpartition(order.numpy(), count - 1, axis=-1)[..., :count].copy())
