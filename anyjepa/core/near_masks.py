"""Masks over tokens that lie in space in no order: blocks of the tokens nearest to a few of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from anyjepa.core.chance import uniform, whole_numbers
from anyjepa.core.masking import Masks
from anyjepa.core.points import distances, farthest_points
from anyjepa.core.sequence_masks import host_generator

Centres = Float[Tensor, "batch tokens axes"]


@dataclass(frozen=True)
class NearBlocks:
    """3D-JEPA's masks (section III-B): blocks of near tokens, spread out, and a large block less those.

    The middles of the target blocks are chosen among the tokens by farthest point sampling from a random
    first one, so that they spread over the object; a block is its middle and the tokens nearest to it. The
    context is a random token with the tokens nearest to it, without any token of a target. Shares are drawn
    once a step and places by every sample, so that widths are the same for a whole step.

    The room for a context is what targets without overlap would leave of it, and one block more. Where
    targets overlap by more, which farthest point sampling makes rare, the context is thinned at random to
    that room; where less is left it is padded (`Masks.present`). Where nothing is left, the token farthest
    from the first target's middle is seen all the same (`Masks.relaxed`).

    Args:
        tokens: number of tokens a sample.
        targets: number of target blocks A.
        target_ratio: share of the tokens that a target block has, (low, high).
        context_ratio: share of the tokens that the context has before targets are taken out, (low, high).
        spread: choose the middles by farthest point sampling; else by chance.

    Raises:
        ValueError: a range is empty or not within (0, 1], or there are more targets than tokens.
    """

    tokens: int
    targets: int = 4
    target_ratio: tuple[float, float] = (0.15, 0.2)
    context_ratio: tuple[float, float] = (0.85, 1.0)
    spread: bool = True

    def __post_init__(self) -> None:
        for name, (low, high) in [("target", self.target_ratio), ("context", self.context_ratio)]:
            if not 0 < low <= high <= 1:
                raise ValueError(
                    f"the {name} ratio range ({low}, {high}) must lie in (0, 1] and not be empty"
                )
        if not 1 <= self.targets <= self.tokens:
            raise ValueError(f"{self.targets} targets cannot be chosen among {self.tokens} tokens")
        if self._share(self.target_ratio, 1.0) >= self.tokens:
            raise ValueError(f"a target of all {self.tokens} tokens leaves nothing to see")

    def _share(self, ratio: tuple[float, float], chance: float) -> int:
        low, high = ratio
        return max(1, int(self.tokens * (low + (high - low) * chance)))

    def widths(self, generator: Generator) -> tuple[int, int]:
        """Tokens of a target block, and of the context before targets are taken out of it.

        Drawn on the host from a generator there: the device is not waited for.
        """
        chance = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        return self._share(self.target_ratio, chance[0]), self._share(self.context_ratio, chance[1])

    def room(self, target: int, context: int) -> int:
        """Width of the contexts of a step with blocks of these many tokens."""
        left = context - target * (self.targets - 1)
        return max(1, min(left, self.tokens - target))

    def __call__(self, centres: Centres, generator: Generator, host: Generator | None = None) -> Masks:
        """Masks over tokens that lie at `centres` (B, N, axes), which must be on the generator's device.

        Args:
            centres: places of the tokens.
            generator: of the places of blocks.
            host: of the widths, on the CPU; one seeded like `generator` where None, so that a second call
                has the same widths.
        """
        batch = len(centres)
        target, context = self.widths(host or host_generator(generator))
        first, middle = whole_numbers(self.tokens, (batch, 2), generator).unbind(1)
        apart = distances(centres, centres)
        middles = self._middles(centres, first, generator)
        targets = self._nearest(apart, middles, target)
        free = torch.zeros_like(apart[:, 0], dtype=torch.bool)
        free = free.scatter(1, self._nearest(apart, middle[:, None], context).squeeze(1), True)
        free = free.scatter(1, targets.flatten(1), False)
        relaxed = ~free.any(dim=1)
        remotest = apart.gather(1, middles[:, :1, None].expand(-1, -1, self.tokens)).squeeze(1).argmax(1)
        free = free | (
            relaxed[:, None] & (torch.arange(self.tokens, device=free.device) == remotest[:, None])
        )
        chance = uniform((batch, self.tokens), generator)
        # those in the context come first, in an order of chance
        seen = (chance + (~free).to(chance.dtype)).argsort(dim=1)[:, : self.room(target, context)]
        present = free.gather(1, seen)
        return Masks(torch.where(present, seen, seen[:, :1]), targets, relaxed, present)

    def _middles(self, centres: Centres, first: Tensor, generator: Generator) -> Tensor:
        if self.spread:
            return farthest_points(centres, self.targets, first)
        return uniform((len(centres), self.tokens), generator).argsort(dim=1)[:, : self.targets]

    def _nearest(self, apart: Tensor, middles: Tensor, count: int) -> Tensor:
        """(B, A, count) the tokens nearest to each of the middles (B, A), nearest first."""
        rows = apart.gather(1, middles.unsqueeze(2).expand(-1, -1, self.tokens))
        return rows.argsort(dim=2, stable=True)[:, :, :count]
