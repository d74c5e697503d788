"""Flow from two feature pyramids, coarse to fine: upsample, warp, correlate, correct (PWC-Net's scheme)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core.flow import correlation, upsampled, warp
from anyjepa.core.pyramid import ChannelNorm


class Correction(nn.Module):
    """Convolutions from what is known of a level to a change of the flow; each normalised but the last.

    Args:
        inputs: channels of what is known.
        widths: of the convolutions.
    """

    def __init__(self, inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for before, width in zip((inputs, *widths), widths, strict=False):
            # channel by channel: without it training diverges (section 3.2)
            parts += [nn.Conv2d(before, width, 3, padding=1), ChannelNorm(width), nn.LeakyReLU(0.1)]
        self.layers = nn.Sequential(*parts)
        self.out = nn.Conv2d(widths[-1], 2, 3, padding=1)
        nn.init.normal_(self.out.weight, std=1e-3)
        nn.init.zeros_(self.out.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, known: Tensor) -> Tensor:
        """(batch, 2, height, width) pixels of the level."""
        return self.out(self.layers(known))


def distinct(features: Tensor) -> Tensor:
    """A map less its mean over places, of unit length at each: what all places share would make all alike."""
    return functional.normalize(features - features.mean((2, 3), keepdim=True))


class FlowEstimator(nn.Module):
    """From the maps of two images at every level to the flow from the first to the second at every level.

    Args:
        widths: channels of each level, the finest first.
        convolutions: widths of the convolutions of a `Correction`.
        radius: displacements that are looked at around where the flow so far points, in pixels of the level.
        context: channels that a level's features are brought to before they join the correlations.
        shared: one `Correction` for all levels, instead of one each.
        finest: first level at which flow is estimated, counted from 1.
        limit: largest flow along an axis, in pixels of the image.
    """

    def __init__(
        self,
        widths: Sequence[int],
        convolutions: Sequence[int],
        radius: int = 4,
        context: int = 32,
        shared: bool = False,
        finest: int = 1,
        limit: float = 128.0,
    ) -> None:
        super().__init__()
        self.radius, self.finest, self.limit = radius, finest, limit
        self.context = nn.ModuleList(nn.Conv2d(width, context, 1) for width in widths[finest - 1 :])
        inputs = (2 * radius + 1) ** 2 + context + 2
        count = 1 if shared else len(self.context)
        self.corrections = nn.ModuleList(Correction(inputs, convolutions) for _ in range(count))

    def forward(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
        """Flows (batch, 2, rows, columns) in pixels of their level, from the level `finest` to the coarsest.

        first, second: maps (batch, channels, rows, columns) of all levels, the finest first.
        """
        found: list[Tensor] = []
        for place in reversed(range(len(self.context))):
            one, other = first[place + self.finest - 1], second[place + self.finest - 1]
            if found:
                flow = upsampled(found[-1], (one.shape[2], one.shape[3]))
                other = warp(other, flow)
            else:
                flow = torch.zeros_like(one[:, :2], dtype=torch.promote_types(one.dtype, torch.float32))
            likeness = correlation(distinct(one), distinct(other), self.radius)
            told = functional.layer_norm(one.permute(0, 2, 3, 1), one.shape[1:2]).permute(0, 3, 1, 2)
            known = torch.cat([likeness, self.context[place](told), flow.to(one.dtype)], dim=1)
            correction = self.corrections[0 if len(self.corrections) == 1 else place](known)
            most = self.limit / 2 ** (place + self.finest)
            # in single precision at least: half cannot tell neighbouring pixels of a large image apart
            found.append((flow + correction.to(flow.dtype)).clamp(-most, most))
        return found[::-1]
