"""Edges of images with multiplicative noise: ratios of means on both sides of a place (SAR-JEPA)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Images = Float[Tensor, "batch channels height width"]


def gradient_by_ratio(images: Images, radius: int, offset: float = 0.01, centre: bool = True) -> Tensor:
    """Size of the gradient by ratio, (batch, channels, height, width), never below 0.

    At each place the logarithm of the ratio of two means, of the half windows to its left and right and of
    those above and below, and the length of the two. Windows reach `radius` pixels each way, beyond the image
    into its reflection. No factor on the image changes it while `offset` is small beside the values, so that
    speckle, which multiplies, is as strong in bright places as in dark ones (Touzi et al. 1988).

    Args:
        images: amplitude or intensity, linear, not negative.
        radius: of the window, in pixels; below the image's sides.
        offset: added to every value, in the image's unit.
        centre: count the middle row or column to both halves, as the released code does; the paper's figure
            leaves it out of both.
    """
    padded = functional.pad(images, (radius,) * 4, mode="reflect") + offset
    side = radius + 1 if centre else radius
    across = functional.avg_pool2d(padded, (2 * radius + 1, 1), stride=1)
    down = functional.avg_pool2d(padded, (1, 2 * radius + 1), stride=1)
    left = functional.avg_pool2d(across, (1, side), stride=1)
    top = functional.avg_pool2d(down, (side, 1), stride=1)
    width, height = images.shape[-1], images.shape[-2]
    beyond = radius if centre else radius + 1
    first = left[..., :width].log() - left[..., beyond : beyond + width].log()
    second = top[..., :height, :].log() - top[..., beyond : beyond + height, :].log()
    return torch.hypot(first, second)


class GradientBank(nn.Module):
    """Gradients by ratio at several sizes: the fixed targets of SAR-JEPA (section 3.2). Nothing is learned.

    Args:
        radii: of the windows, in pixels; published are 5, 9, 13 and 17.
        offset, centre: of `gradient_by_ratio`.
    """

    def __init__(
        self, radii: Sequence[int] = (5, 9, 13, 17), offset: float = 0.01, centre: bool = True
    ) -> None:
        super().__init__()
        self.radii, self.offset, self.centre = tuple(radii), offset, centre

    @torch.no_grad()
    def forward(self, images: Images) -> Float[Tensor, "batch maps height width"]:
        """(batch, radii x channels, height, width): all channels of the first radius, then of the next."""
        maps = [gradient_by_ratio(images, radius, self.offset, self.centre) for radius in self.radii]
        return torch.cat(maps, dim=1)
