"""Masks over tokens that lie in a sequence: runs to predict, and a run of the rest to predict them from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from anyjepa.core.chance import uniform
from anyjepa.core.masking import Masks

WIDTHS = 0x2545F4914F6CDD1D  # keeps the widths' stream of chance apart from that of the places


@dataclass(frozen=True)
class Runs:
    """Point-JEPA's masks (section 3.3): M runs of a sequence, and a run of the positions in none of them.

    Once a step, the share of the tokens that a target run has and the share of the remaining positions that
    the context has are drawn; every sample then draws its own places, so that widths are the same for a
    whole step. The context is a run of the list of remaining positions, so it can straddle a target. Target
    runs may overlap; where they cover everything, one target position is seen (`Masks.relaxed`). Samples
    whose targets overlap more have longer contexts, padded to the longest possible (`Masks.present`).

    Args:
        tokens: length of the sequence.
        targets: number of target runs M.
        target_ratio: share of the tokens that a target run has, (low, high).
        context_ratio: share of the remaining positions that the context has, (low, high).
        shared: draw one set of places for the whole batch, as the released code does.

    Raises:
        ValueError: a range is empty or not within (0, 1], or the targets can leave nothing to see.
    """

    tokens: int
    targets: int = 4
    target_ratio: tuple[float, float] = (0.15, 0.2)
    context_ratio: tuple[float, float] = (0.4, 0.75)
    shared: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in [
            ("target ratio", self.target_ratio),
            ("context ratio", self.context_ratio),
        ]:
            if not 0 < low <= high <= 1:
                raise ValueError(f"the {name} range ({low}, {high}) must lie in (0, 1] and not be empty")
        longest = self.target_width(1.0)
        if self.targets < 1 or longest >= self.tokens:
            raise ValueError(
                f"{self.targets} targets of {longest} of {self.tokens} tokens leave nothing to see"
            )

    def target_width(self, chance: float) -> int:
        """Tokens of a target run where `chance` in [0, 1] was drawn."""
        low, high = self.target_ratio
        return max(1, int(self.tokens * (low + (high - low) * chance)))

    def widths(self, generator: Generator) -> tuple[int, float]:
        """Width of the target runs, and the context's share of what they leave.

        The two are drawn on the host, from the step's seed and how often `generator` was asked before:
        the device is not waited for.
        """
        chance = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        low, high = self.context_ratio
        return self.target_width(chance[0]), low + (high - low) * chance[1]

    def __call__(self, batch: int, generator: Generator, host: Generator | None = None) -> Masks:
        """Positions in the sequence for `batch` samples, on the generator's device.

        Args:
            batch: number of samples.
            generator: of the places.
            host: of the widths, on the CPU; one seeded like `generator` where None, so that a second call
                has the same widths.
        """
        width, share = self.widths(host or host_generator(generator))
        rows = 1 if self.shared else batch
        device = generator.device
        start = self._drawn((rows, self.targets), generator)
        targets = (start * (self.tokens - width + 1)).long().unsqueeze(2) + torch.arange(width, device=device)
        free = torch.ones((rows, self.tokens), dtype=torch.bool, device=device)
        free = free.scatter(1, targets.flatten(1), False)
        place = self._drawn((rows,), generator)
        context, present = self._context(free, width, share, place)
        if self.shared:
            context, present, targets = (x.expand(batch, *x.shape[1:]) for x in (context, present, targets))
        relaxed = (~free.any(dim=1)).expand(batch)
        return Masks(context, targets, relaxed, present)

    def _drawn(self, shape: tuple[int, ...], generator: Generator) -> Tensor:
        if self.shared:
            return torch.rand(shape, generator=generator, device=generator.device)
        return uniform(shape, generator)

    def _context(self, free: Tensor, width: int, share: float, place: Tensor) -> tuple[Tensor, Tensor]:
        """(B, K) positions of the context, padded with its own first, and which of them are real."""
        left = free.sum(dim=1)
        # a context cannot be empty: where the targets cover everything, it is the first position all the same
        wanted = (left * share).floor().long().clamp(min=1)
        longest = max(1, int((self.tokens - width) * share))
        begin = (place * (left - wanted + 1).clamp(min=1)).long()
        rank = free.cumsum(dim=1) - 1
        kept = free & (rank >= begin.unsqueeze(1)) & (rank < (begin + wanted).unsqueeze(1))
        positions = (~kept).long().argsort(dim=1, stable=True)[:, :longest]
        present = torch.arange(longest, device=free.device) < wanted.unsqueeze(1)
        return torch.where(present, positions, positions[:, :1]), present


def host_generator(generator: Generator) -> Generator:
    """A generator on the CPU, seeded by the seed of `generator` alone."""
    return torch.Generator().manual_seed((generator.initial_seed() ^ WIDTHS) & (2**63 - 1))
