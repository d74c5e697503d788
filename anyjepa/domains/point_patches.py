"""Clouds to tokens: patches of near points, each through one small PointNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core.points import gather_points, nearest_points
from anyjepa.core.tokens import Tokens

__all__ = ["PatchNetwork", "PointPatches"]


class PatchNetwork(nn.Module):
    """The mini-PointNet (Qi et al. 2017; Point-JEPA, section 3.1): a set of points in, one vector out.

    Linear, batch norm, ReLU, linear; the maximum over the patch is put in front of each point's features;
    linear, batch norm, ReLU, linear; the maximum over the patch. No order of the points changes it. The
    published 1 x 1 convolutions are these linear layers.

    Args:
        channels: of a point, 3 or more.
        hidden: widths before and after the second layer; published are 128 and 256.
        width: of the vector.
    """

    def __init__(self, channels: int, hidden: tuple[int, int], width: int) -> None:
        super().__init__()
        first, second = hidden
        self.rise = nn.Linear(channels, first, bias=False)
        self.rise_norm = nn.BatchNorm1d(first)
        self.local = nn.Linear(first, second)
        self.mix = nn.Linear(2 * second, 2 * second, bias=False)
        self.mix_norm = nn.BatchNorm1d(2 * second)
        self.out = nn.Linear(2 * second, width)

    def forward(self, patches: Float[Tensor, "batch patches points channels"]) -> Tensor:
        """(batch, patches, width)."""
        batch, count, size = patches.shape[:3]
        local = self.local(functional.relu(self.rise_norm(self.rise(patches.flatten(0, 2)))))
        local = local.unflatten(0, (batch * count, size))
        # the part of the product that all points of a patch share is computed once
        shared, own = self.mix.weight.chunk(2, dim=1)
        mixed = functional.linear(local, own)
        mixed = mixed + functional.linear(local.amax(dim=1, keepdim=True), shared)
        mixed = self.out(functional.relu(self.mix_norm(mixed.flatten(0, 1))))
        return mixed.unflatten(0, (batch, count, size)).amax(dim=2)


class PointPatches(nn.Module):
    """The points nearest to each centre, relative to it, as one token that lies at the centre.

    Args:
        neighbours: points of a patch.
        width: of the tokens.
        hidden: of `PatchNetwork`.
        mean, std: of each value of a point beyond x, y, z, in the data's units: those are standardised
            here, so that the statistics travel with the weights.
        radius: of the ball that a patch is taken from and divided by; the nearest points whatever their
            distance, in the cloud's own unit, where None.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        neighbours: int,
        width: int,
        hidden: tuple[int, int] = (128, 256),
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        radius: float | None = None,
    ) -> None:
        super().__init__()
        self.neighbours, self.radius = neighbours, radius
        self.network = PatchNetwork(3 + len(mean), hidden, width)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        # a channel that never varies carries nothing; dividing by its zero would make it everything
        scale = [value if value > 0 else 1.0 for value in std]
        self.register_buffer("std", torch.tensor(scale, dtype=torch.float32))

    def patches(
        self, points: Float[Tensor, "batch points channels"], centres: Int[Tensor, "batch centres"]
    ) -> tuple[Float[Tensor, "batch centres neighbours channels"], Float[Tensor, "batch centres axes"]]:
        """The points of each patch, relative to its centre, and the centres."""
        places = points[..., :3]
        middle = gather_points(places, centres)
        found = gather_points(points, nearest_points(places, middle, self.neighbours, self.radius))
        near = found[..., :3] - middle.unsqueeze(2)
        if self.radius is not None:
            near = near / self.radius
        extra = (found[..., 3:] - self.mean) / self.std
        return torch.cat([near, extra], dim=3), middle

    def forward(
        self, points: Float[Tensor, "batch points channels"], centres: Int[Tensor, "batch centres"]
    ) -> Tokens:
        """One token for each of the points whose index is in `centres` (B, G)."""
        patches, middle = self.patches(points, centres)
        return Tokens(self.network(patches), middle)
