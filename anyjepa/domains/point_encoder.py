"""The encoder of clouds: sampling, patches, positions and a transformer whose inner outputs can be read."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn import functional

from anyjepa.core.method import Batch
from anyjepa.core.points import farthest_points, gather_points, normalised, outermost, random_start
from anyjepa.core.positions import Mlp
from anyjepa.core.tokens import Tokens
from anyjepa.core.transformer import Block
from anyjepa.domains.point_patches import PointPatches

__all__ = ["PointEncoder", "Trunk", "build_point_encoder"]

Cloud = Float[Tensor, "batch points channels"]


class Trunk(nn.Module):
    """The transformer of the context and of the target, to whose tokens positions are added.

    It is all that the teacher has a copy of: PointNet and positions are shared.

    Args:
        width: of the tokens.
        blocks: from the first to the last.
        everywhere: add positions to the input of every block, not of the first only.
    """

    def __init__(self, width: int, blocks: nn.ModuleList, everywhere: bool = True) -> None:
        super().__init__()
        self.blocks, self.norm = blocks, nn.LayerNorm(width, eps=1e-6)
        self.everywhere = everywhere

    def forward(self, x: Tensor, added: Tensor, present: Tensor | None = None) -> Tensor:
        """Tokens (B, N, D) after the last norm; `added` (B, N, D) are their positions."""
        for number, block in enumerate(self.blocks):
            x = block(self._placed(x, added, number), present=present)
        return self.norm(x)

    def _placed(self, x: Tensor, added: Tensor, number: int) -> Tensor:
        return x + added if self.everywhere or number == 0 else x

    def targets(self, x: Tensor, added: Tensor, wanted: tuple[int, ...]) -> Tensor:
        """Mean of what the blocks `wanted` give, each layer-normalised without weights, in fp32 at least.

        What a block leaves is taken before the last norm, so that of one block every token has mean 0 and
        variance 1.
        """
        found = []
        for number, block in enumerate(self.blocks):
            x = block(self._placed(x, added, number))
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


def build_point_encoder(
    facts: dict[str, Any],
    *,
    points: int,
    groups: int,
    neighbours: int,
    radius: float,
    patch_widths: tuple[int, int],
    position_width: int,
    width: int,
    depth: int,
    heads: int,
    drop_path: float = 0.0,
    everywhere: bool = True,
    **options: Any,
) -> PointEncoder:
    """An encoder of clouds of which `facts` were measured.

    Args:
        facts: of the data: mean and std of values beyond x, y, z.
        points, groups: of `PointEncoder`.
        neighbours, patch_widths: of `PointPatches`.
        radius: of the same; 0 for none.
        position_width: hidden width of the embeddings of positions.
        width, depth, heads: of the transformer.
        drop_path: of its last block; it rises to that from 0.
        everywhere: of `Trunk`.
        options: of `Block`.
    """
    patches = PointPatches(
        neighbours, width, patch_widths, facts["channel_mean"], facts["channel_std"], radius or None
    )
    rates = torch.linspace(0, drop_path, depth).tolist()
    blocks = nn.ModuleList(Block(width, heads, drop_path=rate, **options) for rate in rates)
    trunk = Trunk(width, blocks, everywhere)
    return PointEncoder(patches, Mlp(3, width, position_width), trunk, points, groups)


def _start(points: Tensor, generator: Generator | None) -> Tensor:
    places = points[..., :3]
    return outermost(places) if generator is None else random_start(places, generator)
