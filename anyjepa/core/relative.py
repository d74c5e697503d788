"""Relative positions inside attention: how strongly a token looks at another depends on where that lies."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class RelativeBuckets(nn.Module):
    """Offsets between tokens, sorted into buckets that are fine near by and coarse far off (iRPE's product).

    Wu et al. 2021 (arXiv:2107.14222): along each axis an offset up to `ratio` keeps its rounded value;
    beyond, buckets grow with its logarithm, up to twice `ratio`, which all offsets from 8 times `ratio` on
    share; an offset's bucket is the combination of those of its axes. Tokens without a place (registers) have
    one bucket more, for all that they look at and that looks at them.

    Args:
        axes: number of coordinates.
        ratio: offset up to which buckets are exact, in units of the coordinates; published is 1.9 patches.
    """

    def __init__(self, axes: int = 2, ratio: float = 1.9) -> None:
        super().__init__()
        self.axes, self.ratio, self.reach = axes, ratio, int(2 * ratio)

    @property
    def count(self) -> int:
        """How many buckets there are, that of registers with them."""
        return (2 * self.reach + 1) ** self.axes + 1

    def forward(
        self, coordinates: Float[Tensor, "shared tokens axes"], front: int = 0
    ) -> Int[Tensor, "shared all all"]:
        """Bucket of each token (last axis) as seen from each, after `front` tokens without a place."""
        offset = coordinates.unsqueeze(1) - coordinates.unsqueeze(2)
        size = offset.abs().clamp(min=1e-9)
        far = self.ratio * (1 + (size / self.ratio).log() / math.log(8))
        steps = torch.where(size <= self.ratio, size.round(), far.round().clamp(max=self.reach))
        places = (offset.sign() * steps).long() + self.reach
        found = torch.zeros_like(places[..., 0])
        for axis in range(self.axes):
            found = found * (2 * self.reach + 1) + places[..., axis]
        return nn.functional.pad(found, (front, 0, front, 0), value=self.count - 1)


class RelativeKeys(nn.Module):
    """What the offset adds to attention: the query times a learned key of the offset's bucket.

    As of iRPE's contextual mode on keys, and of relative keys by Shaw et al. 2018; heads share the table,
    which begins at zero.

    Args:
        head_width: of queries.
        buckets: how many keys there are.
    """

    def __init__(self, head_width: int, buckets: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(head_width, buckets))

    def forward(
        self, queries: Float[Tensor, "batch heads asking head"], relation: Int[Tensor, "shared asking tokens"]
    ) -> Float[Tensor, "batch heads asking tokens"]:
        """To be added to the scaled products of queries and keys."""
        scores = queries @ self.table * queries.shape[-1] ** -0.5
        return scores.gather(3, relation.unsqueeze(1).expand(len(scores), scores.shape[1], -1, -1))
