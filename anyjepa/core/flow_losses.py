"""What flow without labels is learned from: how alike two images are, and how smooth the flow is."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from anyjepa.core.flow import Flow, Map
from anyjepa.core.processes import share_of_all

Weights = Float[Tensor, "batch 1 height width"]
SSIM_STABLE = (0.01**2, 0.03**2)  # of values in 0..1 (Wang et al. 2004)
CENSUS_SCALE, CENSUS_SOFTNESS = 0.81, 0.1  # of values in 0..255 (Meister et al. 2018)


def mean_where(values: Map, weights: Weights) -> Float[Tensor, ""]:
    """Weighted mean over pixels and channels; over all processes' pixels, and 0 where nothing counts."""
    total = share_of_all(weights.sum() * values.shape[1])
    return (values * weights).sum() / total.clamp(min=1.0)


def dissimilarity(first: Map, second: Map, window: int = 3) -> Map:
    """(1 - SSIM) / 2 of images in 0..1, in [0, 1], with a square window; edges are mirrored."""
    pad = (window // 2,) * 4

    def mean(values: Tensor) -> Tensor:
        return functional.avg_pool2d(functional.pad(values, pad, mode="reflect"), window, stride=1)

    a, b = mean(first), mean(second)
    squares = mean(first * first) - a * a, mean(second * second) - b * b, mean(first * second) - a * b
    stable = SSIM_STABLE
    likeness = (2 * a * b + stable[0]) * (2 * squares[2] + stable[1])
    likeness = likeness / ((a * a + b * b + stable[0]) * (squares[0] + squares[1] + stable[1]))
    return ((1 - likeness) / 2).clamp(0, 1)


def census(first: Map, second: Map, patch: int = 7) -> Float[Tensor, "batch 1 height width"]:
    """How many of a pixel's neighbours are brighter or darker in one image and not in the other, softly.

    The ternary census transform of the grey values (UnFlow, section 3.2): signs of differences to the patch
    around, smoothed, and a Hamming distance smoothed likewise. What changes the light of a whole region
    changes nothing. Images in 0..1; 0 where both agree, below patch^2.
    """
    signs = [_signs(255 * image.mean(1, keepdim=True), patch) for image in (first, second)]
    apart = (signs[0] - signs[1]).square()
    return (apart / (CENSUS_SOFTNESS + apart)).sum(1, keepdim=True)


def _signs(grey: Tensor, patch: int) -> Tensor:
    padded = functional.pad(grey, (patch // 2,) * 4, mode="replicate")
    around = functional.unfold(padded, patch).unflatten(2, grey.shape[2:])
    difference = around - grey
    return difference * torch.rsqrt(CENSUS_SCALE + difference.square())


def smoothness(flow: Flow, image: Map, edge: float = 10.0, second_order: bool = True) -> Float[Tensor, ""]:
    """Mean absolute change of the flow, less where the image changes: by exp(-edge mean_c |dI|).

    The mean of both axes; images in 0..1. Of second order the change is that of the slope, so that a
    flow that grows evenly costs nothing.
    """
    found = []
    for axis in (2, 3):
        change, contrast = flow.diff(dim=axis), image.diff(dim=axis).abs().mean(1, keepdim=True)
        if second_order:
            change = change.diff(dim=axis)
            length = contrast.shape[axis]
            # of the two steps that a slope changes between, the stronger edge
            contrast = torch.maximum(
                contrast.narrow(axis, 0, length - 1), contrast.narrow(axis, 1, length - 1)
            )
        cost = change.abs() * torch.exp(-edge * contrast)
        found.append(cost.sum() / share_of_all(cost.new_tensor(float(cost.numel()))))
    return (found[0] + found[1]) / 2
