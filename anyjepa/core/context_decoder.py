"""A decoder that reads the encoder's tokens in every layer, for targets that lie in blocks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from anyjepa.core.attention import Attention, CrossAttention
from anyjepa.core.masking import Masks
from anyjepa.core.positions import Mlp
from anyjepa.core.tokens import Tokens, take
from anyjepa.core.transformer import DropPath


class ContextBlock(nn.Module):
    """Self-attention, attention to the encoder's tokens, a perceptron; each normalised first and added back.

    Args:
        width: of the tokens.
        heads: attention heads.
        source_width: of the encoder's tokens; None for a plain block, which does not read them.
        drop_path: chance that a branch of a sequence is dropped in training.
    """

    def __init__(self, width: int, heads: int, source_width: int | None, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2, self.reading = None, None
        if source_width is not None:
            self.norm2 = nn.LayerNorm(width, eps=1e-6)
            self.reading = CrossAttention(width, heads, source_width)
        self.norm3 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = DropPath(drop_path)

    def forward(
        self,
        x: Float[Tensor, "sequences tokens width"],
        source: Tokens,
        present: Tensor | None,
        last: int | None = None,
    ) -> Tensor:
        """Tokens (B A, S or `last`, width); all A sequences of a sample read the same `source` (B, K, D)."""
        attended = self.attention(self.norm1(x), last, present=present)
        x = (x if last is None else x[:, -last:]) + self.drop(attended)
        if self.reading is not None and self.norm2 is not None:
            samples = len(source.values)
            # sequences of a sample share keys and values, so their queries stand side by side
            asked = self.norm2(x).unflatten(0, (samples, -1)).flatten(1, 2)
            read = self.reading(asked, source.values, source.present)
            x = x + self.drop(read.unflatten(1, (-1, x.shape[1])).flatten(0, 1))
        return x + self.drop(self.mlp(self.norm3(x)))


class ContextDecoder(nn.Module):
    """3D-JEPA's decoder (section III-C): from context tokens and target places to the teacher's tokens.

    Args:
        encoder_width: of the context tokens.
        width, depth, heads: of the decoder's blocks.
        position_width: hidden width of the embeddings of positions.
        out_width: of the teacher's tokens.
        aware: whether every block reads the encoder's tokens.
    """

    def __init__(
        self,
        encoder_width: int,
        width: int,
        depth: int,
        heads: int,
        position_width: int,
        out_width: int,
        aware: bool,
    ) -> None:
        super().__init__()
        width = width if depth else encoder_width
        self.embed = nn.Linear(encoder_width, width) if depth else None
        self.positions = Mlp(3, width, position_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        source = encoder_width if aware else None
        self.blocks = nn.ModuleList(ContextBlock(width, heads, source) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6) if depth else None
        self.out = nn.Linear(width, out_width)

    def forward(
        self, context: Tokens, coordinates: Float[Tensor, "batch tokens axes"], masks: Masks
    ) -> Float[Tensor, "batch blocks targets width"]:
        """Predicted tokens (B, A, T, D) at the targets, for patches with these centres (B, G, 3)."""
        assert self.embed is not None and self.norm is not None
        blocks, targets = masks.targets.shape[1:]
        table = self.positions(coordinates)
        seen = self.embed(context.values) + take(table, masks.context)
        asked = self.mask_token + take(table, masks.targets.flatten(1))
        x = beside(seen, asked, blocks)
        present = all_present(masks)
        for block in self.blocks[:-1]:
            x = block(x, context, present)
        x = self.blocks[-1](x, context, present, last=targets)
        return self.out(self.norm(x)).unflatten(0, (-1, blocks))


def beside(
    seen: Float[Tensor, "batch seen width"], asked: Float[Tensor, "batch asked width"], blocks: int
) -> Float[Tensor, "sequences tokens width"]:
    """(B, K, D) and (B, A T, D) to (B A, K + T, D): the context before the mask tokens of each block."""
    repeated = seen.unsqueeze(1).expand(-1, blocks, -1, -1)
    return torch.cat([repeated, asked.unflatten(1, (blocks, -1))], dim=2).flatten(0, 1)


def all_present(masks: Masks) -> Tensor | None:
    """(B A, K + T) which tokens of the sequences of `beside` are real."""
    if masks.present is None:
        return None
    blocks, targets = masks.targets.shape[1:]
    return functional.pad(masks.present, (0, targets), value=True).repeat_interleave(blocks, 0)
