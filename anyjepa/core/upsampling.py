"""From tokens at scattered places to features anywhere between them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from anyjepa.core.points import distances, gather_points

ROWS_AT_ONCE = 2**22  # distances that are held together


def interpolated(
    values: Float[Tensor, "batch tokens width"],
    places: Float[Tensor, "batch tokens axes"],
    asked: Float[Tensor, "batch points axes"],
    neighbours: int = 3,
) -> Float[Tensor, "batch points width"]:
    """Mean of the values at the nearest places, weighted by the inverse of their distance.

    Feature propagation of PointNet++ (Qi et al. 2017, equation 2, with power 1), as the part segmentation of
    Point-JEPA has it. Where a point lies at a place, that place's value is what comes out.

    Args:
        values: of the tokens.
        places: where they lie.
        asked: where values are wanted.
        neighbours: nearest tokens that count; all where there are fewer.
    """
    count, found = min(neighbours, places.shape[1]), []
    for part in asked.split(max(1, ROWS_AT_ONCE // max(1, places.shape[0] * places.shape[1])), dim=1):
        near, indices = distances(part, places).topk(count, dim=2, largest=False)
        weights = 1 / near.clamp(min=1e-8)
        weights = weights / weights.sum(2, keepdim=True)
        found.append((gather_points(values, indices) * weights.unsqueeze(3)).sum(2))
    return torch.cat(found, dim=1)
