"""Series of regions to tokens: stretches of time of one region; and where a region lies among the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from anyjepa.core.positions import SinCos, grid
from anyjepa.core.tokens import Tokens, take

__all__ = ["NORMALISATIONS", "BoldPatches", "GradientPositions", "Normalisation"]

Normalisation = Literal["region", "robust", "matrix"]
NORMALISATIONS = ("region", "robust", "matrix")
SHUFFLED = 1  # seed of the control in which regions have one another's gradients


class BoldPatches(nn.Module):
    """Normalise series (batch, regions, time) and project each stretch of `patch` time points of a region.

    Tokens are in the order of regions, each with all its stretches, at coordinates (region, stretch). A
    region that was not recorded is 0, its mean.

    Args:
        patch: time points of a token.
        width: of the tokens.
        median, spread: of each region: median and interquartile range, over runs, of its mean over time.
        normalise: ``region``: each region of each sample has mean 0 and deviation 1 over time; ``robust``:
            less the median, divided by the spread (as released for pre-training); ``matrix``: one mean and
            one deviation for all regions of a sample (as released for fine-tuning).
    """

    median: Tensor
    spread: Tensor

    def __init__(
        self,
        patch: int,
        width: int,
        median: Sequence[float],
        spread: Sequence[float],
        normalise: Normalisation = "region",
    ) -> None:
        super().__init__()
        self.patch, self.normalise = patch, normalise
        self.project = nn.Linear(patch, width)
        self.register_buffer("median", torch.tensor(median, dtype=torch.float32).view(-1, 1))
        # runs that do not differ in a region say nothing of its scale; dividing by 0 would make it everything
        scale = torch.tensor([value if value > 0 else 1.0 for value in spread], dtype=torch.float32)
        self.register_buffer("spread", scale.view(-1, 1))

    def normalised(self, batch: dict[str, Tensor]) -> Float[Tensor, "batch regions time"]:
        """What the network sees of ``bold`` (batch, regions, time) and ``recorded`` (batch, regions)."""
        values, there = batch["bold"].to(self.median.dtype), batch["recorded"].unsqueeze(-1)
        if self.normalise == "robust":
            return (values - self.median) / self.spread * there
        if self.normalise == "matrix":
            count = (there.sum((1, 2), keepdim=True) * values.shape[2]).clamp(min=1)
            mean = (values * there).sum((1, 2), keepdim=True) / count
            centred = (values - mean) * there
            return centred / (centred.square().sum((1, 2), keepdim=True) / count).sqrt().clamp(min=1e-6)
        # twice, for an offset of thousands would cost the first mean its last digits
        centred = values - values.mean(2, keepdim=True)
        centred = centred - centred.mean(2, keepdim=True)
        deviation = centred.square().mean(2, keepdim=True).sqrt()
        least = 1e-6 * values.abs().mean(2, keepdim=True)
        return centred / torch.where(deviation > least, deviation, torch.inf) * there

    def forward(self, batch: dict[str, Tensor], keep: Int[Tensor, "batch kept"] | None = None) -> Tokens:
        """Tokens of the batch: all, or those kept, which are chosen before anything is projected."""
        values = self.normalised(batch)
        whole = values[..., : values.shape[-1] // self.patch * self.patch]
        patches = whole.unflatten(-1, (-1, self.patch))
        coordinates = grid(patches.shape[1], patches.shape[2], device=patches.device)
        patches = patches.flatten(1, 2)
        if keep is not None:
            patches, coordinates = take(patches, keep), take(coordinates, keep)
        return Tokens(self.project(patches), coordinates)


class GradientPositions(nn.Module):
    """Brain gradient positioning: half of a vector says when, half where in the space of gradients.

    The half for time is sines and cosines of the stretch's number. The half for the region is a linear map of
    its gradients, learned; over all regions together it is stretched to -1 .. 1, through which gradients run.

    Args:
        width: of the vectors; its half must be even.
        gradients: (regions, components) table, fixed.
        kind: ``gradient``; controls are ``shuffled`` (regions have one another's gradients) and ``learned``
            (a vector of its own for each region, stretched alike).

    Raises:
        ValueError: the width cannot be halved so.
    """

    gradients: Tensor

    def __init__(
        self, width: int, gradients: np.ndarray, kind: Literal["gradient", "shuffled", "learned"] = "gradient"
    ) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"a width of {width} has no even half for time: it must be a multiple of 4")
        table = torch.tensor(np.asarray(gradients), dtype=torch.float32)
        if kind == "shuffled":
            table = table[torch.randperm(len(table), generator=torch.Generator().manual_seed(SHUFFLED))]
        elif kind == "learned":
            table = torch.eye(len(table))
        self.register_buffer("gradients", table)
        self.time = SinCos(width // 2, 1)
        self.space = nn.Linear(table.shape[1], width // 2)

    def regions(self) -> Float[Tensor, "regions half"]:
        """The half for the region, of each region: from exactly -1 to exactly 1 over all."""
        mapped = self.space(self.gradients)
        low, high = mapped.min(), mapped.max()
        return 2 * (mapped - low) / (high - low).clamp(min=1e-12) - 1

    def forward(self, coordinates: Float[Tensor, "shared tokens axes"]) -> Tensor:
        """Vectors (shared, tokens, width) of coordinates (region, stretch)."""
        space = self.regions()[coordinates[..., 0].long()]
        return torch.cat([self.time(coordinates[..., 1:]).to(space.dtype), space], dim=-1)
