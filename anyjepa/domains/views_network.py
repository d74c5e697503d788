"""A small convolutional network for small views, where a ResNet would take all day on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anyjepa.core.positions import grid
from anyjepa.core.tokens import Tokens
from anyjepa.domains.image_backbones import Backbone

__all__ = ["Strided"]


class Strided(Backbone):
    """3 x 3 convolutions that halve the sides and double the channels, batch-normalised, then a linear layer.

    The last map is read place by place: where something lies is what a small network knows best of a pose.

    Args:
        size: height and width of the images in pixels.
        width: of the vectors, and of the last map's channels.
        depth: layers.
        mean, std: of each channel, in the units of the raw values.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, size: tuple[int, int], width: int, depth: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        scale = torch.tensor([value if value > 0 else 1.0 for value in std], dtype=torch.float32)
        self.register_buffer("std", scale.view(-1, 1, 1))
        channels = [len(mean), *(max(8, width >> (depth - 1 - layer)) for layer in range(depth))]
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        rows, columns = (-(-side // 2**depth) for side in size)
        self.out = nn.Linear(channels[-1] * rows * columns, width)
        self.width = width

    def tokens(self, batch: dict[str, Tensor]) -> Tokens:
        """The last map, one token a place."""
        features = self._map(batch)
        return Tokens(features.flatten(2).mT, grid(*features.shape[2:], device=features.device))

    def _map(self, batch: dict[str, Tensor]) -> Tensor:
        return self.layers((batch["image"].to(self.mean.dtype) - self.mean) / self.std)

    def forward(self, batch: dict[str, Tensor]) -> Float[Tensor, "batch width"]:
        """One vector an image of `size`."""
        return self.out(self._map(batch).flatten(1))
