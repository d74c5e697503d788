"""Tokens of many electrodes to one vector, whatever their number and order."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from anyjepa.core.tokens import Tokens

__all__ = ["average", "over_regions"]


def average(tokens: Tokens) -> Float[Tensor, "batch width"]:
    """The mean of a sample's tokens that are there."""
    if tokens.present is None:
        return tokens.values.mean(1)
    there = tokens.present.to(tokens.values.dtype).unsqueeze(2)
    return (tokens.values * there).sum(1) / there.sum(1)


# front, centre, side and back of either half of the head, in metres
REGIONS = (
    (-0.04, 0.075, 0.04), (0.04, 0.075, 0.04), (-0.045, 0.0, 0.085), (0.045, 0.0, 0.085),
    (-0.075, -0.005, 0.01), (0.075, -0.005, 0.01), (-0.035, -0.075, 0.04), (0.035, -0.075, 0.04),
)  # fmt: skip
REACH = 0.035  # metres


def over_regions(tokens: Tokens, spread: bool = False) -> Float[Tensor, "batch dim"]:
    """Averages weighted by nearness to each of `REGIONS`, side by side; electrodes may be in any order.

    spread: beside each average the standard deviation about it, in which the strength of a rhythm shows, of
    which no average keeps more than what is not linear in the signal.
    """
    places = torch.tensor(REGIONS, device=tokens.values.device, dtype=torch.float32)
    far = torch.cdist(places.expand(len(tokens.values), -1, -1), tokens.coordinates[..., :3].float())
    logits = -far.square() / (2 * REACH**2)
    if tokens.present is not None:
        logits = logits.masked_fill(~tokens.present.unsqueeze(1), -torch.inf)
    nearness = logits.softmax(-1).to(tokens.values.dtype)
    mean = nearness @ tokens.values
    if not spread:
        return mean.flatten(1)
    variance = nearness @ tokens.values.square() - mean.square()
    return torch.cat([mean, (variance.clamp(min=0) + 1e-8).sqrt()], dim=2).flatten(1)
