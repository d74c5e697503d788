"""The encoder of clouds: sampling, patches, positions and a transformer whose inner outputs can be read."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from anyjepa.core.method import Batch
from anyjepa.core.points import farthest_points, gather_points, normalised, outermost, random_start
from anyjepa.core.positions import Mlp
from anyjepa.core.tokens import Tokens
from anyjepa.domains.point_patches import PointPatches

__all__ = ["PointEncoder", "Trunk"]

Cloud = Float[Tensor, "batch points channels"]


class Trunk(nn.Module):
    """The transformer of the context and of the target: positions are added to the input of every block.

    It is all that the teacher has a copy of: PointNet and positions are shared.

    Args:
        width: of the tokens.
        blocks: from the first to the last.
    """

    def __init__(self, width: int, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks, self.norm = blocks, nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor, added: Tensor, present: Tensor | None = None) -> Tensor:
        """Tokens (B, N, D) after the last norm; `added` (B, N, D) are their positions."""
        for block in self.blocks:
            x = block(x + added, present=present)
        return self.norm(x)

    def targets(self, x: Tensor, added: Tensor, wanted: tuple[int, ...]) -> Tensor:
        """Mean of what the blocks `wanted` give, each layer-normalised without weights, in fp32 at least.

        What a block leaves is taken before the last norm, so that of one block every token has mean 0 and
        variance 1.
        """
        found = []
        for number, block in enumerate(self.blocks):
            x = block(x + added)
            if number in wanted:
                whole = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
                found.append(functional.layer_norm(whole, whole.shape[-1:]))
        return torch.stack(found).mean(dim=0)


class PointEncoder(nn.Module):
    """What a user takes away: sampling, patches, positions and the transformer.

    Args:
        tokenizer: makes the tokens.
        positions: of the patches' centres, shared with the target.
        trunk: the context encoder's transformer.
        points: of a cloud that are kept.
        groups: patches of a cloud.
    """

    def __init__(
        self, tokenizer: PointPatches, positions: Mlp, trunk: Trunk, points: int, groups: int
    ) -> None:
        super().__init__()
        self.tokenizer, self.positions, self.trunk = tokenizer, positions, trunk
        self.points, self.groups = points, groups

    def sampled(
        self, points: Cloud, generator: Generator | None = None
    ) -> Float[Tensor, "batch kept channels"]:
        """The points kept of each cloud, farthest from one another; all where there are no more.

        The first is random, or without a generator the outermost.
        """
        if points.shape[1] <= self.points:
            return points
        first = _start(points, generator)
        return gather_points(points, farthest_points(points[..., :3], self.points, first))

    def centres(self, points: Cloud, generator: Generator | None = None) -> Tensor:
        """(B, G) indices of the patches' centres."""
        return farthest_points(points[..., :3], self.groups, _start(points, generator))

    def patched(self, batch: Batch) -> Tokens:
        """Tokens before the transformer, in the order that farthest point sampling meets them; no chance.

        Sampling is greedy, so the centres are the ones that are found among all points of the batch.
        """
        whole = batch["points"]
        kept = self.sampled(whole)
        centres = self.centres(kept)
        if kept.shape[1] < whole.shape[1]:
            centres = torch.arange(self.groups, device=kept.device).expand(len(kept), -1)
        places = normalised(kept[..., :3])
        return self.tokenizer(torch.cat([places, kept[..., 3:]], dim=2), centres)

    def forward(self, batch: Batch) -> Tokens:
        """Tokens of the whole cloud after the last norm."""
        tokens = self.patched(batch)
        return Tokens(self.trunk(tokens.values, self.positions(tokens.coordinates)), tokens.coordinates)


def _start(points: Tensor, generator: Generator | None) -> Tensor:
    places = points[..., :3]
    return outermost(places) if generator is None else random_start(places, generator)
