"""Dense optical flow: warping by it, correlation around it, what it hides, and how wrong it is.

A flow (batch, 2, height, width) is in pixels of its own grid, u to the right and then v down: what frame 1
shows at x is seen in frame 2 at x + flow(x). Pixels have their centres at whole coordinates; `warp` and
`upsampled` agree on that (``align_corners=False`` throughout).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

Map = Float[Tensor, "batch channels height width"]
Flow = Float[Tensor, "batch 2 height width"]
Mask = Bool[Tensor, "batch 1 height width"]
ALL_PAIRS = 3  # grids of fewer rows than so many displacements: one product of everything with everything


def sources(flow: Flow) -> Float[Tensor, "batch 2 height width"]:
    """Where each pixel comes from, (column, row) in pixels."""
    height, width = flow.shape[2:]
    columns = torch.arange(width, device=flow.device, dtype=flow.dtype)
    rows = torch.arange(height, device=flow.device, dtype=flow.dtype)
    return flow + torch.stack([columns.expand(height, width), rows.unsqueeze(1).expand(height, width)])


def inside(flow: Flow) -> Mask:
    """Where `warp` reads within the image: not past the centres of its outermost pixels."""
    height, width = flow.shape[2:]
    x, y = sources(flow).split(1, dim=1)
    return (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)


def warp(values: Map, flow: Flow) -> Map:
    """Values at x + flow(x), bilinear; beyond the image those at its border.

    With features of frame 2 and the flow from 1 to 2, this is frame 2 as seen from frame 1 (backward
    warping).
    """
    height, width = flow.shape[2:]
    size = flow.new_tensor([width, height]).view(2, 1, 1)
    grid = ((2 * sources(flow) + 1) / size - 1).permute(0, 2, 3, 1)
    return functional.grid_sample(values, grid.to(values.dtype), padding_mode="border", align_corners=False)


def upsampled(flow: Flow, size: tuple[int, int]) -> Float[Tensor, "batch 2 rows columns"]:
    """The same flow on a grid of another size (height, width), in pixels of that grid; bilinear."""
    height, width = flow.shape[2:]
    if size == (height, width):
        return flow
    scale = flow.new_tensor([size[1] / width, size[0] / height]).view(2, 1, 1)
    return functional.interpolate(flow, size=size, mode="bilinear", align_corners=False) * scale


def correlation(first: Map, second: Map, radius: int) -> Float[Tensor, "batch displacements height width"]:
    """Products, summed over channels, of each place in `first` with the places around it in `second`.

    (2 radius + 1)^2 displacements in raster order, the topmost leftmost first; 0 beyond the border.

    Every row of `first` is multiplied at once with the 2 radius + 1 rows of `second` around it, which is a
    matrix product; the diagonal band that is wanted is then a view of the result, by strides. Against one
    elementwise product a displacement this does more arithmetic in far less time (`benchmarks/flow.py`).
    """
    batch, channels, height, width = first.shape
    reach, padded = 2 * radius + 1, width + 2 * radius
    around = functional.pad(second, (radius,) * 4)
    if height + 2 * radius < ALL_PAIRS * reach:
        rows, last = height + 2 * radius, padded
        products = torch.bmm(first.flatten(2).mT, around.flatten(2))
        per_row = width * rows * padded + padded
    else:
        rows, last = reach, padded
        strips = around.permute(0, 2, 1, 3).unfold(1, reach, 1).permute(0, 1, 2, 4, 3)
        strips = strips.reshape(batch * height, channels, reach * padded)
        products = torch.bmm(first.permute(0, 2, 3, 1).reshape(batch * height, width, channels), strips)
        per_row = width * rows * padded
    each = rows * padded
    band = products.contiguous().as_strided(
        (batch, height, width, reach, reach), (height * width * each, per_row, each + 1, last, 1)
    )
    return band.permute(0, 3, 4, 1, 2).reshape(batch, reach * reach, height, width)


def visible(forward: Flow, backward: Flow, relative: float = 0.01, absolute: float = 0.5) -> Mask:
    """Where going along `forward` and back along `backward` leads home: what is not occluded (Sundaram 2010).

    |f + warp(b, f)|^2 < relative (|f|^2 + |warp(b, f)|^2) + absolute, in pixels; no gradient.
    """
    forward, backward = forward.detach(), backward.detach()
    returned = warp(backward, forward)
    length = forward.square().sum(1, keepdim=True) + returned.square().sum(1, keepdim=True)
    return (forward + returned).square().sum(1, keepdim=True) < relative * length + absolute


def end_point_error(flow: Flow, truth: Flow) -> Float[Tensor, "batch height width"]:
    """Length of the difference in pixels; NaN where the truth is unknown (NaN)."""
    return (flow - truth).square().sum(1).sqrt()


def outliers(flow: Flow, truth: Flow) -> Float[Tensor, "batch height width"]:
    """1 where the error is above 3 pixels and 5 % of the true length (KITTI's Fl), else 0; NaN as above."""
    error = end_point_error(flow, truth)
    wrong = (error > 3) & (error > 0.05 * truth.square().sum(1).sqrt())
    return torch.where(error.isnan(), error, wrong.to(error.dtype))
