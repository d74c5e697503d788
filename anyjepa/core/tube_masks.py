"""Mask samplers for clips: blocks of a frame hidden in every frame, or in a stretch of them (V-JEPA)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from anyjepa.core.chance import uniform
from anyjepa.core.masking import Masks, smallest
from anyjepa.core.processes import alone

QUANTILE = 0.05  # of samples, whose masks would be narrower than the width that all are thinned to
TRIES = 6  # draws of a sample's blocks, of which the first that is wide enough counts


class TubeBlocks:
    """V-JEPA's multi-block masks: the union of n blocks is predicted from all the rest, or the other way.

    A block covers a share of a frame's area, at an aspect ratio of its own, and the same patches in each of
    its time slices; positions reach every border. Tokens inside any block are the prediction set, all others
    the context (paper, section 3.2; note).

    All samples of a step are made equally wide by keeping a random subset of each set, each as wide as 95 %
    of samples can fill; a sample that cannot draws its blocks anew, up to six times. In the one case of
    millions where none of these is wide enough, its context is filled from its prediction set
    (`Masks.relaxed`). With ``published=True`` the sets are cut to the smallest of the batch instead, first
    tokens first, as the released collator does: the last frames are then hardly ever seen or predicted.
    Widths differ from step to step, and a step waits for the device to learn them.

    Args:
        shape: time slices, rows and columns of the token grid.
        blocks: number of blocks n.
        spatial_scale: share of a frame that a block covers.
        temporal_scale: share of the time slices that a block covers.
        aspect: height over width of a block, (low, high).
        inverted: predict what lies outside the blocks from what lies inside.
        everything: predict all that is not among the context's kept tokens.
        context_slices: the context keeps to the first so many time slices; 0 for all.
        published: cut as the released code does.

    Raises:
        ValueError: a scale is not in (0, 1], the aspect range is empty, or nothing is left to see or predict.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        blocks: int = 8,
        spatial_scale: float = 0.15,
        temporal_scale: float = 1.0,
        aspect: tuple[float, float] = (0.75, 1.5),
        inverted: bool = False,
        everything: bool = False,
        context_slices: int = 0,
        published: bool = False,
    ) -> None:
        if not (0 < spatial_scale <= 1 and 0 < temporal_scale <= 1 and 0 < aspect[0] <= aspect[1]):
            raise ValueError("scales must lie above 0 and up to 1, and the aspect range must not be empty")
        self.shape, self.blocks, self.aspect = shape, blocks, aspect
        self.tokens = shape[0] * shape[1] * shape[2]
        # the margin keeps a product such as 0.15 * 100 from falling one patch short of 15
        self.area = max(1, int(shape[1] * shape[2] * spatial_scale + 1e-6))
        self.slices = max(1, int(shape[0] * temporal_scale + 1e-6))
        self.inverted, self.everything, self.published = inverted, everything, published
        self.context_slices = context_slices or shape[0]
        # as many as tell a quantile, fewer of long clips, whose tables are large
        looked = max(256, min(2048, 2**23 // self.tokens))
        with alone():
            hidden = self.predicted(looked, torch.Generator().manual_seed(0))
        seen = self._visible(hidden).sum(1).double()
        self.context_width = int(seen[seen > 0].quantile(QUANTILE)) if (seen > 0).any() else 0
        if not self.context_width or not hidden.any():
            raise ValueError(
                f"{blocks} blocks of {self.area} patches leave nothing to see or to predict of "
                f"{shape[1]} x {shape[2]}"
            )
        enough = hidden[seen >= self.context_width].sum(1).double()
        self.target_width = max(1, int(enough.quantile(QUANTILE)))
        if everything:
            self.target_width = self.tokens - self.context_width

    def predicted(self, batch: int, generator: Generator) -> Tensor:
        """Which tokens a sample's prediction set holds, (batch, tokens) bool, before thinning."""
        device, (_, rows, columns) = generator.device, self.shape
        draw = uniform((4, batch, self.blocks), generator, axis=1)
        ratio = self.aspect[0] + (self.aspect[1] - self.aspect[0]) * draw[0]
        height = (self.area * ratio).sqrt().round().clamp(1, rows)
        width = (self.area / ratio).sqrt().round().clamp(1, columns)
        sides = []
        for chance, length, size in zip(draw[1:], (self.slices, height, width), self.shape, strict=True):
            first = (chance * (size - length + 1)).floor().unsqueeze(-1)
            place = torch.arange(size, device=device)
            end = first + (length if isinstance(length, int) else length.unsqueeze(-1))
            sides.append(((place >= first) & (place < end)).float())
        # how many blocks hold a token, without a table of (batch, blocks, tokens)
        spatial = sides[1].unsqueeze(-1) * sides[2].unsqueeze(-2)
        inside = (sides[0].mT @ spatial.flatten(2) > 0).flatten(1)
        return ~inside if self.inverted else inside

    def _visible(self, hidden: Tensor) -> Tensor:
        early = torch.arange(self.tokens, device=hidden.device) < self.context_slices * (
            self.shape[1] * self.shape[2]
        )
        return ~hidden & early

    def __call__(self, batch: int, generator: Generator) -> Masks:
        """Masks for `batch` samples: context (batch, context_width), targets (batch, 1, target_width)."""
        candidates = self.predicted(batch * TRIES, generator).unflatten(0, (batch, TRIES))
        seen = self._visible(candidates.flatten(0, 1)).unflatten(0, (batch, TRIES)).sum(2)
        if self.published:
            return self._published(candidates, seen, generator)
        wide = seen >= self.context_width
        if not self.everything:
            wide = wide & (candidates.sum(2) >= self.target_width)
        chosen = wide.int().argmax(1)
        hidden = candidates[torch.arange(batch, device=chosen.device), chosen]
        visible = self._visible(hidden)
        order = uniform((2, batch, self.tokens), generator, axis=1)
        # lowest first: a random order of the visible tokens, then of the rest
        context = smallest(order[0] + (~visible).float(), self.context_width)
        if self.everything:
            hidden = torch.ones_like(hidden).scatter_(1, context, False)
        targets = smallest(order[1] + (~hidden).float(), self.target_width)
        relaxed = ~wide.any(1)
        return Masks(context, targets.unsqueeze(1), relaxed)

    def _published(self, candidates: Tensor, seen: Tensor, generator: Generator) -> Masks:
        chosen = (seen > 0).int().argmax(1)
        hidden = candidates[torch.arange(len(chosen), device=chosen.device), chosen]
        visible = self._visible(hidden)
        context = _first(visible, max(1, int(visible.sum(1).min())))
        if self.everything:
            hidden = torch.ones_like(hidden).scatter_(1, context, False)
        targets = _first(hidden, int(hidden.sum(1).min()))
        return Masks(context, targets.unsqueeze(1), ~visible.any(1))


class RandomTubes:
    """Single patches hidden at random, in all frames alike (V-JEPA's "random-tube" control; VideoMAE).

    Args:
        shape: time slices, rows and columns of the token grid.
        ratio: share of a frame's patches that is hidden.

    Raises:
        ValueError: nothing is left to see or to predict.
    """

    def __init__(self, shape: tuple[int, int, int], ratio: float = 0.9) -> None:
        self.shape, self.patches = shape, shape[1] * shape[2]
        hidden = int(self.patches * ratio + 1e-6)
        if not 0 < hidden < self.patches:
            raise ValueError(f"hiding {ratio:g} of {self.patches} patches leaves nothing to see or predict")
        self.hidden = hidden
        self.target_width = hidden * shape[0]
        self.context_width = (self.patches - hidden) * shape[0]

    def __call__(self, batch: int, generator: Generator) -> Masks:
        """Masks for `batch` samples: context (batch, context_width), targets (batch, 1, target_width)."""
        order = uniform((batch, self.patches), generator).argsort(1)
        slices = torch.arange(self.shape[0], device=order.device).view(1, -1, 1) * self.patches
        targets, context = (
            (part.unsqueeze(1) + slices).flatten(1)
            for part in (order[:, : self.hidden], order[:, self.hidden :])
        )
        return Masks(context, targets.unsqueeze(1), torch.zeros_like(context[:, 0], dtype=torch.bool))


def _first(inside: Tensor, count: int) -> Tensor:
    """Indices of the first `count` tokens of each row of a table of booleans, in order."""
    return inside.int().argsort(dim=1, descending=True, stable=True)[:, :count]
