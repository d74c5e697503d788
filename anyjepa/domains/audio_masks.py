"""Masks over a spectrogram's patches: rectangles, crosses, strips of time or frequency, or single patches.

A grid has `columns` of time and `rows` of frequency; a patch's index is column * rows + row. Sizes are shares
of the grid, so that a block of a long thin grid is as long and as thin, and covers what was asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from anyjepa.core.chance import uniform
from anyjepa.core.masking import Blocks, Masks, smallest
from anyjepa.core.processes import alone

__all__ = ["GEOMETRIES", "AudioMasks", "RandomTokens", "SpectrogramBlocks"]

Geometry = Literal["rect", "cross", "strip", "time", "frequency"]
GEOMETRIES: tuple[Geometry, ...] = ("rect", "cross", "strip", "time", "frequency")
TRIED = 2048  # draws by which a sampler learns how much context it can have
SPARED = 0.05  # share of the draws in which there may be less


@dataclass(frozen=True)
class AudioMasks(Masks):
    """Masks over clips of different lengths.

    Args:
        weights: (batch, M, T) 0 where an entry of a target block repeats another; None where none does.
    """

    weights: Float[Tensor, "batch blocks hidden"] | None = None


class SpectrogramBlocks:
    """Blocks of patches to be predicted, and a context that is a large block without them.

    Geometries of a block, by its share of the grid: ``rect``, a rectangle; ``cross``, a rectangle of which
    the context also loses all patches of the same time, and those of the same frequencies up to the block's
    own length before and after it; ``time``, all frequencies of a stretch of time; ``frequency``, all times
    of a band, one row at least; ``strip``, the two in turn. Every block is thinned at random to the smallest
    that can be drawn, so that all are equally wide, and so is the context.

    Args:
        grid: columns of time and rows of frequency.
        targets: blocks M.
        scale: lowest and highest share of the grid that a block covers.
        aspect: of its share of the frequencies over its share of the time.
        context_scale: share of the grid that the context block covers.
        geometry: of the targets.
        least_context: share of the grid that the context never falls below, if patches of what a cross
            excludes must come back for it.

    Attributes: target_width, context_width: patches of a block, and of the context.

    Raises:
        ValueError: the grid is too small, or shares are none.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        targets: int = 4,
        scale: tuple[float, float] = (0.15, 0.2),
        aspect: tuple[float, float] = (0.75, 1.5),
        context_scale: tuple[float, float] = (0.85, 1.0),
        geometry: Geometry = "rect",
        least_context: float = 0.15,
    ) -> None:
        if min(grid) < 1 or math.prod(grid) < 4:
            raise ValueError(f"a grid of {grid[0]} x {grid[1]} patches is too small to hide blocks of it")
        for low, high in (scale, context_scale):
            if not 0 < low <= high <= 1:
                raise ValueError(f"a share from {low:g} to {high:g} of a spectrogram is none")
        if targets < 1 or not 0 < aspect[0] <= aspect[1]:
            raise ValueError(f"{targets} blocks of an aspect from {aspect[0]:g} to {aspect[1]:g} are none")
        self.grid, self.targets, self.scale, self.aspect = grid, targets, scale, aspect
        self.context_scale, self.geometry, self.least_context = context_scale, geometry, least_context
        self.patches = math.prod(grid)
        with alone():
            generator = Generator().manual_seed(0)
            full = torch.full((TRIED,), grid[0])
            blocks = self.blocks(full, generator)
            area = blocks.height * blocks.width
            self.target_width = int(area.min())
            self.realised = float(area.double().mean() / self.patches)
            free = ~blocks.union(grid)
            inside = free & self._context_block(full, generator).members(grid) & ~self._excluded(blocks)
            usual = int(inside.sum(1).double().quantile(SPARED))
        least = math.ceil(least_context * self.patches - 1e-9)
        self.context_width = max(1, min(max(usual, least), int(free.sum(1).max())))

    def __call__(
        self, batch: int, generator: Generator, columns: Int[Tensor, " batch"] | None = None
    ) -> AudioMasks:
        """Masks for `batch` clips, of which the first `columns` of the grid are their own; all where None."""
        own = torch.full((batch,), self.grid[0], device=generator.device) if columns is None else columns
        blocks = self.blocks(own, generator)
        targets, weights = self._thinned(blocks, generator, columns is not None)
        hidden = blocks.union(self.grid)
        place = torch.arange(self.patches, device=generator.device) // self.grid[1]
        there = place < own[:, None]
        inside = self._context_block(own, generator).members(self.grid)
        # lowest first: a random order among what is free within the context block, then free outside it,
        # then what a cross excludes; what is hidden or not there only pads
        order = uniform((batch, self.patches), generator) + (~inside).float()
        order += 2 * self._excluded(blocks).float()
        order += 4 * (hidden | ~there).float()
        context = smallest(order, self.context_width)
        chosen = order.gather(1, context)
        free = chosen < 4
        # a sample whose blocks hide everything still sees one patch
        none = ~free.any(1)
        best = chosen.argmin(1, keepdim=True)
        number = torch.arange(self.context_width, device=context.device)
        present = free | (none[:, None] & (number == best))
        return AudioMasks(
            torch.where(present, context, context.gather(1, best)), targets, none, present, weights
        )

    def blocks(self, columns: Int[Tensor, " batch"], generator: Generator) -> Blocks:
        """Target blocks (batch, M): `Blocks` of which rows are columns of time."""
        rows, batch = self.grid[1], len(columns)
        draw = uniform((4, batch, self.targets), generator, axis=1)
        own = columns[:, None].to(draw.dtype)
        share = _between(self.scale, draw[0])
        aspect = _between(self.aspect, draw[1])
        tall = (rows * (share * aspect).sqrt()).round().clamp(1, rows)
        number = torch.arange(self.targets, device=draw.device)
        odd = (number % 2 == 1) if self.geometry == "strip" else (number < 0)
        if self.geometry == "frequency":
            odd = number >= 0
        if self.geometry in ("time", "strip", "frequency"):
            tall = torch.where(odd, (rows * share).round().clamp(1, rows), torch.full_like(tall, rows))
        long = torch.minimum((share * own * rows / tall).round().clamp(min=1), own)
        long = torch.where(odd, own.expand_as(long), long)
        top = (draw[2] * (own - long + 1)).floor()
        left = (draw[3] * (rows - tall + 1)).floor()
        return Blocks(*(part.long() for part in (top, left, long, tall)))

    def _context_block(self, columns: Int[Tensor, " batch"], generator: Generator) -> Blocks:
        draw = uniform((3, len(columns)), generator, axis=1)
        side = _between(self.context_scale, draw[0]).sqrt()
        own, rows = columns.to(draw.dtype), self.grid[1]
        long = torch.minimum((own * side).round().clamp(min=1), own)
        tall = (rows * side).round().clamp(1, rows)
        top, left = (draw[1] * (own - long + 1)).floor(), (draw[2] * (rows - tall + 1)).floor()
        return Blocks(*(part.long() for part in (top, left, long, tall)))

    def _excluded(self, blocks: Blocks) -> Bool[Tensor, "batch tokens"]:
        """What the context may not see beside the blocks themselves."""
        if self.geometry != "cross":
            return torch.zeros(len(blocks.top), self.patches, dtype=torch.bool, device=blocks.top.device)
        zero, rows = torch.zeros_like(blocks.left), torch.full_like(blocks.width, self.grid[1])
        moment = Blocks(blocks.top, zero, blocks.height, rows)
        band = Blocks(blocks.top - blocks.height, blocks.left, 3 * blocks.height, blocks.width)
        return moment.union(self.grid) | band.union(self.grid)

    def _thinned(
        self, blocks: Blocks, generator: Generator, shorter: bool
    ) -> tuple[Int[Tensor, "batch blocks hidden"], Tensor | None]:
        members = blocks.members(self.grid)
        order = uniform(members.shape, generator).masked_fill(~members, 2.0)
        if not shorter:
            return smallest(order, self.target_width), None
        # a block of a short clip may have fewer patches: they come again, and do not count
        chosen = order.topk(self.target_width, largest=False).indices
        return _repeated(chosen, members.sum(-1, keepdim=True).clamp(max=self.target_width))


class RandomTokens:
    """Single patches hidden at random: a share of each clip's own is predicted, the rest is seen.

    Args:
        patches: of the grid.
        rows: of frequency.
        hidden: share of a clip's patches.

    Attributes: target_width, context_width: patches hidden and seen.

    Raises:
        ValueError: all or none would be hidden.
    """

    def __init__(self, patches: int, rows: int, hidden: float = 0.5) -> None:
        self.patches, self.rows, self.hidden = patches, rows, hidden
        self.target_width = round(hidden * patches)
        self.context_width = patches - self.target_width
        self.realised = self.target_width / patches
        if not 0 < self.target_width < patches:
            raise ValueError(f"a share of {hidden:g} of {patches} patches leaves none to hide or to see")

    def __call__(
        self, batch: int, generator: Generator, columns: Int[Tensor, " batch"] | None = None
    ) -> AudioMasks:
        """Masks for `batch` clips, of which the first `columns` of the grid are their own; all where None."""
        order = uniform((batch, self.patches), generator)
        relaxed = torch.zeros(batch, dtype=torch.bool, device=generator.device)
        if columns is None:
            places = order.argsort(1)
            targets = places[:, None, : self.target_width]
            return AudioMasks(places[:, self.target_width :], targets, relaxed)
        own = (columns * self.rows)[:, None]
        order = order + (torch.arange(self.patches, device=order.device) >= own).float()
        places = order.argsort(1)
        hidden = (self.hidden * own).round().long().clamp(min=1)
        hidden = torch.minimum(hidden, (own - 1).clamp(min=1))
        seen = (own - hidden).clamp(min=1)
        targets, weights = _repeated(
            places[:, None, : self.target_width], hidden[:, None].clamp(max=self.target_width)
        )
        number = torch.arange(self.context_width, device=order.device)
        # a clip of a single patch sees what it must predict
        at = torch.where(own > 1, hidden + number % seen, number * 0)
        return AudioMasks(places.gather(1, at), targets, (own == 1)[:, 0], number < seen, weights)


def _repeated(chosen: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The first `count` of the last axis over and over, and 1 for their first time, else 0."""
    number = torch.arange(chosen.shape[-1], device=chosen.device).expand_as(chosen)
    return chosen.gather(-1, number % count), (number < count).to(torch.get_default_dtype())


def _between(bounds: tuple[float, float], draw: Tensor) -> Tensor:
    return bounds[0] + (bounds[1] - bounds[0]) * draw
