"""Which columns of a row are seen and which are hidden."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Generator, Tensor

from anyjepa.core.chance import uniform
from anyjepa.core.masking import Masks

__all__ = ["ColumnSubsets"]

SIZES = 0x2545F491  # keeps the stream of sizes apart from that of the sets


class ColumnSubsets:
    """T-JEPA's masks: a random context of the columns, and M random target sets of those that remain.

    The two sizes are drawn once a step, so that tensors are full: rounded as published, which makes the
    extreme sizes half as likely. The sets are drawn for each row. Target sets may overlap one another, never
    the context. With [REG] tokens in front, token r + d is column d.

    Args:
        columns: D.
        context_share: of the columns, (low, high).
        target_share: of the columns, (low, high).
        sets: M.
        registers: number of [REG] tokens.
        maskable: hide [REG] tokens as if they were columns; otherwise they are in every context.

    Raises:
        ValueError: a context or a target would be empty, or the two do not fit into the columns.
    """

    def __init__(
        self,
        columns: int,
        context_share: tuple[float, float],
        target_share: tuple[float, float],
        sets: int = 4,
        registers: int = 1,
        maskable: bool = False,
    ) -> None:
        self.context_sizes = tuple(round(columns * share) for share in context_share)
        self.target_sizes = tuple(round(columns * share) for share in target_share)
        if min(self.context_sizes) < 1 or min(self.target_sizes) < 1:
            raise ValueError(
                f"of {columns} column{'s' * (columns != 1)} {_sizes(self.context_sizes)} would be seen and "
                f"{_sizes(self.target_sizes)} hidden, and it takes 1 of each: raise --context-share or "
                "--target-share, or give more columns"
            )
        if self.context_sizes[0] + self.target_sizes[0] > columns:
            raise ValueError(
                f"{columns} column{'s' * (columns != 1)} cannot be cut into {self.context_sizes[0]} that are "
                f"seen and {self.target_sizes[0]} that are hidden: lower --context-share or --target-share, "
                "or give more columns"
            )
        self.columns, self.sets, self.registers, self.maskable = columns, sets, registers, maskable

    def sizes(self, generator: Generator) -> tuple[int, int]:
        """Columns of the context and of a target set, from the generator's seed: asks no device."""
        chance = random.Random(generator.initial_seed() ^ SIZES)
        while True:
            context, target = (
                low + round((high - low) * chance.random())
                for low, high in (self.context_sizes, self.target_sizes)
            )
            if context + target <= self.columns:
                return context, target

    def __call__(
        self, batch: int, generator: Generator, observed: Bool[Tensor, "batch tokens"] | None = None
    ) -> Masks:
        """Masks for `batch` rows: context (batch, K), targets (batch, M, T); `relaxed` is always False.

        Args:
            batch: rows.
            generator: the sets are drawn from it, the sizes from its seed.
            observed: False for a missing cell. It is a target only where a row has nothing else left, which
                the loss then passes over.
        """
        seen, hidden = self.sizes(generator)
        first = 0 if self.maskable else self.registers
        tokens, device = self.registers + self.columns - first, generator.device
        order = uniform((batch, tokens), generator).argsort(1)
        context, pool = order[:, :seen], order[:, seen:]
        chance = uniform((batch, self.sets, tokens - seen), generator)
        if observed is not None:
            absent = ~observed[:, first:].to(device).gather(1, pool)
            chance = chance + absent.unsqueeze(1)
        chosen = chance.argsort(2)[..., :hidden]
        targets = pool.unsqueeze(1).expand(-1, self.sets, -1).gather(2, chosen) + first
        front = torch.arange(first, device=device).expand(batch, -1)
        context = torch.cat([front, context + first], dim=1)
        return Masks(context, targets, torch.zeros(batch, dtype=torch.bool, device=device))


def _sizes(pair: Sequence[int]) -> str:
    return f"{pair[0]}" if pair[0] == pair[1] else f"{pair[0]} to {pair[1]}"
