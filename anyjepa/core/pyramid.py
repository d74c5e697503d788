"""A convolutional network that keeps its feature maps at every size: ConvNeXt with a stem in two steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core.positions import grid
from anyjepa.core.tokens import Tokens


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each place of a map (batch, channels, height, width)."""

    def forward(self, input: Float[Tensor, "batch channels height width"]) -> Tensor:
        """As of `nn.LayerNorm`."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvBlock(nn.Module):
    """A block of ConvNeXt (Liu et al. 2022, figure 4): depthwise 7 x 7, normalised, a perceptron, scaled.

    Args:
        width: channels.
        drop_path: chance that the branch is dropped for a sample.
        scale: what the branch is multiplied by at first, learned for each channel.
    """

    def __init__(self, width: int, drop_path: float = 0.0, scale: float = 1e-6) -> None:
        super().__init__()
        self.spread = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.scale = nn.Parameter(torch.full((width,), scale))
        self.drop_path = drop_path

    def forward(self, x: Float[Tensor, "batch width height columns"]) -> Tensor:
        """The map with the branch added."""
        branch = self.scale * self.perceptron(self.norm(self.spread(x).permute(0, 2, 3, 1)))
        if self.drop_path and self.training:
            kept = torch.rand((len(x), 1, 1, 1), device=x.device, dtype=x.dtype) >= self.drop_path
            branch = branch * kept / (1 - self.drop_path)
        return x + branch.permute(0, 3, 1, 2)


class Pyramid(nn.Module):
    """ConvNeXt whose 4 x 4 stem is two convolutions of stride 2, so that finer maps exist (MC-JEPA).

    Level 1 has stride 2, and each further one twice the stride of that before: the two of the stem, with
    `width` channels, then one for each of `depths`, with twice the channels of the one before.

    Args:
        channels: of the images.
        width: channels of the first two levels.
        depths: blocks of each level behind the stem.
        mean, std: of each channel of the images, in the units of the raw values.
        drop_path: stochastic depth of the last block; rises from 0 at the first.
        scale: of the branches of blocks at first.
        dense: level whose places `tokens` are, counted from 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        channels: int,
        width: int,
        depths: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        drop_path: float = 0.0,
        scale: float = 1e-6,
        dense: int = 0,
    ) -> None:
        super().__init__()
        self.widths = [width, *(width * 2**step for step in range(len(depths) + 1))]
        blocks = sum(depths)
        rates = iter([drop_path * block / max(1, blocks - 1) for block in range(blocks)])
        self.levels = nn.ModuleList([
            nn.Sequential(nn.Conv2d(channels, width, 3, stride=2, padding=1), ChannelNorm(width, eps=1e-6)),
            nn.Sequential(
                nn.GELU(), nn.Conv2d(width, width, 4, stride=2, padding=1), ChannelNorm(width, eps=1e-6)
            ),
        ])  # fmt: skip
        for before, now, depth in zip(self.widths[1:-1], self.widths[2:], depths, strict=True):
            smaller = [ChannelNorm(before, eps=1e-6), nn.Conv2d(before, now, 2, stride=2)]
            self.levels.append(
                nn.Sequential(*smaller, *(ConvBlock(now, next(rates), scale) for _ in range(depth)))
            )
        self.width, self.dense = self.widths[-1], dense or len(self.widths)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        scales = torch.tensor([value if value > 0 else 1.0 for value in std], dtype=torch.float32)
        self.register_buffer("std", scales.view(-1, 1, 1))
        for part in self.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(part.weight, std=part.weight[0].numel() ** -0.5)
                nn.init.zeros_(part.bias)  # pyright: ignore[reportArgumentType]

    @property
    def stride(self) -> int:
        """Of the coarsest level, in pixels."""
        return 2 ** len(self.widths)

    def maps(self, images: Num[Tensor, "batch channels height width"]) -> list[Tensor]:
        """Feature maps (batch, channels, rows, columns) of all levels, the finest first; of raw values."""
        x, found = (images.to(self.mean.dtype) - self.mean) / self.std, []
        for level in self.levels:
            x = level(x)
            found.append(x)
        return found

    def pooled(self, features: Float[Tensor, "batch width rows columns"]) -> Float[Tensor, "batch width"]:
        """The average over places of the coarsest level, layer-normalised."""
        return functional.layer_norm(features.mean((2, 3)), (self.width,), eps=1e-6)

    def tokens(self, images: Num[Tensor, "batch channels height width"]) -> Tokens:
        """The places of the level `dense`, in raster order."""
        features = self.maps(images)[self.dense - 1]
        return Tokens(features.flatten(2).mT, grid(*features.shape[2:], device=features.device))

    def forward(self, images: Num[Tensor, "batch channels height width"]) -> Float[Tensor, "batch width"]:
        """One vector an image."""
        return self.pooled(self.maps(images)[-1])
