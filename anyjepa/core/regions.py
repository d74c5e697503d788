"""Regions of a grid of patches in order of how much they stand out (DSeq-JEPA, equations 1 to 3).

Everything is vectorised over the batch, has static shapes and stays on its device.
Shapes: B samples, N patches of a grid in raster order, S regions of which the last is the background.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

LEVELS = 256  # grey levels that Otsu's threshold is found among


class Regions(NamedTuple):
    """How each sample's patches are shared out among regions.

    Args:
        slots: (B, N) int64 the region of each patch: 0 stands out most; count - 1 is the background.
        found: (B,) int64 how many regions there are beside the background.
        scores: (B, count - 1) float32 mean saliency of each region, falling; 0 where there is none.
    """

    slots: Int[Tensor, "batch patches"]
    found: Int[Tensor, " batch"]
    scores: Float[Tensor, "batch regions"]


def grey_levels(
    saliency: Float[Tensor, "batch patches"],
) -> tuple[Float[Tensor, "batch patches"], Int[Tensor, "batch patches"]]:
    """Each sample's saliency stretched to 0..1, and the same as grey levels of 0 to 255 (equation 1).

    A sample that is the same everywhere becomes 0.
    """
    low, high = saliency.amin(1, keepdim=True), saliency.amax(1, keepdim=True)
    stretched = (saliency - low) / (high - low + 1e-6)
    return stretched, (stretched * (LEVELS - 1)).floor().long()


def between_class_variance(
    levels: Int[Tensor, "batch patches"],
) -> Float[Tensor, "batch levels"]:
    """Variance between what is at most level t and what is above it, for t of 0 to 255 (Otsu 1979).

    In squares of a level; 0 where one of the two classes is empty.
    """
    # a histogram of whole numbers is exact in any order of adding; MPS knows no double precision
    kind = torch.float32 if levels.device.type == "mps" else torch.float64
    counts = torch.zeros((len(levels), LEVELS), dtype=kind, device=levels.device)
    counts.scatter_add_(1, levels, torch.ones_like(levels, dtype=kind))
    below = counts.cumsum(1)
    sums = (counts * torch.arange(LEVELS, dtype=kind, device=levels.device)).cumsum(1)
    total, above = below[:, -1:], below[:, -1:] - below
    apart = sums / below.clamp(min=1) - (sums[:, -1:] - sums) / above.clamp(min=1)
    return torch.where((below > 0) & (above > 0), below * above / total**2 * apart.square(), 0.0)


def otsu(levels: Int[Tensor, "batch patches"]) -> Int[Tensor, " batch"]:
    """Otsu's threshold of each sample: the level that parts it best into at most and above.

    Of levels that part it in the same way, the lowest; 0 where all patches have one level.
    """
    variance = between_class_variance(levels)
    best = variance == variance.amax(1, keepdim=True)
    return torch.where(best, torch.arange(LEVELS, device=levels.device), LEVELS).amin(1)


def neighbours(shape: tuple[int, int], device: torch.device | None = None) -> Bool[Tensor, "patches patches"]:
    """Which patches of a grid touch, at a side or at a corner, each itself among them."""
    rows, columns = (torch.arange(length, device=device) for length in shape)
    place = torch.cartesian_prod(rows, columns)
    return ((place[:, None] - place).abs() <= 1).all(-1)


def connected(mask: Bool[Tensor, "batch patches"], shape: tuple[int, int]) -> Int[Tensor, "batch patches"]:
    """The first patch, in raster order, of the 8-connected component of each patch; N outside of `mask`.

    Paths are squared as a matrix, so that log2 N products find components however they wind.
    """
    patches = mask.shape[1]
    near = neighbours(shape, mask.device) & mask[:, :, None] & mask[:, None, :]
    reached = near.float()
    for _ in range(max(1, math.ceil(math.log2(patches)))):
        reached = (reached @ reached > 0).float()
    index = torch.arange(patches, device=mask.device)
    return torch.where(reached > 0, index, patches).amin(2)


def salient_regions(
    saliency: Float[Tensor, "batch patches"], shape: tuple[int, int], count: int, least: float
) -> Regions:
    """The regions that stand out of each sample, in order, and its background (equations 1 to 3).

    Otsu's threshold parts saliency into foreground and background; 8-connected components of the
    foreground that are too small join the background; the others are ranked by their mean saliency, and
    all but the first count - 1 join the background too. A sample of constant saliency has none.

    Args:
        saliency: of any scale and sign.
        shape: rows and columns of the grid.
        count: regions at most, the background among them.
        least: share of the grid that a region must have.
    """
    # what is no number would be no grey level; the loss of such a step is no number either, and is refused
    stretched, levels = grey_levels(saliency.float().nan_to_num(0.0, 0.0, 0.0))
    patches, outside = saliency.shape[1], count - 1
    component = connected(levels > otsu(levels)[:, None], shape)
    index = torch.arange(patches, device=saliency.device)
    # sums along an axis, not scattered ones, whose order on a GPU is never the same
    belongs = component.unsqueeze(1) == index.unsqueeze(1)
    total = torch.where(belongs, stretched.unsqueeze(1), 0.0).sum(2)
    size = belongs.sum(2)
    # the margin keeps a product such as 0.1 * 30 from asking for more than 3
    kept = size >= max(1.0, least * patches - 1e-6)
    score = torch.where(kept, total / size.clamp(min=1), -1.0)
    order = score.argsort(dim=1, descending=True, stable=True)
    place = order.argsort(dim=1)
    place = torch.where(kept, place, outside).clamp(max=outside)
    slots = functional.pad(place, (0, 1), value=outside).gather(1, component)
    ranked = score.gather(1, order)[:, :outside].clamp(min=0)
    ranked = functional.pad(ranked, (0, outside - ranked.shape[1]))
    return Regions(slots, kept.sum(1).clamp(max=outside), ranked)
